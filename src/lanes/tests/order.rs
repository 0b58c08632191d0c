//! Order, coalescing and what a lost answer forbids (law 3).

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::rig::{Fault, Rig, document, settings};
use crate::lanes::Kind;
use crate::ledger::Ends;

const SECOND: Duration = Duration::from_secs(1);
const LATE: Fault = Fault::Lost(Some(Duration::from_secs(8)));

#[tokio::test(start_paused = true)]
async fn b3_zombie_bulk_with_equal_versions() {
    let mut rig = Rig::new(settings());
    rig.fault([LATE]);
    rig.put("k", 80, "a").await;
    rig.sleep(SECOND).await;
    rig.put("k", 80, "b").await;
    rig.drain().await.unwrap();
    rig.sleep(60 * SECOND).await;
    assert_eq!(rig.held("k"), Some((80, document("b"))));
    let sent = rig.sent();
    assert_eq!(sent.len(), 3, "lost, repeated, and the second image");
    assert!(sent[2].at >= 10 * SECOND, "the second image waited for the quarantine");
}

#[tokio::test(start_paused = true)]
async fn d3_late_requests_beyond_the_quarantine_are_asked_after() {
    let mut rig = Rig::new(settings());
    rig.fault([Fault::Lost(Some(25 * SECOND))]);
    rig.put("k", 80, "a").await;
    rig.sleep(SECOND).await;
    rig.delete("k", 81).await;
    rig.drain().await.unwrap();
    assert!(rig.sent().last().unwrap().at >= 25 * SECOND, "the task ran for so long");
    rig.sleep(60 * SECOND).await;
    assert_eq!(rig.held("k"), None);
}

#[tokio::test(start_paused = true)]
async fn d3_a_taint_outlasts_the_success_of_the_repetition() {
    let mut rig = Rig::new(settings());
    rig.fault([LATE]);
    rig.put("k", 80, "a").await;
    let drained = rig.drain().await.unwrap();
    assert_eq!(drained.unresolved, 1, "such a stop is not clean");
    rig.delete("k", 81).await;
    rig.put("other", 81, "x").await;
    rig.sleep(SECOND).await;
    assert_eq!(rig.held("other"), Some((81, document("x"))), "other places go on");
    assert_eq!(rig.held("k"), Some((80, document("a"))));
    let drained = rig.drain().await.unwrap();
    assert_eq!((rig.held("k"), drained.unresolved), (None, 0));
}

#[tokio::test(start_paused = true)]
async fn a_delete_waits_for_the_quarantine_and_the_answer_about_its_task() {
    let mut rig = Rig::new(settings());
    rig.fault([LATE]);
    rig.put("k", 80, "a").await;
    rig.sleep(SECOND).await;
    rig.delete("k", 90).await;
    rig.sleep(8 * SECOND).await;
    assert_eq!(rig.sent().len(), 2, "the delete is held");
    assert_eq!(rig.state(|state| state.asked), 0, "asked before the quarantine it proves nothing");
    rig.drain().await.unwrap();
    assert_eq!(rig.sent().len(), 3);
    assert!(rig.state(|state| state.asked) >= 1);
    assert_eq!(rig.held("k"), None);
}

#[tokio::test(start_paused = true)]
async fn a_put_of_a_higher_version_goes_at_once() {
    let mut rig = Rig::new(settings());
    rig.fault([LATE]);
    rig.put("k", 80, "a").await;
    rig.sleep(SECOND).await;
    rig.put("k", 81, "b").await;
    rig.sleep(SECOND).await;
    assert_eq!(rig.held("k"), Some((81, document("b"))));
    rig.sleep(60 * SECOND).await;
    assert_eq!(rig.held("k"), Some((81, document("b"))));
}

#[tokio::test(start_paused = true)]
async fn a_held_delete_gives_way_to_a_put_that_may_go() {
    let mut rig = Rig::new(settings());
    rig.fault([LATE]);
    rig.put("k", 80, "a").await;
    rig.sleep(SECOND).await;
    rig.delete("k", 81).await;
    rig.sleep(SECOND).await;
    rig.put("k", 82, "b").await;
    rig.sleep(SECOND).await;
    assert_eq!(rig.held("k"), Some((82, document("b"))));
    rig.drain().await.unwrap();
    assert_eq!(rig.ledger.counts().ends, Ends { written: 2, superseded: 1, ..Ends::default() });
}

#[tokio::test(start_paused = true)]
async fn coalescing_keeps_the_last_image_in_the_first_ones_place() {
    let mut rig = Rig::new(settings());
    let hot = rig.action("hot", 1, Kind::Put, "1");
    rig.seal(1);
    let cold = rig.action("cold", 2, Kind::Put, "x");
    let hotter = rig.action("hot", 3, Kind::Put, "2");
    let hottest = rig.action("hot", 3, Kind::Put, "3");
    rig.submit(vec![hot, cold, hotter, hottest]).await;
    rig.drain().await.unwrap();
    assert_eq!(rig.sent_ids(), [["hot", "cold"]]);
    assert_eq!(rig.held("hot"), Some((3, document("3"))));
    assert_eq!(rig.ledger.counts().ends, Ends { written: 2, superseded: 2, ..Ends::default() });
}

#[tokio::test(start_paused = true)]
async fn t01_a_superseded_change_is_settled_only_with_the_one_that_took_its_place() {
    let mut rig = Rig::new(settings());
    rig.put("k", 1, "a").await;
    rig.seal(1);
    rig.fault(vec![Fault::All(503, "unavailable_shards_exception"); 6]);
    rig.put("k", 2, "b").await;
    rig.seal(2);
    rig.sleep(SECOND / 10).await;
    assert_eq!(rig.durable(), None, "neither image is in the target");
    rig.drain().await.unwrap();
    assert_eq!(rig.durable().as_deref(), Some("2"));
}

#[tokio::test(start_paused = true)]
async fn what_is_in_flight_is_never_coalesced() {
    let mut rig = Rig::new(settings());
    rig.put("k", 1, "a").await;
    rig.sleep(SECOND / 80).await;
    assert_eq!(rig.sent().len(), 1);
    rig.put("k", 2, "b").await;
    rig.put("k", 3, "c").await;
    rig.drain().await.unwrap();
    assert_eq!(rig.ledger.counts().ends, Ends { written: 2, superseded: 1, ..Ends::default() });
}

#[tokio::test(start_paused = true)]
async fn b7_moves_keep_each_delete() {
    let mut rig = Rig::new(settings());
    rig.put("A", 1, "x").await;
    rig.put("B", 1, "old").await;
    rig.drain().await.unwrap();
    let moves = [("A", Kind::Delete), ("B", Kind::Put), ("B", Kind::Delete), ("C", Kind::Put)];
    let actions = moves.map(|(id, kind)| rig.action(id, 2, kind, "x"));
    rig.submit(actions.into()).await;
    rig.drain().await.unwrap();
    assert_eq!((rig.held("A"), rig.held("B")), (None, None));
    assert_eq!(rig.held("C"), Some((2, document("x"))));
}

#[tokio::test(start_paused = true)]
async fn an_older_change_never_takes_the_place_of_a_newer_one() {
    let mut rig = Rig::new(settings());
    let newer = rig.action("k", 9, Kind::Put, "new");
    let older = rig.action("k", 3, Kind::Put, "old");
    rig.submit(vec![newer, older]).await;
    rig.drain().await.unwrap();
    assert_eq!(rig.held("k"), Some((9, document("new"))));
    assert_eq!(rig.ledger.counts().ends, Ends { written: 1, superseded: 1, ..Ends::default() });
}

#[tokio::test(start_paused = true)]
async fn one_request_in_flight_a_lane_and_one_lane_a_place() {
    let mut rig = Rig::new({
        let mut settings = settings();
        settings.lanes = 3;
        settings.bulk_count_max = 4;
        settings
    });
    for round in 1..20 {
        let actions = (0..30).map(|id| rig.action(&id.to_string(), round, Kind::Put, "x")).collect();
        rig.submit(actions).await;
        rig.sleep(SECOND / 100).await;
    }
    rig.drain().await.unwrap();
    assert_eq!(rig.state(|state| state.overlaps), 0);
    let mut lanes: std::collections::BTreeMap<String, std::collections::BTreeSet<String>> =
        Default::default();
    for sent in rig.sent() {
        assert!(sent.ids.len() <= 4);
        for id in sent.ids {
            lanes.entry(id).or_default().insert(sent.lane.clone());
        }
    }
    assert!(lanes.values().all(|used| used.len() == 1));
    assert_eq!(lanes.values().flatten().collect::<std::collections::BTreeSet<_>>().len(), 3);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_sent_in_the_quarantine_after_an_unclean_start() {
    let mut settings = settings();
    settings.start_quarantine = Some(10 * SECOND);
    let mut rig = Rig::new(settings);
    rig.put("k", 1, "a").await;
    rig.sleep(9 * SECOND).await;
    assert_eq!(rig.sent().len(), 0);
    assert!(rig.lanes.status()[0].waiting_for.as_deref().unwrap().contains("quarantine"));
    rig.put("k", 2, "b").await;
    rig.drain().await.unwrap();
    assert_eq!(rig.ledger.counts().ends, Ends { written: 1, superseded: 1, ..Ends::default() });
}

#[tokio::test(start_paused = true)]
async fn a_lost_lease_stops_before_the_next_request() {
    let mut rig = Rig::new(settings());
    rig.permit.store(false, Ordering::SeqCst);
    rig.put("k", 1, "a").await;
    rig.sleep(60 * SECOND).await;
    assert_eq!(rig.sent().len(), 0);
    rig.permit.store(true, Ordering::SeqCst);
    rig.fault([Fault::Refused, Fault::Refused]);
    rig.sleep(SECOND / 16).await;
    rig.permit.store(false, Ordering::SeqCst);
    let before = rig.sent().len();
    rig.sleep(60 * SECOND).await;
    assert_eq!(rig.sent().len(), before, "a repetition asks as well");
    rig.permit.store(true, Ordering::SeqCst);
    rig.drain().await.unwrap();
    assert_eq!(rig.held("k"), Some((1, document("a"))));
}

#[tokio::test(start_paused = true)]
async fn requests_are_cut_by_bytes_count_and_linger() {
    let mut settings = settings();
    settings.bulk_bytes_max = 400;
    settings.bulk_count_max = 3;
    settings.linger = Duration::from_millis(10);
    let mut rig = Rig::new(settings);
    let big = "x".repeat(1000);
    let mut actions: Vec<_> = (0..4).map(|id| rig.action(&id.to_string(), 1, Kind::Put, "")).collect();
    actions.push(rig.action("big", 1, Kind::Put, &big));
    actions.push(rig.action("last", 1, Kind::Delete, ""));
    rig.submit(actions).await;
    rig.drain().await.unwrap();
    let sent = rig.sent();
    assert!(sent.iter().all(|sent| sent.bytes <= 400 || sent.ids == ["big"]), "{sent:?}");
    assert!(sent.iter().all(|sent| sent.ids.len() <= 3));

    rig.sleep(SECOND).await;
    let begun = rig.world.now();
    rig.put("first", 1, "").await;
    rig.sleep(SECOND / 500).await;
    rig.put("lingers", 1, "").await;
    rig.sleep(SECOND / 50).await;
    let sent = rig.sent();
    assert_eq!(sent[sent.len() - 2].at, begun, "after a pause at once");
    assert_eq!(sent[sent.len() - 1].at - begun, Duration::from_millis(10));
    rig.put("again", 1, "").await;
    rig.sleep(SECOND / 150).await;
    let begun = rig.world.now();
    rig.put("flushed", 1, "").await;
    rig.lanes.flush().unwrap();
    rig.sleep(SECOND).await;
    assert_eq!(rig.sent().last().unwrap().at, begun);
}
