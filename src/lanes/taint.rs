//! Places whose last write was not answered (law 3; ATTACKS B3, D3).
//!
//! ```text
//!   request lost ─► its places are tainted ─► quarantine since its connection was closed
//!                                              ─► no task with its id runs any more ─► clean
//! ```
//! A request without an answer may still be executed, long after its repetition was. Its versions
//! order it against newer puts: the target refuses the older one. They do not order it against an
//! image of an equal version, nor against a delete, whose tombstone the target may forget. Those
//! two wait. What is kept of a place is its hash and version: two places with one hash make each
//! other wait, which is safe.

use std::time::Duration;

use hashbrown::HashMap;
use sources::budget::Charge;
use sources::mutant::{Rule, is_left_out};
use sources::position::Version;
use sources::world::Moment;

use super::Kind;

/// What remembering one place costs.
pub(super) const TAINT_BYTES: usize = 48;
/// Between two questions about a task that was found running.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// A request that got no answer.
#[derive(Debug)]
struct Lost {
    opaque_id: String,
    /// When it may be asked after: the quarantine must have passed, so that a request which is
    /// still on its way is not taken for one that has ended.
    ask_at: Moment,
}

/// One request with its repetitions.
#[derive(Debug)]
struct Group {
    number: u64,
    lost: Vec<Lost>,
    /// The highest version that any of them may still write, by the hash of the place.
    places: HashMap<u64, Version>,
    /// For the memory of `places`, from when the entries themselves have gone.
    charge: Option<Charge>,
}

/// All that is tainted in a lane.
#[derive(Debug, Default)]
pub(super) struct Taints {
    groups: Vec<Group>,
    next: u64,
}

impl Taints {
    /// A request with these places got no answer; its connection was closed just now. `group` is
    /// what an earlier try of the same images was told; returned is what to tell the next one.
    pub(super) fn lost(
        &mut self,
        group: Option<u64>,
        opaque_id: String,
        ask_at: Moment,
        places: impl Iterator<Item = (u64, Version)>,
    ) -> u64 {
        let known = group.and_then(|number| self.groups.iter_mut().find(|found| found.number == number));
        if let Some(found) = known {
            found.lost.push(Lost { opaque_id, ask_at });
            return found.number;
        }
        let number = self.next;
        self.next += 1;
        let mut map: HashMap<u64, Version> = HashMap::with_capacity(places.size_hint().0);
        for (hash, version) in places {
            let highest = map.entry(hash).or_insert(version);
            *highest = (*highest).max(version);
        }
        let lost = vec![Lost { opaque_id, ask_at }];
        self.groups.push(Group { number, lost, places: map, charge: None });
        number
    }

    /// Whether a group is still remembered.
    pub(super) fn is_alive(&self, group: Option<u64>) -> bool {
        group.is_some_and(|number| self.groups.iter().any(|found| found.number == number))
    }

    /// Charges a group for the places whose own charges have ended.
    pub(super) fn charge(&mut self, group: Option<u64>, charge: Charge) {
        let known = group.and_then(|number| self.groups.iter_mut().find(|found| found.number == number));
        let Some(found) = known else { return };
        match &mut found.charge {
            Some(held) => held.merge(charge),
            None => found.charge = Some(charge),
        }
    }

    /// Whether a change of this place has to wait.
    pub(super) fn blocks(&self, hash: u64, version: Version, kind: &Kind) -> bool {
        if is_left_out(Rule::UnresolvedPlacesWait) {
            return false;
        }
        self.groups.iter().any(|group| match (group.places.get(&hash), kind) {
            (None, _) | (Some(_), Kind::Dead(_)) => false,
            (Some(_), Kind::Delete) => true,
            (Some(highest), Kind::Put) => version <= *highest,
        })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    /// Requests that may still be executed.
    pub(super) fn unresolved(&self) -> usize {
        self.groups.iter().map(|group| group.lost.len()).sum()
    }

    /// When the next question is due; `None` when there is nothing to ask.
    pub(super) fn next_question(&self) -> Option<Moment> {
        self.groups.iter().flat_map(|group| &group.lost).map(|lost| lost.ask_at).min()
    }

    /// A request to ask after now.
    pub(super) fn question(&self, now: Moment) -> Option<String> {
        let mut all = self.groups.iter().flat_map(|group| &group.lost);
        all.find(|lost| lost.ask_at <= now).map(|lost| lost.opaque_id.clone())
    }

    /// The target knows no task of that name, asked after the quarantine: it will not be executed
    /// any more. Returned is whether some places are clean now.
    pub(super) fn ended(&mut self, opaque_id: &str) -> bool {
        for group in &mut self.groups {
            group.lost.retain(|lost| lost.opaque_id != opaque_id);
        }
        let before = self.groups.len();
        self.groups.retain(|group| !group.lost.is_empty());
        self.groups.len() < before
    }

    /// It runs, or the target did not say.
    pub(super) fn ask_again(&mut self, opaque_id: &str, now: Moment) {
        let all = self.groups.iter_mut().flat_map(|group| &mut group.lost);
        for lost in all.filter(|lost| lost.opaque_id == opaque_id) {
            lost.ask_at = now + ASK_AGAIN;
        }
    }
}
