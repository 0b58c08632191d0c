//! A look into the store from outside: beside a running process, or after it. Nothing is written and no lock is held.

use std::fs::{File, TryLockError};
use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags, OptionalExtension};

use super::StoreError;
use super::data_dir::{DATABASE_FILE, LOCK_FILE};
use super::letters::letters_of;
use super::sqlite::{format_of, judge_format};

/// What a store keeps of a pipeline.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Looked {
    /// Whether there is a checkpoint.
    pub has_checkpoint: bool,
    /// When the last one was kept, in seconds since 1970; `None` where a Rowtide before 0.1.0 kept it.
    pub checkpoint_unix_seconds: Option<u64>,
    /// Whether the last process ended in order; `false` also while one runs.
    pub clean: bool,
    /// Dead letters of each target that was asked for, in that order.
    pub dead_letters: Vec<u64>,
}

/// Under what key of `meta` the time of a pipeline's last checkpoint is kept.
pub(super) fn time_key(pipeline: &str) -> String {
    format!("checkpoint_unix_seconds/{pipeline}")
}

/// Whether a process has the data directory now.
pub fn is_in_use(data_dir: &Path) -> bool {
    // For a moment it may look in use to a process that starts just now: a shared lock is the least.
    let Ok(file) = File::open(data_dir.join(LOCK_FILE)) else { return false };
    matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock))
}

/// What is kept of a pipeline with these targets; `None` where there is no store. Blocks for some milliseconds.
pub fn look(data_dir: &Path, pipeline: &str, targets: &[String]) -> Result<Option<Looked>, StoreError> {
    let failed = |error| StoreError::Sqlite { context: "look into the store", error };
    let Some(connection) = open_beside(data_dir)? else { return Ok(None) };
    if format_of(&connection).map_err(failed)?.is_none() {
        return Ok(None);
    }
    read(&connection, pipeline, targets).map(Some).map_err(failed)
}

/// The store's file, to be read beside a process that may have it; `None` where there is none. In WAL mode a
/// reader never waits for the writer, nor the writer for it.
pub(super) fn open_beside(data_dir: &Path) -> Result<Option<Connection>, StoreError> {
    let file = data_dir.join(DATABASE_FILE);
    if !file.exists() {
        return Ok(None);
    }
    let failed = |error| StoreError::Sqlite { context: "open the store", error };
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(&file, flags).map_err(failed)?;
    connection.busy_timeout(Duration::from_secs(10)).map_err(failed)?;
    judge_format(&connection, &file)?;
    Ok(Some(connection))
}

fn read(connection: &Connection, pipeline: &str, targets: &[String]) -> rusqlite::Result<Looked> {
    let select = "SELECT position IS NOT NULL, clean FROM pipelines WHERE name = ?1";
    let row = connection.query_row(select, [pipeline], |row| Ok((row.get(0)?, row.get(1)?))).optional()?;
    let (has_checkpoint, clean) = row.unwrap_or_default();
    let select = "SELECT CAST(value AS INTEGER) FROM meta WHERE key = ?1";
    let at = connection.query_row(select, [time_key(pipeline)], |row| row.get(0)).optional()?;
    let mut dead_letters = Vec::with_capacity(targets.len());
    for (number, target) in targets.iter().enumerate() {
        // Before format 3 letters had no target's name: they are the first one's.
        let unnamed = if number == 0 { pipeline } else { "" };
        let select = "SELECT count(*) FROM dead_letters WHERE pipeline = ?1 OR pipeline = ?2";
        let owner = letters_of(pipeline, target);
        dead_letters.push(connection.query_row(select, [owner.as_str(), unnamed], |row| row.get(0))?);
    }
    Ok(Looked { has_checkpoint, checkpoint_unix_seconds: at, clean, dead_letters })
}
