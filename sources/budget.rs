//! The one byte budget (law 5).
//!
//! ```text
//!   limit ┌──────────────────────────────────────────────┐
//!         │ log: anything that is free                   │
//!   half  ├──────────────────────────────────────────────┤
//!         │ reads and log                                │
//!         └──────────────────────────────────────────────┘
//! ```
//! The limit is a bound and no goal: what keeps the target busy is a few megabytes, and more of it only
//! waits. So nothing new is given while [`AHEAD`] bytes were handed over and are not settled; what
//! they wait for is the target, and no reader.
//!
//! Whoever holds bytes holds a [`Charge`] for them; it ends when the memory does. Reads (chunks,
//! refetches) hold at most half, so the log always has the other half and goes on, one item at a time
//! even while the limit is lowered: what it passes is settled without any reader's help, so nobody
//! waits in a circle (ATTACKS B10). Whoever waits hands over first what it has collected
//! ([`crate::queue::Outgoing::make_room`]). Whoever waits is served in order, the log before the reads.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use crate::mutant::{Rule, is_left_out};

/// Handed over and not settled: from so many bytes on, readers wait, unless [`Budget::keep_ahead`] says
/// more. Four requests of 5 MiB and what is cut next, or of 5,000 small rows with as many behind them.
pub const AHEAD: usize = 24 << 20;

/// For whom bytes are held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// The reader of the log.
    Log,
    /// Reads beside the log.
    Read,
}

/// Why bytes were not given.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BudgetError {
    /// One item is larger than the half that its class can count on.
    #[error(
        "an item of {bytes} bytes does not fit into the {limit} bytes that its class can count on; \
         raise memory.max_rss or lower memory.document_bytes_max"
    )]
    NeverFits {
        /// Bytes asked for.
        bytes: usize,
        /// The most bytes an item of this class may have.
        limit: usize,
    },
}

/// The budget all charges are made against. Cloning shares it.
#[derive(Clone, Debug)]
pub struct Budget(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    /// What was configured; [`State::limit`] never rises above it.
    full: usize,
    /// What may be held now; lowered while the process's real memory is too high.
    limit: usize,
    log: usize,
    read: usize,
    /// The part of `log` that is set aside for good: nobody waits for it to end.
    standing: usize,
    /// The part of `log` and `read` that the pipeline has, in its queue and its lanes.
    ahead: usize,
    /// From so many bytes of `ahead` on nothing new is given.
    ahead_most: usize,
    most: usize,
    waiting_log: VecDeque<Waiter>,
    waiting_read: VecDeque<Waiter>,
}

#[derive(Debug)]
struct Waiter {
    bytes: usize,
    granted: oneshot::Sender<Charge>,
}

impl State {
    fn used(&self) -> usize {
        self.log + self.read
    }

    /// The most bytes that one item of a class may have. The log's half is its reserve: reads that are held until a
    /// transaction's end must not keep it from getting there, so no item of it is larger.
    fn item_most(&self, class: Class) -> usize {
        match class {
            Class::Log => self.full - self.full / 2,
            Class::Read => self.full / 2,
        }
    }

    fn fits(&self, class: Class, bytes: usize) -> bool {
        if self.ahead >= self.ahead_most {
            return false;
        }
        let total = self.used() + bytes <= self.limit;
        // A lowered limit starves nobody: what the full one would carry passes alone, the log's items
        // one at a time beside whatever reads hold.
        match class {
            Class::Log => total || (self.log == self.standing && self.used() + bytes <= self.full),
            Class::Read => {
                let share = self.read + bytes <= self.limit / 2;
                (total && (share || self.read == 0)) || self.used() == self.standing
            }
        }
    }

    fn add(&mut self, class: Class, bytes: usize) {
        match class {
            Class::Log => self.log += bytes,
            Class::Read => self.read += bytes,
        }
        self.most = self.most.max(self.used());
    }
}

impl Budget {
    /// A budget of `limit` bytes.
    pub fn new(limit: usize) -> Self {
        Self(Arc::new(Mutex::new(State {
            full: limit,
            limit,
            log: 0,
            read: 0,
            standing: 0,
            ahead: 0,
            ahead_most: AHEAD,
            most: 0,
            waiting_log: VecDeque::new(),
            waiting_read: VecDeque::new(),
        })))
    }

    /// Waits until `bytes` may be held. Dropping the future gives the place in the line back.
    pub async fn reserve(&self, class: Class, bytes: usize) -> Result<Charge, BudgetError> {
        let turn = {
            let mut state = self.lock();
            let most = state.item_most(class);
            if bytes > most {
                return Err(BudgetError::NeverFits { bytes, limit: most });
            }
            let must_queue = match class {
                Class::Log => !state.waiting_log.is_empty(),
                Class::Read => !state.waiting_log.is_empty() || !state.waiting_read.is_empty(),
            };
            if (!must_queue && state.fits(class, bytes)) || is_left_out(Rule::BudgetIsWaitedFor) {
                state.add(class, bytes);
                return Ok(Charge::new(self.clone(), class, bytes));
            }
            let (granted, turn) = oneshot::channel();
            let line = match class {
                Class::Log => &mut state.waiting_log,
                Class::Read => &mut state.waiting_read,
            };
            line.push_back(Waiter { bytes, granted });
            turn
        };
        let mut place = Place { budget: self, turn };
        // The sender lives in the budget, which this call holds: it cannot be dropped unanswered.
        Ok((&mut place.turn).await.unwrap_or_else(|_| Charge::new(self.clone(), class, 0)))
    }

    /// Like [`Budget::reserve`] for the log, for what is set aside as long as the source or the
    /// pipeline lives. It is held all the time, so it must not count as an item that will end: else a
    /// lowered limit would let nothing pass beside it.
    pub async fn set_aside(&self, bytes: usize) -> Result<Charge, BudgetError> {
        let mut charge = self.reserve(Class::Log, bytes).await?;
        charge.standing = bytes;
        self.lock().standing += bytes;
        self.serve();
        Ok(charge)
    }

    /// Charges at once, above the limit if need be, what must be remembered and cannot be waited for: whoever
    /// would have to wait holds what others wait for. The caller bounds it, to a small part of the budget. Like
    /// what is set aside, it is no item that will end.
    pub fn remember(&self, bytes: usize) -> Charge {
        let mut state = self.lock();
        state.add(Class::Log, bytes);
        state.standing += bytes;
        Charge { budget: self.clone(), log: bytes, read: 0, standing: bytes, ahead: 0 }
    }

    /// An empty charge, to merge others into.
    pub fn nothing(&self) -> Charge {
        Charge::new(self.clone(), Class::Log, 0)
    }

    /// What the target may have under way is more than [`AHEAD`]: so many bytes may be handed over and not
    /// settled.
    pub fn keep_ahead(&self, bytes: usize) {
        self.lock().ahead_most = bytes.max(AHEAD);
        self.serve();
    }

    /// Bytes held now.
    pub fn used(&self) -> usize {
        self.lock().used()
    }

    /// The most bytes that were ever held at once.
    pub fn most_used(&self) -> usize {
        self.lock().most
    }

    /// Bytes that may be held now.
    pub fn limit(&self) -> usize {
        self.lock().limit
    }

    /// Bytes that may be held at the most.
    pub fn full_limit(&self) -> usize {
        self.lock().full
    }

    /// Lowers or restores the limit: real memory counts, not only what was charged. Nothing that is
    /// held is taken away; nothing new is given until enough has ended, but one item of the log at a
    /// time.
    pub fn set_limit(&self, bytes: usize) {
        {
            let mut state = self.lock();
            state.limit = bytes.min(state.full);
        }
        self.serve();
    }

    fn release(&self, charge: &Charge) {
        {
            let mut state = self.lock();
            state.standing -= charge.standing;
            state.ahead -= charge.ahead;
            state.log -= charge.log;
            state.read -= charge.read;
        }
        self.serve();
    }

    /// Serves the lines, the log's first. Grants are sent after the lock is let go: a receiver that
    /// has gone gives its charge back, and that takes the lock again.
    fn serve(&self) {
        loop {
            let next = {
                let mut state = self.lock();
                let State { waiting_log, waiting_read, .. } = &mut *state;
                waiting_log.retain(|waiter| !waiter.granted.is_closed());
                waiting_read.retain(|waiter| !waiter.granted.is_closed());
                let class = if state.waiting_log.is_empty() { Class::Read } else { Class::Log };
                let line = match class {
                    Class::Log => &state.waiting_log,
                    Class::Read => &state.waiting_read,
                };
                let Some(bytes) = line.front().map(|waiter| waiter.bytes) else {
                    return;
                };
                if !state.fits(class, bytes) {
                    return;
                }
                state.add(class, bytes);
                let waiter = match class {
                    Class::Log => state.waiting_log.pop_front(),
                    Class::Read => state.waiting_read.pop_front(),
                };
                (waiter, class, bytes)
            };
            let (Some(waiter), class, bytes) = next else { return };
            let charge = Charge::new(self.clone(), class, bytes);
            // Whoever has gone just now gives it back, and the lines are served with it.
            drop(waiter.granted.send(charge));
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No code that can panic runs under the lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A place in a line. Whoever leaves it may have been the one that the others waited behind.
struct Place<'a> {
    budget: &'a Budget,
    turn: oneshot::Receiver<Charge>,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.turn.close();
        self.budget.serve();
    }
}

/// Bytes that are held, by class. They are given back when it is dropped.
#[derive(Debug)]
#[must_use = "dropping a charge gives its bytes back"]
pub struct Charge {
    budget: Budget,
    log: usize,
    read: usize,
    /// The part of `log` that was set aside ([`Budget::set_aside`]); it is never split off.
    standing: usize,
    /// The part that was handed over ([`Charge::hand_over`]).
    ahead: usize,
}

impl Charge {
    fn new(budget: Budget, class: Class, bytes: usize) -> Self {
        let (log, read) = match class {
            Class::Log => (bytes, 0),
            Class::Read => (0, bytes),
        };
        Self { budget, log, read, standing: 0, ahead: 0 }
    }

    /// From here on the pipeline has what it covers: it ends without any reader's help.
    pub(crate) fn hand_over(&mut self) {
        self.budget.lock().ahead += self.bytes() - self.ahead;
        self.ahead = self.bytes();
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.log + self.read
    }

    /// Takes up to `bytes` out into a charge of their own.
    pub fn split(&mut self, bytes: usize) -> Charge {
        let log = bytes.min(self.log - self.standing);
        let read = (bytes - log).min(self.read);
        let ahead = (log + read).min(self.ahead);
        self.log -= log;
        self.read -= read;
        self.ahead -= ahead;
        Charge { budget: self.budget.clone(), log, read, standing: 0, ahead }
    }

    /// Puts `other` in.
    pub fn merge(&mut self, mut other: Charge) {
        self.log += std::mem::take(&mut other.log);
        self.read += std::mem::take(&mut other.read);
        self.standing += std::mem::take(&mut other.standing);
        self.ahead += std::mem::take(&mut other.ahead);
    }

    /// Gives back what is above `bytes`.
    pub fn shrink_to(&mut self, bytes: usize) {
        let spare = self.bytes().saturating_sub(bytes);
        drop(self.split(spare));
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        if self.bytes() > 0 {
            self.budget.release(self);
        }
    }
}

#[cfg(test)]
mod tests;
