//! The model's source: connects and asks, by law 8's rules for PostgreSQL.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sources::change::{Column, Kind, Op, Row, RowBuilder, Table};
use sources::position::{Offset, Position};
use sources::source::{Checked, Continuity, Link, Reader, Resume, Source, SourceError, StatusSender};
use sources::world::{BoxFuture, SharedWorld};

use super::database::{Id, Lsn, TABLES, Xid};
use super::env::Shared;
use super::executor::Pid;
use super::reader::Stream;
use super::rules::{ModelRule, is_model_left_out};
use super::server::{Server, Slot};

/// Where the reader goes on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Place {
    pub(super) system: u32,
    pub(super) timeline: u32,
    pub(super) lsn: Lsn,
    /// Its commit, its id, its time.
    pub(super) last_commit: Option<(Lsn, Xid, u64)>,
    /// A transaction's commit, its id, and how many of its events are settled.
    pub(super) inside: Option<(Lsn, Xid, usize)>,
    /// What was emitted had committed below.
    pub(super) seen: Lsn,
    /// Keys of the first fill, as table and key.
    pub(super) done: BTreeSet<(u32, u8)>,
    /// What the catalog said of each table.
    pub(super) revisions: Vec<(Lsn, u64)>,
    /// Tables that are read again: on which timeline, and from where on.
    pub(super) renewals: BTreeMap<u32, (u32, Lsn)>,
}

pub(super) struct ModelSource {
    pub(super) env: Shared,
    pub(super) world: SharedWorld,
    pub(super) process: Pid,
    pub(super) tables: Vec<Arc<Table>>,
}

pub(super) fn table_name(number: u32) -> String {
    format!("public.t{number}")
}

/// `id`, `value`, and a filler that gives the row its size.
pub(super) fn tables() -> Vec<Arc<Table>> {
    let column = |name: &str, kind| Column { name: name.into(), kind };
    let table = |number| {
        Arc::new(Table {
            number,
            name: table_name(number).into(),
            columns: [
                column("id", Kind::Integer { bits: 32 }),
                column("value", Kind::Integer { bits: 64 }),
                column("filler", Kind::Text),
            ]
            .into(),
            key: [0].into(),
        })
    };
    (0..TABLES).map(table).collect()
}

fn build(columns: [Option<String>; 3]) -> Row {
    let mut builder = RowBuilder::default();
    for column in columns {
        match column {
            Some(text) => {
                builder.value().extend_from_slice(text.as_bytes());
                builder.end_value();
            }
            None => builder.absent(),
        }
    }
    builder.finish()
}

pub(super) fn key_row(id: Id) -> Row {
    build([Some(id.key.to_string()), None, None])
}

pub(super) fn put(id: Id, value: u64, filler: usize) -> Op {
    let filler = format!("\"{}\"", "x".repeat(filler));
    Op::Put(build([Some(id.key.to_string()), Some(value.to_string()), Some(filler)]))
}

pub(super) fn delete(id: Id) -> Op {
    Op::Delete(key_row(id))
}

pub(super) fn wait(context: &'static str, reason: &str) -> SourceError {
    SourceError::Wait { context, reason: reason.to_owned() }
}

fn halt(state: &'static str, what: &str) -> SourceError {
    SourceError::Halt { state, what: what.to_owned(), hint: "fill the index anew".to_owned() }
}

impl Source for ModelSource {
    fn check(&self) -> BoxFuture<'_, Result<Checked, SourceError>> {
        Box::pin(async { Ok(Checked::default()) })
    }

    fn tables(
        &self,
        _before: Option<sources::position::Position>,
    ) -> BoxFuture<'_, Result<Vec<Arc<Table>>, SourceError>> {
        let tables = self.tables.clone();
        Box::pin(async move {
            self.pause(20).await;
            Ok(tables)
        })
    }

    fn open(
        &self,
        resume: Option<Resume>,
        _status: StatusSender,
    ) -> BoxFuture<'_, Result<Box<dyn Reader>, SourceError>> {
        Box::pin(async move {
            self.pause(40).await;
            let old: Option<Place> = match &resume {
                Some(resume) => {
                    Some(resume.position.open().map_err(|_| halt("position-unreadable", "no place"))?)
                }
                None => None,
            };
            let (connection, revisions) = {
                let mut env = self.env.lock();
                (env.fresh_number(), env.server.database.revisions())
            };
            let (confirmed, is_new) = self.slot(connection, old.is_some()).await?;
            let reader = self.compare(
                connection,
                old,
                resume.is_some_and(|it| it.clean),
                (confirmed, is_new),
                revisions,
            );
            self.pause(20).await;
            Ok(Box::new(reader) as Box<dyn Reader>)
        })
    }
}

impl ModelSource {
    async fn pause(&self, most_ms: u64) {
        self.world.sleep(Duration::from_micros(self.world.random() % (most_ms * 1000))).await;
    }

    /// Takes the slot, or makes it: that waits for every transaction that is open now.
    /// Where it stands, and whether it is new.
    async fn slot(&self, connection: u64, resumes: bool) -> Result<(Lsn, bool), SourceError> {
        let waits_for = {
            let mut env = self.env.lock();
            let database = &env.server.database;
            let open = [database.opened(), database.invisible()].concat();
            match &mut env.server.slot {
                Some(slot) if slot.is_lost => return Err(halt("slot-lost", "the log was dropped")),
                Some(slot) if slot.active.is_some() => {
                    return Err(wait("take over the slot", "it is active"));
                }
                Some(slot) => {
                    slot.active = Some(connection);
                    let confirmed = slot.confirmed;
                    env.connections.insert(connection, self.process);
                    return Ok((confirmed, false));
                }
                None if resumes => return Err(halt("slot-lost", "the slot is gone")),
                None => open,
            }
        };
        loop {
            {
                let mut env = self.env.lock();
                let ended =
                    |xid: &Xid| env.server.database.is_known(*xid) && !env.server.database.has_ended(*xid);
                if !waits_for.iter().any(ended) {
                    if env.server.slot.is_some() {
                        return Err(wait("make the slot", "it is there already"));
                    }
                    let confirmed = env.server.database.lsn;
                    env.server.slot = Some(Slot { confirmed, active: Some(connection), is_lost: false });
                    env.connections.insert(connection, self.process);
                    return Ok((confirmed, true));
                }
            }
            self.world.sleep(Duration::from_millis(30)).await;
        }
    }

    /// Law 8's questions, and the comparison of the log up to the checkpoint.
    fn compare(
        &self,
        connection: u64,
        mut old: Option<Place>,
        clean: bool,
        (confirmed, is_new): (Lsn, bool),
        revisions: Vec<(Lsn, u64)>,
    ) -> ModelReader {
        let mut env = self.env.lock();
        if old.is_none() {
            env.filled_from = confirmed;
            env.index_is_touched = false;
        }
        let reached = env.reached.get(&self.process).copied();
        let lost = old.as_mut().and_then(|old| elsewhere(&env.server, old, clean, reached));
        if lost.is_none() || reached.is_none() {
            let end = env.server.database.lsn;
            let before = old.as_ref().map_or(0, |old| if clean { old.reach() } else { end });
            let most = reached.map_or(before, |reached| reached.1);
            let timeline = env.server.timeline;
            env.reached.insert(self.process, (timeline, most));
        }
        let server = &env.server;
        let fresh = Place {
            system: server.system,
            timeline: server.timeline,
            lsn: confirmed,
            last_commit: None,
            inside: None,
            seen: 0,
            done: BTreeSet::new(),
            revisions: revisions.clone(),
            renewals: BTreeMap::new(),
        };
        let broken = old.as_ref().and_then(|old| {
            if is_model_left_out(ModelRule::HistoryIsCompared) {
                return None;
            }
            if old.system != server.system {
                return Some("another server");
            }
            if lost.is_some() {
                return lost;
            }
            if confirmed > old.lsn {
                return Some("the slot was moved");
            }
            if old.lsn > server.database.lsn {
                return Some("the log went back");
            }
            let mut due = old.last_commit.filter(|(commit, ..)| *commit >= confirmed);
            for xid in &server.database.log[server.log_from(confirmed)..] {
                let transaction = server.database.transaction(*xid);
                if transaction.commit >= old.lsn {
                    let inside =
                        old.inside.is_some_and(|(commit, of, _)| (commit, of) != (transaction.commit, *xid));
                    return match (due, inside) {
                        (Some(_), _) => Some("the last transaction is gone"),
                        (_, true) => Some("the transaction that was being passed is gone"),
                        _ => None,
                    };
                }
                match old.last_commit {
                    Some(known) if known == (transaction.commit, *xid, transaction.time) => due = None,
                    Some((commit, ..)) if transaction.commit < commit => {}
                    _ => return Some("the log holds a transaction that the checkpoint does not know"),
                }
            }
            (due.is_some() || old.inside.is_some()).then_some("the last transaction is gone")
        });
        let continuity = match (&old, broken) {
            (None, _) => Continuity::First,
            (Some(_), None) => Continuity::Continued,
            (Some(_), Some(reason)) => Continuity::Broken { reason: reason.to_owned() },
        };
        let distrusts = old.is_none() && !is_new && !is_model_left_out(ModelRule::OldSlotsAreSwept);
        let mut place = old.unwrap_or(fresh);
        place.timeline = server.timeline;
        if distrusts {
            // Whatever the catalog said when the log began.
            place.revisions = vec![(0, u64::MAX); TABLES as usize];
        }
        place.renew(revisions, server.database.lsn);
        let first = Offset::new(place.lsn.max(confirmed)).unwrap();
        ModelReader {
            identity: format!("model/{}/{}", server.system, server.timeline),
            continuity,
            first,
            log_at: server.log_from(place.lsn),
            place,
            connection,
            env: self.env.clone(),
            world: self.world.clone(),
            process: self.process,
            tables: self.tables.clone(),
        }
    }
}

impl Place {
    /// What was altered since is read again, from behind all that the catalog has shown.
    fn renew(&mut self, revisions: Vec<(Lsn, u64)>, now: Lsn) {
        for table in 0..TABLES {
            let is_altered = self.revisions[table as usize] != revisions[table as usize];
            let is_of_another_base = self.renewals.get(&table).is_some_and(|(of, _)| *of != self.timeline);
            if is_altered || is_of_another_base && !is_model_left_out(ModelRule::RenewalsBeginAnew) {
                self.done.retain(|(of, _)| *of != table);
                // A read of before may have gone out at that very place.
                self.renewals.insert(table, (self.timeline, now + 1));
            }
        }
        self.revisions = revisions;
    }

    /// How far its process may have come.
    fn reach(&self) -> Lsn {
        self.inside.map_or(self.seen, |(commit, ..)| self.seen.max(commit + 1))
    }
}

/// Another timeline is followed only if it has everything that was emitted; the place is put back to the end
/// of what is common.
fn elsewhere(
    server: &Server,
    old: &mut Place,
    clean: bool,
    reached: Option<(u32, Lsn)>,
) -> Option<&'static str> {
    let moved = |timeline: u32| timeline != server.timeline;
    if !moved(old.timeline) && !reached.is_some_and(|(timeline, _)| moved(timeline)) {
        return None;
    }
    let needed = reached.or_else(|| clean.then(|| (old.timeline, old.reach())));
    let Some((timeline, most)) = needed else { return Some("nobody knows what was emitted") };
    let (Some(end), Some(of_place)) = (server.common(timeline), server.common(old.timeline)) else {
        return Some("another timeline");
    };
    if end < most {
        return Some("what was emitted was lost in the failover");
    }
    old.lsn = old.lsn.min(end).min(of_place);
    None
}

pub(super) struct ModelReader {
    identity: String,
    continuity: Continuity,
    first: Offset,
    pub(super) place: Place,
    /// Transactions of the log passed.
    pub(super) log_at: usize,
    pub(super) connection: u64,
    pub(super) env: Shared,
    pub(super) world: SharedWorld,
    pub(super) process: Pid,
    pub(super) tables: Vec<Arc<Table>>,
}

impl Drop for ModelReader {
    /// A reader that is dropped before it ran closes its connection.
    fn drop(&mut self) {
        self.env.lock().hang_up(self.connection);
    }
}

impl Reader for ModelReader {
    fn identity(&self) -> &str {
        &self.identity
    }

    fn continuity(&self) -> &Continuity {
        &self.continuity
    }

    fn first(&self) -> Offset {
        self.first
    }

    fn run(self: Box<Self>, link: Link) -> BoxFuture<'static, Result<(), SourceError>> {
        Box::pin(async move { Stream::new(*self, link).await?.run().await })
    }
}

pub(super) fn seal(place: &Place) -> Result<Position, SourceError> {
    Position::seal(place).map_err(|_| halt("position-unwritable", "no place"))
}
