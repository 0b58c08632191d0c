//! From a source to a target.

use sources::source::Stop;
use sources::world::SharedWorld;
use tokio::sync::watch;

use crate::config::Config;
use crate::retry::Halt;
use crate::status::Status;

/// Why a pipeline ended before it was told to.
#[derive(Debug, thiserror::Error)]
pub enum PipelineError {
    /// A person must act.
    #[error(transparent)]
    Halt(#[from] Halt),
    /// Something that should not happen.
    #[error("{0}")]
    Failed(String),
}

/// Runs the pipeline until it is told to stop.
#[allow(clippy::unused_async)] // a place to stand for what is still to come
pub async fn run(
    _config: Config,
    _world: SharedWorld,
    _stop: Stop,
    _status: watch::Sender<Status>,
) -> Result<(), PipelineError> {
    Err(PipelineError::Failed("the pipeline is not built yet".to_owned()))
}
