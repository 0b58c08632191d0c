//! Random changes against random faults: the target ends equal to the last change of each key.

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;

use super::rig::{Fault, Rig, document, settings};

const SECOND: Duration = Duration::from_secs(1);

#[derive(Clone, Debug)]
enum Step {
    /// Key, how much the version rises, what to do.
    Change(usize, u64, What),
    Seal,
    Sleep(u64),
    Fault(Fault),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    Put,
    Delete,
    Poison,
    Dead,
}

fn fault() -> impl Strategy<Value = Fault> {
    prop_oneof![
        4 => (0_u64..9_900).prop_map(|late| Fault::Lost(Some(Duration::from_millis(late)))),
        2 => (10_000_u64..30_000).prop_map(|late| Fault::Lost(Some(Duration::from_millis(late)))),
        2 => Just(Fault::Lost(None)),
        1 => Just(Fault::Refused),
        3 => (0_usize..4).prop_map(|item| Fault::Item(item, 429, "es_rejected_execution_exception")),
        1 => Just(Fault::All(503, "unavailable_shards_exception")),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let what = prop_oneof![
        8 => Just(What::Put),
        5 => Just(What::Delete),
        1 => Just(What::Poison),
        1 => Just(What::Dead),
    ];
    prop_oneof![
        8 => (0_usize..4, prop_oneof![3 => Just(0_u64), 2 => Just(1)], what).prop_map(|(k, v, w)| Step::Change(k, v, w)),
        2 => Just(Step::Seal),
        4 => prop_oneof![0_u64..50, 0_u64..4_000].prop_map(Step::Sleep),
        3 => fault().prop_map(Step::Fault),
    ]
}

async fn run(steps: Vec<Step>) -> Result<(), TestCaseError> {
    let mut settings = settings();
    settings.lanes = 2;
    settings.bulk_count_max = 3;
    let mut rig = Rig::new(settings);
    let mut last: BTreeMap<String, (u64, What, String)> = BTreeMap::new();
    let (mut version, mut changes, mut sealed) = (1, 0, None);
    for (number, step) in steps.into_iter().enumerate() {
        match step {
            Step::Change(key, rise, what) => {
                version += rise;
                changes += 1;
                let id = format!("k{key}");
                let text = match what {
                    What::Poison => format!("poison {number}"),
                    _ => format!("image {number}"),
                };
                match what {
                    What::Put | What::Poison => rig.put(&id, version, &text).await,
                    What::Delete => rig.delete(&id, version).await,
                    What::Dead => rig.dead(&id, version).await,
                }
                last.insert(id, (version, what, text));
            }
            Step::Seal => {
                rig.seal(number as u64);
                sealed = Some(number.to_string());
            }
            Step::Sleep(time) => rig.sleep(Duration::from_millis(time)).await,
            Step::Fault(fault) => rig.fault([fault]),
        }
    }
    rig.drain().await.unwrap();
    rig.sleep(120 * SECOND).await;
    for (id, (version, what, text)) in &last {
        let letter = rig.letters.kept.lock().unwrap().contains_key(id);
        match what {
            What::Put => prop_assert_eq!(rig.held(id), Some((*version, document(text))), "{}", id),
            What::Delete => prop_assert_eq!(rig.held(id), None, "{}", id),
            What::Poison | What::Dead => {}
        }
        prop_assert_eq!(letter, matches!(what, What::Poison | What::Dead), "letter of {}", id);
    }
    let durable = rig.durable();
    prop_assert_eq!(durable, sealed);
    let counts = rig.ledger.counts();
    prop_assert_eq!((counts.read, counts.in_flight()), (changes, 0));
    prop_assert_eq!(rig.budget.used(), 0);
    prop_assert_eq!(rig.state(|state| state.overlaps), 0);
    prop_assert!(rig.halts.is_empty());
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, ..ProptestConfig::default() })]
    #[test]
    fn the_target_ends_equal_to_the_last_change_of_each_key(steps in prop::collection::vec(step(), 1..60)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(run(steps))?;
    }
}
