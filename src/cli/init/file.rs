//! The first configuration as a person reads it.

use std::fmt::Write;

use sources::change::{Kind, Table};
use sources::discovery::{Discovered, FoundTable};

use super::naming;
use crate::cli::words;
use crate::target::elasticsearch::mapping_words;

/// Where the password comes from.
#[derive(Clone, Copy, Debug)]
pub(super) enum Password<'a> {
    /// A variable of the environment.
    Variable(&'a str),
    /// A file.
    File(&'a str),
    /// The server asked for none; this variable would hold it.
    None(&'a str),
}

/// What the file is made of.
pub(super) struct Parts<'a> {
    pub(super) kind: &'a str,
    pub(super) url: &'a str,
    pub(super) password: Password<'a>,
    pub(super) target: &'a str,
    pub(super) found: &'a Discovered,
}

/// The whole file. It never holds a password.
pub(super) fn write(parts: &Parts<'_>) -> String {
    let mut text = String::new();
    head(&mut text, parts);
    let name = quoted_key(&parts.found.name);
    let indices = naming::indices(&parts.found.tables);
    for (table, index) in parts.found.tables.iter().zip(&indices) {
        text.push('\n');
        match &table.table {
            Ok(shape) => readable(&mut text, &name, table, shape, index),
            Err(_) => unreadable(&mut text, &name, table, index),
        }
    }
    text
}

fn head(text: &mut String, parts: &Parts<'_>) {
    let Discovered { name, place, defaults, .. } = parts.found;
    let name = quoted_key(name);
    let mut line = |line: String| {
        text.push_str(&line);
        text.push('\n');
    };
    line(format!("# Made by `rowtide init` from {}.", one_line(place)));
    match parts.password {
        Password::Variable(variable) => {
            line(format!("# Set {variable} in the environment, then: rowtide check --config FILE"));
        }
        Password::File(_) | Password::None(_) => line("# Then: rowtide check --config FILE".to_owned()),
    }
    line("# It says what is missing, with the SQL for it. After that: rowtide run --config FILE".to_owned());
    line(String::new());
    line("# What must outlive a restart; relative to this file.".to_owned());
    line("data_dir = \"rowtide-data\"".to_owned());
    line(String::new());
    line(format!("[sources.{name}]"));
    line(format!("type = {}", quoted(parts.kind)));
    line(format!("url = {}", value(parts.url)));
    match parts.password {
        Password::Variable(variable) => {
            line(format!("password = \"${{{variable}}}\"    # from the environment"));
        }
        Password::File(file) => line(format!("password_file = {}", value(file))),
        Password::None(variable) => {
            line(format!("# password = \"${{{variable}}}\"    # the server asked for none"));
        }
    }
    for default in defaults {
        line(format!("# {} = {}    # {}", default.key, value(&default.value), default.why));
    }
    line(String::new());
    line("[targets.search]".to_owned());
    line("type = \"elasticsearch\"    # OpenSearch too".to_owned());
    line(format!("nodes = [{}]", value(parts.target)));
    line("# username = \"rowtide\"".to_owned());
    line("# password = \"${ES_PASSWORD}\"".to_owned());
    line(String::new());
    line(format!("[pipelines.{name}]"));
    line(format!("source = {}", quoted(&parts.found.name)));
    line("target = \"search\"".to_owned());
    line(String::new());
    line(
        "# Each table has an index of its own: the name is an alias, and Rowtide makes the index behind it."
            .to_owned(),
    );
    line("# All columns become fields. To choose or rename some: columns = [\"…\"], rename = { column = \"field\" }.".to_owned());
}

fn readable(text: &mut String, pipeline: &str, found: &FoundTable, table: &Table, index: &str) {
    comment(text, &size(found));
    let name_of = |column: &u16| &*table.columns[usize::from(*column)].name;
    let key: Vec<&str> = table.key.iter().map(name_of).collect();
    let id = match key.as_slice() {
        [_] => "a document's id is its text",
        _ => "a document's id is the JSON array of them",
    };
    comment(text, &format!("key: {}; {id}", key.join(", ")));
    let renames = naming::renames(table);
    let field = |column: &str| {
        let renamed = renames.iter().find(|(from, _)| from == column);
        renamed.map_or_else(|| column.to_owned(), |(_, to)| to.clone())
    };
    let width = table.columns.iter().map(|column| field(&column.name).chars().count()).max().unwrap_or(0);
    for column in &table.columns {
        let (field, kind) = (field(&column.name), kind_words(&column.kind));
        comment(
            text,
            &format!("  {field:width$}  {kind} → {}", mapping_words(&column.kind), width = width.min(40)),
        );
    }
    let _a_string_takes_all = writeln!(text, "[pipelines.{pipeline}.tables.{}]", quoted(&found.name));
    let _a_string_takes_all = writeln!(text, "index = {}", value(index));
    if !renames.is_empty() {
        let pairs: Vec<String> =
            renames.iter().map(|(from, to)| format!("{} = {}", quoted(from), value(to))).collect();
        let _a_string_takes_all = writeln!(text, "rename = {{ {} }}", pairs.join(", "));
    }
}

fn unreadable(text: &mut String, pipeline: &str, found: &FoundTable, index: &str) {
    comment(text, &size(found));
    for fault in found.table.as_ref().err().into_iter().flatten() {
        comment(text, &format!("It cannot be read yet: {}", fault.what));
        for line in fault.fix.lines() {
            comment(text, &format!("    {line}"));
        }
    }
    comment(text, &format!("[pipelines.{pipeline}.tables.{}]", quoted(&found.name)));
    comment(text, &format!("index = {}", value(index)));
}

fn size(found: &FoundTable) -> String {
    let rows = match found.rows_estimated {
        0 => "rows not estimated yet".to_owned(),
        rows => format!("about {} rows", words::count(rows)),
    };
    format!("{}: {rows}, {}", found.name, words::bytes(found.bytes))
}

fn kind_words(kind: &Kind) -> String {
    match kind {
        Kind::Boolean => "boolean".to_owned(),
        Kind::Integer { bits } => format!("integer of {bits} bits"),
        Kind::Float { bits } => format!("float of {bits} bits"),
        Kind::Decimal => "decimal".to_owned(),
        Kind::Text => "text".to_owned(),
        Kind::Keyword => "keyword".to_owned(),
        Kind::KeyText => "the text of a key".to_owned(),
        Kind::Binary => "binary".to_owned(),
        Kind::Date => "date".to_owned(),
        Kind::Timestamp => "timestamp".to_owned(),
        Kind::Json => "JSON".to_owned(),
        Kind::Map => "map of texts".to_owned(),
        Kind::Array(inner) => format!("array of {}", kind_words(inner)),
        Kind::Object(fields) => format!("object of {} fields", fields.len()),
        Kind::IntegerRange { bits } => format!("range of integers of {bits} bits"),
        Kind::Range(bound) => format!("range of {}", kind_words(bound)),
        Kind::Geometry => "geometry".to_owned(),
    }
}

/// Comments hold no control characters in TOML.
fn comment(text: &mut String, line: &str) {
    let line = one_line(line);
    text.push_str(if line.is_empty() { "#" } else { "# " });
    text.push_str(line.trim_end());
    text.push('\n');
}

fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// A text as TOML spells it.
fn quoted(text: &str) -> String {
    let mut spelled = String::with_capacity(text.len() + 2);
    spelled.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => spelled.extend(['\\', c]),
            c if c.is_control() => {
                let _a_string_takes_all = write!(spelled, "\\u{:04X}", u32::from(c));
            }
            c => spelled.push(c),
        }
    }
    spelled.push('"');
    spelled
}

/// A text in the place of a value, where `${` would mean a variable.
fn value(text: &str) -> String {
    quoted(&text.replace("${", "$${"))
}

/// A name of a section: what needs no quotes has none.
fn quoted_key(name: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if !name.is_empty() && name.chars().all(plain) { name.to_owned() } else { quoted(name) }
}

#[cfg(test)]
#[path = "file_tests.rs"]
mod tests;
