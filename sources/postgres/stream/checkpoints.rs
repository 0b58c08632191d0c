//! Checkpoints of the stream, and what the server is told of those that are durable (law 4, T01, T03).

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::{CHECKPOINT_EVERY, PREFIX_EVERY, Stream, lost};
use crate::change::Item;
use crate::position::Position;
use crate::postgres::lsn::Lsn;
use crate::postgres::position::{Inside, PgPosition, TableState};
use crate::source::SourceError;

impl Stream {
    pub(super) async fn keepalive(&mut self, end: Lsn, reply: bool) -> Result<(), SourceError> {
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
    pub(super) async fn feedback(&mut self, ask: bool) -> Result<(), SourceError> {
        let durable = self.link.durable.borrow_and_update().clone();
        if let Some(position) = durable {
            let durable = PgPosition::open(&position)?.lsn;
            self.state.acknowledged = self.state.acknowledged.max(durable);
        }
        let lsn = self.state.acknowledged;
        self.state.last_feedback = self.world.now();
        if ask {
            self.state.last_asked = self.state.last_feedback;
        }
        self.connection.send_status(lsn, lsn, lsn, ask).await.map_err(lost)
    }

    /// Inside a giant transaction (T48).
    pub(super) async fn checkpoint_inside(&mut self) -> Result<(), SourceError> {
        let due = self
            .state
            .current
            .as_ref()
            .is_some_and(|current| current.changes >= current.marked + PREFIX_EVERY);
        if !due {
            return Ok(());
        }
        // It lasts: reads that do not see it would hold their share of the budget until its end.
        self.unhold();
        if let Some(current) = &mut self.state.current {
            current.marked = current.changes;
        }
        // Rows that are read back for changes before it: no checkpoint without them, and they are read slowly
        // beside a log that takes the whole budget. So it waits, or its own progress would begin too late.
        while self.state.candidate.is_some() {
            self.hear_reads().await?;
        }
        self.checkpoint().await
    }

    pub(super) async fn checkpoint_if_due(&mut self) -> Result<(), SourceError> {
        match self.checkpoint_due_in() {
            Some(Duration::ZERO) => self.checkpoint().await,
            _ => Ok(()),
        }
    }

    /// How long until the next checkpoint between transactions; `None` while there is nothing to say. An
    /// idle moment makes none sooner: a log that trickles is idle after each of its changes, and with a
    /// thousand tables a position has tens of kilobytes.
    pub(super) fn checkpoint_due_in(&self) -> Option<Duration> {
        if !self.state.dirty || self.state.current.is_some() || self.state.candidate.is_some() {
            return None;
        }
        let since = self.world.now().saturating_sub(self.state.last_checkpoint);
        Some(CHECKPOINT_EVERY.saturating_sub(since))
    }

    /// Makes a checkpoint of this place; it goes out when every refetch before it has.
    pub(super) async fn checkpoint(&mut self) -> Result<(), SourceError> {
        let inside = self.state.current.as_ref().map(|current| Inside {
            lsn: current.begin.lsn,
            xid: current.begin.xid,
            // Told to stop within the prefix that was settled before: it stays settled.
            changes: current.changes.max(current.skip),
        });
        let tables = self.reads.tables.iter().filter_map(|work| {
            let todo = work.with_progress(|progress| progress.todo());
            let renewal = work.renewal();
            if work.is_gone && (renewal.is_none() && !work.is_kept || work.info.oid == 0) {
                return None;
            }
            let leaves = work.info.leaves.iter().map(|(oid, leaf)| (*oid, leaf.file)).collect();
            let (oid, shape) = (work.info.oid, Some(work.info.signature.clone()));
            Some((work.info.table.name.to_string(), TableState { oid, todo, shape, leaves, renewal }))
        });
        let seen = self.reads.emitted.get().map(|reach| reach.lsn);
        let position = PgPosition { inside, seen, tables: tables.collect(), ..self.position.clone() };
        self.state.dirty = false;
        self.state.last_checkpoint = self.world.now();
        self.state.candidate = Some((position.seal()?, self.state.refetches.next_ticket()));
        self.release_candidate().await
    }

    pub(super) async fn release_candidate(&mut self) -> Result<(), SourceError> {
        let free = self.state.refetches.oldest();
        let ready = |(_, before): &mut (Position, u64)| free.is_none_or(|oldest| oldest >= *before);
        match self.state.candidate.take_if(ready) {
            Some((position, _)) => self.push_item(Item::Checkpoint(position)).await,
            None => Ok(()),
        }
    }
}
