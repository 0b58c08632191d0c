//! What a statement saw: `pg_current_snapshot()`, and what that says of a transaction (T06).

use crate::merge::Snapshot;

/// `xmin:xmax:xip,…`, in the 64-bit transaction ids that never wrap. On the primary only: a standby
/// leaves the list of running transactions empty (ATTACKS B5).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PgSnapshot {
    /// The first id that was not given out yet.
    xmax: u64,
    /// Running top-level transactions below `xmax`, in order.
    running: Vec<u64>,
}

impl PgSnapshot {
    /// Parses PostgreSQL's text form; `None` when it is none.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split(':');
        let _xmin: u64 = parts.next()?.parse().ok()?;
        let xmax = parts.next()?.parse().ok()?;
        let list = parts.next()?;
        let running: Option<Vec<u64>> =
            list.split(',').filter(|id| !id.is_empty()).map(|id| id.parse().ok()).collect();
        let mut running = running?;
        running.sort_unstable();
        parts.next().is_none().then_some(Self { xmax, running })
    }
}

impl Snapshot for PgSnapshot {
    /// The log carries the lower 32 bits of the top-level transaction's id.
    type Tx = u32;

    fn sees(&self, xid: &u32) -> bool {
        // Circular, as the server compares them: an id is never further than 2^31 from the newest.
        let ahead = xid.wrapping_sub(self.xmax as u32) as i32;
        if ahead >= 0 {
            return false;
        }
        let full = self.xmax.wrapping_add_signed(i64::from(ahead));
        self.running.binary_search(&full).is_err()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot(text: &str) -> PgSnapshot {
        PgSnapshot::parse(text).unwrap()
    }

    #[test]
    fn a_running_transaction_and_a_later_one_are_not_seen() {
        let snapshot = snapshot("755:760:755,758");
        let seen: Vec<u32> = (753..763).filter(|xid| snapshot.sees(xid)).collect();
        assert_eq!(seen, [753, 754, 756, 757, 759]);
    }

    /// ATTACKS A1, as seen on a server with a commit waiting for its standby.
    #[test]
    fn a1_a_commit_in_the_log_that_is_not_visible_is_not_seen() {
        assert!(!snapshot("757:757:").sees(&757));
        assert!(!snapshot("757:758:757").sees(&757));
        assert!(snapshot("758:758:").sees(&757));
    }

    #[test]
    fn t12_ids_that_wrap_compare_circularly() {
        let epoch = 3_u64 << 32;
        let snapshot = snapshot(&format!("{}:{}:{}", epoch - 5, epoch + 10, epoch - 2));
        assert!(snapshot.sees(&(u32::MAX - 4)), "below the wrap, ended");
        assert!(!snapshot.sees(&(u32::MAX - 1)), "below the wrap, running");
        assert!(snapshot.sees(&9));
        assert!(!snapshot.sees(&10));
    }

    #[test]
    fn what_is_no_snapshot_is_refused() {
        for text in ["", "1", "1:2", "a:b:", "1:2:x", "1:2::4"] {
            assert_eq!(PgSnapshot::parse(text), None, "{text}");
        }
    }
}
