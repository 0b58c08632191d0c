//! The replication slot and the publication: looked at first, made only when they are missing, and
//! never made anew when they were lost (T04). And who still writes to a table (law 2).

use super::catalog::{literal, quoted};
use super::config::TableName;
use super::lsn::Lsn;
use super::wire::{Connection, WireError};

/// What a slot says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Slot {
    /// Everything below was acknowledged.
    pub(crate) confirmed_flush: Lsn,
    /// The log from here on is kept.
    pub(crate) restart: Lsn,
    /// Bytes of log that are kept for it.
    pub(crate) held_bytes: u64,
    /// Bytes of log that can still be written before the slot may be lost; None without
    /// `max_slot_wal_keep_size`.
    pub(crate) safe_bytes: Option<u64>,
}

/// What was found under a slot's name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum SlotState {
    /// Nothing.
    Missing,
    /// It can be read.
    Ready(Slot),
    /// Somebody reads it: another process, or what is left of the last one.
    Active {
        /// The server's process for it.
        pid: i32,
        /// What it says of itself.
        slot: Slot,
    },
    /// The server has dropped log that it needs; no position of it can be trusted any more.
    Lost {
        /// In the server's words, as in `lost` or `wal_removed`.
        reason: String,
    },
    /// It is not for us.
    Foreign {
        /// Why.
        what: String,
    },
}

impl SlotState {
    /// Looks at a slot, on a primary.
    pub(crate) async fn look(connection: &mut Connection, slot: &str) -> Result<Self, WireError> {
        // By way of JSON: invalidation_reason is there since 17, two_phase since 14.
        let sql = "\
            SELECT s.slot_type, s.plugin, s.database = current_database(), s.temporary,
                   coalesce(to_jsonb(s) ->> 'two_phase', 'false'), s.active_pid, s.wal_status,
                   to_jsonb(s) ->> 'invalidation_reason', s.confirmed_flush_lsn, s.restart_lsn,
                   greatest(pg_wal_lsn_diff(pg_current_wal_flush_lsn(), s.restart_lsn), 0)::bigint,
                   s.safe_wal_size
              FROM pg_replication_slots s WHERE s.slot_name = $1";
        let rows = connection.all_rows(sql, &[Some(slot)]).await?;
        match rows.into_iter().next() {
            Some(row) => Self::read(row).ok_or(ODD),
            None => Ok(Self::Missing),
        }
    }

    fn read(row: Vec<Option<String>>) -> Option<Self> {
        let row = <[_; 12]>::try_from(row).ok()?;
        let [kind, plugin, here, temporary, two_phase, pid, status, reason, confirmed, restart, held, safe] =
            row;
        let foreign = |what: &str| Some(Self::Foreign { what: what.to_owned() });
        if kind.as_deref() != Some("logical") {
            return foreign("it is a physical slot");
        }
        if plugin.as_deref() != Some("pgoutput") {
            return foreign("its output plugin is not pgoutput");
        }
        if here.as_deref() != Some("t") {
            return foreign("it belongs to another database");
        }
        if temporary.as_deref() == Some("t") {
            return foreign("it is temporary");
        }
        if two_phase.as_deref() == Some("true") {
            return foreign("it has two_phase, which shows transactions that can still be rolled back");
        }
        if let Some(reason) = reason {
            return Some(Self::Lost { reason });
        }
        if status.as_deref() == Some("lost") || restart.is_none() {
            return Some(Self::Lost { reason: "its log was removed".to_owned() });
        }
        let slot = Slot {
            confirmed_flush: confirmed?.parse().ok()?,
            restart: restart?.parse().ok()?,
            held_bytes: held?.parse().ok()?,
            // Below zero the slot may be lost at the next checkpoint.
            safe_bytes: safe.and_then(|safe| safe.parse::<i64>().ok()).map(|safe| safe.max(0) as u64),
        };
        match pid {
            Some(pid) => Some(Self::Active { pid: pid.parse().ok()?, slot }),
            None => Some(Self::Ready(slot)),
        }
    }
}

/// Makes a slot; gives where it begins. The server waits until every transaction that is open now
/// has ended: the caller says so meanwhile. Where the server can keep a slot on its standbys too (17 and
/// later), it is asked to: without a standby that costs nothing.
pub(crate) async fn create_slot(connection: &mut Connection, slot: &str) -> Result<Lsn, WireError> {
    let asked =
        connection.all_rows("SELECT current_setting('server_version_num')::int >= 170000", &[]).await?;
    let sql = match asked.into_iter().flatten().flatten().next().as_deref() {
        Some("t") => "SELECT lsn FROM pg_create_logical_replication_slot($1, 'pgoutput', false, false, true)",
        _ => "SELECT lsn FROM pg_create_logical_replication_slot($1, 'pgoutput', false, false)",
    };
    let rows = connection.all_rows(sql, &[Some(slot)]).await?;
    let lsn = rows.into_iter().flatten().flatten().next();
    lsn.and_then(|lsn| lsn.parse().ok()).ok_or(ODD)
}

/// A publication.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Publication {
    /// Whether our role may alter it.
    pub(crate) is_ours: bool,
    /// FOR ALL TABLES, or for a whole schema.
    pub(crate) all_tables: bool,
    /// What it leaves out of `insert, update, delete, truncate`.
    pub(crate) unpublished: Vec<&'static str>,
    /// Changes of partitions come under the root's name.
    pub(crate) via_root: bool,
    /// Schema and name of each table.
    pub(crate) tables: Vec<(String, String)>,
}

impl Publication {
    /// Looks for it; None when it does not exist.
    pub(crate) async fn look(connection: &mut Connection, name: &str) -> Result<Option<Self>, WireError> {
        let sql = "\
            SELECT pg_has_role(p.pubowner, 'USAGE'), p.puballtables,
                   p.pubinsert, p.pubupdate, p.pubdelete, p.pubtruncate, p.pubviaroot
              FROM pg_publication p WHERE p.pubname = $1";
        let rows = connection.all_rows(sql, &[Some(name)]).await?;
        let Some(row) = rows.into_iter().next() else { return Ok(None) };
        let flags: Vec<bool> = row.iter().map(|flag| flag.as_deref() == Some("t")).collect();
        let Ok([is_ours, all_tables, insert, update, delete, truncate, via_root]) =
            <[bool; 7]>::try_from(flags)
        else {
            return Err(ODD);
        };
        let kinds = [(insert, "insert"), (update, "update"), (delete, "delete"), (truncate, "truncate")];
        let unpublished = kinds.into_iter().filter(|(published, _)| !published).map(|(_, kind)| kind);
        let sql = "SELECT schemaname, tablename FROM pg_publication_tables WHERE pubname = $1";
        let rows = connection.all_rows(sql, &[Some(name)]).await?;
        let tables = rows.into_iter().filter_map(|row| {
            let [schema, table] = <[_; 2]>::try_from(row).ok()?;
            Some((schema?, table?))
        });
        Ok(Some(Self {
            is_ours,
            all_tables,
            unpublished: unpublished.collect(),
            via_root,
            tables: tables.collect(),
        }))
    }

    /// The tables that it does not publish yet.
    pub(crate) fn lacking<'a>(&self, tables: &'a [TableName]) -> Vec<&'a TableName> {
        let holds =
            |table: &TableName| self.tables.iter().any(|(s, t)| *s == table.schema && *t == table.name);
        tables.iter().filter(|table| !holds(table)).collect()
    }
}

/// The SQL that makes a publication. Partitions are published under their root's name, so that a
/// table is one table.
pub(crate) fn create_publication_sql(name: &str, tables: &[TableName]) -> String {
    let list: Vec<String> = tables.iter().map(TableName::sql).collect();
    // A pattern may match nothing yet.
    let tables = if list.is_empty() { String::new() } else { format!(" FOR TABLE {}", list.join(", ")) };
    format!("CREATE PUBLICATION {}{tables} WITH (publish_via_partition_root = true);", quoted(name))
}

/// The SQL that adds tables to one.
pub(crate) fn add_tables_sql(name: &str, tables: &[&TableName]) -> String {
    let tables: Vec<String> = tables.iter().map(|table| table.sql()).collect();
    format!("ALTER PUBLICATION {} ADD TABLE {};", quoted(name), tables.join(", "))
}

/// What was done so that the publication holds all tables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Published {
    /// It did already.
    Already,
    /// It was made.
    Created,
    /// These were added: each is read anew, after its writers have ended (law 2, T44).
    Added(Vec<TableName>),
}

/// The comment of a publication that Rowtide made; one without it is left when a pipeline is removed.
pub(crate) const MADE_BY_ROWTIDE: &str = "made by rowtide";

/// Who made a publication.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Made {
    /// It has our comment.
    ByRowtide,
    /// It has not.
    ByOthers,
}

/// Who made a publication; None when it does not exist.
pub(crate) async fn who_made(connection: &mut Connection, name: &str) -> Result<Option<Made>, WireError> {
    let sql = "\
        SELECT coalesce(obj_description(p.oid, 'pg_publication') = $2, false)
          FROM pg_publication p WHERE p.pubname = $1";
    let rows = connection.all_rows(sql, &[Some(name), Some(MADE_BY_ROWTIDE)]).await?;
    let ours = rows.into_iter().flatten().flatten().next();
    Ok(ours.map(|ours| if ours == "t" { Made::ByRowtide } else { Made::ByOthers }))
}

/// Makes the publication or adds what it lacks.
pub(crate) async fn ensure_publication(
    connection: &mut Connection,
    name: &str,
    tables: &[TableName],
) -> Result<Published, WireError> {
    let Some(publication) = Publication::look(connection, name).await? else {
        // One message is one transaction: a publication of ours is never without its comment.
        let comment = super::remove::comment_sql(name);
        connection.simple(&format!("{} {comment}", create_publication_sql(name, tables))).await?;
        return Ok(Published::Created);
    };
    let lacking = publication.lacking(tables);
    if lacking.is_empty() {
        return Ok(Published::Already);
    }
    connection.simple(&add_tables_sql(name, &lacking)).await?;
    Ok(Published::Added(lacking.into_iter().cloned().collect()))
}

/// START_REPLICATION for a slot. Protocol 1: whole transactions, in the order of their commits.
pub(crate) fn start_replication_sql(slot: &str, from: Lsn, publication: &str) -> String {
    // The list of publications is itself a list of identifiers inside of the text.
    format!(
        "START_REPLICATION SLOT {} LOGICAL {from} (proto_version '1', publication_names {})",
        quoted(slot),
        replication_literal(&quoted(publication))
    )
}

/// A walsender's own grammar has no E''; there only the quote is doubled.
fn replication_literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// A transaction that may have written to a table and has not ended.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Holder {
    /// Names it until it ends; never used again while the server runs. A prepared one keeps the name
    /// that it had as an open one, until a restart of the server makes it `-1/…`.
    pub(crate) virtual_transaction: String,
    /// For people: its process, role and application, or its name when prepared.
    pub(crate) who: String,
}

/// The transactions that hold a lock on these tables, or on partitions of them, which a writer
/// takes. One has ended when its virtual transaction is no longer among them.
pub(crate) async fn write_lock_holders(
    connection: &mut Connection,
    tables: &[u32],
) -> Result<Vec<Holder>, WireError> {
    let sql = "\
        SELECT DISTINCT l.virtualtransaction,
               CASE WHEN l.pid IS NULL THEN format('prepared transaction %s', coalesce(quote_literal((
                        SELECT p.gid FROM pg_locks x JOIN pg_prepared_xacts p ON p.transaction = x.transactionid
                         WHERE x.locktype = 'transactionid' AND x.virtualtransaction = l.virtualtransaction LIMIT 1)), l.virtualtransaction))
                    ELSE format('process %s of %s (%s)', l.pid, a.usename, coalesce(nullif(a.application_name, ''), 'no name')) END
          FROM pg_locks l
          LEFT JOIN pg_stat_activity a ON a.pid = l.pid
         WHERE l.locktype = 'relation' AND l.granted
           AND l.database = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database())
           AND l.mode IN ('RowExclusiveLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')
           AND l.pid IS DISTINCT FROM pg_backend_pid()
           AND l.relation IN (SELECT unnest($1::oid[]) UNION
                              SELECT t.relid FROM unnest($1::oid[]) o, pg_partition_tree(o) t)";
    let oids: Vec<String> = tables.iter().map(u32::to_string).collect();
    let rows = connection.all_rows(sql, &[Some(&format!("{{{}}}", oids.join(",")))]).await?;
    let holders = rows.into_iter().map(|row| {
        let [virtual_transaction, who] = <[_; 2]>::try_from(row).ok()?;
        Some(Holder { virtual_transaction: virtual_transaction?, who: who? })
    });
    holders.collect::<Option<Vec<_>>>().ok_or(ODD)
}

/// What would have kept a slot that was lost, by the server's reason; for hints.
pub(crate) fn what_keeps_it(reason: &str) -> &'static str {
    match reason {
        "idle_timeout" => "raise idle_replication_slot_timeout; ",
        "wal_level_insufficient" => "leave wal_level at logical; ",
        // Conflicts of a standby's own; there it is not read.
        "rows_removed" => "",
        _ => "raise max_slot_wal_keep_size; ",
    }
}

/// Where the next record of the log will be.
pub(crate) async fn insert_lsn(connection: &mut Connection) -> Result<Lsn, WireError> {
    let rows = connection.all_rows("SELECT pg_current_wal_insert_lsn()", &[]).await?;
    rows.into_iter().flatten().flatten().next().and_then(|lsn| lsn.parse().ok()).ok_or(ODD)
}

/// Where the log ends: beyond everything that a statement before this one has seen. Never within a page's
/// head, which holds nothing that a reader could pass.
pub(crate) async fn log_end(connection: &mut Connection) -> Result<Lsn, WireError> {
    const PAGE: u64 = 8192;
    const HEAD_MOST: u64 = 40;
    let end = insert_lsn(connection).await?;
    Ok(if end.0 % PAGE <= HEAD_MOST { Lsn(end.0 - end.0 % PAGE) } else { end })
}

/// The SQL that drops a slot, for hints.
pub(crate) fn drop_slot_sql(slot: &str) -> String {
    format!("SELECT pg_drop_replication_slot({});", literal(slot))
}

const ODD: WireError = WireError::Protocol("the catalog gave a row of an unexpected form");

/// For the fuzz targets: each row as a slot's.
#[cfg(any(test, feature = "fuzzing"))]
pub(super) fn read_any(rows: Vec<Vec<Option<String>>>) -> usize {
    rows.into_iter().filter_map(SlotState::read).count()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn state(change: impl FnOnce(&mut [Option<&str>; 12])) -> SlotState {
        let mut row = [
            Some("logical"),
            Some("pgoutput"),
            Some("t"),
            Some("f"),
            Some("false"),
            None,
            Some("reserved"),
            None,
            Some("0/20"),
            Some("0/10"),
            Some("4096"),
            None,
        ];
        change(&mut row);
        SlotState::read(row.map(|text| text.map(str::to_owned)).to_vec()).unwrap()
    }

    fn slot() -> Slot {
        Slot { confirmed_flush: Lsn(0x20), restart: Lsn(0x10), held_bytes: 4096, safe_bytes: None }
    }

    #[test]
    fn t04_each_state_of_a_slot_is_told_apart() {
        assert_eq!(state(|_| {}), SlotState::Ready(slot()));
        assert_eq!(state(|row| row[5] = Some("77")), SlotState::Active { pid: 77, slot: slot() });
        assert_eq!(
            state(|row| row[11] = Some("-5")),
            SlotState::Ready(Slot { safe_bytes: Some(0), ..slot() })
        );
        let lost = |state| matches!(state, SlotState::Lost { .. });
        assert!(lost(state(|row| row[6] = Some("lost"))));
        assert!(lost(state(|row| row[7] = Some("wal_removed"))));
        assert!(lost(state(|row| (row[9], row[10]) = (None, None))));
        for (place, value) in [(0, "physical"), (1, "wal2json"), (2, "f"), (3, "t"), (4, "true")] {
            let state = state(|row| row[place] = Some(value));
            assert!(matches!(state, SlotState::Foreign { .. }), "{place}: {state:?}");
        }
    }

    #[test]
    fn t04_the_hint_follows_the_reason() {
        assert_eq!(what_keeps_it("wal_removed"), "raise max_slot_wal_keep_size; ");
        assert_eq!(what_keeps_it("idle_timeout"), "raise idle_replication_slot_timeout; ");
    }

    #[test]
    fn names_are_quoted() {
        let table = TableName::parse("s.\"a\"\"b\"").unwrap();
        let sql = create_publication_sql("p\"q", std::slice::from_ref(&table));
        assert_eq!(
            sql,
            "CREATE PUBLICATION \"p\"\"q\" FOR TABLE \"s\".\"a\"\"b\" WITH (publish_via_partition_root = true);"
        );
        assert_eq!(
            start_replication_sql("s", Lsn(0x1_0000_0002), "it's"),
            "START_REPLICATION SLOT \"s\" LOGICAL 1/2 (proto_version '1', publication_names '\"it''s\"')"
        );
    }
}
