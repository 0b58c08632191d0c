//! Reads beside the log: chunks of the first fill and refetches by key, for `stream` to merge.
//!
//! ```text
//!   worker ── Begin ──► reader     the read is known before its snapshot is taken (law 2)
//!     │  lock; repeatable read: pg_current_snapshot(), rows
//!     └── Finished ──► reader ── Taken ──► next chunk
//!                         └──── Again ──► Begin
//! ```
//! - A table's first read after each start of the reader waits for the transactions that then held a
//!   write lock on it (law 2; ATTACKS A4, D4): what they committed may lie before the log's start.
//! - A chunk reserves its share of the budget before it reads and ends at that share, so that it never
//!   waits while it holds rows.
//! - One repeatable-read transaction gives rows and snapshot one view.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{Notify, mpsc, oneshot, watch};

use super::catalog::TableInfo;
use super::history::Emitted;
use super::lsn::Lsn;
use super::progress::{KeyText, Progress, Range, RangeId};
use super::rows;
use super::slot;
use super::snapshot::PgSnapshot;
use super::sql::{self, Select};
use super::wire::{Connect, Connection, Next};
use super::work::TableWork;
use crate::budget::{Charge, Class};
use crate::change::{Op, Row, RowBuilder};
use crate::merge::ReadId;
use crate::queue::Outlet;
use crate::source::{SourceError, StatusSender};
use crate::world::SharedWorld;

/// How long a read that was too early waits before it is taken again: a commit that is in the log is
/// visible a moment later, unless it waits for a standby.
const AGAIN_FIRST: Duration = Duration::from_millis(5);
const AGAIN_MOST: Duration = Duration::from_secs(1);
/// Rows of a chunk, in bytes of what they cost: many small ones for each statement, and little to read
/// again when a read was too early.
const CHUNK_BYTES: usize = 4 << 20;
/// Rows of a refetch beside the largest one that may still come.
const REFETCH_BYTES: usize = 1 << 20;
/// What a row's memory has beside its values: an end for each of at most 1,600 columns, and its key,
/// which an index holds and so has less than 8 KiB.
const ROW_FRAME_BYTES: usize = 4 * 1600 + (8 << 10);
/// Between two looks at who still holds a write lock.
const GATE_LOOK_EVERY: Duration = Duration::from_millis(50);

/// What a read says to the reader of the log.
pub(super) enum FromRead {
    /// A read is about to take its snapshot.
    Begin { table: u32, reply: oneshot::Sender<ReadId> },
    /// It has its rows.
    Finished(Box<Finished>),
    /// A snapshot was taken for its own sake.
    Snapshot(PgSnapshot),
    /// Reads can't go on.
    Failed(SourceError),
}

/// A read with its rows.
pub(super) struct Finished {
    pub id: ReadId,
    pub snapshot: PgSnapshot,
    /// What it sees had committed below.
    pub seen: Lsn,
    /// Put, TooLarge, or (in a refetch) Delete for a key without a row.
    pub rows: Vec<Op>,
    /// Covers the rows.
    pub charge: Charge,
    pub table: Arc<TableInfo>,
    pub purpose: Purpose,
    pub reply: oneshot::Sender<Verdict>,
}

/// What a read is for.
pub(super) enum Purpose {
    /// The range's rows up to and with the key, or all of them.
    Chunk { range: RangeId, upto: Option<KeyText> },
    /// The keys with these tickets; `last`: no others are left of their job.
    Refetch { tickets: Vec<u64>, last: bool },
}

/// What came of a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Taken,
    Again,
}

/// Keys whose rows have to be read again.
pub(super) struct Refetch {
    pub table: Arc<TableInfo>,
    /// The key's values as PostgreSQL prints them, the row that holds only the key, and the ticket by
    /// which a checkpoint waits for it.
    pub keys: Vec<(KeyText, Row, u64)>,
}

/// What all reads share.
pub(super) struct Reads {
    pub world: SharedWorld,
    pub connect: Connect,
    pub tables: Vec<Arc<TableWork>>,
    /// The timeline that the log comes from.
    pub timeline: u32,
    pub emitted: Arc<Emitted>,
    pub outlet: Outlet,
    pub to_reader: mpsc::UnboundedSender<FromRead>,
    pub status: StatusSender,
    /// Most rows of a chunk.
    pub chunk_rows: usize,
    /// Most bytes of a row.
    pub document_bytes_max: usize,
    /// Chunks that may be under way at once; each holds its share of the budget.
    pub sharers: usize,
    /// True while chunks must wait, since the server keeps too much log.
    pub yields: Arc<watch::Sender<bool>>,
    /// How far the log has been passed.
    pub passed: Arc<AtomicU64>,
    /// How far it must be passed before a chunk can be read; the reader of the log asks for it.
    pub awaited: AtomicU64,
    /// Something may be to take again.
    pub more: Notify,
}

impl Reads {
    /// The table under work, also by an earlier description of it: its number is its place.
    pub(super) fn work_of(&self, table: &TableInfo) -> Option<&Arc<TableWork>> {
        self.tables.get(table.table.number as usize)
    }

    /// Reads chunks until every table is done.
    pub(super) async fn work(self: Arc<Self>) {
        if let Err(error) = self.chunks().await {
            // When nobody listens, the reader has gone, and its own end says why.
            let _ = self.to_reader.send(FromRead::Failed(error));
        }
    }

    async fn chunks(&self) -> Result<(), SourceError> {
        let mut connection: Option<Connection> = None;
        loop {
            let waiting = self.more.notified();
            let Some((table, range, bounds)) = self.take() else {
                if self.tables.iter().all(|table| table.with_progress(|progress| progress.is_done())) {
                    return Ok(());
                }
                waiting.await;
                continue;
            };
            let connection = match &mut connection {
                Some(connection) => connection,
                None => connection.insert(self.open().await?),
            };
            self.pass_gate(connection, &table).await?;
            table.behind.get_or_try_init(|| self.wait_for_the_log(connection, &table)).await?;
            self.chunk(connection, &table, range, bounds).await?;
            self.more.notify_waiters();
        }
    }

    /// A free range of the table that comes first in the configuration.
    fn take(&self) -> Option<(Arc<TableWork>, RangeId, Range)> {
        self.tables.iter().find_map(|table| {
            let (id, range) = table.with_progress(Progress::take)?;
            Some((table.clone(), id, range))
        })
    }

    async fn open(&self) -> Result<Connection, SourceError> {
        super::open::connect(&self.connect, &self.world, "open a connection for reads").await
    }

    /// Law 2's wait: the table's first read after a start of the reader.
    async fn pass_gate(&self, connection: &mut Connection, table: &TableWork) -> Result<(), SourceError> {
        table.gate.get_or_try_init(|| self.wait_for_writers(connection, table)).await?;
        Ok(())
    }

    async fn wait_for_writers(
        &self,
        connection: &mut Connection,
        table: &TableWork,
    ) -> Result<(), SourceError> {
        let wrong = |error: super::wire::WireError| error.into_source("ask who writes to a table");
        let oid = [table.info.oid];
        let mut held = slot::write_lock_holders(connection, &oid).await.map_err(wrong)?;
        while !held.is_empty() {
            let who: Vec<&str> = held.iter().map(|holder| holder.who.as_str()).collect();
            let text = format!("{} to end, which wrote to {}", who.join(", "), table.info.table.name);
            self.status.send_modify(|status| status.waiting_for = Some(text));
            self.world.sleep(GATE_LOOK_EVERY).await;
            let now = slot::write_lock_holders(connection, &oid).await.map_err(wrong)?;
            held.retain(|old| now.iter().any(|new| new.virtual_transaction == old.virtual_transaction));
        }
        self.status.send_modify(|status| status.waiting_for = None);
        Ok(())
    }

    /// A table that is read again: what was written under the old catalog must have gone out before,
    /// or its image of that time would displace a row that was read.
    async fn wait_for_the_log(
        &self,
        connection: &mut Connection,
        table: &TableWork,
    ) -> Result<(), SourceError> {
        if table.renewal().is_none() {
            return Ok(());
        }
        let end =
            slot::log_end(connection).await.map_err(|error| error.into_source("ask for the log's end"))?;
        self.awaited.fetch_max(end.0, Ordering::Relaxed);
        while self.passed.load(Ordering::Relaxed) < end.0 {
            self.world.sleep(GATE_LOOK_EVERY).await;
        }
        Ok(())
    }

    /// Splits a chunk off the range and reads it, in several parts when its rows are large.
    async fn chunk(
        &self,
        connection: &mut Connection,
        table: &Arc<TableWork>,
        range: RangeId,
        mut bounds: Range,
    ) -> Result<(), SourceError> {
        let rows = self.rows_of_a_chunk(&table.info);
        if let Some(at) = self.boundary(connection, &table.info, &bounds, rows).await? {
            table.with_progress(|progress| progress.split(range, &at));
            self.more.notify_waiters();
            bounds.high = Some(at);
        }
        let mut pause = AGAIN_FIRST;
        loop {
            // The sender is ours: it does not go away.
            let _ = self.yields.subscribe().wait_for(|yields| !yields).await;
            let charge = self.reserve(Class::Read, self.share()).await?;
            let id = self.begin(&table.info).await?;
            let select = sql::chunk(&table.info, &bounds);
            let read = self.read(connection, &table.info, &select, charge, 0).await?;
            let upto = read.upto.clone();
            let purpose = Purpose::Chunk { range, upto: upto.clone() };
            match (self.finish(id, read, &table.info, purpose).await?, upto) {
                (Verdict::Taken, None) => return Ok(()),
                (Verdict::Taken, Some(key)) => {
                    bounds.low = Some(key);
                    pause = AGAIN_FIRST;
                }
                (Verdict::Again, _) => {
                    self.world.sleep(pause).await;
                    pause = (pause * 2).min(AGAIN_MOST);
                }
            }
        }
    }

    /// How many rows fill a chunk's share of the budget, by the table's average.
    fn rows_of_a_chunk(&self, table: &TableInfo) -> usize {
        let row = table.row_bytes_estimated.max(64) as usize * 2;
        ((self.share() - self.largest()) / row).clamp(1, self.chunk_rows)
    }

    /// The key of the last row of a chunk that starts at the range's low end; `None` when the rest of
    /// the range is no larger.
    async fn boundary(
        &self,
        connection: &mut Connection,
        table: &TableInfo,
        bounds: &Range,
        rows: usize,
    ) -> Result<Option<KeyText>, SourceError> {
        let select = sql::boundary(table, bounds, rows);
        let wrong = |error: super::wire::WireError| error.into_read("find the end of a chunk");
        connection.query(&select.sql, &select.params()).await.map_err(wrong)?;
        let mut found = None;
        loop {
            match connection.next_row(self.document_bytes_max, &[]).await.map_err(wrong)? {
                Next::Row(tuple) => found = rows::texts(&tuple),
                Next::TooLarge(_) => {}
                Next::End => return Ok(found),
            }
        }
    }

    /// What one read reserves: its share of what reads may hold, at least two of the largest rows, and
    /// no more than a good chunk beside the largest row that may still come. Who does not fit waits
    /// for another read to end, which needs nobody's help.
    fn share(&self) -> usize {
        let half = self.outlet.budget().full_limit() / 2;
        let largest = self.largest();
        (half / self.sharers).max(2 * largest).min(largest + CHUNK_BYTES).min(half)
    }

    /// The most that one row costs, from here to the target's answer.
    fn largest(&self) -> usize {
        self.outlet.costs().of_values(self.document_bytes_max + ROW_FRAME_BYTES, 0)
    }

    async fn reserve(&self, class: Class, bytes: usize) -> Result<Charge, SourceError> {
        let reserved = self.outlet.reserve(class, bytes).await;
        reserved.map_err(|error| rows::too_large_for_the_budget(&error))
    }

    async fn begin(&self, table: &TableInfo) -> Result<ReadId, SourceError> {
        let (reply, answer) = oneshot::channel();
        let ask = FromRead::Begin { table: table.table.number, reply };
        self.to_reader.send(ask).map_err(|_| SourceError::Closed)?;
        answer.await.map_err(|_| SourceError::Closed)
    }

    async fn finish(
        &self,
        id: ReadId,
        read: ReadRows,
        table: &Arc<TableInfo>,
        purpose: Purpose,
    ) -> Result<Verdict, SourceError> {
        let (reply, answer) = oneshot::channel();
        let ReadRows { snapshot, seen, rows, charge, .. } = read;
        let finished = Finished { id, snapshot, seen, rows, charge, table: table.clone(), purpose, reply };
        self.to_reader.send(FromRead::Finished(Box::new(finished))).map_err(|_| SourceError::Closed)?;
        answer.await.map_err(|_| SourceError::Closed)
    }

    /// Snapshot and rows from one view, up to what the charge covers beside `used` bytes.
    async fn read(
        &self,
        connection: &mut Connection,
        table: &TableInfo,
        select: &Select,
        mut charge: Charge,
        mut used: usize,
    ) -> Result<ReadRows, SourceError> {
        let wrong = |error: super::wire::WireError| error.into_read("read rows");
        let begun = connection.simple(&sql::begin_read(table)).await.map_err(wrong)?;
        let (snapshot, seen) = self.view(begun.first())?;
        connection.query(&select.sql, &select.params()).await.map_err(wrong)?;

        let costs = self.outlet.costs();
        let largest = self.largest();
        let keep: Vec<usize> = table.table.key.iter().map(|&column| usize::from(column)).collect();
        let mut builder = RowBuilder::default();
        let mut rows = Vec::new();
        let mut upto = None;
        while upto.is_none() {
            let next = connection.next_row(self.document_bytes_max, &keep).await.map_err(wrong)?;
            let (op, full) = match &next {
                Next::Row(tuple) => {
                    let op = rows::put(table, tuple, &mut builder, self.document_bytes_max)?;
                    used += costs.of_op(&table.table, &op);
                    (op, used + largest > charge.bytes())
                }
                Next::TooLarge(row) => {
                    let op = rows::too_large(table, row, &mut builder)?;
                    used += costs.of_op(&table.table, &op);
                    (op, used + largest > charge.bytes())
                }
                Next::End => break,
            };
            rows.push(op);
            if full {
                upto = match &next {
                    Next::Row(tuple) => rows::key_texts(table, tuple),
                    Next::TooLarge(row) => rows::large_key_texts(row, None),
                    Next::End => None,
                };
            }
        }
        if upto.is_some() {
            connection.cancel_rest().await.map_err(wrong)?;
        }
        connection.simple("COMMIT").await.map_err(wrong)?;
        charge.shrink_to(used);
        Ok(ReadRows { snapshot, seen, rows, charge, upto })
    }

    /// What a read sees. After a failover the address may lead to another server while the log still comes
    /// from the old one: the ids of their transactions cannot be compared.
    fn view(&self, row: Option<&Vec<Option<String>>>) -> Result<(PgSnapshot, Lsn), SourceError> {
        let text = |place: usize| row.and_then(|row| row.get(place)).and_then(Option::as_deref);
        let snapshot = text(0).and_then(PgSnapshot::parse).ok_or_else(rows::no_snapshot)?;
        let seen = text(1).and_then(|lsn| lsn.parse().ok()).ok_or_else(rows::no_snapshot)?;
        let timeline = text(2).and_then(|file| u32::from_str_radix(file.get(..8)?, 16).ok());
        if timeline != Some(self.timeline) {
            return Err(SourceError::Wait {
                context: "read rows",
                reason: "another server answers than the one whose log is read".to_owned(),
            });
        }
        Ok((snapshot, seen))
    }

    /// Reads rows again by key, in order, until the reader goes away.
    pub(super) async fn refetch(self: Arc<Self>, mut jobs: mpsc::UnboundedReceiver<Refetch>) {
        let mut connection: Option<Connection> = None;
        while let Some(job) = jobs.recv().await {
            if let Err(error) = self.refetch_job(&mut connection, job).await {
                let _ = self.to_reader.send(FromRead::Failed(error));
                return;
            }
        }
    }

    async fn refetch_job(
        &self,
        connection: &mut Option<Connection>,
        mut job: Refetch,
    ) -> Result<(), SourceError> {
        let connection = match connection {
            Some(connection) => connection,
            None => connection.insert(self.open().await?),
        };
        if let Some(work) = self.work_of(&job.table) {
            self.pass_gate(connection, work).await?;
        }
        let mut pause = AGAIN_FIRST;
        while !job.keys.is_empty() {
            // On the log's account: what is read stands for its changes, and its checkpoints wait for it.
            let charge = self.reserve(Class::Log, self.largest() + REFETCH_BYTES).await?;
            let id = self.begin(&job.table).await?;
            let select = sql::by_keys(&job.table, job.keys.iter().map(|(texts, ..)| texts));
            // A key without a row becomes a delete, and is paid for beforehand.
            let cost = |key: &(KeyText, Row, u64)| self.outlet.costs().of_values(key.1.heap_bytes() * 2, 0);
            let deletes = job.keys.iter().map(cost).sum();
            let read = self.read(connection, &job.table, &select, charge, deletes).await?;
            let (rest, read) = add_absent(&job, read);
            let tickets = job.keys.iter().filter(|key| !rest.contains(&key.2)).map(|key| key.2).collect();
            let verdict = self
                .finish(id, read, &job.table, Purpose::Refetch { tickets, last: rest.is_empty() })
                .await?;
            if verdict == Verdict::Taken {
                job.keys.retain(|key| rest.contains(&key.2));
                pause = AGAIN_FIRST;
                continue;
            }
            self.world.sleep(pause).await;
            pause = (pause * 2).min(AGAIN_MOST);
        }
        Ok(())
    }

    /// Takes a snapshot for its own sake: what it sees need not be remembered.
    pub(super) async fn look(self: Arc<Self>) {
        let looked = async {
            let mut connection = self.open().await?;
            let wrong = |error: super::wire::WireError| error.into_source("take a snapshot");
            let answer = connection.simple("SELECT pg_current_snapshot()").await.map_err(wrong)?;
            let text = answer.first().and_then(|row| row.first()).and_then(Option::as_deref);
            text.and_then(PgSnapshot::parse).ok_or_else(rows::no_snapshot)
        };
        let said = match looked.await {
            Ok(snapshot) => FromRead::Snapshot(snapshot),
            Err(error) => FromRead::Failed(error),
        };
        let _ = self.to_reader.send(said);
    }
}

struct ReadRows {
    snapshot: PgSnapshot,
    seen: Lsn,
    rows: Vec<Op>,
    charge: Charge,
    /// The read ended before its end: after the row with this key.
    upto: Option<KeyText>,
}

/// In a refetch an absent row is a delete (law 2). When the read was cut at its share, absence says
/// nothing: the keys that brought no row stay to be read (their tickets are returned).
fn add_absent(job: &Refetch, mut read: ReadRows) -> (Vec<u64>, ReadRows) {
    let key_of = |row: &Row| crate::change::Key::of(&job.table.table, row);
    let found: std::collections::HashSet<_> = read
        .rows
        .iter()
        .filter_map(|op| match op {
            Op::Put(row) | Op::Delete(row) | Op::TooLarge { key: row, .. } => key_of(row),
        })
        .collect();
    let missing = job.keys.iter().filter(|(_, row, _)| key_of(row).is_none_or(|key| !found.contains(&key)));
    if read.upto.is_some() {
        let rest = missing.map(|key| key.2).collect();
        return (rest, read);
    }
    read.rows.extend(missing.map(|(_, row, _)| Op::Delete(row.clone())));
    (Vec::new(), read)
}
