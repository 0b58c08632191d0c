//! Seed after seed, until one fails or enough have not.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::env::{Hits, PHASES, Phase};
use super::plan::Plan;
use super::run::{Report, play};
use super::shrink::shrink;
use crate::harness::{Scale, scale};

/// Seeds of a small run, and of a full one.
const SMALL: u64 = 1_500;
const FULL: u64 = 10_000;
/// How often each fault hits in each phase over a full run.
const CELL_LEAST: u64 = 20;
/// Failing seeds that are shrunk and shown.
const SHOWN: usize = 3;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|text| text.parse().ok())
}

#[derive(Default)]
struct Sum {
    played: u64,
    polls: u64,
    simulated: Duration,
    faults: Hits<(&'static str, Phase)>,
    attacks: Hits<&'static str>,
    failed: Vec<(u64, String)>,
}

impl Sum {
    fn add(&mut self, seed: u64, report: Report) {
        self.played += 1;
        self.polls += report.polls;
        self.simulated += report.simulated;
        for (cell, count) in report.faults.0 {
            *self.faults.0.entry(cell).or_default() += count;
        }
        for (attack, count) in report.attacks.0 {
            *self.attacks.0.entry(attack).or_default() += count;
        }
        if let Some(what) = report.failure {
            println!("seed {seed}: {what}");
            self.failed.push((seed, what));
        }
    }

    fn print(&self) {
        let phases: Vec<String> = PHASES.iter().map(|phase| format!("{phase:?}")).collect();
        println!("| fault | {} |\n|---|{}", phases.join(" | "), "---|".repeat(phases.len()));
        for fault in self.names() {
            let cells = PHASES.iter().map(|phase| self.cell(fault, *phase).to_string());
            println!("| {fault} | {} |", cells.collect::<Vec<_>>().join(" | "));
        }
        println!("| attack (ATTACKS of the design, traps) | reached |\n|---|---|");
        for (attack, count) in &self.attacks.0 {
            println!("| {attack} | {count} |");
        }
        let Self { played, polls, simulated, .. } = self;
        println!("{played} seeds, {polls} steps, {} h simulated", simulated.as_secs() / 3600);
    }

    fn names(&self) -> BTreeSet<&'static str> {
        self.faults.0.keys().map(|(fault, _)| *fault).collect()
    }

    fn cell(&self, fault: &'static str, phase: Phase) -> u64 {
        self.faults.0.get(&(fault, phase)).copied().unwrap_or(0)
    }
}

/// Plays seeds on both cores from `from` until there are `count` and `until` has passed.
fn search(from: u64, count: u64, until: Instant) -> Sum {
    let next = AtomicU64::new(from);
    let sum = Mutex::new(Sum::default());
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    let enough = seed >= from + count && Instant::now() >= until;
                    if enough || sum.lock().unwrap().failed.len() > 50 {
                        return;
                    }
                    let report = play(&Plan::of_seed(seed));
                    sum.lock().unwrap().add(seed, report);
                }
            });
        }
    });
    sum.into_inner().unwrap()
}

#[test]
fn every_seed_ends_equal() {
    let full = scale() == Scale::Full;
    let count = number("ROWTIDE_SEEDS").unwrap_or(if full { FULL } else { SMALL });
    let minutes = if full { number("ROWTIDE_SOAK_MINUTES").unwrap_or(120) } else { 0 };
    let until = Instant::now() + Duration::from_secs(60 * minutes);
    let sum = search(number("ROWTIDE_SEED").unwrap_or(0), count, until);
    sum.print();
    for (seed, what) in sum.failed.iter().take(SHOWN) {
        let (plan, report) = shrink(&Plan::of_seed(*seed), what);
        println!("seed {seed}, shrunk, as a file of tests/simulation/found:\n{plan}");
        println!("{}", report.trace.join("\n"));
    }
    assert!(sum.failed.is_empty(), "{} of {} seeds failed", sum.failed.len(), sum.played);
    // Fewer seeds do not reach every cell.
    if !full || sum.played < FULL {
        return;
    }
    for fault in sum.names() {
        for phase in PHASES {
            let reached = sum.cell(fault, phase);
            assert!(reached >= CELL_LEAST, "{fault} hit {reached} times in {phase:?}, of {CELL_LEAST}");
        }
    }
}

#[test]
fn a_seed_is_enough_to_repeat_a_run() {
    for seed in 0..20 {
        let (one, two) = (play(&Plan::of_seed(seed)), play(&Plan::of_seed(seed)));
        assert_eq!(
            (one.polls, one.simulated, one.trace),
            (two.polls, two.simulated, two.trace),
            "seed {seed}"
        );
    }
}

#[test]
fn a_schedule_is_read_as_it_is_printed() {
    for seed in 0..50 {
        let plan = Plan::of_seed(seed);
        assert_eq!(plan.to_string().parse::<Plan>().unwrap(), plan);
    }
}
