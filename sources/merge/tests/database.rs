//! A database as far as the merge can tell: transactions whose commit is in the log before anybody
//! can see it, snapshots like `pg_current_snapshot()`, and rows as such a snapshot shows them.
//!
//! ```text
//!   open ──write…──► committed (in the log, its locks held, invisible) ──► ended (visible)
//!     └──► ended (rolled back: its writes are gone)
//! ```
//! Each key keeps the chain of its writes. A write waits until the last writer of the key has
//! ended, so a chain is in commit order and a snapshot shows a prefix of it.

use std::collections::{BTreeMap, BTreeSet};

pub(super) type Xid = u64;
pub(super) type Lsn = u64;

pub(super) const TABLES: u32 = 3;
pub(super) const KEYS: u8 = 4;
/// The table that joins the publication while everything runs; the others were always in it.
pub(super) const LATE: u32 = 2;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Id {
    pub(super) table: u32,
    pub(super) key: u8,
}

/// What the log says of a row. `partial`: an unchanged TOAST value is missing from the image.
/// `unused`: only a column that no document has was changed.
#[derive(Clone, Copy, Debug)]
pub(super) enum Event {
    Put { id: Id, value: u64, partial: bool, unused: bool },
    Delete { id: Id },
    Move { old: Id, new: Id, value: u64, partial: bool },
    Truncate { table: u32 },
}

impl Event {
    /// Every key that the event changes.
    pub(super) fn ids(self) -> Vec<Id> {
        match self {
            Self::Put { id, .. } | Self::Delete { id } => vec![id],
            Self::Move { old, new, .. } => vec![old, new],
            Self::Truncate { table } => ids_of(table).collect(),
        }
    }

    fn table(self) -> u32 {
        match self {
            Self::Put { id, .. } | Self::Delete { id } | Self::Move { old: id, .. } => id.table,
            Self::Truncate { table } => table,
        }
    }
}

pub(super) fn ids_of(table: u32) -> impl Iterator<Item = Id> {
    (0..KEYS).map(move |key| Id { table, key })
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Open,
    Committed,
    Ended,
}

#[derive(Clone, Debug)]
pub(super) struct Transaction {
    events: Vec<(Lsn, Event)>,
    /// DDL that brings or takes rows: the log has its commit, and none of its events.
    is_silent: bool,
    state: State,
    /// The commit record's LSN; `Lsn::MAX` until there is one.
    pub(super) commit: Lsn,
    pub(super) end: Lsn,
    /// By the server's clock: two histories of one server differ in it when in nothing else.
    pub(super) time: u64,
}

#[derive(Clone, Debug)]
struct Write {
    xid: Xid,
    value: Option<u64>,
}

/// `pg_current_snapshot()`.
#[derive(Clone, Debug)]
pub(super) struct View {
    /// The newest transaction that had ended, plus one.
    xmax: Xid,
    /// Those below it that had not.
    xip: BTreeSet<Xid>,
}

impl View {
    pub(super) fn lists(&self, xid: Xid) -> bool {
        self.xip.contains(&xid)
    }

    pub(super) fn shows(&self, xid: Xid) -> bool {
        xid < self.xmax && !self.xip.contains(&xid)
    }
}

/// A row of a read: `held` writes of its key are in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) id: Id,
    pub(super) value: Option<u64>,
    pub(super) held: usize,
}

#[derive(Clone, Debug)]
pub(super) struct Database {
    transactions: BTreeMap<Xid, Transaction>,
    /// In the order of their commit records.
    pub(super) log: Vec<Xid>,
    /// The end of the log.
    pub(super) lsn: Lsn,
    chains: BTreeMap<Id, Vec<Write>>,
    /// From which LSN on the log has the table's events.
    joined: [Option<Lsn>; TABLES as usize],
    last_value: u64,
    /// What commits are stamped with.
    pub(super) clock: u64,
}

impl Database {
    /// Holds the keys of `present` (by bit) before any log was read.
    pub(super) fn new(present: u16) -> Self {
        let first = Transaction {
            events: Vec::new(),
            is_silent: false,
            state: State::Ended,
            commit: 1,
            end: 2,
            time: 0,
        };
        let mut database = Self {
            transactions: BTreeMap::from([(1, first)]),
            log: Vec::new(),
            lsn: 2,
            chains: BTreeMap::new(),
            joined: [Some(0), Some(0), None],
            last_value: 0,
            clock: 0,
        };
        for (bit, id) in (0..TABLES).flat_map(ids_of).enumerate() {
            if present >> bit & 1 == 1 {
                let value = database.fresh_value();
                database.chains.entry(id).or_default().push(Write { xid: 1, value: Some(value) });
            }
        }
        database
    }

    pub(super) fn transaction(&self, xid: Xid) -> &Transaction {
        &self.transactions[&xid]
    }

    /// What the log has of a transaction: the events of tables that were in the publication when
    /// the events were written.
    pub(super) fn events(&self, xid: Xid) -> Vec<Event> {
        let published = |(lsn, event): &(Lsn, Event)| {
            self.joined[event.table() as usize].is_some_and(|joined| *lsn >= joined).then_some(*event)
        };
        let transaction = self.transaction(xid);
        transaction.events.iter().filter(|_| !transaction.is_silent).filter_map(published).collect()
    }

    pub(super) fn is_published(&self, table: u32) -> bool {
        self.joined[table as usize].is_some()
    }

    /// `ALTER PUBLICATION … ADD TABLE`.
    pub(super) fn publish(&mut self, table: u32) {
        self.lsn += 1;
        self.joined[table as usize].get_or_insert(self.lsn);
    }

    pub(super) fn open(&mut self) -> Xid {
        let xid = self.transactions.keys().last().map_or(1, |last| last + 1);
        let transaction = Transaction {
            events: Vec::new(),
            is_silent: false,
            state: State::Open,
            commit: Lsn::MAX,
            end: Lsn::MAX,
            time: 0,
        };
        self.transactions.insert(xid, transaction);
        xid
    }

    fn in_state(&self, state: State) -> Vec<Xid> {
        let found = self.transactions.iter().filter(|(_, transaction)| transaction.state == state);
        found.map(|(xid, _)| *xid).collect()
    }

    pub(super) fn opened(&self) -> Vec<Xid> {
        self.in_state(State::Open)
    }

    /// In the log and not visible.
    pub(super) fn invisible(&self) -> Vec<Xid> {
        self.in_state(State::Committed)
    }

    pub(super) fn has_ended(&self, xid: Xid) -> bool {
        self.transaction(xid).state == State::Ended
    }

    /// The transactions that hold a write lock on a table, as `pg_locks` has them.
    pub(super) fn writers(&self, table: u32) -> Vec<Xid> {
        let writes =
            |transaction: &Transaction| transaction.events.iter().any(|(_, event)| event.table() == table);
        let live = |(xid, transaction): (&Xid, &Transaction)| {
            (transaction.state != State::Ended && writes(transaction)).then_some(*xid)
        };
        self.transactions.iter().filter_map(live).collect()
    }

    /// Whether a read of the table has to wait for the lock of a TRUNCATE.
    pub(super) fn is_locked(&self, table: u32) -> bool {
        let emptied =
            |(_, event): &(Lsn, Event)| matches!(event, Event::Truncate { table: of } if *of == table);
        self.writers(table).iter().any(|xid| self.transaction(*xid).events.iter().any(emptied))
    }

    pub(super) fn fresh_value(&mut self) -> u64 {
        self.last_value += 1;
        self.last_value
    }

    /// The value as the newest write left it, whoever can see it.
    pub(super) fn newest(&self, id: Id) -> Option<u64> {
        self.chains.get(&id).and_then(|chain| chain.last()).and_then(|write| write.value)
    }

    /// Writes, unless another transaction's lock is in the way.
    pub(super) fn write(&mut self, xid: Xid, event: Event) -> bool {
        let is_free = |id: &Id| {
            let last = self.chains.get(id).and_then(|chain| chain.last());
            last.is_none_or(|last| last.xid == xid || self.has_ended(last.xid))
        };
        if !event.ids().iter().all(is_free) {
            return false;
        }
        for id in event.ids() {
            let value = match event {
                Event::Put { value, .. } => Some(value),
                Event::Move { new, value, .. } if id == new => Some(value),
                _ => None,
            };
            self.chains.entry(id).or_default().push(Write { xid, value });
        }
        self.lsn += 1;
        let lsn = self.lsn;
        if let Some(transaction) = self.transactions.get_mut(&xid) {
            transaction.events.push((lsn, event));
        }
        true
    }

    /// The commit record is in the log. It can begin where the last one ended (`gap` 0).
    pub(super) fn commit(&mut self, xid: Xid, gap: u64) {
        let commit = self.lsn + gap;
        self.lsn = commit + 1;
        let end = self.lsn;
        if let Some(transaction) = self.transactions.get_mut(&xid) {
            transaction.state = State::Committed;
            transaction.commit = commit;
            transaction.end = end;
            transaction.time = self.clock;
        }
        self.log.push(xid);
    }

    /// A committed transaction can be seen from now on, and its locks are free.
    pub(super) fn show(&mut self, xid: Xid) {
        if let Some(transaction) = self.transactions.get_mut(&xid) {
            transaction.state = State::Ended;
        }
    }

    pub(super) fn roll_back(&mut self, xid: Xid) {
        for chain in self.chains.values_mut() {
            chain.retain(|write| write.xid != xid);
        }
        if let Some(transaction) = self.transactions.get_mut(&xid) {
            transaction.state = State::Ended;
            transaction.events.clear();
        }
    }

    pub(super) fn snapshot(&self) -> View {
        let ended = self.in_state(State::Ended);
        let xmax = ended.last().map_or(1, |last| last + 1);
        let xip =
            self.transactions.keys().filter(|xid| **xid < xmax && !self.has_ended(**xid)).copied().collect();
        View { xmax, xip }
    }

    /// One key as a snapshot shows it.
    pub(super) fn line(&self, id: Id, view: &View) -> Line {
        let chain = self.chains.get(&id).map_or(&[][..], Vec::as_slice);
        let held = chain.iter().take_while(|write| view.shows(write.xid)).count();
        Line { id, value: held.checked_sub(1).and_then(|last| chain[last].value), held }
    }

    /// How many writes of the key a row must hold to go out with version `place`, when the
    /// transactions in `passed` come before it in the stream (law 1).
    pub(super) fn must_hold(&self, id: Id, place: Lsn, passed: &[Xid]) -> usize {
        let chain = self.chains.get(&id).map_or(&[][..], Vec::as_slice);
        let counts =
            |write: &Write| self.transaction(write.xid).commit < place || passed.contains(&write.xid);
        chain.iter().rposition(counts).map_or(0, |last| last + 1)
    }
}

/// Only a whole simulation asks these.
#[allow(dead_code)]
impl Database {
    /// How many writes of the key a document holds when the log between two places is settled; `None`
    /// when it says nothing of the key.
    pub(super) fn settled_by(&self, id: Id, from: Lsn, lsn: Lsn) -> Option<usize> {
        let joined = self.joined[id.table as usize]?;
        let in_log = |write: &Write| {
            let transaction = self.transaction(write.xid);
            let of_key = |(at, event): &(Lsn, Event)| *at >= joined && event.ids().contains(&id);
            let is_due = transaction.end > from && transaction.end <= lsn && !transaction.is_silent;
            is_due && transaction.events.iter().any(of_key)
        };
        self.chains.get(&id)?.iter().rposition(in_log).map(|last| last + 1)
    }

    /// Rows of a table come and go without an event, as with a partition that is attached or detached; false
    /// where somebody's lock is in the way.
    pub(super) fn alter(&mut self, table: u32, ids: impl Iterator<Item = Id>) -> bool {
        if !self.writers(table).is_empty() {
            return false;
        }
        let xid = self.open();
        for id in ids {
            let event = match self.newest(id) {
                Some(_) => Event::Delete { id },
                None => Event::Put { id, value: self.fresh_value(), partial: false, unused: false },
            };
            self.write(xid, event);
        }
        if let Some(transaction) = self.transactions.get_mut(&xid) {
            transaction.is_silent = true;
        }
        self.commit(xid, 0);
        self.show(xid);
        true
    }

    /// Whether the key's row came or went without an event after so many writes: its document is dealt with
    /// when the table has been read again.
    pub(super) fn is_altered_after(&self, id: Id, least: usize) -> bool {
        let chain = self.chains.get(&id).map_or(&[][..], Vec::as_slice);
        chain.iter().skip(least).any(|write| self.transaction(write.xid).is_silent)
    }

    /// What the catalog says of a table: which alteration of it was the last, by its commit and its time.
    pub(super) fn revision(&self, table: u32) -> (Lsn, u64) {
        let of_table =
            |it: &&Transaction| it.is_silent && it.events.iter().any(|(_, event)| event.table() == table);
        let last = self.transactions.values().rev().find(of_table);
        last.map_or((0, 0), |it| (it.commit, it.time))
    }

    pub(super) fn revisions(&self) -> Vec<(Lsn, u64)> {
        (0..TABLES).map(|table| self.revision(table)).collect()
    }

    /// Whether a document with this value holds at least so many writes of its key.
    pub(super) fn holds(&self, id: Id, value: Option<u64>, least: usize) -> bool {
        let chain = self.chains.get(&id).map_or(&[][..], Vec::as_slice);
        chain.iter().enumerate().any(|(at, write)| write.value == value && at + 1 >= least)
    }

    /// Whether the log has, beyond `lsn`, a change of the key that does not carry every column, or a TRUNCATE.
    pub(super) fn displaces_refetches(&self, id: Id, lsn: Lsn) -> bool {
        let is_partial = |(_, event): &(Lsn, Event)| match event {
            Event::Put { id: of, partial, .. } => *of == id && *partial,
            Event::Move { new, partial, .. } => *new == id && *partial,
            Event::Truncate { table } => *table == id.table,
            Event::Delete { .. } => false,
        };
        let committed = self.log.iter().map(|xid| self.transaction(*xid));
        committed.filter(|it| it.end > lsn).any(|it| it.events.iter().any(is_partial))
    }

    /// A key's writes, for people.
    pub(super) fn chain(&self, id: Id, least: usize) -> String {
        let chain = self.chains.get(&id).map_or(&[][..], Vec::as_slice);
        let writes = chain.iter().map(|write| (write.xid, self.transaction(write.xid).end, write.value));
        format!("at least {least} of {:?}", writes.collect::<Vec<_>>())
    }

    /// Whether this history has such a transaction.
    pub(super) fn is_known(&self, xid: Xid) -> bool {
        self.transactions.contains_key(&xid)
    }
}
