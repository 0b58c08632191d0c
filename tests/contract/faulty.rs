//! Rowtide between real servers and a network that fails in every way that [`faults`] knows.
//!
//! ```text
//!   PostgreSQL ◄══ SQL, replication ══ FaultProxy ◄══ Rowtide ══► FaultProxy ══ HTTP ══► search server
//! ```
//! Nothing else stands between: what the servers make of half a request is their own.
//!
//! [`faults`]: crate::harness::faults

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};

use super::suite::{MAX_RSS_MIB, PATIENCE, configuration};
use super::writers::Writers;
use super::{Origin, TABLES, Tag};
use crate::harness::comparer::compare;
use crate::harness::faults::{Fault, FaultProxy, Faults, Kind, Place, Speech, Way};
use crate::harness::rowtide::{Line, Rowtide};
use crate::harness::servers::{Engine, Search};
use crate::harness::{Scale, fresh_name, poll_until, scale, seed};

/// What the database waits for a silent reader of its log, so that it frees the slot within the test.
const SERVER_PATIENCE: Duration = Duration::from_secs(10);

/// Everything that takes part.
pub(crate) struct Rig<O> {
    pub(crate) origin: O,
    pub(crate) faults: Arc<Faults>,
    pub(crate) rowtide: Rowtide,
    search: &'static Search,
    indices: [String; TABLES],
    sentinels: u64,
    _proxies: [FaultProxy; 2],
}

impl<O: Origin> Rig<O> {
    /// Servers are up, the tables loaded; nothing runs yet.
    pub(crate) async fn set(engine: Engine, rows: [u64; TABLES], seed: u64) -> Self {
        let origin = O::start().await;
        let search = Search::shared(engine).await;
        let faults = Faults::new(seed);
        let source = FaultProxy::start(origin.port(), O::SPEECH, &faults).await;
        let target = FaultProxy::start(search.port(), Speech::Http, &faults).await;
        let name = fresh_name("faulty");
        let indices = ["items", "places", "things"].map(|table| format!("{name}_{table}"));
        let section = format!("{}chunk_rows = 250", origin.source_section(source.port));
        let (nodes, lines) = ([search.url(target.port)], format!("{}bulk_count_max = 200", search.login()));
        let mut rowtide = Rowtide::new(&configuration(&origin, &name, &indices, &section, (&nodes, &lines)));
        search.be_trusted_by(&mut rowtide);
        // By the message: every line has a field called target.
        for message in ["could not renew the lease", "the source was lost; it is opened again"] {
            rowtide.allow(&format!("\"message\":\"{message}"));
        }
        for (table, count) in rows.into_iter().enumerate() {
            origin.load(table, 0..count, seed % (1 << 31)).await;
        }
        Self { origin, faults, rowtide, search, indices, sentinels: 0, _proxies: [source, target] }
    }

    async fn documents(&self, query: Value) -> u64 {
        self.search.http.count(&self.indices.join(","), query).await
    }

    /// Writes a row to each table and waits until it is in the index; how long that took.
    pub(crate) async fn round_trip(&mut self, limit: Duration) -> Duration {
        let began = Instant::now();
        self.origin.sentinel(2_000_000_000 + self.sentinels).await;
        self.sentinels += 1;
        let goal = self.sentinels * TABLES as u64;
        poll_until("the sentinels", limit, async || {
            self.rowtide.assert_runs();
            (self.documents(json!({ "match": { "tag": Tag::Sentinel.word() } })).await == goal).then_some(())
        })
        .await;
        began.elapsed()
    }

    /// Waits until all that was written has arrived, and compares. Nobody writes now.
    pub(crate) async fn assert_equal(&mut self) {
        self.round_trip(PATIENCE).await;
        let seen = self.statuses().len();
        poll_until("a status with nothing in flight", PATIENCE, async || {
            let settled =
                |line: &Line| line.fields["state"] == "following" && line.number("in_flight") == Some(0);
            self.rowtide.assert_runs();
            self.statuses()[seen..].iter().any(settled).then_some(())
        })
        .await;
        for (table, index) in self.indices.iter().enumerate() {
            let report =
                compare(&self.search.http, index, self.origin.rows(&self.origin.table(table)).await).await;
            println!("{index}: {report}");
            report.assert_equal();
        }
    }

    /// Stops the search server by this signal and starts it again.
    pub(crate) async fn restart_target(&self, signal: Signal) {
        self.search.stop(signal);
        self.search.start_again().await;
    }

    pub(crate) fn statuses(&self) -> Vec<Line> {
        self.rowtide.log().into_iter().filter(|line| line.message == "status").collect()
    }

    /// Waits until a new status line gives a reason with these words; how long that took.
    async fn told(&mut self, words: &str) -> Duration {
        let (began, seen) = (Instant::now(), self.statuses().len());
        let says = |line: &Line| {
            line.fields.get("reason").and_then(Value::as_str).is_some_and(|reason| reason.contains(words))
        };
        poll_until(&format!("a status with {words:?}"), PATIENCE, async || {
            self.rowtide.assert_runs();
            self.statuses()[seen..].iter().any(says).then_some(())
        })
        .await;
        began.elapsed()
    }

    /// Makes a connection half-open until the source is lost with these words; how long the last try took.
    /// A hit may meet a connection that is just being made or given up, since another one was lost: then nothing
    /// follows, or a loss with other words, and it is tried again.
    async fn lost(&mut self, (kind, way): (Kind, Way), words: &str) -> Duration {
        let all_ends = Instant::now() + PATIENCE;
        while Instant::now() < all_ends {
            self.round_trip(PATIENCE).await;
            let (began, seen) = (Instant::now(), self.losses().len());
            self.hit(&[(kind, Fault::HalfOpen, way)]).await;
            match self.loss_after(seen, 4 * SERVER_PATIENCE).await {
                Some(loss) if loss.contains(words) => return began.elapsed(),
                other => println!("    first: {}", other.as_deref().unwrap_or("nothing was lost")),
            }
        }
        panic!("no loss with {words:?} in {PATIENCE:?}");
    }

    /// The losses of the source so far.
    fn losses(&self) -> Vec<String> {
        self.rowtide.log().into_iter().filter(is_loss).map(|line| line.text).collect()
    }

    /// The next loss of the source, after so many; `None` when there is none in this time.
    async fn loss_after(&mut self, seen: usize, limit: Duration) -> Option<String> {
        let ends = Instant::now() + limit;
        loop {
            self.rowtide.assert_runs();
            let loss = self.losses().into_iter().nth(seen);
            if loss.is_some() || Instant::now() > ends {
                return loss;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// What was waited for, by the state's reason, and in how many status lines.
    pub(crate) fn reasons(&self) -> BTreeMap<String, u64> {
        let mut reasons = BTreeMap::new();
        for line in self.statuses() {
            if let Some(reason) = line.fields.get("reason").and_then(Value::as_str) {
                *reasons.entry(without_numbers(reason)).or_default() += 1;
            }
        }
        reasons
    }

    /// SIGTERM: ends with 0, and every change has one end, none as a dead letter.
    pub(crate) fn stop_cleanly(&mut self) {
        let (code, log) = self.rowtide.stop();
        assert_eq!(code, 0, "exit code after SIGTERM");
        let counts = Rowtide::final_counts(&log);
        println!("counts: {counts:?}");
        assert_eq!(counts.ends["dead_lettered"], 0, "a fault of the network became a document's");
        let kib = self.rowtide.high_water_kib();
        println!("VmHWM {:.1} MiB, bound {MAX_RSS_MIB} MiB", kib as f64 / 1024.0);
        assert!(kib > 0 && kib < MAX_RSS_MIB * 1024, "{kib} KiB are not under {MAX_RSS_MIB} MiB");
    }

    /// Switches each of these on until it has hit once more.
    async fn hit(&mut self, places: &[Place]) {
        let mut due: Vec<(Place, u64)> =
            places.iter().map(|&place| (place, self.faults.hits(place))).collect();
        self.faults.set(places.iter().copied());
        poll_until(&format!("a hit of each of {places:?}"), PATIENCE, async || {
            self.rowtide.assert_runs();
            let before = due.len();
            due.retain(|&(place, before)| self.faults.hits(place) == before);
            // Off at once: no connection can be made where another has to come first, and never does.
            if due.len() < before {
                self.faults.set(due.iter().map(|&(place, _)| place));
            }
            due.is_empty().then_some(())
        })
        .await;
        self.faults.clear();
    }
}

fn is_loss(line: &Line) -> bool {
    line.message == "the source was lost; it is opened again"
}

/// Every fault on every kind of connection, each way.
pub(crate) fn every_place() -> Vec<Place> {
    places(&Fault::ALL, &Kind::ALL, &Way::BOTH)
}

fn places(faults: &[Fault], kinds: &[Kind], ways: &[Way]) -> Vec<Place> {
    let of = |&fault| kinds.iter().flat_map(move |&kind| ways.iter().map(move |&way| (kind, fault, way)));
    faults.iter().flat_map(of).collect()
}

/// Process numbers, ports and names differ from run to run.
fn without_numbers(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    for letter in text.chars() {
        if !letter.is_ascii_digit() {
            plain.push(letter);
        } else if !plain.ends_with('#') {
            plain.push('#');
        }
    }
    plain
}

/// Every fault on every kind of connection, each way: nothing is lost, doubled or changed.
pub(crate) async fn equal_with_every_fault<O: Origin>(engine: Engine) {
    let seed = seed();
    let rows = [1_500; TABLES];
    let mut rig = Rig::<O>::set(engine, rows, seed).await;
    rig.origin.give_up_after(SERVER_PATIENCE).await;
    let slow = places(&[Fault::Latency, Fault::Bandwidth], &Kind::ALL, &Way::BOTH);
    rig.faults.set(slow.clone());
    rig.rowtide.run_again();
    let writers = Writers::start(&rig.origin, rows, seed).await;
    writers.pause(Duration::from_millis(30));
    rig.hit(&slow).await;
    for fault in [Fault::Cut, Fault::Garbage] {
        for place in places(&[fault], &Kind::ALL, &Way::BOTH) {
            rig.hit(&[place]).await;
        }
    }
    println!("after cuts and garbage a row took {:.1?}", rig.round_trip(PATIENCE).await);
    half_open(&mut rig).await;

    println!("changes: {:?}", writers.stop().await);
    rig.assert_equal().await;
    println!("{}", rig.faults.table());
    every_place().into_iter().for_each(|place| assert!(rig.faults.hits(place) > 0, "{place:?} never hit"));
    println!("waited for: {:#?}", rig.reasons());
    rig.stop_cleanly();
}

/// A connection that says nothing is noticed, and until then the status says what is waited for.
async fn half_open<O: Origin>(rig: &mut Rig<O>) {
    let half_open = |kind, way| (kind, Fault::HalfOpen, way);
    rig.hit(&[half_open(Kind::Http, Way::ToServer)]).await;
    println!("HTTP, requests lost: told after {:.1?}", rig.told("the answer to a bulk request").await);
    rig.hit(&[half_open(Kind::Http, Way::ToRowtide)]).await;
    // The look at the slot loses a connection too, which is no loss: it stays on until a read has.
    rig.faults.set([half_open(Kind::Sql, Way::ToRowtide)]);
    println!("SQL, answers lost: told after {:.1?}", rig.told("the server is not at work on one").await);
    rig.faults.clear();
    println!("    a row then took {:.1?}", rig.round_trip(PATIENCE).await);
    rig.hit(&[half_open(Kind::Sql, Way::ToServer)]).await;
    if scale() == Scale::Small {
        // The rest of the silence teaches nothing new.
        rig.hit(&[(Kind::Sql, Fault::Cut, Way::ToServer)]).await;
    }
    // The server gives up after its patience and closes.
    let lost = rig.lost((Kind::Replication, Way::ToServer), "the server closed").await;
    println!("replication, feedback lost: told after {lost:.1?}");
    println!("    a row then took {:.1?}", rig.round_trip(PATIENCE).await);
    let losses = rig.losses().len();
    rig.hit(&[half_open(Kind::Replication, Way::ToRowtide)]).await;
    println!("replication, log lost: told after {:.1?}", rig.told("a sign of the server").await);
    match scale() {
        Scale::Full => {
            const WORDS: &str = "says nothing, though it was asked for a minute";
            let began = Instant::now();
            let loss = rig.loss_after(losses, PATIENCE).await;
            assert!(loss.as_ref().is_some_and(|loss| loss.contains(WORDS)), "{loss:?}");
            println!("    noticed after {:.1?} more", began.elapsed());
        }
        Scale::Small => rig.hit(&[(Kind::Replication, Fault::Cut, Way::ToServer)]).await,
    }
    println!("    a row then took {:.1?}", rig.round_trip(PATIENCE).await);
}
