//! `rowtide run`: the pipelines, their signals and their status.

use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use sources::world::{BoxFuture, SharedWorld, Task};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tracing::{Instrument, Span, error, info, warn};

use super::bars::Bars;
use super::{Exit, report};
use crate::config::Config;
use crate::control::{self, Entry};
use crate::controls::Controls;
use crate::memory::{govern, resident};
use crate::pipeline::{PipelineError, Plan};
use crate::retry::Halt;
use crate::status::{State, Status};
use crate::store::{Sqlite, StoreError};
use crate::supervisor::{self, Ended, Running, Supervisor};
use crate::telemetry::{self, field};

/// A pipeline waits at most 8 s for answers once it is told to stop, and then records where it is;
/// what is not done after this has failed. Shorter than the 10 s after which Docker kills.
const STOP_WITHIN: Duration = Duration::from_millis(9_500);
/// As often as an eye sees a difference.
const DRAW_EVERY: Duration = Duration::from_millis(200);

/// Runs until all pipelines have ended, by themselves or by a signal; the exit is the worst of theirs.
pub(super) async fn run(config: Config, world: SharedWorld, bars: Option<Bars>) -> Exit {
    let mut signals = match Signals::listen() {
        Ok(signals) => signals,
        Err(error) => {
            error!({ field::ERROR } = %error, "cannot listen for signals");
            return Exit::Failed;
        }
    };
    let max_rss = config.memory.max_rss;
    let http = config.http.clone();
    let listener = match control::listen(http.as_ref()).await {
        Ok(listener) => listener,
        Err(halt) => return say_error(&halt.into()),
    };
    let (mut supervisor, controls, _governor) = match start(config, &world) {
        Ok(started) => started,
        Err(error) => return say_error(&PipelineError::from(error)),
    };
    let _channel = http.zip(listener).map(|(http, listener)| {
        let entries = supervisor.pipelines().iter().zip(controls).map(entry).collect();
        control::start(&http, listener, entries, max_rss, &world)
    });
    let watched: Vec<Watched> = supervisor.pipelines().iter().map(|one| one.status.clone()).collect();
    let several = watched.len() > 1;
    let names = supervisor.pipelines().iter().map(|one| one.name.as_str());
    let spans: Vec<Span> = names.clone().map(|name| span_of(name, several)).collect();
    let mut shown = pin!(match bars {
        Some(bars) => {
            let names = names.map(|name| several.then(|| name.to_owned())).collect();
            draw(world.clone(), watched, Drawn(bars), names, max_rss)
        }
        None => log(&world, watched, &spans),
    });
    let mut exits = vec![Exit::Clean; spans.len()];
    let mut stopping = Stopping { world, deadline: None };
    loop {
        tokio::select! {
            biased;
            ended = supervisor.next() => match ended {
                Some(ended) => exits[ended.number] = spans[ended.number].in_scope(|| say_end(&ended, several)),
                None => break,
            },
            name = signals.next() => {
                stopping.tell(name);
                supervisor.stop();
            }
            () = stopping.overdue() => {
                error!("the end took longer than {} s: ending hard", STOP_WITHIN.as_secs_f32());
                // Nothing that has not been recorded is lost: it will be read again.
                std::process::exit(Exit::Failed as i32);
            }
            () = &mut shown => {}
        }
    }
    let worst = exits.into_iter().max().unwrap_or(Exit::Clean);
    if several && worst == Exit::Clean {
        info!("rowtide ends");
    }
    worst
}

type Watched = watch::Receiver<Status>;

/// The name is said where there is another.
fn span_of(pipeline: &str, several: bool) -> Span {
    if several { telemetry::span(pipeline) } else { Span::none() }
}

/// One store and one governor for all pipelines; what is dropped last governs them.
fn start(config: Config, world: &SharedWorld) -> Result<(Supervisor, Vec<Controls>, Task), StoreError> {
    let several = config.pipelines.len() > 1;
    let version = env!("CARGO_PKG_VERSION");
    let (budget_bytes, max_rss) = (config.memory.budget_bytes, config.memory.max_rss);
    match &config.pipelines[..] {
        [only] => info!(
            { field::PIPELINE } = only.settings.name,
            { field::SOURCE } = only.source.name,
            version,
            budget_bytes,
            "rowtide starts"
        ),
        all => info!(version, budget_bytes, pipelines = all.len(), "rowtide starts"),
    }
    let store = Sqlite::open(&config.data_dir, world)?;
    let targets = config.pipelines.iter().map(|one| one.targets.len()).sum::<usize>().max(1);
    let document_bytes_max = config.memory.document_bytes_max;
    let letters_bytes = config.dead_letters_bytes / targets as u64;
    let mut budgets = Vec::with_capacity(config.pipelines.len());
    let mut controls = Vec::with_capacity(config.pipelines.len());
    let mut works = Vec::with_capacity(config.pipelines.len());
    for one in config.pipelines {
        let (name, source) = (one.settings.name.clone(), one.source.name.clone());
        if several {
            let share = one.budget_bytes;
            span_of(&name, true)
                .in_scope(|| info!({ field::SOURCE } = source, budget_bytes = share, "the pipeline starts"));
        }
        let world = if several { telemetry::named(world, &name) } else { world.clone() };
        let plan = Plan::new(one, store.clone(), letters_bytes, document_bytes_max);
        budgets.push(plan.budget.clone());
        controls.push(plan.controls.clone());
        works.push(supervisor::work(plan, source, world));
    }
    let governor = govern(world, budgets, max_rss);
    Ok((Supervisor::start(works), controls, governor))
}

/// A pipeline for those who ask.
fn entry((running, controls): (&Running, Controls)) -> Entry {
    let again = running.clone();
    Entry {
        name: running.name.clone(),
        source: running.source.clone(),
        targets: running.targets.clone(),
        status: running.status.clone(),
        controls,
        restart: Some(Arc::new(move || again.restart().map_err(|error| error.to_string()))),
    }
}

/// What was said last is shown, then how it ended.
fn say_end(ended: &Ended, several: bool) -> Exit {
    report::log(&ended.last);
    match &ended.result {
        Ok(()) => {
            match several {
                true => info!("the pipeline ends"),
                false => info!("rowtide ends"),
            }
            Exit::Clean
        }
        Err(error) => say_error(error),
    }
}

fn say_error(error: &PipelineError) -> Exit {
    match error {
        PipelineError::Halt(Halt { state, what, hint }) => {
            error!(
                { field::STATE } = state,
                { field::ERROR } = what,
                { field::HINT } = hint,
                "halted: a person must act"
            );
            Exit::Halted
        }
        PipelineError::Failed(reason) => {
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

/// Draws the status on bars until it is dropped, each pipeline's by its name where there are several.
fn draw(
    world: SharedWorld,
    mut watched: Vec<Watched>,
    mut drawn: Drawn,
    names: Vec<Option<String>>,
    max_rss: usize,
) -> BoxFuture<'static, ()> {
    Box::pin(async move {
        loop {
            world.sleep(DRAW_EVERY).await;
            let rss = resident().unwrap_or(0);
            for (number, (one, name)) in watched.iter_mut().zip(&names).enumerate() {
                let status = one.borrow_and_update().clone();
                drawn.0.show(number, name.as_deref(), &status, rss, max_rss);
            }
        }
    })
}

/// Logs the status until it is dropped, each pipeline's in its span. In one future with the end, so that
/// what was said last is the last line.
fn log(world: &SharedWorld, watched: Vec<Watched>, spans: &[Span]) -> BoxFuture<'static, ()> {
    let one = |(watched, span): (Watched, &Span)| -> BoxFuture<'static, ()> {
        Box::pin(log_one(world.clone(), watched).instrument(span.clone()))
    };
    let mut all: Vec<BoxFuture<'static, ()>> = watched.into_iter().zip(spans).map(one).collect();
    Box::pin(std::future::poll_fn(move |context| {
        // None of them ends.
        all.retain_mut(|one| one.as_mut().poll(context).is_pending());
        Poll::Pending
    }))
}

/// A line every ten seconds and when the state changes.
async fn log_one(world: SharedWorld, mut watched: Watched) {
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

/// Bars that are left standing when the process ends.
struct Drawn(Bars);

impl Drop for Drawn {
    fn drop(&mut self) {
        self.0.end();
    }
}
