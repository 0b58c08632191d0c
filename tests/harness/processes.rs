//! Starting and ending processes so that none outlives the tests.
//!
//! Every child is started by one thread that lives as long as the test process: the kernel's
//! parent-death signal hangs on the thread that forked. Besides, `reaper.sh` waits on a pipe that
//! closes when the test process ends, however it ends; it stops what is left and removes the folders.

use std::fs::{self, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Sender};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::fresh_name;

type Job = (Command, Sender<io::Result<Child>>);

/// Starts `command` from the immortal thread and tells the reaper of it.
pub(crate) fn start(command: Command, ends_by: Signal) -> Child {
    static STARTER: OnceLock<Mutex<Sender<Job>>> = OnceLock::new();
    let starter = STARTER.get_or_init(|| {
        let (jobs, todo) = mpsc::channel::<Job>();
        std::thread::spawn(move || {
            for (mut command, reply) in todo {
                reply.send(command.spawn()).ok();
            }
        });
        Mutex::new(jobs)
    });
    let described = format!("{command:?}");
    let (reply, answer) = mpsc::channel();
    starter.lock().unwrap().send((command, reply)).unwrap();
    let child = answer.recv().unwrap().unwrap_or_else(|error| panic!("start {described}: {error}"));
    let name = match ends_by {
        Signal::INT => "INT",
        Signal::TERM => "TERM",
        _ => "KILL",
    };
    tell_reaper(&format!("process {} {name}", child.id()));
    child
}

#[allow(clippy::zombie_processes, reason = "the reaper outlives this process: that is its work")]
fn tell_reaper(line: &str) {
    static REAPER: OnceLock<Mutex<ChildStdin>> = OnceLock::new();
    let reaper = REAPER.get_or_init(|| {
        // A session of its own: Ctrl-C in the terminal of the tests must not end it.
        let mut command = Command::new("setsid");
        command.arg("bash").arg(source_path("tests/harness/reaper.sh")).stdin(Stdio::piped());
        let mut child = command.spawn().expect("setsid and bash are there");
        Mutex::new(child.stdin.take().unwrap())
    });
    writeln!(reaper.lock().unwrap(), "{line}").expect("the reaper reads");
}

/// A fresh folder, removed when the test process ends. Others may enter it, but not list it:
/// PostgreSQL runs as a user of its own.
pub(crate) fn fresh_folder(word: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("rowtide-{}", fresh_name(word)));
    // A killed process with the same id may have left one.
    fs::remove_dir_all(&path).ok();
    fs::create_dir_all(&path).unwrap();
    fs::set_permissions(&path, Permissions::from_mode(0o711)).unwrap();
    if std::env::var_os("ROWTIDE_KEEP").is_none() {
        tell_reaper(&format!("folder {}", path.display()));
    }
    path
}

/// A file of the project.
pub(crate) fn source_path(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// Copies a folder as it is.
pub(crate) fn copy(from: &Path, to: &Path) {
    let done = Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap();
    assert!(done.success(), "cp -a {} {}", from.display(), to.display());
}

/// Sends a signal to a child that was not waited for yet, so its id is still its own.
pub(crate) fn signal(child: &Child, signal: Signal) {
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
    kill_process(pid, signal).ok();
}

/// Waits for the end of a child; `None` if it still runs after `limit`.
pub(crate) fn wait(child: &mut Child, limit: Duration) -> Option<ExitStatus> {
    let end = Instant::now() + limit;
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return Some(status);
        }
        if Instant::now() > end {
            return None;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A process that a child of ours has started, told from a later one with its id by the time of its start.
#[derive(Debug)]
pub(crate) struct Grandchild {
    pid: u32,
    started: String,
}

impl Grandchild {
    /// All that run now.
    pub(crate) fn all_of(child: &Child) -> Vec<Self> {
        let pid = child.id();
        let pids = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        let known = |pid: &str| {
            let pid = pid.parse().ok()?;
            Some(Self { pid, started: Self::start_of(pid)? })
        };
        pids.split_whitespace().filter_map(known).collect()
    }

    /// Field 22 of /proc/PID/stat, counted from behind the name, which may hold anything; `None` for a
    /// process that has ended, also when nobody has asked how.
    fn start_of(pid: u32) -> Option<String> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let (_, behind_name) = stat.rsplit_once(')')?;
        let mut fields = behind_name.split_whitespace();
        let state = fields.next()?;
        if state == "Z" { None } else { fields.nth(18).map(str::to_owned) }
    }

    fn is_there(&self) -> bool {
        Self::start_of(self.pid).is_some_and(|started| started == self.started)
    }

    /// Waits until it has ended by itself; after `limit` it is killed.
    pub(crate) fn outlive(&self, limit: Duration) {
        let end = Instant::now() + limit;
        while self.is_there() {
            if Instant::now() > end {
                let pid = Pid::from_raw(i32::try_from(self.pid).unwrap()).unwrap();
                kill_process(pid, Signal::KILL).ok();
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// Two free ports of 127.0.0.1, `distance` apart; the first is returned. They lie below the range
/// from which the kernel takes ports for outgoing connections.
pub(crate) fn free_port(distance: u16) -> u16 {
    static NEXT: OnceLock<Mutex<u16>> = OnceLock::new();
    let next = NEXT.get_or_init(|| Mutex::new(20_000 + (std::process::id() % 10_000) as u16));
    let mut next = next.lock().unwrap();
    for _ in 0..10_000 {
        *next = if *next >= 30_000 { 20_000 } else { *next + 1 };
        let free = |port: u16| std::net::TcpListener::bind(("127.0.0.1", port)).is_ok();
        if free(*next) && free(*next + distance) {
            return *next;
        }
    }
    panic!("no free port between 20000 and 30000");
}
