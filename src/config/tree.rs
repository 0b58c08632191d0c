//! The file as it was written: values with their places, in the file's order, not judged yet.
//!
//! serde is not asked: it stops at the first fault, and a person wants all of them.

use toml::de::{DeTable, DeValue};

use super::problem::{KeyPath, Place, Problems};

/// A value as it was written.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    Text(String),
    /// From an environment variable: it becomes what its reader wants.
    Untyped(String),
    Integer(i64),
    Float(f64),
    Boolean(bool),
    Date,
    List(Vec<Node>),
    Table(Table),
}

impl Value {
    /// For people.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Value::Text(_) | Value::Untyped(_) => "text",
            Value::Integer(_) => "a whole number",
            Value::Float(_) => "a decimal number",
            Value::Boolean(_) => "true or false",
            Value::Date => "a date",
            Value::List(_) => "a list",
            Value::Table(_) => "a section",
        }
    }
}

/// A value and whether it may be shown.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Node {
    pub(super) value: Value,
    /// It came out of the environment or a file: it may be a secret and is never shown.
    pub(super) hidden: bool,
}

/// A key, its place and its value.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) place: Place,
    pub(super) node: Node,
}

/// A section, in the file's order.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Table(pub(super) Vec<Entry>);

impl Table {
    pub(super) fn get(&self, key: &str) -> Option<&Entry> {
        self.0.iter().find(|entry| entry.key == key)
    }
}

/// Parses TOML. Where its grammar is broken, nothing further is judged: what follows a broken line
/// is guesswork.
pub(super) fn parse(text: &str, problems: &mut Problems) -> Table {
    let (parsed, errors) = DeTable::parse_recoverable(text);
    for error in &errors {
        let place = Place::Line(error.span().map_or(1, |span| line_of(text, span.start)));
        let what = error.message().trim().replace('\n', ", ");
        problems.add(&place, &KeyPath::default(), what, "write it as TOML (https://toml.io)");
    }
    table(text, parsed.get_ref())
}

fn table(text: &str, parsed: &DeTable<'_>) -> Table {
    let mut keyed: Vec<_> = parsed.iter().collect();
    // The parser sorts by name; people read from the top.
    keyed.sort_by_key(|(key, _)| key.span().start);
    let entries = keyed.into_iter().map(|(key, value)| Entry {
        key: key.get_ref().to_string(),
        place: Place::Line(line_of(text, key.span().start)),
        node: node(text, value.get_ref()),
    });
    Table(entries.collect())
}

/// A value from the file.
pub(super) fn node(text: &str, parsed: &DeValue<'_>) -> Node {
    let value = match parsed {
        DeValue::String(string) => Value::Text(string.to_string()),
        DeValue::Integer(integer) => match i64::from_str_radix(integer.as_str(), integer.radix()) {
            Ok(number) => Value::Integer(number),
            // Larger than anything that is asked for here: refused as a kind, like 1e30.
            Err(_) => Value::Float(f64::INFINITY),
        },
        DeValue::Float(float) => Value::Float(float.as_str().parse().unwrap_or(f64::NAN)),
        DeValue::Boolean(boolean) => Value::Boolean(*boolean),
        DeValue::Datetime(_) => Value::Date,
        DeValue::Array(list) => Value::List(list.iter().map(|item| node(text, item.get_ref())).collect()),
        DeValue::Table(inner) => Value::Table(table(text, inner)),
    };
    Node { value, hidden: false }
}

fn line_of(text: &str, offset: usize) -> usize {
    let before = text.as_bytes().get(..offset).unwrap_or(text.as_bytes());
    before.iter().filter(|&&byte| byte == b'\n').count() + 1
}
