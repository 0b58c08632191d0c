//! The publication: what it leaves out, and whether Rowtide may make or mend it.

use super::Findings;
use crate::postgres::catalog::quoted;
use crate::postgres::config::{Config, TableName};
use crate::postgres::known::Wanted;
use crate::postgres::slot::{self, Publication};
use crate::postgres::wire::{Connection, WireError};

/// A wanted table that exists; that others do not was said.
struct Known {
    name: TableName,
    oid: String,
    is_partitioned: bool,
    /// The role owns it, and may publish it.
    is_owned: bool,
    /// The publication names it; without its root, a partitioned one is published under other names.
    is_member: bool,
}

impl Findings {
    pub(super) async fn publication(
        &mut self,
        sql: &mut Connection,
        config: &Config,
        wanted: &[Wanted],
    ) -> Result<(), WireError> {
        let name = &config.publication;
        let tables = known(sql, name, wanted).await?;
        let Some(publication) = Publication::look(sql, name).await? else {
            // For a pattern that matches nothing yet, it is made all the same.
            if tables.is_empty() && config.patterns().next().is_none() {
                return Ok(());
            }
            return self.no_publication(sql, name, &tables).await;
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
            self.partitions_by_root(name, &tables);
        }
        self.partitions(sql, name, &tables).await?;
        let strangers = tables.iter().filter(|table| !table.is_member && !publication.all_tables);
        let names: Vec<TableName> = strangers.map(|table| table.name.clone()).collect();
        let lacking = publication.lacking(&names);
        let owned = |table: &&TableName| tables.iter().any(|known| known.is_owned && known.name == **table);
        let may_add = publication.is_ours && lacking.iter().all(owned);
        if !lacking.is_empty() && !may_add {
            let names: Vec<&str> = lacking.iter().map(|table| table.spelled.as_str()).collect();
            self.add(
                format!("publication {name} lacks {}, and the role may not add to it", names.join(", ")),
                slot::add_tables_sql(name, &lacking),
            );
        }
        Ok(())
    }

    async fn no_publication(
        &mut self,
        sql: &mut Connection,
        name: &str,
        tables: &[Known],
    ) -> Result<(), WireError> {
        let names: Vec<TableName> = tables.iter().map(|table| table.name.clone()).collect();
        let create = slot::create_publication_sql(name, &names);
        let ask = "SELECT has_database_privilege(current_database(), 'CREATE')";
        let may_create = sql.all_rows(ask, &[]).await?;
        if may_create.into_iter().flatten().flatten().next().as_deref() != Some("t") {
            self.add(format!("publication {name} does not exist, and the role may not make it"), create);
            return Ok(());
        }
        let foreign: Vec<&str> =
            tables.iter().filter(|table| !table.is_owned).map(|table| &*table.name.spelled).collect();
        if !foreign.is_empty() {
            let what = "does not exist, and only the owner of a table may publish it";
            self.add(format!("publication {name} {what} ({})", foreign.join(", ")), create);
        }
        Ok(())
    }

    /// Without `publish_via_partition_root` a partitioned table's changes come under other names.
    fn partitions_by_root(&mut self, publication: &str, tables: &[Known]) {
        let Some(table) = tables.iter().find(|table| table.is_partitioned) else { return };
        self.add(
            format!("table {} is partitioned, and the publication names its partitions", table.name.spelled),
            format!("ALTER PUBLICATION {} SET (publish_via_partition_root = true);", quoted(publication)),
        );
    }

    /// A partition whose root is published: its changes come under the root's name.
    async fn partitions(
        &mut self,
        sql: &mut Connection,
        publication: &str,
        tables: &[Known],
    ) -> Result<(), WireError> {
        const ASK: &str = "\
            SELECT format('%s.%s', n.nspname, r.relname)
              FROM pg_partition_ancestors($1::oid::regclass) a
              JOIN pg_class r ON r.oid = a.relid JOIN pg_namespace n ON n.oid = r.relnamespace
              JOIN pg_publication_tables p ON p.schemaname = n.nspname AND p.tablename = r.relname
             WHERE p.pubname = $2 AND r.oid <> $1::oid AND r.relkind = 'p' LIMIT 1";
        for table in tables {
            let rows = sql.all_rows(ASK, &[Some(&table.oid), Some(publication)]).await?;
            if let Some(root) = rows.into_iter().flatten().flatten().next() {
                let spelled = &table.name.spelled;
                self.add(
                    format!("table {spelled} is a partition of {root}, under whose name its changes come"),
                    format!("name {root} in the pipeline instead"),
                );
            }
        }
        Ok(())
    }
}

/// By name in the catalog: `to_regclass` refuses schemas that the role may not use.
async fn known(sql: &mut Connection, publication: &str, wanted: &[Wanted]) -> Result<Vec<Known>, WireError> {
    const ASK: &str = "\
        SELECT c.oid, c.relkind = 'p', pg_has_role(c.relowner, 'USAGE'),
               EXISTS (SELECT FROM pg_publication_rel r JOIN pg_publication p ON p.oid = r.prpubid
                        WHERE r.prrelid = c.oid AND p.pubname = $3)
          FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
         WHERE n.nspname = $1 AND c.relname = $2 AND c.relkind IN ('r', 'p')";
    let mut tables = Vec::new();
    for Wanted { name, .. } in wanted {
        let rows = sql.all_rows(ASK, &[Some(&name.schema), Some(&name.name), Some(publication)]).await?;
        let Some(row) = rows.into_iter().next() else { continue };
        let Ok([Some(oid), partitioned, owned, member]) = <[_; 4]>::try_from(row) else { continue };
        let is = |flag: Option<String>| flag.as_deref() == Some("t");
        tables.push(Known {
            name: name.clone(),
            oid,
            is_partitioned: is(partitioned),
            is_owned: is(owned),
            is_member: is(member),
        });
    }
    Ok(tables)
}
