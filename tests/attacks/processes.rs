//! A6 (d): two processes of one pipeline. Only one of them writes, and the other says why it does not.

use super::SMALL;
use crate::harness::pair::{PATIENCE, Pair, Setup};
use crate::harness::processes::copy;
use crate::harness::rowtide::Rowtide;

/// Exit code 3, and this state.
fn assert_halts(rowtide: &mut Rowtide, state: &str) {
    rowtide.allow("halted: a person must act");
    let (code, log) = rowtide.wait(PATIENCE);
    let halted = log.iter().any(|line| line.fields.get("state").is_some_and(|found| found == state));
    assert!(code == 3 && halted, "exit code {code}, no state {state}: {log:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a6_a_second_process_waits_and_never_writes_into_what_it_does_not_know() {
    let mut pair = Pair::filled(Setup { sql: SMALL, tables: &["t"], ..Setup::default() }).await;
    let mut second = Rowtide::start(&pair.config);
    second.wait_for_line("the lease of another process", PATIENCE).await;
    let received = pair.proxy.documents();
    pair.sql("INSERT INTO t VALUES (1000, 1)").await;
    pair.caught_up().await;
    assert_eq!(pair.proxy.documents(), received + 1, "only the first one writes");
    pair.rowtide.kill();
    // It has the lease now, and an index that its store knows nothing of.
    assert_halts(&mut second, "index-exists");
    assert_eq!(pair.proxy.documents(), received + 1);
    pair.assert_equal().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a6_a_copy_of_the_store_takes_the_lease_and_the_first_process_halts() {
    let mut pair = Pair::filled(Setup { sql: SMALL, tables: &["t"], ..Setup::default() }).await;
    pair.caught_up().await;
    pair.stop();
    let mut second = Rowtide::new(&pair.config);
    copy(&pair.rowtide.folder.join("data"), &second.folder.join("data"));
    pair.rowtide.run_again();
    pair.wait_until_following().await;
    pair.sql("INSERT INTO t VALUES (1000, 1)").await;
    pair.caught_up().await;
    let received = pair.proxy.documents();

    second.run_again();
    pair.rowtide.allow("lost the lease");
    pair.rowtide.allow("the end was not clean");
    pair.assert_halts("lease-lost");
    // The first one has acknowledged more than the copy knows of.
    assert_halts(&mut second, "history-broken");
    assert_eq!(pair.proxy.documents(), received);
    pair.assert_equal().await;
}
