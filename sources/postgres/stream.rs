//! The reader: the log in its order, with the reads merged into it.
//!
//! ```text
//!   walsender ══► Connection ─► Step ─► Merge ─► Outgoing ══► queue
//!                                        ▲
//!   chunks, refetches ── FromRead ───────┘        durable position ─► Standby status update
//! ```
//! - The place is the commit record's LSN within a transaction, else the last end LSN or the
//!   keepalive's (law 1).
//! - A checkpoint goes out at a transaction's end, and inside a giant one with the number of changes
//!   that went out (T48); never before a row that must be refetched for it has gone out.
//! - Only what is durable is acknowledged (T01); an idle publication follows the keepalives (T03).
//! - While the budget is spent the reader waits, and keeps sending feedback (law 5).
//! - It resumes from its last durable checkpoint by law 8 (`open`).

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::mpsc;

use super::catalog::TableInfo;
use super::lsn::Lsn;
use super::open::{Begin, Catalog, offset};
use super::position::{CommitMark, Inside, PgPosition, TableState};
use super::progress::KeyText;
use super::reads::{Finished, FromRead, Purpose, Reads, Verdict};
use super::refetch::Refetches;
use super::snapshot::PgSnapshot;
use super::step::{self, Changes, New, Step};
use super::wire::{Connection, Copy, WireError};
use crate::budget::{Charge, Class};
use crate::change::{Change, Item, Key, Op, Origin, RowBuilder};
use crate::merge::{Finish, Merge, ReadId};
use crate::position::Position;
use crate::queue::{Batch, Closed, Outgoing};
use crate::source::{Link, SourceError};
use crate::world::{Moment, SharedWorld};

/// Between two checkpoints while changes flow; each costs the store a durable write at the most.
const CHECKPOINT_EVERY: Duration = Duration::from_millis(100);
/// Changes between two checkpoints inside a transaction.
const PREFIX_EVERY: u64 = 10_000;
/// Between two status updates to the server, whose patience (`wal_sender_timeout`) is 60 s unless it
/// was changed; it is asked for an answer, which says where its log ends (T03).
const FEEDBACK_EVERY: Duration = Duration::from_secs(5);
/// A server that was asked so often and said nothing is gone; the connection is made anew.
const SILENCE_MOST: Duration = Duration::from_secs(60);
/// Messages after which the other sides are looked at.
const MESSAGES_PER_TURN: usize = 128;
/// Passed transactions that no snapshot has shown to be visible; then one is taken.
const UNSEEN_MOST: usize = 4096;

/// A transaction that is being passed.
struct Current {
    begin: Begin,
    /// Row and truncate messages passed, counted before any filter.
    changes: u64,
    /// So many of them were settled before the start (T48).
    skip: u64,
    /// Changes at the last checkpoint inside it.
    marked: u64,
}

/// A read that counts but has to wait for the end of the transaction.
struct HeldRead {
    charge: Charge,
    table: Arc<TableInfo>,
    purpose: Purpose,
    reply: tokio::sync::oneshot::Sender<Verdict>,
}

pub(super) struct Stream {
    pub connection: Connection,
    pub catalog: Catalog,
    pub world: SharedWorld,
    pub link: Link,
    pub reads: Arc<Reads>,
    pub from_reads: mpsc::UnboundedReceiver<FromRead>,
    /// Where the log goes on; kept up to date.
    pub position: PgPosition,
    pub relations: HashMap<u32, Option<Arc<TableInfo>>>,
    pub document_bytes_max: usize,
    /// For the watcher: how far the reader is.
    pub passed: Arc<AtomicU64>,
    state: State,
}

/// What changes while it runs.
struct State {
    outgoing: Outgoing,
    merge: Merge<PgSnapshot, Op>,
    builder: RowBuilder,
    current: Option<Current>,
    held: HashMap<ReadId, HeldRead>,
    refetches: Refetches,
    /// A checkpoint that waits for refetches with lower tickets.
    candidate: Option<(Position, u64)>,
    /// Something happened since the last checkpoint.
    dirty: bool,
    last_checkpoint: Moment,
    last_feedback: Moment,
    /// When the server last said anything; it is asked every [`FEEDBACK_EVERY`].
    last_heard: Moment,
    acknowledged: Lsn,
    /// A snapshot is being taken for its own sake.
    looking: bool,
    look: Option<crate::world::Task>,
    /// Covers the keys held for reads under way.
    keys_charge: Charge,
}

impl From<Closed> for SourceError {
    fn from(_: Closed) -> Self {
        Self::Closed
    }
}

fn lost(error: WireError) -> SourceError {
    error.into_source("read the log")
}

impl Stream {
    #[allow(clippy::too_many_arguments)] // made in one place, from what `open` found
    pub(super) fn new(
        connection: Connection,
        catalog: Catalog,
        world: SharedWorld,
        link: Link,
        reads: Arc<Reads>,
        from_reads: mpsc::UnboundedReceiver<FromRead>,
        refetches: Refetches,
        position: PgPosition,
        relations: HashMap<u32, Option<Arc<TableInfo>>>,
        document_bytes_max: usize,
        passed: Arc<AtomicU64>,
    ) -> Self {
        let state = State {
            outgoing: Outgoing::new(link.outlet.clone(), Class::Log),
            merge: Merge::default(),
            builder: RowBuilder::default(),
            current: None,
            held: HashMap::new(),
            refetches,
            candidate: None,
            dirty: true,
            last_checkpoint: world.now(),
            last_feedback: world.now(),
            last_heard: world.now(),
            acknowledged: position.lsn,
            looking: false,
            look: None,
            keys_charge: link.outlet.budget().nothing(),
        };
        Self {
            connection,
            catalog,
            world,
            link,
            reads,
            from_reads,
            position,
            relations,
            document_bytes_max,
            passed,
            state,
        }
    }

    /// Reads until it is told to stop.
    pub(super) async fn run(mut self, begun: Option<Begin>) -> Result<(), SourceError> {
        let share = self.link.outlet.budget().full_limit() / 16;
        let reserved = self.link.outlet.reserve(Class::Log, share).await;
        self.state.keys_charge = reserved.map_err(|error| super::rows::too_large_for_the_budget(&error))?;
        if let Some(begin) = begun {
            self.begin(begin);
        }
        loop {
            if self.link.stop.is_told() {
                return self.end().await;
            }
            if self.messages().await? {
                self.turn().await?;
                continue;
            }
            self.idle().await?;
            tokio::select! {
                biased;
                () = self.link.stop.told() => {}
                said = self.from_reads.recv() => self.hear(said).await?,
                filled = self.connection.fill() => {
                    filled.map_err(lost)?;
                    self.state.last_heard = self.world.now();
                }
                changed = self.link.durable.changed() => {
                    changed.map_err(|_| SourceError::Closed)?;
                    self.feedback(false).await?;
                }
                () = self.world.sleep(FEEDBACK_EVERY) => {
                    if self.world.now().saturating_sub(self.state.last_heard) > SILENCE_MOST {
                        return Err(super::rows::unexpected("nothing for a minute, though it was asked"));
                    }
                    self.feedback(true).await?;
                }
            }
        }
    }

    /// Handles what the buffer holds, up to one turn. Whether there may be more.
    async fn messages(&mut self) -> Result<bool, SourceError> {
        for _ in 0..MESSAGES_PER_TURN {
            let Some(step) = self.next_step()? else {
                return Ok(false);
            };
            self.apply(step).await?;
        }
        Ok(true)
    }

    /// Looks at the other sides between messages.
    async fn turn(&mut self) -> Result<(), SourceError> {
        while let Ok(said) = self.from_reads.try_recv() {
            self.hear(Some(said)).await?;
        }
        if self.link.durable.has_changed().map_err(|_| SourceError::Closed)? {
            self.feedback(false).await?;
        }
        if self.world.now().saturating_sub(self.state.last_feedback) > FEEDBACK_EVERY {
            self.feedback(true).await?;
        }
        self.wait_for_reads().await
    }

    /// The buffer is empty: nothing that is complete waits for more.
    async fn idle(&mut self) -> Result<(), SourceError> {
        if self.world.now().saturating_sub(self.state.last_feedback) > FEEDBACK_EVERY {
            self.feedback(true).await?;
        }
        self.wait_for_reads().await?;
        self.checkpoint_if_due(true).await?;
        self.state.refetches.send_all();
        self.state.outgoing.flush()?;
        Ok(())
    }

    fn next_step(&mut self) -> Result<Option<Step>, SourceError> {
        let relations = &self.relations;
        let mut keep = |oid: u32| match relations.get(&oid) {
            Some(Some(table)) => table.table.key.iter().map(|&column| usize::from(column)).collect(),
            _ => Vec::new(),
        };
        let copy = match self.connection.parse_copy(self.document_bytes_max, &mut keep).map_err(lost)? {
            None => return Ok(None),
            Some(copy) => copy,
        };
        let skipping = self.state.current.as_ref().is_some_and(|current| current.changes < current.skip);
        let context = step::Context { relations, skipping, most: self.document_bytes_max };
        match copy {
            Copy::Data { message, .. } => context.message(message, &mut self.state.builder).map(Some),
            Copy::Large(change) => context.large(&change, &mut self.state.builder).map(Some),
            Copy::Keepalive { end_lsn, reply_requested } => {
                Ok(Some(Step::Keepalive { end: end_lsn, reply: reply_requested }))
            }
            Copy::Done => Err(super::rows::unexpected("the end of the log")),
        }
    }

    async fn apply(&mut self, step: Step) -> Result<(), SourceError> {
        match step {
            Step::Nothing => Ok(()),
            Step::Begin(begin) => {
                self.begin(begin);
                Ok(())
            }
            Step::Commit { end } => self.commit(end).await,
            Step::Relation(message) => self.relation(&message).await,
            Step::Skipped => {
                self.count();
                Ok(())
            }
            Step::Changes(changes) => {
                self.changes(changes).await?;
                self.count();
                self.checkpoint_inside().await
            }
            Step::Clear(tables) => {
                for table in tables {
                    self.clear(table).await?;
                }
                self.count();
                Ok(())
            }
            Step::Keepalive { end, reply } => self.keepalive(end, reply).await,
        }
    }

    fn begin(&mut self, begin: Begin) {
        let inside = self.position.inside.take().filter(|inside| inside.xid == begin.xid);
        let skip = inside.map_or(0, |inside| inside.changes);
        self.state.merge.pass(begin.xid);
        self.state.current = Some(Current { begin, changes: 0, skip, marked: skip });
        self.passed.store(begin.lsn.0, Ordering::Relaxed);
    }

    fn count(&mut self) {
        if let Some(current) = &mut self.state.current {
            current.changes += 1;
        }
    }

    async fn commit(&mut self, end: Lsn) -> Result<(), SourceError> {
        let Some(current) = self.state.current.take() else {
            return Err(super::rows::unexpected("a Commit without a Begin"));
        };
        let Begin { lsn, time_us, xid } = current.begin;
        self.position.lsn = end;
        self.position.last_commit = Some(CommitMark { lsn, xid, time_us });
        self.passed.store(end.0, Ordering::Relaxed);
        self.state.dirty = true;
        self.state.merge.end();
        for (id, rows, displaced) in self.state.merge.released() {
            if let Some(held) = self.state.held.remove(&id) {
                self.emit(rows, displaced, held).await?;
            }
        }
        self.link.status.send_if_modified(|status| {
            status.passed_commit_unix_us = time_us;
            false
        });
        self.checkpoint_if_due(false).await?;
        self.look_if_many();
        Ok(())
    }

    async fn relation(&mut self, message: &[u8]) -> Result<(), SourceError> {
        let (oid, info) = self.catalog.describe(&self.reads.tables, message).await?;
        self.relations.insert(oid, info);
        Ok(())
    }

    /// Changes of one row: an old key gone, a new image.
    async fn changes(&mut self, changes: Changes) -> Result<(), SourceError> {
        let Changes { table, gone, new } = changes;
        let place = self.place()?;
        if let Some(row) = gone {
            self.tell_merge(&table, &row);
            self.push(&table, Op::Delete(row), place).await?;
        }
        match new {
            New::None => Ok(()),
            New::Op(op) => {
                self.tell_merge(&table, op.row());
                self.push(&table, op, place).await
            }
            New::Holes { key, texts } => {
                self.tell_merge(&table, &key);
                self.refetch(table, texts, key).await
            }
        }
    }

    fn tell_merge(&mut self, table: &TableInfo, row: &crate::change::Row) {
        if self.state.merge.is_idle() {
            return;
        }
        if let Some(key) = Key::of(&table.table, row) {
            self.state.merge.change(&key);
        }
    }

    async fn push(
        &mut self,
        table: &TableInfo,
        op: Op,
        place: crate::position::Offset,
    ) -> Result<(), SourceError> {
        let change = Change { table: table.table.clone(), offset: place, op, origin: Origin::Log };
        self.push_item(Item::Change(change)).await
    }

    /// Puts an item into the stream, waiting for the budget where it must.
    async fn push_item(&mut self, item: Item) -> Result<(), SourceError> {
        if !self.state.outgoing.has_room_for(&item) {
            // What waits unsent would never be settled, and its bytes never come back.
            self.state.outgoing.flush()?;
            let wanted = self.state.outgoing.wanted_for(&item);
            let charge = self.reserve(wanted).await?;
            self.state.outgoing.refill(charge)?;
        }
        self.state.outgoing.push(item);
        Ok(())
    }

    async fn reserve(&mut self, bytes: usize) -> Result<Charge, SourceError> {
        let outlet = self.link.outlet.clone();
        let mut reserving = std::pin::pin!(outlet.reserve(Class::Log, bytes));
        loop {
            tokio::select! {
                biased;
                charge = &mut reserving => {
                    return charge.map_err(|error| super::rows::too_large_for_the_budget(&error));
                }
                () = self.link.stop.told() => return Err(SourceError::Closed),
                () = outlet.closed() => return Err(SourceError::Closed),
                changed = self.link.durable.changed() => {
                    changed.map_err(|_| SourceError::Closed)?;
                    self.feedback(false).await?;
                }
                () = self.world.sleep(FEEDBACK_EVERY) => self.feedback(true).await?,
            }
        }
    }

    async fn clear(&mut self, table: Arc<TableInfo>) -> Result<(), SourceError> {
        let offset = self.place()?;
        self.state.merge.clear(table.table.number);
        self.push_item(Item::Clear { table: table.table.clone(), offset }).await
    }

    async fn refetch(
        &mut self,
        table: Arc<TableInfo>,
        texts: KeyText,
        key: crate::change::Row,
    ) -> Result<(), SourceError> {
        self.state.refetches.add(table, texts, key);
        // The change itself is counted as read and superseded: the refetched row goes out for it.
        self.link.status.send_if_modified(|status| {
            status.rows_displaced += 1;
            false
        });
        self.wait_for_reads().await
    }

    /// Lets the log wait while too much is held for reads; they end without its help.
    async fn wait_for_reads(&mut self) -> Result<(), SourceError> {
        while self.state.merge.changed_bytes() + self.state.refetches.bytes() > self.state.keys_charge.bytes()
        {
            self.state.refetches.send_all();
            self.state.outgoing.flush()?;
            // A held read would wait for the end of this transaction, which waits for it.
            for id in self.state.merge.unhold() {
                self.answer_again(id);
            }
            tokio::select! {
                biased;
                () = self.link.stop.told() => return Err(SourceError::Closed),
                said = self.from_reads.recv() => self.hear(said).await?,
                () = self.world.sleep(FEEDBACK_EVERY) => self.feedback(true).await?,
            }
        }
        Ok(())
    }

    fn answer_again(&mut self, id: ReadId) {
        self.link.status.send_modify(|status| status.reads_repeated += 1);
        if let Some(held) = self.state.held.remove(&id) {
            // A worker that has gone needs no answer.
            let _ = held.reply.send(Verdict::Again);
        }
    }

    async fn keepalive(&mut self, end: Lsn, reply: bool) -> Result<(), SourceError> {
        if self.state.current.is_none() && end > self.position.lsn {
            self.position.lsn = end;
            self.passed.store(end.0, Ordering::Relaxed);
            self.state.dirty = true;
        }
        if reply {
            self.feedback(false).await?;
        }
        Ok(())
    }

    /// Tells the server what is durable.
    async fn feedback(&mut self, ask: bool) -> Result<(), SourceError> {
        let durable = self.link.durable.borrow_and_update().clone();
        if let Some(position) = durable {
            let durable = PgPosition::open(&position)?.lsn;
            self.state.acknowledged = self.state.acknowledged.max(durable);
        }
        let lsn = self.state.acknowledged;
        self.state.last_feedback = self.world.now();
        self.connection.send_status(lsn, lsn, lsn, ask).await.map_err(lost)
    }

    /// The reader's place (law 1).
    fn place(&self) -> Result<crate::position::Offset, SourceError> {
        offset(self.state.current.as_ref().map_or(self.position.lsn, |current| current.begin.lsn))
    }

    async fn hear(&mut self, said: Option<FromRead>) -> Result<(), SourceError> {
        match said {
            // The reader holds a sender itself, through `reads`.
            None => Ok(()),
            Some(FromRead::Begin { table, reply }) => {
                let id = self.state.merge.begin(table);
                if reply.send(id).is_err() {
                    self.state.merge.abandon(id);
                }
                Ok(())
            }
            Some(FromRead::Finished(finished)) => self.finished(*finished).await,
            Some(FromRead::Snapshot(snapshot)) => {
                self.state.merge.forget(&snapshot);
                self.state.looking = false;
                Ok(())
            }
            Some(FromRead::Failed(error)) => Err(error),
        }
    }

    async fn finished(&mut self, finished: Finished) -> Result<(), SourceError> {
        let Finished { id, snapshot, rows, charge, table, purpose, reply } = finished;
        let key_of = |op: &Op| Key::of(&table.table, op.row());
        match self.state.merge.finish(id, &snapshot, rows, key_of) {
            Finish::Again => {
                self.link.status.send_modify(|status| status.reads_repeated += 1);
                // Its bytes are given back before it asks for them again.
                drop(charge);
                let _ = reply.send(Verdict::Again);
                Ok(())
            }
            Finish::Held => {
                self.state.held.insert(id, HeldRead { charge, table, purpose, reply });
                Ok(())
            }
            Finish::Out(rows, displaced) => {
                self.emit(rows, displaced, HeldRead { charge, table, purpose, reply }).await
            }
        }
    }

    /// Rows of a read enter the stream, at the reader's place.
    async fn emit(&mut self, rows: Vec<Op>, displaced: u64, read: HeldRead) -> Result<(), SourceError> {
        let HeldRead { mut charge, table, purpose, reply } = read;
        let offset = self.place()?;
        self.state.outgoing.flush()?;
        let count = rows.len() as u64;
        let costs = self.link.outlet.costs();
        charge.shrink_to(rows.iter().map(|op| costs.of_op(&table.table, op)).sum());
        let item = |op| Item::Change(Change { table: table.table.clone(), offset, op, origin: Origin::Read });
        let items: Vec<Item> = rows.into_iter().map(item).collect();
        if !items.is_empty() {
            self.link.outlet.send(Batch { items, charge })?;
        }
        let work = self.reads.tables.iter().find(|work| work.info.table.number == table.table.number);
        let mut refetched = 0;
        let mut is_done = None;
        match purpose {
            Purpose::Chunk { range, upto } => {
                if let Some(work) = work {
                    is_done = Some(work.with_progress(|progress| {
                        progress.done(range, upto);
                        progress.is_done()
                    }));
                }
            }
            Purpose::Refetch { tickets } => {
                refetched = count;
                self.state.refetches.done(&tickets);
            }
        }
        self.link.status.send_modify(|status| {
            status.rows_read += count + displaced;
            status.rows_displaced += displaced;
            status.rows_refetched += refetched;
            if let (Some(is_done), Some(table)) =
                (is_done, status.tables.get_mut(table.table.number as usize))
            {
                table.rows_read += count + displaced;
                table.done = is_done;
            }
        });
        self.state.dirty = true;
        self.reads.more.notify_waiters();
        let _ = reply.send(Verdict::Taken);
        self.release_candidate().await
    }

    /// Inside a giant transaction (T48).
    async fn checkpoint_inside(&mut self) -> Result<(), SourceError> {
        let due = self
            .state
            .current
            .as_ref()
            .is_some_and(|current| current.changes >= current.marked + PREFIX_EVERY);
        if !due || self.state.candidate.is_some() {
            return Ok(());
        }
        if let Some(current) = &mut self.state.current {
            current.marked = current.changes;
        }
        self.checkpoint().await
    }

    async fn checkpoint_if_due(&mut self, idle: bool) -> Result<(), SourceError> {
        if !self.state.dirty || self.state.current.is_some() || self.state.candidate.is_some() {
            return Ok(());
        }
        let since = self.world.now().saturating_sub(self.state.last_checkpoint);
        if !idle && since < CHECKPOINT_EVERY {
            return Ok(());
        }
        self.checkpoint().await
    }

    /// Makes a checkpoint of this place; it goes out when every refetch before it has.
    async fn checkpoint(&mut self) -> Result<(), SourceError> {
        let inside = self.state.current.as_ref().map(|current| Inside {
            lsn: current.begin.lsn,
            xid: current.begin.xid,
            changes: current.changes,
        });
        let tables = self.reads.tables.iter().map(|work| {
            let todo = work.with_progress(|progress| progress.todo());
            (work.info.table.name.to_string(), TableState { oid: work.info.oid, todo })
        });
        let position = PgPosition { inside, tables: tables.collect(), ..self.position.clone() };
        self.state.dirty = false;
        self.state.last_checkpoint = self.world.now();
        self.state.candidate = Some((position.seal()?, self.state.refetches.next_ticket()));
        self.release_candidate().await
    }

    async fn release_candidate(&mut self) -> Result<(), SourceError> {
        let free = self.state.refetches.oldest();
        let ready = |(_, before): &mut (Position, u64)| free.is_none_or(|oldest| oldest >= *before);
        match self.state.candidate.take_if(ready) {
            Some((position, _)) => self.push_item(Item::Checkpoint(position)).await,
            None => Ok(()),
        }
    }

    fn look_if_many(&mut self) {
        if self.state.looking || self.state.merge.unseen() < UNSEEN_MOST {
            return;
        }
        self.state.looking = true;
        self.state.look = Some(self.world.spawn(Box::pin(self.reads.clone().look())));
    }

    /// Stops in order: what is complete goes out, with a last checkpoint.
    async fn end(mut self) -> Result<(), SourceError> {
        if self.state.candidate.is_none() && self.state.refetches.oldest().is_none() {
            self.checkpoint().await?;
        }
        self.state.outgoing.flush()?;
        Ok(())
    }
}
