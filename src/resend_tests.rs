#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::sync::Mutex;

use bytes::Bytes;
use sources::world::RealWorld;

use super::*;
use crate::lease::Claim;
use crate::store::tests::Folder;
use crate::store::{LetterLimits, letters_of};
use crate::target::memory::{Fault, Memory};
use crate::target::{Bulk, Outcome};

/// A store with letters, and the cluster that refused them.
struct Rig {
    _folder: Folder,
    store: Sqlite,
    memory: Arc<Memory>,
    lease: Option<Arc<Lease>>,
    told: Arc<Mutex<Vec<String>>>,
}

fn action(id: &str, version: u64, document: Option<&str>) -> Vec<u8> {
    let operation = if document.is_some() { "index" } else { "delete" };
    let line = format!(
        "{{\"{operation}\":{{\"_index\":\"products\",\"_id\":\"{id}\",\"version\":{version},\"version_type\":\"external_gte\"}}}}\n"
    );
    (line + &document.map(|document| format!("{document}\n")).unwrap_or_default()).into_bytes()
}

impl Rig {
    fn new() -> Self {
        let folder = Folder::new();
        let store = folder.open().unwrap();
        let memory = Arc::new(Memory::with_index("products"));
        Self { _folder: folder, store, memory, lease: None, told: Arc::default() }
    }

    async fn letters(&self) -> Letters {
        let budget = Budget::new(8 << 20);
        let limits = LetterLimits::of_each(1, 1 << 20, &budget);
        self.store.letters(&letters_of("shop", "search"), limits, &budget).await.unwrap()
    }

    async fn keep(&self, id: &str, version: u64, body: Option<Vec<u8>>) {
        let letter = DeadLetter {
            index: "products".into(),
            id: id.as_bytes().into(),
            version: Version::from_target(version),
            reason: "the first reason".to_owned(),
            bytes: 10,
            body: body.map(Bytes::from),
        };
        self.letters().await.keep(letter).await.unwrap();
    }

    async fn write(&self, id: &str, version: u64, document: Option<&str>) {
        let bulk = Bulk { opaque_id: "x".into(), body: action(id, version, document).into(), actions: 1 };
        assert_eq!(self.memory.bulk(bulk).await.unwrap(), [Outcome::Written]);
    }

    async fn run(&mut self, limit: u64) -> Result<Resent, Halt> {
        let world = RealWorld::shared();
        let claim = Claim { id: "shop".into(), store: self.store.owner().to_owned(), store_is_locked: true };
        let (lease, _) = Lease::acquire(self.memory.clone(), world.clone(), claim, &|_| ()).await.unwrap();
        let lease = Arc::new(lease);
        self.lease = Some(lease.clone());
        let told = self.told.clone();
        let tell: Tell = Arc::new(move |what| {
            told.lock().unwrap().push(match what {
                Told::Unsent(letter, unfit) => format!("{} {unfit:?}", String::from_utf8_lossy(&letter.id)),
                Told::Refused(letter) => format!("{} {}", String::from_utf8_lossy(&letter.id), letter.reason),
            });
        });
        let resend = Resend {
            world,
            store: self.store.clone(),
            letters: self.letters().await,
            choice: Choice {
                pipeline: Some("shop".into()),
                target: Some("search".into()),
                ..Choice::default()
            },
            limit,
            target: self.memory.clone(),
            lease,
            lanes: Settings::new("retry", Arc::default()),
            budget: Budget::new(8 << 20),
            tell,
        };
        resend.run().await
    }

    async fn left(&self) -> Vec<(String, String)> {
        let page = self.store.letters_page(&Choice::default(), 0, i64::MAX, 100).await.unwrap();
        let mut left: Vec<_> =
            page.into_iter().map(|letter| (String::from_utf8(letter.id).unwrap(), letter.reason)).collect();
        left.sort();
        left
    }

    fn told(&self) -> Vec<String> {
        let mut told = self.told.lock().unwrap().clone();
        told.sort();
        told
    }

    fn is_given_back(&self) -> bool {
        let lease = self.lease.as_ref().expect("it ran");
        *lease.standing().borrow() == Standing::Released
    }
}

#[tokio::test]
async fn letters_end_with_a_certain_answer_and_stay_with_the_new_reason() {
    let mut rig = Rig::new();
    rig.write("stale", 9, Some("{\"new\":1}")).await;
    rig.write("gone", 3, Some("{}")).await;
    rig.keep("good", 5, Some(action("good", 5, Some("{\"n\":1}")))).await;
    rig.keep("stale", 5, Some(action("stale", 5, Some("{\"old\":1}")))).await;
    rig.keep("gone", 5, Some(action("gone", 5, None))).await;
    rig.keep("bad", 5, Some(action("bad", 5, Some("{}")))).await;
    rig.keep("bare", 5, None).await;
    rig.keep("other", 5, Some(action("another", 5, Some("{}")))).await;
    rig.keep("half", 5, Some(b"{\"index\":{\"_ind".to_vec())).await;
    rig.memory.on_item(|action| {
        (action.id == "bad").then(|| Outcome::Failed {
            status: 400,
            kind: "document_parsing_exception".into(),
            reason: "still".into(),
        })
    });
    let resent = rig.run(u64::MAX).await.unwrap();
    let ends = Ends { written: 2, stale: 1, dead_lettered: 1, ..Ends::default() };
    assert_eq!(resent, Resent { ends, unsent: 3, away: None });
    let still = "400 document_parsing_exception: still";
    assert_eq!(rig.told(), [&format!("bad {still}"), "bare NoBody", "half Damaged", "other Damaged"]);
    let first = "the first reason";
    let left = [("bad", still), ("bare", first), ("half", first), ("other", first)];
    assert_eq!(rig.left().await, left.map(|(id, reason)| (id.to_owned(), reason.to_owned())));
    let documents = rig.memory.documents("products");
    let held: Vec<(&str, u64)> = documents.iter().map(|(id, (version, _))| (id.as_str(), *version)).collect();
    assert_eq!(held, [("good", 5), ("stale", 9)]);
    assert!(rig.is_given_back(), "it ended in order");
}

#[tokio::test]
async fn a_limit_takes_the_oldest() {
    let mut rig = Rig::new();
    for id in ["a", "b", "c"] {
        rig.keep(id, 5, Some(action(id, 5, Some("{}")))).await;
    }
    assert_eq!(rig.run(2).await.unwrap().ends.written, 2);
    assert_eq!(rig.left().await[0].0, "c");
}

#[tokio::test]
async fn without_an_answer_a_letter_stays_until_there_is_one() {
    let mut rig = Rig::new();
    rig.keep("a", 5, Some(action("a", 5, Some("{}")))).await;
    let mut count = 0;
    let (seen, store) = (Arc::new(Mutex::new(Vec::new())), rig.store.clone());
    let noted = seen.clone();
    rig.memory.on_bulk(move |_| {
        count += 1;
        noted.lock().unwrap().push(count);
        if count == 1 { Fault::LoseAnswer } else { Fault::Execute }
    });
    assert_eq!(store.letters_sum(&Choice::default()).await.unwrap().count, 1);
    let resent = rig.run(u64::MAX).await.unwrap();
    assert_eq!((resent.ends.written, seen.lock().unwrap().len()), (1, 2));
    assert!(rig.left().await.is_empty());
    assert!(!rig.is_given_back(), "a request is unresolved: whoever comes next keeps the quarantine");
}

#[tokio::test]
async fn what_a_person_must_act_on_halts_and_leaves_the_letters() {
    let mut rig = Rig::new();
    rig.keep("a", 5, Some(action("a", 5, Some("{}")))).await;
    rig.memory.drop_alias("products");
    let halt = rig.run(u64::MAX).await.unwrap_err();
    assert_eq!((halt.state, rig.left().await.len()), ("alias-gone", 1));
}

#[tokio::test]
async fn nothing_is_sent_when_somebody_else_has_the_lease() {
    let mut rig = Rig::new();
    rig.keep("a", 5, Some(action("a", 5, Some("{}")))).await;
    rig.memory.on_bulk(|_| Fault::not_executed());
    let memory = rig.memory.clone();
    // Somebody takes the state document away after the first try.
    let taking = async move {
        while memory.requests().is_empty() {
            tokio::task::yield_now().await;
        }
        memory.drop_state("shop");
    };
    let (ran, ()) = tokio::join!(rig.run(u64::MAX), taking);
    let halt = ran.unwrap_err();
    assert_eq!((halt.state, rig.left().await.len()), ("lease-lost", 1));
    assert!(rig.memory.documents("products").is_empty());
}
