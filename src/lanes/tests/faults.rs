//! What becomes of failed items and requests (law 7), and of dead letters (law 6).

use std::time::Duration;

use super::rig::{Fault, Letters, Rig, document, settings};
use crate::lanes::Kind;
use crate::ledger::Ends;

const SECOND: Duration = Duration::from_secs(1);

async fn three(rig: &mut Rig) {
    let actions = ["a", "b", "c"].map(|id| rig.action(id, 5, Kind::Put, id));
    rig.submit(actions.into()).await;
}

#[tokio::test(start_paused = true)]
async fn t32_exactly_the_failed_items_are_sent_again_before_anything_newer() {
    let mut rig = Rig::new(settings());
    rig.fault([Fault::Item(1, 429, "es_rejected_execution_exception")]);
    three(&mut rig).await;
    rig.sleep(SECOND / 60).await;
    rig.put("b", 6, "newer").await;
    rig.drain().await.unwrap();
    assert_eq!(rig.sent_ids(), [vec!["a", "b", "c"], vec!["b"], vec!["b"]]);
    assert_eq!(rig.held("b"), Some((6, document("newer"))));
    assert_eq!(rig.ledger.counts().ends, Ends { written: 4, ..Ends::default() });
    assert_eq!(rig.budget.used(), 0);
}

#[tokio::test(start_paused = true)]
async fn t32_a_poison_document_is_dead_lettered_at_once() {
    let mut rig = Rig::new(settings());
    let actions =
        [("a", "x"), ("b", "poison"), ("c", "x")].map(|(id, text)| rig.action(id, 5, Kind::Put, text));
    rig.submit(actions.into()).await;
    rig.drain().await.unwrap();
    assert_eq!(rig.sent().len(), 1);
    assert_eq!(rig.ledger.counts().ends, Ends { written: 2, dead_lettered: 1, ..Ends::default() });
    let kept = rig.letters.kept.lock().unwrap().clone();
    let (version, reason, body) = &kept["b"];
    assert_eq!((*version, reason.as_str()), (5, "400 document_parsing_exception: because"));
    assert!(body.as_ref().unwrap().ends_with(b"{\"text\":\"poison\"}\n"));
    assert!(body.as_ref().unwrap().starts_with(b"{\"index\""));
}

#[tokio::test(start_paused = true)]
async fn b13_a_newer_change_removes_the_letter_and_an_equal_version_counts() {
    let mut rig = Rig::new(settings());
    rig.put("b", 5, "poison").await;
    rig.drain().await.unwrap();
    assert_eq!(rig.letters.kept.lock().unwrap().len(), 1);
    rig.delete("b", 5).await;
    rig.drain().await.unwrap();
    assert_eq!(rig.letters.kept.lock().unwrap().len(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_change_that_cannot_be_sent_is_kept_in_its_turn() {
    let mut rig = Rig::new(settings());
    rig.put("k", 1, "a").await;
    rig.sleep(SECOND / 500).await;
    rig.dead("k", 2).await;
    rig.dead("other", 2).await;
    rig.drain().await.unwrap();
    let kept: Vec<_> = rig.letters.kept.lock().unwrap().keys().cloned().collect();
    assert_eq!(kept, ["k", "other"], "the answer to the older change did not remove it");
    assert_eq!(rig.ledger.counts().ends, Ends { written: 1, dead_lettered: 2, ..Ends::default() });
    rig.put("k", 3, "b").await;
    rig.drain().await.unwrap();
    assert!(!rig.letters.kept.lock().unwrap().contains_key("k"));
    assert_eq!(rig.budget.used(), 0);
}

#[tokio::test(start_paused = true)]
async fn too_many_letters_halt() {
    let mut rig = Rig::with_letters(settings(), Letters { limit: Some(0), ..Letters::default() });
    rig.put("good", 1, "x").await;
    rig.put("bad", 1, "poison").await;
    assert!(rig.drain().await.is_err());
    assert_eq!(rig.halts.len(), 1);
    assert_eq!(rig.halts[0].state, "dead-letters-full");
    assert_eq!(rig.ledger.counts().ends, Ends { written: 1, ..Ends::default() });
}

#[tokio::test(start_paused = true)]
async fn t30_a_conflict_is_stale_and_counted_apart() {
    let mut rig = Rig::new(settings());
    rig.put("k", 9, "new").await;
    rig.drain().await.unwrap();
    rig.put("k", 8, "old").await;
    rig.drain().await.unwrap();
    assert_eq!(rig.ledger.counts().ends, Ends { written: 1, stale: 1, ..Ends::default() });
    assert_eq!(rig.sent().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn t33_413_splits_down_to_one_document_and_dead_letters_that_one() {
    let mut rig = Rig::new(settings());
    rig.state(|state| state.bytes_max = Some((500, false)));
    let big = "x".repeat(1000);
    let mut actions: Vec<_> = (0..20).map(|id| rig.action(&id.to_string(), 1, Kind::Put, "x")).collect();
    actions.push(rig.action("big", 1, Kind::Put, &big));
    rig.submit(actions).await;
    rig.drain().await.unwrap();
    assert_eq!(rig.ledger.counts().ends, Ends { written: 20, dead_lettered: 1, ..Ends::default() });
    assert!(rig.letters.kept.lock().unwrap().contains_key("big"));
    assert_eq!(rig.budget.used(), 0);
    let before = rig.sent().len();
    let actions = (0..20).map(|id| rig.action(&id.to_string(), 2, Kind::Put, "x")).collect();
    rig.submit(actions).await;
    rig.drain().await.unwrap();
    let larger = rig.sent()[before..].iter().filter(|sent| sent.bytes > 500).count();
    assert!(larger <= 1, "the limit is learnt, not found anew for each request");
}

#[tokio::test(start_paused = true)]
async fn t33_a_socket_closed_on_what_is_too_large_splits_as_well() {
    let mut settings = settings();
    settings.suspect_bytes = 900;
    let mut rig = Rig::new(settings);
    rig.state(|state| state.bytes_max = Some((500, true)));
    let big = "x".repeat(1000);
    let mut actions: Vec<_> = (0..20).map(|id| rig.action(&id.to_string(), 1, Kind::Put, "x")).collect();
    actions.push(rig.action("big", 1, Kind::Put, &big));
    rig.submit(actions).await;
    rig.drain().await.unwrap();
    assert_eq!(rig.ledger.counts().ends, Ends { written: 20, dead_lettered: 1, ..Ends::default() });
    rig.sleep(60 * SECOND).await;
    assert_eq!(rig.budget.used(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_small_document_is_never_given_up_for_want_of_an_answer() {
    let mut rig = Rig::new(settings());
    rig.fault(std::iter::repeat_n(Fault::Lost(None), 40));
    rig.put("k", 1, "a").await;
    rig.drain().await.unwrap();
    assert_eq!(rig.sent().len(), 41);
    assert_eq!(rig.ledger.counts().ends, Ends { written: 1, ..Ends::default() });
    rig.sleep(60 * SECOND).await;
    assert_eq!(rig.budget.used(), 0, "what remembers the places is given back");
    assert_eq!(rig.lanes.status()[0].unresolved, 0);
}

#[tokio::test(start_paused = true)]
async fn a_target_that_is_away_taints_nothing_and_is_asked_less_often_each_time() {
    let mut rig = Rig::new(settings());
    rig.fault(vec![Fault::Refused; 12]);
    rig.put("k", 1, "a").await;
    rig.sleep(20 * SECOND).await;
    assert!(rig.lanes.status()[0].waiting_for.as_deref().unwrap().contains("away"));
    rig.drain().await.unwrap();
    let sent = rig.sent();
    let waits: Vec<_> = sent.windows(2).map(|pair| pair[1].at - pair[0].at).collect();
    assert!(waits[0] < SECOND / 5 && waits[11] > 14 * SECOND && waits[11] < 31 * SECOND, "{waits:?}");
    rig.delete("k", 2).await;
    assert_eq!(rig.drain().await.unwrap().unresolved, 0);
    assert_eq!(rig.state(|state| state.asked), 0);
}

#[tokio::test(start_paused = true)]
async fn a_halt_is_told_once_and_stops_every_lane() {
    let mut settings = settings();
    settings.lanes = 3;
    let mut rig = Rig::new(settings);
    rig.fault(vec![Fault::Halt; 3]);
    for id in 0..30 {
        rig.put(&id.to_string(), 1, "x").await;
    }
    assert!(rig.drain().await.is_err());
    rig.sleep(SECOND).await;
    rig.listen();
    assert_eq!(rig.halts.len(), 1);
    assert_eq!(rig.halts[0].hint, "correct it");
    let sent = rig.sent().len();
    rig.put("later", 1, "x").await;
    rig.sleep(SECOND).await;
    assert_eq!(rig.sent().len(), sent);
}

#[tokio::test(start_paused = true)]
async fn a_halt_of_one_lane_stops_those_that_could_go_on() {
    let mut settings = settings();
    settings.lanes = 3;
    let mut rig = Rig::new(settings);
    rig.fault([Fault::Halt]);
    for id in 0..30 {
        rig.put(&id.to_string(), 1, "x").await;
    }
    rig.sleep(SECOND).await;
    rig.listen();
    let sent = rig.sent().len();
    assert_eq!((rig.halts.len(), sent), (1, 3), "one of three was refused");
    for id in 30..60 {
        rig.put(&id.to_string(), 1, "x").await;
    }
    rig.sleep(SECOND).await;
    assert_eq!(rig.sent().len(), sent);
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_leaves_an_item_out_is_none() {
    let mut rig = Rig::new(settings());
    rig.fault([Fault::Short]);
    three(&mut rig).await;
    rig.drain().await.unwrap();
    assert_eq!(rig.sent_ids().len(), 2, "the same request goes again");
    assert_eq!(rig.ledger.counts().ends, Ends { written: 3, ..Ends::default() });
}

#[tokio::test(start_paused = true)]
async fn an_action_is_shown_without_its_document() {
    let mut rig = Rig::new(settings());
    let action = rig.action("k", 7, Kind::Put, "secret");
    let bytes = action.data.len();
    assert_eq!(format!("{action:?}"), format!("Action(version 7, {bytes} bytes)"));
}

#[tokio::test(start_paused = true)]
async fn t45_a_missing_alias_halts_after_the_others_were_settled() {
    let mut rig = Rig::new(settings());
    rig.fault([Fault::Item(1, 404, "index_not_found_exception")]);
    three(&mut rig).await;
    assert!(rig.drain().await.is_err());
    assert_eq!(rig.halts[0].state, "alias-gone");
    assert_eq!(rig.ledger.counts().ends, Ends { written: 2, ..Ends::default() });
}

#[tokio::test(start_paused = true)]
async fn charges_last_until_the_answer_and_superseded_ones_end_at_once() {
    let mut rig = Rig::new(settings());
    rig.permit.store(false, std::sync::atomic::Ordering::SeqCst);
    for version in 1..=100 {
        rig.put("k", version, "x").await;
    }
    rig.sleep(SECOND).await;
    assert!(rig.budget.used() < 2 * super::rig::CHARGE, "one image and one carried segment are held");
    for version in 101..=200 {
        rig.seal(version);
        rig.put("k", version, "x").await;
    }
    rig.sleep(SECOND).await;
    let carried = 100 * crate::lanes::pending::CARRIED_BYTES;
    let held = rig.budget.used();
    assert!(held >= carried && held < carried + 2 * super::rig::CHARGE, "{held} for a hundred segments");
    rig.permit.store(true, std::sync::atomic::Ordering::SeqCst);
    rig.drain().await.unwrap();
    assert_eq!(rig.budget.used(), 0);
}
