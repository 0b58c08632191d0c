//! Very many dead letters: they stay inside `max_rss` over a restart, and more than the bound halts.

use super::{letters, pair};
use crate::harness::{Scale, scale};

const MAX_RSS_MIB: u64 = 64;
/// Written as a process would have kept them.
const FILL: &str = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?3)
    INSERT INTO dead_letters (pipeline, index_name, id, version, reason, body, bytes, held_bytes, unix_seconds)
    SELECT ?1, ?2, CAST('x' || i AS BLOB), 1, '400 mapper_parsing_exception: failed to parse field [v]',
        CAST('{\"index\":{\"_index\":\"' || ?2 || '\",\"_id\":\"x' || i || '\",\"version\":1,\"version_type\":\"external_gte\"}}'
             || char(10) || '{\"v\":\"poison\"}' || char(10) AS BLOB), 120, 1300, 1 FROM n";

#[tokio::test(flavor = "multi_thread")]
async fn very_many_letters_and_a_restart_stay_inside_the_bound() {
    let count: u64 = if scale() == Scale::Full { 100_000 } else { 20_000 };
    let mut pair =
        pair("CREATE TABLE t (id text PRIMARY KEY, v text); INSERT INTO t VALUES ('1', '1')").await;
    pair.configure(&format!("[memory]\nmax_rss = \"{MAX_RSS_MIB}MiB\"\n"));
    pair.rowtide.run_again();
    pair.wait_until_following().await;
    pair.stop();
    let file = pair.rowtide.folder.join("data/rowtide.sqlite");
    let store = rusqlite::Connection::open(&file).unwrap();
    let owner = format!("{}/search", pair.pipeline());
    assert_eq!(store.execute(FILL, (&owner, pair.index("t"), count)).unwrap() as u64, count);
    drop(store);

    pair.rowtide.forget_high_water();
    for round in 0..2 {
        pair.rowtide.run_again();
        pair.wait_until_following().await;
        // New ones, and good changes that end some.
        pair.sql(&format!(
            "INSERT INTO t SELECT 'new' || {round} || i, 'poison' FROM generate_series(1, 200) i"
        ))
        .await;
        let from = 1 + round * 500;
        let to = from + 499;
        pair.sql(&format!("INSERT INTO t SELECT 'x' || i, '1' FROM generate_series({from}, {to}) i")).await;
        pair.caught_up().await;
        match round {
            0 => drop(pair.rowtide.kill()),
            _ => pair.stop(),
        }
    }
    let (code, said) = letters(&pair.rowtide, "list", &["--limit", "1"]);
    let left = count + 400 - 1_000;
    let grouped = format!("{},{:03}", left / 1000, left % 1000);
    assert!(code == 0 && said.contains(&format!("1 of {grouped} dead letters")), "{grouped}: {said}");
    let kib = pair.rowtide.high_water_kib();
    println!("{count} letters: VmHWM {kib} KiB of {} KiB", MAX_RSS_MIB * 1024);
    assert!(kib > 0 && kib < MAX_RSS_MIB * 1024, "{kib} KiB");
}

#[tokio::test(flavor = "multi_thread")]
async fn more_letters_than_the_bound_halt_and_a_retry_frees_the_room() {
    let sql = "CREATE TABLE t (id bigint PRIMARY KEY, v text);
        INSERT INTO t SELECT id, 'poison' FROM generate_series(1, 200) id";
    let mut pair = pair(sql).await;
    pair.configure("[dead_letters]\nmax_bytes = \"64KiB\"\n");
    pair.rowtide.allow("the end was not clean");
    pair.rowtide.run_again();
    let line = pair.assert_halts("dead-letters-full");
    assert!(line.text.contains("65536 that are allowed") && line.text.contains("max_bytes"), "{}", line.text);
    let kept = pair.rowtide.letters().len();
    assert!((20..64).contains(&kept), "{kept} letters");
    let (code, said) = letters(&pair.rowtide, "retry", &[]);
    assert_eq!((code, pair.rowtide.letters().len()), (3, kept), "refused again in a full store: {said}");
    pair.mend_and_retry().await;
    pair.stop();
}
