//! The partitions behind a partitioned table. Rows come and go with them without an event: ATTACH,
//! DETACH and DROP are in no log, and a TRUNCATE of one is not either where the publication names the root.

use std::collections::BTreeMap;

use crate::postgres::wire::{Connection, WireError};

/// A partition that holds rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Leaf {
    /// What stands after FROM: schema and name, quoted.
    pub(crate) sql: String,
    /// The file of its rows: TRUNCATE gives it another one, and so do VACUUM FULL, CLUSTER and a
    /// rewriting ALTER, which cannot be told apart. 0 when it has none (a foreign table).
    pub(crate) file: u32,
}

pub(super) async fn look_up(
    connection: &mut Connection,
    root: u32,
) -> Result<BTreeMap<u32, Leaf>, WireError> {
    let sql = "\
        SELECT c.oid, format('%I.%I', n.nspname, c.relname), coalesce(pg_relation_filenode(c.oid), 0)
          FROM pg_partition_tree($1::oid) t
          JOIN pg_class c ON c.oid = t.relid JOIN pg_namespace n ON n.oid = c.relnamespace
         WHERE t.isleaf AND c.relkind <> 'p'";
    let rows = connection.all_rows(sql, &[Some(&root.to_string())]).await?;
    Ok(rows.into_iter().filter_map(read).collect())
}

fn read(row: Vec<Option<String>>) -> Option<(u32, Leaf)> {
    let [oid, sql, file] = <[_; 3]>::try_from(row).ok()?;
    Some((oid?.parse().ok()?, Leaf { sql: sql?, file: file?.parse().ok()? }))
}
