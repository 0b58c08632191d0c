//! A database server around the merge's model of a database: its log, its slot, its history.
//!
//! ```text
//!   Database (transactions, log, snapshots) ── log ──► slot ──► one connection
//!   backups: copies of all of it, to which the server can be put back
//! ```
//! The rules are PostgreSQL's: the slot never goes back, a start below what it confirmed is moved
//! silently, a promoted standby has another timeline, a restored volume has not.

use super::database::{Database, Lsn, Xid};

/// What keeps the log for a reader.
#[derive(Clone, Debug)]
pub(super) struct Slot {
    pub(super) confirmed: Lsn,
    /// The connection that reads.
    pub(super) active: Option<u64>,
    /// The server has dropped log that it needs.
    pub(super) is_lost: bool,
}

#[derive(Clone, Debug)]
pub(super) struct Server {
    pub(super) database: Database,
    pub(super) system: u32,
    pub(super) timeline: u32,
    /// Where each timeline before was left.
    pub(super) forks: Vec<(u32, Lsn)>,
    pub(super) slot: Option<Slot>,
}

impl Server {
    pub(super) fn new(present: u16) -> Self {
        Self { database: Database::new(present), system: 7, timeline: 1, forks: Vec::new(), slot: None }
    }

    /// Every connection ends.
    pub(super) fn disconnect(&mut self) {
        if let Some(slot) = &mut self.slot {
            slot.active = None;
        }
    }

    /// What was open is gone, what was committed can be seen.
    pub(super) fn recover(&mut self) {
        for xid in self.database.opened() {
            self.database.roll_back(xid);
        }
        for xid in self.database.invisible() {
            self.database.show(xid);
        }
        self.disconnect();
    }

    /// A standby that has all of this becomes the primary, on a timeline above `highest`.
    pub(super) fn promote(&mut self, highest: u32) {
        self.forks.push((self.timeline, self.database.lsn));
        self.timeline = highest.max(self.timeline) + 1;
    }

    /// Up to where a timeline is a part of this server's history.
    pub(super) fn common(&self, timeline: u32) -> Option<Lsn> {
        let left = self.forks.iter().find(|(parent, _)| *parent == timeline);
        left.map(|(_, end)| *end).or_else(|| (timeline == self.timeline).then_some(Lsn::MAX))
    }

    /// Whether the connection still reads the slot.
    pub(super) fn serves(&self, connection: u64) -> bool {
        self.slot.as_ref().is_some_and(|slot| !slot.is_lost && slot.active == Some(connection))
    }

    /// Where in the log a reader that starts at `lsn` begins.
    pub(super) fn log_from(&self, lsn: Lsn) -> usize {
        let before = |xid: &&Xid| self.database.transaction(**xid).end <= lsn;
        self.database.log.iter().take_while(before).count()
    }
}
