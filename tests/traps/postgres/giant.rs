//! T08, T48: a transaction that fits nowhere.

use crate::harness::pair::{PATIENCE, Pair, Setup};
use crate::harness::poll_until;

const ROWS: u64 = 300_000;
/// Of `max_rss` and of the process: its images would take more than 250 MiB.
const MAX_RSS_MIB: u64 = 128;

async fn wait_for(pair: &mut Pair, documents: u64) -> u64 {
    poll_until(&format!("{documents} documents"), PATIENCE, async || {
        (pair.proxy.puts() >= documents).then_some(())
    })
    .await;
    pair.rowtide.assert_runs();
    pair.proxy.puts()
}

/// Nobody buffers it, and neither a cut connection nor a SIGKILL starts it again.
#[tokio::test(flavor = "multi_thread")]
async fn t08_t48_giant_transaction_is_bounded_and_keeps_its_progress() {
    let sql = "CREATE TABLE t (id bigint PRIMARY KEY, pad bytea NOT NULL)";
    let memory = &format!("max_rss = \"{MAX_RSS_MIB}MiB\"");
    let target = "lanes = 2\nbulk_count_max = 1000";
    let setup = Setup { sql, tables: &["t"], memory, target, ..Setup::default() };
    let mut pair = Pair::filled(setup).await;
    pair.rowtide.allow("the source was lost; it is opened again");
    let insert = format!(
        "INSERT INTO t SELECT id, decode(repeat(md5(id::text), 30), 'hex') FROM generate_series(1, {ROWS}) id"
    );
    pair.sql(&insert).await;

    let at_the_cut = wait_for(&mut pair, ROWS / 6).await;
    pair.cut_the_log().await;
    let at_the_kill = wait_for(&mut pair, ROWS / 2).await;
    pair.rowtide.kill();
    let resumed = pair.proxy.puts();
    pair.rowtide.run_again();
    pair.caught_up().await;
    let puts = pair.proxy.puts();
    println!(
        "cut at {at_the_cut}, killed at {at_the_kill}, received {puts}; {} KiB",
        pair.rowtide.high_water_kib()
    );
    assert!(resumed < ROWS, "the transaction had ended before the kill");
    assert_eq!(pair.documents("t").await, ROWS);
    // Each time what was sent since the last checkpoint inside it: 10,000 changes, what the lanes hold,
    // and the time of one durable write.
    let again = puts - ROWS;
    assert!(again <= 2 * 30_000, "{again} documents were sent again");
    let kib = pair.rowtide.high_water_kib();
    assert!(kib < MAX_RSS_MIB * 1024, "{kib} KiB are not under {MAX_RSS_MIB} MiB");
    pair.assert_equal().await;
    pair.stop();
}

/// Rows that are read back for changes before it do not keep its progress from being recorded.
#[tokio::test(flavor = "multi_thread")]
async fn t48_progress_is_kept_behind_rows_that_are_read_back() {
    const BACK: u64 = 4_000;
    let sql = &format!(
        "CREATE TABLE t (id bigint PRIMARY KEY, pad bytea NOT NULL);
         CREATE TABLE b (id bigint PRIMARY KEY, n integer NOT NULL, big text NOT NULL);
         ALTER TABLE b ALTER big SET STORAGE EXTERNAL;
         INSERT INTO b SELECT id, 0, repeat('some words ', 1000) FROM generate_series(1, {BACK}) id"
    );
    let memory = &format!("max_rss = \"{MAX_RSS_MIB}MiB\"");
    let target = "lanes = 2\nbulk_count_max = 500";
    let mut pair = Pair::filled(Setup { sql, tables: &["t", "b"], memory, target, ..Setup::default() }).await;
    pair.caught_up().await;
    pair.proxy.delay_answers(std::time::Duration::from_millis(50));
    pair.proxy.watch("\"pad\":");
    // Both are in the log before the first of them is read.
    let insert = format!(
        "INSERT INTO t SELECT id, decode(repeat(md5(id::text), 30), 'hex') FROM generate_series(1, {ROWS}) id"
    );
    pair.rowtide.signal(rustix::process::Signal::STOP);
    pair.sql("UPDATE b SET n = 1").await;
    pair.sql(&insert).await;
    pair.rowtide.signal(rustix::process::Signal::CONT);
    poll_until("a part of the transaction", PATIENCE, async || {
        (pair.proxy.seen("\"pad\":") >= ROWS / 6).then_some(())
    })
    .await;
    pair.rowtide.kill();
    let before = pair.proxy.seen("\"pad\":");
    pair.rowtide.run_again();
    pair.caught_up().await;
    let again = pair.proxy.seen("\"pad\":") - ROWS;
    println!("killed after {before}, {again} were sent again");
    assert!(before < ROWS, "the transaction had ended before the kill");
    assert!(again <= 30_000, "{again} documents were sent again");
    pair.assert_equal().await;
    pair.stop();
}
