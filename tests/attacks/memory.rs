//! B10: a chunk waits for the reader, the reader waits for bytes that the chunk holds.

use crate::harness::pair::{Pair, Setup};
use crate::harness::rowtide::Rowtide;

/// Chunks, refetches and a large transaction, each more than the budget, before a slow target.
#[tokio::test(flavor = "multi_thread")]
async fn b10_reads_and_log_never_wait_for_each_other_while_the_budget_is_full() {
    let sql = "CREATE TABLE t (id bigint PRIMARY KEY, n bigint NOT NULL, pad bytea NOT NULL);
        ALTER TABLE t ALTER pad SET STORAGE EXTERNAL;
        INSERT INTO t SELECT id, 0, decode(repeat(md5(id::text), 500), 'hex') FROM generate_series(1, 6000) id;";
    let memory = "max_rss = \"128MiB\"\ndocument_bytes_max = \"256KiB\"";
    let source = "chunk_rows = 1000\nreaders = 2";
    let target = "lanes = 2\nbulk_bytes_max = \"1MiB\"";
    let setup = Setup { sql, tables: &["t"], memory, source, target, ..Setup::default() };
    let postgres = crate::harness::servers::Postgres::shared().await;
    let mut pair = Pair::set(postgres, setup).await;
    pair.proxy.limit_bandwidth(4_000_000);
    pair.rowtide.run_again();
    crate::harness::poll_until("the fill to begin", crate::harness::pair::PATIENCE, async || {
        (pair.proxy.puts() > 200).then_some(())
    })
    .await;
    // The big value is not in the log, so each is read back; then whole rows, in one transaction.
    pair.sql(
        "UPDATE t SET n = n + 1 WHERE id > 3000;
         INSERT INTO t SELECT id + 10000, 1, pad FROM t WHERE id <= 2000",
    )
    .await;
    pair.wait_until_following().await;
    pair.caught_up().await;
    pair.assert_equal().await;
    assert!(pair.rowtide.high_water_kib() < 128 * 1024, "{} KiB", pair.rowtide.high_water_kib());
    let (code, log) = pair.rowtide.stop();
    assert_eq!(code, 0);
    Rowtide::final_counts(&log);
    let most =
        log.iter().rev().find_map(|line| Some((line.number("memory_most")?, line.number("memory_limit")?)));
    let (most, limit) = most.expect("a status line");
    println!("{most} bytes were charged at once, {limit} may be");
    assert!(most > limit / 2, "the budget was never full");
}
