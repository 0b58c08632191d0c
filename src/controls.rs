//! What a person asks of a running pipeline: to pause, to go on, to go slower.
//!
//! ```text
//!   HTTP, command line ─► Controls ◄── asked before each request ── lanes of every target
//! ```
//! - Paused, no request begins; those that are in flight are answered. Everything else goes on: the lease, the
//!   log's acknowledgements, reading until the byte budget is spent.
//! - Throttled, requests together keep under the rates. Each is paid for when it begins, and what it costs beyond
//!   what is there is waited for by the next one: so a document larger than a second's worth still goes.
//! - Nothing of it outlives the process.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sources::world::Moment;

/// What may go at once after a rest, in seconds of the rate: as long as a request usually takes.
const SAVED_SECONDS: f64 = 0.1;
/// A request takes no more than this many seconds' worth while there is a rate: the flow is to be even.
const REQUEST_SECONDS: f64 = 0.25;

/// The most that is sent a second, by all lanes of a pipeline together; a document counts once for each target.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Throttle {
    /// Documents and deletes a second; `None`: as many as the targets take. Never 0.
    pub documents_per_s: Option<u64>,
    /// Bytes of request bodies a second, before they are compressed; `None`: no limit. Never 0.
    pub bytes_per_s: Option<u64>,
}

/// Handle of what is asked of one pipeline. Cloning shares it.
#[derive(Clone, Debug, Default)]
pub struct Controls(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    paused: bool,
    throttle: Throttle,
    documents: Bucket,
    bytes: Bucket,
    sent: Sent,
}

/// What was sent in this process, requests that were sent again included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sent {
    /// Documents and deletes.
    pub documents: u64,
    /// Bytes of request bodies, before they are compressed.
    pub bytes: u64,
}

/// Why a request may not begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Held {
    /// Until somebody resumes.
    Paused,
    /// Until then, at the present rates.
    Throttled(Moment),
}

impl Controls {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// No request begins from here on; whether that is news.
    pub fn pause(&self) -> bool {
        !std::mem::replace(&mut self.state().paused, true)
    }

    /// Requests begin again; whether that is news.
    pub fn resume(&self) -> bool {
        std::mem::replace(&mut self.state().paused, false)
    }

    /// Whether no request may begin.
    pub fn is_paused(&self) -> bool {
        self.state().paused
    }

    /// Sets the rates from here on; what was owed or saved at the rates before is forgotten.
    pub fn set_throttle(&self, throttle: Throttle) {
        let mut state = self.state();
        if state.throttle != throttle {
            state.throttle = throttle;
            (state.documents, state.bytes) = (Bucket::default(), Bucket::default());
        }
    }

    /// The rates.
    pub fn throttle(&self) -> Throttle {
        self.state().throttle
    }

    /// What was sent.
    pub fn sent(&self) -> Sent {
        self.state().sent
    }

    /// The most documents and bytes that a request is to have, below what the target takes.
    pub(crate) fn request_most(&self, documents: usize, bytes: usize) -> (usize, usize) {
        let most = |rate: Option<u64>, most: usize| match rate {
            Some(rate) => most.min((rate as f64 * REQUEST_SECONDS) as usize).max(1),
            None => most,
        };
        let Throttle { documents_per_s, bytes_per_s } = self.throttle();
        (most(documents_per_s, documents), most(bytes_per_s, bytes))
    }

    /// Whether a request may begin now.
    pub(crate) fn may_send(&self, now: Moment) -> Result<(), Held> {
        self.state().may_send(now)
    }

    /// Begins a request of about so many documents and bytes, or says why not: of several that ask at once, one
    /// begins.
    pub(crate) fn begin(&self, documents: usize, bytes: usize, now: Moment) -> Result<(), Held> {
        let mut state = self.state();
        state.may_send(now)?;
        state.documents.take(documents);
        state.bytes.take(bytes);
        Ok(())
    }

    /// A request of so many documents and bytes goes out, for which `paid` was paid when it began.
    pub(crate) fn goes(&self, documents: usize, bytes: usize, paid: (usize, usize)) {
        let mut state = self.state();
        state.sent.documents += documents as u64;
        state.sent.bytes += bytes as u64;
        state.documents.correct(paid.0, documents);
        state.bytes.correct(paid.1, bytes);
    }
}

impl State {
    fn may_send(&mut self, now: Moment) -> Result<(), Held> {
        if self.paused {
            return Err(Held::Paused);
        }
        let documents = self.documents.free_at(self.throttle.documents_per_s, now);
        let free_at = documents.max(self.bytes.free_at(self.throttle.bytes_per_s, now));
        if free_at > now { Err(Held::Throttled(free_at)) } else { Ok(()) }
    }
}

/// A token bucket that may be overdrawn by one request.
#[derive(Clone, Copy, Debug, Default)]
struct Bucket {
    tokens: f64,
    at: Moment,
}

impl Bucket {
    /// Fills up to now; when nothing is owed any more.
    fn free_at(&mut self, rate: Option<u64>, now: Moment) -> Moment {
        let Some(rate) = rate else {
            *self = Self { tokens: 0.0, at: now };
            return now;
        };
        // Never 0 by its contract; and a division by it would panic below.
        let rate = rate.max(1) as f64;
        let came = now.saturating_sub(self.at).as_secs_f64() * rate;
        self.tokens = (self.tokens + came).min(rate * SAVED_SECONDS);
        self.at = now;
        if self.tokens >= 0.0 {
            return now;
        }
        // Rounded up, so that nothing is owed by then; the limit only keeps the sum in its range.
        let wait = (-self.tokens / rate).min(1e9);
        now + Duration::from_secs_f64(wait) + Duration::from_nanos(100)
    }

    fn take(&mut self, count: usize) {
        self.tokens -= count as f64;
    }

    fn correct(&mut self, paid: usize, costs: usize) {
        self.tokens += paid as f64 - costs as f64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn throttled(documents: Option<u64>, bytes: Option<u64>) -> Controls {
        let controls = Controls::default();
        controls.set_throttle(Throttle { documents_per_s: documents, bytes_per_s: bytes });
        controls
    }

    /// Requests of this size that begin within `time`, each as early as it may.
    fn requests_within(controls: &Controls, size: (usize, usize), from: Moment, time: Duration) -> u64 {
        let (mut now, mut begun) = (from, 0);
        while now < from + time {
            match controls.begin(size.0, size.1, now) {
                Ok(()) => begun += 1,
                Err(Held::Throttled(until)) => {
                    assert!(until > now, "it is waited for nothing");
                    now = until;
                }
                Err(Held::Paused) => panic!("it is not paused"),
            }
        }
        begun
    }

    #[test]
    fn the_rate_of_documents_is_kept_over_time() {
        let controls = throttled(Some(100), None);
        let begun = requests_within(&controls, (10, 1_000_000), SECOND, 60 * SECOND);
        assert!((600..=602).contains(&begun), "{begun} requests of 10 in 60 s at 100/s");
    }

    #[test]
    fn the_rate_of_bytes_is_kept_and_the_stricter_of_two_counts() {
        let controls = throttled(Some(1_000_000), Some(1 << 20));
        let begun = requests_within(&controls, (10, 64 << 10), SECOND, 60 * SECOND);
        assert!((16 * 60..=16 * 60 + 4).contains(&begun), "{begun} requests of 64 KiB in 60 s at 1 MiB/s");
    }

    #[test]
    fn a_request_larger_than_the_rate_goes_and_is_paid_for_afterwards() {
        let controls = throttled(None, Some(1_000));
        assert_eq!(controls.begin(1, 60_000, SECOND), Ok(()));
        let Err(Held::Throttled(until)) = controls.may_send(2 * SECOND) else { panic!("it is paid for") };
        assert!(until > 60 * SECOND && until < 62 * SECOND, "{until:?}");
        assert_eq!(controls.may_send(until), Ok(()));
    }

    #[test]
    fn a_rest_saves_a_tenth_of_a_second_and_no_more() {
        let controls = throttled(Some(1_000), None);
        assert_eq!(controls.begin(1, 1, SECOND), Ok(()));
        let begun = requests_within(&controls, (1, 1), 3_600 * SECOND, SECOND);
        assert!((1_100..=1_102).contains(&begun), "{begun}");
    }

    #[test]
    fn a_new_rate_counts_at_once_and_what_was_owed_is_forgotten() {
        let controls = throttled(Some(1), None);
        assert_eq!(controls.begin(3_600, 1, SECOND), Ok(()));
        assert!(matches!(controls.may_send(2 * SECOND), Err(Held::Throttled(_))));
        // The same rates again change nothing.
        controls.set_throttle(controls.throttle());
        assert!(matches!(controls.may_send(2 * SECOND), Err(Held::Throttled(_))));
        controls.set_throttle(Throttle::default());
        assert_eq!(requests_within(&controls, (1, 1), 2 * SECOND, Duration::ZERO), 0);
        assert_eq!(controls.begin(1_000_000, 1 << 30, 2 * SECOND), Ok(()));
        assert_eq!(controls.begin(1_000_000, 1 << 30, 2 * SECOND), Ok(()));
    }

    #[test]
    fn paused_nothing_begins_until_it_is_resumed() {
        let controls = Controls::default();
        assert!(controls.pause() && !controls.pause() && controls.is_paused());
        assert_eq!(controls.begin(1, 1, 3_600 * SECOND), Err(Held::Paused));
        assert!(controls.resume() && !controls.resume() && !controls.is_paused());
        assert_eq!(controls.begin(1, 1, 3_600 * SECOND), Ok(()));
    }

    #[test]
    fn requests_are_cut_small_while_there_is_a_rate() {
        assert_eq!(throttled(None, None).request_most(5_000, 5 << 20), (5_000, 5 << 20));
        assert_eq!(throttled(Some(400), Some(4_000)).request_most(5_000, 5 << 20), (100, 1_000));
        assert_eq!(throttled(Some(1), Some(1)).request_most(5_000, 5 << 20), (1, 1));
        assert_eq!(throttled(Some(u64::MAX), Some(u64::MAX)).request_most(7, 8), (7, 8));
    }
}
