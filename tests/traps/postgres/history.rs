//! T42, T43: a log that is not the one of the checkpoint.

use rustix::process::Signal;

use super::SMALL;
use crate::harness::pair::{Pair, Setup};
use crate::harness::processes::copy;
use crate::harness::servers::Postgres;

/// The slot was moved by hand: what lies between is lost, and the server would say nothing (A11).
#[tokio::test(flavor = "multi_thread")]
async fn t43_slot_advanced_or_made_again_by_a_person() {
    let mut pair = Pair::filled(Setup { sql: SMALL, tables: &["t"], ..Setup::default() }).await;
    pair.caught_up().await;
    pair.stop();
    let received = pair.proxy.documents();
    pair.sql("INSERT INTO t VALUES (1000, 1)").await;
    let slot = pair.slot().to_owned();
    pair.ask(&format!("SELECT pg_replication_slot_advance('{slot}', pg_current_wal_lsn())")).await;
    pair.rowtide.run_again();
    let line = pair.assert_halts("history-broken");
    assert!(line.text.contains("beyond the checkpoint"), "{}", line.text);

    pair.ask(&format!("SELECT pg_drop_replication_slot('{slot}') IS NOT NULL")).await;
    pair.ask(&format!("SELECT pg_create_logical_replication_slot('{slot}', 'pgoutput')")).await;
    pair.rowtide.run_again();
    pair.assert_halts("history-broken");
    assert_eq!(pair.proxy.documents(), received, "something was written");
}

/// A restored volume has the same system identifier and timeline. First its log ends before the
/// checkpoint, then new history has grown beyond it (A9, D2).
#[tokio::test(flavor = "multi_thread")]
async fn t42_t43_restored_volume() {
    let postgres = Postgres::start("18", &[]).await;
    let mut pair = Pair::set(&postgres, Setup { sql: SMALL, tables: &["t"], ..Setup::default() }).await;
    pair.rowtide.run_again();
    pair.wait_until_following().await;
    pair.caught_up().await;
    pair.stop();
    let (data, kept) = (postgres.data_folder(), postgres.data_folder().with_extension("kept"));
    postgres.stop(Signal::INT);
    copy(&data, &kept);
    postgres.start_again().await;
    pair.client = pair.database.client().await;
    pair.rowtide.run_again();
    pair.sql("INSERT INTO t SELECT id, 1 FROM generate_series(1000, 1500) id").await;
    pair.caught_up().await;
    let checkpoint = pair.log_end().await;
    pair.stop();
    let received = pair.proxy.documents();

    postgres.stop(Signal::INT);
    std::fs::remove_dir_all(&data).unwrap();
    std::fs::rename(&kept, &data).unwrap();
    postgres.start_again().await;
    pair.client = pair.database.client().await;
    assert!(pair.log_end().await < checkpoint, "the copy's log is not shorter");
    pair.rowtide.run_again();
    let line = pair.assert_halts("history-broken");
    assert!(line.text.contains("it went back"), "not known before the log is read: {}", line.text);

    let mut id = 5_000;
    while pair.log_end().await < checkpoint + 100_000 {
        pair.sql(&format!("INSERT INTO t SELECT id, 2 FROM generate_series({id}, {}) id", id + 99)).await;
        id += 100;
    }
    pair.rowtide.run_again();
    let line = pair.assert_halts("history-broken");
    assert!(!line.text.contains("it went back"), "the log is long enough: {}", line.text);
    assert_eq!(pair.proxy.documents(), received, "something was written");
    assert_eq!(pair.document("t", "5000").await, None);
    drop(pair);
    postgres.stop(Signal::INT);
}
