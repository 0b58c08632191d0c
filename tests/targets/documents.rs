//! Documents that a search server refuses, each on the server that says so in its own way: they become dead letters,
//! and the rest goes on.

use rusqlite::Connection;
use serde_json::json;

use crate::harness::pair::{Pair, Setup};
use crate::harness::poll_until;
use crate::harness::servers::{Engine, Postgres, Search};

/// Large enough for a document of 24 MiB.
const MEMORY: &str = "max_rss = \"768MiB\"\ndocument_bytes_max = \"40MiB\"";

/// Stops it, and so many documents are kept as dead letters. A table that is read again brings them again.
fn stop_with_letters(pair: &mut Pair, letters: u64) {
    let (code, _) = pair.rowtide.stop();
    let store = Connection::open(pair.rowtide.folder.join("data/rowtide.sqlite")).unwrap();
    let kept: u64 = store.query_row("SELECT count(*) FROM dead_letters", [], |row| row.get(0)).unwrap();
    assert_eq!((code, kept), (0, letters));
}

async fn pair_on(search: &Search, sql: &str) -> Pair {
    let setup = Setup { sql, tables: &["t"], memory: MEMORY, ..Setup::default() };
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

/// One document of 20 MiB, which the server takes, and one of 24 MiB, which it does not.
async fn large_and_too_large(engine: Engine) {
    let search = Search::roomy(engine, &["http.max_content_length=22mb"]).await;
    let sql = "CREATE TABLE t (id int PRIMARY KEY, body text);
        INSERT INTO t VALUES (1, 'x'), (2, repeat('x', 20 << 20)), (3, repeat('x', 24 << 20)), (4, 'x')";
    let mut pair = pair_on(&search, sql).await;
    pair.wait_for_documents("t", 3).await;
    pair.wait_until_following().await;
    pair.sql("INSERT INTO t VALUES (5, 'x')").await;
    pair.wait_for_documents("t", 4).await;
    let status = async || pair.rowtide.log().iter().any(|line| line.number("dead_lettered") == Some(1));
    poll_until("a dead letter", crate::harness::pair::PATIENCE, async || status().await.then_some(())).await;
    assert!(pair.document("t", "3").await.is_none());
    let (large, _) = pair.document("t", "2").await.unwrap();
    assert_eq!(large["body"].as_str().unwrap().len(), 20 << 20);
    stop_with_letters(&mut pair, 1);
}

/// It answers 413.
#[tokio::test(flavor = "multi_thread")]
async fn t33_a_document_of_20_mib_goes_through_and_one_over_the_limit_is_kept_on_elasticsearch_9() {
    large_and_too_large(Engine::Elasticsearch9).await;
}
