//! The suite's tests, generic over an [`Origin`].

use std::fmt;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::json;

use super::writers::Writers;
use super::{Origin, TABLES, Tag, tag_of_loaded};
use crate::harness::comparer::compare;
use crate::harness::proxy::Proxy;
use crate::harness::rows::{Rows as _, canonical};
use crate::harness::rowtide::Rowtide;
use crate::harness::servers::{Engine, Search};
use crate::harness::{Random, Scale, fresh_name, poll_until, scale, seed};

/// What the process is configured to and must stay under.
pub(super) const MAX_RSS_MIB: u64 = 128;
/// Chunks read side by side.
const READERS: u64 = 2;
/// Rowtide's default.
const LANES: u64 = 4;
/// Long enough for two cores with everything on them.
pub(crate) const PATIENCE: Duration = Duration::from_secs(180);
/// Rows of 600 bytes, as they are counted, in the 24 MiB that readers may be ahead of the target.
const AHEAD: u64 = 40_000;
/// What is sent again of the giant transaction after a kill inside it (T48): 10,000 changes between two
/// checkpoints, and what readers are ahead of a slow target.
const INSIDE: u64 = 10_000 + AHEAD;
/// After a SIGKILL nothing is sent for 10 s.
const QUARANTINE: Duration = Duration::from_secs(10);

/// How large the run is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    /// Loaded rows by table.
    pub(super) rows: [u64; TABLES],
    /// Rows of the giant transaction in each table.
    giant_rows: u64,
    /// Changes of each kind that must be made before the fill ends.
    changes_each: u64,
    kills_in_backfill: u64,
    kills_in_tail: u64,
    pub(super) chunk_rows: u64,
    pub(super) bulk_count_max: u64,
}

impl Plan {
    /// The sizes of the present scale.
    pub(crate) fn of_scale() -> Self {
        match scale() {
            Scale::Small => Self {
                rows: [8_000, 6_000, 6_000],
                giant_rows: 4_000,
                changes_each: 100,
                kills_in_backfill: 1,
                kills_in_tail: 1,
                chunk_rows: 250,
                bulk_count_max: 200,
            },
            Scale::Full => Self {
                rows: [80_000, 60_000, 60_000],
                giant_rows: 100_000,
                changes_each: 1_000,
                kills_in_backfill: 5,
                kills_in_tail: 4,
                chunk_rows: 1_000,
                bulk_count_max: 500,
            },
        }
    }

    fn rows_in_all(&self) -> u64 {
        self.rows.iter().sum()
    }

    pub(super) fn calm_rows(&self) -> u64 {
        let calm = |&count: &u64| (0..count).filter(|&row| tag_of_loaded(row) == Tag::Calm).count() as u64;
        self.rows.iter().map(calm).sum()
    }
}

/// Where a kill hit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Backfill,
    Giant,
    Tail,
}

/// A kill as it was.
#[derive(Clone, Copy, Debug)]
struct Kill {
    phase: Phase,
    in_flight: u64,
    documents: u64,
}

impl fmt::Display for Kill {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { phase, in_flight, documents } = self;
        write!(
            f,
            "SIGKILL in {phase:?}: {in_flight} requests in flight, {documents} documents received so far"
        )
    }
}

/// Everything that takes part.
pub(super) struct Stage<O> {
    pub(super) origin: O,
    pub(super) search: &'static Search,
    pub(super) proxy: Proxy,
    pub(super) rowtide: Rowtide,
    /// The pipeline's name.
    pub(super) name: String,
    pub(super) indices: [String; TABLES],
    kills: Vec<Kill>,
    random: Random,
}

impl<O: Origin> Stage<O> {
    /// Servers are up, the tables are there and empty; nothing runs yet.
    pub(super) async fn set(engine: Engine, chunk_rows: u64, bulk_count_max: u64, seed: u64) -> Self {
        let origin = O::start().await;
        let search = Search::shared(engine).await;
        let proxy = Proxy::before(search).await;
        let name = fresh_name("contract");
        let indices = ["items", "places", "things"].map(|table| format!("{name}_{table}"));
        let source = format!("{}chunk_rows = {chunk_rows}", origin.source_section(origin.port()));
        let target = format!("{}bulk_count_max = {bulk_count_max}", search.login());
        let config = configuration(&origin, &name, &indices, &source, (&[search.url(proxy.port)], &target));
        let mut rowtide = Rowtide::new(&config);
        search.be_trusted_by(&mut rowtide);
        Self { origin, search, proxy, rowtide, name, indices, kills: Vec::new(), random: Random::new(seed) }
    }

    pub(super) async fn load(&self, rows: [u64; TABLES], seed: u64) {
        for (table, count) in rows.into_iter().enumerate() {
            self.origin.load(table, 0..count, seed % (1 << 31)).await;
        }
    }

    /// Documents of that tag in all indices.
    pub(super) async fn documents(&self, tag: Tag) -> u64 {
        self.search.http.count(&self.indices.join(","), json!({ "match": { "tag": tag.word() } })).await
    }

    /// Waits until the target has received that many documents more.
    pub(super) async fn wait_for_documents(&mut self, more: u64) {
        let goal = self.proxy.documents() + more;
        poll_until(&format!("{more} more documents"), PATIENCE, async || {
            (self.proxy.documents() >= goal).then_some(())
        })
        .await;
        self.rowtide.assert_runs();
    }

    /// Kills Rowtide at a random moment with requests in flight, and starts it again.
    pub(super) async fn kill(&mut self, phase: Phase) {
        poll_until("requests in flight", PATIENCE, async || (self.proxy.in_flight() > 0).then_some(())).await;
        tokio::time::sleep(Duration::from_millis(self.random.below(40))).await;
        // Answers are delayed: soon there are some again.
        while self.proxy.in_flight() == 0 {
            tokio::time::sleep(Duration::from_micros(200)).await;
            self.rowtide.assert_runs();
        }
        let kill = Kill { phase, in_flight: self.proxy.in_flight(), documents: self.proxy.documents() };
        self.rowtide.kill();
        println!("{kill}");
        self.kills.push(kill);
        self.rowtide.run_again();
    }

    async fn kill_in_backfill(&mut self, plan: &Plan) {
        self.wait_for_documents(plan.rows_in_all() / 40 + self.random.clone().below(plan.rows_in_all() / 40))
            .await;
        self.kill(Phase::Backfill).await;
        // Nothing is sent now, so what is in the index is what was there at the kill, or a little more.
        assert!(self.documents(Tag::Calm).await < plan.calm_rows(), "the backfill had ended before the kill");
    }

    async fn kill_in_giant(&mut self, rows: u64) {
        // More than what may be sent again.
        poll_until("a first part of the giant transaction", PATIENCE, async || {
            (self.documents(Tag::Giant).await > rows / 3).then_some(())
        })
        .await;
        self.kill(Phase::Giant).await;
        let there = self.documents(Tag::Giant).await;
        println!("{there} of {rows} rows of the giant transaction were in the index");
        assert!(there < rows, "the giant transaction had ended before the kill");
    }

    async fn restart_target(&mut self) {
        self.search.stop(Signal::TERM);
        tokio::time::sleep(Duration::from_secs(1)).await;
        self.search.start_again().await;
        println!("the target was restarted");
        self.wait_for_documents(20).await;
    }

    /// Waits until all that was written has arrived: what was written last is there, and nothing moves.
    pub(super) async fn quiesce(&mut self) {
        let before = self.documents(Tag::Sentinel).await;
        self.origin.sentinel(2_000_000_000 + before).await;
        poll_until("the sentinels", PATIENCE, async || {
            (self.documents(Tag::Sentinel).await == before + TABLES as u64).then_some(())
        })
        .await;
        poll_until("quiet", PATIENCE, async || {
            (self.proxy.idle_for() > Duration::from_secs(3)).then_some(())
        })
        .await;
        self.rowtide.assert_runs();
    }

    async fn compare(&self) {
        for (table, index) in self.indices.iter().enumerate() {
            let report =
                compare(&self.search.http, index, self.origin.rows(&self.origin.table(table)).await).await;
            println!("{index}: {report}");
            report.assert_equal();
        }
    }

    pub(super) fn assert_memory(&self) {
        let kib = self.rowtide.high_water_kib();
        println!("VmHWM {:.1} MiB over all processes, bound {MAX_RSS_MIB} MiB", kib as f64 / 1024.0);
        assert!(kib > 0 && kib < MAX_RSS_MIB * 1024, "{kib} KiB are not under {MAX_RSS_MIB} MiB");
    }

    /// Documents received ≤ rows + changes + kills × rows in flight. Rows are all that
    /// a chunk can meet, those too that the giant transaction inserts while the tables are filled. Of the
    /// calm rows none comes from the log, so they tell alone, and more sharply, what the kills cost; a row
    /// of the giant transaction comes once from the log, and once from a chunk at the most.
    fn assert_no_fill_began_again(&self, plan: &Plan, changes: u64) {
        let again = self.kills.len() as u64 * READERS * plan.chunk_rows;
        let rows = plan.rows_in_all() + plan.giant_rows * TABLES as u64;
        // In flight from its read until its rows are answered: each reader has a chunk, and each lane may
        // be sending another; while tables are filled into a slow target, what readers are ahead of it.
        let chunks = (READERS + LANES) * plan.chunk_rows;
        let ahead = chunks.max(AHEAD.min(plan.rows_in_all() / 4));
        let backfill = self.kills.iter().filter(|kill| kill.phase == Phase::Backfill).count() as u64;
        let in_flight = backfill * ahead + (self.kills.len() as u64 - backfill) * chunks;
        let again_inside =
            self.kills.iter().filter(|kill| kill.phase == Phase::Giant).count() as u64 * INSIDE;
        let (received, bound) = (self.proxy.documents(), rows + changes + in_flight + again_inside);
        let (calm, calm_bound) = (self.proxy.seen(&field(Tag::Calm)), plan.calm_rows() + again);
        let giant_rows = plan.giant_rows * TABLES as u64;
        let (giant, giant_bound) =
            (self.proxy.seen(&field(Tag::Giant)), 2 * giant_rows + again + again_inside);
        println!(
            "documents received {received} ≤ {bound}: {rows} rows + {changes} changes + {in_flight} + {again_inside}"
        );
        println!("calm rows received {calm} ≤ {calm_bound}: {} rows + {again}", plan.calm_rows());
        println!(
            "rows of the giant transaction received {giant} ≤ {giant_bound}: 2 × {giant_rows} + {again} + {again_inside}"
        );
        assert!(received <= bound, "{received} documents were received, more than {bound}");
        assert!(calm <= calm_bound, "calm rows were received {calm} times, more than {calm_bound}");
        assert!(giant <= giant_bound, "the giant transaction's rows were received {giant} times (T48)");
    }

    /// SIGTERM: ends with 0, and every change has one end.
    pub(super) fn stop_cleanly(&mut self) {
        let (code, log) = self.rowtide.stop();
        assert_eq!(code, 0, "exit code after SIGTERM");
        println!("counts of the last run: {:?}", Rowtide::final_counts(&log));
    }
}

/// The main promise: whatever is killed, the index ends equal to the source, and no fill begins again.
pub(crate) async fn equal_after_kills<O: Origin>(engine: Engine, plan: Plan) {
    let seed = seed();
    let mut stage = Stage::<O>::set(engine, plan.chunk_rows, plan.bulk_count_max, seed).await;
    allow_outages(&mut stage.rowtide);
    stage.load(plan.rows, seed).await;
    println!("loaded {:?} rows", plan.rows);

    [Tag::Calm, Tag::Giant].into_iter().for_each(|tag| stage.proxy.watch(&field(tag)));
    // 4 lanes, an answer every 0.5 s: the fill lasts until all that belongs into it has happened.
    stage.proxy.delay_answers(Duration::from_millis(500));
    stage.rowtide.run_again();
    stage.wait_for_documents(1).await;
    let writers = Writers::start(&stage.origin, plan.rows, seed).await;
    writers.pause(Duration::from_millis(15));
    for _ in 0..plan.kills_in_backfill {
        stage.kill_in_backfill(&plan).await;
    }
    poll_until("enough changes of each kind", PATIENCE, async || {
        (writers.fewest() >= plan.changes_each).then_some(())
    })
    .await;
    let giant = 500_000_000..500_000_000 + plan.giant_rows;
    stage.origin.giant(giant, seed % (1 << 31)).await;
    println!("changes while the tables were filled: {:?}", writers.counts());
    assert!(stage.documents(Tag::Calm).await < plan.calm_rows(), "the backfill ended before the changes");

    stage.proxy.delay_answers(Duration::from_millis(100));
    writers.pause(Duration::from_millis(50));
    stage.kill_in_giant(plan.giant_rows * TABLES as u64).await;
    poll_until("the end of the backfill and of the giant transaction", PATIENCE * 4, async || {
        let calm = stage.documents(Tag::Calm).await == plan.calm_rows();
        (calm && stage.documents(Tag::Giant).await == plan.giant_rows * TABLES as u64).then_some(())
    })
    .await;
    for number in 0..plan.kills_in_tail {
        if number == plan.kills_in_tail / 2 {
            stage.restart_target().await;
        }
        stage.wait_for_documents(50).await;
        stage.kill(Phase::Tail).await;
    }

    let changes = Writers::in_stream(&writers.stop().await) + plan.giant_rows * TABLES as u64;
    stage.quiesce().await;
    stage.compare().await;
    stage.stop_cleanly();
    assert_kills(&stage.kills, &plan);
    stage.assert_no_fill_began_again(&plan, changes);
    stage.assert_memory();
    goes_on_after_a_clean_stop(&mut stage).await;
}

/// A configuration of all tables; `source` is its section, `target` the nodes and more lines.
pub(crate) fn configuration<O: Origin>(
    origin: &O,
    name: &str,
    indices: &[String; TABLES],
    source: &str,
    (nodes, target): (&[String], &str),
) -> String {
    let mut config = format!("[memory]\nmax_rss = \"{MAX_RSS_MIB}MiB\"\n\n{source}\nreaders = {READERS}\n\n");
    config += &format!(
        "[targets.search]\ntype = \"elasticsearch\"\nnodes = {nodes:?}\nlanes = {LANES}\n{target}\n\n"
    );
    config += &format!("[pipelines.{name}]\nsource = \"shop\"\ntarget = \"search\"\n");
    for (table, index) in indices.iter().enumerate() {
        config += &format!("[pipelines.{name}.tables.\"{}\"]\nindex = \"{index}\"\n", origin.table(table));
    }
    config
}

/// Nothing is sent again after a clean stop, and nothing waits for a quarantine.
async fn goes_on_after_a_clean_stop<O: Origin>(stage: &mut Stage<O>) {
    let before = stage.proxy.documents();
    stage.rowtide.run_again();
    let sentinels = stage.documents(Tag::Sentinel).await;
    stage.origin.sentinel(2_000_000_000 + sentinels).await;
    let limit = QUARANTINE - Duration::from_secs(2);
    poll_until("the new sentinels, without a quarantine", limit, async || {
        (stage.documents(Tag::Sentinel).await == sentinels + TABLES as u64).then_some(())
    })
    .await;
    assert_eq!(
        stage.proxy.documents() - before,
        TABLES as u64,
        "only what is new is sent after a clean stop"
    );
    stage.stop_cleanly();
}

fn assert_kills(kills: &[Kill], plan: &Plan) {
    let hit =
        |phase: Phase| kills.iter().filter(|kill| kill.phase == phase && kill.in_flight > 0).count() as u64;
    println!(
        "kills with requests in flight: {} in the backfill, {} in the giant transaction, {} in the tail",
        hit(Phase::Backfill),
        hit(Phase::Giant),
        hit(Phase::Tail)
    );
    assert_eq!(hit(Phase::Backfill), plan.kills_in_backfill);
    assert_eq!(hit(Phase::Giant), 1);
    assert_eq!(hit(Phase::Tail), plan.kills_in_tail);
}

/// Law 5 with a target that is far slower than the source: more than the budget waits on both ways in,
/// the readers wait, the bound holds, and all arrives.
pub(crate) async fn bounded_with_a_slow_target<O: Origin>(engine: Engine) {
    let seed = seed();
    let (rows, wide_bytes, slow) = match scale() {
        Scale::Small => (1_600, 40_000, Duration::from_secs(12)),
        Scale::Full => (8_000, 40_000, Duration::from_secs(60)),
    };
    let mut stage = Stage::<O>::set(engine, 5_000, 5_000, seed).await;
    stage.load([1_000, 1_000, 1_000], seed).await;
    for table in 0..TABLES {
        stage.origin.load_wide(table, 10_000..10_000 + rows, wide_bytes).await;
    }
    stage.proxy.delay_answers(Duration::from_secs(1));
    stage.proxy.limit_bandwidth(1_000_000);
    stage.rowtide.run_again();
    stage.wait_for_documents(1).await;
    // The log brings more than the budget too.
    for table in 0..TABLES {
        stage.origin.load_wide(table, 20_000..20_000 + rows, wide_bytes).await;
    }
    tokio::time::sleep(slow).await;
    stage.rowtide.assert_runs();
    let (received, all) = (stage.proxy.documents(), 3_000 + 6 * rows);
    println!("{received} of {all} documents got through the slow target in {slow:?}");
    assert!(received < all / 2, "the target was not slow: {received} of {all} documents got through");
    stage.proxy.delay_answers(Duration::ZERO);
    stage.proxy.limit_bandwidth(0);
    stage.quiesce().await;
    stage.compare().await;
    stage.stop_cleanly();
    stage.assert_memory();
}

/// How a document says its tag.
fn field(tag: Tag) -> String {
    format!("\"tag\":\"{}\"", tag.word())
}

/// What Rowtide rightly warns of while a target is away or another process was killed.
pub(crate) fn allow_outages(rowtide: &mut Rowtide) {
    // By the message: every line has a field called target.
    for message in ["could not renew the lease", "the end was not clean", "answers are still missing"] {
        rowtide.allow(&format!("\"message\":\"{message}"));
    }
}

/// The suite's own ground: an origin does what the writers count, and its rows are JSON.
pub(crate) async fn origin_counts_right<O: Origin>() {
    let seed = seed();
    let origin = O::start().await;
    let loaded = [1_000; TABLES];
    for (table, count) in loaded.into_iter().enumerate() {
        origin.load(table, 0..count, 1).await;
    }
    let writers = Writers::start(&origin, loaded, seed).await;
    poll_until("20 changes of each kind", PATIENCE, async || (writers.fewest() >= 20).then_some(())).await;
    origin.giant(500_000_000..500_001_000, 1).await;
    let counts = writers.stop().await;
    println!("{counts:?}, {} changes in the stream", Writers::in_stream(&counts));
    let (mut rows, mut calm, mut giant) = (0, 0, 0);
    for table in 0..TABLES {
        let name = origin.table(table);
        let mut of_table = origin.rows(&name).await;
        loop {
            let batch = of_table.next().await;
            if batch.is_empty() {
                break;
            }
            rows += batch.len();
            let tagged = |tag: &str| batch.iter().filter(|row| canonical(&row.1).contains(tag)).count();
            calm += tagged(r#""tag":"calm""#);
            giant += tagged(r#""tag":"giant""#);
        }
    }
    assert_eq!((calm, giant), (600, 3_000));
    assert_eq!(rows as u64, 3_000 + 3_000 + counts["insert"] - counts["delete"]);
}
