#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::target::memory::{Fault, Memory, StateCall};
use sources::world::RealWorld;

fn claim(store: &str) -> Claim {
    Claim { id: "shop".to_owned(), store: store.to_owned(), store_is_locked: true }
}

async fn acquire(memory: &Arc<Memory>, world: &SharedWorld, store: &str) -> (Lease, Option<StateDocument>) {
    Lease::acquire(memory.clone(), world.clone(), claim(store), &|_| ()).await.unwrap()
}

fn setting() -> (Arc<Memory>, SharedWorld) {
    (Arc::new(Memory::new()), RealWorld::shared())
}

#[tokio::test(start_paused = true)]
async fn a_free_lease_is_had_at_once_and_stays_valid() {
    let (memory, world) = setting();
    let (lease, found) = acquire(&memory, &world, "a").await;
    assert!(found.is_none() && lease.found_clean() && world.now() < Duration::from_millis(100));
    let mut slept = Duration::ZERO;
    while slept < Duration::from_secs(60) {
        assert!(lease.is_valid(), "after {slept:?}");
        world.sleep(Duration::from_millis(100)).await;
        slept += Duration::from_millis(100);
    }
    assert!(lease.document().lease.unwrap().beat > 15);
}

#[tokio::test(start_paused = true)]
async fn a_lease_is_taken_over_only_after_its_owner_has_become_invalid() {
    let (memory, world) = setting();
    let (first, _) = acquire(&memory, &world, "a").await;
    let waits = AtomicUsize::new(0);
    let note = |waiting: Waiting| {
        assert!(matches!(waiting, Waiting::ForOwner(owner) if owner.starts_with("a/")));
        waits.fetch_add(1, Ordering::Relaxed);
    };
    let target: Arc<Memory> = memory.clone();
    let mut second = Box::pin(Lease::acquire(target, world.clone(), claim("b"), &note));
    // As long as the first one lives the second one waits.
    assert!(within(&*world, Duration::from_secs(60), &mut second).await.is_none());
    assert!(first.is_valid() && waits.load(Ordering::Relaxed) > 10);
    // It dies without a word: its renewals end, and it goes on asking whether it is valid.
    let Lease { shared, renewals } = first;
    drop(renewals);
    let died = world.now();
    let (lease, found) = loop {
        if let Some(taken) = within(&*world, Duration::from_millis(10), &mut second).await {
            break taken.unwrap();
        }
        assert!(world.now() - died < Duration::from_secs(15));
    };
    assert!(!shared.is_valid() && lease.is_valid());
    assert!(world.now() - died >= TTL - RENEWAL);
    assert!(!lease.found_clean() && found.unwrap().lease.unwrap().owner.starts_with("a/"));
    // The first one, had it only been asleep, learns it at its next write.
    let error = shared.update(&|_| ()).await.unwrap_err();
    assert!(matches!(&error, LeaseError::Lost { holder, .. } if holder.starts_with("b/")), "{error}");
    assert!(Halt::from(error).hint.contains("one place"));
    assert!(!shared.is_valid() && lease.is_valid());
    assert!(lease.update(|_| ()).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn ones_own_lease_of_a_dead_run_is_taken_at_once_only_under_the_stores_lock() {
    let (memory, world) = setting();
    drop(acquire(&memory, &world, "a").await);
    let before = world.now();
    let (lease, _) = acquire(&memory, &world, "a").await;
    assert!(world.now() - before < Duration::from_millis(100) && !lease.found_clean());
    drop(lease);
    let unproved = Claim { store_is_locked: false, ..claim("a") };
    let (before, target) = (world.now(), memory.clone());
    Lease::acquire(target, world.clone(), unproved, &|_| ()).await.unwrap();
    assert!(world.now() - before >= TTL);
}

#[tokio::test(start_paused = true)]
async fn an_absent_target_makes_it_invalid_in_time_and_valid_again() {
    let (memory, world) = setting();
    let (lease, _) = acquire(&memory, &world, "a").await;
    memory.on_state(|_| Fault::not_executed());
    let cut = world.now();
    while lease.is_valid() {
        assert!(world.now() - cut < TTL - MARGIN);
        world.sleep(Duration::from_millis(10)).await;
    }
    world.sleep(Duration::from_secs(60)).await;
    memory.on_state(|_| Fault::Execute);
    lease.valid().await.unwrap();
    assert!(lease.is_valid());
}

#[tokio::test(start_paused = true)]
async fn validity_counts_from_the_sending_of_the_renewal() {
    let (memory, world) = setting();
    let (lease, _) = acquire(&memory, &world, "a").await;
    // Executed each time, never answered, and only read much later.
    let sent = Arc::new(Mutex::new(None));
    let (noted, clock) = (sent.clone(), world.clone());
    memory.on_state(move |call| match call {
        StateCall::Save => {
            noted.lock().unwrap().get_or_insert_with(|| clock.now());
            Fault::LoseAnswer
        }
        StateCall::Load if clock.now() < Duration::from_secs(11) => Fault::LoseRequest,
        StateCall::Load => Fault::Execute,
    });
    let mut standing = lease.standing();
    standing.borrow_and_update();
    standing.changed().await.unwrap();
    assert!(world.now() >= Duration::from_secs(11));
    let sent = sent.lock().unwrap().unwrap();
    assert_eq!(*standing.borrow(), Standing::ValidUntil(sent + TTL - MARGIN));
}

#[tokio::test(start_paused = true)]
async fn lost_answers_change_nothing_twice_and_lose_no_lease() {
    let (memory, world) = setting();
    let (lease, _) = acquire(&memory, &world, "a").await;
    for fault in [Fault::LoseAnswer, Fault::LoseRequest, Fault::not_executed()] {
        let mut faults = vec![fault].into_iter();
        memory.on_state(move |call| match call {
            StateCall::Save => faults.next().unwrap_or(Fault::Execute),
            StateCall::Load => Fault::Execute,
        });
        let base = lease.document().base;
        lease.update(|document| document.base += 1).await.unwrap();
        assert_eq!(lease.document().base, base + 1);
        let stored = memory.load_state("shop").await.unwrap().unwrap();
        assert_eq!(stored.document, lease.document());
    }
    // The taking itself, too: what was found before is told right.
    let (memory, world) = setting();
    let mut faults = vec![Fault::LoseAnswer].into_iter();
    memory.on_state(move |call| match call {
        StateCall::Save => faults.next().unwrap_or(Fault::Execute),
        StateCall::Load => Fault::Execute,
    });
    let (lease, found) = acquire(&memory, &world, "a").await;
    assert!(found.is_none() && lease.is_valid());
}

#[tokio::test(start_paused = true)]
async fn a_ceiling_is_durable_before_it_counts_and_never_beyond_53_bits() {
    let (memory, world) = setting();
    let (lease, _) = acquire(&memory, &world, "a").await;
    assert_eq!(lease.ceiling(), 0);
    memory.on_state(|_| Fault::not_executed());
    let mut raising = Box::pin(lease.ensure_ceiling(7));
    assert!(within(&*world, Duration::from_secs(5), &mut raising).await.is_none());
    assert_eq!(lease.ceiling(), 0);
    memory.on_state(|_| Fault::Execute);
    raising.await.unwrap();
    assert_eq!(lease.ceiling(), 7 + CEILING_STEP);
    let stored = memory.load_state("shop").await.unwrap().unwrap();
    assert_eq!(stored.document.ceiling, lease.ceiling());
    lease.ensure_ceiling(VERSION_MAX).await.unwrap();
    assert_eq!(lease.ceiling(), VERSION_MAX);
    let error = lease.ensure_ceiling(VERSION_MAX + 1).await.unwrap_err();
    assert_eq!(error, LeaseError::VersionTooHigh(VERSION_MAX + 1));
}

#[tokio::test(start_paused = true)]
async fn a_clean_stop_leaves_the_highest_version_and_no_owner() {
    let (memory, world) = setting();
    let (lease, _) = acquire(&memory, &world, "a").await;
    lease.ensure_ceiling(100).await.unwrap();
    let standing = lease.standing();
    lease.release(Some(90)).await.unwrap();
    assert_eq!(*standing.borrow(), Standing::Released);
    let (lease, found) = acquire(&memory, &world, "b").await;
    let found = found.unwrap();
    assert!(lease.found_clean() && found.lease.is_none());
    assert_eq!(found.ceiling, 90);
    // A run that crashed may have issued everything up to its ceiling; the next cannot know better.
    lease.ensure_ceiling(95).await.unwrap();
    let bound = lease.ceiling();
    drop(lease);
    let (lease, _) = acquire(&memory, &world, "b").await;
    lease.release(Some(96)).await.unwrap();
    assert_eq!(memory.load_state("shop").await.unwrap().unwrap().document.ceiling, bound);
}

#[tokio::test(start_paused = true)]
async fn a_deleted_document_or_a_refusing_target_is_said() {
    let (memory, world) = setting();
    let refusal = TargetError::Halt { context: "x", reason: "status 401".to_owned(), hint: "y".to_owned() };
    let refusing = refusal.clone();
    memory.on_state(move |_| Fault::Refuse(refusing.clone()));
    let refused = Lease::acquire(memory.clone(), world.clone(), claim("a"), &|_| ()).await;
    assert_eq!(refused.map(|_| ()).unwrap_err(), LeaseError::Target(refusal));
    memory.on_state(|_| Fault::Execute);
    let (lease, _) = acquire(&memory, &world, "a").await;
    memory.drop_state("shop");
    let error = lease.update(|_| ()).await.unwrap_err();
    assert!(matches!(&error, LeaseError::Lost { holder, .. } if holder.contains("deleted")), "{error}");
}
