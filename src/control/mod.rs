//! The control channel: HTTP in the running process, for people, their tools and Prometheus.
//!
//! ```text
//!   connection ─► bounds (server) ─► who asks, and from where (access) ─► route ─► wire, metrics
//!                                                                           │        ▲
//!                                                       Controls ◄─ pause … ┘        └─ Status
//! ```
//! Guarantees:
//! - it sees a pipeline's [`Status`] and its [`Controls`], never a source, a target or a document;
//! - whatever is sent to it takes a bounded memory and a bounded time, and a refused request changes nothing;
//! - without a token it answers only who asks this machine by its own name, and no page of another site;
//! - no answer holds a secret, and an error says what was wrong with the request, no more.

mod access;
mod metrics;
mod openapi;
mod routes;
mod server;
#[cfg(test)]
mod tests;
pub mod wire;

use std::sync::Arc;

use sources::world::{Moment, SharedWorld, Task};
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::config::HttpSettings;
use crate::controls::Controls;
use crate::retry::Halt;
use crate::status::Status;

use access::Access;

/// Starts a pipeline again; the error says, in words for people, why it cannot be now.
pub type Restart = Arc<dyn Fn() -> Result<(), String> + Send + Sync>;

/// A pipeline that can be asked.
#[derive(Clone)]
pub struct Entry {
    /// As in `[pipelines.NAME]`.
    pub name: String,
    /// As in `[sources.NAME]`.
    pub source: String,
    /// As in `[targets.NAME]`, in the pipeline's order.
    pub targets: Vec<String>,
    /// What it says of itself.
    pub status: watch::Receiver<Status>,
    /// What can be asked of it.
    pub controls: Controls,
    /// Starts it again; `None` where nobody can.
    pub restart: Option<Restart>,
}

/// Everything that requests are answered from.
pub(crate) struct Channel {
    access: Access,
    entries: Vec<Entry>,
    world: SharedWorld,
    began: Moment,
    max_rss: usize,
}

impl Channel {
    pub(crate) fn new(
        settings: &HttpSettings,
        entries: Vec<Entry>,
        max_rss: usize,
        world: &SharedWorld,
    ) -> Self {
        Self { access: Access::new(settings), entries, world: world.clone(), began: world.now(), max_rss }
    }

    fn entry(&self, name: &str) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.name == name)
    }

    fn process(&self) -> wire::Process {
        wire::Process {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime_seconds: self.world.now().saturating_sub(self.began).as_secs(),
            rss_bytes: crate::memory::resident().unwrap_or(0) as u64,
            max_rss_bytes: self.max_rss as u64,
        }
    }

    fn pipelines(&self) -> wire::Pipelines {
        let pipelines = self.entries.iter().map(wire::Pipeline::of).collect();
        wire::Pipelines { process: self.process(), pipelines }
    }
}

/// Takes the address that the settings name, so that nothing begins when it cannot be had: a person must act then.
pub async fn listen(settings: Option<&HttpSettings>) -> Result<Option<TcpListener>, Halt> {
    let Some(settings) = settings else { return Ok(None) };
    let listener = server::listen(settings.listen).await?;
    tracing::info!(address = %settings.listen, "the control channel listens");
    Ok(Some(listener))
}

/// Answers until the task is dropped; `max_rss` is the process's bound, in bytes.
pub fn start(
    settings: &HttpSettings,
    listener: TcpListener,
    entries: Vec<Entry>,
    max_rss: usize,
    world: &SharedWorld,
) -> Task {
    let channel = Arc::new(Channel::new(settings, entries, max_rss, world));
    world.spawn(Box::pin(server::serve(listener, channel)))
}
