//! Our slot, and what earlier configurations have left behind: a slot that nobody reads keeps the
//! server's log until its disk is full.

use super::Findings;
use super::server::{self, Answers};
use crate::postgres::catalog::quoted;
use crate::postgres::config::Config;
use crate::postgres::slot::{self, SlotState};
use crate::postgres::wire::{Connection, WireError};

impl Findings {
    pub(super) async fn slot(
        &mut self,
        sql: &mut Connection,
        config: &Config,
        server: &Answers,
    ) -> Result<(), WireError> {
        let name = &config.slot;
        match SlotState::look(sql, name).await? {
            SlotState::Ready(_) => {}
            SlotState::Missing => server::judge_room(server, self),
            SlotState::Active { pid, .. } => self.add(
                format!("slot {name} is being read by process {pid}"),
                format!("SELECT pg_terminate_backend({pid}); -- or stop the other reader"),
            ),
            SlotState::Lost { reason } => self.add(
                format!("slot {name} is lost: {reason}"),
                format!(
                    "{} -- Rowtide then halts; fill the index anew. \
                     A higher max_slot_wal_keep_size gives a slow reader more time",
                    slot::drop_slot_sql(name)
                ),
            ),
            SlotState::Foreign { what } => self.add(
                format!("slot {name} cannot be used: {what}"),
                format!("{} -- or choose another name for the slot", slot::drop_slot_sql(name)),
            ),
        }
        Ok(())
    }

    /// Slots and publications with our prefix that this configuration does not name and nobody reads.
    /// They may belong to another configuration that is stopped: an advice.
    pub(super) async fn orphans(&mut self, sql: &mut Connection, config: &Config) -> Result<(), WireError> {
        const SLOTS: &str = "\
            SELECT s.slot_name, s.database, pg_size_pretty(greatest(
                       pg_wal_lsn_diff(pg_current_wal_flush_lsn(), s.restart_lsn), 0)::bigint)
              FROM pg_replication_slots s
             WHERE starts_with(s.slot_name, 'rowtide_') AND s.slot_name <> $1
               AND s.slot_type = 'logical' AND s.plugin = 'pgoutput' AND NOT s.active
             ORDER BY s.slot_name";
        for row in sql.all_rows(SLOTS, &[Some(&config.slot)]).await? {
            let [Some(name), database, held] = row.as_slice() else { continue };
            let database = database.as_deref().unwrap_or("?");
            // A slot that is lost keeps nothing.
            let held = held.as_deref().unwrap_or("nothing");
            self.advise(
                format!("slot {name} of the database {database} is read by nobody and keeps {held} of log"),
                format!("{} -- if no other configuration of Rowtide uses it", slot::drop_slot_sql(name)),
            );
        }
        const PUBLICATIONS: &str = "\
            SELECT p.pubname FROM pg_publication p
             WHERE starts_with(p.pubname, 'rowtide_') AND p.pubname <> $1
               AND NOT EXISTS (SELECT FROM pg_replication_slots s
                                WHERE s.slot_name = p.pubname AND s.database = current_database() AND s.active)
             ORDER BY p.pubname";
        for row in sql.all_rows(PUBLICATIONS, &[Some(&config.publication)]).await? {
            let Some(name) = row.into_iter().flatten().next() else { continue };
            self.advise(
                format!("publication {name} is used by no slot that is read now"),
                format!(
                    "DROP PUBLICATION {}; -- if no other configuration of Rowtide uses it",
                    quoted(&name)
                ),
            );
        }
        Ok(())
    }
}
