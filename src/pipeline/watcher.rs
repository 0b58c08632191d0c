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
use crate::target::Odd;

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
    let mut known = BTreeMap::new();
    loop {
        world.sleep(EVERY).await;
        if is_left_out(Rule::IndicesAreWatched) {
            continue;
        }
        for (alias, ours) in &uuids {
            // Without an answer nothing is known; the lanes are waiting for the target as well.
            let Ok(found) = target.standing(alias).await else { continue };
            let uuid = found.as_ref().map(|found| found.uuid.as_str());
            let odd = found.as_ref().map_or(&[][..], |found| &found.odd);
            if let Some(halt) = judge(alias, ours, uuid).or_else(|| judge_odd(alias, odd)) {
                let _ = tell.send(halt);
                return;
            }
            // What was so at the start was told then.
            let before = known.insert(alias.clone(), odd.to_vec());
            if let Some(before) = before {
                tell_odd(alias, odd.iter().filter(|odd| !before.contains(odd)));
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

/// What follows from settings that are not as Rowtide needs them: only durability cannot be done without.
pub(crate) fn judge_odd(alias: &str, odd: &[Odd]) -> Option<Halt> {
    let loses = odd.iter().find(|odd| matches!(odd, Odd::NotDurable(_)))?;
    Some(Halt {
        state: "target-not-durable",
        what: format!("the index behind {alias}: {loses}"),
        hint: format!(
            "set it back: PUT {alias}/_settings {{\"index.translog.durability\": \"request\"}}, and mend the template or whoever set it; then start again"
        ),
    })
}

/// Says the rest of them.
pub(super) fn tell_odd<'a>(alias: &str, odd: impl IntoIterator<Item = &'a Odd>) {
    for what in odd {
        tracing::warn!(alias, what = %what, "a setting of the index is not as Rowtide needs it");
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

    #[test]
    fn only_an_index_that_loses_what_it_has_answered_for_halts() {
        let early = Odd::ForgetsEarly("60s".to_owned());
        assert_eq!(judge_odd("products", std::slice::from_ref(&early)), None);
        let halt = judge_odd("products", &[early, Odd::NotDurable("async".to_owned())]);
        assert_eq!(halt.map(|halt| halt.state), Some("target-not-durable"));
    }
}
