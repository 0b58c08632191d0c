//! Everything that is missing, at once, each with what mends it; and what a careful person has besides.
//!
//! ```text
//!   server ─ hosting     settings, the role, what a managed server calls them
//!   tables ─ publication what the log carries of them
//!   slots                ours, and those that nobody reads any more
//! ```
//! A fix is SQL where there is SQL for it: each of its lines is one statement, as it can be sent by
//! somebody who may. It changes nothing itself.

mod hosting;
mod publication;
mod server;
mod slots;

use std::sync::Arc;
use std::time::Duration;

use super::catalog::{Server, TableFault, TableInfo, ValueTypes, quoted};
use super::config::Config;
use super::known::{self, Wanted};
use super::wire::{Connection, WireError};
use crate::OnDrop;
use crate::change::Table;
use crate::source::{Checked, Finding};
use crate::world::SharedWorld;

/// Time for one connection.
pub(crate) const CONNECT_LIMIT: Duration = Duration::from_secs(10);

/// Looks at the server, the role, the tables, the publication and the slot. An error is a connection
/// lost on the way; that none could be made is a finding.
pub(crate) async fn check(config: &Config, world: &SharedWorld) -> Result<Checked, WireError> {
    let mut findings = Findings::default();
    let mut sql = match Connection::open(&config.connect, world, CONNECT_LIMIT).await {
        Ok(connection) => connection,
        Err(error) => {
            findings.cannot_connect(config, &error);
            return Ok(findings.checked(Vec::new()));
        }
    };
    let server = server::ask(&mut sql).await?;
    let judged = server::judge(&server, sql.user());
    findings.missing.extend(judged.missing);
    findings.advised.extend(judged.advised);
    // What the role and the settings lack was said already; here pg_hba.conf and the like show up.
    if findings.missing.is_empty() {
        match Connection::open(&config.replication(), world, CONNECT_LIMIT).await {
            Ok(mut connection) => {
                Server::identify(&mut connection).await?;
                connection.close().await;
            }
            Err(error) => findings.cannot_replicate(config, &error),
        }
    }
    let wanted = findings.wanted(&mut sql, config).await?;
    let tables = findings.tables(&mut sql, config, &wanted).await?;
    findings.publication(&mut sql, config, &wanted).await?;
    // A standby cannot say how much log a slot holds; that it is one was said.
    if !server.in_recovery {
        findings.slot(&mut sql, config, &server).await?;
        findings.orphans(&mut sql, config).await?;
    }
    sql.close().await;
    Ok(findings.checked(tables))
}

#[derive(Default)]
struct Findings {
    missing: Vec<Finding>,
    advised: Vec<Finding>,
}

impl Findings {
    fn add(&mut self, what: impl Into<String>, fix: impl Into<String>) {
        self.missing.push(Finding { what: what.into(), fix: fix.into() });
    }

    fn advise(&mut self, what: impl Into<String>, fix: impl Into<String>) {
        self.advised.push(Finding { what: what.into(), fix: fix.into() });
    }

    fn checked(self, tables: Vec<Arc<Table>>) -> Checked {
        Checked { missing: self.missing, advised: self.advised, tables }
    }

    fn cannot_connect(&mut self, config: &Config, error: &WireError) {
        let connect = &config.connect;
        if let WireError::Tls { fix, .. } = error {
            self.add(format!("cannot connect to {}:{}: {error}", connect.host, connect.port), fix);
            return;
        }
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

    /// The tables that are named, and those that match a pattern now.
    async fn wanted(&mut self, sql: &mut Connection, config: &Config) -> Result<Vec<Wanted>, WireError> {
        let found = known::matching(sql, config).await?;
        let (wanted, overlaps) = known::wanted(config, found.into_iter());
        overlaps.into_iter().for_each(|what| self.add(what, known::NARROWER));
        Ok(wanted)
    }

    /// What forbids each table; gives those that nothing forbids.
    async fn tables(
        &mut self,
        sql: &mut Connection,
        config: &Config,
        wanted: &[Wanted],
    ) -> Result<Vec<Arc<Table>>, WireError> {
        let mut types = ValueTypes::default();
        let mut readable = Vec::new();
        for (number, Wanted { name, on_drop, .. }) in wanted.iter().enumerate() {
            let examined =
                TableInfo::examine(sql, &mut types, number as u32, name, &config.publication).await?;
            match examined {
                Ok(info) => readable.push(info.table),
                // It may have been dropped, or is yet to come: the pipeline runs without it.
                Err(faults) if *on_drop != OnDrop::Halt && faults.iter().all(|fault| fault.is_missing) => {
                    let fix = "nothing, if it is yet to come: then it is picked up; else correct the name";
                    let advice = |fault: TableFault| Finding::from(TableFault { fix: fix.into(), ..fault });
                    self.advised.extend(faults.into_iter().map(advice));
                }
                Err(faults) => self.missing.extend(faults.into_iter().map(Finding::from)),
            }
        }
        Ok(readable)
    }
}
