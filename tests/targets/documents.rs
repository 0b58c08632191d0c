//! Documents that a search server refuses, each on the server that says so in its own way: they become dead letters,
//! and the rest goes on.

use rusqlite::Connection;
use serde_json::json;

use crate::harness::pair::{Pair, Setup};
use crate::harness::servers::{Engine, Postgres, Search};

/// Stops it, and so many documents are kept as dead letters. A table that is read again brings them again.
fn stop_with_letters(pair: &mut Pair, letters: u64) {
    let (code, _) = pair.rowtide.stop();
    let store = Connection::open(pair.rowtide.folder.join("data/rowtide.sqlite")).unwrap();
    let kept: u64 = store.query_row("SELECT count(*) FROM dead_letters", [], |row| row.get(0)).unwrap();
    assert_eq!((code, kept), (0, letters));
}

async fn pair_on(search: &Search, sql: &str) -> Pair {
    let setup = Setup { sql, tables: &["t"], ..Setup::default() };
    let mut pair = Pair::set_on(Postgres::shared().await, search, setup).await;
    pair.rowtide.run_again();
    pair
}

/// A conflict with the mapping (a field that the document does not fit into) and a key of 600 bytes.
async fn refused_alone(engine: Engine) {
    let search = Search::shared(engine).await;
    let sql = "CREATE TABLE t (id text PRIMARY KEY, doc json);
        INSERT INTO t SELECT 'row ' || n, '{\"a\": 1}' FROM generate_series(1, 100) n;
        INSERT INTO t VALUES ('twice', '{\"a\": 1, \"a\": 2}'), (repeat('k', 600), NULL)";
    let mut pair = pair_on(search, sql).await;
    pair.wait_until_following().await;
    pair.rowtide.allow("a field's mapping does not hold its column any more");
    // The row is right; the mapping, which a person made, is not.
    let mapping = json!({ "properties": { "later": { "type": "date" } } });
    let path = format!("/{}/_mapping", pair.index("t"));
    pair.http.json(reqwest::Method::PUT, &path, Some(mapping)).await;
    pair.sql("ALTER TABLE t ADD later text; INSERT INTO t VALUES ('conflict', NULL, 'no date'), ('fits', NULL, NULL)")
        .await;
    pair.wait_for_documents("t", 101).await;
    assert!(pair.document("t", "conflict").await.is_none() && pair.document("t", "fits").await.is_some());
    pair.caught_up().await;
    stop_with_letters(&mut pair, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn t32_t34_a_conflict_and_a_long_id_are_refused_alone_on_elasticsearch_7() {
    refused_alone(Engine::Elasticsearch7).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn t32_t34_a_conflict_and_a_long_id_are_refused_alone_on_elasticsearch_9() {
    refused_alone(Engine::Elasticsearch9).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn t32_t34_a_conflict_and_a_long_id_are_refused_alone_on_opensearch_3() {
    refused_alone(Engine::OpenSearch3).await;
}
