//! A bulk request on the wire.
//!
//! `require_alias` does not hold for deletes: a delete with an external version to an index that is
//! not there *makes the index*, with a dynamic mapping, and is answered with a plain 404 (seen on
//! Elasticsearch 8.19 and OpenSearch 2.19; T45). Only when another action of the same request names
//! the same index with `require_alias` is nothing made. So an alias that is only deleted from gets a
//! guard at the request's end: an update of a document that is never there. It writes nothing, and
//! with it a delete from a missing alias fails as `index_not_found_exception`, like a put.

use std::collections::{BTreeMap, VecDeque};
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use memchr::{memchr, memmem};
use serde::Deserialize;

const DELETE: &[u8] = b"{\"delete\"";
const GUARD_ID: &str = "rowtide:guard";

/// The guards for a body, and how many.
pub(super) fn guards(body: &[u8]) -> (Bytes, usize) {
    // A backfill has no deletes; looking for one costs a fraction of reading the body.
    if memmem::find(body, DELETE).is_none() {
        return (Bytes::new(), 0);
    }
    let mut lines = String::new();
    let mut count = 0;
    for (index, _) in deleted_from(body).into_iter().filter(|(_, put)| !put) {
        let action = serde_json::json!({ "update": { "_index": index, "_id": GUARD_ID } });
        lines.push_str(&format!("{action}\n{{\"doc\":{{}}}}\n"));
        count += 1;
    }
    (Bytes::from(lines), count)
}

/// The indices that are deleted from, each with whether something is put into it as well.
fn deleted_from(body: &[u8]) -> BTreeMap<String, bool> {
    #[derive(Deserialize)]
    #[serde(rename_all = "lowercase")]
    enum Action {
        Index(Meta),
        Create(Meta),
        Delete(Meta),
    }
    #[derive(Deserialize)]
    struct Meta {
        _index: String,
    }
    let mut puts = std::collections::BTreeSet::new();
    let mut deletes = BTreeMap::new();
    let mut rest = body;
    while let Some(end) = memchr(b'\n', rest) {
        let (line, after) = (&rest[..end], &rest[end + 1..]);
        rest = after;
        match serde_json::from_slice(line) {
            Ok(Action::Delete(meta)) => {
                deletes.entry(meta._index).or_insert(false);
            }
            Ok(Action::Index(meta) | Action::Create(meta)) => {
                puts.insert(meta._index);
                rest = memchr(b'\n', rest).map_or(&[], |end| &rest[end + 1..]);
            }
            // The target itself refuses it.
            Err(_) => break,
        }
    }
    for (index, put) in &mut deletes {
        *put = puts.contains(index);
    }
    deletes
}

/// A body in several pieces, so that guards do not copy what they follow.
pub(super) struct Parts(VecDeque<Bytes>);

impl Parts {
    pub(super) fn new(parts: impl Into<VecDeque<Bytes>>) -> Self {
        Self(parts.into())
    }
}

impl Body for Parts {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        Poll::Ready(self.0.pop_front().map(|part| Ok(Frame::data(part))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_empty()
    }

    // Exact, so that the request carries its length and is not chunked.
    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.0.iter().map(|part| part.len() as u64).sum())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn t45_an_alias_that_is_only_deleted_from_gets_a_guard() {
        let put =
            "{\"index\":{\"_index\":\"a\",\"_id\":\"1\",\"version\":1}}\n{\"delete\":{\"_index\":\"z\"}}\n";
        let delete = |index: &str| format!("{{\"delete\":{{\"_index\":\"{index}\",\"_id\":\"1\"}}}}\n");
        let guarded = |body: String| {
            let (lines, count) = guards(body.as_bytes());
            let text = String::from_utf8(lines.to_vec()).unwrap();
            assert_eq!(text.lines().count(), count * 2, "{text}");
            ["a", "b", "z"]
                .into_iter()
                .filter(|i| text.contains(&format!("\"_index\":\"{i}\"")))
                .collect::<String>()
        };
        assert_eq!(guarded(put.to_owned()), "");
        assert_eq!(guarded(delete("a")), "a");
        assert_eq!(guarded(delete("a") + put), "");
        assert_eq!(guarded(delete("b") + put + &delete("a") + &delete("b")), "b");
        assert_eq!(guarded(delete("b") + &delete("a")), "ab");
    }
}
