//! The publication: what it leaves out, and whether Rowtide may make or mend it.

use super::{Findings, first};
use crate::postgres::catalog::quoted;
use crate::postgres::config::{Config, TableName};
use crate::postgres::slot::{self, Publication};
use crate::postgres::wire::{Connection, WireError};

impl Findings {
    pub(super) async fn publication(&mut self, sql: &mut Connection, config: &Config) -> Result<(), WireError> {
        let name = &config.publication;
        let Some(publication) = Publication::look(sql, name).await? else {
            return self.no_publication(sql, config).await;
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
            self.partitions_by_root(sql, config).await?;
        }
        self.partitions(sql, config).await?;
        let tables = there(sql, config).await?;
        let lacking = publication.lacking(&tables);
        let foreign = tables_of_others(sql, config).await?;
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

    async fn no_publication(&mut self, sql: &mut Connection, config: &Config) -> Result<(), WireError> {
        let name = &config.publication;
        let tables = there(sql, config).await?;
        if tables.is_empty() {
            // That none of them is there was said.
            return Ok(());
        }
        let create = slot::create_publication_sql(name, &tables);
        let ask = "SELECT has_database_privilege(current_database(), 'CREATE')";
        if first(sql, ask, &[]).await?.as_deref() != Some("t") {
            self.add(format!("publication {name} does not exist, and the role may not make it"), create);
            return Ok(());
        }
        let foreign = tables_of_others(sql, config).await?;
        if !foreign.is_empty() {
            let what = "does not exist, and only the owner of a table may publish it";
            self.add(format!("publication {name} {what} ({})", foreign.join(", ")), create);
        }
        Ok(())
    }

    /// Without `publish_via_partition_root` a partitioned table's changes come under other names.
    async fn partitions_by_root(&mut self, sql: &mut Connection, config: &Config) -> Result<(), WireError> {
        for table in &config.tables {
            let ask = "SELECT c.relkind FROM pg_class c WHERE c.oid = to_regclass($1)";
            if first(sql, ask, &[Some(&table.sql())]).await?.as_deref() == Some("p") {
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

    /// A partition whose root is published: its changes come under the root's name.
    async fn partitions(&mut self, sql: &mut Connection, config: &Config) -> Result<(), WireError> {
        const ASK: &str = "\
            SELECT format('%s.%s', n.nspname, r.relname)
              FROM pg_partition_ancestors(to_regclass($1)) a
              JOIN pg_class r ON r.oid = a.relid JOIN pg_namespace n ON n.oid = r.relnamespace
              JOIN pg_publication_tables p ON p.schemaname = n.nspname AND p.tablename = r.relname
             WHERE p.pubname = $2 AND a.relid <> to_regclass($1) AND r.relkind = 'p' LIMIT 1";
        for table in &config.tables {
            let root = first(sql, ASK, &[Some(&table.sql()), Some(&config.publication)]).await?;
            if let Some(root) = root {
                self.add(
                    format!("table {} is a partition of {root}, under whose name its changes come", table.spelled),
                    format!("name {root} in the pipeline instead"),
                );
            }
        }
        Ok(())
    }
}

/// Those of the tables that exist; that others do not was said.
async fn there(sql: &mut Connection, config: &Config) -> Result<Vec<TableName>, WireError> {
    let mut tables = Vec::new();
    for table in &config.tables {
        let ask = "SELECT true FROM pg_class c WHERE c.oid = to_regclass($1) AND c.relkind IN ('r', 'p')";
        if first(sql, ask, &[Some(&table.sql())]).await?.is_some() {
            tables.push(table.clone());
        }
    }
    Ok(tables)
}

/// Those of the tables that the role does not own, as they are spelled.
async fn tables_of_others(sql: &mut Connection, config: &Config) -> Result<Vec<String>, WireError> {
    let mut foreign = Vec::new();
    for table in &config.tables {
        let ask = "SELECT pg_has_role(c.relowner, 'USAGE') FROM pg_class c WHERE c.oid = to_regclass($1)";
        if first(sql, ask, &[Some(&table.sql())]).await?.as_deref() == Some("f") {
            foreign.push(table.spelled.clone());
        }
    }
    Ok(foreign)
}
