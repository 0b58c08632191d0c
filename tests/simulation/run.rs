//! One run: the world is played by a plan, a person acts on halts, and at the end everything must agree.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rowtide::config::{Auth, Existing, PipelineSettings, TableShape, TargetSettings};
use rowtide::controls::Controls;
use rowtide::pipeline::{Parts, PipelineError, TargetParts, run_parts};
use rowtide::status::Status;
use rowtide::target::elasticsearch::Trust;
use sources::budget::Budget;
use sources::source::{Stop, Stopper};
use sources::world::Moment;
use tokio::sync::watch;

use super::cluster::{SimTarget, close, prepare, run_late};
use super::database::TABLES;
use super::env::{Hits, Phase, SECOND, Shared, alias};
use super::executor::{Executor, OUTSIDE, Pid};
use super::plan::Plan;
use super::source::{ModelSource, table_name, tables};
use super::store::{Disk, SimStore};

/// A process that is started again this long after its end.
const RESTART: Duration = Duration::from_millis(300);
/// The end state must stand still for so long.
const LOOK: Duration = Duration::from_secs(5);
const LOOKS: u32 = 4;
/// An act waits for its phase so long.
const PHASE_MOST: Duration = Duration::from_secs(30);
/// Everything is quiet by then, or it never will be.
const PATIENCE: Duration = Duration::from_secs(600);
/// More polls than any run needs: a livelock.
const POLLS_MOST: u64 = 3_000_000;

type Ended = Arc<Mutex<Option<Result<(), PipelineError>>>>;

/// A running Rowtide.
pub(super) struct Process {
    pub(super) pid: Pid,
    pub(super) disk: u32,
    stopper: Stopper,
    pub(super) is_told: bool,
    status: watch::Receiver<Status>,
    ended: Ended,
    budget: Budget,
    pub(super) frozen_until: Option<Moment>,
}

/// What a run found.
#[derive(Clone, Debug, Default)]
pub(super) struct Report {
    pub(super) failure: Option<String>,
    pub(super) faults: Hits<(&'static str, Phase)>,
    pub(super) attacks: Hits<&'static str>,
    pub(super) trace: Vec<String>,
    /// Of every step, so that a repetition is seen to be one.
    pub(super) polls: u64,
    pub(super) simulated: Duration,
}

pub(super) struct Run {
    pub(super) plan: Plan,
    pub(super) env: Shared,
    pub(super) executor: Executor,
    pub(super) main: Option<Process>,
    pub(super) second: Option<Process>,
    pub(super) starts_at: Moment,
    pub(super) disk: u32,
    /// The person has said `existing = "replace"`.
    pub(super) replaces: bool,
    /// Halts that something which happened explains.
    pub(super) explained: BTreeMap<&'static str, bool>,
    numbered: u32,
}

/// Plays a plan to its end.
pub(super) fn play(plan: &Plan) -> Report {
    play_with(plan, false)
}

/// Plays a plan; `end_only`: what the run itself checks on its way is left out.
pub(super) fn play_with(plan: &Plan, end_only: bool) -> Report {
    let run = Run::new(plan.clone());
    run.env.lock().end_only = end_only;
    let env = run.env.clone();
    let executor = run.executor.clone();
    let failure = match std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| run.play_out())) {
        Ok(Ok(())) => None,
        Ok(Err(what)) => Some(what),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            Some(format!("panic: {}", text.unwrap_or_default()))
        }
    };
    // They hold each other: what a run leaves behind would stay for ever.
    executor.clear();
    let targets = env.lock().targets();
    targets.iter().for_each(|(_, cluster)| cluster.on_item(|_| None));
    let env = env.lock();
    Report {
        failure,
        faults: env.faults.clone(),
        attacks: env.attacks.clone(),
        trace: env.trace.iter().cloned().collect(),
        polls: executor.polls(),
        simulated: executor.now(),
    }
}

impl Run {
    fn new(plan: Plan) -> Self {
        let executor = Executor::new(plan.seed);
        let env = Shared::new(plan.present, usize::from(plan.filler), u64::from(plan.pace), plan.targets);
        prepare(&env);
        let outside = executor.world(OUTSIDE);
        executor.spawn(OUTSIDE, Box::pin(run_late(env.clone(), outside)));
        Self {
            plan,
            env,
            starts_at: executor.now(),
            executor,
            main: None,
            second: None,
            disk: 0,
            replaces: false,
            explained: BTreeMap::new(),
            numbered: 0,
        }
    }

    fn play_out(mut self) -> Result<(), String> {
        for step in self.plan.steps.clone() {
            self.go_on(Duration::from_millis(u64::from(step.after_ms)))?;
            if let Some(phase) = step.when {
                self.await_phase(phase)?;
            }
            let now = self.executor.now();
            self.env.lock().note(format!("{:.3} s {:?}", now.as_secs_f64(), step.act));
            self.act(step.act);
        }
        self.calm_down()?;
        self.converge()?;
        self.stop()
    }

    /// Lets time pass; people act meanwhile.
    pub(super) fn go_on(&mut self, time: Duration) -> Result<(), String> {
        let until = self.executor.now() + time;
        let mut steps = 0_u32;
        loop {
            self.supervise()?;
            if self.executor.now() >= until {
                return Ok(());
            }
            if self.executor.polls() > POLLS_MOST {
                return Err(format!("a livelock: more than {POLLS_MOST} polls"));
            }
            for _ in 0..8 {
                if self.executor.now() >= until {
                    break;
                }
                if !self.executor.step() {
                    return Err("nothing can ever happen again".to_owned());
                }
                steps += 1;
            }
            if steps.is_multiple_of(64)
                && let Some(what) = self.env.lock().violation.clone()
            {
                return Err(what);
            }
        }
    }

    /// Goes on until the process is in a phase, for at most some seconds.
    fn await_phase(&mut self, phase: Phase) -> Result<(), String> {
        let until = self.executor.now() + PHASE_MOST;
        while self.executor.now() < until {
            self.supervise()?;
            let is_there = self.main.as_ref().map(|main| self.env.lock().phase(main.pid)) == Some(phase);
            if is_there || !self.executor.step() {
                return Ok(());
            }
        }
        Ok(())
    }

    pub(super) fn start(&mut self, disk: u32, replaces: bool) -> Process {
        self.numbered += 1;
        let pid = self.numbered;
        let world = self.executor.world(pid);
        {
            let mut env = self.env.lock();
            env.disks.entry(disk).or_default().process = Some(pid);
            env.note(format!("  process {pid} starts with store {disk}"));
        }
        let store = |letters_of| {
            let (env, world) = (self.env.clone(), world.clone());
            Arc::new(SimStore { env, world, disk, process: pid, letters_of })
        };
        let target = |is_second| {
            let (env, executor, world) = (self.env.clone(), self.executor.clone(), world.clone());
            let target = SimTarget { env, executor, world, process: pid, is_second };
            TargetParts {
                writes: self.writes(if is_second { "second" } else { "model" }, replaces),
                target: Arc::new(target),
                letters: store(if is_second { SECOND } else { "" }),
            }
        };
        let several = self.plan.targets > 1;
        let source =
            ModelSource { env: self.env.clone(), world: world.clone(), process: pid, tables: tables() };
        let budget = Budget::new(self.plan.budget as usize);
        let parts = Parts {
            settings: PipelineSettings { name: "sim".to_owned(), tables: shapes() },
            source: Arc::new(source),
            targets: std::iter::once(false).chain(several.then_some(true)).map(target).collect(),
            store: store(""),
            budget: budget.clone(),
            document_bytes_max: 1 << 20,
            controls: Controls::default(),
        };
        let (stopper, stop) = Stop::pair();
        let (sender, status) = watch::channel(Status::default());
        let ended: Ended = Arc::default();
        let told = ended.clone();
        let work = async move {
            let end = run_parts(parts, world, stop, sender).await;
            *told.lock().unwrap_or_else(PoisonError::into_inner) = Some(end);
        };
        self.executor.spawn(pid, Box::pin(work));
        Process { pid, disk, stopper, is_told: false, status, ended, budget, frozen_until: None }
    }

    fn writes(&self, name: &str, replaces: bool) -> TargetSettings {
        TargetSettings {
            name: name.to_owned(),
            nodes: Vec::new(),
            auth: Auth::None,
            trust: Trust::System,
            gzip: false,
            sniff: false,
            lanes: usize::from(self.plan.lanes),
            bulk_bytes_max: 24 << 10,
            bulk_count_max: usize::from(self.plan.bulk_count_max),
            linger: Duration::from_millis(10),
            existing: if replaces { Existing::Replace } else { Existing::Refuse },
            easing: rowtide::target::Easing::Nothing,
        }
    }

    /// Looks after the processes: thaws, restarts, and does what a halt's hint says.
    fn supervise(&mut self) -> Result<(), String> {
        let now = self.executor.now();
        for process in self.main.iter_mut().chain(self.second.iter_mut()) {
            if process.frozen_until.is_some_and(|until| until <= now) {
                process.frozen_until = None;
                self.executor.thaw(process.pid);
            }
        }
        if let Some(end) = self.second.as_ref().and_then(Process::take_end)
            && let Some(second) = self.second.take()
        {
            self.check_ended(&second)?;
            self.judge_end(&second, end, true)?;
        }
        if let Some(end) = self.main.as_ref().and_then(Process::take_end)
            && let Some(main) = self.main.take()
        {
            self.check_ended(&main)?;
            self.judge_end(&main, end, false)?;
            self.starts_at = now + RESTART;
        }
        if self.main.is_none() && now >= self.starts_at {
            let main = self.start(self.disk, self.replaces);
            self.main = Some(main);
        }
        Ok(())
    }

    /// What must hold of every process that has ended, however it did.
    fn check_ended(&mut self, process: &Process) -> Result<(), String> {
        let mut env = self.env.lock();
        env.stopping.remove(&process.pid);
        env.readers.remove(&process.pid);
        if let Some(disk) = env.disks.get_mut(&process.disk) {
            disk.process = None;
        }
        let full = process.budget.full_limit();
        if process.budget.most_used() > full {
            return Err(format!("law 5: {} bytes were charged of {full}", process.budget.most_used()));
        }
        if env.in_flight_most > full {
            return Err(format!("law 5: {} bytes were under way at once, of {full}", env.in_flight_most));
        }
        drop(env);
        close(&self.env, process.pid, self.executor.now());
        Ok(())
    }

    fn judge_end(
        &mut self,
        process: &Process,
        end: Result<(), PipelineError>,
        is_second: bool,
    ) -> Result<(), String> {
        let halt = match end {
            Ok(()) if process.is_told => return Ok(()),
            Ok(()) => return Err("the process ended by itself".to_owned()),
            Err(PipelineError::Halt(halt)) => halt,
            Err(PipelineError::Failed(what)) => return Err(format!("the process failed: {what}")),
        };
        self.env.lock().note(format!("  process {} halted: {halt}", process.pid));
        let is_explained = self.explained.get(halt.state).copied().unwrap_or(false);
        if !is_explained {
            return Err(format!("nothing explains the halt {halt}"));
        }
        if is_second {
            return Ok(());
        }
        match halt.state {
            "history-broken" | "slot-lost" | "index-replaced" | "alias-gone" => self.fill_anew(),
            "index-exists" => self.replaces = true,
            "data-dir-unusable" | "store-failed" => self.env.lock().disk_full = false,
            _ => {}
        }
        Ok(())
    }

    /// The hint: empty the data directory, say `existing = "replace"`, drop a slot that is lost.
    fn fill_anew(&mut self) {
        let mut env = self.env.lock();
        env.disks.insert(self.disk, Disk::default());
        if env.server.slot.as_ref().is_some_and(|slot| slot.is_lost) {
            env.server.slot = None;
        }
        self.replaces = true;
    }

    pub(super) fn explain(&mut self, states: &[&'static str]) {
        self.explained.extend(states.iter().map(|state| (*state, true)));
    }

    /// A process dies wherever it stands.
    pub(super) fn kill(&mut self, process: Process) -> Result<(), String> {
        self.executor.kill(process.pid);
        self.check_ended(&process)
    }

    /// No more trouble: what is open is committed and seen, people mend what they broke.
    fn calm_down(&mut self) -> Result<(), String> {
        if let Some(second) = self.second.take() {
            // One of the two is left.
            let leaves = match (self.plan.seed / 16).is_multiple_of(2) {
                true => Some(second),
                false => self.main.replace(second),
            };
            if let Some(leaves) = leaves {
                self.kill(leaves)?;
            }
            if let Some(main) = &self.main {
                self.disk = main.disk;
            }
            self.env.lock().last_disk = self.disk;
        }
        let now = self.executor.now();
        if let Some(main) = &mut self.main
            && main.frozen_until.take().is_some()
        {
            self.executor.thaw(main.pid);
        }
        let mut env = self.env.lock();
        env.note(format!("{:.3} s calm", now.as_secs_f64()));
        env.disk_full = false;
        env.target_faults.clear();
        env.item_faults = 0;
        env.refuses_until = now;
        let database = &mut env.server.database;
        database.publish(TABLES - 1);
        for xid in database.opened() {
            database.commit(xid, 0);
        }
        for xid in database.invisible() {
            database.show(xid);
        }
        Ok(())
    }

    /// Waits until the index equals the database, and goes on doing so.
    fn converge(&mut self) -> Result<(), String> {
        let until = self.executor.now() + PATIENCE;
        let mut equal = 0;
        loop {
            self.go_on(LOOK)?;
            let difference = {
                let env = self.env.lock();
                if let Some(what) = env.violation.clone() {
                    return Err(what);
                }
                let open = self.main.as_ref().map_or(1, |main| main.status.borrow().counts.in_flight());
                let follows = self.main.as_ref().is_some_and(|main| env.phase(main.pid) == Phase::Idle);
                match (env.late.is_empty(), open) {
                    (false, _) => Some("a request is under way".to_owned()),
                    (true, 0) if follows => env.difference(),
                    (true, 0) => env.difference().or(Some("the log is not followed".to_owned())),
                    (true, _) => env.difference().or(Some(format!("{open} changes have not ended"))),
                }
            };
            match difference {
                None => equal += 1,
                Some(what) if self.executor.now() > until => {
                    let state = self.main.as_ref().map(|main| main.status.borrow().clone());
                    let state = state.map(|status| (status.state, status.reason, status.counts));
                    return Err(format!("the end: {what}; the process says {state:?}"));
                }
                Some(_) => equal = 0,
            }
            if equal == LOOKS {
                return Ok(());
            }
        }
    }

    /// The clean end, and law 6's sum after it.
    fn stop(&mut self) -> Result<(), String> {
        self.supervise()?;
        let Some(main) = &mut self.main else { return Ok(()) };
        main.is_told = true;
        main.stopper.tell();
        self.env.lock().stopping.insert(main.pid);
        let (status, until) = (main.status.clone(), self.executor.now() + Duration::from_secs(60));
        self.starts_at = Moment::MAX;
        while self.main.is_some() {
            if self.executor.now() > until {
                return Err("the process does not end".to_owned());
            }
            self.go_on(Duration::from_millis(200))?;
        }
        let counts = status.borrow().counts;
        if counts.read != counts.ends.total() {
            return Err(format!("law 6: {counts:?} do not add up"));
        }
        match self.env.lock().difference() {
            Some(what) => Err(format!("after the end: {what}")),
            None => Ok(()),
        }
    }
}

impl Process {
    fn take_end(&self) -> Option<Result<(), PipelineError>> {
        self.ended.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    pub(super) fn tell_to_stop(&mut self) {
        self.is_told = true;
        self.stopper.tell();
    }
}

fn shapes() -> Vec<TableShape> {
    let shape =
        |number| TableShape { table: table_name(number), index: alias(number), ..TableShape::default() };
    (0..TABLES).map(shape).collect()
}
