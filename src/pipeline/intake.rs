//! From the queue to the lanes, and from the lanes back to the ledger.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use sources::budget::{Budget, Charge};
use sources::change::{Change, Item};
use sources::mutant::{Rule, is_left_out};
use sources::position::{Epoch, Offset, Position, Version};
use sources::queue::{Batch, Costs, Inlet};
use sources::source::{Resume, SourceError, StatusSender};
use sources::world::{BoxFuture, SharedWorld};
use tokio::sync::{mpsc, watch};

use super::barrier::Barrier;
use super::branch::{Branch, drained, left, newest_durable, next_event};
use super::report::Rate;
use super::saver::Saver;
use super::{PipelineError, SourceEnd, judge_source, waits};
use crate::controls::{Controls, Throttle};
use crate::lanes::{Action, Event, Lanes, Stopped};
use crate::ledger::{Checkpoint, Counts};
use crate::retry::Halt;
use crate::shape::{Entered, Shape};
use crate::status::Status;
use crate::store::Store;

/// Between two updates of the status.
const STATUS_EVERY: Duration = Duration::from_millis(250);

/// A healthy target has answered by then; what is waited for longer is told.
const TOLD_AFTER: Duration = Duration::from_secs(5);

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
    pub(super) shape: Shape,
    /// One for each target; never empty.
    pub(super) branches: Vec<Branch>,
    /// Checkpoints of this process so far.
    pub(super) checkpoints: u64,
    pub(super) saver: Saver,
    pub(super) barrier: Barrier,
    pub(super) epoch: Epoch,
    /// The highest version issued by this process, or the ceiling of the one before.
    pub(super) highest: u64,
    pub(super) status: Arc<watch::Sender<Status>>,
    pub(super) source_status: StatusSender,
    /// Tells when an index is not ours any more, or a lease was lost.
    pub(super) watched: mpsc::UnboundedReceiver<Halt>,
    /// How the last process ended; nothing was read since.
    pub(super) clean: bool,
    /// The end may be told as a clean one: the last one was, or the source's history was found to go
    /// on. A start that halts at a broken history must not make the next one believe it.
    pub(super) is_trusted: bool,
    pub(super) budget: Budget,
    pub(super) documents: Rate,
    pub(super) bytes: Rate,
    /// What a person asks of the pipeline.
    pub(super) controls: Controls,
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
        let states: Vec<_> = self.branches.iter().map(|branch| branch.lease.document()).collect();
        let ceiling = states.iter().map(|state| state.ceiling).max().unwrap_or_default();
        let base = states.first().map_or(0, |state| state.base);
        // One version for all targets: an update of their documents that was cut short is begun anew.
        let agreed = states.iter().all(|state| state.identity == identity && state.base == base);
        let known = agreed && self.has_position;
        let base = if known {
            base
        } else if ceiling == 0 || is_left_out(Rule::BaseIsRaised) {
            // Nothing was ever issued: versions are the source's own offsets.
            0
        } else {
            Epoch::after(ceiling, first).base
        };
        self.epoch = Epoch { base };
        if !known {
            tracing::info!(identity, base, "a new history: its versions lie above all that were issued");
            for branch in &self.branches {
                let adopt = branch.lease.update(|state| {
                    identity.clone_into(&mut state.identity);
                    state.base = base;
                });
                adopt.await?;
            }
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
        let read_before = self.read();
        let mut tick = self.world.sleep(STATUS_EVERY);
        let mut end = None;
        loop {
            let step = tokio::select! {
                biased;
                (number, event) = next_event(&mut self.branches) => self.hear(number, event),
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
        let moved = self.read() > read_before;
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
            self.raise_ceilings(version).await?;
            self.highest = self.highest.max(version.get());
        }
        let mut actions = self.outgoing(items.len());
        for item in items {
            match item {
                Item::Change(change) => self.action(&change, &mut actions)?,
                Item::Checkpoint(position) => {
                    let bytes = self.costs().of_checkpoint(&position);
                    self.seal(position, charge.split(bytes)).await?;
                }
                Item::Clear { table, offset } => {
                    self.submit_before(&mut actions, &mut charge);
                    self.clear(&table, offset).await?;
                }
                Item::Sweep { table, below, offset } => {
                    self.submit_before(&mut actions, &mut charge);
                    self.sweep(&table, below, offset).await?;
                }
            }
        }
        self.submit(actions, charge);
        Ok(())
    }

    /// Nothing is issued above what each target's state document allows; a target that is away is waited for.
    async fn raise_ceilings(&self, version: Version) -> Result<(), PipelineError> {
        for branch in &self.branches {
            if version.get() <= branch.lease.ceiling() {
                continue;
            }
            let mut raised = pin!(branch.lease.ensure_ceiling(version.get()));
            tokio::select! {
                biased;
                done = &mut raised => done?,
                () = self.world.sleep(TOLD_AFTER) => {
                    waits(&self.status, &format!("the target {} to answer, before its first document", branch.name));
                    raised.await?;
                }
            }
        }
        Ok(())
    }

    /// Room for the actions of each target.
    fn outgoing(&self, capacity: usize) -> Vec<Vec<Action>> {
        self.branches.iter().map(|_| Vec::with_capacity(capacity)).collect()
    }

    /// What came before a barrier goes into the lanes, with its part of the charge.
    fn submit_before(&mut self, actions: &mut Vec<Vec<Action>>, charge: &mut Charge) {
        let part = actions.iter().map(|own| cost_of(own)).sum();
        let before = std::mem::replace(actions, self.outgoing(0));
        self.submit(before, charge.split(part));
    }

    /// Renders a change, once, and hands each target its copy.
    fn action(&mut self, change: &Change, actions: &mut [Vec<Action>]) -> Result<(), PipelineError> {
        let version = self.version(change.offset)?;
        let charge = self.costs().of_change(change) / self.branches.len().max(1);
        let mut pairs = self.branches.iter_mut().zip(actions);
        let Some((first, own)) = pairs.next() else { return Ok(()) };
        let entered = Entered { segment: first.ledger.enter(1), charge };
        let rendered = self.shape.render(change, version, entered);
        let rendered = rendered.map_err(|error| PipelineError::from(Halt::from(error)))?;
        for (branch, actions) in pairs {
            actions.push(Action { segment: branch.ledger.enter(1), ..rendered.clone() });
        }
        own.push(rendered);
        Ok(())
    }

    /// How the queue reckons what the shape will make of a row.
    pub(super) fn costs(&self) -> Costs {
        Costs {
            render_bytes: self.shape.render_bytes(),
            growth: self.shape.growth(),
            copies: self.branches.len().max(1),
        }
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

    /// Hands each target's actions to its lanes, with their part of the charge.
    fn submit(&self, actions: Vec<Vec<Action>>, mut charge: Charge) {
        let last = self.branches.len().saturating_sub(1);
        for (number, (branch, own)) in self.branches.iter().zip(actions).enumerate() {
            if own.is_empty() {
                continue;
            }
            // The last one has all that is left: what lies beyond is given back.
            let part = if number == last { charge.bytes() } else { cost_of(&own) };
            // Lanes that have halted say why through their events.
            let _ = branch.lanes.submit(own, charge.split(part));
        }
    }

    /// What the lanes of a target told: settled changes go into its ledger, a position that is durable at
    /// every target to the saver.
    pub(super) fn hear(&mut self, number: usize, event: Option<Event>) -> Result<(), PipelineError> {
        match event {
            None => Err(PipelineError::Failed("the lanes have ended".to_owned())),
            Some(Event::Halted(halt)) => Err(PipelineError::from(halt)),
            Some(Event::Settled(settled)) => {
                let Some(branch) = self.branches.get_mut(number) else { return Ok(()) };
                for (segment, ends) in settled {
                    let told = branch.ledger.settle(segment, &ends);
                    told.map_err(|error| PipelineError::Failed(error.to_string()))?;
                }
                if let Some(durable) = newest_durable(&mut self.branches) {
                    self.saver.save(durable.position().clone());
                }
                Ok(())
            }
        }
    }

    /// Takes in all that the lanes have told by now.
    fn hear_all(&mut self) -> Result<(), PipelineError> {
        for number in 0..self.branches.len() {
            while let Some(Ok(event)) = self.branches.get_mut(number).map(|branch| branch.events.try_recv()) {
                self.hear(number, Some(event))?;
            }
        }
        Ok(())
    }

    async fn seal(&mut self, position: Position, charge: Charge) -> Result<(), PipelineError> {
        self.checkpoints += 1;
        let checkpoint = Checkpoint::charged(self.checkpoints, position, charge);
        for branch in &mut self.branches {
            branch.ledger.seal(checkpoint.clone());
        }
        drop(checkpoint);
        if let Some(durable) = newest_durable(&mut self.branches) {
            self.saver.save(durable.position().clone());
            if !self.has_position {
                // Before the first document goes out: a start after a crash then knows that the
                // documents in the index are its own.
                self.saver.settle().await?;
                self.has_position = true;
            }
        }
        Ok(())
    }

    /// Everything that was submitted is settled, and what that makes durable is saved; how many requests may
    /// still be executed unseen.
    pub(super) async fn drain(&mut self) -> Result<usize, PipelineError> {
        let lanes = self.lanes();
        if let Err(ended) = lanes.iter().try_for_each(|lanes| lanes.flush()) {
            // Why is told by what was not heard yet.
            self.hear_all()?;
            return Err(lanes_ended(ended));
        }
        self.hear_until(drained(lanes)).await
    }

    /// The same at the end of a pipeline that a person has paused or made slow: what was not sent is left, and read
    /// again by the next process.
    async fn leave(&mut self) -> Result<usize, PipelineError> {
        let lanes = self.lanes();
        self.hear_until(left(lanes)).await
    }

    fn lanes(&self) -> Vec<Arc<Lanes>> {
        self.branches.iter().map(|branch| branch.lanes.clone()).collect()
    }

    /// Hears what the lanes tell while they end their work, and saves what that makes durable.
    async fn hear_until(
        &mut self,
        ending: impl Future<Output = Result<usize, Stopped>>,
    ) -> Result<usize, PipelineError> {
        let mut tick = self.world.sleep(STATUS_EVERY);
        let drained = {
            let mut draining = std::pin::pin!(ending);
            loop {
                let step = tokio::select! {
                    biased;
                    drained = &mut draining => break drained,
                    halt = self.watched.recv() => halted(halt),
                    // Heard at once: whoever gives this drain up must not lose what was settled.
                    (number, event) = next_event(&mut self.branches) => self.hear(number, event),
                    () = &mut tick => {
                        tick = self.world.sleep(STATUS_EVERY);
                        self.say_what_is_due();
                        Ok(())
                    }
                };
                step?;
            }
        };
        self.hear_all()?;
        let unresolved = drained.map_err(lanes_ended)?;
        self.saver.settle().await?;
        Ok(unresolved)
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
        let is_free = !self.controls.is_paused() && self.controls.throttle() == Throttle::default();
        let unresolved = if is_free { self.drain().await? } else { self.leave().await? };
        if unresolved > 0 {
            return Err(PipelineError::Failed(format!("{unresolved} requests are unresolved")));
        }
        let now = self.world.now();
        if self.branches.iter().any(|branch| now < branch.quarantine_ends) {
            // The next start keeps the quarantine that this one did not see the end of.
            return Ok(());
        }
        for branch in &mut self.branches {
            branch.watchers.clear();
            branch.lease.release(Some(self.highest)).await?;
        }
        if !self.is_trusted || !self.branches.iter().all(|branch| branch.ledger.is_covered()) {
            // Another server may lack what was written beyond the checkpoint (law 8): the next start
            // must not take its timeline for a continuation.
            return Ok(());
        }
        store.finish(&self.pipeline, None).await?;
        Ok(())
    }

    /// What was counted for each target, for the one that goes on in its place: what is not settled is read
    /// again.
    pub(super) fn counted(&self) -> Vec<Counts> {
        let settled = |branch: &Branch| {
            let ends = branch.ledger.counts().ends;
            Counts { read: ends.total(), ends }
        };
        self.branches.iter().map(settled).collect()
    }

    /// Changes that have entered, each once for each target.
    fn read(&self) -> u64 {
        self.branches.iter().map(|branch| branch.ledger.counts().read).sum()
    }
}

fn lanes_ended(_: Stopped) -> PipelineError {
    PipelineError::Failed("the lanes have ended".to_owned())
}

fn place_of(item: &Item) -> Option<Offset> {
    match item {
        Item::Change(change) => Some(change.offset),
        Item::Clear { offset, .. } | Item::Sweep { offset, .. } => Some(*offset),
        Item::Checkpoint(_) => None,
    }
}

fn cost_of(actions: &[Action]) -> usize {
    actions.iter().map(|action| action.charge).sum()
}

fn halted(halt: Option<Halt>) -> Result<(), PipelineError> {
    match halt {
        Some(halt) => Err(PipelineError::from(halt)),
        // The watchers are held by the intake: they end with it.
        None => Ok(()),
    }
}
