//! `scripts/soak servers`: one process of Rowtide for half an hour, between real servers and a network
//! that fails all the time, while rows are written.
//!
//! ```text
//!   minute   0 …                        10 ─┬─ 13                       … 27 ─┬─ 30
//!   storm  calm  storm  calm  storm  calm   │first window                     │last window  drain, compare
//!   35 s   30 s                             └──── medians of the samples of calms ───┘
//! ```
//! - Storm: every few seconds another set of faults, drawn from the seed, on any connection each way;
//!   restarts of both servers; Rowtide stands still (SIGSTOP) for less than its lease lasts.
//! - Calm: no fault; it begins 10 s after what is written arrives again. Writers never rest, but while their own
//!   server is restarted.
//! - /proc is read every 5 s. The resident size depends on what is under way, so that of two like moments is
//!   compared: the medians of all samples in calms, of two windows of three minutes.
//! - What holds at the end: nothing is missing, extra or different; the resident size has grown by 2 % at
//!   most, descriptors and threads by 2; every fault has hit every kind of connection each way.

use std::fmt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::contract::faulty::{Rig, every_place};
use crate::contract::writers::Writers;
use crate::contract::{Origin, TABLES};
use crate::contract_postgres::PostgresOrigin;
use crate::harness::faults::{Fault, Place};
use crate::harness::servers::Engine;
use crate::harness::{Random, Scale, scale, seed};

const STORM: Duration = Duration::from_secs(35);
const CALM: Duration = Duration::from_secs(30);
const SAMPLE_EVERY: Duration = Duration::from_secs(5);
/// A half-open connection costs a minute at the most until it is noticed, a server that was killed ten
/// seconds of quarantine; on two busy cores.
const RECOVERY_MOST: Duration = Duration::from_secs(240);
/// The database's log is answered every 5 s, and looked at every 10 s.
const FIRST_HIT_MOST: Duration = Duration::from_secs(8);
/// From the first row that arrives again to the calm: what had gathered has gone, and its memory.
const SETTLE: Duration = Duration::from_secs(10);
/// A lease lasts 10 s.
const STANDS_STILL_MOST: u64 = 6_000;
/// Between two restarts of a server, in storms.
const RESTART_EVERY: u64 = 5;

/// How long, and where the windows lie.
#[derive(Clone, Copy, Debug)]
struct Plan {
    whole: Duration,
    /// The first window begins here; before, the process warms up.
    from: Duration,
    window: Duration,
}

impl Plan {
    fn of_environment() -> Self {
        let minutes = std::env::var("ROWTIDE_SOAK_MINUTES").ok().filter(|text| !text.is_empty());
        let minutes = minutes.map(|text| text.parse().expect("ROWTIDE_SOAK_MINUTES is a number"));
        let minutes: u64 = minutes.unwrap_or(if scale() == Scale::Full { 30 } else { 1 });
        let whole = Duration::from_secs(60 * minutes);
        Self { whole, from: whole / 3, window: whole / 10 }
    }

    /// In a short run there is no span over which anything could grow.
    fn is_long(&self) -> bool {
        self.whole >= Duration::from_secs(9 * 60)
    }
}

/// What /proc says at one time.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
struct Sample {
    at: Duration,
    is_calm: bool,
    rss_kib: u64,
    /// The part of it that is memory; the rest are pages of the program's file, and libraries.
    anonymous_kib: u64,
    descriptors: u64,
    threads: u64,
}

impl fmt::Display for Sample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { at, rss_kib, anonymous_kib, descriptors, threads, .. } = self;
        let (minutes, seconds) = (at.as_secs() / 60, at.as_secs() % 60);
        write!(
            f,
            "{minutes:>3}:{seconds:02}  {rss_kib:>7} KiB, of it {anonymous_kib:>6} anonymous  {descriptors:>3} descriptors  {threads:>2} threads"
        )
    }
}

/// Samples of a process, taken by a task.
#[derive(Debug)]
struct Samples {
    began: Instant,
    is_calm: AtomicBool,
    taken: Mutex<Vec<Sample>>,
}

impl Samples {
    fn start(pid: u32) -> std::sync::Arc<Self> {
        let is_calm = AtomicBool::new(false);
        let samples = std::sync::Arc::new(Self { began: Instant::now(), is_calm, taken: Mutex::default() });
        let shared = samples.clone();
        tokio::spawn(async move {
            while let Some(seen) = look(pid) {
                let (at, is_calm) = (shared.began.elapsed(), shared.is_calm.load(Relaxed));
                let sample = Sample { at, is_calm, ..seen };
                shared.taken.lock().unwrap().push(sample);
                tokio::time::sleep(SAMPLE_EVERY).await;
            }
        });
        samples
    }

    /// The medians of the calm samples of a window.
    fn window(&self, from: Duration, to: Duration) -> Option<Sample> {
        let taken = self.taken.lock().unwrap();
        let inside: Vec<Sample> = taken
            .iter()
            .copied()
            .filter(|sample| sample.is_calm && sample.at >= from && sample.at <= to)
            .collect();
        let median = |value: fn(&Sample) -> u64| {
            let mut values: Vec<u64> = inside.iter().map(value).collect();
            values.sort_unstable();
            values.get(values.len() / 2).copied()
        };
        Some(Sample {
            at: from,
            is_calm: true,
            rss_kib: median(|sample| sample.rss_kib)?,
            anonymous_kib: median(|sample| sample.anonymous_kib)?,
            descriptors: median(|sample| sample.descriptors)?,
            threads: median(|sample| sample.threads)?,
        })
    }

    /// A line for each minute: the medians of its calm samples.
    /// Percent by which the resident size of calms grew from one time to another: Theil and Sen's line, whose
    /// slope is the median of those of all pairs. A window of three minutes has too few calms: medians of two
    /// differ by 3 % either way where nothing grows.
    fn growth(&self, from: Duration, to: Duration) -> f64 {
        let taken = self.taken.lock().unwrap();
        let inside = taken.iter().filter(|sample| sample.is_calm && sample.at >= from && sample.at <= to);
        let points: Vec<(f64, f64)> =
            inside.map(|sample| (sample.at.as_secs_f64(), sample.rss_kib as f64)).collect();
        let mut slopes = Vec::new();
        for (number, first) in points.iter().enumerate() {
            let later = points[number + 1..].iter().filter(|second| second.0 > first.0);
            slopes.extend(later.map(|second| (second.1 - first.1) / (second.0 - first.0)));
        }
        let slope = median(slopes);
        let level =
            median(points.iter().map(|point| point.1 - slope * (point.0 - from.as_secs_f64())).collect());
        slope * (to - from).as_secs_f64() / level * 100.0
    }

    fn print(&self) {
        let end = self.began.elapsed();
        let minute = Duration::from_secs(60);
        println!("medians of the samples of calms, by minute:");
        for number in 0..=(end.as_secs() / 60) as u32 {
            if let Some(sample) = self.window(minute * number, minute * (number + 1)) {
                println!("{sample}");
            }
        }
        let taken = self.taken.lock().unwrap();
        let most = taken.iter().map(|sample| sample.rss_kib).max().unwrap_or(0);
        println!("{} samples, the largest resident size {most} KiB", taken.len());
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

/// A process as it is now; `None` when it has ended.
fn look(pid: u32) -> Option<Sample> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let number = |name: &str| -> Option<u64> {
        let line = status.lines().find(|line| line.starts_with(name))?;
        line.split_whitespace().nth(1)?.parse().ok()
    };
    let descriptors = std::fs::read_dir(format!("/proc/{pid}/fd")).ok()?.count() as u64;
    let (rss_kib, anonymous_kib, threads) = (number("VmRSS:")?, number("RssAnon:")?, number("Threads:")?);
    Some(Sample { at: Duration::ZERO, is_calm: false, rss_kib, anonymous_kib, descriptors, threads })
}

/// What a run did beside the faults of the network.
#[derive(Debug, Default)]
struct Done {
    storms: u64,
    restarts_of_the_database: u64,
    restarts_of_the_target: u64,
    stood_still: u64,
    recoveries: Vec<Duration>,
}

impl Done {
    fn longest_recovery(&self) -> Duration {
        self.recoveries.iter().max().copied().unwrap_or_default()
    }
}

/// Faults at random; half-open ones are rarer than they would be, since each costs up to a minute.
fn draw(random: &mut Random) -> Vec<Place> {
    let all = every_place();
    let count = random.below(6);
    let mut drawn: Vec<Place> = (0..count).map(|_| all[random.below(all.len() as u64) as usize]).collect();
    drawn.retain(|(_, fault, _)| *fault != Fault::HalfOpen || random.below(2) == 0);
    drawn
}

async fn storm(rig: &mut Rig<PostgresOrigin>, writers: &Writers, random: &mut Random, done: &mut Done) {
    let ends = Instant::now() + STORM;
    done.storms += 1;
    match done.storms % RESTART_EVERY {
        2 => {
            rig.faults.set(draw(random));
            rig.restart_target(if random.below(2) == 0 { Signal::TERM } else { Signal::KILL }).await;
            done.restarts_of_the_target += 1;
        }
        4 => {
            let mut held = writers.hold().await;
            rig.faults.set(draw(random));
            rig.origin.restart().await;
            *held += 1;
            done.restarts_of_the_database += 1;
        }
        _ => {}
    }
    // What has never hit is held until it has: chance alone would leave some out of a short run.
    let due: Vec<Place> = every_place().into_iter().filter(|&place| rig.faults.hits(place) == 0).collect();
    for _ in 0..due.len().min(2) {
        let place = due[random.below(due.len() as u64) as usize];
        rig.faults.set([place]);
        let tried_until = Instant::now() + FIRST_HIT_MOST;
        while rig.faults.hits(place) == 0 && Instant::now() < tried_until {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    while Instant::now() < ends {
        rig.faults.set(draw(random));
        if random.below(8) == 0 {
            rig.rowtide.signal(Signal::STOP);
            tokio::time::sleep(Duration::from_millis(500 + random.below(STANDS_STILL_MOST - 500))).await;
            rig.rowtide.signal(Signal::CONT);
            done.stood_still += 1;
        }
        tokio::time::sleep(Duration::from_millis(300 + random.below(4_000))).await;
        rig.rowtide.assert_runs();
    }
    rig.faults.clear();
}

#[tokio::test(flavor = "multi_thread")]
async fn half_an_hour_of_every_fault() {
    let (seed, plan) = (seed(), Plan::of_environment());
    println!("{plan:?}");
    let rows = [10_000; TABLES];
    let mut rig = Rig::<PostgresOrigin>::set(Engine::Elasticsearch8, rows, seed).await;
    let mut random = Random::new(seed);
    rig.rowtide.run_again();
    let pid = rig.rowtide.pid();
    let writers = Writers::start(&rig.origin, rows, seed).await;
    writers.pause(Duration::from_millis(25));
    let samples = Samples::start(pid);
    let mut done = Done::default();
    loop {
        storm(&mut rig, &writers, &mut random, &mut done).await;
        let recovery = rig.round_trip(RECOVERY_MOST).await;
        done.recoveries.push(recovery);
        tokio::time::sleep(SETTLE).await;
        rig.round_trip(RECOVERY_MOST).await;
        samples.is_calm.store(true, Relaxed);
        let minutes = samples.began.elapsed().as_secs_f64() / 60.0;
        println!("{minutes:5.1} min: storm {}, a row then took {recovery:.1?}", done.storms);
        tokio::time::sleep(CALM).await;
        samples.is_calm.store(false, Relaxed);
        rig.rowtide.assert_runs();
        if samples.began.elapsed() + STORM + SETTLE + CALM > plan.whole {
            break;
        }
    }
    let end = samples.began.elapsed();
    assert_eq!(rig.rowtide.pid(), pid, "one process for the whole run");
    println!("changes: {:?}", writers.stop().await);
    samples.print();
    println!("{}", rig.faults.table());
    println!("waited for: {:#?}", rig.reasons());
    println!("{done:?}, the longest recovery {:.1?}", done.longest_recovery());
    rig.assert_equal().await;
    rig.stop_cleanly();
    judge(&plan, &samples, &rig, end);
}

fn judge(plan: &Plan, samples: &Samples, rig: &Rig<PostgresOrigin>, end: Duration) {
    let first = samples.window(plan.from, plan.from + plan.window);
    let last = samples.window(end - plan.window, end);
    let (Some(first), Some(last)) = (first, last) else {
        assert!(!plan.is_long(), "a window without a sample");
        return;
    };
    let growth = samples.growth(plan.from, end);
    println!("first window {first}\nlast window  {last}\nthe resident size grew by {growth:.2} %");
    if !plan.is_long() {
        return;
    }
    assert!(growth <= 2.0, "the resident size grew by {growth:.2} %");
    assert!(last.descriptors <= first.descriptors + 2, "descriptors grew");
    assert!(last.threads <= first.threads + 2, "threads grew");
    for place in every_place() {
        assert!(rig.faults.hits(place) > 0, "{place:?} never hit");
    }
}

#[test]
fn growth_is_that_of_the_line_and_not_of_its_ends() {
    let sampled = |rss: &dyn Fn(u64) -> u64| {
        let sample = |at: u64| Sample {
            at: Duration::from_secs(at),
            is_calm: true,
            rss_kib: rss(at),
            anonymous_kib: 0,
            descriptors: 0,
            threads: 0,
        };
        let taken = Mutex::new((0..=100).map(sample).collect());
        Samples { began: Instant::now(), is_calm: AtomicBool::new(false), taken }
    };
    let growth = |rss: &dyn Fn(u64) -> u64| sampled(rss).growth(Duration::ZERO, Duration::from_secs(100));
    assert!((growth(&|at| 10_000 + 5 * at) - 5.0).abs() < 0.01);
    assert!((growth(&|at| 10_000 + 5 * at + at * 137 % 300) - 5.0).abs() < 1.0, "noise of 3 %");
    assert!(growth(&|at| 10_000 + at * 137 % 300).abs() < 1.0);
    assert!(growth(&|at| if at > 97 { 20_000 } else { 10_000 }).abs() < 0.01);
}

#[test]
fn a_window_has_the_medians_of_its_calm_samples() {
    let sample = |at: u64, is_calm, rss_kib| Sample {
        at: Duration::from_secs(at),
        is_calm,
        rss_kib,
        anonymous_kib: rss_kib,
        descriptors: rss_kib,
        threads: 1,
    };
    let taken = vec![
        sample(1, true, 5),
        sample(2, true, 90),
        sample(3, true, 7),
        sample(4, false, 1_000),
        sample(9, true, 2_000),
    ];
    let samples =
        Samples { began: Instant::now(), is_calm: AtomicBool::new(false), taken: Mutex::new(taken) };
    let window = |from, to| samples.window(Duration::from_secs(from), Duration::from_secs(to));
    assert_eq!(window(1, 4).map(|found| (found.rss_kib, found.descriptors, found.threads)), Some((7, 7, 1)));
    assert_eq!(window(4, 5), None);
}
