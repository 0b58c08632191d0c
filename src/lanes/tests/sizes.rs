//! How large requests are, how many, and what is kept of those that were lost.

use std::collections::BTreeSet;
use std::time::Duration;

use super::rig::{CHARGE, Fault, Rig, settings};
use crate::lanes::taint::TAINT_BYTES;
use crate::lanes::{Kind, LaneStatus, Settings};
use crate::ledger::Ends;

const SECOND: Duration = Duration::from_secs(1);
const BUSY: Fault = Fault::All(429, "es_rejected_execution_exception");
const LOST: Fault = Fault::Lost(None);

fn bytes_max(bytes: usize) -> Settings {
    let mut settings = settings();
    settings.bulk_bytes_max = bytes;
    settings
}

async fn submit(rig: &mut Rig, ids: std::ops::Range<u32>, text: &str) {
    let actions = ids.map(|id| rig.action(&format!("{id:03}"), 1, Kind::Put, text)).collect();
    rig.submit(actions).await;
}

/// How many actions each request had.
fn counts(rig: &Rig) -> Vec<usize> {
    rig.sent().iter().map(|sent| sent.ids.len()).collect()
}

#[tokio::test(start_paused = true)]
async fn a_request_may_be_exactly_as_large_as_it_may_be() {
    let one = Rig::new(settings()).action("000", 1, Kind::Put, "x").data.len();
    let mut rig = Rig::new(bytes_max(2 * one));
    submit(&mut rig, 0..5, "x").await;
    rig.drain().await.unwrap();
    assert_eq!(counts(&rig), [2, 2, 1]);

    let mut counted = settings();
    counted.bulk_count_max = 2;
    let mut rig = Rig::new(counted);
    submit(&mut rig, 0..5, "x").await;
    rig.drain().await.unwrap();
    assert_eq!(counts(&rig), [2, 2, 1]);
}

#[tokio::test(start_paused = true)]
async fn what_is_full_waits_for_no_linger() {
    let one = Rig::new(settings()).action("000", 1, Kind::Put, "x").data.len();
    let mut counted = settings();
    counted.bulk_count_max = 2;
    for mut settings in [bytes_max(2 * one), counted] {
        settings.linger = SECOND;
        let mut rig = Rig::new(settings);
        submit(&mut rig, 0..1, "x").await;
        rig.sleep(SECOND / 10).await;
        let begun = rig.world.now();
        submit(&mut rig, 1..3, "x").await;
        rig.sleep(SECOND).await;
        assert_eq!((counts(&rig), rig.sent()[1].at), (vec![1, 2], begun));
    }
}

#[tokio::test(start_paused = true)]
async fn every_request_has_a_name_of_its_own() {
    let mut rig = Rig::new(bytes_max(1));
    rig.fault([LOST, BUSY, LOST]);
    submit(&mut rig, 0..4, "x").await;
    rig.drain().await.unwrap();
    let names: BTreeSet<_> = rig.sent().into_iter().map(|sent| sent.name).collect();
    assert_eq!((names.len(), rig.sent().len()), (7, 7));
    assert!(names.contains("rowtide-test-0-1") && names.contains("rowtide-test-0-7"));
}

#[tokio::test(start_paused = true)]
async fn every_lane_is_used() {
    let mut four = settings();
    four.lanes = 4;
    let mut rig = Rig::new(four);
    submit(&mut rig, 0..100, "x").await;
    rig.drain().await.unwrap();
    let sent = rig.sent();
    assert_eq!(sent.iter().map(|sent| &sent.lane).collect::<BTreeSet<_>>().len(), 4);
    assert!(sent.iter().all(|sent| sent.ids.len() > 10), "{:?}", counts(&rig));
}

/// A busy target gets half as much, down to 256 KiB, what goes again too, and with each success an eighth more.
#[tokio::test(start_paused = true)]
async fn a_busy_target_gets_less_and_then_more_again() {
    let mut rig = Rig::new(bytes_max(1 << 20));
    let text = "x".repeat(100_000);
    rig.fault([BUSY, BUSY, BUSY]);
    submit(&mut rig, 0..10, &text).await;
    rig.drain().await.unwrap();
    // 512 and 256 KiB, and after the first success 384, 512, 640.
    assert_eq!(counts(&rig), [10, 5, 2, 2, 3, 5]);
    submit(&mut rig, 10..50, &text).await;
    rig.drain().await.unwrap();
    // 640, 768, 896 KiB and the whole again.
    assert_eq!(counts(&rig)[6..], [6, 7, 9, 10, 8]);
    submit(&mut rig, 50..61, &text).await;
    rig.drain().await.unwrap();
    assert_eq!(counts(&rig)[11..], [10, 1], "and never more than the whole");
    // Busy once: 512 KiB, and 768 after two successes.
    rig.fault([BUSY]);
    submit(&mut rig, 61..71, &text).await;
    rig.drain().await.unwrap();
    submit(&mut rig, 71..80, &text).await;
    rig.drain().await.unwrap();
    assert_eq!(counts(&rig)[13..], [10, 5, 5, 7, 2]);
}

/// Half of what was configured is less than 256 KiB: that is not raised by a busy target.
#[tokio::test(start_paused = true)]
async fn a_small_limit_is_kept_by_a_busy_target() {
    let one = Rig::new(settings()).action("000", 1, Kind::Put, "x").data.len();
    let mut rig = Rig::new(bytes_max(2 * one));
    rig.fault([BUSY, BUSY]);
    submit(&mut rig, 0..6, "x").await;
    rig.drain().await.unwrap();
    assert_eq!(counts(&rig), [2, 2, 2, 2, 2]);
}

#[tokio::test(start_paused = true)]
async fn t33_half_of_what_was_refused_is_the_limit_from_then_on() {
    let one = Rig::new(settings()).action("000", 1, Kind::Put, "x").data.len();
    let mut rig = Rig::new(settings());
    rig.state(|state| state.bytes_max = Some((4 * one - 1, false)));
    submit(&mut rig, 0..4, "x").await;
    rig.drain().await.unwrap();
    submit(&mut rig, 4..8, "x").await;
    rig.drain().await.unwrap();
    assert_eq!(counts(&rig), [4, 2, 2, 2, 2]);
}

/// Halves share the bytes of the whole: none of it is given back before the last one is answered.
#[tokio::test(start_paused = true)]
async fn what_halves_share_stays_charged() {
    const EXECUTED: Fault = Fault::Item(99, 429, "no such item");
    let one = Rig::new(settings()).action("000", 1, Kind::Put, "x").data.len();
    let mut rig = Rig::new(settings());
    rig.state(|state| state.bytes_max = Some((4 * one - 1, false)));
    rig.fault([EXECUTED, Fault::Refused, Fault::Refused]);
    submit(&mut rig, 0..4, "x").await;
    rig.sleep(SECOND / 20).await;
    assert!(rig.held("000").is_some() && rig.held("003").is_none(), "the first half was written");
    assert_eq!(rig.budget.used(), 4 * CHARGE);
    rig.drain().await.unwrap();
    assert_eq!(rig.budget.used(), 0);
}

#[tokio::test(start_paused = true)]
async fn t33_one_document_that_is_too_large_teaches_no_limit() {
    let one = Rig::new(settings()).action("000", 1, Kind::Put, "x").data.len();
    let mut rig = Rig::new(settings());
    rig.state(|state| state.bytes_max = Some((9 * one, false)));
    submit(&mut rig, 0..1, &"x".repeat(10 * one)).await;
    rig.drain().await.unwrap();
    submit(&mut rig, 1..10, "x").await;
    rig.drain().await.unwrap();
    assert_eq!(counts(&rig), [1, 9]);
    assert_eq!(rig.ledger.counts().ends, Ends { written: 9, dead_lettered: 1, ..Ends::default() });
}

/// A document that takes more than the target ever has, by the target's own numbers, is dead-lettered with them; what
/// goes with it is written, and nothing waits.
#[tokio::test(start_paused = true)]
async fn t33_a_document_that_never_fits_is_refused_alone() {
    let mut rig = Rig::new(settings());
    rig.state(|state| state.expanded_max = Some(5_000));
    let large = rig.action("000", 1, Kind::Put, &"x".repeat(1_000));
    let small = rig.action("001", 1, Kind::Put, "x");
    let begun = rig.world.now();
    rig.submit(vec![large, small]).await;
    rig.drain().await.unwrap();
    assert_eq!(rig.sent_ids(), [vec!["000", "001"], vec!["000"]]);
    assert_eq!(rig.ledger.counts().ends, Ends { written: 1, dead_lettered: 1, ..Ends::default() });
    assert!(rig.world.now() - begun < SECOND);
    assert_eq!(rig.budget.used(), 0);

    // Two of them: halves, and then each alone.
    let mut rig = Rig::new(settings());
    rig.state(|state| state.expanded_max = Some(5_000));
    submit(&mut rig, 0..2, &"x".repeat(1_000)).await;
    rig.drain().await.unwrap();
    assert_eq!(counts(&rig), [2, 1, 1]);
    assert_eq!(rig.ledger.counts().ends, Ends { dead_lettered: 2, ..Ends::default() });
    assert_eq!(rig.budget.used(), 0);
}

/// A large request on which the socket is closed, by a target that answers the question after it, goes again
/// in halves at once, and half of that size is sent from then on; a small one at the third time.
#[tokio::test(start_paused = true)]
async fn t33_what_the_socket_is_closed_on_is_halved() {
    let mut rig = Rig::new(bytes_max(1 << 20));
    let text = "x".repeat(100_000);
    rig.fault([LOST]);
    submit(&mut rig, 0..8, &text).await;
    rig.drain().await.unwrap();
    assert_eq!(counts(&rig), [8, 4, 4]);
    // Half of 800 KB, and two successes.
    submit(&mut rig, 8..20, &text).await;
    rig.drain().await.unwrap();
    assert_eq!(counts(&rig)[3], 6);

    let mut rig = Rig::new(bytes_max(1 << 20));
    rig.fault([LOST, LOST, LOST]);
    submit(&mut rig, 0..2, "x").await;
    rig.drain().await.unwrap();
    assert_eq!(counts(&rig), [2, 2, 2, 1, 1]);
    submit(&mut rig, 2..10, &text).await;
    rig.drain().await.unwrap();
    assert_eq!(counts(&rig)[5..], [8], "a small one says nothing of large ones");
}

/// An answer, even one that refuses everything, shows that the target is there: what was lost before counts no more.
#[tokio::test(start_paused = true)]
async fn t33_an_answer_ends_the_count_of_lost_ones() {
    for answered in [BUSY, Fault::Item(0, 429, "es_rejected_execution_exception")] {
        let mut rig = Rig::new(bytes_max(1 << 20));
        rig.fault([LOST, LOST, answered, LOST, LOST]);
        submit(&mut rig, 0..8, "x").await;
        rig.drain().await.unwrap();
        assert!(
            counts(&rig).windows(2).all(|pair| pair[0] == pair[1] || pair == [8, 1]),
            "{:?}",
            counts(&rig)
        );
        assert_eq!(counts(&rig).len(), 6);
    }
}

#[tokio::test(start_paused = true)]
async fn a_busy_target_is_asked_at_least_once_a_second() {
    for busy in [BUSY, Fault::Busy] {
        let mut rig = Rig::new(settings());
        rig.fault(vec![busy; 12]);
        submit(&mut rig, 0..4, "x").await;
        rig.sleep(5 * SECOND).await;
        assert!(rig.lanes.status()[0].waiting_for.as_deref().unwrap().contains("429"));
        rig.drain().await.unwrap();
        let sent = rig.sent();
        let waits: Vec<_> = sent.windows(2).map(|pair| pair[1].at - pair[0].at).collect();
        assert!(waits[0] < SECOND / 5 && waits[11] > SECOND / 2, "{waits:?}");
        assert!(waits.iter().all(|wait| *wait < SECOND * 102 / 100), "{waits:?}");
        assert_eq!(sent.len(), 13);
        assert_eq!(rig.ledger.counts().ends, Ends { written: 4, ..Ends::default() });
        assert_eq!((rig.budget.used(), rig.state(|state| state.asked)), (0, 0));
    }
}

/// One asks, the others wait; all go on together, and nothing is lost of what they had.
#[tokio::test(start_paused = true)]
async fn lanes_take_turns_at_a_target_that_refuses() {
    let mut four = settings();
    four.lanes = 4;
    let mut rig = Rig::new(four);
    rig.fault(vec![Fault::Busy; 40]);
    submit(&mut rig, 0..100, "x").await;
    rig.sleep(10 * SECOND).await;
    let sent = rig.sent();
    let asked = &sent[8..];
    assert!((9..=20).contains(&asked.len()), "{} in about 9 s", asked.len());
    for turns in asked.windows(4) {
        assert_eq!(turns.iter().map(|sent| &sent.lane).collect::<BTreeSet<_>>().len(), 4);
    }
    assert!(rig.lanes.status().iter().all(|lane| lane.waiting_for.is_some()));
    rig.drain().await.unwrap();
    assert_eq!(rig.ledger.counts().ends, Ends { written: 100, ..Ends::default() });
    assert_eq!((rig.budget.used(), rig.state(|state| state.overlaps)), (0, 0));
    let before = rig.sent().len();
    submit(&mut rig, 100..200, "x").await;
    rig.drain().await.unwrap();
    let times: BTreeSet<_> = rig.sent()[before..].iter().map(|sent| sent.at).collect();
    assert!(times.len() <= 2, "together again: {times:?}");
}

/// What one lane has learnt of a 413 the others need not.
#[tokio::test(start_paused = true)]
async fn t33_lanes_learn_a_limit_together() {
    let one = Rig::new(settings()).action("000", 1, Kind::Put, "x").data.len();
    let mut four = settings();
    four.lanes = 4;
    let mut rig = Rig::new(four);
    submit(&mut rig, 0..100, "x").await;
    rig.drain().await.unwrap();
    let by_lane: Vec<Vec<String>> = rig.sent_ids();
    assert_eq!(by_lane.len(), 4);
    let limit = 4 * one - 1;
    rig.state(|state| state.bytes_max = Some((limit, false)));
    let mut refused = Vec::new();
    for lane in by_lane {
        let before = rig.sent().len();
        let actions = lane.iter().map(|id| rig.action(id, 1, Kind::Put, "x")).collect();
        rig.submit(actions).await;
        rig.drain().await.unwrap();
        refused.push(rig.sent()[before..].iter().filter(|sent| sent.bytes > limit).count());
    }
    assert!(refused[0] > 0 && refused[1..] == [0, 0, 0], "{refused:?}");
}

/// A request that times out shows a slow target: smaller ones follow, and no document is given up.
#[tokio::test(start_paused = true)]
async fn a_large_document_that_times_out_is_never_given_up() {
    let mut suspicious = settings();
    suspicious.suspect_bytes = 1_000;
    let mut rig = Rig::new(suspicious);
    rig.fault(vec![Fault::TimedOut; 20]);
    submit(&mut rig, 0..1, &"x".repeat(1_000)).await;
    rig.drain().await.unwrap();
    assert_eq!(counts(&rig), [1; 21]);
    assert_eq!(rig.ledger.counts().ends, Ends { written: 1, ..Ends::default() });
    rig.fault([Fault::TimedOut]);
    submit(&mut rig, 1..2, "x").await;
    assert_eq!(rig.drain().await.unwrap().unresolved, 1);
    assert_eq!(rig.budget.used(), TAINT_BYTES, "it may still be executed");
    rig.sleep(60 * SECOND).await;
    assert_eq!(rig.budget.used(), 0);
}

#[tokio::test(start_paused = true)]
async fn what_times_out_goes_again_in_quarters() {
    let mut rig = Rig::new(bytes_max(1 << 20));
    let text = "x".repeat(100_000);
    rig.fault([Fault::TimedOut]);
    submit(&mut rig, 0..8, &text).await;
    rig.drain().await.unwrap();
    assert_eq!(counts(&rig), [8, 2, 2, 2, 2]);
}

/// Ten seconds for 800 KB: a little less than 400 KB take five. Quick answers to full requests give it back by quarters.
#[tokio::test(start_paused = true)]
async fn what_takes_long_becomes_smaller() {
    let mut rig = Rig::new(bytes_max(1 << 20));
    let text = "x".repeat(100_000);
    rig.fault([Fault::Slow(10 * SECOND)]);
    submit(&mut rig, 0..8, &text).await;
    rig.drain().await.unwrap();
    submit(&mut rig, 8..30, &text).await;
    rig.drain().await.unwrap();
    assert_eq!(counts(&rig), [8, 3, 4, 6, 7, 2]);
}

/// A lane that was idle sends at once; then it lets what comes gather, and a drain does not wait for it.
#[tokio::test(start_paused = true)]
async fn a_lane_sends_at_once_and_then_at_its_pace() {
    let mut slow = settings();
    slow.linger = SECOND;
    let mut rig = Rig::new(slow);
    let begun = rig.world.now();
    for id in 0..6 {
        submit(&mut rig, id..id + 1, "x").await;
        rig.sleep(SECOND / 2).await;
    }
    assert_eq!(counts(&rig), [1, 2, 2]);
    let at: Vec<_> = rig.sent().iter().map(|sent| sent.at - begun).collect();
    assert_eq!(at, [Duration::ZERO, SECOND, 2 * SECOND]);
    let drained_at = rig.world.now();
    rig.drain().await.unwrap();
    assert!(rig.world.now() - drained_at < SECOND / 100);
    assert_eq!(counts(&rig), [1, 2, 2, 1]);
}

#[tokio::test(start_paused = true)]
async fn t33_a_large_document_that_is_never_answered_is_kept_at_the_fifth_time() {
    let mut suspicious = settings();
    suspicious.suspect_bytes = 1_000;
    let mut rig = Rig::new(suspicious);
    rig.fault(vec![LOST; 5]);
    submit(&mut rig, 0..1, &"x".repeat(1_000)).await;
    rig.drain().await.unwrap();
    assert_eq!(counts(&rig), [1; 5]);
    assert_eq!(rig.letters.kept.lock().unwrap()["000"].1, "5 requests with it alone were not answered");
    assert_eq!(rig.ledger.counts().ends, Ends { dead_lettered: 1, ..Ends::default() });
    assert_eq!(rig.budget.used(), TAINT_BYTES, "any of the five may still be executed");
}

/// The memory for the places of a lost request is charged until it is known to have ended.
#[tokio::test(start_paused = true)]
async fn places_of_a_lost_request_stay_charged() {
    let mut rig = Rig::new(settings());
    rig.fault([LOST]);
    submit(&mut rig, 0..3, "x").await;
    rig.drain().await.unwrap();
    assert_eq!(rig.budget.used(), 3 * TAINT_BYTES);
    rig.fault([LOST]);
    submit(&mut rig, 3..8, "x").await;
    rig.drain().await.unwrap();
    assert_eq!(rig.budget.used(), 8 * TAINT_BYTES);
    rig.sleep(30 * SECOND).await;
    assert_eq!(rig.budget.used(), 0);

    // What comes meanwhile keeps its own charge.
    let before = rig.sent().len();
    rig.fault([LOST]);
    submit(&mut rig, 8..11, "x").await;
    while rig.sent().len() < before + 2 {
        rig.sleep(SECOND / 1000).await;
    }
    rig.permit.store(false, std::sync::atomic::Ordering::SeqCst);
    submit(&mut rig, 11..16, "x").await;
    rig.sleep(SECOND).await;
    assert_eq!(rig.budget.used(), 3 * TAINT_BYTES + 5 * CHARGE);
}

#[tokio::test(start_paused = true)]
async fn a_lane_says_what_it_does() {
    let mut rig = Rig::new(settings());
    rig.permit.store(false, std::sync::atomic::Ordering::SeqCst);
    submit(&mut rig, 0..4, "x").await;
    rig.sleep(SECOND).await;
    let waits = |why: &str| Some(why.to_owned());
    let waiting =
        LaneStatus { pending: 4, waiting_for: waits("the permission to write"), ..LaneStatus::default() };
    assert_eq!(rig.lanes.status(), [waiting]);
    assert_eq!(rig.budget.used(), 4 * CHARGE);

    rig.permit.store(true, std::sync::atomic::Ordering::SeqCst);
    rig.state(|state| state.bytes_max = Some((300, false)));
    rig.fault(vec![Fault::Refused; 3]);
    rig.sleep(SECOND / 4).await;
    let status = rig.lanes.status().remove(0);
    assert_eq!((status.pending, status.in_flight, status.unresolved), (0, 4, 0), "two halves");
    assert!(status.waiting_for.is_some());
    rig.drain().await.unwrap();
    rig.sleep(SECOND).await;
    assert_eq!(rig.lanes.status(), [LaneStatus::default()]);
}
