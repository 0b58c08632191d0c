//! Tables whose rows came and went without an event: noticed, read again, swept.

use sources::change::Item;
use sources::position::Offset;
use sources::source::SourceError;

use super::Stream;
use crate::simulation::database::ids_of;
use crate::simulation::rules::{ModelRule, is_model_left_out};

impl Stream {
    /// Now and then: DDL has no event.
    pub(super) fn look_at_the_catalog(&self) -> Result<(), SourceError> {
        if !self.model.world.random().is_multiple_of(16) {
            return Ok(());
        }
        let env = self.model.env.lock();
        let is_seen = env.server.serves(self.model.connection);
        match is_seen && env.server.database.revisions() != self.model.place.revisions {
            true => Err(SourceError::Changed { what: "a table was altered".to_owned() }),
            false => Ok(()),
        }
    }

    /// The place of a row that is read: of a table that is read again, never the one that a read of before may
    /// have had.
    pub(super) fn place_of(&self, table: u32) -> Offset {
        let place = self.place();
        match self.model.place.renewals.get(&table) {
            Some(&(_, from)) if place.get() + 1 == from => Offset::new(from).unwrap(),
            _ => place,
        }
    }

    /// A table was read again, and what the log had before: what nobody has brought is gone.
    pub(super) async fn sweep_if_due(&mut self) -> Result<(), SourceError> {
        if self.current.is_some() {
            return Ok(());
        }
        for table in self.sweeps.keys().copied().collect::<Vec<_>>() {
            let Some(&(_, from)) = self.model.place.renewals.get(&table) else { continue };
            let is_read = ids_of(table).all(|id| self.progress().done.contains(&id));
            if self.model.place.lsn + 1 < from || !is_read {
                continue;
            }
            let next = self.next_ticket;
            let before = *self.sweeps.entry(table).or_default().get_or_insert(next);
            if self.tickets.first_key_value().is_some_and(|(oldest, _)| *oldest < before) {
                continue;
            }
            let offset = self.place_of(table);
            self.sweeps.remove(&table);
            self.model.place.renewals.remove(&table);
            self.dirty = true;
            if !is_model_left_out(ModelRule::SweepsAreSent) {
                let (table, below) = (self.model.tables[table as usize].clone(), Offset::new(from).unwrap());
                // What it follows from, the alteration, had committed below.
                self.model.env.lock().reach(self.model.process, from - 1);
                self.push(Item::Sweep { table, below, offset }).await?;
            }
        }
        Ok(())
    }
}
