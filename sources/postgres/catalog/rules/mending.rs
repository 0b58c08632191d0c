//! The SQL that gives a table a key that can be used.

use super::{Attribute, Index};
use crate::postgres::catalog::quoted;

/// What the SQL that mends a key is made of. Each line of it is one statement.
pub(super) struct Mending<'a> {
    /// The table as SQL needs it.
    pub(super) sql: String,
    pub(super) is_partitioned: bool,
    pub(super) indexes: &'a [Index],
    pub(super) attributes: &'a [Attribute],
    /// Its name and its condition on rows.
    pub(super) publication: (&'a str, Option<&'a str>),
}

impl Mending<'_> {
    /// The smallest unique index that can be a key.
    pub(super) fn unique(&self) -> Option<&Index> {
        self.indexes.iter().find(|index| index.is_immediate && index.can_be_key(self.attributes))
    }

    /// A key for the old rows: what is there already, or a new one.
    pub(super) fn identity(&self) -> String {
        let sql = &self.sql;
        match (self.indexes.iter().find(|index| index.is_primary), self.unique()) {
            (Some(primary), _) if primary.is_immediate => {
                format!("ALTER TABLE {sql} REPLICA IDENTITY DEFAULT;")
            }
            (_, Some(unique)) => {
                format!("ALTER TABLE {sql} REPLICA IDENTITY USING INDEX {};", quoted(&unique.name))
            }
            (Some(primary), None) => {
                format!("{}\nALTER TABLE {sql} REPLICA IDENTITY DEFAULT;", self.immediate(primary))
            }
            // The key of a partitioned table must hold the columns that it is partitioned by.
            (None, None) if self.is_partitioned => {
                format!("ALTER TABLE {sql} ADD PRIMARY KEY (…);\nALTER TABLE {sql} REPLICA IDENTITY DEFAULT;")
            }
            (None, None) => format!(
                "ALTER TABLE {sql} ADD COLUMN rowtide_key bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY; \
                 -- it writes the table anew; or ADD PRIMARY KEY (…) with columns that are unique\n\
                 ALTER TABLE {sql} REPLICA IDENTITY DEFAULT;"
            ),
        }
    }

    /// The same key, checked at once. Foreign keys that refer to it must be made again.
    pub(super) fn immediate(&self, key: &Index) -> String {
        format!(
            "ALTER TABLE {} DROP CONSTRAINT {name}, ADD CONSTRAINT {name} PRIMARY KEY ({});",
            self.sql,
            list(key.names.iter().map(String::as_str)),
            name = quoted(&key.name),
        )
    }

    /// The publication's own list of columns, with the key's.
    pub(super) fn published(&self, key: &Index) -> String {
        let mut names: Vec<&str> = self.attributes.iter().map(|attribute| &*attribute.name).collect();
        let more = key.names.iter().map(String::as_str).filter(|name| !names.contains(name));
        let more: Vec<&str> = more.collect();
        names.extend(more);
        let (sql, (name, row_filter)) = (&self.sql, self.publication);
        let name = quoted(name);
        let filter = row_filter.map(|filter| format!(" WHERE ({filter})")).unwrap_or_default();
        format!(
            "ALTER PUBLICATION {name} DROP TABLE {sql};\n\
             ALTER PUBLICATION {name} ADD TABLE {sql} ({}){filter};",
            list(names.into_iter())
        )
    }
}

fn list<'a>(names: impl Iterator<Item = &'a str>) -> String {
    names.map(quoted).collect::<Vec<_>>().join(", ")
}
