//! What else can grow, driven to its bound: the largest documents that a configuration may allow, and
//! keys whose rows have to be read again.

use std::time::Duration;

use super::abuse::{Abuse, Lives};
use super::schema::{FRAME, MIB, Sizes};
use crate::harness::pair::{PATIENCE, Pair, Setup};
use crate::harness::postgres_rows::PostgresRows;
use crate::harness::rowtide::Rowtide;
use crate::harness::servers::Postgres;
use crate::harness::{Scale, comparer, scale};

/// As large as `memory.document_bytes_max` may be under `max_rss`: one MiB more is refused.
const LARGEST: [(u64, u64); 2] = [(128, 8), (256, 18)];

/// Nearly every document is of the largest size that may be held: by chunks, by key, and from the log.
#[tokio::test(flavor = "multi_thread")]
async fn what_the_configuration_accepts_holds() {
    let (max_rss, document) = LARGEST[usize::from(scale() == Scale::Full)];
    for (mib, accepted) in [(document, true), (document + 1, false)] {
        let memory = format!("max_rss = \"{max_rss}MiB\"\ndocument_bytes_max = \"{mib}MiB\"");
        assert_eq!(is_accepted(&memory), accepted, "{memory}");
    }
    let memory = format!("max_rss = \"{max_rss}MiB\"\ndocument_bytes_max = \"{document}MiB\"");
    let near = document * MIB - 2 * FRAME;
    let sizes = Sizes {
        tables: 12,
        small_rows: 1,
        row_min: near,
        row_max: near,
        giant: near,
        tiny: 100,
        max_rss: max_rss * MIB,
        document_bytes_max: document * MIB,
    };
    let abuse = Abuse {
        sizes,
        memory: Box::leak(memory.into_boxed_str()),
        delay: Duration::from_secs(1),
        requests: 6,
        trickle: Duration::ZERO,
        patience: Duration::from_secs(300),
    };
    let (mut lives, mut random) = Lives::set(abuse).await;
    lives.begin();
    lives.more_requests().await;
    lives.pair.rowtide.kill();
    lives.judge("filling, killed");

    for number in 1..=sizes.tables {
        lives.pair.sql(&format!("UPDATE t{number:04} SET n = n + 1")).await;
    }
    lives.write(&mut random, 1).await;
    lives.begin();
    lives.all().await;
    lives.judge("fill and log");
    lives.compare().await;
    lives.end();
}

/// Whether a configuration with these lines of `[memory]` is taken, by `rowtide check`.
fn is_accepted(memory: &str) -> bool {
    let config = format!(
        "[memory]\n{memory}\n[sources.shop]\ntype = \"postgres\"\nurl = \"postgres://a@127.0.0.1:1/a\"\n\
         [targets.search]\ntype = \"elasticsearch\"\nnodes = [\"http://127.0.0.1:1\"]\n\
         [pipelines.shop]\nsource = \"shop\"\ntarget = \"search\"\n\
         [pipelines.shop.tables.\"public.t\"]\nindex = \"t\"\n"
    );
    let output = Rowtide::new(&config).call(&["check", "--config", "rowtide.toml"]);
    output.status.code() != Some(2)
}

/// One transaction changes more rows than keys may be held: the log waits for the reads by key.
#[tokio::test(flavor = "multi_thread")]
async fn keys_to_be_read_again_are_bounded() {
    const ROWS: u64 = 20_000;
    /// What a key and its ticket cost at least; a sixteenth of the budget is theirs.
    const KEY_BYTES: u64 = 160;
    let sql = format!(
        "CREATE TABLE t (id bigint PRIMARY KEY, n bigint NOT NULL, pad text NOT NULL);
         ALTER TABLE t ALTER pad SET STORAGE EXTERNAL;
         INSERT INTO t SELECT id, 0, repeat('x', 2100) FROM generate_series(1, {ROWS}) id"
    );
    let memory = "max_rss = \"64MiB\"\ndocument_bytes_max = \"1MiB\"";
    let setup = Setup { sql: &sql, tables: &["t"], memory, ..Setup::default() };
    let mut pair = Pair::set(Postgres::shared().await, setup).await;
    pair.rowtide.run_again();
    let line = pair.rowtide.wait_for_line("budget_bytes", PATIENCE).await;
    let budget = line.number("budget_bytes").unwrap();
    assert!(ROWS * KEY_BYTES > budget / 16 * 3 / 2, "{budget} bytes hold all keys: the bound is not reached");
    pair.wait_until_following().await;
    pair.proxy.delay_answers(Duration::from_millis(200));
    pair.sql("UPDATE t SET n = n + 1").await;
    pair.caught_up_within(PATIENCE * 2).await;
    let rows = PostgresRows::open(pair.database.client().await, "public.t").await;
    comparer::compare(&pair.http, &pair.index("t"), rows).await.assert_equal();
    let kib = pair.rowtide.high_water_kib();
    println!("VmHWM {kib} KiB");
    assert!(kib < 64 * 1024, "{kib} KiB");
    pair.stop();
}
