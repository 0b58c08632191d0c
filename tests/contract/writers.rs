//! Writers that change rows at random, from a seed, and count what they did.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{RwLock, RwLockWriteGuard};
use tokio::task::JoinHandle;

use super::{Change, Kind, Origin, TABLES, Tag, Writer, tag_of_loaded};
use crate::harness::Random;

pub(crate) const WRITERS: u64 = 4;
/// The first loaded rows belong to all writers, who update them, each change by itself: two
/// transactions then meet on a key.
const SHARED_ROWS: u64 = 50;
/// Row numbers that writers give to what they insert; above all that is loaded.
const FRESH_ROWS: u64 = 1_000_000_000;

/// The names of what is counted, in the order in which it is printed.
pub(crate) const KINDS: [&str; 6] = ["insert", "update", "delete", "change key", "set big", "keep big"];

fn name(kind: Kind) -> &'static str {
    match kind {
        Kind::Insert => KINDS[0],
        Kind::Update => KINDS[1],
        Kind::Delete => KINDS[2],
        Kind::ChangeKey(_) => KINDS[3],
        Kind::SetBig => KINDS[4],
        Kind::KeepBig => KINDS[5],
    }
}

#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    pause_ms: AtomicU64,
    counts: Mutex<BTreeMap<&'static str, u64>>,
    /// Held by each transaction; how often the server was restarted.
    restarts: RwLock<u64>,
}

/// Writers at work.
pub(crate) struct Writers {
    shared: Arc<Shared>,
    tasks: Vec<JoinHandle<()>>,
}

impl Writers {
    /// Starts them on tables with that many loaded rows each.
    pub(crate) async fn start<O: Origin>(origin: &O, loaded: [u64; TABLES], seed: u64) -> Self {
        let shared = Arc::new(Shared::default());
        let mut tasks = Vec::new();
        for number in 0..WRITERS {
            let mut hand = Hand::new(number, loaded, seed);
            let mut writer = origin.writer().await;
            let shared = shared.clone();
            tasks.push(tokio::spawn(async move {
                let mut restarts = 0;
                while !shared.stop.load(Relaxed) {
                    let (changes, roll_back) = hand.next_transaction();
                    let server_stays = shared.restarts.read().await;
                    if *server_stays > restarts {
                        restarts = *server_stays;
                        writer.connect_again().await;
                    }
                    writer.commit(&changes, roll_back).await;
                    drop(server_stays);
                    if !roll_back {
                        let mut counts = shared.counts.lock().unwrap();
                        changes.iter().for_each(|change| *counts.entry(name(change.kind)).or_default() += 1);
                    }
                    tokio::time::sleep(Duration::from_millis(shared.pause_ms.load(Relaxed))).await;
                }
            }));
        }
        Self { shared, tasks }
    }

    /// The pause after each transaction of each writer.
    pub(crate) fn pause(&self, time: Duration) {
        self.shared.pause_ms.store(time.as_millis() as u64, Relaxed);
    }

    /// No transaction is under way, and none begins while this is held. Whoever restarts the server adds
    /// one to it, so that the writers connect again.
    pub(crate) async fn hold(&self) -> RwLockWriteGuard<'_, u64> {
        self.shared.restarts.write().await
    }

    /// Changes by kind that were committed so far.
    pub(crate) fn counts(&self) -> BTreeMap<&'static str, u64> {
        self.shared.counts.lock().unwrap().clone()
    }

    /// The smallest count over all kinds.
    pub(crate) fn fewest(&self) -> u64 {
        let counts = self.counts();
        KINDS.iter().map(|kind| counts.get(kind).copied().unwrap_or(0)).min().unwrap()
    }

    /// Stops them and returns what they did in all.
    pub(crate) async fn stop(mut self) -> BTreeMap<&'static str, u64> {
        self.shared.stop.store(true, Relaxed);
        for task in self.tasks.drain(..) {
            task.await.expect("a writer failed");
        }
        self.counts()
    }

    /// How many changes the stream carries for these: a changed key is two.
    pub(crate) fn in_stream(counts: &BTreeMap<&'static str, u64>) -> u64 {
        counts.values().sum::<u64>() + counts["change key"]
    }
}

/// What one writer will do next; knows which rows are its own and there.
struct Hand {
    number: u64,
    random: Random,
    rows: [Vec<u64>; TABLES],
    big: [Vec<u64>; TABLES],
    fresh: u64,
}

impl Hand {
    fn new(number: u64, loaded: [u64; TABLES], seed: u64) -> Self {
        let own = |row: &u64| row % WRITERS == number && tag_of_loaded(*row) == Tag::Load;
        let rows = loaded.map(|count| (SHARED_ROWS..count).filter(own).collect());
        let random = Random::new(seed ^ (number + 1).wrapping_mul(0x5851_f42d_4c95_7f2d));
        Self { number, random, rows, big: Default::default(), fresh: 0 }
    }

    /// Changes of one transaction, and whether it is to be rolled back.
    fn next_transaction(&mut self) -> (Vec<Change>, bool) {
        if self.random.below(10) == 0 {
            return (vec![self.shared_change()], false);
        }
        if self.random.below(50) == 0 {
            // What is rolled back must not enter the books: updates do not.
            let changes = (0..3).map(|_| self.update()).collect();
            return (changes, true);
        }
        let count = if self.random.below(5) == 0 { 2 + self.random.below(4) } else { 1 };
        ((0..count).map(|_| self.next_change()).collect(), false)
    }

    fn shared_change(&mut self) -> Change {
        let row = self.random.below(SHARED_ROWS);
        // Calm rows stay calm.
        let row = if tag_of_loaded(row) == Tag::Calm { row - 1 } else { row };
        let kind = if self.random.below(4) == 0 { Kind::SetBig } else { Kind::Update };
        Change { table: self.random.below(TABLES as u64) as usize, row, kind, salt: self.salt() }
    }

    fn update(&mut self) -> Change {
        let table = self.random.below(TABLES as u64) as usize;
        let at = self.random.below(self.rows[table].len() as u64) as usize;
        Change { table, row: self.rows[table][at], kind: Kind::Update, salt: self.salt() }
    }

    /// Below 2^31, so that any origin can reckon with it.
    fn salt(&mut self) -> u64 {
        self.random.below(1 << 31)
    }

    fn fresh_row(&mut self) -> u64 {
        self.fresh += 1;
        FRESH_ROWS + self.fresh * WRITERS + self.number
    }

    fn next_change(&mut self) -> Change {
        let table = self.random.below(TABLES as u64) as usize;
        let salt = self.salt();
        let choice = self.random.below(6);
        if choice == 0 {
            let row = self.fresh_row();
            self.rows[table].push(row);
            return Change { table, row, kind: Kind::Insert, salt };
        }
        let at = self.random.below(self.rows[table].len() as u64) as usize;
        let row = self.rows[table][at];
        let kind = match choice {
            1 => Kind::Update,
            2 => {
                self.rows[table].swap_remove(at);
                self.big[table].retain(|big| *big != row);
                Kind::Delete
            }
            3 => {
                let to = self.fresh_row();
                self.rows[table][at] = to;
                self.big[table].iter_mut().filter(|big| **big == row).for_each(|big| *big = to);
                Kind::ChangeKey(to)
            }
            4 => {
                self.big[table].push(row);
                Kind::SetBig
            }
            _ => match self.big[table].len() as u64 {
                0 => Kind::Update,
                count => {
                    let row = self.big[table][self.random.below(count) as usize];
                    return Change { table, row, kind: Kind::KeepBig, salt };
                }
            },
        };
        Change { table, row, kind, salt }
    }
}
