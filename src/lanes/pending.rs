//! What a lane has still to send: a line in the order of arrival, at most one entry a place.
//!
//! ```text
//!   index: place ─► slot          slots: ┌─┬─┬─┬─┬─┬─┐
//!                                        └─┴─┴─┴─┴─┴─┘
//!   ready: first ⇄ … ⇄ last       held:  first ⇄ … ⇄ last     both run through the slots
//! ```
//! A newer entry of a place takes the older one's place in the line, so a key that changes all the
//! time is not put off for ever; what the older one owed to the ledger goes with it (law 4). Held
//! are the entries that a lost answer forbids to send yet (law 3).

use hashbrown::HashTable;

use super::{Action, Kind};
use sources::mutant::{Rule, is_left_out};

use crate::ledger::SegmentId;

/// Changes that were superseded by the entry that carries them: settled when it is.
pub(super) type Carried = Vec<(SegmentId, u64)>;

/// No slot.
const NONE: u32 = u32::MAX;
/// Slots that are kept when nothing is pending; more are given back to the allocator.
const SLOTS_KEPT: usize = 1024;
/// What a carried segment may cost in memory, here and in the ledger, while its change is gone.
pub(super) const CARRIED_BYTES: usize = 128;

/// An action in its line.
#[derive(Debug)]
pub(super) struct Entry {
    /// The hash of its place.
    pub(super) hash: u64,
    pub(super) action: Action,
    pub(super) carried: Carried,
    /// Charged for `carried`, beside the action's own charge, which ends with the action.
    carried_charge: usize,
}

/// Which line an entry stands in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Line {
    Ready,
    Held,
}

#[derive(Debug)]
struct Slot {
    entry: Option<Entry>,
    line: Line,
    previous: u32,
    next: u32,
}

#[derive(Debug)]
struct Ends {
    first: u32,
    last: u32,
    count: usize,
    bytes: usize,
}

impl Ends {
    const EMPTY: Self = Self { first: NONE, last: NONE, count: 0, bytes: 0 };
}

#[derive(Debug)]
pub(super) struct Pending {
    slots: Vec<Slot>,
    free: Vec<u32>,
    index: HashTable<u32>,
    ready: Ends,
    held: Ends,
}

impl Pending {
    pub(super) fn new() -> Self {
        Self {
            slots: Vec::new(),
            free: Vec::new(),
            index: HashTable::new(),
            ready: Ends::EMPTY,
            held: Ends::EMPTY,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.index.len()
    }

    pub(super) fn ready_count(&self) -> usize {
        self.ready.count
    }

    pub(super) fn ready_bytes(&self) -> usize {
        self.ready.bytes
    }

    /// Adds an entry, or lets it take the place of the one that is pending for its place. Returned
    /// are the bytes of charge that are free now.
    pub(super) fn add(&mut self, hash: u64, action: Action) -> usize {
        let slots = &self.slots;
        let found = self.index.find(hash, |&slot| {
            let entry = slots[slot as usize].entry.as_ref();
            entry.is_some_and(|entry| entry.hash == hash && entry.action.same_place(&action))
        });
        match found.copied() {
            Some(slot) => self.replace(slot, action),
            None => {
                self.push(Entry { hash, action, carried: Vec::new(), carried_charge: 0 });
                0
            }
        }
    }

    fn replace(&mut self, slot: u32, mut action: Action) -> usize {
        let line = self.slots[slot as usize].line;
        let Some(entry) = &mut self.slots[slot as usize].entry else { return 0 };
        let before = entry.action.data.len();
        // Versions do not fall in a stream (law 2). What comes again from elsewhere, a dead letter,
        // may be older than what is pending: then it is the older one that is superseded.
        if action.version >= entry.action.version && !is_left_out(Rule::NewestIsKept) {
            std::mem::swap(&mut entry.action, &mut action);
        }
        let after = entry.action.data.len();
        let mut freed = action.charge;
        // Segments come in order: only the last one can be the same.
        match entry.carried.last_mut() {
            Some((segment, count)) if *segment == action.segment => *count += 1,
            _ => {
                entry.carried.push((action.segment, 1));
                let kept = CARRIED_BYTES.min(freed);
                freed -= kept;
                entry.carried_charge += kept;
            }
        }
        let ends = self.ends(line);
        ends.bytes = ends.bytes + after - before;
        // The newer one may be allowed where the older was not: it is looked at again.
        if line == Line::Held {
            self.unlink(slot);
            self.link_first(slot, Line::Ready);
        }
        freed
    }

    fn push(&mut self, entry: Entry) {
        let hash = entry.hash;
        let fresh = Slot { entry: Some(entry), line: Line::Ready, previous: NONE, next: NONE };
        let slot = match self.free.pop() {
            Some(slot) => {
                self.slots[slot as usize] = fresh;
                slot
            }
            None => {
                self.slots.push(fresh);
                (self.slots.len() - 1) as u32
            }
        };
        self.link_last(slot, Line::Ready);
        let slots = &self.slots;
        let hash_of = |&slot: &u32| slots[slot as usize].entry.as_ref().map_or(0, |entry| entry.hash);
        self.index.insert_unique(hash, slot, hash_of);
    }

    /// The first entry that is ready; `None` when there is none.
    pub(super) fn first(&self) -> Option<&Entry> {
        self.slots.get(self.ready.first as usize)?.entry.as_ref()
    }

    /// Takes the first ready entry out.
    pub(super) fn take_first(&mut self) -> Option<Entry> {
        let slot = self.ready.first;
        let hash = self.first()?.hash;
        if let Ok(found) = self.index.find_entry(hash, |&other| other == slot) {
            found.remove();
        }
        self.unlink(slot);
        let entry = self.slots[slot as usize].entry.take();
        self.free.push(slot);
        if self.index.is_empty() && self.slots.capacity() > SLOTS_KEPT {
            *self = Self::new();
        }
        entry
    }

    /// Sets the first ready entry aside until [`Pending::release_held`].
    pub(super) fn hold_first(&mut self) {
        let slot = self.ready.first;
        if slot == NONE {
            return;
        }
        self.unlink(slot);
        self.link_last(slot, Line::Held);
    }

    /// Puts everything that was held back to the head of the line, in its order.
    pub(super) fn release_held(&mut self) {
        while self.held.last != NONE {
            let slot = self.held.last;
            self.unlink(slot);
            self.link_first(slot, Line::Ready);
        }
    }

    #[cfg(test)]
    pub(super) fn slots_kept(&self) -> usize {
        self.slots.capacity()
    }

    fn ends(&mut self, line: Line) -> &mut Ends {
        match line {
            Line::Ready => &mut self.ready,
            Line::Held => &mut self.held,
        }
    }

    fn bytes_of(&self, slot: u32) -> usize {
        self.slots[slot as usize].entry.as_ref().map_or(0, |entry| entry.action.data.len())
    }

    fn unlink(&mut self, slot: u32) {
        let bytes = self.bytes_of(slot);
        let Slot { line, previous, next, .. } = self.slots[slot as usize];
        match self.slots.get_mut(previous as usize) {
            Some(before) => before.next = next,
            None => self.ends(line).first = next,
        }
        match self.slots.get_mut(next as usize) {
            Some(after) => after.previous = previous,
            None => self.ends(line).last = previous,
        }
        let ends = self.ends(line);
        ends.count -= 1;
        ends.bytes -= bytes;
    }

    fn link_last(&mut self, slot: u32, line: Line) {
        let bytes = self.bytes_of(slot);
        let ends = self.ends(line);
        let last = std::mem::replace(&mut ends.last, slot);
        ends.count += 1;
        ends.bytes += bytes;
        if last == NONE {
            ends.first = slot;
        } else {
            self.slots[last as usize].next = slot;
        }
        let own = &mut self.slots[slot as usize];
        (own.line, own.previous, own.next) = (line, last, NONE);
    }

    fn link_first(&mut self, slot: u32, line: Line) {
        let bytes = self.bytes_of(slot);
        let ends = self.ends(line);
        let first = std::mem::replace(&mut ends.first, slot);
        ends.count += 1;
        ends.bytes += bytes;
        if first == NONE {
            ends.last = slot;
        } else {
            self.slots[first as usize].previous = slot;
        }
        let own = &mut self.slots[slot as usize];
        (own.line, own.previous, own.next) = (line, NONE, first);
    }
}

impl Entry {
    /// Bytes charged for all of it.
    pub(super) fn charge(&self) -> usize {
        self.action.charge + self.carried_charge
    }

    /// Whether it is never sent, only kept as a dead letter.
    pub(super) fn is_dead(&self) -> bool {
        matches!(self.action.kind, Kind::Dead(_))
    }
}
