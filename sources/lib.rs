//! Everything left of Rowtide's queue: the change contract, the byte-bounded queue, the merge of
//! reads into the log, and the sources themselves.
//!
//! A source is one folder that uses the contract files and never another source, and one line in
//! [`SOURCES`].

pub mod budget;
pub mod change;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
pub mod merge;
#[doc(hidden)]
pub mod mutant;
pub mod pattern;
pub mod position;
pub mod queue;
pub mod source;
pub mod world;

mod postgres;

use source::Source;
use world::SharedWorld;

/// Makes a source from its own section of the configuration.
pub type Make = fn(Settings, SharedWorld) -> Result<Box<dyn Source>, Vec<Problem>>;

/// The one table of sources: the `type` in the configuration, and what makes it.
pub const SOURCES: &[(&str, Make)] = &[("postgres", postgres::make)];

/// A source's section of the configuration, secrets already filled in.
pub struct Settings {
    /// The source's name, as in `[sources.NAME]`.
    pub name: String,
    /// Its own keys; each source refuses those that it does not know.
    pub keys: serde_json::Map<String, serde_json::Value>,
    /// The tables that pipelines read, as they spell them, in the configured order.
    pub tables: Vec<TableSettings>,
    /// The most bytes one row may have; a larger one is skipped on the wire.
    pub document_bytes_max: usize,
}

/// What a pipeline reads of a table.
#[derive(Clone, Debug)]
pub struct TableSettings {
    /// `schema.table`.
    pub name: String,
    /// What becomes of its documents when it is dropped.
    pub on_drop: OnDrop,
}

/// What becomes of a table's documents when the table is dropped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnDrop {
    /// A person decides.
    #[default]
    Halt,
    /// They are deleted.
    Delete,
    /// They stay.
    Keep,
}

/// A fault in a source's section.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The key in the section.
    pub key: String,
    /// What is wrong and what would be right.
    pub message: String,
}
