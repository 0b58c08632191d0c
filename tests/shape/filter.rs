//! Rows that have no document: by a condition, by a column that says that they are deleted. They enter and leave while
//! the table is filled and followed, with and without values that the log does not have (T07).

use serde_json::json;

use super::{assert_documents, documents};
use crate::harness::pair::{Pair, Setup};
use crate::harness::servers::Postgres;

const TABLE: &str = "CREATE TABLE t (id bigint PRIMARY KEY, status text, stock integer, price numeric, body text,
        deleted_at timestamptz, hidden boolean);
    ALTER TABLE t ALTER body SET STORAGE EXTERNAL;
    INSERT INTO t SELECT n, (ARRAY['active', 'draft', 'sold', NULL])[1 + n % 4], n % 5, n * 1.5, repeat(md5(n::text), 100),
        CASE WHEN n % 11 = 0 THEN now() END, n % 13 = 0 FROM generate_series(1, 3000) n";

const SHAPE: &str = r#"exclude = ["stock", "deleted_at", "hidden"]
filter = "((status in ('active', 'sold') and stock > 0) or price >= 4000.5) and not (hidden or hidden is null)"
soft_delete = "deleted_at"
"#;

const DOCUMENTS: &str = "SELECT id::text, jsonb_build_object('id', id, 'status', status, 'price', price, 'body', body)
    FROM t WHERE ((status IN ('active', 'sold') AND stock > 0) OR price >= 4000.5) AND NOT (hidden OR hidden IS NULL)
        AND deleted_at IS NULL";

/// Moves a thirtieth of the rows in or out; some change their keys, go, or come.
async fn churn(pair: &Pair, round: u64) {
    pair.sql(&format!(
        "UPDATE t SET status = (ARRAY['active', 'draft', 'sold', NULL])[1 + floor(random() * 4)],
             stock = floor(random() * 4), hidden = (ARRAY[true, false, false, NULL])[1 + floor(random() * 4)],
             deleted_at = CASE WHEN random() < 0.1 THEN now() END WHERE id % 30 = {round};
         BEGIN; UPDATE t SET stock = 0 WHERE id % 31 = {round}; UPDATE t SET stock = 3, status = 'sold' WHERE id % 31 = {round}; COMMIT;
         UPDATE t SET id = -id, hidden = random() < 0.5 WHERE id = {round} * 7;
         DELETE FROM t WHERE id = {round} * 11;
         INSERT INTO t SELECT 10000 + {round} * 10 + n, 'active', n % 2, 1, 'new', NULL, false FROM generate_series(1, 9) n"
    ))
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_enter_and_leave_while_the_table_is_filled_and_followed() {
    let setup = Setup { sql: TABLE, tables: &["t"], table: SHAPE, ..Setup::default() };
    let mut pair = Pair::set(Postgres::shared().await, setup).await;
    pair.rowtide.run_again();
    for round in 1..=15 {
        churn(&pair, round).await;
    }
    pair.wait_until_following().await;
    pair.caught_up().await;
    assert_documents(&pair, "t", DOCUMENTS, 500).await;
    for round in 16..=29 {
        churn(&pair, round).await;
        if round == 20 {
            pair.rowtide.kill();
            pair.rowtide.run_again();
        }
    }
    pair.caught_up().await;
    assert_documents(&pair, "t", DOCUMENTS, 500).await;
    pair.stop();
    // What leaves while it stands still leaves all the same.
    pair.sql("UPDATE t SET hidden = true WHERE id % 2 = 0; UPDATE t SET deleted_at = NULL").await;
    pair.rowtide.run_again();
    pair.caught_up().await;
    assert_documents(&pair, "t", DOCUMENTS, 300).await;
    pair.sql("UPDATE t SET hidden = true").await;
    pair.caught_up().await;
    assert!(documents(&pair, "t").await.is_empty());
    pair.sql("UPDATE t SET hidden = false").await;
    pair.caught_up().await;
    assert_documents(&pair, "t", DOCUMENTS, 500).await;
    pair.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_letter_ends_when_its_row_leaves() {
    let sql = "CREATE TABLE t (id bigint PRIMARY KEY, price text, gone boolean); INSERT INTO t VALUES (1, 'x', false), (2, 'x', true)";
    let table = "cast = { price = \"number\" }\nsoft_delete = \"gone\"\n";
    let mut pair = Pair::filled(Setup { sql, tables: &["t"], table, ..Setup::default() }).await;
    pair.caught_up().await;
    let ids = |pair: &Pair| pair.rowtide.letters().into_iter().map(|(id, ..)| id).collect::<Vec<_>>();
    assert_eq!(ids(&pair), ["1"], "a row without a document is not cast");
    pair.sql("UPDATE t SET gone = NOT gone").await;
    pair.caught_up().await;
    assert_eq!(ids(&pair), ["2"]);
    pair.sql("UPDATE t SET price = '3', gone = NULL").await;
    pair.caught_up().await;
    assert!(ids(&pair).is_empty());
    assert_eq!(pair.document("t", "2").await.unwrap().0["price"], json!(3));
    pair.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_filter_whose_column_is_dropped_halts_and_deletes_nothing() {
    let setup = Setup { sql: TABLE, tables: &["t"], table: SHAPE, ..Setup::default() };
    let mut pair = Pair::filled(setup).await;
    pair.caught_up().await;
    let before = documents(&pair, "t").await;
    pair.sql("ALTER TABLE t DROP hidden; UPDATE t SET stock = stock WHERE id < 100").await;
    let line = pair.assert_halts("shape-wrong");
    assert!(line.text.contains("hidden"), "{}", line.text);
    assert_eq!(documents(&pair, "t").await, before);
}
