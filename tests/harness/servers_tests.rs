//! The servers' own ends.

use std::time::Duration;

use rustix::process::Signal;

use super::servers::Postgres;

/// A query that only computes does not notice that the first process has gone, and holds its memory.
#[tokio::test(flavor = "multi_thread")]
async fn a_postgresql_that_was_killed_in_a_query_starts_again() {
    let postgres = Postgres::start("18", &[]).await;
    let database = postgres.fresh_database().await;
    let busy = database.client().await;
    let query =
        tokio::spawn(
            async move { busy.batch_execute("SELECT count(*) FROM generate_series(1, 1e10)").await },
        );
    tokio::time::sleep(Duration::from_millis(500)).await;
    postgres.stop(Signal::KILL);
    postgres.start_again().await;
    assert!(query.await.unwrap().is_err(), "the query was cut off");
    database.client().await.batch_execute("SELECT 1").await.unwrap();
}
