//! T05, T06, T07, T44: reads beside the log.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use serde_json::json;
use tokio_postgres::Client;

use super::SMALL;
use crate::harness::pair::{PATIENCE, Pair, Setup};
use crate::harness::poll_until;
use crate::harness::servers::Postgres;

/// Updates, inserts and deletes rows of its own and updates shared ones until told to stop.
async fn write(client: Client, writer: u64, stop: Arc<AtomicBool>) -> u64 {
    let mut count = 0;
    while !stop.load(Relaxed) {
        let (old, fresh) = (1 + count * 7 % 2_000, 10_000 + count * 10 + writer);
        let sql = format!(
            "BEGIN; UPDATE t SET n = n + 1 WHERE id = {old}; INSERT INTO t VALUES ({fresh}, 1); COMMIT;
             DELETE FROM t WHERE id = {}; UPDATE t SET id = -id, n = n + 1 WHERE id = {}",
            fresh.saturating_sub(50),
            fresh.saturating_sub(30)
        );
        client.batch_execute(&sql).await.unwrap();
        count += 1;
    }
    count
}

/// Writers from before the slot exists until after the fill.
#[tokio::test(flavor = "multi_thread")]
async fn t05_seam_between_snapshot_and_stream() {
    let sql = "CREATE TABLE t (id bigint PRIMARY KEY, n bigint NOT NULL);
        INSERT INTO t SELECT id, 0 FROM generate_series(1, 2000) id;";
    let source = "chunk_rows = 50\nreaders = 2";
    let setup = Setup { sql, tables: &["t"], source, ..Setup::default() };
    let mut pair = Pair::set(Postgres::shared().await, setup).await;
    let stop = Arc::new(AtomicBool::new(false));
    let mut writers = Vec::new();
    for writer in 0..3 {
        writers.push(tokio::spawn(write(pair.database.client().await, writer, stop.clone())));
    }
    // One transaction is open while the slot is made, and says so.
    let long = pair.database.client().await;
    long.batch_execute("BEGIN; UPDATE t SET n = 1000000 WHERE id IN (1999, 2000)").await.unwrap();
    pair.rowtide.run_again();
    pair.rowtide.wait_for_line("before the replication slot can be made", PATIENCE).await;
    long.batch_execute("UPDATE t SET n = n + 1 WHERE id = 1998; COMMIT").await.unwrap();
    pair.wait_until_following().await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    stop.store(true, Relaxed);
    let mut transactions = 0;
    for writer in writers {
        transactions += writer.await.unwrap();
    }
    println!("{transactions} rounds of changes meanwhile");
    assert!(transactions > 100);
    pair.caught_up().await;
    pair.assert_equal().await;
    pair.stop();
}

/// A commit that waits for a standby that is not there: it is in the log, and nobody sees it.
struct Invisible {
    work: tokio::task::JoinHandle<()>,
    pid: i32,
}

impl Invisible {
    async fn commit(pair: &Pair, sql: &str) -> Self {
        let client = pair.database.client().await;
        let pid = client.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0);
        client.batch_execute("SET synchronous_commit = on").await.unwrap();
        let sql = sql.to_owned();
        let work = tokio::spawn(async move { client.batch_execute(&sql).await.unwrap() });
        let waits =
            format!("SELECT count(*) FROM pg_stat_activity WHERE pid = {pid} AND wait_event = 'SyncRep'");
        poll_until("the commit to wait for its standby", PATIENCE, async || {
            (pair.ask(&waits).await == "1").then_some(())
        })
        .await;
        Self { work, pid }
    }

    /// Becomes visible.
    async fn show(self, pair: &Pair) {
        assert_eq!(pair.ask(&format!("SELECT pg_cancel_backend({})", self.pid)).await, "t");
        self.work.await.unwrap();
    }
}

const WITHOUT_A_STANDBY: [&str; 4] =
    ["-c", "synchronous_standby_names=missing", "-c", "synchronous_commit=local"];

/// ATTACKS A1 in a refetch and in a chunk: the reader has passed the commit, so a read that cannot
/// see it is taken again.
#[tokio::test(flavor = "multi_thread")]
async fn t06_commit_in_the_log_that_is_not_visible() {
    let postgres = Postgres::start("18", &WITHOUT_A_STANDBY).await;
    let sql = "CREATE TABLE a (id bigint PRIMARY KEY, n bigint NOT NULL, big text);
        ALTER TABLE a ALTER big SET STORAGE EXTERNAL;
        INSERT INTO a SELECT id, 0, repeat('x', 5000) FROM generate_series(1, 3) id;
        CREATE TABLE b (id bigint PRIMARY KEY, n bigint NOT NULL);
        INSERT INTO b SELECT id, 0 FROM generate_series(1, 10) id;";
    let mut pair = Pair::set(&postgres, Setup { sql, tables: &["a", "b"], ..Setup::default() }).await;

    // A chunk. This lock, which a writer could hold too, keeps the first chunk of b waiting.
    let writer = pair.database.client().await;
    writer.batch_execute("BEGIN; LOCK TABLE b IN ROW EXCLUSIVE MODE").await.unwrap();
    pair.rowtide.run_again();
    pair.rowtide.wait_for_line("to end, which wrote to public.b", PATIENCE).await;
    let commit = Invisible::commit(&pair, "UPDATE b SET n = 1 WHERE id = 1").await;
    assert_eq!(pair.ask("SELECT n FROM b WHERE id = 1").await, "0", "it is not visible");
    pair.wait_for_value("b", "1", "n", json!(1)).await;
    writer.batch_execute("COMMIT").await.unwrap();
    // Time enough for a chunk that goes out although it is too old.
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    assert_eq!(pair.documents("b").await, 1, "a read that does not see what was passed went out");
    commit.show(&pair).await;
    pair.wait_for_documents("b", 10).await;
    pair.wait_until_following().await;
    pair.assert_equal().await;

    // A refetch, since the big value is not in the log.
    let commit = Invisible::commit(&pair, "UPDATE a SET n = 1 WHERE id = 1").await;
    let passed = pair.log_end().await;
    pair.sql("UPDATE b SET n = 2 WHERE id = 2").await;
    pair.wait_for_value("b", "2", "n", json!(2)).await;
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    assert!(pair.confirmed().await < passed, "acknowledged although the row was not read yet");
    commit.show(&pair).await;
    pair.wait_for_value("a", "1", "n", json!(1)).await;
    pair.caught_up().await;
    pair.assert_equal().await;
    pair.stop();
}

/// An unchanged big value: from the old image with FULL identity, else read back by key.
#[tokio::test(flavor = "multi_thread")]
async fn t07_toast() {
    let table = |name: &str| {
        format!(
            "CREATE TABLE {name} (id bigint PRIMARY KEY, n bigint NOT NULL, big text NOT NULL);
             ALTER TABLE {name} ALTER big SET STORAGE EXTERNAL;
             INSERT INTO {name} SELECT id, 0, repeat(md5(id::text), 100) FROM generate_series(1, 50) id;"
        )
    };
    let sql = format!("{}{} ALTER TABLE whole REPLICA IDENTITY FULL;", table("plain"), table("whole"));
    let mut pair = Pair::filled(Setup { sql: &sql, tables: &["plain", "whole"], ..Setup::default() }).await;
    pair.proxy.keep_requests(true);
    for name in ["plain", "whole"] {
        let statements = [
            "UPDATE $ SET n = 1 WHERE id <= 20",
            "UPDATE $ SET n = n + 1 WHERE id <= 10",
            "UPDATE $ SET id = id + 1000 WHERE id BETWEEN 11 AND 15",
            // Deleted right after: alone, and within one transaction.
            "UPDATE $ SET n = 3 WHERE id = 16; DELETE FROM $ WHERE id = 16",
            "BEGIN; UPDATE $ SET n = 3 WHERE id = 17; DELETE FROM $ WHERE id = 17; COMMIT",
            "BEGIN; UPDATE $ SET id = 2018 WHERE id = 18; UPDATE $ SET id = 3018, n = 5 WHERE id = 2018; COMMIT",
            "BEGIN; UPDATE $ SET n = 4 WHERE id = 19; UPDATE $ SET big = 'small now' WHERE id = 19; COMMIT",
            "BEGIN; UPDATE $ SET big = repeat('y', 4000) WHERE id = 20; UPDATE $ SET n = 6 WHERE id = 20; COMMIT",
        ];
        for statement in statements {
            pair.sql(&statement.replace('$', name)).await;
        }
    }
    pair.caught_up().await;
    pair.assert_equal().await;
    let mut puts = 0;
    for request in pair.proxy.kept() {
        for document in request.body.lines().filter(|line| line.contains("\"n\":")) {
            puts += 1;
            let whole = document.len() > 2_000 || document.contains("small now");
            assert!(whole, "a document went out without its big value: {document}");
        }
    }
    assert!(puts >= 30, "only {puts} documents were seen");
    pair.stop();
}

/// ATTACKS A4: a transaction that touched a table before the table was published, or before the slot
/// was made, is only half in the log, or not at all.
#[tokio::test(flavor = "multi_thread")]
async fn t44_table_joins_while_a_transaction_is_open() {
    let sql = &format!(
        "{SMALL} CREATE TABLE late (id bigint PRIMARY KEY, n bigint NOT NULL);
         INSERT INTO late SELECT id, 0 FROM generate_series(1, 100) id;"
    );
    let mut pair = Pair::filled(Setup { sql, tables: &["t"], ..Setup::default() }).await;
    pair.stop();
    let open = pair.database.client().await;
    open.batch_execute("BEGIN; SET application_name = 'a long one'; UPDATE late SET n = 1 WHERE id = 1")
        .await
        .unwrap();
    pair.add_table("late");
    pair.rowtide.run_again();
    let line = pair.rowtide.wait_for_line("to end, which wrote to public.late", PATIENCE).await;
    assert!(line.text.contains("a long one"), "it names the one waited for: {}", line.text);
    assert_eq!(line.fields["state"], "waiting");
    open.batch_execute("UPDATE late SET n = 1 WHERE id = 2; COMMIT").await.unwrap();
    pair.wait_until_following().await;
    pair.caught_up().await;
    pair.assert_equal().await;
    pair.stop();
}

/// T09 and law 2: a rewrite of the table shows an empty one to every snapshot that is older, so a read
/// that took its snapshot before it waited for the rewrite's lock would find no rows.
#[tokio::test(flavor = "multi_thread")]
async fn t09_a_table_is_rewritten_while_it_is_filled() {
    let sql = "CREATE TABLE t (id bigint PRIMARY KEY, n bigint NOT NULL, text text);
        INSERT INTO t SELECT id, id, repeat('x', 200) FROM generate_series(1, 6000) id;";
    let source = "chunk_rows = 20\nreaders = 2";
    let setup = Setup { sql, tables: &["t"], source, ..Setup::default() };
    let mut pair = Pair::set(Postgres::shared().await, setup).await;
    pair.rowtide.run_again();
    pair.wait_for_documents_at_least("t", 1).await;
    for round in 0..6 {
        let kind = if round % 2 == 0 { "numeric" } else { "bigint" };
        // The lock is held long enough for both readers to stand before it.
        pair.sql(&format!("BEGIN; ALTER TABLE t ALTER n TYPE {kind}; SELECT pg_sleep(0.2); COMMIT")).await;
    }
    let left = 6000 - pair.documents("t").await;
    println!("{left} rows were still to be read after the last rewrite");
    pair.wait_until_following().await;
    pair.caught_up().await;
    pair.assert_equal().await;
    pair.stop();
}
