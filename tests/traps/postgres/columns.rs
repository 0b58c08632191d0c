//! T09: DDL has no event. Columns come, go, change their names and types; at the end the index equals the
//! table, what was written before included.

use serde_json::json;

use crate::harness::pair::{Pair, Setup};

const TABLE: &str = "CREATE TYPE mood AS ENUM ('sad', 'ok');
    CREATE TABLE t (id bigint PRIMARY KEY, a text, b text, n integer NOT NULL, feels mood DEFAULT 'ok');
    INSERT INTO t SELECT id, 'a' || id, 'b' || id, id FROM generate_series(1, 500) id;";

/// Adds a column that every row has a value in, and rows after it.
const ADD: &str = "ALTER TABLE t ADD c integer NOT NULL DEFAULT 7; UPDATE t SET c = 8 WHERE id <= 3;
    INSERT INTO t VALUES (1001, 'x', 'y', 1, 'sad', 9)";

async fn count(pair: &Pair, field: &str, value: i64) -> u64 {
    let query = json!({ "term": { field: value } });
    pair.http.count(&pair.index("t"), query).await
}

async fn mapped(pair: &Pair, field: &str) -> serde_json::Value {
    let found = pair.http.get(&format!("/{}/_mapping", pair.index("t"))).await;
    found[format!("{}-rowtide-1", pair.index("t"))]["mappings"]["properties"][field]["type"].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn t09_a_new_column_is_mapped_before_its_first_document_and_filled_in_everywhere() {
    let mut pair = Pair::filled(Setup { sql: TABLE, tables: &["t"], ..Setup::default() }).await;
    pair.sql(ADD).await;
    pair.wait_for_value("t", "1001", "c", json!(9)).await;
    assert_eq!(mapped(&pair, "c").await, "integer", "mapped when the first document with it is there");
    pair.become_equal().await;
    assert_eq!((count(&pair, "c", 7).await, count(&pair, "c", 9).await), (497, 1), "it is searched");
    // Without a row that is written: the catalog tells.
    pair.sql("ALTER TABLE t ADD d boolean DEFAULT true").await;
    pair.become_equal().await;
    assert_eq!(mapped(&pair, "d").await, "boolean");
    pair.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn t09_columns_that_came_while_it_was_stopped() {
    let mut pair = Pair::filled(Setup { sql: TABLE, tables: &["t"], ..Setup::default() }).await;
    pair.stop();
    // Images without the column, which the log brings after the start: none of them may stay.
    for round in 0..40 {
        pair.sql(&format!("UPDATE t SET a = 'round {round}'")).await;
    }
    pair.sql(ADD).await;
    pair.sql("ALTER TABLE t DROP b").await;
    pair.rowtide.run_again();
    pair.become_equal().await;
    assert_eq!((mapped(&pair, "c").await, count(&pair, "c", 7).await), (json!("integer"), 497));
    pair.stop();
}

/// Rows are read back for changes whose description has a column that is gone (T07): they are read as the
/// table is now. Else every start would fail at the first of them, and the log would never be passed.
#[tokio::test(flavor = "multi_thread")]
async fn t09_rows_that_are_read_back_have_the_columns_of_now() {
    let sql = &format!(
        "{TABLE} ALTER TABLE t ADD big text; ALTER TABLE t ALTER big SET STORAGE EXTERNAL;
         UPDATE t SET big = repeat('some words ', 1000) WHERE id <= 50"
    );
    let mut pair = Pair::filled(Setup { sql, tables: &["t"], ..Setup::default() }).await;
    pair.stop();
    for round in 0..5 {
        pair.sql(&format!("UPDATE t SET a = 'round {round}' WHERE id <= 50")).await;
    }
    pair.sql("DELETE FROM t WHERE id = 7; ALTER TABLE t DROP b; ALTER TABLE t ADD c integer DEFAULT 5").await;
    pair.sql("UPDATE t SET a = 'after' WHERE id <= 10").await;
    pair.rowtide.run_again();
    pair.become_equal().await;
    assert_eq!(pair.document("t", "7").await, None);
    pair.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn t09_columns_change_while_the_table_is_filled() {
    let source = "chunk_rows = 20\nreaders = 2";
    let sql = &TABLE.replace("500", "6000");
    let target = "lanes = 1\nbulk_count_max = 40";
    let setup = Setup { sql, tables: &["t"], source, target, ..Setup::default() };
    let mut pair = Pair::set(crate::harness::servers::Postgres::shared().await, setup).await;
    pair.proxy.hold_requests(std::time::Duration::from_millis(80));
    pair.rowtide.run_again();
    pair.wait_for_documents_at_least("t", 1).await;
    pair.sql("UPDATE t SET a = 'early' WHERE id % 100 = 0; ALTER TABLE t ADD c text DEFAULT 'new'").await;
    pair.wait_for_documents_at_least("t", 100).await;
    pair.sql("ALTER TABLE t DROP b; UPDATE t SET a = 'late' WHERE id % 150 = 0").await;
    pair.wait_for_documents_at_least("t", 400).await;
    let left = 6000 - pair.documents("t").await;
    println!("{left} rows were still to be read after the last change");
    assert!(left > 0, "everything was read before");
    pair.proxy.hold_requests(std::time::Duration::ZERO);
    pair.become_equal().await;
    pair.stop();
}

/// Two columns swap their names, one is dropped and made again with another type, an enum gets a label.
#[tokio::test(flavor = "multi_thread")]
async fn t09_columns_swap_names_and_types_and_enums_grow() {
    let mut pair = Pair::filled(Setup { sql: TABLE, tables: &["t"], ..Setup::default() }).await;
    pair.rowtide.allow("a field's mapping does not hold its column any more");
    pair.sql(
        "UPDATE t SET a = 'before' WHERE id = 1;
         BEGIN; ALTER TABLE t RENAME a TO x; ALTER TABLE t RENAME b TO a; ALTER TABLE t RENAME x TO b; COMMIT;
         UPDATE t SET a = 'after' WHERE id = 2",
    )
    .await;
    pair.become_equal().await;
    pair.sql("ALTER TYPE mood ADD VALUE 'glad'").await;
    pair.sql("UPDATE t SET feels = 'glad' WHERE id = 3").await;
    pair.wait_for_value("t", "3", "feels", json!("glad")).await;
    // A wider type: what the mapping takes is there, what it does not take is a dead letter.
    pair.sql("ALTER TABLE t ALTER n TYPE bigint; UPDATE t SET n = -n WHERE id = 4").await;
    pair.become_equal().await;
    pair.sql("ALTER TABLE t DROP b; ALTER TABLE t ADD b integer DEFAULT 5").await;
    pair.become_equal().await;
    pair.stop();
}

/// The mapping of a field cannot change: what it refuses becomes a dead letter, and the rest goes on.
#[tokio::test(flavor = "multi_thread")]
async fn t09_values_that_a_mapping_refuses_become_dead_letters() {
    let mut pair = Pair::filled(Setup { sql: TABLE, tables: &["t"], ..Setup::default() }).await;
    pair.rowtide.allow("a field's mapping does not hold its column any more");
    pair.rowtide.allow("dead letter");
    pair.sql("ALTER TABLE t ALTER n TYPE text USING n::text; UPDATE t SET n = 'many' WHERE id = 1").await;
    pair.rowtide.wait_for_line("a field's mapping does not hold", crate::harness::pair::PATIENCE).await;
    pair.wait_for_value("t", "2", "n", json!("2")).await;
    pair.sql("UPDATE t SET n = '12' WHERE id = 3").await;
    pair.wait_for_value("t", "3", "n", json!("12")).await;
    pair.caught_up().await;
    assert_ne!(pair.document("t", "1").await.map(|found| found.0["n"].clone()), Some(json!("many")));
    // Mended in the database, it goes out.
    pair.sql("UPDATE t SET n = '77' WHERE id = 1").await;
    pair.become_equal().await;
    pair.stop();
}
