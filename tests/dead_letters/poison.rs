//! Law 6 in full: one document in a hundred is poison, in the load of a pipeline that is filled and followed.

use std::collections::BTreeSet;

use super::pair;
use crate::harness::{Random, Scale, scale, seed};

/// Rows that are there at first, and changes that follow, in thousands.
const SIZES: [(u64, u64); 2] = [(4, 8), (100, 200)];
/// Changes in a transaction.
const AT_ONCE: u64 = 50;

/// A statement that changes a row drawn from `rows`; one in a hundred writes what the index does not take.
fn change(random: &mut Random, rows: u64) -> String {
    let id = random.below(rows) + 1;
    let poison = random.below(100) == 0;
    let value =
        if poison { format!("'poison {}'", random.below(1000)) } else { format!("'{}'", random.below(1000)) };
    match random.below(10) {
        0 => format!("DELETE FROM t WHERE id = {id};"),
        1 => format!("INSERT INTO t VALUES ({id}, {value}) ON CONFLICT (id) DO UPDATE SET v = excluded.v;"),
        _ => format!("UPDATE t SET v = {value} WHERE id = {id};"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_poisoned_key_is_a_letter_or_superseded_and_a_retry_leaves_none() {
    let mut random = Random::new(seed());
    let (rows, changes) = SIZES[usize::from(scale() == Scale::Full)];
    let (rows, changes) = (rows * 1000, changes * 1000);
    let sql = format!(
        "CREATE TABLE t (id bigint PRIMARY KEY, v text);
         INSERT INTO t SELECT id, CASE WHEN id % 100 = 7 THEN 'poison ' ELSE '' END || id
         FROM generate_series(1, {rows}) id"
    );
    let mut pair = pair(&sql).await;
    pair.rowtide.run_again();
    for number in 0..changes / AT_ONCE {
        let statements: String = (0..AT_ONCE).map(|_| change(&mut random, rows)).collect();
        pair.sql(&format!("BEGIN; {statements} COMMIT")).await;
        if number == changes / AT_ONCE / 2 {
            // A letter outlives its process.
            pair.rowtide.kill();
            pair.rowtide.run_again();
        }
    }
    pair.wait_until_following().await;
    pair.caught_up_within(crate::harness::pair::PATIENCE * 4).await;

    let poisoned = pair.client.query("SELECT id::text FROM t WHERE v LIKE 'poison%'", &[]).await.unwrap();
    let poisoned: BTreeSet<String> = poisoned.iter().map(|row| row.get(0)).collect();
    let kept = pair.rowtide.letters();
    let places: BTreeSet<String> = kept.iter().map(|(id, ..)| id.clone()).collect();
    assert_eq!(places, poisoned, "a letter for each poisoned row, and for no other");
    assert!(places.len() > 10, "{} letters", places.len());
    for (id, has_body, reason) in &kept {
        assert!(*has_body && reason.starts_with("400 ") && reason.contains("[v]"), "{id}: {reason}");
    }
    pair.stop();
    pair.mend_and_retry().await;
    assert!(pair.rowtide.letters().is_empty());
    pair.stop();
}
