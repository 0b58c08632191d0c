//! Everything left of Rowtide's queue: the change contract, the byte-bounded queue, the merge of
//! reads into the log, and the sources themselves.
//!
//! A source is one folder that uses the contract files and never another source, and one line in
//! [`SOURCES`].

pub mod budget;
pub mod change;
pub mod discovery;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
pub mod merge;
#[doc(hidden)]
pub mod mutant;
pub mod pattern;
pub mod position;
pub mod queue;
pub mod size;
pub mod source;
pub mod world;

mod postgres;

use std::collections::BTreeMap;
use std::path::PathBuf;

use source::Source;
use world::SharedWorld;

/// Makes a source from its own section of the configuration.
pub type Make = fn(Settings, SharedWorld) -> Result<Box<dyn Source>, Vec<Problem>>;

/// The one table of sources.
pub const SOURCES: &[SourceKind] = &[SourceKind {
    name: "postgres",
    make: postgres::make,
    schemes: &["postgres", "postgresql"],
    password_variable: "PGPASSWORD",
    discover: postgres::discover,
}];

/// A kind of source.
#[derive(Clone, Copy)]
pub struct SourceKind {
    /// The `type` in the configuration.
    pub name: &'static str,
    /// Makes one from its section.
    pub make: Make,
    /// What its urls begin with, as in `postgres` for `postgres://…`.
    pub schemes: &'static [&'static str],
    /// The variable of the environment in which its own tools look for a password.
    pub password_variable: &'static str,
    /// Looks around in a database that nobody has configured yet.
    pub discover: discovery::Discover,
}

/// What makes each kind of source, by the `type` in the configuration.
pub fn makes() -> Vec<(&'static str, Make)> {
    SOURCES.iter().map(|kind| (kind.name, kind.make)).collect()
}

/// A source's section of the configuration, secrets already filled in.
pub struct Settings {
    /// The source's name, as in `[sources.NAME]`.
    pub name: String,
    /// Where relative paths in its keys begin.
    pub folder: PathBuf,
    /// The environment, for variables that the database's own clients know; empty in tests.
    pub environment: BTreeMap<String, String>,
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
