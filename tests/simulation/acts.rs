//! What each act of a plan does.

use std::time::Duration;

use rowtide::target::{IndexSpec, Target};

use super::cluster::close;
use super::database::{Event, Id, KEYS, Lsn, TABLES, Xid, ids_of};
use super::env::{Env, alias};
use super::plan::{Act, Kind};
use super::run::Run;
use super::server::Server;
use super::source::Place;
use super::store::Disk;

/// Transactions open at once.
const OPEN_MOST: usize = 3;
/// Backups that are kept.
const BACKUPS: usize = 3;

const HISTORY: &[&str] = &["history-broken", "slot-lost"];
const INDEX: &[&str] = &["index-replaced", "alias-gone", "index-exists"];

fn one_of<T: Copy>(all: &[T], number: u8) -> Option<T> {
    all.get(usize::from(number) % all.len().max(1)).copied()
}

impl Run {
    pub(super) fn act(&mut self, act: Act) {
        match act {
            Act::Write { .. }
            | Act::Commit { .. }
            | Act::Show { .. }
            | Act::RollBack { .. }
            | Act::Giant { .. }
            | Act::DeleteAll
            | Act::Alter { .. }
            | Act::Publish => self.env.lock().change(act),
            Act::Target(fault) => self.env.lock().target_faults.push_back(fault),
            Act::TargetAway { ms } => {
                let until = self.executor.now() + Duration::from_millis(u64::from(ms));
                self.env.lock().refuses_until = until;
                self.fault("target away");
            }
            Act::NodeRestart => {
                self.fault("node restart");
                let cluster = self.env.lock().cluster.clone();
                cluster.forget_tombstones();
            }
            Act::DropIndex { table } => self.touch_index(table, false),
            Act::ReplaceIndex { table } => self.touch_index(table, true),
            Act::DiskFull { full } => {
                self.explain(&["data-dir-unusable", "store-failed"]);
                self.env.lock().disk_full = full;
            }
            Act::WallClock { seconds } => {
                self.fault("clock jump");
                self.executor.set_wall_clock(u64::from(seconds));
            }
            Act::Crash | Act::Stop | Act::Freeze { .. } | Act::Second { .. } | Act::SecondCrash => {
                self.process(act);
            }
            Act::CutConnection | Act::CutLog | Act::Backup | Act::Restore { .. } | Act::Failover { .. } => {
                self.server(act);
            }
            Act::MoveSlot => {
                self.explain(HISTORY);
                let mut env = self.env.lock();
                let end = env.server.database.lsn;
                if let Some(slot) = env.server.slot.as_mut().filter(|slot| slot.active.is_none()) {
                    slot.confirmed = slot.confirmed.max(end);
                    env.attacks.hit("A11 slot moved by a person");
                }
            }
            Act::LoseStore => {
                if let Some(main) = self.main.take() {
                    self.fault_of(main.pid, "store lost");
                    let _checked_at_the_end = self.kill(main);
                }
                self.explain(&["index-exists"]);
                self.env.lock().disks.insert(self.disk, Disk::default());
            }
        }
    }

    fn fault(&self, name: &'static str) {
        if let Some(main) = &self.main {
            self.fault_of(main.pid, name);
        }
    }

    fn fault_of(&self, process: u32, name: &'static str) {
        self.env.lock().fault(name, process);
    }

    /// A person deletes an index, or puts an empty one in its place.
    fn touch_index(&mut self, table: u8, replaced: bool) {
        let alias = alias(u32::from(table) % TABLES);
        self.fault(if replaced { "index replaced" } else { "index deleted" });
        self.explain(INDEX);
        self.explain(&["target-conflict"]);
        let cluster = {
            let mut env = self.env.lock();
            env.index_is_touched = true;
            env.attacks.hit("A12 T45 index touched by a person");
            env.cluster.clone()
        };
        cluster.drop_alias(&alias);
        if replaced {
            let spec = IndexSpec { alias, pipeline: "person".into(), ..IndexSpec::default() };
            let mut made = cluster.create_index(&spec);
            // The model answers at once.
            let waker = std::task::Waker::noop();
            let _made = made.as_mut().poll(&mut std::task::Context::from_waker(waker));
        }
    }

    fn process(&mut self, act: Act) {
        match act {
            Act::Crash => {
                if let Some(main) = self.main.take() {
                    self.fault_of(main.pid, "crash");
                    let _checked_at_the_end = self.kill(main);
                    self.starts_at = self.executor.now() + Duration::from_millis(self.executor.draw(2_000));
                }
            }
            Act::Stop => {
                self.fault("stop");
                if let Some(main) = &mut self.main {
                    main.tell_to_stop();
                    self.env.lock().stopping.insert(main.pid);
                }
            }
            Act::Freeze { ms } => {
                self.fault("freeze");
                self.explain(&["lease-lost", "target-conflict"]);
                let now = self.executor.now();
                if let Some(main) = &mut self.main {
                    main.frozen_until = Some(now + Duration::from_millis(u64::from(ms)));
                    self.executor.freeze(main.pid);
                    close(&self.env, main.pid, now);
                }
            }
            Act::Second { replaces } if self.second.is_none() => {
                self.fault("second process");
                self.explain(&["lease-lost", "target-conflict"]);
                self.explain(HISTORY);
                self.explain(INDEX);
                let disk = self.env.lock().fresh_number() as u32 + 1000;
                let second = self.start(disk, replaces);
                self.second = Some(second);
                let mut env = self.env.lock();
                env.two_wrote = true;
                env.attacks.hit("A6d two processes");
            }
            Act::SecondCrash => {
                if let Some(second) = self.second.take() {
                    let _checked_at_the_end = self.kill(second);
                }
            }
            _ => {}
        }
    }

    fn server(&mut self, act: Act) {
        match act {
            Act::CutConnection => {
                self.fault("connection cut");
                self.env.lock().disconnect();
            }
            Act::CutLog => {
                self.fault("log cut off");
                self.explain(HISTORY);
                let mut env = self.env.lock();
                if let Some(slot) = &mut env.server.slot {
                    slot.is_lost = true;
                }
            }
            Act::Backup => {
                let mut env = self.env.lock();
                if env.backups.len() == BACKUPS {
                    env.backups.remove(0);
                }
                let copy = env.server.clone();
                env.backups.push(copy);
            }
            Act::Restore { backup } => self.put_back(Some(backup), false),
            Act::Failover { behind: true } => self.put_back(Some(0), true),
            Act::Failover { behind: false } => self.put_back(None, true),
            _ => {}
        }
    }

    fn put_back(&mut self, backup: Option<u8>, promoted: bool) {
        let mut env = self.env.lock();
        let timeline = env.server.timeline;
        if let Some(number) = backup {
            let count = env.backups.len();
            // That one, or the next that it can be.
            let mut all = (0..count).map(|next| &env.backups[(usize::from(number) + next) % count]);
            let Some(copy) = all.find(|copy| !env.is_beyond_the_bound(copy, promoted)) else { return };
            let copy = copy.clone();
            env.server = copy;
        }
        drop(env);
        self.fault(if promoted { "failover" } else { "log goes back" });
        self.explain(HISTORY);
        let mut env = self.env.lock();
        env.attacks.hit(match (promoted, backup) {
            (false, _) => "A9 D2 T42 log goes back under its name",
            (true, Some(_)) => "A10 failover to a server that is behind",
            (true, None) => "T19 failover",
        });
        if promoted {
            env.server.promote(timeline);
        }
        env.server.database.clock = env.fresh_number();
        env.server.recover();
        env.disconnect();
        // What another history left in the index says nothing until it is filled anew.
        env.index_is_touched = true;
    }
}

impl Env {
    /// The bound of law 8: what was emitted beyond the last durable checkpoint is not known to be there, so a
    /// server that is put back to a moment between the two is not seen to be.
    fn is_beyond_the_bound(&self, copy: &Server, promoted: bool) -> bool {
        let has = |commit: Lsn| {
            copy.database.log.iter().any(|xid| copy.database.transaction(*xid).commit == commit)
        };
        self.disks.values().any(|disk| {
            let place = disk.position.as_ref().and_then(|position| position.open::<Place>().ok());
            match place {
                None => disk.process.is_some_and(|process| self.readers.contains_key(&process)),
                Some(place) => !promoted && place.last_commit.is_none_or(|(commit, ..)| has(commit)),
            }
        })
    }

    /// What transactions do.
    fn change(&mut self, act: Act) {
        match act {
            Act::Write { transaction, table, key, kind } => self.write(transaction, table, key, kind),
            Act::Commit { transaction, gap } => {
                if let Some(xid) = one_of(&self.server.database.opened(), transaction) {
                    self.server.database.commit(xid, u64::from(gap));
                }
            }
            Act::Show { transaction } => {
                if let Some(xid) = one_of(&self.server.database.invisible(), transaction) {
                    self.server.database.show(xid);
                }
            }
            Act::RollBack { transaction } => {
                if let Some(xid) = one_of(&self.server.database.opened(), transaction) {
                    self.server.database.roll_back(xid);
                }
            }
            Act::Giant { table, events } => {
                self.attacks.hit("B6 T08 T48 giant transaction");
                let xid = self.server.database.open();
                // Not every key, so that what went wrong before is not all written over.
                for number in 0..events {
                    let id = Id { table: u32::from(table) % TABLES, key: (table / 4 + number % 3) % KEYS };
                    let value = self.value();
                    let put = Event::Put { id, value, partial: number % 7 == 3, unused: false };
                    self.server.database.write(xid, put);
                }
                self.server.database.commit(xid, 0);
                self.server.database.show(xid);
            }
            Act::DeleteAll => {
                let xid = self.server.database.open();
                for id in (0..TABLES).flat_map(ids_of) {
                    if self.server.database.newest(id).is_some() {
                        self.server.database.write(xid, Event::Delete { id });
                    }
                }
                self.server.database.commit(xid, 0);
                self.server.database.show(xid);
            }
            Act::Alter { table, keys } => {
                let ids = ids_of(u32::from(table) % TABLES).filter(|id| keys >> id.key & 1 == 1);
                if self.server.database.alter(u32::from(table) % TABLES, ids) {
                    self.attacks.hit("T09 T10 rows come and go without an event");
                }
            }
            Act::Publish => {
                if !self.server.database.is_published(TABLES - 1)
                    && !self.server.database.writers(TABLES - 1).is_empty()
                {
                    self.attacks.hit("A4 T44 table joins under an open transaction");
                }
                self.server.database.publish(TABLES - 1);
            }
            _ => {}
        }
    }

    fn value(&mut self) -> u64 {
        self.server.database.fresh_value()
    }

    fn transaction(&mut self, number: u8) -> Xid {
        let open = self.server.database.opened();
        match open.get(usize::from(number)) {
            Some(xid) => *xid,
            None if open.len() < OPEN_MOST => self.server.database.open(),
            None => open[0],
        }
    }

    fn write(&mut self, transaction: u8, table: u8, key: u8, kind: Kind) {
        let xid = self.transaction(transaction);
        let id = Id { table: u32::from(table) % TABLES, key: key % KEYS };
        let is_there = self.server.database.newest(id).is_some();
        let event = match kind {
            Kind::Put => Event::Put { id, value: self.value(), partial: false, unused: false },
            // Only an UPDATE has holes.
            Kind::Partial => Event::Put { id, value: self.value(), partial: is_there, unused: false },
            Kind::Delete if is_there => Event::Delete { id },
            Kind::Move { to } if is_there => {
                let new = Id { key: to % KEYS, ..id };
                if new == id || self.server.database.newest(new).is_some() {
                    return;
                }
                Event::Move { old: id, new, value: self.value(), partial: to > 200 }
            }
            Kind::Truncate => {
                self.attacks.hit("A13 TRUNCATE");
                Event::Truncate { table: id.table }
            }
            Kind::Delete | Kind::Move { .. } => return,
        };
        self.server.database.write(xid, event);
    }
}
