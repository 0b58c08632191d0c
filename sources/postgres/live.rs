//! Against a real server: `ROWTIDE_TEST_POSTGRES=host:port:user:password:database`, a role that may
//! do all. Built with the feature `live`, which `scripts/test postgres-types` asks for after it has
//! started a server.
#![allow(clippy::unwrap_used, clippy::panic, clippy::disallowed_methods, clippy::print_stderr)]

mod every_type;
mod extremes;
mod values;

use std::time::Duration;

use serde_json::json;

use super::catalog::{Server, TableInfo, ValueTypes};
use super::check::check;
use super::config::{Config, TableName};
use super::lsn::Lsn;
use super::pgoutput::Message;
use super::slot::{self, Published, SlotState};
use super::tuple::{Tuple, Value};
use super::wire::{Connect, Connection, Copy, Next, WireError};
use crate::world::{RealWorld, SharedWorld};
use crate::{Settings, TableSettings};

const LIMIT: Duration = Duration::from_secs(10);
const ROW_MAX: usize = 1 << 20;

struct Live {
    world: SharedWorld,
    url: String,
    sql: Connection,
}

/// One server for all tests, so each has a schema, a slot and a publication of its own.
async fn server(name: &str) -> (Live, Config) {
    let place = std::env::var("ROWTIDE_TEST_POSTGRES").expect("ROWTIDE_TEST_POSTGRES names no server");
    let [host, port, user, password, database] = place.split(':').collect::<Vec<_>>().try_into().unwrap();
    let world = RealWorld::shared();
    let url = format!("postgres://{user}:{password}@{host}:{port}/{database}");
    let config = config(name, &url, &["t"]);
    let mut sql = Connection::open(&config.connect, &world, LIMIT).await.unwrap();
    let clean = format!(
        "DROP SCHEMA IF EXISTS {name} CASCADE; DROP PUBLICATION IF EXISTS {name}; CREATE SCHEMA {name};
         SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = '{name}'"
    );
    sql.simple(&clean).await.unwrap();
    (Live { world, url, sql }, config)
}

fn config(name: &str, url: &str, tables: &[&str]) -> Config {
    let keys = json!({"url": url, "slot": name, "publication": name});
    Config::new(Settings {
        name: name.to_owned(),
        folder: std::path::PathBuf::new(),
        environment: std::collections::BTreeMap::new(),
        keys: keys.as_object().unwrap().clone(),
        tables: tables
            .iter()
            .map(|table| TableSettings { name: format!("{name}.{table}"), on_drop: crate::OnDrop::Halt })
            .collect(),
        document_bytes_max: ROW_MAX,
    })
    .unwrap()
}

async fn load(sql: &mut Connection, types: &mut ValueTypes, config: &Config) -> TableInfo {
    TableInfo::load(sql, types, 0, &config.entries[0].name, &config.publication).await.unwrap().unwrap()
}

fn values(info: &TableInfo, tuple: Tuple<'_>) -> Vec<String> {
    assert_eq!(tuple.columns(), info.decoders.len());
    let one = |(value, decoder): (Value<'_>, &super::decode::Decoder)| {
        let mut out = Vec::new();
        match value {
            Value::Null => out.extend_from_slice(b"null"),
            Value::Unchanged => out.extend_from_slice(b"unchanged"),
            Value::Text(text) => decoder.append(text, &mut out).unwrap(),
        }
        String::from_utf8(out).unwrap()
    };
    tuple.values().zip(&info.decoders).map(one).collect()
}

async fn start_log(server: &Live, config: &Config) -> Connection {
    let mut log = Connection::open(&config.replication(), &server.world, LIMIT).await.unwrap();
    let sql = slot::start_replication_sql(&config.slot, Lsn(0), &config.publication);
    log.start_replication(&sql).await.unwrap();
    log
}

/// Each change up to the next Commit, in words.
async fn transaction(
    log: &mut Connection,
    info: &mut TableInfo,
    types: &ValueTypes,
    limit: usize,
) -> Vec<String> {
    let mut seen = Vec::new();
    loop {
        let found = log.parse_copy(limit, &mut |_| vec![0]).unwrap();
        let message = match found {
            None => {
                log.fill().await.unwrap();
                continue;
            }
            Some(Copy::Data { message, .. }) => Message::parse(message).unwrap(),
            Some(Copy::Large(change)) => {
                seen.push(format!("{:?} {:?}", change.kind, change.new.map(|row| (row.bytes, row.kept))));
                continue;
            }
            Some(_) => continue,
        };
        match message {
            Message::Relation(relation) if relation.oid == info.oid => {
                assert!(types.missing(&relation).is_empty());
                *info = info.from_relation(&relation, types).unwrap();
            }
            Message::Insert { new, .. } => seen.push(format!("insert {}", values(info, new).join(" | "))),
            Message::Update { old, new, .. } => {
                let old = old.map(|(kind, old)| format!("{kind:?} {} ", values(info, old).join(" | ")));
                seen.push(format!("update {}to {}", old.unwrap_or_default(), values(info, new).join(" | ")));
            }
            Message::Delete { kind, old, .. } => {
                seen.push(format!("delete {kind:?} {}", values(info, old).join(" | ")));
            }
            Message::Truncate { relations, .. } => {
                seen.push(format!("truncate {}", relations.iter().count()))
            }
            Message::Commit { .. } if !seen.is_empty() => return seen,
            _ => {}
        }
    }
}

#[tokio::test]
async fn changes_of_every_kind_come_and_a_large_one_is_read_past() {
    let (mut server, config) = server("live_changes").await;
    server.sql.simple("CREATE TABLE live_changes.t (id int PRIMARY KEY, big text, n int)").await.unwrap();
    server.sql.simple("ALTER TABLE live_changes.t ALTER big SET STORAGE EXTERNAL").await.unwrap();
    slot::ensure_publication(&mut server.sql, &config.publication, &config.wanted()).await.unwrap();
    slot::create_slot(&mut server.sql, &config.slot).await.unwrap();
    for sql in [
        "INSERT INTO live_changes.t VALUES (1, repeat('x', 10000), 0)",
        "UPDATE live_changes.t SET n = 1",
        "UPDATE live_changes.t SET id = 2",
        "ALTER TABLE live_changes.t REPLICA IDENTITY FULL; UPDATE live_changes.t SET big = 'b'",
        "DELETE FROM live_changes.t",
        "INSERT INTO live_changes.t VALUES (3, repeat('y', 5000000), 7)",
        "TRUNCATE live_changes.t",
    ] {
        server.sql.simple(sql).await.unwrap();
    }
    let mut types = ValueTypes::default();
    let mut info = load(&mut server.sql, &mut types, &config).await;
    let mut log = start_log(&server, &config).await;
    let big = format!("\"{}\"", "x".repeat(10_000));
    let expected = [
        format!("insert 1 | {big} | 0"),
        "update to 1 | unchanged | 1".to_owned(),
        // A key change writes the key of the old row; the TOASTed value stays where it is.
        "update Key 1 | null | null to 2 | unchanged | 1".to_owned(),
        format!("update Full 2 | {big} | 1 to 2 | \"b\" | 1"),
        "delete Full 2 | \"b\" | 1".to_owned(),
        "Insert Some((5000002, [Text(1 bytes)]))".to_owned(),
        "truncate 1".to_owned(),
    ];
    for expected in expected {
        assert_eq!(transaction(&mut log, &mut info, &types, ROW_MAX).await, [expected]);
    }
    assert!(log.memory() < 200_000, "nothing large was held");
    let state = SlotState::look(&mut server.sql, &config.slot).await.unwrap();
    assert!(matches!(state, SlotState::Active { .. }), "{state:?}");
    log.send_status(Lsn(1), Lsn(1), Lsn(1), true).await.unwrap();
    log.close().await;
    let state = SlotState::look(&mut server.sql, &config.slot).await.unwrap();
    assert!(matches!(state, SlotState::Ready(_)), "close waits until the slot is free: {state:?}");
}

#[tokio::test]
async fn a_read_can_end_early_and_a_large_row_of_it_is_read_past() {
    let (mut server, config) = server("live_reads").await;
    server.sql.simple(
        "CREATE TABLE live_reads.t (id int PRIMARY KEY, v text);
         INSERT INTO live_reads.t SELECT n, repeat('v', CASE n WHEN 7 THEN 3000000 ELSE 90 END) FROM generate_series(1, 20000) n; ANALYZE live_reads.t",
    ).await.unwrap();
    let info = load(&mut server.sql, &mut ValueTypes::default(), &config).await;
    assert_eq!((info.rows_estimated, info.key_types.as_slice()), (20_000, &["integer".to_owned()][..]));
    assert!((50..500).contains(&info.row_bytes_estimated), "{}", info.row_bytes_estimated);
    let select = format!(
        "SELECT pg_current_snapshot(), id, v FROM {} WHERE id > $1::integer ORDER BY id",
        info.sql_from()
    );
    for read in [0, 5, 300] {
        server.sql.query(&select, &[Some("2")]).await.unwrap();
        for number in 0..read {
            match server.sql.next_row(ROW_MAX, &[1]).await.unwrap() {
                Next::Row(tuple) => {
                    assert_eq!(tuple.values().nth(1), Some(Value::Text((number + 3).to_string().as_bytes())))
                }
                Next::TooLarge(row) => assert_eq!(
                    format!("{:?}", row.kept),
                    format!("[Text({} bytes)]", 1 + usize::from(number == 6))
                ),
                Next::End => panic!("too early"),
            }
        }
        server.sql.cancel_rest().await.unwrap();
        assert_eq!(server.sql.simple("SELECT 1").await.unwrap(), [[Some("1".to_owned())]]);
    }
    server.sql.query(&select, &[Some("0")]).await.unwrap();
    let mut rows = 0;
    while !matches!(server.sql.next_row(ROW_MAX, &[1]).await.unwrap(), Next::End) {
        rows += 1;
    }
    assert_eq!(rows, 20_000);
    let refused = server.sql.all_rows("SELECT no FROM live_reads.t", &[]).await.unwrap_err();
    assert_eq!(refused.sqlstate(), Some("42703"));
    let refused =
        server.sql.all_rows("SELECT 1 / (id - 500) FROM live_reads.t ORDER BY id", &[]).await.unwrap_err();
    assert_eq!(refused.sqlstate(), Some("22012"), "in the middle of rows");
    assert_eq!(server.sql.all_rows("SELECT 1", &[]).await.unwrap().len(), 1);
}

#[tokio::test]
async fn writers_of_a_table_are_seen_until_they_end_partitions_and_prepared_ones_too() {
    let (mut server, config) = server("live_locks").await;
    server.sql.simple(
        "CREATE TABLE live_locks.t (id int PRIMARY KEY) PARTITION BY RANGE (id);
         CREATE TABLE live_locks.t1 PARTITION OF live_locks.t FOR VALUES FROM (0) TO (10); CREATE TABLE live_locks.other (id int)",
    ).await.unwrap();
    let info = load(&mut server.sql, &mut ValueTypes::default(), &config).await;
    assert!(info.is_partitioned);
    let mut writer = Connection::open(&config.connect, &server.world, LIMIT).await.unwrap();
    let holders = async |sql: &mut Connection| slot::write_lock_holders(sql, &[info.oid]).await.unwrap();
    writer.simple("BEGIN; INSERT INTO live_locks.other VALUES (1); SELECT FROM live_locks.t").await.unwrap();
    assert_eq!(holders(&mut server.sql).await, []);
    writer.simple("INSERT INTO live_locks.t1 VALUES (1)").await.unwrap();
    let found = holders(&mut server.sql).await;
    assert_eq!(found.len(), 1);
    assert!(found[0].who.contains(&writer.backend_pid().to_string()), "{found:?}");
    writer.simple("ROLLBACK").await.unwrap();
    assert_eq!(holders(&mut server.sql).await, []);
    let prepares = server.sql.simple("SHOW max_prepared_transactions").await.unwrap();
    if prepares[0][0].as_deref() != Some("0") {
        writer.simple("BEGIN; INSERT INTO live_locks.t VALUES (2); PREPARE TRANSACTION 'p1'").await.unwrap();
        let found = holders(&mut server.sql).await;
        assert!(found.len() == 1 && found[0].who.contains("'p1'"), "{found:?}");
        writer.simple("ROLLBACK PREPARED 'p1'").await.unwrap();
        assert_eq!(holders(&mut server.sql).await, []);
    }
}

#[tokio::test]
async fn check_finds_everything_at_once() {
    let (mut server, good) = server("live_check").await;
    server.sql.simple(
        "SET search_path = live_check; CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE nokey (id int);
         CREATE TABLE nothing (id int PRIMARY KEY); ALTER TABLE nothing REPLICA IDENTITY NOTHING;
         CREATE TABLE deferred (id int PRIMARY KEY DEFERRABLE); CREATE VIEW v AS SELECT 1; CREATE UNLOGGED TABLE u (id int PRIMARY KEY);
         CREATE TABLE secret (id int PRIMARY KEY); ALTER TABLE secret ENABLE ROW LEVEL SECURITY;
         CREATE TABLE part (id int PRIMARY KEY) PARTITION BY RANGE (id);
         DROP ROLE IF EXISTS live_check_role; CREATE ROLE live_check_role LOGIN PASSWORD 'x';
         SET search_path = pg_catalog",
    ).await.unwrap();
    assert_eq!(check(&good, &server.world).await.unwrap().missing, []);

    let all = ["t", "nokey", "nothing", "deferred", "v", "u", "secret", "missing", "part"];
    let whats = async |config: &Config| -> Vec<String> {
        check(config, &server.world)
            .await
            .unwrap()
            .missing
            .into_iter()
            .map(|finding| format!("{} => {}", finding.what, finding.fix))
            .collect()
    };
    let found = whats(&config("live_check", &server.url, &all)).await;
    for part in [
        "nokey has no primary key",
        "NOTHING",
        "deferrable",
        "is a view",
        "unlogged",
        "missing does not exist",
    ] {
        assert!(found.iter().any(|what| what.contains(part)), "{part}: {found:#?}");
    }
    assert_eq!(found.len(), 6, "{found:#?}");

    let scheme_and_host = server.url.rsplit_once('@').unwrap().1;
    let weak = format!("postgres://live_check_role:x@{scheme_and_host}");
    let found = whats(&config("live_check", &weak, &["t"])).await;
    for part in [
        "may not replicate => ALTER ROLE \"live_check_role\" REPLICATION;",
        "may not use the schema",
        "CREATE PUBLICATION \"live_check\" FOR TABLE \"live_check\".\"t\"",
    ] {
        assert!(found.iter().any(|what| what.contains(part)), "{part}: {found:#?}");
    }
    let wrong = format!("postgres://live_check_role:wrong@{scheme_and_host}");
    let found = whats(&config("live_check", &wrong, &["t"])).await;
    assert!(found.len() == 1 && found[0].contains("28P01") && !found[0].contains("wrong"), "{found:#?}");

    server.sql.simple("GRANT USAGE ON SCHEMA live_check TO live_check_role; GRANT SELECT ON ALL TABLES IN SCHEMA live_check TO live_check_role; ALTER ROLE live_check_role REPLICATION").await.unwrap();
    server
        .sql
        .simple("CREATE PUBLICATION live_check FOR TABLE live_check.t WITH (publish = 'insert')")
        .await
        .unwrap();
    server
        .sql
        .simple("SELECT pg_create_logical_replication_slot('live_check', 'pgoutput', false, true)")
        .await
        .unwrap();
    let found = whats(&config("live_check", &weak, &["t", "secret", "part"])).await;
    for part in [
        "row-level security",
        "leaves update, delete, truncate out",
        "two_phase",
        "is partitioned",
        "may not add",
    ] {
        assert!(found.iter().any(|what| what.contains(part)), "{part}: {found:#?}");
    }
    assert_eq!(found.len(), 5, "{found:#?}");
    server.sql.simple("SELECT pg_drop_replication_slot('live_check'); DROP OWNED BY live_check_role; DROP ROLE live_check_role").await.unwrap();
}

#[tokio::test]
async fn t12_lists_of_columns_and_row_filters_of_a_publication_are_known() {
    let (mut server, config) = server("live_lists").await;
    server.sql.simple("CREATE TABLE live_lists.t (a text, hidden text, id int PRIMARY KEY, made int GENERATED ALWAYS AS (id) STORED)").await.unwrap();
    let info = load(&mut server.sql, &mut ValueTypes::default(), &config).await;
    assert_eq!(
        (info.sql_columns(), &*info.table.key),
        (vec!["\"a\"".to_owned(), "\"hidden\"".to_owned(), "\"id\"".to_owned()], &[2][..])
    );
    let version = server.sql.parameter("server_version").unwrap();
    if version.starts_with("14") {
        return;
    }
    server
        .sql
        .simple("CREATE PUBLICATION live_lists FOR TABLE live_lists.t (id, a) WHERE (id > 5)")
        .await
        .unwrap();
    let info = load(&mut server.sql, &mut ValueTypes::default(), &config).await;
    assert_eq!(
        (info.sql_columns(), &*info.table.key),
        (vec!["\"a\"".to_owned(), "\"id\"".to_owned()], &[1][..])
    );
    assert_eq!(info.row_filter.as_deref(), Some("(id > 5)"));
    let more = [config.entries[0].name.clone(), TableName::parse("live_lists.t2").unwrap()];
    server.sql.simple("CREATE TABLE live_lists.t2 (id int PRIMARY KEY)").await.unwrap();
    let done = slot::ensure_publication(&mut server.sql, &config.publication, &more).await.unwrap();
    assert_eq!(done, Published::Added(vec![more[1].clone()]));
    let done = slot::ensure_publication(&mut server.sql, &config.publication, &more).await.unwrap();
    assert_eq!(done, Published::Already);
}

fn login(password: Option<&str>) -> std::sync::Arc<super::credentials::Login> {
    use super::credentials::{Login, Origin, Password};
    std::sync::Arc::new(Login::new(password.map(|text| Password(text.to_owned())), Origin::Fixed))
}

#[tokio::test]
async fn scram_logs_in_and_a_walsender_takes_the_settings_too() {
    let (mut server, config) = server("live_login").await;
    server.sql.simple("SET password_encryption = 'scram-sha-256'; DROP ROLE IF EXISTS live_scram; CREATE ROLE live_scram LOGIN PASSWORD 'scram päss'").await.unwrap();
    for (role, password) in [("live_scram", "scram päss")] {
        let connect =
            Connect { user: role.to_owned(), login: login(Some(password)), ..config.connect.clone() };
        let connection = Connection::open(&connect, &server.world, LIMIT).await.unwrap();
        assert_eq!(connection.parameter("TimeZone"), Some("UTC"));
        connection.close().await;
        let connect = Connect { login: login(None), ..connect };
        assert!(matches!(Connection::open(&connect, &server.world, LIMIT).await, Err(WireError::Auth(_))));
    }
    server.sql.simple("DROP ROLE live_scram").await.unwrap();
    let mut log = Connection::open(&config.replication(), &server.world, LIMIT).await.unwrap();
    for (setting, value) in [
        ("DateStyle", "ISO"),
        ("IntervalStyle", "iso_8601"),
        ("TimeZone", "UTC"),
        ("extra_float_digits", "3"),
        ("bytea_output", "hex"),
        ("client_encoding", "UTF8"),
    ] {
        let shown = log.simple(&format!("SHOW {setting}")).await.unwrap();
        assert!(shown[0][0].as_deref().unwrap().starts_with(value), "a walsender has {setting} {shown:?}");
    }
    let found = Server::identify(&mut log).await.unwrap();
    assert!(found.version >= 140_000 && !found.in_recovery && found.flush_lsn > Lsn(0), "{found:?}");
    assert_eq!(found.database, config.connect.database);
    log.close().await;
}
