//! What follows from an answer, or from none.

use std::sync::Arc;
use std::time::Duration;

use super::Lane;
use sources::mutant::{Rule, is_left_out};

use crate::lanes::request::{InFlight, Request};
use crate::lanes::settling::{End, Settling, bury};
use crate::lanes::taint::TAINT_BYTES;
use crate::retry::{Halt, Happened, Verdict, backoff, judge};
use crate::target::{Outcome, TargetError};

/// Tries without an answer after which a request is halved: it may be its size (T33).
const LOST_BEFORE_SPLIT: u32 = 3;
/// Such tries of a single large document, the target answering other questions each time, after
/// which it is dead-lettered.
const LOST_BEFORE_DEAD: u32 = 5;
/// Requests are not made smaller than this by a busy target.
const BYTES_LEAST: usize = 256 << 10;

impl Lane {
    /// Judges each item of an answered request (T32).
    pub(super) async fn judge_items(
        &mut self,
        mut request: Request,
        outcomes: Vec<Outcome>,
    ) -> Result<(), Halt> {
        let mut settling = Settling::default();
        let mut again = Vec::new();
        let mut pause: Option<(Duration, String)> = None;
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
                    match judge(Happened::Item { status, kind: &kind, reason: &reason, index }) {
                        Verdict::Again { after, why } => {
                            let longest = pause.map_or(Duration::ZERO, |(longest, _)| longest);
                            pause = Some((longest.max(after), why));
                            again.push(item);
                            continue;
                        }
                        Verdict::Halt(found) => Err(found),
                        Verdict::DeadLetter { reason } => {
                            bury(&*letters, index, &request, &item, reason).await
                        }
                        Verdict::Split => bury(&*letters, index, &request, &item, reason).await,
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
        let freed = self.charge_taint(request.taint, settled, freed);
        self.after_items(request, again, pause, settled == 0, freed);
        Ok(())
    }

    /// Goes on after an answered request: with what is left of it, if anything is.
    fn after_items(
        &mut self,
        request: Request,
        again: Vec<InFlight>,
        pause: Option<(Duration, String)>,
        all_failed: bool,
        freed: usize,
    ) {
        self.shared_bytes += freed;
        let alone = self.requests.is_empty();
        match pause {
            Some((after, why)) => {
                let left = request.again(again, all_failed);
                self.bytes_now = (self.bytes_now / 2).max(BYTES_LEAST.min(self.bytes_max));
                self.pause(left.tries, after, why);
                self.requests.push(left);
            }
            None => {
                drop(request);
                self.waiting_for = None;
                let step = self.bytes_max / 8;
                self.bytes_now = (self.bytes_now + step).min(self.bytes_max);
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
    ) -> Result<(), Halt> {
        let lost = matches!(error, TargetError::Unresolved { .. });
        if lost {
            if is_left_out(Rule::OnlyAnsweredIsSettled) {
                let outcomes = vec![Outcome::Written; request.items.len()];
                return Box::pin(self.judge_items(request, outcomes)).await;
            }
            let quarantine = self.shared.settings.quarantine;
            let kept = if is_left_out(Rule::QuarantineIsKept) { Duration::ZERO } else { quarantine };
            let ask_at = self.now() + kept;
            let places = request.items.iter().map(|item| (item.hash, item.version));
            request.taint = Some(self.taints.lost(request.taint, opaque_id.clone(), ask_at, places));
            request.lost += 1;
        }
        match judge(Happened::Request(&error)) {
            Verdict::Halt(halt) => Err(halt),
            Verdict::Split => {
                if request.items.len() > 1 {
                    self.bytes_max = self.bytes_max.min(request.body().len() / 2).max(1);
                }
                self.split(request, error.to_string()).await
            }
            Verdict::DeadLetter { reason } => self.bury_all(request, reason).await,
            Verdict::Again { after, why } => {
                request.tries += 1;
                self.pause(request.tries, after, why);
                if !lost {
                    self.requests.push(request);
                    return Ok(());
                }
                self.after_lost(request, &opaque_id).await
            }
        }
    }

    /// A request got no answer: perhaps it is too large, and the target closes the socket on it.
    async fn after_lost(&mut self, mut request: Request, opaque_id: &str) -> Result<(), Halt> {
        if request.items.len() > 1 {
            if request.lost < LOST_BEFORE_SPLIT {
                self.requests.push(request);
                return Ok(());
            }
            request.tries = 0;
            self.bytes_now = (request.body().len() / 2).max(BYTES_LEAST.min(self.bytes_max));
            return self.split(request, String::new()).await;
        }
        if request.body().len() >= self.shared.settings.suspect_bytes {
            // Only a target that is there can be refusing this document by its silence.
            let target = self.shared.surroundings.target.clone();
            if target.is_running(opaque_id).await.is_err() {
                request.lost = 0;
            }
            if request.lost >= LOST_BEFORE_DEAD {
                let reason = format!("{} requests with it alone were not answered", request.lost);
                return self.bury_all(request, reason).await;
            }
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
