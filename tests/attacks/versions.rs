//! B1, D1: the version of a document.

use serde_json::{Value, json};

use super::SMALL;
use crate::harness::pair::{PATIENCE, Pair, Setup};

/// The versions of all documents of a table.
async fn versions(pair: &Pair, table: &str) -> Vec<u64> {
    let index = pair.index(table);
    pair.documents(table).await;
    let body = json!({ "version": true, "_source": false, "size": 10_000 });
    let found = pair.http.json(reqwest::Method::POST, &format!("/{index}/_search"), Some(body)).await;
    let hits = found["hits"]["hits"].as_array().unwrap();
    hits.iter().map(|hit| hit["_version"].as_u64().unwrap()).collect()
}

async fn state_document(pair: &Pair) -> Value {
    pair.http.get(&format!("/rowtide-state/_doc/{}", pair.pipeline())).await["_source"].clone()
}

/// A process died, and its store with it: what it issued is not known, only what it was allowed to.
/// Everything new lies above that, by the state document beside the index.
#[tokio::test(flavor = "multi_thread")]
async fn b1_after_a_lost_store_versions_lie_above_all_that_were_issued() {
    let target = "existing = \"replace\"";
    let mut pair = Pair::filled(Setup { sql: SMALL, tables: &["t"], target, ..Setup::default() }).await;
    pair.sql("UPDATE t SET n = 1 WHERE id < 50").await;
    pair.caught_up().await;
    let issued = versions(&pair, "t").await.into_iter().max().unwrap();
    let ceiling = state_document(&pair).await["ceiling"].as_u64().unwrap();
    assert!(issued <= ceiling, "version {issued} is above the durable ceiling {ceiling}");
    pair.rowtide.kill();
    std::fs::remove_dir_all(pair.rowtide.folder.join("data")).unwrap();

    pair.rowtide.run_again();
    pair.rowtide.wait_for_line("the lease of another process", PATIENCE).await;
    pair.wait_until_following().await;
    pair.sql("UPDATE t SET n = 2 WHERE id < 10; DELETE FROM t WHERE id = 60").await;
    pair.caught_up().await;
    pair.wait_for_documents("t", 199).await;
    let lowest = versions(&pair, "t").await.into_iter().min().unwrap();
    assert!(lowest > ceiling, "version {lowest} is not above {ceiling}");
    assert!(state_document(&pair).await["ceiling"].as_u64().unwrap() > lowest);
    pair.assert_equal().await;
    pair.stop();
}

/// Of each transaction in the log: where its commit record lies, which Begin says, and its end.
async fn transactions(pair: &Pair, slot: &str) -> Vec<(u64, u64)> {
    let sql = format!(
        "SELECT string_agg(encode(data, 'hex'), ' ' ORDER BY n) FROM pg_logical_slot_peek_binary_changes(
            '{slot}', NULL, NULL, 'proto_version', '1', 'publication_names', '{}') WITH ORDINALITY AS c (lsn, xid, data, n)",
        pair.slot()
    );
    let place = |message: &str, byte: usize| {
        u64::from_str_radix(&message[byte * 2..byte * 2 + 16], 16).expect("eight bytes")
    };
    let mut found = Vec::new();
    let mut begun = 0;
    for message in pair.ask(&sql).await.split(' ') {
        match &message[..2] {
            "42" => begun = place(message, 1),
            "43" => found.push((begun, place(message, 10))),
            _ => {}
        }
    }
    found
}

/// The end's LSN comes only with Commit: with it as the version, nothing of a transaction could go
/// out before all of it was read.
#[tokio::test(flavor = "multi_thread")]
async fn d1_the_version_is_the_commit_records_lsn() {
    let mut pair = Pair::filled(Setup { sql: SMALL, tables: &["t"], ..Setup::default() }).await;
    let slot = format!("{}_peek", pair.slot());
    pair.ask(&format!("SELECT pg_create_logical_replication_slot('{slot}', 'pgoutput')")).await;
    for id in 1_000..1_003 {
        pair.sql(&format!("INSERT INTO t VALUES ({id}, 1), ({}, 1)", id + 1_000)).await;
    }
    pair.caught_up().await;
    let transactions = transactions(&pair, &slot).await;
    assert_eq!(transactions.len(), 3);
    for (id, (commit, end)) in (1_000..).zip(transactions) {
        for id in [id, id + 1_000] {
            let version = pair.document("t", &id.to_string()).await.unwrap().1;
            assert_eq!(version, commit, "row {id}, whose transaction ends at {end}");
        }
        assert!(commit < end);
    }
    pair.stop();
}
