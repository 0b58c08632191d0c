//! A disk, and the store's trait on it: what was written is there after a crash, what was being written
//! may or may not be, and a full disk takes nothing.

use std::collections::BTreeMap;
use std::time::Duration;

use rowtide::dead_letters::{DeadLetter, DeadLetterError, DeadLetters};
use rowtide::store::{Saved, Store, StoreError};
use sources::position::{Position, Version};
use sources::world::{BoxFuture, SharedWorld};

use super::env::Shared;
use super::executor::Pid;

/// What one store has on its disk.
#[derive(Clone, Debug, Default)]
pub(super) struct Disk {
    /// Who has it open.
    pub(super) process: Option<Pid>,
    pub(super) position: Option<Position>,
    clean: bool,
    identity: Option<String>,
    indices: Option<BTreeMap<String, String>>,
    /// By alias and id: version.
    pub(super) letters: BTreeMap<(String, Vec<u8>), u64>,
}

pub(super) struct SimStore {
    pub(super) env: Shared,
    pub(super) world: SharedWorld,
    pub(super) disk: u32,
    pub(super) process: Pid,
    /// Before the names of indices, of the letters that are kept by it.
    pub(super) letters_of: &'static str,
}

fn full(context: &'static str) -> StoreError {
    StoreError::DataDir {
        path: "disk".into(),
        what: format!("{context}: no space left"),
        fix: "make room".into(),
    }
}

impl SimStore {
    /// A write: durable at some moment before the call returns.
    async fn write(&self, context: &'static str, change: impl FnOnce(&mut Disk)) -> Result<(), StoreError> {
        self.pause().await;
        {
            let mut env = self.env.lock();
            if env.disk_full {
                env.fault("disk full", self.process);
                return Err(full(context));
            }
            if let Some(disk) = env.disks.get_mut(&self.disk) {
                change(disk);
            }
        }
        self.pause().await;
        Ok(())
    }

    fn place(&self, index: &str, id: &[u8]) -> (String, Vec<u8>) {
        (self.letters_of.to_owned() + index, id.to_vec())
    }

    async fn pause(&self) {
        self.world.sleep(Duration::from_micros(self.world.random() % 20_000)).await;
    }
}

impl Store for SimStore {
    fn load<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<Saved, StoreError>> {
        Box::pin(async move {
            self.pause().await;
            let env = self.env.lock();
            let disk = env.disks.get(&self.disk).cloned().unwrap_or_default();
            let owner = format!("store-{}", self.disk);
            let Disk { position, clean, identity, indices, .. } = disk;
            Ok(Saved { owner, position, clean, identity, indices })
        })
    }

    fn begin<'a>(
        &'a self,
        _: &'a str,
        indices: &'a BTreeMap<String, String>,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(self.write("begin", |disk| {
            disk.clean = false;
            disk.indices = Some(indices.clone());
        }))
    }

    fn identify<'a>(&'a self, _: &'a str, identity: &'a str) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(self.write("identify", |disk| disk.identity = Some(identity.to_owned())))
    }

    fn checkpoint<'a>(&'a self, _: &'a str, position: &'a Position) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(self.write("checkpoint", |disk| disk.position = Some(position.clone())))
    }

    fn finish<'a>(
        &'a self,
        _: &'a str,
        position: Option<&'a Position>,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(self.write("finish", move |disk| {
            disk.clean = true;
            if let Some(position) = position {
                disk.position = Some(position.clone());
            }
        }))
    }
}

impl DeadLetters for SimStore {
    fn keep(&self, letter: DeadLetter) -> BoxFuture<'_, Result<(), DeadLetterError>> {
        Box::pin(async move {
            let kept = self.write("keep a dead letter", |disk| {
                let place = self.place(&letter.index, &letter.id);
                disk.letters.insert(place, letter.version.get());
            });
            kept.await.map_err(|error| DeadLetterError::Store { reason: error.to_string() })
        })
    }

    fn count(&self) -> u64 {
        let env = self.env.lock();
        let own = |disk: &Disk| disk.letters.keys().filter(|(of, _)| of.starts_with(self.letters_of)).count();
        env.disks.get(&self.disk).map_or(0, own) as u64
    }

    fn holds(&self, index: &str, id: &[u8]) -> bool {
        let env = self.env.lock();
        let place = self.place(index, id);
        env.disks.get(&self.disk).is_some_and(|disk| disk.letters.contains_key(&place))
    }

    fn superseded<'a>(
        &'a self,
        index: &'a str,
        id: &'a [u8],
        version: Version,
    ) -> BoxFuture<'a, Result<(), DeadLetterError>> {
        Box::pin(async move {
            let ended = self.write("end a dead letter", |disk| {
                let place = self.place(index, id);
                if disk.letters.get(&place).is_some_and(|kept| *kept <= version.get()) {
                    disk.letters.remove(&place);
                }
            });
            if self.env.lock().letter_of(self.disk, self.place(index, id)) == Some(version.get()) {
                self.env.lock().attacks.hit("B13 a letter ended by a change of equal version");
            }
            ended.await.map_err(|error| DeadLetterError::Store { reason: error.to_string() })
        })
    }

    fn cleared<'a>(&'a self, index: &'a str, version: Version) -> BoxFuture<'a, Result<(), DeadLetterError>> {
        Box::pin(async move {
            let ended = self.write("end a table's dead letters", |disk| {
                let of = self.letters_of.to_owned() + index;
                disk.letters.retain(|(index, _), kept| *index != of || *kept > version.get());
            });
            ended.await.map_err(|error| DeadLetterError::Store { reason: error.to_string() })
        })
    }
}
