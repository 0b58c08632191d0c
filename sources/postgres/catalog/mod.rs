//! What the database says of itself and of its tables.
//!
//! ```text
//!   configured name ──► pg_class, pg_attribute, pg_index, pg_publication ──► TableInfo | TableFault
//!   Relation message ──────────────────────── ValueTypes ───────────────────────► TableInfo
//! ```
//! Rows read by SQL and rows in the log have the same columns in the same order: those that the
//! publication publishes, by their number in the table.

mod partitions;
mod revision;
mod rules;
mod server;
mod value_types;

use std::collections::BTreeMap;
use std::sync::Arc;

use super::config::TableName;
use super::decode::Decoder;
use super::pgoutput::Relation;
use super::wire::{Connection, WireError};
use crate::change::{Column, Kind, Table};

pub(crate) use partitions::Leaf;
pub(crate) use revision::{digest, matching};
pub(crate) use rules::TableFault;
#[allow(unused_imports)] // for the reader of the log
pub(crate) use server::Server;
pub(crate) use value_types::ValueTypes;

use rules::{Attribute, Found};

/// What the replica identity puts into the old rows of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReplicaIdentity {
    /// The primary key (`d`).
    PrimaryKey,
    /// The columns of a chosen index (`i`).
    Index,
    /// All columns (`f`).
    Full,
    /// Nothing (`n`).
    Nothing,
}

impl ReplicaIdentity {
    /// From `pg_class.relreplident`, which a Relation message carries too.
    pub(crate) fn of(letter: u8) -> Self {
        match letter {
            b'd' => Self::PrimaryKey,
            b'i' => Self::Index,
            b'f' => Self::Full,
            _ => Self::Nothing,
        }
    }
}

/// A table as it is read and decoded.
#[derive(Clone, Debug)]
pub(crate) struct TableInfo {
    /// What the rest of Rowtide knows of it.
    pub(crate) table: Arc<Table>,
    /// In `pg_class`.
    pub(crate) oid: u32,
    /// Its schema and name.
    pub(crate) name: TableName,
    /// Whether it is partitioned: its rows are in its partitions.
    pub(crate) is_partitioned: bool,
    /// How each column's values become JSON.
    pub(crate) decoders: Vec<Decoder>,
    /// Each key column's type in SQL, in the key's order, for casts of a chunk's bounds.
    pub(crate) key_types: Vec<String>,
    /// The publication's condition on rows in SQL, which reads beside the log need too (T12).
    pub(crate) row_filter: Option<String>,
    /// The planner's estimate; 0 when it has none.
    pub(crate) rows_estimated: u64,
    /// Bytes of a row on disk, estimated; TOAST included. 0 for a table that was never analyzed: a chunk
    /// ends at its share anyway.
    pub(crate) row_bytes_estimated: u64,
    /// A name of all that decides how its rows read: columns with their types, the row filter. Another
    /// one means that every row may read otherwise, and no event tells.
    pub(crate) signature: String,
    /// Of a partitioned table: the partitions that hold its rows, by their oids.
    pub(crate) leaves: BTreeMap<u32, Leaf>,
}

impl TableInfo {
    /// A table of which nothing more is known.
    pub(crate) fn bare(table: Arc<Table>, oid: u32, name: TableName) -> Self {
        Self {
            table,
            oid,
            name,
            is_partitioned: false,
            decoders: Vec::new(),
            key_types: Vec::new(),
            row_filter: None,
            rows_estimated: 0,
            row_bytes_estimated: 0,
            signature: String::new(),
            leaves: BTreeMap::new(),
        }
    }

    /// What stands after FROM: quoted, and without the children of mere inheritance, whose changes
    /// come under their own names.
    pub(crate) fn sql_from(&self) -> String {
        let only = if self.is_partitioned { "" } else { "ONLY " };
        format!("{only}{}", self.name.sql())
    }

    /// The names of its key's columns, in the key's order.
    pub(crate) fn key_names(&self) -> Vec<&str> {
        self.table.key.iter().map(|&column| &*self.table.columns[usize::from(column)].name).collect()
    }

    /// Its columns, quoted.
    pub(crate) fn sql_columns(&self) -> Vec<String> {
        self.table.columns.iter().map(|column| quoted(&column.name)).collect()
    }

    /// The same table as a Relation message describes it. Types must have been loaded
    /// ([`ValueTypes::missing`]). The key is found by its columns' names; `None` when one is gone.
    #[allow(clippy::wrong_self_convention)] // the key and the number come from the table, the rest from the message
    pub(crate) fn from_relation(&self, relation: &Relation<'_>, types: &ValueTypes) -> Option<Self> {
        let mut columns = Vec::with_capacity(relation.columns.len());
        let mut decoders = Vec::with_capacity(relation.columns.len());
        for column in &relation.columns {
            let (decoder, kind) = types.get(column.type_oid);
            columns.push(Column { name: column.name.into(), kind });
            decoders.push(decoder);
        }
        let place = |name: &str| columns.iter().position(|column| &*column.name == name);
        let old_key = self.table.key.iter().map(|&column| &*self.table.columns[usize::from(column)].name);
        let key: Option<Box<[u16]>> = old_key.map(|name| place(name).map(|place| place as u16)).collect();
        let key = key?;
        key_as_text(&key, &mut columns, &mut decoders);
        let table =
            Table { number: self.table.number, name: self.table.name.clone(), columns: columns.into(), key };
        // The same revision stays one allocation: targets compare by pointer first.
        let table = if table == *self.table { self.table.clone() } else { Arc::new(table) };
        Some(Self { table, oid: relation.oid, decoders, ..self.clone() })
    }

    /// Looks a configured table up. `number` is its place in the configured list. The outer error is
    /// the connection's, the inner one is the table's.
    pub(crate) async fn load(
        connection: &mut Connection,
        types: &mut ValueTypes,
        number: u32,
        name: &TableName,
        publication: &str,
    ) -> Result<Result<Self, TableFault>, WireError> {
        let examined = Self::examine(connection, types, number, name, publication).await?;
        Ok(examined.map_err(|mut faults| faults.swap_remove(0)))
    }

    /// The same, with everything that keeps the table from being read; never an empty list.
    pub(crate) async fn examine(
        connection: &mut Connection,
        types: &mut ValueTypes,
        number: u32,
        name: &TableName,
        publication: &str,
    ) -> Result<Result<Self, Vec<TableFault>>, WireError> {
        let Some(found) = Found::look_up(connection, name).await? else {
            return Ok(Err(vec![TableFault::missing(name)]));
        };
        let mut faults = found.faults(name, connection.user());
        if found.is_no_table() {
            return Ok(Err(faults));
        }
        let published = published(connection, publication, name).await?;
        let attributes = Attribute::look_up(connection, found.oid, published.columns.as_deref()).await?;
        let row_filter = published.row_filter.as_deref();
        let key = rules::key(connection, name, &found, &attributes, (publication, row_filter)).await?;
        let key = match key {
            Ok(key) if faults.is_empty() => key,
            Ok(_) => return Ok(Err(faults)),
            Err(fault) => {
                faults.push(fault);
                return Ok(Err(faults));
            }
        };
        let unknown: Vec<u32> = attributes.iter().map(|attribute| attribute.type_oid).collect();
        types.load(connection, &unknown).await?;
        let mut columns = Vec::with_capacity(attributes.len());
        let mut decoders = Vec::with_capacity(attributes.len());
        for attribute in &attributes {
            let (decoder, kind) = types.get(attribute.type_oid);
            columns.push(Column { name: attribute.name.as_str().into(), kind });
            decoders.push(decoder);
        }
        let places: Box<[u16]> = key.iter().map(|&place| place as u16).collect();
        key_as_text(&places, &mut columns, &mut decoders);
        let signature = revision::signature(&attributes, published.row_filter.as_deref());
        let leaves = match found.is_partitioned() {
            true => partitions::look_up(connection, found.oid).await?,
            false => BTreeMap::new(),
        };
        let table =
            Table { number, name: name.spelled.as_str().into(), columns: columns.into(), key: places };
        Ok(Ok(Self {
            table: Arc::new(table),
            oid: found.oid,
            name: name.clone(),
            is_partitioned: found.is_partitioned(),
            decoders,
            key_types: key.iter().map(|&place| attributes[place].type_sql.clone()).collect(),
            row_filter: published.row_filter,
            rows_estimated: found.rows,
            row_bytes_estimated: found.bytes.checked_div(found.rows).unwrap_or(0),
            signature,
            leaves,
        }))
    }
}

/// Two keys must never become one: what loses something as JSON keeps PostgreSQL's text in a key.
fn key_as_text(key: &[u16], columns: &mut [Column], decoders: &mut [Decoder]) {
    for &place in key {
        let place = usize::from(place);
        if !decoders[place].tells_all_apart() {
            decoders[place] = Decoder::Text;
            columns[place].kind = Kind::KeyText;
        }
    }
}

/// What a publication publishes of a table.
#[derive(Default)]
struct Published {
    columns: Option<Vec<String>>,
    row_filter: Option<String>,
}

/// Nothing is known when the publication is not there yet, or does not hold the table yet. Servers
/// before 15 have neither lists of columns nor row filters.
async fn published(
    connection: &mut Connection,
    publication: &str,
    name: &TableName,
) -> Result<Published, WireError> {
    // By way of JSON, since older servers lack the columns.
    let sql = "\
        SELECT p.published ->> 'rowfilter', c.name
          FROM (SELECT to_jsonb(t) AS published FROM pg_publication_tables t
                 WHERE t.pubname = $1 AND t.schemaname = $2 AND t.tablename = $3) p
          LEFT JOIN LATERAL jsonb_array_elements_text(p.published -> 'attnames') c(name) ON true";
    let parameters = [Some(publication), Some(&*name.schema), Some(&*name.name)];
    let rows = connection.all_rows(sql, &parameters).await?;
    let row_filter = rows.first().and_then(|row| row.first().cloned().flatten());
    let columns: Vec<String> = rows.into_iter().filter_map(|row| row.into_iter().nth(1).flatten()).collect();
    Ok(Published { columns: (!columns.is_empty()).then_some(columns), row_filter })
}

/// For the fuzz targets: each row as whatever it has the columns of, and what follows from them.
#[cfg(any(test, feature = "fuzzing"))]
pub(super) fn read_any(rows: Vec<Vec<Option<String>>>) {
    value_types::read_any(rows.clone());
    rules::read_any(rows);
}

/// A name as SQL needs it.
pub(crate) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A text as SQL needs it. Standard strings are the default of every server since 9.1, and E''
/// does not hang on it.
pub(crate) fn literal(text: &str) -> String {
    format!("E'{}'", text.replace('\\', "\\\\").replace('\'', "''"))
}
