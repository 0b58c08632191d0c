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
use super::describe::Catalog;
use super::lsn::Lsn;
use super::open::{Begin, offset};
use super::position::{CommitMark, PgPosition};
use super::reads::{FromRead, Reads};
use super::refetch::Refetches;
use super::snapshot::PgSnapshot;
use super::step::{self, Changes, New, Step};
use super::wire::{Connection, Copy, WireError};
use crate::budget::{Charge, Class};
use crate::change::{Change, Item, Key, Op, Origin, RowBuilder};
use crate::merge::{Merge, ReadId};
use crate::position::Position;
use crate::queue::Outgoing;
use crate::source::{Link, SourceError};
use crate::world::{Moment, SharedWorld};

mod checkpoints;
mod entering;
mod sweeps;

use entering::HeldRead;
use sweeps::{AWAITED_EVERY, Renewing};

/// Between two checkpoints while changes flow; each costs the store a durable write at the most.
const CHECKPOINT_EVERY: Duration = Duration::from_millis(100);
/// Changes between two checkpoints inside a transaction.
const PREFIX_EVERY: u64 = 10_000;
/// Between two status updates to the server, whose patience (`wal_sender_timeout`) is 60 s unless it
/// was changed; it is asked for an answer, which says where its log ends (T03).
const FEEDBACK_EVERY: Duration = Duration::from_secs(5);
/// A server that was asked so often and said nothing is gone: a minute, like `wal_receiver_timeout`. Counted
/// and not timed, so that a process which stood still itself does not blame the server.
const UNANSWERED_MOST: u32 = 12;
/// After so many, what is waited for is said.
const UNANSWERED_TOLD: u32 = 3;
/// The least time between two reads that bring little; added to the latency of a busy log at the most.
const GATHER: Duration = Duration::from_millis(1);
/// What is little: half of the wire's buffer.
const GATHER_BELOW: usize = 32 << 10;
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
    /// When the server was last asked for a sign; every [`FEEDBACK_EVERY`], whatever else goes on.
    last_asked: Moment,
    /// So often, since it last said anything.
    unanswered: u32,
    /// When the buffer was empty last.
    last_idle: Moment,
    /// The last read from the socket brought less than [`GATHER_BELOW`].
    brought_little: bool,
    acknowledged: Lsn,
    /// A snapshot is being taken for its own sake.
    looking: bool,
    look: Option<crate::world::Task>,
    /// Tables that are read again, and not swept yet.
    renewals: Vec<Renewing>,
    /// Covers the keys held for reads under way.
    keys_charge: Charge,
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
            last_asked: world.now(),
            unanswered: 0,
            last_idle: world.now(),
            brought_little: false,
            acknowledged: position.lsn,
            looking: false,
            look: None,
            renewals: Renewing::of(&reads.tables),
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
        let reserved = self.link.outlet.budget().set_aside(share).await;
        self.state.keys_charge = reserved.map_err(|error| super::rows::too_large_for_the_budget(&error))?;
        if self.position.inside.is_none() {
            // Before the first document: after a crash, a start without a checkpoint would find
            // documents that nobody knows of, and halt.
            self.checkpoint().await?;
        }
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
            if self.gather().await? {
                self.turn().await?;
                continue;
            }
            let checkpoint_in = self.checkpoint_due_in();
            let is_awaited = self.is_awaited();
            tokio::select! {
                biased;
                () = self.link.stop.told() => {}
                said = self.from_reads.recv() => self.hear(said).await?,
                filled = self.connection.fill() => {
                    filled.map_err(lost)?;
                    self.heard();
                    self.state.brought_little = self.connection.buffered() < GATHER_BELOW;
                }
                changed = self.link.durable.changed() => {
                    changed.map_err(|_| SourceError::Closed)?;
                    self.feedback(false).await?;
                }
                () = self.world.sleep(checkpoint_in.unwrap_or_default()), if checkpoint_in.is_some() => {}
                () = self.world.sleep(AWAITED_EVERY), if is_awaited => self.ask_for_the_end().await?,
                // Then `idle` asks.
                () = self.world.sleep(FEEDBACK_EVERY) => {}
            }
        }
    }

    /// Asks the server for a sign, if it has not been lately. Only where its answer would be read.
    async fn ask(&mut self) -> Result<(), SourceError> {
        if self.world.now().saturating_sub(self.state.last_asked) < FEEDBACK_EVERY {
            return Ok(());
        }
        if self.state.unanswered >= UNANSWERED_MOST {
            return Err(SourceError::Wait {
                context: "read the log",
                reason: "the server says nothing, though it was asked for a minute: the connection is lost"
                    .to_owned(),
            });
        }
        self.state.unanswered += 1;
        if self.state.unanswered > UNANSWERED_TOLD {
            let seconds = FEEDBACK_EVERY.as_secs() * u64::from(self.state.unanswered - 1);
            let why = format!("a sign of the server, which has said nothing for {seconds} s");
            self.link.status.send_modify(|status| status.waiting_for = Some(why));
        }
        self.feedback(true).await
    }

    /// The server has said something.
    fn heard(&mut self) {
        if self.state.unanswered > UNANSWERED_TOLD {
            self.link.status.send_modify(|status| status.waiting_for = None);
        }
        self.state.unanswered = 0;
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
        // A log that is never idle must not keep keys from the worker: checkpoints wait for them.
        self.state.refetches.send_if_free();
        self.wait_for_reads().await
    }

    /// The buffer is empty: nothing that is complete waits for more.
    async fn idle(&mut self) -> Result<(), SourceError> {
        self.ask().await?;
        self.wait_for_reads().await?;
        self.sweep_if_due().await?;
        self.checkpoint_if_due().await?;
        self.state.refetches.send_if_free();
        self.state.outgoing.flush()?;
        Ok(())
    }

    /// The server sends each change by itself. Who reads as soon as there is one pays for a wake-up, a
    /// system call and a batch with each: after a read that brought little, the next one waits a moment,
    /// unless the last one was longer ago than that. Whether it has brought anything.
    async fn gather(&mut self) -> Result<bool, SourceError> {
        let recently = self.world.now().saturating_sub(self.state.last_idle) < GATHER;
        let mut gathered = false;
        if recently {
            let time = if self.state.brought_little { GATHER } else { Duration::ZERO };
            gathered = self.connection.gather(time).await.map_err(lost)?;
        }
        if gathered {
            self.heard();
            self.state.brought_little = self.connection.buffered() < GATHER_BELOW;
        }
        self.state.last_idle = self.world.now();
        Ok(gathered)
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
        self.reads.emitted.raise(Lsn(begin.lsn.0 + 1));
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
        self.sweep_if_due().await?;
        self.checkpoint_if_due().await?;
        self.look_if_many();
        Ok(())
    }

    async fn relation(&mut self, message: &[u8]) -> Result<(), SourceError> {
        let (oid, info) = self.catalog.describe(&self.reads.tables, message, true).await?;
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
            self.state.outgoing.hand_over()?;
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

    /// The reader's place (law 1).
    fn place(&self) -> Result<crate::position::Offset, SourceError> {
        offset(self.state.current.as_ref().map_or(self.position.lsn, |current| current.begin.lsn))
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
