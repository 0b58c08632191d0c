//! The program under test as a process: started, watched, killed, stopped, restarted on its data.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rusqlite::Connection;
use rustix::process::Signal;
use serde_json::Value;

use super::processes::{self, fresh_folder};

/// Rowtide promises at most 8 s of waiting for answers after SIGTERM.
const STOP_LIMIT: Duration = Duration::from_secs(20);

/// The fields that law 6 adds up; each log line that carries them all is checked.
const ENDS: [&str; 5] = ["written", "stale", "superseded", "filtered", "dead_lettered"];

/// One line of Rowtide's log.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    pub(crate) level: String,
    pub(crate) message: String,
    /// Every field, the line's own and those of its spans left out.
    pub(crate) fields: BTreeMap<String, Value>,
    pub(crate) text: String,
}

impl Line {
    fn parse(text: String) -> Self {
        let parsed: BTreeMap<String, Value> = serde_json::from_str(&text).unwrap_or_default();
        let mut fields = match parsed.get("fields") {
            Some(Value::Object(inner)) => inner.clone().into_iter().collect(),
            _ => parsed.clone(),
        };
        let word = |value: Option<Value>| value.and_then(|value| value.as_str().map(str::to_owned));
        // A line that is not JSON (a panic's text) counts as an error.
        let level = word(parsed.get("level").cloned()).unwrap_or_else(|| "ERROR".into());
        let message = word(fields.remove("message")).unwrap_or_default();
        Self { level, message, fields, text }
    }

    /// A field as a number.
    pub(crate) fn number(&self, field: &str) -> Option<u64> {
        self.fields.get(field)?.as_u64()
    }
}

/// Law 6's counts of one process run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) read: u64,
    /// By end: written, stale, superseded, filtered, dead_lettered.
    pub(crate) ends: BTreeMap<&'static str, u64>,
}

impl Counts {
    fn of(line: &Line) -> Option<Self> {
        let ends = ENDS.iter().map(|&end| Some((end, line.number(end)?))).collect::<Option<_>>()?;
        Some(Self { read: line.number("read")?, ends })
    }

    pub(crate) fn sum(&self) -> u64 {
        self.ends.values().sum()
    }
}

#[derive(Debug)]
struct Run {
    child: Child,
    began: Instant,
    log: Arc<Mutex<Vec<Line>>>,
    readers: Vec<JoinHandle<()>>,
}

/// Rowtide with one configuration and one data directory, over several process runs.
#[derive(Debug)]
pub(crate) struct Rowtide {
    pub(crate) folder: PathBuf,
    environment: Vec<(String, String)>,
    allowed: Vec<String>,
    run: Option<Run>,
    runs: u64,
    /// The largest VmHWM of any run so far, in KiB; watched while it runs.
    high_water_kib: Arc<Mutex<u64>>,
}

impl Rowtide {
    /// Writes the configuration; nothing runs yet. `data_dir` is added if it is not there.
    pub(crate) fn new(config: &str) -> Self {
        let folder = fresh_folder("data");
        write_configuration(&folder, config);
        Self {
            folder,
            environment: Vec::new(),
            allowed: Vec::new(),
            run: None,
            runs: 0,
            high_water_kib: Arc::default(),
        }
    }

    /// Another configuration, for the next run.
    pub(crate) fn replace_configuration(&self, config: &str) {
        write_configuration(&self.folder, config);
    }

    /// Adds to the configuration, for the next run.
    pub(crate) fn configure(&self, text: &str) {
        let mut file = File::options().append(true).open(self.folder.join("rowtide.toml")).unwrap();
        file.write_all(text.as_bytes()).unwrap();
    }

    /// As [`Self::new`], and runs it.
    pub(crate) fn start(config: &str) -> Self {
        let mut rowtide = Self::new(config);
        rowtide.run_again();
        rowtide
    }

    /// A WARN or ERROR line that contains `pattern` does not fail the test.
    pub(crate) fn allow(&mut self, pattern: &str) {
        self.allowed.push(pattern.into());
    }

    /// Sets a variable of the environment for the runs that follow.
    pub(crate) fn environment(&mut self, name: &str, value: &str) {
        self.environment.push((name.into(), value.into()));
    }

    /// The program under test.
    pub(crate) fn program() -> PathBuf {
        std::env::var_os("ROWTIDE_BIN").map_or_else(|| env!("CARGO_BIN_EXE_rowtide").into(), PathBuf::from)
    }

    /// Runs `rowtide run` on the same configuration and data.
    pub(crate) fn run_again(&mut self) {
        assert!(self.run.is_none(), "it runs already");
        let mut command = Command::new("setpriv");
        command.arg("--pdeathsig=KILL").arg(Self::program()).args(["run", "--config", "rowtide.toml"]);
        command.current_dir(&self.folder).envs(self.environment.iter().cloned());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = processes::start(command, Signal::KILL);
        self.runs += 1;
        let log = Arc::new(Mutex::new(Vec::new()));
        let output = child.stdout.take().unwrap();
        let errors = child.stderr.take().unwrap();
        let file = || {
            let path = self.folder.join(format!("run-{}.log", self.runs));
            File::options().create(true).append(true).open(path).unwrap()
        };
        let readers = vec![
            collect(output, log.clone(), file()),
            collect(errors, log.clone(), file()),
            watch_memory(child.id(), self.high_water_kib.clone()),
        ];
        self.run = Some(Run { child, began: Instant::now(), log, readers });
    }

    /// Runs the program once with other arguments, as in `check --config rowtide.toml`.
    pub(crate) fn call(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(Self::program());
        command.args(arguments).current_dir(&self.folder).envs(self.environment.iter().cloned());
        command.output().expect("the program runs")
    }

    /// The id of the running process.
    pub(crate) fn pid(&self) -> u32 {
        self.run.as_ref().expect("it runs").child.id()
    }

    /// How long the present run has lasted.
    pub(crate) fn age(&self) -> Duration {
        self.run.as_ref().expect("it runs").began.elapsed()
    }

    /// The lines of the present run so far.
    pub(crate) fn log(&self) -> Vec<Line> {
        self.run.as_ref().expect("it runs").log.lock().unwrap().clone()
    }

    /// Fails the test, with the log, if the process has ended.
    pub(crate) fn assert_runs(&mut self) {
        let run = self.run.as_mut().expect("it was started");
        if let Some(status) = run.child.try_wait().unwrap() {
            panic!("rowtide ended by itself with {status}:\n{}", tail(&run.log.lock().unwrap()));
        }
    }

    /// Waits for a line that contains `text`, and returns it.
    pub(crate) async fn wait_for_line(&mut self, text: &str, limit: Duration) -> Line {
        let end = Instant::now() + limit;
        loop {
            if let Some(line) = self.log().into_iter().find(|line| line.text.contains(text)) {
                return line;
            }
            self.assert_runs();
            assert!(Instant::now() < end, "no log line with {text:?} in {limit:?}:\n{}", tail(&self.log()));
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// SIGKILL, as a power cut takes it. The log up to there is checked and returned.
    pub(crate) fn kill(&mut self) -> Vec<Line> {
        let run = self.run.as_ref().expect("it runs");
        processes::signal(&run.child, Signal::KILL);
        self.finish(STOP_LIMIT).1
    }

    /// Sends a signal and nothing else.
    pub(crate) fn signal(&self, signal: Signal) {
        processes::signal(&self.run.as_ref().expect("it runs").child, signal);
    }

    /// SIGTERM; the exit code and the log of the run, checked.
    pub(crate) fn stop(&mut self) -> (i32, Vec<Line>) {
        self.signal(Signal::TERM);
        self.wait(STOP_LIMIT)
    }

    /// Waits until it ends by itself; the exit code and the log of the run, checked.
    pub(crate) fn wait(&mut self, limit: Duration) -> (i32, Vec<Line>) {
        let (code, lines) = self.finish(limit);
        (code.expect("it was not ended by a signal"), lines)
    }

    fn finish(&mut self, limit: Duration) -> (Option<i32>, Vec<Line>) {
        let mut run = self.run.take().expect("it runs");
        let Some(status) = processes::wait(&mut run.child, limit) else {
            processes::signal(&run.child, Signal::KILL);
            processes::wait(&mut run.child, limit);
            panic!("rowtide did not end in {limit:?}:\n{}", tail(&run.log.lock().unwrap()));
        };
        for reader in run.readers.drain(..) {
            reader.join().unwrap();
        }
        let lines = std::mem::take(&mut *run.log.lock().unwrap());
        self.check(&lines);
        (status.code(), lines)
    }

    /// No unexpected WARN or ERROR line, and law 6 in every line with counts.
    fn check(&self, lines: &[Line]) {
        for line in lines {
            let bad = line.level == "WARN" || line.level == "ERROR";
            let allowed = self.allowed.iter().any(|pattern| line.text.contains(pattern));
            assert!(!bad || allowed, "unexpected line in the log: {}\n{}", line.text, tail(lines));
            let (Some(counts), Some(in_flight)) = (Counts::of(line), line.number("in_flight")) else {
                continue;
            };
            assert_eq!(counts.read, counts.sum() + in_flight, "law 6: {}", line.text);
        }
    }

    /// Each dead letter's id, whether it has a body, and its reason, in the order of the ids.
    pub(crate) fn letters(&self) -> Vec<(String, bool, String)> {
        let store = Connection::open(self.folder.join("data/rowtide.sqlite")).unwrap();
        let sql = "SELECT id, body IS NOT NULL, reason FROM dead_letters ORDER BY id";
        let mut select = store.prepare(sql).unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        let rows = select.query_map([], |row| Ok((text(row.get(0)?), row.get(1)?, row.get(2)?)));
        rows.unwrap().map(Result::unwrap).collect()
    }

    /// The counts that a clean stop logs last; law 6 must hold in them with nothing in flight.
    pub(crate) fn final_counts(lines: &[Line]) -> Counts {
        let counts = lines.iter().rev().find_map(Counts::of);
        let counts = counts.unwrap_or_else(|| panic!("no line with the counts of law 6:\n{}", tail(lines)));
        assert_eq!(counts.read, counts.sum(), "law 6 after a drain: {counts:?}");
        counts
    }

    /// The largest VmHWM is measured anew from here on.
    pub(crate) fn forget_high_water(&self) {
        *self.high_water_kib.lock().unwrap() = 0;
    }

    /// The largest VmHWM of all runs, in KiB.
    pub(crate) fn high_water_kib(&self) -> u64 {
        *self.high_water_kib.lock().unwrap()
    }
}

fn write_configuration(folder: &Path, config: &str) {
    let data_dir = if config.contains("data_dir") { "" } else { "data_dir = \"data\"\n" };
    fs::write(folder.join("rowtide.toml"), format!("{data_dir}{config}")).unwrap();
}

impl Drop for Rowtide {
    fn drop(&mut self) {
        let Some(mut run) = self.run.take() else { return };
        processes::signal(&run.child, Signal::KILL);
        processes::wait(&mut run.child, STOP_LIMIT);
        for reader in run.readers.drain(..) {
            reader.join().ok();
        }
        // Whoever failed may have been looking at the log; a second panic here would end every test.
        let lines = run.log.lock().unwrap_or_else(PoisonError::into_inner);
        if std::thread::panicking() {
            println!("the end of rowtide's log ({}):\n{}", self.folder.display(), tail(&lines));
        } else {
            self.check(&lines);
        }
    }
}

fn tail(lines: &[Line]) -> String {
    let from = lines.len().saturating_sub(40);
    lines[from..].iter().map(|line| format!("{}\n", line.text)).collect()
}

fn collect(
    from: impl std::io::Read + Send + 'static,
    log: Arc<Mutex<Vec<Line>>>,
    mut file: File,
) -> JoinHandle<()> {
    std::thread::spawn(move || {
        for line in BufReader::new(from).split(b'\n') {
            let Ok(line) = line else { return };
            let text = String::from_utf8_lossy(&line).into_owned();
            writeln!(file, "{text}").ok();
            log.lock().unwrap().push(Line::parse(text));
        }
    })
}

/// VmHWM only rises, so a look every 20 ms misses at most what the last 20 ms before a kill added.
fn watch_memory(pid: u32, highest: Arc<Mutex<u64>>) -> JoinHandle<()> {
    std::thread::spawn(move || {
        while let Ok(status) = fs::read_to_string(format!("/proc/{pid}/status")) {
            // The moment before setpriv becomes rowtide is small and does no harm; a zombie has no VmHWM.
            let Some(line) = status.lines().find(|line| line.starts_with("VmHWM:")) else { return };
            let kib: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
            {
                let mut highest = highest.lock().unwrap();
                *highest = kib.max(*highest);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    })
}
