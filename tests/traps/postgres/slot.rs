//! T04: a slot that is lost or taken.

use rustix::process::Signal;

use super::SMALL;
use crate::harness::pair::{PATIENCE, Pair, Setup};
use crate::harness::poll_until;
use crate::harness::rowtide::Rowtide;
use crate::harness::servers::Postgres;

const LOST: &str = "the source was lost; it is opened again";

async fn slots(pair: &Pair) -> String {
    pair.ask(&format!("SELECT count(*) FROM pg_replication_slots WHERE slot_name = '{}'", pair.slot())).await
}

#[tokio::test(flavor = "multi_thread")]
async fn t04_dropped_slot() {
    let mut pair = Pair::filled(Setup { sql: SMALL, tables: &["t"], ..Setup::default() }).await;
    pair.rowtide.allow(LOST);
    let received = pair.proxy.documents();
    let client = pair.database.client().await;
    let drop = format!("SELECT pg_drop_replication_slot('{}')", pair.slot());
    // A person drops it under the running process: its reader must end first.
    poll_until("the slot to be dropped", PATIENCE, async || {
        let end = "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE active";
        client.simple_query(end).await.unwrap();
        client.simple_query(&drop).await.ok().map(|_| ())
    })
    .await;
    pair.sql("INSERT INTO t VALUES (1000, 1)").await;
    let line = pair.assert_halts("slot-lost");
    assert!(line.text.contains(pair.slot()), "the slot is named: {}", line.text);
    assert_eq!(slots(&pair).await, "0", "it was made again");
    // Nor does a new start make it again.
    pair.rowtide.run_again();
    pair.assert_halts("slot-lost");
    assert_eq!((slots(&pair).await.as_str(), pair.proxy.documents()), ("0", received));
}

#[tokio::test(flavor = "multi_thread")]
async fn t04_lost_slot() {
    let bound = ["-c", "max_slot_wal_keep_size=1MB", "-c", "min_wal_size=32MB", "-c", "max_wal_size=32MB"];
    let postgres = Postgres::start("18", &bound).await;
    let mut pair = Pair::set(&postgres, Setup { sql: SMALL, tables: &["t"], ..Setup::default() }).await;
    pair.rowtide.run_again();
    pair.wait_until_following().await;
    pair.stop();
    let received = pair.proxy.documents();
    for n in 0..6 {
        pair.sql(&format!("INSERT INTO t VALUES ({}, 1)", 1_000 + n)).await;
        pair.sql("SELECT pg_switch_wal()").await;
    }
    pair.sql("CHECKPOINT").await;
    let status = "SELECT wal_status FROM pg_replication_slots";
    assert_eq!(pair.ask(status).await, "lost");
    pair.rowtide.run_again();
    let line = pair.assert_halts("slot-lost");
    assert!(line.text.contains("max_slot_wal_keep_size"), "the hint names the setting: {}", line.text);
    assert_eq!((pair.ask(status).await.as_str(), pair.proxy.documents()), ("lost", received));
    drop(pair);
    postgres.stop(Signal::INT);
}

/// Two pipelines with one slot: the second says whom it waits for, and takes over when the first ends.
#[tokio::test(flavor = "multi_thread")]
async fn t04_slot_is_active() {
    let mut pair = Pair::filled(Setup { sql: SMALL, tables: &["t"], ..Setup::default() }).await;
    let second = format!("{}_second", pair.pipeline());
    let mut other = Rowtide::start(&pair.config.replace(pair.pipeline(), &second));
    let line = other.wait_for_line("is active for pid", PATIENCE).await;
    assert_eq!(line.fields["state"], "waiting", "{}", line.text);
    let pid = pair
        .ask(&format!("SELECT active_pid FROM pg_replication_slots WHERE slot_name = '{}'", pair.slot()))
        .await;
    assert!(line.text.contains(&pid), "it names the process {pid}: {}", line.text);

    pair.stop();
    pair.sql("INSERT INTO t VALUES (1000, 1)").await;
    other.wait_for_line("\"state\":\"following\"", PATIENCE).await;
    poll_until("the second index", PATIENCE, async || {
        let count = pair.http.count(&format!("{second}_t"), serde_json::json!({ "match_all": {} })).await;
        (count == 201).then_some(())
    })
    .await;
    assert_eq!(other.stop().0, 0);
}
