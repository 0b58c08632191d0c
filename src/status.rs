//! What a running pipeline says of itself, for logs, bars and people. No document's contents and no
//! secret ever goes in here.

use std::time::Duration;

use sources::source::SourceStatus;

use crate::controls::Sent;
use crate::ledger::Counts;

/// What a pipeline is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum State {
    /// Connecting and asking (law 8).
    #[default]
    Starting,
    /// Something outside is not there yet; it goes on by itself.
    Waiting,
    /// Reading tables beside the log.
    Backfilling,
    /// Everything was read; the log is followed.
    Following,
    /// A person has paused it: nothing is sent.
    Paused,
    /// Told to stop: waiting for the last answers.
    Stopping,
    /// Drained and recorded.
    Stopped,
    /// A person must act.
    Halted,
}

impl State {
    /// All of them.
    pub const ALL: [State; 8] = [
        State::Starting,
        State::Waiting,
        State::Backfilling,
        State::Following,
        State::Paused,
        State::Stopping,
        State::Stopped,
        State::Halted,
    ];

    /// The state in one word.
    pub fn name(self) -> &'static str {
        match self {
            State::Starting => "starting",
            State::Waiting => "waiting",
            State::Backfilling => "backfilling",
            State::Following => "following",
            State::Paused => "paused",
            State::Stopping => "stopping",
            State::Stopped => "stopped",
            State::Halted => "halted",
        }
    }
}

/// The byte budget (law 5), in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryStatus {
    /// Charged now.
    pub used: usize,
    /// The most that was ever charged at once.
    pub most: usize,
    /// What may be charged now.
    pub limit: usize,
}

/// What is said of one target.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TargetStatus {
    /// As in `[targets.NAME]`.
    pub name: String,
    /// Its part of the counters of law 6, without the rows of reads that the log displaced.
    pub counts: Counts,
    /// What its lanes wait for, in words; `None` when nothing.
    pub waiting_for: Option<String>,
    /// Dead letters that are kept of it, from earlier processes too.
    pub dead_letters: u64,
}

/// What a running pipeline says of itself.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Status {
    /// What it is doing.
    pub state: State,
    /// Why, or what is waited for, in words.
    pub reason: Option<String>,
    /// What the source says.
    pub source: SourceStatus,
    /// The counters of law 6: a change counts once for each target.
    pub counts: Counts,
    /// What each target says, in the configuration's order.
    pub targets: Vec<TargetStatus>,
    /// Changes a second that were settled, over the last seconds.
    pub docs_per_s: f64,
    /// What was sent to all targets.
    pub sent: Sent,
    /// Bytes of request bodies a second, over the last seconds.
    pub bytes_per_s: f64,
    /// From the commit of the newest settled transaction until now while anything is behind; zero
    /// when nothing is; `None` before anything was settled.
    pub lag: Option<Duration>,
    /// Memory.
    pub memory: MemoryStatus,
    /// Since the last durable checkpoint; `None` before the first of this run.
    pub checkpoint_age: Option<Duration>,
}
