//! T33: what Rowtide sends follows what the target and the link can take, and comes back.

use std::time::{Duration, Instant};

use crate::harness::pair::{PATIENCE, Pair, Setup};
use crate::harness::servers::Postgres;
use crate::harness::{Scale, poll_until, scale};

const SECOND: Duration = Duration::from_secs(1);

/// A table of `rows` rows with `bytes` of text each.
fn table(rows: u64, bytes: u64) -> String {
    format!(
        "CREATE TABLE t (id bigint PRIMARY KEY, v text);
        INSERT INTO t SELECT id, rpad(id::text, {bytes}, 'x') FROM generate_series(1, {rows}) id;"
    )
}

/// Documents that the server receives in a second, over `time`.
async fn rate(pair: &Pair, time: Duration) -> f64 {
    let (began, before) = (Instant::now(), pair.proxy.documents());
    tokio::time::sleep(time).await;
    (pair.proxy.documents() - before) as f64 / began.elapsed().as_secs_f64()
}

/// How long it takes until the rate over two seconds is nine tenths of what it was.
async fn time_until_back(pair: &Pair, before: f64, limit: Duration) -> Duration {
    let began = Instant::now();
    loop {
        let begins = began.elapsed();
        let now = rate(pair, 2 * SECOND).await;
        println!("{now:.0} documents a second after {:.1} s", began.elapsed().as_secs_f64());
        if now >= 0.9 * before {
            return begins;
        }
        assert!(began.elapsed() < limit, "{now:.0} documents a second after {limit:?}, {before:.0} before");
    }
}

/// A filling that only the target holds back: each request takes its time there.
async fn filling(rows: u64, target: &str, held: Duration) -> Pair {
    let sql = table(rows, 10);
    let setup = Setup { sql: &sql, tables: &["t"], target, ..Setup::default() };
    let mut pair = Pair::set(Postgres::shared().await, setup).await;
    pair.proxy.hold_requests(held);
    pair.rowtide.run_again();
    poll_until("the filling", PATIENCE, async || (pair.proxy.documents() > 500).then_some(())).await;
    pair
}

/// Everything is there in the end, once.
async fn end(mut pair: Pair, rows: u64) {
    pair.proxy.hold_requests(Duration::ZERO);
    pair.wait_for_documents("t", rows).await;
    pair.caught_up().await;
    pair.assert_equal().await;
    assert_eq!(pair.proxy.given_up(), 0, "no request was given up");
    pair.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn t33_the_old_rate_is_back_soon_after_429() {
    let (time, rows) = match scale() {
        Scale::Small => (10 * SECOND, 60_000),
        Scale::Full => (30 * SECOND, 120_000),
    };
    let pair = filling(rows, "lanes = 4\nbulk_count_max = 50", SECOND / 5).await;
    let before = rate(&pair, 5 * SECOND).await;
    pair.proxy.refuse(u64::MAX);
    tokio::time::sleep(SECOND).await;
    let (asked, received) = (pair.proxy.refused(), pair.proxy.documents());
    tokio::time::sleep(time - SECOND).await;
    let asked = pair.proxy.refused() - asked;
    assert_eq!(pair.proxy.documents(), received, "all was refused");
    let seconds = (time - SECOND).as_secs();
    assert!((seconds - 1..=seconds * 3).contains(&asked), "asked {asked} times in {seconds} s");

    pair.proxy.refuse(0);
    let back = time_until_back(&pair, before, time).await;
    println!(
        "{before:.0} documents a second before; asked {asked} times in {seconds} s; back after {back:?}"
    );
    end(pair, rows).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn t33_the_best_rate_of_a_target_is_found() {
    let rows = 60_000;
    let pair = filling(rows, "lanes = 6\nbulk_count_max = 50", SECOND / 5).await;
    let before = rate(&pair, 5 * SECOND).await;
    pair.proxy.take_at_once(2);
    tokio::time::sleep(5 * SECOND).await;
    let refused = pair.proxy.refused();
    let limited = rate(&pair, 10 * SECOND).await;
    let (refused, best) = (pair.proxy.refused() - refused, before * 2.0 / 6.0);
    println!("{limited:.0} documents a second of {best:.0}, {refused} refused in 10 s");
    assert!(limited >= 0.8 * best, "{limited:.0} documents a second where {best:.0} were possible");
    assert!(refused <= 20, "{refused} refused in 10 s");

    pair.proxy.take_at_once(u64::MAX);
    let back = time_until_back(&pair, before, 10 * SECOND).await;
    println!("{before:.0} documents a second before, back after {back:?}");
    end(pair, rows).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn t33_a_slow_link_is_used_and_nothing_times_out() {
    let link = 2_000_000;
    let rows = if scale() == Scale::Full { 60_000 } else { 20_000 };
    let sql = table(rows, 2_000);
    let pair = Pair::set(Postgres::shared().await, Setup { sql: &sql, tables: &["t"], ..Setup::default() });
    let mut pair = pair.await;
    pair.proxy.link(link, SECOND / 10);
    pair.rowtide.run_again();
    let total = rows * 2_000;
    let passed = async |part: u64| {
        poll_until("bytes on the link", 3 * PATIENCE, async || {
            (pair.proxy.link_bytes() >= total / 10 * part).then_some(())
        })
        .await;
        (Instant::now(), pair.proxy.link_bytes())
    };
    let (began, before) = passed(1).await;
    let (ended, after) = passed(9).await;
    let used = (after - before) as f64 / (ended - began).as_secs_f64() / link as f64;
    println!("{:.1} % of the link were used, in requests of {} bytes", 100.0 * used, {
        pair.proxy.link_bytes() / pair.proxy.requests().max(1)
    });
    assert_eq!(pair.proxy.given_up(), 0, "a request timed out");
    assert!(used >= 0.9, "{:.1} % of the link were used", 100.0 * used);
    pair.proxy.link(0, Duration::ZERO);
    pair.wait_for_documents("t", rows).await;
    pair.caught_up().await;
    pair.assert_equal().await;
    assert_eq!(pair.proxy.given_up(), 0, "a request timed out");
    pair.stop();
}
