//! The mapping of an index that is there already: fields are added, never changed, which no search cluster
//! allows.

use std::collections::BTreeMap;

use reqwest::Method;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::client::{Call, Client, error_of, escape, failure, parse};
use super::index::{check_field, check_name, fields_limit};
use super::mapping::mapping;
use crate::target::{Extended, IndexSpec, TargetError};

const CONTEXT: &str = "extend the mapping";

#[derive(Default, Deserialize)]
struct Found {
    #[serde(default)]
    mappings: Mappings,
    #[serde(default)]
    settings: Value,
}

#[derive(Default, Deserialize)]
struct Mappings {
    #[serde(default)]
    properties: BTreeMap<String, Value>,
}

pub(super) async fn extend(client: &Client, spec: &IndexSpec) -> Result<Extended, TargetError> {
    check_name(CONTEXT, &spec.alias)?;
    let path = format!("/{}", escape(&spec.alias));
    let filter = "filter_path=*.mappings.properties,*.settings.index.uuid,*.settings.index.mapping";
    let answer = client.succeed(Call::new(CONTEXT, Method::GET, &format!("{path}?{filter}"))).await?;
    let found: BTreeMap<String, Found> = parse(CONTEXT, &answer)?;
    let Some((name, found)) = found.into_iter().next() else {
        let reason = format!("nothing is behind {}", spec.alias);
        return Err(TargetError::Conflict { context: CONTEXT, reason });
    };
    let mut extended = Extended::default();
    let mut properties = Map::new();
    for (field, column) in &spec.fields {
        check_field(field, &column.name)?;
        let wanted = mapping(&column.kind);
        match found.mappings.properties.get(field) {
            None => {
                extended.added.push(field.clone());
                properties.insert(field.clone(), wanted);
            }
            Some(there) if fits(there, &wanted) => {}
            Some(there) => extended.unfit.push((field.clone(), type_of(there).to_owned())),
        }
    }
    if properties.is_empty() {
        return Ok(extended);
    }
    let path = format!("/{}", escape(&name));
    if let Some(limit) = fields_limit(spec).filter(|limit| limit_of(&found.settings) < *limit) {
        let body = json!({ "index": { "mapping.total_fields.limit": limit } });
        client.succeed(Call::new(CONTEXT, Method::PUT, &format!("{path}/_settings")).json(&body)).await?;
    }
    let body = json!({ "properties": properties });
    let path = format!("{path}/_mapping");
    let answer = client.send(Call::new(CONTEXT, Method::PUT, &path).json(&body)).await?;
    if answer.status == 200 {
        return Ok(extended);
    }
    match error_of(&answer.body).filter(|_| answer.status == 400) {
        // The cluster's own rules: too many fields, or a template that has the last word.
        Some(error) => Err(TargetError::Halt {
            context: CONTEXT,
            reason: format!("{name} takes no field {}: {}", extended.added.join(", "), error.reason.unwrap_or(error.kind)),
            hint: "raise index.mapping.total_fields.limit of the index if it says so, or leave the columns out with the table's `columns`".to_owned(),
        }),
        None => Err(failure(CONTEXT, &answer)),
    }
}

/// The default is 1000.
fn limit_of(settings: &Value) -> u64 {
    let limit = &settings["index"]["mapping"]["total_fields"]["limit"];
    limit.as_str().and_then(|limit| limit.parse().ok()).or_else(|| limit.as_u64()).unwrap_or(1000)
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
