//! What a running pipeline says of itself, for logs, bars and people. No document's contents and no
//! secret ever goes in here.

use std::time::Duration;

use sources::source::SourceStatus;

use crate::ledger::Counts;

/// What a pipeline is doing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum State {
    /// Connecting and asking (law 8).
    #[default]
    Starting,
    /// Something outside is not there yet; it goes on by itself.
    Waiting {
        /// What it is waiting for, in words.
        for_what: String,
    },
    /// Reading tables beside the log.
    Backfilling,
    /// Everything was read; the log is followed.
    Following,
    /// Told to stop: waiting for the last answers.
    Stopping,
    /// Drained and recorded.
    Stopped,
    /// A person must act.
    Halted {
        /// As in `slot-lost`.
        state: &'static str,
    },
}

impl State {
    /// The state in one word.
    pub fn name(&self) -> &'static str {
        match self {
            State::Starting => "starting",
            State::Waiting { .. } => "waiting",
            State::Backfilling => "backfilling",
            State::Following => "following",
            State::Stopping => "stopping",
            State::Stopped => "stopped",
            State::Halted { state } => state,
        }
    }

    /// Why, where the word does not say it.
    pub fn reason(&self) -> Option<&str> {
        match self {
            State::Waiting { for_what } => Some(for_what),
            _ => None,
        }
    }
}

/// The byte budget (law 5) and the process's real memory, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryStatus {
    /// Charged now.
    pub used: usize,
    /// The most that was ever charged at once.
    pub most: usize,
    /// What may be charged now.
    pub limit: usize,
    /// Resident, as the system counts it.
    pub rss: usize,
}

/// What a running pipeline says of itself.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Status {
    /// What it is doing.
    pub state: State,
    /// What the source says.
    pub source: SourceStatus,
    /// The counters of law 6.
    pub counts: Counts,
    /// Dead letters that are kept, those of earlier runs included.
    pub dead_letters: u64,
    /// Rows a second that entered from reads, over the last seconds.
    pub rows_per_s: f64,
    /// Changes a second that were settled, over the last seconds.
    pub docs_per_s: f64,
    /// From the commit of the newest settled transaction until now while anything is behind; zero
    /// when nothing is; `None` before anything was settled.
    pub lag: Option<Duration>,
    /// Bytes of log that are behind.
    pub lag_bytes: u64,
    /// Memory.
    pub memory: MemoryStatus,
    /// Since the last durable checkpoint; `None` before the first of this run.
    pub checkpoint_age: Option<Duration>,
}
