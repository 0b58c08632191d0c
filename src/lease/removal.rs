//! The end of a pipeline: its state document is deleted by the one who holds its lease.

use std::sync::PoisonError;

use sources::world::within;

use super::{ATTEMPT, Lease, LeaseError, PAUSE, Standing, is_ours, load, unanswered};
use crate::target::TargetError;

/// How often the target is asked before a removal gives up; a person waits.
const TRIES: u32 = 5;

impl Lease {
    /// Deletes the document, and with it the lease. Nothing may be written for this pipeline any more,
    /// and nothing may be under way.
    pub async fn remove(self) -> Result<(), LeaseError> {
        drop(self.renewals.lock().unwrap_or_else(PoisonError::into_inner).take());
        let shared = &self.shared;
        let mut held = shared.held.lock().await;
        let mut last = unanswered("delete state document");
        for _ in 0..TRIES {
            if let Standing::Lost(error) = &*shared.standing.borrow() {
                return Err(error.clone());
            }
            let deleting = shared.target.delete_state(&shared.id, held.revision);
            let deleted = within(&*shared.world, ATTEMPT, deleting).await;
            match deleted.unwrap_or_else(|| Err(unanswered("delete state document"))) {
                Ok(()) => {
                    shared.standing.send_replace(Standing::Released);
                    return Ok(());
                }
                Err(error) if error.is_not_executed() || error.is_unresolved() => last = error,
                // A renewal of ours, whose answer was lost, or somebody else.
                Err(TargetError::Conflict { .. }) => {
                    match load(&*shared.target, &shared.world, &shared.id).await {
                        Ok(None) => return Ok(()),
                        Ok(Some(stored)) if is_ours(&stored, &shared.owner) => *held = stored,
                        Ok(Some(stored)) => return Err(shared.lost(&super::holder(&stored.document))),
                        Err(error) => last = error,
                    }
                }
                Err(error) => return Err(LeaseError::Target(error)),
            }
            shared.world.sleep(PAUSE).await;
        }
        Err(LeaseError::Target(last))
    }
}
