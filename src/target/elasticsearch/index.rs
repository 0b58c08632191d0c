//! Real indices behind aliases: what is there, whether it is as Rowtide needs it, listing its documents.
//!
//! ```text
//!   documents ──► alias `products` ──► `products-rowtide-1`   _meta.rowtide { format, pipeline, shape }
//! ```
//! Only Rowtide makes its indices (law 8); a person may point the alias elsewhere, and the UUID tells.

use std::collections::BTreeMap;

use reqwest::Method;
use serde::Deserialize;
use serde_json::{Value, json};

use super::client::{Answer, Call, Client, error_of, escape, failure, parse};
use super::making::FINAL_PIPELINE;
use crate::target::setup::is_an_hour;
use crate::target::{DOCUMENT_FORMAT, IdPage, IndexState, Odd, Standing, TargetError};

/// How long the cluster keeps a listing between two pages: a page is deleted through the lanes, which
/// may wait for a slow target.
const SCROLL: &str = "5m";
/// Most bytes that an id takes in an answer: 512 bytes (T34), each escaped as `\u0000` at worst, with
/// the words around it.
const ID_BYTES_MAX: usize = 512 * 6 + 128;
#[derive(Deserialize)]
struct RealIndex {
    settings: RealSettings,
    mappings: Option<Mappings>,
}

#[derive(Deserialize)]
struct RealSettings {
    index: Kept,
}

/// Of an index's settings, those that Rowtide relies on.
#[derive(Default, Deserialize)]
struct Kept {
    uuid: String,
    translog: Option<Translog>,
    gc_deletes: Option<String>,
    default_pipeline: Option<String>,
    final_pipeline: Option<String>,
}

#[derive(Deserialize)]
struct Translog {
    durability: Option<String>,
}

impl Kept {
    /// What is not as Rowtide needs it.
    fn odd(&self) -> Vec<Odd> {
        let mut odd = Vec::new();
        let durability = self.translog.as_ref().and_then(|translog| translog.durability.as_deref());
        if let Some(other) = durability.filter(|durability| !durability.eq_ignore_ascii_case("request")) {
            odd.push(Odd::NotDurable(other.to_owned()));
        }
        let kept = self.gc_deletes.as_deref().unwrap_or("60s");
        if !is_an_hour(kept) {
            odd.push(Odd::ForgetsEarly(kept.to_owned()));
        }
        for (setting, pipeline) in
            [("index.default_pipeline", &self.default_pipeline), (FINAL_PIPELINE, &self.final_pipeline)]
        {
            if let Some(pipeline) = pipeline.clone().filter(|pipeline| pipeline != "_none") {
                odd.push(Odd::Pipeline { setting, pipeline });
            }
        }
        odd
    }
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
    let odd = real.settings.index.odd();
    Ok(Some(IndexState {
        name,
        uuid: real.settings.index.uuid,
        documents,
        pipeline,
        shape_hash,
        format,
        odd,
    }))
}

pub(super) async fn standing(client: &Client, alias: &str) -> Result<Option<Standing>, TargetError> {
    let found = look(client, alias).await?.map(|(_, real)| real.settings.index);
    Ok(found.map(|kept| Standing { odd: kept.odd(), uuid: kept.uuid }))
}

/// The real index behind an alias, by name.
async fn look(client: &Client, alias: &str) -> Result<Option<(String, RealIndex)>, TargetError> {
    const CONTEXT: &str = LOOK;
    check_name(CONTEXT, alias)?;
    let filter = "filter_path=*.settings.index.uuid,*.settings.index.translog.durability,\
                  *.settings.index.gc_deletes,*.settings.index.*_pipeline,*.mappings._meta.rowtide";
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
pub(super) fn no_index(answer: &Answer) -> bool {
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
    #[test]
    fn t29_settings_that_are_not_as_they_must_be_are_odd() {
        let odd = |settings: Value| serde_json::from_value::<Kept>(settings).unwrap().odd();
        assert_eq!(
            odd(json!({ "uuid": "u", "translog": { "durability": "REQUEST" }, "gc_deletes": "60m" })),
            []
        );
        assert_eq!(odd(json!({ "uuid": "u", "gc_deletes": "1h", "default_pipeline": "_none" })), []);
        let all = json!({ "uuid": "u", "translog": { "durability": "ASYNC" }, "default_pipeline": "a", "final_pipeline": "b" });
        let pipeline = |setting, name: &str| Odd::Pipeline { setting, pipeline: name.into() };
        let wanted = [
            Odd::NotDurable("ASYNC".into()),
            Odd::ForgetsEarly("60s".into()),
            pipeline("index.default_pipeline", "a"),
            pipeline("index.final_pipeline", "b"),
        ];
        assert_eq!(odd(all), wanted);
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
}
