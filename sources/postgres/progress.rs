//! What of a table is still to be read in the first fill.
//!
//! ```text
//!   (-∞ ··················································· +∞]   at first: one range to do
//!   (-∞, 500]  taken   (500 ································ +∞]   a worker splits its chunk off
//!   done and gone      (500, 1000] taken   (1000 ··········· +∞]   chunks end in any order
//! ```
//! Ranges are half open, `(low, high]`, in the database's own order of the key, which is never compared
//! here. A range that was taken is still to do until its rows have entered the stream.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The values of a key as PostgreSQL prints them.
pub(super) type KeyText = Vec<String>;

/// The keys above `low` up to and with `high`; `None` is without bound.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Range {
    pub low: Option<KeyText>,
    pub high: Option<KeyText>,
    /// Only the rows of this partition, by its oid: one that was attached with its rows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leaf: Option<u32>,
}

/// Names a range for the life of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct RangeId(u64);

#[derive(Debug)]
struct Entry {
    range: Range,
    taken: bool,
}

/// One table's ranges.
#[derive(Debug)]
pub(super) struct Progress {
    todo: BTreeMap<RangeId, Entry>,
    next: u64,
}

impl Progress {
    /// The whole table.
    pub(super) fn whole() -> Self {
        Self::of(vec![Range::default()])
    }

    /// What a checkpoint says is still to do.
    pub(super) fn of(todo: Vec<Range>) -> Self {
        let mut progress = Self { todo: BTreeMap::new(), next: 0 };
        for range in todo {
            progress.add(range);
        }
        progress
    }

    fn add(&mut self, range: Range) {
        self.todo.insert(RangeId(self.next), Entry { range, taken: false });
        self.next += 1;
    }

    /// A range that nobody reads yet.
    pub(super) fn take(&mut self) -> Option<(RangeId, Range)> {
        let (id, entry) = self.todo.iter_mut().find(|(_, entry)| !entry.taken)?;
        entry.taken = true;
        Some((*id, entry.range.clone()))
    }

    /// Keeps `(low, at]` of a taken range and leaves the rest to whoever comes.
    pub(super) fn split(&mut self, id: RangeId, at: &KeyText) {
        let Some(entry) = self.todo.get_mut(&id) else { return };
        let high = entry.range.high.replace(at.clone());
        let rest = Range { low: Some(at.clone()), high, leaf: entry.range.leaf };
        self.add(rest);
    }

    /// The rows of a taken range have entered the stream: all of them, or those up to and with `upto`.
    pub(super) fn done(&mut self, id: RangeId, upto: Option<KeyText>) {
        match upto {
            None => {
                self.todo.remove(&id);
            }
            Some(key) => {
                if let Some(entry) = self.todo.get_mut(&id) {
                    entry.range.low = Some(key);
                }
            }
        }
    }

    /// What is still to do, the taken ranges included.
    pub(super) fn todo(&self) -> Vec<Range> {
        self.todo.values().map(|entry| entry.range.clone()).collect()
    }

    /// Whether everything has entered the stream.
    pub(super) fn is_done(&self) -> bool {
        self.todo.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn key(number: u32) -> KeyText {
        vec![number.to_string()]
    }

    fn contains(range: &Range, number: u32) -> bool {
        let bound = |key: &Option<KeyText>| key.as_ref().map(|key| key[0].parse::<u32>().unwrap());
        bound(&range.low).is_none_or(|low| number > low)
            && bound(&range.high).is_none_or(|high| number <= high)
    }

    proptest! {
        /// Whatever order chunks are split off, cut short and finished in, and wherever the process
        /// starts again from what was kept, every key is read, and none twice in one life.
        #[test]
        fn every_key_is_read_once(steps in prop::collection::vec((0..4_u8, 0..1000_u32), 1..200)) {
            let mut progress = Progress::whole();
            let mut read = vec![0_u32; 1000];
            let mut taken: Vec<(RangeId, Range)> = Vec::new();
            for (step, number) in steps {
                match step {
                    0 => if let Some((id, range)) = progress.take() {
                        if contains(&range, number) && range.high != Some(key(number)) {
                            progress.split(id, &key(number));
                            taken.push((id, Range { low: range.low, high: Some(key(number)), leaf: None }));
                        } else {
                            taken.push((id, range));
                        }
                    },
                    1 => if !taken.is_empty() {
                        let (id, range) = taken.swap_remove(number as usize % taken.len());
                        (0..1000).filter(|n| contains(&range, *n)).for_each(|n| read[n as usize] += 1);
                        progress.done(id, None);
                    },
                    2 => if !taken.is_empty() {
                        let place = number as usize % taken.len();
                        let (id, range) = &mut taken[place];
                        if contains(range, number) && range.high != Some(key(number)) {
                            let cut = Range { low: range.low.clone(), high: Some(key(number)), leaf: None };
                            (0..1000).filter(|n| contains(&cut, *n)).for_each(|n| read[n as usize] += 1);
                            progress.done(*id, Some(key(number)));
                            range.low = Some(key(number));
                        }
                    },
                    _ => { // a restart: only what was kept is known
                        progress = Progress::of(progress.todo());
                        taken.clear();
                    },
                }
            }
            taken.clear();
            progress = Progress::of(progress.todo());
            while let Some((id, range)) = progress.take() {
                (0..1000).filter(|n| contains(&range, *n)).for_each(|n| read[n as usize] += 1);
                progress.done(id, None);
            }
            prop_assert!(progress.is_done());
            prop_assert!(read.iter().all(|times| *times == 1), "{:?}", read.iter().position(|times| *times != 1));
        }
    }
}
