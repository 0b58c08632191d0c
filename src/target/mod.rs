//! Where documents go: the contract between the heart and a search cluster.
//!
//! A target judges nothing by itself: it sends what it is given and says, item by item, what came of
//! it, or that it does not know. What follows from that is decided in one place, [`crate::retry`].

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use sources::change::{Column, Kind};
use sources::world::BoxFuture;

pub mod elasticsearch;
pub mod memory;
mod setup;

pub use setup::{Easing, IndexSetup, flat, setting_fault};

/// One bulk request, as bytes.
#[derive(Clone, Debug)]
pub struct Bulk {
    /// Names the request in the target's list of tasks (`X-Opaque-Id`), so that one whose answer was
    /// lost can be asked after.
    pub opaque_id: String,
    /// Newline-delimited actions and documents, an action's line beginning `{"index":{` or
    /// `{"delete":{` without blanks. Cloning shares it: the bytes live once.
    pub body: Bytes,
    /// How many actions the body holds; the answer must have as many.
    pub actions: usize,
}

/// What came of one action.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Done, or there was nothing left to do (404 on a delete).
    Written,
    /// The target holds a newer version (409, [`version conflict`]; T30).
    ///
    /// [`version conflict`]: https://www.elastic.co/guide/en/elasticsearch/reference/8.19/docs-bulk.html
    Stale,
    /// Not done, for a reason of this document's or the target's.
    Failed {
        /// The item's HTTP status.
        status: u16,
        /// The error's type, as in `document_parsing_exception`.
        kind: String,
        /// The error's reason. May quote the document: it goes into a dead letter, never into a log.
        reason: String,
    },
}

/// A failure of a whole request.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    /// It is certain that nothing of the request was or will be executed: no connection was made.
    #[error("{context}: not executed: {reason}")]
    NotExecuted {
        /// What was being done.
        context: &'static str,
        /// What was answered.
        reason: String,
    },
    /// The target has no room now (429) and refused it before executing it.
    #[error("{context}: not executed: {reason}")]
    Busy {
        /// What was being done.
        context: &'static str,
        /// What was answered.
        reason: String,
    },
    /// The request is larger than the target takes (413): nothing was executed, and the same bytes
    /// never will be.
    #[error("{context}: the request is too large for the target")]
    TooLarge {
        /// What was being done.
        context: &'static str,
    },
    /// No answer was read, or one that says nothing (closed socket, 5xx): the request may
    /// have been executed, or may be later.
    #[error("{context}: no certain answer: {reason}")]
    Unresolved {
        /// What was being done.
        context: &'static str,
        /// What happened.
        reason: String,
    },
    /// No answer was read within the limit of time. As uncertain as [`Self::Unresolved`], but it shows
    /// a target or a link that is slow, not a target that closes the socket on what is too large.
    #[error("{context}: no certain answer: {reason}")]
    TimedOut {
        /// What was being done.
        context: &'static str,
        /// What happened.
        reason: String,
    },
    /// Somebody else changed the state document meanwhile, or an index is not what it was.
    #[error("{context}: {reason}")]
    Conflict {
        /// What was being done.
        context: &'static str,
        /// What was found.
        reason: String,
    },
    /// A person must act: wrong credentials, no permission, an unknown version.
    #[error("{context}: {reason}; {hint}")]
    Halt {
        /// What was being done.
        context: &'static str,
        /// What was answered.
        reason: String,
        /// What to do.
        hint: String,
    },
}

impl TargetError {
    /// Whether it may have been executed, or may be later.
    pub fn is_unresolved(&self) -> bool {
        matches!(self, Self::Unresolved { .. } | Self::TimedOut { .. })
    }

    /// Whether nothing of it was or will be executed, for a reason that passes.
    pub fn is_not_executed(&self) -> bool {
        matches!(self, Self::NotExecuted { .. } | Self::Busy { .. })
    }
}

/// The format of an index's `_meta.rowtide`, and of how documents and their ids are made. 2: composites and
/// ranges are objects, not PostgreSQL's text; keys that are arrays are that text.
pub const DOCUMENT_FORMAT: u64 = 2;

/// An index as the shape wants it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IndexSpec {
    /// The alias that is written through; the real index behind it is made by Rowtide.
    pub alias: String,
    /// The pipeline that owns it; kept in the mapping's `_meta`.
    pub pipeline: String,
    /// Fields of a document with the columns they come from.
    pub fields: Vec<(String, Column)>,
    /// Changes when the shape does; kept in `_meta`.
    pub shape_hash: String,
    /// What a person wants of it. No part of the shape: documents are the same whatever it says.
    pub setup: IndexSetup,
    /// What is set otherwise from its making until [`Target::restore`].
    pub easing: Easing,
}

impl IndexSpec {
    /// A field whose documents of `format` have another form, by name.
    pub fn changed_since(&self, format: u64) -> Option<&str> {
        let changed = |(_, column): &&(String, Column)| format < 2 && is_new_in_2(&column.kind);
        self.fields.iter().find(changed).map(|(field, _)| field.as_str())
    }
}

/// Whether values of a kind were texts in format 1, or arrays in a key.
fn is_new_in_2(kind: &Kind) -> bool {
    match kind {
        Kind::Object(_)
        | Kind::IntegerRange { .. }
        | Kind::Range(_)
        | Kind::Map
        | Kind::Geometry
        | Kind::KeyText => true,
        Kind::Array(inner) => is_new_in_2(inner),
        _ => false,
    }
}

/// What a target holds under an alias.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IndexState {
    /// The real index's name.
    pub name: String,
    /// Its UUID: another one means that a person deleted or restored it (T45).
    pub uuid: String,
    /// Documents in it.
    pub documents: u64,
    /// `_meta.rowtide.pipeline`; `None` when Rowtide did not make it.
    pub pipeline: Option<String>,
    /// `_meta.rowtide.shape`.
    pub shape_hash: Option<String>,
    /// `_meta.rowtide.format`; [`DOCUMENT_FORMAT`] when Rowtide did not make it.
    pub format: u64,
    /// What is not as Rowtide needs it.
    pub odd: Vec<Odd>,
}

/// The index under an alias, as it is looked at every 10 s.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Its UUID.
    pub uuid: String,
    /// What is not as Rowtide needs it.
    pub odd: Vec<Odd>,
}

/// A setting of an index that is not as Rowtide needs it: a template or a person set it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Odd {
    /// An answer does not mean that a document is durable (law 4): nothing may be written.
    #[error(
        "index.translog.durability is {0}, so a node that crashes loses documents that it has answered for"
    )]
    NotDurable(String),
    /// The versions of deleted documents are forgotten early (T29); only a help, so it goes on.
    #[error(
        "index.gc_deletes is {0}, less than the hour that Rowtide sets: late requests are kept away for that long only"
    )]
    ForgetsEarly(String),
    /// Documents go through a pipeline that is no part of the configuration.
    #[error(
        "documents go through the ingest pipeline {pipeline} ({setting}), which the configuration does not name: it may change, move or drop them"
    )]
    Pipeline {
        /// The setting.
        setting: &'static str,
        /// The pipeline.
        pipeline: String,
    },
}

/// Law 1's state document, one for each pipeline, changed only by compare-and-set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateDocument {
    /// The format of this document.
    pub format: u32,
    /// The history that the versions belong to, as the source names it.
    pub identity: String,
    /// What is added to offsets.
    pub base: i64,
    /// No version above it was issued.
    pub ceiling: u64,
    /// Who may write.
    pub lease: Option<LeaseEntry>,
    /// The real indices with their UUIDs, by alias.
    pub indices: std::collections::BTreeMap<String, String>,
}

/// Who may write.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseEntry {
    /// A random name of the process's store, kept in it.
    pub owner: String,
    /// Raised at every renewal, so that a watcher sees that the owner lives.
    pub beat: u64,
    /// Milliseconds without a beat after which another may take it.
    pub ttl_ms: u64,
}

/// The state document with what compare-and-set needs (`_seq_no`, `_primary_term`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// The document.
    pub document: StateDocument,
    /// Which write of it was read.
    pub revision: Revision,
}

/// Which write of the state document was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Revision {
    /// `_seq_no`.
    pub seq_no: u64,
    /// `_primary_term`.
    pub primary_term: u64,
}

/// A search cluster, or a model of one.
pub trait Target: Send + Sync {
    /// Sends a bulk request and judges every item of the answer (T32): as many outcomes as actions,
    /// in their order.
    fn bulk(&self, request: Bulk) -> BoxFuture<'_, Result<Vec<Outcome>, TargetError>>;

    /// Whether a task with this `X-Opaque-Id` runs anywhere in the cluster.
    fn is_running<'a>(&'a self, opaque_id: &'a str) -> BoxFuture<'a, Result<bool, TargetError>>;

    /// What is there under an alias (or as an index of that name); `None` when nothing is.
    fn index<'a>(&'a self, alias: &'a str) -> BoxFuture<'a, Result<Option<IndexState>, TargetError>>;

    /// What is looked at every 10 s; `None` when there is no index under the alias.
    fn standing<'a>(&'a self, alias: &'a str) -> BoxFuture<'a, Result<Option<Standing>, TargetError>> {
        Box::pin(async {
            Ok(self.index(alias).await?.map(|IndexState { uuid, odd, .. }| Standing { uuid, odd }))
        })
    }

    /// Which of these aliases stand for an index that is eased.
    fn eased<'a>(&'a self, _aliases: &'a [String]) -> BoxFuture<'a, Result<Vec<String>, TargetError>> {
        Box::pin(async { Ok(Vec::new()) })
    }

    /// Gives an index back what was set otherwise while it was filled, but for what somebody has changed
    /// since. By name, what was given back; asked again, nothing is.
    fn restore<'a>(&'a self, _alias: &'a str) -> BoxFuture<'a, Result<Vec<String>, TargetError>> {
        Box::pin(async { Ok(Vec::new()) })
    }

    /// Makes a new real index with its mapping and puts the alias on it, in one step.
    fn create_index<'a>(&'a self, spec: &'a IndexSpec) -> BoxFuture<'a, Result<IndexState, TargetError>>;

    /// Adds to the mapping of an index that is there the fields that it lacks, and to the index what else of
    /// its setup can be added; a field that is there stays as it is, but for what the cluster lets be changed.
    /// What was added, what cannot hold its column, and what could not be done.
    fn extend_mapping<'a>(&'a self, _spec: &'a IndexSpec) -> BoxFuture<'a, Result<Extended, TargetError>> {
        Box::pin(async { Ok(Extended::default()) })
    }

    /// Deletes a real index by name, with its aliases (`existing: replace`).
    fn delete_index<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<(), TargetError>>;

    /// Makes everything that was written searchable.
    fn refresh<'a>(&'a self, alias: &'a str) -> BoxFuture<'a, Result<(), TargetError>>;

    /// The ids of at most `limit` documents after `after` (in the target's own stable order), for a
    /// barrier (law 9); empty at the end. `cursor` is `None` at first, then what was returned. A
    /// listing that begins refreshes first: it shows everything that was written before.
    fn ids<'a>(
        &'a self,
        alias: &'a str,
        cursor: Option<String>,
        limit: usize,
    ) -> BoxFuture<'a, Result<IdPage, TargetError>>;

    /// Reads the state document.
    fn load_state<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<Option<Stored>, TargetError>>;

    /// Writes the state document if nobody has written it since `seen` (`None`: if there is none);
    /// else [`TargetError::Conflict`].
    fn save_state<'a>(
        &'a self,
        id: &'a str,
        document: &'a StateDocument,
        seen: Option<Revision>,
    ) -> BoxFuture<'a, Result<Revision, TargetError>>;

    /// Deletes the state document if nobody has written it since `seen`; else [`TargetError::Conflict`].
    fn delete_state<'a>(&'a self, id: &'a str, seen: Revision) -> BoxFuture<'a, Result<(), TargetError>>;
}

/// What came of extending a mapping.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Extended {
    /// Fields that are new.
    pub added: Vec<String>,
    /// Fields whose mapping cannot hold every value of their column: name and type in the mapping.
    pub unfit: Vec<(String, String)>,
    /// What of the setup is not as it is wanted, and stays so, in words.
    pub told: Vec<String>,
}

/// A page of document ids.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IdPage {
    /// The ids, each with its document's version.
    pub ids: Vec<(String, u64)>,
    /// To give back for the next page; `None` at the end.
    pub cursor: Option<String>,
}
