//! The application's decoders as functions of bytes, for the fuzz targets in `fuzz/`
//! (see docs/fuzzing.md, and `sources::fuzzing`, which has the source's).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sources::change::{Change, Column, Kind, Op, Origin, Row, RowBuilder, Table};
use sources::position::{Epoch, Offset};
use sources::world::RealWorld;

use crate::config::{self, Environment, TableShape};
use crate::dead_letters::DeadLetters;
use crate::lanes::{self, Action};
use crate::ledger::Ledger;
use crate::shape::{Entered, Shape};
use crate::store::{Sqlite, Store};
use crate::target::elasticsearch::fuzzing as elasticsearch;

pub use sources::fuzzing::{Meter, Target, measured};

/// One for each decoder of the application.
pub const TARGETS: &[Target] = &[
    Target { name: "bulk_answer", run: elasticsearch::bulk_answer },
    Target { name: "error_body", run: elasticsearch::error_body },
    Target { name: "answers", run: elasticsearch::answers },
    Target { name: "state_document", run: elasticsearch::state_document },
    Target { name: "config", run: configuration },
    Target { name: "store", run: store },
    Target { name: "shape", run: shape },
];

/// Must not be in any message.
const SECRET: &str = "hunter2-qx9";

/// A configuration file; after a zero byte the environment, a variable a line.
fn configuration(data: &[u8], meter: &dyn Meter) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let (file, variables) = text.split_once('\0').unwrap_or((text, ""));
    let variables = variables.lines().filter_map(|line| line.split_once('='));
    let mut environment: Environment =
        variables.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    environment.insert("SECRET".to_owned(), SECRET.to_owned());
    let world = RealWorld::shared();
    let judged = measured(meter, 256 * data.len() + (256 << 10), || {
        config::parse(file, Path::new("nowhere"), &environment, &sources::makes(), &world)
    });
    match judged {
        Ok(config) => assert!(config.memory.budget_bytes <= config.memory.max_rss),
        Err(problems) => {
            let told = format!("{problems:?}");
            assert!(file.contains(SECRET) || !told.contains(SECRET), "a secret is told");
        }
    }
}

/// A store's file: as it is, or (first byte `V`) values of any type in the places where the program
/// reads them.
fn store(data: &[u8], meter: &dyn Meter) {
    let folder = scratch_folder();
    for name in ["rowtide.sqlite", "rowtide.sqlite-wal", "rowtide.sqlite-shm", "rowtide.sqlite-journal"] {
        let _it_may_not_be_there = std::fs::remove_file(folder.join(name));
    }
    let file = folder.join("rowtide.sqlite");
    match data.split_first() {
        Some((b'V', values)) => write_values(&file, values),
        _ => std::fs::write(&file, data).unwrap(),
    }
    // SQLite's own memory is not counted here; the engine's limit of resident memory holds it.
    measured(meter, 64 * data.len() + (256 << 10), || read_store(&folder));
}

fn read_store(folder: &Path) {
    let Ok(store) = Sqlite::open(folder, &RealWorld::shared()) else { return };
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        if let Ok(saved) = store.load("shop").await {
            assert_eq!(saved.owner, store.owner());
            assert_eq!(saved.resume().is_some(), saved.position.is_some());
        }
        let budget = sources::budget::Budget::new(8 << 20);
        let limits = crate::store::LetterLimits::of_each(1, 1 << 20, &budget);
        if let Ok(letters) = store.letters("shop", limits, &budget).await {
            let count = DeadLetters::count(&letters);
            if let Ok(listed) = letters.list(100).await {
                assert!(listed.len() as u64 <= count.max(100));
            }
            let _any = letters.bytes();
        }
        let _any = store.begin("shop", &std::collections::BTreeMap::new()).await;
    });
}

/// Each process has its own; a file system in memory is meant to be named by TMPDIR.
fn scratch_folder() -> PathBuf {
    let thread = format!("{:?}", std::thread::current().id());
    let own: String = thread.chars().filter(char::is_ascii_digit).collect();
    let folder = std::env::temp_dir().join(format!("rowtide-fuzz-{}-{own}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o700)).unwrap();
    folder
}

/// The tables of a store without their types, so that every cell can hold everything.
fn write_values(file: &Path, mut values: &[u8]) {
    let database = rusqlite::Connection::open(file).unwrap();
    let tables = "PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF;
        CREATE TABLE meta (key, value);
        CREATE TABLE pipelines (name PRIMARY KEY, position, clean, identity);
        CREATE TABLE dead_letters (pipeline, index_name, id, version, reason, body, bytes, held_bytes, unix_seconds,
            PRIMARY KEY (pipeline, index_name, id));";
    database.execute_batch(tables).unwrap();
    for key in ["format", "owner"] {
        let put = "INSERT INTO meta VALUES (?1, ?2)";
        database.execute(put, rusqlite::params![key, value(&mut values)]).unwrap();
    }
    let put = "INSERT INTO pipelines VALUES ('shop', ?1, ?2, ?3)";
    let row = [value(&mut values), value(&mut values), value(&mut values)];
    database.execute(put, rusqlite::params_from_iter(row)).unwrap();
    for _ in 0..16 {
        if values.is_empty() {
            return;
        }
        let row: [_; 8] = std::array::from_fn(|_| value(&mut values));
        let put = "INSERT OR REPLACE INTO dead_letters VALUES ('shop', ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)";
        database.execute(put, rusqlite::params_from_iter(row)).unwrap();
    }
}

/// A value: its kind, then a number of eight bytes, or a text after its length in a byte.
fn value(rest: &mut &[u8]) -> rusqlite::types::Value {
    use rusqlite::types::Value;
    let Some((kind, tail)) = rest.split_first() else { return Value::Null };
    *rest = tail;
    let mut take = |most: usize| {
        let (taken, tail) = rest.split_at(most.min(rest.len()));
        *rest = tail;
        taken
    };
    match kind {
        b'n' => Value::Null,
        b'i' | b'r' => {
            let mut bytes = [0; 8];
            let taken = take(8);
            bytes[..taken.len()].copy_from_slice(taken);
            match kind {
                b'i' => Value::Integer(i64::from_be_bytes(bytes)),
                _ => Value::Real(f64::from_be_bytes(bytes)),
            }
        }
        b'b' => {
            let length = take(1).first().map_or(0, |length| usize::from(*length));
            Value::Blob(take(length).to_vec())
        }
        _ => {
            let length = take(1).first().map_or(0, |length| usize::from(*length));
            Value::Text(String::from_utf8_lossy(take(length)).into_owned())
        }
    }
}

/// Rows of three columns, two of them the key: columns end at 0xff, the first byte says which kinds.
fn shape(data: &[u8], meter: &dyn Meter) {
    let Some((&form, data)) = data.split_first() else { return };
    let mut fields = data.split(|&byte| byte == 0xff);
    let mut name = || String::from_utf8_lossy(fields.next().unwrap_or_default()).into_owned();
    let names = [name(), name(), name()];
    let index = name();
    let kinds = [Kind::Text, Kind::Integer { bits: 64 }, Kind::Json];
    let columns: Vec<Column> = names
        .iter()
        .enumerate()
        .map(|(at, name)| Column {
            name: name.as_str().into(),
            kind: kinds[(usize::from(form) + at) % 3].clone(),
        })
        .collect();
    let key: &[u16] = if form & 8 == 8 { &[1, 0] } else { &[0] };
    let table =
        Arc::new(Table { number: 0, name: "public.t".into(), columns: columns.into(), key: key.into() });
    let shape = TableShape { table: "public.t".into(), index, ..TableShape::default() };
    let Ok(mut shape) = Shape::compile(&[shape], std::slice::from_ref(&table)) else { return };
    let mut rows: Vec<(Row, Action)> = Vec::new();
    while rows.len() < 4 {
        let Some(first) = fields.next() else { break };
        let values = [first, fields.next().unwrap_or_default(), fields.next().unwrap_or_default()];
        let row = row(&table, values);
        let put = form & 16 == 0;
        let op = if put { Op::Put(row.clone()) } else { Op::Delete(row.clone()) };
        let offset = Offset::new(77).unwrap();
        let change = Change { table: table.clone(), offset, op, origin: Origin::Log };
        let version = Epoch { base: 0 }.version(offset).unwrap();
        let entered = Entered { segment: Ledger::new().segment(), charge: 1 << 20 };
        let most = 16 * (row.heap_bytes() + shape.render_bytes()) + 4096;
        let action = measured(meter, most, || shape.render(&change, version, entered)).unwrap();
        check_action(&table, &row, &action, put);
        rows.push((row, action));
    }
    for (one, first) in &rows {
        for (other, second) in &rows {
            let same = key.iter().all(|&at| one.get(usize::from(at)) == other.get(usize::from(at)));
            assert!(same == (first.id() == second.id()), "two keys and one id, or one key and two");
        }
    }
}

/// JSON values: a text as it is, a number or any JSON where the kind wants it.
fn row(table: &Table, texts: [&[u8]; 3]) -> Row {
    let mut builder = RowBuilder::default();
    for (column, text) in table.columns.iter().zip(texts) {
        let text = String::from_utf8_lossy(text);
        let json = match column.kind {
            Kind::Integer { .. } => serde_json::Value::from(
                text.bytes().fold(7_i64, |sum, byte| sum.wrapping_mul(31) + i64::from(byte)),
            ),
            Kind::Json => serde_json::from_str(&text).unwrap_or(serde_json::Value::Null),
            _ => serde_json::Value::from(&*text),
        };
        builder.value().extend_from_slice(json.to_string().as_bytes());
        builder.end_value();
    }
    builder.finish()
}

/// Every line is JSON, and the document has the row's values.
fn check_action(table: &Table, row: &Row, action: &Action, put: bool) {
    let text = std::str::from_utf8(&action.data).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(text.bytes().filter(|&byte| byte == b'\n').count(), lines.len());
    let parse = |line: &str| serde_json::from_str::<BTreeMap<String, serde_json::Value>>(line).unwrap();
    let line = parse(lines[0]);
    let meta = line.values().next().unwrap();
    let id = serde_json::from_str::<String>(&format!("\"{}\"", std::str::from_utf8(action.id()).unwrap()));
    assert_eq!(meta["_id"], id.unwrap());
    let is_dead = matches!(action.kind, lanes::Kind::Dead(_));
    assert_eq!(is_dead, meta["_id"].as_str().is_none_or(|id| id.is_empty() || id.len() > 512));
    assert_eq!(lines.len(), if put { 2 } else { 1 });
    if put {
        let document = parse(lines[1]);
        for (place, column) in table.columns.iter().enumerate() {
            let value: serde_json::Value = serde_json::from_slice(row.get(place).unwrap()).unwrap();
            assert_eq!(document[&*column.name], value);
        }
    }
}
