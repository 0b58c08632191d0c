//! What follows from an answer, or from none.

use std::sync::Arc;
use std::time::Duration;

use super::Lane;
use sources::mutant::{Rule, is_left_out};

use crate::lanes::limit::Slot;
use crate::lanes::request::{InFlight, Request};
use crate::lanes::settling::{End, Settling, bury};
use crate::lanes::taint::TAINT_BYTES;
use crate::retry::{Halt, Happened, Verdict, backoff, judge};
use crate::target::{Outcome, TargetError};

/// Closed sockets after which a small request is halved: it may be its size all the same (T33).
const LOST_BEFORE_SPLIT: u32 = 3;
/// Closed sockets on a single large document, the target answering other questions each time, after
/// which it is dead-lettered.
const LOST_BEFORE_DEAD: u32 = 5;

/// Why items of an answered request go again.
enum Pause {
    /// The backoff, and at least so long.
    For(Duration, String),
    /// The target has no room now: as the shared limit lets it.
    Busy(String),
    /// Together they are too large for the target: at once, in halves.
    Halved,
}

impl Pause {
    /// The stricter of two.
    fn and(self, found: Option<Self>) -> Self {
        match (self, found) {
            (Self::For(after, why), Some(Self::For(longest, _))) => Self::For(after.max(longest), why),
            (Self::Busy(_), Some(found @ Self::For(..))) => found,
            (Self::Halved, Some(found)) => found,
            (own, _) => own,
        }
    }
}

impl Lane {
    /// Judges each item of an answered request (T32).
    pub(super) async fn judge_items(
        &mut self,
        mut request: Request,
        outcomes: Vec<Outcome>,
        slot: Slot,
    ) -> Result<(), Halt> {
        let mut settling = Settling::default();
        let mut again = Vec::new();
        let mut pause: Option<Pause> = None;
        let mut is_busy = false;
        let is_alone = request.items.len() == 1;
        let mut halt = None;
        let (mut freed, mut settled) = (0, 0);
        let items = std::mem::take(&mut request.items);
        let letters = self.shared.surroundings.dead_letters.clone();
        let indices = self.shared.settings.indices.clone();
        let nameless = Arc::default();
        for (item, outcome) in items.into_iter().zip(outcomes) {
            let index = indices.get(item.index as usize).unwrap_or(&nameless);
            let end = match outcome {
                Outcome::Written => Ok(End::Written),
                Outcome::Stale => Ok(End::Stale),
                Outcome::Failed { status, kind, reason } => {
                    let bytes = request.bytes(&item).len() as u64;
                    match judge(Happened::Item { status, kind: &kind, reason: &reason, index, bytes }) {
                        Verdict::Again { after, why } => {
                            pause = Some(Pause::For(after, why).and(pause));
                            again.push(item);
                            continue;
                        }
                        Verdict::Busy { why } => {
                            is_busy = true;
                            pause = Some(Pause::Busy(why).and(pause));
                            again.push(item);
                            continue;
                        }
                        Verdict::Halt(found) => Err(found),
                        Verdict::DeadLetter { reason } => {
                            bury(&*letters, index, &request, &item, reason).await
                        }
                        Verdict::Split if !is_alone => {
                            pause = Some(Pause::Halved.and(pause));
                            again.push(item);
                            continue;
                        }
                        Verdict::Split => {
                            bury(&*letters, index, &request, &item, format!("{status} {kind}: {reason}"))
                                .await
                        }
                    }
                }
            };
            let end = match end {
                // An older letter of the place is gone before its newer change is told as settled.
                Ok(end @ (End::Written | End::Stale))
                    if letters.holds(index, request.id(&item))
                        && !is_left_out(Rule::LettersAreSuperseded) =>
                {
                    let removed = letters.superseded(index, request.id(&item), item.version).await;
                    removed.map(|()| end).map_err(Halt::from)
                }
                other => other,
            };
            match end {
                Ok(end) => {
                    settling.add(item.segment, end, &item.carried);
                    freed += item.charge;
                    settled += 1;
                }
                // The others are judged first: what has ended is told even if this one has not.
                Err(found) => halt = halt.or(Some(found)),
            }
        }
        settling.tell(&self.shared.events);
        if let Some(halt) = halt {
            return Err(halt);
        }
        if is_busy {
            slot.busy(settled == 0, self.now(), self.shared.surroundings.world.random());
        } else if pause.is_none() {
            slot.answered(self.now());
        }
        let freed = self.charge_taint(request.taint, settled, freed);
        self.after_items(request, again, pause, settled == 0, freed);
        Ok(())
    }

    /// Goes on after an answered request: with what is left of it, if anything is.
    fn after_items(
        &mut self,
        request: Request,
        again: Vec<InFlight>,
        pause: Option<Pause>,
        all_failed: bool,
        freed: usize,
    ) {
        self.shared_bytes += freed;
        let alone = self.requests.is_empty();
        match pause {
            Some(pause) => {
                let mut left = request.again(again, all_failed);
                match pause {
                    Pause::For(after, why) => self.pause(left.tries, after, why),
                    Pause::Busy(why) => self.waiting_for = Some(why),
                    Pause::Halved => {
                        self.waiting_for = None;
                        left = match left.halve() {
                            Ok((first, second)) => {
                                self.requests.push(second);
                                first
                            }
                            Err(single) => single,
                        };
                    }
                }
                self.requests.push(left);
            }
            None => {
                drop(request);
                self.waiting_for = None;
            }
        }
        // The whole body has gone: no other request is a slice of it, and what is left is a copy.
        if alone && !all_failed {
            let bytes = std::mem::take(&mut self.shared_bytes);
            self.release(bytes);
        }
    }

    /// Keeps as much charge as remembering the places of lost tries costs.
    fn charge_taint(&mut self, taint: Option<u64>, settled: usize, freed: usize) -> usize {
        if !self.taints.is_alive(taint) {
            return freed;
        }
        let kept = freed.min(settled * TAINT_BYTES);
        if let Some(charge) = self.pool.as_mut().map(|pool| pool.split(kept)) {
            self.taints.charge(taint, charge);
        }
        freed - kept
    }

    fn pause(&mut self, tries: u32, after: Duration, why: String) {
        let random = self.shared.surroundings.world.random();
        self.resumes_at = self.now() + after.max(backoff(tries, random));
        self.waiting_for = Some(why);
    }

    /// Judges a failed request.
    pub(super) async fn judge_request(
        &mut self,
        mut request: Request,
        opaque_id: String,
        error: TargetError,
        slot: Slot,
    ) -> Result<(), Halt> {
        let lost = error.is_unresolved();
        if lost {
            if is_left_out(Rule::OnlyAnsweredIsSettled) {
                let outcomes = vec![Outcome::Written; request.items.len()];
                return Box::pin(self.judge_items(request, outcomes, slot)).await;
            }
            let quarantine = self.shared.settings.quarantine;
            let kept = if is_left_out(Rule::QuarantineIsKept) { Duration::ZERO } else { quarantine };
            let ask_at = self.now() + kept;
            let places = request.items.iter().map(|item| (item.hash, item.version));
            request.taint = Some(self.taints.lost(request.taint, opaque_id.clone(), ask_at, places));
        }
        match judge(Happened::Request(&error)) {
            Verdict::Halt(halt) => Err(halt),
            Verdict::Split => {
                if request.items.len() > 1 {
                    slot.too_large();
                }
                self.split(request, error.to_string()).await
            }
            Verdict::DeadLetter { reason } => self.bury_all(request, reason).await,
            Verdict::Again { after, why } => {
                request.tries += 1;
                self.pause(request.tries, after, why);
                match error {
                    TargetError::Unresolved { .. } => {
                        drop(slot);
                        return self.after_closed(request, &opaque_id).await;
                    }
                    TargetError::TimedOut { .. } => slot.timed_out(),
                    _ => {}
                }
                self.requests.push(request);
                Ok(())
            }
            Verdict::Busy { why } => {
                slot.busy(true, self.now(), self.shared.surroundings.world.random());
                self.waiting_for = Some(why);
                request.lost = 0;
                self.requests.push(request);
                Ok(())
            }
        }
    }

    /// The socket was closed on a request: perhaps it is too large.
    async fn after_closed(&mut self, mut request: Request, opaque_id: &str) -> Result<(), Halt> {
        request.lost += 1;
        let bytes = request.body().len();
        // Only a target that is there can be refusing a request by its silence.
        let is_suspect = bytes >= self.shared.settings.suspect_bytes;
        let target = self.shared.surroundings.target.clone();
        let is_there = is_suspect && target.is_running(opaque_id).await.is_ok();
        if is_suspect && !is_there {
            request.lost = 0;
        }
        if request.items.len() > 1 {
            if !is_there && request.lost < LOST_BEFORE_SPLIT {
                self.requests.push(request);
                return Ok(());
            }
            request.tries = 0;
            if is_there {
                self.shared.limit.closed(bytes);
            }
            return self.split(request, String::new()).await;
        }
        if is_suspect && request.lost >= LOST_BEFORE_DEAD {
            let reason = format!("{} requests with it alone were not answered", request.lost);
            return self.bury_all(request, reason).await;
        }
        self.requests.push(request);
        Ok(())
    }

    async fn split(&mut self, request: Request, reason: String) -> Result<(), Halt> {
        match request.halve() {
            Ok((first, second)) => {
                self.requests.push(second);
                self.requests.push(first);
                Ok(())
            }
            Err(single) => self.bury_all(single, reason).await,
        }
    }

    /// Settles every item of a request as dead-lettered.
    async fn bury_all(&mut self, mut request: Request, reason: String) -> Result<(), Halt> {
        let mut settling = Settling::default();
        let (mut freed, mut settled) = (0, 0);
        let letters = self.shared.surroundings.dead_letters.clone();
        for item in std::mem::take(&mut request.items) {
            let index = self.alias(item.index);
            let end = bury(&*letters, &index, &request, &item, reason.clone()).await?;
            settling.add(item.segment, end, &item.carried);
            freed += item.charge;
            settled += 1;
        }
        settling.tell(&self.shared.events);
        let freed = self.charge_taint(request.taint, settled, freed);
        self.after_items(request, Vec::new(), None, false, freed);
        Ok(())
    }
}
