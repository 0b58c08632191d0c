//! The merge of reads into the log (law 2), written once for every source.
//!
//! ```text
//!   log   ──T1──T2───────T3(k)────T4───────►            one stream, versions never fall for a key
//!                 begin │  ▲ k is dropped     │ finish
//!   read                └──── rows, snapshot ─┘──► the other rows go out here, at the reader's place
//! ```
//! A read (a chunk, a refetch, a repair) counts only if its snapshot sees every transaction that the
//! reader had passed when the read began; else it is read again. Rows whose key was changed by a
//! transaction passed since are dropped: the log's own image went out. The rest go out at once, at
//! the reader's place. Only the keys passed during one read are held.
//!
//! Within a transaction the reader's place is that transaction. Rows of a read that began before it
//! and does not see it would be older than that place: they are held until the transaction ends,
//! and dropped one by one as it changes their keys.
//!
//! It relies on three facts: a transaction that one snapshot of the primary has seen is seen by every
//! later one; `begin` is called before the read's snapshot is taken, and after the change that a
//! refetch is for; and after a start of the reader, or after a table has joined, the table's first
//! read begins when the transactions that then held a write lock on it have ended (what was passed in
//! an earlier life is not known here).

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::change::Key;
use crate::mutant::{Rule, is_left_out};

/// What a read saw, in the database's own notion: PostgreSQL's `pg_current_snapshot()`, a GTID set.
pub trait Snapshot {
    /// How a transaction is named in the log.
    type Tx: Clone + PartialEq;

    /// Whether every change of the transaction is in what was read.
    fn sees(&self, transaction: &Self::Tx) -> bool;
}

/// Names a read that has begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReadId(u64);

/// What comes of a finished read.
#[derive(Debug, PartialEq, Eq)]
pub enum Finish<R> {
    /// Its snapshot is too old: begin and read again.
    Again,
    /// It counts, but a transaction is being passed that it does not see: [`Merge::released`] gives
    /// the rows when that has ended.
    Held,
    /// The rows to emit now, at the reader's place, and how many were displaced.
    Out(Vec<R>, u64),
}

/// Memory that a held key costs beside its bytes: two words, the set's slot and the allocation.
const KEY_BYTES: usize = 64;

struct Read<S: Snapshot, R> {
    table: u32,
    /// Transactions passed before it began that no earlier snapshot has shown to be visible.
    must_see: Vec<S::Tx>,
    changed: HashSet<Key>,
    /// The table was emptied since: every row is displaced.
    cleared: bool,
    held: Option<Held<R>>,
}

struct Held<R> {
    rows: Vec<Option<R>>,
    places: HashMap<Key, usize>,
    displaced: u64,
}

/// A held read that may go out: its id, its rows, and how many of them were displaced.
pub type Released<R> = (ReadId, Vec<R>, u64);

/// The reads that are under way, and what of the log they have to know. `R` is a row as the source
/// reads it.
pub struct Merge<S: Snapshot, R> {
    /// Passed, and not yet known to be visible to every new snapshot.
    unseen: Vec<S::Tx>,
    /// The transaction that is being passed.
    current: Option<S::Tx>,
    reads: BTreeMap<ReadId, Read<S, R>>,
    next: u64,
    changed_bytes: usize,
}

impl<S: Snapshot, R> Default for Merge<S, R> {
    fn default() -> Self {
        Self { unseen: Vec::new(), current: None, reads: BTreeMap::new(), next: 0, changed_bytes: 0 }
    }
}

impl<S: Snapshot, R> Merge<S, R> {
    /// The reader passes the first record of a transaction.
    pub fn pass(&mut self, transaction: S::Tx) {
        self.unseen.push(transaction.clone());
        self.current = Some(transaction);
    }

    /// The reader passes a change of `key` (of both keys when it changes). True when it displaced a
    /// row of a read, or may turn out to have: such a change must go out even if nothing of it is
    /// used (law 6), since the row will not.
    ///
    /// After a restart within a transaction the events that are skipped are not told: the reads
    /// that begin now see that transaction, and the skipped event brings nothing in their place.
    pub fn change(&mut self, key: &Key) -> bool {
        if is_left_out(Rule::ChangedRowsAreDropped) {
            return false;
        }
        let mut displaces = false;
        let table = key.table();
        for read in self.reads.values_mut().filter(|read| read.table == table && !read.cleared) {
            if let Some(held) = &mut read.held {
                displaces |= held.displace(key);
                continue;
            }
            displaces = true;
            if !read.changed.contains(key) {
                self.changed_bytes += KEY_BYTES + key.heap_bytes();
                read.changed.insert(key.clone());
            }
        }
        displaces
    }

    /// The reader passes a change of every key of the table (TRUNCATE).
    pub fn clear(&mut self, table: u32) {
        if is_left_out(Rule::ClearDropsAll) {
            return;
        }
        for read in self.reads.values_mut().filter(|read| read.table == table) {
            if let Some(held) = &mut read.held {
                held.displace_all();
            }
            self.changed_bytes -= bytes_of(&read.changed);
            read.changed = HashSet::new();
            read.cleared = true;
        }
    }

    /// The reader passes the end of the transaction; [`Merge::released`] may have rows now.
    pub fn end(&mut self) {
        self.current = None;
    }

    /// A read begins: called before its snapshot is taken.
    pub fn begin(&mut self, table: u32) -> ReadId {
        let id = ReadId(self.next);
        self.next += 1;
        let must_see = self.unseen.clone();
        let read = Read { table, must_see, changed: HashSet::new(), cleared: false, held: None };
        self.reads.insert(id, read);
        id
    }

    /// A read was given up.
    pub fn abandon(&mut self, id: ReadId) {
        if let Some(read) = self.reads.remove(&id) {
            self.changed_bytes -= bytes_of(&read.changed);
        }
    }

    /// A read has ended. `key_of` makes a row's key; a row without one cannot be merged: it counts as
    /// displaced as soon as any key does.
    pub fn finish(
        &mut self,
        id: ReadId,
        snapshot: &S,
        rows: Vec<R>,
        key_of: impl Fn(&R) -> Option<Key>,
    ) -> Finish<R> {
        let Some(mut read) = self.reads.remove(&id) else {
            return Finish::Again;
        };
        self.changed_bytes -= bytes_of(&read.changed);
        self.forget(snapshot);
        let sees_all = read.must_see.iter().all(|transaction| snapshot.sees(transaction));
        if !sees_all && !is_left_out(Rule::ReadsMustSee) {
            return Finish::Again;
        }
        let total = rows.len() as u64;
        let rows = match (read.cleared, read.changed.is_empty()) {
            (true, _) => Vec::new(),
            (false, true) => rows,
            (false, false) => {
                let keep = |row: &R| key_of(row).is_some_and(|key| !read.changed.contains(&key));
                rows.into_iter().filter(keep).collect()
            }
        };
        let displaced = total - rows.len() as u64;
        let unseen_now = self.current.as_ref().is_some_and(|current| !snapshot.sees(current));
        if !unseen_now {
            return Finish::Out(rows, displaced);
        }
        read.changed = HashSet::new();
        read.held = Some(Held::new(rows, displaced, key_of));
        self.reads.insert(id, read);
        Finish::Held
    }

    /// Held reads that may go out now, in the order in which they began. Asked after
    /// [`Merge::end`], when the reader's place is the end of the transaction.
    pub fn released(&mut self) -> Vec<Released<R>> {
        if self.current.is_some() {
            return Vec::new();
        }
        self.take_held()
    }

    /// Gives up the held reads, which the caller begins again: the reader has to wait in the middle
    /// of a transaction for something that such a read must bring. Begun again, it will see the
    /// transaction.
    pub fn unhold(&mut self) -> Vec<ReadId> {
        self.take_held().into_iter().map(|(id, ..)| id).collect()
    }

    /// Whether anything is held or under way.
    pub fn is_idle(&self) -> bool {
        self.reads.is_empty()
    }

    /// A snapshot was taken: what it sees, every later one will see.
    pub fn forget(&mut self, snapshot: &S) {
        self.unseen.retain(|transaction| !snapshot.sees(transaction));
    }

    /// Transactions passed that no snapshot has shown to be visible. The caller takes a snapshot
    /// ([`Merge::forget`]) when they become many.
    pub fn unseen(&self) -> usize {
        self.unseen.len()
    }

    /// Bytes of keys held for reads under way. The caller lets the reader wait when they become
    /// many: the reads end by themselves.
    pub fn changed_bytes(&self) -> usize {
        self.changed_bytes
    }

    fn take_held(&mut self) -> Vec<Released<R>> {
        let ids: Vec<ReadId> =
            self.reads.iter().filter(|(_, read)| read.held.is_some()).map(|(id, _)| *id).collect();
        let mut released = Vec::with_capacity(ids.len());
        for id in ids {
            let held = self.reads.remove(&id).and_then(|read| read.held);
            if let Some(held) = held {
                released.push((id, held.rows.into_iter().flatten().collect(), held.displaced));
            }
        }
        released
    }
}

impl<R> Held<R> {
    /// Only rows that a change can displace are held: one without a key is displaced at once. Of two
    /// rows with one key, which one snapshot shows alike, one is enough.
    fn new(rows: Vec<R>, mut displaced: u64, key_of: impl Fn(&R) -> Option<Key>) -> Self {
        let mut places = HashMap::with_capacity(rows.len());
        let mut kept: Vec<Option<R>> = Vec::with_capacity(rows.len());
        for row in rows {
            let Some(key) = key_of(&row) else {
                displaced += 1;
                continue;
            };
            if let Some(same) = places.insert(key, kept.len()) {
                kept[same] = None;
                displaced += 1;
            }
            kept.push(Some(row));
        }
        Self { rows: kept, places, displaced }
    }

    fn displace(&mut self, key: &Key) -> bool {
        let Some(place) = self.places.remove(key) else { return false };
        self.rows[place] = None;
        self.displaced += 1;
        true
    }

    fn displace_all(&mut self) {
        self.displaced += self.rows.iter().flatten().count() as u64;
        self.rows.clear();
        self.places.clear();
    }
}

fn bytes_of(keys: &HashSet<Key>) -> usize {
    keys.iter().map(|key| KEY_BYTES + key.heap_bytes()).sum()
}

#[cfg(test)]
mod tests;
