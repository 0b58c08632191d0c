//! Whether tables are still what they were: DDL has no event (T09), so the catalog is compared.

use super::rules::Attribute;
use crate::postgres::config::TableName;
use crate::postgres::wire::{Connection, WireError};

/// A name of how a table's rows read, equal over restarts and versions of Rowtide.
pub(super) fn signature(attributes: &[Attribute], row_filter: Option<&str>) -> String {
    let columns: Vec<(i16, &str, &str)> =
        attributes.iter().map(|column| (column.number, &*column.name, &*column.type_sql)).collect();
    let text = serde_json::json!([columns, row_filter]).to_string();
    // FNV-1a of 64 bits: nobody has a reason to forge a table.
    let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    format!("{:016x}", text.bytes().fold(0xcbf2_9ce4_8422_2325, step))
}

/// All that the catalog says of the wanted tables, in one short text; whatever is compared
/// in [`super::TableInfo`] is in it, and what matches a pattern. One question for all tables, since it is
/// asked every few seconds.
pub(crate) async fn digest(
    connection: &mut Connection,
    publication: &str,
    wanted: &[TableName],
) -> Result<String, WireError> {
    let sql = "\
        SELECT md5(coalesce(string_agg(t.line, E'\\n' ORDER BY t.line), '')) FROM (
          SELECT concat_ws(' ', c.oid, n.nspname, c.relname, c.relkind, c.relreplident, c.relpersistence,
                 (SELECT string_agg(concat_ws(' ', a.attnum, a.attname, a.atttypid, a.atttypmod, a.attgenerated), ','
                                    ORDER BY a.attnum)
                    FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped),
                 (SELECT string_agg(concat_ws(' ', i.indexrelid, i.indisprimary, i.indisreplident), ','
                                    ORDER BY i.indexrelid)
                    FROM pg_index i WHERE i.indrelid = c.oid AND i.indisunique),
                 CASE WHEN c.relkind = 'p' THEN
                   (SELECT string_agg(concat_ws(' ', l.relid, pg_relation_filenode(l.relid)), ',' ORDER BY l.relid)
                      FROM pg_partition_tree(c.oid) l WHERE l.isleaf) END,
                 to_jsonb(p)::text) AS line
            FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
            LEFT JOIN pg_publication_tables p
              ON p.pubname = $1 AND p.schemaname = n.nspname AND p.tablename = c.relname
           WHERE c.relkind IN ('r', 'p') AND EXISTS (
                 SELECT FROM unnest($2::text[], $3::text[]) w(s, t)
                  WHERE n.nspname LIKE w.s AND c.relname LIKE w.t)) t";
    let (schemas, names) = patterns(wanted);
    let rows = connection.all_rows(sql, &[Some(publication), Some(&schemas), Some(&names)]).await?;
    let digest = rows.into_iter().flatten().flatten().next();
    digest.ok_or(WireError::Protocol("the catalog gave a row of an unexpected form"))
}

/// Schema and name of the tables that match, but for the server's own, in their order. A partition comes
/// under its root's name.
pub(crate) async fn matching(
    connection: &mut Connection,
    wanted: &[TableName],
) -> Result<Vec<(String, String)>, WireError> {
    let sql = "\
        SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
         WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND c.relpersistence = 'p'
           AND n.nspname NOT LIKE 'pg\\_%' AND n.nspname <> 'information_schema'
           AND EXISTS (SELECT FROM unnest($1::text[], $2::text[]) w(s, t)
                        WHERE n.nspname LIKE w.s AND c.relname LIKE w.t)
         ORDER BY 1, 2";
    let (schemas, names) = patterns(wanted);
    let rows = connection.all_rows(sql, &[Some(&schemas), Some(&names)]).await?;
    let read = |row: Vec<Option<String>>| {
        let [schema, name] = <[_; 2]>::try_from(row).ok()?;
        Some((schema?, name?))
    };
    Ok(rows.into_iter().filter_map(read).collect())
}

/// As arrays of patterns for LIKE.
fn patterns(wanted: &[TableName]) -> (String, String) {
    let array = |part: fn(&TableName) -> &str| {
        let one = |table: &TableName| {
            let like = like(part(table)).replace('\\', "\\\\").replace('"', "\\\"");
            format!("\"{like}\"")
        };
        format!("{{{}}}", wanted.iter().map(one).collect::<Vec<_>>().join(","))
    };
    (array(|table| &table.schema), array(|table| &table.name))
}

/// `*` is any part of a name; what LIKE would take for a sign of its own is escaped.
fn like(part: &str) -> String {
    let mut like = String::with_capacity(part.len() + 4);
    for letter in part.chars() {
        match letter {
            '*' => like.push('%'),
            '%' | '_' | '\\' => like.extend(['\\', letter]),
            other => like.push(other),
        }
    }
    like
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_star_is_any_part_of_a_name_and_nothing_else_is() {
        assert_eq!(like("tenant_*"), "tenant\\_%");
        assert_eq!(like("50%\\"), "50\\%\\\\");
        let (schemas, names) = patterns(&[TableName::parse("a_*.\"x\"\"y\"").unwrap()]);
        assert_eq!((schemas.as_str(), names.as_str()), ("{\"a\\\\_%\"}", "{\"x\\\"y\"}"));
    }
}
