//! What tests of the whole stand on: real servers, the real program, and what is put between them.
//!
//! ```text
//!   Postgres ◄──────── Rowtide ────────► Proxy ────────► Search
//!   (servers.rs)    (rowtide.rs)      (proxy.rs)      (search.rs)
//!      │               │ kill -9, logs,   │ counts, delays,     │
//!      │               │ VmHWM            │ drops, refuses      │
//!      └─────────── comparer: shares no code with Rowtide ──────┘
//! ```
//! - Each shared server is started once per test process, at its first use; a server that does not
//!   start fails the test, nothing is skipped.
//! - A test process that ends, by a panic or by `kill -9` too, leaves no process and no folder
//!   behind (`processes.rs`).
//! - A database, an index and a pipeline have names of their own in each test ([`fresh_name`]).

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

pub(crate) mod certificates;
pub(crate) mod comparer;
#[cfg(test)]
mod comparer_tests;
pub(crate) mod faults;
#[cfg(test)]
mod faults_tests;
pub(crate) mod http;
pub(crate) mod pair;
pub(crate) mod postgres_rows;
pub(crate) mod processes;
pub(crate) mod proxy;
pub(crate) mod rows;
pub(crate) mod rowtide;
pub(crate) mod search;
pub(crate) mod servers;
#[cfg(test)]
mod servers_tests;

/// How large a test is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scale {
    /// Minutes in all: for every change.
    Small,
    /// What the project promises: for a soak.
    Full,
}

/// The scale of this run.
pub(crate) fn scale() -> Scale {
    match std::env::var("ROWTIDE_SCALE").as_deref() {
        Ok("full") => Scale::Full,
        Ok("small" | "") | Err(_) => Scale::Small,
        Ok(other) => panic!("ROWTIDE_SCALE is small or full, not {other}"),
    }
}

/// The seed of this run, printed so that it can be given again.
pub(crate) fn seed() -> u64 {
    let seed = match std::env::var("ROWTIDE_SEED") {
        Ok(text) if !text.is_empty() => text.parse().expect("ROWTIDE_SEED is a number"),
        _ => SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_micros() as u64 % 1_000_000_000,
    };
    println!("seed {seed} (again: ROWTIDE_SEED={seed})");
    seed
}

/// Small, fast, repeatable; enough for choosing what a writer does next (SplitMix64).
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number from 0 up to, not including, `end`.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }
}

/// A name that nothing else on this machine has: `word_<process>_<count>`.
pub(crate) fn fresh_name(word: &str) -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    format!("{word}_{}_{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}

/// Asks again and again until the answer is `Some`; fails the test with `what` after `limit`.
/// For what sends no notice; a place that does is waited for by its notice.
pub(crate) async fn poll_until<T>(what: &str, limit: Duration, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let end = Instant::now() + limit;
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(Instant::now() < end, "waited {limit:?} in vain for: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
