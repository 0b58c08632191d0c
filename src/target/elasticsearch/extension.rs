//! An index that is there already: fields, aliases and the ingest pipeline are added. What the mapping has is
//! changed only as far as the cluster allows, and it says itself how far that is.

use std::collections::BTreeMap;

use reqwest::Method;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::client::{Call, Client, error_of, escape, failure, parse};
use super::index::check_name;
use super::making::{FIELDS_LIMIT, FINAL_PIPELINE, check_field, check_pipeline, field_of, fields_limit};
use super::mapping::mapping;
use crate::target::setup::plain;
use crate::target::{Extended, IndexSpec, TargetError};

const CONTEXT: &str = "extend the mapping";
/// Settings that Rowtide changes itself.
const OWN: [&str; 3] = ["refresh_interval", "number_of_replicas", FIELDS_LIMIT];

#[derive(Default, Deserialize)]
struct Found {
    #[serde(default)]
    mappings: Mappings,
    /// By full names.
    #[serde(default)]
    settings: BTreeMap<String, Value>,
    #[serde(default)]
    aliases: BTreeMap<String, Value>,
}

#[derive(Default, Deserialize)]
struct Mappings {
    #[serde(default)]
    properties: BTreeMap<String, Value>,
    dynamic: Option<Value>,
}

pub(super) async fn extend(client: &Client, spec: &IndexSpec) -> Result<Extended, TargetError> {
    check_name(CONTEXT, &spec.alias)?;
    check_pipeline(client, spec).await?;
    let filter =
        "flat_settings=true&filter_path=*.mappings.properties,*.mappings.dynamic,*.settings,*.aliases";
    let path = format!("/{}?{filter}", escape(&spec.alias));
    let answer = client.succeed(Call::new(CONTEXT, Method::GET, &path)).await?;
    let found: BTreeMap<String, Found> = parse(CONTEXT, &answer)?;
    let Some((name, found)) = found.into_iter().next() else {
        let reason = format!("nothing is behind {}", spec.alias);
        return Err(TargetError::Conflict { context: CONTEXT, reason });
    };
    let mut extended = add_fields(client, spec, &name, &found).await?;
    if let Some(refused) = lay_over(client, spec, &name, &found).await? {
        extended.told.push(refused);
    }
    add_aliases(client, spec, &name, &found).await?;
    set_pipeline(client, spec, &name, &found).await?;
    extended.told.extend(other_settings(spec, &found));
    Ok(extended)
}

/// Fields that the mapping lacks.
async fn add_fields(
    client: &Client,
    spec: &IndexSpec,
    name: &str,
    found: &Found,
) -> Result<Extended, TargetError> {
    let mut extended = Extended::default();
    let mut properties = Map::new();
    for (field, column) in &spec.fields {
        check_field(field, &column.name)?;
        let wanted = field_of(spec, field, column);
        match found.mappings.properties.get(field) {
            None => {
                extended.added.push(field.clone());
                properties.insert(field.clone(), wanted);
            }
            // A type that a person chose.
            Some(there) if spec.setup.mapping.contains_key(field) && type_of(there) == type_of(&wanted) => {}
            Some(there) if fits(there, &mapping(&column.kind)) => {}
            Some(there) => extended.unfit.push((field.clone(), type_of(there).to_owned())),
        }
    }
    if properties.is_empty() {
        return Ok(extended);
    }
    let path = format!("/{}", escape(name));
    if let Some(limit) = fields_limit(spec).filter(|limit| limit_of(&found.settings) < *limit) {
        let body = json!({ "index": { FIELDS_LIMIT: limit } });
        client.succeed(Call::new(CONTEXT, Method::PUT, &format!("{path}/_settings")).json(&body)).await?;
    }
    match put_mapping(client, name, json!({ "properties": properties })).await? {
        None => Ok(extended),
        // The cluster's own rules: too many fields, or a template that has the last word.
        Some(refused) => Err(TargetError::Halt {
            context: CONTEXT,
            reason: format!("{name} takes no field {}: {refused}", extended.added.join(", ")),
            hint: "raise index.mapping.total_fields.limit of the index if it says so, or leave the columns out with the table's `columns`".to_owned(),
        }),
    }
}

/// Why the cluster refuses it; `None` when it was done.
async fn put_mapping(client: &Client, name: &str, body: Value) -> Result<Option<String>, TargetError> {
    let path = format!("/{}/_mapping", escape(name));
    let answer = client.send(Call::new(CONTEXT, Method::PUT, &path).json(&body)).await?;
    if answer.status == 200 {
        return Ok(None);
    }
    match error_of(&answer.body).filter(|_| answer.status == 400) {
        Some(error) => Ok(Some(error.reason.unwrap_or(error.kind))),
        None => Err(failure(CONTEXT, &answer)),
    }
}

/// What a person wants of fields that are there. A type stays what it is; other things can be changed, and
/// which ones only the cluster knows. What it refuses, in words.
async fn lay_over(
    client: &Client,
    spec: &IndexSpec,
    name: &str,
    found: &Found,
) -> Result<Option<String>, TargetError> {
    let there = |field: &String| found.mappings.properties.contains_key(field);
    let wanted =
        spec.fields.iter().filter(|(field, _)| spec.setup.mapping.contains_key(field) && there(field));
    let wanted = wanted.map(|(field, column)| (field.clone(), field_of(spec, field, column)));
    let properties: Map<String, Value> = wanted.collect();
    let mut body = Map::new();
    if !properties.is_empty() {
        body.insert("properties".to_owned(), Value::Object(properties));
    }
    let dynamic = found.mappings.dynamic.as_ref().map(plain);
    if let Some(wanted) = spec.setup.dynamic.as_ref().filter(|wanted| dynamic != Some(plain(wanted))) {
        body.insert("dynamic".to_owned(), wanted.clone());
    }
    if body.is_empty() {
        return Ok(None);
    }
    let refused = put_mapping(client, name, Value::Object(body)).await?;
    Ok(refused.map(|why| {
        format!(
            "the table's `mapping` holds for an index that is filled anew, since {name} refuses it: {why}"
        )
    }))
}

async fn add_aliases(
    client: &Client,
    spec: &IndexSpec,
    name: &str,
    found: &Found,
) -> Result<(), TargetError> {
    let missing = spec.setup.aliases.iter().filter(|alias| !found.aliases.contains_key(*alias));
    let mut actions = Vec::new();
    for alias in missing {
        check_name(CONTEXT, alias)?;
        actions.push(json!({ "add": { "index": name, "alias": alias } }));
    }
    if actions.is_empty() {
        return Ok(());
    }
    let body = json!({ "actions": actions });
    client.succeed(Call::new(CONTEXT, Method::POST, "/_aliases").json(&body)).await.map(drop)
}

async fn set_pipeline(
    client: &Client,
    spec: &IndexSpec,
    name: &str,
    found: &Found,
) -> Result<(), TargetError> {
    let there = found.settings.get(FINAL_PIPELINE).map(plain);
    let Some(wanted) = spec.setup.ingest_pipeline.as_ref().filter(|wanted| there.as_ref() != Some(wanted))
    else {
        return Ok(());
    };
    let path = format!("/{}/_settings", escape(name));
    let body = json!({ FINAL_PIPELINE: wanted });
    client.succeed(Call::new(CONTEXT, Method::PUT, &path).json(&body)).await.map(drop)
}

/// Settings are for the making of an index: many cannot be changed, and those that can may have been changed
/// by a person.
fn other_settings(spec: &IndexSpec, found: &Found) -> Vec<String> {
    let mut told = Vec::new();
    for (setting, wanted) in spec.setup.settings.iter().filter(|(name, _)| !OWN.contains(&name.as_str())) {
        let there = found.settings.get(&format!("index.{setting}"));
        if !there.is_some_and(|there| is_same(there, wanted)) {
            let there = there.map_or_else(|| "not set".to_owned(), plain);
            told.push(format!(
                "the setting {setting} is {there} and stays so: {} holds for an index that is filled anew",
                plain(wanted)
            ));
        }
    }
    told
}

/// A cluster shows every value as text.
fn is_same(there: &Value, wanted: &Value) -> bool {
    match (there.as_array(), wanted.as_array()) {
        (Some(there), Some(wanted)) => there.iter().map(plain).eq(wanted.iter().map(plain)),
        _ => plain(there) == plain(wanted),
    }
}

/// The default is 1000.
fn limit_of(settings: &BTreeMap<String, Value>) -> u64 {
    let limit = settings.get(&format!("index.{FIELDS_LIMIT}")).map(plain);
    limit.and_then(|limit| limit.parse().ok()).unwrap_or(1000)
}

/// A field without a type is an object.
fn type_of(field: &Value) -> &str {
    field["type"].as_str().unwrap_or("object")
}

/// The same, with the fields of an object. Those that came to a composite are kept and not searched.
fn fits(there: &Value, wanted: &Value) -> bool {
    if !holds(type_of(there), type_of(wanted)) {
        return false;
    }
    let Some(inner) = there["properties"].as_object() else { return true };
    // Without fields of its own it is any object, which those that are there may refuse.
    let Some(wanted) = wanted["properties"].as_object() else { return false };
    inner.iter().all(|(name, field)| wanted.get(name).is_none_or(|wanted| fits(field, wanted)))
}

/// Whether a field of the type `there` takes every value of a column that would be mapped as `wanted`.
/// A type that is not known here was chosen by a person, who will know.
fn holds(there: &str, wanted: &str) -> bool {
    const WHOLE: [&str; 4] = ["byte", "short", "integer", "long"];
    let rank = |name: &str| WHOLE.iter().position(|whole| *whole == name);
    match (there, wanted) {
        _ if there == wanted => true,
        ("long_range", "integer_range") => true,
        ("integer_range" | "long_range" | "geo_shape", _) => false,
        ("text" | "keyword", "object" | "integer_range" | "long_range" | "geo_shape") => false,
        (_, "short" | "integer" | "long") if rank(there).is_some() => rank(there) >= rank(wanted),
        ("half_float" | "float" | "double" | "scaled_float", _) => {
            rank(wanted).is_some() || matches!(wanted, "float" | "double")
        }
        (
            "byte" | "short" | "integer" | "long" | "unsigned_long" | "boolean" | "date" | "binary"
            | "object",
            _,
        ) => false,
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn t09_a_field_that_cannot_hold_its_column_any_more_is_told() {
        for (there, wanted) in
            [("long", "integer"), ("double", "long"), ("text", "long"), ("keyword", "text")]
        {
            assert!(holds(there, wanted), "{there} {wanted}");
        }
        for (there, wanted) in
            [("integer", "long"), ("long", "double"), ("long", "text"), ("date", "keyword")]
        {
            assert!(!holds(there, wanted), "{there} {wanted}");
        }
        assert!(holds("wildcard", "text"), "a type that a person chose");
    }

    #[test]
    fn settings_of_an_index_that_is_there_are_told_and_not_changed() {
        let settings = |value: Value| value.as_object().unwrap().clone();
        let setup = crate::target::IndexSetup {
            settings: settings(
                json!({ "number_of_shards": 3, "sort.field": ["a"], "refresh_interval": "9s", "codec": "best" }),
            ),
            ..Default::default()
        };
        let spec = IndexSpec { setup, ..IndexSpec::default() };
        let there = |shards: &str| Found {
            settings: settings(
                json!({ "index.number_of_shards": shards, "index.sort.field": ["a"], "index.codec": "best" }),
            )
            .into_iter()
            .collect(),
            ..Found::default()
        };
        assert!(other_settings(&spec, &there("3")).is_empty());
        let told = other_settings(&spec, &there("1"));
        assert!(told.len() == 1 && told[0].contains("number_of_shards is 1"), "{told:?}");
    }

    #[test]
    fn t09_objects_and_ranges_are_judged_by_what_is_in_them() {
        let object = |kind: &str| json!({ "properties": { "a": { "type": kind } } });
        assert!(fits(&object("long"), &object("integer")));
        assert!(!fits(&object("integer"), &object("text")));
        assert!(fits(&object("long"), &json!({ "properties": { "b": { "type": "text" } } })));
        let kept = json!({ "type": "object", "enabled": false });
        assert!(fits(&kept, &object("long")), "in a field that is not searched there is room for all");
        assert!(!fits(&object("long"), &kept));
        for (there, wanted) in [
            ("integer_range", "long_range"),
            ("long_range", "text"),
            ("text", "object"),
            ("keyword", "geo_shape"),
        ] {
            assert!(!holds(there, wanted), "{there} {wanted}");
        }
        assert!(holds("long_range", "integer_range"));
    }
}
