//! How reads enter the log's stream (law 2): begun, finished, held, emitted.

use std::sync::Arc;

use super::{FEEDBACK_EVERY, Stream, UNSEEN_MOST};
use crate::budget::Charge;
use crate::change::{Change, Item, Key, Op, Origin};
use crate::merge::{Finish, ReadId};
use crate::postgres::catalog::TableInfo;
use crate::postgres::progress::KeyText;
use crate::postgres::reads::{Finished, FromRead, Purpose, Verdict};
use crate::postgres::rows;
use crate::queue::Batch;
use crate::source::SourceError;

/// A read that counts but has to wait for the end of the transaction.
pub(super) struct HeldRead {
    pub(super) charge: Charge,
    pub(super) table: Arc<TableInfo>,
    pub(super) purpose: Purpose,
    pub(super) reply: tokio::sync::oneshot::Sender<Verdict>,
}

impl Stream {
    pub(super) async fn refetch(
        &mut self,
        table: Arc<TableInfo>,
        texts: KeyText,
        key: crate::change::Row,
    ) -> Result<(), SourceError> {
        // What is read back has the columns that there are now: the log may describe the table as it was
        // before a column went (T09).
        let now = self.reads.work_of(&table).map(|work| work.info.clone());
        match now.filter(|now| !Arc::ptr_eq(&now.table, &table.table)) {
            None => self.state.refetches.add(table, texts, key),
            Some(now) => {
                let key = rows::key_from_texts(&now, &texts, &mut self.state.builder)?;
                self.state.refetches.add(now, texts, key);
            }
        }
        // The change itself is counted as read and superseded: the refetched row goes out for it.
        self.link.status.send_if_modified(|status| {
            status.rows_displaced += 1;
            false
        });
        self.wait_for_reads().await
    }

    /// Lets the log wait while too much is held for reads; they end without its help.
    pub(super) async fn wait_for_reads(&mut self) -> Result<(), SourceError> {
        while self.state.merge.changed_bytes() + self.state.refetches.bytes() > self.state.keys_charge.bytes()
        {
            self.hear_reads().await?;
        }
        Ok(())
    }

    /// Hears what reads say next, while the log waits for them.
    pub(super) async fn hear_reads(&mut self) -> Result<(), SourceError> {
        self.state.refetches.send_if_free();
        self.state.outgoing.flush()?;
        // A held read would wait for the end of this transaction, which waits for it.
        self.unhold();
        tokio::select! {
            biased;
            () = self.link.stop.told() => Err(SourceError::Closed),
            said = self.from_reads.recv() => self.hear(said).await,
            () = self.world.sleep(FEEDBACK_EVERY) => self.feedback(true).await,
        }
    }

    /// Reads that wait for the end of the transaction are taken again; then they see it.
    pub(super) fn unhold(&mut self) {
        for id in self.state.merge.unhold() {
            self.answer_again(id);
        }
    }

    pub(super) fn answer_again(&mut self, id: ReadId) {
        self.link.status.send_modify(|status| status.reads_repeated += 1);
        if let Some(held) = self.state.held.remove(&id) {
            // A worker that has gone needs no answer.
            let _ = held.reply.send(Verdict::Again);
        }
    }

    pub(super) async fn hear(&mut self, said: Option<FromRead>) -> Result<(), SourceError> {
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

    pub(super) async fn finished(&mut self, finished: Finished) -> Result<(), SourceError> {
        let Finished { id, snapshot, seen, rows, charge, table, purpose, reply } = finished;
        // Also when it is read again: to know too much costs nothing but a fill after a rare failover.
        self.reads.emitted.raise(seen);
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
    pub(super) async fn emit(
        &mut self,
        rows: Vec<Op>,
        displaced: u64,
        read: HeldRead,
    ) -> Result<(), SourceError> {
        let HeldRead { mut charge, table, purpose, reply } = read;
        let offset = self.place_of(&table)?;
        self.state.outgoing.flush()?;
        let count = rows.len() as u64;
        let costs = self.link.outlet.costs();
        charge.shrink_to(rows.iter().map(|op| costs.of_op(&table.table, op)).sum());
        let item = |op| Item::Change(Change { table: table.table.clone(), offset, op, origin: Origin::Read });
        let items: Vec<Item> = rows.into_iter().map(item).collect();
        if !items.is_empty() {
            self.link.outlet.send(Batch { items, charge })?;
        }
        let work = self.reads.work_of(&table);
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
            Purpose::Refetch { tickets, last } => {
                refetched = count;
                self.state.refetches.done(&tickets, last);
                self.state.refetches.send_if_free();
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

    pub(super) fn look_if_many(&mut self) {
        if self.state.looking || self.state.merge.unseen() < UNSEEN_MOST {
            return;
        }
        self.state.looking = true;
        self.state.look = Some(self.world.spawn(Box::pin(self.reads.clone().look())));
    }
}
