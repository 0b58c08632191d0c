//! Several acts, one upon the other: what is rare by chance.

use super::{Act, Kind, Plan, Step, byte};
use crate::simulation::cluster::TargetFault;
use crate::simulation::env::Phase;
use crate::simulation::executor::Rng;

/// What rules are for, by its kind.
pub(super) fn drawn(rng: &mut Rng, kind: u64) -> Vec<Step> {
    let step = |rng: &mut Rng, most: u64, act| Step { after_ms: rng.below(most) as u32, when: None, act };
    let late = Act::Target(TargetFault::Late { after_ms: 2_000 + rng.below(7_800) });
    let giant = Act::Giant { table: byte(rng), events: 4 + rng.below(20) as u8 };
    let transaction = rng.below(3) as u8;
    let truncate = Act::Write { transaction, table: byte(rng), key: 0, kind: Kind::Truncate };
    let ends = [Act::Commit { transaction, gap: 0 }, Act::Show { transaction }];
    let mut steps = Vec::new();
    match kind % 8 {
        // A process dies with requests on their way, and what they carry is overtaken meanwhile.
        0 => {
            steps.extend([step(rng, 60, late), step(rng, 60, late), step(rng, 1, giant)]);
            let end = [Act::LoseStore, Act::Crash, Act::CutLog, Act::CutLog][rng.below(4) as usize];
            steps.push(step(rng, 300, end));
            steps.push(step(rng, 300, Act::DeleteAll));
            steps.push(step(rng, 6_000, Act::NodeRestart));
        }
        // A table is emptied while a request with its rows is on its way.
        1 => {
            steps.extend([step(rng, 60, late), step(rng, 60, late), step(rng, 1, giant)]);
            if rng.one_in(2) {
                steps.push(step(rng, 400, truncate));
                steps.extend(ends.map(|act| step(rng, 20, act)));
            } else {
                steps.push(step(rng, 400, Act::DeleteAll));
            }
            steps.push(step(rng, 3_000, Act::NodeRestart));
        }
        // A process stands still with changes that it has yet to send, and another one takes over.
        2 => {
            let freeze = Act::Freeze { ms: 30_000 + rng.below(10_000) as u16 };
            let long = Act::Giant { table: byte(rng), events: 60 };
            let stuck = Act::Target(TargetFault::HalfOpen { executed: false });
            steps.extend([step(rng, 60, stuck), step(rng, 60, stuck), step(rng, 1, long)]);
            steps.push(step(rng, 150, freeze));
            steps.push(step(rng, 60, Act::Second { replaces: true }));
            steps.push(step(rng, 400, Act::DeleteAll));
            steps.push(step(rng, 400, Act::CutConnection));
            if rng.one_in(2) {
                steps.push(Step { after_ms: 23_000 + rng.below(4_000) as u32, when: None, act: Act::Crash });
                steps.push(step(rng, 5, Act::SecondCrash));
            } else {
                // What the other one's deletes left behind is forgotten before it goes on.
                steps.push(Step { after_ms: 28_000, when: None, act: Act::NodeRestart });
                steps.push(Step { after_ms: 15_000, when: None, act: Act::Publish });
            }
        }
        // A long transaction is passed; behind it lies one that nobody sees yet, of rows that are read now.
        4 => {
            let giant = Act::Giant { table: byte(rng), events: 160 };
            steps.push(step(rng, 60, Act::LoseStore));
            steps.push(Step { after_ms: 0, when: Some(Phase::Backfill), act: Act::Publish });
            steps.push(step(rng, 400, giant));
            for _ in 0..3 {
                let write = Act::Write { transaction, table: byte(rng), key: byte(rng), kind: Kind::Put };
                steps.push(step(rng, 1, write));
            }
            steps.push(step(rng, 1, Act::Commit { transaction, gap: 0 }));
        }
        // The index is empty but for what it remembers of deleted documents, and another history begins.
        5 => {
            steps.push(step(rng, 60, Act::Backup));
            steps.push(step(rng, 60, giant));
            steps.push(step(rng, 400, Act::DeleteAll));
            steps.push(Step { after_ms: 1_500, when: Some(Phase::Idle), act: Act::LoseStore });
            steps.push(step(rng, 1, Act::Restore { backup: 2 }));
        }
        // A server is put back to a moment before the checkpoint, while it is read.
        6 => {
            steps.push(step(rng, 60, Act::Backup));
            steps.push(step(rng, 60, giant));
            steps.push(Step { after_ms: 3_000, when: Some(Phase::Idle), act: Act::Publish });
            let more = Act::Giant { table: byte(rng), events: 40 };
            steps.push(step(rng, 60, more));
            let when = [Phase::Merge, Phase::Tail, Phase::Tail, Phase::Idle][rng.below(4) as usize];
            steps.push(Step { after_ms: 0, when: Some(when), act: Act::Restore { backup: 2 } });
        }
        // Rows change while they are read.
        3 => {
            steps.push(step(rng, 60, Act::LoseStore));
            for transaction in 0..3 {
                let kind = if rng.one_in(3) { Kind::Delete } else { Kind::Put };
                let write = Act::Write { transaction, table: byte(rng), key: byte(rng), kind };
                steps.push(Step { after_ms: rng.below(200) as u32, when: Some(Phase::Backfill), act: write });
                steps.push(step(rng, 40, Act::Commit { transaction: 0, gap: 0 }));
                steps.push(step(rng, 40, Act::Show { transaction: 0 }));
            }
        }
        // A table is emptied while it is read.
        _ => {
            let act = if rng.one_in(2) { Act::LoseStore } else { Act::Publish };
            steps.push(step(rng, 60, act));
            steps.push(Step { after_ms: 0, when: Some(Phase::Backfill), act: Act::Publish });
            steps.push(step(rng, 400, truncate));
            for table in 0..3 {
                let more = Act::Write { transaction, table, key: 0, kind: Kind::Truncate };
                steps.push(step(rng, 1, more));
            }
            steps.extend(ends.map(|act| step(rng, 20, act)));
        }
    }
    steps
}

/// Some plans alter tables. Drawn apart, so that everything else of a seed stays what it was.
pub(super) fn alter(plan: &mut Plan) {
    match plan.seed % 16 {
        3 | 11 | 15 => {}
        5 | 10 | 14 => return alter_at_once(plan),
        _ => return,
    }
    let mut rng = Rng::new(plan.seed ^ 0x00a1_7e12);
    for _ in 0..1 + rng.below(4) {
        let table = byte(&mut rng);
        let giant = Act::Giant { table, events: 4 + rng.below(40) as u8 };
        let when = [None, Some(Phase::Backfill), Some(Phase::Tail), Some(Phase::Idle)];
        let when = when[rng.below(4) as usize];
        let mut steps = Vec::new();
        if rng.one_in(2) {
            steps.push(Step { after_ms: rng.below(60) as u32, when: None, act: giant });
        }
        let keys = 1 + rng.below(15) as u8;
        steps.push(Step { after_ms: rng.below(40) as u32, when, act: Act::Alter { table, keys } });
        let then = match rng.below(5) {
            0 => Some(Act::Crash),
            // While it is read again.
            1 => {
                let act = Act::Failover { behind: rng.one_in(3) };
                let after_ms = rng.below(200) as u32;
                steps.push(Step { after_ms, when: Some(Phase::Backfill), act });
                None
            }
            2 => Some(giant),
            3 => Some(Act::CutConnection),
            _ => None,
        };
        steps.extend(then.map(|act| Step { after_ms: rng.below(600) as u32, when: None, act }));
        let at = rng.below(plan.steps.len() as u64 + 1) as usize;
        plan.steps.splice(at..at, steps);
    }
    if plan.seed % 16 == 11 {
        alter_between_servers(plan);
    }
}

/// At the end, where nothing mends it: another server takes over while a table is read again.
fn alter_between_servers(plan: &mut Plan) {
    let mut rng = Rng::new(plan.seed ^ 0x00be_7a1e);
    let table = byte(&mut rng);
    let giant = Act::Giant { table, events: 10 + rng.below(40) as u8 };
    let alter = Act::Alter { table, keys: 1 + rng.below(15) as u8 };
    let over = Act::Failover { behind: rng.one_in(3) };
    plan.steps.push(Step { after_ms: 2_000, when: Some(Phase::Idle), act: giant });
    plan.steps.push(Step { after_ms: 1_000, when: Some(Phase::Idle), act: alter });
    plan.steps.push(Step { after_ms: rng.below(200) as u32, when: Some(Phase::Backfill), act: over });
}

/// Before anything was recorded: rows that the log brings are gone by then.
fn alter_at_once(plan: &mut Plan) {
    let mut rng = Rng::new(plan.seed ^ 0x0a_7051);
    let table = byte(&mut rng);
    let giant = Act::Giant { table, events: 4 + rng.below(20) as u8 };
    let alter = Act::Alter { table, keys: 1 + rng.below(15) as u8 };
    let first = Step { after_ms: rng.below(3_000) as u32, when: None, act: giant };
    plan.steps.splice(0..0, [first, Step { after_ms: rng.below(60) as u32, when: None, act: alter }]);
}

/// One of two targets is away while the other one takes what comes, and the process dies. From its own draws,
/// so that the rest of the plan stays.
pub(super) fn part(plan: &mut Plan) {
    let mut rng = Rng::new(plan.seed ^ 0x5eed);
    let mut step = |most: u64, act| Step { after_ms: rng.below(most) as u32, when: None, act };
    let away = Act::TargetAway { ms: 6_000 };
    let giant = Act::Giant { table: (plan.seed % 3) as u8, events: 20 };
    let steps = [step(400, away), step(60, giant), step(2_500, Act::Crash)];
    plan.steps.extend(steps);
}
