//! The fields of a table's documents: where each comes from, what is done to it, where it stands.
//!
//! ```text
//!   field = source, treatment, path ─► tree ─► steps in a line:  "a":{ · value · value · }
//! ```

use sources::change::{Column, Kind, Row};

use super::json;
use super::value::{CAST_BYTES, Scratch, Treatment};

/// The fields of a document, in their order.
#[derive(Debug)]
pub(super) struct Fields {
    steps: Box<[Step]>,
    /// Those at the top, as the mapping has them.
    mapped: Vec<(String, Column)>,
    /// The most bytes that a document has beyond its values.
    pub(super) frame_bytes: usize,
    /// The most times that a byte of a row stands in its document; at least 1.
    pub(super) growth: usize,
}

#[derive(Debug)]
enum Step {
    /// `"name":{`
    Open(Box<[u8]>),
    Close,
    Value(Field),
}

#[derive(Debug)]
pub(super) struct Field {
    /// The path, as it is configured.
    pub(super) name: String,
    /// The last name of the path.
    pub(super) key: String,
    /// The column it is made of, where it is one.
    pub(super) column: Option<Box<str>>,
    /// `"name":`
    pub(super) prefix: Box<[u8]>,
    pub(super) source: Source,
    pub(super) treatment: Treatment,
    /// Of what comes out.
    pub(super) kind: Kind,
}

#[derive(Debug)]
pub(super) enum Source {
    Column(u16),
    /// A member of a column's object.
    Member {
        column: u16,
        names: Box<[Box<str>]>,
        /// The column is a text that holds the object.
        is_text: bool,
    },
    Constant(Box<[u8]>),
    Template(Box<[Part]>),
}

#[derive(Debug)]
pub(super) enum Part {
    /// As it stands in a JSON string.
    Text(Box<[u8]>),
    Column(u16),
}

/// Why a row cannot become a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Bad<'a> {
    pub(super) field: &'a str,
    pub(super) what: &'static str,
}

impl Fields {
    /// Those of a tree.
    pub(super) fn of(nodes: Vec<Node>, growth: usize) -> Self {
        let mapped = nodes.iter().map(|node| (node.name().to_owned(), node.column())).collect();
        let mut steps = Vec::new();
        nodes.into_iter().for_each(|node| node.flatten(&mut steps));
        let frame_bytes = steps.iter().map(Step::frame_bytes).sum();
        Self { steps: steps.into(), mapped, frame_bytes, growth }
    }

    /// The fields at the top, with a column that says what they hold; objects are one of them.
    pub(super) fn mapped(&self) -> &[(String, Column)] {
        &self.mapped
    }

    /// Appends the document, without an end of its line.
    pub(super) fn render(&self, out: &mut Vec<u8>, row: &Row, scratch: &mut Scratch) -> Result<(), Bad<'_>> {
        out.push(b'{');
        for step in &self.steps {
            match step {
                Step::Close => out.push(b'}'),
                Step::Open(prefix) => {
                    separate(out);
                    out.extend_from_slice(prefix);
                }
                Step::Value(field) => field.render(out, row, scratch)?,
            }
        }
        out.push(b'}');
        Ok(())
    }
}

/// A comma, unless an object has just begun. Values end in `{` never.
fn separate(out: &mut Vec<u8>) {
    if out.last() != Some(&b'{') {
        out.push(b',');
    }
}

impl Step {
    fn frame_bytes(&self) -> usize {
        match self {
            Self::Open(prefix) => prefix.len() + 1,
            Self::Close => 1,
            Self::Value(field) => field.frame_bytes(),
        }
    }
}

impl Field {
    /// Beyond the values of columns.
    fn frame_bytes(&self) -> usize {
        let own = match &self.source {
            Source::Column(_) | Source::Member { .. } => "null".len(),
            Source::Constant(value) => value.len(),
            // Lower-case letters can be longer.
            Source::Template(parts) => {
                let text = |part: &Part| if let Part::Text(text) = part { 2 * text.len() } else { 0 };
                2 + parts.iter().map(text).sum::<usize>()
            }
        };
        let cast = if self.treatment.is_none() { 0 } else { CAST_BYTES };
        self.prefix.len() + 1 + own + cast
    }

    fn render<'a>(&'a self, out: &mut Vec<u8>, row: &Row, scratch: &mut Scratch) -> Result<(), Bad<'a>> {
        let bad = |what| Bad { field: &self.name, what };
        let begin = |out: &mut Vec<u8>| {
            separate(out);
            out.extend_from_slice(&self.prefix);
        };
        match &self.source {
            Source::Column(column) => {
                // An unknown column is absent, never null.
                let Some(value) = row.get(usize::from(*column)) else { return Ok(()) };
                begin(out);
                self.treatment.apply(out, value, scratch).map_err(bad)
            }
            Source::Constant(value) => {
                begin(out);
                out.extend_from_slice(value);
                Ok(())
            }
            Source::Member { column, names, is_text } => {
                let Some(value) = row.get(usize::from(*column)) else { return Ok(()) };
                begin(out);
                let mut held = std::mem::take(&mut scratch.json);
                held.clear();
                let member = member(value, names, *is_text, &mut held, &mut scratch.name);
                let done = member.and_then(|member| self.treatment.apply(out, member, scratch));
                scratch.json = held;
                done.map_err(bad)
            }
            Source::Template(parts) => {
                let columns = parts.iter().filter_map(|part| match part {
                    Part::Column(column) => Some(row.get(usize::from(*column))),
                    Part::Text(_) => None,
                });
                if columns.into_iter().any(|value| value.is_none()) {
                    return Ok(());
                }
                begin(out);
                if self.treatment.is_none() {
                    put_together(out, parts, row);
                    return Ok(());
                }
                let mut held = std::mem::take(&mut scratch.json);
                held.clear();
                put_together(&mut held, parts, row);
                let done = self.treatment.apply(out, &held, scratch);
                scratch.json = held;
                done.map_err(bad)
            }
        }
    }
}

/// The member's value; null when there is none, or nothing that could have one.
fn member<'a>(
    value: &'a [u8],
    names: &[Box<str>],
    is_text: bool,
    held: &'a mut Vec<u8>,
    name: &mut Vec<u8>,
) -> Result<&'a [u8], &'static str> {
    let mut value = match value {
        [b'"', text @ .., b'"'] if is_text => {
            json::unescape(held, text);
            if !json::is_valid(held) {
                return Err("the column's text is no JSON");
            }
            // A document is one line.
            held.iter_mut().filter(|byte| **byte < 0x20).for_each(|byte| *byte = b' ');
            held.trim_ascii()
        }
        value => value,
    };
    for wanted in names {
        if value == b"null" {
            break;
        }
        let found = json::member(value, wanted.as_bytes(), name);
        value = found.map_err(|_| "the column's value is no object")?.unwrap_or(b"null");
    }
    Ok(value)
}

/// A JSON string of the parts; null is no text.
fn put_together(out: &mut Vec<u8>, parts: &[Part], row: &Row) {
    out.push(b'"');
    for part in parts {
        match part {
            Part::Text(text) => out.extend_from_slice(text),
            Part::Column(column) => match row.get(usize::from(*column)).unwrap_or(b"null") {
                b"null" => {}
                [b'"', text @ .., b'"'] => out.extend_from_slice(text),
                other => json::escape(out, other),
            },
        }
    }
    out.push(b'"');
}

/// A document's fields as a tree.
pub(super) enum Node {
    Leaf(Field),
    Object(String, Vec<Node>),
}

/// Puts a field where its path says; an object stands where its first field would.
pub(super) fn insert(nodes: &mut Vec<Node>, path: &[String], field: Field) {
    let [name, rest @ ..] = path else { return };
    if rest.is_empty() {
        nodes.push(Node::Leaf(field));
        return;
    }
    let there = nodes.iter_mut().find_map(|node| match node {
        Node::Object(own, inner) if own == name => Some(inner),
        _ => None,
    });
    match there {
        Some(inner) => insert(inner, rest, field),
        None => {
            let mut inner = Vec::new();
            insert(&mut inner, rest, field);
            nodes.push(Node::Object(name.clone(), inner));
        }
    }
}

impl Node {
    fn name(&self) -> &str {
        match self {
            Self::Leaf(field) => &field.key,
            Self::Object(name, _) => name,
        }
    }

    fn kind(&self) -> Kind {
        match self {
            Self::Leaf(field) => field.treatment.kind(&field.kind),
            Self::Object(_, inner) => {
                Kind::Object(inner.iter().map(|node| (node.name().into(), node.kind())).collect())
            }
        }
    }

    fn column(&self) -> Column {
        let of = match self {
            Self::Leaf(field) => field.column.clone(),
            Self::Object(..) => None,
        };
        Column { name: of.unwrap_or_else(|| self.name().into()), kind: self.kind() }
    }

    fn flatten(self, steps: &mut Vec<Step>) {
        match self {
            Self::Leaf(field) => steps.push(Step::Value(field)),
            Self::Object(name, inner) => {
                let prefix = format!("{}:{{", serde_json::Value::from(name));
                steps.push(Step::Open(prefix.into_bytes().into()));
                inner.into_iter().for_each(|node| node.flatten(steps));
                steps.push(Step::Close);
            }
        }
    }
}
