//! The log that the server keeps for the slot, watched from the first day: a slot that is not read
//! fills the source's disk, and a slot that is bounded is lost when the bound is reached (T03, T04).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::wire::{Connect, Connection};
use crate::source::StatusSender;
use crate::world::{Moment, SharedWorld};

/// Between two looks. Short beside the time in which a disk fills.
const EVERY: Duration = Duration::from_secs(10);
/// With no bound on the server, the warning comes at this much.
const UNBOUNDED_WARNING: u64 = 1 << 30;
/// With a bound, the warning comes when less than this share of it is left.
const LEFT_WARNING: f64 = 0.5;

/// What one look found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Held {
    /// Bytes from the slot's `restart_lsn` to the log's end.
    pub bytes: u64,
    /// Bytes that can still be written before the slot may be lost (`safe_wal_size`); `None` when
    /// `max_slot_wal_keep_size` sets no bound.
    pub left: Option<u64>,
    /// The log's end.
    pub end: u64,
}

/// How long the slot lasts at the rate between two looks.
pub(super) fn time_left(before: (Moment, Held), now: (Moment, Held)) -> Option<Duration> {
    let left = now.1.left?;
    let written = now.1.end.saturating_sub(before.1.end);
    let seconds = now.0.saturating_sub(before.0).as_secs_f64();
    if written == 0 || seconds <= 0.0 {
        return None;
    }
    // A century is as good as any longer time, and fits into a Duration.
    Some(Duration::from_secs_f64((left as f64 * seconds / written as f64).min(3.2e9)))
}

/// Whether a person should hear of it.
pub(super) fn is_alarming(held: Held) -> bool {
    match held.left {
        None => held.bytes >= UNBOUNDED_WARNING,
        Some(left) => (left as f64) < LEFT_WARNING * (left + held.bytes) as f64,
    }
}

/// Looks until it is dropped. A look that fails is no failure of the source: the next one may do.
pub(super) async fn watch(
    world: SharedWorld,
    connect: Connect,
    slot: String,
    status: StatusSender,
    passed: Arc<AtomicU64>,
) {
    let mut connection: Option<Connection> = None;
    let mut before: Option<(Moment, Held)> = None;
    let mut alarmed = false;
    loop {
        if connection.is_none() {
            connection = Connection::open(&connect, &world, EVERY).await.ok();
        }
        let looked = match &mut connection {
            Some(connection) => look(connection, &slot).await,
            None => None,
        };
        let Some(held) = looked else {
            connection = None;
            world.sleep(EVERY).await;
            continue;
        };
        let now = (world.now(), held);
        let left = before.and_then(|before| time_left(before, now));
        before = Some(now);
        status.send_modify(|status| {
            status.log_held_bytes = held.bytes;
            status.log_held_time_left = left;
            status.log_behind_bytes = held.end.saturating_sub(passed.load(Ordering::Relaxed));
        });
        let alarming = is_alarming(held);
        if alarming && !alarmed {
            let left_seconds = left.map(|left| left.as_secs());
            tracing::warn!(
                slot,
                held_bytes = held.bytes,
                left_bytes = held.left,
                left_seconds,
                "the server keeps much log for the slot: see what holds the pipeline back, or bound it with max_slot_wal_keep_size"
            );
        }
        alarmed = alarming;
        world.sleep(EVERY).await;
    }
}

async fn look(connection: &mut Connection, slot: &str) -> Option<Held> {
    const SQL: &str = "SELECT pg_wal_lsn_diff(pg_current_wal_flush_lsn(), restart_lsn)::bigint, \
         safe_wal_size, pg_wal_lsn_diff(pg_current_wal_flush_lsn(), '0/0')::bigint \
         FROM pg_replication_slots WHERE slot_name = $1";
    let rows = connection.all_rows(SQL, &[Some(slot)]).await.ok()?;
    let row = rows.first()?;
    let number = |column: usize| row.get(column)?.as_deref()?.parse::<i64>().ok();
    Some(Held {
        bytes: number(0)?.max(0) as u64,
        left: number(1).map(|left| left.max(0) as u64),
        end: number(2)?.max(0) as u64,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(bytes: u64, left: Option<u64>, end: u64) -> Held {
        Held { bytes, left, end }
    }

    #[test]
    fn the_time_left_follows_the_rate_of_the_log() {
        let before = (Duration::from_secs(0), held(100, Some(1_000), 5_000));
        let now = (Duration::from_secs(10), held(200, Some(900), 5_100));
        assert_eq!(time_left(before, now), Some(Duration::from_secs(90)));
        assert_eq!(time_left(now, now), None, "nothing was written");
        let unbounded = (Duration::from_secs(10), held(200, None, 5_100));
        assert_eq!(time_left(before, unbounded), None);
    }

    #[test]
    fn the_alarm_comes_at_half_of_the_bound_or_at_a_gibibyte_without_one() {
        assert!(!is_alarming(held(400, Some(600), 0)));
        assert!(is_alarming(held(600, Some(400), 0)));
        assert!(!is_alarming(held((1 << 30) - 1, None, 0)));
        assert!(is_alarming(held(1 << 30, None, 0)));
    }
}
