//! A failing plan made small: acts are left out while it still fails in the same way.

use super::plan::Plan;
use super::run::{Report, play};

/// More plays than a person waits for.
const PLAYS_MOST: usize = 1_500;

/// The kind of a failure: its words, without numbers and names.
fn kind(what: &str) -> String {
    what.split(|letter: char| letter.is_ascii_digit() || letter == '{').next().unwrap_or_default().to_owned()
}

/// The smallest plan that was found, with what it says.
pub(super) fn shrink(plan: &Plan, failure: &str) -> (Plan, Report) {
    let wanted = kind(failure);
    let fails = |plan: &Plan| {
        let report = play(plan);
        report.failure.as_deref().is_some_and(|what| kind(what) == wanted).then_some(report)
    };
    let mut best = plan.clone();
    let mut told = Report::default();
    let mut plays = 0;
    let mut part = best.steps.len().div_ceil(2);
    while part > 0 {
        let mut at = 0;
        let mut any = false;
        while at < best.steps.len() && plays < PLAYS_MOST {
            let mut less = best.clone();
            let end = (at + part).min(less.steps.len());
            // The time before what is left out stays.
            let time: u32 = less.steps[at..end].iter().map(|step| step.after_ms).sum();
            less.steps.drain(at..end);
            if let Some(next) = less.steps.get_mut(at) {
                next.after_ms += time;
            }
            plays += 1;
            match fails(&less) {
                Some(report) => {
                    best = less;
                    told = report;
                    any = true;
                }
                None => at += part,
            }
        }
        if !any {
            part /= 2;
        }
    }
    if told.failure.is_none() {
        told = play(&best);
    }
    (best, told)
}
