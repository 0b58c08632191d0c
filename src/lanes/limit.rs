//! How much of a target all lanes together may use; it follows what the target and the link can take.
//!
//! ```text
//!   lane 1 ─┐                             ┌─ answered ── one more in flight, larger requests
//!   lane 2 ─┼─► line ─► slot ─► request ──┼─ busy ────── fewer, smaller, a pause for all
//!   lane N ─┘  (first come, first served) ├─ timed out ─ smaller
//!                                         └─ too large ─ smaller, for good
//! ```
//! - **In flight**: a refusal takes an eighth of it, at least one; a second one with nothing done between
//!   leaves one request, which asks again at least once a second while the others wait. Successes give
//!   it back: one each up to the goal (seven eighths of what was refused), then one a second.
//! - **Bytes of a request**: halved by a refusal, regained by eighths; and beside that what the target
//!   answers within [`AIM`], so that nothing times out on a slow link.
//! - **Bytes in flight**: the product of both. A document larger than that goes while nothing else does.
//!
//! What was sent before the last refusal says nothing about what was changed by it, and is not counted.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sources::world::Moment;
use tokio::sync::Notify;

use crate::retry::busy_pause;

/// A request is to take no longer: a sixth of the client's limit of 30 s, so that a link may become
/// several times slower before a request times out.
const AIM: Duration = Duration::from_secs(5);
/// Between two tries of one more request than was taken before: rare enough that the refusals of a
/// target at its limit cost little.
const RAISE_EVERY: Duration = Duration::from_secs(1);
/// Requests are not made smaller than this by a busy target.
const BUSY_LEAST: usize = 256 << 10;
/// Nor than this by a slow one: below it the headers begin to cost.
const TIMELY_LEAST: usize = 16 << 10;

/// Shared by the lanes of a target.
#[derive(Debug)]
pub(super) struct Limit {
    state: Mutex<State>,
    /// Told when a lane has come to the head of the line, or may go from there.
    turns: Vec<Notify>,
}

#[derive(Debug)]
struct State {
    /// The most requests in flight, ever.
    lanes: usize,
    /// The most now, at least one.
    allowed: usize,
    /// Up to here each success allows one more.
    goal: usize,
    /// Above it nothing more is allowed before.
    raise_at: Moment,
    /// Whole refusals with nothing done between.
    refused: u32,
    /// Nothing is sent before.
    resumes_at: Moment,
    /// The most bytes that the target takes at all.
    bytes_max: usize,
    /// The most that it takes while it is busy.
    bytes_busy: usize,
    /// The most that it answers in time.
    bytes_timely: usize,
    /// The size of the last request on which the socket was closed, until one of that size is answered.
    closed_at: Option<usize>,
    /// Refusals that have been acted upon.
    epoch: u64,
    in_flight: usize,
    bytes_in_flight: usize,
    line: VecDeque<usize>,
}

/// Why there is no slot: when to ask again, if not when the turn comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NotYet {
    pub(super) until: Option<Moment>,
}

/// The right to have one request in flight, until it is dropped.
#[derive(Debug)]
pub(super) struct Slot {
    limit: Arc<Limit>,
    epoch: u64,
    bytes: usize,
    sent_at: Moment,
}

impl Limit {
    pub(super) fn new(lanes: usize, bytes_max: usize) -> Self {
        let state = State {
            lanes,
            allowed: lanes,
            goal: lanes,
            raise_at: Moment::ZERO,
            refused: 0,
            resumes_at: Moment::ZERO,
            bytes_max,
            bytes_busy: bytes_max,
            bytes_timely: bytes_max,
            closed_at: None,
            epoch: 0,
            in_flight: 0,
            bytes_in_flight: 0,
            line: VecDeque::with_capacity(lanes),
        };
        Self { state: Mutex::new(state), turns: (0..lanes).map(|_| Notify::new()).collect() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The most bytes of a request now; a larger document goes alone.
    pub(super) fn bytes(&self) -> usize {
        self.state().bytes()
    }

    /// Takes a slot for a request of about `bytes`, or a place in the line.
    pub(super) fn take(self: &Arc<Self>, lane: usize, bytes: usize, now: Moment) -> Result<Slot, NotYet> {
        let mut state = self.state();
        if !state.line.contains(&lane) {
            state.line.push_back(lane);
        }
        if state.line.front() != Some(&lane) {
            return Err(NotYet { until: None });
        }
        if now < state.resumes_at {
            return Err(NotYet { until: Some(state.resumes_at) });
        }
        let most = state.allowed.saturating_mul(state.bytes());
        let is_full = state.in_flight >= state.allowed || state.bytes_in_flight + bytes > most;
        if is_full && state.in_flight > 0 {
            return Err(NotYet { until: None });
        }
        state.line.pop_front();
        state.in_flight += 1;
        state.bytes_in_flight += bytes;
        let epoch = state.epoch;
        self.call_first(&state);
        drop(state);
        Ok(Slot { limit: self.clone(), epoch, bytes, sent_at: now })
    }

    /// Ends when it is worth while to ask again.
    pub(super) async fn turn(&self, lane: usize) {
        match self.turns.get(lane) {
            Some(turn) => turn.notified().await,
            None => std::future::pending().await,
        }
    }

    /// A lane that wants no slot any more gives up its place in the line.
    pub(super) fn leave(&self, lane: usize) {
        let mut state = self.state();
        state.line.retain(|&other| other != lane);
        self.call_first(&state);
    }

    fn call_first(&self, state: &State) {
        if let Some(turn) = state.line.front().and_then(|&lane| self.turns.get(lane)) {
            turn.notify_one();
        }
    }
}

impl State {
    fn bytes(&self) -> usize {
        self.bytes_max.min(self.bytes_busy).min(self.bytes_timely)
    }

    fn answered(&mut self, epoch: u64, bytes: usize, took: Duration, now: Moment) {
        self.closed_at = self.closed_at.filter(|&closed| bytes < closed);
        if took > AIM {
            let in_time = (bytes as f64 * AIM.as_secs_f64() / took.as_secs_f64()) as usize;
            self.bytes_timely = self.bytes_timely.min(in_time.max(TIMELY_LEAST));
        } else if took < AIM / 2 && bytes >= self.bytes_timely / 2 {
            self.bytes_timely = (self.bytes_timely + self.bytes_timely / 4).min(self.bytes_max);
        }
        if epoch != self.epoch {
            return;
        }
        self.refused = 0;
        self.resumes_at = self.resumes_at.min(now);
        self.bytes_busy = (self.bytes_busy + self.bytes_max / 8).min(self.bytes_max);
        if self.allowed < self.goal {
            self.allowed += 1;
        } else if self.allowed < self.lanes && now >= self.raise_at {
            self.allowed += 1;
            self.goal = self.allowed;
            self.raise_at = now + RAISE_EVERY;
        }
    }

    fn busy(&mut self, epoch: u64, is_whole: bool, now: Moment, random: u64) {
        if epoch != self.epoch {
            return;
        }
        self.epoch += 1;
        self.refused = if is_whole { self.refused + 1 } else { 1 };
        self.bytes_busy = (self.bytes_busy / 2).max(BUSY_LEAST.min(self.bytes_max));
        if self.refused > 1 {
            self.allowed = 1;
        } else {
            self.goal = (self.allowed - (self.allowed / 8).max(1)).max(1);
            self.allowed = self.goal;
        }
        self.raise_at = now + RAISE_EVERY;
        self.resumes_at = now + busy_pause(self.refused, random);
    }

    fn closed(&mut self, bytes: usize) {
        let half = (bytes / 2).max(BUSY_LEAST.min(self.bytes_max));
        // Twice at about this size, and never an answer to one of it: that is the target's limit.
        let is_like = |before: usize| before / 2 <= bytes && bytes / 2 <= before;
        if self.closed_at.is_some_and(is_like) {
            self.bytes_max = self.bytes_max.min(half);
        }
        self.closed_at = Some(bytes);
        self.bytes_busy = self.bytes_busy.min(half);
    }
}

impl Slot {
    /// The request goes out, with so many bytes.
    pub(super) fn begin(&mut self, bytes: usize, now: Moment) {
        let mut state = self.limit.state();
        state.bytes_in_flight = state.bytes_in_flight + bytes - self.bytes;
        (self.bytes, self.sent_at) = (bytes, now);
    }

    /// It was answered, and nothing of it was refused for want of room.
    pub(super) fn answered(self, now: Moment) {
        let took = now.saturating_sub(self.sent_at);
        self.limit.state().answered(self.epoch, self.bytes, took, now);
    }

    /// All of it (`is_whole`), or a part, was refused for want of room.
    pub(super) fn busy(self, is_whole: bool, now: Moment, random: u64) {
        self.limit.state().busy(self.epoch, is_whole, now, random);
    }

    /// No answer came within the client's limit: it, and all that goes with it, was too much.
    pub(super) fn timed_out(self) {
        let mut state = self.limit.state();
        state.bytes_timely = state.bytes_timely.min((self.bytes / 4).max(TIMELY_LEAST));
    }

    /// The target says that it is too large.
    pub(super) fn too_large(self) {
        let mut state = self.limit.state();
        state.bytes_max = state.bytes_max.min(self.bytes / 2).max(1);
    }
}

impl Limit {
    /// The socket was closed on a request of so many bytes, by a target that answers other questions.
    pub(super) fn closed(&self, bytes: usize) {
        self.state().closed(bytes);
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut state = self.limit.state();
        state.in_flight -= 1;
        state.bytes_in_flight -= self.bytes;
        self.limit.call_first(&state);
    }
}
