//! The one seam to time, randomness and tasks.
//!
//! ```text
//!   queue  merge  lanes  ledger  retry  store  target  ──►  World  ──►  tokio (production)
//!                                                             └──────►  a simulation's own clock and scheduler
//! ```
//! Nothing in the heart asks the system for the time, a random number or a task; clippy's
//! `disallowed-methods` keeps it so. Whoever owns the `World` owns the order of every step.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;

/// A future that can be moved between threads; what object-safe asynchronous methods return.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Time since the world began. Monotonic: it never goes back and does not follow the wall clock.
pub type Moment = Duration;

/// Time, randomness and tasks.
pub trait World: Send + Sync + 'static {
    /// The monotonic time since the world began.
    fn now(&self) -> Moment;
    /// Seconds since 1970, for people to read; never compared with anything.
    fn unix_seconds(&self) -> u64;
    /// Ends after `time`.
    fn sleep(&self, time: Duration) -> BoxFuture<'static, ()>;
    /// Runs `work` beside the caller. It is ended when the returned task is dropped.
    fn spawn(&self, work: BoxFuture<'static, ()>) -> Task;
    /// A random number; unpredictable in production, from the seed in a simulation.
    fn random(&self) -> u64;
}

/// How the world is passed around.
pub type SharedWorld = Arc<dyn World>;

/// A running task; dropping it ends the work at its next await.
#[must_use = "dropping a task ends it"]
pub struct Task {
    done: oneshot::Receiver<()>,
    abort: Option<Box<dyn FnOnce() + Send + Sync>>,
}

impl Task {
    /// A task whose end is told by `done` and which `abort` ends.
    pub fn new(done: oneshot::Receiver<()>, abort: Box<dyn FnOnce() + Send + Sync>) -> Self {
        Self { done, abort: Some(abort) }
    }

    /// Waits until the work has ended, by itself or by a panic.
    pub async fn join(mut self) {
        let _ended_either_way = (&mut self.done).await;
        self.abort = None;
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        if let Some(abort) = self.abort.take() {
            abort();
        }
    }
}

/// Runs `work` for at most `limit`; `None` when the time was up first (the work is dropped).
pub async fn within<T>(world: &dyn World, limit: Duration, work: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        biased;
        done = work => Some(done),
        () = world.sleep(limit) => None,
    }
}

/// Production: tokio's clock and scheduler, the system's randomness.
pub struct RealWorld {
    began: tokio::time::Instant,
}

impl RealWorld {
    /// The world of this process; time begins now.
    #[allow(clippy::disallowed_methods)] // the seam itself
    pub fn shared() -> SharedWorld {
        Arc::new(Self { began: tokio::time::Instant::now() })
    }
}

#[allow(clippy::disallowed_methods)] // the seam itself
impl World for RealWorld {
    fn now(&self) -> Moment {
        self.began.elapsed()
    }

    fn unix_seconds(&self) -> u64 {
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_secs())
    }

    fn sleep(&self, time: Duration) -> BoxFuture<'static, ()> {
        Box::pin(tokio::time::sleep(time))
    }

    fn spawn(&self, work: BoxFuture<'static, ()>) -> Task {
        let (ended, done) = oneshot::channel();
        let handle = tokio::spawn(async move {
            work.await;
            drop(ended);
        });
        Task::new(done, Box::new(move || handle.abort()))
    }

    fn random(&self) -> u64 {
        // The only failure is a kernel without any random device; the hash of the clock still
        // tells two processes apart, which is all that randomness is for here.
        getrandom::u64().unwrap_or_else(|_| self.now().as_nanos() as u64 ^ u64::from(std::process::id()))
    }
}
