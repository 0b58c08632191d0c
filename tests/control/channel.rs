//! What a running process says and does when it is asked.

use std::io::Write;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::{Value, json};

use super::{Channel, client, processor_seconds};
use crate::harness::pair::{Pair, Setup};
use crate::harness::servers::Postgres;

const ROWS: &str = "CREATE TABLE t (id bigint PRIMARY KEY, n bigint NOT NULL, pad text NOT NULL);
    INSERT INTO t SELECT id, 0, repeat(md5(id::text), 20) FROM generate_series(1, 20000) id;";

fn setup() -> Setup<'static> {
    Setup { sql: ROWS, tables: &["t"], source: "chunk_rows = 500", ..Setup::default() }
}

async fn pair() -> Pair {
    Pair::set(Postgres::shared().await, setup()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_status_of_a_fill_and_of_what_follows_is_told_to_all_that_ask() {
    let mut pair = pair().await;
    let channel = Channel::of(&mut pair, "");
    pair.rowtide.run_again();
    channel.listens().await;
    // Slow enough to be looked at.
    channel.post("/throttle", "{\"documents_per_s\":4000}").await;
    let filling =
        channel.says("a fill under way", |said| said["backfill"]["rows_read"].as_u64() > Some(0)).await;
    assert_eq!(filling["backfill"]["tables"][0]["name"], "public.t");
    assert_eq!(filling["backfill"]["done"], false, "{filling}");
    assert_eq!(filling["throttle"], json!({ "documents_per_s": 4000, "bytes_per_s": null }));
    channel.post("/throttle", "{\"documents_per_s\":null}").await;
    let ready = async || channel.http.try_call(Method::GET, "/readyz", None).await.unwrap().0;
    pair.wait_until_following().await;
    pair.caught_up().await;
    let said = channel.says("nothing in flight", |said| said["changes"]["in_flight"] == 0).await;
    assert_eq!(ready().await, 200);
    assert_eq!((said["state"].as_str(), said["lag_bytes"].as_u64()), (Some("following"), Some(0)), "{said}");
    assert_eq!((said["backfill"]["done"].as_bool(), said["dead_letters"].as_u64()), (Some(true), Some(0)));
    assert_eq!(said["changes"]["written"], 20_000);
    assert!(said["sent"]["documents"].as_u64().unwrap() >= 20_000, "{said}");
    assert!(said["checkpoint_age_seconds"].is_number(), "{said}");
    assert_law_6(&said);

    // Every field of the real answers stands in the document that is served, and the other way round.
    let document = channel.http.get("/api/v1/openapi.json").await;
    let all = channel.http.get("/api/v1/pipelines").await;
    for (schema, value) in [
        ("Pipelines", &all),
        ("Process", &all["process"]),
        ("Pipeline", &all["pipelines"][0]),
        ("Target", &all["pipelines"][0]["targets"][0]),
        ("Table", &all["pipelines"][0]["backfill"]["tables"][0]),
    ] {
        let named = &document["components"]["schemas"][schema]["properties"];
        let names = |of: &Value| of.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
        assert_eq!(names(value), names(named), "{schema}");
    }
    check_metrics(&channel.http.text(Method::GET, "/metrics", None).await);

    // The command line asks the same.
    let output = pair.rowtide.call(&["status", "--config", "rowtide.toml", "--json"]);
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        (told["running"].as_bool(), &told["pipelines"][0]["state"]),
        (Some(true), &json!("following"))
    );
    let output = pair.rowtide.call(&["status", "--config", "rowtide.toml"]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains(&format!("{}: following", pair.pipeline())), "{text}");
    pair.stop();

    // And the store, when nothing runs.
    let output = pair.rowtide.call(&["status", "--config", "rowtide.toml", "--json"]);
    assert!(output.status.success());
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    let kept = &told["pipelines"][0];
    assert_eq!(
        (told["running"].as_bool(), kept["ended_cleanly"].as_bool()),
        (Some(false), Some(true)),
        "{told}"
    );
    assert_eq!(kept["targets"], json!([{ "name": "search", "dead_letters": 0 }]));
    assert!(kept["checkpoint_age_seconds"].as_u64().is_some_and(|age| age < 600), "{told}");
    let output = pair.rowtide.call(&["pause", pair.pipeline(), "--config", "rowtide.toml"]);
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(text.contains("no rowtide answers"), "{text}");
}

/// As far as anybody outside can see.
fn assert_law_6(pipeline: &Value) {
    let changes = &pipeline["changes"];
    let count = |name: &str| changes[name].as_u64().unwrap();
    let ends = ["written", "stale", "superseded", "filtered", "dead_lettered", "in_flight"];
    assert_eq!(count("read"), ends.iter().map(|end| count(end)).sum::<u64>(), "{changes}");
}

/// Debian's promtool has nothing to say against them.
fn check_metrics(text: &str) {
    // Where scripts/servers/install puts it, if the machine has none.
    let fetched = format!("{}/.cache/rowtide-tools/bin/promtool", std::env::var("HOME").unwrap_or_default());
    let program = if std::path::Path::new(&fetched).exists() { &fetched } else { "promtool" };
    let mut tool = Command::new(program)
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool is there: scripts/servers/install servers");
    tool.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = tool.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success() && said.trim().is_empty(), "promtool: {said}\n{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn paused_throttled_and_resumed_in_mid_run_it_is_equal_in_the_end() {
    let mut pair = pair().await;
    let channel = Channel::of(&mut pair, "");
    pair.rowtide.run_again();
    channel.listens().await;
    channel.post("/throttle", "{\"bytes_per_s\":1000000}").await;
    channel.says("some of the fill", |said| said["changes"]["written"].as_u64() > Some(500)).await;

    // In the middle of the fill.
    let name = pair.pipeline().to_owned();
    let output = pair.rowtide.call(&["pause", &name, "--config", "rowtide.toml"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    // What was in flight is answered.
    let in_flight = |pair: &Pair| pair.proxy.documents();
    channel.says("the pause", |said| said["state"] == "paused").await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let sent = in_flight(&pair);
    pair.sql("UPDATE t SET n = 1 WHERE id % 3 = 0; DELETE FROM t WHERE id % 7 = 0").await;
    // Longer than a lease lasts.
    tokio::time::sleep(Duration::from_secs(12)).await;
    assert_eq!(in_flight(&pair), sent, "something was sent in a pause");
    let said = channel.pipeline().await;
    assert_eq!((said["paused"].as_bool(), said["state"].as_str()), (Some(true), Some("paused")), "{said}");
    assert!(said["memory"]["used_bytes"].as_u64() <= said["memory"]["limit_bytes"].as_u64(), "{said}");
    assert_eq!(channel.http.try_call(Method::GET, "/readyz", None).await.unwrap().0, 200);
    assert!(pair.documents("t").await < 20_000);

    // It can be stopped and started in a pause, in order; a pause does not outlive the process.
    let (code, _) = pair.rowtide.stop();
    assert_eq!(code, 0);
    pair.rowtide.run_again();
    channel.listens().await;
    channel.post("/throttle", "{\"documents_per_s\":3000}").await;
    channel
        .says("no pause", |said| said["paused"] == false && said["changes"]["written"].as_u64() > Some(0))
        .await;
    channel.post("/pause", "").await;
    pair.sql("UPDATE t SET n = 2 WHERE id % 5 = 0; INSERT INTO t SELECT id, 3, 'late' FROM generate_series(30001, 31000) id").await;
    channel.post("/throttle", "{\"documents_per_s\":null}").await;
    let output = pair.rowtide.call(&["resume", &name, "--config", "rowtide.toml"]);
    assert!(output.status.success());
    let output = pair.rowtide.call(&[
        "throttle",
        &name,
        "--documents",
        "20000",
        "--bytes",
        "64MiB",
        "--config",
        "rowtide.toml",
    ]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(text, format!("{name}: not paused, at most 20,000 documents/s and 64 MiB/s\n"));
    pair.wait_until_following().await;
    pair.caught_up().await;
    assert_law_6(&channel.says("nothing in flight", |said| said["changes"]["in_flight"] == 0).await);
    pair.assert_equal().await;

    // While it follows, too: a TRUNCATE, which is a barrier, waits for the end of the pause.
    channel.post("/pause", "").await;
    pair.sql("TRUNCATE t; INSERT INTO t VALUES (1, 9, 'after')").await;
    channel.says("the pause", |said| said["state"] == "paused").await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(pair.documents("t").await > 1_000, "the barrier went out in a pause");
    channel.post("/resume", "").await;
    pair.caught_up().await;
    pair.assert_equal().await;
    pair.stop();
}

/// The bound: 10,000 requests over 200 connections in mid-load cost at most two seconds of processor time, against the
/// same load without them. The load is the same at any time, since its rate is set.
#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_requests_in_mid_load_cost_two_seconds_at_most() {
    let rows = ROWS.replace("20000", "60000");
    let mut pair = Pair::set(Postgres::shared().await, Setup { sql: &rows, ..setup() }).await;
    let channel = Channel::of(&mut pair, "");
    pair.rowtide.run_again();
    channel.listens().await;
    channel.post("/throttle", "{\"documents_per_s\":400}").await;
    channel.says("the load", |said| said["changes"]["written"].as_u64() > Some(1_000)).await;
    let pid = pair.rowtide.pid();
    let (began, before) = (Instant::now(), processor_seconds(pid));
    ask_much(&channel).await;
    let (took, between) = (began.elapsed(), processor_seconds(pid));
    tokio::time::sleep(took).await;
    let (asked, quiet) = (between - before, processor_seconds(pid) - between);
    let said = channel.pipeline().await;
    assert!(said["changes"]["in_flight"].as_u64() > Some(1_000), "the load was over too early: {said}");
    let cost = asked - quiet;
    println!(
        "in {took:.1?}: {asked:.2} s of processor time with 10,000 requests, {quiet:.2} s without: {cost:.2} s"
    );
    assert!(cost <= 2.0, "10,000 requests cost {cost:.2} s");
    channel.post("/throttle", "{\"documents_per_s\":null}").await;
    pair.wait_until_following().await;
    pair.caught_up().await;
    pair.assert_equal().await;
    pair.stop();
}

async fn ask_much(channel: &Channel) {
    let paths =
        ["/api/v1/pipelines".to_owned(), channel.path(""), "/metrics".to_owned(), "/readyz".to_owned()];
    let mut askers = Vec::new();
    for _ in 0..200 {
        // A client for each connection.
        let (client, base, paths) = (client(), channel.http.base.clone(), paths.clone());
        askers.push(tokio::spawn(async move {
            for number in 0..50 {
                let answer =
                    client.get(format!("{base}{}", paths[number % paths.len()])).send().await.unwrap();
                assert_eq!(answer.status(), 200);
                answer.bytes().await.unwrap();
            }
        }));
    }
    for asker in askers {
        asker.await.unwrap();
    }
}
