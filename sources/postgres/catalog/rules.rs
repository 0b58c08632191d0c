//! Which tables can be read, and by which key: DESIGN's laws need an old row's key in the log, and
//! an order that no deferred constraint can turn around.

mod mending;

use super::ReplicaIdentity;
use crate::postgres::config::TableName;
use crate::postgres::wire::{Connection, WireError};
use crate::source::Finding;

use mending::Mending;

/// Why a table cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TableFault {
    /// What is wrong.
    pub(crate) what: String,
    /// What mends it.
    pub(crate) fix: String,
    /// There is no such table.
    pub(crate) is_missing: bool,
}

impl TableFault {
    fn new(what: String, fix: impl Into<String>) -> Self {
        Self { what, fix: fix.into(), is_missing: false }
    }

    /// The table is not there.
    pub(super) fn missing(name: &TableName) -> Self {
        let fix = "correct the name in the pipeline, spelled schema.table as in the database";
        Self { is_missing: true, ..Self::new(format!("table {} does not exist", name.spelled), fix) }
    }
}

impl From<TableFault> for Finding {
    fn from(fault: TableFault) -> Self {
        Self { what: fault.what, fix: fault.fix }
    }
}

/// What pg_class says of a table.
pub(super) struct Found {
    pub(super) oid: u32,
    kind: u8,
    pub(super) replica_identity: ReplicaIdentity,
    persistence: u8,
    rows_are_hidden: bool,
    may_use_schema: bool,
    may_select: bool,
    pub(super) rows: u64,
    pub(super) bytes: u64,
}

/// One column.
pub(super) struct Attribute {
    pub(super) number: i16,
    pub(super) name: String,
    pub(super) type_oid: u32,
    /// As SQL spells its type.
    pub(super) type_sql: String,
    not_null: bool,
}

/// A unique index.
struct Index {
    name: String,
    is_primary: bool,
    is_identity: bool,
    is_immediate: bool,
    /// Whole, valid, and of plain columns.
    is_plain: bool,
    columns: Vec<i16>,
    /// The columns' names; empty ones for expressions.
    names: Vec<String>,
}

impl Found {
    pub(super) async fn look_up(
        connection: &mut Connection,
        name: &TableName,
    ) -> Result<Option<Self>, WireError> {
        // The sizes of a partitioned table are those of its leaves. Rows are reckoned as the planner does
        // it: by their density at the last ANALYZE. A grant on each column would do
        // for reading, but not for the lock that a read takes first.
        let sql = "\
            SELECT c.oid, c.relkind, c.relreplident, c.relpersistence, row_security_active(c.oid),
                   has_schema_privilege(s.oid, 'USAGE'),
                   has_table_privilege(c.oid, 'SELECT'),
                   size.rows, size.bytes
              FROM pg_class c JOIN pg_namespace s ON s.oid = c.relnamespace, LATERAL (
                   SELECT coalesce(sum(CASE WHEN l.relpages > 0 AND l.reltuples > 0
                              THEN l.reltuples / l.relpages * pg_relation_size(l.oid)
                                   / current_setting('block_size')::int ELSE 0 END), 0)::bigint AS rows,
                          coalesce(sum(pg_table_size(l.oid)), 0)::bigint AS bytes
                     FROM pg_class l
                    WHERE l.oid IN (SELECT t.relid FROM pg_partition_tree(c.oid) t WHERE t.isleaf
                                    UNION SELECT c.oid WHERE c.relkind = 'r')) size
             WHERE s.nspname = $1 AND c.relname = $2 AND c.relkind IN ('r', 'p', 'v', 'm', 'f')";
        let rows = connection.all_rows(sql, &[Some(&name.schema), Some(&name.name)]).await?;
        match rows.into_iter().next() {
            Some(row) => Self::read(row).map(Some).ok_or(ODD),
            None => Ok(None),
        }
    }

    fn read(row: Vec<Option<String>>) -> Option<Self> {
        let [oid, kind, identity, persistence, hidden, schema, select, rows, bytes] =
            <[_; 9]>::try_from(row).ok()?;
        let letter = |text: Option<String>| text.and_then(|text| text.bytes().next());
        Some(Self {
            oid: oid?.parse().ok()?,
            kind: letter(kind)?,
            replica_identity: ReplicaIdentity::of(letter(identity)?),
            persistence: letter(persistence)?,
            rows_are_hidden: hidden? == "t",
            may_use_schema: schema? == "t",
            may_select: select? == "t",
            rows: rows?.parse().ok()?,
            bytes: bytes?.parse().ok()?,
        })
    }

    pub(super) fn is_partitioned(&self) -> bool {
        self.kind == b'p'
    }

    /// A view and the like, of which nothing else is asked.
    pub(super) fn is_no_table(&self) -> bool {
        !matches!(self.kind, b'r' | b'p')
    }

    /// What of the table alone makes it unreadable.
    pub(super) fn faults(&self, name: &TableName, role: &str) -> Vec<TableFault> {
        let (table, sql, role) = (&name.spelled, name.sql(), super::quoted(role));
        let mut faults = Vec::new();
        let what = match self.kind {
            b'r' | b'p' => None,
            b'f' => Some("a foreign table"),
            b'm' => Some("a materialized view"),
            _ => Some("a view"),
        };
        if let Some(what) = what {
            faults.push(TableFault::new(
                format!("{table} is {what}, whose changes are in no log"),
                "name the tables that it is made of",
            ));
            return faults;
        }
        let mut fault = |what: String, fix: String| faults.push(TableFault::new(what, fix));
        match self.persistence {
            b'p' => {}
            b'u' => fault(
                format!("table {table} is unlogged: its changes are in no log"),
                format!("ALTER TABLE {sql} SET LOGGED;"),
            ),
            _ => fault(
                format!("table {table} is temporary: its changes are in no log"),
                "name a table that stays".to_owned(),
            ),
        }
        if !self.may_use_schema {
            fault(
                format!("the role may not use the schema of {table}"),
                format!("GRANT USAGE ON SCHEMA {} TO {role};", super::quoted(&name.schema)),
            );
        }
        if !self.may_select {
            fault(format!("the role may not read {table}"), format!("GRANT SELECT ON {sql} TO {role};"));
        }
        if self.rows_are_hidden {
            fault(
                format!("row-level security hides rows of {table} from the role, but not in the log"),
                format!("ALTER ROLE {role} BYPASSRLS;"),
            );
        }
        faults
    }
}

impl Attribute {
    /// The columns that the log carries: the published ones; without a list all that are not
    /// generated. Servers before 18 name generated columns as published, and leave them out.
    pub(super) async fn look_up(
        connection: &mut Connection,
        table: u32,
        published: Option<&[String]>,
    ) -> Result<Vec<Self>, WireError> {
        let sql = "\
            SELECT a.attnum, a.attname, a.atttypid, format_type(a.atttypid, a.atttypmod),
                   a.attnotnull, a.attgenerated <> '', current_setting('server_version_num')::int >= 180000
              FROM pg_attribute a
             WHERE a.attrelid = $1::oid AND a.attnum > 0 AND NOT a.attisdropped
             ORDER BY a.attnum";
        let rows = connection.all_rows(sql, &[Some(&table.to_string())]).await?;
        let mut attributes = Vec::with_capacity(rows.len());
        for row in rows {
            let (attribute, is_generated, can_be_published) = Self::read(row).ok_or(ODD)?;
            let is_published = match published {
                Some(names) => names.contains(&attribute.name) && (can_be_published || !is_generated),
                None => !is_generated,
            };
            if is_published {
                attributes.push(attribute);
            }
        }
        Ok(attributes)
    }

    /// The column, whether it is generated, and whether generated ones can be published.
    fn read(row: Vec<Option<String>>) -> Option<(Self, bool, bool)> {
        let [number, name, type_oid, type_sql, not_null, generated, can_be] = <[_; 7]>::try_from(row).ok()?;
        let attribute = Self {
            number: number?.parse().ok()?,
            name: name?,
            type_oid: type_oid?.parse().ok()?,
            type_sql: type_sql?,
            not_null: not_null? == "t",
        };
        Some((attribute, generated? == "t", can_be? == "t"))
    }
}

impl Index {
    async fn look_up(connection: &mut Connection, table: u32) -> Result<Vec<Self>, WireError> {
        let sql = "\
            SELECT x.relname, i.indisprimary, i.indisreplident, i.indimmediate,
                   i.indisvalid AND i.indpred IS NULL AND i.indexprs IS NULL,
                   (SELECT string_agg(u.attnum::text, ' ' ORDER BY u.place)
                      FROM unnest(i.indkey::int2[]) WITH ORDINALITY u(attnum, place)
                     WHERE u.place <= i.indnkeyatts),
                   (SELECT jsonb_agg(coalesce(a.attname, '') ORDER BY u.place)
                      FROM unnest(i.indkey::int2[]) WITH ORDINALITY u(attnum, place)
                      LEFT JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = u.attnum AND u.attnum > 0
                     WHERE u.place <= i.indnkeyatts)
              FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid
             WHERE i.indrelid = $1::oid AND i.indisunique
             ORDER BY i.indisprimary DESC, i.indnkeyatts, i.indexrelid";
        let rows = connection.all_rows(sql, &[Some(&table.to_string())]).await?;
        rows.into_iter().map(|row| Self::read(row).ok_or(ODD)).collect()
    }

    fn read(row: Vec<Option<String>>) -> Option<Self> {
        let [name, primary, identity, immediate, plain, columns, names] = <[_; 7]>::try_from(row).ok()?;
        let columns: Result<Vec<i16>, _> = columns?.split(' ').map(str::parse).collect();
        Some(Self {
            name: name?,
            is_primary: primary? == "t",
            is_identity: identity? == "t",
            is_immediate: immediate? == "t",
            is_plain: plain? == "t",
            columns: columns.ok()?,
            names: serde_json::from_str(&names?).ok()?,
        })
    }

    /// A key must be in every row and name one row.
    fn can_be_key(&self, attributes: &[Attribute]) -> bool {
        let not_null = |number: &i16| attributes.iter().any(|a| a.number == *number && a.not_null);
        self.is_plain && self.columns.iter().all(not_null)
    }
}

/// The places of the key's columns among `attributes`: those that an old row in the log has. That is
/// the primary key, or the index of the replica identity; with FULL the primary key or, without
/// one, the smallest unique index that allows no nulls. `publication` is its name and row filter.
pub(super) async fn key(
    connection: &mut Connection,
    name: &TableName,
    found: &Found,
    attributes: &[Attribute],
    publication: (&str, Option<&str>),
) -> Result<Result<Vec<usize>, TableFault>, WireError> {
    let indexes = Index::look_up(connection, found.oid).await?;
    let mending = Mending {
        sql: name.sql(),
        is_partitioned: found.is_partitioned(),
        indexes: &indexes,
        attributes,
        publication,
    };
    Ok(choose_key(name, found.replica_identity, &mending))
}

fn choose_key(
    name: &TableName,
    identity: ReplicaIdentity,
    mending: &Mending<'_>,
) -> Result<Vec<usize>, TableFault> {
    let (table, Mending { indexes, attributes, .. }) = (&name.spelled, mending);
    let primary = indexes.iter().find(|index| index.is_primary);
    let chosen = match identity {
        ReplicaIdentity::Nothing => {
            return Err(TableFault::new(
                format!("table {table} has REPLICA IDENTITY NOTHING: its log does not say which row is gone"),
                mending.identity(),
            ));
        }
        ReplicaIdentity::PrimaryKey => primary,
        ReplicaIdentity::Index => indexes.iter().find(|index| index.is_identity),
        ReplicaIdentity::Full => primary.or_else(|| mending.unique()),
    };
    let Some(chosen) = chosen else {
        return Err(TableFault::new(format!("table {table} has no primary key"), mending.identity()));
    };
    // T46: UPDATE t SET id = 3 - id; the log's order of such changes is not the final state's.
    if !chosen.is_immediate {
        return Err(TableFault::new(
            format!(
                "the key {} of table {table} is deferrable: one transaction could swap keys",
                chosen.name
            ),
            mending.immediate(chosen),
        ));
    }
    let place = |number: &i16| attributes.iter().position(|attribute| attribute.number == *number);
    let places: Option<Vec<usize>> = chosen.columns.iter().map(place).collect();
    places.ok_or_else(|| {
        TableFault::new(
            format!("the publication leaves a column of the key {} of table {table} out", chosen.name),
            mending.published(chosen),
        )
    })
}

const ODD: WireError = WireError::Protocol("the catalog gave a row of an unexpected form");

/// For the fuzz targets: each row as whatever it has the columns of, and the key that they give.
#[cfg(any(test, feature = "fuzzing"))]
pub(super) fn read_any(rows: Vec<Vec<Option<String>>>) {
    let name = TableName { schema: "public".into(), name: "t".into(), spelled: "public.t".into() };
    let all = || rows.iter().cloned();
    let attributes: Vec<Attribute> =
        all().filter_map(Attribute::read).map(|(attribute, ..)| attribute).collect();
    let indexes: Vec<Index> = all().filter_map(Index::read).collect();
    for found in all().filter_map(Found::read) {
        let _faults = found.faults(&name, "cdc");
        let mending = Mending {
            sql: name.sql(),
            is_partitioned: found.is_partitioned(),
            indexes: &indexes,
            attributes: &attributes,
            publication: ("p", None),
        };
        if let Ok(key) = choose_key(&name, found.replica_identity, &mending) {
            assert!(key.iter().all(|&place| place < attributes.len()));
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn attributes() -> Vec<Attribute> {
        let attribute = |number, name: &str, not_null| Attribute {
            number,
            name: name.to_owned(),
            type_oid: 23,
            type_sql: "integer".to_owned(),
            not_null,
        };
        vec![attribute(1, "a", true), attribute(3, "b", true), attribute(4, "n", false)]
    }

    fn index(name: &str, columns: &[i16]) -> Index {
        Index {
            name: name.to_owned(),
            is_primary: name == "pk",
            is_identity: name == "identity",
            is_immediate: true,
            is_plain: true,
            columns: columns.to_vec(),
            names: columns.iter().map(|number| format!("c{number}")).collect(),
        }
    }

    fn chosen(identity: ReplicaIdentity, indexes: &[Index]) -> Result<Vec<usize>, TableFault> {
        let name = TableName::parse("public.t").unwrap();
        let attributes = attributes();
        let mending = Mending {
            sql: "t".to_owned(),
            is_partitioned: false,
            indexes,
            attributes: &attributes,
            publication: ("p", Some("a > 1")),
        };
        choose_key(&name, identity, &mending)
    }

    fn choose(identity: ReplicaIdentity, indexes: &[Index]) -> Result<Vec<usize>, String> {
        chosen(identity, indexes).map_err(|fault| fault.what)
    }

    fn fix(identity: ReplicaIdentity, indexes: &[Index]) -> String {
        chosen(identity, indexes).unwrap_err().fix
    }

    #[test]
    fn each_fault_of_a_key_comes_with_the_sql_that_is_right_for_it() {
        use ReplicaIdentity::{Nothing, PrimaryKey};
        assert_eq!(fix(Nothing, &[index("pk", &[1])]), "ALTER TABLE t REPLICA IDENTITY DEFAULT;");
        let by_index = "ALTER TABLE t REPLICA IDENTITY USING INDEX \"u\";";
        assert_eq!(fix(Nothing, &[index("u", &[1])]), by_index);
        assert_eq!(fix(PrimaryKey, &[index("nulls", &[4]), index("u", &[1])]), by_index);
        assert!(fix(PrimaryKey, &[]).starts_with("ALTER TABLE t ADD COLUMN rowtide_key bigint"));
        let deferrable = Index { is_immediate: false, ..index("pk", &[1, 3]) };
        assert_eq!(
            fix(PrimaryKey, &[deferrable]),
            "ALTER TABLE t DROP CONSTRAINT \"pk\", ADD CONSTRAINT \"pk\" PRIMARY KEY (\"c1\", \"c3\");"
        );
        assert_eq!(
            fix(PrimaryKey, &[index("pk", &[2])]),
            "ALTER PUBLICATION \"p\" DROP TABLE t;\n\
             ALTER PUBLICATION \"p\" ADD TABLE t (\"a\", \"b\", \"n\", \"c2\") WHERE (a > 1);"
        );
    }

    #[test]
    fn the_key_is_what_an_old_row_has() {
        let indexes = [index("pk", &[3, 1]), index("identity", &[1])];
        assert_eq!(choose(ReplicaIdentity::PrimaryKey, &indexes), Ok(vec![1, 0]));
        assert_eq!(choose(ReplicaIdentity::Index, &indexes), Ok(vec![0]));
        assert_eq!(choose(ReplicaIdentity::Full, &indexes), Ok(vec![1, 0]));
        assert_eq!(choose(ReplicaIdentity::Full, &[index("nulls", &[4]), index("u", &[3])]), Ok(vec![1]));
    }

    #[test]
    fn t10_a_table_without_a_usable_key_is_refused() {
        assert!(choose(ReplicaIdentity::Nothing, &[index("pk", &[1])]).unwrap_err().contains("NOTHING"));
        assert!(
            choose(ReplicaIdentity::PrimaryKey, &[index("u", &[1])]).unwrap_err().contains("no primary key")
        );
        assert!(
            choose(ReplicaIdentity::Full, &[index("nulls", &[4])]).unwrap_err().contains("no primary key")
        );
        // Column 2 is not published.
        assert!(
            choose(ReplicaIdentity::PrimaryKey, &[index("pk", &[2])])
                .unwrap_err()
                .contains("leaves a column")
        );
    }

    #[test]
    fn t46_a_deferrable_key_is_refused() {
        let deferrable = Index { is_immediate: false, ..index("pk", &[1]) };
        assert!(choose(ReplicaIdentity::Full, &[deferrable]).unwrap_err().contains("deferrable"));
    }
}
