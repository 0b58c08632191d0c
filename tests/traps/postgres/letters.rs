//! T32 and law 5: documents that the target will never take, and rows too large to be held.

use crate::harness::pair::{PATIENCE, Pair, Setup};
use crate::harness::poll_until;
use crate::harness::rowtide::Rowtide;
use crate::harness::servers::Postgres;

#[tokio::test(flavor = "multi_thread")]
async fn t32_what_cannot_be_written_is_kept_and_the_rest_goes_on() {
    let sql = "CREATE TABLE t (id text PRIMARY KEY, doc json, body text);
        INSERT INTO t VALUES ('good', '{\"a\": 1}', 'x'), ('large', NULL, repeat('x', 200000)),
          ('poison', '{\"a\": 1, \"a\": 2}', 'x'), (repeat('k', 600), NULL, 'x')";
    let memory = "max_rss = \"128MiB\"\ndocument_bytes_max = \"64KiB\"";
    let setup = Setup { sql, tables: &["t"], memory, ..Setup::default() };
    let mut pair = Pair::set(Postgres::shared().await, setup).await;
    pair.rowtide.run_again();
    pair.wait_for_documents("t", 1).await;
    poll_until("three letters", PATIENCE, async || (pair.rowtide.letters().len() == 3).then_some(())).await;
    let kept = pair.rowtide.letters();
    let found: Vec<(usize, bool)> = kept.iter().map(|(id, body, _)| (id.len(), *body)).collect();
    assert_eq!(found, [(600, true), ("large".len(), false), ("poison".len(), true)], "{kept:?}");
    assert!(kept[1].2.contains("document_bytes_max"), "{kept:?}");
    assert!(kept[2].2.to_lowercase().contains("duplicate"), "{kept:?}");

    // In the log as well; a good change of the same key ends its letter.
    pair.sql("INSERT INTO t VALUES ('larger', NULL, repeat('y', 300000))").await;
    pair.sql("UPDATE t SET body = 'small' WHERE id = 'large'; UPDATE t SET doc = '{}' WHERE id = 'poison'")
        .await;
    pair.caught_up().await;
    pair.wait_for_documents("t", 3).await;
    let left: Vec<usize> = pair.rowtide.letters().iter().map(|(id, ..)| id.len()).collect();
    assert_eq!(left, [600, "larger".len()]);
    let (code, lines) = pair.rowtide.stop();
    assert_eq!(code, 0);
    let counts = Rowtide::final_counts(&lines);
    assert_eq!((counts.read, counts.ends["written"], counts.ends["dead_lettered"]), (7, 3, 4), "{counts:?}");
}
