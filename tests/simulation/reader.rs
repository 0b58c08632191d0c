//! The model's reader: the log in order, reads merged in by the real [`Merge`], checkpoints, and what
//! is durable acknowledged. It keeps to the rules of `sources/postgres/stream`, without a wire.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sources::budget::Class;
use sources::change::{Change, Item, Key, Op, Origin, Table};
use sources::merge::{Finish, Merge, ReadId, Snapshot};
use sources::position::{Offset, Position};
use sources::queue::{Batch, Outgoing};
use sources::source::{Link, SourceError, TableProgress};
use sources::world::Task;
use tokio::sync::{mpsc, oneshot};

mod renewals;

use super::database::{Event, Id, Lsn, TABLES, View, Xid, ids_of};
use super::env::ReaderView;
use super::reads::{Finished, FromRead, Purpose, Reads, Verdict};
use super::rules::{ModelRule, is_model_left_out};
use super::source::{ModelReader, delete, put, seal, table_name, wait};

/// Events between two checkpoints inside a transaction.
const PREFIX_EVERY: usize = 3;
/// Between two looks at a log that brought nothing.
const LOOK_EVERY_MS: u64 = 40;

/// A snapshot as the merge asks it.
pub(super) struct Seen(pub(super) View);

impl Snapshot for Seen {
    type Tx = Xid;

    fn sees(&self, transaction: &Xid) -> bool {
        self.0.shows(*transaction)
    }
}

struct Current {
    xid: Xid,
    commit: Lsn,
    end: Lsn,
    time: u64,
    events: Vec<Event>,
    at: usize,
    skip: usize,
    marked: usize,
}

pub(super) struct HeldRead {
    pub(super) charge: sources::budget::Charge,
    pub(super) purpose: Purpose,
    pub(super) reply: oneshot::Sender<Verdict>,
    pub(super) table: u32,
    /// For the mutant "LSN, then read".
    pub(super) asked: Lsn,
}

/// What the first fill has brought, shared with its workers.
#[derive(Debug, Default)]
pub(super) struct Progress {
    pub(super) done: BTreeSet<Id>,
    pub(super) taken: BTreeSet<Id>,
}

pub(super) type SharedProgress = Arc<Mutex<Progress>>;

pub(super) struct Stream {
    model: ModelReader,
    link: Link,
    outgoing: Outgoing,
    merge: Merge<Seen, Op>,
    current: Option<Current>,
    held: BTreeMap<ReadId, HeldRead>,
    progress: SharedProgress,
    /// Refetches that have not entered the stream, by ticket.
    tickets: BTreeMap<u64, Id>,
    next_ticket: u64,
    to_fetch: mpsc::UnboundedSender<(Id, u64)>,
    from_reads: mpsc::UnboundedReceiver<FromRead>,
    candidate: Option<(Position, u64)>,
    dirty: bool,
    acknowledged: Lsn,
    displaced: u64,
    /// Tables that are read again and not swept yet, each with the ticket before which all must have come.
    sweeps: BTreeMap<u32, Option<u64>>,
    passed: Arc<AtomicU64>,
    _keys: sources::budget::Charge,
    _workers: Vec<Task>,
}

impl Stream {
    pub(super) async fn new(model: ModelReader, link: Link) -> Result<Self, SourceError> {
        let share = link.outlet.budget().full_limit() / 16;
        let keys = link.outlet.budget().set_aside(share).await;
        let keys = keys.map_err(|error| wait("set bytes aside", &error.to_string()))?;
        let (to_reader, from_reads) = mpsc::unbounded_channel();
        let (to_fetch, jobs) = mpsc::unbounded_channel();
        let done = model.place.done.iter().map(|&(table, key)| Id { table, key }).collect();
        let progress = Arc::new(Mutex::new(Progress { done, taken: BTreeSet::new() }));
        let passed = Arc::new(AtomicU64::new(model.place.lsn));
        let reads = Arc::new(Reads::new(&model, &link, to_reader, progress.clone(), passed.clone()));
        let mut workers = Vec::new();
        for _ in 0..2 {
            workers.push(model.world.spawn(Box::pin(reads.clone().work())));
        }
        workers.push(model.world.spawn(Box::pin(reads.clone().refetch(jobs))));
        Ok(Self {
            outgoing: Outgoing::new(link.outlet.clone(), Class::Log),
            merge: Merge::default(),
            current: None,
            held: BTreeMap::new(),
            progress,
            tickets: BTreeMap::new(),
            next_ticket: 0,
            to_fetch,
            from_reads,
            candidate: None,
            dirty: true,
            acknowledged: model.place.lsn,
            displaced: 0,
            sweeps: model.place.renewals.keys().map(|table| (*table, None)).collect(),
            passed,
            _keys: keys,
            _workers: workers,
            model,
            link,
        })
    }

    pub(super) async fn run(mut self) -> Result<(), SourceError> {
        if self.model.place.inside.is_none() {
            self.checkpoint().await?;
        }
        loop {
            if self.link.stop.is_told() {
                return self.end().await;
            }
            while let Ok(said) = self.from_reads.try_recv() {
                self.hear(said).await?;
            }
            self.look_at_the_catalog()?;
            let moved = self.record().await?;
            self.tell();
            if moved {
                if self.model.world.random().is_multiple_of(2) {
                    let pace = self.model.env.lock().pace;
                    self.pause(pace).await;
                }
                continue;
            }
            self.idle().await?;
            let nap = Duration::from_millis(1 + self.model.world.random() % LOOK_EVERY_MS);
            let world = self.model.world.clone();
            tokio::select! {
                biased;
                () = self.link.stop.told() => {}
                said = self.from_reads.recv() => match said {
                    Some(said) => self.hear(said).await?,
                    None => return Err(SourceError::Closed),
                },
                changed = self.link.durable.changed() => {
                    changed.map_err(|_| SourceError::Closed)?;
                    self.feedback()?;
                }
                () = world.sleep(nap) => {}
            }
        }
    }

    async fn pause(&self, most_ms: u64) {
        let time = Duration::from_micros(self.model.world.random() % (most_ms * 1000));
        self.model.world.sleep(time).await;
    }

    /// What the run knows of the reader, to tell in which phase a fault hit.
    fn tell(&self) {
        let mut env = self.model.env.lock();
        let all: usize = (0..TABLES).filter(|table| env.server.database.is_published(*table)).count();
        let filled = self.progress().done.len() >= all * ids_of(0).count();
        let behind = self.model.log_at < env.server.database.log.len() || self.current.is_some();
        let is_merging = self.merge.changed_bytes() > 0 || !self.held.is_empty();
        let view = ReaderView { filled, behind, is_merging };
        env.readers.insert(self.model.process, view);
    }

    fn progress(&self) -> std::sync::MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Passes one record of the log; false when there is none.
    async fn record(&mut self) -> Result<bool, SourceError> {
        if let Some(current) = &mut self.current {
            if current.at < current.events.len() {
                let (event, skipped) = (current.events[current.at], current.at < current.skip);
                if !skipped {
                    self.event(event).await?;
                }
                if let Some(current) = &mut self.current {
                    current.at += 1;
                }
                self.checkpoint_inside().await?;
            } else {
                self.commit().await?;
            }
            return Ok(true);
        }
        let begun = {
            let mut env = self.model.env.lock();
            if !env.server.serves(self.model.connection) {
                return Err(wait("read the log", "the connection is gone"));
            }
            let xid = env.server.database.log.get(self.model.log_at).copied();
            if let Some(xid) = xid {
                let commit = env.server.database.transaction(xid).commit;
                env.reach(self.model.process, commit + 1);
            }
            xid.map(|xid| {
                let transaction = env.server.database.transaction(xid);
                let (commit, end, time) = (transaction.commit, transaction.end, transaction.time);
                let events = env.server.database.events(xid);
                Current { xid, commit, end, time, events, at: 0, skip: 0, marked: 0 }
            })
        };
        let Some(mut current) = begun else { return Ok(false) };
        let (xid, commit) = (current.xid, current.commit);
        let inside = self.model.place.inside.take().filter(|(at, of, _)| (*at, *of) == (commit, xid));
        let skip = inside.map_or(0, |(_, _, changes)| changes);
        if skip > 0 {
            self.model.env.lock().attacks.hit("B6 D13 T48 a settled prefix is skipped");
        }
        self.merge.pass(xid);
        self.passed.store(commit, Ordering::Relaxed);
        (current.skip, current.marked) = (skip, skip);
        self.current = Some(current);
        Ok(true)
    }

    async fn commit(&mut self) -> Result<(), SourceError> {
        let Some(current) = self.current.take() else { return Ok(()) };
        let (end, time) = (current.end, current.time);
        self.model.log_at += 1;
        self.model.place.lsn = end;
        self.passed.store(end, Ordering::Relaxed);
        self.model.place.last_commit = Some((current.commit, current.xid, time));
        self.dirty = true;
        self.merge.end();
        for (id, rows, displaced) in self.merge.released() {
            if let Some(held) = self.held.remove(&id) {
                self.emit(rows, displaced, held).await?;
            }
        }
        self.sweep_if_due().await?;
        self.checkpoint_if_due().await
    }

    async fn event(&mut self, event: Event) -> Result<(), SourceError> {
        let filler = self.model.env.lock().filler;
        let ids = event.ids();
        if let Event::Truncate { table } = event {
            if !is_model_left_out(ModelRule::ReadsAreMerged) {
                self.merge.clear(table);
            }
            // What was to be fetched is gone as well.
            let item = Item::Clear { table: self.model.tables[table as usize].clone(), offset: self.place() };
            return self.push(item).await;
        }
        for id in ids {
            if !is_model_left_out(ModelRule::ReadsAreMerged) {
                self.merge.change(&self.key(id));
            }
        }
        match event {
            Event::Put { id, partial: true, .. } => {
                self.refetch(id);
                Ok(())
            }
            Event::Put { id, value, .. } => self.change(id, put(id, value, filler)).await,
            Event::Delete { id } => self.change(id, delete(id)).await,
            Event::Move { old, new, value, partial } => {
                self.change(old, delete(old)).await?;
                if partial {
                    self.refetch(new);
                    return Ok(());
                }
                self.change(new, put(new, value, filler)).await
            }
            Event::Truncate { .. } => Ok(()),
        }
    }

    fn key(&self, id: Id) -> Key {
        key_of(&self.model.tables, id.table, &delete(id)).unwrap()
    }

    fn refetch(&mut self, id: Id) {
        self.tickets.insert(self.next_ticket, id);
        let _ = self.to_fetch.send((id, self.next_ticket));
        self.next_ticket += 1;
        self.displaced += 1;
        self.link.status.send_modify(|status| status.rows_displaced += 1);
    }

    async fn change(&mut self, id: Id, op: Op) -> Result<(), SourceError> {
        let table = self.model.tables[id.table as usize].clone();
        let offset = self.place();
        self.push(Item::Change(Change { table, offset, op, origin: Origin::Log })).await
    }

    async fn push(&mut self, item: Item) -> Result<(), SourceError> {
        if !self.outgoing.has_room_for(&item) {
            let budget = self.link.outlet.budget();
            if budget.used() > budget.limit() / 2 {
                self.model.env.lock().attacks.hit("B10 the log waits beside reads");
            }
            let mut stop = self.link.stop.clone();
            tokio::select! {
                biased;
                room = self.outgoing.make_room(&item) => {
                    room.map_err(|_| SourceError::Closed)?;
                }
                () = stop.told() => return Err(SourceError::Closed),
            }
        }
        self.outgoing.push(item);
        Ok(())
    }

    fn place(&self) -> Offset {
        Offset::new(self.current.as_ref().map_or(self.model.place.lsn, |current| current.commit)).unwrap()
    }

    async fn idle(&mut self) -> Result<(), SourceError> {
        // A keepalive says where the log ends.
        let end = {
            let env = self.model.env.lock();
            (env.server.serves(self.model.connection) && self.model.log_at == env.server.database.log.len())
                .then_some(env.server.database.lsn)
        };
        if let Some(end) = end
            && end > self.model.place.lsn
            && self.current.is_none()
            && self.model.world.random().is_multiple_of(4)
        {
            self.model.place.lsn = end;
            self.passed.store(end, Ordering::Relaxed);
            self.dirty = true;
        }
        self.sweep_if_due().await?;
        self.checkpoint_if_due().await?;
        self.outgoing.flush().map_err(|_| SourceError::Closed)
    }

    async fn checkpoint_inside(&mut self) -> Result<(), SourceError> {
        let due = self.current.as_ref().is_some_and(|it| it.at >= it.marked + PREFIX_EVERY);
        if !due {
            return Ok(());
        }
        for id in self.merge.unhold() {
            if let Some(held) = self.held.remove(&id) {
                let _ = held.reply.send(Verdict::Again);
            }
        }
        if let Some(current) = &mut self.current {
            current.marked = current.at;
        }
        if self.candidate.is_some() {
            return Ok(());
        }
        self.checkpoint().await
    }

    async fn checkpoint_if_due(&mut self) -> Result<(), SourceError> {
        if !self.dirty || self.current.is_some() || self.candidate.is_some() {
            return Ok(());
        }
        self.checkpoint().await
    }

    async fn checkpoint(&mut self) -> Result<(), SourceError> {
        let mut place = self.model.place.clone();
        place.inside = self.current.as_ref().map(|it| (it.commit, it.xid, it.at.max(it.skip)));
        if is_model_left_out(ModelRule::PrefixIsCounted)
            && let Some(current) = &self.current
        {
            // As if the transaction were over.
            place.inside = None;
            place.lsn = current.commit + 1;
            let time = current.time;
            place.last_commit = Some((current.commit, current.xid, time));
        }
        place.seen = self.model.env.lock().reached.get(&self.model.process).map_or(0, |reached| reached.1);
        place.done = self.progress().done.iter().map(|id| (id.table, id.key)).collect();
        self.dirty = false;
        self.candidate = Some((seal(&place)?, self.next_ticket));
        self.release_candidate().await
    }

    async fn release_candidate(&mut self) -> Result<(), SourceError> {
        let oldest = match is_model_left_out(ModelRule::CheckpointsAwaitRefetches) {
            true => None,
            false => self.tickets.first_key_value().map(|(ticket, _)| *ticket),
        };
        let ready = |(_, before): &mut (Position, u64)| oldest.is_none_or(|oldest| oldest >= *before);
        match self.candidate.take_if(ready) {
            Some((position, _)) => self.push(Item::Checkpoint(position)).await,
            None => Ok(()),
        }
    }

    async fn hear(&mut self, said: FromRead) -> Result<(), SourceError> {
        match said {
            FromRead::Begin { table, reply } => {
                let id = self.merge.begin(table);
                if reply.send(id).is_err() {
                    self.merge.abandon(id);
                }
                Ok(())
            }
            FromRead::Failed(error) => Err(error),
            FromRead::Finished(finished) => self.finished(*finished).await,
        }
    }

    async fn finished(&mut self, finished: Finished) -> Result<(), SourceError> {
        let Finished { id, view, rows, charge, table, purpose, reply, asked } = finished;
        let tables = self.model.tables.clone();
        let held = HeldRead { charge, purpose, reply, table, asked };
        match self.merge.finish(id, &Seen(view), rows, |op| key_of(&tables, table, op)) {
            Finish::Again => {
                self.model.env.lock().attacks.hit("A1 D6 D10 a read that does not see what was passed");
                let HeldRead { charge, reply, .. } = held;
                drop(charge);
                let _ = reply.send(Verdict::Again);
                Ok(())
            }
            Finish::Held => {
                self.held.insert(id, held);
                Ok(())
            }
            Finish::Out(rows, displaced) => self.emit(rows, displaced, held).await,
        }
    }

    /// Rows of a read enter the stream, at the reader's place.
    async fn emit(&mut self, rows: Vec<Op>, displaced: u64, read: HeldRead) -> Result<(), SourceError> {
        let HeldRead { mut charge, purpose, reply, table, asked } = read;
        let offset = match is_model_left_out(ModelRule::PlaceIsTheReaders) {
            true => Offset::new(asked).unwrap(),
            false => self.place_of(table),
        };
        self.outgoing.flush().map_err(|_| SourceError::Closed)?;
        let table = self.model.tables[table as usize].clone();
        let costs = self.link.outlet.costs();
        charge.shrink_to(rows.iter().map(|op| costs.of_op(&table, op)).sum());
        let item = |op| Item::Change(Change { table: table.clone(), offset, op, origin: Origin::Read });
        let items: Vec<Item> = rows.into_iter().map(item).collect();
        if !items.is_empty() {
            self.link.outlet.send(Batch { items, charge }).map_err(|_| SourceError::Closed)?;
        }
        match purpose {
            Purpose::Chunk(ids) => {
                let mut progress = self.progress();
                ids.iter().for_each(|id| {
                    progress.taken.remove(id);
                });
                progress.done.extend(ids);
            }
            Purpose::Refetch(tickets) => tickets.iter().for_each(|ticket| {
                self.tickets.remove(ticket);
            }),
        }
        self.displaced += displaced;
        let done = self.progress().done.len();
        self.link.status.send_modify(|status| {
            status.rows_displaced += displaced;
            let name = table_name(0);
            status.tables = vec![TableProgress { name, done: done > 0, ..TableProgress::default() }];
        });
        self.dirty = true;
        let _ = reply.send(Verdict::Taken);
        self.release_candidate().await
    }

    /// Acknowledges what is durable.
    fn feedback(&mut self) -> Result<(), SourceError> {
        let durable = self.link.durable.borrow_and_update().clone();
        let Some(position) = durable else { return Ok(()) };
        let mut env = self.model.env.lock();
        env.acknowledge(self.model.process, self.model.connection, &position, &mut self.acknowledged);
        Ok(())
    }

    async fn end(mut self) -> Result<(), SourceError> {
        if self.candidate.is_none() && self.tickets.is_empty() {
            self.checkpoint().await?;
        }
        self.outgoing.flush().map_err(|_| SourceError::Closed)
    }
}

pub(super) fn key_of(tables: &[Arc<Table>], table: u32, op: &Op) -> Option<Key> {
    Key::of(&tables[table as usize], op.row())
}
