//! What is durable: which position may be recorded and acknowledged to the source (law 4).
//!
//! ```text
//!   change change │p1│ change │p2│ change change      the stream, cut by its checkpoints
//!   └─ segment 0 ─┘  └─ seg 1 ┘  └─ segment 2 (open)
//! ```
//! A checkpoint's position is durable when its segment and every one before it has nothing
//! outstanding. It never skips and never goes back.
//!
//! | segments before it | its own segment | the position                               | test |
//! |--------------------|-----------------|--------------------------------------------|------|
//! | all settled        | settled         | is durable                                 | `all_settled` |
//! | all settled        | outstanding     | waits                                      | `own_outstanding` |
//! | outstanding        | settled         | waits, for the segment before it           | `t01_earlier_outstanding` |
//! | outstanding        | outstanding     | waits                                      | `both_outstanding` |
//! | none               | empty           | is durable at once                         | `t03_empty_stream` |
//! | outstanding        | empty           | stands for the segment before it           | `empty_after_outstanding` |
//! | settled            | not yet sealed  | only the last sealed position is durable   | `b6_not_sealed` |
//! | —                  | settled twice   | refused: a settling that was never entered | `settled_twice` |

use std::collections::BTreeMap;
use std::sync::Arc;

use sources::budget::Charge;
use sources::mutant::{Rule, is_left_out};
use sources::position::Position;

/// The number of a piece of the stream between two checkpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SegmentId(u64);

/// How changes ended (law 6): each as exactly one of these.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ends {
    /// Written to the target, or deleted from it.
    pub written: u64,
    /// The target held a newer version.
    pub stale: u64,
    /// A newer change of the same place went out instead.
    pub superseded: u64,
    /// The shape wanted nothing written.
    pub filtered: u64,
    /// Kept as a dead letter.
    pub dead_lettered: u64,
}

impl Ends {
    /// How many changes ended.
    pub fn total(&self) -> u64 {
        self.written + self.stale + self.superseded + self.filtered + self.dead_lettered
    }

    /// Adds `other` to it.
    pub fn add(&mut self, other: &Ends) {
        self.written += other.written;
        self.stale += other.stale;
        self.superseded += other.superseded;
        self.filtered += other.filtered;
        self.dead_lettered += other.dead_lettered;
    }
}

/// The counters of law 6, for one run of the process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Changes that entered.
    pub read: u64,
    /// Changes that ended, by how.
    pub ends: Ends,
}

impl Counts {
    /// Adds `other` to it.
    pub fn add(&mut self, other: &Counts) {
        self.read += other.read;
        self.ends.add(&other.ends);
    }

    /// Changes that have entered and not ended.
    pub fn in_flight(&self) -> u64 {
        self.read - self.ends.total()
    }
}

/// A settling that nothing entered: a fault of this program, and never passed over, since the
/// position might be acknowledged too early.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{settled} changes of segment {} were settled, but {outstanding} are outstanding", .segment.0)]
pub struct NotEntered {
    /// The segment.
    pub segment: SegmentId,
    /// Changes told as settled.
    pub settled: u64,
    /// Changes that can be.
    pub outstanding: u64,
}

/// A sealed piece of the stream that is not settled.
#[derive(Debug)]
struct Segment {
    /// Never 0: a settled segment is gone, its position handed to the one before it.
    outstanding: u64,
    /// Durable as soon as this segment and all before it are settled.
    sealed: Arc<Checkpoint>,
}

/// A position with its number in the stream and the charge that covers it: with many tables it has tens of
/// kilobytes, and a target that does not answer for hours would make it thousands of them (law 5). The
/// ledgers of several targets share it: positions are sealed, so it is their numbers that are compared.
#[derive(Debug)]
pub struct Checkpoint {
    number: u64,
    position: Position,
    _charge: Option<Charge>,
}

impl Checkpoint {
    /// The checkpoint with that number, for free.
    pub fn new(number: u64, position: Position) -> Arc<Self> {
        Arc::new(Self { number, position, _charge: None })
    }

    /// The same, with the charge that covers the position as long as any ledger keeps it.
    pub fn charged(number: u64, position: Position, charge: Charge) -> Arc<Self> {
        Arc::new(Self { number, position, _charge: Some(charge) })
    }

    /// Its place among the checkpoints of this process, from 1 on.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Where the source goes on.
    pub fn position(&self) -> &Position {
        &self.position
    }
}

/// What has entered, what has settled, and which position that makes durable.
#[derive(Debug, Default)]
pub struct Ledger {
    /// Sealed and outstanding, in the stream's order.
    sealed: BTreeMap<u64, Segment>,
    /// The number of the open segment.
    current: u64,
    /// Outstanding in the open segment.
    open: u64,
    /// Something entered since the last checkpoint, settled or not.
    beyond: bool,
    /// Durable and not yet taken.
    durable: Option<Arc<Checkpoint>>,
    counts: Counts,
}

impl Ledger {
    /// A ledger of an empty stream.
    pub fn new() -> Self {
        Self::default()
    }

    /// A ledger of an empty stream in a process that has counted before.
    pub fn going_on(counts: Counts) -> Self {
        Self { counts, ..Self::default() }
    }

    /// `changes` more belong to the segment that is open now, which is told.
    pub fn enter(&mut self, changes: u64) -> SegmentId {
        self.open += changes;
        self.beyond |= changes > 0;
        self.counts.read += changes;
        SegmentId(self.current)
    }

    /// The segment that `enter` would name now.
    pub fn segment(&self) -> SegmentId {
        SegmentId(self.current)
    }

    /// A checkpoint: everything that entered before it, once settled, makes its position durable.
    pub fn seal(&mut self, sealed: Arc<Checkpoint>) {
        self.beyond = false;
        if self.open > 0 {
            let outstanding = std::mem::take(&mut self.open);
            self.sealed.insert(self.current, Segment { outstanding, sealed });
            self.current += 1;
            return;
        }
        // Nothing is outstanding in it: it becomes durable together with the one before it.
        match self.sealed.last_entry() {
            Some(mut before) => before.get_mut().sealed = sealed,
            None => self.durable = Some(sealed),
        }
    }

    /// Changes of a segment have ended.
    pub fn settle(&mut self, segment: SegmentId, ends: &Ends) -> Result<(), NotEntered> {
        let settled = ends.total();
        if segment.0 == self.current {
            let left = self.open.checked_sub(settled);
            self.open = left.ok_or(NotEntered { segment, settled, outstanding: self.open })?;
            self.counts.ends.add(ends);
            return Ok(());
        }
        let outstanding = self.sealed.get(&segment.0).map_or(0, |found| found.outstanding);
        if settled > outstanding {
            return Err(NotEntered { segment, settled, outstanding });
        }
        self.counts.ends.add(ends);
        if settled < outstanding {
            if let Some(found) = self.sealed.get_mut(&segment.0) {
                found.outstanding -= settled;
            }
            return Ok(());
        }
        let Some(ended) = self.sealed.remove(&segment.0) else { return Ok(()) };
        match self.sealed.range_mut(..segment.0).next_back() {
            Some((_, before)) if !is_left_out(Rule::EarlierSegmentsCount) => before.sealed = ended.sealed,
            _ => self.durable = Some(ended.sealed),
        }
        Ok(())
    }

    /// The newest durable checkpoint, if there is one that was not taken yet.
    pub fn take_durable(&mut self) -> Option<Arc<Checkpoint>> {
        self.durable.take()
    }

    /// Segments that are kept in memory: those with something outstanding, and the open one.
    pub fn live(&self) -> usize {
        self.sealed.len() + 1
    }

    /// Whether the last checkpoint covers everything that entered, all of it settled: what was
    /// written says no more than its position.
    pub fn is_covered(&self) -> bool {
        !self.beyond && self.sealed.is_empty()
    }

    /// The counters of law 6.
    pub fn counts(&self) -> Counts {
        self.counts
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use proptest::prelude::*;

    impl PartialEq for Checkpoint {
        fn eq(&self, other: &Self) -> bool {
            (self.number, &self.position) == (other.number, &other.position)
        }
    }

    fn at(number: u64) -> Arc<Checkpoint> {
        Checkpoint::new(number, Position::from_text(number.to_string()))
    }

    fn charged(number: u64, charge: Charge) -> Arc<Checkpoint> {
        Checkpoint::charged(number, Position::from_text(number.to_string()), charge)
    }

    fn written(count: u64) -> Ends {
        Ends { written: count, ..Ends::default() }
    }

    /// Two sealed segments of one change each, `p1` and `p2`.
    fn two() -> (Ledger, SegmentId, SegmentId) {
        let mut ledger = Ledger::new();
        let first = ledger.enter(1);
        ledger.seal(at(1));
        let second = ledger.enter(1);
        ledger.seal(at(2));
        (ledger, first, second)
    }

    #[test]
    fn all_settled() {
        let (mut ledger, first, second) = two();
        ledger.settle(first, &written(1)).unwrap();
        assert_eq!(ledger.take_durable(), Some(at(1)));
        ledger.settle(second, &written(1)).unwrap();
        assert_eq!(ledger.take_durable(), Some(at(2)));
        assert_eq!(ledger.take_durable(), None);
        assert_eq!((ledger.live(), ledger.counts().in_flight()), (1, 0));
    }

    #[test]
    fn what_entered_after_the_last_checkpoint_is_not_covered_even_when_settled() {
        let (mut ledger, first, second) = two();
        assert!(!ledger.is_covered());
        ledger.settle(first, &written(1)).unwrap();
        ledger.settle(second, &written(1)).unwrap();
        assert!(ledger.is_covered());
        let beyond = ledger.enter(1);
        ledger.settle(beyond, &written(1)).unwrap();
        assert!(!ledger.is_covered());
        ledger.seal(at(3));
        assert!(ledger.is_covered());
    }

    #[test]
    fn own_outstanding() {
        let (mut ledger, first, _) = two();
        ledger.settle(first, &written(1)).unwrap();
        assert_eq!(ledger.take_durable(), Some(at(1)));
        assert_eq!(ledger.take_durable(), None);
    }

    #[test]
    fn t01_earlier_outstanding() {
        let (mut ledger, first, second) = two();
        ledger.settle(second, &written(1)).unwrap();
        assert_eq!(ledger.take_durable(), None);
        assert_eq!(ledger.live(), 2, "the settled one is merged into the one before it");
        ledger.settle(first, &written(1)).unwrap();
        assert_eq!(ledger.take_durable(), Some(at(2)));
    }

    #[test]
    fn both_outstanding() {
        let (mut ledger, ..) = two();
        assert_eq!(ledger.take_durable(), None);
        assert_eq!(ledger.counts().in_flight(), 2);
    }

    #[test]
    fn t03_empty_stream() {
        let mut ledger = Ledger::new();
        for number in 0..1000 {
            ledger.seal(at(number));
        }
        assert_eq!(ledger.take_durable(), Some(at(999)));
        assert_eq!(ledger.live(), 1);
    }

    #[test]
    fn empty_after_outstanding() {
        let (mut ledger, first, second) = two();
        ledger.seal(at(3));
        assert_eq!(ledger.live(), 3);
        ledger.settle(first, &written(1)).unwrap();
        assert_eq!(ledger.take_durable(), Some(at(1)));
        ledger.settle(second, &written(1)).unwrap();
        assert_eq!(ledger.take_durable(), Some(at(3)));
    }

    #[test]
    fn b6_not_sealed() {
        let mut ledger = Ledger::new();
        let first = ledger.enter(1);
        ledger.seal(at(1));
        let giant = ledger.enter(1000);
        ledger.settle(first, &written(1)).unwrap();
        ledger.settle(giant, &written(500)).unwrap();
        assert_eq!(ledger.take_durable(), Some(at(1)));
        ledger.settle(giant, &written(500)).unwrap();
        assert_eq!(ledger.take_durable(), None, "a settled half of a transaction is no position");
        ledger.seal(at(2));
        assert_eq!(ledger.take_durable(), Some(at(2)));
    }

    #[test]
    fn settled_twice() {
        let (mut ledger, first, _) = two();
        ledger.settle(first, &written(1)).unwrap();
        let refused = ledger.settle(first, &written(1)).unwrap_err();
        assert_eq!(refused, NotEntered { segment: first, settled: 1, outstanding: 0 });
        assert!(ledger.settle(ledger.segment(), &written(1)).is_err());
        assert_eq!(ledger.counts().in_flight(), 1);
    }

    /// Law 5: a position is paid for as long as it is kept, and no longer.
    #[test]
    fn a_kept_position_keeps_its_charge() {
        use sources::budget::{Budget, Class};
        let budget = Budget::new(1 << 20);
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let charge = || runtime.block_on(budget.reserve(Class::Log, 1000)).unwrap();
        let mut ledger = Ledger::new();
        let first = ledger.enter(1);
        ledger.seal(charged(1, charge()));
        let second = ledger.enter(1);
        ledger.seal(charged(2, charge()));
        assert_eq!(budget.used(), 2000);
        ledger.seal(charged(3, charge()));
        assert_eq!(budget.used(), 2000, "one position stands for another");
        ledger.settle(second, &written(1)).unwrap();
        assert_eq!(budget.used(), 1000, "merged into the one before it");
        ledger.settle(first, &written(1)).unwrap();
        assert_eq!(ledger.take_durable(), Some(at(3)));
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn each_way_to_end_is_counted_and_settles() {
        let mut ledger = Ledger::new();
        let ends = Ends { written: 1, stale: 2, superseded: 4, filtered: 8, dead_lettered: 16 };
        for _ in 0..2 {
            let segment = ledger.enter(31);
            ledger.settle(segment, &ends).unwrap();
            assert_eq!(ledger.counts().in_flight(), 0);
        }
        let twice = Ends { written: 2, stale: 4, superseded: 8, filtered: 16, dead_lettered: 32 };
        assert_eq!(ledger.counts(), Counts { read: 62, ends: twice });
    }

    #[test]
    fn where_nothing_entered_the_last_checkpoint_still_covers_everything() {
        let mut ledger = Ledger::new();
        ledger.seal(at(1));
        assert_eq!(ledger.enter(0), ledger.segment());
        assert!(ledger.is_covered());
    }

    #[derive(Clone, Debug)]
    enum Step {
        Enter(u64),
        Seal,
        Settle(prop::sample::Index, u64),
        Take,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            3 => (1_u64..4).prop_map(Step::Enter),
            3 => Just(Step::Seal),
            5 => (any::<prop::sample::Index>(), 1_u64..4).prop_map(|(which, many)| Step::Settle(which, many)),
            2 => Just(Step::Take),
        ]
    }

    /// Every change and checkpoint ever seen, nothing merged.
    #[derive(Default)]
    struct Model {
        segments: Vec<(SegmentId, u64, Option<u64>)>,
        checkpoints: Vec<(usize, u64)>,
        taken: Option<u64>,
    }

    impl Model {
        fn newest(&self) -> Option<u64> {
            let done =
                |upto: usize| self.segments[..upto].iter().all(|(_, outstanding, _)| *outstanding == 0);
            self.checkpoints.iter().filter(|(upto, _)| done(*upto)).map(|(_, position)| *position).next_back()
        }
    }

    proptest! {
        #[test]
        fn it_agrees_with_a_ledger_that_forgets_nothing(steps in prop::collection::vec(step(), 1..200)) {
            let mut ledger = Ledger::new();
            let mut model = Model::default();
            let mut positions = 0;
            for step in steps {
                match step {
                    Step::Enter(many) => {
                        let id = ledger.enter(many);
                        match model.segments.last_mut() {
                            Some((last, outstanding, None)) if *last == id => *outstanding += many,
                            _ => model.segments.push((id, many, None)),
                        }
                    }
                    Step::Seal => {
                        ledger.seal(at(positions));
                        model.checkpoints.push((model.segments.len(), positions));
                        if let Some((_, _, sealed)) = model.segments.last_mut() {
                            sealed.get_or_insert(positions);
                        }
                        positions += 1;
                    }
                    Step::Settle(which, many) => {
                        let mut live: Vec<_> = model.segments.iter_mut().filter(|(_, left, _)| *left > 0).collect();
                        if live.is_empty() { continue }
                        let at = which.index(live.len());
                        let (id, outstanding, _) = &mut *live[at];
                        let many = many.min(*outstanding);
                        *outstanding -= many;
                        ledger.settle(*id, &Ends { superseded: many, ..Ends::default() }).unwrap();
                    }
                    Step::Take => {
                        let newest = model.newest();
                        let expected = if newest > model.taken { newest } else { None };
                        prop_assert_eq!(ledger.take_durable(), expected.map(at));
                        model.taken = model.taken.max(newest);
                    }
                }
                let outstanding: u64 = model.segments.iter().map(|(_, left, _)| left).sum();
                prop_assert_eq!(ledger.counts().in_flight(), outstanding);
                let live = model.segments.iter().filter(|(_, left, _)| *left > 0).count();
                prop_assert!(ledger.live() <= live + 1);
            }
        }
    }
}
