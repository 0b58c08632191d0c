//! Schedules that once failed, shrunk. Each is a test by its file's name.

use super::plan::Plan;
use super::run::play;

fn replay(text: &str) {
    let plan: Plan = text.parse().unwrap();
    let report = play(&plan);
    assert_eq!(report.failure, None, "{plan}{}", report.trace.join("\n"));
}

macro_rules! found {
    ($($name:ident),* $(,)?) => {
        $(#[test]
        fn $name() {
            replay(include_str!(concat!("found/", stringify!($name), ".txt")));
        })*
    };
}

found! {
    another_process_s_index_is_not_ours,
    a_truncate_ends_dead_letters,
    a_process_that_stood_still_makes_no_index,
    a_sweep_spares_what_has_a_letter,
    a_halt_that_ended_the_lanes_is_told,
}
