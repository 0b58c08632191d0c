//! `[sources.NAME]` with `type = "postgres"`: parsed raw, then made valid, all problems at once.

mod connect;
mod url;

use serde_json::{Map, Value};

use super::catalog::quoted;
use super::wire::Connect;
use crate::{OnDrop, Problem, Settings, TableSettings};
use crate::{pattern, size};

/// For the fuzz targets, which may not see the url's module.
#[cfg(any(test, feature = "fuzzing"))]
pub(super) fn read_url(text: &str) -> Result<(), String> {
    url::Url::parse(text).map(drop).map_err(|fault| fault.to_string())
}

/// Rows a chunk may hold at the most, when nothing is said.
const CHUNK_ROWS: u32 = 5000;
/// More rows would only make the time longer in which changed keys are held.
const CHUNK_ROWS_MAX: u32 = 1_000_000;
/// Chunks read side by side, when nothing is said: with the log's reader they keep a small server
/// busy, not more.
const READERS: u32 = 2;
/// Each is a connection, of which a server has 100 by default.
const READERS_MAX: u32 = 32;
/// The least bound of held log: four files of it. Below, every pause would reach it.
const LOG_HELD_LEAST: u64 = 64 << 20;
/// Bytes of a name in PostgreSQL; longer ones are cut silently.
const NAME_MAX: usize = 63;

/// A source's section, valid.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    /// How to reach the server; for SQL. [`Config::replication`] is the other one.
    pub(crate) connect: Connect,
    /// The replication slot.
    pub(crate) slot: String,
    /// The publication.
    pub(crate) publication: String,
    /// The most rows of one chunk.
    pub(crate) chunk_rows: u32,
    /// Chunks read side by side.
    pub(crate) readers: u32,
    /// The tables and patterns, in the configured order.
    pub(crate) entries: Vec<Entry>,
    /// Beside what the server says: the most bytes of log that it shall keep for the slot.
    pub(crate) log_held_bytes_max: Option<u64>,
    /// The most bytes of one row.
    pub(crate) document_bytes_max: usize,
}

/// A table, or a pattern of tables, of the configuration.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    /// With `*` in it, a pattern.
    pub(crate) name: TableName,
    /// What becomes of documents when the table is dropped.
    pub(crate) on_drop: OnDrop,
}

/// A table's name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct TableName {
    /// As the database spells it.
    pub(crate) schema: String,
    /// As the database spells it.
    pub(crate) name: String,
    /// As the configuration spells it.
    pub(crate) spelled: String,
}

impl TableName {
    /// `schema.table`; a part with a dot in it stands in double quotes. Upper and lower case are
    /// what they are, as in the catalog.
    pub(crate) fn parse(spelled: &str) -> Option<Self> {
        let (schema, name) = pattern::parts(spelled)?;
        Some(Self { schema, name, spelled: spelled.to_owned() })
    }

    /// Whether it stands for all tables that match it.
    pub(crate) fn is_pattern(&self) -> bool {
        pattern::is_pattern(&self.schema) || pattern::is_pattern(&self.name)
    }

    /// Whether a pattern matches a table.
    pub(crate) fn matches(&self, table: &Self) -> bool {
        pattern::matches(&self.schema, &table.schema) && pattern::matches(&self.name, &table.name)
    }

    /// Of a table in the catalog, spelled so that [`Self::parse`] finds the same.
    pub(crate) fn of(schema: String, name: String) -> Self {
        let spell = |part: &str| match part.contains('.') || part.starts_with('"') {
            true => quoted(part),
            false => part.to_owned(),
        };
        let spelled = format!("{}.{}", spell(&schema), spell(&name));
        Self { schema, name, spelled }
    }

    /// As SQL needs it.
    pub(crate) fn sql(&self) -> String {
        format!("{}.{}", quoted(&self.schema), quoted(&self.name))
    }
}

impl Config {
    /// Judges a section.
    pub(crate) fn new(settings: Settings) -> Result<Self, Vec<Problem>> {
        let mut section = Section { keys: settings.keys, problems: Vec::new() };
        let said = connect::Said::take(&mut section, settings.folder, settings.environment);
        let default_name = default_name(&settings.name);
        let slot = section.text("slot").unwrap_or_else(|| default_name.clone());
        section.judge_slot(&slot);
        let publication = section.text("publication").unwrap_or(default_name);
        if publication.is_empty() || publication.len() > NAME_MAX || publication.contains('\0') {
            section.problem("publication", format!("a publication's name has 1 to {NAME_MAX} bytes"));
        }
        let chunk_rows = section.number("chunk_rows", CHUNK_ROWS, CHUNK_ROWS_MAX);
        let readers = section.number("readers", READERS, READERS_MAX);
        let log_held_bytes_max = section.size("log_held_bytes_max");
        section.refuse_the_rest();
        let entries = section.tables(&settings.tables);
        let connect = said.judge(&settings.name, &mut section);
        let Some(connect) = connect.filter(|_| section.problems.is_empty()) else {
            return Err(section.problems);
        };
        Ok(Self {
            connect,
            slot,
            publication,
            chunk_rows,
            readers,
            entries,
            log_held_bytes_max,
            document_bytes_max: settings.document_bytes_max,
        })
    }

    /// The tables that are named by themselves.
    pub(crate) fn exact(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter().filter(|entry| !entry.name.is_pattern())
    }

    /// The patterns.
    pub(crate) fn patterns(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter().filter(|entry| entry.name.is_pattern())
    }

    /// All names and patterns.
    pub(crate) fn wanted(&self) -> Vec<TableName> {
        self.entries.iter().map(|entry| entry.name.clone()).collect()
    }

    /// How to reach the server for the log.
    pub(crate) fn replication(&self) -> Connect {
        Connect { replication: true, ..self.connect.clone() }
    }
}

/// `rowtide_NAME` in the letters that a slot may have.
pub(crate) fn default_name(source: &str) -> String {
    let letter = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '_' };
    let mut name: String = "rowtide_".chars().chain(source.chars().map(letter)).collect();
    name.truncate(NAME_MAX);
    name
}

/// The keys that nobody has taken yet, and what was found wrong so far.
struct Section {
    keys: Map<String, Value>,
    problems: Vec<Problem>,
}

impl Section {
    fn problem(&mut self, key: &str, message: String) {
        self.problems.push(Problem { key: key.to_owned(), message });
    }

    fn text(&mut self, key: &str) -> Option<String> {
        match self.keys.remove(key)? {
            Value::String(text) => Some(text),
            _ => {
                self.problem(key, format!("must be a text, as in {key} = \"…\""));
                None
            }
        }
    }

    fn number(&mut self, key: &str, default: u32, most: u32) -> u32 {
        let Some(value) = self.keys.remove(key) else { return default };
        let number = value.as_u64().and_then(|number| u32::try_from(number).ok());
        match number.filter(|number| (1..=most).contains(number)) {
            Some(number) => number,
            None => {
                self.problem(key, format!("must be a number from 1 to {most}, as in {key} = {default}"));
                default
            }
        }
    }

    fn size(&mut self, key: &str) -> Option<u64> {
        let value = self.keys.remove(key)?;
        let size = value.as_str().and_then(size::parse).filter(|size| *size >= LOG_HELD_LEAST);
        if size.is_none() {
            self.problem(key, format!("must be a size of 64MiB or more, as in {key} = \"20GiB\""));
        }
        size
    }

    fn judge_slot(&mut self, slot: &str) {
        let is_letter = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_');
        if slot.is_empty() || slot.len() > NAME_MAX || !slot.bytes().all(is_letter) {
            let message = format!("a slot's name has 1 to {NAME_MAX} of the letters a-z, 0-9 and _");
            self.problem("slot", message);
        }
    }

    fn tables(&mut self, settings: &[TableSettings]) -> Vec<Entry> {
        let mut tables = Vec::new();
        for TableSettings { name: spelled, on_drop } in settings {
            match TableName::parse(spelled) {
                Some(name) => tables.push(Entry { name, on_drop: *on_drop }),
                None => self.problem(
                    "",
                    format!("table {spelled:?} is not spelled schema.table, as in \"public.products\""),
                ),
            }
        }
        tables
    }

    fn refuse_the_rest(&mut self) {
        const KNOWN: &str = "url, password, password_file, sslmode, sslrootcert, sslcert, sslkey, slot, publication, \
             chunk_rows, readers, log_held_bytes_max";
        let unknown: Vec<String> = self.keys.keys().filter(|key| *key != "type").cloned().collect();
        for key in unknown {
            self.problem(&key, format!("is not a key of a postgres source; there are {KNOWN}"));
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    fn parse(keys: Value) -> Result<Config, Vec<Problem>> {
        let tables = vec![TableSettings { name: "public.t".to_owned(), on_drop: OnDrop::Halt }];
        let keys = keys.as_object().unwrap().clone();
        Config::new(Settings {
            name: "My shop".to_owned(),
            folder: std::path::PathBuf::new(),
            environment: std::collections::BTreeMap::new(),
            keys,
            tables,
            document_bytes_max: 1 << 20,
        })
    }

    #[test]
    fn what_is_not_said_has_a_default() {
        let config = parse(json!({"url": "postgres://cdc@db/shop", "password": "p"})).unwrap();
        assert_eq!(
            (config.slot.as_str(), config.publication.as_str()),
            ("rowtide_my_shop", "rowtide_my_shop")
        );
        assert_eq!((config.chunk_rows, config.readers, config.log_held_bytes_max), (5000, 2, None));
        let sized = size::parse;
        assert_eq!(
            (sized("64MiB"), sized("2 GB"), sized("5"), sized("5X")),
            (Some(64 << 20), Some(2_000_000_000), None, None)
        );
        assert_eq!((config.connect.host.as_str(), config.connect.port), ("db", 5432));
        assert!(config.replication().replication && !config.connect.replication);
        assert!(!format!("{config:?}").contains("\"p\""));
    }

    #[test]
    fn all_problems_come_at_once_and_none_shows_a_password() {
        let keys = json!({
            "url": "mysql://u:hidden@h/d", "slot": "Up", "publication": "", "chunk_rows": 0,
            "readers": "2", "log_held_bytes_max": "1MiB", "password": 5, "bogus": 1,
        });
        let problems = parse(keys).unwrap_err();
        let keys: Vec<&str> = problems.iter().map(|problem| problem.key.as_str()).collect();
        assert_eq!(
            keys,
            [
                "url",
                "password",
                "slot",
                "publication",
                "chunk_rows",
                "readers",
                "log_held_bytes_max",
                "bogus"
            ]
        );
        assert!(!format!("{problems:?}").contains("hidden"));
        let problems = parse(json!({})).unwrap_err();
        assert_eq!(problems[0].key, "url");
        let problems = parse(json!({"url": "postgres://u:a@h/d", "password": "b"})).unwrap_err();
        assert_eq!(problems[0].key, "password");
    }

    #[test]
    fn a_table_is_schema_and_name() {
        let name = |spelled| TableName::parse(spelled).map(|table| (table.schema, table.name));
        let both = |schema: &str, name: &str| Some((schema.to_owned(), name.to_owned()));
        assert_eq!(name("public.t"), both("public", "t"));
        assert_eq!(name("Public.My Table"), both("Public", "My Table"));
        assert_eq!(name("\"a.b\".\"c\"\"d\""), both("a.b", "c\"d"));
        for spelled in ["", "t", ".t", "s.", "a.b.c", "\"a.b", "\"a\"b.c", "\"\".t", "a.\"b\"c"] {
            assert_eq!(name(spelled), None, "{spelled}");
        }
        assert_eq!(TableName::parse("s.\"a\"\"b\"").unwrap().sql(), "\"s\".\"a\"\"b\"");
        for part in ["t", "My Table", "a.b", "\"q", "q\"", "a\"b.c", "ü\n"] {
            let made = TableName::of("s.x".to_owned(), part.to_owned());
            assert_eq!(TableName::parse(&made.spelled), Some(made));
        }
    }
}
