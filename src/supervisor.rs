//! Several pipelines in one process, each with a life of its own.
//!
//! ```text
//!   Running (a) ─┐ restart              ┌─► run of a ─┐
//!   Running (b) ─┴──────► Supervisor ───┼─► run of b ─┤ ended, by a panic too
//!   stop ────────────────►  next()  ◄───┴─────────────┘
//! ```
//! - One that ends, for whatever reason, ends no other. Its status says `halted` and why until it is
//!   started again; the end of all of them is the end of the process.
//! - A run of a pipeline begins when the one before it has ended: never two at a time.
//! - Whoever holds a [`Running`] can look at a pipeline and have it started again, and no more.

use std::sync::Arc;

use sources::source::{Stop, Stopper};
use sources::world::{BoxFuture, SharedWorld, Task};
use tokio::sync::{mpsc, watch};

use crate::pipeline::PipelineError;
use crate::status::{State, Status};

/// Restarts that were asked for and have not begun; more are refused.
const RESTARTS_WAITING: usize = 16;

/// Begins one run of a pipeline.
pub type Begin =
    Box<dyn Fn(Stop, watch::Sender<Status>) -> BoxFuture<'static, Result<(), PipelineError>> + Send>;

/// A pipeline that is to be supervised.
pub struct Work {
    /// The pipeline's name.
    pub name: String,
    /// Its source's name.
    pub source: String,
    /// Its targets' names.
    pub targets: Vec<String>,
    /// The world that its tasks run in.
    pub world: SharedWorld,
    /// How it is run.
    pub begin: Begin,
}

/// A handle on a supervised pipeline, for those who show it and for those who mend it.
#[derive(Clone, Debug)]
pub struct Running {
    /// The pipeline's name.
    pub name: String,
    /// Its source's name.
    pub source: String,
    /// Its targets' names.
    pub targets: Vec<String>,
    /// What it says of itself; it goes on over restarts.
    pub status: watch::Receiver<Status>,
    number: usize,
    restarts: mpsc::Sender<usize>,
}

/// Why a restart was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RestartError {
    /// The whole process ends.
    #[error("the process is stopping")]
    Stopping,
    /// Too many wait already.
    #[error("too many restarts are waiting; try again in a moment")]
    Busy,
}

impl Running {
    /// Has the pipeline started again; one that runs is stopped in order first. Returns at once: what
    /// becomes of it, [`Running::status`] shows.
    pub fn restart(&self) -> Result<(), RestartError> {
        self.restarts.try_send(self.number).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => RestartError::Busy,
            mpsc::error::TrySendError::Closed(_) => RestartError::Stopping,
        })
    }
}

/// A run of a pipeline that has ended.
#[derive(Debug)]
pub struct Ended {
    /// The pipeline's place in [`Supervisor::pipelines`].
    pub number: usize,
    /// How.
    pub result: Result<(), PipelineError>,
    /// What it said of itself last.
    pub last: Status,
    /// It was asked for: another run has begun already.
    pub goes_on: bool,
}

/// Owns the pipelines of a process.
pub struct Supervisor {
    pipelines: Vec<Running>,
    lives: Vec<Life>,
    ended: mpsc::UnboundedReceiver<(usize, Result<(), PipelineError>)>,
    tell: mpsc::UnboundedSender<(usize, Result<(), PipelineError>)>,
    restarts: mpsc::Receiver<usize>,
    is_stopping: bool,
}

struct Life {
    work: Work,
    status: watch::Sender<Status>,
    run: Option<Run>,
    /// When the present run has ended, another shall begin.
    again: bool,
}

struct Run {
    stopper: Stopper,
    _task: Task,
}

impl Supervisor {
    /// Begins a run of each.
    pub fn start(works: Vec<Work>) -> Self {
        let (tell, ended) = mpsc::unbounded_channel();
        let (ask, restarts) = mpsc::channel(RESTARTS_WAITING);
        let mut pipelines = Vec::with_capacity(works.len());
        let mut lives = Vec::with_capacity(works.len());
        for (number, work) in works.into_iter().enumerate() {
            let (status, watched) = watch::channel(Status::default());
            pipelines.push(Running {
                name: work.name.clone(),
                source: work.source.clone(),
                targets: work.targets.clone(),
                status: watched,
                number,
                restarts: ask.clone(),
            });
            lives.push(Life { work, status, run: None, again: false });
        }
        let mut supervisor = Self { pipelines, lives, ended, tell, restarts, is_stopping: false };
        (0..supervisor.lives.len()).for_each(|number| supervisor.begin(number));
        supervisor
    }

    /// The pipelines, in the configuration's order.
    pub fn pipelines(&self) -> &[Running] {
        &self.pipelines
    }

    /// Waits until a run of a pipeline has ended, and sees to restarts meanwhile; `None` when all have ended.
    /// Nothing is lost when it is dropped and called again.
    pub async fn next(&mut self) -> Option<Ended> {
        loop {
            if self.lives.iter().all(|life| life.run.is_none()) {
                return None;
            }
            tokio::select! {
                biased;
                // We hold a sender of each: neither channel closes before we close it.
                Some((number, result)) = self.ended.recv() => {
                    return self.settle(number, result);
                }
                Some(number) = self.restarts.recv(), if !self.is_stopping => self.restart(number),
            }
        }
    }

    /// Tells every pipeline to stop; none is started again.
    pub fn stop(&mut self) {
        self.is_stopping = true;
        self.restarts.close();
        for life in &mut self.lives {
            life.again = false;
            life.run.iter().for_each(|run| run.stopper.tell());
        }
    }

    fn restart(&mut self, number: usize) {
        let Some(life) = self.lives.get_mut(number) else { return };
        match &life.run {
            Some(run) => {
                life.again = true;
                run.stopper.tell();
            }
            None => self.begin(number),
        }
    }

    fn begin(&mut self, number: usize) {
        let Some(life) = self.lives.get_mut(number) else { return };
        let (stopper, stop) = Stop::pair();
        life.again = false;
        life.status.send_replace(Status::default());
        let work = (life.work.begin)(stop, life.status.clone());
        let told = Told { number, result: None, tell: self.tell.clone() };
        let task = life.work.world.spawn(Box::pin(async move {
            told.tell(work.await);
        }));
        life.run = Some(Run { stopper, _task: task });
    }

    fn settle(&mut self, number: usize, result: Result<(), PipelineError>) -> Option<Ended> {
        let life = self.lives.get_mut(number)?;
        life.run = None;
        let goes_on = life.again && !self.is_stopping;
        life.status.send_modify(|status| match &result {
            Ok(()) => status.state = State::Stopped,
            Err(error) => {
                status.state = State::Halted;
                status.reason = Some(error.to_string());
            }
        });
        let last = life.status.borrow().clone();
        if goes_on {
            self.begin(number);
        }
        Some(Ended { number, result, last, goes_on })
    }
}

/// Tells the end of a run, also when the run ends by a panic.
struct Told {
    number: usize,
    result: Option<Result<(), PipelineError>>,
    tell: mpsc::UnboundedSender<(usize, Result<(), PipelineError>)>,
}

impl Told {
    fn tell(mut self, result: Result<(), PipelineError>) {
        self.result = Some(result);
    }
}

impl Drop for Told {
    fn drop(&mut self) {
        let fault = || Err(PipelineError::Failed("a fault in Rowtide: please report it".to_owned()));
        let result = self.result.take().unwrap_or_else(fault);
        let _nobody_waits_any_more = self.tell.send((self.number, result));
    }
}

/// For a supervisor of real pipelines: shared by all runs of one.
pub fn work(plan: crate::pipeline::Plan, source: String, world: SharedWorld) -> Work {
    let plan = Arc::new(plan);
    let name = plan.settings.name.clone();
    let targets = plan.targets.iter().map(|target| target.name.clone()).collect();
    let runs_in = world.clone();
    let begin: Begin = Box::new(move |stop, status| {
        Box::pin(crate::pipeline::run(plan.clone(), runs_in.clone(), stop, status))
    });
    Work { name, source, targets, world, begin }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use sources::world::{RealWorld, within};

    use super::*;
    use crate::retry::Halt;

    fn halt() -> PipelineError {
        Halt { state: "alias-gone", what: "it is gone".to_owned(), hint: "make it".to_owned() }.into()
    }

    /// A pipeline that follows until it is told to stop, but in its first run ends as `first` says.
    fn pipeline(name: &str, first: fn() -> Option<Result<(), PipelineError>>) -> (Work, Arc<AtomicUsize>) {
        let runs: Arc<AtomicUsize> = Arc::default();
        let counted = runs.clone();
        let begin: Begin = Box::new(move |mut stop, status| {
            let run = counted.fetch_add(1, Ordering::SeqCst);
            Box::pin(async move {
                if let Some(ended) = (run == 0).then(first).flatten() {
                    return ended;
                }
                status.send_modify(|status| status.state = State::Following);
                stop.told().await;
                Ok(())
            })
        });
        let (source, targets) = (format!("{name}-db"), vec![format!("{name}-search")]);
        let work = Work { name: name.to_owned(), source, targets, world: RealWorld::shared(), begin };
        (work, runs)
    }

    fn goes_on() -> Option<Result<(), PipelineError>> {
        None
    }

    async fn reaches(running: &Running, state: State) -> Status {
        let mut status = running.status.clone();
        let reached = status.wait_for(|status| status.state == state).await;
        reached.expect("the supervisor holds the sender").clone()
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_halts_and_one_that_panics_stop_no_other() {
        let (good, _) = pipeline("good", goes_on);
        let (halts, _) = pipeline("halts", || Some(Err(halt())));
        let (panics, _) = pipeline("panics", || panic!("a fault"));
        let mut supervisor = Supervisor::start(vec![good, halts, panics]);
        let [good, halts, panics] = supervisor.pipelines().to_vec().try_into().unwrap();
        assert_eq!(
            (good.name.as_str(), good.source.as_str(), good.targets[0].as_str()),
            ("good", "good-db", "good-search")
        );
        for _ in 0..2 {
            let ended = supervisor.next().await.unwrap();
            assert!(!ended.goes_on && ended.result.is_err() && ended.last.state == State::Halted);
        }
        reaches(&good, State::Following).await;
        assert_eq!(
            reaches(&halts, State::Halted).await.reason.as_deref(),
            Some("alias-gone: it is gone; make it")
        );
        let reason = reaches(&panics, State::Halted).await.reason.unwrap();
        assert!(reason.contains("a fault in Rowtide"), "{reason}");
        let quiet = within(&*RealWorld::shared(), Duration::from_secs(60), supervisor.next()).await;
        assert!(quiet.is_none(), "{quiet:?}");

        supervisor.stop();
        let ended = supervisor.next().await.unwrap();
        assert!(ended.number == 0 && ended.result.is_ok() && ended.last.state == State::Stopped);
        assert!(supervisor.next().await.is_none(), "all have ended");
    }

    #[tokio::test(start_paused = true)]
    async fn a_restart_is_of_one_alone_and_runs_it_once_at_a_time() {
        let (good, good_runs) = pipeline("good", goes_on);
        let (halts, halts_runs) = pipeline("halts", || Some(Err(halt())));
        let mut supervisor = Supervisor::start(vec![good, halts]);
        let [good, halts] = supervisor.pipelines().to_vec().try_into().unwrap();
        assert_eq!(supervisor.next().await.unwrap().number, 1);

        // One that has halted begins again, with nothing of what it said.
        halts.restart().unwrap();
        let clock = RealWorld::shared();
        assert!(within(&*clock, Duration::from_secs(1), supervisor.next()).await.is_none());
        assert_eq!(reaches(&halts, State::Following).await.reason, None);
        assert_eq!((good_runs.load(Ordering::SeqCst), halts_runs.load(Ordering::SeqCst)), (1, 2));

        // One that runs ends in order first; asked twice, it begins once.
        good.restart().unwrap();
        good.restart().unwrap();
        let ended = supervisor.next().await.unwrap();
        assert!(ended.number == 0 && ended.goes_on && ended.result.is_ok(), "{ended:?}");
        assert!(within(&*clock, Duration::from_secs(1), supervisor.next()).await.is_none());
        reaches(&good, State::Following).await;
        assert_eq!((good_runs.load(Ordering::SeqCst), halts_runs.load(Ordering::SeqCst)), (2, 2));
    }

    #[tokio::test(start_paused = true)]
    async fn the_end_of_the_process_goes_before_restarts() {
        let (good, runs) = pipeline("good", goes_on);
        let mut supervisor = Supervisor::start(vec![good]);
        let good = supervisor.pipelines()[0].clone();
        for _ in 0..RESTARTS_WAITING {
            good.restart().unwrap();
        }
        assert_eq!(good.restart(), Err(RestartError::Busy));
        supervisor.stop();
        assert_eq!(good.restart(), Err(RestartError::Stopping));
        assert!(!supervisor.next().await.unwrap().goes_on);
        assert!(supervisor.next().await.is_none());
        assert_eq!(runs.load(Ordering::SeqCst), 1);
    }
}
