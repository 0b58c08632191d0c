//! `postgres-latency`: how long after COMMIT's return a change is answered for.
//!
//! ```text
//!   a clock, 1,000 ticks a second ─┬─► UPDATE … COMMIT (one of 8 connections) ─► Rowtide ─► sink: answered
//!                                  └─ each 20th: the same by a direct post ───────────────► sink: answered
//! ```
//! The clock waits for nobody (open loop): what is begun late has been late for whoever wanted it, so the lateness is
//! added. What the target itself takes is subtracted: the median of the direct posts.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::harness::servers::Database;
use crate::rounded;
use crate::sink::{DIRECT, Shared};

/// Single-row transactions, and how many a second.
const COMMITS: u64 = 10_000;
const RATE: u64 = 1000;
/// No connection has two at once: more of them than one commit takes of a second.
const CONNECTIONS: usize = 8;
const DIRECT_EVERY: u64 = 20;
/// Numbers of direct posts are above those of commits.
const DIRECT_FROM: u64 = 1 << 32;

/// When something was due, begun and committed.
struct Sent {
    number: u64,
    due: Instant,
    begun: Instant,
    committed: Instant,
}

/// Commits on schedule; percentiles in milliseconds of what Rowtide adds to a direct post.
pub async fn measure(database: &Database, port: u16, rows: u64, held: &Shared) -> Value {
    let count = COMMITS.min(rows);
    let began = Instant::now() + Duration::from_millis(100);
    let (sent, mut all) = mpsc::unbounded_channel();
    let mut ticks = Vec::new();
    for _ in 0..CONNECTIONS {
        ticks.push(commits(database, sent.clone()).await);
    }
    let direct = direct_posts(port, sent);
    std::thread::spawn(move || {
        for tick in 0..count {
            let due = began + Duration::from_micros(tick * 1_000_000 / RATE);
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            let connection = &ticks[tick as usize % CONNECTIONS];
            connection.send((tick + 1, due)).expect("the connection lives");
            if tick % DIRECT_EVERY == 0 {
                direct.send((DIRECT_FROM + tick, due)).expect("the poster lives");
            }
        }
    });
    let mut sent = Vec::new();
    while let Some(one) = all.recv().await {
        sent.push(one);
    }
    let limit = Instant::now() + Duration::from_secs(60);
    while held.lock().unwrap().answered.len() < sent.len() && Instant::now() < limit {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let held = held.lock().unwrap();
    let answered = |one: &Sent| held.answered.get(&one.number).copied();
    let (mut through, mut direct, mut late) = (Vec::new(), Vec::new(), Vec::new());
    for one in &sent {
        let answered = answered(one).expect("everything is answered within a minute");
        if one.number >= DIRECT_FROM {
            direct.push(answered.saturating_duration_since(one.begun));
        } else {
            let lateness = one.begun.saturating_duration_since(one.due);
            through.push(answered.saturating_duration_since(one.committed) + lateness);
            late.push(lateness);
        }
    }
    let seconds = sent.iter().map(|one| one.committed).max().map_or(0.0, |last| (last - began).as_secs_f64());
    let base = at(&mut direct, 0.50);
    let added = |ms: f64| rounded(ms - base, 1);
    json!({
        "commits": count,
        "commits_per_s": (count as f64 / seconds).round(),
        "p50_ms": added(at(&mut through, 0.50)),
        "p99_ms": added(at(&mut through, 0.99)),
        "direct_ms": rounded(base, 2),
        "late_p99_ms": rounded(at(&mut late, 0.99), 2),
    })
}

fn at(all: &mut [Duration], part: f64) -> f64 {
    all.sort_unstable();
    let place = ((all.len() as f64 * part) as usize).min(all.len().saturating_sub(1));
    all.get(place).map_or(-1.0, |time| time.as_secs_f64() * 1000.0)
}

/// A connection that commits at each tick.
async fn commits(
    database: &Database,
    sent: mpsc::UnboundedSender<Sent>,
) -> mpsc::UnboundedSender<(u64, Instant)> {
    let client = database.client().await;
    let update = client.prepare("UPDATE items SET name = 'lat:' || $1::text WHERE id = $2").await.unwrap();
    let (tick, mut ticks) = mpsc::unbounded_channel::<(u64, Instant)>();
    tokio::spawn(async move {
        while let Some((number, due)) = ticks.recv().await {
            let begun = Instant::now();
            client.execute(&update, &[&number.to_string(), &(number as i64)]).await.unwrap();
            sent.send(Sent { number, due, begun, committed: Instant::now() }).ok();
        }
    });
    tick
}

/// One document at each tick, straight to the sink.
fn direct_posts(port: u16, sent: mpsc::UnboundedSender<Sent>) -> mpsc::UnboundedSender<(u64, Instant)> {
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let (tick, mut ticks) = mpsc::unbounded_channel::<(u64, Instant)>();
    let url: Arc<str> = format!("http://127.0.0.1:{port}/_bulk").into();
    tokio::spawn(async move {
        while let Some((number, due)) = ticks.recv().await {
            let body = format!(
                "{{\"index\":{{\"_index\":\"{DIRECT}\",\"_id\":\"1\"}}}}\n{{\"name\":\"lat:{number}\"}}\n"
            );
            let begun = Instant::now();
            let post = client.post(&*url).header("content-type", "application/x-ndjson").body(body);
            post.send().await.unwrap().bytes().await.unwrap();
            sent.send(Sent { number, due, begun, committed: begun }).ok();
        }
    });
    tick
}
