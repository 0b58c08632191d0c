//! What `rowtide init` sees: the tables of users, each as it could be read or with all that forbids it.
//!
//! Left out are the system's schemas, temporary tables, what an extension brought, and partitions: the
//! rows of a partition come under its root's name. Views are no tables.

use std::path::PathBuf;
use std::sync::Arc;

use serde_json::{Map, Value};

use super::catalog::{TableInfo, ValueTypes};
use super::config::{Config, TableName, default_name};
use super::open;
use super::wire::Connection;
use crate::Settings;
use crate::discovery::{DefaultKey, DiscoverError, Discovered, FoundTable, Wanted};
use crate::source::{Finding, SourceError};
use crate::world::{BoxFuture, SharedWorld};

/// Looks around.
pub(crate) fn discover(
    wanted: Wanted,
    world: SharedWorld,
) -> BoxFuture<'static, Result<Discovered, DiscoverError>> {
    Box::pin(async move {
        let schemas = wanted.schemas.clone();
        let config = config(wanted).map_err(DiscoverError::Wrong)?;
        look(&config, &schemas, &world).await.map_err(DiscoverError::Source)
    })
}

/// The source as it would be with nothing but its url.
fn config(wanted: Wanted) -> Result<Config, Vec<crate::Problem>> {
    let mut keys = Map::new();
    keys.insert("url".to_owned(), Value::String(wanted.url));
    if let Some(password) = wanted.password {
        keys.insert("password".to_owned(), Value::String(password));
    }
    Config::new(Settings {
        name: "init".to_owned(),
        // There is no configuration yet whose folder paths could be relative to.
        folder: PathBuf::new(),
        environment: wanted.environment,
        keys,
        tables: Vec::new(),
        // Nothing of a row is read, so that the largest one does not matter.
        document_bytes_max: 1 << 20,
    })
}

async fn look(config: &Config, schemas: &[String], world: &SharedWorld) -> Result<Discovered, SourceError> {
    let connect = &config.connect;
    let mut sql = open::connect(connect, world, "connect to the database").await?;
    let name = source_name(&connect.database);
    let own_name = default_name(&name);
    let listed = list(&mut sql, schemas).await?;
    let mut types = ValueTypes::default();
    let mut tables = Vec::with_capacity(listed.len());
    for (number, Listed { name, rows, bytes }) in listed.into_iter().enumerate() {
        let examined = TableInfo::examine(&mut sql, &mut types, number as u32, &name, &own_name).await;
        let examined = examined.map_err(|error| error.into_source("look at the tables"))?;
        let table = match examined {
            Ok(info) => Ok(Arc::clone(&info.table)),
            Err(faults) => Err(faults.into_iter().map(|fault| fault.into()).collect::<Vec<Finding>>()),
        };
        let TableName { schema, name, spelled } = name;
        tables.push(FoundTable {
            name: spelled,
            short_name: name,
            schema,
            rows_estimated: rows,
            bytes,
            table,
        });
    }
    sql.close().await;
    let default = |key, why| DefaultKey { key, value: own_name.clone(), why };
    Ok(Discovered {
        name,
        place: format!("the database {:?} on {}:{}", connect.database, connect.host, connect.port),
        defaults: vec![
            default("slot", "the replication slot, made at the first start"),
            default("publication", "made at the first start, if the role may"),
        ],
        tables,
    })
}

struct Listed {
    name: TableName,
    rows: u64,
    bytes: u64,
}

async fn list(sql: &mut Connection, schemas: &[String]) -> Result<Vec<Listed>, SourceError> {
    const ASK: &str = "\
        SELECT n.nspname, c.relname, greatest(size.rows, 0)::bigint, size.bytes
          FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace, LATERAL (
               SELECT coalesce(sum(greatest(l.reltuples, 0)), 0) AS rows,
                      coalesce(sum(pg_table_size(l.oid)), 0)::bigint AS bytes
                 FROM pg_class l
                WHERE l.oid IN (SELECT t.relid FROM pg_partition_tree(c.oid) t WHERE t.isleaf
                                UNION SELECT c.oid WHERE c.relkind = 'r')) size
         WHERE c.relkind IN ('r', 'p', 'f') AND c.relpersistence <> 't' AND NOT c.relispartition
           AND n.nspname <> 'information_schema' AND NOT starts_with(n.nspname, 'pg_')
           AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass
                                AND d.objid = c.oid AND d.deptype = 'e')
           AND ($1::jsonb = '[]' OR $1::jsonb ? n.nspname)
         ORDER BY n.nspname, c.relname";
    const ODD: SourceError = SourceError::Wait { context: "list the tables", reason: String::new() };
    let wanted = Value::from(schemas.to_vec()).to_string();
    let rows = sql.all_rows(ASK, &[Some(&wanted)]).await;
    let rows = rows.map_err(|error| error.into_source("list the tables"))?;
    let listed = rows.into_iter().map(|row| {
        let [schema, name, rows, bytes] = <[_; 4]>::try_from(row).ok()?;
        let name = TableName::of(schema?, name?);
        Some(Listed { name, rows: rows?.parse().ok()?, bytes: bytes?.parse().ok()? })
    });
    listed.collect::<Option<Vec<_>>>().ok_or(ODD)
}

/// The database's name in the letters of a source's name.
fn source_name(database: &str) -> String {
    let letter = |c: char| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' };
    let name: String = database.chars().map(letter).take(54).collect();
    // Nothing but replaced letters says nothing.
    if name.chars().all(|c| c == '_') { "database".to_owned() } else { name }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_has_its_databases_name_in_plain_letters() {
        for (database, name) in [
            ("shop", "shop"),
            ("My shop", "My_shop"),
            ("a-b.c", "a-b_c"),
            ("товары", "database"),
            ("", "database"),
        ] {
            assert_eq!(source_name(database), name);
        }
        // `rowtide_` before it is still a whole name of a slot.
        assert_eq!(default_name(&source_name(&"x".repeat(80))).len(), 62);
    }
}
