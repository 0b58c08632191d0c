//! T09, T10 and law 9: a table is dropped, made again, or emptied with others.

use serde_json::json;

use crate::harness::pair::{PATIENCE, Pair, Setup};

const TABLES: &str = "CREATE TABLE t (id bigint PRIMARY KEY, n bigint NOT NULL);
    INSERT INTO t SELECT id, 0 FROM generate_series(1, 200) id;
    CREATE TABLE other (id bigint PRIMARY KEY); INSERT INTO other VALUES (1);";

/// Another table of that name, with other columns and rows.
const AGAIN: &str = "CREATE TABLE t (id bigint PRIMARY KEY, n bigint NOT NULL, word text);
    INSERT INTO t SELECT id, 1, 'w' FROM generate_series(150, 249) id;";

async fn filled(table: &str) -> Pair {
    Pair::filled(Setup { sql: TABLES, tables: &["t", "other"], table, ..Setup::default() }).await
}

#[tokio::test(flavor = "multi_thread")]
async fn t09_a_dropped_table_halts_unless_told() {
    let mut pair = filled("").await;
    pair.sql("DROP TABLE t; INSERT INTO other VALUES (2)").await;
    let line = pair.assert_halts("table-dropped");
    assert!(line.text.contains("public.t") && line.text.contains("on_drop"), "{}", line.text);
    assert_eq!((pair.documents("t").await, pair.documents("other").await), (200, 2));
    pair.rowtide.run_again();
    pair.assert_halts("table-dropped");
    // Another table of that name is none that was read.
    pair.sql(AGAIN).await;
    pair.rowtide.run_again();
    pair.assert_halts("table-replaced");
    assert_eq!(pair.documents("t").await, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn t09_a_dropped_table_takes_its_documents_with_it_when_told() {
    let mut pair = filled("on_drop = \"delete\"").await;
    pair.sql("UPDATE t SET n = 5 WHERE id < 10; DROP TABLE t; INSERT INTO other VALUES (2)").await;
    pair.wait_for_documents("t", 0).await;
    pair.wait_for_documents("other", 2).await;
    // A start without it goes on with the others, and it is found when it is there again.
    pair.stop();
    pair.rowtide.run_again();
    pair.sql("INSERT INTO other VALUES (3)").await;
    pair.wait_for_documents("other", 3).await;
    pair.sql(AGAIN).await;
    pair.become_equal().await;
    // Dropped and made again at once.
    pair.sql(&format!(
        "BEGIN; DROP TABLE t; {} COMMIT; DELETE FROM t WHERE id = 200",
        AGAIN.replace("150", "190")
    ))
    .await;
    pair.become_equal().await;
    assert_eq!(pair.documents("t").await, 59);
    pair.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn t09_a_dropped_table_leaves_its_documents_when_told() {
    let mut pair = filled("on_drop = \"keep\"").await;
    pair.sql("DROP TABLE t; INSERT INTO other VALUES (2)").await;
    pair.rowtide.wait_for_line("public.t was dropped", PATIENCE).await;
    pair.sql("INSERT INTO other VALUES (3)").await;
    pair.wait_for_documents("other", 3).await;
    pair.caught_up().await;
    pair.stop();
    pair.rowtide.run_again();
    pair.sql("INSERT INTO other VALUES (4)").await;
    pair.wait_for_documents("other", 4).await;
    assert_eq!(pair.documents("t").await, 200);
    pair.sql(AGAIN).await;
    pair.wait_for_documents("t", 249).await;
    assert_eq!(pair.document("t", "150").await.unwrap().0, json!({ "id": 150, "n": 1, "word": "w" }));
    assert_eq!(pair.document("t", "1").await.unwrap().0, json!({ "id": 1, "n": 0 }), "kept");
    pair.stop();
}

/// TRUNCATE of several, and of what hangs on them by a foreign key.
#[tokio::test(flavor = "multi_thread")]
async fn t10_truncate_of_several_and_cascade() {
    let sql = &format!(
        "{TABLES} CREATE TABLE child (id bigint PRIMARY KEY, t bigint REFERENCES t);
         INSERT INTO child SELECT id, id FROM generate_series(1, 50) id;"
    );
    let setup = Setup { sql, tables: &["t", "other", "child"], ..Setup::default() };
    let mut pair = Pair::filled(setup).await;
    pair.sql("BEGIN; INSERT INTO other VALUES (5); TRUNCATE t CASCADE; INSERT INTO t VALUES (1, 1); COMMIT")
        .await;
    pair.caught_up().await;
    pair.assert_equal().await;
    assert_eq!((pair.documents("t").await, pair.documents("child").await), (1, 0));
    pair.sql("INSERT INTO child VALUES (1, 1); TRUNCATE t, other, child; INSERT INTO other VALUES (9)").await;
    pair.caught_up().await;
    pair.assert_equal().await;
    pair.stop();
}
