//! T01, T02, T03, T10: what is acknowledged and in which order it is written.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use serde_json::json;

use super::SMALL;
use crate::harness::pair::{PATIENCE, Pair, Setup};
use crate::harness::poll_until;

/// A row's commit lies below this place of the log.
struct Written {
    id: u64,
    end: u64,
}

/// Whatever was acknowledged is in the index, although requests are answered out of order and late.
async fn assert_acknowledged_is_there(pair: &Pair, written: &[Written]) -> usize {
    let confirmed = pair.confirmed().await;
    let below: Vec<&Written> = written.iter().filter(|row| row.end <= confirmed).collect();
    for row in &below {
        let found = pair.document("t", &row.id.to_string()).await;
        assert!(found.is_some(), "acknowledged up to {confirmed}, row {} at {} is missing", row.id, row.end);
    }
    below.len()
}

#[tokio::test(flavor = "multi_thread")]
async fn t01_acknowledged_too_far() {
    let target = "lanes = 4\nbulk_count_max = 2";
    let mut pair = Pair::filled(Setup { sql: SMALL, tables: &["t"], target, ..Setup::default() }).await;
    let mut written = Vec::new();
    let mut early = 0;
    for id in 1_000..1_040 {
        // Every other request waits long before the server: later ones are answered first.
        pair.proxy.hold_requests(Duration::from_millis(if id % 2 == 0 { 1_500 } else { 0 }));
        pair.sql(&format!("INSERT INTO t VALUES ({id}, 1)")).await;
        written.push(Written { id, end: pair.log_end().await });
        tokio::time::sleep(Duration::from_millis(60)).await;
        let there = assert_acknowledged_is_there(&pair, &written).await;
        early += usize::from(there < written.len());
    }
    assert!(early > 20, "the acknowledgement was hardly ever behind ({early} times)");
    poll_until("a request in flight", PATIENCE, async || (pair.proxy.in_flight() > 0).then_some(())).await;
    pair.rowtide.kill();
    let at_the_kill = assert_acknowledged_is_there(&pair, &written).await;
    println!("{at_the_kill} of {} rows were acknowledged at the kill", written.len());
    assert!(at_the_kill < written.len(), "everything was acknowledged before the kill");

    pair.proxy.hold_requests(Duration::ZERO);
    pair.rowtide.run_again();
    pair.caught_up().await;
    assert_eq!(assert_acknowledged_is_there(&pair, &written).await, written.len());
    pair.assert_equal().await;
    pair.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn t02_several_rows_share_one_lsn() {
    // Few in each request, and slow ones: the images of one row go out in several requests.
    let target = "lanes = 2\nbulk_count_max = 3\nlinger_ms = 0";
    let mut pair = Pair::filled(Setup { sql: SMALL, tables: &["t"], target, ..Setup::default() }).await;
    pair.proxy.hold_requests(Duration::from_millis(20));
    let mut statements = vec!["BEGIN".to_owned()];
    statements.push("INSERT INTO t SELECT id, 1 FROM generate_series(1000, 1299) id".into());
    for n in 1..=30 {
        statements.push(format!("UPDATE t SET n = {n} WHERE id IN (1, 2, 3, 1000)"));
        statements.push(format!("INSERT INTO t VALUES ({}, 5)", 2_000 + n));
    }
    // Gone and back, there and gone, and a row that moves twice.
    statements.push("DELETE FROM t WHERE id = 2; INSERT INTO t VALUES (2, 77)".into());
    statements.push("INSERT INTO t VALUES (3000, 1); DELETE FROM t WHERE id = 3000".into());
    statements.push("UPDATE t SET id = 3001 WHERE id = 3; UPDATE t SET id = 3002 WHERE id = 3001".into());
    statements.push("COMMIT".into());
    pair.sql(&statements.join(";")).await;
    pair.caught_up().await;
    pair.assert_equal().await;

    let (last, version) = pair.document("t", "1").await.unwrap();
    assert_eq!(last["n"], json!(30), "the last image wins");
    for id in ["2", "1000", "1299", "2030", "3002"] {
        assert_eq!(pair.document("t", id).await.unwrap().1, version, "one transaction, one version ({id})");
    }
    pair.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn t03_idle_publication_on_a_busy_server() {
    let sql = &format!("{SMALL} CREATE TABLE other (id bigint, pad text);");
    let mut pair = Pair::filled(Setup { sql, tables: &["t"], ..Setup::default() }).await;
    let received = pair.proxy.documents();
    for _ in 0..3 {
        let before = pair.confirmed().await;
        pair.sql("INSERT INTO other SELECT id, repeat('x', 500) FROM generate_series(1, 10000) id").await;
        let end = pair.log_end().await;
        assert!(end > before + 4_000_000, "the server wrote {} bytes of log", end - before);
        // Two rounds of feedback at the most.
        poll_until("the acknowledgement of log that concerns nobody", Duration::from_secs(12), async || {
            (pair.confirmed().await >= end).then_some(())
        })
        .await;
    }
    assert_eq!(pair.proxy.documents(), received, "nothing was written for it");
    pair.stop();
}

/// TRUNCATE empties the index, what was not refreshed and what is in flight included, before anything
/// newer goes out; rows of the same transaction, of equal version, come after it (A13).
#[tokio::test(flavor = "multi_thread")]
async fn t10_truncate_is_a_barrier() {
    let sql = &format!("{SMALL} CREATE TABLE other (id bigint PRIMARY KEY);");
    let target = "lanes = 4\nbulk_count_max = 50";
    let mut pair = Pair::filled(Setup { sql, tables: &["t", "other"], target, ..Setup::default() }).await;
    // No refresh comes by itself: only the barrier's own can show what was written last.
    let path = format!("/{}/_settings", pair.index("t"));
    let settings = json!({ "index": { "refresh_interval": -1 } });
    pair.http.json(reqwest::Method::PUT, &path, Some(settings)).await;
    pair.proxy.hold_requests(Duration::from_millis(100));
    pair.sql(
        "INSERT INTO t SELECT id, 1 FROM generate_series(1000, 2999) id;
         BEGIN;
         INSERT INTO t SELECT id, 2 FROM generate_series(3000, 3099) id; INSERT INTO other VALUES (1);
         TRUNCATE t;
         INSERT INTO t VALUES (1, 7), (3000, 7), (9000, 7);
         COMMIT;
         UPDATE t SET n = 8 WHERE id = 3000",
    )
    .await;
    pair.caught_up().await;
    assert_eq!(pair.documents("t").await, 3);
    pair.assert_equal().await;
    // While the table is empty, and twice.
    pair.sql("TRUNCATE t; TRUNCATE t, other; INSERT INTO t VALUES (1, 9)").await;
    pair.caught_up().await;
    assert_eq!((pair.documents("t").await, pair.documents("other").await), (1, 0));
    pair.assert_equal().await;
    pair.stop();
}

/// A node that restarts forgets the listing by which the barrier finds its documents.
#[tokio::test(flavor = "multi_thread")]
async fn t10_a_barrier_outlives_its_listing() {
    let sql = "CREATE TABLE t (id bigint PRIMARY KEY, n bigint NOT NULL);
        INSERT INTO t SELECT id, 0 FROM generate_series(1, 3000) id;";
    let mut pair = Pair::filled(Setup { sql, tables: &["t"], ..Setup::default() }).await;
    pair.proxy.hold_requests(Duration::from_millis(150));
    pair.sql("TRUNCATE t; INSERT INTO t VALUES (1, 1)").await;
    let forgotten = AtomicU64::new(0);
    poll_until("the end of the barrier", PATIENCE, async || {
        let answer =
            pair.http.try_call(reqwest::Method::DELETE, "/_search/scroll/_all", None).await.unwrap().1;
        let answer: serde_json::Value = serde_json::from_str(&answer).unwrap();
        forgotten.fetch_add(answer["num_freed"].as_u64().unwrap_or(0), Relaxed);
        (pair.document("t", "1").await?.0["n"] == 1).then_some(())
    })
    .await;
    assert!(forgotten.into_inner() > 0, "no listing was open when all were ended");
    pair.caught_up().await;
    pair.assert_equal().await;
    pair.stop();
}
