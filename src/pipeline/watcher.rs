//! Whether the indices are still ours, looked at every 10 s (law 8, T45), and the lease.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use sources::mutant::{Rule, is_left_out};
use sources::world::SharedWorld;
use tokio::sync::mpsc;

use super::{FILL_ANEW, SharedTarget};
use crate::lease::{Lease, Standing};
use crate::retry::Halt;

/// An index that a person replaces is noticed within this time; `require_alias` keeps writes from
/// making a new one meanwhile.
const EVERY: Duration = Duration::from_secs(10);

/// Looks until an index is another than `uuids` (by alias) says.
pub(super) async fn watch_indices(
    world: SharedWorld,
    target: SharedTarget,
    uuids: BTreeMap<String, String>,
    tell: mpsc::UnboundedSender<Halt>,
) {
    loop {
        world.sleep(EVERY).await;
        if is_left_out(Rule::IndicesAreWatched) {
            continue;
        }
        for (alias, ours) in &uuids {
            // Without an answer nothing is known; the lanes are waiting for the target as well.
            let Ok(uuid) = target.uuid(alias).await else { continue };
            if let Some(halt) = judge(alias, ours, uuid.as_deref()) {
                let _ = tell.send(halt);
                return;
            }
        }
    }
}

/// What follows from the UUID that was found under an alias.
pub(super) fn judge(alias: &str, ours: &str, found: Option<&str>) -> Option<Halt> {
    match found {
        Some(found) if found == ours => None,
        Some(found) => Some(Halt {
            state: "index-replaced",
            what: format!(
                "the index behind {alias} is not the one that Rowtide made (uuid {found}, was {ours}): it was deleted or restored"
            ),
            hint: FILL_ANEW.to_owned(),
        }),
        None => Some(Halt {
            state: "alias-gone",
            what: format!("the alias {alias} is gone, and the index behind it"),
            hint: FILL_ANEW.to_owned(),
        }),
    }
}

/// Waits for the loss of the lease.
pub(super) async fn watch_lease(lease: Arc<Lease>, tell: mpsc::UnboundedSender<Halt>) {
    let mut standing = lease.standing();
    loop {
        if let Standing::Lost(error) = &*standing.borrow_and_update() {
            let _ = tell.send(error.clone().into());
            return;
        }
        if standing.changed().await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn t45_another_index_under_the_alias_halts() {
        assert_eq!(judge("products", "a", Some("a")), None);
        assert_eq!(judge("products", "a", Some("b")).map(|halt| halt.state), Some("index-replaced"));
        assert_eq!(judge("products", "a", None).map(|halt| halt.state), Some("alias-gone"));
    }
}
