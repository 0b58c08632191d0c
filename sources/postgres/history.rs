//! Which part of its history a server shares with the one that was read (laws 1 and 8).
//!
//! ```text
//!   timeline 1 ────────────────┬───── what the old primary wrote alone
//!                    fork ─────┘
//!   timeline 2                 └───────────────────────────►  the promoted standby
//! ```
//! - A promoted server has a new timeline. Its history file says where it left the old one
//!   (`TIMELINE_HISTORY`); everything before that place is common to both.
//! - It is followed only if that place lies behind everything that went into the index: transactions of
//!   the log, and what reads beside the log saw, which may be newer than the log's reader ([`Emitted`]).
//! - What an earlier process emitted after its last checkpoint is bounded by the end of the log at the
//!   start of this one, on the same timeline. On another timeline nobody knows it, unless that process
//!   ended in order.

use std::sync::{Mutex, PoisonError};

use super::catalog::Server;
use super::lsn::Lsn;
use super::position::PgPosition;
use super::rows;
use super::slot;
use super::wire::Connection;
use crate::source::SourceError;

/// How far what went into the index may reach, over the life of the process.
#[derive(Debug, Default)]
pub(super) struct Emitted(Mutex<Option<Reach>>);

/// Everything that was emitted had committed below `lsn` on that timeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Reach {
    pub timeline: u32,
    pub lsn: Lsn,
}

impl Emitted {
    pub(super) fn get(&self) -> Option<Reach> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The timeline that is read from now on, and what is known to lie in the index.
    pub(super) fn go_on(&self, timeline: u32, lsn: Lsn) {
        let mut reach = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let lsn = reach.map_or(lsn, |reach| reach.lsn.max(lsn));
        *reach = Some(Reach { timeline, lsn });
    }

    /// Something that had committed below `lsn` is about to be emitted.
    pub(super) fn raise(&self, lsn: Lsn) {
        if let Some(reach) = &mut *self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            reach.lsn = reach.lsn.max(lsn);
        }
    }
}

/// Where the log of a timeline ended for the server that is asked: each line of a history file is a
/// parent timeline, the place where it was left, and why, divided by tabs.
fn fork(history: &str, timeline: u32) -> Option<Lsn> {
    history.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        let parent: u32 = words.next()?.parse().ok()?;
        let end = words.next()?.parse().ok()?;
        (parent == timeline).then_some(end)
    })
}

/// What the checkpoint itself says of how far its process had come.
fn reach_of(old: &PgPosition) -> Reach {
    let inside = old.inside.as_ref().map_or(Lsn(0), |inside| Lsn(inside.lsn.0 + 1));
    // Checkpoints of earlier versions do not say what reads had seen.
    Reach { timeline: old.timeline, lsn: old.seen.unwrap_or(old.lsn).max(inside) }
}

/// What must be common, and whether that is known: of this process, else of the last one.
fn needed(old: &PgPosition, clean: bool, emitted: Option<Reach>) -> Option<Reach> {
    emitted.or_else(|| clean.then(|| reach_of(old)))
}

/// A standby is no source. One that answers where the primary did is likely to be promoted.
pub(super) fn standby(resumes: bool) -> SourceError {
    let what = "the server is a standby, whose snapshots do not tell which transactions run";
    match resumes {
        true => SourceError::Wait {
            context: "find the primary",
            reason: format!(
                "{what}: it is waited for until it is promoted, or until the url leads to the primary"
            ),
        },
        false => SourceError::Halt {
            state: "standby",
            what: what.into(),
            hint: "name the primary in the source's url".into(),
        },
    }
}

/// Another cluster, or another database of it.
pub(super) fn elsewhere(old: &PgPosition, now: &PgPosition) -> Option<String> {
    (old.system != now.system || old.database != now.database).then(|| {
        format!(
            "the checkpoint belongs to database {} of cluster {}, this is {} of {}",
            old.database, old.system, now.database, now.system
        )
    })
}

/// Asks a server on another timeline whether it has everything. `Some` says what shows that it has not.
/// A checkpoint that lies beyond the common history, behind everything that was emitted, is put back to
/// its end: a server says where its log ends without any change in it.
pub(super) async fn differs(
    log: &mut Connection,
    server: &Server,
    old: &mut PgPosition,
    clean: bool,
    emitted: Option<Reach>,
) -> Result<Option<String>, SourceError> {
    let timelines = [Some(old.timeline), emitted.map(|reach| reach.timeline)];
    if timelines.iter().flatten().all(|timeline| *timeline == server.timeline) {
        return Ok(None);
    }
    let history = match server.timeline {
        // The first timeline comes from nowhere, and has no file.
        1 => String::new(),
        timeline => ask(log, timeline).await?,
    };
    let judged = judge(&history, server.timeline, old, needed(old, clean, emitted));
    if judged.is_none() {
        let (from, to, reach) = (old.timeline, server.timeline, emitted);
        tracing::info!(
            from,
            to,
            emitted = reach.map(|reach| reach.lsn.to_string()),
            "another server, or a promoted one: it has everything that was emitted"
        );
    }
    Ok(judged)
}

fn judge(history: &str, now: u32, old: &mut PgPosition, needed: Option<Reach>) -> Option<String> {
    let end_of = |timeline: u32| match timeline == now {
        true => Some(Lsn(u64::MAX)),
        false => fork(history, timeline),
    };
    let Some(needed) = needed else {
        return Some(format!(
            "the server went from timeline {} to {now} and the last process did not end in order, so nobody \
             knows what it had written",
            old.timeline
        ));
    };
    let (Some(end), Some(end_of_checkpoint)) = (end_of(needed.timeline), end_of(old.timeline)) else {
        return Some(format!("timeline {now} of the server does not come from timeline {}", needed.timeline));
    };
    if end < needed.lsn {
        return Some(format!(
            "the server left timeline {} at {end}, and what lies up to {} on it was written to the index: \
             transactions were lost in the failover",
            needed.timeline, needed.lsn
        ));
    }
    old.lsn = old.lsn.min(end).min(end_of_checkpoint);
    None
}

async fn ask(log: &mut Connection, timeline: u32) -> Result<String, SourceError> {
    let answer = log.simple(&format!("TIMELINE_HISTORY {timeline}")).await;
    let rows = answer.map_err(|error| error.into_source("ask for the history of the timeline"))?;
    // A file's name, and what it holds.
    let content = rows.into_iter().next().and_then(|row| row.into_iter().nth(1)).flatten();
    content.ok_or_else(|| rows::unexpected("no history of the timeline"))
}

/// How far what an earlier process has emitted may reach, when this one starts.
pub(super) async fn reach(
    sql: &mut Connection,
    old: Option<&PgPosition>,
    clean: bool,
) -> Result<Lsn, SourceError> {
    match old {
        None => Ok(Lsn(0)),
        Some(old) if clean => Ok(reach_of(old).lsn),
        Some(_) => slot::insert_lsn(sql).await.map_err(|error| error.into_source("ask where the log ends")),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const HISTORY: &str = "1\t0/3000000\tno recovery target specified\n\n2\t0/5000000\tbefore 2026\n";

    fn checkpoint(timeline: u32, lsn: u64) -> PgPosition {
        PgPosition::new("7".into(), timeline, "shop".into(), Lsn(lsn))
    }

    fn judged(timeline: u32, lsn: u64, needed: Option<(u32, u64)>) -> Result<u64, String> {
        let mut old = checkpoint(timeline, lsn);
        let needed = needed.map(|(timeline, lsn)| Reach { timeline, lsn: Lsn(lsn) });
        match judge(HISTORY, 3, &mut old, needed) {
            None => Ok(old.lsn.0),
            Some(reason) => Err(reason),
        }
    }

    #[test]
    fn a_history_says_where_each_timeline_was_left() {
        assert_eq!(fork(HISTORY, 1), Some(Lsn(0x300_0000)));
        assert_eq!(fork(HISTORY, 2), Some(Lsn(0x500_0000)));
        assert_eq!(fork(HISTORY, 3), None);
        assert_eq!(fork("", 1), None);
    }

    #[test]
    fn t04_a_server_is_followed_only_if_it_has_everything_that_was_emitted() {
        assert_eq!(judged(1, 0x200_0000, Some((1, 0x300_0000))), Ok(0x200_0000));
        assert!(judged(1, 0x200_0000, Some((1, 0x300_0001))).unwrap_err().contains("were lost"));
        assert!(judged(1, 0x200_0000, None).unwrap_err().contains("did not end in order"));
        assert!(judged(4, 0x200_0000, Some((4, 1))).unwrap_err().contains("does not come from"));
        // The checkpoint is older than the last failover of this process.
        assert_eq!(judged(1, 0x200_0000, Some((2, 0x400_0000))), Ok(0x200_0000));
        assert!(judged(1, 0x200_0000, Some((2, 0x500_0001))).is_err());
        assert_eq!(judged(1, 0x200_0000, Some((3, 0x900_0000))), Ok(0x200_0000));
    }

    #[test]
    fn a_place_without_changes_beyond_the_fork_is_put_back_to_it() {
        assert_eq!(judged(1, 0x300_0040, Some((1, 0x2FF_0000))), Ok(0x300_0000));
    }

    #[test]
    fn what_was_emitted_only_grows_and_survives_a_failover() {
        let emitted = Emitted::default();
        emitted.raise(Lsn(9));
        assert_eq!(emitted.get(), None, "nothing is known before a start");
        emitted.go_on(1, Lsn(5));
        emitted.raise(Lsn(20));
        emitted.raise(Lsn(10));
        emitted.go_on(2, Lsn(0));
        assert_eq!(emitted.get(), Some(Reach { timeline: 2, lsn: Lsn(20) }));
    }

    #[test]
    fn only_a_process_that_ended_in_order_says_how_far_it_came() {
        let old = PgPosition { seen: Some(Lsn(70)), ..checkpoint(1, 50) };
        assert_eq!(needed(&old, false, None), None);
        assert_eq!(needed(&old, true, None).unwrap().lsn, Lsn(70));
        assert_eq!(needed(&checkpoint(1, 50), true, None).unwrap().lsn, Lsn(50));
        let known = Reach { timeline: 1, lsn: Lsn(60) };
        assert_eq!(needed(&old, true, Some(known)), Some(known));
    }
}
