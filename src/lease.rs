//! Who may write, and what is promised about versions: law 1's state document and its one owner.
//!
//! ```text
//!   acquire ─► free, or ours ────────────────► compare-and-set ─► Lease ─► update, ensure_ceiling … release
//!         └──► another's: its beat stands still        ▲            │ renews every ttl/3
//!              for its ttl by our clock ───────────────┘            ▼
//!                          valid until (the last successful write's sending + ttl − margin), or lost
//! ```
//! Guarantees:
//! - Two owners are never valid at once: the next one waits a whole ttl from when it *saw* a beat,
//!   the owner counts from when it *sent* it, and both only by their own monotonic clocks.
//! - Every change of the document is a compare-and-set, one at a time; a lost answer is read after,
//!   never guessed.
//! - A target that is away makes the lease invalid, not lost: nobody else can have taken it unseen, so
//!   it is valid again with the next write that succeeds. Only another's writing loses it, for ever.
//! - No version above [`Lease::ceiling`] may be issued; it only rises, and is durable before it is told.
//!
//! Absent: a machine that stands still (a paused VM) stops its monotonic clock too; what it had half
//! sent may arrive later than any lease can know.

mod removal;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sources::mutant::{Rule, is_left_out};
use sources::world::{Moment, SharedWorld, Task, within};
use tokio::sync::{Mutex as AsyncMutex, watch};

use crate::retry::Halt;
use crate::target::{LeaseEntry, Revision, StateDocument, Stored, Target, TargetError};

/// Without a beat for so long another may take over. Short, so that a standby starts soon; some
/// renewals long, so that a slow answer costs nothing.
pub const TTL: Duration = Duration::from_secs(10);
/// A beat each third of it: two may fail.
const RENEWAL: Duration = Duration::from_millis(3_333);
/// The owner stops this much earlier than the ttl: clocks of two machines do not run equally fast, and
/// a request takes a moment from the check to the socket.
const MARGIN: Duration = Duration::from_secs(1);
/// One attempt at the target; a hanging one must not cost the lease.
const ATTEMPT: Duration = Duration::from_millis(2_500);
/// Between two attempts.
const PAUSE: Duration = Duration::from_millis(500);
/// How far the ceiling rises at once: a write of the state document in every terabyte of log.
const CEILING_STEP: u64 = 1 << 40;
/// The highest version: the last integer that every JSON client reads exactly.
pub const VERSION_MAX: u64 = (1 << 53) - 1;
/// The format of the document that is written here.
const FORMAT: u32 = 1;

/// Why a lease is no more, or was never had.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LeaseError {
    /// Somebody else has written the state document.
    #[error("the pipeline {id} is held by {holder}")]
    Lost {
        /// The pipeline.
        id: String,
        /// Whose name stands in the document now.
        holder: String,
    },
    /// A version beyond what the target and JSON clients can hold.
    #[error("the version {0} is above 2^53-1")]
    VersionTooHigh(u64),
    /// The target refuses.
    #[error(transparent)]
    Target(TargetError),
}

impl From<LeaseError> for Halt {
    fn from(error: LeaseError) -> Self {
        let what = error.to_string();
        let (state, hint) = match error {
            LeaseError::Lost { .. } => (
                "lease-lost",
                "another process runs this pipeline, or somebody changed its document in `rowtide-state`: \
                 run it in one place only, then start it again"
                    .to_owned(),
            ),
            LeaseError::VersionTooHigh(_) => (
                "versions-spent",
                "delete the index and the pipeline's document in `rowtide-state`, and start over".to_owned(),
            ),
            LeaseError::Target(TargetError::Halt { hint, .. }) => ("target-refuses", hint),
            LeaseError::Target(_) => ("target-refuses", "look at the target".to_owned()),
        };
        Halt { state, what, hint }
    }
}

/// Who wants a lease.
#[derive(Clone, Debug)]
pub struct Claim {
    /// The pipeline: the document's id.
    pub id: String,
    /// The random name of this process's store.
    pub store: String,
    /// Whether the store's lock proves that no other process with this store's name lives. Without
    /// it, a lease of the same store is waited for like a stranger's.
    pub store_is_locked: bool,
}

/// What [`Lease::acquire`] waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Waiting {
    /// The owner's beat to stand still for its whole ttl.
    ForOwner(String),
    /// The target to answer.
    ForTarget(TargetError),
}

/// Whether one may write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Until then, by the world's clock; it may have passed.
    ValidUntil(Moment),
    /// Never again.
    Lost(LeaseError),
    /// Given back by [`Lease::release`].
    Released,
}

/// The right to write, renewed in the background; dropping it without [`Lease::release`] is an
/// unclean stop.
pub struct Lease {
    shared: Arc<Shared>,
    /// Taken out by the release.
    renewals: Mutex<Option<Task>>,
}

struct Shared {
    target: Arc<dyn Target>,
    world: SharedWorld,
    id: String,
    /// `<store>/<run>`: two processes with copies of one store are still two.
    owner: String,
    /// The ceiling that was found: versions up to it may have been issued before this run.
    found_ceiling: u64,
    found_clean: bool,
    /// Taken for the whole of a change, so that changes and renewals come one after another.
    held: AsyncMutex<Stored>,
    /// A copy to look at without waiting.
    seen: Mutex<StateDocument>,
    standing: watch::Sender<Standing>,
}

impl Lease {
    /// Waits until the lease can be had and takes it; tells `on_wait` what it waits for. Gives back
    /// the document as it was found, too.
    pub async fn acquire(
        target: Arc<dyn Target>,
        world: SharedWorld,
        claim: Claim,
        on_wait: &(dyn Fn(Waiting) + Send + Sync),
    ) -> Result<(Self, Option<StateDocument>), LeaseError> {
        let owner = format!("{}/{:016x}", claim.store, world.random());
        let taking = Taking { target: &*target, world: &world, claim: &claim, owner: &owner, on_wait };
        let (taken, found, sent) = taking.take().await?;
        let standing = Standing::ValidUntil(valid_from(sent));
        let shared = Arc::new(Shared {
            id: claim.id,
            owner,
            found_ceiling: found.as_ref().map_or(0, |document| document.ceiling),
            found_clean: found.as_ref().is_none_or(|document| document.lease.is_none()),
            seen: Mutex::new(taken.document.clone()),
            held: AsyncMutex::new(taken),
            standing: watch::channel(standing).0,
            target,
            world: world.clone(),
        });
        let renewals = world.spawn(Box::pin(renew(shared.clone())));
        Ok((Self { shared, renewals: Mutex::new(Some(renewals)) }, found))
    }

    /// Whether the former owner gave the lease back, so that none of its requests can still be under
    /// way; true when there was none.
    pub fn found_clean(&self) -> bool {
        self.shared.found_clean
    }

    /// Whether a request may be sent now. Ask before each.
    pub fn is_valid(&self) -> bool {
        self.shared.is_valid()
    }

    /// To wait for a change of it.
    pub fn standing(&self) -> watch::Receiver<Standing> {
        self.shared.standing.subscribe()
    }

    /// Waits until a request may be sent.
    pub async fn valid(&self) -> Result<(), LeaseError> {
        let mut standing = self.standing();
        loop {
            let now = standing.borrow_and_update().clone();
            match now {
                Standing::ValidUntil(end) if self.shared.world.now() < end => return Ok(()),
                Standing::Lost(error) => return Err(error),
                Standing::Released | Standing::ValidUntil(_) => {}
            }
            if standing.changed().await.is_err() {
                return Err(self.shared.lost("nobody: it was given back"));
            }
        }
    }

    /// The document as it was last written.
    pub fn document(&self) -> StateDocument {
        self.shared.look().clone()
    }

    /// No version above it may be issued.
    pub fn ceiling(&self) -> u64 {
        self.shared.look().ceiling
    }

    /// Makes sure that `version` may be issued: a higher ceiling is durable when this returns.
    pub async fn ensure_ceiling(&self, version: u64) -> Result<(), LeaseError> {
        if version <= self.ceiling() || is_left_out(Rule::CeilingIsStored) {
            return Ok(());
        }
        if version > VERSION_MAX {
            return Err(LeaseError::VersionTooHigh(version));
        }
        let ceiling = version.saturating_add(CEILING_STEP).min(VERSION_MAX);
        self.update(|document| document.ceiling = document.ceiling.max(ceiling)).await
    }

    /// Changes the document; durable when this returns. `change` may be applied several times, each
    /// time to the document as it then is. Waits while the target is away.
    pub async fn update(&self, change: impl Fn(&mut StateDocument) + Send + Sync) -> Result<(), LeaseError> {
        self.shared.update(&change).await
    }

    /// A clean stop: everything that was sent has been answered. The highest version issued stands
    /// for the ceiling, but never below what was found: a former run may have issued that much.
    pub async fn release(&self, highest_issued: Option<u64>) -> Result<(), LeaseError> {
        drop(self.renewals.lock().unwrap_or_else(PoisonError::into_inner).take());
        let shared = &self.shared;
        let ceiling = highest_issued.map(|highest| highest.max(shared.found_ceiling));
        let end = |document: &mut StateDocument| {
            document.lease = None;
            document.ceiling = ceiling.unwrap_or(shared.found_ceiling);
        };
        shared.update(&end).await?;
        shared.standing.send_replace(Standing::Released);
        Ok(())
    }
}

/// From the moment in which a write that then succeeded was sent.
fn valid_from(sent: Moment) -> Moment {
    sent + (TTL - MARGIN)
}

async fn renew(shared: Arc<Shared>) {
    loop {
        shared.world.sleep(RENEWAL).await;
        match shared.update(&|_| ()).await {
            Ok(()) => {}
            Err(error @ LeaseError::Lost { .. }) => {
                tracing::error!(%error, pipeline = shared.id, "lost the lease");
                return;
            }
            // Whoever writes meets the same refusal and halts with it.
            Err(error) => tracing::warn!(%error, pipeline = shared.id, "could not renew the lease"),
        }
    }
}

impl Shared {
    fn is_valid(&self) -> bool {
        matches!(*self.standing.borrow(), Standing::ValidUntil(end) if self.world.now() < end)
    }

    fn look(&self) -> std::sync::MutexGuard<'_, StateDocument> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lost(&self, holder: &str) -> LeaseError {
        LeaseError::Lost { id: self.id.clone(), holder: holder.to_owned() }
    }

    async fn update(&self, change: &(dyn Fn(&mut StateDocument) + Send + Sync)) -> Result<(), LeaseError> {
        let mut held = self.held.lock().await;
        loop {
            if let Standing::Lost(error) = &*self.standing.borrow() {
                return Err(error.clone());
            }
            let mut wanted = held.document.clone();
            let beat = held.document.lease.as_ref().map_or(0, |lease| lease.beat) + 1;
            wanted.lease = Some(entry(&self.owner, beat));
            change(&mut wanted);
            let sent = self.world.now();
            let saved = save(&*self.target, &self.world, &self.id, &wanted, Some(held.revision)).await;
            match saved {
                Ok(revision) => {
                    self.keep(&mut held, Stored { document: wanted, revision }, sent);
                    return Ok(());
                }
                Err(error) if error.is_not_executed() => self.world.sleep(PAUSE).await,
                // Ours may have been executed, or may be later, or somebody else's was.
                Err(error) if error.is_unresolved() || matches!(error, TargetError::Conflict { .. }) => {
                    if self.read_after(&mut held, &wanted, sent).await? {
                        return Ok(());
                    }
                }
                Err(error) => return Err(LeaseError::Target(error)),
            }
        }
    }

    /// Whether what was wanted is there. What is there is ours, or the lease is lost.
    async fn read_after(
        &self,
        held: &mut Stored,
        wanted: &StateDocument,
        sent: Moment,
    ) -> Result<bool, LeaseError> {
        let stored = loop {
            match load(&*self.target, &self.world, &self.id).await {
                Ok(stored) => break stored,
                Err(error) if error.is_not_executed() || error.is_unresolved() => {
                    self.world.sleep(PAUSE).await;
                }
                Err(error) => return Err(LeaseError::Target(error)),
            }
        };
        match stored {
            Some(stored) if stored.document == *wanted => {
                self.keep(held, stored, sent);
                Ok(true)
            }
            // Not executed, or not yet: the next compare-and-set leaves only one of the two.
            Some(stored) if stored.revision == held.revision => {
                self.world.sleep(PAUSE).await;
                Ok(false)
            }
            // An earlier write of ours, whose answer was lost.
            Some(stored) if is_ours(&stored, &self.owner) => {
                *self.look() = stored.document.clone();
                *held = stored;
                Ok(false)
            }
            other => {
                let holder =
                    other.map_or_else(|| "nobody: it was deleted".to_owned(), |s| holder(&s.document));
                let error = self.lost(&holder);
                self.standing.send_replace(Standing::Lost(error.clone()));
                Err(error)
            }
        }
    }

    fn keep(&self, held: &mut Stored, stored: Stored, sent: Moment) {
        *self.look() = stored.document.clone();
        *held = stored;
        self.standing.send_replace(Standing::ValidUntil(valid_from(sent)));
    }
}

fn entry(owner: &str, beat: u64) -> LeaseEntry {
    LeaseEntry { owner: owner.to_owned(), beat, ttl_ms: TTL.as_millis() as u64 }
}

fn is_ours(stored: &Stored, owner: &str) -> bool {
    stored.document.lease.as_ref().is_some_and(|lease| lease.owner == owner)
}

fn holder(document: &StateDocument) -> String {
    document.lease.as_ref().map_or_else(|| "nobody: another gave it back".to_owned(), |l| l.owner.clone())
}

fn unanswered(context: &'static str) -> TargetError {
    TargetError::Unresolved { context, reason: format!("no answer within {ATTEMPT:?}") }
}

async fn load(target: &dyn Target, world: &SharedWorld, id: &str) -> Result<Option<Stored>, TargetError> {
    let answer = within(&**world, ATTEMPT, target.load_state(id)).await;
    answer.unwrap_or_else(|| Err(unanswered("read state document")))
}

async fn save(
    target: &dyn Target,
    world: &SharedWorld,
    id: &str,
    document: &StateDocument,
    seen: Option<Revision>,
) -> Result<Revision, TargetError> {
    let answer = within(&**world, ATTEMPT, target.save_state(id, document, seen)).await;
    answer.unwrap_or_else(|| Err(unanswered("write state document")))
}

/// The way to a lease.
struct Taking<'a> {
    target: &'a dyn Target,
    world: &'a SharedWorld,
    claim: &'a Claim,
    owner: &'a str,
    on_wait: &'a (dyn Fn(Waiting) + Send + Sync),
}

/// Another's lease, and since when it has not changed by our clock.
struct Watched {
    lease: LeaseEntry,
    since: Moment,
}

impl Taking<'_> {
    /// The document as it was taken, as it was found before, and when the taking was sent.
    async fn take(&self) -> Result<(Stored, Option<StateDocument>, Moment), LeaseError> {
        let mut watched: Option<Watched> = None;
        // Before an attempt of ours whose answer was lost.
        let mut before = None;
        loop {
            let found = match load(self.target, self.world, &self.claim.id).await {
                Ok(found) => found,
                Err(error) => {
                    self.wait_for_target(error).await?;
                    continue;
                }
            };
            if self.must_wait(&found, &mut watched).await {
                continue;
            }
            // Our own half-known attempt is not what was there before.
            let ours = found.as_ref().is_some_and(|stored| is_ours(stored, self.owner));
            if !ours {
                before = Some(found.as_ref().map(|stored| stored.document.clone()));
            }
            let mut document = found.as_ref().map_or_else(blank, |stored| stored.document.clone());
            let beat = document.lease.as_ref().map_or(0, |lease| lease.beat) + 1;
            document.lease = Some(entry(self.owner, beat));
            let sent = self.world.now();
            let seen = found.map(|stored| stored.revision);
            match save(self.target, self.world, &self.claim.id, &document, seen).await {
                Ok(revision) => return Ok((Stored { document, revision }, before.flatten(), sent)),
                // Somebody was faster, or our own attempt was: look again.
                Err(TargetError::Conflict { .. }) => {}
                Err(error) => self.wait_for_target(error).await?,
            }
        }
    }

    /// Whether another may still be valid; if so, some of the time has passed.
    async fn must_wait(&self, found: &Option<Stored>, watched: &mut Option<Watched>) -> bool {
        let Some(lease) = found.as_ref().and_then(|stored| stored.document.lease.as_ref()) else {
            return false;
        };
        let same_store = lease.owner.split('/').next() == Some(self.claim.store.as_str());
        if lease.owner == self.owner || (same_store && self.claim.store_is_locked) {
            return false;
        }
        let now = self.world.now();
        let ttl = Duration::from_millis(lease.ttl_ms);
        let since = match watched {
            Some(seen) if seen.lease == *lease => seen.since,
            _ => now,
        };
        if now.saturating_sub(since) >= ttl {
            return false;
        }
        *watched = Some(Watched { lease: lease.clone(), since });
        (self.on_wait)(Waiting::ForOwner(lease.owner.clone()));
        self.world.sleep(PAUSE.max(ttl / 20)).await;
        true
    }

    async fn wait_for_target(&self, error: TargetError) -> Result<(), LeaseError> {
        match error {
            error if error.is_not_executed() || error.is_unresolved() => {
                (self.on_wait)(Waiting::ForTarget(error));
                self.world.sleep(PAUSE).await;
                Ok(())
            }
            error => Err(LeaseError::Target(error)),
        }
    }
}

/// Before the first start: no version was issued.
fn blank() -> StateDocument {
    let (identity, indices) = (String::new(), std::collections::BTreeMap::new());
    StateDocument { format: FORMAT, identity, base: 0, ceiling: 0, lease: None, indices }
}

#[cfg(test)]
#[path = "lease_tests.rs"]
mod tests;
