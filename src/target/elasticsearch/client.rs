//! One HTTP connection pool to a cluster, and what the answers of whole requests mean.
//!
//! ```text
//!   call ──► a node (round robin, failed ones set aside) ──► one attempt, one time limit ──► Answer
//!              └─ no connection: the next node                └─ anything else: TargetError
//! ```
//! Nothing is ever sent twice from here: reqwest's retries and redirects are off, and another node is
//! tried only when no connection was made. Dropping a call, or its time limit, closes its connection,
//! so a cluster never goes on reading a request that nobody waits for.

use std::fmt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use base64::Engine;
use bytes::Bytes;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Body, Method, Response, Url};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use sources::world::{Moment, SharedWorld, within};

use crate::target::TargetError;

/// How long a node that failed is not asked, while another can be. Longer than a connection attempt
/// (5 s), so that a dead node does not slow every second request; short enough for a restarted one.
const SET_ASIDE: Duration = Duration::from_secs(10);
/// An idle connection is closed before common load balancers (60 s) close it under a request.
const IDLE: Duration = Duration::from_secs(20);
/// Most bytes of an answer that says why a request failed.
const ERROR_BYTES_MAX: usize = 64 << 10;

const OPAQUE_ID: HeaderName = HeaderName::from_static("x-opaque-id");

/// How Rowtide proves who it is.
#[derive(Clone)]
pub enum Auth {
    /// The cluster asks for nothing.
    None,
    /// A user and a password.
    Basic {
        /// The user.
        username: String,
        /// The password.
        password: SecretString,
    },
    /// An API key of Elasticsearch: `id:key`, or already encoded as Elasticsearch prints it.
    ApiKey(SecretString),
}

impl fmt::Debug for Auth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Auth::None => f.write_str("None"),
            Auth::Basic { username, .. } => write!(f, "Basic({username}, ***)"),
            Auth::ApiKey(_) => f.write_str("ApiKey(***)"),
        }
    }
}

/// Where a cluster is and how to talk to it.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `http://host:port` or `https://host:port` of each node.
    pub nodes: Vec<String>,
    /// Who Rowtide is there.
    pub auth: Auth,
    /// From the connection to the answer's last byte. Several times the bulk request's own
    /// `timeout=5s`, so that a slow cluster answers before its answer is given up.
    pub request_timeout: Duration,
    /// To make a connection, TLS included.
    pub connect_timeout: Duration,
}

impl Settings {
    /// The usual settings for these nodes.
    pub fn new(nodes: Vec<String>) -> Self {
        let (request_timeout, connect_timeout) = (Duration::from_secs(30), Duration::from_secs(5));
        Self { nodes, auth: Auth::None, request_timeout, connect_timeout }
    }
}

/// One request.
pub(super) struct Call<'a> {
    /// What is being done, for errors.
    pub(super) context: &'static str,
    pub(super) method: Method,
    /// With a leading `/` and the query; already escaped.
    pub(super) path: &'a str,
    pub(super) body: Option<Payload>,
    pub(super) opaque_id: Option<&'a str>,
    /// Most bytes of the answer that are read.
    pub(super) answer_bytes_max: usize,
}

impl<'a> Call<'a> {
    /// A request without a body whose answer is small.
    pub(super) fn new(context: &'static str, method: Method, path: &'a str) -> Self {
        Self { context, method, path, body: None, opaque_id: None, answer_bytes_max: 4 << 20 }
    }

    /// The same with a JSON body.
    pub(super) fn json(mut self, body: &serde_json::Value) -> Self {
        self.body = Some(Payload::Json(Bytes::from(body.to_string())));
        self
    }
}

/// A request's body; cloning shares the bytes.
#[derive(Clone)]
pub(super) enum Payload {
    Json(Bytes),
    /// Newline-delimited actions; what is in the second is sent right after the first.
    Lines(Bytes, Bytes),
}

/// A whole answer.
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) body: Vec<u8>,
}

struct Node {
    /// Without a slash at its end.
    base: String,
    aside_until: Mutex<Moment>,
}

/// The pool.
pub(super) struct Client {
    http: reqwest::Client,
    nodes: Vec<Node>,
    turn: AtomicUsize,
    request_timeout: Duration,
    world: SharedWorld,
    /// Answers that were given, in place of a cluster's.
    #[cfg(feature = "fuzzing")]
    script: Option<Mutex<std::collections::VecDeque<Answer>>>,
}

impl Client {
    pub(super) fn new(settings: &Settings, world: SharedWorld) -> Result<Self, TargetError> {
        let nodes = settings.nodes.iter().map(|node| parse_node(node)).collect::<Result<Vec<_>, _>>()?;
        if nodes.is_empty() {
            return Err(wrong_settings("no node is given", "name at least one in `nodes`"));
        }
        // reqwest panics without one.
        if rustls::crypto::CryptoProvider::get_default().is_none() {
            return Err(wrong_settings("no TLS provider is installed", "install one first in `main`"));
        }
        let mut headers = HeaderMap::new();
        if let Some(value) = authorization(&settings.auth)? {
            headers.insert(AUTHORIZATION, value);
        }
        let http = reqwest::Client::builder()
            .default_headers(headers)
            .http1_only()
            .retry(reqwest::retry::never())
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .connect_timeout(settings.connect_timeout)
            .pool_idle_timeout(IDLE)
            .build()
            .map_err(|error| wrong_settings(&describe(&error), "check the certificates of this machine"))?;
        let (turn, request_timeout) = (AtomicUsize::new(0), settings.request_timeout);
        Ok(Self {
            http,
            nodes,
            turn,
            request_timeout,
            world,
            #[cfg(feature = "fuzzing")]
            script: None,
        })
    }

    /// A client that sends nothing and is answered with `answers`, one after another.
    #[cfg(feature = "fuzzing")]
    pub(super) fn scripted(answers: Vec<Answer>, world: SharedWorld) -> Self {
        // Making one reads the machine's certificates, so there is one.
        static HTTP: std::sync::OnceLock<reqwest::Client> = std::sync::OnceLock::new();
        let http = HTTP.get_or_init(|| {
            let _another_test_was_first = rustls::crypto::ring::default_provider().install_default();
            reqwest::Client::new()
        });
        Self {
            http: http.clone(),
            nodes: Vec::new(),
            turn: AtomicUsize::new(0),
            request_timeout: IDLE,
            world,
            script: Some(Mutex::new(answers.into())),
        }
    }

    /// Sends one request and reads its answer, whatever its status.
    pub(super) async fn send(&self, call: Call<'_>) -> Result<Answer, TargetError> {
        #[cfg(feature = "fuzzing")]
        if let Some(script) = &self.script {
            let answer = script.lock().unwrap_or_else(std::sync::PoisonError::into_inner).pop_front();
            let reason = "the script has ended".to_owned();
            return answer.ok_or(TargetError::Unresolved { context: call.context, reason });
        }
        let mut refused = None;
        for _ in 0..self.nodes.len() {
            let node = self.pick();
            match self.attempt(node, &call).await {
                Err(error @ TargetError::NotExecuted { .. }) => refused = Some(error),
                done => return done,
            }
        }
        let nothing = || TargetError::NotExecuted { context: call.context, reason: "no node".to_owned() };
        Err(refused.unwrap_or_else(nothing))
    }

    /// Sends one request; an answer that is no success is an error.
    pub(super) async fn succeed(&self, call: Call<'_>) -> Result<Answer, TargetError> {
        let context = call.context;
        let answer = self.send(call).await?;
        match answer.status {
            200 | 201 => Ok(answer),
            _ => Err(failure(context, &answer)),
        }
    }

    async fn attempt(&self, node: &Node, call: &Call<'_>) -> Result<Answer, TargetError> {
        let work = async {
            let response = self.request(node, call)?.send().await.map_err(|error| lost(call, &error))?;
            read(response, call).await
        };
        let done = within(&*self.world, self.request_timeout, work).await.unwrap_or_else(|| {
            let reason = format!("no answer within {} s", self.request_timeout.as_secs());
            Err(TargetError::TimedOut { context: call.context, reason })
        });
        if done.is_err() {
            *lock(&node.aside_until) = self.world.now() + SET_ASIDE;
        }
        done
    }

    fn request(&self, node: &Node, call: &Call<'_>) -> Result<reqwest::RequestBuilder, TargetError> {
        let url = format!("{}{}", node.base, call.path);
        let mut request = self.http.request(call.method.clone(), url);
        if let Some(id) = call.opaque_id {
            let value = HeaderValue::from_str(id).map_err(|_| TargetError::Halt {
                context: call.context,
                reason: "the request's name is no header value".to_owned(),
                hint: "this is a fault in Rowtide: please report it".to_owned(),
            })?;
            request = request.header(OPAQUE_ID, value);
        }
        Ok(match call.body.clone() {
            None => request,
            Some(Payload::Json(bytes)) => request.header(CONTENT_TYPE, "application/json").body(bytes),
            Some(Payload::Lines(lines, more)) => {
                let request = request.header(CONTENT_TYPE, "application/x-ndjson");
                match more.is_empty() {
                    true => request.body(lines),
                    false => request.body(Body::wrap(super::bulk::Parts::new([lines, more]))),
                }
            }
        })
    }

    /// The next node that has not failed lately, else the one whose failure is oldest.
    fn pick(&self) -> &Node {
        let now = self.world.now();
        let turn = self.turn.fetch_add(1, Ordering::Relaxed) % self.nodes.len();
        let in_turn = || self.nodes[turn..].iter().chain(&self.nodes[..turn]);
        let well = in_turn().find(|node| *lock(&node.aside_until) <= now);
        well.or_else(|| in_turn().min_by_key(|node| *lock(&node.aside_until))).unwrap_or(&self.nodes[turn])
    }
}

/// A poisoned lock of a time is still a time.
fn lock(time: &Mutex<Moment>) -> std::sync::MutexGuard<'_, Moment> {
    time.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

async fn read(mut response: Response, call: &Call<'_>) -> Result<Answer, TargetError> {
    let status = response.status().as_u16();
    let limit = if status == 200 { call.answer_bytes_max } else { ERROR_BYTES_MAX };
    let mut body = Vec::new();
    loop {
        match response.chunk().await {
            Ok(None) => return Ok(Answer { status, body }),
            Ok(Some(chunk)) if body.len() + chunk.len() <= limit => body.extend_from_slice(&chunk),
            // What is said beyond is not needed to know that it failed.
            Ok(Some(_)) if status >= 300 => return Ok(Answer { status, body: Vec::new() }),
            Ok(Some(_)) => {
                let reason = format!("an answer of more than {limit} bytes (status {status})");
                return Err(TargetError::Unresolved { context: call.context, reason });
            }
            Err(error) => return Err(lost(call, &error)),
        }
    }
}

/// What it means that no answer was read.
fn lost(call: &Call<'_>, error: &reqwest::Error) -> TargetError {
    let (context, reason) = (call.context, describe(error));
    // Nothing is sent before there is a connection, TLS included.
    match error.is_connect() || error.is_builder() {
        true => TargetError::NotExecuted { context, reason },
        false => TargetError::Unresolved { context, reason },
    }
}

/// An error with its causes, without the address: a person may have put a password into it.
fn describe(error: &reqwest::Error) -> String {
    let mut text = match error.url().and_then(|url| Some((url.host_str()?, url.port_or_known_default()?))) {
        Some((host, port)) => format!("{host}:{port}"),
        None => "request".to_owned(),
    };
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        let words = inner.to_string();
        if !text.ends_with(&words) {
            text.push_str(": ");
            text.push_str(&words);
        }
        cause = inner.source();
    }
    text
}

/// What the status of a whole request means, when it is no success.
pub(super) fn failure(context: &'static str, answer: &Answer) -> TargetError {
    let said = said(&answer.body);
    let reason = format!("status {}: {said}", answer.status);
    let halt = |hint: &str| TargetError::Halt { context, reason: reason.clone(), hint: hint.to_owned() };
    match answer.status {
        429 => TargetError::Busy { context, reason },
        413 => TargetError::TooLarge { context },
        401 => halt("check username and password, or api_key, of the target"),
        403 => halt("give Rowtide's user the rights to write and manage its indices and `rowtide-state`"),
        // Another success (a proxy's 202) says nothing about the items.
        ..=299 | 408 | 500.. => TargetError::Unresolved { context, reason },
        300..=399 => halt("the address redirects: name in `nodes` the address that it points to"),
        _ => halt("is this an Elasticsearch 8 or OpenSearch 2? It refuses the form of the request"),
    }
}

/// Type and reason of an error answer. Never the answer itself when it is something else.
pub(super) fn said(body: &[u8]) -> String {
    let Some(error) = error_of(body) else {
        return "not an answer of Elasticsearch or OpenSearch".to_owned();
    };
    format!("{}: {}", error.kind, error.reason.unwrap_or_default())
}

/// The `error` of an error answer.
#[derive(Deserialize)]
pub(super) struct ErrorBody {
    #[serde(rename = "type")]
    pub(super) kind: String,
    pub(super) reason: Option<String>,
}

pub(super) fn error_of(body: &[u8]) -> Option<ErrorBody> {
    #[derive(Deserialize)]
    struct Whole {
        error: ErrorBody,
    }
    serde_json::from_slice::<Whole>(body).ok().map(|whole| whole.error)
}

/// Reads an answer whose form is known.
pub(super) fn parse<'a, T: Deserialize<'a>>(
    context: &'static str,
    answer: &'a Answer,
) -> Result<T, TargetError> {
    // The position only: serde_json's own words may quote what it found.
    serde_json::from_slice(&answer.body).map_err(|error| TargetError::Unresolved {
        context,
        reason: format!("an answer of another form, at byte {}", error.column()),
    })
}

/// One segment of a path.
pub(super) fn escape(segment: &str) -> String {
    let mut escaped = String::with_capacity(segment.len());
    for byte in segment.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                escaped.push(char::from(byte))
            }
            _ => escaped.push_str(&format!("%{byte:02X}")),
        }
    }
    escaped
}

fn parse_node(node: &str) -> Result<Node, TargetError> {
    let form = "write it as http://host:9200 or https://host:9200";
    let Ok(url) = Url::parse(node) else {
        return Err(wrong_settings("a node's address cannot be read", form));
    };
    if !url.username().is_empty() || url.password().is_some() {
        let hint = "put them into `username` and `password` of the target";
        return Err(wrong_settings("a node's address holds a user or a password", hint));
    }
    if !matches!(url.scheme(), "http" | "https") || url.query().is_some() || url.fragment().is_some() {
        return Err(wrong_settings(&format!("the node's address {node:?} is not one"), form));
    }
    let base = url.as_str().trim_end_matches('/').to_owned();
    Ok(Node { base, aside_until: Mutex::new(Moment::ZERO) })
}

fn authorization(auth: &Auth) -> Result<Option<HeaderValue>, TargetError> {
    let encode = |text: String| base64::engine::general_purpose::STANDARD.encode(text);
    let text = match auth {
        Auth::None => return Ok(None),
        Auth::Basic { username, password } => {
            format!("Basic {}", encode(format!("{username}:{}", password.expose_secret())))
        }
        Auth::ApiKey(key) if key.expose_secret().contains(':') => {
            format!("ApiKey {}", encode(key.expose_secret().to_owned()))
        }
        Auth::ApiKey(key) => format!("ApiKey {}", key.expose_secret()),
    };
    let Ok(mut value) = HeaderValue::from_str(&text) else {
        return Err(wrong_settings("the api_key holds bytes that cannot be sent", "copy its encoded form"));
    };
    value.set_sensitive(true);
    Ok(Some(value))
}

fn wrong_settings(reason: &str, hint: &str) -> TargetError {
    TargetError::Halt { context: "set up the target", reason: reason.to_owned(), hint: hint.to_owned() }
}

#[cfg(test)]
#[path = "client_tests.rs"]
mod on_the_wire;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    fn answer(status: u16, body: &str) -> Answer {
        Answer { status, body: body.as_bytes().to_vec() }
    }

    #[test]
    fn the_status_of_a_whole_request_decides_what_is_known_about_it() {
        let json = r#"{"error":{"root_cause":[],"type":"es_rejected_execution_exception","reason":"full"},"status":429}"#;
        let busy = failure("bulk", &answer(429, json));
        assert!(matches!(&busy, TargetError::Busy { reason, .. } if reason.contains("es_rejected")));
        assert!(matches!(failure("bulk", &answer(413, "")), TargetError::TooLarge { .. }));
        for status in [301, 400, 401, 403, 404, 405, 406] {
            assert!(matches!(failure("bulk", &answer(status, "{}")), TargetError::Halt { .. }), "{status}");
        }
        for status in [408, 500, 502, 503, 504] {
            assert!(matches!(failure("bulk", &answer(status, "<html>")), TargetError::Unresolved { .. }));
        }
    }

    #[test]
    fn an_answer_of_something_else_is_never_quoted() {
        assert!(!said(b"<html>a secret document</html>").contains("secret"));
        assert!(!said(br#"{"secret":1}"#).contains("secret"));
    }

    #[test]
    fn secrets_print_as_stars() {
        let password = SecretString::from("hunter2");
        let auth = Auth::Basic { username: "u".to_owned(), password };
        assert_eq!(format!("{auth:?}"), "Basic(u, ***)");
        assert_eq!(format!("{:?}", Auth::ApiKey(SecretString::from("k"))), "ApiKey(***)");
        assert!(format!("{:?}", authorization(&auth).unwrap()).contains("Sensitive"));
    }

    #[test]
    fn a_node_is_an_address_without_secrets() {
        assert_eq!(parse_node("https://es.example:9200/").unwrap().base, "https://es.example:9200");
        assert_eq!(parse_node("http://es.example/prefix/").unwrap().base, "http://es.example/prefix");
        for wrong in ["es:9200", "http://u:p@es", "", "ftp://es", "http://es?x=1"] {
            let error = parse_node(wrong).map(|node| node.base).unwrap_err();
            assert!(!error.to_string().contains("u:p"), "{error}");
        }
    }

    #[test]
    fn a_segment_cannot_leave_its_place_in_the_path() {
        assert_eq!(escape("a/b?c#d é*"), "a%2Fb%3Fc%23d%20%C3%A9%2A");
    }
}
