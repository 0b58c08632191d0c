//! Changes that the target will never take, kept until a person or a newer change ends them.
//!
//! ```text
//!   lane: refused for the document's own fault ──► keep (durable) ──► settled as dead-lettered
//!   lane: a later change of the place was answered ──► superseded (durable) ──► settled
//! ```
//! Guarantees (law 6): a letter is durable before its change is settled, and it is gone before a
//! later change of its place is. One place has at most one letter: the newest.

use std::sync::Arc;

use bytes::Bytes;
use sources::position::Version;
use sources::world::BoxFuture;

use crate::retry::Halt;

/// A change that was refused, with all that is known of it.
#[derive(Clone, PartialEq, Eq)]
pub struct DeadLetter {
    /// The alias it was written through.
    pub index: Arc<str>,
    /// The document's id as it stands in a JSON string: escaped, without the quotes.
    pub id: Box<[u8]>,
    /// The version it was to be written with.
    pub version: Version,
    /// Why it was refused. May quote the document: never logged.
    pub reason: String,
    /// The action as it was sent, lines and all; `None` when the row was too large to be held.
    /// A slice of its whole request: copy it, if it is held beyond the call.
    pub body: Option<Bytes>,
    /// Bytes of the document: of the body, or of the row on the wire when there is none.
    pub bytes: u64,
}

// Never a document's contents in a log or a panic.
impl std::fmt::Debug for DeadLetter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { index, version, bytes, .. } = self;
        write!(f, "DeadLetter({index}, version {}, {bytes} bytes)", version.get())
    }
}

/// Why a letter was not kept or not removed. Both halt the pipeline: nothing may be lost.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DeadLetterError {
    /// More letters than a person can want: something is wrong with all documents.
    #[error("the dead letters hold {bytes} bytes, more than the {limit} that are allowed")]
    Full {
        /// Bytes held with the one that was refused.
        bytes: u64,
        /// The most that may be held.
        limit: u64,
    },
    /// Their places do not fit into their part of the memory.
    #[error(
        "the places of {letters} dead letters do not fit into the {limit} bytes of memory that are theirs"
    )]
    Crowded {
        /// How many there are with the one that was refused.
        letters: u64,
        /// The most memory that their places may take.
        limit: usize,
    },
    /// The store failed.
    #[error("keep dead letters: {reason}")]
    Store {
        /// What the store said.
        reason: String,
    },
}

impl From<DeadLetterError> for Halt {
    fn from(error: DeadLetterError) -> Self {
        let (state, hint) = match &error {
            DeadLetterError::Full { .. } => (
                "dead-letters-full",
                "look at their reasons (rowtide dead-letters list): most likely the mapping does not fit the table; \
                 mend it and retry them, drop them, or raise dead_letters.max_bytes",
            ),
            DeadLetterError::Crowded { .. } => (
                "dead-letters-full",
                "look at their reasons (rowtide dead-letters list), mend the cause and retry them, drop them, or \
                 raise memory.max_rss",
            ),
            DeadLetterError::Store { .. } => {
                ("store-failed", "look at the data directory: its disk may be full")
            }
        };
        Self { state, what: error.to_string(), hint: hint.into() }
    }
}

/// Where dead letters are kept.
pub trait DeadLetters: Send + Sync {
    /// Makes a letter durable; an older one of the same place gives way to it.
    fn keep(&self, letter: DeadLetter) -> BoxFuture<'_, Result<(), DeadLetterError>>;

    /// How many letters are kept; answered from memory.
    fn count(&self) -> u64;

    /// Whether a letter of this place is kept. Answered from memory: it is asked for every change
    /// that settles.
    fn holds(&self, index: &str, id: &[u8]) -> bool;

    /// A change of the place with this version was answered: a letter of at most this version (an
    /// equal one counts: it came before in the stream) is removed, durably.
    fn superseded<'a>(
        &'a self,
        index: &'a str,
        id: &'a [u8],
        version: Version,
    ) -> BoxFuture<'a, Result<(), DeadLetterError>>;

    /// Every place of the alias was changed with this version (TRUNCATE): its letters of at most this
    /// version are removed, durably.
    fn cleared<'a>(&'a self, index: &'a str, version: Version) -> BoxFuture<'a, Result<(), DeadLetterError>>;
}
