//! The end of reading a table again (law 9): what no row brought is deleted.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::Stream;
use crate::change::Item;
use crate::position::Offset;
use crate::postgres::catalog::TableInfo;
use crate::postgres::open::offset;
use crate::postgres::work::TableWork;
use crate::source::SourceError;

/// Between two questions where the log ends, while a read waits for that place.
pub(super) const AWAITED_EVERY: Duration = Duration::from_millis(200);

/// A table that is read again.
pub(super) struct Renewing {
    work: Arc<TableWork>,
    /// All of it was read: rows with earlier tickets are still to be read by their keys.
    read: Option<u64>,
}

impl Renewing {
    /// Those of all tables.
    pub(super) fn of(tables: &[Arc<TableWork>]) -> Vec<Self> {
        let renewing = tables.iter().filter(|work| work.renewal().is_some());
        renewing.map(|work| Self { work: work.clone(), read: None }).collect()
    }
}

impl Stream {
    /// Says so for each table of which everything was read again, between transactions, when each row that
    /// had to be read by its key by then has gone out too.
    pub(super) async fn sweep_if_due(&mut self) -> Result<(), SourceError> {
        if self.state.renewals.is_empty() || self.state.current.is_some() {
            return Ok(());
        }
        for mut renewing in std::mem::take(&mut self.state.renewals) {
            if !self.is_due(&mut renewing) {
                self.state.renewals.push(renewing);
                continue;
            }
            let work = renewing.work;
            if let Some(renewal) = work.renewal().filter(|renewal| renewal.sweep) {
                let (below, place) = (offset(renewal.from)?, self.place_of(&work.info)?);
                let table = work.info.table.clone();
                // What it follows from, the drop of the table too, had committed below.
                self.reads.emitted.raise(renewal.behind());
                self.push_item(Item::Sweep { table, below, offset: place }).await?;
            }
            work.renewed();
            self.state.dirty = true;
        }
        Ok(())
    }

    /// The place of a row that is read: of a table that is read again, never the one that a read of before may
    /// have had.
    pub(super) fn place_of(&self, table: &TableInfo) -> Result<Offset, SourceError> {
        let place = self.place()?;
        let renewal = self.reads.work_of(table).and_then(|work| work.renewal());
        match renewal.filter(|renewal| renewal.behind().0 == place.get()) {
            Some(renewal) => offset(renewal.from),
            None => Ok(place),
        }
    }

    fn is_due(&self, renewing: &mut Renewing) -> bool {
        let Renewing { work, read } = renewing;
        let passed = work.renewal().is_none_or(|renewal| self.position.lsn >= renewal.behind());
        if !passed || !work.with_progress(|progress| progress.is_done()) {
            return false;
        }
        let ticket = *read.get_or_insert_with(|| self.state.refetches.next_ticket());
        self.state.refetches.oldest().is_none_or(|oldest| oldest >= ticket)
    }

    /// How far the log must be passed before a read or a sweep can go on, if it is not yet.
    pub(super) fn is_awaited(&self) -> bool {
        let awaited = self.reads.awaited.load(Ordering::Relaxed);
        let renewals = self.state.renewals.iter().filter_map(|of| of.work.renewal());
        let sweep = renewals.map(|renewal| renewal.behind().0);
        awaited.max(sweep.max().unwrap_or(0)) > self.passed.load(Ordering::Relaxed)
    }

    /// Asks where the log ends. A server that answers nothing is noticed by [`Stream::ask`], whose
    /// count this leaves alone.
    pub(super) async fn ask_for_the_end(&mut self) -> Result<(), SourceError> {
        let lsn = self.state.acknowledged;
        self.connection.send_status(lsn, lsn, lsn, true).await.map_err(super::lost)
    }
}
