//! From the queue to the lanes, and from the lanes back to the ledger.

use std::sync::Arc;
use std::time::Duration;

use sources::change::{Change, Item};
use sources::mutant::{Rule, is_left_out};
use sources::position::{Epoch, Offset, Position, Version};
use sources::queue::{Batch, Costs, Inlet};
use sources::source::{Resume, SourceError, StatusSender};
use sources::world::{BoxFuture, Moment, SharedWorld, Task};
use tokio::sync::{mpsc, watch};

use super::barrier::Barrier;
use super::saver::Saver;
use super::{PipelineError, SharedTarget, SourceEnd, judge_source};
use crate::dead_letters::DeadLetters;
use crate::lanes::{Action, Event, LaneStatus, Lanes};
use crate::lease::Lease;
use crate::ledger::{Counts, Ledger};
use crate::retry::Halt;
use crate::shape::{Entered, Shape};
use crate::status::{State, Status};
use crate::store::Store;

/// Between two updates of the status.
const STATUS_EVERY: Duration = Duration::from_millis(250);

/// Why taking in has ended.
pub(super) enum Ended {
    /// It was told.
    Stopped,
    /// The source must be opened again. `moved`: something had come.
    SourceLost {
        why: String,
        moved: bool,
    },
    /// The pipeline must be started anew with the tables that are there.
    TablesChanged(String),
    Failed(PipelineError),
}

/// Everything right of the queue, over the life of the process.
pub(super) struct Intake {
    pub(super) world: SharedWorld,
    pub(super) pipeline: String,
    pub(super) target: SharedTarget,
    pub(super) shape: Shape,
    pub(super) lanes: Lanes,
    pub(super) events: mpsc::UnboundedReceiver<Event>,
    pub(super) ledger: Ledger,
    pub(super) lease: Arc<Lease>,
    pub(super) saver: Saver,
    pub(super) barrier: Barrier,
    pub(super) letters: Arc<dyn DeadLetters>,
    pub(super) epoch: Epoch,
    /// The highest version issued by this process, or the ceiling of the one before.
    pub(super) highest: u64,
    pub(super) status: Arc<watch::Sender<Status>>,
    pub(super) source_status: StatusSender,
    /// Tells when an index is not ours any more, or the lease was lost.
    pub(super) watched: mpsc::UnboundedReceiver<Halt>,
    pub(super) watchers: Vec<Task>,
    /// How the last process ended; nothing was read since.
    pub(super) clean: bool,
    /// The end may be told as a clean one: the last one was, or the source's history was found to go
    /// on. A start that halts at a broken history must not make the next one believe it.
    pub(super) is_trusted: bool,
    /// Until then requests of the last process may still be executed.
    pub(super) quarantine_ends: Moment,
    pub(super) budget: sources::budget::Budget,
    pub(super) documents: Rate,
    /// A first checkpoint is kept: from then on the index is filled by this store.
    pub(super) has_position: bool,
}

impl Intake {
    /// Where the source goes on: what was saved last.
    pub(super) async fn resume(&mut self, store: &dyn Store) -> Result<Option<Resume>, PipelineError> {
        self.saver.settle().await?;
        let saved = store.load(&self.pipeline).await?;
        Ok(saved.position.map(|position| Resume { position, clean: self.clean }))
    }

    /// Law 1: whose versions are issued from here on.
    pub(super) async fn adopt(
        &mut self,
        identity: &str,
        first: Offset,
        store: &dyn Store,
    ) -> Result<(), PipelineError> {
        let state = self.lease.document();
        let known = state.identity == identity && self.has_position;
        let base = if known {
            state.base
        } else if state.ceiling == 0 || is_left_out(Rule::BaseIsRaised) {
            // Nothing was ever issued: versions are the source's own offsets.
            0
        } else {
            Epoch::after(state.ceiling, first).base
        };
        self.epoch = Epoch { base };
        if !known {
            tracing::info!(identity, base, "a new history: its versions lie above all that were issued");
            self.lease
                .update(|state| {
                    identity.clone_into(&mut state.identity);
                    state.base = base;
                })
                .await?;
        }
        store.identify(&self.pipeline, identity).await?;
        // From here on changes are emitted; what failed to open before has emitted none.
        self.clean = false;
        self.is_trusted = true;
        Ok(())
    }

    pub(super) fn durable(&self) -> watch::Receiver<Option<Position>> {
        self.saver.durable()
    }

    /// Takes in what the reader emits until one of them ends.
    pub(super) async fn take_in(
        &mut self,
        reading: BoxFuture<'static, Result<(), SourceError>>,
        mut inlet: Inlet,
    ) -> Ended {
        let (told, mut ended) = tokio::sync::oneshot::channel();
        let reader = async move {
            // Nobody listens when the intake has failed first.
            let _ = told.send(reading.await);
        };
        let _task = self.world.spawn(Box::pin(reader));
        let read_before = self.ledger.counts().read;
        let mut tick = self.world.sleep(STATUS_EVERY);
        let mut end = None;
        loop {
            let step = tokio::select! {
                biased;
                event = self.events.recv() => self.hear(event),
                halt = self.watched.recv() => halted(halt),
                halt = self.saver.failed() => Err(halt.into()),
                result = &mut ended, if end.is_none() => {
                    end = Some(result.unwrap_or(Err(SourceError::Closed)));
                    Ok(())
                }
                batch = inlet.recv() => match batch {
                    Some(batch) => self.take(batch).await,
                    // The reader is gone with its end of the queue; its word may come a moment later.
                    None if end.is_none() => match (&mut ended).await {
                        Ok(result) => { end = Some(result); Ok(()) }
                        Err(_) => { end = Some(Err(SourceError::Closed)); Ok(()) }
                    },
                    None => break,
                },
                () = &mut tick => {
                    tick = self.world.sleep(STATUS_EVERY);
                    self.report();
                    Ok(())
                }
            };
            if let Err(error) = step {
                return Ended::Failed(error);
            }
        }
        let moved = self.ledger.counts().read > read_before;
        match end {
            None | Some(Ok(())) => Ended::Stopped,
            Some(Err(error)) => match judge_source(error) {
                SourceEnd::Again(why) => Ended::SourceLost { why, moved },
                SourceEnd::Anew(what) => Ended::TablesChanged(what),
                SourceEnd::End(error) => Ended::Failed(error),
            },
        }
    }

    async fn take(&mut self, batch: Batch) -> Result<(), PipelineError> {
        let Batch { items, mut charge } = batch;
        if is_left_out(Rule::ChargesOutliveThePop) {
            charge = self.budget.nothing();
        }
        let highest = items.iter().filter_map(place_of).max();
        if let Some(offset) = highest {
            let version = self.version(offset)?;
            self.lease.ensure_ceiling(version.get()).await?;
            self.highest = self.highest.max(version.get());
        }
        let mut actions = Vec::with_capacity(items.len());
        for item in items {
            match item {
                Item::Change(change) => {
                    actions.push(self.action(&change)?);
                }
                Item::Checkpoint(position) => {
                    let bytes = self.costs().of_checkpoint(&position);
                    self.ledger.seal_charged(position, charge.split(bytes));
                    self.save_durable().await?;
                }
                Item::Clear { table, offset } => {
                    self.submit_before(&mut actions, &mut charge)?;
                    self.clear(&table, offset).await?;
                }
                Item::Sweep { table, below, offset } => {
                    self.submit_before(&mut actions, &mut charge)?;
                    self.sweep(&table, below, offset).await?;
                }
            }
        }
        self.submit(actions, charge)
    }

    /// What came before a barrier goes into the lanes, with its part of the charge.
    fn submit_before(
        &mut self,
        actions: &mut Vec<Action>,
        charge: &mut sources::budget::Charge,
    ) -> Result<(), PipelineError> {
        let part = actions.iter().map(|action| action.charge).sum();
        self.submit(std::mem::take(actions), charge.split(part))
    }

    fn action(&mut self, change: &Change) -> Result<Action, PipelineError> {
        let version = self.version(change.offset)?;
        let entered = Entered { segment: self.ledger.enter(1), charge: self.costs().of_change(change) };
        self.shape.render(change, version, entered).map_err(|error| PipelineError::from(Halt::from(error)))
    }

    /// How the queue reckons what the shape will make of a row.
    pub(super) fn costs(&self) -> Costs {
        Costs { render_bytes: self.shape.render_bytes() }
    }

    /// The one place where an offset becomes a version.
    pub(super) fn version(&self, offset: Offset) -> Result<Version, PipelineError> {
        self.epoch.version(offset).ok_or_else(|| {
            PipelineError::from(Halt {
                state: "version-out-of-range",
                what: format!(
                    "offset {} with base {} leaves the versions below 2^53",
                    offset.get(),
                    self.epoch.base
                ),
                hint: "fill the index anew with existing = \"replace\"".into(),
            })
        })
    }

    pub(super) fn submit(
        &self,
        actions: Vec<Action>,
        charge: sources::budget::Charge,
    ) -> Result<(), PipelineError> {
        if actions.is_empty() {
            return Ok(());
        }
        // Lanes that have halted say why through their events.
        let _ = self.lanes.submit(actions, charge);
        Ok(())
    }

    pub(super) fn hear(&mut self, event: Option<Event>) -> Result<(), PipelineError> {
        heard(&mut self.ledger, &self.saver, event)
    }

    async fn save_durable(&mut self) -> Result<(), PipelineError> {
        if let Some(position) = self.ledger.take_durable() {
            self.saver.save(position);
            if !self.has_position {
                // Before the first document goes out: a start after a crash then knows that the
                // documents in the index are its own.
                self.saver.settle().await?;
                self.has_position = true;
            }
        }
        Ok(())
    }

    /// Everything that was submitted is settled, and what that makes durable is saved.
    pub(super) async fn drain(&mut self) -> Result<usize, PipelineError> {
        let stopped = |_| PipelineError::Failed("the lanes have ended".to_owned());
        if let Err(ended) = self.lanes.flush() {
            // Why is told by what was not heard yet.
            while let Ok(event) = self.events.try_recv() {
                self.hear(Some(event))?;
            }
            return Err(stopped(ended));
        }
        let Self { lanes, ledger, saver, watched, events, status, world, .. } = self;
        let mut tick = world.sleep(STATUS_EVERY);
        let drained = {
            let mut draining = std::pin::pin!(lanes.drain());
            loop {
                tokio::select! {
                    biased;
                    drained = &mut draining => break drained,
                    halt = watched.recv() => halted(halt)?,
                    // Heard at once: whoever gives this drain up must not lose what was settled.
                    event = events.recv() => heard(ledger, saver, event)?,
                    () = &mut tick => {
                        tick = world.sleep(STATUS_EVERY);
                        say_what_is_due(status, &lanes.status(), ledger.counts().in_flight());
                    }
                }
            }
        };
        while let Ok(event) = self.events.try_recv() {
            self.hear(Some(event))?;
        }
        let drained = drained.map_err(stopped)?;
        self.saver.settle().await?;
        Ok(drained.unresolved)
    }

    /// Ends when something beside the stream makes going on impossible.
    pub(super) async fn failed(&mut self) -> PipelineError {
        tokio::select! {
            biased;
            halt = self.watched.recv() => match halted(halt) {
                Err(error) => error,
                Ok(()) => PipelineError::Failed("the watchers have ended".to_owned()),
            },
            halt = self.saver.failed() => halt.into(),
        }
    }

    /// The end: waits for answers, saves, and says whether all of it is in order.
    pub(super) async fn close(&mut self, store: &dyn Store) -> Result<(), PipelineError> {
        let unresolved = self.drain().await?;
        if unresolved > 0 {
            return Err(PipelineError::Failed(format!("{unresolved} requests are unresolved")));
        }
        if self.world.now() < self.quarantine_ends {
            // The next start keeps the quarantine that this one did not see the end of.
            return Ok(());
        }
        self.watchers.clear();
        self.lease.release(Some(self.highest)).await?;
        if !self.is_trusted || !self.ledger.is_covered() {
            // Another server may lack what was written beyond the checkpoint (law 8): the next start
            // must not take its timeline for a continuation.
            return Ok(());
        }
        store.finish(&self.pipeline, None).await?;
        Ok(())
    }

    /// What was counted, for the one that goes on in its place: what is not settled is read again.
    pub(super) fn counted(&self) -> Counts {
        let ends = self.ledger.counts().ends;
        Counts { read: ends.total(), ends }
    }

    /// What `status` shows.
    pub(super) fn report(&mut self) {
        let counts = self.ledger.counts();
        let source = self.source_status.borrow().clone();
        let now = self.world.now();
        let docs_per_s = self.documents.at(now, counts.ends.total());
        let checkpoint_age = self.saver.saved_at().map(|at| now.saturating_sub(at));
        let lanes = self.lanes.status();
        let waiting = source.waiting_for.clone().or_else(|| source.reads_wait_for.clone());
        let waiting = waiting.or_else(|| lanes.iter().find_map(|lane| lane.waiting_for.clone()));
        let filled = source.tables.iter().all(|table| table.done);
        let lag = self.lag(&source, counts.in_flight());
        self.status.send_modify(|status| {
            if status.state != State::Stopping {
                status.state = match (&waiting, filled) {
                    (Some(_), _) => State::Waiting,
                    (None, true) => State::Following,
                    (None, false) => State::Backfilling,
                };
                status.reason = waiting;
            }
            // A displaced row of a read was read, and superseded at the merge (law 6).
            status.counts = counts;
            status.counts.read += source.rows_displaced;
            status.counts.ends.superseded += source.rows_displaced;
            status.docs_per_s = docs_per_s;
            status.lag = lag;
            status.checkpoint_age = checkpoint_age;
            status.memory.used = self.budget.used();
            status.memory.most = self.budget.most_used();
            status.memory.limit = self.budget.limit();
            status.source = source;
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

fn place_of(item: &Item) -> Option<Offset> {
    match item {
        Item::Change(change) => Some(change.offset),
        Item::Clear { offset, .. } | Item::Sweep { offset, .. } => Some(*offset),
        Item::Checkpoint(_) => None,
    }
}

/// What the lanes told: settled changes go into the ledger, a durable position to the saver.
fn heard(ledger: &mut Ledger, saver: &Saver, event: Option<Event>) -> Result<(), PipelineError> {
    match event {
        None => Err(PipelineError::Failed("the lanes have ended".to_owned())),
        Some(Event::Halted(halt)) => Err(PipelineError::from(halt)),
        Some(Event::Settled(settled)) => {
            for (segment, ends) in settled {
                let told = ledger.settle(segment, &ends);
                told.map_err(|error| PipelineError::Failed(error.to_string()))?;
            }
            if let Some(position) = ledger.take_durable() {
                saver.save(position);
            }
            Ok(())
        }
    }
}

/// A drain before the source is opened again waits for the target: not for the source any more.
fn say_what_is_due(status: &watch::Sender<Status>, lanes: &[LaneStatus], in_flight: u64) {
    let why = lanes.iter().find_map(|lane| lane.waiting_for.clone());
    let why = why.unwrap_or_else(|| format!("the target's answers about {in_flight} changes"));
    status.send_if_modified(|status| {
        if status.state == State::Waiting {
            status.reason = Some(why);
            return true;
        }
        false
    });
}

fn halted(halt: Option<Halt>) -> Result<(), PipelineError> {
    match halt {
        Some(halt) => Err(PipelineError::from(halt)),
        // The watchers are held by the intake: they end with it.
        None => Ok(()),
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
