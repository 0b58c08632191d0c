//! What the answer to a bulk request says, item by item (T30, T32).
//!
//! The answer is asked for with `filter_path`, so an item is `{"index":{"status":201}}`, and an error
//! adds type and reason. No tree is built; texts are copied only for items that failed. When nothing
//! failed, nothing is parsed: the bytes that every tested server then writes are compared one by one.
//!
//! Without `items.*.status` the answer would be `{"errors":false}`, and say nothing of how many actions
//! it is about: a body that was cut on its way at the end of a line would pass for a whole one. So the
//! items are asked for, some 30 bytes each, and counted.

use std::borrow::Cow;

use serde::Deserialize;

use crate::target::{Outcome, TargetError};

/// Beside the bulk request's path: the least that judges every item.
pub(super) const FILTER: &str = "filter_path=errors,items.*.status,items.*.error.type,items.*.error.reason";

const CONTEXT: &str = "bulk";

#[derive(Deserialize)]
struct BulkAnswer<'a> {
    #[serde(borrow)]
    items: Vec<Item<'a>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Item<'a> {
    #[serde(borrow)]
    Index(Done<'a>),
    #[serde(borrow)]
    Create(Done<'a>),
    #[serde(borrow)]
    Update(Done<'a>),
    #[serde(borrow)]
    Delete(Done<'a>),
}

#[derive(Deserialize)]
struct Done<'a> {
    status: u16,
    #[serde(borrow)]
    error: Option<Error<'a>>,
}

#[derive(Deserialize)]
struct Error<'a> {
    #[serde(borrow, rename = "type")]
    kind: Cow<'a, str>,
    #[serde(borrow)]
    reason: Option<Cow<'a, str>>,
}

/// Judges an answer with status 200: the first `wanted` of exactly `items` items.
///
/// Anything but as many well-formed items as there were actions says nothing certain about any.
pub(super) fn judge(body: &[u8], wanted: usize, items: usize) -> Result<Vec<Outcome>, TargetError> {
    if all_written(body, items) {
        return Ok(vec![Outcome::Written; wanted]);
    }
    judge_each(body, wanted, items)
}

/// Whether the answer is, byte by byte, one in which each of exactly `items` actions was written. Any
/// other form, right or wrong, is left to [`judge_each`].
fn all_written(body: &[u8], items: usize) -> bool {
    const INDEX: &[u8] = br#"{"index":{"status":"#;
    const DELETE: &[u8] = br#"{"delete":{"status":"#;
    let Some(mut rest) = body.strip_prefix(br#"{"errors":false,"items":["#) else { return false };
    for left in (0..items).rev() {
        let (after, is_delete) = match (rest.strip_prefix(INDEX), rest.strip_prefix(DELETE)) {
            (Some(after), _) => (after, false),
            (None, Some(after)) => (after, true),
            (None, None) => return false,
        };
        let Some((status, after)) = after.split_first_chunk::<3>() else { return false };
        if !matches!((status, is_delete), (b"200" | b"201", _) | (b"404", true)) {
            return false;
        }
        let end: &[u8] = if left > 0 { b"}}," } else { b"}}]}" };
        let Some(after) = after.strip_prefix(end) else { return false };
        rest = after;
    }
    items > 0 && rest.is_empty()
}

fn judge_each(body: &[u8], wanted: usize, items: usize) -> Result<Vec<Outcome>, TargetError> {
    let answer: BulkAnswer<'_> = serde_json::from_slice(body).map_err(|error| TargetError::Unresolved {
        context: CONTEXT,
        // Position only: the parser's words may quote a document.
        reason: format!("not a bulk answer: {:?} at byte {}", error.classify(), error.column()),
    })?;
    if answer.items.len() != items {
        let reason = format!("{} outcomes for {items} actions", answer.items.len());
        return Err(TargetError::Unresolved { context: CONTEXT, reason });
    }
    Ok(answer.items.into_iter().take(wanted).map(outcome).collect())
}

fn outcome(item: Item<'_>) -> Outcome {
    let (is_delete, done) = match item {
        Item::Delete(done) => (true, done),
        Item::Index(done) | Item::Create(done) | Item::Update(done) => (false, done),
    };
    match (done.status, done.error) {
        (200 | 201, None) => Outcome::Written,
        // Without an error it is the document that was not there. With one it is the index (T45).
        (404, None) if is_delete => Outcome::Written,
        (409, Some(error)) if error.kind == "version_conflict_engine_exception" => Outcome::Stale,
        (status, error) => {
            let (kind, reason) = error.map_or((Cow::Borrowed("unknown"), None), |e| (e.kind, e.reason));
            let reason = reason.unwrap_or_default().into_owned();
            Outcome::Failed { status, kind: kind.into_owned(), reason }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    // Recorded from Elasticsearch 8.19.21 and OpenSearch 2.19.6 for the same ten actions.
    const ES8: &str = r#"{"errors":true,"items":[{"index":{"status":400,"error":{"type":"document_parsing_exception","reason":"[1:31] failed to parse field [b] of type [boolean] in document with id '1'. Preview of field's value: 'x\"}'"}}},{"index":{"status":201}},{"index":{"status":409,"error":{"type":"version_conflict_engine_exception","reason":"[1]: version conflict, current version [5] is higher than the one provided [4]"}}},{"delete":{"status":404}},{"delete":{"status":200}},{"delete":{"status":404}},{"delete":{"status":409,"error":{"type":"version_conflict_engine_exception","reason":"[1]: version conflict, current version [5] is higher than the one provided [4]"}}},{"index":{"status":404,"error":{"type":"index_not_found_exception","reason":"no such index [nope] and [require_alias] request flag is [true] and [nope] is not an alias"}}},{"index":{"status":404,"error":{"type":"index_not_found_exception","reason":"no such index [t-rowtide-1] and [require_alias] request flag is [true] and [t-rowtide-1] is not an alias"}}},{"delete":{"status":404,"error":{"type":"index_not_found_exception","reason":"no such index [nope]"}}}]}"#;
    const OS2: &str = r#"{"errors":true,"items":[{"index":{"status":400,"error":{"type":"mapper_parsing_exception","reason":"failed to parse field [b] of type [boolean] in document with id '1'. Preview of field's value: 'x\"}'"}}},{"index":{"status":201}},{"index":{"status":409,"error":{"type":"version_conflict_engine_exception","reason":"[1]: version conflict, current version [5] is higher than the one provided [4]"}}},{"delete":{"status":404}},{"delete":{"status":200}},{"delete":{"status":404}},{"delete":{"status":409,"error":{"type":"version_conflict_engine_exception","reason":"[1]: version conflict, current version [5] is higher than the one provided [4]"}}},{"index":{"status":404,"error":{"type":"index_not_found_exception","reason":"no such index [nope] and [require_alias] request flag is [true] and [nope] is not an alias"}}},{"index":{"status":404,"error":{"type":"index_not_found_exception","reason":"no such index [t-rowtide-1] and [require_alias] request flag is [true] and [t-rowtide-1] is not an alias"}}},{"delete":{"status":404,"error":{"type":"index_not_found_exception","reason":"no such index [nope]"}}}]}"#;

    #[test]
    fn every_item_of_a_real_answer_is_judged() {
        for (recorded, parsing) in [(ES8, "document_parsing_exception"), (OS2, "mapper_parsing_exception")] {
            let outcomes = judge(recorded.as_bytes(), 10, 10).unwrap();
            let failed = |at: usize, status: u16, kind: &str| {
                assert!(
                    matches!(&outcomes[at], Outcome::Failed { status: s, kind: k, .. } if *s == status && k == kind),
                    "{at}: {:?}",
                    outcomes[at]
                );
            };
            failed(0, 400, parsing);
            assert_eq!(outcomes[1..7], {
                use Outcome::{Stale, Written};
                [Written, Stale, Written, Written, Written, Stale]
            });
            for at in 7..10 {
                failed(at, 404, "index_not_found_exception");
            }
        }
    }

    // Recorded from Elasticsearch 7.17.29, 8.19.21, 9.5.3 and OpenSearch 2.19.6, 3.8.0, all the same bytes.
    const PLAIN: &str = r#"{"errors":false,"items":[{"index":{"status":201}},{"delete":{"status":404}}]}"#;

    #[test]
    fn an_answer_in_which_nothing_failed_is_counted_and_not_parsed() {
        assert!(all_written(PLAIN.as_bytes(), 2));
        let all = |status: &str| PLAIN.replace("201", status);
        for not in [
            PLAIN.replace("false", "true"),
            all("404"),
            all("409"),
            all("20"),
            all("2010"),
            format!("{PLAIN} "),
            format!(" {PLAIN}"),
            PLAIN.replace("}},{", "}}{"),
            PLAIN.replace("]}", ",]}"),
            PLAIN.replace("index", "update"),
            PLAIN[..PLAIN.len() - 1].to_owned(),
        ] {
            assert!(!all_written(not.as_bytes(), 2), "{not}");
        }
        for items in [0, 1, 3] {
            assert!(!all_written(PLAIN.as_bytes(), items), "{items}");
        }
        assert!(!all_written(br#"{"errors":false,"items":[]}"#, 0));
    }

    proptest::proptest! {
        /// What is believed without a parser is what the parser says.
        #[test]
        fn both_ways_say_the_same(
            kinds in proptest::collection::vec(0..6_usize, 1..6),
            items in 1..6_usize,
            change in proptest::option::of((0..400_usize, proptest::num::u8::ANY)),
        ) {
            let item = |kind: &usize| [
                r#"{"index":{"status":200}}"#, r#"{"index":{"status":201}}"#, r#"{"delete":{"status":200}}"#,
                r#"{"delete":{"status":404}}"#, r#"{"index":{"status":404}}"#, r#"{"create":{"status":201}}"#,
            ][*kind];
            let list: Vec<&str> = kinds.iter().map(item).collect();
            let mut body = format!("{{\"errors\":false,\"items\":[{}]}}", list.join(",")).into_bytes();
            if let Some((at, byte)) = change {
                let at = at % body.len();
                body[at] = byte;
            }
            if all_written(&body, items) {
                proptest::prop_assert_eq!(judge_each(&body, items, items).unwrap(), vec![Outcome::Written; items]);
            } else if change.is_none() && items == kinds.len() && kinds.iter().all(|kind| *kind < 4) {
                proptest::prop_assert!(false, "parsed without need");
            }
        }
    }

    #[test]
    fn the_guards_at_the_end_must_be_answered_but_are_not_told() {
        assert_eq!(judge(ES8.as_bytes(), 2, 10).unwrap().len(), 2);
    }

    #[test]
    fn anything_but_one_item_for_each_action_is_unresolved() {
        let short = r#"{"errors":false,"items":[{"index":{"status":201}}]}"#;
        let wrong = [
            short.to_owned(),
            short.replace("]}", ""),
            "<html><body>502 Bad Gateway</body></html>".to_owned(),
            String::new(),
            "{}".to_owned(),
            r#"{"errors":false}"#.to_owned(),
            r#"{"items":[{"index":{}},{"index":{"status":201}}]}"#.to_owned(),
            r#"{"items":[{"other":{"status":200}},{"index":{"status":201}}]}"#.to_owned(),
            r#"{"items":[{"index":{"status":201}},{"index":{"status":201}}]} and more"#.to_owned(),
        ];
        for body in wrong {
            let judged = judge(body.as_bytes(), 2, 2);
            assert!(matches!(judged, Err(TargetError::Unresolved { .. })), "{body}: {judged:?}");
        }
    }

    #[test]
    fn a_conflict_of_another_kind_is_not_stale_and_a_success_has_no_error() {
        let odd = r#"{"items":[{"index":{"status":409,"error":{"type":"x","reason":null}}},{"index":{"status":409}},{"index":{"status":200,"error":{"type":"y"}}},{"index":{"status":404}}]}"#;
        for outcome in judge(odd.as_bytes(), 4, 4).unwrap() {
            assert!(matches!(outcome, Outcome::Failed { .. }), "{outcome:?}");
        }
    }
}
