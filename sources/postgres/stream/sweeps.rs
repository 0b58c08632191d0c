//! The end of reading a table again (law 9): what no row brought is deleted.

use std::sync::atomic::Ordering;

use super::Stream;
use crate::change::Item;
use crate::postgres::open::offset;
use crate::source::SourceError;

impl Stream {
    /// Says so for each table of which everything was read again, between transactions: nothing of it
    /// is on its way beside the stream then.
    pub(super) async fn sweep_if_due(&mut self) -> Result<(), SourceError> {
        let waits = self.state.current.is_some() || self.state.refetches.oldest().is_some();
        if self.state.renewals.is_empty() || waits {
            return Ok(());
        }
        for work in std::mem::take(&mut self.state.renewals) {
            let due = work.renewal().filter(|renewal| {
                let is_read = work.with_progress(|progress| progress.is_done());
                is_read && self.position.lsn >= renewal.from
            });
            let Some(renewal) = due else {
                self.state.renewals.push(work);
                continue;
            };
            if renewal.sweep {
                let (below, place) = (offset(renewal.from)?, self.place()?);
                let table = work.info.table.clone();
                self.push_item(Item::Sweep { table, below, offset: place }).await?;
            }
            work.renewed();
            self.state.dirty = true;
        }
        Ok(())
    }

    /// How far the log must be passed before a read or a sweep can go on, if it is not yet.
    pub(super) fn is_awaited(&self) -> bool {
        let awaited = self.reads.awaited.load(Ordering::Relaxed);
        let sweep =
            self.state.renewals.iter().filter_map(|work| work.renewal()).map(|renewal| renewal.from.0);
        awaited.max(sweep.max().unwrap_or(0)) > self.passed.load(Ordering::Relaxed)
    }

    /// Asks where the log ends. A server that answers nothing is noticed by [`Stream::ask`], whose
    /// count this leaves alone.
    pub(super) async fn ask_for_the_end(&mut self) -> Result<(), SourceError> {
        let lsn = self.state.acknowledged;
        self.connection.send_status(lsn, lsn, lsn, true).await.map_err(super::lost)
    }
}
