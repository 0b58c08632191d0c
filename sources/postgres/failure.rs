//! What a failure of a connection means for the source (law 7): the one policy.

use super::wire::{ServerError, WireError};
use crate::source::SourceError;

/// What a person does when the log between checkpoint and server is lost, or documents would get other ids.
pub(super) const FILL_ANEW: &str = "fill the index anew: empty data_dir and set existing = \"replace\" on the target \
     (where data_dir serves other pipelines too: rowtide remove SOURCE --delete-index)";

impl WireError {
    /// The failure as the source's, with what was being done, as in "read the log".
    pub(super) fn into_source(self, context: &'static str) -> SourceError {
        match self {
            Self::Io { .. } | Self::Protocol(_) | Self::Timeout { .. } | Self::Silent { .. } => {
                SourceError::Wait { context, reason: self.to_string() }
            }
            Self::Auth(what) => SourceError::Halt {
                state: "access-denied",
                what: format!("{context}: {what}"),
                hint: "check the source's user and password, and the server's pg_hba.conf".into(),
            },
            Self::Tls { what, fix } => {
                SourceError::Halt { state: "tls-failed", what: format!("{context}: TLS: {what}"), hint: fix }
            }
            Self::Server(error) => of_server(&error, context),
        }
    }

    /// The failure of a read of a table: that the table or a column is gone is DDL that nobody has
    /// noticed yet (T09). Whoever asks for the tables anew finds what is there, or what is missing.
    pub(super) fn into_read(self, context: &'static str) -> SourceError {
        match self.sqlstate() {
            Some("42P01" | "42703" | "3F000") => SourceError::Changed { what: format!("{context}: {self}") },
            _ => self.into_source(context),
        }
    }
}

/// By the server's code: <https://www.postgresql.org/docs/18/errcodes-appendix.html>
fn of_server(error: &ServerError, context: &'static str) -> SourceError {
    let halt = |state: &'static str, hint: &str| SourceError::Halt {
        state,
        what: format!("{context}: {error}"),
        hint: hint.into(),
    };
    match error.sqlstate.as_str() {
        "28000" | "28P01" => {
            halt("access-denied", "check the source's user and password, and the server's pg_hba.conf")
        }
        "42501" => halt("access-denied", "rowtide check names the grants that are missing"),
        "3D000" => halt("database-missing", "check the database in the source's url"),
        "42P01" | "42703" | "3F000" | "42704" => {
            halt("table-missing", "rowtide check names what is missing; restart when it is there")
        }
        // A slot whose log was dropped says so when it is started.
        "55000" if error.message.contains("replication slot") => halt(
            "slot-lost",
            "raise max_slot_wal_keep_size and fill the index anew: drop the slot, empty data_dir and set existing = \"replace\" \
             on the target (where data_dir serves other pipelines too: rowtide remove SOURCE --delete-index)",
        ),
        // A database of encoding SQL_ASCII keeps every byte, and hands over only what is UTF-8.
        "22021" | "22P05" => {
            halt("value-unreadable", "mend the value, or leave its column out of the publication")
        }
        "55000" if error.message.contains("\"wal_level\"") => {
            halt("wal-level", "ALTER SYSTEM SET wal_level = logical; and restart the server")
        }
        _ => SourceError::Wait { context, reason: error.to_string() },
    }
}
