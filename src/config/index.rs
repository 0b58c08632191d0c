//! What a table's section says of its index, beyond its name.

use serde_json::{Map, Value};

use super::pipeline::index_fault;
use super::problem::{KeyPath, Problems};
use super::section::Section;
use super::tree::{self, Entry, Node};
use crate::target::{IndexSetup, flat, setting_fault};

/// Reads it. `index` is the alias that is written through.
pub(super) fn read(index: &str, section: &mut Section<'_>, problems: &mut Problems) -> IndexSetup {
    let mapping = table(section, "mapping", "mapping = { name = { type = \"keyword\" } }", problems);
    judge_mapping(&mapping, section, problems);
    let settings = flat(&table(section, "settings", "settings = { number_of_shards = 3 }", problems));
    judge_settings(&settings, section, problems);
    let dynamic = read_dynamic(section, problems);
    let aliases = read_aliases(index, section, problems);
    let ingest_pipeline = section.text("ingest_pipeline", problems);
    if let (Some(""), Some(entry)) = (ingest_pipeline.as_deref(), section.entry("ingest_pipeline")) {
        let fix = "name the ingest pipeline of the cluster, or remove the key";
        problems.add(&entry.place, &section.path.key("ingest_pipeline"), "is empty", fix);
    }
    IndexSetup { mapping, dynamic, settings, aliases, ingest_pipeline }
}

/// An inner section as JSON; empty when it is absent or wrong.
pub(super) fn table(
    section: &mut Section<'_>,
    key: &'static str,
    example: &str,
    problems: &mut Problems,
) -> Map<String, Value> {
    let Some(entry) = section.entry(key) else { return Map::new() };
    let path = section.path.key(key);
    match &entry.node.value {
        tree::Value::Table(inner) => members(&inner.0, &path, problems),
        other => {
            let what = format!("must be a section, not {}", other.kind());
            problems.add(&entry.place, &path, what, example);
            Map::new()
        }
    }
}

fn members(entries: &[Entry], path: &KeyPath, problems: &mut Problems) -> Map<String, Value> {
    let mut all = Map::new();
    for entry in entries {
        match json(&entry.node, &path.key(&entry.key), problems) {
            Some(value) => drop(all.insert(entry.key.clone(), value)),
            None => problems.add(
                &entry.place,
                &path.key(&entry.key),
                "holds a date or a number that JSON does not have",
                "write it in quotes",
            ),
        }
    }
    all
}

/// A value as JSON; `None` for what JSON does not have.
fn json(node: &Node, path: &KeyPath, problems: &mut Problems) -> Option<Value> {
    Some(match &node.value {
        tree::Value::Text(text) | tree::Value::Untyped(text) => Value::from(text.as_str()),
        tree::Value::Integer(number) => Value::from(*number),
        tree::Value::Float(number) => serde_json::Number::from_f64(*number)?.into(),
        tree::Value::Boolean(yes) => Value::from(*yes),
        tree::Value::Date => return None,
        tree::Value::List(items) => {
            items.iter().map(|item| json(item, path, problems)).collect::<Option<Vec<_>>>()?.into()
        }
        tree::Value::Table(inner) => Value::Object(members(&inner.0, path, problems)),
    })
}

/// Whether its fields are any is judged when the table's columns are known.
fn judge_mapping(mapping: &Map<String, Value>, section: &mut Section<'_>, problems: &mut Problems) {
    let Some(place) = section.entry("mapping").map(|entry| entry.place.clone()) else { return };
    let path = section.path.key("mapping");
    for (field, wanted) in mapping {
        let (what, fix) = match wanted.as_object() {
            None => ("must be a section", format!("{field} = {{ type = \"keyword\" }}")),
            Some(wanted) if wanted.get("type").is_some_and(|kind| !kind.is_string()) => {
                ("has a type that is no text", "as in type = \"keyword\"".to_owned())
            }
            Some(_) => continue,
        };
        problems.add(&place, &path.key(field), what, fix);
    }
}

fn judge_settings(settings: &Map<String, Value>, section: &mut Section<'_>, problems: &mut Problems) {
    let Some(place) = section.entry("settings").map(|entry| entry.place.clone()) else { return };
    let path = section.path.key("settings");
    for (name, value) in settings {
        if let Some((what, fix)) = setting_fault(name, value) {
            problems.add(&place, &path.key(name), what, fix);
        }
    }
}

fn read_dynamic(section: &mut Section<'_>, problems: &mut Problems) -> Option<Value> {
    let entry = section.entry("dynamic")?;
    match &entry.node.value {
        tree::Value::Boolean(yes) => Some(Value::from(*yes)),
        tree::Value::Text(word) | tree::Value::Untyped(word) if word == "true" || word == "false" => {
            Some(Value::from(word == "true"))
        }
        tree::Value::Text(word) | tree::Value::Untyped(word) if word == "strict" || word == "runtime" => {
            Some(Value::from(word.as_str()))
        }
        _ => {
            let fix = "one of false (the default), true, \"strict\", \"runtime\"";
            problems.add(&entry.place, &section.path.key("dynamic"), "is not known", fix);
            None
        }
    }
}

fn read_aliases(index: &str, section: &mut Section<'_>, problems: &mut Problems) -> Vec<String> {
    let Some(aliases) = section.texts("aliases", problems) else { return Vec::new() };
    let Some(entry) = section.entry("aliases") else { return Vec::new() };
    let path = section.path.key("aliases");
    for (number, alias) in aliases.iter().enumerate() {
        let fault = match index_fault(alias) {
            None if alias == index => "is the table's index already",
            None if aliases.iter().take(number).any(|other| other == alias) => "is there twice",
            None => continue,
            Some(fault) => fault,
        };
        let what = format!("{alias:?} {fault}");
        problems.add(
            &entry.place,
            &path.index(number),
            what,
            "choose a name like \"all-products\", or remove it",
        );
    }
    aliases
}
