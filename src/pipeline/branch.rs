//! One target of a pipeline: what is under way to it, and what of it is durable.
//!
//! ```text
//!                ┌─ lanes ─► target A ─► ledger A ─┐
//!   rendered ────┤                                 ├─ the lower of both ─► saver
//!                └─ lanes ─► target B ─► ledger B ─┘
//! ```
//! Every target is required: a position is durable when each of them has everything before it, so the
//! slowest one sets the pace.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;

use sources::mutant::{Rule, is_left_out};
use sources::world::{Moment, Task};
use tokio::sync::mpsc;

use super::SharedTarget;
use crate::dead_letters::DeadLetters;
use crate::lanes::{Event, Lanes, Stopped};
use crate::lease::Lease;
use crate::ledger::{Checkpoint, Ledger};

/// Everything of one target, over the life of the intake.
pub(super) struct Branch {
    /// As in `[targets.NAME]`.
    pub(super) name: String,
    pub(super) target: SharedTarget,
    pub(super) lanes: Arc<Lanes>,
    pub(super) events: mpsc::UnboundedReceiver<Event>,
    pub(super) ledger: Ledger,
    pub(super) lease: Arc<Lease>,
    pub(super) letters: Arc<dyn DeadLetters>,
    /// Until then requests of the last process may still be executed.
    pub(super) quarantine_ends: Moment,
    /// Look after the indices and the lease; they end with it.
    pub(super) watchers: Vec<Task>,
    pub(super) passed: Passed,
}

/// How far a target has everything.
#[derive(Default)]
pub(super) struct Passed {
    /// The number of the newest checkpoint that is durable here; 0: none.
    upto: u64,
    /// That checkpoint, until it is saved.
    held: Option<Arc<Checkpoint>>,
}

/// The next thing that the lanes of any target tell; `None` when those of one have ended.
pub(super) async fn next_event(branches: &mut [Branch]) -> (usize, Option<Event>) {
    poll_fn(|context| {
        for (number, branch) in branches.iter_mut().enumerate() {
            if let Poll::Ready(event) = branch.events.poll_recv(context) {
                return Poll::Ready((number, event));
            }
        }
        Poll::Pending
    })
    .await
}

/// The newest checkpoint that is durable at every target, if it was not told yet (law 4).
pub(super) fn newest_durable(branches: &mut [Branch]) -> Option<Arc<Checkpoint>> {
    newest(branches.iter_mut().map(|branch| (&mut branch.ledger, &mut branch.passed)))
}

fn newest<'a>(all: impl Iterator<Item = (&'a mut Ledger, &'a mut Passed)>) -> Option<Arc<Checkpoint>> {
    let mut all: Vec<&mut Passed> = all
        .map(|(ledger, passed)| {
            if let Some(durable) = ledger.take_durable() {
                passed.upto = durable.number();
                passed.held = Some(durable);
            }
            passed
        })
        .collect();
    let reached = all.iter().map(|passed| passed.upto);
    let lowest = if is_left_out(Rule::EveryTargetCounts) { reached.max()? } else { reached.min()? };
    let slowest = all.iter_mut().find(|passed| passed.upto == lowest)?;
    let durable = slowest.held.take()?;
    // What the slowest has not reached is kept, no more.
    for passed in all.iter_mut().filter(|passed| passed.upto == lowest) {
        passed.held = None;
    }
    Some(durable)
}

/// Sends what is pending everywhere, and ends when everything that was submitted is settled; how many
/// requests may still be executed unseen.
pub(super) async fn drained(lanes: Vec<Arc<Lanes>>) -> Result<usize, Stopped> {
    let mut unresolved = 0;
    for lanes in lanes {
        unresolved += lanes.drain().await?.unresolved;
    }
    Ok(unresolved)
}

/// Nothing is sent any more, and what was in flight is answered; how many requests may still be executed unseen.
pub(super) async fn left(lanes: Vec<Arc<Lanes>>) -> Result<usize, Stopped> {
    let mut unresolved = 0;
    for lanes in lanes {
        unresolved += lanes.leave().await?.unresolved;
    }
    Ok(unresolved)
}

/// How a checkpoint names an index: an alias has no slash, and neither has a target's name.
pub(super) fn index_of(target: &str, alias: &str) -> String {
    format!("{target}/{alias}")
}

/// The indices (UUIDs by alias) of one target among all that a checkpoint names. Before format 3 of the store
/// there was one target, without a name.
pub(super) fn indices_of(all: &BTreeMap<String, String>, target: &str) -> BTreeMap<String, String> {
    let own = |(key, uuid): (&String, &String)| {
        let alias = match key.split_once('/') {
            Some((of, alias)) => (of == target).then_some(alias)?,
            None => key,
        };
        Some((alias.to_owned(), uuid.clone()))
    };
    all.iter().filter_map(own).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use crate::ledger::{Ends, SegmentId};
    use sources::position::Position;

    struct Two {
        ledgers: [Ledger; 2],
        passed: [Passed; 2],
        sealed: u64,
    }

    impl Two {
        fn new() -> Self {
            Self { ledgers: Default::default(), passed: Default::default(), sealed: 0 }
        }

        /// One change for each, and a checkpoint behind it.
        fn change(&mut self) -> [SegmentId; 2] {
            self.sealed += 1;
            let checkpoint = Checkpoint::new(self.sealed, Position::from_text(format!("p{}", self.sealed)));
            [0, 1].map(|target| {
                let segment = self.ledgers[target].enter(1);
                self.ledgers[target].seal(checkpoint.clone());
                segment
            })
        }

        fn settle(&mut self, target: usize, segment: SegmentId) {
            self.ledgers[target].settle(segment, &Ends { written: 1, ..Ends::default() }).unwrap();
        }

        fn newest(&mut self) -> Option<String> {
            let durable = newest(self.ledgers.iter_mut().zip(&mut self.passed));
            durable.map(|durable| durable.position().as_text().to_owned())
        }
    }

    #[test]
    fn t01_a_position_is_durable_when_every_target_has_all_before_it() {
        let mut two = Two::new();
        let (first, second, third) = (two.change(), two.change(), two.change());
        two.settle(0, first[0]);
        two.settle(0, second[0]);
        assert_eq!(two.newest(), None, "the other target has nothing");
        two.settle(1, first[1]);
        assert_eq!(two.newest().as_deref(), Some("p1"));
        assert_eq!(two.newest(), None, "it is told once");
        // The other one overtakes: each is the slowest once.
        two.settle(1, second[1]);
        two.settle(1, third[1]);
        assert_eq!(two.newest().as_deref(), Some("p2"));
        two.settle(0, third[0]);
        assert_eq!(two.newest().as_deref(), Some("p3"));
        assert_eq!(two.newest(), None);
    }

    #[test]
    fn a_checkpoint_is_kept_only_as_long_as_it_may_still_be_saved() {
        let mut two = Two::new();
        let (first, second) = (two.change(), two.change());
        two.settle(0, first[0]);
        two.settle(0, second[0]);
        assert_eq!(two.newest(), None);
        assert!(two.passed[0].held.is_some());
        two.settle(1, second[1]);
        assert_eq!(two.newest(), None, "its first change is outstanding");
        two.settle(1, first[1]);
        assert_eq!(two.newest().as_deref(), Some("p2"));
        assert!(two.passed.iter().all(|passed| passed.held.is_none()));
    }

    #[test]
    fn a_checkpoint_names_the_indices_of_each_target() {
        let all = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
            pairs.iter().map(|(key, uuid)| ((*key).to_owned(), (*uuid).to_owned())).collect()
        };
        let kept = all(&[(&index_of("a", "items"), "1"), (&index_of("b", "items"), "2"), ("a/places", "3")]);
        assert_eq!(indices_of(&kept, "a"), all(&[("items", "1"), ("places", "3")]));
        assert_eq!(indices_of(&kept, "b"), all(&[("items", "2")]));
        assert_eq!(indices_of(&kept, "c"), all(&[]));
        assert_eq!(indices_of(&all(&[("items", "1")]), "any"), all(&[("items", "1")]), "of an older format");
    }
}
