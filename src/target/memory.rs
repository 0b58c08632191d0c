//! A model of a search cluster: the version rules exactly, and every fault on demand.
//!
//! ```text
//!   bulk ──► bulk hook ──► Execute ──► each action: item hook, alias, version ──► outcomes
//!              ├─ Refuse(error)          not executed, the error is the answer
//!              ├─ LoseAnswer             executed, the answer is Unresolved
//!              ├─ LoseRequest            not executed, the answer is Unresolved
//!              ├─ Late                   Unresolved at once; executed when a test says so
//!              └─ Hold                   waits; executed and answered when a test says so
//! ```
//! What it keeps to (seen on Elasticsearch 8.19 and OpenSearch 2.19):
//! - `external_gte`: a write is taken when its version is not below the place's, which a delete leaves
//!   behind too, also one that found nothing (404); else 409.
//! - [`Memory::forget_tombstones`] is a clean restart of the node: versions of deleted documents go,
//!   those of live ones stay.
//! - A caller that gives up a held request does not take it back.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use serde::Deserialize;
use sources::world::BoxFuture;
use tokio::sync::oneshot;

use super::{
    Bulk, IdPage, IndexSpec, IndexState, Outcome, Revision, StateDocument, Stored, Target, TargetError,
};

/// What becomes of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It is executed and answered.
    Execute,
    /// It is not executed; this is the answer.
    Refuse(TargetError),
    /// It is executed, and the answer is lost.
    LoseAnswer,
    /// It is not executed, and the caller cannot know.
    LoseRequest,
    /// The answer is lost at once; executed at [`Memory::execute`]. Runs until then.
    Late,
    /// Executed and answered at [`Memory::execute`]. Runs until then.
    Hold,
}

impl Fault {
    /// Not executed, and the caller knows: a refused connection, a 429.
    pub fn not_executed() -> Self {
        Fault::Refuse(TargetError::NotExecuted { context: "bulk", reason: "injected".to_owned() })
    }
}

/// A request for the state document, for its hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StateCall {
    /// A read.
    Load,
    /// A compare-and-set.
    Save,
}

/// One action of a bulk request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Action {
    /// The alias it is written through.
    pub alias: String,
    /// The document's id.
    pub id: String,
    /// Its external version.
    pub version: u64,
    /// The document; `None` deletes.
    pub body: Option<Bytes>,
}

/// A document, or what is left of one.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    version: u64,
    body: Option<Bytes>,
}

struct Index {
    state: IndexState,
    entries: BTreeMap<String, Entry>,
}

struct Held {
    request: Bulk,
    answer: Option<oneshot::Sender<Result<Vec<Outcome>, TargetError>>>,
}

type Hook<Question, Answer> = Box<dyn FnMut(&Question) -> Answer + Send>;

#[derive(Default)]
struct Inner {
    aliases: BTreeMap<String, String>,
    indices: BTreeMap<String, Index>,
    states: BTreeMap<String, Stored>,
    held: Vec<Held>,
    requests: Vec<Bulk>,
    applied: Vec<Action>,
    /// Makes UUIDs and sequence numbers.
    count: u64,
    on_bulk: Option<Hook<Bulk, Fault>>,
    on_item: Option<Hook<Action, Option<Outcome>>>,
    on_state: Option<Hook<StateCall, Fault>>,
}

/// The model.
#[derive(Default)]
pub struct Memory {
    inner: Mutex<Inner>,
}

impl Memory {
    /// An empty cluster.
    pub fn new() -> Self {
        Self::default()
    }

    /// A cluster with one empty index behind `alias`, made by the pipeline `test`.
    pub fn with_index(alias: &str) -> Self {
        let memory = Self::new();
        let (alias, pipeline, shape_hash) = (alias.to_owned(), "test".to_owned(), String::new());
        memory.lock().create(&IndexSpec { alias, pipeline, shape_hash, ..IndexSpec::default() });
        memory
    }

    /// Decides about each bulk request when it comes.
    pub fn on_bulk(&self, hook: impl FnMut(&Bulk) -> Fault + Send + 'static) {
        self.lock().on_bulk = Some(Box::new(hook));
    }

    /// Gives an action another outcome than its execution; it is not executed then.
    pub fn on_item(&self, hook: impl FnMut(&Action) -> Option<Outcome> + Send + 'static) {
        self.lock().on_item = Some(Box::new(hook));
    }

    /// Decides about each request for the state document; `Late` and `Hold` are `LoseRequest` there.
    pub fn on_state(&self, hook: impl FnMut(&StateCall) -> Fault + Send + 'static) {
        self.lock().on_state = Some(Box::new(hook));
    }

    /// Names of the requests that wait, in the order in which they came.
    pub fn held(&self) -> Vec<String> {
        self.lock().held.iter().map(|held| held.request.opaque_id.clone()).collect()
    }

    /// Executes the oldest waiting request of that name; `false` when there is none.
    pub fn execute(&self, opaque_id: &str) -> bool {
        let mut inner = self.lock();
        let Some(at) = inner.held.iter().position(|held| held.request.opaque_id == opaque_id) else {
            return false;
        };
        let held = inner.held.remove(at);
        let done = inner.execute(&held.request);
        drop(inner);
        if let Some(answer) = held.answer {
            // A caller that has gone away hears nothing; the work is done all the same.
            let _caller_is_gone = answer.send(done).is_err();
        }
        true
    }

    /// A clean restart of the node: the versions of deleted documents are forgotten.
    pub fn forget_tombstones(&self) {
        for index in self.lock().indices.values_mut() {
            index.entries.retain(|_, entry| entry.body.is_some());
        }
    }

    /// A person deletes what is behind an alias, alias and all.
    pub fn drop_alias(&self, alias: &str) {
        let mut inner = self.lock();
        if let Some(name) = inner.aliases.remove(alias) {
            inner.indices.remove(&name);
        }
    }

    /// A person deletes a state document.
    pub fn drop_state(&self, id: &str) {
        self.lock().states.remove(id);
    }

    /// Every bulk request that came, whatever became of it.
    pub fn requests(&self) -> Vec<Bulk> {
        self.lock().requests.clone()
    }

    /// Every action that changed something, in the order of execution.
    pub fn applied(&self) -> Vec<Action> {
        self.lock().applied.clone()
    }

    /// The live documents behind an alias: version and body by id.
    pub fn documents(&self, alias: &str) -> BTreeMap<String, (u64, Bytes)> {
        let inner = self.lock();
        let live = |(id, entry): (&String, &Entry)| {
            entry.body.clone().map(|body| (id.clone(), (entry.version, body)))
        };
        inner.behind(alias).map(|index| index.entries.iter().filter_map(live).collect()).unwrap_or_default()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn receive(&self, request: Bulk) -> Result<Reception, TargetError> {
        let mut inner = self.lock();
        inner.requests.push(request.clone());
        let fault = inner.on_bulk.as_mut().map_or(Fault::Execute, |hook| hook(&request));
        match fault {
            Fault::Execute => inner.execute(&request).map(Reception::Done),
            Fault::Refuse(error) => Err(error),
            Fault::LoseRequest => Err(lost("bulk")),
            Fault::LoseAnswer => {
                inner.execute(&request)?;
                Err(lost("bulk"))
            }
            Fault::Late => {
                inner.held.push(Held { request, answer: None });
                Err(lost("bulk"))
            }
            Fault::Hold => {
                let (answer, waiting) = oneshot::channel();
                inner.held.push(Held { request, answer: Some(answer) });
                Ok(Reception::Waiting(waiting))
            }
        }
    }
}

enum Reception {
    Done(Vec<Outcome>),
    Waiting(oneshot::Receiver<Result<Vec<Outcome>, TargetError>>),
}

fn lost(context: &'static str) -> TargetError {
    TargetError::Unresolved { context, reason: "the answer was lost".to_owned() }
}

impl Inner {
    fn behind(&self, alias: &str) -> Option<&Index> {
        self.indices.get(self.aliases.get(alias)?)
    }

    fn create(&mut self, spec: &IndexSpec) -> IndexState {
        self.count += 1;
        let mut numbers = (1_u64..).map(|n| format!("{}-rowtide-{n}", spec.alias));
        let name = numbers.find(|name| !self.indices.contains_key(name)).unwrap_or_default();
        let state = IndexState {
            name: name.clone(),
            uuid: format!("uuid-{}", self.count),
            documents: 0,
            pipeline: Some(spec.pipeline.clone()),
            shape_hash: Some(spec.shape_hash.clone()),
            format: super::DOCUMENT_FORMAT,
            odd: Vec::new(),
        };
        self.aliases.insert(spec.alias.clone(), name.clone());
        self.indices.insert(name, Index { state: state.clone(), entries: BTreeMap::new() });
        state
    }

    fn execute(&mut self, request: &Bulk) -> Result<Vec<Outcome>, TargetError> {
        let actions = parse(&request.body).ok_or_else(|| TargetError::Halt {
            context: "bulk",
            reason: "status 400: the body is no list of actions".to_owned(),
            hint: "this is a fault in Rowtide: please report it".to_owned(),
        })?;
        if actions.len() != request.actions {
            let reason = format!("{} outcomes for {} actions", actions.len(), request.actions);
            return Err(TargetError::Unresolved { context: "bulk", reason });
        }
        Ok(actions.into_iter().map(|action| self.apply(action)).collect())
    }

    fn apply(&mut self, action: Action) -> Outcome {
        if let Some(outcome) = self.on_item.as_mut().and_then(|hook| hook(&action)) {
            return outcome;
        }
        let failed = |status: u16, kind: &str| {
            let (kind, reason) = (kind.to_owned(), "as the model has it".to_owned());
            Outcome::Failed { status, kind, reason }
        };
        let name = self.aliases.get(&action.alias);
        let Some(index) = name.and_then(|name| self.indices.get_mut(name)) else {
            return failed(404, "index_not_found_exception");
        };
        let is_object = |body: &Bytes| {
            serde_json::from_slice::<BTreeMap<String, &serde_json::value::RawValue>>(body).is_ok()
        };
        if action.body.as_ref().is_some_and(|body| !is_object(body)) {
            return failed(400, "document_parsing_exception");
        }
        if index.entries.get(&action.id).is_some_and(|entry| action.version < entry.version) {
            return Outcome::Stale;
        }
        let entry = Entry { version: action.version, body: action.body.clone() };
        index.entries.insert(action.id.clone(), entry);
        self.applied.push(action);
        Outcome::Written
    }

    fn state_fault(&mut self, call: StateCall) -> Fault {
        self.on_state.as_mut().map_or(Fault::Execute, |hook| hook(&call))
    }

    fn save(
        &mut self,
        id: &str,
        document: &StateDocument,
        seen: Option<Revision>,
    ) -> Result<Revision, TargetError> {
        if self.states.get(id).map(|stored| stored.revision) != seen {
            let reason = format!("somebody else has written the state document {id}");
            return Err(TargetError::Conflict { context: "write state document", reason });
        }
        self.count += 1;
        let revision = Revision { seq_no: self.count, primary_term: 1 };
        self.states.insert(id.to_owned(), Stored { document: document.clone(), revision });
        Ok(revision)
    }
}

/// The actions of a bulk body; `None` when it is none.
fn parse(body: &Bytes) -> Option<Vec<Action>> {
    #[derive(Deserialize)]
    #[serde(rename_all = "lowercase")]
    enum Line {
        Index(Meta),
        Delete(Meta),
    }
    #[derive(Deserialize)]
    struct Meta {
        _index: String,
        _id: String,
        version: u64,
        version_type: String,
    }
    let text = body.strip_suffix(b"\n")?;
    let mut lines = text.split(|&byte| byte == b'\n');
    let mut actions = Vec::new();
    while let Some(line) = lines.next() {
        let (meta, document) = match serde_json::from_slice(line).ok()? {
            Line::Index(meta) => (meta, Some(body.slice_ref(lines.next()?))),
            Line::Delete(meta) => (meta, None),
        };
        if meta.version_type != "external_gte" {
            return None;
        }
        actions.push(Action { alias: meta._index, id: meta._id, version: meta.version, body: document });
    }
    Some(actions)
}

impl Target for Memory {
    fn bulk(&self, request: Bulk) -> BoxFuture<'_, Result<Vec<Outcome>, TargetError>> {
        Box::pin(async move {
            match self.receive(request)? {
                Reception::Done(outcomes) => Ok(outcomes),
                Reception::Waiting(answer) => answer.await.unwrap_or_else(|_| Err(lost("bulk"))),
            }
        })
    }

    fn is_running<'a>(&'a self, opaque_id: &'a str) -> BoxFuture<'a, Result<bool, TargetError>> {
        let running = self.lock().held.iter().any(|held| held.request.opaque_id == opaque_id);
        Box::pin(async move { Ok(running) })
    }

    fn index<'a>(&'a self, alias: &'a str) -> BoxFuture<'a, Result<Option<IndexState>, TargetError>> {
        let inner = self.lock();
        let found = inner.behind(alias).map(|index| IndexState {
            documents: index.entries.values().filter(|entry| entry.body.is_some()).count() as u64,
            ..index.state.clone()
        });
        drop(inner);
        Box::pin(async move { Ok(found) })
    }

    fn create_index<'a>(&'a self, spec: &'a IndexSpec) -> BoxFuture<'a, Result<IndexState, TargetError>> {
        Box::pin(async move {
            let mut inner = self.lock();
            if let Some(name) = inner.aliases.get(&spec.alias) {
                let reason = format!("the alias {} already stands for {name}", spec.alias);
                return Err(TargetError::Conflict { context: "create index", reason });
            }
            Ok(inner.create(spec))
        })
    }

    fn delete_index<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<(), TargetError>> {
        let mut inner = self.lock();
        inner.indices.remove(name);
        inner.aliases.retain(|_, real| real != name);
        drop(inner);
        Box::pin(async move { Ok(()) })
    }

    fn refresh<'a>(&'a self, _alias: &'a str) -> BoxFuture<'a, Result<(), TargetError>> {
        Box::pin(async move { Ok(()) })
    }

    fn ids<'a>(
        &'a self,
        alias: &'a str,
        cursor: Option<String>,
        limit: usize,
    ) -> BoxFuture<'a, Result<IdPage, TargetError>> {
        Box::pin(async move {
            let inner = self.lock();
            let Some(index) = inner.behind(alias) else {
                let reason = format!("the index behind {alias} is gone");
                return Err(TargetError::Conflict { context: "list documents", reason });
            };
            let after = cursor.map_or(Bound::Unbounded, Bound::Excluded);
            let later = index.entries.range((after, Bound::Unbounded));
            let live = later.filter(|(_, entry)| entry.body.is_some());
            let live = live.map(|(id, entry)| (id.clone(), entry.version));
            let ids: Vec<(String, u64)> = live.take(limit).collect();
            Ok(IdPage { cursor: ids.last().map(|(id, _)| id.clone()), ids })
        })
    }

    fn load_state<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<Option<Stored>, TargetError>> {
        Box::pin(async move {
            let mut inner = self.lock();
            match inner.state_fault(StateCall::Load) {
                Fault::Execute => Ok(inner.states.get(id).cloned()),
                Fault::Refuse(error) => Err(error),
                _ => Err(lost("read state document")),
            }
        })
    }

    fn save_state<'a>(
        &'a self,
        id: &'a str,
        document: &'a StateDocument,
        seen: Option<Revision>,
    ) -> BoxFuture<'a, Result<Revision, TargetError>> {
        Box::pin(async move {
            let mut inner = self.lock();
            match inner.state_fault(StateCall::Save) {
                Fault::Execute => inner.save(id, document, seen),
                Fault::Refuse(error) => Err(error),
                Fault::LoseAnswer => {
                    inner.save(id, document, seen)?;
                    Err(lost("write state document"))
                }
                _ => Err(lost("write state document")),
            }
        })
    }

    fn delete_state<'a>(&'a self, id: &'a str, seen: Revision) -> BoxFuture<'a, Result<(), TargetError>> {
        Box::pin(async move {
            let mut inner = self.lock();
            if inner.states.get(id).is_none_or(|stored| stored.revision != seen) {
                let reason = format!("somebody else has written the document {id}");
                return Err(TargetError::Conflict { context: "delete state document", reason });
            }
            inner.states.remove(id);
            Ok(())
        })
    }
}

#[cfg(test)]
#[path = "memory_tests.rs"]
mod tests;
