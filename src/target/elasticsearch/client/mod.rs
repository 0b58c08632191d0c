//! One HTTP connection pool to a cluster, and what the answers of whole requests mean.
//!
//! ```text
//!   call ──► gzip? ──► nodes: the next that is well ──► one attempt, one time limit ──► Answer
//!                       └─ no connection (tls, auth): the next node   └─ anything else: TargetError
//! ```
//! Nothing is ever sent twice from here: reqwest's retries and redirects are off, and another node is
//! tried only when no connection was made. Dropping a call, or its time limit, closes its connection,
//! so a cluster never goes on reading a request that nobody waits for.
//!
//! A body is never copied on its way: it is shared with reqwest, which writes from where it lies.
//! HTTP/1.1 only: a connection carries one request at a time, so closing it ends just that one.

mod answer;
mod auth;
mod gzip;
mod nodes;
mod sniff;
mod tls;

#[cfg(feature = "fuzzing")]
use std::sync::Mutex;
use std::time::Duration;

use bytes::Bytes;
use reqwest::header::{AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Body, Method, Response};
use sources::world::{SharedWorld, within};

#[cfg(feature = "fuzzing")]
pub(super) use answer::said;
pub(super) use answer::{Answer, error_of, escape, failure, parse};
pub use auth::Auth;
pub use gzip::HELD_MAX as GZIP_BYTES_MAX;
pub use tls::{Fingerprint, Trust};

use crate::target::TargetError;
use auth::authorization;
use gzip::Gzip;
use nodes::{Node, Nodes, Pick};
use sniff::Schedule;
use tls::Distrust;

/// A question about the nodes is small, and a request waits for its answer.
const SNIFF_TIMEOUT: Duration = Duration::from_secs(5);
/// An idle connection is closed before common load balancers (60 s) close it under a request.
const IDLE: Duration = Duration::from_secs(20);
/// Most bytes of an answer that says why a request failed.
const ERROR_BYTES_MAX: usize = 64 << 10;

const OPAQUE_ID: HeaderName = HeaderName::from_static("x-opaque-id");

/// Where a cluster is and how to talk to it.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `http://host:port` or `https://host:port` of each node.
    pub nodes: Vec<String>,
    /// Who Rowtide is there.
    pub auth: Auth,
    /// Who may vouch for the nodes.
    pub trust: Trust,
    /// Whether bulk bodies are compressed.
    pub gzip: bool,
    /// Whether the cluster is asked for its nodes.
    pub sniff: bool,
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
        let (auth, trust) = (Auth::None, Trust::System);
        Self { nodes, auth, trust, gzip: false, sniff: false, request_timeout, connect_timeout }
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
    /// Whether a certificate that is not believed is a halt. It may be changed any moment, so what must
    /// go on waits and tries again; who only looks (`rowtide check`) wants to know the fix.
    pub(super) halts_on_distrust: bool,
}

impl<'a> Call<'a> {
    /// A request without a body whose answer is small.
    pub(super) fn new(context: &'static str, method: Method, path: &'a str) -> Self {
        let (body, opaque_id, answer_bytes_max) = (None, None, 4 << 20);
        Self { context, method, path, body, opaque_id, answer_bytes_max, halts_on_distrust: false }
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
    /// The same, compressed.
    Packed(Vec<Bytes>),
}

/// The pool.
pub(super) struct Client {
    http: reqwest::Client,
    nodes: Nodes,
    gzip: Option<Gzip>,
    sniff: Option<Schedule>,
    request_timeout: Duration,
    world: SharedWorld,
    /// Answers that were given, in place of a cluster's.
    #[cfg(feature = "fuzzing")]
    script: Option<Mutex<std::collections::VecDeque<Answer>>>,
}

impl Client {
    pub(super) fn new(settings: &Settings, world: SharedWorld) -> Result<Self, TargetError> {
        let nodes = Nodes::new(&settings.nodes)?;
        // reqwest panics without one.
        let Some(provider) = rustls::crypto::CryptoProvider::get_default() else {
            return Err(wrong_settings("no TLS provider is installed", "install one first in `main`"));
        };
        let tls = tls::config(&settings.trust, nodes.scheme() == "https", provider).map_err(|error| {
            wrong_settings(&format!("TLS cannot be set up: {error}"), "look at ca_file of the target")
        })?;
        let mut headers = HeaderMap::new();
        if let Some(value) = authorization(&settings.auth)? {
            headers.insert(AUTHORIZATION, value);
        }
        let mut builder = reqwest::Client::builder();
        if let Some(tls) = tls {
            builder = builder.tls_backend_preconfigured(tls);
        }
        let http = builder
            .default_headers(headers)
            .http1_only()
            .tcp_nodelay(true)
            .retry(reqwest::retry::never())
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .connect_timeout(settings.connect_timeout)
            .pool_idle_timeout(IDLE)
            .build()
            .map_err(|error| wrong_settings(&describe(&error), "check the certificates of this machine"))?;
        Ok(Self {
            http,
            nodes,
            gzip: settings.gzip.then(Gzip::new),
            sniff: settings.sniff.then(Schedule::default),
            request_timeout: settings.request_timeout,
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
            nodes: Nodes::none(),
            gzip: None,
            sniff: None,
            request_timeout: IDLE,
            world,
            script: Some(Mutex::new(answers.into())),
        }
    }

    /// Sends one request and reads its answer, whatever its status.
    pub(super) async fn send(&self, mut call: Call<'_>) -> Result<Answer, TargetError> {
        #[cfg(feature = "fuzzing")]
        if let Some(script) = &self.script {
            let answer = script.lock().unwrap_or_else(std::sync::PoisonError::into_inner).pop_front();
            let reason = "the script has ended".to_owned();
            return answer.ok_or(TargetError::Unresolved { context: call.context, reason });
        }
        if self.sniff.as_ref().is_some_and(|schedule| schedule.is_due(self.world.now())) {
            self.look_around().await;
        }
        if let (Some(gzip), Some(Payload::Lines(lines, more))) = (&self.gzip, &call.body)
            && let Some(packed) = gzip.shrink([lines.clone(), more.clone()]).await
        {
            call.body = Some(Payload::Packed(packed));
        }
        self.ask(&call, self.request_timeout).await
    }

    /// One node after another until one is connected to.
    async fn ask(&self, call: &Call<'_>, limit: Duration) -> Result<Answer, TargetError> {
        let mut refused = None;
        for _ in 0..self.nodes.count() {
            let Some(pick) = self.nodes.pick(self.world.now()) else { break };
            match self.attempt(pick, call, limit).await {
                Err(error @ TargetError::NotExecuted { .. }) => refused = Some(error),
                done => return done,
            }
        }
        let nothing = || TargetError::NotExecuted { context: call.context, reason: "no node".to_owned() };
        Err(refused.unwrap_or_else(nothing))
    }

    /// Asks the cluster for its nodes. Without an answer everything stays as it is.
    async fn look_around(&self) {
        let call = Call::new("list nodes", Method::GET, sniff::PATH);
        let answer = self.ask(&call, SNIFF_TIMEOUT).await;
        let found = match &answer {
            Ok(answer) if answer.status == 200 => sniff::data_nodes(&answer.body, self.nodes.scheme()),
            _ => None,
        };
        match (found, &self.sniff) {
            (Some(bases), _) => {
                let named = bases.join(", ");
                if self.nodes.set_found(bases) {
                    tracing::info!(nodes = named, "the cluster's data nodes");
                }
            }
            (None, Some(schedule)) => schedule.soon(),
            (None, None) => {}
        }
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

    async fn attempt(&self, pick: Pick, call: &Call<'_>, limit: Duration) -> Result<Answer, TargetError> {
        let work = async {
            let response =
                self.request(&pick.node, call)?.send().await.map_err(|error| lost(call, &error))?;
            read(response, call).await
        };
        let done = within(&*self.world, limit, work).await.unwrap_or_else(|| {
            let reason = format!("no answer within {} s", limit.as_secs());
            Err(TargetError::TimedOut { context: call.context, reason })
        });
        match &done {
            // What a proxy says for a node that is away, and a node that has lost its cluster.
            Err(_) | Ok(Answer { status: 502..=504, .. }) => {
                pick.failed(self.world.now());
                self.sniff.iter().for_each(Schedule::soon);
            }
            Ok(_) => pick.answered(),
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
            Some(Payload::Packed(pieces)) => request
                .header(CONTENT_TYPE, "application/x-ndjson")
                .header(CONTENT_ENCODING, "gzip")
                .body(Body::wrap(super::bulk::Parts::new(pieces))),
        })
    }
}

async fn read(mut response: Response, call: &Call<'_>) -> Result<Answer, TargetError> {
    let status = response.status().as_u16();
    let limit = if status == 200 { call.answer_bytes_max } else { ERROR_BYTES_MAX };
    let length = response.content_length().and_then(|length| usize::try_from(length).ok());
    let mut body = Vec::with_capacity(length.unwrap_or_default().min(limit));
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
    if let Some(Distrust { what, fix }) = tls::distrust(error).filter(|_| error.is_connect()) {
        let what = format!("{}: {what}", host(error));
        return match call.halts_on_distrust {
            true => TargetError::Halt { context, reason: what, hint: fix.to_owned() },
            // A renewal may be under way.
            false => TargetError::NotExecuted { context, reason: format!("{what}; {fix}") },
        };
    }
    // Nothing is sent before there is a connection, TLS included.
    match error.is_connect() || error.is_builder() {
        true => TargetError::NotExecuted { context, reason },
        false => TargetError::Unresolved { context, reason },
    }
}

/// An error with its causes, without the address: a person may have put a password into it.
fn describe(error: &reqwest::Error) -> String {
    let mut text = host(error);
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

fn host(error: &reqwest::Error) -> String {
    match error.url().and_then(|url| Some((url.host_str()?, url.port_or_known_default()?))) {
        Some((host, port)) => format!("{host}:{port}"),
        None => "request".to_owned(),
    }
}

fn wrong_settings(reason: &str, hint: &str) -> TargetError {
    TargetError::Halt { context: "set up the target", reason: reason.to_owned(), hint: hint.to_owned() }
}

#[cfg(test)]
mod wire_tests;

#[cfg(test)]
mod cluster_tests;

#[cfg(test)]
mod tls_tests;
