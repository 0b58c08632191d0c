//! Rules left out, one at a time: each must be caught by the end state alone.

use std::sync::Mutex;

use sources::mutant::{Rule, leave_out};

use super::plan::Plan;
use super::rules::{ModelRule, leave_model_out};
use super::run::play_with;

/// More seeds than a mutant may live.
const SEEDS_MOST: u64 = 1_000;

#[derive(Clone, Copy, Debug)]
enum Mutant {
    Product(Rule),
    Model(ModelRule),
}

/// Law, what is left out.
const MUTANTS: &[(u8, Mutant)] = &[
    (1, Mutant::Product(Rule::BaseIsRaised)),
    (1, Mutant::Product(Rule::CeilingIsStored)),
    (1, Mutant::Product(Rule::DeletesCarryVersions)),
    (1, Mutant::Model(ModelRule::PlaceIsTheReaders)),
    (2, Mutant::Product(Rule::ReadsMustSee)),
    (2, Mutant::Product(Rule::ChangedRowsAreDropped)),
    (2, Mutant::Product(Rule::ClearDropsAll)),
    (2, Mutant::Model(ModelRule::ReadsAreMerged)),
    (2, Mutant::Model(ModelRule::FirstReadWaits)),
    (2, Mutant::Model(ModelRule::RenewalsAwaitTheLog)),
    (3, Mutant::Product(Rule::OnePlaceOneLane)),
    (3, Mutant::Product(Rule::UnresolvedPlacesWait)),
    (3, Mutant::Product(Rule::QuarantineIsKept)),
    (3, Mutant::Product(Rule::StartIsQuarantined)),
    (3, Mutant::Product(Rule::NewIndicesAwaitIt)),
    (3, Mutant::Product(Rule::NewestIsKept)),
    (4, Mutant::Product(Rule::EarlierSegmentsCount)),
    (4, Mutant::Product(Rule::EveryTargetCounts)),
    (4, Mutant::Product(Rule::SavedBeforeTold)),
    (4, Mutant::Product(Rule::OnlyAnsweredIsSettled)),
    (4, Mutant::Model(ModelRule::CheckpointsAwaitRefetches)),
    (4, Mutant::Model(ModelRule::PrefixIsCounted)),
    (5, Mutant::Product(Rule::ChargesOutliveThePop)),
    (5, Mutant::Product(Rule::BudgetIsWaitedFor)),
    (6, Mutant::Product(Rule::SupersededAreCounted)),
    (6, Mutant::Product(Rule::LettersAreSuperseded)),
    (6, Mutant::Product(Rule::LettersAreKept)),
    (7, Mutant::Product(Rule::BusyIsAskedAgain)),
    (7, Mutant::Product(Rule::PoisonIsDeadLettered)),
    (8, Mutant::Product(Rule::BrokenHistoryHalts)),
    (8, Mutant::Product(Rule::CheckpointsNameIndices)),
    (8, Mutant::Product(Rule::IndicesAreWatched)),
    (8, Mutant::Model(ModelRule::HistoryIsCompared)),
    (9, Mutant::Product(Rule::BarrierDrainsFirst)),
    (9, Mutant::Product(Rule::BarrierEndsLetters)),
    (9, Mutant::Product(Rule::BarrierDeletes)),
    (9, Mutant::Product(Rule::SweepsSpareLetters)),
    (9, Mutant::Model(ModelRule::SweepsAreSent)),
    (9, Mutant::Model(ModelRule::OldSlotsAreSwept)),
    (9, Mutant::Model(ModelRule::RenewalsBeginAnew)),
];

/// Seeds that were needed, with what the last one said; `None` when it lived.
fn hunt(mutant: Mutant) -> Option<(u64, String)> {
    match mutant {
        Mutant::Product(rule) => leave_out(Some(rule)),
        Mutant::Model(rule) => leave_model_out(Some(rule)),
    }
    let caught = (0..SEEDS_MOST)
        .find_map(|seed| play_with(&Plan::of_seed(seed), true).failure.map(|what| (seed + 1, what)));
    leave_out(None);
    leave_model_out(None);
    caught
}

/// A schedule that was found fails again without the rule that mended it.
#[test]
fn what_was_found_needs_its_rule() {
    let found = [
        (Rule::CheckpointsNameIndices, include_str!("found/another_process_s_index_is_not_ours.txt")),
        (Rule::BarrierEndsLetters, include_str!("found/a_truncate_ends_dead_letters.txt")),
        (Rule::SweepsSpareLetters, include_str!("found/a_sweep_spares_what_has_a_letter.txt")),
    ];
    for (rule, text) in found {
        leave_out(Some(rule));
        let failure = play_with(&text.parse().unwrap(), true).failure;
        leave_out(None);
        assert!(failure.is_some(), "nothing is wrong without {rule:?}");
    }
}

#[test]
fn every_mutant_is_caught_by_the_end_state() {
    let results = Mutex::new(vec![None; MUTANTS.len()]);
    let next = std::sync::atomic::AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let at = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    let Some((_, mutant)) = MUTANTS.get(at) else { return };
                    let result = hunt(*mutant);
                    results.lock().unwrap()[at] = result;
                }
            });
        }
    });
    println!("| law | left out | seeds needed | the end says |\n|---|---|---|---|");
    let results = results.into_inner().unwrap();
    let mut alive = Vec::new();
    for ((law, mutant), result) in MUTANTS.iter().zip(results) {
        let name = match mutant {
            Mutant::Product(rule) => format!("{rule:?}"),
            Mutant::Model(rule) => format!("{rule:?}"),
        };
        match result {
            Some((seeds, what)) => {
                let what: String = what.chars().take(90).collect();
                println!("| {law} | {name} | {seeds} | {what} |");
            }
            None => {
                println!("| {law} | {name} | more than {SEEDS_MOST} | |");
                alive.push(name);
            }
        }
    }
    assert!(alive.is_empty(), "these live: {alive:?}");
}
