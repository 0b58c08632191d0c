//! T12: what the publication publishes changes while it is followed: rows leave the filter without an
//! event, and columns come and go.

use serde_json::json;

use crate::harness::comparer::become_equal;
use crate::harness::pair::{PATIENCE, Pair, Setup};
use crate::harness::poll_until;
use crate::harness::postgres_rows::PostgresRows;
use crate::harness::servers::Postgres;

const TABLE: &str = "CREATE TABLE t (id bigint PRIMARY KEY, n bigint NOT NULL, secret text);
    ALTER TABLE t REPLICA IDENTITY FULL;
    INSERT INTO t SELECT id, id % 10, 'x' FROM generate_series(1, 400) id;";

async fn becomes(pair: &mut Pair, condition: &str) {
    let client = async || pair.database.client().await;
    let rows = async || PostgresRows::open_where(client().await, "public.t", condition).await;
    become_equal(&pair.http, &pair.index("t"), PATIENCE, rows).await;
    pair.rowtide.assert_runs();
}

#[tokio::test(flavor = "multi_thread")]
async fn t12_the_row_filter_changes_under_way() {
    let setup = Setup { sql: TABLE, tables: &["t"], ..Setup::default() };
    let mut pair = Pair::set(Postgres::shared().await, setup).await;
    let name = pair.slot().to_owned();
    pair.sql(&format!("CREATE PUBLICATION {name} FOR TABLE t WHERE (n < 5)")).await;
    pair.rowtide.run_again();
    pair.wait_until_following().await;
    becomes(&mut pair, "n < 5").await;
    // A writer that began under the old filter ends under the new one.
    let writer = pair.database.client().await;
    writer
        .batch_execute("BEGIN; UPDATE t SET n = 7 WHERE id IN (1, 2); UPDATE t SET n = 0 WHERE id IN (8, 9)")
        .await
        .unwrap();
    pair.sql(&format!("ALTER PUBLICATION {name} SET TABLE t WHERE (n BETWEEN 3 AND 7)")).await;
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    writer.batch_execute("UPDATE t SET n = 6 WHERE id = 3; COMMIT").await.unwrap();
    pair.sql("UPDATE t SET n = 4 WHERE id = 9; DELETE FROM t WHERE id = 14").await;
    becomes(&mut pair, "n BETWEEN 3 AND 7").await;
    pair.caught_up().await;
    becomes(&mut pair, "n BETWEEN 3 AND 7").await;
    // And while nobody looks.
    pair.stop();
    pair.sql(&format!("ALTER PUBLICATION {name} SET TABLE t")).await;
    pair.rowtide.run_again();
    becomes(&mut pair, "true").await;
    pair.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn t12_the_column_list_changes_under_way() {
    let setup = Setup { sql: TABLE, tables: &["t"], ..Setup::default() };
    let mut pair = Pair::set(Postgres::shared().await, setup).await;
    let name = pair.slot().to_owned();
    // A list of columns does not go with FULL.
    pair.sql(&format!("ALTER TABLE t REPLICA IDENTITY DEFAULT; CREATE PUBLICATION {name} FOR TABLE t")).await;
    pair.rowtide.run_again();
    pair.wait_until_following().await;
    becomes(&mut pair, "true").await;
    pair.sql(&format!("ALTER PUBLICATION {name} SET TABLE t (id, n)")).await;
    poll_until("the column to be gone from every document", PATIENCE, async || {
        let query = json!({ "exists": { "field": "secret" } });
        (pair.http.count(&pair.index("t"), query).await == 0).then_some(())
    })
    .await;
    assert_eq!(pair.document("t", "3").await.unwrap().0, json!({ "id": 3, "n": 3 }));
    pair.sql(&format!("ALTER PUBLICATION {name} SET TABLE t; UPDATE t SET secret = 'y' WHERE id = 3")).await;
    becomes(&mut pair, "true").await;
    // Without a column of the key nothing can be followed.
    pair.sql(&format!("ALTER PUBLICATION {name} SET TABLE t (n, secret)")).await;
    let line = pair.assert_halts("tables-unreadable");
    assert!(line.text.contains("leaves a column of the key"), "{}", line.text);
}
