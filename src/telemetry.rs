//! Logs: where they go, in which form, and the names of all their fields.
//!
//! One JSON line an event where a machine reads, plain text where a person does. `RUST_LOG` chooses
//! what is said (default `info`). ERROR means that a person must act.

use std::sync::Arc;
use std::time::Duration;

use sources::world::{BoxFuture, Moment, SharedWorld, Task, World};
use tracing::{Instrument, Span};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

/// Names of the fields of spans and events.
pub mod field {
    /// Span, where several run: the pipeline's name.
    pub const PIPELINE: &str = "pipeline";
    /// Span: the source's name.
    pub const SOURCE: &str = "source";
    /// The target's name, in lines about one of several.
    pub const TARGET: &str = "target_name";
    /// What went wrong.
    pub const ERROR: &str = "error";
    /// What a person can do about it.
    pub const HINT: &str = "hint";
    /// The file with the fault, in problems of the configuration.
    pub const FILE: &str = "file";
    /// The line with the fault.
    pub const LINE: &str = "line";
    /// The key with the fault.
    pub const KEY: &str = "key";
    /// What would be right.
    pub const FIX: &str = "fix";
    /// What the pipeline is doing.
    pub const STATE: &str = "state";
    /// Why, where the state does not say it.
    pub const REASON: &str = "reason";
    /// Law 6: changes that entered.
    pub const READ: &str = "read";
    /// Law 6: written to the target.
    pub const WRITTEN: &str = "written";
    /// Law 6: the target held a newer version.
    pub const STALE: &str = "stale";
    /// Law 6: a newer change of the place went out instead.
    pub const SUPERSEDED: &str = "superseded";
    /// Law 6: the shape wanted nothing written.
    pub const FILTERED: &str = "filtered";
    /// Law 6: kept as a dead letter.
    pub const DEAD_LETTERED: &str = "dead_lettered";
    /// Law 6: entered and not ended.
    pub const IN_FLIGHT: &str = "in_flight";
    /// Rows of the backfill that were read.
    pub const ROWS_READ: &str = "rows_read";
    /// Tables whose backfill has ended.
    pub const TABLES_DONE: &str = "tables_done";
    /// Tables in all.
    pub const TABLES: &str = "tables";
    /// Changes a second that were settled.
    pub const DOCS_PER_S: &str = "docs_per_s";
    /// From commit to durable, in milliseconds.
    pub const LAG_MS: &str = "lag_ms";
    /// Bytes of log between the server's end and the reader.
    pub const LAG_BYTES: &str = "lag_bytes";
    /// Bytes of log that the server keeps for this reader.
    pub const LOG_HELD_BYTES: &str = "log_held_bytes";
    /// Bytes of log until a bound on it is reached.
    pub const LOG_LEFT_BYTES: &str = "log_left_bytes";
    /// Seconds until the server drops it.
    pub const LOG_HELD_S_LEFT: &str = "log_held_s_left";
    /// Bytes charged to the budget.
    pub const MEMORY_USED: &str = "memory_used";
    /// The most bytes that were charged at once.
    pub const MEMORY_MOST: &str = "memory_most";
    /// Bytes that may be charged now.
    pub const MEMORY_LIMIT: &str = "memory_limit";
    /// Bytes resident.
    pub const RSS: &str = "rss";
    /// Milliseconds since the last durable checkpoint.
    pub const CHECKPOINT_AGE_MS: &str = "checkpoint_age_ms";
}

/// What every log line of one of several pipelines stands in. Lines of all levels: so the span's is the highest.
pub fn span(pipeline: &str) -> Span {
    tracing::error_span!("run", { field::PIPELINE } = pipeline)
}

/// A world whose tasks write their log lines in the pipeline's span.
pub fn named(world: &SharedWorld, pipeline: &str) -> SharedWorld {
    Arc::new(Named { world: world.clone(), span: span(pipeline) })
}

struct Named {
    world: SharedWorld,
    span: Span,
}

impl World for Named {
    fn now(&self) -> Moment {
        self.world.now()
    }

    fn unix_seconds(&self) -> u64 {
        self.world.unix_seconds()
    }

    fn sleep(&self, time: Duration) -> BoxFuture<'static, ()> {
        self.world.sleep(time)
    }

    fn spawn(&self, work: BoxFuture<'static, ()>) -> Task {
        self.world.spawn(Box::pin(work.instrument(self.span.clone())))
    }

    fn random(&self) -> u64 {
        self.world.random()
    }
}

/// The form of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// One JSON object a line.
    Json,
    /// For people.
    Text,
}

/// Why logs cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// `RUST_LOG` is not understood.
    #[error("RUST_LOG: {error}; write it as in RUST_LOG=info,rowtide=debug")]
    Filter {
        /// Why.
        error: tracing_subscriber::filter::ParseError,
    },
    /// Somebody set them up before.
    #[error("logs are set up already: {reason}")]
    Twice {
        /// What tracing said.
        reason: String,
    },
}

/// Sends all events of this process to `writer`; `filter` is `RUST_LOG`. `colours` are for terminals.
pub fn init<W>(form: Form, colours: bool, filter: Option<&str>, writer: W) -> Result<(), TelemetryError>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let filter = filter.filter(|filter| !filter.is_empty()).unwrap_or("info");
    let filter = EnvFilter::try_new(filter).map_err(|error| TelemetryError::Filter { error })?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer);
    let started = match form {
        Form::Json => {
            builder.json().flatten_event(true).with_current_span(true).with_span_list(false).try_init()
        }
        Form::Text => builder.with_ansi(colours).with_target(false).try_init(),
    };
    started.map_err(|error| TelemetryError::Twice { reason: error.to_string() })
}
