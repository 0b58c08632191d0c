//! Fuzz targets of the PostgreSQL source: everything that reads the network or a checkpoint.
//!
//! A bound is what a decoder may hold beside its input. Where it is a multiple of the input, the
//! factor is what the form can grow by, twice over, since a vector that grows holds its old self too.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::HashMap;
use std::sync::Arc;

use super::catalog::{self, TableInfo, ValueTypes};
use super::config::{self, TableName};
use super::credentials::Password;
use super::credentials::pgpass::{self, Wanted};
use super::decode::{Attributes, Decoder};
use super::lsn::Lsn;
use super::pgoutput::{Message, Relation};
use super::position::PgPosition;
use super::slot;
use super::snapshot::PgSnapshot;
use super::step::{Changes, Context, New, Step};
use super::tuple::{Tuple, Value};
use super::wire::scripted::{Phase, ready, skip};
use super::wire::{Connection, Copy, KEPT_MAX, Next};
use crate::change::{Column, Key, Kind, Row, RowBuilder, Table};
use crate::fuzzing::{Meter, Target, is_json, measured};
use crate::merge::Snapshot;
use crate::position::Position;

/// One for each decoder.
pub const TARGETS: &[Target] = &[
    Target { name: "wire_login", run: wire_login },
    Target { name: "wire_rows", run: wire_rows },
    Target { name: "wire_log", run: wire_log },
    Target { name: "large_row", run: large_row },
    Target { name: "pgoutput", run: pgoutput },
    Target { name: "tuple", run: tuple },
    Target { name: "decode", run: decode },
    Target { name: "log_rows", run: log_rows },
    Target { name: "catalog", run: catalog },
    Target { name: "snapshot", run: snapshot },
    Target { name: "lsn", run: lsn },
    Target { name: "position", run: position },
    Target { name: "url", run: url },
    Target { name: "end_point", run: end_point },
    Target { name: "pgpass", run: pgpass },
];

/// A message that is no row may have 1 MiB, and while the buffer grows to it the old one is there too.
const WIRE_BYTES: usize = (1 << 20) + (256 << 10);

/// Rows over it are read past.
const LIMIT: usize = 1000;

/// Whatever the pieces in which it comes, a script gives the same.
fn same_in_pieces(data: &[u8], meter: &dyn Meter, say: impl Fn(&[u8], usize) -> Vec<String>) {
    let Some((&piece, script)) = data.split_first() else { return };
    let most = WIRE_BYTES + 16 * script.len();
    let whole = measured(meter, most, || say(script, usize::MAX));
    let parts = measured(meter, most, || say(script, usize::from(piece) + 1));
    assert_eq!(whole, parts, "pieces of {} bytes", usize::from(piece) + 1);
}

fn wire_login(data: &[u8], meter: &dyn Meter) {
    same_in_pieces(data, meter, |script, piece| {
        let mut connection = Connection::scripted(script, piece, Phase::Start);
        let started = ready(connection.scripted_start()).expect("a script never waits");
        vec![format!("{started:?} {} {:?}", connection.backend_pid(), connection.buffered() > script.len())]
    });
}

fn wire_rows(data: &[u8], meter: &dyn Meter) {
    let Some((&mode, data)) = data.split_first() else { return };
    same_in_pieces(data, meter, |script, piece| {
        ready(read_rows(script, piece, mode)).expect("a script never waits")
    });
}

async fn read_rows(script: &[u8], piece: usize, mode: u8) -> Vec<String> {
    let mut said = Vec::new();
    if mode & 3 == 1 {
        let mut connection = Connection::scripted(script, piece, Phase::Idle);
        // As for a catalog's answers, one after another.
        for _ in 0..8 {
            let rows = connection.simple("SELECT").await;
            said.push(format!("{rows:?}"));
            if rows.is_err_and(|error| error.sqlstate().is_none()) {
                break;
            }
        }
        return said;
    }
    if mode & 3 == 2 {
        let mut connection = Connection::scripted(script, piece, Phase::Idle);
        said.push(format!("{:?}", connection.all_rows("SELECT", &[]).await));
        return said;
    }
    let mut connection = Connection::scripted(script, piece, Phase::Rows);
    let keep = [0, 2];
    for _ in 0..usize::from(mode >> 2) * 64 + 1 {
        match connection.next_row(LIMIT, &keep).await {
            Ok(Next::Row(row)) => {
                assert_eq!(row.values().count(), row.columns());
                said.push(format!("{:?}", row.values().map(text_of).collect::<Vec<_>>()));
            }
            Ok(Next::TooLarge(row)) => said.push(format!("{row:?}")),
            Ok(Next::End) => return said,
            Err(error) => {
                said.push(format!("{error:?}"));
                return said;
            }
        }
    }
    said.push(format!("{:?}", connection.cancel_rest().await));
    said
}

fn text_of(value: Value<'_>) -> Option<Vec<u8>> {
    match value {
        Value::Text(text) => Some(text.to_vec()),
        Value::Null | Value::Unchanged => None,
    }
}

fn wire_log(data: &[u8], meter: &dyn Meter) {
    same_in_pieces(data, meter, |script, piece| {
        ready(read_log(script, piece)).expect("a script never waits")
    });
}

async fn read_log(script: &[u8], piece: usize) -> Vec<String> {
    let mut connection = Connection::scripted(script, piece, Phase::Log);
    let mut said = Vec::new();
    loop {
        match connection.parse_copy(LIMIT, &mut |relation| vec![0, relation as usize % 4]) {
            Ok(Some(Copy::Done)) => return said,
            Ok(Some(copy)) => said.push(format!("{copy:?}")),
            Ok(None) => {
                if let Err(error) = connection.fill().await {
                    said.push(format!("{error:?}"));
                    return said;
                }
            }
            Err(error) => {
                said.push(format!("{error:?}"));
                return said;
            }
        }
    }
}

/// Nothing of a skipped message is held but the columns asked for, of at most two rows.
fn large_row(data: &[u8], meter: &dyn Meter) {
    let Some(([piece, form], message)) = data.split_first_chunk::<2>() else { return };
    let in_log = form & 1 == 1;
    let keep: &[usize] = if form & 2 == 2 { &[0, 2] } else { &[1] };
    let most = 2 * keep.len() * (KEPT_MAX + 64) + (8 << 10);
    let whole = measured(meter, most, || skip(message, in_log, keep, usize::MAX));
    let parts = measured(meter, most, || skip(message, in_log, keep, usize::from(*piece)));
    assert_eq!(format!("{whole:?}"), format!("{parts:?}"));
    let (Ok(whole), Ok(parts)) = (whole, parts) else { return };
    assert_eq!(whole, parts);
    assert!(whole.len() <= 2, "more rows than old and new");
    let values: u64 = whole.iter().map(|(_, row)| row.bytes).sum();
    assert!(values <= message.len() as u64);
}

fn pgoutput(data: &[u8], meter: &dyn Meter) {
    let parsed = measured(meter, 8 * data.len() + 1024, || Message::parse(data));
    match parsed {
        Ok(Message::Relation(relation)) => assert!(relation.columns.len() * 10 <= data.len()),
        Ok(Message::Truncate { relations, .. }) => assert!(relations.iter().count() * 4 <= data.len()),
        Ok(Message::Insert { new, .. }) => check_tuple(&new, data),
        Ok(Message::Delete { old, .. }) => check_tuple(&old, data),
        Ok(Message::Update { old, new, .. }) => {
            check_tuple(&new, data);
            if let Some((_, old)) = old {
                check_tuple(&old, data);
            }
        }
        Ok(_) | Err(_) => {}
    }
}

fn check_tuple(tuple: &Tuple<'_>, message: &[u8]) {
    assert_eq!(tuple.values().count(), tuple.columns());
    assert!(tuple.bytes() <= message.len());
}

/// What was read, written again, is what was read.
fn tuple(data: &[u8], meter: &dyn Meter) {
    if let Ok(row) = measured(meter, 0, || Tuple::of_data_row(data)) {
        let mut again = (row.columns() as u16).to_be_bytes().to_vec();
        for value in row.values() {
            let text = text_of(value);
            let length = text.as_ref().map_or(-1, |text| text.len() as i32);
            again.extend_from_slice(&length.to_be_bytes());
            again.extend_from_slice(&text.unwrap_or_default());
        }
        assert_eq!(again, data);
    }
    if let Ok((row, rest)) = measured(meter, 0, || Tuple::of_log(data)) {
        let mut again = (row.columns() as u16).to_be_bytes().to_vec();
        for value in row.values() {
            match value {
                Value::Null => again.push(b'n'),
                Value::Unchanged => again.push(b'u'),
                Value::Text(text) => {
                    again.push(b't');
                    again.extend_from_slice(&(text.len() as i32).to_be_bytes());
                    again.extend_from_slice(text);
                }
            }
        }
        again.extend_from_slice(rest);
        assert_eq!(again, data);
    }
}

/// The decoders by the first byte of an input; `scripts/fuzz-corpus` knows these numbers.
fn decoder(number: u8) -> Decoder {
    let array = |of| Decoder::array_of(of, b',');
    let range = |of| Decoder::Range(Box::new(of));
    match number % 20 {
        0 => Decoder::Text,
        1 => Decoder::Boolean,
        2 => Decoder::Number,
        3 => Decoder::Bytea,
        4 => Decoder::Timestamp,
        5 => Decoder::TimestampTz,
        6 => Decoder::Json,
        7 => array(Decoder::Text),
        8 => array(Decoder::Number),
        9 => array(Decoder::Json),
        10 => array(Decoder::TimestampTz),
        11 => Decoder::array_of(Decoder::Text, b';'),
        // An array of a domain over an array.
        12 => array(array(Decoder::Bytea)),
        13 => pair(),
        14 => {
            let attributes = [("p", pair()), ("x", array(pair())), ("r", range(Decoder::Text))];
            Decoder::Composite(Arc::new(Attributes::new(attributes.into_iter(), 1)))
        }
        15 => range(Decoder::Number),
        16 => range(Decoder::TimestampTz),
        17 => Decoder::Multirange(Box::new(Decoder::Text)),
        18 => Decoder::Hstore,
        _ => Decoder::Geometry,
    }
}

fn pair() -> Decoder {
    let attributes = [("n", Decoder::Number), ("t", Decoder::Text)];
    Decoder::Composite(Arc::new(Attributes::new(attributes.into_iter(), 0)))
}

/// What an array of empty texts grows by: `{a,a}` to `["a","a"]`; a control character to six. And copies of
/// what stands in quotes, of which there are twice the text and 64 KiB at the most.
const DECODED: usize = 6 * 3 + 2;

fn decode(data: &[u8], meter: &dyn Meter) {
    let Some((&number, text)) = data.split_first() else { return };
    let decoder = decoder(number);
    let mut out = Vec::new();
    let decoded = measured(meter, DECODED * text.len() + 256, || decoder.append(text, &mut out));
    if decoded.is_err() {
        return;
    }
    check_value(&decoder, text, &out);
}

fn check_value(decoder: &Decoder, text: &[u8], out: &[u8]) {
    // A bulk request has one document a line.
    assert!(!out.iter().any(|byte| matches!(byte, b'\n' | b'\r')), "a line ends inside of a value");
    assert!(std::str::from_utf8(out).is_ok(), "a value is not UTF-8");
    // The server has checked json; what it let through is passed on.
    let is_trusted = format!("{decoder:?}").contains("Json");
    assert!(is_trusted || is_json(out), "not JSON");
    match decoder {
        Decoder::Text => assert_eq!(serde_json::from_slice::<String>(out).unwrap().as_bytes(), text),
        Decoder::Number if out[0] != b'"' => assert_eq!(out, text),
        Decoder::Json if is_json(text) => {
            assert!(is_json(out));
            let value = |text| serde_json::from_slice::<serde_json::Value>(text).ok();
            assert_eq!(value(text), value(out));
        }
        _ => {}
    }
}

/// A session's messages, each after its length in two bytes, through the reader's steps.
fn log_rows(data: &[u8], meter: &dyn Meter) {
    let mut relations: HashMap<u32, Option<Arc<TableInfo>>> = HashMap::new();
    let mut builder = RowBuilder::default();
    let mut rest = data;
    while let Some((length, tail)) = rest.split_first_chunk::<2>() {
        let length = usize::from(u16::from_be_bytes(*length)).min(tail.len());
        let (message, tail) = tail.split_at(length);
        rest = tail;
        if let Ok(Message::Relation(relation)) = Message::parse(message) {
            let known = relations.get(&relation.oid).cloned().flatten();
            let types = ValueTypes::default();
            let table = match known {
                Some(known) => known.from_relation(&relation, &types).map(Arc::new),
                None => Some(Arc::new(table_of(&relation, &types))),
            };
            relations.insert(relation.oid, table);
            continue;
        }
        let context = Context { relations: &relations, skipping: false, most: 4096 };
        let most = DECODED * message.len() * 2 + (16 << 10);
        let step = measured(meter, most, || context.message(message, &mut builder));
        if let Ok(Step::Changes(changes)) = step {
            check_changes(&changes);
        }
    }
}

/// The table that a Relation message describes, as if the catalog had said the same.
fn table_of(relation: &Relation<'_>, types: &ValueTypes) -> TableInfo {
    let (decoders, kinds): (Vec<Decoder>, Vec<Kind>) =
        relation.columns.iter().map(|column| types.get(column.type_oid)).unzip();
    let columns =
        relation.columns.iter().zip(kinds).map(|(column, kind)| Column { name: column.name.into(), kind });
    let key =
        relation.columns.iter().enumerate().filter(|(_, column)| column.key).map(|(place, _)| place as u16);
    let table = Table { number: 0, name: "public.t".into(), columns: columns.collect(), key: key.collect() };
    let key_types = vec!["text".to_owned(); table.key.len()];
    let bare = TableInfo::bare(Arc::new(table), relation.oid, TableName::parse("public.t").unwrap());
    TableInfo { key_types, decoders, ..bare }
}

fn check_changes(changes: &Changes) {
    let rows: [Option<&Row>; 2] = [
        changes.gone.as_ref(),
        match &changes.new {
            New::None => None,
            New::Op(op) => Some(op.row()),
            New::Holes { key, texts } => {
                assert_eq!(texts.len(), changes.table.table.key.len());
                Some(key)
            }
        },
    ];
    for row in rows.into_iter().flatten() {
        assert_eq!(row.columns(), changes.table.table.columns.len());
        assert!(Key::of(&changes.table.table, row).is_some(), "a row without its key");
        for (place, decoder) in changes.table.decoders.iter().enumerate() {
            let Some(value) = row.get(place) else { continue };
            assert!(!value.iter().any(|byte| matches!(byte, b'\n' | b'\r')));
            assert!(*decoder == Decoder::Json || is_json(value), "not JSON");
        }
    }
}

/// Rows of the catalog's answers: fields end at a tab, rows at a newline, `\N` is null.
fn catalog(data: &[u8], meter: &dyn Meter) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let field = |field: &str| (field != "\\N").then(|| field.to_owned());
    let rows: Vec<Vec<Option<String>>> =
        text.lines().map(|line| line.split('\t').map(field).collect()).collect();
    // A type that names itself is followed sixteen times.
    measured(meter, 512 * data.len() + (16 << 10), || {
        slot::read_any(rows.clone());
        catalog::read_any(rows)
    });
}

fn snapshot(data: &[u8], meter: &dyn Meter) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Some(snapshot) = measured(meter, 16 * data.len() + 64, || PgSnapshot::parse(text)) {
        for xid in [0, 1, u32::MAX, 1 << 31] {
            let _either = snapshot.sees(&xid);
        }
    }
}

fn lsn(data: &[u8], meter: &dyn Meter) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(lsn) = measured(meter, 0, || text.parse::<Lsn>()) {
        assert_eq!(lsn.to_string().parse(), Ok(lsn));
        let _either = lsn.offset();
    }
}

/// A checkpoint as the store has it.
fn position(data: &[u8], meter: &dyn Meter) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let sealed = Position::from_text(text);
    let opened = measured(meter, 64 * data.len() + (16 << 10), || PgPosition::open(&sealed));
    if let Ok(opened) = opened {
        let again = PgPosition::open(&opened.seal().unwrap()).unwrap();
        assert_eq!(opened, again);
    }
}

/// A source's address. Of what can be the end of a password, with a `?` in it, nothing is told.
/// A server's certificate, as far as its hash needs it read.
fn end_point(data: &[u8], meter: &dyn Meter) {
    let hash = measured(meter, 256, || super::wire::end_point_of(data));
    assert!(hash.is_none_or(|hash| matches!(hash.len(), 32 | 48 | 64)));
}

/// A password file; what is found was in it.
fn pgpass(data: &[u8], meter: &dyn Meter) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let wanted = Wanted { host: "db".into(), port: 5432, database: "shop".into(), user: "cdc".into() };
    let found = measured(meter, 8 * data.len() + 1024, || pgpass::find(text, &wanted));
    if let Some(Password(found)) = found {
        assert!(!found.is_empty() && found.chars().all(|letter| text.contains(letter)));
    }
}

fn url(data: &[u8], meter: &dyn Meter) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let read = measured(meter, 16 * data.len() + 1024, || config::read_url(text));
    if let (Err(told), Some((_, end))) = (read, text.split_once('?')) {
        assert!(!end.contains('@') || !told.contains("parameter ") || told.contains("%40"), "{told}");
    }
}
