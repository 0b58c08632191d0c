//! A person pauses and throttles, in virtual time.

use std::time::Duration;

use super::rig::{Fault, Rig, settings};
use crate::controls::Throttle;
use crate::lanes::Settings;

fn several() -> Settings {
    Settings { lanes: 4, ..settings() }
}

async fn fill(rig: &mut Rig, documents: u64) {
    for number in 0..documents {
        rig.put(&format!("d{number}"), 10, "text").await;
    }
}

#[tokio::test(start_paused = true)]
async fn paused_lanes_send_nothing_and_go_on_where_they_were() {
    let mut rig = Rig::new(several());
    fill(&mut rig, 10).await;
    rig.drain().await.unwrap();
    let before = rig.sent().len();
    rig.controls.pause();
    for number in 0..50 {
        rig.put(&format!("d{number}"), 20, "newer").await;
    }
    rig.sleep(Duration::from_secs(3_600)).await;
    assert_eq!(rig.sent().len(), before, "something was sent");
    assert_eq!(rig.held("d3").unwrap().0, 10);
    rig.controls.resume();
    rig.drain().await.unwrap();
    assert_eq!(rig.held("d3").unwrap().0, 20);
    assert_eq!(rig.ledger.counts().in_flight(), 0);
    assert!(rig.halts.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_request_that_goes_again_waits_for_the_end_of_the_pause_too() {
    let mut rig = Rig::new(settings());
    rig.fault([Fault::Busy]);
    rig.put("a", 10, "text").await;
    rig.sleep(Duration::from_millis(12)).await;
    assert_eq!(rig.sent().len(), 1);
    rig.controls.pause();
    rig.sleep(Duration::from_secs(3_600)).await;
    assert_eq!(rig.sent().len(), 1, "it went again");
    rig.controls.resume();
    rig.drain().await.unwrap();
    assert_eq!((rig.sent().len(), rig.held("a").unwrap().0), (2, 10));
}

#[tokio::test(start_paused = true)]
async fn all_lanes_together_keep_the_rate_of_documents() {
    let mut rig = Rig::new(several());
    rig.controls.set_throttle(Throttle { documents_per_s: Some(100), bytes_per_s: None });
    let began = rig.world.now();
    fill(&mut rig, 2_000).await;
    rig.drain().await.unwrap();
    let took = (rig.world.now() - began).as_secs_f64();
    assert!((19.0..22.0).contains(&took), "2,000 documents at 100 a second took {took} s");
    let sent = rig.sent();
    assert!(sent.iter().all(|request| request.ids.len() <= 25), "a request is a quarter of a second's worth");
    let mut by_lane = std::collections::BTreeMap::<_, usize>::new();
    sent.iter().for_each(|request| *by_lane.entry(request.lane.clone()).or_default() += request.ids.len());
    assert_eq!(by_lane.len(), 4, "{by_lane:?}");
    // In no second more than the rate and what one request and a tenth of a second add.
    for from in &sent {
        let within = sent
            .iter()
            .filter(|request| request.at >= from.at && request.at < from.at + Duration::from_secs(1));
        let documents: usize = within.map(|request| request.ids.len()).sum();
        assert!(documents <= 100 + 25 + 10, "{documents} in a second");
    }
}

#[tokio::test(start_paused = true)]
async fn the_rate_of_bytes_is_kept_and_can_be_lifted_under_way() {
    let mut rig = Rig::new(several());
    rig.controls.set_throttle(Throttle { documents_per_s: None, bytes_per_s: Some(1_000) });
    fill(&mut rig, 1_000).await;
    rig.sleep(Duration::from_secs(30)).await;
    let bytes: usize = rig.sent().iter().map(|request| request.bytes).sum();
    assert!((28_000..33_000).contains(&bytes), "{bytes} bytes in 30 s at 1,000 a second");
    assert_eq!(rig.controls.sent().bytes, bytes as u64);
    rig.controls.set_throttle(Throttle::default());
    let began = rig.world.now();
    rig.drain().await.unwrap();
    assert!(rig.world.now() - began < Duration::from_secs(1), "the old rate still held");
    assert_eq!(rig.controls.sent().documents, 1_000);
}

#[tokio::test(start_paused = true)]
async fn lanes_that_leave_send_nothing_more_and_wait_for_what_is_in_flight() {
    let mut rig = Rig::new(settings());
    rig.fault([Fault::Slow(Duration::from_secs(3))]);
    rig.put("a", 10, "text").await;
    rig.sleep(Duration::from_millis(100)).await;
    assert_eq!(rig.sent().len(), 1);
    rig.controls.pause();
    rig.put("b", 10, "text").await;
    let began = rig.world.now();
    assert_eq!(rig.lanes.leave().await.unwrap().unresolved, 0);
    assert!(rig.world.now() - began > Duration::from_secs(2), "it did not wait for the answer");
    // Not even when somebody resumes it in the last moment.
    rig.controls.resume();
    rig.sleep(Duration::from_secs(3_600)).await;
    assert_eq!(rig.sent_ids(), [["a"]]);
    rig.listen();
    assert_eq!(rig.ledger.counts().in_flight(), 1, "b is left for the next process");
}

#[tokio::test(start_paused = true)]
async fn lanes_that_leave_say_what_may_still_be_executed() {
    let mut rig = Rig::new(settings());
    rig.fault([Fault::Lost(Some(Duration::from_secs(5)))]);
    rig.put("a", 10, "text").await;
    rig.sleep(Duration::from_millis(20)).await;
    rig.controls.pause();
    assert_eq!(rig.lanes.leave().await.unwrap().unresolved, 1);
}
