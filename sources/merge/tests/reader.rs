//! A reader as a source has one: it passes the log record by record, takes reads beside it through
//! the [`Merge`], and writes one stream. It checks its own stream against laws 1, 2 and 6.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::database::{Database, Event, Id, KEYS, LATE, Line, Lsn, TABLES, View, Xid, ids_of};
use super::{Mutant, key};
use crate::merge::{Finish, Merge, ReadId, Snapshot};

/// A snapshot as the merge asks it.
pub(super) struct Seen {
    pub(super) view: View,
    /// The mutant "no visibility check".
    pub(super) blind: bool,
}

impl Snapshot for Seen {
    type Tx = Xid;

    fn sees(&self, transaction: &Xid) -> bool {
        self.blind || self.view.shows(*transaction)
    }
}

/// Where to go on, and which keys of the first fill are in the stream before it.
#[derive(Clone, Debug, Default)]
pub(super) struct Checkpoint {
    /// Transactions of the log passed.
    passed: usize,
    place: Lsn,
    /// Events of the next one that have gone out.
    prefix: Option<usize>,
    done: BTreeSet<Id>,
}

/// One element of the stream.
#[derive(Clone, Debug)]
pub(super) enum Item {
    Row { id: Id, value: Option<u64>, version: Lsn },
    Clear { table: u32, version: Lsn },
    Checkpoint(Checkpoint),
}

/// What a read is to bring.
#[derive(Clone, Debug)]
pub(super) enum Wanted {
    Chunk(Vec<Id>),
    /// An absent row is a delete.
    Fetch(Id),
}

impl Wanted {
    fn ids(&self) -> &[Id] {
        match self {
            Self::Chunk(ids) => ids,
            Self::Fetch(id) => std::slice::from_ref(id),
        }
    }

    fn table(&self) -> u32 {
        self.ids()[0].table
    }
}

struct Read {
    id: ReadId,
    wanted: Wanted,
    taken: Option<(View, Vec<Line>)>,
    /// For the mutants: the server's position before the read, and the keys passed since.
    asked: Lsn,
    changed: BTreeSet<Id>,
}

pub(super) struct Reader {
    mutant: Mutant,
    merge: Merge<Seen, Line>,
    /// Transactions of the log passed, and events of the next one if it is being passed.
    passed: usize,
    within: Option<usize>,
    /// Events of the next transaction that went out in an earlier life.
    skip: usize,
    last_end: Lsn,
    done: BTreeSet<Id>,
    /// Keys whose last event went out only when a refetch has brought it.
    needed: BTreeSet<Id>,
    /// The writers that a table's reads wait for.
    gate: Vec<(u32, Xid)>,
    reads: Vec<Read>,
    held: BTreeMap<ReadId, Read>,
    newest: BTreeMap<Id, Lsn>,
    pub(super) out: VecDeque<Item>,
}

type Checked = Result<(), String>;

impl Reader {
    /// `enter`: a transaction that had gone out in part is the place at once, not when it comes again;
    /// either is right, since the gate lets reads begin only when they see it.
    pub(super) fn open(database: &Database, from: &Checkpoint, mutant: Mutant, enter: bool) -> Self {
        let mut reader = Self {
            mutant,
            merge: Merge::default(),
            passed: from.passed,
            within: None,
            skip: from.prefix.unwrap_or(0),
            last_end: from.place,
            done: from.done.clone(),
            needed: BTreeSet::new(),
            gate: Vec::new(),
            reads: Vec::new(),
            held: BTreeMap::new(),
            newest: BTreeMap::new(),
            out: VecDeque::new(),
        };
        if mutant != Mutant::NoGateAtRestart {
            (0..TABLES).for_each(|table| reader.wait_for_writers(database, table));
        }
        if from.prefix.is_some() && enter {
            reader.enter(database.log[from.passed]);
        }
        reader
    }

    pub(super) fn join(&mut self, database: &Database) {
        if self.mutant != Mutant::NoGateAtJoin {
            self.wait_for_writers(database, LATE);
        }
    }

    fn wait_for_writers(&mut self, database: &Database, table: u32) {
        self.gate.extend(database.writers(table).into_iter().map(|xid| (table, xid)));
    }

    fn enter(&mut self, xid: Xid) {
        self.within = Some(0);
        if self.mutant != Mutant::CurrentNotPassed {
            self.merge.pass(xid);
        }
    }

    fn place(&self, database: &Database) -> Lsn {
        match self.within {
            Some(_) => database.transaction(database.log[self.passed]).commit,
            None => self.last_end,
        }
    }

    pub(super) fn is_within(&self) -> bool {
        self.within.is_some()
    }

    /// Passes one record; false when there is none.
    pub(super) fn pass(&mut self, database: &Database) -> Result<bool, String> {
        let Some(&xid) = database.log.get(self.passed) else {
            return Ok(false);
        };
        let events = database.events(xid);
        match self.within {
            // The server does not send a transaction that changed nothing published.
            None if events.is_empty() => self.passed += 1,
            None => self.enter(xid),
            Some(at) if at < events.len() => {
                self.within = Some(at + 1);
                self.event(database, events[at], at < self.skip)?;
            }
            Some(_) => self.end(database, xid)?,
        }
        Ok(true)
    }

    fn end(&mut self, database: &Database, xid: Xid) -> Checked {
        if self.mutant == Mutant::CurrentNotPassed {
            self.merge.pass(xid);
        }
        self.merge.end();
        self.last_end = database.transaction(xid).end;
        self.passed += 1;
        self.within = None;
        self.skip = 0;
        for (id, lines, displaced) in self.merge.released() {
            let read = self.held.remove(&id).ok_or("a read was released that was not held")?;
            self.settle(database, &read, lines, displaced)?;
        }
        Ok(())
    }

    fn event(&mut self, database: &Database, event: Event, skipped: bool) -> Checked {
        if skipped {
            if self.mutant == Mutant::SkippedTold {
                self.tell(event);
            }
            return Ok(());
        }
        let displaces = self.tell(event) && self.mutant != Mutant::DisplacingSuppressed;
        let version = self.place(database);
        match event {
            // Suppressed (law 6), unless an older change of the key is held back.
            Event::Put { id, unused: true, .. } if !displaces && !self.needed.contains(&id) => Ok(()),
            Event::Put { id, value, partial, .. } => self.put(id, value, partial, version),
            Event::Delete { id } => self.row(id, None, version),
            Event::Move { old, new, value, partial } => {
                self.row(old, None, version)?;
                self.put(new, value, partial, version)
            }
            Event::Truncate { table } => {
                self.needed.retain(|id| id.table != table);
                self.out.push_back(Item::Clear { table, version });
                ids_of(table).try_for_each(|id| self.rise(id, version))
            }
        }
    }

    fn tell(&mut self, event: Event) -> bool {
        for read in self.reads.iter_mut().chain(self.held.values_mut()) {
            read.changed.extend(event.ids());
        }
        match event {
            _ if self.mutant == Mutant::NoDrop => false,
            Event::Truncate { .. } if self.mutant == Mutant::NoClear => false,
            Event::Truncate { table } => {
                self.merge.clear(table);
                true
            }
            _ => event.ids().iter().fold(false, |displaces, id| self.merge.change(&key(*id)) | displaces),
        }
    }

    fn put(&mut self, id: Id, value: u64, partial: bool, version: Lsn) -> Checked {
        if partial {
            self.needed.insert(id);
            return Ok(());
        }
        self.row(id, Some(value), version)
    }

    fn row(&mut self, id: Id, value: Option<u64>, version: Lsn) -> Checked {
        self.needed.remove(&id);
        self.out.push_back(Item::Row { id, value, version });
        self.rise(id, version)
    }

    /// Law 2: versions never fall for a key in the stream.
    fn rise(&mut self, id: Id, version: Lsn) -> Checked {
        match self.newest.insert(id, version) {
            Some(before) if before > version => {
                Err(format!("stream: the version of {id:?} fell: {before}, {version}"))
            }
            _ => Ok(()),
        }
    }

    /// Between transactions the server's keepalive moves the place on.
    pub(super) fn keepalive(&mut self, database: &Database) {
        if self.within.is_none() && self.passed == database.log.len() {
            self.last_end = database.lsn;
        }
    }

    pub(super) fn checkpoint(&mut self) {
        // Behind an event that a refetch has yet to bring, nothing is complete.
        if self.needed.is_empty() && self.within.unwrap_or(0) >= self.skip {
            let (passed, place, prefix) = (self.passed, self.last_end, self.within);
            self.out.push_back(Item::Checkpoint(Checkpoint {
                passed,
                place,
                prefix,
                done: self.done.clone(),
            }));
        }
    }

    /// Keys that no chunk has brought or is about to bring.
    pub(super) fn missing(&self, database: &Database) -> Vec<Id> {
        let under_way = |id: &Id| {
            let reads = self.reads.iter().chain(self.held.values());
            reads
                .filter(|read| matches!(read.wanted, Wanted::Chunk(_)))
                .any(|read| read.wanted.ids().contains(id))
        };
        let published = (0..TABLES).filter(|table| database.is_published(*table));
        published.flat_map(ids_of).filter(|id| !self.done.contains(id) && !under_way(id)).collect()
    }

    pub(super) fn is_gated(&self, database: &Database, table: u32) -> bool {
        self.gate.iter().any(|(of, xid)| *of == table && !database.has_ended(*xid))
    }

    /// A chunk from `first` on, of at most `rows` keys.
    pub(super) fn begin_chunk(&mut self, database: &Database, first: Id, rows: u8) {
        if self.is_gated(database, first.table) {
            return;
        }
        let missing = self.missing(database);
        let ids = (first.key..KEYS.min(first.key + rows)).map(|key| Id { table: first.table, key });
        let ids: Vec<Id> = ids.take_while(|id| missing.contains(id)).collect();
        if !ids.is_empty() {
            self.begin(database, Wanted::Chunk(ids));
        }
    }

    /// Keys that wait for a refetch which nobody has begun.
    pub(super) fn unfetched(&self) -> Vec<Id> {
        let begun =
            |id: &Id| self.reads.iter().chain(self.held.values()).any(|read| read.wanted.ids() == [*id]);
        self.needed.iter().filter(|id| !begun(id)).copied().collect()
    }

    pub(super) fn begin(&mut self, database: &Database, wanted: Wanted) {
        let id = self.merge.begin(wanted.table());
        self.reads.push(Read { id, wanted, taken: None, asked: database.lsn, changed: BTreeSet::new() });
    }

    pub(super) fn reads(&self) -> usize {
        self.reads.len()
    }

    /// The read's statement runs, unless a TRUNCATE's lock is in its way.
    pub(super) fn take(&mut self, database: &Database, read: usize) {
        let read = &mut self.reads[read];
        if read.taken.is_some() || database.is_locked(read.wanted.table()) {
            return;
        }
        let view = database.snapshot();
        let lines = read.wanted.ids().iter().map(|id| database.line(*id, &view));
        let lines = match read.wanted {
            Wanted::Chunk(_) => lines.filter(|line| line.value.is_some()).collect(),
            Wanted::Fetch(_) => lines.collect(),
        };
        read.taken = Some((view, lines));
    }

    pub(super) fn abandon(&mut self, read: usize) {
        let read = self.reads.swap_remove(read);
        self.merge.abandon(read.id);
    }

    pub(super) fn unhold(&mut self, database: &Database) {
        for id in self.merge.unhold() {
            if let Some(read) = self.held.remove(&id) {
                self.begin(database, read.wanted);
            }
        }
    }

    /// A snapshot for itself, as a caller takes one when the unseen become many.
    pub(super) fn forget(&mut self, database: &Database) {
        let blind = self.mutant == Mutant::NoVisibilityCheck;
        self.merge.forget(&Seen { view: database.snapshot(), blind });
    }

    /// The read's rows have arrived.
    pub(super) fn finish(&mut self, database: &Database, read: usize) -> Checked {
        let Some((view, lines)) = self.reads[read].taken.clone() else {
            return Ok(());
        };
        let read = self.reads.swap_remove(read);
        let seen = Seen { view, blind: self.mutant == Mutant::NoVisibilityCheck };
        match self.merge.finish(read.id, &seen, lines.clone(), |line| Some(key(line.id))) {
            Finish::Again => Ok(()),
            Finish::Held if self.mutant == Mutant::HeldAtOnce => {
                self.merge.abandon(read.id);
                let total = lines.len();
                let lines: Vec<Line> =
                    lines.into_iter().filter(|line| !read.changed.contains(&line.id)).collect();
                let displaced = (total - lines.len()) as u64;
                self.settle(database, &read, lines, displaced)
            }
            Finish::Held => {
                self.held.insert(read.id, read);
                Ok(())
            }
            Finish::Out(lines, displaced) => self.settle(database, &read, lines, displaced),
        }
    }

    fn settle(&mut self, database: &Database, read: &Read, lines: Vec<Line>, displaced: u64) -> Checked {
        let total = read.taken.as_ref().map_or(0, |(_, lines)| lines.len());
        if lines.len() as u64 + displaced != total as u64 {
            return Err(format!("law 6: {total} rows read, {} out, {displaced} displaced", lines.len()));
        }
        let version = match self.mutant {
            Mutant::PositionAsked => read.asked,
            _ => self.place(database),
        };
        let passed = &database.log[..self.passed + usize::from(self.within.is_some())];
        for line in lines {
            let must_hold = database.must_hold(line.id, version, passed);
            self.row(line.id, line.value, version)?;
            if line.held < must_hold {
                return Err(format!("law 1: {line:?} lacks writes up to its version {version}"));
            }
        }
        if let Wanted::Chunk(ids) = &read.wanted {
            self.done.extend(ids);
        }
        Ok(())
    }

    /// Whether the stream has everything of the log and of the first fill.
    pub(super) fn is_complete(&self, database: &Database) -> bool {
        let idle = self.reads.is_empty() && self.held.is_empty() && self.needed.is_empty();
        idle && self.passed == database.log.len() && self.missing(database).is_empty()
    }

    /// What the merge holds when nothing is under way.
    pub(super) fn held_bytes(&self) -> Option<usize> {
        self.merge.is_idle().then(|| self.merge.changed_bytes())
    }
}
