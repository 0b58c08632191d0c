//! Real indices behind aliases: what is there, making one with its mapping, listing its documents.
//!
//! ```text
//!   documents ──► alias `products` ──► `products-rowtide-1`   _meta.rowtide { format, pipeline, shape }
//! ```
//! Only Rowtide makes its indices (law 8); a person may point the alias elsewhere, and the UUID tells.

use std::collections::BTreeMap;

use reqwest::Method;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::client::{Answer, Call, Client, error_of, escape, failure, parse};
use super::mapping::{fields_of, mapping};
use crate::target::{DOCUMENT_FORMAT, IdPage, IndexSpec, IndexState, TargetError};

/// How long the cluster keeps a listing between two pages: a page is deleted through the lanes, which
/// may wait for a slow target.
const SCROLL: &str = "5m";
/// Most bytes that an id takes in an answer: 512 bytes (T34), each escaped as `\u0000` at worst, with
/// the words around it.
const ID_BYTES_MAX: usize = 512 * 6 + 128;
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

#[derive(Deserialize)]
struct RealIndex {
    settings: RealSettings,
    mappings: Option<Mappings>,
}

#[derive(Deserialize)]
struct RealSettings {
    index: IndexUuid,
}

#[derive(Deserialize)]
struct IndexUuid {
    uuid: String,
}

#[derive(Deserialize)]
struct Mappings {
    #[serde(rename = "_meta")]
    meta: Option<Meta>,
}

#[derive(Deserialize)]
struct Meta {
    rowtide: Option<Value>,
}

/// Shards of an answer; a part of them is not an answer.
#[derive(Deserialize)]
struct Shards {
    failed: u64,
}

const LOOK: &str = "look at index";

pub(super) async fn index(client: &Client, alias: &str) -> Result<Option<IndexState>, TargetError> {
    let Some((name, real)) = look(client, alias).await? else { return Ok(None) };
    let Owner { pipeline, shape_hash, format } = owner(LOOK, &name, real.mappings)?;
    let documents = count(client, &name).await?;
    Ok(Some(IndexState { name, uuid: real.settings.index.uuid, documents, pipeline, shape_hash, format }))
}

pub(super) async fn uuid(client: &Client, alias: &str) -> Result<Option<String>, TargetError> {
    Ok(look(client, alias).await?.map(|(_, real)| real.settings.index.uuid))
}

/// The real index behind an alias, by name.
async fn look(client: &Client, alias: &str) -> Result<Option<(String, RealIndex)>, TargetError> {
    const CONTEXT: &str = LOOK;
    check_name(CONTEXT, alias)?;
    let filter = "filter_path=*.settings.index.uuid,*.mappings._meta.rowtide";
    let path = format!("/{}?{filter}", escape(alias));
    let answer = client.send(Call::new(CONTEXT, Method::GET, &path)).await?;
    match answer.status {
        200 => {}
        404 if no_index(&answer) => return Ok(None),
        _ => return Err(failure(CONTEXT, &answer)),
    }
    let found: BTreeMap<String, RealIndex> = parse(CONTEXT, &answer)?;
    let several = found.len();
    let Some((name, real)) = found.into_iter().next() else {
        return Ok(None);
    };
    if several > 1 {
        return Err(TargetError::Halt {
            context: CONTEXT,
            reason: format!("the alias {alias} stands for {several} indices"),
            hint: format!("remove the alias {alias} from all but the one that Rowtide made"),
        });
    }
    Ok(Some((name, real)))
}

/// Only the cluster itself can say so; a 404 of something in between is no news of an index.
fn no_index(answer: &Answer) -> bool {
    error_of(&answer.body).is_some_and(|error| error.kind == "index_not_found_exception")
}

/// What `_meta` says of an index.
#[derive(Debug, PartialEq, Eq)]
struct Owner {
    pipeline: Option<String>,
    shape_hash: Option<String>,
    format: u64,
}

/// Pipeline, shape and format that `_meta` names. A newer format is refused: its rules are not known here.
fn owner(context: &'static str, name: &str, mappings: Option<Mappings>) -> Result<Owner, TargetError> {
    let Some(rowtide) = mappings.and_then(|mappings| mappings.meta?.rowtide) else {
        return Ok(Owner { pipeline: None, shape_hash: None, format: DOCUMENT_FORMAT });
    };
    let found = rowtide["format"].as_u64();
    let Some(format) = found.filter(|format| (1..=DOCUMENT_FORMAT).contains(format)) else {
        let found = found.map_or_else(|| "unreadable".to_owned(), |format| format.to_string());
        return Err(TargetError::Halt {
            context,
            reason: format!(
                "the index {name} has Rowtide's format {found}; this Rowtide knows format {DOCUMENT_FORMAT}"
            ),
            hint: "run the version of Rowtide that made it, or a newer one".to_owned(),
        });
    };
    let text = |field: &str| rowtide[field].as_str().map(str::to_owned);
    Ok(Owner { pipeline: text("pipeline"), shape_hash: text("shape"), format })
}

/// Documents in an index, those that no refresh has shown yet too. It refreshes only where that can
/// change the answer that matters: none, or some.
async fn count(client: &Client, name: &str) -> Result<u64, TargetError> {
    const CONTEXT: &str = "count documents";
    #[derive(Deserialize)]
    struct Count {
        count: u64,
        #[serde(rename = "_shards")]
        shards: Shards,
    }
    let path = format!("/{}/_count", escape(name));
    for refreshed in [false, true] {
        let answer = client.succeed(Call::new(CONTEXT, Method::GET, &path)).await?;
        let found: Count = parse(CONTEXT, &answer)?;
        all_shards(CONTEXT, &found.shards)?;
        if found.count > 0 || refreshed {
            return Ok(found.count);
        }
        refresh(client, name).await?;
    }
    Ok(0)
}

pub(super) async fn refresh(client: &Client, name: &str) -> Result<(), TargetError> {
    const CONTEXT: &str = "refresh index";
    #[derive(Deserialize)]
    struct Refreshed {
        #[serde(rename = "_shards")]
        shards: Shards,
    }
    check_name(CONTEXT, name)?;
    let path = format!("/{}/_refresh", escape(name));
    let answer = client.succeed(Call::new(CONTEXT, Method::POST, &path)).await?;
    let refreshed: Refreshed = parse(CONTEXT, &answer)?;
    all_shards(CONTEXT, &refreshed.shards)
}

fn all_shards(context: &'static str, shards: &Shards) -> Result<(), TargetError> {
    if shards.failed == 0 {
        return Ok(());
    }
    Err(TargetError::Unresolved { context, reason: format!("{} shards failed", shards.failed) })
}

pub(super) async fn create(client: &Client, spec: &IndexSpec) -> Result<IndexState, TargetError> {
    const CONTEXT: &str = "create index";
    let conflict = |reason: String| TargetError::Conflict { context: CONTEXT, reason };
    check_name(CONTEXT, &spec.alias)?;
    let body = body(spec)?;
    if let Some(there) = index(client, &spec.alias).await? {
        return taken(spec, there);
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
    index(client, &spec.alias).await?.ok_or_else(|| conflict(format!("{name} was made and is gone")))
}

/// The answer to an earlier attempt may have been lost, so an empty index just as wanted will do.
fn taken(spec: &IndexSpec, there: IndexState) -> Result<IndexState, TargetError> {
    let ours = there.pipeline.as_ref() == Some(&spec.pipeline)
        && there.shape_hash.as_ref() == Some(&spec.shape_hash)
        && there.name != spec.alias;
    let (context, alias, name) = ("create index", &spec.alias, &there.name);
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
    let used: BTreeMap<String, RealIndex> = match answer.status {
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

/// Settings, mapping and alias of a new index.
fn body(spec: &IndexSpec) -> Result<Value, TargetError> {
    let mut properties = Map::new();
    for (field, column) in &spec.fields {
        check_field(field, &column.name)?;
        properties.insert(field.clone(), mapping(&column.kind));
    }
    let mut settings = json!({
        // Law 3: a help against tombstones that are forgotten early, not what protects deletes.
        "gc_deletes": "1h",
        // An answer must mean that the document survives a crash of the node.
        "translog.durability": "request",
    });
    if let Some(limit) = fields_limit(spec) {
        settings["mapping.total_fields.limit"] = json!(limit);
    }
    Ok(json!({
        "settings": { "index": settings },
        "aliases": { (&spec.alias): { "is_write_index": true } },
        "mappings": {
            // A column that is added later stays in _source: a guessed type could be wrong for ever.
            "dynamic": false,
            "_meta": { "rowtide": { "format": DOCUMENT_FORMAT, "pipeline": spec.pipeline, "shape": spec.shape_hash } },
            "properties": properties,
        },
    }))
}

pub(super) fn check_field(field: &str, column: &str) -> Result<(), TargetError> {
    let fault = match field {
        _ if field.trim().is_empty() => "is empty",
        _ if field.contains('.') => "holds a dot, which means an object in an index",
        _ if RESERVED.contains(&field) => "is kept by the target for itself",
        _ => return Ok(()),
    };
    Err(TargetError::Halt {
        context: "create index",
        reason: format!("the field {field:?} of column {column:?} {fault}"),
        hint: format!("give it another name in the table's `rename`: rename = {{ {column:?} = \"…\" }}"),
    })
}

/// What Elasticsearch and OpenSearch take as a name; no name means several indices here.
pub(super) fn check_name(context: &'static str, name: &str) -> Result<(), TargetError> {
    let forbidden = |c: char| c.is_uppercase() || c.is_control() || r#"\/*?"<>| ,#:"#.contains(c);
    let fault = match name {
        "" | "." | ".." => "is no name",
        _ if name.len() > 240 => "is longer than 240 bytes",
        _ if name.starts_with(['-', '_', '+']) => "begins with -, _ or +",
        _ if name.contains(forbidden) => r#"holds a capital letter, a blank or one of \ / * ? " < > | , # :"#,
        _ => return Ok(()),
    };
    Err(TargetError::Halt {
        context,
        reason: format!("the index name {name:?} {fault}"),
        hint: "name another `index` in the configuration".to_owned(),
    })
}

pub(super) async fn delete(client: &Client, name: &str) -> Result<(), TargetError> {
    const CONTEXT: &str = "delete index";
    check_name(CONTEXT, name)?;
    let path = format!("/{}", escape(name));
    let answer = client.send(Call::new(CONTEXT, Method::DELETE, &path)).await?;
    match answer.status {
        200 => Ok(()),
        404 if no_index(&answer) => Ok(()),
        _ => Err(failure(CONTEXT, &answer)),
    }
}

pub(super) async fn ids(
    client: &Client,
    alias: &str,
    cursor: Option<String>,
    limit: usize,
) -> Result<IdPage, TargetError> {
    const CONTEXT: &str = "list documents";
    #[derive(Deserialize)]
    struct Page {
        #[serde(rename = "_scroll_id")]
        scroll_id: String,
        timed_out: bool,
        #[serde(rename = "_shards")]
        shards: Shards,
        #[serde(default)]
        hits: Hits,
    }
    #[derive(Default, Deserialize)]
    struct Hits {
        #[serde(default)]
        hits: Vec<Hit>,
    }
    #[derive(Deserialize)]
    struct Hit {
        _id: String,
        _version: u64,
    }
    let filter = "filter_path=_scroll_id,timed_out,_shards.failed,hits.hits._id,hits.hits._version";
    let (path, body) = match cursor {
        Some(scroll_id) => {
            (format!("/_search/scroll?{filter}"), json!({ "scroll": SCROLL, "scroll_id": scroll_id }))
        }
        None => {
            // What was written and is not refreshed is not listed otherwise.
            refresh(client, alias).await?;
            let options = format!("scroll={SCROLL}&allow_partial_search_results=false&{filter}");
            let body = json!({ "size": limit, "version": true, "_source": false, "sort": ["_doc"], "query": { "match_all": {} } });
            (format!("/{}/_search?{options}", escape(alias)), body)
        }
    };
    let mut call = Call::new(CONTEXT, Method::POST, &path).json(&body);
    call.answer_bytes_max = (64 << 10) + limit * ID_BYTES_MAX;
    let answer = client.send(call).await?;
    if answer.status == 404 {
        let reason = "the index or the listing is gone: list again from the start".to_owned();
        return Err(TargetError::Conflict { context: CONTEXT, reason });
    }
    if answer.status != 200 {
        return Err(failure(CONTEXT, &answer));
    }
    let page: Page = parse(CONTEXT, &answer)?;
    all_shards(CONTEXT, &page.shards)?;
    if page.timed_out {
        return Err(TargetError::Unresolved { context: CONTEXT, reason: "timed out".to_owned() });
    }
    let ids: Vec<(String, u64)> = page.hits.hits.into_iter().map(|hit| (hit._id, hit._version)).collect();
    if !ids.is_empty() {
        return Ok(IdPage { ids, cursor: Some(page.scroll_id) });
    }
    let body = json!({ "scroll_id": page.scroll_id });
    let closing = Call::new("end a listing", Method::DELETE, "/_search/scroll").json(&body);
    if let Err(error) = client.succeed(closing).await {
        // The listing is complete; the cluster forgets it by itself after `SCROLL`.
        tracing::debug!(%error, "could not end a listing");
    }
    Ok(IdPage::default())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use sources::change::{Column, Kind};

    fn spec(fields: &[(&str, Kind)]) -> IndexSpec {
        let column = |name: &str, kind: &Kind| Column { name: name.into(), kind: kind.clone() };
        IndexSpec {
            alias: "products".to_owned(),
            pipeline: "shop".to_owned(),
            fields: fields.iter().map(|(name, kind)| ((*name).to_owned(), column(name, kind))).collect(),
            shape_hash: "abc".to_owned(),
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
    fn a_name_never_means_several_indices() {
        for wrong in ["", "*", "a*", "a,b", "-a", "_all", "A", "a/b", "a b", "c:a", ".."] {
            assert!(check_name("x", wrong).is_err(), "{wrong}");
        }
        for fine in ["products", "a-b_c.d", "größe"] {
            assert!(check_name("x", fine).is_ok(), "{fine}");
        }
    }

    #[test]
    fn a_newer_format_is_refused_by_name() {
        let mappings = |format: Value| {
            let rowtide = Some(json!({ "format": format, "pipeline": "p", "shape": "s" }));
            Some(Mappings { meta: Some(Meta { rowtide }) })
        };
        // As Rowtide wrote it before composites and ranges were objects: a fixture, for ever.
        let format_1: Value =
            serde_json::from_str(r#"{"_meta":{"rowtide":{"format":1,"pipeline":"p","shape":"s"}}}"#).unwrap();
        let known = owner("x", "i", serde_json::from_value(format_1).unwrap()).unwrap();
        let own = |format| Owner { pipeline: Some("p".into()), shape_hash: Some("s".into()), format };
        assert_eq!(known, own(1));
        assert_eq!(owner("x", "i", mappings(json!(2))).unwrap(), own(2));
        let error = owner("x", "i", mappings(json!(3))).unwrap_err().to_string();
        assert!(error.contains("format 3") && error.contains("index i"), "{error}");
        let nobody = Owner { pipeline: None, shape_hash: None, format: DOCUMENT_FORMAT };
        assert_eq!(owner("x", "i", None).unwrap(), nobody);
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
