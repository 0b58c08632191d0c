//! What the environment adds to the file: `ROWTIDE__A__B` overrides and `${VAR}` in texts.

use std::collections::BTreeMap;

use super::problem::{KeyPath, Place, Problems};
use super::tree::{Entry, Node, Table, Value};

/// The variables that may be used.
pub type Environment = BTreeMap<String, String>;

/// What an override's name begins with.
const PREFIX: &str = "ROWTIDE__";

/// Puts the overrides into the tree: `ROWTIDE__TARGETS__SEARCH__LANES=8` is `targets.search.lanes`.
/// A segment matches an existing key whatever its case; where none does so, `_` stands for any other
/// character (`PUBLIC_PRODUCTS` for `"public.products"`); else it is a new key in lower case.
pub(super) fn override_with(root: &mut Table, environment: &Environment, problems: &mut Problems) {
    for (name, value) in environment {
        let Some(rest) = name.strip_prefix(PREFIX) else { continue };
        let segments: Vec<&str> = rest.split("__").collect();
        if segments.iter().any(|segment| segment.is_empty()) {
            let fix = format!("name each section and the key, as in {PREFIX}TARGETS__SEARCH__LANES");
            problems.add(&variable(name), &KeyPath::default(), "names no key", fix);
            continue;
        }
        set(root, name, &segments, value, &KeyPath::default(), problems);
    }
}

fn set(
    table: &mut Table,
    name: &str,
    segments: &[&str],
    value: &str,
    path: &KeyPath,
    problems: &mut Problems,
) {
    let Some((segment, deeper)) = segments.split_first() else { return };
    let Some(key) = key_for(table, segment) else {
        let what = format!("{segment} can mean several keys here");
        problems.add(&variable(name), path, what, "change it in the file instead");
        return;
    };
    let path = path.key(&key);
    let last = deeper.is_empty();
    let index = match table.0.iter().position(|entry| entry.key == key) {
        Some(index) => index,
        None => {
            let node = Node { value: Value::Table(Table::default()), hidden: true };
            table.0.push(Entry { key, place: variable(name), node });
            table.0.len() - 1
        }
    };
    let entry = &mut table.0[index];
    if last {
        entry.place = variable(name);
        entry.node = Node { value: Value::Untyped(value.to_owned()), hidden: true };
        return;
    }
    match &mut entry.node.value {
        Value::Table(inner) => set(inner, name, deeper, value, &path, problems),
        other => {
            let what = format!("is {}, not a section: it has no keys", other.kind());
            problems.add(&variable(name), &path, what, "unset the variable or correct its name");
        }
    }
}

/// The key that a segment means; `None` when it is ambiguous.
fn key_for(table: &Table, segment: &str) -> Option<String> {
    let same_letters = |entry: &&Entry| entry.key.eq_ignore_ascii_case(segment);
    let alike = |entry: &&Entry| plain(&entry.key) == plain(segment);
    let mut matches: Vec<&Entry> = table.0.iter().filter(same_letters).collect();
    if matches.is_empty() {
        matches = table.0.iter().filter(alike).collect();
    }
    match matches.as_slice() {
        [] => Some(segment.to_ascii_lowercase()),
        [one] => Some(one.key.clone()),
        _ => None,
    }
}

fn plain(key: &str) -> String {
    let folded = key.chars().map(|c| if c.is_alphanumeric() { c.to_ascii_lowercase() } else { '_' });
    folded.collect()
}

fn variable(name: &str) -> Place {
    Place::Variable(name.to_owned())
}

/// Replaces `${VAR}` in every text of the file by the variable's value; `$${` stands for `${`.
/// What overrides brought is left as it is.
pub(super) fn substitute(
    table: &mut Table,
    path: &KeyPath,
    environment: &Environment,
    problems: &mut Problems,
) {
    for entry in &mut table.0 {
        let path = path.key(&entry.key);
        substitute_node(&mut entry.node, &entry.place, &path, environment, problems);
    }
}

fn substitute_node(
    node: &mut Node,
    place: &Place,
    path: &KeyPath,
    environment: &Environment,
    problems: &mut Problems,
) {
    match &mut node.value {
        Value::Text(text) if text.contains("${") => {
            let (filled, used) = fill(text, place, path, environment, problems);
            *text = filled;
            node.hidden |= used;
        }
        Value::List(items) => {
            for (index, item) in items.iter_mut().enumerate() {
                substitute_node(item, place, &path.index(index), environment, problems);
            }
        }
        Value::Table(inner) => substitute(inner, path, environment, problems),
        _ => {}
    }
}

/// The text with its variables filled in, and whether there were any.
fn fill(
    text: &str,
    place: &Place,
    path: &KeyPath,
    environment: &Environment,
    problems: &mut Problems,
) -> (String, bool) {
    let mut filled = String::with_capacity(text.len());
    let mut used = false;
    let mut rest = text;
    while let Some(start) = rest.find("${") {
        if rest[..start].ends_with('$') {
            filled.push_str(&rest[..start]);
            filled.push('{');
            rest = &rest[start + 2..];
            continue;
        }
        filled.push_str(&rest[..start]);
        let Some(length) = rest[start + 2..].find('}') else {
            problems.add(
                place,
                path,
                "${ has no closing brace",
                "write ${NAME}, or $${ where ${ itself is meant",
            );
            return (filled, used);
        };
        let name = &rest[start + 2..start + 2 + length];
        match environment.get(name) {
            Some(value) => filled.push_str(value),
            None => problems.add(
                place,
                path,
                format!("the environment variable {name:?} is not set"),
                format!("set {name}, or write $${{ where ${{ itself is meant"),
            ),
        }
        used = true;
        rest = &rest[start + 2 + length + 1..];
    }
    filled.push_str(rest);
    (filled, used)
}
