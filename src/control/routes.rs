//! What can be asked, and the answers.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Body;
use hyper::header::{ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_TYPE, HeaderValue, WWW_AUTHENTICATE};
use hyper::{Method, Request, Response, StatusCode};
use serde::Serialize;
use sources::world::within;
use tracing::info;

use super::access::Right;
use super::{Channel, Entry, metrics, openapi, wire};
use crate::controls::Throttle;
use crate::status::State;
use crate::telemetry::field;

/// The largest body that is read; the largest that makes sense has some 60 bytes.
pub(super) const BODY_BYTES_MAX: usize = 4 << 10;
/// How long its last byte may take.
pub(super) const BODY_WITHIN: Duration = Duration::from_secs(10);

/// The type of Prometheus's text format.
const METRICS_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Every route, as the OpenAPI document names it.
#[cfg(test)]
pub(super) const ROUTES: &[(&str, &str)] = &[
    ("get", "/api/v1/openapi.json"),
    ("get", "/api/v1/pipelines"),
    ("get", "/api/v1/pipelines/{name}"),
    ("post", "/api/v1/pipelines/{name}/pause"),
    ("post", "/api/v1/pipelines/{name}/restart"),
    ("post", "/api/v1/pipelines/{name}/resume"),
    ("post", "/api/v1/pipelines/{name}/throttle"),
    ("get", "/healthz"),
    ("get", "/metrics"),
    ("get", "/readyz"),
];

/// A request that is not done.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) status: StatusCode,
    code: &'static str,
    message: String,
}

impl Refusal {
    pub(super) fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into() }
    }

    fn not_found() -> Self {
        Self::new(StatusCode::NOT_FOUND, "not-found", "there is nothing here: see /api/v1/openapi.json")
    }
}

type Answer = Response<Full<Bytes>>;

/// What a path stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Route<'a> {
    Pipelines,
    Pipeline(&'a str),
    Act(&'a str, Act),
    OpenApi,
    Health,
    Ready,
    Metrics,
}

/// What can be done to a pipeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Act {
    Pause,
    Resume,
    Throttle,
    Restart,
}

impl Route<'_> {
    /// Letter by letter: nothing is decoded, since no name has anything to decode.
    fn of(path: &str) -> Option<Route<'_>> {
        let Some(rest) = path.strip_prefix("/api/v1/pipelines") else {
            return match path {
                "/api/v1/openapi.json" => Some(Route::OpenApi),
                "/healthz" => Some(Route::Health),
                "/readyz" => Some(Route::Ready),
                "/metrics" => Some(Route::Metrics),
                _ => None,
            };
        };
        if rest.is_empty() {
            return Some(Route::Pipelines);
        }
        let rest = rest.strip_prefix('/')?;
        let Some((name, act)) = rest.split_once('/') else { return Some(Route::Pipeline(rest)) };
        let act = match act {
            "pause" => Act::Pause,
            "resume" => Act::Resume,
            "throttle" => Act::Throttle,
            "restart" => Act::Restart,
            _ => return None,
        };
        Some(Route::Act(name, act))
    }

    fn right(self) -> Right {
        match self {
            Route::Health | Route::Ready => Right::Nothing,
            Route::Act(..) => Right::Change,
            _ => Right::Read,
        }
    }
}

impl Channel {
    /// Answers a request; a refused one has changed nothing.
    pub(super) async fn answer<B>(&self, request: Request<B>) -> Answer
    where
        B: Body<Data = Bytes>,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let answered = self.route(request).await;
        let mut response = answered.unwrap_or_else(|refusal| {
            let error = wire::Fault { code: refusal.code.to_owned(), message: refusal.message };
            let mut response = json(refusal.status, &wire::Error { error });
            match refusal.status {
                StatusCode::UNAUTHORIZED => set(&mut response, WWW_AUTHENTICATE, "Bearer"),
                // What is left of the body is not read.
                StatusCode::PAYLOAD_TOO_LARGE | StatusCode::REQUEST_TIMEOUT => {
                    set(&mut response, CONNECTION, "close");
                }
                StatusCode::METHOD_NOT_ALLOWED => {
                    let allowed = if refusal.code == "post-only" { "POST" } else { "GET, HEAD" };
                    set(&mut response, ALLOW, allowed);
                }
                _ => {}
            }
            response
        });
        set(&mut response, CACHE_CONTROL, "no-store");
        set(&mut response, hyper::header::X_CONTENT_TYPE_OPTIONS, "nosniff");
        response
    }

    async fn route<B>(&self, request: Request<B>) -> Result<Answer, Refusal>
    where
        B: Body<Data = Bytes>,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let (head, body) = request.into_parts();
        let route = Route::of(head.uri.path());
        // Whoever may not read is not told either what is here.
        self.access.judge(&head.headers, route.map_or(Right::Read, Route::right))?;
        if head.uri.authority().is_some() {
            let message = "this is no proxy: ask by a path";
            return Err(Refusal::new(StatusCode::BAD_REQUEST, "bad-path", message));
        }
        let route = route.ok_or_else(Refusal::not_found)?;
        let acts = matches!(route, Route::Act(..));
        if acts && head.method != Method::POST {
            return Err(Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "post-only", "use POST"));
        }
        if !acts && head.method != Method::GET && head.method != Method::HEAD {
            return Err(Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "get-only", "use GET"));
        }
        match route {
            Route::Pipelines => Ok(json(StatusCode::OK, &self.pipelines())),
            Route::Pipeline(name) => {
                let pipeline = wire::Pipeline::of(self.entry(name).ok_or_else(no_pipeline)?);
                Ok(json(StatusCode::OK, &wire::One { process: self.process(), pipeline }))
            }
            Route::Act(name, act) => {
                let entry = self.entry(name).ok_or_else(no_pipeline)?;
                let body = self.body(body).await?;
                act_on(entry, act, &body)
            }
            Route::OpenApi => Ok(answer(StatusCode::OK, "application/json", openapi::DOCUMENT)),
            Route::Health => Ok(json(StatusCode::OK, &wire::Health { ok: true })),
            Route::Ready => {
                let ready = self.entries.iter().all(is_ready);
                let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
                Ok(json(status, &wire::Health { ok: ready }))
            }
            Route::Metrics => {
                let wire::Pipelines { process, pipelines } = self.pipelines();
                let text = metrics::text(&process, &pipelines);
                Ok(answer(StatusCode::OK, METRICS_TYPE, text))
            }
        }
    }

    /// The whole body, within its bounds.
    async fn body<B>(&self, body: B) -> Result<Bytes, Refusal>
    where
        B: Body<Data = Bytes>,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let too_large = || {
            let message = format!("the body has more than {BODY_BYTES_MAX} bytes");
            Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "body-too-large", message)
        };
        // Announced as such, it is not waited for.
        if body.size_hint().lower() > BODY_BYTES_MAX as u64 {
            return Err(too_large());
        }
        let limited = std::pin::pin!(Limited::new(body, BODY_BYTES_MAX));
        match within(&*self.world, BODY_WITHIN, limited.collect()).await {
            Some(Ok(collected)) => Ok(collected.to_bytes()),
            Some(Err(error)) if error.is::<LengthLimitError>() => Err(too_large()),
            Some(Err(_)) => {
                Err(Refusal::new(StatusCode::BAD_REQUEST, "bad-body", "the body cannot be read to its end"))
            }
            None => {
                let message = format!("the body did not come within {} s", BODY_WITHIN.as_secs());
                Err(Refusal::new(StatusCode::REQUEST_TIMEOUT, "body-too-slow", message))
            }
        }
    }
}

/// Whether a pipeline does its work, or would if a person had not paused it.
fn is_ready(entry: &Entry) -> bool {
    matches!(entry.status.borrow().state, State::Backfilling | State::Following | State::Paused)
}

fn act_on(entry: &Entry, act: Act, body: &[u8]) -> Result<Answer, Refusal> {
    let Entry { name, controls, .. } = entry;
    if act == Act::Throttle {
        let throttle = read_throttle(body, controls.throttle())?;
        controls.set_throttle(throttle);
        let Throttle { documents_per_s, bytes_per_s } = throttle;
        info!({ field::PIPELINE } = name, documents_per_s, bytes_per_s, "throttled as a person asks");
        return Ok(json(StatusCode::OK, &wire::Controlled::of(entry)));
    }
    if !body.iter().all(u8::is_ascii_whitespace) && read_object::<wire::Nothing>(body).is_none() {
        return Err(Refusal::new(StatusCode::BAD_REQUEST, "bad-body", "no body is wanted here, or {}"));
    }
    match act {
        Act::Pause if controls.pause() => info!({ field::PIPELINE } = name, "paused as a person asks"),
        Act::Resume if controls.resume() => info!({ field::PIPELINE } = name, "resumed as a person asks"),
        Act::Restart => restart(entry)?,
        _ => {}
    }
    Ok(json(StatusCode::OK, &wire::Controlled::of(entry)))
}

fn restart(entry: &Entry) -> Result<(), Refusal> {
    let Some(restart) = &entry.restart else {
        let message = "a pipeline cannot be started again by itself: restart the process";
        return Err(Refusal::new(StatusCode::NOT_IMPLEMENTED, "not-implemented", message));
    };
    restart().map_err(|why| Refusal::new(StatusCode::CONFLICT, "not-now", why))?;
    info!({ field::PIPELINE } = entry.name, "started again as a person asks");
    Ok(())
}

/// A list of values in the right order would be taken for an object, too.
fn read_object<T: serde::de::DeserializeOwned>(body: &[u8]) -> Option<T> {
    body.trim_ascii_start().starts_with(b"{").then(|| serde_json::from_slice(body).ok())?
}

/// The rates after a request: a key that is not there leaves its rate, null lifts it.
fn read_throttle(body: &[u8], before: Throttle) -> Result<Throttle, Refusal> {
    let bad = |message: &str| Refusal::new(StatusCode::BAD_REQUEST, "bad-body", message);
    let wanted: wire::SetThrottle = read_object(body).ok_or_else(|| {
        bad("the body must be {\"documents_per_s\": N or null, \"bytes_per_s\": N or null}, whole numbers from 1 on")
    })?;
    let throttle = Throttle {
        documents_per_s: wanted.documents_per_s.unwrap_or(before.documents_per_s),
        bytes_per_s: wanted.bytes_per_s.unwrap_or(before.bytes_per_s),
    };
    if throttle.documents_per_s == Some(0) || throttle.bytes_per_s == Some(0) {
        return Err(bad("a rate of 0 would never send anything: use pause, or null for no limit"));
    }
    Ok(throttle)
}

fn no_pipeline() -> Refusal {
    Refusal::new(StatusCode::NOT_FOUND, "no-such-pipeline", "no pipeline is called so: see /api/v1/pipelines")
}

fn json(status: StatusCode, body: &impl Serialize) -> Answer {
    match serde_json::to_vec(body) {
        Ok(mut text) => {
            text.push(b'\n');
            answer(status, "application/json", text)
        }
        // Cannot be: the types of `wire` have nothing that JSON lacks.
        Err(_) => answer(StatusCode::INTERNAL_SERVER_ERROR, "application/json", "{}\n"),
    }
}

fn answer(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Answer {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    set(&mut response, CONTENT_TYPE, kind);
    response
}

fn set(response: &mut Answer, name: hyper::header::HeaderName, value: &'static str) {
    response.headers_mut().insert(name, HeaderValue::from_static(value));
}
