//! T10: partitions come with their rows and go with them, and no event tells of it. The index equals the
//! root's table at the end, and no document of a row that is still there is deleted on the way.

use serde_json::json;

use crate::harness::pair::{PATIENCE, Pair, Setup};
use crate::harness::servers::Postgres;

/// Partitions by region, with 100 rows each.
const TABLE: &str = "
    CREATE TABLE t (id bigint, region text, n integer NOT NULL, PRIMARY KEY (id, region)) PARTITION BY LIST (region);
    CREATE TABLE eu PARTITION OF t FOR VALUES IN ('eu');
    CREATE TABLE us PARTITION OF t FOR VALUES IN ('us');
    CREATE TABLE asia PARTITION OF t FOR VALUES IN ('asia');
    INSERT INTO t SELECT id, r, 0 FROM generate_series(1, 100) id, unnest(ARRAY['eu', 'us', 'asia']) r;
    CREATE TABLE africa (region text NOT NULL, n integer NOT NULL, id bigint NOT NULL);
    INSERT INTO africa SELECT 'africa', 1, id FROM generate_series(1, 300) id;";

const SWEPT: &str = "documents of rows that are gone were deleted";

#[tokio::test(flavor = "multi_thread")]
async fn t10_partitions_come_and_go() {
    let mut pair = Pair::filled(Setup { sql: TABLE, tables: &["t"], ..Setup::default() }).await;
    // A row moves, a new partition is made and filled, a filled table is attached and changed at once.
    pair.sql(
        "UPDATE t SET region = 'us', n = 5, id = 1000 WHERE id = 1 AND region = 'eu';
         UPDATE t SET region = 'us' WHERE id = 1000;
         CREATE TABLE oceania PARTITION OF t FOR VALUES IN ('oceania');
         INSERT INTO t VALUES (1, 'oceania', 3);
         ALTER TABLE t ATTACH PARTITION africa FOR VALUES IN ('africa');
         UPDATE t SET n = 2 WHERE region = 'africa' AND id = 1; DELETE FROM t WHERE region = 'africa' AND id = 2",
    )
    .await;
    pair.become_equal().await;
    assert_eq!(pair.documents("t").await, 600);
    let read = pair.rowtide.wait_for_line("partitions have come; they are read", PATIENCE).await;
    assert_eq!(read.number("partitions"), Some(2), "nothing else was read again: {}", read.text);
    assert!(!pair.rowtide.log().iter().any(|line| line.message == SWEPT), "nothing went");

    // Detached, dropped, emptied by itself: no event of any of them.
    pair.sql(
        "ALTER TABLE t DETACH PARTITION eu; DROP TABLE asia; TRUNCATE africa;
         INSERT INTO t VALUES (7, 'africa', 7)",
    )
    .await;
    pair.become_equal().await;
    assert_eq!(pair.documents("t").await, 103);
    let swept = pair
        .rowtide
        .log()
        .iter()
        .filter(|line| line.message == SWEPT)
        .filter_map(|line| line.number("deleted"))
        .sum::<u64>();
    assert_eq!(swept, 99 + 100 + 298, "each document of a row that is gone, and no other");

    // The root's own TRUNCATE is an event.
    pair.sql("TRUNCATE t; INSERT INTO t VALUES (8, 'us', 8)").await;
    pair.wait_for_documents("t", 1).await;
    pair.become_equal().await;
    pair.stop();
}

/// The same while it is stopped, and while the table is filled.
#[tokio::test(flavor = "multi_thread")]
async fn t10_partitions_come_and_go_while_nobody_looks() {
    let source = "chunk_rows = 20";
    let target = "lanes = 1\nbulk_count_max = 20";
    let setup = Setup { sql: TABLE, tables: &["t"], source, target, ..Setup::default() };
    let mut pair = Pair::set(Postgres::shared().await, setup).await;
    pair.proxy.hold_requests(std::time::Duration::from_millis(100));
    pair.rowtide.run_again();
    pair.wait_for_documents_at_least("t", 1).await;
    pair.sql(
        "ALTER TABLE t DETACH PARTITION eu; ALTER TABLE t ATTACH PARTITION africa FOR VALUES IN ('africa')",
    )
    .await;
    pair.proxy.hold_requests(std::time::Duration::ZERO);
    pair.wait_until_following().await;
    pair.stop();
    pair.sql(
        "INSERT INTO t VALUES (500, 'us', 1);
         ALTER TABLE t DETACH PARTITION us; ALTER TABLE t ATTACH PARTITION eu FOR VALUES IN ('eu'); TRUNCATE asia",
    )
    .await;
    pair.rowtide.run_again();
    pair.become_equal().await;
    assert_eq!(pair.documents("t").await, 400);
    assert_eq!(pair.document("t", "[1,\"eu\"]").await.map(|found| found.0["n"].clone()), Some(json!(0)));
    pair.stop();
}

/// The log begins with a slot that was there before: it tells of rows that are gone when the tables are first
/// looked at.
#[tokio::test(flavor = "multi_thread")]
async fn t10_partitions_that_went_before_the_first_start_on_an_old_slot() {
    let setup = Setup { sql: TABLE, tables: &["t"], ..Setup::default() };
    let mut pair = Pair::set(Postgres::shared().await, setup).await;
    let name = pair.slot().to_owned();
    pair.sql(&format!("CREATE PUBLICATION {name} FOR TABLE t WITH (publish_via_partition_root = true)"))
        .await;
    pair.sql(&format!("SELECT pg_create_logical_replication_slot('{name}', 'pgoutput')")).await;
    pair.sql("UPDATE t SET n = 9 WHERE region = 'eu'; UPDATE t SET n = 8 WHERE region = 'us'").await;
    pair.sql("ALTER TABLE t DETACH PARTITION eu").await;
    pair.rowtide.run_again();
    pair.wait_until_following().await;
    pair.become_equal().await;
    assert_eq!(pair.documents("t").await, 200);
    let swept = pair.rowtide.wait_for_line(SWEPT, PATIENCE).await;
    assert_eq!(swept.number("deleted"), Some(100), "they had been written: {}", swept.text);
    pair.stop();
}

/// Without the root's name the changes of partitions would come under other names, and be lost.
#[tokio::test(flavor = "multi_thread")]
async fn t10_a_publication_that_names_partitions_halts() {
    let mut pair =
        Pair::set(Postgres::shared().await, Setup { sql: TABLE, tables: &["t"], ..Setup::default() }).await;
    pair.sql(&format!("CREATE PUBLICATION {} FOR TABLE t", pair.slot())).await;
    pair.rowtide.run_again();
    let line = pair.assert_halts("publication-incomplete");
    assert!(line.text.contains("publish_via_partition_root = true"), "{}", line.text);
}
