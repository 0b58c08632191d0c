//! The log that the server keeps for the slot, watched from the first day: a slot that is not read
//! fills the source's disk, and a slot that is bounded is lost when the bound is reached (T03, T04).
//!
//! ```text
//!   held ──► ½ of the bound: the alarm; reads beside the log wait, if it is us who hold the log
//!        ◄── ⅜ of it: said, and they go on
//! ```
//! The log itself is always read on: everything that competes with it yields first. Nothing is ever
//! dropped for it. The bound is the smaller of `log_held_bytes_max` and `max_slot_wal_keep_size`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::watch;

use super::wire::{Connect, Connection};
use crate::source::StatusSender;
use crate::world::{Moment, SharedWorld};

/// Between two looks. Short beside the time in which a bound of some gigabytes is reached; one row of a
/// view each.
const EVERY: Duration = Duration::from_secs(2);
/// With no bound, the warning comes at this much.
const UNBOUNDED_WARNING: u64 = 1 << 30;

/// What one look found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Held {
    /// Bytes from the slot's `restart_lsn` to the log's end.
    pub bytes: u64,
    /// Bytes that can still be written before a bound is reached (`safe_wal_size`, or what is configured);
    /// `None` when there is none.
    pub left: Option<u64>,
    /// Bytes from what we acknowledged to the log's end. The rest of what is held waits for transactions
    /// that are open on the server.
    pub unacknowledged: u64,
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

/// Whether a person should hear of it; once alarmed, until there is clearly more room.
pub(super) fn is_alarming(held: Held, alarmed: bool) -> bool {
    match (held.left, alarmed) {
        (None, false) => held.bytes >= UNBOUNDED_WARNING,
        (None, true) => held.bytes >= UNBOUNDED_WARNING / 4 * 3,
        (Some(left), false) => held.bytes > left,
        // More than ⅜ of the bound.
        (Some(left), true) => held.bytes.saturating_mul(5) > left.saturating_mul(3),
    }
}

/// Whether reads beside the log must wait. Without a bound nothing is lost; and if the log is held by a
/// transaction that is open on the server, they would wait for nothing.
pub(super) fn must_yield(held: Held, alarmed: bool) -> bool {
    alarmed && held.left.is_some() && held.unacknowledged >= held.bytes / 4
}

/// What the watcher looks at, and whom it tells.
pub(super) struct Watch {
    pub world: SharedWorld,
    pub connect: Connect,
    pub slot: String,
    /// `log_held_bytes_max`.
    pub held_max: Option<u64>,
    pub status: StatusSender,
    pub passed: Arc<AtomicU64>,
    /// True while reads beside the log must wait.
    pub yields: Arc<watch::Sender<bool>>,
}

impl Watch {
    /// Looks until it is dropped. A look that fails is no failure of the source: the next one may do.
    pub(super) async fn run(self) {
        let mut connection: Option<Connection> = None;
        let mut before: Option<(Moment, Held)> = None;
        let mut alarmed = false;
        loop {
            if connection.is_none() {
                connection =
                    Connection::open(&self.connect, &self.world, super::open::CONNECT_TIMEOUT).await.ok();
            }
            let looked = match &mut connection {
                Some(connection) => look(connection, &self.slot, self.held_max).await,
                None => None,
            };
            let Some(held) = looked else {
                connection = None;
                self.world.sleep(EVERY).await;
                continue;
            };
            let now = (self.world.now(), held);
            let left = before.and_then(|before| time_left(before, now));
            before = Some(now);
            let was_alarmed = alarmed;
            alarmed = is_alarming(held, was_alarmed);
            let yields = must_yield(held, alarmed);
            self.tell(held, left, yields);
            if alarmed != was_alarmed {
                self.say(held, left, alarmed);
            }
            self.world.sleep(EVERY).await;
        }
    }

    fn tell(&self, held: Held, left: Option<Duration>, yields: bool) {
        let waits = || {
            let (bytes, left) = (held.bytes, held.left.unwrap_or_default());
            format!(
                "the server keeps {bytes} bytes of log for the slot, {left} are left: the tables are read on \
                 when less than three eighths are held"
            )
        };
        self.status.send_modify(|status| {
            status.log_held_bytes = held.bytes;
            status.log_left_bytes = held.left;
            status.log_held_time_left = left;
            status.log_behind_bytes = held.end.saturating_sub(self.passed.load(Ordering::Relaxed));
            status.reads_wait_for = (yields && status.tables.iter().any(|table| !table.done)).then(waits);
        });
        self.yields.send_if_modified(|now| std::mem::replace(now, yields) != yields);
    }

    fn say(&self, held: Held, left: Option<Duration>, alarmed: bool) {
        let (slot, held_bytes, left_bytes) = (&self.slot, held.bytes, held.left);
        let left_seconds = left.map(|left| left.as_secs());
        if !alarmed {
            tracing::info!(slot, held_bytes, left_bytes, "the server keeps less log for the slot again");
            return;
        }
        tracing::warn!(
            slot,
            held_bytes,
            left_bytes,
            left_seconds,
            "the server keeps much log for the slot: see what holds the pipeline back, or bound it with max_slot_wal_keep_size"
        );
    }
}

async fn look(connection: &mut Connection, slot: &str, held_max: Option<u64>) -> Option<Held> {
    const SQL: &str = "SELECT pg_wal_lsn_diff(pg_current_wal_flush_lsn(), restart_lsn)::bigint, \
         safe_wal_size, pg_wal_lsn_diff(pg_current_wal_flush_lsn(), confirmed_flush_lsn)::bigint, \
         pg_wal_lsn_diff(pg_current_wal_flush_lsn(), '0/0')::bigint \
         FROM pg_replication_slots WHERE slot_name = $1";
    let rows = connection.all_rows(SQL, &[Some(slot)]).await.ok()?;
    let row = rows.first()?;
    let number = |column: usize| row.get(column)?.as_deref()?.parse::<i64>().ok();
    let bytes = number(0)?.max(0) as u64;
    let of_server = number(1).map(|left| left.max(0) as u64);
    let of_ours = held_max.map(|most| most.saturating_sub(bytes));
    Some(Held {
        bytes,
        left: of_server.into_iter().chain(of_ours).min(),
        unacknowledged: number(2)?.max(0) as u64,
        end: number(3)?.max(0) as u64,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(bytes: u64, left: Option<u64>, end: u64) -> Held {
        Held { bytes, left, unacknowledged: bytes, end }
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
        assert!(!is_alarming(held(400, Some(600), 0), false));
        assert!(is_alarming(held(600, Some(400), 0), false));
        assert!(!is_alarming(held((1 << 30) - 1, None, 0), false));
        assert!(is_alarming(held(1 << 30, None, 0), false));
    }

    #[test]
    fn an_alarm_ends_when_three_eighths_are_held() {
        assert!(is_alarming(held(380, Some(620), 0), true));
        assert!(!is_alarming(held(375, Some(625), 0), true));
        assert!(is_alarming(held(900 << 20, None, 0), true));
        assert!(!is_alarming(held(700 << 20, None, 0), true));
    }

    #[test]
    fn reads_yield_to_a_bound_that_is_near_and_held_by_us() {
        assert!(must_yield(held(600, Some(400), 0), true));
        assert!(!must_yield(held(600, Some(400), 0), false));
        assert!(!must_yield(held(2 << 30, None, 0), true), "nothing would be lost");
        let open_elsewhere = Held { unacknowledged: 100, ..held(600, Some(400), 0) };
        assert!(!must_yield(open_elsewhere, true), "a transaction on the server holds it");
    }
}
