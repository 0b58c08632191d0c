//! A10, B5: another server answers under the same address.

use std::fs::{self, File, Permissions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;

use rustix::process::Signal;

use super::SMALL;
use crate::harness::pair::{PATIENCE, Pair, Setup};
use crate::harness::poll_until;
use crate::harness::processes::copy;
use crate::harness::servers::Postgres;

/// What a server does when it is started again on its data.
#[derive(Clone, Copy)]
enum Role {
    /// Its own recovery ends at once, on a new timeline: a standby that was promoted.
    Promoted,
    Standby,
}

impl Role {
    async fn take(self, postgres: &Postgres, pair: &mut Pair) {
        let data = postgres.data_folder();
        let signal = match self {
            Self::Promoted => "recovery.signal",
            Self::Standby => "standby.signal",
        };
        // The server, another user, removes it.
        File::create(data.join(signal)).unwrap();
        fs::set_permissions(data.join(signal), Permissions::from_mode(0o666)).unwrap();
        let mut settings = File::options().append(true).open(data.join("postgresql.auto.conf")).unwrap();
        settings.write_all(b"restore_command = 'false'\n").unwrap();
        postgres.start_again().await;
        let recovers = match self {
            Self::Promoted => "f",
            Self::Standby => "t",
        };
        pair.client = pair.database.client().await;
        poll_until("the server's role", PATIENCE, async || {
            (pair.ask("SELECT pg_is_in_recovery()").await == recovers).then_some(())
        })
        .await;
    }
}

async fn followed(postgres: &Postgres) -> Pair {
    let mut pair = Pair::set(postgres, Setup { sql: SMALL, tables: &["t"], ..Setup::default() }).await;
    pair.rowtide.run_again();
    pair.wait_until_following().await;
    pair.caught_up().await;
    pair
}

/// After a clean stop another server that has every transaction is followed on, with versions above
/// all that were issued. One that has lost some is not, although its log has grown beyond the checkpoint.
#[tokio::test(flavor = "multi_thread")]
async fn a10_a_server_is_followed_only_if_it_has_every_transaction() {
    let postgres = Postgres::start("18", &[]).await;
    let mut pair = followed(&postgres).await;
    pair.sql("INSERT INTO t VALUES (1000, 1)").await;
    pair.caught_up().await;
    let before = pair.document("t", "1000").await.unwrap().1;
    pair.stop();
    postgres.stop(Signal::INT);
    Role::Promoted.take(&postgres, &mut pair).await;
    pair.sql("INSERT INTO t VALUES (2000, 1); UPDATE t SET n = 2 WHERE id = 1000").await;
    pair.rowtide.run_again();
    pair.caught_up().await;
    pair.assert_equal().await;
    let after = pair.document("t", "1000").await.unwrap().1;
    assert!(after > before, "version {after} on the new server, {before} on the old one");
    pair.stop();

    postgres.stop(Signal::INT);
    let (data, kept) = (postgres.data_folder(), postgres.data_folder().with_extension("kept"));
    copy(&data, &kept);
    postgres.start_again().await;
    pair.client = pair.database.client().await;
    pair.rowtide.run_again();
    pair.sql("INSERT INTO t VALUES (3000, 1)").await;
    pair.caught_up().await;
    let checkpoint = pair.log_end().await;
    pair.stop();
    let received = pair.proxy.documents();
    postgres.stop(Signal::INT);
    fs::remove_dir_all(&data).unwrap();
    fs::rename(&kept, &data).unwrap();
    Role::Promoted.take(&postgres, &mut pair).await;
    for id in 4_000..4_010 {
        pair.sql(&format!("INSERT INTO t SELECT id, 3 FROM generate_series({id}00, {id}99) id")).await;
    }
    assert!(pair.log_end().await > checkpoint, "the new history is not longer than the old one");
    pair.rowtide.run_again();
    pair.assert_halts("history-broken");
    assert_eq!(pair.proxy.documents(), received, "something was written");
    drop(pair);
    postgres.stop(Signal::INT);
}

/// After an unclean stop nobody knows what was emitted, so another timeline is another history.
#[tokio::test(flavor = "multi_thread")]
async fn a10_after_an_unclean_stop_another_timeline_is_another_history() {
    let postgres = Postgres::start("18", &[]).await;
    let mut pair = followed(&postgres).await;
    pair.rowtide.kill();
    postgres.stop(Signal::INT);
    Role::Promoted.take(&postgres, &mut pair).await;
    pair.rowtide.run_again();
    let line = pair.assert_halts("history-broken");
    assert!(line.text.contains("from timeline 1 to 2"), "{}", line.text);
    // That end was in order, and yet it proves nothing: whoever starts it again is told the same.
    pair.rowtide.run_again();
    pair.assert_halts("history-broken");
    drop(pair);
    postgres.stop(Signal::INT);
}

/// A standby's snapshots do not list running transactions.
#[tokio::test(flavor = "multi_thread")]
async fn b5_a_standby_is_refused() {
    let postgres = Postgres::start("18", &[]).await;
    let mut pair = Pair::set(&postgres, Setup { sql: SMALL, tables: &["t"], ..Setup::default() }).await;
    pair.sql(&format!("CREATE PUBLICATION {} FOR TABLE t", pair.slot())).await;
    postgres.stop(Signal::INT);
    Role::Standby.take(&postgres, &mut pair).await;
    let output = pair.rowtide.call(&["check", "--config", "rowtide.toml"]);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(4), "{said}");
    assert!(said.contains("standby"), "{said}");
    pair.rowtide.run_again();
    pair.assert_halts("standby");
    drop(pair);
    postgres.stop(Signal::INT);
}
