//! T03, T04: the log that the slot holds comes near to the server's bound, since the target is slow.

use std::time::Duration;

use rustix::process::Signal;

use crate::harness::pair::{PATIENCE, Pair, Setup};
use crate::harness::poll_until;
use crate::harness::servers::Postgres;

const SQL: &str = "CREATE FUNCTION filler(n bigint) RETURNS text LANGUAGE sql AS
        $$ SELECT string_agg(md5((n * 1000 + part)::text), '') FROM generate_series(1, 180) part $$;
    CREATE TABLE wide (id bigint PRIMARY KEY, v text);
    ALTER TABLE wide ALTER v SET STORAGE PLAIN;
    INSERT INTO wide SELECT id, filler(id) FROM generate_series(1, 10000) id;
    CREATE TABLE t (id bigint PRIMARY KEY, v text);
    ALTER TABLE t ALTER v SET STORAGE PLAIN;";
/// Reads hold at most half of it, so that most rows of `wide` are still to be read.
const MEMORY: &str = "max_rss = \"64MiB\"\ndocument_bytes_max = \"64KiB\"";

/// Reads of the tables yield at half of the bound, and the log has the target for itself; the slot is kept,
/// the end of it is said, and the tables are read on.
#[tokio::test(flavor = "multi_thread")]
async fn t04_reads_yield_before_the_slot_is_lost() {
    let bound = ["-c", "max_slot_wal_keep_size=80MB", "-c", "min_wal_size=32MB", "-c", "max_wal_size=256MB"];
    let postgres = Postgres::start("18", &bound).await;
    let (source, target) = ("chunk_rows = 100", "lanes = 1");
    let setup =
        Setup { sql: SQL, tables: &["wide", "t"], memory: MEMORY, source, target, table: "", second: None };
    let mut pair = Pair::set(&postgres, setup).await;
    pair.rowtide.allow("the server keeps much log for the slot");
    pair.proxy.limit_bandwidth(2_500_000);
    pair.rowtide.run_again();
    pair.wait_for_documents_at_least("wide", 100).await;
    pair.sql("INSERT INTO t SELECT id, filler(-id) FROM generate_series(1, 4000) id").await;
    pair.sql("INSERT INTO t SELECT id, filler(-id) FROM generate_series(4001, 9000) id").await;
    pair.rowtide.wait_for_line("the server keeps much log for the slot", PATIENCE).await;
    pair.rowtide.wait_for_line("the tables are read on when", PATIENCE).await;

    // The server lets go of log only at its checkpoints; at one, too, it would drop the slot.
    poll_until("room again", PATIENCE, async || {
        pair.sql("CHECKPOINT").await;
        assert_ne!(pair.ask("SELECT wal_status FROM pg_replication_slots").await, "lost");
        tokio::time::sleep(Duration::from_millis(500)).await;
        pair.rowtide.log().iter().find(|line| line.text.contains("keeps less log")).map(|_| ())
    })
    .await;
    let waited: Vec<u64> = pair
        .rowtide
        .log()
        .iter()
        .filter(|line| line.text.contains("the tables are read on when"))
        .filter_map(|line| line.number("rows_read"))
        .collect();
    let (first, last) = (waited[0], waited[waited.len() - 1]);
    println!("rows read while they had to wait: {waited:?}");
    assert!(last - first <= 400, "the tables were read on: from {first} to {last} rows");
    assert!(last < 10_000, "all rows had been read");
    pair.proxy.limit_bandwidth(0);
    pair.wait_for_documents("wide", 10_000).await;
    pair.caught_up().await;
    pair.assert_equal().await;
    pair.stop();
    drop(pair);
    postgres.stop(Signal::INT);
}
