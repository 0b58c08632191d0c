//! One lane: takes actions, sends one request at a time, and follows each until it is answered.
//!
//! ```text
//!        ┌──────────────── take what has come, coalesce ◄──────────────┐
//!        ▼                                                              │
//!   anything due? ─ no ─► wait: input · linger · backoff · permit · turn · question ─┤
//!        │ yes, and a slot is had                                       │
//!        └─► cut or repeat ─► send, taking input meanwhile ─► judge ─────┘
//! ```
//! `requests` is a stack: the request to send next on top, the other halves of a split one below.
//! Nothing new is cut while it holds anything, so what goes again goes before anything newer.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use sources::budget::Charge;
use sources::world::{BoxFuture, Moment};
use tokio::sync::{mpsc, oneshot};

use super::limit::{NotYet, Slot};
use super::pending::{Entry, Pending};
use super::request::{Refused, Request};
use super::settling::{End, Settling};
use super::taint::Taints;
use super::{Drained, Input, LaneStatus, Shared};
use crate::controls::Held;
use crate::dead_letters::DeadLetter;
use crate::retry::Halt;
use crate::target::{Bulk, TargetError};

mod judging;

/// Between two looks at a permit that is not given.
const PERMIT_AGAIN: Duration = Duration::from_millis(50);
/// A request that is not answered by then is what the lane waits for: a healthy target takes less.
const TOLD_AFTER: Duration = Duration::from_secs(5);
/// The answer to the question whether a request still runs.
type Answer = (String, Result<bool, TargetError>);

pub(super) struct Lane {
    number: usize,
    shared: Arc<Shared>,
    input: mpsc::UnboundedReceiver<Input>,
    pending: Pending,
    /// Charges of everything that is pending or in flight here.
    pool: Option<Charge>,
    requests: Vec<Request>,
    /// Charges of settled items whose bytes another request still shares.
    shared_bytes: usize,
    taints: Taints,
    question: Option<BoxFuture<'static, Answer>>,
    drains: Vec<oneshot::Sender<Drained>>,
    /// Nothing is sent any more; who waits for what was in flight.
    leaves: Vec<oneshot::Sender<Drained>>,
    has_left: bool,
    flush: bool,
    /// Since when something has been ready.
    ready_since: Option<Moment>,
    /// Nothing is sent before (the start's quarantine).
    opens_at: Moment,
    /// Nothing is sent again before (the backoff).
    resumes_at: Moment,
    waiting_for: Option<String>,
    /// Requests named so far.
    named: u64,
    /// When the last request went out.
    sent_at: Option<Moment>,
}

/// What to do next.
enum Next {
    /// With what was paid for it: about how many actions and bytes it was to have.
    Send(Slot, (usize, usize)),
    Wait {
        until: Option<Moment>,
        why: Option<&'static str>,
    },
}

impl Lane {
    pub(super) fn new(number: usize, shared: Arc<Shared>, input: mpsc::UnboundedReceiver<Input>) -> Self {
        let now = shared.surroundings.world.now();
        Self {
            number,
            input,
            pending: Pending::new(),
            pool: None,
            requests: Vec::new(),
            shared_bytes: 0,
            taints: Taints::default(),
            question: None,
            drains: Vec::new(),
            leaves: Vec::new(),
            has_left: false,
            flush: false,
            ready_since: None,
            opens_at: now + shared.settings.start_quarantine.unwrap_or_default(),
            resumes_at: now,
            waiting_for: None,
            named: 0,
            sent_at: None,
            shared,
        }
    }

    pub(super) async fn run(mut self) {
        let worked = self.work().await;
        self.shared.limit.leave(self.number);
        if let Err(halt) = worked {
            self.shared.halt(halt);
        }
    }

    async fn work(&mut self) -> Result<(), Halt> {
        loop {
            while let Ok(input) = self.input.try_recv() {
                self.accept(input);
            }
            if self.shared.is_halted() {
                return Ok(());
            }
            self.answer_drains();
            self.ask();
            match self.next() {
                Next::Send(slot, paid) => self.send(slot, paid).await?,
                Next::Wait { until, why } => {
                    self.tell_status(0, why);
                    if !self.wait(until).await {
                        return Ok(());
                    }
                }
            }
        }
    }

    fn now(&self) -> Moment {
        self.shared.surroundings.world.now()
    }

    fn accept(&mut self, input: Input) {
        match input {
            Input::Actions(actions, charge) => {
                match &mut self.pool {
                    Some(pool) => pool.merge(charge),
                    None => self.pool = Some(charge),
                }
                self.ready_since = self.ready_since.or(Some(self.shared.surroundings.world.now()));
                let mut freed = 0;
                for (hash, action) in actions {
                    freed += self.pending.add(hash, action);
                }
                self.release(freed);
            }
            Input::Flush => self.flush = true,
            Input::Drain(done) => self.drains.push(done),
            Input::Leave(done) => {
                self.has_left = true;
                self.leaves.push(done);
            }
        }
    }

    /// Gives bytes back: their memory has ended.
    fn release(&mut self, bytes: usize) {
        drop(self.pool.as_mut().map(|pool| pool.split(bytes)));
    }

    fn answer_drains(&mut self) {
        // Never asked while a request is in flight.
        let unresolved = self.taints.unresolved();
        for done in self.leaves.drain(..) {
            let _the_end_was_given_up = done.send(Drained { unresolved });
        }
        if self.drains.is_empty() || self.pending.len() > 0 || !self.requests.is_empty() {
            return;
        }
        for done in self.drains.drain(..) {
            let _the_drain_was_given_up = done.send(Drained { unresolved });
        }
    }

    fn next(&self) -> Next {
        let now = self.now();
        if self.has_left {
            self.shared.limit.leave(self.number);
            return Next::Wait { until: None, why: None };
        }
        if self.requests.is_empty() {
            let Some(due) = self.due() else { return Next::Wait { until: None, why: None } };
            if now < due {
                return Next::Wait { until: Some(due), why: None };
            }
        } else if now < self.resumes_at {
            return Next::Wait { until: Some(self.resumes_at), why: None };
        }
        if now < self.opens_at {
            let why = Some("the quarantine after an unclean stop");
            return Next::Wait { until: Some(self.opens_at), why };
        }
        if !self.may_write(now) {
            // A lane that cannot go from the head of the line would keep it from the others.
            self.shared.limit.leave(self.number);
            return Next::Wait { until: Some(now + PERMIT_AGAIN), why: Some("the permission to write") };
        }
        let controls = &self.shared.surroundings.controls;
        if let Err(held) = controls.may_send(now) {
            return self.held(held, now);
        }
        let (documents, bytes) = self.wanted();
        match self.shared.limit.take(self.number, bytes, now) {
            // Of several lanes that have found the way free, one begins.
            Ok(slot) => match controls.begin(documents, bytes, now) {
                Ok(()) => Next::Send(slot, (documents, bytes)),
                Err(held) => self.held(held, now),
            },
            Err(NotYet { until }) => {
                let others_wait_for_it = self.waiting_for.is_none();
                let why = others_wait_for_it.then_some("its turn: the target takes no more at once");
                Next::Wait { until, why }
            }
        }
    }

    /// A person lets nothing go now: looked at again and again, since that ends by no notice.
    fn held(&self, held: Held, now: Moment) -> Next {
        self.shared.limit.leave(self.number);
        let again = now + PERMIT_AGAIN;
        match held {
            Held::Paused => Next::Wait { until: Some(again), why: None },
            Held::Throttled(until) => Next::Wait { until: Some(until.min(again)), why: None },
        }
    }

    /// The most actions and bytes of a request now; a larger document goes alone.
    fn most(&self) -> (usize, usize) {
        let count = self.shared.settings.bulk_count_max;
        self.shared.surroundings.controls.request_most(count, self.shared.limit.bytes())
    }

    fn may_write(&self, now: Moment) -> bool {
        self.shared.surroundings.permit.may_write(now)
    }

    /// About how many actions and bytes the next request will have.
    fn wanted(&self) -> (usize, usize) {
        let (count, most) = self.most();
        match self.requests.last() {
            Some(request) if request.items.len() > 1 => {
                (request.items.len().min(count), request.body().len().min(most))
            }
            Some(request) => (request.items.len(), request.body().len()),
            None => {
                let first = self.pending.first().map_or(0, |entry| entry.action.data.len());
                let bytes = first.max(self.pending.ready_bytes().min(most));
                (self.pending.ready_count().min(count), bytes)
            }
        }
    }

    /// When what is ready is to be sent; `None` when nothing is.
    fn due(&self) -> Option<Moment> {
        let settings = &self.shared.settings;
        let since = self.ready_since?;
        let (count, bytes) = self.most();
        let full = self.pending.ready_bytes() >= bytes || self.pending.ready_count() >= count;
        let at_once = full || self.flush || !self.drains.is_empty();
        let paced = self.sent_at.map_or(since, |sent_at| since.max(sent_at + settings.linger));
        Some(if at_once { since } else { paced })
    }

    /// Waits for whatever comes first; `false` when the lanes have ended.
    async fn wait(&mut self, until: Option<Moment>) -> bool {
        let question_at = if self.question.is_none() { self.taints.next_question() } else { None };
        let until = until.into_iter().chain(question_at).min();
        let now = self.now();
        let world = self.shared.surroundings.world.clone();
        let timer = async {
            match until {
                Some(until) => world.sleep(until.saturating_sub(now)).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            input = self.input.recv() => {
                let Some(input) = input else { return false };
                self.accept(input);
            }
            answer = answered(&mut self.question) => self.learn(answer),
            () = self.shared.limit.turn(self.number) => {}
            () = timer => {}
        }
        true
    }

    /// Asks after a request that was lost, if it is time to.
    fn ask(&mut self) {
        if self.question.is_some() {
            return;
        }
        let Some(opaque_id) = self.taints.question(self.now()) else { return };
        let target = self.shared.surroundings.target.clone();
        self.question = Some(Box::pin(async move {
            let running = target.is_running(&opaque_id).await;
            (opaque_id, running)
        }));
    }

    fn learn(&mut self, (opaque_id, running): Answer) {
        self.question = None;
        if !matches!(running, Ok(false)) {
            self.taints.ask_again(&opaque_id, self.now());
            return;
        }
        if self.taints.ended(&opaque_id) {
            self.pending.release_held();
            if self.pending.ready_count() > 0 {
                // What was held has lingered long enough.
                self.ready_since = Some(Moment::ZERO);
            }
        }
    }

    /// The request to send now: what goes again goes by today's limit.
    fn take_request(&mut self) -> Option<Request> {
        let (count, bytes) = self.most();
        let mut request = self.requests.pop()?;
        while request.body().len() > bytes || request.items.len() > count {
            match request.halve() {
                Ok((first, second)) => {
                    self.requests.push(second);
                    request = first;
                }
                Err(single) => return Some(single),
            }
        }
        Some(request)
    }

    async fn send(&mut self, mut slot: Slot, paid: (usize, usize)) -> Result<(), Halt> {
        if self.requests.is_empty() {
            self.cut().await?;
            // What could never be sent may have taken its time.
            let is_paused = self.shared.surroundings.controls.is_paused();
            if is_paused || self.shared.is_halted() || !self.may_write(self.now()) {
                return Ok(());
            }
        }
        let Some(request) = self.take_request() else { return Ok(()) };
        slot.begin(request.body().len(), self.now());
        self.sent_at = Some(self.now());
        self.named += 1;
        let owner = &self.shared.settings.owner;
        let opaque_id = format!("rowtide-{owner}-{}-{}", self.number, self.named);
        let actions = request.items.len();
        self.tell_status(actions, None);
        self.shared.surroundings.controls.goes(actions, request.body().len(), paid);
        let target = self.shared.surroundings.target.clone();
        let mut bulk = target.bulk(Bulk { opaque_id: opaque_id.clone(), body: request.body(), actions });
        let mut open = true;
        let mut late = Some(self.shared.surroundings.world.sleep(TOLD_AFTER));
        let answer = loop {
            tokio::select! {
                biased;
                answer = &mut bulk => break answer,
                answer = answered(&mut self.question) => self.learn(answer),
                input = self.input.recv(), if open => match input {
                    Some(input) => self.accept(input),
                    None => open = false,
                },
                () = passed(&mut late) => self.tell_status(actions, Some("the answer to a bulk request")),
            }
        };
        drop(bulk);
        match answer {
            Ok(outcomes) if outcomes.len() == actions => self.judge_items(request, outcomes, slot).await,
            Ok(outcomes) => {
                let reason = format!("{} outcomes for {actions} actions", outcomes.len());
                let error = TargetError::Unresolved { context: "send a bulk request", reason };
                self.judge_request(request, opaque_id, error, slot).await
            }
            Err(error) => self.judge_request(request, opaque_id, error, slot).await,
        }
    }

    /// Makes the next request of what is ready and allowed.
    async fn cut(&mut self) -> Result<(), Halt> {
        let (count_max, bytes_max) = self.most();
        let mut entries: Vec<Entry> = Vec::new();
        let mut refused = Vec::new();
        let mut bytes = 0;
        while let Some(first) = self.pending.first() {
            let action = &first.action;
            if !self.taints.is_empty() && self.taints.blocks(first.hash, action.version, &action.kind) {
                self.pending.hold_first();
                continue;
            }
            let more = bytes + action.data.len();
            let full = more > bytes_max || entries.len() >= count_max;
            if full && !entries.is_empty() && !first.is_dead() {
                break;
            }
            let Some(entry) = self.pending.take_first() else { break };
            match entry.into_refused() {
                Ok(dead) => refused.push(dead),
                Err(entry) => {
                    bytes = more;
                    entries.push(entry);
                }
            }
        }
        if self.pending.ready_count() == 0 {
            self.ready_since = None;
            self.flush = false;
        }
        if !entries.is_empty() {
            self.requests.push(Request::build(&mut entries));
        }
        self.keep_refused(refused).await
    }

    /// Keeps what can never be sent.
    async fn keep_refused(&mut self, refused: Vec<Refused>) -> Result<(), Halt> {
        if refused.is_empty() {
            return Ok(());
        }
        let mut settling = Settling::default();
        for Refused { entry, dead } in refused {
            let charge = entry.charge();
            let Entry { action, carried, .. } = entry;
            let segment = action.segment;
            let letter = DeadLetter {
                index: self.alias(action.index),
                id: action.id().into(),
                version: action.version,
                reason: dead.reason,
                body: dead.whole.then(|| Bytes::from(action.data)),
                bytes: dead.bytes,
            };
            self.shared.surroundings.dead_letters.keep(letter).await.map_err(Halt::from)?;
            settling.add(segment, End::DeadLettered, &carried);
            self.release(charge);
        }
        settling.tell(&self.shared.events);
        Ok(())
    }

    fn alias(&self, index: u32) -> Arc<str> {
        self.shared.settings.indices.get(index as usize).cloned().unwrap_or_default()
    }

    fn tell_status(&self, in_flight: usize, why: Option<&'static str>) {
        let Some(status) = self.shared.status.get(self.number) else { return };
        let repeated: usize = self.requests.iter().map(|request| request.items.len()).sum();
        let told = LaneStatus {
            pending: self.pending.len(),
            in_flight: in_flight + repeated,
            unresolved: self.taints.unresolved(),
            waiting_for: why.map(str::to_owned).or_else(|| self.waiting_for.clone()),
        };
        *status.lock().unwrap_or_else(PoisonError::into_inner) = told;
    }
}

/// Once, when the time has passed.
async fn passed(time: &mut Option<BoxFuture<'static, ()>>) {
    match time {
        Some(sleep) => sleep.await,
        None => std::future::pending().await,
    }
    *time = None;
}

async fn answered(question: &mut Option<BoxFuture<'static, Answer>>) -> Answer {
    match question {
        Some(question) => question.await,
        None => std::future::pending().await,
    }
}
