//! What a source says: keyed rows whose values are JSON already, and the order they come in.
//!
//! A [`Row`] is one allocation: the values as JSON text, then the end of each column's value. So a
//! value is decoded once, from the wire to the bytes that the target receives, and a document is
//! made by copying slices.

use std::sync::Arc;

use crate::position::{Offset, Position};

/// What kind of values a column holds; a target chooses its mapping by it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `true`, `false`.
    Boolean,
    /// Whole numbers of at most this many bits, signed.
    Integer {
        /// 16, 32 or 64.
        bits: u8,
    },
    /// IEEE numbers; the non-finite ones are strings.
    Float {
        /// 32 or 64.
        bits: u8,
    },
    /// Decimal numbers of any precision, every digit kept.
    Decimal,
    /// Text that is searched by its words.
    Text,
    /// Text that is matched as a whole: identifiers, enums, addresses.
    Keyword,
    /// The text of a key whose values would lose as JSON what tells them apart.
    KeyText,
    /// Base64.
    Binary,
    /// `YYYY-MM-DD`.
    Date,
    /// `YYYY-MM-DDThh:mm:ss[.ffffff][Z]`.
    Timestamp,
    /// JSON of any form.
    Json,
    /// JSON objects of strings and nulls, with any names.
    Map,
    /// JSON arrays of such values, of any depth.
    Array(Box<Kind>),
    /// JSON objects with exactly these fields, each of its kind, in this order.
    Object(Arc<[(Box<str>, Kind)]>),
    /// Ranges of whole numbers: `{"gte":1,"lt":5}`, a side without a bound left out; never `gt` or `lte`.
    /// One that no number is in is `[]`.
    IntegerRange {
        /// 32 or 64: of its bounds.
        bits: u8,
    },
    /// Ranges of anything: objects of `gte` or `gt`, `lte` or `lt`, of this kind. The empty one is `[]`.
    Range(Box<Kind>),
    /// GeoJSON geometries in degrees; what is none is an object or a string that is no geometry.
    Geometry,
}

/// One column of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    /// As the database spells it.
    pub name: Box<str>,
    /// What its values are.
    pub kind: Kind,
}

/// A table as it was when a change of it was written to the log, or when a read began.
#[derive(Debug, PartialEq, Eq)]
pub struct Table {
    /// The table's number within its source for the life of the process: its place in the
    /// configured list. Equal for every revision of one table.
    pub number: u32,
    /// `schema.table`, as configured.
    pub name: Box<str>,
    /// In the order in which rows hold their values.
    pub columns: Box<[Column]>,
    /// Places in `columns` of the key's columns, in the key's order; never empty.
    pub key: Box<[u16]>,
}

impl Table {
    /// Bytes of the values of `row`'s key.
    pub fn key_bytes(&self, row: &Row) -> usize {
        self.key.iter().filter_map(|&column| row.get(usize::from(column))).map(<[u8]>::len).sum()
    }
}

/// The values of one row, JSON already. A column can be absent: unknown, never null.
#[derive(Clone, PartialEq, Eq)]
pub struct Row {
    /// The values one after another, then `count` little-endian u32 ends (the top bit: absent).
    data: Box<[u8]>,
    columns: u16,
}

const ABSENT: u32 = 1 << 31;

impl Row {
    /// How many columns the row has.
    pub fn columns(&self) -> usize {
        usize::from(self.columns)
    }

    /// The JSON text of a column's value; `None` when it is absent.
    pub fn get(&self, column: usize) -> Option<&[u8]> {
        let end = self.end(column)?;
        if end & ABSENT != 0 {
            return None;
        }
        let start = match column {
            0 => 0,
            _ => self.end(column - 1)? & !ABSENT,
        };
        self.data.get(start as usize..end as usize)
    }

    /// Bytes of memory behind this row, the row's own struct not counted.
    pub fn heap_bytes(&self) -> usize {
        self.data.len()
    }

    fn end(&self, column: usize) -> Option<u32> {
        let ends = &self.data[self.data.len() - self.columns() * 4..];
        let bytes = ends.get(column * 4..column * 4 + 4)?;
        Some(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    }
}

// Never a document's contents in a log or a panic.
impl std::fmt::Debug for Row {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Row({} columns, {} bytes)", self.columns, self.data.len())
    }
}

/// Bytes of values from which on a row takes them instead of copying them.
const TAKEN_WHOLE: usize = 64 << 10;

/// Collects one row after another; its buffers are kept, so that a row costs one allocation.
#[derive(Default)]
pub struct RowBuilder {
    ends: Vec<u32>,
    values: Vec<u8>,
}

impl RowBuilder {
    /// Forgets what was collected.
    pub fn clear(&mut self) {
        self.ends.clear();
        self.values.clear();
        // One maximal value must not pin its memory for ever (law 5).
        if self.values.capacity() > 1 << 20 {
            self.values = Vec::new();
        }
    }

    /// Where the next value's JSON is appended; [`RowBuilder::end_value`] closes it.
    pub fn value(&mut self) -> &mut Vec<u8> {
        &mut self.values
    }

    /// Ends the value that was appended since the last one.
    pub fn end_value(&mut self) {
        self.ends.push(self.values.len() as u32);
    }

    /// The next column is unknown.
    pub fn absent(&mut self) {
        self.ends.push(self.values.len() as u32 | ABSENT);
    }

    /// Bytes of values collected so far.
    pub fn len(&self) -> usize {
        self.values.len()
    }

    /// Whether nothing was collected.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// The row, in exactly the memory that it needs; the builder is empty again. The values of a large
    /// row are not copied: it is never held twice.
    pub fn finish(&mut self) -> Row {
        let bytes = self.values.len() + self.ends.len() * 4;
        let mut data = match self.values.len() > TAKEN_WHOLE {
            true => {
                let mut values = std::mem::take(&mut self.values);
                values.reserve_exact(self.ends.len() * 4);
                values
            }
            false => {
                let mut data = Vec::with_capacity(bytes);
                data.extend_from_slice(&self.values);
                data
            }
        };
        for end in &self.ends {
            data.extend_from_slice(&end.to_le_bytes());
        }
        let row = Row { data: data.into_boxed_slice(), columns: self.ends.len() as u16 };
        self.clear();
        row
    }
}

/// A row's key in its canonical bytes: the table's number, then each key value's JSON with its
/// length. One function makes it for chunk and stream alike, and two different keys of a source
/// never share one.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key(Box<[u8]>);

impl Key {
    /// The key of `row`; `None` when one of the key's columns is absent.
    pub fn of(table: &Table, row: &Row) -> Option<Self> {
        let mut bytes = Vec::with_capacity(24);
        bytes.extend_from_slice(&table.number.to_le_bytes());
        for &column in &table.key {
            let value = row.get(usize::from(column))?;
            bytes.extend_from_slice(&(value.len() as u32).to_le_bytes());
            bytes.extend_from_slice(value);
        }
        Some(Self(bytes.into_boxed_slice()))
    }

    /// The number of the table the key belongs to.
    pub fn table(&self) -> u32 {
        let mut number = [0; 4];
        number.copy_from_slice(&self.0[..4]);
        u32::from_le_bytes(number)
    }

    /// Bytes of memory behind this key.
    pub fn heap_bytes(&self) -> usize {
        self.0.len()
    }
}

/// What happened to a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// The row is now this. Every column of the table is present.
    Put(Row),
    /// The row with this key is gone. Only the key's columns are present.
    Delete(Row),
    /// The row is larger than `document_bytes_max` and was skipped on the wire without being held;
    /// it becomes a dead letter without a body. Only the key's columns are present.
    TooLarge {
        /// The key's columns.
        key: Row,
        /// Bytes of the row on the wire.
        bytes: u64,
    },
}

/// Where a change was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// In the database's log.
    Log,
    /// In a read beside the log: a chunk or a refetch.
    Read,
}

/// One keyed change, in the order of its stream. A changed key is two: the old one deleted, the new
/// one put, at one offset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The table, as the change knows it.
    pub table: Arc<Table>,
    /// The place at which it was put into the stream.
    pub offset: Offset,
    /// What happened.
    pub op: Op,
    /// Where it was found.
    pub origin: Origin,
}

impl Op {
    /// The row, whole or the key's columns only.
    pub fn row(&self) -> &Row {
        match self {
            Self::Put(row) | Self::Delete(row) | Self::TooLarge { key: row, .. } => row,
        }
    }
}

impl Change {
    /// The row, whole or the key's columns only.
    pub fn row(&self) -> &Row {
        self.op.row()
    }
}

/// One element of a source's stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item {
    /// A keyed change.
    Change(Change),
    /// Everything before it, once settled, makes this position durable. Emitted between
    /// transactions; inside a giant one with the length of the prefix that has gone out (law 4).
    Checkpoint(Position),
    /// Every row of the table is gone at this place (TRUNCATE; law 9). Nothing newer goes out
    /// before each document of the table is deleted with this place's version.
    Clear {
        /// The table that was emptied.
        table: Arc<Table>,
        /// The place of the event.
        offset: Offset,
    },
    /// The whole table was read again since the place `below`, and every row of it has gone out: a
    /// document whose version is older belongs to a row that is gone without an event (law 9). Nothing
    /// newer goes out before each of them is deleted with this place's version.
    Sweep {
        /// The table that was read again.
        table: Arc<Table>,
        /// The place at which reading it again was begun.
        below: Offset,
        /// The place of the sweep.
        offset: Offset,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(key: &[u16]) -> Table {
        let column = |name: &str| Column { name: name.into(), kind: Kind::Text };
        Table {
            number: 7,
            name: "public.t".into(),
            columns: ["a", "b", "c"].map(column).into(),
            key: key.into(),
        }
    }

    fn row(values: [Option<&str>; 3]) -> Row {
        let mut builder = RowBuilder::default();
        for value in values {
            match value {
                Some(text) => {
                    builder.value().extend_from_slice(text.as_bytes());
                    builder.end_value();
                }
                None => builder.absent(),
            }
        }
        builder.finish()
    }

    #[test]
    fn a_row_gives_back_each_value_and_tells_absent_from_null() {
        let row = row([Some("1"), None, Some("null")]);
        assert_eq!(row.get(0), Some(&b"1"[..]));
        assert_eq!(row.get(1), None);
        assert_eq!(row.get(2), Some(&b"null"[..]));
        assert_eq!(row.get(3), None);
    }

    #[test]
    fn a_key_needs_all_its_columns_and_no_two_rows_share_one() {
        let table = table(&[2, 0]);
        assert_eq!(Key::of(&table, &row([None, Some("1"), Some("2")])), None);
        let one = Key::of(&table, &row([Some("\"ab\""), None, Some("\"c\"")]));
        let two = Key::of(&table, &row([Some("\"b\""), None, Some("\"ca\"")]));
        assert!(one.is_some() && two.is_some());
        assert_ne!(one, two);
        assert_eq!(one.map(|key| key.table()), Some(7));
    }
}
