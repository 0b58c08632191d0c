//! Several pipelines in one process: whatever becomes of one, the others go on as if they were alone.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use reqwest::Method;
use rowtide::config::{self, Environment};
use rowtide::pipeline::Plan;
use rowtide::status::{State, Status};
use rowtide::store::Sqlite;
use rowtide::supervisor::{self, Running, Supervisor};
use serde_json::json;
use sources::world::RealWorld;
use tokio_postgres::Client;

use crate::harness::comparer::become_equal;
use crate::harness::pair::{PATIENCE, Pair, Setup};
use crate::harness::postgres_rows::PostgresRows;
use crate::harness::processes::free_port;
use crate::harness::proxy::Proxy;
use crate::harness::rowtide::{Line, Rowtide};
use crate::harness::servers::{Database, Engine, Postgres, Search};
use crate::harness::{Scale, fresh_name, poll_until, scale};

/// Rows of some 500 bytes.
const TABLE: &str = "CREATE TABLE t (id bigint PRIMARY KEY, n bigint NOT NULL, text text NOT NULL);";
const MIB: u64 = 1 << 20;
const MEMORY: &str = "max_rss = \"128MiB\"\ndocument_bytes_max = \"1MiB\"";
const MAX_RSS_KIB: u64 = 128 << 10;
/// The half of (128 − 24 − 4 − 14 × 1) MiB × 3/4.
const SHARE: u64 = 86 * MIB / 4 * 3 / 2;

fn rows() -> u64 {
    match scale() {
        Scale::Small => 60_000,
        Scale::Full => 1_000_000,
    }
}

fn insert(from: u64, to: u64) -> String {
    format!("INSERT INTO t SELECT id, 0, repeat(md5(id::text), 15) FROM generate_series({from}, {to}) id")
}

/// A second pipeline beside a [`Pair`]'s, from a database of its own.
struct Beside {
    database: Database,
    client: Client,
    name: String,
    index: String,
}

impl Beside {
    /// Its database is there; its sections are added, so that it runs with the next run. `target` is the
    /// section `[targets.beside]`, without its head, or nothing for the pair's own target.
    async fn set(pair: &mut Pair, target: &str) -> Self {
        let database = Postgres::shared().await.fresh_database().await;
        let client = database.client().await;
        client.batch_execute(TABLE).await.unwrap();
        let name = fresh_name("beside");
        let beside = Self { index: format!("{name}_t"), database, client, name };
        pair.configure(&beside.sections(target));
        beside
    }

    fn sections(&self, target: &str) -> String {
        let Self { database, name, index, .. } = self;
        let source = database.source_section().replace("[sources.shop]", "[sources.beside]");
        let (section, target) = match target {
            "" => (String::new(), "search"),
            keys => (format!("[targets.beside]\ntype = \"elasticsearch\"\n{keys}\n"), "beside"),
        };
        format!(
            "\n{source}\n{section}\n[pipelines.{name}]\nsource = \"beside\"\ntarget = \"{target}\"\n\
             [pipelines.{name}.tables.\"public.t\"]\nindex = \"{index}\"\n"
        )
    }

    async fn become_equal(&self, pair: &Pair) {
        let rows = async || PostgresRows::open(self.database.client().await, "public.t").await;
        become_equal(&pair.http, &self.index, PATIENCE, rows).await;
    }
}

/// The status lines of a pipeline.
fn said(rowtide: &Rowtide, pipeline: &str) -> Vec<Line> {
    let of = |line: &Line| line.message == "status" && line.fields["span"]["pipeline"] == pipeline;
    rowtide.log().into_iter().filter(of).collect()
}

async fn wait_for_state(rowtide: &mut Rowtide, pipeline: &str, state: &str) {
    poll_until(&format!("{pipeline} to be {state}"), PATIENCE, async || {
        rowtide.assert_runs();
        said(rowtide, pipeline).last().is_some_and(|line| line.fields["state"] == state).then_some(())
    })
    .await;
}

/// Seconds of processor time that a process has used.
fn cpu_seconds(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let (_, behind_name) = stat.rsplit_once(')').unwrap();
    let ticks = |field: usize| -> f64 { behind_name.split_whitespace().nth(field).unwrap().parse().unwrap() };
    // Fields 14 and 15; a tick is a hundredth of a second on Linux.
    (ticks(11) + ticks(12)) / 100.0
}

/// Fills, follows as many changes again and becomes equal; returns the documents that went out for each second
/// of processor time.
async fn load(pair: &mut Pair) -> f64 {
    let rows = rows();
    pair.sql(&insert(1, rows)).await;
    pair.rowtide.run_again();
    pair.wait_for_documents("t", rows).await;
    for from in 0..10 {
        pair.sql(&format!("UPDATE t SET n = n + 1 WHERE id % 10 = {from}")).await;
    }
    pair.become_equal().await;
    let documents = pair.proxy.documents();
    assert!(documents >= rows, "{documents}");
    documents as f64 / cpu_seconds(pair.rowtide.pid())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_is_dead_all_the_time_costs_the_other_pipeline_nothing() {
    let setup = || Setup { sql: TABLE, tables: &["t"], memory: MEMORY, ..Setup::default() };
    let mut alone = Pair::set(Postgres::shared().await, setup()).await;
    let alone_rate = load(&mut alone).await;
    alone.stop();

    let mut pair = Pair::set(Postgres::shared().await, setup()).await;
    let dead = free_port(0);
    let beside = Beside::set(&mut pair, &format!("nodes = [\"http://127.0.0.1:{dead}\"]")).await;
    beside.client.batch_execute(&insert(1, rows())).await.unwrap();
    let rate = load(&mut pair).await;
    let (ratio, high) = (rate / alone_rate, pair.rowtide.high_water_kib());
    println!(
        "documents a CPU second: {rate:.0} beside a dead target, {alone_rate:.0} alone: {ratio:.2}; VmHWM {high} KiB"
    );
    // The processor's own time, not the clock's; what is left is the noise of a shared machine.
    assert!(ratio > 0.5, "{ratio}");
    assert!(high < MAX_RSS_KIB, "{high} KiB");
    let lines = said(&pair.rowtide, &beside.name);
    let line = lines.last().expect("a status line in ten seconds");
    assert_eq!(
        (line.fields["state"].as_str(), line.number("written")),
        (Some("waiting"), Some(0)),
        "{line:?}"
    );
    assert!(line.fields["reason"].as_str().unwrap().contains(&dead.to_string()), "{line:?}");
    // Both end in order, the one that waits too.
    pair.rowtide.allow("the end was not clean");
    let (code, log) = pair.rowtide.stop();
    assert_eq!(code, 0);
    assert_eq!(log.iter().filter(|line| line.message == "the pipeline ends").count(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_dies_under_load_holds_its_own_share_and_no_more() {
    let setup = Setup { sql: TABLE, tables: &["t"], memory: MEMORY, ..Setup::default() };
    let mut pair = Pair::set(Postgres::shared().await, setup).await;
    let proxy = Proxy::start(Search::shared(Engine::Elasticsearch8).await.port()).await;
    let beside = Beside::set(&mut pair, &format!("nodes = [\"http://127.0.0.1:{}\"]", proxy.port)).await;
    for message in ["could not renew the lease", "the end was not clean", "answers are still missing"] {
        pair.rowtide.allow(&format!("\"message\":\"{message}"));
    }
    pair.rowtide.run_again();
    let name = pair.pipeline().to_owned();
    wait_for_state(&mut pair.rowtide, &name, "following").await;
    wait_for_state(&mut pair.rowtide, &beside.name, "following").await;

    // What is asked of a target once, before the first document, is behind it.
    beside.client.batch_execute(&insert(0, 0)).await.unwrap();
    beside.become_equal(&pair).await;
    proxy.cut(true);
    let rows = rows();
    // More than its share, and it stays what it is while the other has as much.
    beside.client.batch_execute(&insert(1, rows)).await.unwrap();
    beside.client.batch_execute("UPDATE t SET n = 1").await.unwrap();
    wait_for_state(&mut pair.rowtide, &beside.name, "waiting").await;
    pair.sql(&insert(1, rows)).await;
    pair.sql("UPDATE t SET n = 1").await;
    pair.become_equal().await;
    let high = pair.rowtide.high_water_kib();
    // A status line of each, since the load.
    let count = said(&pair.rowtide, &beside.name).len();
    poll_until("a status line", PATIENCE, async || {
        (said(&pair.rowtide, &beside.name).len() > count).then_some(())
    })
    .await;
    let most = |pipeline: &str| {
        said(&pair.rowtide, pipeline).iter().filter_map(|line| line.number("memory_most")).max().unwrap()
    };
    println!(
        "charged at the most: {} dead, {} alive, of {SHARE}; VmHWM {high} KiB",
        most(&beside.name),
        most(&name)
    );
    assert!(most(&beside.name) > 16 * MIB, "the dead one has read ahead");
    assert!(most(&beside.name) <= SHARE && most(&name) <= SHARE);
    assert!(high < MAX_RSS_KIB, "{high} KiB");

    proxy.cut(false);
    beside.become_equal(&pair).await;
    let (code, _) = pair.rowtide.stop();
    assert_eq!(code, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_halts_leaves_the_other_alone_and_says_why_to_the_end() {
    let setup = Setup { sql: TABLE, tables: &["t"], ..Setup::default() };
    let mut pair = Pair::set(Postgres::shared().await, setup).await;
    // Of one target both, and then one data directory and one state index.
    let beside = Beside::set(&mut pair, "").await;
    pair.configure(&format!("\n[http]\nlisten = \"127.0.0.1:{}\"\n", free_port(0)));
    pair.sql(&insert(1, 500)).await;
    beside.client.batch_execute(&insert(1, 300)).await.unwrap();
    pair.rowtide.allow("halted: a person must act");
    pair.rowtide.run_again();
    let name = pair.pipeline().to_owned();
    wait_for_state(&mut pair.rowtide, &name, "following").await;
    wait_for_state(&mut pair.rowtide, &beside.name, "following").await;
    pair.become_equal().await;
    beside.become_equal(&pair).await;

    pair.http.json(Method::DELETE, &format!("/{}-rowtide-1", beside.index), None).await;
    wait_for_state(&mut pair.rowtide, &beside.name, "halted").await;
    let log = pair.rowtide.log();
    let halted = log.iter().find(|line| line.message == "halted: a person must act").unwrap();
    assert_eq!(
        (halted.fields["state"].as_str(), halted.fields["span"]["pipeline"].as_str()),
        (Some("alias-gone"), Some(beside.name.as_str())),
        "{}",
        halted.text
    );
    let line = said(&pair.rowtide, &beside.name).pop().unwrap();
    assert!(line.fields["reason"].as_str().unwrap().starts_with("alias-gone: "), "{}", line.text);

    // Started again, the one goes on where it was, and the other one says why it does not.
    for pipeline in [&name, &beside.name] {
        let output = pair.rowtide.call(&["restart", pipeline, "--config", "rowtide.toml"]);
        assert_eq!(output.status.code(), Some(0), "{output:?}");
    }
    poll_until("the second halt", PATIENCE, async || {
        let halts = |line: &&Line| line.message == "halted: a person must act";
        (pair.rowtide.log().iter().filter(halts).count() == 2).then_some(())
    })
    .await;
    pair.sql(&insert(501, 1_000)).await;
    pair.sql("UPDATE t SET n = 7 WHERE id % 3 = 0; DELETE FROM t WHERE id % 7 = 0").await;
    pair.become_equal().await;
    // The worst of both.
    let (code, log) = pair.rowtide.stop();
    assert_eq!(code, 3);
    let ends = |line: &&Line| line.message == "the pipeline ends" && line.fields["span"]["pipeline"] == *name;
    assert_eq!(log.iter().filter(ends).count(), 2, "restarted once, and stopped");
}

async fn reach(running: &Running, state: State) -> Status {
    let mut status = running.status.clone();
    let reached = tokio::time::timeout(PATIENCE, status.wait_for(|status| status.state == state)).await;
    reached
        .unwrap_or_else(|_| panic!("{} is not {state:?}: {:?}", running.name, running.status.borrow()))
        .unwrap()
        .clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_has_halted_is_started_again_by_itself() {
    let setup = Setup { sql: TABLE, tables: &["t"], ..Setup::default() };
    let mut pair = Pair::set(Postgres::shared().await, setup).await;
    let beside = Beside::set(&mut pair, "").await;
    pair.sql(&insert(1, 500)).await;
    beside.client.batch_execute(&insert(1, 300)).await.unwrap();
    // Somebody else's documents stand where the second pipeline wants to write.
    pair.http
        .json(Method::PUT, &format!("/{}/_doc/1?refresh=true", beside.index), Some(json!({ "a": 1 })))
        .await;

    let world = RealWorld::shared();
    let file = pair.rowtide.folder.join("rowtide.toml");
    let config = config::load(Path::new(&file), &Environment::new(), &sources::makes(), &world).unwrap();
    let store = Sqlite::open(&config.data_dir, &world).unwrap();
    let works = config.pipelines.into_iter().map(|one| {
        let source = one.source.name.clone();
        supervisor::work(Plan::new(one, store.clone(), 128 << 20, 1 << 20), source, world.clone())
    });
    let mut supervisor = Supervisor::start(works.collect());
    drop(store);
    let [good, bad] = supervisor.pipelines().to_vec().try_into().unwrap();
    assert_eq!((good.name.as_str(), bad.name.as_str()), (pair.pipeline(), beside.name.as_str()));
    let (stop, told) = tokio::sync::oneshot::channel::<()>();
    let ends = Arc::new(std::sync::Mutex::new(Vec::new()));
    let seen = ends.clone();
    let life = tokio::spawn(async move {
        let mut told = std::pin::pin!(told);
        let mut open = true;
        loop {
            tokio::select! {
                ended = supervisor.next() => match ended {
                    Some(ended) => seen.lock().unwrap().push((ended.number, ended.result.is_ok(), ended.goes_on)),
                    None => return,
                },
                _ = &mut told, if open => {
                    open = false;
                    supervisor.stop();
                }
            }
        }
    });

    let halted = reach(&bad, State::Halted).await;
    assert!(halted.reason.as_ref().is_some_and(|reason| reason.starts_with("index-exists: ")), "{halted:?}");
    reach(&good, State::Following).await;
    pair.http.json(Method::DELETE, &format!("/{}", beside.index), None).await;
    bad.restart().unwrap();
    reach(&bad, State::Following).await;
    beside.become_equal(&pair).await;
    beside.client.batch_execute("UPDATE t SET n = 5").await.unwrap();
    beside.become_equal(&pair).await;

    // One that runs is stopped in order, and goes on where it was; the other is never touched.
    let written = good.status.borrow().counts.ends.written;
    assert!(written >= 500, "{written}");
    bad.restart().unwrap();
    poll_until("its end", PATIENCE, async || (ends.lock().unwrap().len() == 2).then_some(())).await;
    reach(&bad, State::Following).await;
    beside.client.batch_execute("DELETE FROM t WHERE id % 2 = 0").await.unwrap();
    beside.become_equal(&pair).await;
    assert_eq!(bad.status.borrow().counts.ends.written, 150, "only what is new");
    pair.sql("UPDATE t SET n = 6 WHERE id = 6").await;
    poll_until("one more document", PATIENCE, async || {
        (good.status.borrow().counts.ends.written == written + 1).then_some(())
    })
    .await;

    stop.send(()).unwrap();
    tokio::time::timeout(Duration::from_secs(20), life).await.unwrap().unwrap();
    let mut ends = ends.lock().unwrap().clone();
    assert_eq!(ends.drain(..2).collect::<Vec<_>>(), [(1, false, false), (1, true, true)]);
    ends.sort();
    assert_eq!(ends, [(0, true, false), (1, true, false)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn check_asks_for_all_and_remove_takes_one() {
    let setup = Setup { sql: TABLE, tables: &["t"], ..Setup::default() };
    let mut pair = Pair::set(Postgres::shared().await, setup).await;
    let beside = Beside::set(&mut pair, "").await;
    let text = |output: std::process::Output| {
        (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    beside.client.batch_execute("ALTER TABLE t RENAME TO u").await.unwrap();
    let (code, said) = text(pair.rowtide.call(&["check", "--config", "rowtide.toml"]));
    assert!(
        code == Some(4) && said.contains("source beside: ") && said.ends_with("1 thing is missing\n"),
        "{said}"
    );
    beside.client.batch_execute("ALTER TABLE u RENAME TO t").await.unwrap();
    let (code, said) = text(pair.rowtide.call(&["check", "--config", "rowtide.toml"]));
    assert_eq!(code, Some(0), "{said}");

    pair.sql(&insert(1, 50)).await;
    beside.client.batch_execute(&insert(1, 50)).await.unwrap();
    pair.rowtide.run_again();
    let name = pair.pipeline().to_owned();
    wait_for_state(&mut pair.rowtide, &name, "following").await;
    wait_for_state(&mut pair.rowtide, &beside.name, "following").await;
    pair.become_equal().await;
    beside.become_equal(&pair).await;
    pair.stop();

    let (code, said) =
        text(pair.rowtide.call(&["remove", "beside", "--delete-index", "--config", "rowtide.toml"]));
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains(&beside.index) && !said.contains(&pair.index("t")), "{said}");
    // The other one has its slot, its checkpoint and its documents, and goes on alone.
    pair.rowtide.replace_configuration(&pair.config.replace(&beside.sections(""), ""));
    pair.rowtide.run_again();
    pair.sql(&insert(51, 60)).await;
    pair.become_equal().await;
    pair.stop();
    let indices = pair.http.get(&format!("/_cat/indices/{}*?format=json", beside.index)).await;
    assert_eq!(indices, json!([]));
}
