//! Simulated time, chance and tasks: the order of every step is drawn from a seed.
//!
//! ```text
//!   ready: any task of a process that is not frozen ── one is drawn ──► polled once
//!   nothing ready ──► time goes on to the next timer
//! ```
//! A process is its tasks: to crash it is to drop them, at whatever await they stand. What the world
//! outside does (requests under way, a server's work) are tasks of the process [`OUTSIDE`].

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use sources::world::{BoxFuture, Moment, SharedWorld, Task, World};
use tokio::sync::oneshot;

/// Names a process.
pub(super) type Pid = u32;
/// Everything that is no Rowtide.
pub(super) const OUTSIDE: Pid = 0;

/// SplitMix64: a seed is enough to repeat a run.
#[derive(Clone, Debug)]
pub(super) struct Rng(u64);

impl Rng {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub(super) fn below(&mut self, count: u64) -> u64 {
        self.next() % count.max(1)
    }

    pub(super) fn one_in(&mut self, count: u64) -> bool {
        self.below(count) == 0
    }
}

struct Slot {
    process: Pid,
    /// Out while it is being polled.
    work: Option<BoxFuture<'static, ()>>,
}

struct Timer {
    waker: Waker,
}

struct Inner {
    now: Moment,
    numbered: u64,
    tasks: BTreeMap<u64, Slot>,
    /// In the order of their numbers: who woke whom first must not matter.
    ready: BTreeSet<u64>,
    timers: BTreeMap<(Moment, u64), Timer>,
    frozen: BTreeSet<Pid>,
    rng: Rng,
    /// Wall clocks, which nothing may hang on.
    wall_seconds: u64,
    polls: u64,
}

/// The executor. Cloning shares it.
#[derive(Clone)]
pub(super) struct Executor(Arc<Mutex<Inner>>);

struct Waking {
    executor: Executor,
    task: u64,
}

impl Wake for Waking {
    fn wake(self: Arc<Self>) {
        let mut inner = self.executor.lock();
        if inner.tasks.contains_key(&self.task) {
            inner.ready.insert(self.task);
        }
    }
}

impl Executor {
    pub(super) fn new(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(Inner {
            now: Duration::from_secs(1),
            numbered: 0,
            tasks: BTreeMap::new(),
            ready: BTreeSet::new(),
            timers: BTreeMap::new(),
            frozen: BTreeSet::new(),
            rng: Rng::new(seed ^ 0x5eed),
            wall_seconds: 1_700_000_000,
            polls: 0,
        })))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn now(&self) -> Moment {
        self.lock().now
    }

    pub(super) fn polls(&self) -> u64 {
        self.lock().polls
    }

    /// The world as one process sees it.
    pub(super) fn world(&self, process: Pid) -> SharedWorld {
        Arc::new(SimWorld { executor: self.clone(), process })
    }

    pub(super) fn spawn(&self, process: Pid, work: BoxFuture<'static, ()>) -> u64 {
        let mut inner = self.lock();
        inner.numbered += 1;
        let task = inner.numbered;
        inner.tasks.insert(task, Slot { process, work: Some(work) });
        inner.ready.insert(task);
        task
    }

    fn abort(&self, task: u64) {
        // Dropped after the lock is let go: what it holds may abort others.
        let slot = self.lock().tasks.remove(&task);
        drop(slot);
    }

    /// Ends a process wherever it stands.
    pub(super) fn kill(&self, process: Pid) {
        loop {
            let found = self.lock().tasks.iter().find(|(_, slot)| slot.process == process).map(|(id, _)| *id);
            match found {
                Some(task) => self.abort(task),
                None => break,
            }
        }
        self.lock().frozen.remove(&process);
    }

    /// Ends every task.
    pub(super) fn clear(&self) {
        let tasks = std::mem::take(&mut self.lock().tasks);
        drop(tasks);
        // What they spawned or woke while they were dropped.
        self.lock().tasks.clear();
    }

    pub(super) fn freeze(&self, process: Pid) {
        self.lock().frozen.insert(process);
    }

    pub(super) fn thaw(&self, process: Pid) {
        self.lock().frozen.remove(&process);
    }

    pub(super) fn set_wall_clock(&self, seconds: u64) {
        self.lock().wall_seconds = seconds;
    }

    pub(super) fn draw(&self, below: u64) -> u64 {
        self.lock().rng.below(below)
    }

    /// Polls one task, or lets time go on. False when nothing can ever happen again.
    pub(super) fn step(&self) -> bool {
        let (task, mut work) = {
            let mut inner = self.lock();
            let Some(task) = inner.draw_ready() else {
                drop(inner);
                return self.advance();
            };
            inner.ready.remove(&task);
            inner.polls += 1;
            let tick = inner.rng.below(200);
            inner.now += Duration::from_micros(tick);
            match inner.tasks.get_mut(&task).and_then(|slot| slot.work.take()) {
                Some(work) => (task, work),
                None => return true,
            }
        };
        self.fire();
        let waker = Waker::from(Arc::new(Waking { executor: self.clone(), task }));
        let polled = work.as_mut().poll(&mut Context::from_waker(&waker));
        let mut inner = self.lock();
        match (polled, inner.tasks.get_mut(&task)) {
            (Poll::Pending, Some(slot)) => slot.work = Some(work),
            (Poll::Ready(()), Some(_)) => {
                inner.tasks.remove(&task);
                inner.ready.remove(&task);
                drop(inner);
                drop(work);
            }
            // It was ended while it ran.
            (_, None) => {
                drop(inner);
                drop(work);
            }
        }
        true
    }

    /// Lets time go on to the next timer.
    fn advance(&self) -> bool {
        {
            let mut inner = self.lock();
            let Some(at) = inner.timers.first_key_value().map(|((at, _), _)| *at) else { return false };
            inner.now = inner.now.max(at);
        }
        self.fire();
        true
    }

    fn fire(&self) {
        let due: Vec<Waker> = {
            let mut inner = self.lock();
            let now = inner.now;
            let mut due = Vec::new();
            while let Some(entry) = inner.timers.first_entry() {
                if entry.key().0 > now {
                    break;
                }
                due.push(entry.remove().waker);
            }
            due
        };
        due.into_iter().for_each(Waker::wake);
    }
}

impl Inner {
    fn draw_ready(&mut self) -> Option<u64> {
        let can = |task: &&u64| self.tasks.get(task).is_some_and(|slot| !self.frozen.contains(&slot.process));
        let ready: Vec<u64> = self.ready.iter().filter(can).copied().collect();
        if ready.is_empty() {
            return None;
        }
        let drawn = self.rng.below(ready.len() as u64) as usize;
        Some(ready[drawn])
    }
}

struct SimWorld {
    executor: Executor,
    process: Pid,
}

impl World for SimWorld {
    fn now(&self) -> Moment {
        self.executor.now()
    }

    fn unix_seconds(&self) -> u64 {
        self.executor.lock().wall_seconds
    }

    fn sleep(&self, time: Duration) -> BoxFuture<'static, ()> {
        let at = self.executor.now() + time;
        Box::pin(Sleep { executor: self.executor.clone(), at, registered: None })
    }

    fn spawn(&self, work: BoxFuture<'static, ()>) -> Task {
        let (ended, done) = oneshot::channel();
        let whole = Box::pin(async move {
            work.await;
            drop(ended);
        });
        let task = self.executor.spawn(self.process, whole);
        let executor = self.executor.clone();
        Task::new(done, Box::new(move || executor.abort(task)))
    }

    fn random(&self) -> u64 {
        self.executor.lock().rng.next()
    }
}

struct Sleep {
    executor: Executor,
    at: Moment,
    registered: Option<u64>,
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let at = self.at;
        let mut inner = self.executor.lock();
        if inner.now >= at {
            return Poll::Ready(());
        }
        let number = self.registered.unwrap_or_else(|| {
            inner.numbered += 1;
            inner.numbered
        });
        inner.timers.insert((at, number), Timer { waker: context.waker().clone() });
        drop(inner);
        self.registered = Some(number);
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some(number) = self.registered {
            self.executor.lock().timers.remove(&(self.at, number));
        }
    }
}
