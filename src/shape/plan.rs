//! A table's shape, resolved against one revision of the table.

use std::sync::Arc;

use sources::change::{Column, Kind, Row, Table};
use sources::position::Version;

use super::ShapeError;
use super::fields::{Bad, Fields};
use super::filter::Filter;
use super::fitting::{Fault, fit};
use super::value::Scratch;
use crate::config::TableShape;

/// Elasticsearch and OpenSearch take ids of at most so many bytes of UTF-8.
pub(super) const ID_BYTES_MAX: usize = 512;

/// Digits of the largest version, 2^53.
const VERSION_BYTES: usize = 16;

/// What follows the version in an action's line.
const LINE_END: &[u8] = b",\"version_type\":\"external_gte\"}}\n";

/// Where everything is.
#[derive(Debug)]
pub(super) struct Plan {
    table: Arc<Table>,
    /// `{"index":{"_index":"alias","_id":"`
    put_head: Box<[u8]>,
    /// `{"delete":{"_index":"alias","_id":"`
    delete_head: Box<[u8]>,
    /// Places of the id's columns.
    id: Box<[u16]>,
    fields: Fields,
    filter: Filter,
}

/// What a configured column that a table does not have means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Missing {
    /// At the start the configuration must fit the tables.
    IsAFault,
    /// A revision from the log may be older or newer than the configuration (T09): what it does not
    /// have is unknown there, so absent from documents.
    IsUnknown,
}

/// Where an id stands in what was rendered.
pub(super) struct Id {
    pub(super) start: usize,
    pub(super) len: usize,
    /// Its bytes unescaped; `None` when a column of it is unknown.
    pub(super) plain_bytes: Option<usize>,
}

impl Plan {
    /// Fits `shape` to `table`, or says everything that does not fit.
    pub(super) fn of(
        shape: &TableShape,
        table: &Arc<Table>,
        missing: Missing,
    ) -> Result<Self, Vec<ShapeError>> {
        let mut errors = Vec::new();
        let mut fault = |what: String, fix: String| {
            errors.push(ShapeError { table: shape.table.clone(), what, fix });
        };
        let fields = fit(shape, table, missing, &mut fault);
        let filter = Filter::of(&shape.filter, table, &mut fault);
        if missing == Missing::IsAFault {
            judge_mapping(&fields, shape, &mut fault);
        }
        let id = id_columns(shape, table, &mut fault);
        if !errors.is_empty() {
            return Err(errors);
        }
        let index = serde_json::Value::from(shape.index.as_str());
        let head = |operation: &str| {
            format!("{{\"{operation}\":{{\"_index\":{index},\"_id\":\"").into_bytes().into_boxed_slice()
        };
        let (put_head, delete_head) = (head("index"), head("delete"));
        Ok(Self { table: table.clone(), put_head, delete_head, id, fields, filter })
    }

    /// Whether it was made for this revision.
    pub(super) fn is_for(&self, table: &Arc<Table>) -> bool {
        Arc::ptr_eq(&self.table, table)
    }

    /// The fields at the top of its documents.
    pub(super) fn fields(&self) -> Vec<(String, Column)> {
        self.fields.mapped().to_vec()
    }

    pub(super) fn id_names(&self) -> Vec<&str> {
        self.id.iter().map(|&column| name_of(&self.table, column)).collect()
    }

    /// What a rendered row has beyond its values and its key's: the frame, the names, commas, and
    /// an id's escapes, which at most double what is short enough to be an id.
    pub(super) fn render_bytes(&self) -> usize {
        let head = self.put_head.len().max(self.delete_head.len());
        let frame = head + "\",\"version\":".len() + VERSION_BYTES + LINE_END.len() + "{}\n[]".len();
        frame + self.id.len() + self.fields.frame_bytes + ID_BYTES_MAX
    }

    /// The most times that a byte of a row stands in its document; at least 1.
    pub(super) fn growth(&self) -> usize {
        self.fields.growth
    }

    /// Begins the action's line, up to the end of its id.
    pub(super) fn begin(&self, out: &mut Vec<u8>, row: &Row, put: bool) -> Id {
        out.extend_from_slice(if put { &self.put_head } else { &self.delete_head });
        let start = out.len();
        let known = match &*self.id {
            [column] => self.plain_id(out, row, *column),
            columns => composite_id(out, row, columns),
        };
        let text = &out[start..];
        let bytes = if text.len() <= ID_BYTES_MAX { text.len() } else { plain_bytes(text) };
        Id { start, len: text.len(), plain_bytes: known.map(|()| bytes) }
    }

    /// Begins the line of a delete whose id is known; where the id stands, and its bytes.
    pub(super) fn begin_delete(&self, out: &mut Vec<u8>, id: &str) -> (usize, usize) {
        out.extend_from_slice(&self.delete_head);
        let start = out.len();
        escape(out, id.as_bytes());
        (start, out.len() - start)
    }

    /// The value's own text.
    fn plain_id(&self, out: &mut Vec<u8>, row: &Row, column: u16) -> Option<()> {
        let value = row.get(usize::from(column))?;
        // JSON of any form keeps its quotes: "1" and 1 are two keys.
        let any_form = self.table.columns[usize::from(column)].kind == Kind::Json;
        match value {
            // Escaped already, and by one function.
            [b'"', text @ .., b'"'] if !any_form => out.extend_from_slice(text),
            text => escape(out, text),
        }
        Some(())
    }

    pub(super) fn end_line(&self, out: &mut Vec<u8>, version: Version) {
        out.extend_from_slice(b"\",\"version\":");
        out.extend_from_slice(itoa::Buffer::new().format(version.get()).as_bytes());
        out.extend_from_slice(LINE_END);
    }

    /// Whether a row has a document.
    pub(super) fn passes(&self, row: &Row, scratch: &mut Scratch) -> bool {
        self.filter.passes(row, &mut scratch.name)
    }

    /// The document's line, or why the row cannot be one.
    pub(super) fn document(
        &self,
        out: &mut Vec<u8>,
        row: &Row,
        scratch: &mut Scratch,
    ) -> Result<(), Bad<'_>> {
        self.fields.render(out, row, scratch)?;
        out.push(b'\n');
        Ok(())
    }
}

fn name_of(table: &Table, column: u16) -> &str {
    &table.columns[usize::from(column)].name
}

/// A mapping for a field that no document has is a slip.
fn judge_mapping(fields: &Fields, shape: &TableShape, fault: &mut Fault<'_>) {
    let names: Vec<&str> = fields.mapped().iter().map(|(name, _)| name.as_str()).collect();
    for wanted in shape.setup.mapping.keys() {
        if !names.contains(&wanted.as_str()) {
            fault(
                format!("mapping names {wanted:?}, which is no field of its documents"),
                format!("the fields are {}", names.join(", ")),
            );
        }
    }
}

/// The places of the columns that the id is made of: the key's, all of them and no other, or a row
/// would have to be deleted by what its old image does not say.
fn id_columns(shape: &TableShape, table: &Table, fault: &mut Fault<'_>) -> Box<[u16]> {
    let Some(names) = &shape.id else { return table.key.clone() };
    let key: Vec<&str> = table.key.iter().map(|&column| name_of(table, column)).collect();
    let fix = format!("write id = {key:?}, or remove it: that is the default");
    let mut id = Vec::new();
    for name in names {
        match table.key.iter().find(|&&column| name_of(table, column) == name.as_str()) {
            Some(&column) => id.push(column),
            None => fault(format!("id names {name:?}, which is no column of its key"), fix.clone()),
        }
    }
    if let Some(missing) = key.iter().find(|column| !names.iter().any(|name| name == *column)) {
        fault(format!("id leaves out {missing:?} of its key, so that two rows could share an id"), fix);
    }
    id.into()
}

/// The JSON array of the values, as it stands in a JSON string.
fn composite_id(out: &mut Vec<u8>, row: &Row, columns: &[u16]) -> Option<()> {
    let mut separator = b'[';
    for &column in columns {
        out.push(separator);
        escape(out, row.get(usize::from(column))?);
        separator = b',';
    }
    out.push(b']');
    Some(())
}

/// Escapes JSON text for a JSON string.
fn escape(out: &mut Vec<u8>, text: &[u8]) {
    for &byte in text {
        match byte {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
            // Whitespace between tokens: all the control characters that JSON text can hold.
            0..0x20 => out.push(b' '),
            _ => out.push(byte),
        }
    }
}

/// How many bytes of UTF-8 the text of a JSON string stands for.
fn plain_bytes(escaped: &[u8]) -> usize {
    let mut bytes = 0;
    let mut rest = escaped;
    while let Some((&first, after)) = rest.split_first() {
        let (own, taken) = match (first, after.first()) {
            (b'\\', Some(b'u')) => {
                let digits = after.get(1..5).and_then(|digits| std::str::from_utf8(digits).ok());
                let unit = digits.and_then(|digits| u16::from_str_radix(digits, 16).ok()).unwrap_or(0);
                let own = match unit {
                    0..0x80 => 1,
                    0x80..0x800 => 2,
                    // Half of a pair, which is four bytes.
                    0xd800..0xe000 => 2,
                    _ => 3,
                };
                (own, 5)
            }
            (b'\\', Some(_)) => (1, 1),
            _ => (1, 0),
        };
        bytes += own;
        rest = after.get(taken..).unwrap_or_default();
    }
    bytes
}
