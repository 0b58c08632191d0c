//! Rules that a test can leave out, to see that leaving them out is noticed.
//!
//! ```text
//!   simulation ── leave_out(Rule) ──► this thread ──► production code asks `is_left_out(Rule)`
//! ```
//! Without the feature `mutants`, which only tests of the application turn on, the question is a constant
//! `false` and the compiler removes it. A rule stands beside the law (DESIGN, ARCHITECTURE) that it keeps.

/// One rule of production code. Each is asked in one place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rule {
    /// Law 1: a new identity's base lies above every version issued.
    BaseIsRaised,
    /// Law 1: no version above the ceiling is issued before a higher one is durable.
    CeilingIsStored,
    /// Law 2: a read that does not see what was passed is read again.
    ReadsMustSee,
    /// Law 2: rows whose key was changed since the read began are dropped.
    ChangedRowsAreDropped,
    /// Law 2: TRUNCATE changes every key.
    ClearDropsAll,
    /// Law 3: one place, one lane.
    OnePlaceOneLane,
    /// Law 3: a delete, or an image of equal version, waits for a request without an answer.
    UnresolvedPlacesWait,
    /// Law 3: an unresolved request is asked after only when the quarantine has passed.
    QuarantineIsKept,
    /// Law 3: nothing is sent for one quarantine after an unclean stop.
    StartIsQuarantined,
    /// Law 3: no index is made or replaced within that quarantine.
    NewIndicesAwaitIt,
    /// Law 3: of two waiting changes of a place the newer goes out.
    NewestIsKept,
    /// Law 1: deletes carry the version of their place.
    DeletesCarryVersions,
    /// Law 4: a position is durable only when all before it is settled.
    EarlierSegmentsCount,
    /// Law 4: a position is durable only when every target has what lies before it.
    EveryTargetCounts,
    /// Law 4: a position is told to the source when the store has it.
    SavedBeforeTold,
    /// Law 4: what a request did not answer is not settled.
    OnlyAnsweredIsSettled,
    /// Law 5: a charge ends when the memory does, not at the pop.
    ChargesOutliveThePop,
    /// Law 5: a charge is waited for.
    BudgetIsWaitedFor,
    /// Law 6: what a newer change took the place of is counted as superseded.
    SupersededAreCounted,
    /// Law 6: a dead letter is removed by a later change of its place.
    LettersAreSuperseded,
    /// Law 6: a dead letter is kept before its change is settled.
    LettersAreKept,
    /// Law 7: a busy target is asked again.
    BusyIsAskedAgain,
    /// Law 7: a document's own fault ends in a dead letter.
    PoisonIsDeadLettered,
    /// Law 8: a broken history halts.
    BrokenHistoryHalts,
    /// Law 8: a checkpoint is believed only with the indices that it speaks of.
    CheckpointsNameIndices,
    /// Law 8: the index's UUID is looked at.
    IndicesAreWatched,
    /// Law 9: a barrier drains the lanes before it lists.
    BarrierDrainsFirst,
    /// Law 9: a TRUNCATE ends the dead letters of its table.
    BarrierEndsLetters,
    /// Law 9: a sweep deletes no document whose row has a dead letter, which would end with it.
    SweepsSpareLetters,
    /// Law 9: a TRUNCATE deletes each document of its table.
    BarrierDeletes,
}

#[cfg(feature = "mutants")]
mod switch {
    use super::Rule;
    use std::cell::Cell;

    thread_local! { static LEFT_OUT: Cell<Option<Rule>> = const { Cell::new(None) }; }

    /// Whether this thread leaves the rule out.
    pub fn is_left_out(rule: Rule) -> bool {
        LEFT_OUT.get() == Some(rule)
    }

    /// From now on this thread leaves the rule out; `None`: none.
    pub fn leave_out(rule: Option<Rule>) {
        LEFT_OUT.set(rule);
    }
}

#[cfg(feature = "mutants")]
pub use switch::{is_left_out, leave_out};

/// Whether the rule is left out: never, outside of tests.
#[cfg(not(feature = "mutants"))]
#[inline(always)]
pub const fn is_left_out(_: Rule) -> bool {
    false
}
