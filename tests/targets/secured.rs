//! Logins and TLS on servers with their own security.

use reqwest::Method;
use serde_json::json;

use crate::harness::certificates::{Authority, Paper};
use crate::harness::pair::{Pair, Setup};
use crate::harness::proxy::Proxy;
use crate::harness::rowtide::Rowtide;
use crate::harness::servers::{Engine, Postgres, Search};

const SETUP: Setup<'static> = Setup {
    sql: "CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t SELECT generate_series(1, 500)",
    tables: &["t"],
    memory: "",
    source: "",
    target: "",
    table: "",
    second: None,
};

/// Filled, followed, and equal.
async fn follows(mut pair: Pair) {
    pair.rowtide.run_again();
    pair.wait_until_following().await;
    pair.sql("DELETE FROM t WHERE id < 10; INSERT INTO t VALUES (1000)").await;
    pair.caught_up().await;
    pair.assert_equal().await;
    pair.stop();
}

/// What `rowtide check` says of it, which is not all right.
fn says(pair: &Pair) -> String {
    let output = pair.rowtide.call(&["check", "--config", "rowtide.toml"]);
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    println!("{text}");
    assert_ne!(output.status.code(), Some(0), "{text}");
    text
}

/// The same pipeline, with these words in the place of others of its configuration.
async fn changed(search: &Search, from: &str, to: &str) -> Pair {
    let mut pair = Pair::set_on(Postgres::shared().await, search, SETUP).await;
    assert!(pair.config.contains(from), "{}", pair.config);
    pair.config = pair.config.replace(from, to);
    pair.rowtide = Rowtide::new(&pair.config);
    search.be_trusted_by(&mut pair.rowtide);
    pair
}

/// The pair behind a server that shows this certificate.
async fn behind(search: &Search, paper: &Paper) -> Pair {
    let mut pair = Pair::set_on(Postgres::shared().await, search, SETUP).await;
    let proxy = Proxy::showing(search, paper).await;
    pair.config = pair.config.replace(&search.url(pair.proxy.port), &search.url(proxy.port));
    pair.proxy = proxy;
    pair.rowtide = Rowtide::new(&pair.config);
    search.be_trusted_by(&mut pair.rowtide);
    pair
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_is_followed_by_tls_with_a_password_and_with_an_api_key() {
    let search = Search::shared(Engine::Elasticsearch8Secured).await;
    follows(Pair::set_on(Postgres::shared().await, search, SETUP).await).await;
    let key = search.http.json(Method::POST, "/_security/api_key", Some(json!({ "name": "rowtide" }))).await;
    let key = format!("api_key = {}\n", key["encoded"]);
    follows(changed(search, &search.login(), &key).await).await;

    let wrong = changed(search, "rowtide-secret", "another-secret").await;
    let text = says(&wrong);
    assert!(text.contains("401") && !text.contains("another-secret"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_is_followed_on_a_secured_opensearch() {
    let search = Search::shared(Engine::OpenSearch2Secured).await;
    follows(Pair::set_on(Postgres::shared().await, search, SETUP).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_is_out_of_date_or_of_another_authority_is_refused() {
    let search = Search::shared(Engine::Elasticsearch8Secured).await;
    let authority = &search.security.as_ref().unwrap().authority;
    let expired = behind(search, &authority.issue(&["127.0.0.1"], 2020)).await;
    let text = says(&expired).to_lowercase();
    assert!(text.contains("expired"), "{text}");

    let other = Authority::new("another authority");
    let unknown = behind(search, &other.issue(&["127.0.0.1"], 2999)).await;
    let text = says(&unknown).to_lowercase();
    assert!(text.contains("certificate") || text.contains("issuer"), "{text}");
    // Nothing was said to it.
    assert_eq!((expired.proxy.requests(), unknown.proxy.requests()), (0, 0));
}
