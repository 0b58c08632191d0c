//! The way to the target's model: latency, lost answers, requests that are executed late, refusals.
//!
//! ```text
//!   process ── call ──► [sent] ── outside: network ── executed ── answer ──► process
//! ```
//! A request that was sent goes on without its process. What was closed without an answer is executed
//! within the quarantine of 10 s, or runs as a task that can be seen from then on (law 3). Nothing is
//! later: what lies beyond is documented, and no rule of ours can know of it.

use std::sync::Arc;
use std::time::Duration;

use rowtide::target::memory::{self, Memory};
use rowtide::target::{
    Bulk, IdPage, IndexSpec, IndexState, Outcome, Revision, StateDocument, Stored, Target, TargetError,
};
use serde::{Deserialize, Serialize};
use sources::world::{BoxFuture, Moment, SharedWorld};
use tokio::sync::oneshot;

use super::env::{Shared, is_poison};
use super::executor::{Executor, OUTSIDE, Pid};

/// The client gives up after it (`request_timeout`).
const GIVEN_UP_AFTER: Duration = Duration::from_secs(30);
/// Latest execution of a request whose connection was closed, if it cannot be seen.
const LATEST: Duration = Duration::from_millis(9_900);

/// What becomes of one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum TargetFault {
    /// Not executed, and said so: 429.
    Refused,
    /// 413, for a request with several documents.
    TooLarge,
    /// 5xx: executed or not.
    ServerError { executed: bool },
    /// Executed; the answer is lost.
    LostAnswer,
    /// The connection is closed; executed so many milliseconds later.
    Late { after_ms: u64 },
    /// Some items are answered with 429 or 503.
    Partial,
    /// The socket stays open and nothing comes.
    HalfOpen { executed: bool },
}

impl TargetFault {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Refused => "429",
            Self::TooLarge => "413",
            Self::ServerError { .. } => "5xx",
            Self::LostAnswer => "lost answer",
            Self::Late { .. } => "late execution",
            Self::Partial => "partial failure",
            Self::HalfOpen { .. } => "half-open",
        }
    }
}

/// A request that nobody waits for.
pub(super) struct Late {
    pub(super) opaque_id: String,
    pub(super) process: Pid,
    pub(super) cluster: Arc<Memory>,
    /// When it is executed.
    pub(super) at: Moment,
    /// From when it can be seen as a task.
    pub(super) seen_from: Moment,
}

pub(super) struct SimTarget {
    pub(super) env: Shared,
    pub(super) executor: Executor,
    pub(super) world: SharedWorld,
    pub(super) process: Pid,
    /// The second of two; no person touches it, and it is always there.
    pub(super) is_second: bool,
}

/// Makes the model judge documents and fail items as the run wants it.
pub(super) fn prepare(env: &Shared) {
    let targets = env.lock().targets();
    targets.iter().for_each(|(_, cluster)| prepare_one(env, cluster));
}

fn prepare_one(env: &Shared, cluster: &Memory) {
    let shared = env.clone();
    cluster.on_item(move |action| {
        let failed = |status, kind: &str| {
            Some(Outcome::Failed { status, kind: kind.to_owned(), reason: "as the run has it".to_owned() })
        };
        let value = action
            .body
            .as_ref()
            .and_then(|body| serde_json::from_slice::<serde_json::Value>(body).ok()?.get("value")?.as_u64());
        if value.is_some_and(is_poison) {
            return failed(400, "document_parsing_exception");
        }
        let mut env = shared.lock();
        if env.item_faults > 0 {
            env.item_faults -= 1;
            if env.item_faults.is_multiple_of(2) {
                return failed(429, "es_rejected_execution_exception");
            }
            return failed(503, "unavailable_shards_exception");
        }
        None
    });
}

/// Counts the bytes of a request while its process holds them.
struct InFlight {
    env: Shared,
    process: Pid,
    bytes: usize,
}

impl InFlight {
    fn new(env: &Shared, process: Pid, bytes: usize) -> Self {
        let mut now = env.lock();
        let held = now.in_flight.entry(process).or_default();
        *held += bytes;
        let held = *held;
        now.in_flight_most = now.in_flight_most.max(held);
        drop(now);
        Self { env: env.clone(), process, bytes }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        if let Some(held) = self.env.lock().in_flight.get_mut(&self.process) {
            *held -= self.bytes;
        }
    }
}

type Executed<T> = BoxFuture<'static, Result<T, TargetError>>;

fn unresolved(context: &'static str, reason: &str) -> TargetError {
    TargetError::Unresolved { context, reason: reason.to_owned() }
}

fn refused(context: &'static str) -> TargetError {
    TargetError::NotExecuted { context, reason: "no connection".to_owned() }
}

impl SimTarget {
    fn latency(&self, most_ms: u64) -> Duration {
        Duration::from_micros(self.executor.draw(most_ms * 1000))
    }

    /// A whole call: on its way, executed, answered; its process may be gone meanwhile.
    async fn call<T: Send + 'static>(
        &self,
        context: &'static str,
        fault: Option<TargetFault>,
        execute: Executed<T>,
    ) -> Result<T, TargetError> {
        if !self.is_second && self.world.now() < self.env.lock().refuses_until {
            self.world.sleep(self.latency(5)).await;
            return Err(refused(context));
        }
        let (there, back) = (self.latency(60), self.latency(60));
        let outside = self.executor.world(OUTSIDE);
        let (answer, answered) = oneshot::channel();
        let network = async move {
            outside.sleep(there).await;
            let result = match fault {
                None | Some(TargetFault::Partial) => Some(execute.await),
                Some(TargetFault::Refused) => {
                    Some(Err(TargetError::Busy { context, reason: "status 429".to_owned() }))
                }
                Some(TargetFault::TooLarge) => Some(Err(TargetError::TooLarge { context })),
                Some(TargetFault::LostAnswer) => {
                    let _lost = execute.await;
                    Some(Err(unresolved(context, "the socket was closed")))
                }
                Some(TargetFault::ServerError { executed } | TargetFault::HalfOpen { executed }) => {
                    if executed {
                        let _lost = execute.await;
                    }
                    let is_open = matches!(fault, Some(TargetFault::HalfOpen { .. }));
                    (!is_open).then(|| Err(unresolved(context, "status 502")))
                }
                Some(TargetFault::Late { after_ms }) => {
                    let later = outside.clone();
                    drop(answer.send(Err(unresolved(context, "the socket was closed"))));
                    later.sleep(Duration::from_millis(after_ms).min(LATEST)).await;
                    let _lost = execute.await;
                    return;
                }
            };
            outside.sleep(back).await;
            match result {
                Some(result) => drop(answer.send(result)),
                None => {
                    outside.sleep(GIVEN_UP_AFTER).await;
                    drop(answer);
                }
            }
        };
        self.executor.spawn(OUTSIDE, Box::pin(network));
        let timed_out = || TargetError::TimedOut { context, reason: "no answer within 30 s".to_owned() };
        answered.await.unwrap_or_else(|_| Err(timed_out()))
    }

    /// The fault that the run has for the next call of a kind.
    fn fault(&self, several: bool, is_bulk: bool) -> Option<TargetFault> {
        let mut env = self.env.lock();
        let fits = |fault: &TargetFault| match fault {
            TargetFault::TooLarge => is_bulk && several,
            TargetFault::Partial => is_bulk,
            _ => true,
        };
        let found = env.target_faults.iter().position(fits)?;
        let fault = env.target_faults.remove(found)?;
        env.fault(fault.name(), self.process);
        if fault == TargetFault::Partial {
            env.item_faults = 3;
        }
        Some(fault)
    }

    fn cluster(&self) -> Arc<Memory> {
        let env = self.env.lock();
        let second = env.second.as_ref().filter(|_| self.is_second);
        second.unwrap_or(&env.cluster).clone()
    }

    /// Kept by the model until the run's late runner executes it.
    async fn late(&self, request: Bulk, after_ms: u64) -> Result<Vec<Outcome>, TargetError> {
        self.world.sleep(self.latency(60)).await;
        let now = self.world.now();
        let at = now + Duration::from_millis(after_ms);
        let seen_from = at.min(now + LATEST.mul_f64(self.executor.draw(100) as f64 / 100.0));
        let opaque_id = request.opaque_id.clone();
        let cluster = self.cluster();
        cluster.on_bulk(|_| memory::Fault::Late);
        let late = Late { opaque_id, process: self.process, cluster: cluster.clone(), at, seen_from };
        self.env.lock().late.push(late);
        let answer = cluster.bulk(request).await;
        cluster.on_bulk(|_| memory::Fault::Execute);
        answer
    }
}

impl Target for SimTarget {
    fn bulk(&self, request: Bulk) -> BoxFuture<'_, Result<Vec<Outcome>, TargetError>> {
        Box::pin(async move {
            let _counted = InFlight::new(&self.env, self.process, request.body.len());
            let fault = self.fault(request.actions > 1, true);
            if let Some(TargetFault::Late { after_ms }) = fault {
                return self.late(request, after_ms).await;
            }
            let cluster = self.cluster();
            self.call("bulk", fault, Box::pin(async move { cluster.bulk(request).await })).await
        })
    }

    fn is_running<'a>(&'a self, opaque_id: &'a str) -> BoxFuture<'a, Result<bool, TargetError>> {
        Box::pin(async move {
            let (env, world, id) = (self.env.clone(), self.world.clone(), opaque_id.to_owned());
            let look = async move {
                let now = world.now();
                let env = env.lock();
                Ok(env.late.iter().any(|late| late.opaque_id == id && late.seen_from <= now))
            };
            self.call("ask for tasks", None, Box::pin(look)).await
        })
    }

    fn index<'a>(&'a self, alias: &'a str) -> BoxFuture<'a, Result<Option<IndexState>, TargetError>> {
        Box::pin(async move {
            let (cluster, alias) = (self.cluster(), alias.to_owned());
            self.call("look at an index", None, Box::pin(async move { cluster.index(&alias).await })).await
        })
    }

    fn create_index<'a>(&'a self, spec: &'a IndexSpec) -> BoxFuture<'a, Result<IndexState, TargetError>> {
        Box::pin(async move {
            let (cluster, spec) = (self.cluster(), spec.clone());
            self.call("create index", None, Box::pin(async move { cluster.create_index(&spec).await })).await
        })
    }

    fn delete_index<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<(), TargetError>> {
        Box::pin(async move {
            let (cluster, name) = (self.cluster(), name.to_owned());
            self.call("delete index", None, Box::pin(async move { cluster.delete_index(&name).await })).await
        })
    }

    fn refresh<'a>(&'a self, alias: &'a str) -> BoxFuture<'a, Result<(), TargetError>> {
        Box::pin(async move {
            let (cluster, alias) = (self.cluster(), alias.to_owned());
            self.call("refresh", None, Box::pin(async move { cluster.refresh(&alias).await })).await
        })
    }

    fn ids<'a>(
        &'a self,
        alias: &'a str,
        cursor: Option<String>,
        limit: usize,
    ) -> BoxFuture<'a, Result<IdPage, TargetError>> {
        Box::pin(async move {
            let (cluster, alias) = (self.cluster(), alias.to_owned());
            let work = async move { cluster.ids(&alias, cursor, limit).await };
            self.call("list documents", None, Box::pin(work)).await
        })
    }

    fn load_state<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<Option<Stored>, TargetError>> {
        Box::pin(async move {
            let (cluster, id) = (self.cluster(), id.to_owned());
            let fault = self.fault(false, false);
            self.call("read state", fault, Box::pin(async move { cluster.load_state(&id).await })).await
        })
    }

    fn save_state<'a>(
        &'a self,
        id: &'a str,
        document: &'a StateDocument,
        seen: Option<Revision>,
    ) -> BoxFuture<'a, Result<Revision, TargetError>> {
        Box::pin(async move {
            let (cluster, id, document) = (self.cluster(), id.to_owned(), document.clone());
            let fault = self.fault(false, false);
            let work = async move { cluster.save_state(&id, &document, seen).await };
            let saved = self.call("write state", fault, Box::pin(work)).await;
            if matches!(saved, Err(TargetError::Conflict { .. })) {
                self.env.lock().attacks.hit("D7 B1 the state document was changed by another");
            }
            saved
        })
    }

    fn delete_state<'a>(&'a self, id: &'a str, seen: Revision) -> BoxFuture<'a, Result<(), TargetError>> {
        Box::pin(async move {
            let (cluster, id) = (self.cluster(), id.to_owned());
            let work = async move { cluster.delete_state(&id, seen).await };
            self.call("delete state", None, Box::pin(work)).await
        })
    }
}

/// Executes late requests when their time has come, for as long as the run lasts.
pub(super) async fn run_late(env: Shared, world: SharedWorld) {
    loop {
        let due: Vec<Late> = {
            let mut env = env.lock();
            let now = world.now();
            env.late.extract_if(.., |late| late.at <= now).collect()
        };
        for Late { opaque_id: id, cluster, .. } in due {
            env.lock().note(format!("  {id} is executed late"));
            let before = cluster.applied().len();
            cluster.execute(&id);
            let applied = cluster.applied();
            let came_before = |at: usize| {
                let (done, place) = (&applied[at], (&applied[at].alias, &applied[at].id));
                let last = applied[..at].iter().rev().find(|it| (&it.alias, &it.id) == place);
                last.is_some_and(|last| last.version == done.version)
            };
            if (before..applied.len()).any(came_before) {
                env.lock().attacks.hit("B3 D3 a late request meets an equal version");
            }
        }
        world.sleep(Duration::from_millis(50)).await;
    }
}

/// A process ended, or stands still: what it left behind is executed within the quarantine.
pub(super) fn close(env: &Shared, process: Pid, now: Moment) {
    for late in env.lock().late.iter_mut().filter(|late| late.process == process) {
        late.at = late.at.min(now + LATEST);
    }
}
