//! A pipeline's lease for a command that writes in its place.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use sources::world::{SharedWorld, within};

use crate::lease::{Claim, Lease, LeaseError, Waiting};
use crate::target::{StateDocument, Target};

/// A lease that is not renewed ends after 10 s; one that lasts longer is alive.
pub(super) const LEASE_WITHIN: Duration = Duration::from_secs(15);

/// What came of it.
pub(super) enum Taken {
    /// It is ours; with the state document as it was before, if there was one.
    Ours(Lease, Option<StateDocument>),
    /// The target, or what it holds, does not let it be had.
    Refused(LeaseError),
    /// Somebody holds it all the time; what was waited for.
    Alive(String),
}

/// Takes the lease, so that nobody writes meanwhile. For people: `lease` as in `the lease of shop`, and `at` stands
/// before what the target says.
pub(super) async fn take(
    target: Arc<dyn Target>,
    world: &SharedWorld,
    claim: Claim,
    (lease, at): (&str, &str),
) -> Taken {
    let holder = Mutex::new(None);
    let told = |waiting| {
        let text = match waiting {
            Waiting::ForOwner(owner) => format!("another process ({owner}) holds {lease}"),
            Waiting::ForTarget(error) => format!("{at}{error}"),
        };
        if let Ok(mut holder) = holder.lock() {
            *holder = Some(text);
        }
    };
    match within(&**world, LEASE_WITHIN, Lease::acquire(target, world.clone(), claim, &told)).await {
        Some(Ok((lease, before))) => Taken::Ours(lease, before),
        Some(Err(error)) => Taken::Refused(error),
        None => {
            let waited_for = holder.into_inner().ok().flatten();
            Taken::Alive(waited_for.unwrap_or_else(|| format!("{lease} is held")))
        }
    }
}
