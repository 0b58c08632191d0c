//! `rowtide remove`: what a retired source holds, taken down, so that no forgotten slot fills a disk.
//!
//! ```text
//!   lock of data_dir ─ dead letters ─ lease ─► slot, publication ─► indices ─► store ─► state document
//!        └── refused, nothing touched ──┘         └ somebody reads: refused       each goes on without the other
//! ```
//! Guarantees: nothing is touched while a process runs with this data directory, holds the lease or reads
//! the slot; what somebody else made is left, and said; what is not there is no failure, so it can be run
//! again until nothing is left.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use sources::source::{Finding, Removed, SourceError};
use sources::world::{SharedWorld, within};

use super::taking::{LEASE_WITHIN, Taken, take};
use super::{Exit, check};
use crate::config::{Config, PipelineConfig, TargetSettings};
use crate::lease::{Claim, Lease, LeaseError};
use crate::retry::Halt;
use crate::store::{Kept, Sqlite};
use crate::target::elasticsearch::Elasticsearch;
use crate::target::{StateDocument, Target, TargetError};

/// A server that has not answered by then is away.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);

/// How long a request that was sent may still be executed.
const QUARANTINE: Duration = Duration::from_secs(10);

/// What the person allowed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Told {
    pub(super) delete_index: bool,
    pub(super) yes: bool,
}

/// Takes it down, and says what was done.
pub(super) async fn remove(config: Config, source: &str, told: Told, world: SharedWorld) -> Exit {
    let Config { data_dir, mut pipelines, .. } = config;
    let Some(at) = pipelines.iter().position(|pipeline| pipeline.source.name == source) else {
        let names: Vec<&str> = pipelines.iter().map(|pipeline| pipeline.source.name.as_str()).collect();
        let names = names.join(", ");
        eprintln!("rowtide: there is no [sources.{source}] in this configuration; there is {names}");
        return Exit::Configuration;
    };
    let pipeline = pipelines.swap_remove(at);
    let mut removal = Removal { data_dir, pipeline, told, world, gone: 0, failed: 0 };
    match removal.run().await {
        Ok(()) => removal.end(),
        Err(Halt { what, hint, .. }) => {
            println!("refused: {what}");
            println!("    fix: {hint}");
            println!("nothing was touched");
            Exit::Halted
        }
    }
}

struct Removal {
    data_dir: PathBuf,
    /// The one that reads the source; others of the configuration are left alone.
    pipeline: PipelineConfig,
    told: Told,
    world: SharedWorld,
    /// How many things were taken down.
    gone: u32,
    /// How many could not be.
    failed: u32,
}

/// A target, and what is known of the pipeline's state there.
struct AtTarget {
    name: String,
    /// `None` when it cannot be talked to.
    target: Option<Arc<dyn Target>>,
    state: State,
}

/// What is known of the pipeline's state in the target.
enum State {
    /// There is none.
    None,
    /// It is ours to delete.
    Held(Lease, Box<StateDocument>),
    /// It cannot be told.
    Unknown,
}

impl Removal {
    /// The error says why nothing was touched.
    async fn run(&mut self) -> Result<(), Halt> {
        let store = Sqlite::open_existing(&self.data_dir, &self.world)?;
        let kept = match &store {
            Some(store) => store.kept(&self.pipeline.settings.name).await?,
            None => Kept::default(),
        };
        self.judge_letters(kept)?;
        let held = self.hold_all(store.as_ref()).await?;
        let removed = within(&*self.world, ANSWER_WITHIN, self.pipeline.source.source.remove()).await;
        let removed = removed.unwrap_or_else(|| {
            let reason = format!("no answer within {} s", ANSWER_WITHIN.as_secs());
            let unfinished = Some(SourceError::Wait { context: "ask the database", reason });
            Removed { unfinished, ..Removed::default() }
        });
        if let Some(SourceError::Halt { state: "slot-active", what, hint }) = removed.unfinished {
            self.give_back_all(held).await;
            return Err(Halt { state: "slot-active", what, hint });
        }
        self.source(removed);
        self.quarantine(&held).await;
        let mut ended = Vec::with_capacity(held.len());
        for AtTarget { name, target, state } in held {
            let indices_are_done = match (&target, &state) {
                (Some(target), State::None | State::Held(..)) => self.indices(&name, &**target, &state).await,
                _ => false,
            };
            ended.push((name, state, indices_are_done));
        }
        self.forget(store, kept).await;
        for (name, state, indices_are_done) in ended {
            self.state(&name, state, indices_are_done).await;
        }
        Ok(())
    }

    /// The lease of every target that can be asked, or of none.
    async fn hold_all(&mut self, store: Option<&Sqlite>) -> Result<Vec<AtTarget>, Halt> {
        let mut held = Vec::new();
        for settings in self.pipeline.targets.clone() {
            let target = self.target(&settings);
            let state = match &target {
                Some(target) => self.hold(target.clone(), store).await,
                None => Ok(State::Unknown),
            };
            match state {
                Ok(state) => held.push(AtTarget { name: settings.name, target, state }),
                Err(halt) => {
                    self.give_back_all(held).await;
                    return Err(halt);
                }
            }
        }
        Ok(held)
    }

    async fn give_back_all(&self, held: Vec<AtTarget>) {
        for at in held {
            if let State::Held(lease, _) = at.state {
                self.give_back(&lease).await;
            }
        }
    }

    fn judge_letters(&self, kept: Kept) -> Result<(), Halt> {
        if kept.dead_letters == 0 || self.told.yes {
            return Ok(());
        }
        Err(Halt {
            state: "dead-letters",
            what: format!("the dead letters of this pipeline would be deleted: {}", kept.dead_letters),
            hint: "look at them first, or say --yes".to_owned(),
        })
    }

    fn target(&mut self, settings: &TargetSettings) -> Option<Arc<dyn Target>> {
        match Elasticsearch::new(settings.client_settings(), self.world.clone()) {
            Ok(target) => Some(Arc::new(target)),
            Err(error) => {
                self.failed_at("target", &error.to_string());
                None
            }
        }
    }

    /// Takes the lease, so that nobody begins to write meanwhile.
    async fn hold(&mut self, target: Arc<dyn Target>, store: Option<&Sqlite>) -> Result<State, Halt> {
        let id = self.pipeline.settings.name.clone();
        match within(&*self.world, ANSWER_WITHIN, target.load_state(&id)).await {
            Some(Ok(None)) => return Ok(State::None),
            Some(Ok(Some(_))) => {}
            Some(Err(error)) => {
                self.failed_at("target", &error.to_string());
                return Ok(State::Unknown);
            }
            None => {
                self.failed_at("target", &format!("no answer within {} s", ANSWER_WITHIN.as_secs()));
                return Ok(State::Unknown);
            }
        }
        // The store's lock proves that an earlier process with this store's name is dead.
        let (owner, store_is_locked) = match store {
            Some(store) => (store.owner().to_owned(), true),
            None => (format!("{:016x}", self.world.random()), false),
        };
        let claim = Claim { id: id.clone(), store: owner, store_is_locked };
        match take(target, &self.world, claim, (&format!("the lease of {id}"), "")).await {
            Taken::Ours(lease, before) => {
                let document = before.unwrap_or_else(|| lease.document());
                Ok(State::Held(lease, Box::new(document)))
            }
            Taken::Refused(error) => {
                self.failed_at("target", &error.to_string());
                Ok(State::Unknown)
            }
            Taken::Alive(what) => {
                Err(Halt { state: "lease-alive", what, hint: "stop that process first".to_owned() })
            }
        }
    }

    /// Law 3: without the state document, the next start would not know that it has to wait.
    async fn quarantine(&self, held: &[AtTarget]) {
        let unclean = |at: &AtTarget| matches!(&at.state, State::Held(lease, _) if !lease.found_clean());
        if held.iter().any(unclean) {
            let seconds = QUARANTINE.as_secs();
            println!(
                "waiting {seconds} s: the last process did not end in order, and may have requests under way"
            );
            self.world.sleep(QUARANTINE).await;
        }
    }

    async fn give_back(&self, lease: &Lease) {
        // What is not given back ends by itself after 10 s.
        let _given_back = within(&*self.world, LEASE_WITHIN, lease.release(None)).await;
    }

    fn source(&mut self, removed: Removed) {
        let side = format!("source {}", self.pipeline.source.name);
        for what in &removed.gone {
            self.done(&side, &format!("{what} was dropped"));
        }
        for finding in &removed.left {
            left(&side, finding);
        }
        if let Some(error) = removed.unfinished {
            self.failed_at("source", &error.to_string());
        }
    }

    /// Every index of this pipeline: those of the configuration, and those that the state names. Whether
    /// all of them are as they should be.
    async fn indices(&mut self, name: &str, target: &dyn Target, state: &State) -> bool {
        let side = format!("target {name}");
        let mut aliases: Vec<String> =
            self.pipeline.settings.tables.iter().map(|table| table.index.clone()).collect();
        if let State::Held(_, document) = state {
            aliases.extend(document.indices.keys().cloned());
        }
        aliases.sort();
        aliases.dedup();
        let before = self.failed;
        for alias in aliases {
            let index = match self.ask(target.index(&alias)).await {
                Ok(Some(index)) => index,
                Ok(None) => continue,
                Err(error) => {
                    self.failed_at("target", &error);
                    continue;
                }
            };
            let (name, documents) = (&index.name, index.documents);
            if index.pipeline.as_ref() != Some(&self.pipeline.settings.name) || *name == alias {
                let what = format!("{alias:?}: the index {name} was not made by this pipeline");
                left(&side, &Finding { what, fix: "delete it yourself, if nobody needs it".to_owned() });
            } else if !self.told.delete_index {
                match self.ask(target.restore(&alias)).await {
                    Ok(given) if given.is_empty() => {}
                    Ok(given) => self.done(
                        &side,
                        &format!(
                            "{alias:?}: what was eased while it was filled was given back: {}",
                            given.join(", ")
                        ),
                    ),
                    Err(error) => self.failed_at("target", &error),
                }
                let what =
                    format!("{alias:?}: the index {name} with {documents} documents can still be searched");
                left(&side, &Finding { what, fix: "rowtide remove … --delete-index".to_owned() });
            } else {
                match self.ask(target.delete_index(name)).await {
                    Ok(()) => {
                        self.done(&side, &format!("the index {name} and its alias {alias} were deleted"))
                    }
                    Err(error) => self.failed_at("target", &error),
                }
            }
        }
        self.failed == before
    }

    async fn ask<T>(&self, question: impl Future<Output = Result<T, TargetError>>) -> Result<T, String> {
        match within(&*self.world, ANSWER_WITHIN, question).await {
            Some(answer) => answer.map_err(|error| error.to_string()),
            None => Err(format!("no answer within {} s", ANSWER_WITHIN.as_secs())),
        }
    }

    async fn forget(&mut self, store: Option<Sqlite>, kept: Kept) {
        let Some(store) = store.filter(|_| kept != Kept::default()) else { return };
        let name = self.pipeline.settings.name.clone();
        match store.forget(&name).await {
            Ok(()) => {
                let letters = match kept.dead_letters {
                    0 => String::new(),
                    count => format!(" and its dead letters ({count})"),
                };
                let folder = self.data_dir.display().to_string();
                self.done(&folder, &format!("the checkpoint of {name}{letters} was deleted"));
            }
            Err(error) => self.failed_at("data_dir", &error.to_string()),
        }
    }

    /// The state document goes last: as long as an index may still have to be deleted, it names it.
    async fn state(&mut self, name: &str, state: State, indices_are_done: bool) {
        let side = format!("target {name}");
        let State::Held(lease, _) = state else { return };
        if !indices_are_done {
            self.give_back(&lease).await;
            self.failed_at("target", "the state document is kept until its indices are done with");
            return;
        }
        match lease.remove().await {
            Ok(()) => {
                let name = self.pipeline.settings.name.clone();
                self.done(&side, &format!("the state document {name} in rowtide-state was deleted"));
            }
            Err(LeaseError::Target(error)) => self.failed_at("target", &error.to_string()),
            Err(error) => self.failed_at("target", &error.to_string()),
        }
    }

    fn done(&mut self, side: &str, what: &str) {
        self.gone += 1;
        println!("{side}: {what}");
    }

    fn failed_at(&mut self, side: &str, what: &str) {
        self.failed += 1;
        println!("{side}: not done: {what}");
    }

    fn end(&self) -> Exit {
        if self.failed > 0 {
            println!("not everything is removed: run it again when what is away is back");
            return Exit::Failed;
        }
        println!("{}", if self.gone > 0 { "removed" } else { "nothing was there to remove" });
        Exit::Clean
    }
}

/// What stays on purpose.
fn left(side: &str, finding: &Finding) {
    check::say(side, "left: ", finding);
}
