//! Asking the target again until it answers, by the one policy.

use std::time::Duration;

use sources::world::{BoxFuture, SharedWorld};

use crate::retry::{Halt, Happened, Verdict, backoff, judge};
use crate::target::TargetError;

/// Asks until there is an answer or a person must act. `waits` is told why it waits.
pub(crate) async fn insist<'a, T>(
    world: &SharedWorld,
    waits: &(dyn Fn(&str) + Sync),
    mut ask: impl FnMut() -> BoxFuture<'a, Result<T, TargetError>>,
) -> Result<T, Halt> {
    let mut tries = 0;
    loop {
        let error = match ask().await {
            Ok(answer) => return Ok(answer),
            Err(error) => error,
        };
        tries += 1;
        let after = match judge(Happened::Request(&error)) {
            Verdict::Again { after, why } => {
                waits(&why);
                after
            }
            Verdict::Busy { why } => {
                waits(&why);
                Duration::ZERO
            }
            Verdict::Halt(halt) => return Err(halt),
            // Neither is about a question that carries no documents.
            Verdict::Split | Verdict::DeadLetter { .. } => {
                return Err(Halt {
                    state: "target-unknown",
                    what: error.to_string(),
                    hint: "look at what lies between Rowtide and the target".to_owned(),
                });
            }
        };
        let pause: Duration = backoff(tries, world.random()).max(after);
        world.sleep(pause).await;
    }
}
