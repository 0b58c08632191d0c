//! The statements that read rows. Values always travel as parameters, in the text form in which the
//! server printed them; the server compares them in its own order and collation.

use super::catalog::TableInfo;
use super::progress::{KeyText, Range};

/// One view of a table for everything until COMMIT, and what that view sees. The lock comes first,
/// which takes no snapshot: an ALTER TABLE that rewrites a table, and a TRUNCATE, leave it empty for
/// every older snapshot (<https://www.postgresql.org/docs/18/mvcc-caveats.html>). A read that had its
/// snapshot and then waited for the ALTER to end would find no row, and the log tells of none: a chunk
/// would be lost, and a refetch would delete what is there.
///
/// Then where the log ends, asked after the snapshot was taken: what the view sees had committed below. And
/// a file of the log, whose name begins with the server's timeline.
pub(super) fn begin_read(table: &TableInfo) -> String {
    format!(
        "BEGIN TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY; \
         LOCK TABLE {} IN ACCESS SHARE MODE; SELECT pg_current_snapshot()::text, \
         pg_current_wal_insert_lsn(), pg_walfile_name(pg_current_wal_insert_lsn())",
        table.sql_from()
    )
}

/// A statement with its parameters.
pub(super) struct Select {
    pub sql: String,
    values: Vec<String>,
}

impl Select {
    /// The parameters as the connection takes them.
    pub(super) fn params(&self) -> Vec<Option<&str>> {
        self.values.iter().map(|value| Some(value.as_str())).collect()
    }
}

/// The rows of a range, in the key's order.
pub(super) fn chunk(table: &TableInfo, range: &Range) -> Select {
    let (condition, values) = within(table, range);
    let (columns, from) = (table.sql_columns().join(", "), from(table, range));
    let sql = format!("SELECT {columns} FROM {from}{condition} ORDER BY {}", keys(table));
    Select { sql, values }
}

/// A range of one partition is read there; all others are of the whole table.
fn from(table: &TableInfo, range: &Range) -> String {
    let leaf = range.leaf.and_then(|oid| table.leaves.get(&oid));
    leaf.map_or_else(|| table.sql_from(), |leaf| format!("ONLY {}", leaf.sql))
}

/// The key of the range's row number `rows`; nothing when it has fewer.
pub(super) fn boundary(table: &TableInfo, range: &Range, rows: usize) -> Select {
    let keys = keys(table);
    let (condition, values) = within(table, range);
    let (from, skip) = (from(table, range), rows.saturating_sub(1));
    let sql = format!("SELECT {keys} FROM {from}{condition} ORDER BY {keys} OFFSET {skip} LIMIT 1");
    Select { sql, values }
}

/// The rows with these keys.
pub(super) fn by_keys<'a>(table: &TableInfo, wanted: impl Iterator<Item = &'a KeyText>) -> Select {
    let mut values = Vec::new();
    let tuples: Vec<String> = wanted
        .map(|key| {
            let from = values.len();
            values.extend(key.iter().cloned());
            parameters(table, from)
        })
        .collect();
    let condition = format!("({}) IN ({})", keys(table), tuples.join(", "));
    let (columns, from) = (table.sql_columns().join(", "), table.sql_from());
    let sql = format!("SELECT {columns} FROM {from}{}", matching(table, vec![condition]));
    Select { sql, values }
}

fn within(table: &TableInfo, range: &Range) -> (String, Vec<String>) {
    let keys = keys(table);
    let mut values: Vec<String> = Vec::new();
    let mut conditions = Vec::new();
    for (bound, comparison) in [(&range.low, ">"), (&range.high, "<=")] {
        if let Some(key) = bound {
            conditions.push(format!("({keys}) {comparison} {}", parameters(table, values.len())));
            values.extend(key.iter().cloned());
        }
    }
    (matching(table, conditions), values)
}

/// The conditions, with the publication's own (T12).
fn matching(table: &TableInfo, mut conditions: Vec<String>) -> String {
    conditions.extend(table.row_filter.as_ref().map(|filter| format!("({filter})")));
    match conditions.is_empty() {
        true => String::new(),
        false => format!(" WHERE {}", conditions.join(" AND ")),
    }
}

/// `($3::int8, $4::text)`: a key's values from parameter `from` on, as the columns' own types.
fn parameters(table: &TableInfo, from: usize) -> String {
    let cast = |(place, name): (usize, &String)| format!("${}::{name}", from + 1 + place);
    let casts: Vec<String> = table.key_types.iter().enumerate().map(cast).collect();
    format!("({})", casts.join(", "))
}

fn keys(table: &TableInfo) -> String {
    let columns = table.sql_columns();
    let names: Vec<&str> =
        table.table.key.iter().map(|&column| columns[usize::from(column)].as_str()).collect();
    names.join(", ")
}
