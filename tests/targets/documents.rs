//! Documents that a search server refuses, each on the server that says so in its own way: they become dead letters,
//! and the rest goes on.

use rustix::process::Signal;
use serde_json::json;

use crate::harness::pair::{Pair, Setup};
use crate::harness::servers::{Engine, Postgres, Search};

/// Stops it, and so many documents are kept as dead letters. A table that is read again brings them again.
fn stop_with_letters(pair: &mut Pair, letters: usize) {
    let (code, _) = pair.rowtide.stop();
    assert_eq!((code, pair.rowtide.letters().len()), (0, letters));
}

async fn pair_on(search: &Search, sql: &str) -> Pair {
    let setup = Setup { sql, tables: &["t"], ..Setup::default() };
    let mut pair = Pair::set_on(Postgres::shared().await, search, setup).await;
    pair.rowtide.run_again();
    pair
}

/// Documents of 20 MiB and of 28 MiB, where a request may have 24 MiB: the one is written, or refused by the server's own
/// count of what it would take; the other one is dead-lettered; and what stands beside them is written.
async fn large_documents(engine: Engine, fits: bool) {
    let search = Search::start_with(engine, "1g", &["http.max_content_length=24mb"]).await;
    let sql = "CREATE TABLE t (id text PRIMARY KEY, body text);
        INSERT INTO t SELECT 'row ' || n, 'small' FROM generate_series(1, 1000) n;
        INSERT INTO t VALUES ('20 MiB', repeat(md5('a'), 20 * 32768)), ('28 MiB', repeat(md5('b'), 28 * 32768))";
    let memory = "max_rss = \"1GiB\"\ndocument_bytes_max = \"32MiB\"";
    let setup = Setup { sql, tables: &["t"], memory, ..Setup::default() };
    let mut pair = Pair::set_on(Postgres::shared().await, &search, setup).await;
    // Where the socket is closed on what is too large.
    pair.rowtide.allow("the end was not clean");
    pair.rowtide.run_again();
    pair.wait_for_documents("t", 1000 + u64::from(fits)).await;
    pair.sql("UPDATE t SET body = 'changed' WHERE id = 'row 1'").await;
    pair.caught_up().await;
    let letters = pair.rowtide.letters();
    let ids: Vec<&str> = letters.iter().map(|(id, ..)| id.as_str()).collect();
    let expected = if fits { &["28 MiB"][..] } else { &["20 MiB", "28 MiB"] };
    assert_eq!(ids, expected, "{letters:?}");
    assert!(fits || letters[0].2.contains("primary_operation_bytes"), "{letters:?}");
    stop_with_letters(&mut pair, expected.len());
    search.stop(Signal::TERM);
}

#[tokio::test(flavor = "multi_thread")]
async fn t33_a_document_of_20_mib_on_elasticsearch_7() {
    large_documents(Engine::Elasticsearch7, true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn t33_a_document_of_20_mib_on_elasticsearch_8() {
    large_documents(Engine::Elasticsearch8, true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn t33_a_document_of_20_mib_on_elasticsearch_9() {
    large_documents(Engine::Elasticsearch9, false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn t33_a_document_of_20_mib_on_opensearch_2() {
    large_documents(Engine::OpenSearch2, true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn t33_a_document_of_20_mib_on_opensearch_3() {
    large_documents(Engine::OpenSearch3, true).await;
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
