//! Everything outside of Rowtide, and what the run notes of it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rowtide::target::memory::Memory;
use serde::{Deserialize, Serialize};
use sources::position::Position;
use sources::world::Moment;

use super::cluster::{Late, TargetFault};
use super::database::{Id, Lsn, TABLES, ids_of};
use super::executor::Pid;
use super::server::Server;
use super::source::Place;
use super::store::Disk;

/// Where a process stands when something happens to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) enum Phase {
    Connecting,
    Backfill,
    Merge,
    Tail,
    Idle,
    ShuttingDown,
}

pub(super) const PHASES: [Phase; 6] =
    [Phase::Connecting, Phase::Backfill, Phase::Merge, Phase::Tail, Phase::Idle, Phase::ShuttingDown];

/// What a running reader tells.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ReaderView {
    pub(super) filled: bool,
    pub(super) behind: bool,
    pub(super) is_merging: bool,
}

/// How often what was reached.
#[derive(Clone, Debug)]
pub(super) struct Hits<T: Ord>(pub(super) BTreeMap<T, u64>);

impl<T: Ord> Default for Hits<T> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<T: Ord> Hits<T> {
    pub(super) fn hit(&mut self, what: T) {
        *self.0.entry(what).or_default() += 1;
    }
}

/// Before the names of the second target's indices, where letters are kept.
pub(super) const SECOND: &str = "second/";

pub(super) struct Env {
    pub(super) server: Server,
    pub(super) backups: Vec<Server>,
    pub(super) connections: BTreeMap<u64, Pid>,
    pub(super) readers: BTreeMap<Pid, ReaderView>,
    /// By process: its timeline, and what it may have emitted had committed below.
    pub(super) reached: BTreeMap<Pid, (u32, Lsn)>,
    pub(super) stopping: BTreeSet<Pid>,
    pub(super) cluster: Arc<Memory>,
    /// Where everything goes too, if the run has two targets; nobody touches its indices.
    pub(super) second: Option<Arc<Memory>>,
    pub(super) target_faults: VecDeque<TargetFault>,
    /// Items that are answered so, once for each.
    pub(super) item_faults: u32,
    pub(super) late: Vec<Late>,
    pub(super) refuses_until: Moment,
    pub(super) disks: BTreeMap<u32, Disk>,
    pub(super) disk_full: bool,
    /// An index that a person has touched says nothing until it is filled anew.
    pub(super) index_is_touched: bool,
    /// Where the log begins that the present fill follows.
    pub(super) filled_from: Lsn,
    /// Bytes of the requests under way, by process, and the most at once.
    pub(super) in_flight: BTreeMap<Pid, usize>,
    pub(super) in_flight_most: usize,
    pub(super) filler: usize,
    /// The most milliseconds between two records of the log.
    pub(super) pace: u64,
    pub(super) faults: Hits<(&'static str, Phase)>,
    pub(super) attacks: Hits<&'static str>,
    /// The first thing that was wrong.
    pub(super) violation: Option<String>,
    pub(super) trace: VecDeque<String>,
    /// Two processes have run: what one wrote, the other may have replaced since.
    pub(super) two_wrote: bool,
    /// The store of the process that is left at the end.
    pub(super) last_disk: u32,
    /// Checks within the run are left out: only its end tells.
    pub(super) end_only: bool,
    numbers: u64,
}

/// How the environment is shared.
#[derive(Clone)]
pub(super) struct Shared(Arc<Mutex<Env>>);

impl Shared {
    pub(super) fn new(present: u16, filler: usize, pace: u64, targets: u8) -> Self {
        Self(Arc::new(Mutex::new(Env {
            server: Server::new(present),
            backups: Vec::new(),
            connections: BTreeMap::new(),
            readers: BTreeMap::new(),
            reached: BTreeMap::new(),
            stopping: BTreeSet::new(),
            cluster: Arc::new(Memory::new()),
            second: (targets > 1).then(|| Arc::new(Memory::new())),
            target_faults: VecDeque::new(),
            item_faults: 0,
            late: Vec::new(),
            refuses_until: Moment::ZERO,
            disks: BTreeMap::new(),
            disk_full: false,
            index_is_touched: false,
            filled_from: 0,
            in_flight: BTreeMap::new(),
            in_flight_most: 0,
            filler,
            pace,
            faults: Hits::default(),
            attacks: Hits::default(),
            violation: None,
            trace: VecDeque::new(),
            two_wrote: false,
            last_disk: 0,
            end_only: false,
            numbers: 0,
        })))
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Env> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A value whose document the target refuses for its own fault.
pub(super) fn is_poison(value: u64) -> bool {
    value % 13 == 5
}

impl Env {
    pub(super) fn fresh_number(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }

    pub(super) fn note(&mut self, what: String) {
        if self.trace.len() == 400 {
            self.trace.pop_front();
        }
        self.trace.push_back(what);
    }

    pub(super) fn wrong(&mut self, what: String) {
        self.note(format!("WRONG: {what}"));
        self.violation.get_or_insert(what);
    }

    pub(super) fn phase(&self, process: Pid) -> Phase {
        if self.stopping.contains(&process) {
            return Phase::ShuttingDown;
        }
        match self.readers.get(&process) {
            None => Phase::Connecting,
            Some(view) if view.is_merging => Phase::Merge,
            Some(view) if !view.filled => Phase::Backfill,
            Some(view) if view.behind => Phase::Tail,
            Some(_) => Phase::Idle,
        }
    }

    /// A fault reaches a process.
    pub(super) fn fault(&mut self, fault: &'static str, process: Pid) {
        let phase = self.phase(process);
        self.note(format!("  {fault} hits process {process} in {phase:?}"));
        self.faults.hit((fault, phase));
    }

    pub(super) fn hang_up(&mut self, connection: u64) {
        if let Some(process) = self.connections.remove(&connection) {
            self.readers.remove(&process);
        }
        if let Some(slot) = &mut self.server.slot
            && slot.active == Some(connection)
        {
            slot.active = None;
        }
    }

    /// Every connection to the database ends.
    pub(super) fn disconnect(&mut self) {
        self.server.disconnect();
        self.connections.clear();
        self.readers.clear();
    }

    /// A reader tells that a position is durable: law 4's two sides, checked.
    pub(super) fn acknowledge(
        &mut self,
        process: Pid,
        connection: u64,
        position: &Position,
        acknowledged: &mut Lsn,
    ) {
        let Ok(place) = position.open::<Place>() else {
            return self.wrong("a position that is no place was acknowledged".to_owned());
        };
        let store = self.disks.values().find(|disk| disk.process == Some(process));
        let kept = store.and_then(|disk| disk.position.as_ref()).and_then(|kept| kept.open::<Place>().ok());
        if !self.end_only && kept.is_none_or(|kept| kept.lsn < place.lsn) {
            self.wrong(format!("law 4: {} was acknowledged and is not in the store", place.lsn));
        }
        if !self.server.serves(connection) {
            return;
        }
        *acknowledged = (*acknowledged).max(place.lsn);
        let lsn = *acknowledged;
        if let Some(slot) = &mut self.server.slot {
            slot.confirmed = slot.confirmed.max(lsn);
        }
        if !self.index_is_touched
            && !self.end_only
            && !self.two_wrote
            && let Some(what) = self.behind(lsn)
        {
            self.wrong(format!("law 4: {lsn} was acknowledged, but {what}"));
        }
    }

    /// Something that had committed below `lsn` is about to be emitted.
    pub(super) fn reach(&mut self, process: Pid, lsn: Lsn) {
        if let Some((_, reached)) = self.reached.get_mut(&process) {
            *reached = lsn.max(*reached);
        }
    }

    /// A key whose document lacks what was committed up to `lsn`.
    fn behind(&self, lsn: Lsn) -> Option<String> {
        self.targets().into_iter().find_map(|(of, cluster)| self.behind_at(lsn, of, &cluster))
    }

    fn behind_at(&self, lsn: Lsn, of: &str, cluster: &Memory) -> Option<String> {
        let database = &self.server.database;
        (0..TABLES).flat_map(ids_of).find_map(|id| {
            let least = database.settled_by(id, self.filled_from, lsn)?;
            let have = indexed(cluster, id);
            // A refetch that a later TRUNCATE displaces, or a later change that is still to be fetched, brings
            // nothing: what displaced it lies beyond the checkpoint and comes again after a crash.
            let comes_again = database.displaces_refetches(id, lsn) || database.is_altered_after(id, least);
            let holds = comes_again || database.holds(id, have, least) || self.has_letter(of, id);
            (!holds).then(|| format!("{id:?} is {have:?} in the index {of:?}, {}", database.chain(id, least)))
        })
    }

    pub(super) fn letter_of(&self, disk: u32, place: (String, Vec<u8>)) -> Option<u64> {
        self.disks.get(&disk)?.letters.get(&place).copied()
    }

    /// Every target, with what stands before the names of its indices where its letters are kept.
    pub(super) fn targets(&self) -> Vec<(&'static str, Arc<Memory>)> {
        let first = std::iter::once(("", self.cluster.clone()));
        first.chain(self.second.iter().map(|second| (SECOND, second.clone()))).collect()
    }

    pub(super) fn has_letter(&self, of: &str, id: Id) -> bool {
        let key = (of.to_owned() + &alias(id.table), id.key.to_string().into_bytes());
        self.disks.values().any(|disk| disk.letters.contains_key(&key))
    }

    /// Whether the store of the process that is left has a letter of the key.
    fn has_letter_at_last(&self, of: &str, id: Id) -> bool {
        let key = (of.to_owned() + &alias(id.table), id.key.to_string().into_bytes());
        self.disks.get(&self.last_disk).is_some_and(|disk| disk.letters.contains_key(&key))
    }

    /// The first difference between database and an index.
    pub(super) fn difference(&self) -> Option<String> {
        self.targets().into_iter().find_map(|(of, cluster)| self.difference_at(of, &cluster))
    }

    fn difference_at(&self, of: &str, cluster: &Memory) -> Option<String> {
        let database = &self.server.database;
        let published = (0..TABLES).filter(|table| database.is_published(*table));
        published.flat_map(ids_of).find_map(|id| {
            let (want, have) = (database.newest(id), indexed(cluster, id));
            match want {
                Some(value) if is_poison(value) => (!self.has_letter_at_last(of, id))
                    .then(|| format!("{id:?} is refused by the target and has no dead letter")),
                _ if want != have => {
                    Some(format!("{id:?} is {have:?} in the index {of:?} and {want:?} in the database"))
                }
                _ if self.has_letter_at_last(of, id) => {
                    Some(format!("{id:?} is written and has a dead letter"))
                }
                _ => None,
            }
        })
    }
}

/// What an index holds of a key.
fn indexed(cluster: &Memory, id: Id) -> Option<u64> {
    let documents = cluster.documents(&alias(id.table));
    let (_, body) = documents.get(&id.key.to_string())?;
    let body: serde_json::Value = serde_json::from_slice(body).ok()?;
    body.get("value")?.as_u64()
}

/// The alias of a table.
pub(super) fn alias(table: u32) -> String {
    format!("t{table}")
}
