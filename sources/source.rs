//! The contract between a source and the application.
//!
//! The life of a source:
//! ```text
//! source.check()                      everything that is missing, at once, each with its fix
//! let reader = source.open(resume, status)   connects, asks law 8's questions, compares up to the checkpoint
//! reader.continuity()                 the same identity, or a new one: the application sets the base
//! reader.run(outlet, durable, stop)   Change… Checkpoint(position) until stopped or lost
//!     durable.changed()               what the application has made durable is acknowledged
//! source.open(last checkpoint)        and again after a failure that waiting can mend
//! ```

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::change::Table;
use crate::position::{Offset, Position};
use crate::queue::{Closed, Outlet};
use crate::world::BoxFuture;

/// A failure of a source, by what to do about it (law 7).
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The world's: wait and try again.
    #[error("{context}: {reason}")]
    Wait {
        /// What was being done, as in "open the replication connection".
        context: &'static str,
        /// What was answered.
        reason: String,
    },
    /// The data's or the set-up's: a person must act.
    #[error("{state}: {what}; {hint}")]
    Halt {
        /// The state that `status` shows, as in `slot-lost`.
        state: &'static str,
        /// What was found.
        what: String,
        /// What to do.
        hint: String,
    },
    /// The tables are not those that [`Source::tables`] told: everything that was emitted is settled,
    /// then it is asked again, and the source is opened anew.
    #[error("the tables have changed: {what}")]
    Changed {
        /// What has changed, for people.
        what: String,
    },
    /// The pipeline has ended; nothing is wrong here.
    #[error("the pipeline has ended")]
    Closed,
}

impl From<Closed> for SourceError {
    fn from(_: Closed) -> Self {
        Self::Closed
    }
}

/// One thing that `check` found missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What is missing.
    pub what: String,
    /// What mends it: SQL where there is SQL for it.
    pub fix: String,
}

/// What `check` found.
#[derive(Clone, Debug, Default)]
pub struct Checked {
    /// Without these it does not work.
    pub missing: Vec<Finding>,
    /// It works without them, and a careful person has them.
    pub advised: Vec<Finding>,
    /// The tables that can be read, in the configured order; [`Table::number`] is the place in it.
    pub tables: Vec<Arc<Table>>,
}

/// Something on a server that serves one source alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The key of the source's section that names it.
    pub key: &'static str,
    /// What it is, as in `the slot rowtide_shop of db:5432`. Equal texts are the same thing.
    pub what: String,
}

/// What `remove` did on the source's server.
#[derive(Debug, Default)]
pub struct Removed {
    /// What was there and is gone now, in words.
    pub gone: Vec<String>,
    /// What is of no use to Rowtide and was left, since somebody else made it; with what takes it down.
    pub left: Vec<Finding>,
    /// Why the rest was not done: `Halt` when somebody still reads, and then nothing was touched.
    pub unfinished: Option<SourceError>,
}

/// Where to go on.
#[derive(Clone, Debug)]
pub struct Resume {
    /// The last durable checkpoint.
    pub position: Position,
    /// Whether the last process ended its work in order: drained and recorded.
    pub clean: bool,
}

/// Whether the log goes on where the checkpoint left it (law 1: identity is proved by continuity).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Continuity {
    /// There was no checkpoint.
    First,
    /// The same history.
    Continued,
    /// Another history; what lies behind the checkpoint cannot be trusted.
    Broken {
        /// What showed it.
        reason: String,
    },
}

/// A table's progress in the first fill.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TableProgress {
    /// `schema.table`.
    pub name: String,
    /// The database's own estimate, for the bar.
    pub rows_estimated: u64,
    /// Rows that have entered the stream from reads.
    pub rows_read: u64,
    /// All of it has entered the stream.
    pub done: bool,
}

/// What a source says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SourceStatus {
    /// What it is waiting for, in words; `None` when nothing.
    pub waiting_for: Option<String>,
    /// Progress of the first fill.
    pub tables: Vec<TableProgress>,
    /// Bytes of log that the server keeps for this reader.
    pub log_held_bytes: u64,
    /// Time until the server drops the log that it keeps, at the present rate; `None` without a
    /// bound or a rate.
    pub log_held_time_left: Option<Duration>,
    /// Bytes of log that can still be written before a bound is reached; `None` without one.
    pub log_left_bytes: Option<u64>,
    /// Why reads beside the log wait, while the log is read on; `None` when they do not.
    pub reads_wait_for: Option<String>,
    /// Bytes of log between the server's end and the reader.
    pub log_behind_bytes: u64,
    /// The commit time of the newest transaction passed, in microseconds since 1970.
    pub passed_commit_unix_us: i64,
    /// Read and not emitted: rows displaced by a change of their key that came meanwhile, and changes
    /// whose row was read again since they did not carry every column (law 6: superseded).
    pub rows_displaced: u64,
    /// Rows that entered from reads beside the log, the displaced ones included.
    pub rows_read: u64,
    /// Reads taken again since their snapshot did not see all that had been passed.
    pub reads_repeated: u64,
    /// Rows read again by key since their change did not carry every column.
    pub rows_refetched: u64,
}

/// Told once: stop reading, hand over what is complete, return.
#[derive(Clone, Debug)]
pub struct Stop(watch::Receiver<bool>);

/// Tells it.
#[derive(Debug)]
pub struct Stopper(watch::Sender<bool>);

impl Stop {
    /// A pair.
    pub fn pair() -> (Stopper, Stop) {
        let (sender, receiver) = watch::channel(false);
        (Stopper(sender), Stop(receiver))
    }

    /// Whether it was told.
    pub fn is_told(&self) -> bool {
        *self.0.borrow()
    }

    /// Ends when it is told, or when nobody is left who could tell.
    pub async fn told(&mut self) {
        while !*self.0.borrow_and_update() {
            if self.0.changed().await.is_err() {
                return;
            }
        }
    }
}

impl Stopper {
    /// Stop.
    pub fn tell(&self) {
        self.0.send_replace(true);
    }
}

/// Where a source says what it is doing; shared by all of its tasks.
pub type StatusSender = Arc<watch::Sender<SourceStatus>>;

/// Everything that the application and a running reader say to each other.
pub struct Link {
    /// Where changes go.
    pub outlet: Outlet,
    /// The newest position that is durable everywhere; the reader acknowledges it to the database.
    pub durable: watch::Receiver<Option<Position>>,
    /// What the reader says of itself.
    pub status: StatusSender,
    /// When to stop.
    pub stop: Stop,
}

/// A place where changes come from.
pub trait Source: Send + Sync {
    /// Everything that is missing, at once, and what is advised. It changes nothing.
    fn check(&self) -> BoxFuture<'_, Result<Checked, SourceError>>;

    /// Takes down what Rowtide keeps on the source's server, so that no forgotten log fills its disk.
    /// What is not there is no failure; what somebody reads, or somebody else made, is left. A source
    /// that keeps nothing there has nothing to do.
    fn remove(&self) -> BoxFuture<'_, Removed> {
        Box::pin(async { Removed::default() })
    }

    /// What it holds on its server, which a second source could not hold at the same time: two sources
    /// of one configuration that claim the same are refused.
    fn claims(&self) -> Vec<Claim> {
        Vec::new()
    }

    /// The tables as they are now, in the configured order; [`Table::number`] is the place in it. A table
    /// without columns is one that was read up to `before` and is gone.
    fn tables(&self, before: Option<Position>) -> BoxFuture<'_, Result<Vec<Arc<Table>>, SourceError>>;

    /// Connects and asks, before anything is read (law 8). What it has to wait for shows in `status`.
    fn open(
        &self,
        resume: Option<Resume>,
        status: StatusSender,
    ) -> BoxFuture<'_, Result<Box<dyn Reader>, SourceError>>;
}

/// A connected source that is about to be read.
pub trait Reader: Send {
    /// A name of the history that is read, for the state document and for people.
    fn identity(&self) -> &str;

    /// Whether the history goes on.
    fn continuity(&self) -> &Continuity;

    /// The first offset that can be emitted.
    fn first(&self) -> Offset;

    /// Emits changes until it is told to stop (`Ok`) or fails.
    fn run(self: Box<Self>, link: Link) -> BoxFuture<'static, Result<(), SourceError>>;
}
