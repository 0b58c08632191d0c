//! A primary with a streaming standby, an address that can lead to either, and writers.

use std::fs::{self, File, Permissions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use rustix::process::Signal;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

use crate::harness::pair::PATIENCE;
use crate::harness::poll_until;
use crate::harness::processes::copy;
use crate::harness::servers::{Postgres, client};

/// The standby's own slot on the primary.
const SLOT: &str = "standby_1";

/// Two servers of one history.
pub(super) struct Cluster {
    pub(super) primary: Postgres,
    pub(super) standby: Postgres,
}

impl Cluster {
    /// Logical slots are kept on the standby too, and send nothing that is not there.
    pub(super) async fn start(version: &str) -> Self {
        let cluster = Self::start_with(version, "sync_replication_slots = on\n").await;
        cluster.set_on_primary(&format!("synchronized_standby_slots = '{SLOT}'")).await;
        cluster
    }

    /// The standby is a copy of the stopped primary; `settings` are more lines of its configuration.
    pub(super) async fn start_with(version: &str, settings: &str) -> Self {
        let primary = Postgres::start(version, &[]).await;
        primary.stop(Signal::INT);
        let standby = Postgres::prepare(version, &[]);
        let data = standby.data_folder();
        fs::create_dir_all(data.parent().unwrap()).unwrap();
        copy(&primary.data_folder(), &data);
        primary.start_again().await;
        let admin = client(primary.port(), "postgres").await;
        admin.batch_execute(&format!("SELECT pg_create_physical_replication_slot('{SLOT}')")).await.unwrap();

        // The server, another user, removes it when it is promoted.
        File::create(data.join("standby.signal")).unwrap();
        fs::set_permissions(data.join("standby.signal"), Permissions::from_mode(0o666)).unwrap();
        let port = primary.port();
        let text = format!(
            "primary_conninfo = 'host=127.0.0.1 port={port} user=postgres password=postgres dbname=postgres'\n\
             primary_slot_name = '{SLOT}'\nhot_standby_feedback = on\n{settings}"
        );
        let mut file = File::options().append(true).open(data.join("postgresql.auto.conf")).unwrap();
        file.write_all(text.as_bytes()).unwrap();
        standby.start_again().await;
        let cluster = Self { primary, standby };
        let admin = client(cluster.primary.port(), "postgres").await;
        poll_until("the standby's connection", PATIENCE, async || {
            let sql = "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'";
            (admin.query_one(sql, &[]).await.unwrap().get::<_, i64>(0) == 1).then_some(())
        })
        .await;
        cluster
    }

    async fn set_on_primary(&self, setting: &str) {
        let admin = client(self.primary.port(), "postgres").await;
        admin.batch_execute(&format!("ALTER SYSTEM SET {setting}")).await.unwrap();
        admin.batch_execute("SELECT pg_reload_conf()").await.unwrap();
    }

    /// What can be seen on the primary is on the standby's disk.
    pub(super) async fn commits_wait_for_the_standby(&self) {
        self.set_on_primary("synchronous_standby_names = 'walreceiver'").await;
        let admin = client(self.primary.port(), "postgres").await;
        poll_until("the synchronous standby", PATIENCE, async || {
            let sql = "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'";
            (admin.query_one(sql, &[]).await.unwrap().get::<_, i64>(0) == 1).then_some(())
        })
        .await;
    }

    /// Waits until a promoted standby would have the slot.
    pub(super) async fn slot_is_on_the_standby(&self, slot: &str) {
        let standby = client(self.standby.port(), "postgres").await;
        poll_until("the slot on the standby", PATIENCE, async || {
            let sql =
                "SELECT count(*) FROM pg_replication_slots WHERE slot_name = $1 AND synced AND NOT temporary";
            (standby.query_one(sql, &[&slot]).await.unwrap().get::<_, i64>(0) == 1).then_some(())
        })
        .await;
    }

    /// From now on the standby gets nothing, and nobody waits for it.
    pub(super) async fn standby_falls_behind(&self) {
        self.set_on_primary("synchronized_standby_slots = ''").await;
        self.standby.stop(Signal::INT);
        fs::remove_file(self.standby.data_folder().join("postmaster.pid")).ok();
    }

    /// Makes the standby a primary; the old one is gone.
    pub(super) async fn promote(&self) {
        let standby = client(self.standby.port(), "postgres").await;
        let promoted = standby.query_one("SELECT pg_promote()", &[]).await.unwrap();
        assert!(promoted.get::<_, bool>(0), "the standby was not promoted");
    }
}

/// A port of 127.0.0.1 that leads to one server or the other.
pub(super) struct Address {
    pub(super) port: u16,
    to: Arc<AtomicU16>,
    _task: JoinSet<()>,
}

impl Address {
    pub(super) async fn start(server: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let to = Arc::new(AtomicU16::new(server));
        let mut task = JoinSet::new();
        let leads_to = to.clone();
        task.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (mut from, _) = listener.accept().await.unwrap();
                let server = leads_to.load(Relaxed);
                connections.spawn(async move {
                    if let Ok(mut to) = TcpStream::connect(("127.0.0.1", server)).await {
                        copy_bidirectional(&mut from, &mut to).await.ok();
                    }
                });
                while connections.try_join_next().is_some() {}
            }
        });
        Self { port, to, _task: task }
    }

    /// New connections lead to that server.
    pub(super) fn point_at(&self, server: u16) {
        self.to.store(server, Relaxed);
    }
}

/// Connections that write until they are told to stop or the server is gone.
pub(super) struct Writers {
    tasks: Vec<JoinHandle<()>>,
    stop: Arc<AtomicU64>,
    written: Arc<AtomicU64>,
}

impl Writers {
    pub(super) async fn start(port: u16, database: &str, salt: u64) -> Self {
        let (stop, written) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let mut tasks = Vec::new();
        for number in 0..3 {
            let client = client(port, database).await;
            let (stop, written) = (stop.clone(), written.clone());
            tasks.push(tokio::spawn(async move {
                for step in 0_u64.. {
                    let row = 1 + (step * 7919 + number * 31) % 490;
                    let fresh = salt * 1_000_000 + number * 100_000 + step;
                    let sql = format!(
                        "BEGIN; INSERT INTO t VALUES ({fresh}, {step}, 'new'); \
                         UPDATE t SET n = n + {salt} WHERE id = {row}; DELETE FROM t WHERE id = {}; COMMIT",
                        row + 1
                    );
                    // Two that wait for each other are no failure of the test.
                    let done = client.batch_execute(&sql).await;
                    if done.is_err() && client.batch_execute("ROLLBACK").await.is_err() {
                        return;
                    }
                    written.fetch_add(u64::from(done.is_ok()), Relaxed);
                    if stop.load(Relaxed) == 1 {
                        return;
                    }
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            }));
        }
        Self { tasks, stop, written }
    }

    /// How many transactions were committed.
    pub(super) async fn stop(self) -> u64 {
        self.stop.store(1, Relaxed);
        for task in self.tasks {
            task.await.unwrap();
        }
        self.written.load(Relaxed)
    }
}
