//! What a running intake says of itself.

use std::time::Duration;

use sources::world::Moment;

use super::branch::Branch;
use super::intake::Intake;
use crate::ledger::Counts;
use crate::status::{State, TargetStatus};

/// Why a paused pipeline sends nothing.
const PAUSED: &str = "a person has paused it; rowtide resume lets it go on";

impl Intake {
    /// What each target says, and what is waited for at the first that waits.
    fn targets(&self) -> (Vec<TargetStatus>, Option<String>) {
        let several = self.branches.len() > 1;
        let mut waiting = None;
        let status = |branch: &Branch| {
            let waits = branch.lanes.status().into_iter().find_map(|lane| lane.waiting_for);
            let named =
                waits.clone().map(|why| if several { format!("{}: {why}", branch.name) } else { why });
            waiting = waiting.take().or(named);
            TargetStatus {
                name: branch.name.clone(),
                counts: branch.ledger.counts(),
                waiting_for: waits,
                dead_letters: branch.letters.count(),
            }
        };
        let targets = self.branches.iter().map(status).collect();
        (targets, waiting)
    }

    /// What `status` shows.
    pub(super) fn report(&mut self) {
        let (targets, lanes_wait) = self.targets();
        let mut counts = Counts::default();
        targets.iter().for_each(|target| counts.add(&target.counts));
        let source = self.source_status.borrow().clone();
        let now = self.world.now();
        let docs_per_s = self.documents.at(now, counts.ends.total());
        let sent = self.controls.sent();
        let bytes_per_s = self.bytes.at(now, sent.bytes);
        let is_paused = self.controls.is_paused();
        let checkpoint_age = self.saver.saved_at().map(|at| now.saturating_sub(at));
        let waiting = source.waiting_for.clone().or_else(|| source.reads_wait_for.clone()).or(lanes_wait);
        let filled = source.tables.iter().all(|table| table.done);
        let lag = self.lag(&source, counts.in_flight());
        self.status.send_modify(|status| {
            if status.state != State::Stopping {
                status.state = match (&waiting, filled) {
                    _ if is_paused => State::Paused,
                    (Some(_), _) => State::Waiting,
                    (None, true) => State::Following,
                    (None, false) => State::Backfilling,
                };
                status.reason = if is_paused { Some(PAUSED.to_owned()) } else { waiting };
            }
            // A displaced row of a read was read, and superseded at the merge (law 6).
            status.counts = counts;
            status.counts.read += source.rows_displaced;
            status.counts.ends.superseded += source.rows_displaced;
            status.targets = targets;
            status.docs_per_s = docs_per_s;
            status.sent = sent;
            status.bytes_per_s = bytes_per_s;
            status.lag = lag;
            status.checkpoint_age = checkpoint_age;
            status.memory.used = self.budget.used();
            status.memory.most = self.budget.most_used();
            status.memory.limit = self.budget.limit();
            status.source = source;
        });
    }

    /// A drain before the source is opened again waits for the targets: not for the source any more.
    pub(super) fn say_what_is_due(&self) {
        let (targets, why) = self.targets();
        let in_flight: u64 = targets.iter().map(|target| target.counts.in_flight()).sum();
        let why = why.unwrap_or_else(|| format!("the target's answers about {in_flight} changes"));
        let is_paused = self.controls.is_paused();
        self.status.send_if_modified(|status| match status.state {
            State::Stopping => false,
            _ if is_paused => {
                status.state = State::Paused;
                status.reason = Some(PAUSED.to_owned());
                true
            }
            State::Waiting | State::Paused => {
                status.state = State::Waiting;
                status.reason = Some(why);
                true
            }
            _ => false,
        });
    }

    /// How old the newest settled state is; nothing while nothing waits.
    fn lag(&self, source: &sources::source::SourceStatus, in_flight: u64) -> Option<Duration> {
        if source.passed_commit_unix_us == 0 {
            return None;
        }
        if in_flight == 0 && source.log_behind_bytes == 0 {
            return Some(Duration::ZERO);
        }
        let passed = (source.passed_commit_unix_us / 1_000_000).max(0) as u64;
        Some(Duration::from_secs(self.world.unix_seconds().saturating_sub(passed)))
    }
}

/// Changes ended a second, over some seconds.
#[derive(Debug, Default)]
pub(super) struct Rate {
    since: Moment,
    total: u64,
    last: f64,
}

impl Rate {
    fn at(&mut self, now: Moment, total: u64) -> f64 {
        let time = now.saturating_sub(self.since);
        if time >= Duration::from_secs(2) {
            self.last = total.saturating_sub(self.total) as f64 / time.as_secs_f64();
            self.since = now;
            self.total = total;
        }
        self.last
    }
}
