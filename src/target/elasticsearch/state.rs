//! The state document of law 1, in Rowtide's own index, changed only by compare-and-set.

use reqwest::Method;
use serde::Deserialize;
use serde_json::{Value, json};

use super::client::{Call, Client, error_of, escape, failure, parse};
use crate::lease::VERSION_MAX;
use crate::target::{Revision, StateDocument, Stored, TargetError};

/// Hidden from `*`, so that nobody searches or deletes it unasked.
const INDEX: &str = "rowtide-state";
/// The newest format of the document that is known here.
const FORMAT: u32 = 1;
/// A day: no lease of any version lasts longer.
const TTL_MS_MAX: u64 = 86_400_000;

#[derive(Deserialize)]
struct Found {
    _seq_no: u64,
    _primary_term: u64,
    _source: Value,
}

/// A read by id sees the last write, refreshed or not.
pub(super) async fn load(client: &Client, id: &str) -> Result<Option<Stored>, TargetError> {
    const CONTEXT: &str = "read state document";
    let path = format!("/{INDEX}/_doc/{}", escape(id));
    let answer = client.send(Call::new(CONTEXT, Method::GET, &path)).await?;
    match answer.status {
        200 => {}
        // Neither the document nor its index; any other 404 is not an answer of a cluster.
        404 if is_absent(&answer.body) => return Ok(None),
        _ => return Err(failure(CONTEXT, &answer)),
    }
    let found: Found = parse(CONTEXT, &answer)?;
    let document = understand(id, found._source)?;
    let revision = Revision { seq_no: found._seq_no, primary_term: found._primary_term };
    Ok(Some(Stored { document, revision }))
}

fn is_absent(body: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct Absent {
        found: bool,
    }
    let no_document = serde_json::from_slice::<Absent>(body).is_ok_and(|absent| !absent.found);
    no_document || error_of(body).is_some_and(|error| error.kind == "index_not_found_exception")
}

pub(super) fn understand(id: &str, source: Value) -> Result<StateDocument, TargetError> {
    let halt = |reason: String, hint: &str| TargetError::Halt {
        context: "read state document",
        reason,
        hint: hint.to_owned(),
    };
    let format = source["format"].as_u64();
    if format != Some(u64::from(FORMAT)) {
        let found = format.map_or_else(|| "unreadable".to_owned(), |format| format.to_string());
        let reason =
            format!("the document {id} in {INDEX} has format {found}; this Rowtide knows format {FORMAT}");
        return Err(halt(reason, "run the version of Rowtide that wrote it, or a newer one"));
    }
    let wrong = |what: String| {
        let reason = format!("the document {id} in {INDEX} is not as Rowtide wrote it: {what}");
        halt(reason, "restore the document, or delete it together with the pipeline's indices and start over")
    };
    let document: StateDocument = serde_json::from_value(source).map_err(|error| wrong(error.to_string()))?;
    match impossible(&document) {
        Some(what) => Err(wrong(what.to_owned())),
        None => Ok(document),
    }
}

/// What no Rowtide writes. Counting on from it would leave the numbers' range, or wait for years.
fn impossible(document: &StateDocument) -> Option<&'static str> {
    if document.ceiling > VERSION_MAX {
        return Some("its ceiling is above 2^53-1");
    }
    if document.base.unsigned_abs() > VERSION_MAX + 1 {
        return Some("its base is beyond 2^53");
    }
    let lease = document.lease.as_ref()?;
    if lease.beat > VERSION_MAX {
        return Some("its beat is above 2^53-1");
    }
    (lease.ttl_ms > TTL_MS_MAX).then_some("its lease lasts longer than a day")
}

pub(super) async fn save(
    client: &Client,
    id: &str,
    document: &StateDocument,
    seen: Option<Revision>,
) -> Result<Revision, TargetError> {
    const CONTEXT: &str = "write state document";
    #[derive(Deserialize)]
    struct Saved {
        _seq_no: u64,
        _primary_term: u64,
    }
    let path = match seen {
        Some(Revision { seq_no, primary_term }) => {
            let condition = format!("if_seq_no={seq_no}&if_primary_term={primary_term}");
            format!("/{INDEX}/_doc/{}?{condition}", escape(id))
        }
        None => {
            make_index(client).await?;
            format!("/{INDEX}/_create/{}", escape(id))
        }
    };
    let body = serde_json::to_value(document).map_err(|error| TargetError::Halt {
        context: CONTEXT,
        reason: error.to_string(),
        hint: "this is a fault in Rowtide: please report it".to_owned(),
    })?;
    let answer = client.send(Call::new(CONTEXT, Method::PUT, &path).json(&body)).await?;
    match answer.status {
        200 | 201 => {}
        409 => {
            let reason = format!("somebody else has written the document {id} in {INDEX}");
            return Err(TargetError::Conflict { context: CONTEXT, reason });
        }
        _ => return Err(failure(CONTEXT, &answer)),
    }
    let saved: Saved = parse(CONTEXT, &answer)?;
    Ok(Revision { seq_no: saved._seq_no, primary_term: saved._primary_term })
}

pub(super) async fn delete(client: &Client, id: &str, seen: Revision) -> Result<(), TargetError> {
    const CONTEXT: &str = "delete state document";
    let Revision { seq_no, primary_term } = seen;
    let condition = format!("if_seq_no={seq_no}&if_primary_term={primary_term}");
    let path = format!("/{INDEX}/_doc/{}?{condition}", escape(id));
    let answer = client.send(Call::new(CONTEXT, Method::DELETE, &path)).await?;
    match answer.status {
        200 => Ok(()),
        // A condition on a document that is gone is a conflict as well.
        409 => {
            let reason = format!("somebody else has written the document {id} in {INDEX}");
            Err(TargetError::Conflict { context: CONTEXT, reason })
        }
        _ => Err(failure(CONTEXT, &answer)),
    }
}

async fn make_index(client: &Client) -> Result<(), TargetError> {
    const CONTEXT: &str = "create the index of state documents";
    let body = json!({
        "settings": { "index": {
            "number_of_shards": 1, "auto_expand_replicas": "0-1", "hidden": true,
            "translog.durability": "request",
        } },
        "mappings": { "dynamic": false, "_meta": { "rowtide": { "format": FORMAT } } },
    });
    let path = format!("/{INDEX}");
    let answer = client.send(Call::new(CONTEXT, Method::PUT, &path).json(&body)).await?;
    let kind = error_of(&answer.body).map(|error| error.kind).unwrap_or_default();
    match (answer.status, kind.as_str()) {
        (200, _) | (400, "resource_already_exists_exception") => Ok(()),
        _ => Err(failure(CONTEXT, &answer)),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn a_newer_format_is_refused_by_name() {
        let error = understand("shop", json!({ "format": 2, "identity": 7 })).unwrap_err();
        assert!(matches!(error, TargetError::Halt { .. }));
        assert!(error.to_string().contains("format 2"), "{error}");
    }

    #[test]
    fn numbers_that_nobody_wrote_are_refused_before_anything_counts_on_them() {
        let fine = json!({ "format": 1, "identity": "x", "base": -5, "ceiling": VERSION_MAX, "indices": {},
            "lease": { "owner": "a/b", "beat": 7, "ttl_ms": 10_000 } });
        assert!(understand("shop", fine.clone()).is_ok());
        for (place, wrong) in [
            ("/ceiling", json!(u64::MAX)),
            ("/ceiling", json!(VERSION_MAX + 1)),
            ("/base", json!(i64::MIN)),
            ("/lease/beat", json!(u64::MAX)),
            ("/lease/ttl_ms", json!(u64::MAX)),
        ] {
            let mut document = fine.clone();
            *document.pointer_mut(place).unwrap() = wrong;
            let error = understand("shop", document).unwrap_err().to_string();
            assert!(error.contains("not as Rowtide wrote it"), "{place}: {error}");
        }
    }

    #[test]
    fn only_the_cluster_itself_can_say_that_there_is_no_document() {
        assert!(is_absent(br#"{"_index":"rowtide-state","_id":"x","found":false}"#));
        assert!(is_absent(
            br#"{"error":{"type":"index_not_found_exception","reason":"no such index"},"status":404}"#
        ));
        for other in [&b"<html>not found</html>"[..], b"{}", br#"{"error":"no handler"}"#] {
            assert!(!is_absent(other));
        }
    }
}
