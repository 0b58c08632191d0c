//! `scripts/bench [NAME…] [--rows N] [--linger-ms N]`: whole works, measured from outside the process.
//!
//! ```text
//!   real PostgreSQL ──► rowtide (release, default settings) ──► instant sink
//!        └── count and content by SQL ───── compared ──────────────┘      else exit 1
//! ```
//! Two works have a file of their own: [`latency`], and [`elasticsearch`], which has a real one for its target.
//! CPU seconds are the processes' own, from `/proc`; the peak of memory is VmHWM.

#![allow(dead_code, unreachable_pub, unused_imports, missing_docs)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods)]

mod elasticsearch;
#[path = "../tests/harness/mod.rs"]
mod harness;
mod latency;
mod sink;

use std::time::{Duration, Instant};

use harness::rowtide::Rowtide;
use harness::servers::{Database, Postgres};
use serde_json::{Value, json};
use tokio_postgres::Client;

const WORKS: &[&str] = &[
    "postgres-backfill",
    "postgres-tail",
    "postgres-latency",
    "postgres-elasticsearch",
    "postgres-elasticsearch-apart",
];
/// Rows where nothing else is said; fewer where a search engine has to take them thirty times.
const ROWS: u64 = 1_000_000;
const ROWS_OF_ENGINE: u64 = 200_000;
/// Changes of one transaction of the backlog.
const PER_TRANSACTION: u64 = 1000;

/// A document as PostgreSQL itself writes it: the sink must hold the same bytes.
const EXPECTED: &str = "SELECT count(*), mod(sum(('x' || substr(md5(id || E'\\n' || \
    format('{\"id\":%s,\"name\":%s,\"email\":%s,\"body\":%s,\"price\":%s,\"at\":\"%s\",\"doc\":%s}', \
    id, to_json(name), to_json(email), to_json(body), price, \
    to_char(at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"'), doc)), 1, 16))::bit(64)::bigint::numeric), \
    18446744073709551616)::text FROM items";

fn main() {
    let (mut rows, mut linger_ms) = (None, None);
    let mut names = Vec::new();
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--bench" => {} // cargo's own
            "--list" => return WORKS.iter().for_each(|name| println!("{name}")),
            "--rows" => rows = Some(arguments.next().and_then(|n| n.parse().ok()).expect("--rows N")),
            "--linger-ms" => {
                linger_ms = Some(arguments.next().and_then(|n| n.parse().ok()).expect("--linger-ms N"));
            }
            name if WORKS.contains(&name) => names.push(name.to_owned()),
            other => {
                eprintln!("bench: no work is called {other}; there are {}", WORKS.join(", "));
                std::process::exit(2);
            }
        }
    }
    if names.is_empty() {
        names = WORKS.iter().map(ToString::to_string).collect();
    }
    // For the clients of the load generators.
    rustls::crypto::ring::default_provider().install_default().ok();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let ended = runtime.block_on(async {
        // Not shared: it ends with this function, and its processor time is this run's.
        let postgres = Postgres::start("18", &["-c", "max_wal_size=4GB"]).await;
        let mut sound = true;
        let mut made: Option<Bench<'_>> = None;
        for name in &names {
            let usual = if name.starts_with("postgres-elasticsearch") { ROWS_OF_ENGINE } else { ROWS };
            let rows = rows.unwrap_or(usual);
            let bench = match made.take().filter(|bench| bench.rows == rows) {
                Some(bench) => bench,
                None => Bench::new(&postgres, rows, linger_ms).await,
            };
            sound &= made.insert(bench).work(name).await;
        }
        sound
    });
    std::process::exit(i32::from(!ended));
}

struct Bench<'a> {
    postgres: &'a Postgres,
    database: Database,
    client: Client,
    rows: u64,
    /// In place of the default.
    linger_ms: Option<u64>,
}

/// Processor seconds of Rowtide and of the database.
#[derive(Clone, Copy)]
struct Cpu {
    rowtide: f64,
    source: f64,
}

impl<'a> Bench<'a> {
    /// The shape of the work: bigint key, name, e-mail, 200 bytes of text, numeric, timestamptz, jsonb.
    async fn new(postgres: &'a Postgres, rows: u64, linger_ms: Option<u64>) -> Self {
        let database = postgres.fresh_database().await;
        let client = database.client().await;
        let load = format!(
            "CREATE TABLE items (id bigint PRIMARY KEY, name text, email text, body text, price numeric(12,2), \
             at timestamptz, doc jsonb); \
             INSERT INTO items SELECT g, 'Customer ' || g, 'customer' || g || '@example.org', \
             rpad(md5(g::text), 200, md5((g + 1)::text)), g * 0.01 + 0.07, \
             timestamptz '2026-01-01 00:00:00.123457Z' + g * interval '1 second', \
             jsonb_build_object('n', g, 'tags', jsonb_build_array('a', 'b')) FROM generate_series(1, {rows}) g; \
             VACUUM ANALYZE items; CHECKPOINT"
        );
        for statement in load.split("; ") {
            client.batch_execute(statement).await.unwrap();
        }
        Self { postgres, database, client, rows, linger_ms }
    }

    fn config(&self, port: u16) -> String {
        let source = self.database.source_section();
        let linger = self.linger_ms.map_or(String::new(), |ms| format!("linger_ms = {ms}\n"));
        format!(
            "{source}[targets.search]\ntype = \"elasticsearch\"\nnodes = [\"http://127.0.0.1:{port}\"]\n{linger}\
             [pipelines.shop]\nsource = \"shop\"\ntarget = \"search\"\n\
             [pipelines.shop.tables.\"public.items\"]\nindex = \"items\"\n"
        )
    }

    /// Whether what the sink holds at the end is right.
    async fn work(&mut self, name: &str) -> bool {
        let (figures, sound) = match name {
            "postgres-elasticsearch" => (elasticsearch::measure(self, false).await, true),
            "postgres-elasticsearch-apart" => (elasticsearch::measure(self, true).await, true),
            "postgres-latency" => self.latency(name).await,
            _ => self.bulk(name).await,
        };
        let mut line = json!({ "work": name });
        line.as_object_mut().unwrap().extend(figures.as_object().unwrap().clone());
        println!("{line}");
        sound
    }

    /// All rows as fast as it goes: by reads, or as a backlog of the log.
    async fn bulk(&mut self, name: &str) -> (Value, bool) {
        self.forget_slot().await;
        let (port, held) = sink::start();
        let mut rowtide = Rowtide::new(&self.config(port));
        let mut before = self.cpu(None);
        let mut began = Instant::now();
        rowtide.run_again();
        self.until_received(&held, &mut rowtide, self.rows).await;
        if name == "postgres-tail" {
            // The backlog is written while nobody reads.
            tokio::time::sleep(Duration::from_secs(1)).await;
            rowtide.stop();
            let received = held.lock().unwrap().received;
            self.backlog().await;
            // True of ten million rows.
            rowtide.allow("the server keeps much log for the slot");
            rowtide.forget_high_water();
            before = self.cpu(None);
            began = Instant::now();
            rowtide.run_again();
            self.until_received(&held, &mut rowtide, received + self.rows).await;
        }
        let seconds = began.elapsed().as_secs_f64();
        let after = self.cpu(Some(rowtide.pid()));
        let peak = rowtide.high_water_kib() as f64 / 1024.0;
        let sound = self.is_sound(name, &held).await;
        rowtide.stop();
        let million = self.rows as f64 / 1e6;
        let figures = json!({
            "rows": self.rows,
            "cpu_s_per_million": rounded((after.rowtide - before.rowtide) / million, 2),
            "rss_mib_max": rounded(peak, 1),
            "docs_per_s": (self.rows as f64 / seconds).round(),
            "source_cpu_s_per_million": rounded((after.source - before.source) / million, 2),
        });
        (figures, sound)
    }

    async fn latency(&mut self, name: &str) -> (Value, bool) {
        self.forget_slot().await;
        let (port, held) = sink::start();
        let mut rowtide = Rowtide::new(&self.config(port));
        rowtide.run_again();
        self.until_received(&held, &mut rowtide, self.rows).await;
        // It follows the log by then.
        tokio::time::sleep(Duration::from_secs(1)).await;
        let mut figures = latency::measure(&self.database, port, self.rows, &held).await;
        if let Some(ms) = self.linger_ms {
            figures["linger_ms"] = ms.into();
        }
        let sound = self.is_sound(name, &held).await;
        rowtide.stop();
        (figures, sound)
    }

    async fn until_received(&self, held: &sink::Shared, rowtide: &mut Rowtide, count: u64) {
        let limit = Instant::now() + Duration::from_secs(1800);
        while held.lock().unwrap().received < count {
            rowtide.assert_runs();
            assert!(Instant::now() < limit, "the work is not done after 30 minutes");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Updates of every row, in transactions of a thousand.
    async fn backlog(&self) {
        let mut low = 0;
        while low < self.rows {
            let high = low + PER_TRANSACTION;
            let sql = format!("UPDATE items SET price = price + 1 WHERE id > {low} AND id <= {high}");
            self.client.batch_execute(&sql).await.unwrap();
            low = high;
        }
    }

    /// Count, ids and content are those of the database.
    async fn is_sound(&self, name: &str, held: &sink::Shared) -> bool {
        let row = self.client.query_one(EXPECTED, &[]).await.unwrap();
        let (count, content): (i64, String) = (row.get(0), row.get(1));
        // bigint is signed: the sum modulo 2^64 is the same number.
        let content = content.parse::<i128>().unwrap().rem_euclid(1 << 64) as u64;
        let held = held.lock().unwrap();
        let sound = held.count() == count as u64 && held.content() == content && held.stale == 0;
        if !sound {
            eprintln!(
                "bench {name}: the sink holds {} documents (content {:x}, {} stale), the database {count} (content {content:x})",
                held.count(),
                held.content(),
                held.stale
            );
        }
        sound
    }

    async fn forget_slot(&self) {
        let sql = "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE NOT active";
        self.client.batch_execute(sql).await.unwrap();
    }

    fn cpu(&self, rowtide: Option<u32>) -> Cpu {
        let source = self.postgres.pids().into_iter().map(seconds_of).sum();
        Cpu { rowtide: rowtide.map_or(0.0, seconds_of), source }
    }
}

/// User and system seconds of a process and of its children that have ended.
fn seconds_of(pid: u32) -> f64 {
    let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { return 0.0 };
    let after_name = stat.rsplit(')').next().unwrap_or_default();
    let fields: Vec<u64> =
        after_name.split_whitespace().skip(11).take(4).filter_map(|n| n.parse().ok()).collect();
    let ticks: u64 = fields.iter().sum();
    ticks as f64 / rustix::param::clock_ticks_per_second() as f64
}

fn rounded(number: f64, digits: i32) -> f64 {
    let factor = 10_f64.powi(digits);
    (number * factor).round() / factor
}
