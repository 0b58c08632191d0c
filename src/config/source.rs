//! `[sources.NAME]`: the source itself judges its keys; here they are handed over, and what it says
//! is put back to its lines.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use serde_json::{Map, Value as Json};
use sources::source::Source;
use sources::world::SharedWorld;
use sources::{Make, Settings, TableSettings};

use super::environment::Environment;
use super::problem::{Place, Problems};
use super::secret;
use super::section::Section;
use super::tree::{Node, Value};

/// A source, made and ready to be opened.
pub struct SourceSettings {
    /// As in `[sources.NAME]`.
    pub name: String,
    /// Its `type`, as in `postgres`.
    pub kind: &'static str,
    /// The source itself; it outlives each run of its pipeline.
    pub source: Arc<dyn Source>,
}

/// What a source is made with beside its own keys.
pub(super) struct Around<'a> {
    pub(super) kinds: &'a [(&'static str, Make)],
    pub(super) folder: &'a Path,
    pub(super) environment: &'a Environment,
    pub(super) document_bytes_max: usize,
    pub(super) tables: Vec<TableSettings>,
    pub(super) world: SharedWorld,
}

/// Reads a source's section and makes the source.
pub(super) fn read(
    name: &str,
    mut section: Section<'_>,
    around: &Around<'_>,
    problems: &mut Problems,
) -> Option<SourceSettings> {
    let kinds: Vec<(&'static str, usize)> =
        around.kinds.iter().enumerate().map(|(index, (kind, _))| (*kind, index)).collect();
    if section.entry("type").is_none() {
        let kind = kinds.first().map_or("postgres", |(kind, _)| kind);
        section.missing("type", format!("type = {kind:?}"), problems);
    }
    let index = section.choice("type", &kinds, problems)?;
    let (kind, make) = around.kinds.get(index)?;
    let mut keys = Map::new();
    for entry in section.entries() {
        if !matches!(entry.key.as_str(), "type" | "password" | "password_file") {
            keys.insert(entry.key.clone(), json(&entry.node));
        }
    }
    let before = problems.len();
    let password = secret::read(&mut section, "password", "password_file", around.folder, problems);
    let password_is_judged = problems.len() > before;
    if let Some(password) = &password {
        keys.insert("password".to_owned(), Json::String(password.expose().to_owned()));
        // So that the source can read it again when the password was changed.
        if let Some(file) = section.text("password_file", problems) {
            let file = around.folder.join(file).to_string_lossy().into_owned();
            keys.insert("password_file".to_owned(), Json::String(file));
        }
    }
    let mut told = Vec::new();
    match make_typed(name, *make, &keys, &section, around) {
        Ok(source) => {
            return Some(SourceSettings { name: name.to_owned(), kind, source: source.into() });
        }
        Err(problems) => told.extend(problems),
    }
    if told.is_empty() {
        let what = format!("the source {kind:?} refuses this section without a reason");
        problems.add(&section.place, &section.path, what, "report this as a fault of Rowtide");
    }
    let secrets = secrets_of(&section, &keys);
    for problem in told {
        if password_is_judged && problem.key == "password" {
            continue;
        }
        let found = section.entries().iter().find(|entry| entry.key == problem.key);
        let found = found.or_else(|| match problem.key.as_str() {
            "password" => section.entries().iter().find(|entry| entry.key == "password_file"),
            _ => None,
        });
        let place = found.map_or(&section.place, |entry| &entry.place);
        let path = match problem.key.as_str() {
            "" => section.path.clone(),
            key => section.path.key(found.map_or(key, |entry| &entry.key)),
        };
        problems.add(place, &path, scrubbed(&problem.message, &secrets), "");
    }
    None
}

/// Makes the source. A value from the environment is text at first, so that the password `0123`
/// stays what it is; where the source refuses a text, it is offered what the text means in JSON.
fn make_typed(
    name: &str,
    make: Make,
    keys: &Map<String, Json>,
    section: &Section<'_>,
    around: &Around<'_>,
) -> Result<Box<dyn Source>, Vec<sources::Problem>> {
    let mut keys = keys.clone();
    let from_environment = section.entries().iter().filter(|entry| {
        matches!(entry.node.value, Value::Untyped(_)) && matches!(entry.place, Place::Variable(_))
    });
    let mut untyped: BTreeSet<&str> = from_environment.map(|entry| entry.key.as_str()).collect();
    loop {
        let settings = Settings {
            name: name.to_owned(),
            folder: around.folder.to_owned(),
            environment: around.environment.clone(),
            keys: keys.clone(),
            tables: around.tables.clone(),
            document_bytes_max: around.document_bytes_max,
        };
        let problems = match make(settings, around.world.clone()) {
            Ok(source) => return Ok(source),
            Err(problems) => problems,
        };
        let mut retyped = false;
        for problem in &problems {
            if !untyped.remove(problem.key.as_str()) {
                continue;
            }
            let Some(value) = keys.get_mut(&problem.key) else { continue };
            let parsed = value.as_str().and_then(|text| serde_json::from_str(text).ok());
            if let Some(parsed @ (Json::Number(_) | Json::Bool(_) | Json::Array(_))) = parsed {
                *value = parsed;
                retyped = true;
            }
        }
        if !retyped {
            return Err(problems);
        }
    }
}

/// How many connections the source reads with beside the log. The one key that is read here too:
/// the memory they need is reckoned before any source is made. What is wrong with it, its source says.
pub(super) fn readers(section: &Section<'_>) -> usize {
    let entry = section.entries().iter().find(|entry| entry.key == "readers");
    match entry.map(|entry| &entry.node.value) {
        Some(Value::Integer(readers)) => usize::try_from(*readers).unwrap_or(READERS_DEFAULT),
        Some(Value::Untyped(text)) => text.trim().parse().unwrap_or(READERS_DEFAULT),
        _ => READERS_DEFAULT,
    }
    .min(READERS_MAX)
}

pub(super) const READERS_DEFAULT: usize = 2;
/// More is refused by the sources; here it only keeps the arithmetic small.
const READERS_MAX: usize = 1 << 10;

fn json(node: &Node) -> Json {
    match &node.value {
        Value::Text(text) | Value::Untyped(text) => Json::String(text.clone()),
        Value::Integer(number) => Json::from(*number),
        Value::Float(number) => Json::from(*number),
        Value::Boolean(boolean) => Json::Bool(*boolean),
        Value::Date => Json::Null,
        Value::List(items) => Json::Array(items.iter().map(json).collect()),
        Value::Table(table) => {
            Json::Object(table.0.iter().map(|entry| (entry.key.clone(), json(&entry.node))).collect())
        }
    }
}

/// Texts that must not be in a message: the password, what came from outside of the file, and the
/// password within a URL.
fn secrets_of(section: &Section<'_>, keys: &Map<String, Json>) -> Vec<String> {
    let mut secrets: Vec<String> = Vec::new();
    for (key, value) in keys {
        let Some(text) = value.as_str() else { continue };
        let hidden = section.entries().iter().any(|entry| entry.key == *key && entry.node.hidden);
        // A message with every short text taken out would be unreadable, and "5432" is no secret.
        if key == "password" || (hidden && text.len() > 5) {
            secrets.push(text.to_owned());
        }
        let login = text.split_once("://").and_then(|(_, rest)| rest.rsplit_once('@'));
        if let Some((_, password)) = login.and_then(|(login, _)| login.split_once(':')) {
            secrets.push(password.to_owned());
        }
    }
    secrets.retain(|secret| !secret.is_empty());
    // The longest first: one may be a part of another.
    secrets.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
    secrets
}

fn scrubbed(message: &str, secrets: &[String]) -> String {
    secrets.iter().fold(message.to_owned(), |text, secret| text.replace(secret.as_str(), "***"))
}
