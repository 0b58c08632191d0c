//! An instant sink: it speaks what Rowtide asks of Elasticsearch and takes every document at once, so
//! that a bench measures Rowtide and not a search engine. It keeps the version rules, and what it
//! holds can be proved against the database: count, ids, and a sum of hashes of the content.

use std::collections::{BTreeMap, HashMap};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use md5::{Digest, Md5};
use memchr::{memchr_iter, memmem};
use serde_json::{Value, json};

/// What is held.
#[derive(Default)]
pub struct Held {
    /// By id: version, and the hash of id and document (`None`: deleted).
    documents: HashMap<Box<[u8]>, (u64, Option<u64>)>,
    /// Actions received, whatever came of them.
    pub received: u64,
    pub stale: u64,
    /// When a document whose name is `lat:<number>` was answered.
    pub answered: HashMap<u64, Instant>,
    /// Bodies of bulk requests, while somebody wants them.
    pub recorded: Option<Vec<Bytes>>,
    /// The name of the index that was made, and what was asked for.
    pub made: Option<(String, Value)>,
    states: BTreeMap<String, (u64, Value)>,
}

impl Held {
    /// Documents that live.
    pub fn count(&self) -> u64 {
        self.documents.values().filter(|(_, hash)| hash.is_some()).count() as u64
    }

    /// The sum, modulo 2^64, of each document's hash.
    pub fn content(&self) -> u64 {
        self.documents.values().filter_map(|(_, hash)| *hash).fold(0, u64::wrapping_add)
    }
}

pub type Shared = Arc<Mutex<Held>>;

/// The index of posts that are no documents: only when they are answered is noted.
pub const DIRECT: &str = "direct";

/// Starts it on a free loopback port.
pub fn start() -> (u16, Shared) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.set_nonblocking(true).expect("a socket");
    let port = listener.local_addr().expect("an address").port();
    let held = Shared::default();
    let app = Router::new().fallback(answer).with_state(held.clone());
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::from_std(listener).expect("a listener");
            axum::serve(listener, app).await.expect("the sink serves");
        });
    });
    (port, held)
}

async fn answer(State(held): State<Shared>, request: Request<Body>) -> Response {
    let (parts, body) = request.into_parts();
    let path = parts.uri.path().to_owned();
    let query = parts.uri.query().unwrap_or_default().to_owned();
    let body = to_bytes(body, usize::MAX).await.expect("a whole request");
    let mut held = held.lock().expect("the sink is sound");
    let (status, text) = match (&parts.method, path.as_str()) {
        (&Method::POST, "/_bulk") => (200, bulk(&mut held, &body)),
        (_, "/_tasks") => (200, json!({"nodes": {}}).to_string()),
        (_, path) if path.ends_with("/_refresh") => (200, json!({"_shards": {"failed": 0}}).to_string()),
        (_, path) if path.ends_with("/_count") => {
            (200, json!({"count": held.count(), "_shards": {"failed": 0}}).to_string())
        }
        (method, path) if path.starts_with("/rowtide-state/") => {
            state(&mut held, method == Method::GET, path, &query, &body)
        }
        (&Method::GET, "/") => (200, json!({"version": {"number": "8.19.0"}}).to_string()),
        (&Method::PUT, "/rowtide-state") => (200, "{}".to_owned()),
        // Nothing is refreshed or copied here.
        (&Method::PUT, path) if path.ends_with("/_settings") || path.ends_with("/_mapping") => {
            (200, "{}".to_owned())
        }
        (&Method::PUT, path) => {
            let made: Value = serde_json::from_slice(&body).expect("an index");
            held.made = Some((path[1..].to_owned(), made));
            (200, "{}".to_owned())
        }
        (&Method::GET, path) => index(&held, path),
        _ => (404, json!({"error": {"type": "not_known_to_the_sink"}, "status": 404}).to_string()),
    };
    let status = StatusCode::from_u16(status).expect("a status");
    // Rowtide believes only what the cluster itself says.
    let headers = [("content-type", "application/json"), ("x-elastic-product", "Elasticsearch")];
    (status, headers, text).into_response()
}

fn index(held: &Held, path: &str) -> (u16, String) {
    match &held.made {
        Some((name, made)) if !path.contains('*') => {
            let settings = json!({"index": {"uuid": "sink", "gc_deletes": "1h"}});
            (200, json!({name: {"settings": settings, "mappings": made["mappings"]}}).to_string())
        }
        Some(_) => (200, "{}".to_owned()),
        None => {
            let error = json!({"type": "index_not_found_exception", "reason": "no such index"});
            (404, json!({"error": error, "status": 404}).to_string())
        }
    }
}

fn state(held: &mut Held, get: bool, path: &str, query: &str, body: &[u8]) -> (u16, String) {
    let id = path.rsplit('/').next().unwrap_or_default().to_owned();
    let found = held.states.get(&id);
    if get {
        return match found {
            Some((seq, document)) => {
                let all = json!({"_id": id, "found": true, "_seq_no": seq, "_primary_term": 1, "_source": document});
                (200, all.to_string())
            }
            None => (404, json!({"_index": "rowtide-state", "_id": id, "found": false}).to_string()),
        };
    }
    let wanted = query.split('&').find_map(|part| part.strip_prefix("if_seq_no="));
    let expected = wanted.and_then(|text| text.parse::<u64>().ok());
    if found.map(|(seq, _)| *seq) != expected {
        return (409, json!({"error": {"type": "version_conflict_engine_exception"}}).to_string());
    }
    let seq = expected.map_or(0, |seq| seq + 1);
    held.states.insert(id, (seq, serde_json::from_slice(body).expect("a state document")));
    (201, json!({"_seq_no": seq, "_primary_term": 1}).to_string())
}

/// Judges each action by `external_gte`.
fn bulk(held: &mut Held, body: &Bytes) -> String {
    if let Some(recorded) = &mut held.recorded {
        recorded.push(body.clone());
    }
    let mut answer = String::with_capacity(body.len() / 8);
    answer.push_str("{\"errors\":false,\"items\":[");
    let mut begin = 0;
    let mut lines = memchr_iter(b'\n', body).map(|end| &body[std::mem::replace(&mut begin, end + 1)..end]);
    let mut marks = Vec::new();
    let mut separator = "";
    while let Some(line) = lines.next() {
        let kind = if line.starts_with(b"{\"index\"") {
            "index"
        } else if line.starts_with(b"{\"delete\"") {
            "delete"
        } else {
            // Rowtide's guard: an update of a document that is not there.
            lines.next();
            answer.push_str(separator);
            answer.push_str("{\"update\":{\"status\":404}}");
            separator = ",";
            continue;
        };
        let document = if kind == "index" { lines.next() } else { None };
        marks.extend(document.and_then(|document| number_after(document, b"\"name\":\"lat:")));
        let status =
            if after(line, b"\"_index\":\"direct\"").is_some() { 200 } else { one(held, line, document) };
        answer.push_str(separator);
        answer.push_str("{\"");
        answer.push_str(kind);
        answer.push_str("\":{\"status\":");
        answer.push_str(if status == 409 { "409" } else { "200" });
        if status == 409 {
            answer.push_str(",\"error\":{\"type\":\"version_conflict_engine_exception\",\"reason\":\"\"}");
        }
        answer.push_str("}}");
        separator = ",";
    }
    answer.push_str("]}");
    if answer.contains("\"status\":409") {
        answer = answer.replacen("\"errors\":false", "\"errors\":true", 1);
    }
    let now = Instant::now();
    held.answered.extend(marks.into_iter().map(|mark| (mark, now)));
    answer
}

fn one(held: &mut Held, line: &[u8], document: Option<&[u8]>) -> u16 {
    held.received += 1;
    let id = after(line, b"\"_id\":\"").expect("an id");
    let id = &id[..id.iter().position(|byte| *byte == b'"').expect("an end")];
    let version = number_after(line, b"\"version\":").expect("a version");
    if let Some((old, _)) = held.documents.get(id)
        && *old > version
    {
        held.stale += 1;
        return 409;
    }
    let hash = document.map(|document| {
        let digest = Md5::new().chain_update(id).chain_update(b"\n").chain_update(document).finalize();
        u64::from_be_bytes(digest[..8].try_into().expect("eight bytes"))
    });
    match held.documents.get_mut(id) {
        Some(old) => *old = (version, hash),
        None => drop(held.documents.insert(id.into(), (version, hash))),
    }
    200
}

fn number_after(text: &[u8], mark: &[u8]) -> Option<u64> {
    let digits = after(text, mark)?.iter().take_while(|byte| byte.is_ascii_digit());
    Some(digits.fold(0_u64, |number, digit| number * 10 + u64::from(digit - b'0')))
}

fn after<'a>(text: &'a [u8], mark: &[u8]) -> Option<&'a [u8]> {
    memmem::find(text, mark).map(|place| &text[place + mark.len()..])
}
