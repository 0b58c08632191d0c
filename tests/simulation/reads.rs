//! Reads beside the log: chunks of the first fill, and refetches by key. Each is begun at the reader,
//! takes its snapshot some time later, and brings its rows later still.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sources::budget::{Charge, Class};
use sources::change::Op;
use sources::merge::ReadId;
use sources::queue::Outlet;
use sources::source::{Link, SourceError};
use sources::world::SharedWorld;
use tokio::sync::{mpsc, oneshot};

use super::database::{Id, Lsn, TABLES, View, Xid, ids_of};
use super::env::Shared;
use super::reader::SharedProgress;
use super::rules::{ModelRule, is_model_left_out};
use super::source::{ModelReader, delete, put, wait};

pub(super) enum FromRead {
    Begin { table: u32, reply: oneshot::Sender<ReadId> },
    Finished(Box<Finished>),
    Failed(SourceError),
}

pub(super) struct Finished {
    pub(super) id: ReadId,
    pub(super) view: View,
    pub(super) rows: Vec<Op>,
    pub(super) charge: Charge,
    pub(super) table: u32,
    pub(super) purpose: Purpose,
    pub(super) reply: oneshot::Sender<Verdict>,
    pub(super) asked: Lsn,
}

pub(super) enum Purpose {
    Chunk(Vec<Id>),
    Refetch(Vec<u64>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Taken,
    Again,
}

/// More than a row with such a filler costs.
fn row_bytes(filler: usize) -> usize {
    filler + 1024
}

pub(super) struct Reads {
    env: Shared,
    world: SharedWorld,
    connection: u64,
    outlet: Outlet,
    to_reader: mpsc::UnboundedSender<FromRead>,
    progress: SharedProgress,
    /// Tables whose first read has passed its wait, or the writers that it waits for.
    gates: Mutex<Vec<Option<Vec<Xid>>>>,
    /// Tables that are read again, and may not be before the log was passed.
    awaiting: Mutex<BTreeSet<u32>>,
    /// How far it was.
    passed: Arc<AtomicU64>,
}

impl Reads {
    pub(super) fn new(
        model: &ModelReader,
        link: &Link,
        to_reader: mpsc::UnboundedSender<FromRead>,
        progress: SharedProgress,
        passed: Arc<AtomicU64>,
    ) -> Self {
        Self {
            env: model.env.clone(),
            world: model.world.clone(),
            connection: model.connection,
            outlet: link.outlet.clone(),
            to_reader,
            progress,
            gates: Mutex::new((0..TABLES).map(|_| None).collect()),
            awaiting: Mutex::new(model.place.renewals.keys().copied().collect()),
            passed,
        }
    }

    async fn pause(&self, most_ms: u64) {
        let time = Duration::from_micros(self.world.random() % (most_ms * 1000));
        self.world.sleep(time).await;
    }

    pub(super) async fn work(self: Arc<Self>) {
        if let Err(error) = self.chunks().await {
            let _ = self.to_reader.send(FromRead::Failed(error));
        }
    }

    async fn chunks(&self) -> Result<(), SourceError> {
        loop {
            let Some(ids) = self.take() else {
                self.pause(100).await;
                continue;
            };
            self.pass_gate(ids[0].table).await;
            self.wait_for_the_log(ids[0].table).await;
            loop {
                let share = self.outlet.budget().full_limit() / 4;
                let charge = self.reserve(Class::Read, share).await?;
                match self.read(&ids, charge, Purpose::Chunk(ids.clone())).await? {
                    Verdict::Taken => break,
                    Verdict::Again => self.pause(100).await,
                }
            }
        }
    }

    /// The next keys of a published table that nobody has read.
    fn take(&self) -> Option<Vec<Id>> {
        let env = self.env.lock();
        let mut progress = self.progress.lock().unwrap_or_else(PoisonError::into_inner);
        let published = |table: &u32| env.server.database.is_published(*table);
        let free = |id: &Id| !progress.done.contains(id) && !progress.taken.contains(id);
        let first = (0..TABLES).filter(published).flat_map(ids_of).find(free)?;
        let fitting = self.outlet.budget().full_limit() / 4 / row_bytes(env.filler);
        let rows = (1 + (self.world.random() % 3) as usize).min(fitting.max(1));
        let of_table = ids_of(first.table).filter(|id| *id >= first);
        let ids: Vec<Id> = of_table.take_while(free).take(rows).collect();
        progress.taken.extend(ids.iter().copied());
        Some(ids)
    }

    async fn pass_gate(&self, table: u32) {
        let mut is_waiting = false;
        loop {
            {
                let mut env = self.env.lock();
                let env = &mut *env;
                let database = &env.server.database;
                let mut gates = self.gates.lock().unwrap_or_else(PoisonError::into_inner);
                let gate = &mut gates[table as usize];
                let waiting = gate.get_or_insert_with(|| database.writers(table));
                waiting.retain(|xid| database.is_known(*xid) && !database.has_ended(*xid));
                if waiting.is_empty() || is_model_left_out(ModelRule::FirstReadWaits) {
                    return;
                }
                if !std::mem::replace(&mut is_waiting, true) {
                    env.attacks.hit("A4 D4 a first read waits for a writer");
                }
            }
            self.pause(60).await;
        }
    }

    /// What was written before the alteration must have gone out, or it would displace what is read now.
    async fn wait_for_the_log(&self, table: u32) {
        let awaiting = || self.awaiting.lock().unwrap_or_else(PoisonError::into_inner);
        if !awaiting().contains(&table) || is_model_left_out(ModelRule::RenewalsAwaitTheLog) {
            return;
        }
        let end = self.env.lock().server.database.lsn;
        while self.passed.load(Ordering::Relaxed) < end {
            self.pause(40).await;
        }
        awaiting().remove(&table);
    }

    async fn reserve(&self, class: Class, bytes: usize) -> Result<Charge, SourceError> {
        let reserved = self.outlet.reserve(class, bytes).await;
        reserved.map_err(|error| wait("reserve bytes", &error.to_string()))
    }

    async fn read(&self, ids: &[Id], charge: Charge, purpose: Purpose) -> Result<Verdict, SourceError> {
        let table = ids[0].table;
        let asked = self.env.lock().server.database.lsn;
        let (reply, answer) = oneshot::channel();
        self.say(FromRead::Begin { table, reply })?;
        let id = answer.await.map_err(|_| SourceError::Closed)?;
        let pace = self.env.lock().pace;
        self.pause(20 * pace).await;
        let is_fetch = matches!(purpose, Purpose::Refetch(_));
        let (view, rows) = loop {
            if let Some(taken) = self.statement(ids, is_fetch)? {
                break taken;
            }
            self.pause(60).await;
        };
        self.pause(20 * pace).await;
        let (reply, answer) = oneshot::channel();
        let finished = Finished { id, view, rows, charge, table, purpose, reply, asked };
        self.say(FromRead::Finished(Box::new(finished)))?;
        answer.await.map_err(|_| SourceError::Closed)
    }

    /// Rows and snapshot from one view, unless a TRUNCATE's lock is in the way.
    fn statement(&self, ids: &[Id], is_fetch: bool) -> Result<Option<(View, Vec<Op>)>, SourceError> {
        let mut env = self.env.lock();
        if !env.server.serves(self.connection) {
            return Err(wait("read rows", "the connection is gone"));
        }
        let filler = env.filler;
        if env.server.database.is_locked(ids[0].table) {
            return Ok(None);
        }
        let view = env.server.database.snapshot();
        let (end, process) = (env.server.database.lsn, env.connections.get(&self.connection).copied());
        if let Some(process) = process {
            env.reach(process, end);
        }
        if is_fetch && !env.server.database.invisible().is_empty() {
            env.attacks.hit("A1 T06 refetch while a commit is invisible");
        }
        let database = &env.server.database;
        let rows = ids.iter().filter_map(|id| match database.line(*id, &view).value {
            Some(value) => Some(put(*id, value, filler)),
            None if is_fetch => Some(delete(*id)),
            None => None,
        });
        Ok(Some((view.clone(), rows.collect())))
    }

    pub(super) async fn refetch(self: Arc<Self>, mut jobs: mpsc::UnboundedReceiver<(Id, u64)>) {
        while let Some((id, ticket)) = jobs.recv().await {
            if let Err(error) = self.fetch(id, ticket).await {
                let _ = self.to_reader.send(FromRead::Failed(error));
                return;
            }
        }
    }

    async fn fetch(&self, id: Id, ticket: u64) -> Result<(), SourceError> {
        self.pass_gate(id.table).await;
        loop {
            let row = row_bytes(self.env.lock().filler);
            let charge = self.reserve(Class::Log, row).await?;
            match self.read(&[id], charge, Purpose::Refetch(vec![ticket])).await? {
                Verdict::Taken => return Ok(()),
                Verdict::Again => self.pause(80).await,
            }
        }
    }

    fn say(&self, said: FromRead) -> Result<(), SourceError> {
        self.to_reader.send(said).map_err(|_| SourceError::Closed)
    }
}
