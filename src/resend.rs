//! Dead letters go out again: as they were sent, with their own versions, through lanes.
//!
//! ```text
//!   store ─► pages of letters ─► feed ─► lanes ─► target
//!                                         │ written, or stale: the letter is removed, then it is told
//!                                         └ refused again: kept with the new reason
//! ```
//! Guarantees: a letter is removed only after a certain answer; what the index holds is never made older, since
//! versions are external (T30); nothing is written without the lease; memory is charged to the budget.
//! Relies on the store's lock: no process that follows the source runs with this data directory.
//!
//! [`feed`] needs lanes and nothing of the rest, so a process that runs can send its letters through its own.

use std::sync::Arc;
use std::time::Duration;

use sources::budget::{Budget, Class};
use sources::position::Version;
use sources::world::{BoxFuture, SharedWorld};

use crate::controls::Controls;
use crate::dead_letters::{DeadLetter, DeadLetterError, DeadLetters};
use crate::lanes::{Action, Event, Kind, Lanes, Settings, Surroundings};
use crate::lease::{Lease, Standing};
use crate::ledger::{Ends, Ledger, SegmentId};
use crate::retry::Halt;
use crate::store::{Choice, KeptLetter, Letters, Sqlite, StoreError};
use crate::target::Target;

/// Letters that are looked up at once, without their bodies.
const PAGE: u32 = 200;
/// What an action in a lane costs beside its bytes.
const ENTRY_BYTES: usize = 200;
/// How long requests of a process that did not end in order may still be executed (law 3).
const QUARANTINE: Duration = Duration::from_secs(10);
/// A target that has ended no letter for so long is away; a quarantine and a slow request are shorter.
const PATIENCE: Duration = Duration::from_secs(90);

/// Why a letter cannot be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unfit {
    /// The row was too large to be held.
    NoBody,
    /// It does not fit into the memory.
    TooLarge,
    /// It is not as Rowtide keeps one.
    Damaged,
}

impl Unfit {
    /// What it is, and what to do.
    pub fn words(self) -> (&'static str, &'static str) {
        match self {
            Self::NoBody => (
                "its row was too large to be held, so there is nothing to send",
                "raise memory.document_bytes_max and change the row (an UPDATE that sets a column to itself is enough), \
                 or drop the letter",
            ),
            Self::TooLarge => {
                ("it is larger than half of the byte budget", "raise memory.max_rss, or drop the letter")
            }
            Self::Damaged => {
                ("what is kept of it is no action", "change the row, which sends it anew, or drop the letter")
            }
        }
    }
}

/// What is told while letters go out.
#[derive(Debug)]
pub enum Told<'a> {
    /// A letter stays, since it cannot be sent.
    Unsent(&'a KeptLetter, Unfit),
    /// A letter stays, since the target refuses it still.
    Refused(&'a DeadLetter),
}

/// To whom it is told.
pub type Tell = Arc<dyn Fn(Told<'_>) + Send + Sync>;

/// How it ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resent {
    /// By the target's answers.
    pub ends: Ends,
    /// Letters that cannot be sent.
    pub unsent: u64,
    /// What the target did not answer to, in words: some letters were not sent, or are still under way.
    pub away: Option<String>,
}

/// One target's letters, and what is needed to send them.
pub struct Resend {
    /// Time, randomness, tasks.
    pub world: SharedWorld,
    /// Where letters are kept.
    pub store: Sqlite,
    /// The letters of this target, with room for those that are kept again.
    pub letters: Letters,
    /// Which of them.
    pub choice: Choice,
    /// At most so many.
    pub limit: u64,
    /// Where they go.
    pub target: Arc<dyn Target>,
    /// The right to write there.
    pub lease: Arc<Lease>,
    /// How lanes work there; their aliases are set by [`Resend::run`].
    pub lanes: Settings,
    /// What is held is charged to it.
    pub budget: Budget,
    /// To whom it is told.
    pub tell: Tell,
}

impl Resend {
    /// Sends them, and waits for the answers. A clean end gives the lease back.
    pub async fn run(self) -> Result<Resent, Halt> {
        let aliases = self.store.letters_indices(&self.choice).await?;
        let aliases: Arc<[Arc<str>]> = aliases.into_iter().map(Arc::from).collect();
        let sum = self.store.letters_sum(&self.choice).await?;
        let (permit, found_clean) = (self.lease.clone(), self.lease.found_clean());
        let start_quarantine = (!found_clean).then_some(QUARANTINE);
        let settings = Settings { indices: aliases.clone(), start_quarantine, ..self.lanes.clone() };
        let dead_letters = Arc::new(Telling { letters: self.letters, tell: self.tell.clone() });
        let surroundings = Surroundings {
            world: self.world.clone(),
            target: self.target.clone(),
            dead_letters,
            permit: Arc::new(move |_| permit.is_valid()),
            controls: Controls::default(),
        };
        let (lanes, mut events) = Lanes::start(settings, surroundings);
        let segment = Ledger::new().segment();
        let food = Food { store: &self.store, choice: &self.choice, upto: sum.newest, limit: self.limit };
        let sending = async {
            let fed = feed(food, &aliases, &lanes, segment, &self.budget, &self.tell).await;
            let drained = lanes.drain().await;
            fed.map(|unsent| (unsent, drained.is_ok_and(|drained| drained.unresolved == 0)))
        };
        let mut sending = Box::pin(sending);
        let mut standing = self.lease.standing();
        let mut resent = Resent::default();
        let mut patience_ends = self.world.now() + PATIENCE;
        let is_clean = loop {
            let patience = patience_ends.saturating_sub(self.world.now());
            tokio::select! {
                biased;
                event = events.recv() => match event {
                    Some(Event::Settled(ends)) => {
                        ends.iter().for_each(|(_, ends)| resent.ends.add(ends));
                        patience_ends = self.world.now() + PATIENCE;
                    }
                    Some(Event::Halted(halt)) => return Err(halt),
                    None => break false,
                },
                sent = &mut sending => {
                    let (unsent, is_clean) = sent?;
                    resent.unsent = unsent;
                    break is_clean;
                }
                _ = standing.changed() => if let Standing::Lost(error) = standing.borrow().clone() {
                    return Err(error.into());
                },
                () = self.world.sleep(patience) => {
                    let waits = lanes.status().into_iter().find_map(|lane| lane.waiting_for);
                    resent.away = Some(waits.unwrap_or_else(|| "an answer of the target".to_owned()));
                    break false;
                }
            }
        };
        while let Ok(event) = events.try_recv() {
            match event {
                Event::Settled(ends) => ends.iter().for_each(|(_, ends)| resent.ends.add(ends)),
                Event::Halted(halt) => return Err(halt),
            }
        }
        if is_clean {
            self.lease.release(None).await?;
        }
        Ok(resent)
    }
}

/// Which letters are fed.
#[derive(Clone, Copy)]
pub struct Food<'a> {
    /// Where they are kept.
    pub store: &'a Sqlite,
    /// Which; all of one target.
    pub choice: &'a Choice,
    /// Up to this number: those that are refused again get higher ones.
    pub upto: i64,
    /// At most so many are sent.
    pub limit: u64,
}

/// Hands letters to lanes as actions of `segment`; `aliases` are those of the lanes. How many could not be
/// sent.
pub async fn feed(
    food: Food<'_>,
    aliases: &[Arc<str>],
    lanes: &Lanes,
    segment: SegmentId,
    budget: &Budget,
    tell: &Tell,
) -> Result<u64, StoreError> {
    let (mut after, mut sent, mut unsent) = (i64::MIN, 0, 0);
    loop {
        let page = food.store.letters_page(food.choice, after, food.upto, PAGE).await?;
        for letter in &page {
            if sent + unsent == food.limit {
                return Ok(unsent);
            }
            after = letter.number;
            let body = match letter.has_body {
                true => food.store.letter_body(letter.number).await?,
                false => None,
            };
            let action = match body {
                Some(body) => action_of(letter, body, aliases, segment),
                None => Err(Unfit::NoBody),
            };
            let reserved = match action {
                Ok(action) => budget
                    .reserve(Class::Log, action.charge)
                    .await
                    .map(|charge| (action, charge))
                    .map_err(|_| Unfit::TooLarge),
                Err(unfit) => Err(unfit),
            };
            match reserved {
                Ok((action, charge)) => {
                    sent += 1;
                    if lanes.submit(vec![action], charge).is_err() {
                        // They have halted, and their events say why.
                        return Ok(unsent);
                    }
                }
                Err(unfit) => {
                    unsent += 1;
                    tell(Told::Unsent(letter, unfit));
                }
            }
        }
        if page.is_empty() {
            return Ok(unsent);
        }
    }
}

/// The action as it was sent, for lanes.
fn action_of(
    letter: &KeptLetter,
    body: Vec<u8>,
    aliases: &[Arc<str>],
    segment: SegmentId,
) -> Result<Action, Unfit> {
    const ID: &[u8] = b"\"_id\":\"";
    let kind = match &body[..] {
        [b'{', b'"', b'i', b'n', b'd', b'e', b'x', b'"', ..] => Kind::Put,
        [b'{', b'"', b'd', b'e', b'l', b'e', b't', b'e', b'"', ..] => Kind::Delete,
        _ => return Err(Unfit::Damaged),
    };
    let index = aliases.iter().position(|alias| **alias == *letter.index).ok_or(Unfit::Damaged)?;
    // The alias stands before it, and no alias holds a quote.
    let id_at = memchr::memmem::find(&body, ID).ok_or(Unfit::Damaged)? + ID.len();
    let rest = body.get(id_at..).and_then(|rest| rest.strip_prefix(&letter.id[..])).ok_or(Unfit::Damaged)?;
    if rest.first() != Some(&b'"') || body.last() != Some(&b'\n') {
        return Err(Unfit::Damaged);
    }
    Ok(Action {
        index: index as u32,
        id_at: id_at as u32,
        id_len: letter.id.len() as u32,
        version: letter.version,
        kind,
        segment,
        charge: body.len() + ENTRY_BYTES,
        data: body.into_boxed_slice(),
    })
}

/// The letters of the target; those that are refused again are told.
struct Telling {
    letters: Letters,
    tell: Tell,
}

impl DeadLetters for Telling {
    fn keep(&self, letter: DeadLetter) -> BoxFuture<'_, Result<(), DeadLetterError>> {
        Box::pin(async move {
            (self.tell)(Told::Refused(&letter));
            self.letters.keep(letter).await
        })
    }

    fn count(&self) -> u64 {
        self.letters.count()
    }

    fn holds(&self, index: &str, id: &[u8]) -> bool {
        self.letters.holds(index, id)
    }

    fn superseded<'a>(
        &'a self,
        index: &'a str,
        id: &'a [u8],
        version: Version,
    ) -> BoxFuture<'a, Result<(), DeadLetterError>> {
        self.letters.superseded(index, id, version)
    }

    fn cleared<'a>(&'a self, index: &'a str, version: Version) -> BoxFuture<'a, Result<(), DeadLetterError>> {
        self.letters.cleared(index, version)
    }
}

#[cfg(test)]
#[path = "resend_tests.rs"]
mod tests;
