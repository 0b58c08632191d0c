//! What happens in a run: a list of acts with the time before each, drawn from a seed or read from a
//! text, as a shrunk schedule is kept.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::cluster::TargetFault;
use super::env::Phase;
use super::executor::Rng;

mod combinations;

/// What a transaction does to a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Kind {
    Put,
    /// An unchanged TOAST value is missing from the image.
    Partial,
    Delete,
    /// The key changes.
    Move {
        to: u8,
    },
    Truncate,
}

/// One thing that happens. Numbers stand for whatever there is by then, modulo how many.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Act {
    Write {
        transaction: u8,
        table: u8,
        key: u8,
        kind: Kind,
    },
    /// The commit record is in the log; nobody sees it yet.
    Commit {
        transaction: u8,
        gap: u8,
    },
    /// A committed transaction can be seen.
    Show {
        transaction: u8,
    },
    RollBack {
        transaction: u8,
    },
    /// One transaction with many changes, committed and seen.
    Giant {
        table: u8,
        events: u8,
    },
    /// Every row of every table is deleted, in one transaction.
    DeleteAll,
    /// DDL: rows of a table, by bit, come and go without an event.
    Alter {
        table: u8,
        keys: u8,
    },
    Publish,
    Target(TargetFault),
    /// The target refuses connections.
    TargetAway {
        ms: u16,
    },
    /// A clean restart of its node: tombstones are forgotten.
    NodeRestart,
    DropIndex {
        table: u8,
    },
    ReplaceIndex {
        table: u8,
    },
    DiskFull {
        full: bool,
    },
    /// The process dies wherever it stands.
    Crash,
    /// It is told to stop, and started again when it has ended.
    Stop,
    /// It stands still.
    Freeze {
        ms: u16,
    },
    WallClock {
        seconds: u32,
    },
    /// Another process of the same pipeline, with a store of its own.
    Second {
        replaces: bool,
    },
    SecondCrash,
    CutConnection,
    /// The server drops log that the slot needs.
    CutLog,
    Backup,
    /// The server's volume is put back.
    Restore {
        backup: u8,
    },
    /// A standby is promoted: one that has everything, or one that is behind.
    Failover {
        behind: bool,
    },
    /// A person moves the slot on.
    MoveSlot,
    /// The data directory is lost with its process.
    LoseStore,
}

/// One act, after some simulated time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Step {
    pub(super) after_ms: u32,
    /// Then it waits until the process is in this phase, for a while.
    pub(super) when: Option<Phase>,
    pub(super) act: Act,
}

/// A whole run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Plan {
    pub(super) seed: u64,
    /// Keys that are there at first, by bit.
    pub(super) present: u16,
    pub(super) lanes: u8,
    /// Bytes of a row's filler.
    pub(super) filler: u16,
    pub(super) budget: u32,
    pub(super) bulk_count_max: u8,
    /// The most milliseconds between two records of the log.
    pub(super) pace: u8,
    /// 1 or 2.
    pub(super) targets: u8,
    pub(super) steps: Vec<Step>,
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seed, present, lanes, filler, budget, bulk_count_max, pace, targets, .. } = self;
        writeln!(
            f,
            "seed {seed} present {present} lanes {lanes} filler {filler} budget {budget} bulk {bulk_count_max} pace {pace} targets {targets}"
        )?;
        for Step { after_ms, when, act } in &self.steps {
            let text = |value: serde_json::Result<String>| value.map_err(|_| fmt::Error);
            let when = when.map(|phase| serde_json::to_string(&phase).map(|name| format!("in {name} ")));
            let when = text(when.transpose().map(Option::unwrap_or_default))?;
            writeln!(f, "after {after_ms} ms {when}{}", text(serde_json::to_string(act))?)?;
        }
        Ok(())
    }
}

impl std::str::FromStr for Plan {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
        let head: Vec<&str> = lines.next().ok_or("no first line")?.split(' ').collect();
        let number = |name: &str| -> Result<u64, String> {
            let at = head.iter().position(|word| *word == name).ok_or(format!("no {name}"))?;
            head.get(at + 1).and_then(|word| word.parse().ok()).ok_or(format!("no number after {name}"))
        };
        let mut plan = Self {
            seed: number("seed")?,
            present: number("present")? as u16,
            lanes: number("lanes")? as u8,
            filler: number("filler")? as u16,
            budget: number("budget")? as u32,
            bulk_count_max: number("bulk")? as u8,
            pace: number("pace")? as u8,
            // Schedules that were found before there could be two do not say it.
            targets: if head.contains(&"targets") { number("targets")? as u8 } else { 1 },
            steps: Vec::new(),
        };
        for line in lines {
            let rest = line.strip_prefix("after ").ok_or(format!("{line}: no `after`"))?;
            let (after_ms, act) = rest.split_once(" ms ").ok_or(format!("{line}: no ` ms `"))?;
            let after_ms = after_ms.parse().map_err(|_| format!("{line}: no number"))?;
            let wrong = |error| format!("{line}: {error}");
            let (when, act) = match act.strip_prefix("in ").and_then(|rest| rest.split_once(' ')) {
                Some((phase, act)) => (Some(serde_json::from_str(phase).map_err(wrong)?), act),
                None => (None, act),
            };
            plan.steps.push(Step { after_ms, when, act: serde_json::from_str(act).map_err(wrong)? });
        }
        Ok(plan)
    }
}

/// What a run is mostly about: each kind of trouble alone finds what all together hide.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Theme {
    Everything,
    Target,
    Crashes,
    History,
    Processes,
    Calm,
    /// One combination, and little that could mend what it does.
    Alone,
}

impl Plan {
    pub(super) fn of_seed(seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let theme = match rng.below(13) {
            // Every other seed, so that no combination is left to chance.
            _ if seed.is_multiple_of(2) => Theme::Alone,
            0..3 => Theme::Everything,
            3..5 => Theme::Target,
            5..7 => Theme::Crashes,
            7 => Theme::History,
            8 => Theme::Processes,
            9..12 => Theme::Alone,
            _ => Theme::Calm,
        };
        // The log's half has room for what is set aside, a refetch and a row: what the configuration sees to.
        let (filler, budget) = if rng.one_in(3) { (7000, 56 << 10) } else { (20, 128 << 10) };
        let budget = if is_for_two(seed) { 2 * budget } else { budget };
        let mut plan = Self {
            seed,
            present: rng.next() as u16,
            lanes: 1 + rng.below(4) as u8,
            filler,
            budget,
            bulk_count_max: 1 + rng.below(6) as u8,
            pace: [1, 4, 15][rng.below(3) as usize],
            targets: if is_for_two(seed) { 2 } else { 1 },
            steps: Vec::new(),
        };
        // What happens later mends much of what went wrong before: short plans show it.
        let count = if rng.one_in(2) { 3 + rng.below(20) } else { 30 + rng.below(60) };
        let combined = if theme == Theme::Alone { rng.below(8) } else { u64::MAX };
        let count = if theme == Theme::Alone { 10 } else { count };
        for at in 0..count {
            let after_ms = pause(&mut rng);
            if at == combined || (theme != Theme::Alone && rng.one_in(30)) {
                let kind = if theme == Theme::Alone { seed / 2 } else { rng.next() };
                plan.steps.extend(combinations::drawn(&mut rng, kind));
                continue;
            }
            let act = draw(&mut rng, theme);
            let when = if act.is_change() { None } else { drawn_phase(&mut rng) };
            if when == Some(Phase::ShuttingDown) && act != Act::Stop {
                plan.steps.push(Step { after_ms, when: None, act: Act::Stop });
                plan.steps.push(Step { after_ms: rng.below(20) as u32, when, act });
                continue;
            }
            let mut after_ms = after_ms;
            if when == Some(Phase::Connecting) {
                // The source is lost while there is much to write.
                let act = Act::Giant { table: byte(&mut rng), events: 24 };
                plan.steps.push(Step { after_ms: std::mem::take(&mut after_ms), when: None, act });
                let after_ms = rng.below(120) as u32;
                plan.steps.push(Step { after_ms, when: None, act: Act::CutConnection });
            }
            if matches!(when, Some(Phase::Merge | Phase::Tail)) {
                // Something to merge, and to follow; a full disk is noticed only by the next write.
                if matches!(act, Act::DiskFull { .. }) {
                    for table in 0..3 {
                        let act = Act::Giant { table, events: 40 };
                        plan.steps.push(Step { after_ms: 0, when: None, act });
                    }
                }
                let act = Act::Giant { table: byte(&mut rng), events: 8 + rng.below(20) as u8 };
                plan.steps.push(Step { after_ms: std::mem::take(&mut after_ms), when: None, act });
            }
            plan.steps.push(Step { after_ms, when, act });
        }
        combinations::alter(&mut plan);
        if plan.targets > 1 {
            combinations::part(&mut plan);
        }
        plan
    }
}

/// An eighth of the runs has two targets.
fn is_for_two(seed: u64) -> bool {
    matches!(seed % 16, 1 | 8)
}

fn drawn_phase(rng: &mut Rng) -> Option<Phase> {
    match rng.below(18) {
        0..3 => Some(Phase::Backfill),
        3..6 => Some(Phase::Merge),
        6..9 => Some(Phase::Tail),
        9 => Some(Phase::Idle),
        10..12 | 17 => Some(Phase::ShuttingDown),
        12 | 16 => Some(Phase::Connecting),
        // The shortest of all: what is aimed at it often comes too late.
        13 | 14 => Some(Phase::Tail),
        _ => None,
    }
}

impl Act {
    /// What a database does all day.
    fn is_change(self) -> bool {
        matches!(
            self,
            Self::Write { .. }
                | Self::Commit { .. }
                | Self::Show { .. }
                | Self::RollBack { .. }
                | Self::Giant { .. }
                | Self::DeleteAll
                | Self::Alter { .. }
                | Self::Publish
                | Self::Backup
        )
    }
}

fn pause(rng: &mut Rng) -> u32 {
    let most = match rng.below(32) {
        0..14 => 5,
        14..24 => 60,
        24..29 => 400,
        29..31 => 4_000,
        _ => 16_000,
    };
    rng.below(most) as u32
}

fn draw(rng: &mut Rng, theme: Theme) -> Act {
    let trouble = match theme {
        Theme::Alone => 0,
        Theme::Calm => 8,
        _ => 30,
    };
    if rng.below(100) >= trouble {
        return change(rng, theme);
    }
    let kinds: &[fn(&mut Rng) -> Act] = match theme {
        Theme::Everything | Theme::Calm | Theme::Alone => &[target, target, crash, crash, history, processes],
        Theme::Target => &[target, target, target, target, target, crash],
        Theme::Crashes => &[crash, crash, crash, target],
        Theme::History => &[history, history, history, crash, target],
        Theme::Processes => &[processes, processes, crash, target],
    };
    kinds[rng.below(kinds.len() as u64) as usize](rng)
}

fn byte(rng: &mut Rng) -> u8 {
    rng.next() as u8
}

fn change(rng: &mut Rng, theme: Theme) -> Act {
    let transaction = rng.below(3) as u8;
    match rng.below(32) {
        0..15 => {
            let kind = match rng.below(24) {
                0..11 => Kind::Put,
                11..15 => Kind::Partial,
                15..20 => Kind::Delete,
                20..23 => Kind::Move { to: byte(rng) },
                _ => Kind::Truncate,
            };
            Act::Write { transaction, table: byte(rng), key: byte(rng), kind }
        }
        15..22 => Act::Commit { transaction, gap: rng.below(3) as u8 },
        22..28 => Act::Show { transaction },
        28 => Act::RollBack { transaction },
        29 => Act::Giant { table: byte(rng), events: 4 + rng.below(24) as u8 },
        30 if theme == Theme::History || rng.one_in(6) => Act::DeleteAll,
        30 => Act::Backup,
        _ => Act::Publish,
    }
}

fn target(rng: &mut Rng) -> Act {
    match rng.below(31) {
        0..2 => Act::Target(TargetFault::Refused),
        2..5 | 27 => Act::Target(TargetFault::TooLarge),
        6..9 => Act::Target(TargetFault::LostAnswer),
        9..14 => {
            let most = if rng.one_in(3) { 25_000 } else { 9_000 };
            Act::Target(TargetFault::Late { after_ms: 50 + rng.below(most) })
        }
        14..16 | 25..27 => Act::Target(TargetFault::Partial),
        16..18 => Act::Target(TargetFault::HalfOpen { executed: rng.one_in(2) }),
        18 | 24 => Act::TargetAway { ms: rng.below(20_000) as u16 },
        19 => Act::NodeRestart,
        5 | 20..24 => Act::Target(TargetFault::ServerError { executed: rng.one_in(2) }),
        _ if rng.one_in(2) => Act::DropIndex { table: byte(rng) },
        _ => Act::ReplaceIndex { table: byte(rng) },
    }
}

fn crash(rng: &mut Rng) -> Act {
    match rng.below(12) {
        0..5 => Act::Crash,
        5..7 => Act::Stop,
        7..9 => Act::Freeze { ms: rng.below(30_000) as u16 },
        9 => Act::DiskFull { full: true },
        10 => Act::WallClock { seconds: rng.next() as u32 },
        _ => Act::CutConnection,
    }
}

fn history(rng: &mut Rng) -> Act {
    match rng.below(16) {
        0 => Act::CutConnection,
        1 | 12 => Act::CutLog,
        2..4 => Act::Backup,
        4..8 | 13 | 14 => Act::Restore { backup: byte(rng) },
        8..10 | 15 => Act::Failover { behind: rng.one_in(2) },
        10 => Act::MoveSlot,
        _ => Act::LoseStore,
    }
}

fn processes(rng: &mut Rng) -> Act {
    match rng.below(6) {
        0..2 => Act::Second { replaces: rng.one_in(2) },
        2 => Act::SecondCrash,
        3..5 => Act::Freeze { ms: 9_000 + rng.below(30_000) as u16 },
        _ => Act::Crash,
    }
}
