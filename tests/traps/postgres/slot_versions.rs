//! T04: each way in which a server takes a slot away, on each version that has it.

use std::time::Duration;

use rustix::process::Signal;

use super::SMALL;
use crate::harness::pair::{PATIENCE, Pair, Setup};
use crate::harness::poll_until;
use crate::harness::servers::Postgres;
use crate::harness::{Scale, scale};

fn versions() -> &'static [&'static str] {
    match scale() {
        Scale::Small => &["18"],
        Scale::Full => &["15", "17", "18"],
    }
}

/// The target is away, the log is written on: the server ends the reader and drops the log under it.
#[tokio::test(flavor = "multi_thread")]
async fn t04_slot_lost_while_it_is_read() {
    for version in versions() {
        let bound =
            ["-c", "max_slot_wal_keep_size=1MB", "-c", "min_wal_size=32MB", "-c", "max_wal_size=32MB"];
        let postgres = Postgres::start(version, &bound).await;
        let mut pair = Pair::set(&postgres, Setup { sql: SMALL, tables: &["t"], ..Setup::default() }).await;
        for line in ["the source was lost; it is opened again", "the server keeps much log for the slot"] {
            pair.rowtide.allow(line);
        }
        pair.rowtide.run_again();
        pair.wait_for_documents("t", 200).await;
        pair.caught_up().await;
        pair.proxy.hold_requests(Duration::from_secs(8));
        let received = pair.proxy.documents();
        pair.sql("INSERT INTO t VALUES (1000, 1)").await;
        poll_until("the loss of the slot", PATIENCE, async || {
            pair.sql("SELECT pg_logical_emit_message(false, 'x', 'y')").await;
            pair.sql("SELECT pg_switch_wal()").await;
            pair.sql("CHECKPOINT").await;
            (pair.ask("SELECT wal_status FROM pg_replication_slots").await == "lost").then_some(())
        })
        .await;
        let line = pair.assert_halts("slot-lost");
        assert!(line.text.contains("max_slot_wal_keep_size"), "{}", line.text);
        assert!(pair.proxy.documents() <= received + 1, "more was written than what had been read");
        drop(pair);
        postgres.stop(Signal::INT);
    }
}

/// 18 and later: nobody has read it for so long.
#[tokio::test(flavor = "multi_thread")]
async fn t04_idle_slot() {
    let postgres = Postgres::start("18", &["-c", "idle_replication_slot_timeout=1s"]).await;
    let mut pair = Pair::set(&postgres, Setup { sql: SMALL, tables: &["t"], ..Setup::default() }).await;
    pair.rowtide.run_again();
    pair.wait_for_documents("t", 200).await;
    pair.stop();
    poll_until("the end of the server's patience", PATIENCE, async || {
        pair.sql("INSERT INTO t VALUES (1000, 1) ON CONFLICT (id) DO UPDATE SET n = t.n + 1; CHECKPOINT")
            .await;
        let reason = "SELECT coalesce(invalidation_reason, '') FROM pg_replication_slots";
        (pair.ask(reason).await == "idle_timeout").then_some(())
    })
    .await;
    pair.rowtide.run_again();
    let line = pair.assert_halts("slot-lost");
    assert!(line.text.contains("raise idle_replication_slot_timeout"), "{}", line.text);
    drop(pair);
    postgres.stop(Signal::INT);
}
