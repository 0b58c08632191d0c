//! The limit shared by the lanes, alone and on drawn time: what it does at each answer, and what rate
//! it finds at targets and links that are played here.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use sources::world::{Moment, RealWorld, within};

use crate::lanes::limit::{Limit, Slot};

const MIB: usize = 1 << 20;
const SECOND: Duration = Duration::from_secs(1);
/// The client's limit for an answer.
const TIMEOUT: Duration = Duration::from_secs(30);

fn limit(lanes: usize) -> Arc<Limit> {
    Arc::new(Limit::new(lanes, 5 * MIB))
}

/// How many lanes get a slot now; they give it back.
fn room(limit: &Arc<Limit>, lanes: usize, now: Moment) -> usize {
    let taken: Vec<Slot> = (0..lanes).filter_map(|lane| limit.take(lane, 1, now).ok()).collect();
    (0..lanes).for_each(|lane| limit.leave(lane));
    taken.len()
}

fn take(limit: &Arc<Limit>, now: Moment) -> Slot {
    limit.take(0, 1, now).unwrap()
}

#[test]
fn each_lane_may_have_one_until_something_is_refused() {
    assert_eq!(room(&limit(7), 7, Moment::ZERO), 7);
}

#[test]
fn the_line_is_served_in_its_order() {
    let limit = limit(1);
    let held = limit.take(0, 1, Moment::ZERO).unwrap();
    let ask = |lane| limit.take(lane, 1, Moment::ZERO);
    assert!(ask(2).is_err() && ask(1).is_err() && ask(2).is_err());
    drop(held);
    assert!(ask(1).is_err(), "2 came first");
    let held = ask(2).unwrap();
    assert!(ask(2).is_err() && ask(1).is_err(), "who had one stands behind");
    drop(held);
    limit.leave(1);
    assert!(ask(2).is_ok(), "1 has gone");
}

#[tokio::test(start_paused = true)]
async fn who_comes_to_the_head_is_told() {
    let limit = limit(2);
    let (first, second) = (limit.take(0, 1, Moment::ZERO), limit.take(1, 1, Moment::ZERO));
    assert!(limit.take(0, 1, Moment::ZERO).is_err());
    drop(first);
    let world = RealWorld::shared();
    assert!(within(&*world, SECOND, limit.turn(0)).await.is_some());
    assert!(within(&*world, SECOND, limit.turn(1)).await.is_none());
    drop(second);
}

#[test]
fn a_refusal_takes_an_eighth_and_a_second_one_leaves_one() {
    let limit = limit(8);
    let now = SECOND;
    take(&limit, now).busy(true, now, u64::MAX);
    assert_eq!(limit.take(0, 1, now).unwrap_err().until, Some(now + SECOND / 10), "a pause for all");
    let now = now + SECOND / 10;
    assert_eq!(room(&limit, 8, now), 7);
    take(&limit, now).busy(true, now, u64::MAX);
    let now = now + SECOND / 5;
    assert_eq!(room(&limit, 8, now), 1);
}

/// Eight requests refused together are one refusal: the others were sent before it was heard.
#[test]
fn what_was_sent_before_is_not_counted_twice() {
    let limit = limit(8);
    let slots: Vec<Slot> = (0..8).map(|lane| limit.take(lane, 1, Moment::ZERO).unwrap()).collect();
    slots.into_iter().for_each(|slot| slot.busy(true, Moment::ZERO, 0));
    assert_eq!(room(&limit, 8, SECOND), 7);
    assert_eq!(limit.bytes(), 5 * MIB / 2);
}

#[test]
fn successes_give_back_what_was_taken_and_then_try_one_more_a_second() {
    let limit = limit(8);
    let mut now = SECOND;
    for _ in 0..5 {
        take(&limit, now).busy(true, now, 0);
        now += SECOND;
    }
    assert_eq!((room(&limit, 8, now), limit.bytes()), (1, 256 << 10));
    now -= SECOND / 10;
    for expected in 2..=7 {
        take(&limit, now).answered(now);
        assert_eq!(room(&limit, 8, now), expected, "up to seven eighths of what was refused");
    }
    take(&limit, now).answered(now);
    assert_eq!(room(&limit, 8, now), 7, "the last refusal was less than a second ago");
    now += SECOND / 10;
    take(&limit, now).answered(now);
    assert_eq!((room(&limit, 8, now), limit.bytes()), (8, 5 * MIB));
}

/// A part of each request is refused, the rest is done: no reason to send one at a time.
#[test]
fn a_part_refused_is_never_a_standstill() {
    let limit = limit(8);
    let mut now = SECOND;
    for expected in [7, 6, 5, 4, 3, 2, 1, 1] {
        take(&limit, now).busy(false, now, u64::MAX);
        assert!(limit.take(0, 1, now).unwrap_err().until <= Some(now + SECOND / 10));
        now += SECOND;
        assert_eq!(room(&limit, 8, now), expected);
    }
}

#[test]
fn what_is_slow_becomes_smaller_at_once_and_larger_slowly() {
    let limit = limit(4);
    let answer = |bytes, took| {
        let mut slot = take(&limit, Moment::ZERO);
        slot.begin(bytes, Moment::ZERO);
        slot.answered(took);
    };
    answer(5 * MIB, SECOND * 10);
    assert_eq!(limit.bytes(), 5 * MIB / 2, "what takes five seconds");
    answer(MIB, SECOND * 4);
    assert_eq!(limit.bytes(), 5 * MIB / 2, "neither slow nor quick");
    answer(1000, SECOND / 100);
    assert_eq!(limit.bytes(), 5 * MIB / 2, "a small one says nothing of large ones");
    answer(5 * MIB / 2, SECOND);
    assert_eq!(limit.bytes(), 5 * MIB / 2 + 5 * MIB / 8);
    let mut slot = take(&limit, Moment::ZERO);
    slot.begin(400_000, Moment::ZERO);
    slot.timed_out();
    assert_eq!(limit.bytes(), 100_000);
    answer(1, SECOND * 29);
    assert_eq!(limit.bytes(), 16 << 10, "never less");
}

#[test]
fn a_large_document_goes_alone_and_in_its_turn() {
    let limit = limit(4);
    let ask = |lane, bytes| limit.take(lane, bytes, Moment::ZERO);
    let (first, second) = (ask(0, 5 * MIB).unwrap(), ask(1, 5 * MIB).unwrap());
    assert!(ask(2, 11 * MIB).is_err(), "more than four times five in all");
    assert!(ask(3, 1).is_err(), "nobody passes it");
    drop(first);
    let large = ask(2, 11 * MIB).unwrap();
    drop(ask(3, 1).unwrap());
    assert!(ask(0, 40 * MIB).is_err() && ask(3, 1).is_err());
    drop((second, large));
    let alone = ask(0, 40 * MIB).unwrap();
    assert!(ask(3, 1).is_err());
    drop(alone);
    assert!(ask(3, 1).is_ok());
}

#[test]
fn t33_a_socket_closed_twice_at_one_size_is_a_limit_and_once_is_not() {
    let limit = limit(4);
    let answer = |bytes| {
        let mut slot = take(&limit, Moment::ZERO);
        slot.begin(bytes, Moment::ZERO);
        slot.answered(Moment::ZERO);
    };
    limit.closed(4 * MIB);
    assert_eq!(limit.bytes(), 2 * MIB);
    (0..9).for_each(|_| answer(2 * MIB));
    assert_eq!(limit.bytes(), 5 * MIB, "it may have been the network");
    answer(5 * MIB);
    limit.closed(4 * MIB);
    (0..9).for_each(|_| answer(2 * MIB));
    assert_eq!(limit.bytes(), 5 * MIB, "one of its size was answered between");
    limit.closed(4 * MIB);
    (0..9).for_each(|_| answer(2 * MIB));
    assert_eq!(limit.bytes(), 2 * MIB);
}

/// A target that takes `most` at once for 40 ms each and refuses what is more. Done and refused.
fn play_target(limit: &Arc<Limit>, lanes: usize, most: usize, until: Moment, from: Moment) -> (u32, u32) {
    let tick = Duration::from_millis(1);
    let (mut done, mut refused, mut now, mut random) = (0, 0, from, 1_u64);
    let mut running: BTreeMap<usize, (Moment, bool, Slot)> = BTreeMap::new();
    while now < until {
        let ended: Vec<usize> =
            running.iter().filter(|(_, (end, ..))| *end <= now).map(|(lane, _)| *lane).collect();
        for lane in ended {
            let (_, is_taken, slot) = running.remove(&lane).unwrap();
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            match is_taken {
                true => slot.answered(now),
                false => slot.busy(true, now, random),
            }
            done += u32::from(is_taken);
            refused += u32::from(!is_taken);
        }
        for lane in 0..lanes {
            let taken = running.values().filter(|(_, is_taken, _)| *is_taken).count();
            if !running.contains_key(&lane)
                && let Ok(slot) = limit.take(lane, 1000, now)
            {
                let is_taken = taken < most;
                running.insert(lane, (now + tick * if is_taken { 40 } else { 2 }, is_taken, slot));
            }
        }
        now += tick;
    }
    (done, refused)
}

/// Whatever a target takes at once, nearly all of that is used, and it refuses little.
#[test]
fn the_best_rate_of_a_busy_target_is_found() {
    for most in 1..=16 {
        let limit = limit(16);
        play_target(&limit, 16, most, SECOND * 5, Moment::ZERO);
        let (done, refused) = play_target(&limit, 16, most, SECOND * 65, SECOND * 5);
        let best = most as u32 * 60 * 25;
        println!("{most} at once: {done} of {best} done, {refused} refused");
        assert!(done * 100 >= best * 85, "{most} at once: {done} of {best}");
        assert!(refused * 20 <= done, "{most} at once: {refused} refused of {done}");
    }
}

/// Thirty seconds of nothing but refusals, in at most two a second; then all of the rate is back in three seconds.
#[test]
fn the_rate_comes_back_after_a_standstill() {
    let limit = limit(4);
    let (before, _) = play_target(&limit, 4, 4, SECOND * 10, Moment::ZERO);
    let (done, refused) = play_target(&limit, 4, 0, SECOND * 40, SECOND * 10);
    assert!(done == 0 && (30..=60).contains(&refused), "asked {refused} times in 30 s");
    play_target(&limit, 4, 4, SECOND * 43, SECOND * 40);
    let (after, refused) = play_target(&limit, 4, 4, SECOND * 53, SECOND * 43);
    println!("{before} in 10 s before, {after} after");
    assert!(after * 100 >= before * 98 && refused == 0, "{before} before, {after} after");
}

/// Full requests over a link that all share, for five minutes. Bytes that were answered, and when the
/// last request timed out.
fn play_link(limit: &Arc<Limit>, lanes: usize, bytes_per_second: usize) -> (f64, Option<Moment>) {
    let (tick, round_trip) = (Duration::from_millis(10), Duration::from_millis(100));
    let (mut now, mut answered, mut timed_out) = (Moment::ZERO, 0.0, None);
    // Bytes still to be sent, all of them, when they were sent, when it began.
    let mut running: BTreeMap<usize, (f64, usize, Option<Moment>, Moment, Slot)> = BTreeMap::new();
    while now < SECOND * 300 {
        let sending = running.values().filter(|(left, ..)| *left > 0.0).count();
        let share = bytes_per_second as f64 * tick.as_secs_f64() / sending.max(1) as f64;
        let mut ended = Vec::new();
        for (lane, (left, _, sent, began, _)) in &mut running {
            *left -= share;
            if *left <= 0.0 && sent.is_none() {
                *sent = Some(now);
            }
            if sent.is_some_and(|sent| now >= sent + round_trip) || now >= *began + TIMEOUT {
                ended.push(*lane);
            }
        }
        for lane in ended {
            let (left, bytes, _, _, slot) = running.remove(&lane).unwrap();
            if left > 0.0 {
                timed_out = Some(now);
                slot.timed_out();
            } else {
                answered += bytes as f64;
                slot.answered(now);
            }
        }
        for lane in 0..lanes {
            let bytes = limit.bytes();
            if !running.contains_key(&lane)
                && let Ok(mut slot) = limit.take(lane, bytes, now)
            {
                slot.begin(bytes, now);
                running.insert(lane, (bytes as f64, bytes, None, now, slot));
            }
        }
        now += tick;
    }
    (answered, timed_out)
}

#[test]
fn a_slow_link_is_used_and_nothing_times_out() {
    for (lanes, rate) in [(1, 2_000_000), (4, 2_000_000), (4, 1_000_000), (8, 2_000_000)] {
        let (bytes, timed_out) = play_link(&limit(lanes), lanes, rate);
        println!("{lanes} lanes at {rate} B/s: {:.1} % used", bytes / (rate * 3) as f64);
        assert_eq!(timed_out, None, "{lanes} lanes at {rate} B/s");
        assert!(bytes >= 0.9 * (rate * 300) as f64, "{lanes} lanes at {rate} B/s: {bytes}");
    }
}

/// What is known of it at first is nothing: the first requests are too large, and no later ones.
#[test]
fn a_very_slow_link_is_learnt_in_a_minute() {
    for (lanes, rate) in [(4, 200_000), (16, 500_000), (4, 50_000)] {
        let (bytes, timed_out) = play_link(&limit(lanes), lanes, rate);
        println!("{lanes} lanes at {rate} B/s: {:.1} % used, {timed_out:?}", bytes / (rate * 3) as f64);
        assert!(timed_out.is_some_and(|at| at < SECOND * 91), "{timed_out:?}");
        assert!(bytes >= 0.6 * (rate * 300) as f64, "{lanes} lanes at {rate} B/s: {bytes}");
    }
}
