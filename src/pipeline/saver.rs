//! Positions become durable here, one behind the other, and are then told to the source (law 4).

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sources::mutant::{Rule, is_left_out};
use sources::position::Position;
use sources::world::{Moment, SharedWorld, Task};
use tokio::sync::watch;

use crate::retry::Halt;
use crate::store::{Store, StoreError};

/// Between two saves: each is a synchronised write, and the newest position stands for all before it.
const EVERY: Duration = Duration::from_millis(50);

/// The task that saves.
pub(super) struct Saver {
    wanted: watch::Sender<Option<Position>>,
    durable: watch::Receiver<Option<Position>>,
    failure: watch::Receiver<Option<Halt>>,
    saved_at: Arc<Mutex<Option<Moment>>>,
    _task: Task,
}

impl Saver {
    pub(super) fn start(world: &SharedWorld, store: Arc<dyn Store>, pipeline: String) -> Self {
        let (wanted, mut newest) = watch::channel::<Option<Position>>(None);
        let (saved, durable) = watch::channel(None);
        let (failed, failure) = watch::channel(None);
        let clock = world.clone();
        let saved_at = Arc::new(Mutex::new(None));
        let stamp = saved_at.clone();
        let work = async move {
            while newest.changed().await.is_ok() {
                let position = newest.borrow_and_update().clone();
                let Some(position) = position else { continue };
                if is_left_out(Rule::SavedBeforeTold) {
                    saved.send_replace(Some(position.clone()));
                }
                if let Err(error) = store.checkpoint(&pipeline, &position).await {
                    failed.send_replace(Some(Halt::from(error)));
                    return;
                }
                *stamp.lock().unwrap_or_else(PoisonError::into_inner) = Some(clock.now());
                saved.send_replace(Some(position));
                clock.sleep(EVERY).await;
            }
        };
        let task = world.spawn(Box::pin(work));
        Self { wanted, durable, failure, saved_at, _task: task }
    }

    /// To be saved; a newer position takes the place of one that was not saved yet.
    pub(super) fn save(&self, position: Position) {
        self.wanted.send_replace(Some(position));
    }

    /// What was asked for last.
    pub(super) fn wanted(&self) -> Option<Position> {
        self.wanted.borrow().clone()
    }

    /// When the last position became durable.
    pub(super) fn saved_at(&self) -> Option<Moment> {
        *self.saved_at.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The durable positions, for the source.
    pub(super) fn durable(&self) -> watch::Receiver<Option<Position>> {
        self.durable.clone()
    }

    /// Ends when the store has failed, and says how.
    pub(super) async fn failed(&mut self) -> Halt {
        loop {
            if let Some(halt) = self.failure.borrow_and_update().clone() {
                return halt;
            }
            if self.failure.changed().await.is_err() {
                // The task ends only by a failure, which it has told, or with this saver.
                std::future::pending::<()>().await;
            }
        }
    }

    /// Ends when everything that was asked for is durable.
    pub(super) async fn settle(&mut self) -> Result<(), Halt> {
        let wanted = self.wanted();
        if self.durable.wait_for(|durable| *durable == wanted).await.is_ok() {
            return Ok(());
        }
        // The task has ended: by a failure, which it told first.
        let failure = self.failure.borrow().clone();
        Err(failure.unwrap_or_else(|| StoreError::Ended { context: "save a checkpoint" }.into()))
    }
}
