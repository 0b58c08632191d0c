//! Real servers from `scripts/servers`: shared ones, started at their first use, and private ones
//! for tests that restart or configure them.

use std::collections::HashSet;
use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tokio::sync::OnceCell;
use tokio_postgres::{Client, NoTls};

use super::processes::{self, Grandchild, free_port, fresh_folder, source_path};
use super::{fresh_name, poll_until};

pub(crate) use super::search::{Engine, Search};

/// Fetching a server into an empty cache is part of its first start.
pub(super) const START_LIMIT: Duration = Duration::from_secs(600);
/// From the polite signal to SIGKILL.
const STOP_LIMIT: Duration = Duration::from_secs(30);
/// From the end of a server to that of the processes that it had started.
const ORPHAN_LIMIT: Duration = Duration::from_secs(5);

/// A server's process, and how to start it again on the same data and port.
#[derive(Debug)]
pub(super) struct Server {
    pub(super) script: &'static str,
    pub(super) environment: Vec<(String, String)>,
    pub(super) arguments: Vec<String>,
    pub(super) ends_by: Signal,
    pub(super) folder: PathBuf,
    pub(super) port: u16,
    pub(super) child: Mutex<Option<Child>>,
}

impl Server {
    /// The processes of the server: the first one and its children.
    pub(super) fn pids(&self) -> Vec<u32> {
        let child = self.child.lock().unwrap();
        let Some(first) = child.as_ref().map(Child::id) else { return Vec::new() };
        let children = fs::read_to_string(format!("/proc/{first}/task/{first}/children")).unwrap_or_default();
        let children = children.split_whitespace().filter_map(|pid| pid.parse().ok());
        std::iter::once(first).chain(children).collect()
    }

    pub(super) fn launch(&self) {
        let log = File::options().create(true).append(true).open(self.folder.join("server.log")).unwrap();
        let mut command = Command::new(source_path("scripts/servers").join(self.script));
        command.arg(self.port.to_string()).arg(self.folder.join("data")).args(&self.arguments);
        command.env("STOP_WITH_PARENT", "1").envs(self.environment.iter().cloned());
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        *self.child.lock().unwrap() = Some(processes::start(command, self.ends_by));
    }

    /// Fails the test, with the end of the server's log, if the process has ended.
    pub(super) fn assert_runs(&self) {
        let mut child = self.child.lock().unwrap();
        let Some(status) = child.as_mut().and_then(|child| child.try_wait().unwrap()) else { return };
        let log = fs::read_to_string(self.folder.join("server.log")).unwrap_or_default();
        let from = log.len().saturating_sub(3000);
        panic!("{} ended with {status}: {}", self.script, String::from_utf8_lossy(&log.as_bytes()[from..]));
    }

    /// Stops it by its polite signal, or by `signal`; SIGKILL after a limit.
    pub(super) fn stop(&self, signal: Signal) {
        let Some(mut child) = self.child.lock().unwrap().take() else { return };
        let grandchildren = Grandchild::all_of(&child);
        processes::signal(&child, signal);
        if processes::wait(&mut child, STOP_LIMIT).is_none() {
            println!("{} did not stop in {STOP_LIMIT:?}: SIGKILL", self.script);
            processes::signal(&child, Signal::KILL);
            processes::wait(&mut child, STOP_LIMIT).expect("SIGKILL ends a process");
        }
        // Those of a PostgreSQL that was killed end a moment later, and it cannot start again before.
        for grandchild in grandchildren {
            grandchild.outlive(ORPHAN_LIMIT);
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop(self.ends_by);
        if std::env::var_os("ROWTIDE_KEEP").is_none() {
            fs::remove_dir_all(&self.folder).ok();
        }
    }
}

/// A real PostgreSQL.
#[derive(Debug)]
pub(crate) struct Postgres {
    server: Server,
}

/// Names of the databases that tests use now; all others of ours are swept away.
static LIVE_DATABASES: Mutex<Option<HashSet<String>>> = Mutex::new(None);

impl Postgres {
    /// The shared PostgreSQL 18.
    pub(crate) async fn shared() -> &'static Self {
        Self::shared_of(18).await
    }

    /// The shared PostgreSQL of that version.
    pub(crate) async fn shared_of(version: u32) -> &'static Self {
        static SHARED: [OnceCell<Postgres>; 3] = [const { OnceCell::const_new() }; 3];
        let (cell, name) = match version {
            15 => (&SHARED[0], "15"),
            17 => (&SHARED[1], "17"),
            _ => (&SHARED[2], "18"),
        };
        cell.get_or_init(|| Self::start(name, &[])).await
    }

    /// A server of one's own; `arguments` as in `["-c", "max_slot_wal_keep_size=16MB"]`.
    pub(crate) async fn start(version: &str, arguments: &[&str]) -> Self {
        let postgres = Self::prepare(version, arguments);
        postgres.start_again().await;
        postgres
    }

    /// As [`Self::start`], not started yet: what its data folder holds then is used.
    pub(crate) fn prepare(version: &str, arguments: &[&str]) -> Self {
        Self::prepare_with(version, arguments, &[])
    }

    /// A server of one's own whose settings about replication are its defaults, so that ALTER SYSTEM and a
    /// restart change them.
    pub(crate) async fn start_unset(version: &str) -> Self {
        let postgres = Self::prepare_with(version, &[], &[("OWN_SETTINGS", "1")]);
        postgres.start_again().await;
        postgres
    }

    fn prepare_with(version: &str, arguments: &[&str], environment: &[(&str, &str)]) -> Self {
        let more = environment.iter().map(|&(name, value)| (name.into(), value.into()));
        let server = Server {
            script: "start-pg.sh",
            environment: std::iter::once(("PG_VERSION".into(), version.into())).chain(more).collect(),
            arguments: arguments.iter().map(|&argument| argument.into()).collect(),
            ends_by: Signal::INT,
            folder: fresh_folder("pg"),
            port: free_port(0),
            child: Mutex::new(None),
        };
        Self { server }
    }

    pub(crate) fn port(&self) -> u16 {
        self.server.port
    }

    /// See [`Server::pids`].
    pub(crate) fn pids(&self) -> Vec<u32> {
        self.server.pids()
    }

    /// Stops it: `Signal::INT` fast, `Signal::KILL` as a crash does.
    pub(crate) fn stop(&self, signal: Signal) {
        self.server.stop(signal);
    }

    /// Its data directory; not to be touched while it runs.
    pub(crate) fn data_folder(&self) -> PathBuf {
        self.server.folder.join("data/pgdata")
    }

    /// Starts it on its data and port, and waits for a login.
    pub(crate) async fn start_again(&self) {
        self.server.launch();
        poll_until("a login at PostgreSQL", START_LIMIT, async || {
            self.server.assert_runs();
            self.try_client("postgres").await
        })
        .await;
    }

    async fn try_client(&self, database: &str) -> Option<Client> {
        let (host, port) = ("127.0.0.1", self.server.port);
        let options = format!("host={host} port={port} dbname={database} user=postgres password=postgres");
        let (client, connection) = tokio_postgres::connect(&options, NoTls).await.ok()?;
        tokio::spawn(connection);
        client.simple_query("SELECT 1").await.ok()?;
        Some(client)
    }

    /// A new database of its own. Databases and slots of tests that ended are dropped first:
    /// a forgotten slot keeps WAL for ever, and there is room for 20 of them.
    pub(crate) async fn fresh_database(&self) -> Database {
        let admin = self.try_client("postgres").await.expect("PostgreSQL answers");
        let name = fresh_name("t");
        let live = {
            let mut live = LIVE_DATABASES.lock().unwrap();
            let live = live.get_or_insert_default();
            live.insert(name.clone());
            live.clone()
        };
        let found =
            admin.query("SELECT datname::text FROM pg_database WHERE datname LIKE 't\\_%'", &[]).await;
        for row in found.unwrap() {
            let ended: String = row.get(0);
            if !live.contains(&ended) {
                drop_database(&admin, &ended).await;
            }
        }
        admin.batch_execute(&format!("CREATE DATABASE {name}")).await.unwrap();
        Database { name, port: self.server.port }
    }
}

async fn drop_database(admin: &Client, name: &str) {
    let slots = "SELECT slot_name::text FROM pg_replication_slots WHERE database = $1";
    let ends = Instant::now() + Duration::from_secs(10);
    loop {
        let stop = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1";
        admin.query(stop, &[&name]).await.unwrap();
        let mut left = 0;
        for row in admin.query(slots, &[&name]).await.unwrap() {
            let slot: String = row.get(0);
            left += u32::from(admin.query("SELECT pg_drop_replication_slot($1)", &[&slot]).await.is_err());
        }
        if left == 0 {
            break;
        }
        assert!(Instant::now() < ends, "a slot of {name} cannot be dropped");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    admin.batch_execute(&format!("DROP DATABASE {name} WITH (FORCE)")).await.unwrap();
}

/// A connection to a database as the superuser.
pub(crate) async fn client(port: u16, database: &str) -> Client {
    let options = format!("host=127.0.0.1 port={port} dbname={database} user=postgres password=postgres");
    let (client, connection) = tokio_postgres::connect(&options, NoTls).await.expect("PostgreSQL answers");
    tokio::spawn(connection);
    client
}

/// A database of one test.
#[derive(Debug)]
pub(crate) struct Database {
    pub(crate) name: String,
    pub(crate) port: u16,
}

impl Database {
    /// A connection as the superuser.
    pub(crate) async fn client(&self) -> Client {
        client(self.port, &self.name).await
    }

    /// `[sources.shop]` for this database, as the superuser; publication and slot carry the database's name,
    /// since slots belong to the whole server.
    pub(crate) fn source_section(&self) -> String {
        self.source_section_through(self.port)
    }

    /// The same, by way of what listens on this port of 127.0.0.1.
    pub(crate) fn source_section_through(&self, port: u16) -> String {
        let name = &self.name;
        format!(
            "[sources.shop]\ntype = \"postgres\"\nurl = \"postgres://postgres:postgres@127.0.0.1:{port}/{name}\"\n\
             slot = \"{name}\"\npublication = \"{name}\"\n"
        )
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        if let Some(live) = LIVE_DATABASES.lock().unwrap().as_mut() {
            live.remove(&self.name);
        }
    }
}
