//! The status as log lines, for machines and for terminals without bars.

use std::time::Duration;

use tracing::info;

use crate::memory::resident;
use crate::status::{Status, TargetStatus};
use crate::telemetry::field;

/// How often a status line is written while nothing changes.
pub(super) const EVERY: Duration = Duration::from_secs(10);

/// Writes one status line; before it one for each target, if there are several.
pub(super) fn log(status: &Status) {
    if status.targets.len() > 1 {
        status.targets.iter().for_each(log_target);
    }
    let Status { source, counts, memory, .. } = status;
    let millis = |time: Duration| time.as_millis() as u64;
    info!(
        { field::STATE } = status.state.name(),
        { field::REASON } = status.reason,
        { field::READ } = counts.read,
        { field::WRITTEN } = counts.ends.written,
        { field::STALE } = counts.ends.stale,
        { field::SUPERSEDED } = counts.ends.superseded,
        { field::FILTERED } = counts.ends.filtered,
        { field::DEAD_LETTERED } = counts.ends.dead_lettered,
        { field::IN_FLIGHT } = counts.in_flight(),
        { field::ROWS_READ } = source.rows_read,
        { field::TABLES_DONE } = source.tables.iter().filter(|table| table.done).count(),
        { field::TABLES } = source.tables.len(),
        { field::DOCS_PER_S } = status.docs_per_s.round() as u64,
        { field::LAG_MS } = status.lag.map(millis),
        { field::LAG_BYTES } = source.log_behind_bytes,
        { field::LOG_HELD_BYTES } = source.log_held_bytes,
        { field::LOG_LEFT_BYTES } = source.log_left_bytes,
        { field::LOG_HELD_S_LEFT } = source.log_held_time_left.map(|left| left.as_secs()),
        { field::MEMORY_USED } = memory.used,
        { field::MEMORY_MOST } = memory.most,
        { field::MEMORY_LIMIT } = memory.limit,
        { field::RSS } = resident(),
        { field::CHECKPOINT_AGE_MS } = status.checkpoint_age.map(millis),
        "status"
    );
}

fn log_target(TargetStatus { name, counts, waiting_for, .. }: &TargetStatus) {
    info!(
        { field::TARGET } = name,
        { field::REASON } = waiting_for,
        { field::READ } = counts.read,
        { field::WRITTEN } = counts.ends.written,
        { field::STALE } = counts.ends.stale,
        { field::SUPERSEDED } = counts.ends.superseded,
        { field::FILTERED } = counts.ends.filtered,
        { field::DEAD_LETTERED } = counts.ends.dead_lettered,
        { field::IN_FLIGHT } = counts.in_flight(),
        "status of a target"
    );
}
