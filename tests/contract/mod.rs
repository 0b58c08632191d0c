//! One suite that every source passes on its real server.
//!
//! ```text
//!   load ─► run ─► writers ─► kill… (backfill) ─► giant transaction ─► kill (inside it) ─►
//!   ─► kill… (tail) ─► restart of the target ─► quiet ─► compare ─► clean stop ─► counts, memory
//! ```
//! A source gives an [`Origin`] (how its rows are made, changed and read back) and calls the functions
//! of [`suite`]. The suite speaks of tables and row numbers only; keys and values are the origin's.
//!
//! What holds at the end: the index equals the source; each count of kills, of changes and of requests
//! in flight that the test claims is there; law 6 adds up; no fill began again; memory stayed bounded.

use std::time::Duration;

use super::harness::faults::Speech;
use super::harness::rows::Rows;

pub(crate) mod altered;
pub(crate) mod faulty;
pub(crate) mod suite;
pub(crate) mod writers;

/// Tables: a number, a composite and a random key.
pub(crate) const TABLES: usize = 3;

/// What a row says of where it comes from, in a column called `tag`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tag {
    /// Loaded, and changed by nobody: while one of them is not in the index, the fill goes on.
    Calm,
    /// Loaded; writers change it.
    Load,
    /// Written by a writer.
    Writer,
    /// Written in the giant transaction.
    Giant,
    /// Written last.
    Sentinel,
}

impl Tag {
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Calm => "calm",
            Self::Load => "load",
            Self::Writer => "writer",
            Self::Giant => "giant",
            Self::Sentinel => "sentinel",
        }
    }
}

/// Every fifth loaded row is calm.
pub(crate) fn tag_of_loaded(row: u64) -> Tag {
    if row % 5 == 4 { Tag::Calm } else { Tag::Load }
}

/// One change of one row, found by its number in its table.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Change {
    pub(crate) table: usize,
    pub(crate) row: u64,
    pub(crate) kind: Kind,
    /// New contents follow from it.
    pub(crate) salt: u64,
}

/// What a writer does to a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Insert,
    Update,
    Delete,
    /// The key becomes that of another row number, which is free.
    ChangeKey(u64),
    /// A value of about 10 KB that does not compress.
    SetBig,
    /// As Update, on a row whose big value stays as it is.
    KeepBig,
}

/// A source's real server with one database, as the suite needs it.
pub(crate) trait Origin: Sized {
    /// A connection that writes.
    type Writer: Writer;

    /// A fresh database with the tables, empty.
    async fn start() -> Self;

    /// The server's port on 127.0.0.1.
    fn port(&self) -> u16;

    /// How it speaks.
    const SPEECH: Speech;

    /// `[sources.shop]` by way of this port, with everything but chunk sizes, which the suite appends.
    fn source_section(&self, port: u16) -> String;

    /// Stops the server, which is nobody else's now, and starts it on its data.
    async fn restart(&self);

    /// The server gives up a reader of its log that says nothing for so long.
    async fn give_up_after(&self, silence: Duration);

    /// The table's name in the configuration.
    fn table(&self, table: usize) -> String;

    /// Loads rows with [`tag_of_loaded`], the contents following from `salt`.
    async fn load(&self, table: usize, rows: std::ops::Range<u64>, salt: u64);

    /// Loads rows whose big value is plain words of about `bytes`.
    async fn load_wide(&self, table: usize, rows: std::ops::Range<u64>, bytes: u64);

    /// Inserts `rows` of [`Tag::Giant`] into each table in one transaction.
    async fn giant(&self, rows: std::ops::Range<u64>, salt: u64);

    /// Inserts one row of [`Tag::Sentinel`] into each table.
    async fn sentinel(&self, row: u64);

    async fn writer(&self) -> Self::Writer;

    /// The rows of a table, by its name in the configuration, as the documents that they should be.
    async fn rows(&self, table: &str) -> impl Rows;
}

/// A connection that writes.
pub(crate) trait Writer: Send + 'static {
    /// Makes the changes in one transaction; each must hit one row. Rolled back if told so.
    fn commit(&mut self, changes: &[Change], roll_back: bool) -> impl Future<Output = ()> + Send;

    /// The server was restarted.
    fn connect_again(&mut self) -> impl Future<Output = ()> + Send;
}
