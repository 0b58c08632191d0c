//! The store in SQLite.
//!
//! ```text
//!   async callers ──job──► channel ──► one thread with the connection and the lock ──► oneshot answer
//! ```
//! SQLite blocks, so it has a thread of its own: the seam of its I/O. Jobs run in the order in which
//! they were given; one whose caller has gone still runs.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use rusqlite::types::Type;
use rusqlite::{Connection, OptionalExtension, params};
use sources::budget::Budget;
use sources::position::Position;
use sources::world::{BoxFuture, SharedWorld};
use tokio::sync::oneshot;

use super::data_dir::{self, DATABASE_FILE, Lock};
use super::letters::{LetterLimits, Letters, letters_of};
use super::look::{open_beside, time_key};
use super::{Saved, Store, StoreError};
use crate::dead_letters::DeadLetterError;

/// The newest format of the file that this program knows; it is raised with each change of the
/// schema, and older ones are brought up.
pub const FORMAT: u32 = 3;

/// `position` is the source's own text; `version` is below 2^53; `id` and `body` are bytes as sent.
const SCHEMA: &str = "
    CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID;
    CREATE TABLE pipelines (
        name TEXT PRIMARY KEY,
        position TEXT,
        clean INTEGER NOT NULL,
        identity TEXT,
        indices TEXT
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE dead_letters (
        pipeline TEXT NOT NULL,
        index_name TEXT NOT NULL,
        id BLOB NOT NULL,
        version INTEGER NOT NULL,
        reason TEXT NOT NULL,
        body BLOB,
        bytes INTEGER NOT NULL,
        held_bytes INTEGER NOT NULL,
        unix_seconds INTEGER NOT NULL,
        PRIMARY KEY (pipeline, index_name, id)
    ) STRICT;
";

/// Format 2 keeps with a checkpoint the UUIDs of the indices that it speaks of: those in the state
/// document are another process's, if one has run meanwhile.
const FROM_1: &str = "
    ALTER TABLE pipelines ADD COLUMN indices TEXT;
    UPDATE meta SET value = '2' WHERE key = 'format';
";

/// Format 3 names indices and dead letters by target: a program before would take those of several for none.
/// What stands there without a target is the only one's, and is named when a pipeline first runs.
const FROM_2: &str = "UPDATE meta SET value = '3' WHERE key = 'format'";

type Job = Box<dyn FnOnce(&mut Connection) + Send>;

/// The store of a data directory. Cloning shares it; the last one closes it and gives the directory
/// back.
#[derive(Clone)]
pub struct Sqlite {
    worker: Arc<Worker>,
    owner: Arc<str>,
    world: SharedWorld,
}

struct Worker {
    jobs: Option<mpsc::Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Worker {
    fn drop(&mut self) {
        // The thread ends with its channel; then file and lock are free for whoever comes next.
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            let _a_panic_was_reported_there = thread.join();
        }
    }
}

impl Sqlite {
    /// Opens the store in `data_dir`, making both if need be. Blocks for some milliseconds.
    pub fn open(data_dir: &Path, world: &SharedWorld) -> Result<Self, StoreError> {
        let lock = data_dir::take(data_dir)?;
        let file = data_dir.join(DATABASE_FILE);
        let (connection, owner) = connect(&file, world.random())?;
        Self::start(connection, owner, Some(lock), data_dir, world)
    }

    /// Opens the store to look into it, beside a process that may have it: nothing is made, changed or locked,
    /// and whatever would change it fails. `None` where there is no store.
    pub fn look(data_dir: &Path, world: &SharedWorld) -> Result<Option<Self>, StoreError> {
        let Some(connection) = open_beside(data_dir)? else { return Ok(None) };
        let failed = |error| StoreError::Sqlite { context: "open the store", error };
        let select = "SELECT value FROM meta WHERE key = 'owner'";
        let owner = connection.query_row(select, [], |row| row.get(0)).map_err(failed)?;
        Self::start(connection, owner, None, data_dir, world).map(Some)
    }

    fn start(
        mut connection: Connection,
        owner: String,
        lock: Option<Lock>,
        data_dir: &Path,
        world: &SharedWorld,
    ) -> Result<Self, StoreError> {
        let (jobs, work) = mpsc::channel::<Job>();
        // Not through World: SQLite blocks, and a simulation brings a store of its own.
        let thread = std::thread::Builder::new().name("rowtide-store".to_owned()).spawn(move || {
            while let Ok(job) = work.recv() {
                job(&mut connection);
            }
            drop(connection);
            drop(lock);
        });
        let thread = thread.map_err(|error| StoreError::DataDir {
            path: data_dir.display().to_string(),
            what: format!("the store's thread cannot be started: {error}"),
            fix: "raise the limit of threads".to_owned(),
        })?;
        let worker = Worker { jobs: Some(jobs), thread: Some(thread) };
        Ok(Self { worker: Arc::new(worker), owner: owner.into(), world: world.clone() })
    }

    /// As [`Self::open`], and `None` where there is no store: nothing is made.
    pub fn open_existing(data_dir: &Path, world: &SharedWorld) -> Result<Option<Self>, StoreError> {
        match data_dir.join(DATABASE_FILE).exists() {
            true => Self::open(data_dir, world).map(Some),
            false => Ok(None),
        }
    }

    /// The random name of this store.
    pub fn owner(&self) -> &str {
        &self.owner
    }

    /// The dead letters of a pipeline's target, by [`letters_of`]; what they hold in memory is charged to
    /// `budget`.
    pub async fn letters(
        &self,
        owner: &str,
        limits: LetterLimits,
        budget: &Budget,
    ) -> Result<Letters, DeadLetterError> {
        Letters::open(self.clone(), owner, limits, budget).await
    }

    /// Gives the dead letters that were kept without a target's name, before format 3, to this target.
    pub async fn name_letters(&self, pipeline: &str, target: &str) -> Result<(), StoreError> {
        let (old, new) = (pipeline.to_owned(), letters_of(pipeline, target));
        let rename = move |connection: &mut Connection| {
            let update = "UPDATE OR REPLACE dead_letters SET pipeline = ?2 WHERE pipeline = ?1";
            connection.execute(update, (old, new)).map(drop)
        };
        self.run("name the dead letters by their target", rename).await
    }

    pub(super) fn unix_seconds(&self) -> u64 {
        self.world.unix_seconds()
    }

    /// Runs `work` on the store's thread.
    pub(super) async fn run<T, W>(&self, context: &'static str, work: W) -> Result<T, StoreError>
    where
        T: Send + 'static,
        W: FnOnce(&mut Connection) -> rusqlite::Result<T> + Send + 'static,
    {
        let (answer, answered) = oneshot::channel();
        let job: Job = Box::new(move |connection| {
            let _the_caller_may_have_gone = answer.send(work(connection));
        });
        let jobs = self.worker.jobs.as_ref().ok_or(StoreError::Ended { context })?;
        jobs.send(job).map_err(|_| StoreError::Ended { context })?;
        let result = answered.await.map_err(|_| StoreError::Ended { context })?;
        result.map_err(|error| StoreError::Sqlite { context, error })
    }
}

/// Opens the file and returns the store's owner; `random` names the owner of a new one.
fn connect(file: &PathBuf, random: u64) -> Result<(Connection, String), StoreError> {
    let failed = |context| move |error| StoreError::Sqlite { context, error };
    let mut connection = Connection::open(file).map_err(failed("open the store"))?;
    // A person may be looking into it with another program.
    connection.busy_timeout(Duration::from_secs(10)).map_err(failed("open the store"))?;
    // The format first: a file that is not understood is left untouched.
    judge_format(&connection, file)?;
    // synchronous FULL: a checkpoint is durable before it is acknowledged (law 4). The cache is small,
    // since it lies outside of the budget.
    connection
        .execute_batch("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA cache_size = -1024;")
        .map_err(failed("set up the store"))?;
    let owner = set_up(&mut connection, random).map_err(failed("set up the store"))?;
    Ok((connection, owner))
}

/// Refuses what a newer program made.
pub(super) fn judge_format(connection: &Connection, file: &Path) -> Result<(), StoreError> {
    let failed = |error| StoreError::Sqlite { context: "read the store's format", error };
    match format_of(connection).map_err(failed)? {
        Some(found) if found > FORMAT => {
            Err(StoreError::Newer { path: file.display().to_string(), found, known: FORMAT })
        }
        _ => Ok(()),
    }
}

/// The file's format; `None` for a new file.
pub(super) fn format_of(connection: &Connection) -> rusqlite::Result<Option<u32>> {
    let tables: u32 =
        connection
            .query_row("SELECT count(*) FROM sqlite_schema WHERE name = 'meta'", [], |row| row.get(0))?;
    if tables == 0 {
        return Ok(None);
    }
    let format = "SELECT CAST(value AS INTEGER) FROM meta WHERE key = 'format'";
    connection.query_row(format, [], |row| row.get(0)).optional()
}

fn set_up(connection: &mut Connection, random: u64) -> rusqlite::Result<String> {
    let transaction = connection.transaction()?;
    let found = format_of(&transaction)?;
    if found == Some(1) {
        transaction.execute_batch(FROM_1)?;
    }
    if matches!(found, Some(1 | 2)) {
        transaction.execute_batch(FROM_2)?;
    }
    if found.is_none() {
        transaction.execute_batch(SCHEMA)?;
        let put = "INSERT INTO meta (key, value) VALUES (?1, ?2)";
        transaction.execute(put, params!["format", FORMAT.to_string()])?;
        transaction.execute(put, params!["owner", format!("{random:016x}")])?;
    }
    let owner = transaction.query_row("SELECT value FROM meta WHERE key = 'owner'", [], |row| row.get(0))?;
    transaction.commit()?;
    Ok(owner)
}

fn indices_of(text: &str) -> rusqlite::Result<BTreeMap<String, String>> {
    let wrong = |error| rusqlite::Error::FromSqlConversionFailure(3, Type::Text, Box::new(error));
    serde_json::from_str(text).map_err(wrong)
}

fn unwritable(error: serde_json::Error) -> rusqlite::Error {
    rusqlite::Error::ToSqlConversionFailure(Box::new(error))
}

impl Store for Sqlite {
    fn load<'a>(&'a self, pipeline: &'a str) -> BoxFuture<'a, Result<Saved, StoreError>> {
        let pipeline = pipeline.to_owned();
        let owner = self.owner.to_string();
        Box::pin(self.run("load the checkpoint", move |connection| {
            let select = "SELECT position, clean, identity, indices FROM pipelines WHERE name = ?1";
            let found = connection.query_row(select, [pipeline], |row| {
                let position = row.get::<_, Option<String>>(0)?.map(Position::from_text);
                let indices = row.get::<_, Option<String>>(3)?.map(|text| indices_of(&text)).transpose()?;
                let owner = owner.clone();
                Ok(Saved { owner, position, clean: row.get(1)?, identity: row.get(2)?, indices })
            });
            let nothing =
                Saved { owner: owner.clone(), position: None, clean: false, identity: None, indices: None };
            Ok(found.optional()?.unwrap_or(nothing))
        }))
    }

    fn begin<'a>(
        &'a self,
        pipeline: &'a str,
        indices: &'a BTreeMap<String, String>,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        let (pipeline, indices) = (pipeline.to_owned(), serde_json::to_string(indices));
        Box::pin(self.run("begin a run", move |connection| {
            let put = "INSERT INTO pipelines (name, clean, indices) VALUES (?1, 0, ?2)
                       ON CONFLICT (name) DO UPDATE SET clean = 0, indices = excluded.indices";
            connection.prepare_cached(put)?.execute((pipeline, indices.map_err(unwritable)?)).map(drop)
        }))
    }

    fn identify<'a>(&'a self, pipeline: &'a str, identity: &'a str) -> BoxFuture<'a, Result<(), StoreError>> {
        let row = (pipeline.to_owned(), identity.to_owned());
        Box::pin(self.run("keep the identity", move |connection| {
            let put = "INSERT INTO pipelines (name, clean, identity) VALUES (?1, 0, ?2)
                       ON CONFLICT (name) DO UPDATE SET identity = excluded.identity";
            connection.prepare_cached(put)?.execute(row).map(drop)
        }))
    }

    fn checkpoint<'a>(
        &'a self,
        pipeline: &'a str,
        position: &'a Position,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        let row = (pipeline.to_owned(), position.as_text().to_owned());
        // For people: an older program does not miss it, so it raises no format.
        let time = (time_key(pipeline), self.unix_seconds().to_string());
        Box::pin(self.run("keep a checkpoint", move |connection| {
            let put = "INSERT INTO pipelines (name, clean, position) VALUES (?1, 0, ?2)
                       ON CONFLICT (name) DO UPDATE SET position = excluded.position";
            let put_time = "INSERT INTO meta (key, value) VALUES (?1, ?2)
                            ON CONFLICT (key) DO UPDATE SET value = excluded.value";
            let transaction = connection.transaction()?;
            transaction.prepare_cached(put)?.execute(row)?;
            transaction.prepare_cached(put_time)?.execute(time)?;
            transaction.commit()
        }))
    }

    fn finish<'a>(
        &'a self,
        pipeline: &'a str,
        position: Option<&'a Position>,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        let row = (pipeline.to_owned(), position.map(|position| position.as_text().to_owned()));
        Box::pin(self.run("record a clean end", move |connection| {
            let put = "INSERT INTO pipelines (name, clean, position) VALUES (?1, 1, ?2)
                       ON CONFLICT (name) DO UPDATE SET
                           clean = 1, position = coalesce(excluded.position, position)";
            connection.prepare_cached(put)?.execute(row).map(drop)
        }))
    }
}
