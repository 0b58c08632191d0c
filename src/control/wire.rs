//! The answers as JSON, made by hand of what is inside; `openapi.json` describes each field. What is not known is
//! `null`, and a field is never left out.

use serde::{Deserialize, Deserializer, Serialize};

use sources::source::TableProgress;

use super::Entry;
use crate::controls::Throttle as Rates;
use crate::ledger::Counts;
use crate::status::TargetStatus;

/// `GET /api/v1/pipelines`.
#[derive(Debug, Serialize, Deserialize)]
pub struct Pipelines {
    /// What is said of the process.
    pub process: Process,
    /// Each pipeline, in the configuration's order.
    pub pipelines: Vec<Pipeline>,
}

/// `GET /api/v1/pipelines/{name}`.
#[derive(Debug, Serialize, Deserialize)]
pub struct One {
    /// What is said of the process.
    pub process: Process,
    /// The pipeline.
    pub pipeline: Pipeline,
}

/// The process.
#[derive(Debug, Serialize, Deserialize)]
pub struct Process {
    /// Rowtide's version.
    pub version: String,
    /// Seconds since it began to listen.
    pub uptime_seconds: u64,
    /// Resident bytes.
    pub rss_bytes: u64,
    /// The bound on them.
    pub max_rss_bytes: u64,
}

/// A pipeline.
#[derive(Debug, Serialize, Deserialize)]
pub struct Pipeline {
    /// Its name.
    pub name: String,
    /// Its source's name.
    pub source: String,
    /// One of [`crate::status::State`]'s words.
    pub state: String,
    /// Why, or what is waited for.
    pub reason: Option<String>,
    /// Whether a person has paused it.
    pub paused: bool,
    /// The rates that a person has set.
    pub throttle: Throttle,
    /// From the newest settled commit until now while anything is behind.
    pub lag_seconds: Option<f64>,
    /// Bytes of log between the server's end and the reader.
    pub lag_bytes: u64,
    /// Bytes of log that the server keeps for this pipeline.
    pub log_held_bytes: u64,
    /// Bytes of log that can be written before a bound is reached.
    pub log_left_bytes: Option<u64>,
    /// Seconds until then, at the present rate.
    pub log_left_seconds: Option<u64>,
    /// Since the last durable checkpoint of this process.
    pub checkpoint_age_seconds: Option<f64>,
    /// Changes settled a second.
    pub documents_per_s: f64,
    /// Bytes sent a second.
    pub bytes_per_s: f64,
    /// What was sent in this process.
    pub sent: Sent,
    /// The byte budget.
    pub memory: Memory,
    /// The first fill.
    pub backfill: Backfill,
    /// Changes, each once for each target.
    pub changes: Changes,
    /// Each target.
    pub targets: Vec<Target>,
    /// Dead letters that are kept, of all targets.
    pub dead_letters: u64,
}

/// Rates that a person has set.
#[derive(Debug, Serialize, Deserialize)]
pub struct Throttle {
    /// Documents a second; `null`: no limit.
    pub documents_per_s: Option<u64>,
    /// Bytes a second; `null`: no limit.
    pub bytes_per_s: Option<u64>,
}

/// What was sent.
#[derive(Debug, Serialize, Deserialize)]
pub struct Sent {
    /// Documents and deletes.
    pub documents: u64,
    /// Bytes of request bodies.
    pub bytes: u64,
}

/// The byte budget.
#[derive(Debug, Serialize, Deserialize)]
pub struct Memory {
    /// Charged now.
    pub used_bytes: u64,
    /// The most that was charged.
    pub most_bytes: u64,
    /// What may be charged.
    pub limit_bytes: u64,
}

/// The most tables that an answer names: there may be thousands, and as many answers as connections.
pub const TABLES_MOST: usize = 100;

/// The first fill.
#[derive(Debug, Serialize, Deserialize)]
pub struct Backfill {
    /// Whether all tables are read.
    pub done: bool,
    /// Rows that were read in this process.
    pub rows_read: u64,
    /// How many tables there are.
    pub tables_total: u64,
    /// How many of them are read.
    pub tables_done: u64,
    /// At most [`TABLES_MOST`] of them, those that are not read first.
    pub tables: Vec<Table>,
}

/// A table of the first fill.
#[derive(Debug, Serialize, Deserialize)]
pub struct Table {
    /// `schema.table`.
    pub name: String,
    /// Rows that were read.
    pub rows_read: u64,
    /// The database's estimate of all.
    pub rows_estimated: u64,
    /// Whether it is read.
    pub done: bool,
}

/// Changes of this process.
#[derive(Debug, Serialize, Deserialize)]
pub struct Changes {
    /// Entered.
    pub read: u64,
    /// Written or deleted.
    pub written: u64,
    /// The target held something newer.
    pub stale: u64,
    /// A newer change went out instead.
    pub superseded: u64,
    /// Not wanted.
    pub filtered: u64,
    /// Kept as dead letters.
    pub dead_lettered: u64,
    /// Not ended.
    pub in_flight: u64,
}

/// A target.
#[derive(Debug, Serialize, Deserialize)]
pub struct Target {
    /// Its name.
    pub name: String,
    /// What its lanes wait for.
    pub waiting_for: Option<String>,
    /// Its changes.
    pub changes: Changes,
    /// Dead letters that are kept of it.
    pub dead_letters: u64,
}

/// What a change of the controls answers.
#[derive(Debug, Serialize, Deserialize)]
pub struct Controlled {
    /// The pipeline's name.
    pub name: String,
    /// Whether it is paused.
    pub paused: bool,
    /// Its rates.
    pub throttle: Throttle,
}

/// `GET /healthz` and `/readyz`.
#[derive(Debug, Serialize, Deserialize)]
pub struct Health {
    /// Whether it is.
    pub ok: bool,
}

/// What a refused request is answered.
#[derive(Debug, Serialize, Deserialize)]
pub struct Error {
    /// What was wrong.
    pub error: Fault,
}

/// What was wrong with a request.
#[derive(Debug, Serialize, Deserialize)]
pub struct Fault {
    /// A word for programs.
    pub code: String,
    /// For people.
    pub message: String,
}

/// The body of `POST …/throttle`. A key that is not there is `None`, one that is `null` is `Some(None)`.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SetThrottle {
    /// Documents a second.
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    pub documents_per_s: Option<Option<u64>>,
    /// Bytes a second.
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    pub bytes_per_s: Option<Option<u64>>,
}

/// The body of the other requests.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Nothing {}

fn given<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Option<u64>>, D::Error> {
    Option::deserialize(from).map(Some)
}

impl Pipeline {
    /// What is said of an entry now.
    pub(super) fn of(entry: &Entry) -> Self {
        let status = entry.status.borrow().clone();
        let source = status.source;
        // Before it has started, a pipeline says nothing of its targets.
        let unsaid = |name: &String| TargetStatus { name: name.clone(), ..TargetStatus::default() };
        let targets = match status.targets.is_empty() {
            true => entry.targets.iter().map(unsaid).collect(),
            false => status.targets,
        };
        Self {
            name: entry.name.clone(),
            source: entry.source.clone(),
            state: status.state.name().to_owned(),
            reason: status.reason,
            paused: entry.controls.is_paused(),
            throttle: Throttle::of(entry.controls.throttle()),
            lag_seconds: status.lag.map(|lag| lag.as_secs_f64()),
            lag_bytes: source.log_behind_bytes,
            log_held_bytes: source.log_held_bytes,
            log_left_bytes: source.log_left_bytes,
            log_left_seconds: source.log_held_time_left.map(|left| left.as_secs()),
            checkpoint_age_seconds: status.checkpoint_age.map(|age| age.as_secs_f64()),
            documents_per_s: status.docs_per_s,
            bytes_per_s: status.bytes_per_s,
            sent: Sent { documents: status.sent.documents, bytes: status.sent.bytes },
            memory: Memory {
                used_bytes: status.memory.used as u64,
                most_bytes: status.memory.most as u64,
                limit_bytes: status.memory.limit as u64,
            },
            backfill: Backfill::of(source.rows_read, source.tables),
            changes: Changes::of(&status.counts),
            dead_letters: targets.iter().map(|target| target.dead_letters).sum(),
            targets: targets.into_iter().map(Target::of).collect(),
        }
    }
}

impl Backfill {
    fn of(rows_read: u64, tables: Vec<TableProgress>) -> Self {
        let (total, done) = (tables.len(), tables.iter().filter(|table| table.done).count());
        let (read, unread): (Vec<_>, Vec<_>) = tables.into_iter().partition(|table| table.done);
        Self {
            done: total > 0 && done == total,
            rows_read,
            tables_total: total as u64,
            tables_done: done as u64,
            tables: unread.into_iter().chain(read).take(TABLES_MOST).map(Table::of).collect(),
        }
    }
}

impl Throttle {
    fn of(rates: Rates) -> Self {
        Self { documents_per_s: rates.documents_per_s, bytes_per_s: rates.bytes_per_s }
    }
}

impl Controlled {
    pub(super) fn of(entry: &Entry) -> Self {
        let Entry { name, controls, .. } = entry;
        let throttle = Throttle::of(controls.throttle());
        Self { name: name.clone(), paused: controls.is_paused(), throttle }
    }
}

impl Changes {
    fn of(counts: &Counts) -> Self {
        let Counts { read, ends } = counts;
        Self {
            read: *read,
            written: ends.written,
            stale: ends.stale,
            superseded: ends.superseded,
            filtered: ends.filtered,
            dead_lettered: ends.dead_lettered,
            in_flight: counts.in_flight(),
        }
    }
}

impl Target {
    fn of(target: TargetStatus) -> Self {
        let changes = Changes::of(&target.counts);
        let TargetStatus { name, waiting_for, dead_letters, .. } = target;
        Self { name, waiting_for, changes, dead_letters }
    }
}

impl Table {
    fn of(table: TableProgress) -> Self {
        let TableProgress { name, rows_estimated, rows_read, done } = table;
        Self { name, rows_read, rows_estimated, done }
    }
}
