//! `/metrics`: the same answers in Prometheus's text format.
//!
//! Labels are `pipeline`, `target`, `state` and `end` only, and each has as many values as the configuration or the
//! code names: nothing that a database or a request says becomes a label.

use std::fmt::Write;

use super::wire::{Changes, Pipeline, Process, Target};
use crate::status::State;

/// A metric being written: its head first, then its samples.
struct Family<'a> {
    out: &'a mut String,
    name: &'static str,
}

/// Values of labels are names of the configuration (letters, digits, `_`, `-`) or words of the code: nothing in them
/// needs an escape.
impl Family<'_> {
    fn sample(&mut self, labels: &[(&str, &str)], value: f64) {
        self.out.push_str(self.name);
        for (number, (label, text)) in labels.iter().enumerate() {
            let before = if number == 0 { '{' } else { ',' };
            let _cannot_fail = write!(self.out, "{before}{label}=\"{text}\"");
        }
        let close = if labels.is_empty() { "" } else { "}" };
        let _cannot_fail = writeln!(self.out, "{close} {value}");
    }
}

fn family<'a>(out: &'a mut String, kind: &str, name: &'static str, help: &str) -> Family<'a> {
    let _cannot_fail = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
    Family { out, name }
}

/// What one metric of each pipeline is; `None` where it is not known.
type OfPipeline = fn(&Pipeline) -> Option<f64>;

/// Kind, name, help.
const OF_PIPELINES: &[(&str, &str, &str, OfPipeline)] = &[
    (
        "gauge",
        "rowtide_lag_seconds",
        "Age of the newest settled commit while anything is behind, else 0.",
        |p| p.lag_seconds,
    ),
    ("gauge", "rowtide_lag_bytes", "Bytes of log between the server's end and the reader.", |p| {
        some(p.lag_bytes)
    }),
    ("gauge", "rowtide_log_held_bytes", "Bytes of log that the server keeps for this pipeline.", |p| {
        some(p.log_held_bytes)
    }),
    ("gauge", "rowtide_log_left_bytes", "Bytes of log that can be written before a bound is reached.", |p| {
        p.log_left_bytes.and_then(some)
    }),
    ("gauge", "rowtide_checkpoint_age_seconds", "Time since the last durable checkpoint.", |p| {
        p.checkpoint_age_seconds
    }),
    ("gauge", "rowtide_budget_used_bytes", "Bytes charged to the byte budget.", |p| {
        some(p.memory.used_bytes)
    }),
    ("gauge", "rowtide_budget_limit_bytes", "Bytes that may be charged to it now.", |p| {
        some(p.memory.limit_bytes)
    }),
    ("gauge", "rowtide_tables", "Tables that are followed.", |p| some(p.backfill.tables_total)),
    ("gauge", "rowtide_tables_filled", "Tables whose first fill has ended.", |p| {
        some(p.backfill.tables_done)
    }),
    ("counter", "rowtide_rows_read_total", "Rows read beside the log.", |p| some(p.backfill.rows_read)),
    (
        "counter",
        "rowtide_sent_documents_total",
        "Documents and deletes sent to all targets, again ones included.",
        |p| some(p.sent.documents),
    ),
    (
        "counter",
        "rowtide_sent_bytes_total",
        "Bytes of request bodies sent to all targets, before compression.",
        |p| some(p.sent.bytes),
    ),
];

fn some(number: u64) -> Option<f64> {
    Some(number as f64)
}

/// One of the counters of law 6.
type OfChanges = fn(&Changes) -> u64;

/// How changes end (law 6).
const ENDS: &[(&str, OfChanges)] = &[
    ("written", |changes| changes.written),
    ("stale", |changes| changes.stale),
    ("superseded", |changes| changes.superseded),
    ("filtered", |changes| changes.filtered),
    ("dead_lettered", |changes| changes.dead_lettered),
];

/// All metrics.
pub(super) fn text(process: &Process, pipelines: &[Pipeline]) -> String {
    let mut out = String::with_capacity(4096 * (1 + pipelines.len()));
    let version = [("version", process.version.as_str())];
    family(&mut out, "gauge", "rowtide_build_info", "Rowtide's version, as a label.").sample(&version, 1.0);
    let resident = process.rss_bytes as f64;
    family(&mut out, "gauge", "process_resident_memory_bytes", "Resident memory.").sample(&[], resident);
    let bound = process.max_rss_bytes as f64;
    family(&mut out, "gauge", "rowtide_memory_bound_bytes", "The bound on it, memory.max_rss.")
        .sample(&[], bound);

    let mut states =
        family(&mut out, "gauge", "rowtide_pipeline_state", "1 for the state that the pipeline is in.");
    for pipeline in pipelines {
        for state in State::ALL {
            let is_so = f64::from(u8::from(pipeline.state == state.name()));
            states.sample(&[("pipeline", &pipeline.name), ("state", state.name())], is_so);
        }
    }
    for &(kind, name, help, of) in OF_PIPELINES {
        let mut family = family(&mut out, kind, name, help);
        for pipeline in pipelines {
            if let Some(value) = of(pipeline) {
                family.sample(&[("pipeline", &pipeline.name)], value);
            }
        }
    }
    targets(&mut out, pipelines);
    out
}

fn targets(out: &mut String, pipelines: &[Pipeline]) {
    let each = || {
        let of = |pipeline| move |target| (pipeline, target);
        pipelines.iter().flat_map(move |pipeline: &Pipeline| pipeline.targets.iter().map(of(pipeline)))
    };
    let mut metric = |kind, name, help, value: fn(&Target) -> u64| {
        let mut family = family(out, kind, name, help);
        for (pipeline, target) in each() {
            let labels = [("pipeline", pipeline.name.as_str()), ("target", target.name.as_str())];
            family.sample(&labels, value(target) as f64);
        }
    };
    metric("counter", "rowtide_changes_read_total", "Changes that entered.", |target| target.changes.read);
    metric("gauge", "rowtide_changes_in_flight", "Changes that entered and have not ended.", |target| {
        target.changes.in_flight
    });
    metric("gauge", "rowtide_dead_letters", "Dead letters that are kept.", |target| target.dead_letters);
    metric("gauge", "rowtide_target_waits", "1 while the lanes wait for something.", |target| {
        u64::from(target.waiting_for.is_some())
    });
    let mut ended = family(out, "counter", "rowtide_changes_ended_total", "Changes that ended, by how.");
    for (pipeline, target) in each() {
        for (end, of) in ENDS {
            let labels =
                [("pipeline", pipeline.name.as_str()), ("target", target.name.as_str()), ("end", end)];
            ended.sample(&labels, of(&target.changes) as f64);
        }
    }
}
