//! From the server's text to a row: the one decoder of chunks, refetches and the log.

use super::catalog::TableInfo;
use super::decode::{DecodeError, Room};
use super::progress::KeyText;
use super::tuple::{Tuple, Value};
use super::wire::{Kept, LargeRow};
use crate::budget::BudgetError;
use crate::change::{Op, Row, RowBuilder};
use crate::source::SourceError;

/// Bytes of a key as JSON: never reached, since an index of the database holds it in less than 8 KiB.
const KEY_MOST: usize = 1 << 20;

/// A row of the log, whole or with holes.
pub(super) enum Image {
    /// Every column is there.
    Whole(Op),
    /// Values that an UPDATE did not change are not in the log (T07).
    Holes,
}

/// A whole row; one that is larger than `most` bytes as JSON becomes [`Op::TooLarge`].
pub(super) fn put(
    table: &TableInfo,
    tuple: &Tuple<'_>,
    builder: &mut RowBuilder,
    most: usize,
) -> Result<Op, SourceError> {
    match image(table, tuple, None, builder, most)? {
        Image::Whole(op) => Ok(op),
        Image::Holes => Err(unexpected("a row of a SELECT without a value")),
    }
}

/// A row of the log; what it does not hold is taken from its old image where there is one.
pub(super) fn image(
    table: &TableInfo,
    tuple: &Tuple<'_>,
    old: Option<&Tuple<'_>>,
    builder: &mut RowBuilder,
    most: usize,
) -> Result<Image, SourceError> {
    builder.clear();
    check_columns(table, tuple)?;
    let mut before = old.map(Tuple::values);
    let mut room = Room { most, rest: tuple.bytes() };
    for (column, mut value) in tuple.values().enumerate() {
        let from_old = before.as_mut().and_then(Iterator::next);
        if value == Value::Unchanged {
            match from_old {
                Some(known) if known != Value::Unchanged => value = known,
                _ => return Ok(Image::Holes),
            }
        }
        room.rest = room.rest.saturating_sub(value.bytes());
        if !append(table, column, value, builder, room)? || builder.len() > most {
            let bytes = tuple.bytes() as u64;
            builder.clear();
            let key = key(table, tuple, old, builder)?;
            return Ok(Image::Whole(Op::TooLarge { key, bytes }));
        }
    }
    Ok(Image::Whole(Op::Put(builder.finish())))
}

/// Only the key's columns of a row. A long key that an UPDATE did not change stands in its old image.
pub(super) fn key(
    table: &TableInfo,
    tuple: &Tuple<'_>,
    old: Option<&Tuple<'_>>,
    builder: &mut RowBuilder,
) -> Result<Row, SourceError> {
    check_columns(table, tuple)?;
    let mut before = old.map(Tuple::values);
    let values = tuple.values().map(|value| match before.as_mut().and_then(Iterator::next) {
        Some(known) if value == Value::Unchanged => known,
        _ => value,
    });
    key_of(table, values, builder)
}

/// A row of a SELECT that was skipped on the wire, but for its key.
pub(super) fn too_large(
    table: &TableInfo,
    row: &LargeRow,
    builder: &mut RowBuilder,
) -> Result<Op, SourceError> {
    Ok(Op::TooLarge { key: large_key(table, row, None, builder)?, bytes: row.bytes })
}

/// The key of a row that was skipped on the wire; what an UPDATE did not change stands in its old row.
pub(super) fn large_key(
    table: &TableInfo,
    row: &LargeRow,
    old: Option<&LargeRow>,
    builder: &mut RowBuilder,
) -> Result<Row, SourceError> {
    let value = |column: usize| {
        let place = table.table.key.iter().position(|&key| usize::from(key) == column);
        match place.and_then(|place| kept(row, old, place)) {
            Some(Kept::Text(text)) => Value::Text(text),
            Some(Kept::Null) => Value::Null,
            _ => Value::Unchanged,
        }
    };
    key_of(table, (0..table.table.columns.len()).map(value), builder)
}

/// The texts of the key's values of a row that was skipped.
pub(super) fn large_key_texts(row: &LargeRow, old: Option<&LargeRow>) -> Option<KeyText> {
    let text = |place| match kept(row, old, place) {
        Some(Kept::Text(text)) => Some(String::from_utf8_lossy(text).into_owned()),
        _ => None,
    };
    (0..row.kept.len()).map(text).collect()
}

fn kept<'a>(row: &'a LargeRow, old: Option<&'a LargeRow>, place: usize) -> Option<&'a Kept> {
    match row.kept.get(place) {
        Some(Kept::Unchanged) => old.and_then(|old| old.kept.get(place)),
        found => found,
    }
}

/// The key of a row of which only the key's texts are known.
pub(super) fn key_from_texts(
    table: &TableInfo,
    texts: &KeyText,
    builder: &mut RowBuilder,
) -> Result<Row, SourceError> {
    let text = |column: usize| {
        let place = table.table.key.iter().position(|&key| usize::from(key) == column)?;
        texts.get(place).map(|text| Value::Text(text.as_bytes()))
    };
    let values = (0..table.table.columns.len()).map(|column| text(column).unwrap_or(Value::Unchanged));
    key_of(table, values, builder)
}

fn key_of<'a>(
    table: &TableInfo,
    values: impl Iterator<Item = Value<'a>>,
    builder: &mut RowBuilder,
) -> Result<Row, SourceError> {
    builder.clear();
    for (column, value) in values.enumerate() {
        if !table.table.key.contains(&(column as u16)) {
            builder.absent();
            continue;
        }
        if value == Value::Unchanged {
            return Err(unexpected("a row without its key"));
        }
        if !append(table, column, value, builder, Room { most: KEY_MOST, rest: 0 })? {
            return Err(unexpected("a key of more than a megabyte"));
        }
    }
    Ok(builder.finish())
}

/// Appends a value; `false` when there is no room for it.
fn append(
    table: &TableInfo,
    column: usize,
    value: Value<'_>,
    builder: &mut RowBuilder,
    room: Room,
) -> Result<bool, SourceError> {
    let out = builder.value();
    match value {
        Value::Null => out.extend_from_slice(b"null"),
        Value::Text(text) => match table.decoders[column].append_within(text, out, room) {
            Ok(()) => {}
            Err(DecodeError::TooLarge) => return Ok(false),
            Err(error) => {
                return Err(unreadable(table, column, error));
            }
        },
        Value::Unchanged => return Err(unexpected("a hole where a value must be")),
    }
    builder.end_value();
    Ok(true)
}

/// A value that its column's decoder cannot read.
#[cold]
fn unreadable(table: &TableInfo, column: usize, error: DecodeError) -> SourceError {
    let column = &table.table.columns[column].name;
    let what = format!("column {column} of {}: {error}", table.table.name);
    let hint = match error {
        // Opening again reads the types anew.
        DecodeError::AttributeAdded => {
            return SourceError::Wait { context: "read a value of PostgreSQL", reason: what };
        }
        DecodeError::AttributeDropped => {
            "stop Rowtide only when it has caught up before a DROP ATTRIBUTE; now fill the index anew: no \
             event in the log says which attribute a value of then belongs to"
        }
        DecodeError::Utf8 => {
            "mend the value, or leave the column out of the publication: a database of encoding SQL_ASCII takes \
             any bytes, and JSON holds UTF-8 only"
        }
        _ => "leave the column out of the publication, and report this as a fault of Rowtide",
    };
    SourceError::Halt { state: "value-unreadable", what, hint: hint.into() }
}

fn check_columns(table: &TableInfo, tuple: &Tuple<'_>) -> Result<(), SourceError> {
    if tuple.columns() == table.table.columns.len() {
        return Ok(());
    }
    Err(unexpected("a row with another number of columns than its table"))
}

/// Every value's text; `None` when one of them is null.
pub(super) fn texts(tuple: &Tuple<'_>) -> Option<KeyText> {
    tuple.values().map(text_of).collect()
}

/// The texts of the key's values.
pub(super) fn key_texts(table: &TableInfo, tuple: &Tuple<'_>) -> Option<KeyText> {
    let values: Vec<Value<'_>> = tuple.values().collect();
    table.table.key.iter().map(|&column| text_of(*values.get(usize::from(column))?)).collect()
}

fn text_of(value: Value<'_>) -> Option<String> {
    match value {
        Value::Text(text) => Some(String::from_utf8_lossy(text).into_owned()),
        Value::Null | Value::Unchanged => None,
    }
}

/// What the protocol never sends; trying again on a new connection is right.
pub(super) fn unexpected(what: &str) -> SourceError {
    SourceError::Wait { context: "read from PostgreSQL", reason: format!("the server sent {what}") }
}

/// The server did not say what a statement saw.
pub(super) fn no_snapshot() -> SourceError {
    unexpected("no snapshot")
}

/// A row that the budget can never carry.
pub(super) fn too_large_for_the_budget(error: &BudgetError) -> SourceError {
    SourceError::Halt {
        state: "budget-too-small",
        what: error.to_string(),
        hint: "raise memory.max_rss or lower memory.document_bytes_max".into(),
    }
}
