//! The position that a PostgreSQL source seals: where its log goes on, what must be found there, and
//! how far the first fill has come.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::lsn::Lsn;
use super::progress::Range;
use crate::position::Position;
use crate::source::SourceError;

/// The format that this program writes; a newer one is refused by name.
const FORMAT: u32 = 1;

/// Where to go on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct PgPosition {
    pub format: u32,
    /// `system_identifier` of the cluster.
    pub system: String,
    pub timeline: u32,
    pub database: String,
    /// Everything that committed below it is settled.
    pub lsn: Lsn,
    /// The last commit that was passed, which the log must show again when it lies above the slot's
    /// `confirmed_flush_lsn` (law 8).
    pub last_commit: Option<CommitMark>,
    /// The settled prefix of the transaction that follows `lsn` (T48).
    pub inside: Option<Inside>,
    /// Everything that was emitted had committed below it; reads see more than the log's reader has passed.
    /// Earlier versions did not write it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seen: Option<Lsn>,
    /// What was published: a prefix counted under another publication means nothing.
    pub published: String,
    /// The first fill, by `schema.table`.
    pub tables: BTreeMap<String, TableState>,
}

/// A commit by which a history is known again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct CommitMark {
    /// The commit record's LSN.
    pub lsn: Lsn,
    pub xid: u32,
    /// Microseconds since 1970.
    pub time_us: i64,
}

/// How much of a transaction is settled.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Inside {
    /// The commit record's LSN, which its Begin carries.
    pub lsn: Lsn,
    pub xid: u32,
    /// Row and truncate messages of it, counted on the wire before any filter.
    pub changes: u64,
}

/// A table's first fill: what is still to be read, in the key's order. Empty: done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct TableState {
    /// A table of the same name that was dropped and made again is another one.
    pub oid: u32,
    pub todo: Vec<Range>,
    /// What its rows were read as ([`super::catalog::TableInfo::signature`]); `None` in checkpoints of
    /// earlier programs, which are taken for what is there now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shape: Option<String>,
    /// Its partitions, and the file of each: another one means rows that came or went without an event.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub leaves: BTreeMap<u32, u32>,
    /// It is read again: why, and from where on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub renewal: Option<Renewal>,
}

/// A table that is read again, since rows changed without events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Renewal {
    /// What is read has this version or a higher one; what happened before the change has a lower one.
    pub from: Lsn,
    /// Rows are gone too: documents that were not written since `from` are deleted at the end.
    pub sweep: bool,
}

impl Renewal {
    /// Up to here the log must be passed before the table is read: all that happened before the change.
    pub(super) fn behind(self) -> Lsn {
        Lsn(self.from.0.saturating_sub(1))
    }
}

impl PgPosition {
    /// A position at the start of `system`'s history at `lsn`.
    pub(super) fn new(system: String, timeline: u32, database: String, lsn: Lsn) -> Self {
        let (last_commit, inside, tables) = (None, None, BTreeMap::new());
        let (published, seen) = (String::new(), None);
        Self { format: FORMAT, system, timeline, database, lsn, last_commit, inside, seen, published, tables }
    }

    /// Opens a sealed one.
    pub(super) fn open(sealed: &Position) -> Result<Self, SourceError> {
        let unreadable = |what: String| SourceError::Halt {
            state: "position-unreadable",
            what,
            hint: "start with the version of Rowtide that wrote it, or with an empty data directory".into(),
        };
        #[derive(Deserialize)]
        struct Format {
            format: u32,
        }
        let format: Format = sealed.open().map_err(|error| unreadable(format!("the checkpoint: {error}")))?;
        if format.format > FORMAT {
            let made = format.format;
            return Err(unreadable(format!(
                "the checkpoint was written by a newer Rowtide (position format {made}, this program knows {FORMAT})"
            )));
        }
        sealed.open().map_err(|error| unreadable(format!("the checkpoint: {error}")))
    }

    /// Seals it.
    pub(super) fn seal(&self) -> Result<Position, SourceError> {
        Position::seal(self).map_err(|error| SourceError::Halt {
            state: "position-unwritable",
            what: error.to_string(),
            hint: "report this as a fault of Rowtide".into(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As written by format 1; later programs must open it.
    const FORMAT_1: &str = r#"{"format":1,"system":"7301","timeline":1,"database":"shop","lsn":"0/1508120",
        "last_commit":{"lsn":"0/15080F0","xid":757,"time_us":1700000000000000},
        "inside":{"lsn":"0/1609000","xid":760,"changes":120000},"published":"4f",
        "tables":{"public.a":{"oid":16385,"todo":[]},"public.b":{"oid":16386,"todo":[{"low":["x","7"],"high":null}]}}}"#;

    #[test]
    fn format_1_opens_and_is_written_as_it_was() {
        let position = PgPosition::open(&Position::from_text(FORMAT_1)).unwrap();
        assert_eq!(position.lsn, Lsn(0x1508120));
        assert_eq!(position.inside.as_ref().unwrap().changes, 120_000);
        assert_eq!(position.tables["public.b"].todo[0].low, Some(vec!["x".into(), "7".into()]));
        let again = PgPosition::open(&position.seal().unwrap()).unwrap();
        assert_eq!(again, position);
    }

    #[test]
    fn t09_what_is_read_again_is_kept_and_nothing_is_written_where_nothing_is() {
        let mut position = PgPosition::open(&Position::from_text(FORMAT_1)).unwrap();
        assert!(!position.seal().unwrap().as_text().contains("renewal"), "as format 1 had it");
        let renewal = Some(Renewal { from: Lsn(7), sweep: true });
        let todo = vec![Range { leaf: Some(9), ..Range::default() }];
        let state = TableState { oid: 1, todo, shape: Some("s".into()), leaves: [(9, 10)].into(), renewal };
        position.tables.insert("public.c".into(), state);
        assert_eq!(PgPosition::open(&position.seal().unwrap()).unwrap(), position);
    }

    #[test]
    fn a_newer_format_is_refused_by_name() {
        let newer = Position::from_text(r#"{"format":2,"anything":true}"#);
        let error = PgPosition::open(&newer).unwrap_err().to_string();
        assert!(error.contains("position format 2"), "{error}");
    }
}
