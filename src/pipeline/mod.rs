//! One pipeline: a source's stream into a target, from the queue to the durable checkpoint.
//!
//! ```text
//!   Reader ══ queue ══► intake: version, shape ─► lanes ─► target       (`branch`: one for each target)
//!     ▲                    │ enter                  │ settled
//!     │                    ▼                        ▼
//!     └── durable ◄── saver ◄──────────────────── ledger
//! ```
//! - Nothing is written before law 1's state document says whose versions are issued (`start`).
//! - A position is saved when the ledger says so, then it is told to the source (law 4).
//! - A source that is lost is opened again from the last durable position, after everything that it
//!   had emitted is settled: so no older change meets a newer one in a lane.
//! - The end waits for answers for [`END_LIMIT`], saves what is settled, and says whether it was clean.

use std::sync::Arc;
use std::time::Duration;

use sources::budget::Budget;
use sources::mutant::{Rule, is_left_out};
use sources::queue::queue;
use sources::source::{Continuity, Link, Resume, Source, SourceError, SourceStatus, StatusSender, Stop};
use sources::world::{SharedWorld, within};
use tokio::sync::watch;

use crate::config::{PipelineConfig, PipelineSettings, TargetSettings};
use crate::controls::Controls;
use crate::dead_letters::DeadLetters;
use crate::lease::LeaseError;
use crate::ledger::Counts;
use crate::retry::{Halt, backoff};
use crate::status::{State, Status};
use crate::store::{LetterLimits, Sqlite, Store, StoreError, letters_of};
use crate::target::elasticsearch::Elasticsearch;
use crate::target::{Target, TargetError};

mod barrier;
mod branch;
mod decision;
mod easing;
mod insist;
mod intake;
mod report;
mod saver;
mod start;
mod watcher;

use intake::{Ended, Intake};
pub(crate) use watcher::judge_odd;

/// How long the end waits for answers: less than the 10 s after which most supervisors kill.
pub const END_LIMIT: Duration = Duration::from_secs(8);

/// What a person does when the log between index and source is lost.
pub(crate) const FILL_ANEW: &str = "fill the index anew: empty data_dir and set existing = \"replace\" on the target \
     (where data_dir serves other pipelines too: rowtide remove SOURCE --delete-index)";

/// Why a pipeline ended other than by being told.
#[derive(Debug, thiserror::Error)]
pub enum PipelineError {
    /// A person must act.
    #[error(transparent)]
    Halt(#[from] Halt),
    /// Something that nobody foresaw.
    #[error("{0}")]
    Failed(String),
}

impl From<StoreError> for PipelineError {
    fn from(error: StoreError) -> Self {
        Halt::from(error).into()
    }
}

impl From<LeaseError> for PipelineError {
    fn from(error: LeaseError) -> Self {
        Halt::from(error).into()
    }
}

/// What a source's failure means for its pipeline.
pub(crate) enum SourceEnd {
    /// Wait and open it again.
    Again(String),
    /// Its tables are others: start anew with them.
    Anew(String),
    /// End.
    End(PipelineError),
}

pub(crate) fn judge_source(error: SourceError) -> SourceEnd {
    match error {
        SourceError::Wait { .. } => SourceEnd::Again(error.to_string()),
        SourceError::Halt { state, what, hint } => SourceEnd::End(Halt { state, what, hint }.into()),
        SourceError::Changed { what } => SourceEnd::Anew(what),
        SourceError::Closed => SourceEnd::Again("the pipeline's queue was closed".to_owned()),
    }
}

/// Between a change of the tables and the new start.
const TABLES_CHANGED_PAUSE: Duration = Duration::from_millis(200);

/// What a pipeline is made of. [`run`] makes it of a configuration; a simulation brings models.
pub struct Parts {
    /// The pipeline's name and its tables.
    pub settings: PipelineSettings,
    /// Where changes come from.
    pub source: Arc<dyn Source>,
    /// Where documents go: to each of them; never empty.
    pub targets: Vec<TargetParts>,
    /// Where checkpoints are kept.
    pub store: Arc<dyn Store>,
    /// What all of it may hold.
    pub budget: Budget,
    /// The most bytes one row may have.
    pub document_bytes_max: usize,
    /// What a person asks of it while it runs.
    pub controls: Controls,
}

/// One target of a pipeline.
pub struct TargetParts {
    /// Its name, and how it is written to.
    pub writes: TargetSettings,
    /// The cluster.
    pub target: SharedTarget,
    /// Where its dead letters are kept.
    pub letters: Arc<dyn DeadLetters>,
}

/// What a pipeline is made of, again for each of its runs.
pub struct Plan {
    /// The pipeline's name and its tables.
    pub settings: PipelineSettings,
    /// Where changes come from. It remembers over the runs what it has emitted.
    pub source: Arc<dyn Source>,
    /// Where documents go; never empty.
    pub targets: Vec<TargetSettings>,
    /// The process's store.
    pub store: Sqlite,
    /// The pipeline's own share.
    pub budget: Budget,
    /// What the dead letters of each target may hold.
    pub letters: LetterLimits,
    /// The largest document, in bytes.
    pub document_bytes_max: usize,
    /// What a person asks of it while it runs; it goes on over restarts.
    pub controls: Controls,
}

impl Plan {
    /// The plan of a pipeline; `letters_bytes` is what the dead letters of each of its targets may hold on the disk.
    pub fn new(config: PipelineConfig, store: Sqlite, letters_bytes: u64, document_bytes_max: usize) -> Self {
        let PipelineConfig { source, targets: writes, settings, budget_bytes } = config;
        let budget = Budget::new(budget_bytes);
        // As much as all lanes may have under way.
        let under_way = |target: &TargetSettings| target.lanes.saturating_mul(target.bulk_bytes_max);
        budget.keep_ahead(writes.iter().map(under_way).fold(0, usize::saturating_add));
        let all_bytes = letters_bytes.saturating_mul(writes.len() as u64);
        let letters = LetterLimits::of_each(writes.len(), all_bytes, &budget);
        Self {
            settings,
            source: source.source,
            targets: writes,
            store,
            budget,
            letters,
            document_bytes_max,
            controls: Controls::default(),
        }
    }

    /// Connects nothing yet.
    async fn parts(&self, world: &SharedWorld) -> Result<Parts, PipelineError> {
        let mut targets = Vec::with_capacity(self.targets.len());
        for (number, writes) in self.targets.iter().enumerate() {
            let target = Elasticsearch::new(writes.client_settings(), world.clone()).map_err(refused)?;
            if number == 0 {
                self.store.name_letters(&self.settings.name, &writes.name).await?;
            }
            let owner = letters_of(&self.settings.name, &writes.name);
            let letters = self.store.letters(&owner, self.letters, &self.budget).await.map_err(Halt::from)?;
            let letters = Arc::new(letters);
            targets.push(TargetParts { writes: writes.clone(), target: Arc::new(target), letters });
        }
        Ok(Parts {
            settings: self.settings.clone(),
            source: self.source.clone(),
            targets,
            store: Arc::new(self.store.clone()),
            budget: self.budget.clone(),
            document_bytes_max: self.document_bytes_max,
            controls: self.controls.clone(),
        })
    }
}

/// Runs a pipeline once until it is told to stop.
pub async fn run(
    plan: Arc<Plan>,
    world: SharedWorld,
    stop: Stop,
    status: watch::Sender<Status>,
) -> Result<(), PipelineError> {
    let parts = plan.parts(&world).await?;
    run_parts(parts, world, stop, status).await
}

/// Runs a pipeline of these parts until it is told to stop.
pub async fn run_parts(
    parts: Parts,
    world: SharedWorld,
    stop: Stop,
    status: watch::Sender<Status>,
) -> Result<(), PipelineError> {
    let mut pipeline = Pipeline {
        parts,
        world,
        stop,
        status: Arc::new(status),
        source_status: silent(),
        before: None,
        told: None,
    };
    loop {
        let Some(intake) = pipeline.start().await? else { return Ok(()) };
        let Some(counts) = pipeline.follow(intake).await? else { return Ok(()) };
        pipeline.before = Some(counts);
    }
}

fn refused(error: TargetError) -> PipelineError {
    match error {
        TargetError::Halt { context, reason, hint } => {
            Halt { state: "target-refuses", what: format!("{context}: {reason}"), hint }.into()
        }
        other => PipelineError::Failed(other.to_string()),
    }
}

pub(crate) struct Pipeline {
    parts: Parts,
    pub world: SharedWorld,
    pub stop: Stop,
    pub status: Arc<watch::Sender<Status>>,
    source_status: StatusSender,
    /// What was counted for each target before the tables changed, in this process; `None` before the first
    /// start.
    before: Option<Vec<Counts>>,
    /// Which change of the tables was told last, and how often in a row.
    told: Option<(String, u32)>,
}

impl Pipeline {
    fn say(&self, state: State) {
        self.status.send_modify(|status| {
            status.state = state;
            status.reason = None;
        });
    }

    fn wait_for(&self, why: &str) {
        waits(&self.status, why);
    }

    /// Waits, unless it is told to stop first; whether it may go on.
    async fn pause(&mut self, time: Duration) -> bool {
        tokio::select! {
            biased;
            () = self.stop.told() => false,
            () = self.world.sleep(time) => true,
        }
    }

    /// Opens the source, reads it, and opens it again when it is lost, until the end, or (`Some`) until the
    /// tables have changed: everything up to there is settled and recorded, and this was counted.
    async fn follow(&mut self, mut intake: Intake) -> Result<Option<Vec<Counts>>, PipelineError> {
        let mut tries = 0;
        let ended = loop {
            let resume = intake.resume(self.parts.store.as_ref()).await?;
            let mut stop = self.stop.clone();
            let opened = tokio::select! {
                biased;
                () = stop.told() => break Ok(false),
                opened = self.open(resume) => opened,
                failed = intake.failed() => break Err(failed),
            };
            let reader = match opened.map_err(judge_source) {
                Ok(reader) => reader,
                Err(SourceEnd::End(error)) => break Err(error),
                Err(SourceEnd::Anew(what)) => break self.tables_changed(&what).await,
                Err(SourceEnd::Again(why)) => {
                    self.wait_for(&why);
                    tries += 1;
                    if !self.pause(backoff(tries, self.world.random())).await {
                        break Ok(false);
                    }
                    continue;
                }
            };
            if let Continuity::Broken { reason } = reader.continuity()
                && !is_left_out(Rule::BrokenHistoryHalts)
            {
                break Err(PipelineError::Halt(Halt {
                    state: "history-broken",
                    what: format!("the source's log does not go on where the checkpoint left it: {reason}"),
                    hint: FILL_ANEW.to_owned(),
                }));
            }
            let (identity, first, store) =
                (reader.identity().to_owned(), reader.first(), self.parts.store.clone());
            if let Err(error) = intake.adopt(&identity, first, store.as_ref()).await {
                break Err(error);
            }
            self.say(State::Backfilling);
            let (outlet, inlet) = queue(self.parts.budget.clone(), intake.costs());
            let link = Link {
                outlet,
                durable: intake.durable(),
                status: self.source_status.clone(),
                stop: self.stop.clone(),
            };
            match intake.take_in(reader.run(link), inlet).await {
                Ended::Stopped => break Ok(false),
                Ended::Failed(error) => break Err(error),
                // A reader that waits for room when it is told to stop has nothing to hand over.
                Ended::SourceLost { .. } | Ended::TablesChanged(_) if self.stop.is_told() => break Ok(false),
                Ended::TablesChanged(what) => break self.tables_changed(&what).await,
                Ended::SourceLost { why, moved } => {
                    tracing::warn!(error = why, "the source was lost; it is opened again");
                    self.wait_for(&why);
                    if moved {
                        tries = 0;
                    }
                    tokio::select! {
                        biased;
                        () = self.stop.told() => break Ok(false),
                        drained = intake.drain() => if let Err(error) = drained { break Err(error) },
                    }
                    self.wait_for(&why);
                    tries += 1;
                    if !self.pause(backoff(tries, self.world.random())).await {
                        break Ok(false);
                    }
                }
            }
        };
        self.leave(intake, ended).await
    }

    /// The end of following: for good, or (`Ok(true)`) until the tables that are there are looked up.
    async fn leave(
        &mut self,
        mut intake: Intake,
        ended: Result<bool, PipelineError>,
    ) -> Result<Option<Vec<Counts>>, PipelineError> {
        let mut anew = matches!(ended, Ok(true));
        let mut ended = ended.map(drop);
        if anew {
            // As long as it takes: an end that is cut short costs the next start a quarantine.
            tokio::select! {
                biased;
                () = self.stop.told() => anew = false,
                drained = intake.drain() => ended = drained.map(drop),
            }
        }
        let counts = intake.counted();
        self.end(intake, ended, anew).await?;
        Ok(anew.then_some(counts))
    }

    /// The pipeline starts anew with the tables that are there; a moment later, lest a catalog that never
    /// rests be asked without rest. What is told again and again was not mended by that.
    async fn tables_changed(&mut self, what: &str) -> Result<bool, PipelineError> {
        let times = self.told.take().filter(|told| told.0 == what).map_or(0, |told| told.1 + 1);
        self.told = Some((what.to_owned(), times));
        let pause = if times == 0 { TABLES_CHANGED_PAUSE } else { backoff(times, self.world.random()) };
        tracing::info!(what, "the tables have changed; the pipeline starts anew with them");
        self.wait_for(&format!("everything to be settled, since the tables have changed: {what}"));
        Ok(self.pause(pause).await)
    }

    /// Opens the source; what it waits for meanwhile, as for the end of a transaction, is said.
    async fn open(&self, resume: Option<Resume>) -> Result<Box<dyn sources::source::Reader>, SourceError> {
        let mut said = self.source_status.subscribe();
        let mut opening = std::pin::pin!(self.parts.source.open(resume, self.source_status.clone()));
        loop {
            tokio::select! {
                biased;
                opened = &mut opening => return opened,
                // We hold a sender: this ends only by a change.
                _ = said.changed() => {
                    let waiting = said.borrow_and_update().waiting_for.clone();
                    if let Some(why) = waiting {
                        self.wait_for(&why);
                    }
                }
            }
        }
    }

    /// Waits for answers, saves what is settled, gives the lease back.
    async fn end(
        &mut self,
        mut intake: Intake,
        ended: Result<(), PipelineError>,
        goes_on: bool,
    ) -> Result<(), PipelineError> {
        if !goes_on {
            self.say(State::Stopping);
        }
        let world = self.world.clone();
        let closing = intake.close(self.parts.store.as_ref());
        let closed = within(world.as_ref(), END_LIMIT, closing).await;
        intake.report();
        if !goes_on || ended.is_err() {
            self.say(if ended.is_ok() { State::Stopped } else { State::Halted });
        }
        match closed {
            Some(Ok(())) => {}
            Some(Err(error)) => {
                tracing::warn!(error = %error, "the end was not clean; the next start waits one quarantine")
            }
            None => {
                tracing::warn!("answers are still missing after 8 s; the next start waits one quarantine")
            }
        }
        ended
    }
}

/// Says what is waited for.
fn waits(status: &watch::Sender<Status>, why: &str) {
    status.send_modify(|status| {
        status.state = State::Waiting;
        status.reason = Some(why.to_owned());
    });
}

/// A source's status before it has said anything.
fn silent() -> StatusSender {
    Arc::new(watch::Sender::new(SourceStatus::default()))
}

/// Law 1's document and the indices behind it are one target's.
pub type SharedTarget = Arc<dyn Target>;
