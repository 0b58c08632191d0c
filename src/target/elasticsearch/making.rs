//! Making an index: settings, mapping and aliases in one request.

use std::collections::BTreeMap;

use reqwest::Method;
use serde::de::IgnoredAny;
use serde_json::{Map, Value, json};
use sources::change::Column;

use super::client::{Call, Client, error_of, escape, failure, parse};
use super::easing::ease;
use super::index::{check_name, index, no_index};
use super::mapping::{fields_of, mapping};
use crate::target::setup::plain;
use crate::target::{DOCUMENT_FORMAT, IndexSpec, IndexState, TargetError};

const CONTEXT: &str = "create index";
/// How many fields a mapping may have.
pub(super) const FIELDS_LIMIT: &str = "mapping.total_fields.limit";
/// The last pipeline of a document. Unlike the default one it cannot send it to another index, and no request
/// can leave it out.
pub(super) const FINAL_PIPELINE: &str = "index.final_pipeline";
/// Fields that Elasticsearch or OpenSearch keep for themselves at the top of a document.
const RESERVED: [&str; 12] = [
    "_id",
    "_index",
    "_type",
    "_source",
    "_routing",
    "_version",
    "_seq_no",
    "_field_names",
    "_ignored",
    "_doc_count",
    "_nested_path",
    "_data_stream_timestamp",
];

pub(super) async fn create(client: &Client, spec: &IndexSpec) -> Result<IndexState, TargetError> {
    let conflict = |reason: String| TargetError::Conflict { context: CONTEXT, reason };
    check_name(CONTEXT, &spec.alias)?;
    let body = body(spec)?;
    check_pipeline(client, spec).await?;
    if let Some(there) = index(client, &spec.alias).await? {
        let there = taken(spec, there)?;
        ease(client, &there.name, spec.easing).await?;
        return Ok(there);
    }
    let name = free_name(client, &spec.alias).await?;
    let path = format!("/{}", escape(&name));
    let answer = client.send(Call::new(CONTEXT, Method::PUT, &path).json(&body)).await?;
    let kind = error_of(&answer.body).map(|error| error.kind).unwrap_or_default();
    match (answer.status, kind.as_str()) {
        (200, _) => {}
        (400, "resource_already_exists_exception") => {
            return Err(conflict(format!("somebody else has just made {name}")));
        }
        _ => return Err(failure(CONTEXT, &answer)),
    }
    ease(client, &name, spec.easing).await?;
    index(client, &spec.alias).await?.ok_or_else(|| conflict(format!("{name} was made and is gone")))
}

/// The answer to an earlier attempt may have been lost, so an empty index just as wanted will do.
fn taken(spec: &IndexSpec, there: IndexState) -> Result<IndexState, TargetError> {
    let ours = there.pipeline.as_ref() == Some(&spec.pipeline)
        && there.shape_hash.as_ref() == Some(&spec.shape_hash)
        && there.name != spec.alias;
    let (context, alias, name) = (CONTEXT, &spec.alias, &there.name);
    match () {
        () if ours && there.documents == 0 => Ok(there),
        () if name == alias => Err(TargetError::Halt {
            context,
            reason: format!("{alias} is an index, and Rowtide writes through an alias of that name"),
            hint: format!("delete or rename the index {alias}, or name another `index` in the configuration"),
        }),
        () => Err(TargetError::Conflict {
            context,
            reason: format!("the alias {alias} already stands for {name}"),
        }),
    }
}

/// `<alias>-rowtide-<n>` with the lowest n that is not in use.
async fn free_name(client: &Client, alias: &str) -> Result<String, TargetError> {
    const CONTEXT: &str = "list indices";
    let filter = "expand_wildcards=all&filter_path=*.settings.index.uuid";
    let path = format!("/{}-rowtide-*?{filter}", escape(alias));
    let answer = client.send(Call::new(CONTEXT, Method::GET, &path)).await?;
    let used: BTreeMap<String, IgnoredAny> = match answer.status {
        200 => parse(CONTEXT, &answer)?,
        404 if no_index(&answer) => BTreeMap::new(),
        _ => return Err(failure(CONTEXT, &answer)),
    };
    let mut names = (1_u64..).map(|n| format!("{alias}-rowtide-{n}"));
    let free = names.find(|name| !used.contains_key(name));
    free.ok_or_else(|| TargetError::Conflict { context: CONTEXT, reason: "no name is free".to_owned() })
}

/// The default is 1000; a text counts twice, because of its keyword.
pub(super) fn fields_limit(spec: &IndexSpec) -> Option<u64> {
    let columns = spec.fields.len();
    let fields: usize = spec.fields.iter().map(|(_, column)| fields_of(&column.kind)).sum();
    (columns > 450 || fields > 900).then(|| fields.max(columns * 2) as u64 + 100)
}

/// The mapping of a field, by its column and by what a person wants.
pub(super) fn field_of(spec: &IndexSpec, field: &str, column: &Column) -> Value {
    spec.setup.field(field, mapping(&column.kind))
}

/// Settings, mapping and aliases of a new index. What a request says wins over the cluster's templates.
fn body(spec: &IndexSpec) -> Result<Value, TargetError> {
    let mut properties = Map::new();
    for (field, column) in &spec.fields {
        check_field(field, &column.name)?;
        properties.insert(field.clone(), field_of(spec, field, column));
    }
    let mut aliases = Map::new();
    for alias in &spec.setup.aliases {
        check_name(CONTEXT, alias)?;
        aliases.insert(alias.clone(), json!({}));
    }
    aliases.insert(spec.alias.clone(), json!({ "is_write_index": true }));
    Ok(json!({
        "settings": { "index": settings(spec) },
        "aliases": aliases,
        "mappings": {
            "dynamic": spec.setup.dynamic(),
            "_meta": { "rowtide": { "format": DOCUMENT_FORMAT, "pipeline": spec.pipeline, "shape": spec.shape_hash } },
            "properties": properties,
        },
    }))
}

fn settings(spec: &IndexSpec) -> Map<String, Value> {
    let mut settings = spec.setup.settings.clone();
    // Law 3: a help against tombstones that are forgotten early, not what protects deletes.
    settings.entry("gc_deletes").or_insert(json!("1h"));
    // An answer must mean that the document survives a crash of the node.
    settings.insert("translog.durability".to_owned(), json!("request"));
    if let Some(limit) = fields_limit(spec).filter(|limit| configured_limit(spec) < Some(*limit)) {
        settings.insert(FIELDS_LIMIT.to_owned(), json!(limit));
    }
    if let Some(pipeline) = &spec.setup.ingest_pipeline {
        settings.insert("final_pipeline".to_owned(), json!(pipeline));
    }
    settings
}

fn configured_limit(spec: &IndexSpec) -> Option<u64> {
    plain(spec.setup.settings.get(FIELDS_LIMIT)?).parse().ok()
}

/// A document of a pipeline that is not there would be refused, and become a dead letter.
pub(super) async fn check_pipeline(client: &Client, spec: &IndexSpec) -> Result<(), TargetError> {
    const CONTEXT: &str = "look for the ingest pipeline";
    let Some(pipeline) = &spec.setup.ingest_pipeline else { return Ok(()) };
    let path = format!("/_ingest/pipeline/{}?filter_path=*.description", escape(pipeline));
    let answer = client.send(Call::new(CONTEXT, Method::GET, &path)).await?;
    match answer.status {
        200 => Ok(()),
        404 => Err(TargetError::Halt {
            context: CONTEXT,
            reason: format!(
                "the target has no ingest pipeline {pipeline:?}, which documents of {} are to go through",
                spec.alias
            ),
            hint: format!(
                "make it (PUT _ingest/pipeline/{pipeline}), or correct the table's `ingest_pipeline`"
            ),
        }),
        _ => Err(failure(CONTEXT, &answer)),
    }
}

pub(super) fn check_field(field: &str, column: &str) -> Result<(), TargetError> {
    let fault = match field {
        _ if field.trim().is_empty() => "is empty",
        _ if field.contains('.') => "holds a dot, which means an object in an index",
        _ if RESERVED.contains(&field) => "is kept by the target for itself",
        _ => return Ok(()),
    };
    Err(TargetError::Halt {
        context: CONTEXT,
        reason: format!("the field {field:?} of column {column:?} {fault}"),
        hint: format!("give it another name in the table's `rename`: rename = {{ {column:?} = \"…\" }}"),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use sources::change::Kind;

    fn spec(fields: &[(&str, Kind)]) -> IndexSpec {
        let column = |name: &str, kind: &Kind| Column { name: name.into(), kind: kind.clone() };
        IndexSpec {
            alias: "products".to_owned(),
            pipeline: "shop".to_owned(),
            fields: fields.iter().map(|(name, kind)| ((*name).to_owned(), column(name, kind))).collect(),
            shape_hash: "abc".to_owned(),
            ..IndexSpec::default()
        }
    }

    #[test]
    fn t35_a_field_that_an_index_cannot_hold_is_refused_with_its_column() {
        for wrong in ["a.b", "", " ", "_id"] {
            let error = body(&spec(&[("fine", Kind::Text), (wrong, Kind::Text)])).unwrap_err();
            let text = error.to_string();
            assert!(matches!(error, TargetError::Halt { .. }) && text.contains("rename"), "{text}");
            assert!(text.contains(&format!("{wrong:?}")), "{text}");
        }
        assert!(body(&spec(&[("_fine", Kind::Text), ("größe", Kind::Decimal)])).is_ok());
    }

    #[test]
    fn the_index_is_durable_and_says_whose_it_is() {
        let body =
            body(&spec(&[("tags", Kind::Array(Box::new(Kind::Array(Box::new(Kind::Keyword)))))])).unwrap();
        assert_eq!(body["settings"]["index"]["gc_deletes"], "1h");
        assert_eq!(body["settings"]["index"]["translog.durability"], "request");
        assert_eq!(body["mappings"]["_meta"]["rowtide"], json!({"format":2,"pipeline":"shop","shape":"abc"}));
        assert_eq!(body["mappings"]["properties"]["tags"]["type"], "keyword");
        assert_eq!(body["aliases"]["products"]["is_write_index"], true);
    }

    #[test]
    fn what_a_person_wants_is_in_the_request_beside_what_rowtide_needs() {
        let mut spec = spec(&[("price", Kind::Decimal)]);
        spec.setup.mapping.insert("price".to_owned(), json!({ "type": "keyword" }));
        spec.setup.settings.insert("number_of_shards".to_owned(), json!(3));
        spec.setup.settings.insert("gc_deletes".to_owned(), json!("2d"));
        spec.setup.settings.insert("translog.durability".to_owned(), json!("async"));
        spec.setup.aliases.push("all".to_owned());
        spec.setup.ingest_pipeline = Some("clean".to_owned());
        spec.setup.dynamic = Some(json!("strict"));
        let body = body(&spec).unwrap();
        let settings = json!({ "number_of_shards": 3, "gc_deletes": "2d", "translog.durability": "request", "final_pipeline": "clean" });
        assert_eq!(body["settings"]["index"], settings);
        assert_eq!(body["mappings"]["dynamic"], "strict");
        assert_eq!(body["mappings"]["properties"]["price"]["type"], "keyword");
        assert_eq!(body["aliases"], json!({ "products": { "is_write_index": true }, "all": {} }));
        spec.setup.aliases.push("a,b".to_owned());
        assert!(super::body(&spec).is_err());
    }

    #[test]
    fn an_index_that_is_taken_is_never_written_over() {
        let there = |name: &str, documents: u64, pipeline: &str| IndexState {
            name: name.to_owned(),
            uuid: "u".to_owned(),
            documents,
            pipeline: Some(pipeline.to_owned()),
            shape_hash: Some("abc".to_owned()),
            format: DOCUMENT_FORMAT,
            odd: Vec::new(),
        };
        let spec = spec(&[]);
        assert!(taken(&spec, there("products-rowtide-1", 0, "shop")).is_ok());
        for (name, documents, pipeline) in
            [("products-rowtide-1", 1, "shop"), ("products-rowtide-1", 0, "other")]
        {
            let refused = taken(&spec, there(name, documents, pipeline));
            assert!(matches!(refused, Err(TargetError::Conflict { .. })), "{refused:?}");
        }
        let plain = taken(&spec, there("products", 0, "shop"));
        assert!(matches!(plain, Err(TargetError::Halt { .. })), "{plain:?}");
    }
}
