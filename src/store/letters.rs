//! Dead letters in the store.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rusqlite::{Connection, OptionalExtension, params};
use sources::budget::Budget;
use sources::position::Version;
use sources::world::BoxFuture;

use super::StoreError;
use super::places::Places;
use super::sqlite::Sqlite;
use crate::dead_letters::{DeadLetter, DeadLetterError, DeadLetters};

/// What a letter costs beside its texts: its row and its place in SQLite's index. Generous, so that the limit on
/// the disk also bounds the memory of their places ([`Places`]): 256 MiB are at most 262,144 letters.
const LETTER_BYTES: u64 = 1024;
/// The part of the byte budget that the places of all letters may take.
const MEMORY_PART: usize = 8;
/// Letters that one statement removes, since it holds what it says of each.
const REMOVED_AT_ONCE: usize = 1000;

/// Under what name the dead letters of a pipeline's target are kept: neither name has a slash.
pub fn letters_of(pipeline: &str, target: &str) -> String {
    format!("{pipeline}/{target}")
}

/// What the letters of one target may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LetterLimits {
    /// Bytes on the disk.
    pub disk_bytes: u64,
    /// Bytes of memory for their places.
    pub memory_bytes: usize,
}

impl LetterLimits {
    /// Of each of `targets`, which have `disk_bytes` and this budget together.
    pub fn of_each(targets: usize, disk_bytes: u64, budget: &Budget) -> Self {
        let targets = targets.max(1);
        let memory_bytes = budget.full_limit() / MEMORY_PART / targets;
        Self { disk_bytes: disk_bytes / targets as u64, memory_bytes }
    }
}

/// The dead letters of one target of a pipeline.
pub struct Letters {
    store: Sqlite,
    pipeline: Arc<str>,
    limit_bytes: u64,
    held: Mutex<Held>,
}

struct Held {
    /// A false hit, by an equal hash, costs a look into the store.
    places: Places,
    bytes: u64,
}

/// A letter for people, without its body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedLetter {
    /// The alias it was written through.
    pub index: String,
    /// The document's id, escaped as in JSON.
    pub id: String,
    /// The version it was to be written with.
    pub version: Version,
    /// Why it was refused. May quote the document.
    pub reason: String,
    /// Bytes of the document.
    pub bytes: u64,
    /// When it was kept.
    pub unix_seconds: u64,
}

impl Letters {
    pub(super) async fn open(
        store: Sqlite,
        pipeline: &str,
        limits: LetterLimits,
        budget: &Budget,
    ) -> Result<Self, DeadLetterError> {
        let mut held = Held { places: Places::new(budget, limits.memory_bytes), bytes: 0 };
        let name = pipeline.to_owned();
        let load = move |connection: &mut Connection| {
            let select = "SELECT index_name, id, held_bytes FROM dead_letters WHERE pipeline = ?1";
            let mut statement = connection.prepare(select)?;
            let mut rows = statement.query([name])?;
            while let Some(row) = rows.next()? {
                let (index, id, bytes): (String, Vec<u8>, u64) = (row.get(0)?, row.get(1)?, row.get(2)?);
                if let Err(full) = held.places.add(place(&index, &id)) {
                    return Ok(Err(full));
                }
                held.bytes = held.bytes.saturating_add(bytes);
            }
            Ok(Ok(held))
        };
        let loaded = store.run("load the dead letters", load).await;
        let held = loaded.map_err(|error| DeadLetterError::Store { reason: error.to_string() })??;
        Ok(Self { store, pipeline: pipeline.into(), limit_bytes: limits.disk_bytes, held: Mutex::new(held) })
    }

    /// Bytes that all letters hold on the disk.
    pub fn bytes(&self) -> u64 {
        self.held().bytes
    }

    /// The oldest ones, at most `limit`.
    pub async fn list(&self, limit: u32) -> Result<Vec<ListedLetter>, StoreError> {
        let pipeline = self.pipeline.to_string();
        let list = move |connection: &mut Connection| {
            let select = "SELECT index_name, id, version, reason, bytes, unix_seconds FROM dead_letters
                          WHERE pipeline = ?1 ORDER BY unix_seconds, rowid LIMIT ?2";
            let mut statement = connection.prepare(select)?;
            let rows = statement.query_map(params![pipeline, limit], |row| {
                let id: Vec<u8> = row.get(1)?;
                Ok(ListedLetter {
                    index: row.get(0)?,
                    id: String::from_utf8_lossy(&id).into_owned(),
                    version: Version::from_target(row.get(2)?),
                    reason: row.get(3)?,
                    bytes: row.get(4)?,
                    unix_seconds: row.get(5)?,
                })
            })?;
            rows.collect()
        };
        self.store.run("list the dead letters", list).await
    }

    async fn put(&self, letter: DeadLetter) -> Result<(), DeadLetterError> {
        let texts = letter.index.len() + letter.id.len() + letter.reason.len();
        let body_bytes = letter.body.as_ref().map_or(0, |body| body.len());
        let new_bytes = LETTER_BYTES + (texts + body_bytes) as u64;
        let bytes = self.bytes().saturating_add(new_bytes);
        if bytes > self.limit_bytes {
            return Err(DeadLetterError::Full { bytes, limit: self.limit_bytes });
        }
        let pipeline = self.pipeline.to_string();
        let seconds = self.store.unix_seconds();
        let place = place(&letter.index, &letter.id);
        // Known before it is durable: at worst a change of the place looks into the store in vain.
        {
            let mut held = self.held();
            held.places.add(place)?;
            held.bytes = held.bytes.saturating_add(new_bytes);
        }
        let keep = move |connection: &mut Connection| {
            let transaction = connection.transaction()?;
            let old = remove(&transaction, &pipeline, &letter.index, &letter.id, None)?;
            let put = "INSERT INTO dead_letters (pipeline, index_name, id, version, reason, body, bytes,
                           held_bytes, unix_seconds) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)";
            transaction.prepare_cached(put)?.execute(params![
                pipeline,
                &*letter.index,
                &*letter.id,
                letter.version.get(),
                letter.reason,
                letter.body.as_deref(),
                letter.bytes,
                new_bytes,
                seconds,
            ])?;
            transaction.commit()?;
            Ok(old)
        };
        match self.store.run("keep a dead letter", keep).await {
            Ok(old) => {
                self.forget(place, old);
                Ok(())
            }
            Err(error) => {
                self.forget(place, Some(new_bytes));
                Err(DeadLetterError::Store { reason: error.to_string() })
            }
        }
    }

    async fn end(&self, index: &str, id: &[u8], version: Version) -> Result<(), DeadLetterError> {
        if !self.holds(index, id) {
            return Ok(());
        }
        let place = place(index, id);
        let (pipeline, index, id) = (self.pipeline.to_string(), index.to_owned(), id.to_owned());
        let end = move |connection: &mut Connection| {
            let transaction = connection.transaction()?;
            let old = remove(&transaction, &pipeline, &index, &id, Some(version))?;
            transaction.commit()?;
            Ok(old)
        };
        let ended = self.store.run("end a dead letter", end).await;
        let old = ended.map_err(|error| DeadLetterError::Store { reason: error.to_string() })?;
        self.forget(place, old);
        Ok(())
    }

    async fn end_all(&self, index: &str, version: Version) -> Result<(), DeadLetterError> {
        loop {
            let (pipeline, name) = (self.pipeline.to_string(), index.to_owned());
            let end = move |connection: &mut Connection| {
                let delete = "DELETE FROM dead_letters WHERE rowid IN (
                                  SELECT rowid FROM dead_letters
                                  WHERE pipeline = ?1 AND index_name = ?2 AND version <= ?3 LIMIT ?4)
                              RETURNING id, held_bytes";
                let mut statement = connection.prepare_cached(delete)?;
                let chosen = params![pipeline, name, version.get(), REMOVED_AT_ONCE];
                let ended = statement.query_map(chosen, |row| {
                    Ok((place(&name, &row.get::<_, Vec<u8>>(0)?), row.get::<_, u64>(1)?))
                })?;
                ended.collect::<rusqlite::Result<Vec<_>>>()
            };
            let ended = self.store.run("end a table's dead letters", end).await;
            let ended = ended.map_err(|error| DeadLetterError::Store { reason: error.to_string() })?;
            for &(place, bytes) in &ended {
                self.forget(place, Some(bytes));
            }
            if ended.len() < REMOVED_AT_ONCE {
                return Ok(());
            }
        }
    }

    /// Takes a letter of `bytes` out of what is known, if there was one.
    fn forget(&self, place: u64, bytes: Option<u64>) {
        let Some(bytes) = bytes else { return };
        let mut held = self.held();
        held.bytes = held.bytes.saturating_sub(bytes);
        held.places.remove(place);
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        // No code that can panic runs under the lock.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Removes the letter of a place, of at most `version` if one is given; returns what it held.
fn remove(
    connection: &Connection,
    pipeline: &str,
    index: &str,
    id: &[u8],
    version: Option<Version>,
) -> rusqlite::Result<Option<u64>> {
    let delete = "DELETE FROM dead_letters
                  WHERE pipeline = ?1 AND index_name = ?2 AND id = ?3 AND (?4 IS NULL OR version <= ?4)
                  RETURNING held_bytes";
    let mut statement = connection.prepare_cached(delete)?;
    statement.query_row(params![pipeline, index, id, version.map(Version::get)], |row| row.get(0)).optional()
}

fn place(index: &str, id: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    (index, id).hash(&mut hasher);
    hasher.finish()
}

impl DeadLetters for Letters {
    fn keep(&self, letter: DeadLetter) -> BoxFuture<'_, Result<(), DeadLetterError>> {
        Box::pin(self.put(letter))
    }

    fn count(&self) -> u64 {
        self.held().places.len() as u64
    }

    fn holds(&self, index: &str, id: &[u8]) -> bool {
        self.held().places.contains(place(index, id))
    }

    fn superseded<'a>(
        &'a self,
        index: &'a str,
        id: &'a [u8],
        version: Version,
    ) -> BoxFuture<'a, Result<(), DeadLetterError>> {
        Box::pin(self.end(index, id, version))
    }

    fn cleared<'a>(&'a self, index: &'a str, version: Version) -> BoxFuture<'a, Result<(), DeadLetterError>> {
        Box::pin(self.end_all(index, version))
    }
}
