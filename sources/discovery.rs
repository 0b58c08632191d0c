//! Looking around in a database that nobody has configured yet: what `rowtide init` writes down.
//!
//! ```text
//!   url, password, schemas ──► SourceKind::discover ──► Discovered: the source's keys, every table
//! ```
//! It only reads, and makes nothing. The keys that it gives make a source's section as they stand.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::Problem;
use crate::change::Table;
use crate::source::{Finding, SourceError};
use crate::world::{BoxFuture, SharedWorld};

/// Looks around.
pub type Discover = fn(Wanted, SharedWorld) -> BoxFuture<'static, Result<Discovered, DiscoverError>>;

/// Where to look.
pub struct Wanted {
    /// The database's url, without a password.
    pub url: String,
    /// The password; `None` for servers that ask for none.
    pub password: Option<String>,
    /// Only these schemas; all of them when it is empty.
    pub schemas: Vec<String>,
    /// The environment, for variables that the database's own clients know.
    pub environment: BTreeMap<String, String>,
}

/// Why nothing was seen.
#[derive(Debug)]
pub enum DiscoverError {
    /// The url cannot be right.
    Wrong(Vec<Problem>),
    /// The server is away, or refuses.
    Source(SourceError),
}

/// What was seen.
#[derive(Debug)]
pub struct Discovered {
    /// A name for the source and its pipeline: letters, digits, `_` and `-`, at most 60.
    pub name: String,
    /// Which database it is, for people.
    pub place: String,
    /// Keys whose defaults a person may want to know, with those defaults and what they are.
    pub defaults: Vec<DefaultKey>,
    /// Every table of a user, those that cannot be read too, by schema and name.
    pub tables: Vec<FoundTable>,
}

/// A key of the source's section that need not be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DefaultKey {
    /// As in `slot`.
    pub key: &'static str,
    /// What it is when nothing is said.
    pub value: String,
    /// What it is for.
    pub why: &'static str,
}

/// A table that was found.
#[derive(Debug)]
pub struct FoundTable {
    /// As a pipeline spells it.
    pub name: String,
    /// The last part of the name, as the database spells it.
    pub short_name: String,
    /// The rest of the name, as the database spells it.
    pub schema: String,
    /// The database's own estimate; 0 when it has none.
    pub rows_estimated: u64,
    /// On disk.
    pub bytes: u64,
    /// The table, or everything that keeps it from being read.
    pub table: Result<Arc<Table>, Vec<Finding>>,
}
