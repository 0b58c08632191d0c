//! The answers, without a connection.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Request, StatusCode};
use serde_json::{Value, json};
use sources::source::{SourceStatus, TableProgress};
use sources::world::RealWorld;
use tokio::sync::watch;

use super::{Channel, Entry, routes::ROUTES};
use crate::config::{HttpSettings, Secret};
use crate::controls::{Controls, Sent, Throttle};
use crate::ledger::{Counts, Ends};
use crate::status::{MemoryStatus, State, Status, TargetStatus};

const ADMIN: &str = "admin-0123456789";
const READ: &str = "reader-0123456789";

/// Everything that can be said is said, with a value of its own.
fn full_status() -> Status {
    let ends = Ends { written: 11, stale: 12, superseded: 13, filtered: 14, dead_lettered: 15 };
    let counts = Counts { read: 100, ends };
    let table =
        |name: &str, done| TableProgress { name: name.to_owned(), rows_estimated: 50, rows_read: 40, done };
    let target = |name: &str| TargetStatus {
        name: name.to_owned(),
        counts,
        waiting_for: Some("an answer".to_owned()),
        dead_letters: 15,
    };
    Status {
        state: State::Waiting,
        reason: Some("the target".to_owned()),
        source: SourceStatus {
            tables: vec![table("public.a", true), table("public.b", false)],
            log_held_bytes: 1_001,
            log_left_bytes: Some(1_002),
            log_held_time_left: Some(Duration::from_secs(1_003)),
            log_behind_bytes: 1_004,
            rows_read: 80,
            ..SourceStatus::default()
        },
        counts,
        targets: vec![target("search"), target("second")],
        docs_per_s: 17.5,
        sent: Sent { documents: 200, bytes: 20_000 },
        bytes_per_s: 1_750.0,
        lag: Some(Duration::from_millis(2_500)),
        memory: MemoryStatus { used: 5, most: 6, limit: 7 },
        checkpoint_age: Some(Duration::from_millis(300)),
    }
}

fn entry(name: &str, status: Status) -> Entry {
    let (_, status) = watch::channel(status);
    let targets = vec!["search".to_owned(), "second".to_owned()];
    Entry {
        name: name.to_owned(),
        source: "shop".to_owned(),
        targets,
        status,
        controls: Controls::default(),
        restart: None,
    }
}

fn channel(admin: Option<&str>, read: Option<&str>) -> Channel {
    let settings = HttpSettings {
        listen: "127.0.0.1:7171".parse().unwrap(),
        admin_token: admin.map(Secret::new),
        read_token: read.map(Secret::new),
    };
    let entries = vec![entry("full", full_status()), entry("fresh", Status::default())];
    Channel::new(&settings, entries, 256 << 20, &RealWorld::shared())
}

struct Said {
    status: StatusCode,
    text: String,
}

impl Said {
    fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {}", self.text))
    }

    fn code(&self) -> String {
        self.json()["error"]["code"].as_str().unwrap_or_default().to_owned()
    }
}

/// `headers` beside or instead of a Host of this machine.
async fn ask_with(channel: &Channel, line: &str, headers: &[(&str, &str)], body: &str) -> Said {
    let (method, path) = line.split_once(' ').unwrap();
    let mut request = Request::builder().method(method).uri(path);
    if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
        request = request.header("host", "127.0.0.1:7171");
    }
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Full::new(Bytes::from(body.to_owned()))).unwrap();
    let (head, body) = channel.answer(request).await.into_parts();
    let text = String::from_utf8(body.collect().await.unwrap().to_bytes().to_vec()).unwrap();
    Said { status: head.status, text }
}

async fn ask(channel: &Channel, line: &str) -> Said {
    ask_with(channel, line, &[], "").await
}

#[tokio::test]
async fn the_document_names_every_route_and_no_other() {
    let document = ask(&channel(None, None), "GET /api/v1/openapi.json").await.json();
    let mut named: Vec<(String, String)> = Vec::new();
    for (path, methods) in document["paths"].as_object().unwrap() {
        named.extend(methods.as_object().unwrap().keys().map(|method| (method.clone(), path.clone())));
    }
    named.sort_by(|a, b| a.1.cmp(&b.1));
    let routes: Vec<(String, String)> =
        ROUTES.iter().map(|(method, path)| ((*method).to_owned(), (*path).to_owned())).collect();
    assert_eq!(named, routes);
    let channel = channel(None, None);
    for (method, path) in ROUTES {
        let line = format!("{} {}", method.to_uppercase(), path.replace("{name}", "full"));
        let said = ask_with(&channel, &line, &[], "{}").await;
        assert!(!matches!(said.status.as_u16(), 404 | 405), "{line}: {}", said.status);
        let other = if *method == "get" { "DELETE" } else { "GET" };
        let line = format!("{other} {}", path.replace("{name}", "full"));
        assert_eq!(ask(&channel, &line).await.status, 405, "{line}");
    }
}

/// Follows a schema and an answer side by side: the same fields, the right kinds.
fn compare(document: &Value, schema: &Value, value: &Value, at: &str) {
    let schema = match schema["$ref"].as_str() {
        Some(link) => document.pointer(link.trim_start_matches('#')).unwrap(),
        None => schema,
    };
    let kinds: Vec<&str> = match &schema["type"] {
        Value::String(kind) => vec![kind],
        Value::Array(kinds) => kinds.iter().map(|kind| kind.as_str().unwrap()).collect(),
        other => panic!("{at}: no type in the document: {other}"),
    };
    let kind = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
        Value::Number(number) if number.is_u64() && kinds.contains(&"integer") => "integer",
        Value::Number(_) => "number",
    };
    assert!(kinds.contains(&kind), "{at}: {kind}, where the document has {kinds:?}");
    if let Some(words) = schema["enum"].as_array() {
        assert!(words.contains(value), "{at}: {value} is none of {words:?}");
    }
    for (number, item) in value.as_array().into_iter().flatten().enumerate() {
        compare(document, &schema["items"], item, &format!("{at}[{number}]"));
    }
    if let (Some(value), Some(properties)) = (value.as_object(), schema["properties"].as_object()) {
        let fields = |of: &serde_json::Map<String, Value>| of.keys().cloned().collect::<BTreeSet<_>>();
        assert_eq!(fields(value), fields(properties), "{at}");
        let required: BTreeSet<_> = schema["required"]
            .as_array()
            .unwrap()
            .iter()
            .map(|name| name.as_str().unwrap().to_owned())
            .collect();
        assert_eq!(fields(value), required, "{at}: every field is always there");
        for (name, inner) in value {
            compare(document, &properties[name], inner, &format!("{at}.{name}"));
        }
    }
}

#[tokio::test]
async fn the_document_names_every_field_of_every_answer_and_no_other() {
    let channel = channel(None, None);
    let document = ask(&channel, "GET /api/v1/openapi.json").await.json();
    let mut used = BTreeSet::new();
    for (line, status, schema) in [
        ("GET /api/v1/pipelines", 200, "Pipelines"),
        ("GET /api/v1/pipelines/full", 200, "One"),
        ("GET /api/v1/pipelines/fresh", 200, "One"),
        ("GET /api/v1/pipelines/none", 404, "Error"),
        ("POST /api/v1/pipelines/full/pause", 200, "Controlled"),
        ("POST /api/v1/pipelines/full/resume", 200, "Controlled"),
        ("POST /api/v1/pipelines/full/throttle", 200, "Controlled"),
        ("POST /api/v1/pipelines/full/restart", 501, "Error"),
        ("GET /healthz", 200, "Health"),
        ("GET /readyz", 503, "Health"),
    ] {
        let said = ask_with(&channel, line, &[], "{}").await;
        assert_eq!(said.status.as_u16(), status, "{line}");
        compare(&document, &json!({ "$ref": format!("#/components/schemas/{schema}") }), &said.json(), line);
        used.insert(schema);
    }
    let states = document.pointer("/components/schemas/Pipeline/properties/state/enum").unwrap();
    assert_eq!(*states, json!(State::ALL.map(State::name)));
    assert!(used.len() == 5, "{used:?}");
}

#[tokio::test]
async fn what_is_said_of_a_pipeline_is_its_status() {
    let channel = channel(None, None);
    let said = ask(&channel, "GET /api/v1/pipelines/full").await.json();
    let pipeline = &said["pipeline"];
    assert_eq!(pipeline["state"], "waiting");
    assert_eq!(pipeline["reason"], "the target");
    assert_eq!((pipeline["lag_seconds"].as_f64(), pipeline["lag_bytes"].as_u64()), (Some(2.5), Some(1_004)));
    assert_eq!(pipeline["log_left_seconds"], 1_003);
    assert_eq!(pipeline["memory"], json!({ "used_bytes": 5, "most_bytes": 6, "limit_bytes": 7 }));
    assert_eq!(pipeline["changes"]["in_flight"], 35);
    assert_eq!(pipeline["dead_letters"], 30, "of both targets");
    assert_eq!(pipeline["backfill"]["tables"][1]["rows_estimated"], 50);
    assert_eq!(pipeline["backfill"]["tables"][0]["name"], "public.b", "what is not read comes first");
    assert_eq!(
        (&pipeline["backfill"]["tables_total"], &pipeline["backfill"]["tables_done"]),
        (&json!(2), &json!(1))
    );
    assert_eq!(pipeline["backfill"]["done"], false);
    assert_eq!(said["process"]["max_rss_bytes"], 256 << 20);
    let fresh = &ask(&channel, "GET /api/v1/pipelines/fresh").await.json()["pipeline"];
    assert_eq!(fresh["lag_seconds"], Value::Null);
    assert_eq!(fresh["targets"][1]["name"], "second", "before it has said anything of them");
    assert_eq!(fresh["backfill"]["done"], false, "nothing is known of its tables yet");
}

#[tokio::test]
async fn of_thousands_of_tables_an_answer_names_a_hundred() {
    let mut status = full_status();
    let table = status.source.tables[0].clone();
    status.source.tables.extend((0..5_000).map(|_| table.clone()));
    let mut channel = channel(None, None);
    channel.entries = vec![entry("full", status)];
    let said = ask(&channel, "GET /api/v1/pipelines").await;
    let backfill = &said.json()["pipelines"][0]["backfill"];
    assert_eq!((&backfill["tables_total"], &backfill["tables_done"]), (&json!(5_002), &json!(5_001)));
    assert_eq!(backfill["tables"].as_array().unwrap().len(), 100);
    assert_eq!(backfill["tables"][0]["done"], false, "what is not read comes first");
    assert!(said.text.len() < 16 << 10, "{} bytes", said.text.len());
}

#[tokio::test]
async fn pause_resume_and_throttle_reach_one_pipeline_only() {
    let channel = channel(None, None);
    let controls = |number: usize| channel.entries[number].controls.clone();
    let said = ask(&channel, "POST /api/v1/pipelines/full/pause").await.json();
    assert_eq!(said["paused"], true);
    assert!(controls(0).is_paused() && !controls(1).is_paused());
    let throttle =
        async |body: &str| ask_with(&channel, "POST /api/v1/pipelines/full/throttle", &[], body).await;
    let both = Throttle { documents_per_s: Some(100), bytes_per_s: Some(4_096) };
    assert_eq!(throttle("{\"documents_per_s\":100,\"bytes_per_s\":4096}").await.status, 200);
    assert_eq!((controls(0).throttle(), controls(1).throttle()), (both, Throttle::default()));
    assert_eq!(throttle("{\"bytes_per_s\":null}").await.json()["throttle"]["bytes_per_s"], Value::Null);
    assert_eq!(controls(0).throttle(), Throttle { bytes_per_s: None, ..both });
    for wrong in [
        "",
        "{",
        "[]",
        "7",
        "{\"documents_per_s\":0}",
        "{\"documents_per_s\":-1}",
        "{\"documents_per_s\":1.5}",
        "{\"documents_per_s\":\"9\"}",
        "{\"docs\":9}",
        "{\"documents_per_s\":1,\"documents_per_s\":2}",
    ] {
        let said = throttle(wrong).await;
        assert_eq!((said.status.as_u16(), said.code().as_str()), (400, "bad-body"), "{wrong}");
        assert_eq!(
            controls(0).throttle(),
            Throttle { bytes_per_s: None, ..both },
            "{wrong} changed something"
        );
    }
    assert_eq!(ask_with(&channel, "POST /api/v1/pipelines/full/resume", &[], "[1]").await.status, 400);
    assert!(controls(0).is_paused());
    assert_eq!(ask(&channel, "POST /api/v1/pipelines/full/resume").await.status, 200);
    assert!(!controls(0).is_paused());
}

#[tokio::test]
async fn restart_is_whoever_can_do_it_s_business() {
    let mut channel = channel(None, None);
    let said = ask(&channel, "POST /api/v1/pipelines/full/restart").await;
    assert_eq!((said.status.as_u16(), said.code().as_str()), (501, "not-implemented"));
    let (told, asked) = std::sync::mpsc::channel();
    let told = std::sync::Mutex::new(told);
    channel.entries[0].restart = Some(std::sync::Arc::new(move || {
        told.lock().unwrap().send(()).map_err(|_| "it is stopping".to_owned())
    }));
    assert_eq!(ask(&channel, "POST /api/v1/pipelines/full/restart").await.status, 200);
    assert!(asked.try_recv().is_ok());
    drop(asked);
    let said = ask(&channel, "POST /api/v1/pipelines/full/restart").await;
    assert_eq!(said.status, 409);
    assert!(said.text.contains("it is stopping"));
}

#[tokio::test]
async fn a_body_beyond_its_bound_is_refused() {
    let channel = channel(None, None);
    let said = ask_with(&channel, "POST /api/v1/pipelines/full/pause", &[], &" ".repeat(4 << 10)).await;
    assert_eq!(said.status, 200);
    assert!(channel.entries[0].controls.resume());
    let said = ask_with(&channel, "POST /api/v1/pipelines/full/pause", &[], &" ".repeat((4 << 10) + 1)).await;
    assert_eq!((said.status.as_u16(), said.code().as_str()), (413, "body-too-large"));
    assert!(!channel.entries[0].controls.is_paused());
}

#[tokio::test]
async fn no_trick_with_a_path_leads_anywhere() {
    let channel = channel(None, None);
    for path in [
        "/",
        "/api",
        "/api/v1",
        "/api/v1/",
        "/api/v1/pipelines/",
        "/api/v1/pipelines//",
        "/api/v1/pipelinesfull",
        "//api/v1/pipelines",
        "/api/v1//pipelines",
        "/api/v1/pipelines/full/",
        "/api/v1/pipelines/full/pause/",
        "/api/v1/pipelines/./full",
        "/api/v1/pipelines/../pipelines",
        "/api/v1/pipelines/%66ull",
        "/api/v1/pipelines/full%2fpause",
        "/api/v1/pipelines/..%2f..%2fetc%2fpasswd",
        "/API/V1/PIPELINES",
        "/metrics/",
        "/metrics/../healthz",
        "/healthz%00",
        "/api/v1/pipelines/full/pause/../resume",
        "/api/v2/pipelines",
    ] {
        for method in ["GET", "POST"] {
            let said = ask(&channel, &format!("{method} {path}")).await;
            // A name that might be one is no pipeline; with POST the method is wrong first.
            assert!(matches!(said.status.as_u16(), 404 | 405), "{method} {path}: {}", said.status);
        }
    }
    assert_eq!(ask(&channel, "GET http://127.0.0.1:7171/metrics").await.code(), "bad-path");
    assert!(channel.entries.iter().all(|entry| !entry.controls.is_paused()));
}

#[tokio::test]
async fn without_a_token_only_names_of_this_machine_are_answered() {
    let channel = channel(None, None);
    let asked = async |host: &str| ask_with(&channel, "GET /api/v1/pipelines", &[("host", host)], "").await;
    for host in ["127.0.0.1:7171", "127.0.0.1", "localhost:7171", "LOCALHOST", "[::1]:7171", "127.5.5.5:80"] {
        assert_eq!(asked(host).await.status, 200, "{host}");
    }
    for host in [
        "example.com",
        "example.com:7171",
        "localhost.example.com",
        "127.0.0.1.example.com",
        "10.0.0.1",
        "localhost.",
        "[2001:db8::1]:7171",
    ] {
        assert_eq!(asked(host).await.code(), "wrong-host", "{host}");
    }
    for host in ["", "a@127.0.0.1", "127.0.0.1/x", "127.0.0.1:7171?x", "127.0.0.1 x", "127.0.0.1:99999"] {
        assert_eq!(asked(host).await.code(), "bad-host", "{host}");
    }
    let twice = [("host", "127.0.0.1"), ("host", "127.0.0.1")];
    assert_eq!(ask_with(&channel, "GET /api/v1/pipelines", &twice, "").await.code(), "bad-header");
}

#[tokio::test]
async fn a_page_of_another_site_is_refused() {
    let channel = channel(None, None);
    let line = "POST /api/v1/pipelines/full/pause";
    for origin in
        ["http://evil.example", "null", "http://127.0.0.1:8080", "http://127.0.0.1:7171.evil.example", ""]
    {
        let said = ask_with(&channel, line, &[("origin", origin)], "").await;
        assert_eq!(said.code(), "wrong-origin", "{origin}");
    }
    assert!(!channel.entries[0].controls.is_paused());
    assert_eq!(ask_with(&channel, line, &[("origin", "http://127.0.0.1:7171")], "").await.status, 200);
}

#[tokio::test]
async fn tokens_say_who_may_read_and_who_may_change() {
    let channels = [channel(None, Some(READ)), channel(Some(ADMIN), None), channel(Some(ADMIN), Some(READ))];
    // Status of GET and POST, for: no token, a wrong one, read_token, admin_token.
    let wanted = [
        [(401, 401), (401, 401), (200, 403), (401, 401)],
        [(401, 401), (401, 401), (401, 401), (200, 200)],
        [(401, 401), (401, 401), (200, 403), (200, 200)],
    ];
    for (channel, wanted) in channels.iter().zip(wanted) {
        for (token, wanted) in ["", "admin-0123456788", READ, ADMIN].into_iter().zip(wanted) {
            let bearer = format!("Bearer {token}");
            // With a token the name does not matter.
            let headers = [("host", "rowtide.example"), ("authorization", bearer.as_str())];
            let headers = if token.is_empty() { &headers[..1] } else { &headers[..] };
            let read = ask_with(channel, "GET /api/v1/pipelines", headers, "").await.status.as_u16();
            let changed = ask_with(channel, "POST /api/v1/pipelines/full/pause", headers, "").await;
            assert_eq!((read, changed.status.as_u16()), wanted, "{token}");
            assert_eq!(channel.entries[0].controls.resume(), wanted.1 == 200, "{token}");
            // Who may not read does not learn either what is here.
            let none = ask_with(channel, "GET /api/v1/nothing", headers, "").await.status.as_u16();
            assert_eq!(none, if wanted.0 == 200 { 404 } else { 401 });
            for open in ["GET /healthz", "GET /readyz"] {
                let said = ask_with(channel, open, &headers[..1], "").await;
                assert!(said.json().as_object().unwrap().len() == 1 && said.status != 401, "{open}");
            }
        }
        for shape in [
            ADMIN.to_owned(),
            format!("Basic {ADMIN}"),
            format!("Bearer  {ADMIN}"),
            format!("Bearer {ADMIN} "),
        ] {
            let said = ask_with(channel, "GET /api/v1/pipelines", &[("authorization", &shape)], "").await;
            assert_eq!(said.status, 401, "{shape:?}");
        }
    }
}

#[tokio::test]
async fn ready_is_when_every_pipeline_works() {
    let mut channel = channel(None, None);
    for (first, second, ready) in [
        (State::Following, State::Backfilling, true),
        (State::Paused, State::Following, true),
        (State::Following, State::Waiting, false),
        (State::Starting, State::Following, false),
        (State::Following, State::Halted, false),
        (State::Stopping, State::Following, false),
    ] {
        let status = |state| Status { state, ..Status::default() };
        channel.entries = vec![entry("one", status(first)), entry("two", status(second))];
        let said = ask(&channel, "GET /readyz").await;
        assert_eq!((said.status == 200, said.json()["ok"] == true), (ready, ready), "{first:?} {second:?}");
        assert_eq!(ask(&channel, "GET /healthz").await.status, 200);
    }
}

#[tokio::test]
async fn metrics_keep_the_rules_of_prometheus() {
    let text = ask(&channel(None, None), "GET /metrics").await.text;
    let (mut family, mut kind) = (String::new(), String::new());
    let mut seen = BTreeSet::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            rest.split_once(' ').unwrap().0.clone_into(&mut family);
            assert!(seen.insert(format!("# {family}")), "{family} has two heads");
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, of) = rest.split_once(' ').unwrap();
            assert_eq!(name, family);
            of.clone_into(&mut kind);
            assert_eq!(kind == "counter", name.ends_with("_total"), "{name} is a {kind}");
        } else {
            let (series, value) = line.rsplit_once(' ').unwrap();
            let (name, labels) = series.split_once('{').unwrap_or((series, ""));
            assert_eq!(name, family);
            assert!(value.parse::<f64>().is_ok(), "{line}");
            assert!(seen.insert(series.to_owned()), "{series} is there twice");
            for label in labels.trim_end_matches('}').split(',').filter(|label| !label.is_empty()) {
                let name = label.split_once('=').unwrap().0;
                assert!(["pipeline", "target", "state", "end", "version"].contains(&name), "{line}");
            }
        }
    }
    for line in [
        "rowtide_pipeline_state{pipeline=\"full\",state=\"waiting\"} 1",
        "rowtide_pipeline_state{pipeline=\"full\",state=\"following\"} 0",
        "rowtide_lag_seconds{pipeline=\"full\"} 2.5",
        "rowtide_lag_bytes{pipeline=\"full\"} 1004",
        "rowtide_changes_ended_total{pipeline=\"full\",target=\"second\",end=\"stale\"} 12",
        "rowtide_dead_letters{pipeline=\"full\",target=\"search\"} 15",
        "rowtide_tables_filled{pipeline=\"full\"} 1",
        "rowtide_memory_bound_bytes 268435456",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} is not in:\n{text}");
    }
    assert!(!text.contains("rowtide_lag_seconds{pipeline=\"fresh\"}"), "what is not known is left out");
}
