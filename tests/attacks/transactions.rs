//! A5, B4, B8, D4: transactions that do not go the usual way.

use serde_json::json;

use super::SMALL;
use crate::harness::pair::{PATIENCE, Pair, Setup};
use crate::harness::servers::Postgres;

/// A row that leaves the publication's filter is a delete; one that enters it is a put; and the fill
/// reads only what passes.
#[tokio::test(flavor = "multi_thread")]
async fn a5_a_row_that_leaves_the_filter_leaves_the_index() {
    let sql = "CREATE TABLE t (id bigint PRIMARY KEY, n bigint NOT NULL);
        ALTER TABLE t REPLICA IDENTITY FULL;
        INSERT INTO t SELECT id, id % 2 FROM generate_series(1, 100) id;";
    let mut pair =
        Pair::set(Postgres::shared().await, Setup { sql, tables: &["t"], ..Setup::default() }).await;
    pair.sql(&format!("CREATE PUBLICATION {} FOR TABLE t WHERE (n > 0)", pair.slot())).await;
    pair.rowtide.run_again();
    pair.wait_until_following().await;
    pair.wait_for_documents("t", 50).await;
    pair.sql(
        "UPDATE t SET n = 0 WHERE id = 1; UPDATE t SET n = 7 WHERE id = 2; UPDATE t SET n = 8 WHERE id = 3",
    )
    .await;
    pair.caught_up().await;
    assert_eq!(pair.document("t", "1").await, None, "it left the filter");
    assert_eq!(pair.document("t", "2").await.unwrap().0["n"], json!(7), "it entered the filter");
    assert_eq!(pair.document("t", "3").await.unwrap().0["n"], json!(8));
    assert_eq!(pair.documents("t").await, 50);
    pair.stop();
}

/// `check` and `run` refuse with what mends it.
fn assert_refused(pair: &mut Pair, state: &str, word: &str) {
    let output = pair.rowtide.call(&["check", "--config", "rowtide.toml"]);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(4), "{said}");
    assert!(said.contains(word), "{word:?} is not in: {said}");
    pair.rowtide.run_again();
    let line = pair.assert_halts(state);
    assert!(line.text.contains(word), "{}", line.text);
    assert_eq!(pair.proxy.documents(), 0);
}

/// With a deferrable key, 1 → 2 and 2 → 1 in one transaction end with a delete of what is there.
#[tokio::test(flavor = "multi_thread")]
async fn b8_a_deferrable_key_is_refused() {
    let sql = "CREATE TABLE t (id bigint PRIMARY KEY DEFERRABLE INITIALLY DEFERRED, n bigint);
        ALTER TABLE t REPLICA IDENTITY FULL;";
    let setup = Setup { sql, tables: &["t"], ..Setup::default() };
    let mut pair = Pair::set(Postgres::shared().await, setup).await;
    assert_refused(&mut pair, "tables-unreadable", "deferrable");
}

/// A slot with two_phase shows rows at PREPARE, which may be rolled back.
#[tokio::test(flavor = "multi_thread")]
async fn b4_a_slot_with_two_phase_is_refused() {
    let setup = Setup { sql: SMALL, tables: &["t"], ..Setup::default() };
    let mut pair = Pair::set(Postgres::shared().await, setup).await;
    let slot = pair.slot().to_owned();
    pair.ask(&format!("SELECT pg_create_logical_replication_slot('{slot}', 'pgoutput', false, true)")).await;
    assert_refused(&mut pair, "slot-foreign", "two_phase");
}

/// An orphaned PREPARE TRANSACTION stays in every snapshot for ever. On another table it holds
/// nothing up; on a table that is to be read it is waited for, and named.
#[tokio::test(flavor = "multi_thread")]
async fn d4_only_a_prepared_writer_of_the_table_itself_is_waited_for() {
    let sql = &format!(
        "{SMALL} CREATE TABLE late (id bigint PRIMARY KEY, n bigint NOT NULL); INSERT INTO late VALUES (1, 0);
         CREATE TABLE other (id bigint PRIMARY KEY);"
    );
    let setup = Setup { sql, tables: &["t", "late"], source: "readers = 2", ..Setup::default() };
    let mut pair = Pair::set(Postgres::shared().await, setup).await;
    let name = pair.slot().to_owned();
    // To make the slot would wait for every prepared transaction; it is there already.
    pair.ask(&format!("SELECT pg_create_logical_replication_slot('{name}', 'pgoutput')")).await;
    let orphan = format!("orphan of {name}");
    pair.sql(&format!("BEGIN; INSERT INTO other VALUES (1); PREPARE TRANSACTION '{orphan}'")).await;
    let writer = format!("writer of {name}");
    pair.sql(&format!("BEGIN; UPDATE late SET n = 1; PREPARE TRANSACTION '{writer}'")).await;

    pair.rowtide.run_again();
    let line = pair.rowtide.wait_for_line("to end, which wrote to public.late", PATIENCE).await;
    assert!(line.text.contains(&format!("prepared transaction '{writer}'")), "{}", line.text);
    assert!(!line.text.contains(&orphan), "{}", line.text);
    pair.wait_for_documents("t", 200).await;
    // And the log goes on.
    pair.sql("UPDATE t SET n = 5 WHERE id = 5").await;
    pair.wait_for_value("t", "5", "n", json!(5)).await;
    assert_eq!(pair.documents("late").await, 0);
    pair.sql(&format!("COMMIT PREPARED '{writer}'")).await;
    pair.wait_until_following().await;
    pair.caught_up().await;
    pair.assert_equal().await;
    pair.stop();
    pair.sql(&format!("ROLLBACK PREPARED '{orphan}'")).await;
}
