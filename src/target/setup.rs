//! What a person wants of an index beyond what the table's columns say.
//!
//! ```text
//!   column's kind ──► proposed mapping ──┐
//!   table's `mapping` ───────────────────┴─► field    without `type`: laid over the proposal
//!                                                     with `type`: in its place
//! ```
//! Guarantees: a field in place of a proposal still takes every value that the database holds, unless it is
//! written that it shall not; what Rowtide relies on cannot be set otherwise.

use serde_json::{Map, Value, json};

/// What a person wants of an index.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IndexSetup {
    /// Field to what is wanted of its mapping.
    pub mapping: Map<String, Value>,
    /// What becomes of a field that the mapping does not have: `false`, `true`, `"strict"` or `"runtime"`;
    /// `None`: it is kept and not searched (`false`).
    pub dynamic: Option<Value>,
    /// The index's settings, by full names without `index.`.
    pub settings: Map<String, Value>,
    /// Aliases beside the one that is written through.
    pub aliases: Vec<String>,
    /// The ingest pipeline that documents go through (`index.final_pipeline`).
    pub ingest_pipeline: Option<String>,
}

/// What is set otherwise while an index is being filled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Easing {
    /// Nothing.
    #[default]
    Nothing,
    /// What is written is made searchable every 30 s (`refresh_interval`).
    Refresh,
    /// And nothing is copied (`number_of_replicas: 0`).
    RefreshAndReplicas,
}

/// Types that take a value they cannot hold when they are told to (`ignore_malformed`).
const LENIENT: [&str; 13] = [
    "byte",
    "short",
    "integer",
    "long",
    "unsigned_long",
    "half_float",
    "float",
    "double",
    "scaled_float",
    "date",
    "date_nanos",
    "geo_point",
    "geo_shape",
];
/// Lucene's terms hold 32,766 bytes and a character takes up to 4.
const TERM_CHARACTERS: u64 = 8191;
/// Shortest `gc_deletes`, in seconds.
const GC_DELETES_S: u64 = 3600;

impl IndexSetup {
    /// The mapping of a field for which `proposed` would be the mapping.
    pub fn field(&self, field: &str, proposed: Value) -> Value {
        match self.mapping.get(field) {
            None => proposed,
            Some(wanted) if wanted.get("type").is_some() => lenient(wanted.clone()),
            Some(wanted) => laid_over(proposed, wanted),
        }
    }

    /// What becomes of fields that the mapping does not have.
    pub fn dynamic(&self) -> Value {
        // A guessed type could be wrong for ever.
        self.dynamic.clone().unwrap_or(Value::Bool(false))
    }
}

/// Takes every value, unless it says otherwise.
fn lenient(mut wanted: Value) -> Value {
    let kind = wanted["type"].as_str().unwrap_or_default().to_owned();
    let Some(object) = wanted.as_object_mut() else { return wanted };
    if LENIENT.contains(&kind.as_str()) {
        object.entry("ignore_malformed").or_insert(json!(true));
    }
    if kind == "keyword" {
        object.entry("ignore_above").or_insert(json!(TERM_CHARACTERS));
    }
    wanted
}

/// Objects are merged; anything else takes the place of what was there.
fn laid_over(below: Value, above: &Value) -> Value {
    match (below, above) {
        (Value::Object(mut below), Value::Object(above)) => {
            for (key, value) in above {
                let was = below.remove(key).unwrap_or(Value::Null);
                below.insert(key.clone(), laid_over(was, value));
            }
            Value::Object(below)
        }
        (_, above) => above.clone(),
    }
}

/// Settings with full names, as in `analysis.analyzer.own.type`, without `index.`.
pub fn flat(settings: &Map<String, Value>) -> Map<String, Value> {
    let mut all = Map::new();
    for (key, value) in settings {
        flatten(key, value, &mut all);
    }
    let bare = |(key, value): (String, Value)| match key.strip_prefix("index.") {
        Some(rest) => (rest.to_owned(), value),
        None => (key, value),
    };
    all.into_iter().map(bare).collect()
}

fn flatten(key: &str, value: &Value, all: &mut Map<String, Value>) {
    match value.as_object() {
        Some(inner) => inner.iter().for_each(|(name, value)| flatten(&format!("{key}.{name}"), value, all)),
        None => drop(all.insert(key.to_owned(), value.clone())),
    }
}

/// What is wrong with a setting (by its full name without `index.`), and what would be right.
pub fn setting_fault(name: &str, value: &Value) -> Option<(&'static str, &'static str)> {
    let text = plain(value);
    match name {
        "translog.durability" if text != "request" => Some((
            "would lose documents that were answered for",
            "leave it out: Rowtide sets \"request\", and tells the source only what is durable",
        )),
        "gc_deletes" if !is_an_hour(&text) => Some((
            "is shorter than an hour, or no time",
            "leave it out for \"1h\", or write a longer time, as in \"2h\"",
        )),
        "default_pipeline" | "final_pipeline" => Some((
            "is the table's `ingest_pipeline` here",
            "write ingest_pipeline = \"…\" in the table's section",
        )),
        "mode" if text != "standard" => {
            Some(("does not take documents with versions and ids of their own", "leave it out"))
        }
        "mapping.source.mode" | "mapping.source.enabled" if text != "stored" && text != "true" => {
            Some(("does not keep documents as they were sent", "leave it out"))
        }
        "lifecycle.rollover_alias"
        | "plugins.index_state_management.rollover_alias"
        | "opendistro.index_state_management.rollover_alias" => {
            Some(("would move the alias to an index that Rowtide did not make", "leave it out"))
        }
        "soft_deletes.enabled" if text == "false" => {
            Some(("does not work in any version that Rowtide writes to", "leave it out"))
        }
        _ if name.starts_with("blocks.") && text == "true" => {
            Some(("would keep Rowtide from writing", "set it when nothing is to be written any more"))
        }
        _ if ["uuid", "creation_date", "provided_name"].contains(&name) || name.starts_with("version.") => {
            Some(("is the cluster's own", "leave it out"))
        }
        _ => None,
    }
}

/// A setting as a cluster shows it: text.
pub(crate) fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// Whether a time of Elasticsearch's is an hour or more.
pub(crate) fn is_an_hour(text: &str) -> bool {
    // What is no time is judged by the cluster, not here.
    seconds(text).is_some_and(|seconds| seconds >= GC_DELETES_S)
}

fn seconds(text: &str) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = (text.get(..digits)?.parse::<u64>().ok()?, text.get(digits..)?);
    match unit {
        "d" => number.checked_mul(86_400),
        "h" => number.checked_mul(3600),
        "m" => number.checked_mul(60),
        "s" => Some(number),
        "ms" => Some(number / 1000),
        "micros" => Some(number / 1_000_000),
        "nanos" => Some(number / 1_000_000_000),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(field: &str, wanted: Value) -> IndexSetup {
        IndexSetup { mapping: Map::from_iter([(field.to_owned(), wanted)]), ..IndexSetup::default() }
    }

    #[test]
    fn t35_a_type_of_ones_own_takes_the_place_of_the_proposal_and_still_takes_every_value() {
        let text = json!({ "type": "text", "fields": { "keyword": { "type": "keyword" } } });
        let own = with("a", json!({ "type": "scaled_float", "scaling_factor": 100 }));
        let wanted = json!({ "type": "scaled_float", "scaling_factor": 100, "ignore_malformed": true });
        assert_eq!(own.field("a", text.clone()), wanted);
        let own = with("a", json!({ "type": "keyword" }));
        assert_eq!(own.field("a", text.clone()), json!({ "type": "keyword", "ignore_above": 8191 }));
        let strict = with("a", json!({ "type": "long", "ignore_malformed": false }));
        assert_eq!(strict.field("a", text.clone())["ignore_malformed"], false);
        assert_eq!(own.field("b", text.clone()), text);
    }

    #[test]
    fn without_a_type_it_is_laid_over_the_proposal() {
        let proposed = json!({ "properties": { "a": { "type": "long" }, "b": { "type": "date" } } });
        let own = with("o", json!({ "properties": { "a": { "type": "integer" }, "c": { "type": "ip" } } }));
        let wanted = json!({ "properties": { "a": { "type": "integer" }, "b": { "type": "date" }, "c": { "type": "ip" } } });
        assert_eq!(own.field("o", proposed), wanted);
        let own = with("t", json!({ "analyzer": "own" }));
        assert_eq!(own.field("t", json!({ "type": "text" })), json!({ "type": "text", "analyzer": "own" }));
    }

    #[test]
    fn settings_are_known_however_they_are_written() {
        let nested = json!({ "index": { "translog": { "durability": "async" } }, "number_of_shards": 2, "index.sort.field": ["a"] });
        let wanted = json!({ "translog.durability": "async", "number_of_shards": 2, "sort.field": ["a"] });
        assert_eq!(Some(Value::Object(flat(nested.as_object().unwrap_or(&Map::new())))), Some(wanted));
    }

    #[test]
    fn t29_what_rowtide_relies_on_cannot_be_set_otherwise() {
        for (name, wrong) in [
            ("translog.durability", json!("async")),
            ("gc_deletes", json!("59m")),
            ("gc_deletes", json!(-1)),
            ("gc_deletes", json!("soon")),
            ("default_pipeline", json!("p")),
            ("blocks.write", json!(true)),
            ("version.created", json!(1)),
            ("mode", json!("logsdb")),
        ] {
            assert!(setting_fault(name, &wrong).is_some(), "{name} {wrong}");
        }
        for (name, fine) in [
            ("translog.durability", json!("request")),
            ("gc_deletes", json!("3600s")),
            ("gc_deletes", json!("2d")),
            ("number_of_replicas", json!(0)),
            ("analysis.analyzer.own.type", json!("custom")),
            ("refresh_interval", json!("30s")),
        ] {
            assert_eq!(setting_fault(name, &fine), None, "{name} {fine}");
        }
    }
}
