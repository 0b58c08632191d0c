//! The one retry policy (law 7): what to do about each failure of the target.
//!
//! ```text
//!   the world's fault (away, full)              ─► Again, for ever, slower and slower
//!   too much for it now (429, circuit breakers) ─► Busy: again, as the lanes' shared limit lets it
//!   the set-up's (rights, alias, version)       ─► Halt: a person must act
//!   the document's (mapping, size)              ─► DeadLetter, at once (T32)
//!   the request's size (413, or 429 and sizes)  ─► Split, down to one document (T33)
//! ```
//! [`judge`] is the only place that decides; nothing else asks whether a failure is temporary.

use std::time::Duration;

use sources::mutant::{Rule, is_left_out};

use crate::target::TargetError;

mod room;

use room::never_fits;

/// The first wait after a failure: long enough for a refused burst to pass.
const BACKOFF_FIRST: Duration = Duration::from_millis(100);
/// The longest wait: short enough that a target which is back is noticed soon.
const BACKOFF_MOST: Duration = Duration::from_secs(30);
/// The longest wait while the target is there and refuses: such a request costs it nearly nothing, and
/// the rate is to be back soon after it has room again.
const BUSY_MOST: Duration = Duration::from_secs(1);
/// The wait while an index is blocked: a disk is freed by people, not in milliseconds.
const BLOCKED: Duration = Duration::from_secs(10);

/// What happened.
#[derive(Clone, Copy, Debug)]
pub enum Happened<'a> {
    /// A whole request failed.
    Request(&'a TargetError),
    /// One action of an answered request failed.
    Item {
        /// Its HTTP status.
        status: u16,
        /// The error's type.
        kind: &'a str,
        /// The error's reason; may quote the document.
        reason: &'a str,
        /// The alias it was written through.
        index: &'a str,
        /// Bytes of the action.
        bytes: u64,
    },
}

/// A state in which nothing is written until a person has acted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{state}: {what}; {hint}")]
pub struct Halt {
    /// The state that `status` shows, as in `alias-gone`.
    pub state: &'static str,
    /// What was found.
    pub what: String,
    /// What to do.
    pub hint: String,
}

/// What follows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The same again, after the backoff and at least `after`.
    Again {
        /// The least wait.
        after: Duration,
        /// What is waited for, for `status`; never a document's contents.
        why: String,
    },
    /// The same again, when the limit shared by all lanes allows it: the target is there, and has no
    /// room now.
    Busy {
        /// What is waited for, for `status`; never a document's contents.
        why: String,
    },
    /// The same in two halves; a single document is dead-lettered.
    Split,
    /// A person must act.
    Halt(Halt),
    /// Only this document is at fault.
    DeadLetter {
        /// Why; may quote the document.
        reason: String,
    },
}

fn again(after: Duration, why: impl Into<String>) -> Verdict {
    Verdict::Again { after, why: why.into() }
}

fn halt(state: &'static str, what: String, hint: impl Into<String>) -> Verdict {
    Verdict::Halt(Halt { state, what, hint: hint.into() })
}

/// The one policy.
pub fn judge(happened: Happened<'_>) -> Verdict {
    match happened {
        Happened::Request(error) => match error {
            TargetError::NotExecuted { .. }
            | TargetError::Unresolved { .. }
            | TargetError::TimedOut { .. } => again(Duration::ZERO, error.to_string()),
            TargetError::Busy { reason, .. } if never_fits(reason, 0) => Verdict::Split,
            TargetError::Busy { .. } => Verdict::Busy { why: error.to_string() },
            TargetError::TooLarge { .. } => Verdict::Split,
            TargetError::Conflict { context, reason } => halt(
                "target-conflict",
                format!("{context}: {reason}"),
                "another process may write with this pipeline's name: stop it, or rename one of them",
            ),
            TargetError::Halt { context, reason, hint } => {
                halt("target-refuses", format!("{context}: {reason}"), hint.clone())
            }
        },
        Happened::Item { status, kind, reason, index, bytes } => {
            match judge_item(status, kind, reason, index) {
                Verdict::Busy { .. } if never_fits(reason, bytes) => Verdict::Split,
                verdict => verdict,
            }
        }
    }
}

fn judge_item(status: u16, kind: &str, reason: &str, index: &str) -> Verdict {
    let why = || format!("the target answers {status} {kind} for the index {index}");
    let dead = || Verdict::DeadLetter { reason: format!("{status} {kind}: {reason}") };
    match (status, kind) {
        (429, _) if is_left_out(Rule::BusyIsAskedAgain) => dead(),
        (400, _) if is_left_out(Rule::PoisonIsDeadLettered) => again(Duration::ZERO, why()),
        // A block says 403, 429 or 503 by its cause: flood stage, read-only, no master (any status).
        (_, "cluster_block_exception") => again(BLOCKED, why()),
        // Refused for want of room. OpenSearch spells the first one without its prefix.
        (
            _,
            "es_rejected_execution_exception" | "rejected_execution_exception" | "circuit_breaking_exception",
        )
        | (429, _) => Verdict::Busy { why: why() },
        (
            _,
            "unavailable_shards_exception"
            | "shard_not_found_exception"
            | "no_shard_available_action_exception",
        ) => again(Duration::ZERO, why()),
        // `require_alias` is refused as this kind too.
        (_, "index_not_found_exception") => halt(
            "alias-gone",
            format!("the alias {index} is gone from the target"),
            "restore its index, or remove this pipeline's data directory and state document to fill a new one",
        ),
        (_, "index_closed_exception") => {
            halt("index-closed", format!("the index behind {index} is closed"), "open it and start again")
        }
        (_, "illegal_argument_exception") if reason.contains("no write index is defined") => halt(
            "alias-ambiguous",
            format!("the alias {index} points at several indices and none is its write index"),
            "leave it on the index that Rowtide made",
        ),
        (401 | 403, _) | (_, "security_exception") => halt(
            "target-forbids",
            format!("the target forbids writing to {index}: {status} {kind}"),
            "grant the user `index`, `delete` and `view_index_metadata` on it, or correct the credentials",
        ),
        (408 | 500..=599, _) => again(Duration::ZERO, why()),
        // A missing thing that is no index: shards move, routing tables lag.
        (404, _) => again(Duration::ZERO, why()),
        // mapper_parsing_exception, document_parsing_exception, illegal_argument_exception,
        // strict_dynamic_mapping_exception, … : the same bytes fail for ever.
        (400..=499, _) => dead(),
        (0..=399 | 600.., _) => halt(
            "target-unknown",
            format!(
                "the target answers {status} {kind} for the index {index}, which means nothing to Rowtide"
            ),
            "report it with the target's version",
        ),
    }
}

/// How long to wait before the try after `tries` failed ones (at least 1): doubling from 100 ms to
/// 30 s, of which a random half is taken off, so that lanes do not come back all at once.
pub fn backoff(tries: u32, random: u64) -> Duration {
    let doublings = tries.saturating_sub(1).min(16);
    let full = BACKOFF_FIRST.saturating_mul(1 << doublings).min(BACKOFF_MOST);
    let half = full / 2;
    half + half.mul_f64(random as f64 / u64::MAX as f64)
}

/// How long nothing is sent to a target that has refused `times` requests in a row (at least 1) for
/// want of room: as [`backoff`], to at most 1 s.
pub fn busy_pause(times: u32, random: u64) -> Duration {
    backoff(times, random).min(BUSY_MOST)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    fn item(status: u16, kind: &str, reason: &str) -> String {
        name(&judge(Happened::Item { status, kind, reason, index: "products", bytes: 100 }))
    }

    fn name(verdict: &Verdict) -> String {
        match verdict {
            Verdict::Again { after, .. } if after.is_zero() => "again".into(),
            Verdict::Again { .. } => "again later".into(),
            Verdict::Busy { .. } => "busy".into(),
            Verdict::Split => "split".into(),
            Verdict::Halt(halt) => format!("halt {}", halt.state),
            Verdict::DeadLetter { .. } => "dead".into(),
        }
    }

    #[test]
    fn t32_every_item_has_one_end() {
        let table = [
            (429, "es_rejected_execution_exception", "", "busy"),
            (429, "rejected_execution_exception", "", "busy"),
            (429, "circuit_breaking_exception", "", "busy"),
            (503, "circuit_breaking_exception", "", "busy"),
            (
                429,
                "es_rejected_execution_exception",
                "[primary_operation_bytes=901, max_primary_bytes=1000]",
                "split",
            ),
            (
                429,
                "es_rejected_execution_exception",
                "[primary_operation_bytes=900, max_primary_bytes=1000]",
                "busy",
            ),
            (429, "", "", "busy"),
            (503, "unavailable_shards_exception", "", "again"),
            (503, "process_cluster_event_timeout_exception", "", "again"),
            (500, "timeout_exception", "", "again"),
            (504, "gateway_timeout", "", "again"),
            (404, "shard_not_found_exception", "", "again"),
            (429, "cluster_block_exception", "disk usage exceeded flood-stage watermark", "again later"),
            (403, "cluster_block_exception", "index read-only (api)", "again later"),
            (503, "cluster_block_exception", "state not recovered", "again later"),
            (400, "mapper_parsing_exception", "", "dead"),
            (400, "document_parsing_exception", "", "dead"),
            (400, "strict_dynamic_mapping_exception", "", "dead"),
            (400, "illegal_argument_exception", "Limit of total fields [1000] has been exceeded", "dead"),
            (413, "content_too_long", "", "dead"),
            (
                400,
                "illegal_argument_exception",
                "no write index is defined for alias [products]",
                "halt alias-ambiguous",
            ),
            (400, "index_closed_exception", "", "halt index-closed"),
            (404, "index_not_found_exception", "", "halt alias-gone"),
            (404, "index_not_found_exception", "[require_alias] request flag is [true]", "halt alias-gone"),
            (403, "security_exception", "", "halt target-forbids"),
            (401, "security_exception", "", "halt target-forbids"),
            (403, "forbidden", "", "halt target-forbids"),
            (200, "", "", "halt target-unknown"),
        ];
        for (status, kind, reason, expected) in table {
            assert_eq!(item(status, kind, reason), expected, "{status} {kind} {reason}");
        }
    }

    #[test]
    fn every_failed_request_has_one_end() {
        let context = "send a bulk request";
        let reason = String::new;
        let sizes =
            |bytes| format!("status 429: coordinating_operation_bytes={bytes}, max_coordinating_bytes=8");
        let table = [
            (TargetError::NotExecuted { context, reason: reason() }, "again"),
            (TargetError::Busy { context, reason: reason() }, "busy"),
            (TargetError::Busy { context, reason: sizes(8) }, "busy"),
            (TargetError::Busy { context, reason: sizes(9) }, "split"),
            (TargetError::Unresolved { context, reason: reason() }, "again"),
            (TargetError::TimedOut { context, reason: reason() }, "again"),
            (TargetError::TooLarge { context }, "split"),
            (TargetError::Conflict { context, reason: reason() }, "halt target-conflict"),
            (TargetError::Halt { context, reason: reason(), hint: reason() }, "halt target-refuses"),
        ];
        for (error, expected) in table {
            assert_eq!(name(&judge(Happened::Request(&error))), expected, "{error:?}");
        }
    }

    #[test]
    fn t45_the_halt_names_the_alias() {
        let happened = Happened::Item {
            status: 404,
            kind: "index_not_found_exception",
            reason: "",
            index: "shop",
            bytes: 9,
        };
        let Verdict::Halt(halt) = judge(happened) else { panic!("not a halt") };
        assert_eq!(halt.what, "the alias shop is gone from the target");
    }

    #[test]
    fn a_reason_may_quote_a_document_so_it_is_never_what_is_waited_for() {
        let happened = Happened::Item { status: 503, kind: "x", reason: "secret", index: "shop", bytes: 9 };
        let Verdict::Again { why, .. } = judge(happened) else { panic!("not again") };
        assert!(!why.contains("secret"));
    }

    #[test]
    fn waits_double_up_to_a_bound_and_are_spread() {
        assert_eq!(backoff(1, 0), Duration::from_millis(50));
        assert_eq!(backoff(1, u64::MAX), Duration::from_millis(100));
        assert_eq!(backoff(4, u64::MAX), Duration::from_millis(800));
        assert_eq!(backoff(10, u64::MAX), Duration::from_secs(30));
        assert_eq!(backoff(u32::MAX, u64::MAX), Duration::from_secs(30));
        assert_eq!(backoff(u32::MAX, 0), Duration::from_secs(15));
    }

    #[test]
    fn a_busy_target_is_asked_at_least_once_a_second() {
        assert_eq!(busy_pause(1, 0), Duration::from_millis(50));
        assert_eq!(busy_pause(4, u64::MAX), Duration::from_millis(800));
        assert_eq!(busy_pause(u32::MAX, u64::MAX), Duration::from_secs(1));
    }
}
