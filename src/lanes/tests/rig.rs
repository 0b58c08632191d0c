//! The target's model with faults in virtual time, and lanes in front of it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use sources::budget::{Budget, Class};
use sources::position::{Position, Version};
use sources::world::{BoxFuture, Moment, RealWorld, SharedWorld};
use tokio::sync::mpsc;

use crate::controls::Controls;
use crate::dead_letters::{DeadLetter, DeadLetterError, DeadLetters};
use crate::lanes::{Action, Dead, Drained, Event, Kind, Lanes, Settings, Stopped, Surroundings};
use crate::ledger::{Checkpoint, Ledger};
use crate::retry::Halt;
use crate::target::memory::{self, Memory};
use crate::target::{
    Bulk, IdPage, IndexSpec, IndexState, Outcome, Revision, StateDocument, Stored, Target, TargetError,
};

/// What becomes of one request.
#[derive(Clone, Debug)]
pub(super) enum Fault {
    /// No answer; executed after so long (counted from the close), or never.
    Lost(Option<Duration>),
    /// No connection was made.
    Refused,
    /// The whole request is refused for want of room.
    Busy,
    /// No answer within the limit of time, and not executed.
    TimedOut,
    /// Answered after so long.
    Slow(Duration),
    /// This item is answered so, the others are executed.
    Item(usize, u16, &'static str),
    /// Every item is answered so.
    All(u16, &'static str),
    /// A whole answer that a person must act upon.
    Halt,
    /// Executed; the answer speaks of one item less.
    Short,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Sent {
    pub(super) at: Moment,
    /// Its `X-Opaque-Id`, and that without the request's own number.
    pub(super) name: String,
    pub(super) lane: String,
    pub(super) ids: Vec<String>,
    pub(super) bytes: usize,
}

#[derive(Default)]
pub(super) struct ModelState {
    pub(super) faults: VecDeque<Fault>,
    pub(super) sent: Vec<Sent>,
    /// Requests that nobody waits for: when their connection was closed, and when they are executed.
    late: Vec<(Moment, Moment, String)>,
    busy: BTreeSet<String>,
    pub(super) overlaps: usize,
    /// Above it 413, or a closed socket.
    pub(super) bytes_max: Option<(usize, bool)>,
    pub(super) asked: usize,
    /// An item that takes four times its bytes beside itself is refused above it, with both numbers.
    pub(super) expanded_max: Option<usize>,
}

/// What the hooks of the target's model do with the next request.
#[derive(Default)]
struct Script {
    request: Option<memory::Fault>,
    /// Items that are answered so instead of being executed.
    items: BTreeMap<String, Outcome>,
}

pub(super) struct Model {
    pub(super) memory: Memory,
    script: Arc<Mutex<Script>>,
    pub(super) state: Mutex<ModelState>,
    world: SharedWorld,
}

fn ids(body: &[u8]) -> Vec<String> {
    let text = std::str::from_utf8(body).unwrap();
    let id = |line: &str| {
        let action: serde_json::Value = serde_json::from_str(line).unwrap();
        let about = action.get("index").or_else(|| action.get("delete"))?;
        Some(about["_id"].as_str().unwrap().to_owned())
    };
    text.lines().filter_map(id).collect()
}

impl Model {
    fn new(world: SharedWorld) -> Self {
        let memory = Memory::with_index("things");
        let script = Arc::new(Mutex::new(Script::default()));
        let requests = script.clone();
        memory.on_bulk(move |_| requests.lock().unwrap().request.take().unwrap_or(memory::Fault::Execute));
        let items = script.clone();
        memory.on_item(move |action| {
            let poison =
                action.body.as_ref().is_some_and(|body| body.windows(6).any(|part| part == b"poison"));
            if poison {
                return Some(failed(400, "document_parsing_exception"));
            }
            items.lock().unwrap().items.get(&action.id).cloned()
        });
        Self { memory, script, state: Mutex::default(), world }
    }

    /// Executes what is due. Tombstones are forgotten at once: order must protect deletes.
    fn run_late(&self, state: &mut ModelState) {
        let now = self.world.now();
        for (_, _, id) in state.late.extract_if(.., |(_, at, _)| *at <= now) {
            assert!(self.memory.execute(&id));
            self.memory.forget_tombstones();
        }
    }
}

/// The items of a body that the model's node with the primary shard has no room for, ever.
fn expanded_beyond(body: &[u8], most: usize) -> BTreeMap<String, Outcome> {
    let text = std::str::from_utf8(body).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    let refuse = |lines: &[&str]| {
        let bytes: usize = lines.iter().map(|line| line.len() + 1).sum();
        let expanded = 4 * bytes;
        let reason = format!("[primary_operation_bytes={expanded}, max_primary_bytes={most}]");
        let kind = "es_rejected_execution_exception".to_owned();
        let id = ids(lines.join("\n").as_bytes()).pop()?;
        (bytes + expanded > most).then_some((id, Outcome::Failed { status: 429, kind, reason }))
    };
    lines.chunks(2).filter_map(refuse).collect()
}

fn failed(status: u16, kind: &str) -> Outcome {
    Outcome::Failed { status, kind: kind.into(), reason: "because".into() }
}

impl Target for Model {
    fn bulk(&self, request: Bulk) -> BoxFuture<'_, Result<Vec<Outcome>, TargetError>> {
        Box::pin(async move {
            let context = "send a bulk request";
            let lane = request.opaque_id.rsplitn(2, '-').last().unwrap().to_owned();
            {
                let mut state = self.state.lock().unwrap();
                let ids = ids(&request.body);
                let bytes = request.body.len();
                let (at, name) = (self.world.now(), request.opaque_id.clone());
                state.sent.push(Sent { at, name, lane: lane.clone(), ids, bytes });
                if !state.busy.insert(lane.clone()) {
                    state.overlaps += 1;
                }
            }
            self.world.sleep(Duration::from_millis(5)).await;
            let (mut is_short, mut slow) = (false, Duration::ZERO);
            {
                let mut state = self.state.lock().unwrap();
                state.busy.remove(&lane);
                self.run_late(&mut state);
                let mut script = self.script.lock().unwrap();
                script.items.clear();
                let refuse = |error| Some(memory::Fault::Refuse(error));
                script.request = None;
                if let Some(most) = state.expanded_max {
                    script.items.extend(expanded_beyond(&request.body, most));
                }
                let too_large = state.bytes_max.filter(|(limit, _)| request.body.len() > *limit);
                match too_large {
                    Some((_, true)) => script.request = Some(memory::Fault::LoseRequest),
                    Some((_, false)) => script.request = refuse(TargetError::TooLarge { context }),
                    None => match state.faults.pop_front() {
                        None => {}
                        Some(Fault::Lost(None)) => script.request = Some(memory::Fault::LoseRequest),
                        Some(Fault::Lost(Some(after))) => {
                            let now = self.world.now();
                            state.late.push((now, now + after, request.opaque_id.clone()));
                            script.request = Some(memory::Fault::Late);
                        }
                        Some(Fault::Refused) => {
                            script.request =
                                refuse(TargetError::NotExecuted { context, reason: "away".into() });
                        }
                        Some(Fault::Busy) => {
                            script.request = refuse(TargetError::Busy { context, reason: "429".into() });
                        }
                        Some(Fault::TimedOut) => {
                            script.request = refuse(TargetError::TimedOut { context, reason: "late".into() });
                        }
                        Some(Fault::Slow(time)) => slow = time,
                        Some(Fault::Item(number, status, kind)) => {
                            let id = ids(&request.body).get(number).cloned();
                            script.items.extend(id.map(|id| (id, failed(status, kind))));
                        }
                        Some(Fault::All(status, kind)) => {
                            let all = ids(&request.body).into_iter();
                            script.items.extend(all.map(|id| (id, failed(status, kind))));
                        }
                        Some(Fault::Halt) => {
                            let (reason, hint) = ("401".into(), "correct it".into());
                            script.request = refuse(TargetError::Halt { context, reason, hint });
                        }
                        Some(Fault::Short) => is_short = true,
                    },
                }
            }
            self.world.sleep(slow).await;
            let mut answer = self.memory.bulk(request).await;
            if is_short && let Ok(outcomes) = &mut answer {
                outcomes.pop();
            }
            self.script.lock().unwrap().items.clear();
            self.memory.forget_tombstones();
            answer
        })
    }

    fn is_running<'a>(&'a self, opaque_id: &'a str) -> BoxFuture<'a, Result<bool, TargetError>> {
        Box::pin(async move {
            let now = self.world.now();
            let mut state = self.state.lock().unwrap();
            state.asked += 1;
            self.run_late(&mut state);
            // A request on its way becomes a task within the quarantine.
            let nearly = Duration::from_secs(10);
            Ok(state.late.iter().any(|(closed, _, id)| id == opaque_id && now >= *closed + nearly))
        })
    }

    fn index<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<Option<IndexState>, TargetError>> {
        unreachable!()
    }
    fn create_index<'a>(&'a self, _: &'a IndexSpec) -> BoxFuture<'a, Result<IndexState, TargetError>> {
        unreachable!()
    }
    fn delete_index<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<(), TargetError>> {
        unreachable!()
    }
    fn refresh<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<(), TargetError>> {
        unreachable!()
    }
    fn ids<'a>(
        &'a self,
        _: &'a str,
        _: Option<String>,
        _: usize,
    ) -> BoxFuture<'a, Result<IdPage, TargetError>> {
        unreachable!()
    }
    fn load_state<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<Option<Stored>, TargetError>> {
        unreachable!()
    }
    fn save_state<'a>(
        &'a self,
        _: &'a str,
        _: &'a StateDocument,
        _: Option<Revision>,
    ) -> BoxFuture<'a, Result<Revision, TargetError>> {
        unreachable!()
    }

    fn delete_state<'a>(&'a self, _: &'a str, _: Revision) -> BoxFuture<'a, Result<(), TargetError>> {
        unreachable!()
    }
}

type Letter = (u64, String, Option<Bytes>);

/// Letters in memory, bounded in count.
#[derive(Default)]
pub(super) struct Letters {
    /// Version, reason and body by id.
    pub(super) kept: Mutex<BTreeMap<String, Letter>>,
    pub(super) limit: Option<u64>,
}

impl DeadLetters for Letters {
    fn keep(&self, letter: DeadLetter) -> BoxFuture<'_, Result<(), DeadLetterError>> {
        Box::pin(async move {
            let mut kept = self.kept.lock().unwrap();
            let id = String::from_utf8(letter.id.into_vec()).unwrap();
            if self.limit.is_some_and(|limit| kept.len() as u64 >= limit) {
                return Err(DeadLetterError::Full { bytes: letter.bytes, limit: 0 });
            }
            kept.insert(id, (letter.version.get(), letter.reason, letter.body));
            Ok(())
        })
    }
    fn count(&self) -> u64 {
        self.kept.lock().unwrap().len() as u64
    }
    fn holds(&self, _: &str, id: &[u8]) -> bool {
        self.kept.lock().unwrap().contains_key(std::str::from_utf8(id).unwrap())
    }
    fn superseded<'a>(
        &'a self,
        _: &'a str,
        id: &'a [u8],
        version: Version,
    ) -> BoxFuture<'a, Result<(), DeadLetterError>> {
        Box::pin(async move {
            let mut kept = self.kept.lock().unwrap();
            let id = std::str::from_utf8(id).unwrap();
            if kept.get(id).is_some_and(|(held, ..)| *held <= version.get()) {
                kept.remove(id);
            }
            Ok(())
        })
    }
    fn cleared<'a>(&'a self, _: &'a str, _: Version) -> BoxFuture<'a, Result<(), DeadLetterError>> {
        unreachable!("lanes know nothing of tables")
    }
}

/// Lanes with everything around them.
pub(super) struct Rig {
    pub(super) lanes: Lanes,
    events: mpsc::UnboundedReceiver<Event>,
    pub(super) model: Arc<Model>,
    pub(super) letters: Arc<Letters>,
    pub(super) world: SharedWorld,
    pub(super) budget: Budget,
    pub(super) ledger: Ledger,
    pub(super) halts: Vec<Halt>,
    pub(super) permit: Arc<std::sync::atomic::AtomicBool>,
    pub(super) controls: Controls,
}

pub(super) const CHARGE: usize = 1000;

pub(super) fn settings() -> Settings {
    let mut settings = Settings::new("test", Arc::new([Arc::from("things")]));
    settings.lanes = 1;
    settings
}

pub(super) fn document(text: &str) -> String {
    format!("{{\"text\":\"{text}\"}}")
}

impl Rig {
    pub(super) fn new(settings: Settings) -> Self {
        Self::with_letters(settings, Letters::default())
    }

    pub(super) fn with_letters(settings: Settings, letters: Letters) -> Self {
        let world = RealWorld::shared();
        let model = Arc::new(Model::new(world.clone()));
        let letters = Arc::new(letters);
        let permit = Arc::new(std::sync::atomic::AtomicBool::new(true));
        let given = permit.clone();
        let controls = Controls::default();
        let surroundings = Surroundings {
            controls: controls.clone(),
            world: world.clone(),
            target: model.clone(),
            dead_letters: letters.clone(),
            permit: Arc::new(move |_| given.load(std::sync::atomic::Ordering::SeqCst)),
        };
        let (lanes, events) = Lanes::start(settings, surroundings);
        let (budget, ledger) = (Budget::new(1 << 30), Ledger::new());
        Self { lanes, events, model, letters, world, budget, ledger, halts: Vec::new(), permit, controls }
    }

    pub(super) fn fault(&self, faults: impl IntoIterator<Item = Fault>) {
        self.state(|state| state.faults.extend(faults));
    }

    pub(super) fn state<T>(&self, look: impl FnOnce(&mut ModelState) -> T) -> T {
        let mut state = self.model.state.lock().unwrap();
        self.model.run_late(&mut state);
        look(&mut state)
    }

    pub(super) fn action(&mut self, id: &str, version: u64, kind: Kind, text: &str) -> Action {
        let operation = if kind == Kind::Put { "index" } else { "delete" };
        let head = format!("{{\"{operation}\":{{\"_index\":\"things\",\"_id\":\"");
        let mut line = format!("{head}{id}\",\"version\":{version},\"version_type\":\"external_gte\"}}}}\n");
        if kind == Kind::Put {
            line.push_str(&document(text));
            line.push('\n');
        }
        Action {
            index: 0,
            id_at: head.len() as u32,
            id_len: id.len() as u32,
            version: Version::from_target(version),
            kind,
            data: line.into_bytes().into(),
            segment: self.ledger.enter(1),
            charge: CHARGE,
        }
    }

    pub(super) async fn submit(&self, actions: Vec<Action>) {
        let charge = self.budget.reserve(Class::Log, actions.len() * CHARGE).await.unwrap();
        let _a_halted_lane_takes_nothing = self.lanes.submit(actions, charge);
    }

    pub(super) async fn put(&mut self, id: &str, version: u64, text: &str) {
        let action = self.action(id, version, Kind::Put, text);
        self.submit(vec![action]).await;
    }

    pub(super) async fn delete(&mut self, id: &str, version: u64) {
        let action = self.action(id, version, Kind::Delete, "");
        self.submit(vec![action]).await;
    }

    pub(super) async fn dead(&mut self, id: &str, version: u64) {
        let dead = Dead { reason: "too large".into(), whole: false, bytes: 1 << 30 };
        let action = self.action(id, version, Kind::Dead(Box::new(dead)), "");
        self.submit(vec![action]).await;
    }

    pub(super) fn seal(&mut self, position: u64) {
        self.ledger.seal(Checkpoint::new(position, Position::from_text(position.to_string())));
    }

    pub(super) fn durable(&mut self) -> Option<String> {
        self.listen();
        self.ledger.take_durable().map(|durable| durable.position().as_text().to_owned())
    }

    pub(super) fn listen(&mut self) {
        while let Ok(event) = self.events.try_recv() {
            match event {
                Event::Settled(all) => {
                    for (segment, ends) in all {
                        self.ledger.settle(segment, &ends).unwrap();
                    }
                }
                Event::Halted(halt) => self.halts.push(halt),
            }
        }
    }

    /// Drains within an hour of virtual time.
    pub(super) async fn drain(&mut self) -> Result<Drained, Stopped> {
        let limit = Duration::from_secs(3600);
        let drained = sources::world::within(&*self.world, limit, self.lanes.drain()).await;
        self.listen();
        drained.expect("the lanes were not drained within an hour")
    }

    pub(super) async fn sleep(&self, time: Duration) {
        self.world.sleep(time).await;
    }

    pub(super) fn held(&self, id: &str) -> Option<(u64, String)> {
        self.state(|_| ());
        let (version, body) = self.model.memory.documents("things").remove(id)?;
        Some((version, String::from_utf8(body.to_vec()).unwrap()))
    }

    pub(super) fn sent(&self) -> Vec<Sent> {
        self.state(|state| state.sent.clone())
    }

    /// What was sent, as ids of each request.
    pub(super) fn sent_ids(&self) -> Vec<Vec<String>> {
        self.sent().into_iter().map(|sent| sent.ids).collect()
    }
}
