//! Which places have a dead letter: asked for every change that settles, so it is kept in memory.
//!
//! A place is known by the hash of its alias and id. All that is held is charged (law 5), at once: a lane that
//! waited for room here would hold what others wait for. So it has a bound of its own, a part of the budget.

use hashbrown::HashTable;
use sources::budget::{Budget, Charge};

use crate::dead_letters::DeadLetterError;

/// A table is half as large as its successor, and both are there while it grows.
const WITH_THE_FORMER: (usize, usize) = (3, 2);
/// A table of so many places is not worth to be made smaller.
const SMALL: usize = 1024;

/// The hashes of places, each as often as letters have it.
pub(super) struct Places {
    hashes: HashTable<u64>,
    budget: Budget,
    charge: Charge,
    /// The most bytes of memory.
    limit: usize,
}

impl Places {
    /// None yet; at most `limit` bytes of memory.
    pub(super) fn new(budget: &Budget, limit: usize) -> Self {
        Self { hashes: HashTable::new(), budget: budget.clone(), charge: budget.nothing(), limit }
    }

    /// How many letters have a place.
    pub(super) fn len(&self) -> usize {
        self.hashes.len()
    }

    pub(super) fn contains(&self, place: u64) -> bool {
        self.hashes.find(place, |&known| known == place).is_some()
    }

    pub(super) fn add(&mut self, place: u64) -> Result<(), DeadLetterError> {
        let must_grow = self.hashes.len() == self.hashes.capacity();
        if must_grow {
            let bytes = with_the_former(self.hashes.allocation_size().max(64) * 2);
            if bytes > self.limit {
                let letters = self.hashes.len() as u64 + 1;
                return Err(DeadLetterError::Crowded { letters, limit: self.limit });
            }
            self.charge_for(bytes);
        }
        self.hashes.insert_unique(place, place, |&known| known);
        if must_grow {
            self.charge_for(with_the_former(self.hashes.allocation_size()));
        }
        Ok(())
    }

    pub(super) fn remove(&mut self, place: u64) {
        let Ok(entry) = self.hashes.find_entry(place, |&known| known == place) else { return };
        entry.remove();
        let spare = self.hashes.capacity();
        if spare > SMALL && self.hashes.len() < spare / 8 {
            self.hashes.shrink_to(self.hashes.len() * 2, |&known| known);
            self.charge_for(with_the_former(self.hashes.allocation_size()));
        }
    }

    fn charge_for(&mut self, bytes: usize) {
        if self.charge.bytes() != bytes {
            // The old one ends first: what is held anyway is never counted twice.
            self.charge = self.budget.nothing();
            self.charge = self.budget.remember(bytes);
        }
    }
}

fn with_the_former(bytes: usize) -> usize {
    bytes / WITH_THE_FORMER.1 * WITH_THE_FORMER.0
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// Well spread, and none twice.
    fn hash(number: u64) -> u64 {
        number.wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }

    #[test]
    fn what_the_places_hold_is_charged_and_given_back() {
        let budget = Budget::new(64 << 20);
        let mut places = Places::new(&budget, 8 << 20);
        assert_eq!(budget.used(), 0);
        for number in 0..100_000 {
            places.add(hash(number)).unwrap();
            assert!(budget.used() >= places.hashes.allocation_size());
        }
        assert!((900_000..2 << 20).contains(&budget.used()), "{} bytes for 100,000", budget.used());
        assert!((0..100_000).all(|number| places.contains(hash(number))) && !places.contains(hash(100_000)));
        for number in 0..99_990 {
            places.remove(hash(number));
        }
        assert!(budget.used() < 64 << 10, "{} bytes for ten", budget.used());
        assert_eq!(places.len(), 10);
        assert!((99_990..100_000).all(|number| places.contains(hash(number))));
        drop(places);
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn two_letters_of_one_hash_are_two() {
        let budget = Budget::new(1 << 20);
        let mut places = Places::new(&budget, 1 << 20);
        places.add(7).unwrap();
        places.add(7).unwrap();
        places.remove(7);
        assert!(places.contains(7) && places.len() == 1);
        places.remove(7);
        places.remove(7);
        assert!(!places.contains(7) && places.len() == 0);
    }

    #[test]
    fn more_than_the_bound_is_refused_and_what_is_there_stays() {
        let budget = Budget::new(1 << 20);
        let mut places = Places::new(&budget, 100 << 10);
        let refused = (0..100_000).find_map(|number| places.add(hash(number)).err().map(|why| (number, why)));
        let (number, why) = refused.unwrap();
        assert!(matches!(why, DeadLetterError::Crowded { limit: 102_400, .. }), "{why:?}");
        assert!(number > 1_000 && budget.used() <= 100 << 10, "{number}, {}", budget.used());
        assert!(places.contains(hash(0)) && !places.contains(hash(number)));
    }
}
