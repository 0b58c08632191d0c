//! `postgres-elasticsearch`: Rowtide's rate into a real Elasticsearch 8, beside what that cluster takes at all.
//!
//! ```text
//!   Rowtide ──► instant sink        the bodies of one whole run, recorded
//!   five times:  Rowtide ─────────► Elasticsearch      backfill, then every row updated
//!                load generator ──► Elasticsearch      the same lines, at the best size and concurrency
//! ```
//! Both write into an index that is made anew with Rowtide's own settings and mapping. A rate is that of the
//! cluster's own count of index operations, from the first that is seen to the last; so how long a process takes to
//! start is in neither. The figure is the median ratio.

use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::rowtide::Rowtide;
use crate::harness::servers::{Engine, Search};
use crate::{Bench, Cpu, rounded, sink};

const PAIRS: usize = 5;
const SIZES_MIB: [usize; 3] = [1, 5, 10];
const CONCURRENCIES: [usize; 4] = [1, 2, 4, 8];
/// After a cluster that has no room.
const BUSY_PAUSE: Duration = Duration::from_millis(100);
const PATH: &str = "/_bulk?require_alias=true&timeout=5s&filter_path=errors";

/// Lines as Rowtide sent them, whole actions in pieces of some 64 KiB.
struct Recorded {
    index: (String, Value),
    fill: Vec<Bytes>,
    changes: Vec<Bytes>,
}

/// How a load generator sends.
#[derive(Clone, Copy, Debug)]
struct Manner {
    bytes: usize,
    concurrency: usize,
}

/// Documents a second, of the fill and of the changes.
#[derive(Clone, Copy)]
struct Rates {
    fill: f64,
    changes: f64,
    /// For every row once.
    cpu: Cpu,
}

impl Rates {
    /// Over both, which are the same number of documents.
    fn both(self) -> f64 {
        2.0 / (1.0 / self.fill + 1.0 / self.changes)
    }
}

/// `is_apart`: the cluster has a core of its own, and everything else the other one, as on two machines.
pub async fn measure(bench: &Bench<'_>, is_apart: bool) -> Value {
    let recorded = record(bench).await;
    let search = Search::roomy(Engine::Elasticsearch8, &[]).await;
    if is_apart {
        search.pids().into_iter().for_each(|pid| pin(pid, "0"));
        bench.postgres.pids().into_iter().chain([std::process::id()]).for_each(|pid| pin(pid, "1"));
    }
    let cluster = Cluster { search: &search, rows: bench.rows };
    // Its compiler is warm before anything is compared.
    let usual = Manner { bytes: 5 << 20, concurrency: 4 };
    cluster.replayed(&recorded, usual).await;
    let mut best = (usual, 0.0);
    for mib in SIZES_MIB {
        for concurrency in CONCURRENCIES {
            let manner = Manner { bytes: mib << 20, concurrency };
            cluster.make_index(&recorded).await;
            let rate = cluster.replay(&recorded.fill, manner).await;
            eprintln!("bench: {mib} MiB, {concurrency} at once: {rate:.0} documents a second");
            if rate > best.1 {
                best = (manner, rate);
            }
        }
    }
    let mut pairs = Vec::new();
    for _ in 0..PAIRS {
        let ours = cluster.rowtide(bench).await;
        let theirs = cluster.replayed(&recorded, best.0).await;
        eprintln!(
            "bench: rowtide {:.0} and {:.0}, load generator {:.0} and {:.0} documents a second",
            ours.fill, ours.changes, theirs.fill, theirs.changes
        );
        pairs.push((ours, theirs));
    }
    let median = |figure: &dyn Fn(&(Rates, Rates)) -> f64| {
        let mut all: Vec<f64> = pairs.iter().map(figure).collect();
        all.sort_by(f64::total_cmp);
        all[all.len() / 2]
    };
    let million = bench.rows as f64 / 1e6;
    json!({
        "rows": bench.rows,
        "ratio": rounded(median(&|(ours, theirs)| ours.both() / theirs.both()), 3),
        "ratio_backfill": rounded(median(&|(ours, theirs)| ours.fill / theirs.fill), 3),
        "ratio_tail": rounded(median(&|(ours, theirs)| ours.changes / theirs.changes), 3),
        "docs_per_s": median(&|(ours, _)| ours.both()).round(),
        "generator_docs_per_s": median(&|(_, theirs)| theirs.both()).round(),
        "cpu_s_per_million": rounded(median(&|(ours, _)| ours.cpu.rowtide) / million, 2),
        "source_cpu_s_per_million": rounded(median(&|(ours, _)| ours.cpu.source) / million, 2),
        "generator_mib": best.0.bytes >> 20,
        "generator_concurrency": best.0.concurrency,
    })
}

/// Lets a process, and what it starts later, run on these processors only.
fn pin(pid: u32, processors: &str) {
    let pid = pid.to_string();
    let mut command = Command::new("taskset");
    command.args(["--all-tasks", "--cpu-list", "--pid", processors, &pid]).stdout(Stdio::null());
    assert!(command.status().unwrap().success(), "taskset of process {pid}");
}

/// One run into the sink, for its bytes.
async fn record(bench: &Bench<'_>) -> Recorded {
    bench.forget_slot().await;
    let (port, held) = sink::start();
    held.lock().unwrap().recorded = Some(Vec::new());
    let mut rowtide = Rowtide::new(&bench.config(port));
    rowtide.run_again();
    bench.until_received(&held, &mut rowtide, bench.rows).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let take = || {
        let bodies = held.lock().unwrap().recorded.replace(Vec::new()).unwrap();
        pieces(&bodies)
    };
    let fill = take();
    bench.backlog().await;
    bench.until_received(&held, &mut rowtide, 2 * bench.rows).await;
    rowtide.stop();
    let changes = take();
    let index = held.lock().unwrap().made.clone().unwrap();
    Recorded { index, fill, changes }
}

/// Bodies cut between actions.
fn pieces(bodies: &[Bytes]) -> Vec<Bytes> {
    const PIECE: usize = 64 << 10;
    let mut pieces = Vec::new();
    for body in bodies {
        let (mut begin, mut lines) = (0, 0);
        for end in memchr::memchr_iter(b'\n', body) {
            lines += 1;
            // Every action here has a document.
            if lines % 2 == 0 && (end + 1 - begin >= PIECE || end + 1 == body.len()) {
                pieces.push(body.slice(begin..=end));
                begin = end + 1;
            }
        }
    }
    pieces
}

/// Whether the cluster took it; it may also have no room now.
async fn is_taken(client: &reqwest::Client, url: &str, body: &Bytes) -> bool {
    let post = client.post(url).header("content-type", "application/x-ndjson");
    let answer = post.body(body.clone()).send().await.unwrap();
    let is_busy = answer.status() == reqwest::StatusCode::TOO_MANY_REQUESTS;
    let text = answer.text().await.unwrap();
    assert!(is_busy || text == "{\"errors\":false}", "{text}");
    !is_busy
}

struct Cluster<'a> {
    search: &'a Search,
    rows: u64,
}

impl Cluster<'_> {
    async fn forget(&self) {
        let path = "/items-rowtide-*,rowtide-state*?ignore_unavailable=true&expand_wildcards=all";
        for index in self.names(path).await {
            self.search.http.text(Method::DELETE, &format!("/{index}"), None).await;
        }
    }

    async fn names(&self, path: &str) -> Vec<String> {
        self.search.http.get(path).await.as_object().map_or(Vec::new(), |all| all.keys().cloned().collect())
    }

    async fn make_index(&self, recorded: &Recorded) {
        self.forget().await;
        let (name, body) = &recorded.index;
        self.search.http.json(Method::PUT, &format!("/{name}"), Some(body.clone())).await;
    }

    async fn replayed(&self, recorded: &Recorded, manner: Manner) -> Rates {
        self.make_index(recorded).await;
        let fill = self.replay(&recorded.fill, manner).await;
        // As Rowtide gives it back when a table is filled.
        let usual = json!({ "index": { "refresh_interval": null } });
        self.search.http.json(Method::PUT, &format!("/{}/_settings", recorded.index.0), Some(usual)).await;
        let changes = self.replay(&recorded.changes, manner).await;
        Rates { fill, changes, cpu: Cpu { rowtide: 0.0, source: 0.0 } }
    }

    /// Documents a second.
    async fn replay(&self, pieces: &[Bytes], manner: Manner) -> f64 {
        let mut bodies: Vec<Vec<Bytes>> = vec![Vec::new()];
        let mut bytes = 0;
        for piece in pieces {
            if bytes + piece.len() > manner.bytes && bytes > 0 {
                bodies.push(Vec::new());
                bytes = 0;
            }
            bytes += piece.len();
            bodies.last_mut().unwrap().push(piece.clone());
        }
        let bodies: Arc<[Bytes]> = bodies.iter().map(|parts| Bytes::from(parts.concat())).collect();
        let next = Arc::new(AtomicUsize::new(0));
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let url = format!("{}{PATH}", self.search.http.base);
        let before = self.indexed().await;
        let senders: Vec<_> = (0..manner.concurrency)
            .map(|_| {
                let (bodies, next, client, url) = (bodies.clone(), next.clone(), client.clone(), url.clone());
                tokio::spawn(async move {
                    while let Some(body) = bodies.get(next.fetch_add(1, Ordering::Relaxed)) {
                        while !is_taken(&client, &url, body).await {
                            tokio::time::sleep(BUSY_PAUSE).await;
                        }
                    }
                })
            })
            .collect();
        let rate = self.rate(before).await;
        for sender in senders {
            sender.await.unwrap();
        }
        rate
    }

    async fn rowtide(&self, bench: &Bench<'_>) -> Rates {
        self.forget().await;
        bench.forget_slot().await;
        // What earlier updates left behind is no part of a fill.
        bench.client.batch_execute("VACUUM items").await.unwrap();
        let mut rowtide = Rowtide::new(&bench.config(self.search.port()));
        let (fill, filling) = self.watched(bench, &mut rowtide).await;
        bench.backlog().await;
        let (changes, following) = self.watched(bench, &mut rowtide).await;
        let cpu = Cpu {
            rowtide: (filling.rowtide + following.rowtide) / 2.0,
            source: (filling.source + following.source) / 2.0,
        };
        Rates { fill, changes, cpu }
    }

    /// A run of Rowtide until the cluster has taken every row once more: the rate, and what it cost.
    async fn watched(&self, bench: &Bench<'_>, rowtide: &mut Rowtide) -> (f64, Cpu) {
        let before = self.indexed().await;
        rowtide.run_again();
        let began = bench.cpu(Some(rowtide.pid()));
        let rate = self.rate(before).await;
        let ended = bench.cpu(Some(rowtide.pid()));
        tokio::time::sleep(Duration::from_secs(1)).await;
        rowtide.stop();
        (rate, Cpu { rowtide: ended.rowtide - began.rowtide, source: ended.source - began.source })
    }

    /// How fast the cluster takes all rows beyond `before`.
    async fn rate(&self, before: u64) -> f64 {
        let limit = Instant::now() + Duration::from_secs(600);
        let mut first = None;
        loop {
            let now = Instant::now();
            let count = self.indexed().await.saturating_sub(before);
            let (began, had) = match first {
                None if count == 0 => (now, 0),
                None => *first.insert((now, count)),
                Some(first) => first,
            };
            if count >= self.rows {
                return (count - had) as f64 / (now - began).as_secs_f64().max(1e-3);
            }
            assert!(now < limit, "{count} of {} documents after ten minutes", self.rows);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Index operations of the index so far; none while it is not there.
    async fn indexed(&self) -> u64 {
        let path = "/items-rowtide-*/_stats/indexing?filter_path=_all.primaries.indexing.index_total";
        let stats = self.search.http.get(path).await;
        stats["_all"]["primaries"]["indexing"]["index_total"].as_u64().unwrap_or(0)
    }
}
