//! Documents as people want them: what is configured between columns and fields, against what SQL says that
//! each document has to be.

use std::collections::BTreeMap;

use reqwest::Method;
use serde_json::Value;
use tokio_postgres::SimpleQueryMessage;

use crate::harness::pair::Pair;

mod filter;
mod steps;

/// The documents of a table's index, by id.
async fn documents(pair: &Pair, table: &str) -> BTreeMap<String, Value> {
    let index = pair.index(table);
    pair.http.json(Method::POST, &format!("/{index}/_refresh"), None).await;
    let mut found = pair.http.get(&format!("/{index}/_search?size=10000")).await;
    let Value::Array(hits) = found["hits"]["hits"].take() else { panic!("no hits: {found}") };
    assert!(hits.len() < 10_000, "more documents than one search shows");
    let document = |mut hit: Value| (hit["_id"].as_str().unwrap().to_owned(), hit["_source"].take());
    hits.into_iter().map(document).collect()
}

/// What SQL says of them: rows of an id and a document.
async fn expected(pair: &Pair, sql: &str) -> BTreeMap<String, Value> {
    let answer = pair.client.simple_query(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    let row = |message: &SimpleQueryMessage| match message {
        SimpleQueryMessage::Row(row) => {
            Some((row.get(0)?.to_owned(), serde_json::from_str(row.get(1)?).unwrap()))
        }
        _ => None,
    };
    answer.iter().filter_map(row).collect()
}

/// Fails the test unless the index has exactly the documents that SQL says, at least so many.
async fn assert_documents(pair: &Pair, table: &str, sql: &str, at_least: usize) {
    let (found, wanted) = (documents(pair, table).await, expected(pair, sql).await);
    assert!(wanted.len() >= at_least, "only {} documents are expected", wanted.len());
    for (id, wanted) in &wanted {
        assert_eq!(found.get(id), Some(wanted), "document {id}");
    }
    let stale: Vec<&String> = found.keys().filter(|id| !wanted.contains_key(*id)).collect();
    assert!(stale.is_empty(), "documents that no row stands for: {stale:?}");
}
