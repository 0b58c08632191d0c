//! Giving back to an index what was set otherwise while it was filled, when its table has been read.
//!
//! ```text
//!   start ─► eased? ─► source says that the table is done ─► settings back
//! ```
//! Which indices are eased stands in the indices themselves, so a start after a crash goes on with it, also one
//! long after the fill. The last rows may still be on their way then: they come to an index as it is at any time.

use sources::source::SourceStatus;
use sources::world::SharedWorld;
use tokio::sync::watch;

use super::SharedTarget;
use super::insist::insist;
use crate::retry::Halt;
use crate::shape::Shape;

/// A table whose index is eased.
pub(super) struct Eased {
    table: String,
    alias: String,
    /// It is not in the source any more, so nobody will say that it is done.
    is_gone: bool,
}

/// The tables whose indices are eased.
pub(super) async fn eased(
    world: &SharedWorld,
    target: &SharedTarget,
    shape: &Shape,
) -> Result<Vec<Eased>, Halt> {
    let indices = shape.indices();
    let aliases: Vec<String> = indices.iter().map(ToString::to_string).collect();
    let waits = |why: &str| tracing::debug!(why, "waiting to hear which indices are eased");
    let eased = insist(world, &waits, || target.eased(&aliases)).await?;
    let all = aliases.into_iter().enumerate().filter(|(_, alias)| eased.contains(alias));
    let of = |(number, alias): (usize, String)| {
        let table = shape.table(number).to_owned();
        Eased { table, alias, is_gone: shape.shape_hash(number).is_empty() }
    };
    Ok(all.map(of).collect())
}

/// Gives each of them back what it had, as soon as its table is done.
pub(super) async fn restore_when_filled(
    world: SharedWorld,
    target: SharedTarget,
    mut eased: Vec<Eased>,
    mut source: watch::Receiver<SourceStatus>,
) {
    loop {
        let mut left = Vec::new();
        for index in eased {
            let is_done = index.is_gone || is_done(&source.borrow_and_update(), &index.table);
            match is_done {
                true => restore(&world, &target, &index.alias).await,
                false => left.push(index),
            }
        }
        eased = left;
        if eased.is_empty() || source.changed().await.is_err() {
            return;
        }
    }
}

fn is_done(source: &SourceStatus, table: &str) -> bool {
    source.tables.iter().any(|progress| progress.name == table && progress.done)
}

async fn restore(world: &SharedWorld, target: &SharedTarget, alias: &str) {
    let waits = |why: &str| tracing::debug!(alias, why, "waiting to give an index its settings back");
    match insist(world, &waits, || target.restore(alias)).await {
        Ok(given) => tracing::info!(alias, settings = given.join(", "), "the index is filled"),
        // The next start tries again.
        Err(halt) => tracing::warn!(
            alias,
            error = %halt.what,
            "what was eased while the index was filled could not be given back"
        ),
    }
}
