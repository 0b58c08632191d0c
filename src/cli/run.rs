//! `rowtide run`: the pipeline, its signals and its status.

use std::pin::pin;
use std::time::Duration;

use sources::source::{Stop, Stopper};
use sources::world::{BoxFuture, SharedWorld};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{oneshot, watch};
use tracing::{error, info, warn};

use super::bars::Bars;
use super::{Exit, report};
use crate::config::Config;
use crate::control::{self, Entry};
use crate::controls::Controls;
use crate::memory::resident;
use crate::pipeline::{self, PipelineError};
use crate::retry::Halt;
use crate::status::{State, Status};
use crate::telemetry::field;

/// A pipeline waits at most 8 s for answers once it is told to stop, and then records where it is;
/// what is not done after this has failed. Shorter than the 10 s after which Docker kills.
const STOP_WITHIN: Duration = Duration::from_millis(9_500);
/// As often as an eye sees a difference.
const DRAW_EVERY: Duration = Duration::from_millis(200);

/// Runs until the pipeline ends or a signal ends it.
pub(super) async fn run(config: Config, world: SharedWorld, bars: Option<Bars>) -> Exit {
    let mut signals = match Signals::listen() {
        Ok(signals) => signals,
        Err(error) => {
            error!({ field::ERROR } = %error, "cannot listen for signals");
            return Exit::Failed;
        }
    };
    info!(
        { field::PIPELINE } = config.pipeline.name,
        { field::SOURCE } = config.source.name,
        version = env!("CARGO_PKG_VERSION"),
        budget_bytes = config.memory.budget_bytes,
        "rowtide starts"
    );
    let max_rss = config.memory.max_rss;
    let (stopper, stop) = Stop::pair();
    let (status, watched) = watch::channel(Status::default());
    let controls = Controls::default();
    let entries = vec![Entry {
        name: config.pipeline.name.clone(),
        source: config.source.name.clone(),
        targets: config.targets.iter().map(|target| target.name.clone()).collect(),
        status: watched.clone(),
        controls: controls.clone(),
        restart: None,
    }];
    let _channel = match &config.http {
        Some(http) => match control::start(http, entries, max_rss, &world).await {
            Ok(task) => Some(task),
            Err(halt) => return finish(Err(halt.into())),
        },
        None => None,
    };
    let mut work = pin!(beside(&world, pipeline::run(config, controls, world.clone(), stop, status)));
    let mut shown = pin!(show(world.clone(), watched.clone(), bars, max_rss));
    let mut stopping = Stopping { stopper, world: world.clone(), deadline: None };
    let ended = loop {
        tokio::select! {
            biased;
            ended = &mut work => break ended,
            name = signals.next() => stopping.tell(name),
            () = stopping.overdue() => {
                error!("the end took longer than {} s: ending hard", STOP_WITHIN.as_secs_f32());
                // Nothing that has not been recorded is lost: it will be read again.
                std::process::exit(Exit::Failed as i32);
            }
            () = &mut shown => {}
        }
    };
    // What was said last is shown, and the bars are left standing.
    let last = watched.borrow().clone();
    report::log(&last);
    finish(ended)
}

/// Runs `work` among the workers: the thread that waits for it here would be woken for each of its steps.
async fn beside<T: Send + 'static>(
    world: &SharedWorld,
    work: impl Future<Output = Result<T, PipelineError>> + Send + 'static,
) -> Result<T, PipelineError> {
    let (told, ended) = oneshot::channel();
    let _task = world.spawn(Box::pin(async move {
        let _nobody_waits_any_more = told.send(work.await);
    }));
    ended
        .await
        .unwrap_or_else(|_| Err(PipelineError::Failed("a fault in Rowtide: please report it".to_owned())))
}

fn finish(ended: Result<(), PipelineError>) -> Exit {
    match ended {
        Ok(()) => {
            info!("rowtide ends");
            Exit::Clean
        }
        Err(PipelineError::Halt(Halt { state, what, hint })) => {
            error!(
                { field::STATE } = state,
                { field::ERROR } = what,
                { field::HINT } = hint,
                "halted: a person must act"
            );
            Exit::Halted
        }
        Err(PipelineError::Failed(reason)) => {
            error!({ field::ERROR } = reason, "failed");
            Exit::Failed
        }
    }
}

/// SIGTERM and SIGINT.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn listen() -> std::io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

/// The way from the first signal to the end.
struct Stopping {
    stopper: Stopper,
    world: SharedWorld,
    deadline: Option<BoxFuture<'static, ()>>,
}

impl Stopping {
    fn tell(&mut self, signal: &'static str) {
        if self.deadline.is_some() {
            warn!(signal, "second signal: ending hard");
            std::process::exit(Exit::Failed as i32);
        }
        info!(signal, "stopping: waiting for answers that are under way");
        self.stopper.tell();
        self.deadline = Some(self.world.sleep(STOP_WITHIN));
    }

    /// Ends when the end is overdue; never before a signal.
    async fn overdue(&mut self) {
        match &mut self.deadline {
            Some(deadline) => deadline.await,
            None => std::future::pending().await,
        }
    }
}

/// Shows the status until it is dropped: on bars, or as log lines every ten seconds and when the
/// state changes.
async fn show(world: SharedWorld, mut watched: watch::Receiver<Status>, bars: Option<Bars>, max_rss: usize) {
    match bars {
        Some(bars) => {
            let mut drawn = Drawn(bars);
            loop {
                world.sleep(DRAW_EVERY).await;
                let status = watched.borrow_and_update().clone();
                drawn.0.show(&status, resident().unwrap_or(0), max_rss);
            }
        }
        None => {
            let mut said = State::Starting;
            let mut tick = world.sleep(report::EVERY);
            let mut open = true;
            loop {
                let due = tokio::select! {
                    () = &mut tick => {
                        tick = world.sleep(report::EVERY);
                        true
                    }
                    changed = watched.changed(), if open => {
                        open = changed.is_ok();
                        false
                    }
                };
                let status = watched.borrow_and_update().clone();
                if due || status.state != said {
                    said = status.state;
                    report::log(&status);
                }
            }
        }
    }
}

/// Bars that are left standing when the process ends.
struct Drawn(Bars);

impl Drop for Drawn {
    fn drop(&mut self) {
        self.0.end();
    }
}
