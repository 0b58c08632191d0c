//! What is pending, counted: places, bytes, charges, and in which order it comes out.

use sources::position::{Position, Version};

use crate::lanes::pending::{CARRIED_BYTES, Pending};
use crate::lanes::{Action, Kind};
use crate::ledger::{Checkpoint, Ledger, SegmentId};

const CHARGE: usize = 1000;

/// A put of `id` whose data has so many bytes.
fn action(id: &str, version: u64, bytes: usize, segment: SegmentId) -> Action {
    let mut data = id.as_bytes().to_vec();
    data.resize(bytes, b' ');
    Action {
        index: 0,
        id_at: 0,
        id_len: id.len() as u32,
        version: Version::from_target(version),
        kind: Kind::Put,
        data: data.into(),
        segment,
        charge: CHARGE,
    }
}

/// Two segments, the first one sealed.
fn segments() -> (SegmentId, SegmentId) {
    let mut ledger = Ledger::new();
    let first = ledger.enter(1);
    ledger.seal(Checkpoint::new(1, Position::from_text("1".to_owned())));
    (first, ledger.enter(1))
}

fn counts(pending: &Pending) -> (usize, usize, usize) {
    (pending.len(), pending.ready_count(), pending.ready_bytes())
}

fn taken(pending: &mut Pending) -> Vec<String> {
    let mut ids = Vec::new();
    while let Some(entry) = pending.take_first() {
        ids.push(String::from_utf8(entry.action.id().to_vec()).unwrap());
    }
    ids
}

#[test]
fn places_and_bytes_are_counted_exactly() {
    let (segment, _) = segments();
    let mut pending = Pending::new();
    pending.add(1, action("a", 1, 10, segment));
    pending.add(2, action("b", 1, 20, segment));
    assert_eq!(counts(&pending), (2, 2, 30));
    pending.add(1, action("a", 2, 25, segment));
    assert_eq!(counts(&pending), (2, 2, 45));
    pending.add(1, action("a", 3, 5, segment));
    assert_eq!(counts(&pending), (2, 2, 25));
    pending.hold_first();
    assert_eq!(counts(&pending), (2, 1, 20), "what is held is not ready");
    pending.add(1, action("a", 4, 7, segment));
    assert_eq!(counts(&pending), (2, 2, 27), "a newer one is looked at again");
    assert_eq!(pending.take_first().unwrap().action.data.len(), 7);
    assert_eq!(counts(&pending), (1, 1, 20));
    pending.hold_first();
    assert_eq!(counts(&pending), (1, 0, 0));
    pending.release_held();
    assert_eq!(counts(&pending), (1, 1, 20));
    assert_eq!(taken(&mut pending), ["b"]);
    assert_eq!(counts(&pending), (0, 0, 0));
    assert!(pending.first().is_none());
}

#[test]
fn what_is_released_comes_first_and_in_its_order() {
    let (segment, _) = segments();
    let mut pending = Pending::new();
    for (hash, id) in [(1, "a"), (2, "b"), (3, "c"), (4, "d")] {
        pending.add(hash, action(id, 1, 10, segment));
    }
    for _ in 0..3 {
        pending.hold_first();
    }
    pending.hold_first();
    pending.hold_first();
    assert_eq!(counts(&pending), (4, 0, 0), "nothing more can be held than is ready");
    pending.add(5, action("e", 1, 10, segment));
    // A newer change of a place in the middle of the held ones leaves the others as they are.
    pending.add(2, action("b", 2, 10, segment));
    pending.release_held();
    assert_eq!(taken(&mut pending), ["a", "c", "d", "b", "e"]);
}

#[test]
fn two_places_with_one_hash_are_two() {
    let (segment, _) = segments();
    let mut pending = Pending::new();
    let mut elsewhere = action("a", 1, 10, segment);
    elsewhere.index = 1;
    pending.add(7, action("a", 1, 10, segment));
    pending.add(7, action("b", 1, 10, segment));
    pending.add(7, elsewhere);
    assert_eq!(counts(&pending), (3, 3, 30));
    assert_eq!(taken(&mut pending), ["a", "b", "a"]);
}

#[test]
fn every_segment_that_is_carried_stays_charged() {
    let (first, second) = segments();
    let mut pending = Pending::new();
    assert_eq!(pending.add(1, action("a", 1, 10, first)), 0);
    assert_eq!(pending.add(1, action("a", 2, 10, first)), CHARGE - CARRIED_BYTES);
    assert_eq!(pending.add(1, action("a", 3, 10, second)), CHARGE, "its segment is carried already");
    assert_eq!(pending.add(1, action("a", 4, 10, second)), CHARGE - CARRIED_BYTES);
    let entry = pending.take_first().unwrap();
    assert_eq!(entry.carried, [(first, 2), (second, 1)]);
    assert_eq!(entry.charge(), CHARGE + 2 * CARRIED_BYTES);
}

/// A burst leaves no memory behind: nothing charges for what is kept when nothing is pending.
#[test]
fn slots_of_a_burst_are_given_back() {
    let (segment, _) = segments();
    let mut pending = Pending::new();
    for few in [true, false] {
        let many: u64 = if few { 1_024 } else { 5_000 };
        for number in 0..many {
            pending.add(number, action(&number.to_string(), 1, 10, segment));
        }
        assert_eq!(taken(&mut pending).len() as u64, many);
        assert_eq!(pending.slots_kept() > 0, few, "a few are kept for the next ones");
    }
}
