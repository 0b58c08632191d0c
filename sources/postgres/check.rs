//! Everything that is missing, at once, each with the SQL that mends it.

use std::time::Duration;

use super::catalog::{self, Server, TableInfo, ValueTypes, quoted};
use super::config::{Config, TableName};
use super::slot::{self, Publication, SlotState};
use super::wire::{Connection, WireError};
use crate::source::Finding;
use crate::world::SharedWorld;

/// Rowtide is tested on PostgreSQL 15, 17 and 18. 14 is the first one with all that is asked for:
/// `two_phase` of a slot can be seen, and a publication can be told to publish the root of partitions.
const OLDEST_VERSION: u32 = 140_000;

/// Time for one connection.
pub(crate) const CONNECT_LIMIT: Duration = Duration::from_secs(10);

/// Looks at the server, the role, the tables, the publication and the slot. An error is a connection
/// lost on the way; that none could be made is a finding.
pub(crate) async fn check(config: &Config, world: &SharedWorld) -> Result<Vec<Finding>, WireError> {
    let mut findings = Findings::default();
    let mut sql = match Connection::open(&config.connect, world, CONNECT_LIMIT).await {
        Ok(connection) => connection,
        Err(error) => {
            findings.cannot_connect(config, &error);
            return Ok(findings.0);
        }
    };
    findings.server(&mut sql).await?;
    findings.role(&mut sql).await?;
    // What the role and the settings lack was said already; here pg_hba.conf and the like show up.
    if findings.0.is_empty() {
        match Connection::open(&config.replication(), world, CONNECT_LIMIT).await {
            Ok(mut connection) => {
                Server::identify(&mut connection).await?;
                connection.close().await;
            }
            Err(error) => findings.cannot_replicate(config, &error),
        }
    }
    let mut tables: Vec<TableName> = config.exact().map(|entry| entry.name.clone()).collect();
    let patterns: Vec<TableName> = config.patterns().map(|entry| entry.name.clone()).collect();
    if !patterns.is_empty() {
        for (schema, name) in catalog::matching(&mut sql, &patterns).await? {
            tables.push(TableName::of(schema, name));
        }
    }
    findings.tables(&mut sql, config, &tables).await?;
    findings.publication(&mut sql, config, &tables).await?;
    findings.slot(&mut sql, config).await?;
    sql.close().await;
    Ok(findings.0)
}

#[derive(Default)]
struct Findings(Vec<Finding>);

impl Findings {
    fn add(&mut self, what: impl Into<String>, fix: impl Into<String>) {
        self.0.push(Finding { what: what.into(), fix: fix.into() });
    }

    fn cannot_connect(&mut self, config: &Config, error: &WireError) {
        let connect = &config.connect;
        let fix = match error.sqlstate() {
            Some("28P01") => {
                format!("correct the password, or: ALTER ROLE {} PASSWORD '…';", quoted(&connect.user))
            }
            Some("28000") => format!(
                "CREATE ROLE {} LOGIN REPLICATION PASSWORD '…'; and a line for it in pg_hba.conf",
                quoted(&connect.user)
            ),
            Some("3D000") => {
                format!("correct the database in the url, or: CREATE DATABASE {};", quoted(&connect.database))
            }
            _ => "correct the url, and see that the server runs and can be reached from here".to_owned(),
        };
        self.add(format!("cannot connect to {}:{}: {error}", connect.host, connect.port), fix);
    }

    fn cannot_replicate(&mut self, config: &Config, error: &WireError) {
        self.add(
            format!("cannot open a replication connection: {error}"),
            format!(
                "allow role {} in pg_hba.conf for database {}",
                config.connect.user, config.connect.database
            ),
        );
    }

    async fn server(&mut self, sql: &mut Connection) -> Result<(), WireError> {
        let ask = "\
            SELECT current_setting('server_version_num')::int, current_setting('server_version'),
                   pg_is_in_recovery(), current_setting('wal_level'),
                   current_setting('max_wal_senders')::int - (SELECT count(*) FROM pg_stat_replication)";
        let rows = sql.all_rows(ask, &[]).await?;
        let row: Vec<&str> =
            rows.iter().flatten().map(|value| value.as_deref().unwrap_or_default()).collect();
        let [version_number, version, in_recovery, wal_level, senders_left] = row.as_slice() else {
            return Err(WireError::Protocol("the settings gave a row of an unexpected form"));
        };
        if version_number.parse().is_ok_and(|version: u32| version < OLDEST_VERSION) {
            self.add(format!("PostgreSQL {version} is too old"), "upgrade it to 14 or later");
        }
        if *in_recovery == "t" {
            self.add(
                "the server is a standby: what its snapshots see cannot be told there",
                "put the primary's address into the url",
            );
        }
        if *wal_level != "logical" {
            self.add(
                format!("wal_level is {wal_level}, where the log must hold rows"),
                "ALTER SYSTEM SET wal_level = logical; and restart the server",
            );
        }
        if senders_left.parse::<i64>().is_ok_and(|left| left < 1) {
            self.add(
                "no walsender is left (max_wal_senders)",
                "ALTER SYSTEM SET max_wal_senders = …; with a higher number, and restart the server",
            );
        }
        Ok(())
    }

    async fn role(&mut self, sql: &mut Connection) -> Result<(), WireError> {
        // Hosted servers grant replication by membership in a role of their own.
        let ask = "\
            SELECT r.rolreplication OR r.rolsuper OR EXISTS (
                     SELECT FROM pg_roles g WHERE g.rolname IN ('rds_replication', 'cloudsqlreplica')
                        AND pg_has_role(r.oid, g.oid, 'MEMBER'))
              FROM pg_roles r WHERE r.rolname = current_user";
        let rows = sql.all_rows(ask, &[]).await?;
        if rows.into_iter().flatten().flatten().next().as_deref() != Some("t") {
            self.add(
                format!("role {} may not replicate", sql.user()),
                format!("ALTER ROLE {} REPLICATION;", quoted(sql.user())),
            );
        }
        Ok(())
    }

    async fn tables(
        &mut self,
        sql: &mut Connection,
        config: &Config,
        tables: &[TableName],
    ) -> Result<(), WireError> {
        let mut types = ValueTypes::default();
        for (number, name) in tables.iter().enumerate() {
            let loaded = TableInfo::load(sql, &mut types, number as u32, name, &config.publication).await?;
            if let Err(fault) = loaded {
                self.add(fault.what, fault.fix);
            }
        }
        Ok(())
    }

    async fn publication(
        &mut self,
        sql: &mut Connection,
        config: &Config,
        tables: &[TableName],
    ) -> Result<(), WireError> {
        let name = &config.publication;
        let Some(publication) = Publication::look(sql, name).await? else {
            let create = slot::create_publication_sql(name, tables);
            let ask = "SELECT has_database_privilege(current_database(), 'CREATE')";
            let may_create = sql.all_rows(ask, &[]).await?;
            if may_create.into_iter().flatten().flatten().next().as_deref() != Some("t") {
                self.add(format!("publication {name} does not exist, and the role may not make it"), create);
                return Ok(());
            }
            let foreign = self.tables_of_others(sql, tables).await?;
            if !foreign.is_empty() {
                let what = "does not exist, and only the owner of a table may publish it";
                self.add(format!("publication {name} {what} ({})", foreign.join(", ")), create);
            }
            return Ok(());
        };
        if !publication.unpublished.is_empty() {
            self.add(
                format!("publication {name} leaves {} out", publication.unpublished.join(", ")),
                format!(
                    "ALTER PUBLICATION {} SET (publish = 'insert, update, delete, truncate');",
                    quoted(name)
                ),
            );
        }
        if !publication.via_root {
            self.partitions_by_root(sql, config, tables).await?;
        }
        let lacking = publication.lacking(tables);
        let foreign = self.tables_of_others(sql, tables).await?;
        let may_add = publication.is_ours && !lacking.iter().any(|table| foreign.contains(&table.spelled));
        if !lacking.is_empty() && !may_add {
            let names: Vec<&str> = lacking.iter().map(|table| table.spelled.as_str()).collect();
            self.add(
                format!("publication {name} lacks {}, and the role may not add to it", names.join(", ")),
                slot::add_tables_sql(name, &lacking),
            );
        }
        Ok(())
    }

    /// Without `publish_via_partition_root` a partitioned table's changes come under other names.
    async fn partitions_by_root(
        &mut self,
        sql: &mut Connection,
        config: &Config,
        tables: &[TableName],
    ) -> Result<(), WireError> {
        for table in tables {
            let ask = "SELECT c.relkind FROM pg_class c WHERE c.oid = to_regclass($1)";
            let rows = sql.all_rows(ask, &[Some(&table.sql())]).await?;
            if rows.into_iter().flatten().flatten().next().as_deref() == Some("p") {
                self.add(
                    format!(
                        "table {} is partitioned, and the publication names its partitions",
                        table.spelled
                    ),
                    format!(
                        "ALTER PUBLICATION {} SET (publish_via_partition_root = true);",
                        quoted(&config.publication)
                    ),
                );
                return Ok(());
            }
        }
        Ok(())
    }

    /// Those of the tables that the role does not own, as they are spelled.
    async fn tables_of_others(
        &self,
        sql: &mut Connection,
        tables: &[TableName],
    ) -> Result<Vec<String>, WireError> {
        let mut foreign = Vec::new();
        for table in tables {
            let ask = "SELECT pg_has_role(c.relowner, 'USAGE') FROM pg_class c WHERE c.oid = to_regclass($1)";
            let rows = sql.all_rows(ask, &[Some(&table.sql())]).await?;
            if rows.into_iter().flatten().flatten().next().as_deref() == Some("f") {
                foreign.push(table.spelled.clone());
            }
        }
        Ok(foreign)
    }

    async fn slot(&mut self, sql: &mut Connection, config: &Config) -> Result<(), WireError> {
        let name = &config.slot;
        let ask = "SELECT pg_is_in_recovery()";
        if sql.all_rows(ask, &[]).await?.into_iter().flatten().flatten().next().as_deref() == Some("t") {
            // Said already; and a standby cannot say how much log a slot holds.
            return Ok(());
        }
        match SlotState::look(sql, name).await? {
            SlotState::Ready(_) => {}
            SlotState::Missing => {
                let ask = "SELECT current_setting('max_replication_slots')::int > (SELECT count(*) FROM pg_replication_slots)";
                let rows = sql.all_rows(ask, &[]).await?;
                if rows.into_iter().flatten().flatten().next().as_deref() == Some("f") {
                    self.add(
                        "no replication slot is left (max_replication_slots)",
                        "drop one that nobody reads, or ALTER SYSTEM SET max_replication_slots = …; and restart the server",
                    );
                }
            }
            SlotState::Active { pid, .. } => self.add(
                format!("slot {name} is being read by process {pid}"),
                format!("stop the other reader, or: SELECT pg_terminate_backend({pid});"),
            ),
            SlotState::Lost { reason } => self.add(
                format!("slot {name} is lost: {reason}"),
                format!(
                    "{} Rowtide then makes it anew and reads the tables again; \
                     a higher max_slot_wal_keep_size gives a slow reader more time",
                    slot::drop_slot_sql(name)
                ),
            ),
            SlotState::Foreign { what } => self.add(
                format!("slot {name} cannot be used: {what}"),
                format!("choose another name for the slot, or: {}", slot::drop_slot_sql(name)),
            ),
        }
        Ok(())
    }
}
