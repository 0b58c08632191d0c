//! A page of HTML for an answer, as a proxy or a captive portal sends it, or none: nothing is taken for written, nothing is lost.

use serde_json::Value;

use crate::harness::pair::{PATIENCE, Pair, Setup};
use crate::harness::poll_until;

const PAGE: &str = "<html>\r\n<head><title>502 Bad Gateway</title></head>\r\n<body>\r\n<center><h1>502 Bad Gateway</h1>\
    </center>\r\n<hr><center>nginx/1.24.0</center>\r\n</body>\r\n</html>\r\n";

/// While each bulk request is answered so, the status says what is waited for; then all arrives.
async fn waits_through(status: &str, says: &str) {
    let sql = "CREATE TABLE t (id int PRIMARY KEY, body text); INSERT INTO t VALUES (1, 'x')";
    let mut pair = Pair::filled(Setup { sql, tables: &["t"], ..Setup::default() }).await;
    // Nobody knows what became of a request that was answered so, and the end says it.
    pair.rowtide.allow("the end was not clean");
    pair.proxy.answer_with(Some(format!(
        "HTTP/1.1 {status}\r\nserver: nginx\r\ncontent-type: text/html\r\ncontent-length: {}\r\n\r\n{PAGE}",
        PAGE.len()
    )));
    pair.sql("INSERT INTO t SELECT n, 'y' FROM generate_series(2, 500) n; DELETE FROM t WHERE id = 1").await;
    let line = poll_until("a status that names the answer", PATIENCE, async || {
        pair.rowtide.assert_runs();
        let reason = |value: &Value| value.as_str().is_some_and(|reason| reason.contains(says));
        let log = pair.rowtide.log();
        log.into_iter().find(|line| line.fields.get("reason").is_some_and(reason))
    })
    .await;
    println!("{}", line.text);
    assert!(pair.proxy.refused() > 0 && pair.documents("t").await == 1, "{}", line.text);
    pair.proxy.answer_with(None);
    pair.caught_up().await;
    pair.assert_equal().await;
    pair.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_with_502_is_waited_through() {
    waits_through("502 Bad Gateway", "502").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_with_200_is_no_success() {
    waits_through("200 OK", "not a bulk answer").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_goes_before_the_first_document_is_waited_for_in_words() {
    let setup = Setup { sql: "CREATE TABLE t (id int PRIMARY KEY)", tables: &["t"], ..Setup::default() };
    let mut pair = Pair::filled(setup).await;
    for message in ["could not renew the lease", "the end was not clean"] {
        pair.rowtide.allow(message);
    }
    pair.proxy.cut(true);
    pair.sql("INSERT INTO t VALUES (1)").await;
    poll_until("a status that says so", PATIENCE, async || {
        let reason = |value: &Value| value.as_str().is_some_and(|reason| reason.contains("first document"));
        let log = pair.rowtide.log();
        log.iter().any(|line| line.fields.get("reason").is_some_and(reason)).then_some(())
    })
    .await;
    pair.proxy.cut(false);
    pair.become_equal().await;
    pair.stop();
}
