//! The budget under random tasks, and each promise by name. Time is tokio's, paused: a test that
//! would wait for ever ends at once by its limit.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods)]

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use proptest::prelude::*;

use super::*;

type Waiting = Pin<Box<dyn Future<Output = Result<Charge, BudgetError>>>>;

fn reserve(budget: &Budget, class: Class, bytes: usize) -> Waiting {
    let budget = budget.clone();
    Box::pin(async move { budget.reserve(class, bytes).await })
}

fn poll<T>(future: &mut (impl Future<Output = T> + Unpin)) -> Poll<T> {
    pin!(future).poll(&mut Context::from_waker(Waker::noop()))
}

fn granted(waiting: &mut Waiting) -> Option<Charge> {
    match poll(waiting) {
        Poll::Ready(charge) => Some(charge.unwrap()),
        Poll::Pending => None,
    }
}

fn now(budget: &Budget, class: Class, bytes: usize) -> Charge {
    granted(&mut reserve(budget, class, bytes)).expect("there is room")
}

#[test]
fn a_waiter_that_leaves_lets_those_behind_it_pass() {
    let budget = Budget::new(16);
    let held = [now(&budget, Class::Log, 8), now(&budget, Class::Log, 4)];
    let mut log = reserve(&budget, Class::Log, 8);
    let mut read = reserve(&budget, Class::Read, 2);
    assert!(granted(&mut log).is_none());
    assert!(granted(&mut read).is_none(), "the log is served first");
    drop(log);
    let read = granted(&mut read).expect("nobody is before it");
    assert_eq!(budget.used(), 14);
    drop((held, read));
    assert_eq!((budget.used(), budget.most_used()), (0, 14));
}

#[test]
fn held_reads_never_keep_the_log_from_going_on() {
    // Reads hold their whole half until a transaction ends; memory is short besides.
    let budget = Budget::new(16);
    let held = now(&budget, Class::Read, 8);
    budget.set_limit(4);
    let item = now(&budget, Class::Log, 8);
    let mut next = reserve(&budget, Class::Log, 1);
    assert!(granted(&mut next).is_none(), "one at a time while the limit is lowered");
    drop(item);
    let next = granted(&mut next).expect("the log goes on");
    assert!(budget.most_used() <= budget.full_limit());
    drop((held, next));
    assert_eq!(budget.used(), 0);
}

#[test]
fn an_item_that_its_class_cannot_count_on_is_refused_with_the_way_out() {
    let budget = Budget::new(100);
    for class in [Class::Log, Class::Read] {
        let Poll::Ready(Err(refused)) = poll(&mut reserve(&budget, class, 51)) else {
            panic!("51 of 100 bytes were not refused to {class:?}");
        };
        assert_eq!(refused, BudgetError::NeverFits { bytes: 51, limit: 50 });
        assert_eq!(
            refused.to_string(),
            "an item of 51 bytes does not fit into the 50 bytes that its class can count on; \
             raise memory.max_rss or lower memory.document_bytes_max"
        );
    }
    assert_eq!(now(&budget, Class::Log, 50).bytes(), 50);
}

#[test]
fn charges_are_merged_and_split_by_what_may_end() {
    let budget = Budget::new(1000);
    let mut charge = now(&budget, Class::Log, 100);
    charge.merge(now(&budget, Class::Read, 50));
    assert_eq!((charge.bytes(), charge.log, charge.read, budget.used()), (150, 100, 50, 150));
    let Poll::Ready(Ok(aside)) = poll(&mut pin!(budget.set_aside(60))) else { panic!("there is room") };
    charge.merge(aside);
    assert_eq!((charge.bytes(), charge.standing), (210, 60));
    // What is set aside is never split off, however much is asked for.
    let split = charge.split(1000);
    assert_eq!((split.log, split.read, split.standing), (100, 50, 0));
    assert_eq!((charge.bytes(), charge.split(1).bytes()), (60, 0));
    drop(split);
    assert_eq!(budget.used(), 60);
    drop(charge);
    assert_eq!((budget.used(), budget.lock().standing), (0, 0));

    let mut charge = now(&budget, Class::Log, 100);
    for (most, held) in [(30, 30), (40, 30), (0, 0)] {
        charge.shrink_to(most);
        assert_eq!((charge.bytes(), budget.used()), (held, held));
    }
}

/// What a random task does next.
#[derive(Clone, Debug)]
enum Step {
    Reserve(bool, usize),
    Cancel(usize),
    Split(usize, usize),
    Merge(usize, usize),
    Shrink(usize, usize),
    Drop(usize),
    Limit(usize),
}

const FULL: usize = 64;

fn step() -> impl Strategy<Value = Step> {
    let (place, bytes) = (any::<usize>(), 0..FULL * 3 / 4);
    prop_oneof![
        6 => (any::<bool>(), bytes.clone()).prop_map(|(log, bytes)| Step::Reserve(log, bytes)),
        2 => place.prop_map(Step::Cancel),
        1 => (place, bytes.clone()).prop_map(|(charge, bytes)| Step::Split(charge, bytes)),
        1 => (place, place).prop_map(|(into, from)| Step::Merge(into, from)),
        1 => (place, bytes).prop_map(|(charge, bytes)| Step::Shrink(charge, bytes)),
        4 => place.prop_map(Step::Drop),
        1 => (0..FULL * 2).prop_map(Step::Limit),
    ]
}

/// Told when its task is to be polled again; a task that is not told is never polled.
struct Told(AtomicBool);

impl Wake for Told {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::SeqCst);
    }
}

struct Waits {
    class: Class,
    bytes: usize,
    future: Waiting,
    told: Arc<Told>,
}

/// Tasks that hold and wait, and what must be true of them after every step.
struct Tasks {
    budget: Budget,
    charges: Vec<Charge>,
    /// In the order in which they asked.
    waits: Vec<Waits>,
}

impl Tasks {
    fn act(&mut self, step: Step) {
        let place = |of: usize, count: usize| of.checked_rem(count);
        match step {
            Step::Reserve(log, bytes) => {
                let class = if log { Class::Log } else { Class::Read };
                let future = reserve(&self.budget, class, bytes);
                self.waits.push(Waits { class, bytes, future, told: Arc::new(Told(AtomicBool::new(true))) });
            }
            Step::Cancel(of) => drop(place(of, self.waits.len()).map(|place| self.waits.remove(place))),
            Step::Drop(of) => drop(place(of, self.charges.len()).map(|place| self.charges.remove(place))),
            Step::Split(of, bytes) => {
                let split = place(of, self.charges.len()).map(|place| self.charges[place].split(bytes));
                assert!(split.as_ref().is_none_or(|split| split.bytes() <= bytes));
                self.charges.extend(split);
            }
            Step::Merge(into, from) => {
                let other = place(from, self.charges.len()).map(|place| self.charges.remove(place));
                match (other, place(into, self.charges.len())) {
                    (Some(other), Some(place)) => self.charges[place].merge(other),
                    (other, _) => self.charges.extend(other),
                }
            }
            Step::Shrink(of, bytes) => {
                if let Some(place) = place(of, self.charges.len()) {
                    self.charges[place].shrink_to(bytes);
                }
            }
            Step::Limit(bytes) => self.budget.set_limit(bytes),
        }
    }

    /// Polls whoever was told; those who were given bytes, in order.
    fn poll_told(&mut self) -> Vec<(Class, usize)> {
        let mut given = Vec::new();
        let mut still = Vec::new();
        for mut waits in self.waits.drain(..) {
            if !waits.told.0.swap(false, Ordering::SeqCst) {
                still.push(waits);
                continue;
            }
            let waker = Waker::from(waits.told.clone());
            match waits.future.as_mut().poll(&mut Context::from_waker(&waker)) {
                Poll::Pending => still.push(waits),
                Poll::Ready(Ok(charge)) => {
                    assert_eq!(charge.bytes(), waits.bytes);
                    // Whoever asked earlier in the same class has been served.
                    assert!(still.iter().all(|earlier: &Waits| earlier.class != waits.class));
                    given.push((waits.class, waits.bytes));
                    self.charges.push(charge);
                }
                Poll::Ready(Err(BudgetError::NeverFits { bytes, limit })) => {
                    assert_eq!((bytes, limit), (waits.bytes, FULL / 2));
                    assert!(bytes > limit);
                }
            }
        }
        self.waits = still;
        given
    }

    fn check(&self, given: &[(Class, usize)]) {
        let log: usize = self.charges.iter().map(|charge| charge.log).sum();
        let read: usize = self.charges.iter().map(|charge| charge.read).sum();
        let (used, limit) = (log + read, self.budget.limit());
        assert_eq!(self.budget.used(), used);
        assert!(used <= FULL && self.budget.most_used() <= FULL, "{used} of {FULL} bytes are held");
        assert!(read <= FULL / 2, "reads hold {read} bytes");
        let new: Vec<_> = given.iter().filter(|(_, bytes)| *bytes > 0).collect();
        if used > limit && !new.is_empty() {
            let logs: usize =
                new.iter().filter(|(class, _)| *class == Class::Log).map(|(_, bytes)| bytes).sum();
            let alone = new.len() == 1 && (logs == log || used == new[0].1);
            assert!(alone, "{new:?} given at {used} of {limit}");
        }
        let first = |class| self.waits.iter().find(|waits| waits.class == class).map(|waits| waits.bytes);
        if let Some(bytes) = first(Class::Log) {
            assert!(used + bytes > limit && log > 0, "the log waits for {bytes} at {used} of {limit}");
            assert!(given.iter().all(|(class, _)| *class == Class::Log), "a read was served before the log");
        } else if let Some(bytes) = first(Class::Read) {
            let fits = used + bytes <= limit && (read + bytes <= limit / 2 || read == 0);
            assert!(!fits && used > 0, "a read waits for {bytes} at {used} of {limit}, {read} read");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4_000, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn bytes_held_stay_within_the_budget_and_whoever_waits_is_served(steps in prop::collection::vec(step(), 0..120)) {
        let mut tasks = Tasks { budget: Budget::new(FULL), charges: Vec::new(), waits: Vec::new() };
        for step in steps {
            tasks.act(step);
            let given = tasks.poll_told();
            tasks.check(&given);
        }
        // Charges end one by one; everybody has been served when the last one has.
        while !tasks.charges.is_empty() {
            tasks.act(Step::Drop(0));
            let given = tasks.poll_told();
            tasks.check(&given);
        }
        prop_assert!(tasks.waits.is_empty());
        prop_assert_eq!(tasks.budget.used(), 0);
    }
}

/// Ten readers and a log reader take turns, and some lose patience: all get to their end.
#[tokio::test(start_paused = true)]
async fn tasks_that_wait_lose_patience_and_hold_all_get_to_their_end() {
    let budget = Budget::new(FULL);
    let work = |number: usize, class: Class| {
        let budget = budget.clone();
        async move {
            for turn in 0..200 {
                let bytes = (number * 31 + turn * 17) % (FULL / 2) + 1;
                let patience = Duration::from_millis((number + turn) as u64 % 7 + 1);
                let Ok(charge) = tokio::time::timeout(patience, budget.reserve(class, bytes)).await else {
                    continue;
                };
                let charge = charge.expect("no item is larger than half");
                tokio::time::sleep(Duration::from_millis(turn as u64 % 3)).await;
                drop(charge);
            }
        }
    };
    let mut tasks: Vec<_> = (0..10).map(|number| tokio::spawn(work(number, Class::Read))).collect();
    tasks.push(tokio::spawn(work(10, Class::Log)));
    for limit in [8, FULL, 1, FULL] {
        tokio::time::sleep(Duration::from_millis(50)).await;
        budget.set_limit(limit);
    }
    for task in tasks {
        tokio::time::timeout(Duration::from_secs(60), task)
            .await
            .expect("it ends")
            .expect("it does not panic");
    }
    assert_eq!(budget.used(), 0);
    assert!(budget.most_used() <= FULL);
}

/// What is set aside never ends: beside it, a lowered limit must let one item of the log pass, or a
/// held read would wait for a commit that is never read.
#[tokio::test(start_paused = true)]
async fn what_is_set_aside_does_not_count_as_an_item_under_way() {
    let budget = Budget::new(1000);
    let aside = budget.set_aside(60).await.unwrap();
    let _held = budget.reserve(Class::Read, 400).await.unwrap();
    budget.set_limit(125);
    let one = now(&budget, Class::Log, 100);
    let mut next = reserve(&budget, Class::Log, 100);
    let waiting = tokio::time::timeout(Duration::from_millis(1), &mut next).await;
    assert!(waiting.is_err(), "and only one");
    drop((one, next, aside));
    assert_eq!(budget.used(), 400);
    // And when it has ended it sets nothing aside: again one item passes, and only one.
    let one = now(&budget, Class::Log, 100);
    assert!(granted(&mut reserve(&budget, Class::Log, 100)).is_none());
    drop(one);
}

/// What is remembered is charged whatever is held, keeps new items out, and lets the log pass beside it.
#[tokio::test(start_paused = true)]
async fn what_is_remembered_is_charged_at_once_and_starves_nobody() {
    let budget = Budget::new(1000);
    let held = budget.reserve(Class::Log, 500).await.unwrap();
    let more = budget.reserve(Class::Log, 450).await.unwrap();
    let remembered = budget.remember(100);
    assert_eq!((remembered.bytes(), budget.used()), (100, 1050));
    assert!(granted(&mut reserve(&budget, Class::Log, 10)).is_none(), "there is no room");
    drop((held, more));
    budget.set_limit(1);
    let one = now(&budget, Class::Log, 400);
    drop((one, remembered));
    assert_eq!(budget.used(), 0);
}
