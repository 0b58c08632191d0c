//! T45: the index is taken away under the running process (ATTACKS A12).

use reqwest::Method;
use serde_json::json;

use super::SMALL;
use crate::harness::pair::{Pair, Setup};

/// Nothing is made again by a bulk request, neither the index nor the alias.
#[tokio::test(flavor = "multi_thread")]
async fn t45_index_deleted_while_running() {
    let mut pair = Pair::filled(Setup { sql: SMALL, tables: &["t"], ..Setup::default() }).await;
    pair.rowtide.allow("the end was not clean");
    let alias = pair.index("t");
    pair.http.json(Method::DELETE, &format!("/{alias}-rowtide-1"), None).await;
    pair.sql("INSERT INTO t VALUES (1000, 1); DELETE FROM t WHERE id = 1").await;
    let line = pair.assert_halts("alias-gone");
    assert!(line.text.contains(&alias), "{}", line.text);
    assert_eq!(pair.http.get(&format!("/{alias}*")).await, json!({}), "an index was made");
    // A new start does not make it either, and says why.
    pair.rowtide.run_again();
    pair.assert_halts("alias-gone");
    assert_eq!(pair.http.get(&format!("/{alias}*")).await, json!({}));
}

/// A person makes another index under the alias: noticed by its UUID, although requests succeed.
#[tokio::test(flavor = "multi_thread")]
async fn t45_index_made_again_under_the_alias() {
    let mut pair = Pair::filled(Setup { sql: SMALL, tables: &["t"], ..Setup::default() }).await;
    pair.rowtide.allow("the end was not clean");
    let alias = pair.index("t");
    pair.http.json(Method::DELETE, &format!("/{alias}-rowtide-1"), None).await;
    let body = json!({ "aliases": { &alias: {} } });
    pair.http.json(Method::PUT, &format!("/{alias}-rowtide-1"), Some(body)).await;
    let line = pair.assert_halts("index-replaced");
    assert!(line.text.contains(&alias), "{}", line.text);
    pair.rowtide.run_again();
    pair.assert_halts("index-replaced");
    assert_eq!(pair.documents("t").await, 0, "nothing was filled into it");
}
