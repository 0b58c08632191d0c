//! Rules of the model's source that a mutant leaves out, beside the production ones of
//! `sources::mutant::Rule`.

use std::cell::Cell;

/// One rule of a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ModelRule {
    /// Law 1: a read enters at the reader's place ("LSN, then read" without it).
    PlaceIsTheReaders,
    /// Law 2: the log's changes are told to the merge.
    ReadsAreMerged,
    /// Law 2: a table's first read waits for those that wrote to it.
    FirstReadWaits,
    /// Law 2: a table that is read again is read when the log has been passed up to there.
    RenewalsAwaitTheLog,
    /// Law 4: a checkpoint waits for the refetches before it.
    CheckpointsAwaitRefetches,
    /// Law 4: inside a transaction only a prefix is settled.
    PrefixIsCounted,
    /// Law 8: the log is compared with the checkpoint before anything is read.
    HistoryIsCompared,
    /// Law 9: what was not read again is deleted.
    SweepsAreSent,
    /// Law 9: a start without a checkpoint, on a slot that is there, sweeps as well.
    OldSlotsAreSwept,
    /// Law 9: under another base what was read before cannot be told from what is gone.
    RenewalsBeginAnew,
}

thread_local! { static LEFT_OUT: Cell<Option<ModelRule>> = const { Cell::new(None) }; }

pub(super) fn is_model_left_out(rule: ModelRule) -> bool {
    LEFT_OUT.get() == Some(rule)
}

pub(super) fn leave_model_out(rule: Option<ModelRule>) {
    LEFT_OUT.set(rule);
}
