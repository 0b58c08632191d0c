//! The queue under random producers and a slow consumer, on paused time: nothing is in it that was
//! not charged, and every byte comes back.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods)]

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::budget::AHEAD;
use crate::change::{Column, Kind, Op, Origin, RowBuilder};
use crate::position::{Offset, Position};

const FULL: usize = 64 << 10;
const COSTS: Costs = Costs { render_bytes: 100, growth: 1, copies: 1 };

fn change(number: u64, bytes: usize) -> Item {
    let column = |name: &str| Column { name: name.into(), kind: Kind::Text };
    let columns = ["id", "text"].map(column).into();
    let table = Arc::new(Table { number: 0, name: "public.t".into(), columns, key: [0].into() });
    let mut builder = RowBuilder::default();
    builder.value().extend_from_slice(number.to_string().as_bytes());
    builder.end_value();
    builder.value().resize(number.to_string().len() + bytes, b'x');
    builder.end_value();
    let offset = Offset::new(number).expect("a small number");
    Item::Change(Change { table, offset, op: Op::Put(builder.finish()), origin: Origin::Log })
}

fn number_of(item: &Item) -> u64 {
    match item {
        Item::Change(change) => change.offset.get(),
        Item::Clear { offset, .. } | Item::Sweep { offset, .. } => offset.get(),
        Item::Checkpoint(position) => position.open().expect("a number"),
    }
}

fn cost(items: &[Item]) -> usize {
    items.iter().map(|item| COSTS.of(item)).sum()
}

/// One item of a producer: its size, whether it is handed over at once, and how long it took to make.
type Made = (usize, bool, u64);

async fn produce(outlet: Outlet, class: Class, made: Vec<Made>) -> Result<(), QueueError> {
    let mut outgoing = Outgoing::new(outlet, class);
    for (number, (bytes, at_once, ms)) in made.into_iter().enumerate() {
        tokio::time::sleep(Duration::from_millis(ms)).await;
        let item = match bytes {
            0 => Item::Checkpoint(Position::seal(&number).expect("a number")),
            _ => change(number as u64, bytes),
        };
        // Impatient, as a reader is that answers a keepalive meanwhile: the wait is dropped, and begun again.
        loop {
            let patience = Duration::from_millis(3);
            if let Ok(room) = tokio::time::timeout(patience, outgoing.make_room(&item)).await {
                room?;
                break;
            }
        }
        outgoing.push(item);
        if at_once {
            outgoing.flush()?;
        }
    }
    Ok(outgoing.flush()?)
}

/// Takes batches and answers them later, at most four at once; the numbers of all their items.
async fn consume(mut inlet: Inlet, budget: Budget, delays: Vec<u64>) -> Vec<u64> {
    let mut taken = Vec::new();
    let mut in_flight: VecDeque<Batch> = VecDeque::new();
    for delay in delays.into_iter().cycle() {
        // An answer comes whether or not there is another batch.
        let Ok(batch) = tokio::time::timeout(Duration::from_millis(delay), inlet.recv()).await else {
            in_flight.pop_front();
            continue;
        };
        let Some(batch) = batch else { break };
        assert!(!batch.items.is_empty());
        assert_eq!(cost(&batch.items), batch.charge.bytes(), "no more is sent than was charged, and no less");
        taken.extend(batch.items.iter().map(number_of));
        in_flight.push_back(batch);
        let held: usize = in_flight.iter().map(|batch| cost(&batch.items)).sum();
        assert!(
            held <= budget.used() && budget.most_used() <= FULL,
            "{held} held, {} charged",
            budget.used()
        );
        if in_flight.len() == 4 {
            tokio::time::sleep(Duration::from_millis(delay)).await;
            in_flight.pop_front();
        }
    }
    taken
}

fn paused() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap()
}

fn made() -> impl Strategy<Value = Vec<Made>> {
    let bytes = prop_oneof![1 => Just(0_usize), 6 => 1..2_000_usize, 1 => 2_000..FULL / 2 - 1_000];
    prop::collection::vec((bytes, any::<bool>(), 0..4_u64), 0..60)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn the_queue_never_holds_what_was_not_charged(log in made(), read in made(), delays in prop::collection::vec(1..20_u64, 1..8)) {
        let numbers = paused().block_on(async {
            let budget = Budget::new(FULL);
            let (outlet, inlet) = queue(budget.clone(), COSTS);
            let consumer = tokio::spawn(consume(inlet, budget.clone(), delays));
            let producers = [
                tokio::spawn(produce(outlet.clone(), Class::Log, log.clone())),
                tokio::spawn(produce(outlet, Class::Read, read.clone())),
            ];
            let all = async {
                for producer in producers {
                    producer.await.expect("no panic").expect("no item is too large");
                }
                consumer.await.expect("no panic")
            };
            let numbers = tokio::time::timeout(Duration::from_secs(600), all).await.expect("nobody waits in a circle");
            assert_eq!(budget.used(), 0);
            numbers
        });
        prop_assert_eq!(numbers.len(), log.len() + read.len());
    }
}

#[tokio::test(start_paused = true)]
async fn a_batch_is_handed_over_before_its_owner_waits_for_the_next() {
    let budget = Budget::new(4_000);
    let (outlet, mut inlet) = queue(budget.clone(), COSTS);
    let mut outgoing = Outgoing::new(outlet, Class::Log);
    for number in 0..20 {
        let item = change(number, 900);
        let waits = async { outgoing.make_room(&item).await };
        let answers = async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            while let Some(batch) = inlet.try_recv() {
                drop(batch);
            }
        };
        let both = async { tokio::join!(waits, answers) };
        let (room, ()) =
            tokio::time::timeout(Duration::from_secs(60), both).await.expect("not by itself held back");
        room.unwrap();
        outgoing.push(item);
    }
}

#[tokio::test]
async fn items_come_in_the_order_in_which_they_were_pushed() {
    let (outlet, mut inlet) = queue(Budget::new(FULL), COSTS);
    let mut outgoing = Outgoing::new(outlet, Class::Log);
    for number in 0..30 {
        let item = change(number, 500);
        outgoing.make_room(&item).await.unwrap();
        outgoing.push(item);
    }
    outgoing.flush().unwrap();
    drop(outgoing);
    let mut numbers = Vec::new();
    while let Some(batch) = inlet.recv().await {
        numbers.extend(batch.items.iter().map(number_of));
    }
    assert_eq!(numbers, (0..30).collect::<Vec<_>>());
}

#[tokio::test]
async fn when_the_pipeline_has_ended_everything_charged_comes_back() {
    let budget = Budget::new(FULL);
    let (outlet, inlet) = queue(budget.clone(), COSTS);
    let mut outgoing = Outgoing::new(outlet.clone(), Class::Log);
    for number in 0..3 {
        let item = change(number, 500);
        outgoing.make_room(&item).await.unwrap();
        outgoing.push(item);
        outgoing.flush().unwrap();
    }
    assert!(budget.used() > 0);
    drop(inlet);
    outlet.closed().await;
    let item = change(4, 500);
    outgoing.make_room(&item).await.unwrap();
    outgoing.push(item);
    assert_eq!(outgoing.flush(), Err(Closed));
    drop(outgoing);
    assert_eq!(budget.used(), 0);
}

#[test]
fn costs_are_the_sum_of_what_is_held() {
    assert_eq!(COSTS.of_values(1_000, 30), ITEM_BYTES + 100 + 1_000 + 30);
    let Item::Change(change) = change(7, 500) else { panic!("a change") };
    let row = change.op.row().heap_bytes();
    assert_eq!(COSTS.of_change(&change), COSTS.of_values(row, change.table.key_bytes(change.op.row())));
    assert!(row >= 500 && COSTS.of_change(&change) > ITEM_BYTES + 100 + row, "the key once more");
    let position = Position::from_text("x".repeat(90));
    assert_eq!(COSTS.of(&Item::Checkpoint(position)), ITEM_BYTES + 90);
}

/// Large enough that handing over is rare, and small beside the budget.
#[tokio::test]
async fn a_batch_is_prepaid_with_its_share_of_the_budget() {
    let small = change(1, 1);
    for (full, share) in [(1 << 30, 256 << 10), (1 << 20, 64 << 10)] {
        let (outlet, mut inlet) = queue(Budget::new(full), COSTS);
        assert_eq!(outlet.costs().render_bytes, 100);
        let mut outgoing = Outgoing::new(outlet.clone(), Class::Log);
        assert!(!outgoing.has_room_for(&small), "nothing is prepaid yet");
        assert_eq!(outgoing.wanted_for(&small), share);
        let large = change(2, 300 << 10);
        assert_eq!(outgoing.wanted_for(&large), COSTS.of(&large), "what is larger is prepaid alone");
        outgoing.refill(outlet.reserve(Class::Log, share).await.unwrap()).unwrap();
        assert!(outgoing.has_room_for(&small) && !outgoing.has_room_for(&large));
        assert_eq!(outlet.budget().used(), share);
        // While there is room nothing is handed over, and nothing more is charged.
        outgoing.push(change(1, 1));
        outgoing.make_room(&small).await.unwrap();
        assert_eq!(outlet.budget().used(), share);
        assert!(inlet.try_recv().is_none());
        // What was collected goes before what comes with the next charge; the rest of the old one comes back.
        outgoing.refill(outlet.reserve(Class::Log, share).await.unwrap()).unwrap();
        assert_eq!(outlet.budget().used(), share + COSTS.of(&small));
        assert_eq!(inlet.try_recv().map(|batch| batch.items.len()), Some(1));
        assert_eq!(outlet.budget().used(), share);
    }
}

#[tokio::test(start_paused = true)]
async fn an_outlet_is_closed_when_the_pipeline_has_ended() {
    let (outlet, inlet) = queue(Budget::new(FULL), COSTS);
    let second = Duration::from_secs(1);
    assert!(tokio::time::timeout(second, outlet.closed()).await.is_err(), "it goes on");
    drop(inlet);
    assert!(tokio::time::timeout(second, outlet.closed()).await.is_ok());
}

#[tokio::test]
async fn an_item_that_never_fits_is_refused() {
    let (outlet, _inlet) = queue(Budget::new(1_000), COSTS);
    let item = change(1, 900);
    let bytes = COSTS.of(&item);
    let refused = Outgoing::new(outlet, Class::Read).make_room(&item).await;
    assert_eq!(refused, Err(QueueError::Budget(BudgetError::NeverFits { bytes, limit: 500 })));
}

#[tokio::test(start_paused = true)]
async fn readers_wait_for_the_target_long_before_the_bound() {
    let budget = Budget::new(1 << 30);
    budget.keep_ahead(1);
    let (outlet, mut inlet) = queue(budget, COSTS);
    let soon = Duration::from_secs(1);
    // What a reader collects keeps nobody waiting, however much it is.
    let collected = outlet.reserve(Class::Read, 3 * AHEAD).await.unwrap();
    for class in [Class::Log, Class::Read] {
        let charge = outlet.reserve(class, AHEAD).await.unwrap();
        outlet.send(Batch { items: Vec::new(), charge }).unwrap();
        let mut batch = inlet.try_recv().unwrap();
        for class in [Class::Log, Class::Read] {
            let waited = tokio::time::timeout(soon, outlet.reserve(class, 1)).await;
            assert!(waited.is_err(), "{class:?} goes on, though much is under way");
        }
        // The lanes take it apart; a part of it is answered.
        let mut left = outlet.budget().nothing();
        left.merge(batch.charge.split(AHEAD / 2));
        drop(batch);
        let waited = tokio::time::timeout(soon, outlet.reserve(Class::Read, 1)).await;
        drop(waited.expect("what was answered counts no more").unwrap());
        drop(left.split(1));
        drop(left);
    }
    // More lanes have more under way.
    outlet.budget().keep_ahead(AHEAD + 1);
    let charge = outlet.reserve(Class::Log, AHEAD).await.unwrap();
    outlet.send(Batch { items: Vec::new(), charge }).unwrap();
    drop(outlet.reserve(Class::Log, 1).await.unwrap());
    drop((collected, inlet.try_recv()));
    assert_eq!(outlet.budget().used(), 0);
}
