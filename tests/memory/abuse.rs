//! The lives of a process that has more to hold than it may, before a target that answers late.
//!
//! ```text
//!   life 1   the fill; SIGKILL with requests under way
//!   life 2   the fill again, all of it pending behind the quarantine; SIGKILL
//!            meanwhile a second wave, updates and deletes go into the log
//!   life 3   fill and log, all of it pending; SIGTERM with requests under way
//!   life 4   all of it; then the largest rows in the log while it tails, and small changes of every
//!            table one after the other; compared, stopped
//! ```
//! Each life's VmHWM is under `memory.max_rss`. At the end each index equals its table but for exactly
//! those rows that are dead letters.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rusqlite::Connection;

use super::schema::{MIB, ROW_MIN, Sizes};
use crate::harness::comparer::compare;
use crate::harness::pair::{Pair, Setup};
use crate::harness::postgres_rows::PostgresRows;
use crate::harness::rowtide::{Counts, Rowtide};
use crate::harness::servers::{Engine, Postgres, Search};
use crate::harness::{Random, Scale, poll_until, scale, seed};

/// How the test is run.
#[derive(Clone, Copy, Debug)]
pub(super) struct Abuse {
    pub(super) sizes: Sizes,
    /// Lines of `[memory]`; none: the defaults.
    pub(super) memory: &'static str,
    /// Each answer comes so much later.
    pub(super) delay: Duration,
    /// Requests that are answered before a life ends.
    pub(super) requests: u64,
    /// How long small changes go on while it tails.
    pub(super) trickle: Duration,
    /// The most that anything may take.
    pub(super) patience: Duration,
}

impl Abuse {
    fn at_this_scale() -> Self {
        match scale() {
            Scale::Small => Self {
                sizes: Sizes {
                    tables: 24,
                    small_rows: 4,
                    row_min: ROW_MIN,
                    row_max: 8 * MIB,
                    giant: 64 * MIB,
                    tiny: 40_000,
                    max_rss: 128 * MIB,
                    document_bytes_max: 4 * MIB,
                },
                memory: "max_rss = \"128MiB\"",
                delay: Duration::from_millis(1500),
                requests: 8,
                trickle: Duration::from_secs(4),
                patience: Duration::from_secs(120),
            },
            Scale::Full => Self {
                sizes: Sizes {
                    tables: 1000,
                    small_rows: 10,
                    row_min: ROW_MIN,
                    row_max: 50 * MIB,
                    giant: 500 * MIB,
                    tiny: 300_000,
                    max_rss: 256 * MIB,
                    document_bytes_max: 8 * MIB,
                },
                memory: "",
                delay: Duration::from_secs(10),
                requests: 12,
                trickle: Duration::from_secs(60),
                patience: Duration::from_secs(3600),
            },
        }
    }
}

/// A running abuse.
pub(super) struct Lives {
    abuse: Abuse,
    pub(super) pair: Pair,
    number: u32,
    began: Instant,
}

impl Lives {
    pub(super) async fn set(abuse: Abuse) -> (Self, Random) {
        let search = Search::roomy(Engine::Elasticsearch8, &["cluster.max_shards_per_node=3000"]).await;
        let search = Box::leak(Box::new(search));
        let names = abuse.sizes.names();
        let tables: Vec<&str> = names.iter().map(String::as_str).collect();
        let sql = abuse.sizes.create();
        let setup = Setup { sql: &sql, tables: &tables, memory: abuse.memory, ..Setup::default() };
        let mut pair = Pair::set_on(Postgres::shared().await, search, setup).await;
        pair.rowtide.allow("answers are still missing after 8 s");
        pair.rowtide.allow("the end was not clean");
        // At full size the log that waits is gigabytes.
        pair.rowtide.allow("the server keeps much log for the slot");
        pair.proxy.delay_answers(abuse.delay);
        let mut random = Random::new(seed());
        let lives = Self { abuse, pair, number: 0, began: Instant::now() };
        lives.write(&mut random, 0).await;
        (lives, random)
    }

    pub(super) fn say(&self, what: &str) {
        println!("[{:>6.1} s] {what}", self.began.elapsed().as_secs_f64());
    }

    pub(super) async fn write(&self, random: &mut Random, wave: u64) {
        for statement in self.abuse.sizes.wave(wave, random) {
            self.pair.sql(&statement).await;
        }
        self.say(&format!("wave {wave} is written"));
    }

    pub(super) fn begin(&mut self) {
        self.number += 1;
        self.pair.rowtide.forget_high_water();
        self.pair.rowtide.run_again();
    }

    /// The present life has stayed under its bound.
    pub(super) fn judge(&self, how: &str) {
        let kib = self.pair.rowtide.high_water_kib();
        let most = self.abuse.sizes.max_rss / 1024;
        self.say(&format!("life {} {how}: VmHWM {kib} KiB of {most} KiB", self.number));
        assert!(kib < most, "life {}: {kib} KiB are not under {most} KiB", self.number);
    }

    /// Until so many more requests have come to the target.
    pub(super) async fn more_requests(&mut self) {
        let proxy = &self.pair.proxy;
        let wanted = proxy.requests() + self.abuse.requests;
        poll_until("requests", self.abuse.patience, async || (proxy.requests() >= wanted).then_some(()))
            .await;
        assert!(proxy.in_flight() > 0, "nothing is pending");
        self.pair.rowtide.assert_runs();
    }

    /// Until all that was written is in the index and acknowledged.
    pub(super) async fn all(&mut self) {
        self.pair.rowtide.wait_for_line("\"state\":\"following\"", self.abuse.patience).await;
        self.pair.caught_up_within(self.abuse.patience).await;
    }

    /// Single changes of small rows, each a transaction, over all tables.
    async fn trickle(&self) -> u64 {
        let end = Instant::now() + self.abuse.trickle;
        let mut count = 0;
        while Instant::now() < end {
            let table = count % self.abuse.sizes.tables + 1;
            self.pair.sql(&format!("UPDATE t{table:04} SET n = n + 1 WHERE id = 1000")).await;
            count += 1;
        }
        count
    }

    /// What of a table has to be a dead letter: by id, the bytes of its largest value.
    async fn unfit(&self, table: &str) -> BTreeMap<String, u64> {
        let body = if table == "tiny" { "''" } else { "body" };
        let fits = self.abuse.sizes.fits(table);
        let sql = format!("SELECT id::text, octet_length({body})::bigint FROM {table} WHERE NOT ({fits})");
        let rows = self.pair.client.query(&sql, &[]).await.unwrap();
        rows.iter().map(|row| (row.get(0), row.get::<_, i64>(1) as u64)).collect()
    }

    /// Each index equals its table but for the dead letters, and those are what they must be.
    pub(super) async fn compare(&self) -> u64 {
        let store = Connection::open(self.pair.rowtide.folder.join("data/rowtide.sqlite")).unwrap();
        let mut select = store
            .prepare(
                "SELECT CAST(id AS TEXT), bytes, body IS NOT NULL, reason, version
                 FROM dead_letters WHERE index_name = ?1",
            )
            .unwrap();
        let (mut documents, mut letters) = (0, 0);
        for table in self.abuse.sizes.names() {
            let unfit = self.unfit(&table).await;
            let rows = select.query_map([self.pair.index(&table)], |row| {
                Ok((row.get(0)?, (row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?)))
            });
            let kept: BTreeMap<String, (u64, bool, String, u64)> =
                rows.unwrap().map(Result::unwrap).collect();
            assert!(kept.keys().eq(unfit.keys()), "{table}: {kept:?} are kept, not {unfit:?}");
            for (id, (bytes, has_body, reason, version)) in &kept {
                assert!(*bytes >= unfit[id] && *version > 0, "{table} {id}: {bytes} bytes, {version}");
                let is_poison = table == "poison";
                assert_eq!(*has_body, is_poison, "{table} {id}");
                let why = if is_poison { "uplicate" } else { "document_bytes_max" };
                assert!(reason.contains(why), "{table} {id}: {reason}");
            }
            letters += kept.len();
            let client = self.pair.database.client().await;
            let fits = self.abuse.sizes.fits(&table);
            let rows = PostgresRows::open_where(client, &format!("public.{table}"), &fits).await;
            let report = compare(&self.pair.http, &self.pair.index(&table), rows).await;
            report.assert_equal();
            documents += report.documents;
        }
        self.say(&format!("{documents} documents and {letters} dead letters are as they must be"));
        letters as u64
    }
}

impl Lives {
    /// A clean stop; readers had to wait in this life, and law 6 adds up.
    pub(super) fn end(&mut self) -> Counts {
        let (code, log) = self.pair.rowtide.stop();
        assert_eq!(code, 0);
        let last = |field: &str| log.iter().rev().find_map(|line| line.number(field)).unwrap();
        let (most, budget) = (last("memory_most"), last("budget_bytes"));
        let counts = Rowtide::final_counts(&log);
        self.say(&format!("{most} bytes of {budget} were charged at once; {counts:?}"));
        assert!(most > (budget / 4 * 3).min(24 * MIB), "no reader had to wait for the target");
        counts
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_tables_and_rows_of_every_size_before_a_late_target() {
    let (mut lives, mut random) = Lives::set(Abuse::at_this_scale()).await;
    lives.begin();
    lives.more_requests().await;
    lives.pair.rowtide.kill();
    lives.judge("filling, killed");

    lives.begin();
    lives.write(&mut random, 1).await;
    lives.more_requests().await;
    lives.pair.rowtide.kill();
    lives.judge("filling again, killed");

    for number in 1..=lives.abuse.sizes.tables {
        lives.pair.sql(&format!("UPDATE t{number:04} SET n = n + 1 WHERE id < 1000")).await;
    }
    lives.pair.sql("UPDATE tiny SET n = n + 1; DELETE FROM wild WHERE id = 1; DELETE FROM t0004").await;
    lives.say("updates and deletes are in the log");
    lives.begin();
    lives.more_requests().await;
    let (code, _) = lives.pair.rowtide.stop();
    assert_eq!(code, 0);
    lives.judge("fill and log, told to stop");

    lives.begin();
    lives.all().await;
    lives.judge("caught up");
    let Sizes { row_max, giant, .. } = lives.abuse.sizes;
    for (table, size) in [("t0002", row_max), ("t0001", giant)] {
        lives
            .pair
            .sql(&format!("UPDATE {table} SET n = n + 1, body = repeat('c', {size}) WHERE id = 999"))
            .await;
    }
    lives.pair.sql(&format!("INSERT INTO t0005 VALUES (5000, 0, repeat('c', {row_max}))")).await;
    let count = lives.trickle().await;
    lives.say(&format!("{count} small changes"));
    lives.all().await;
    lives.judge("tailing");
    let letters = lives.compare().await;
    lives.judge("compared");
    let counts = lives.end();
    assert!(letters > 0 && counts.ends["dead_lettered"] >= 3, "{letters}, {counts:?}");
}
