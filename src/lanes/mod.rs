//! Law 3: one place in the index, one lane; a lane has one request in flight.
//!
//! ```text
//!            hash of the place      ┌─ pending: newest of each place, in order of arrival
//!   Action ─────────────────────► lane ─► request ─► target ─► judged (retry) ─► Settled ─► ledger
//!                                   └─ taints: places whose last write was not answered
//! ```
//! Guarantees:
//! - changes of one place go out in the order of the stream, and never two at once;
//! - what is pending is coalesced to the newest of its place, what is in flight never is; a
//!   superseded change is settled only when the one that took its place is (law 4);
//! - while a request may still be executed unseen, its places take only the same image again or a
//!   put of a strictly higher version (`taint`);
//! - every action ends as exactly one of law 6's ends, told once, after its dead letter is durable
//!   or removed;
//! - the bytes of an action are charged until its request is answered (law 5);
//! - together they have no more in flight than the target and the link take (`limit`).
//!
//! Nothing here remembers anything over a restart: a clean stop needs [`Lanes::drain`] to say that
//! no request is unresolved, else the next process keeps the quarantine first.

use std::hash::{DefaultHasher, Hasher};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sources::budget::Charge;
use sources::mutant::{Rule, is_left_out};
use sources::position::Version;
use sources::world::{Moment, SharedWorld, Task};
use tokio::sync::{mpsc, oneshot};

use crate::controls::Controls;
use crate::dead_letters::DeadLetters;
use crate::ledger::{Ends, SegmentId};
use crate::retry::Halt;
use crate::target::Target;

mod lane;
mod limit;
mod pending;
mod request;
mod settling;
mod taint;
#[cfg(test)]
mod tests;

use lane::Lane;
use limit::Limit;

/// What an action does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Writes the document.
    Put,
    /// Deletes it.
    Delete,
    /// Cannot be sent at all: kept as a dead letter in its turn, so that an older change of its
    /// place is not taken for a newer one.
    Dead(Box<Dead>),
}

/// Why a change cannot be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dead {
    /// For the letter.
    pub reason: String,
    /// Whether the action's data is whole, its document with it: then the letter keeps it.
    pub whole: bool,
    /// Bytes of the row on the wire.
    pub bytes: u64,
}

/// A rendered change.
#[derive(Clone, PartialEq, Eq)]
pub struct Action {
    /// The number of the alias, as in [`Settings::indices`].
    pub index: u32,
    /// Where the id begins in `data`. An id is compared as it stands in the action's JSON string:
    /// one function renders all ids, so equal ids have equal text.
    pub id_at: u32,
    /// Bytes of the id's text.
    pub id_len: u32,
    /// What the target orders it by.
    pub version: Version,
    /// What it does.
    pub kind: Kind,
    /// The action's line and the document's; of a dead one only what holds the id.
    pub data: Box<[u8]>,
    /// The segment of the ledger that it entered with.
    pub segment: SegmentId,
    /// Its part of the batch's charge, in bytes.
    pub charge: usize,
}

impl Action {
    /// The id, as it stands in the action.
    pub fn id(&self) -> &[u8] {
        let start = self.id_at as usize;
        self.data.get(start..start + self.id_len as usize).unwrap_or_default()
    }

    fn same_place(&self, other: &Action) -> bool {
        self.index == other.index && self.id() == other.id()
    }

    /// The hash of its place: fixed keys, so that a run is repeatable.
    fn hash(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        hasher.write_u32(self.index);
        hasher.write(self.id());
        hasher.finish()
    }
}

// Never a document's contents in a log or a panic.
impl std::fmt::Debug for Action {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Action(version {}, {} bytes)", self.version.get(), self.data.len())
    }
}

/// Whether this process may write now: its lease is valid.
pub trait Permit: Send + Sync {
    /// Asked before each request.
    fn may_write(&self, now: Moment) -> bool;
}

impl<F: Fn(Moment) -> bool + Send + Sync> Permit for F {
    fn may_write(&self, now: Moment) -> bool {
        self(now)
    }
}

/// How lanes work.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How many; each may have a request in flight, as long as the target takes so many.
    pub lanes: usize,
    /// The most bytes of a request's body; a larger document goes alone.
    pub bulk_bytes_max: usize,
    /// The most actions of a request.
    pub bulk_count_max: usize,
    /// The least time from one request of a lane to its next, unless that one is full: what comes
    /// meanwhile goes together. A lane that has sent nothing for so long sends at once.
    pub linger: Duration,
    /// How long after its connection was closed a request may still reach the target's executor:
    /// twice the `timeout=5s` that every request carries.
    pub quarantine: Duration,
    /// Nothing is sent for so long after the start: what the last process left behind may still be
    /// executed. `None` after a clean stop.
    pub start_quarantine: Option<Duration>,
    /// A request of at least this size on which the target closes the socket, but goes on to answer
    /// other questions, is taken for too large, as some servers do with it (T33): it is halved, and a
    /// single document dead-lettered after some tries. A smaller one is tried for ever, and so is
    /// one that times out.
    pub suspect_bytes: usize,
    /// The process's name in `X-Opaque-Id`; unique to it.
    pub owner: String,
    /// The aliases by number.
    pub indices: Arc<[Arc<str>]>,
}

impl Settings {
    /// The defaults for these aliases.
    pub fn new(owner: impl Into<String>, indices: Arc<[Arc<str>]>) -> Self {
        Self {
            lanes: 4,
            bulk_bytes_max: 5 << 20,
            bulk_count_max: 5000,
            linger: Duration::from_millis(5),
            quarantine: Duration::from_secs(10),
            start_quarantine: None,
            suspect_bytes: 256 << 10,
            owner: owner.into(),
            indices,
        }
    }
}

/// What lanes work with.
#[derive(Clone)]
pub struct Surroundings {
    /// Time, randomness, tasks.
    pub world: SharedWorld,
    /// Where requests go.
    pub target: Arc<dyn Target>,
    /// Where refused changes are kept.
    pub dead_letters: Arc<dyn DeadLetters>,
    /// Asked before each request.
    pub permit: Arc<dyn Permit>,
    /// Whether a person has paused or throttled the pipeline: asked before each request, too.
    pub controls: Controls,
}

/// What lanes tell the pipeline.
#[derive(Debug)]
pub enum Event {
    /// Changes have ended: one message for each answered request.
    Settled(Vec<(SegmentId, Ends)>),
    /// Nothing is sent any more until a person has acted; told once by all lanes together.
    Halted(Halt),
}

/// What a lane says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LaneStatus {
    /// Actions that wait for their request.
    pub pending: usize,
    /// Actions whose request is not answered.
    pub in_flight: usize,
    /// Requests that may still be executed unseen.
    pub unresolved: usize,
    /// What it is waiting for, in words; `None` when nothing.
    pub waiting_for: Option<String>,
}

/// What a drain found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Drained {
    /// Requests that were not answered and may still be executed: while there are any, a stop is
    /// not a clean one.
    pub unresolved: usize,
}

/// The lanes have halted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the lanes have halted")]
pub struct Stopped;

/// What a lane is told.
enum Input {
    Actions(Vec<(u64, Action)>, Charge),
    Flush,
    Drain(oneshot::Sender<Drained>),
    Leave(oneshot::Sender<Drained>),
}

/// What all lanes and their handle share.
struct Shared {
    settings: Settings,
    surroundings: Surroundings,
    events: mpsc::UnboundedSender<Event>,
    halted: AtomicBool,
    limit: Arc<Limit>,
    status: Vec<Mutex<LaneStatus>>,
}

impl Shared {
    /// Tells the reason of the first halt, and stops the others before their next request.
    fn halt(&self, halt: Halt) {
        if !self.halted.swap(true, Ordering::SeqCst) {
            let _nobody_listens_after_the_end = self.events.send(Event::Halted(halt));
        }
    }

    fn is_halted(&self) -> bool {
        self.halted.load(Ordering::SeqCst)
    }
}

/// The running lanes; dropping it ends them, whatever is in flight.
pub struct Lanes {
    inputs: Vec<mpsc::UnboundedSender<Input>>,
    shared: Arc<Shared>,
    _tasks: Vec<Task>,
}

impl Lanes {
    /// Starts them.
    pub fn start(settings: Settings, surroundings: Surroundings) -> (Self, mpsc::UnboundedReceiver<Event>) {
        let (events, told) = mpsc::unbounded_channel();
        let count = settings.lanes.max(1);
        let status = (0..count).map(|_| Mutex::default()).collect();
        let world = surroundings.world.clone();
        let limit = Arc::new(Limit::new(count, settings.bulk_bytes_max));
        let halted = AtomicBool::new(false);
        let shared = Arc::new(Shared { settings, surroundings, events, halted, limit, status });
        let mut inputs = Vec::with_capacity(count);
        let mut tasks = Vec::with_capacity(count);
        for number in 0..count {
            // Unbounded in count, since all that goes in is charged in bytes.
            let (sender, receiver) = mpsc::unbounded_channel();
            inputs.push(sender);
            tasks.push(world.spawn(Box::pin(Lane::new(number, shared.clone(), receiver).run())));
        }
        (Self { inputs, shared, _tasks: tasks }, told)
    }

    /// Hands actions over, in the stream's order; `charge` covers the sum of their charges, and
    /// what it holds beyond is given back. Never waits.
    pub fn submit(&self, actions: Vec<Action>, mut charge: Charge) -> Result<(), Stopped> {
        let lanes = self.inputs.len();
        let mut parts: Vec<(Vec<(u64, Action)>, usize)> = (0..lanes)
            .map(|_| (Vec::with_capacity(actions.len() / lanes + actions.len() / 8 + 1), 0))
            .collect();
        for action in actions {
            let hash = action.hash();
            // The high half: the index of a lane's places uses the low one.
            let mut lane = (hash >> 32) as usize % lanes;
            if is_left_out(Rule::OnePlaceOneLane) {
                lane = (lane + action.version.get() as usize) % lanes;
            }
            let (part, bytes) = &mut parts[lane];
            *bytes += action.charge;
            part.push((hash, action));
        }
        for (input, (part, bytes)) in self.inputs.iter().zip(parts) {
            if !part.is_empty() {
                input.send(Input::Actions(part, charge.split(bytes))).map_err(|_| Stopped)?;
            }
        }
        Ok(())
    }

    /// Sends what is pending without waiting for more.
    pub fn flush(&self) -> Result<(), Stopped> {
        self.inputs.iter().try_for_each(|input| input.send(Input::Flush).map_err(|_| Stopped))
    }

    /// Ends when everything that was submitted is settled. The caller sets the limit of time.
    pub async fn drain(&self) -> Result<Drained, Stopped> {
        self.ask_all(Input::Drain).await
    }

    async fn ask_all(&self, ask: fn(oneshot::Sender<Drained>) -> Input) -> Result<Drained, Stopped> {
        let mut answers = Vec::with_capacity(self.inputs.len());
        for input in &self.inputs {
            let (done, answer) = oneshot::channel();
            input.send(ask(done)).map_err(|_| Stopped)?;
            answers.push(answer);
        }
        let mut all = Drained::default();
        for answer in answers {
            all.unresolved += answer.await.map_err(|_| Stopped)?.unresolved;
        }
        Ok(all)
    }

    /// Sends nothing any more, and ends when what was in flight is answered: what is pending is left, and
    /// submitted again by the next process.
    pub async fn leave(&self) -> Result<Drained, Stopped> {
        self.ask_all(Input::Leave).await
    }

    /// What each lane says of itself.
    pub fn status(&self) -> Vec<LaneStatus> {
        let copy = |status: &Mutex<LaneStatus>| status.lock().unwrap_or_else(PoisonError::into_inner).clone();
        self.shared.status.iter().map(copy).collect()
    }
}
