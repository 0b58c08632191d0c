//! What outlives the process: checkpoints, the owner's name, dead letters.
//!
//! ```text
//!   data_dir (0700) ── rowtide.lock     held while the process lives
//!                   └─ rowtide.sqlite   meta: format, owner
//!                                       pipelines: position, clean, identity
//!                                       dead_letters
//! ```
//! Guarantees: what a call has returned from is durable (WAL, synchronous FULL); one process uses a
//! data directory at a time; a format that this program does not know is refused and left as it is.
//! Relies on a file system that keeps what it has synchronised.

mod chosen;
mod data_dir;
mod forget;
mod letters;
mod look;
mod places;
mod sqlite;
#[cfg(test)]
pub(crate) mod tests;

use std::collections::BTreeMap;

use sources::position::Position;
use sources::source::Resume;
use sources::world::BoxFuture;

use crate::retry::Halt;

pub use chosen::{Choice, KeptLetter, Sum};
pub use forget::Kept;
pub use letters::{LetterLimits, Letters, ListedLetter, letters_of};
pub use look::{Looked, is_in_use, look};
pub use sqlite::{FORMAT, Sqlite};

/// What is kept of a pipeline.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Saved {
    /// The random name of this store, for the lease.
    pub owner: String,
    /// The last durable checkpoint; `None` before the first.
    pub position: Option<Position>,
    /// Whether the last process ended its work in order: drained and recorded. `false` also when
    /// nothing is known, since a store may have been lost.
    pub clean: bool,
    /// The history that the checkpoint belongs to, as the source names it.
    pub identity: Option<String>,
    /// The real indices that hold what lies before the checkpoint: UUIDs by `target/alias`, before format 3 by
    /// alias; `None` when a store of format 1 kept the checkpoint.
    pub indices: Option<BTreeMap<String, String>>,
}

impl Saved {
    /// Where to go on.
    pub fn resume(&self) -> Option<Resume> {
        let position = self.position.clone()?;
        Some(Resume { position, clean: self.clean })
    }
}

/// A failure of the store. None of them mends itself: nothing may go on without it.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The directory cannot be used.
    #[error("data directory {path}: {what}; {fix}")]
    DataDir {
        /// Which.
        path: String,
        /// What is wrong with it.
        what: String,
        /// What to do.
        fix: String,
    },
    /// Another process has it.
    #[error(
        "another rowtide ({holder}) uses the data directory {path}; \
         stop it, or give this one a data_dir of its own"
    )]
    Locked {
        /// Which.
        path: String,
        /// As in `pid 17`.
        holder: String,
    },
    /// A newer program made it.
    #[error(
        "{path} was made by a newer Rowtide: format {found}, this program knows {known}; \
         run the newer program"
    )]
    Newer {
        /// The file.
        path: String,
        /// Its format.
        found: u32,
        /// The newest that is known here.
        known: u32,
    },
    /// SQLite failed.
    #[error("{context}: {error}; look for a full or broken disk under the data directory")]
    Sqlite {
        /// What was being done.
        context: &'static str,
        /// What it said.
        error: rusqlite::Error,
    },
    /// Its thread has ended.
    #[error("{context}: the store's thread has ended")]
    Ended {
        /// What was being done.
        context: &'static str,
    },
}

impl From<StoreError> for Halt {
    /// The pipeline cannot go on, and waiting mends nothing.
    fn from(error: StoreError) -> Self {
        let text = error.to_string();
        // The texts end with what to do, behind the last semicolon.
        let (what, hint) = text.rsplit_once("; ").unwrap_or((&text, "start Rowtide again"));
        let state = match &error {
            StoreError::DataDir { .. } => "data-dir-unusable",
            StoreError::Locked { .. } => "data-dir-in-use",
            StoreError::Newer { .. } => "store-newer",
            StoreError::Sqlite { .. } | StoreError::Ended { .. } => "store-failed",
        };
        Self { state, what: what.to_owned(), hint: hint.to_owned() }
    }
}

/// Where checkpoints are kept. The life of one:
/// ```text
/// let saved = store.load(pipeline)             what the last process left
/// store.begin(pipeline, indices)               unclean from now on, before anything is written
/// store.identify(pipeline, identity)           whose history it is
/// store.checkpoint(pipeline, position)         again and again
/// store.finish(pipeline, last position)        drained: clean
/// ```
pub trait Store: Send + Sync {
    /// What is kept of the pipeline.
    fn load<'a>(&'a self, pipeline: &'a str) -> BoxFuture<'a, Result<Saved, StoreError>>;

    /// Durably takes the sign of a clean end away, and keeps which indices (UUIDs by `target/alias`) are
    /// written.
    fn begin<'a>(
        &'a self,
        pipeline: &'a str,
        indices: &'a BTreeMap<String, String>,
    ) -> BoxFuture<'a, Result<(), StoreError>>;

    /// Keeps the name of the history that is read.
    fn identify<'a>(&'a self, pipeline: &'a str, identity: &'a str) -> BoxFuture<'a, Result<(), StoreError>>;

    /// Keeps a position durably.
    fn checkpoint<'a>(
        &'a self,
        pipeline: &'a str,
        position: &'a Position,
    ) -> BoxFuture<'a, Result<(), StoreError>>;

    /// Everything is drained: keeps the last position, if there is a new one, and the sign of a clean
    /// end, in one step.
    fn finish<'a>(
        &'a self,
        pipeline: &'a str,
        position: Option<&'a Position>,
    ) -> BoxFuture<'a, Result<(), StoreError>>;
}
