//! Holds the process's real memory under its bound: what was charged is not all that is resident.
//!
//! ```text
//!   rss   max ┤
//!         90% ┤─────────── above: the budget's limit is lowered in proportion, every 100 ms
//!         80% ┤─────────── between: left as it is
//!           0 ┤            below: restored, a sixty-fourth of the whole at a time
//! ```
//! Nothing that is held is taken away: readers wait until enough has ended and the allocator has
//! given it back (its decay is half a second).

use std::time::Duration;

use sources::budget::Budget;
use sources::world::{SharedWorld, Task};
use tracing::{debug, warn};

/// Much shorter than it takes to fill a tenth of any sensible bound from a database.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Parts of a hundred of `max_rss`.
const HIGH_PERCENT: usize = 90;
const LOW_PERCENT: usize = 80;
/// The limit never falls below this part of the whole: something must move, or nothing is freed.
const LEAST_PART: usize = 8;
/// Whole again after some six seconds.
const RESTORE_PART: usize = 64;

/// Watches the process's memory and governs all of its budgets until the task is dropped: each falls and
/// rises in proportion to its own whole, so that none is taken for another.
pub fn govern(world: &SharedWorld, budgets: Vec<Budget>, max_rss: usize) -> Task {
    let clock = world.clone();
    world.spawn(Box::pin(async move {
        loop {
            let Some(bytes) = resident() else {
                warn!("cannot read /proc/self/statm: memory is bounded by charges alone");
                return;
            };
            for budget in &budgets {
                let limit = budget.limit();
                let wanted = decide(bytes, max_rss, limit, budget.full_limit());
                if wanted != limit {
                    debug!(rss = bytes, limit = wanted, "budget limit changed");
                    budget.set_limit(wanted);
                }
            }
            clock.sleep(LOOK_EVERY).await;
        }
    }))
}

/// The limit that follows from `rss` bytes resident under `max_rss`, where `limit` of `full` was
/// allowed until now.
fn decide(rss: usize, max_rss: usize, limit: usize, full: usize) -> usize {
    let high = max_rss / 100 * HIGH_PERCENT;
    let low = max_rss / 100 * LOW_PERCENT;
    if rss > high {
        // In 128 bits: the product of two sizes need not fit into 64.
        let lowered = (limit as u128 * high as u128 / rss as u128) as usize;
        return lowered.max(full / LEAST_PART);
    }
    if rss < low {
        return limit.saturating_add((full / RESTORE_PART).max(1)).min(full);
    }
    limit
}

/// Bytes that are resident, from the second field of `/proc/self/statm`, which counts pages.
pub fn resident() -> Option<usize> {
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: usize = statm.split(' ').nth(1)?.parse().ok()?;
    pages.checked_mul(rustix::param::page_size())
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX: usize = 128 << 20;
    const FULL: usize = 64 << 20;

    #[test]
    fn above_the_mark_the_limit_falls_in_proportion_and_never_to_nothing() {
        let one = decide(MAX, MAX, FULL, FULL);
        assert!(one > FULL * 89 / 100 && one < FULL * 91 / 100, "{one}");
        let mut limit = FULL;
        for _ in 0..1_000 {
            limit = decide(MAX, MAX, limit, FULL);
        }
        assert_eq!(limit, FULL / LEAST_PART);
    }

    #[test]
    fn between_the_marks_nothing_changes() {
        assert_eq!(decide(MAX / 100 * 85, MAX, FULL / 2, FULL), FULL / 2);
        assert_eq!(decide(MAX / 100 * HIGH_PERCENT, MAX, FULL, FULL), FULL);
    }

    #[test]
    fn below_the_mark_the_limit_comes_back_slowly_and_not_beyond() {
        let mut limit = FULL / LEAST_PART;
        let mut looks = 0;
        while limit < FULL {
            let next = decide(MAX / 2, MAX, limit, FULL);
            assert!(next > limit && next <= FULL);
            limit = next;
            looks += 1;
        }
        assert!((40..=64).contains(&looks), "{looks}");
        assert_eq!(decide(0, MAX, FULL, FULL), FULL);
    }

    #[test]
    fn sizes_near_the_end_of_the_range_do_not_overflow() {
        assert!(decide(usize::MAX, usize::MAX, usize::MAX, usize::MAX) < usize::MAX);
    }

    #[test]
    fn the_system_tells_what_is_resident() {
        let before = resident();
        let block = vec![1_u8; 64 << 20];
        let after = resident();
        assert!(block.iter().all(|&byte| byte == 1));
        assert!(before.is_some_and(|before| after.is_some_and(|after| after > before + (48 << 20))));
    }

    #[tokio::test(start_paused = true)]
    async fn a_process_over_its_bound_gets_smaller_budgets() {
        let world = sources::world::RealWorld::shared();
        let budgets = [Budget::new(FULL), Budget::new(FULL / 4)];
        let _task = govern(&world, budgets.to_vec(), 1 << 20);
        world.sleep(Duration::from_secs(5)).await;
        assert_eq!(budgets.map(|budget| budget.limit()), [FULL / LEAST_PART, FULL / 4 / LEAST_PART]);
    }
}
