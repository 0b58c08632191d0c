//! The primary is killed, its standby promoted: everything that Rowtide has written is known to be there,
//! or it says that it is not (laws 1 and 8, T04).
//!
//! ```text
//!   writers ──► primary ══ WAL ══► standby           primary ✕   standby, promoted ◄── writers
//!                  ▲                                                 ▲
//!                  └── Address ◄── Rowtide                           └── Address ◄── Rowtide
//! ```

use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use crate::harness::pair::{PATIENCE, Pair, Setup};
use crate::harness::servers::Postgres;
use crate::harness::{Scale, scale};

mod cluster;

use cluster::{Address, Cluster, Writers};

/// Rows of the table that is being filled when the primary is killed.
const ROWS: u64 = 20_000;
const SQL: &str = "CREATE TABLE t (id int PRIMARY KEY, n int, v text);
    INSERT INTO t SELECT id, 0, 'x' FROM generate_series(1, 500) id";
const WIDE: &str = "CREATE TABLE wide (id int PRIMARY KEY, n int, v text);
    INSERT INTO wide SELECT id, 0, repeat('x', 1800) FROM generate_series(1, 20000) id";
/// Too little for all rows at once.
const MEMORY: &str = "max_rss = \"96MiB\"\ndocument_bytes_max = \"256KiB\"";

/// The versions whose slots are kept on standbys.
fn versions() -> &'static [&'static str] {
    match scale() {
        Scale::Small => &["18"],
        Scale::Full => &["18", "17"],
    }
}

async fn followed_through(address: &Address, cluster: &Cluster, target: &str, source: &str) -> Pair {
    let setup = Setup { sql: SQL, tables: &["t"], memory: MEMORY, target, source, table: "", second: None };
    let mut pair = Pair::set(&cluster.primary, setup).await;
    let direct = format!("127.0.0.1:{}/", cluster.primary.port());
    pair.config = pair.config.replace(&direct, &format!("127.0.0.1:{}/", address.port));
    let text = format!("data_dir = \"data\"\n{}", pair.config);
    std::fs::write(pair.rowtide.folder.join("rowtide.toml"), text).unwrap();
    pair.rowtide.allow("the source was lost; it is opened again");
    pair.rowtide.run_again();
    pair
}

/// The slot is on the standby; then a table joins, and its fill has begun.
async fn filling(pair: &mut Pair, cluster: &Cluster) {
    pair.wait_for_documents("t", 500).await;
    cluster.slot_is_on_the_standby(pair.slot()).await;
    pair.stop();
    pair.sql(WIDE).await;
    pair.add_table("wide");
    pair.proxy.delay_answers(Duration::from_secs(1));
    pair.rowtide.run_again();
    pair.wait_for_documents_at_least("wide", 300).await;
}

/// Everything of the primary is gone at once.
fn kill(postgres: &Postgres) {
    for pid in postgres.pids() {
        let pid = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
        kill_process(pid, Signal::KILL).ok();
    }
    postgres.stop(Signal::KILL);
}

/// From now on the pair looks at the other server.
async fn look_at(pair: &mut Pair, postgres: &Postgres) {
    pair.database.port = postgres.port();
    pair.client = pair.database.client().await;
}

/// In the middle of the backfill, under writers. A standby that is waited for by commits and by what the
/// slot sends has all that Rowtide has seen: it goes on there by itself, with versions above all others.
#[tokio::test(flavor = "multi_thread")]
async fn t04_a_promoted_standby_with_the_slot_is_followed_on() {
    for version in versions() {
        let cluster = Cluster::start(version).await;
        cluster.commits_wait_for_the_standby().await;
        let address = Address::start(cluster.primary.port()).await;
        let slow = "bulk_count_max = 100\nlanes = 2";
        let mut pair = followed_through(&address, &cluster, slow, "chunk_rows = 500").await;
        filling(&mut pair, &cluster).await;
        let writers = Writers::start(cluster.primary.port(), &pair.database.name, 1).await;
        pair.wait_for_documents_at_least("wide", 1_000).await;
        let before = pair.documents("wide").await;
        assert!(before < ROWS / 2, "the backfill had nearly ended: {before} documents");
        let marked = pair.http.document(&pair.index("t"), "1").await.map(|document| document.1);

        kill(&cluster.primary);
        let written = writers.stop().await;
        assert!(written > 20, "the writers wrote {written} times only");
        address.point_at(cluster.standby.port());
        // A standby is waited for: it is likely to be promoted.
        pair.rowtide.wait_for_line("find the primary", PATIENCE).await;
        cluster.promote().await;
        look_at(&mut pair, &cluster.standby).await;
        let writers = Writers::start(cluster.standby.port(), &pair.database.name, 2).await;
        pair.rowtide.wait_for_line("it has everything that was emitted", PATIENCE).await;
        pair.proxy.delay_answers(Duration::ZERO);
        pair.wait_until_following().await;
        assert!(writers.stop().await > 20);
        pair.sql("UPDATE t SET n = -1 WHERE id = 1").await;
        pair.caught_up().await;
        pair.assert_equal().await;
        let after = pair.document("t", "1").await.unwrap().1;
        assert!(marked.is_none_or(|before| after > before), "{after} after, {marked:?} before");
        pair.stop();
        drop(pair);
        cluster.standby.stop(Signal::INT);
    }
}

/// Before 17 no slot is on the standby: what was not read yet is lost, and nobody can say what it was.
#[tokio::test(flavor = "multi_thread")]
async fn t04_a_promoted_standby_without_the_slot_halts() {
    let version = if scale() == Scale::Small { "18" } else { "15" };
    let cluster = Cluster::start_with(version, "").await;
    let address = Address::start(cluster.primary.port()).await;
    let mut pair = followed_through(&address, &cluster, "", "").await;
    pair.wait_for_documents("t", 500).await;
    pair.caught_up().await;
    let received = pair.proxy.documents();
    kill(&cluster.primary);
    cluster.promote().await;
    address.point_at(cluster.standby.port());
    let line = pair.assert_halts("slot-lost");
    assert!(line.text.contains("failover"), "the hint says what would have kept it: {}", line.text);
    assert_eq!(pair.proxy.documents(), received, "something was written");
    drop(pair);
    cluster.standby.stop(Signal::INT);
}

/// The standby was behind: a row that is in the index never was on it.
#[tokio::test(flavor = "multi_thread")]
async fn a10_a_standby_that_lacks_what_the_log_brought_is_not_followed() {
    let cluster = Cluster::start("18").await;
    let address = Address::start(cluster.primary.port()).await;
    let mut pair = followed_through(&address, &cluster, "", "").await;
    pair.wait_until_following().await;
    cluster.slot_is_on_the_standby(pair.slot()).await;
    cluster.standby_falls_behind().await;
    pair.sql("INSERT INTO t VALUES (100000, 1, 'lost')").await;
    pair.wait_for_value("t", "100000", "n", json!(1)).await;
    is_not_followed(pair, cluster, &address).await;
}

/// The same by a read beside the log, which saw what the log's reader never came to: no checkpoint says so.
#[tokio::test(flavor = "multi_thread")]
async fn a10_a_standby_that_lacks_what_a_read_saw_is_not_followed() {
    let cluster = Cluster::start("18").await;
    let address = Address::start(cluster.primary.port()).await;
    let slow = "bulk_count_max = 100\nlanes = 2";
    let mut pair = followed_through(&address, &cluster, slow, "chunk_rows = 500").await;
    filling(&mut pair, &cluster).await;
    cluster.standby_falls_behind().await;
    let ask = "SELECT active_pid FROM pg_replication_slots WHERE slot_name = ";
    let sender: i32 = pair.ask(&format!("{ask}'{}'", pair.slot())).await.parse().unwrap();
    kill_process(Pid::from_raw(sender).unwrap(), Signal::STOP).unwrap();
    // Behind the rows that are read now.
    pair.sql("INSERT INTO wide VALUES (100000, 1, 'lost')").await;
    pair.proxy.delay_answers(Duration::ZERO);
    pair.wait_for_value("wide", "100000", "n", json!(1)).await;
    is_not_followed(pair, cluster, &address).await;
}

async fn is_not_followed(mut pair: Pair, cluster: Cluster, address: &Address) {
    kill(&cluster.primary);
    cluster.standby.start_again().await;
    cluster.promote().await;
    let received = pair.proxy.documents();
    address.point_at(cluster.standby.port());
    let line = pair.assert_halts("history-broken");
    assert!(line.text.contains("were lost in the failover"), "{}", line.text);
    assert_eq!(pair.proxy.documents(), received, "something was written");
    look_at(&mut pair, &cluster.standby).await;
    for table in ["t", "wide"] {
        let sql = format!("SELECT count(*) FROM pg_class WHERE relname = '{table}'");
        let is_there = pair.ask(&sql).await == "1";
        let lost = format!("SELECT count(*) FROM {table} WHERE id = 100000");
        assert!(!is_there || pair.ask(&lost).await == "0", "{table} has what was lost");
    }
    drop(pair);
    cluster.standby.stop(Signal::INT);
}
