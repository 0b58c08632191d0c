//! What is to be read of each table: the first fill, and what changed without an event.
//!
//! ```text
//!   checkpoint (oid, shape, partitions) ──┐
//!   catalog now ──────────────────────────┴─► nothing · the new partitions · all of it [and a sweep]
//! ```
//! DDL changes rows that no event tells of: a column with a default, a rewritten type, a partition that
//! comes with its rows or goes with them. Such a table is read again by law 2, from a place (`from`) that
//! lies behind the change. So every document that was not written since is of a row that is no more:
//! the sweep at the end deletes those, and no other (law 9).

use std::sync::Arc;

use super::catalog::TableInfo;
use super::failure::FILL_ANEW;
use super::known::Known;
use super::lsn::Lsn;
use super::position::{PgPosition, Renewal, TableState};
use super::progress::{Progress, Range};
use super::work::TableWork;
use crate::OnDrop;
use crate::source::SourceError;

/// What is to do in each table. `now` is where the log ended after the catalog was looked at. A read of before,
/// which saw less, may have gone out at that very place: what is read again begins one behind it. No commit lies
/// there, since records of its changes come before it. `is_new`: the log begins after it was looked at.
pub(super) fn works(
    list: &[Known],
    position: &PgPosition,
    same_epoch: bool,
    now: Lsn,
    is_new: bool,
) -> Result<Vec<Arc<TableWork>>, SourceError> {
    let now = Lsn(now.0 + 1);
    let work = |(number, known): (usize, &Known)| {
        let state = position.tables.get(&known.name.spelled);
        let work = match (&known.info, state) {
            (None, state) => gone(known, number, state, now),
            (Some(info), None) => {
                // The log begins with the slot, or where the table joined: before the catalog was looked at, if
                // nothing was recorded since. What it holds of rows that went, or of earlier columns, goes out
                // before the read, and is swept.
                let renewal = (!is_new).then_some(Renewal { from: now, sweep: true });
                TableWork::new(info.clone(), Progress::whole(), renewal)
            }
            (Some(info), Some(state)) => {
                let (progress, renewal) = again(info, known.on_drop, state, same_epoch, now)?;
                TableWork::new(info.clone(), progress, renewal)
            }
        };
        Ok(Arc::new(work))
    };
    list.iter().enumerate().map(work).collect()
}

/// A table that was read before.
fn again(
    info: &TableInfo,
    on_drop: OnDrop,
    state: &TableState,
    same_epoch: bool,
    now: Lsn,
) -> Result<(Progress, Option<Renewal>), SourceError> {
    let name = &info.table.name;
    let whole = |sweep: bool, why: &str| {
        tracing::info!(table = &**name, why, "the table is read again");
        Ok((Progress::whole(), Some(Renewal { from: now, sweep })))
    };
    if state.oid != info.oid {
        return match on_drop {
            OnDrop::Delete => whole(true, "it was dropped and made again"),
            OnDrop::Keep => whole(false, "it was dropped and made again"),
            OnDrop::Halt => Err(SourceError::Halt {
                state: "table-replaced",
                what: format!("{name} is not the table that was read (oid {}, now {})", state.oid, info.oid),
                hint: format!(
                    "set on_drop on {name} to say what becomes of the old documents, or {FILL_ANEW}"
                ),
            }),
        };
    }
    let Some(shape) = &state.shape else {
        // An earlier program did not keep it.
        return Ok((Progress::of(state.todo.clone()), state.renewal));
    };
    let went = |(oid, file): (&u32, &u32)| info.leaves.get(oid).is_none_or(|leaf| leaf.file != *file);
    if *shape != info.signature {
        return whole(true, "its columns or its row filter have changed");
    }
    if state.leaves.iter().any(went) {
        return whole(true, "a partition was detached, dropped or emptied");
    }
    if state.renewal.is_some_and(|renewal| renewal.sweep) && !same_epoch {
        // The versions of what was read under another base cannot be compared with `from`.
        return whole(true, "the server has another history since it was begun");
    }
    let came = info.leaves.keys().filter(|oid| !state.leaves.contains_key(oid));
    let came: Vec<Range> = came.map(|oid| Range { leaf: Some(*oid), ..Range::default() }).collect();
    if came.is_empty() {
        return Ok((Progress::of(state.todo.clone()), state.renewal));
    }
    tracing::info!(table = &**name, partitions = came.len(), "partitions have come; they are read");
    let sweep = state.renewal.is_some_and(|renewal| renewal.sweep);
    let from = state.renewal.filter(|_| sweep).map_or(now, |renewal| renewal.from);
    let todo = state.todo.iter().cloned().chain(came).collect();
    Ok((Progress::of(todo), Some(Renewal { from, sweep })))
}

/// A table that is not there: nothing is read, and all of its documents go, or stay.
fn gone(known: &Known, number: usize, state: Option<&TableState>, now: Lsn) -> TableWork {
    let oid = state.map_or(0, |state| state.oid);
    let info = TableInfo::bare(known.table(number), oid, known.name.clone());
    let deletes = known.on_drop == OnDrop::Delete && state.is_some();
    if deletes {
        tracing::info!(table = known.name.spelled, "the table was dropped; its documents are deleted");
    }
    let renewal = deletes.then_some(Renewal { from: now, sweep: true });
    let is_kept = known.on_drop == OnDrop::Keep;
    let mut work = TableWork::new(Arc::new(info), Progress::of(Vec::new()), renewal);
    (work.is_gone, work.is_kept) = (true, is_kept);
    work
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::change::Table;
    use crate::postgres::catalog::Leaf;
    use crate::postgres::config::TableName;

    const NOW: Lsn = Lsn(1000);

    fn info(oid: u32, signature: &str, leaves: &[(u32, u32)]) -> TableInfo {
        let table = Table { number: 0, name: "public.t".into(), columns: Box::new([]), key: Box::new([]) };
        let leaf = |&(oid, file): &(u32, u32)| (oid, Leaf { sql: "l".into(), file });
        let bare = TableInfo::bare(Arc::new(table), oid, TableName::parse("public.t").unwrap());
        let leaves = leaves.iter().map(leaf).collect();
        TableInfo { is_partitioned: true, signature: signature.into(), leaves, ..bare }
    }

    fn state(leaves: &[(u32, u32)], renewal: Option<Renewal>) -> TableState {
        let leaves = leaves.iter().copied().collect();
        TableState { oid: 1, todo: Vec::new(), shape: Some("s".into()), leaves, renewal }
    }

    fn judged(info: &TableInfo, state: &TableState, same_epoch: bool) -> (Vec<Range>, Option<Renewal>) {
        let (progress, renewal) = again(info, OnDrop::Halt, state, same_epoch, NOW).unwrap();
        (progress.todo(), renewal)
    }

    #[test]
    fn t10_what_came_is_read_and_what_went_is_swept() {
        let before = state(&[(5, 50), (6, 60)], None);
        let renewal = |from, sweep| Some(Renewal { from, sweep });
        let leaf = |oid| Range { leaf: Some(oid), ..Range::default() };
        let whole = vec![Range::default()];
        assert_eq!(judged(&info(1, "s", &[(5, 50), (6, 60)]), &before, true), (vec![], None));
        let came = judged(&info(1, "s", &[(5, 50), (6, 60), (7, 70)]), &before, true);
        assert_eq!(came, (vec![leaf(7)], renewal(NOW, false)));
        for now in [
            info(1, "s", &[(5, 50)]),
            info(1, "s", &[(5, 50), (6, 61)]),
            info(1, "other", &[(5, 50), (6, 60)]),
        ] {
            assert_eq!(judged(&now, &before, true), (whole.clone(), renewal(NOW, true)));
        }
        // One that is under way goes on from where it began: what it brought has versions from there on.
        let under_way = state(&[(5, 50)], renewal(Lsn(9), true));
        assert_eq!(judged(&info(1, "s", &[(5, 50)]), &under_way, true), (vec![], renewal(Lsn(9), true)));
        assert_eq!(judged(&info(1, "s", &[(5, 50)]), &under_way, false), (whole, renewal(NOW, true)));
        // A checkpoint of an earlier program says nothing of it.
        let earlier = TableState { shape: None, ..state(&[], None) };
        assert_eq!(judged(&info(1, "s", &[(5, 50)]), &earlier, true), (vec![], None));
    }

    /// What the log of an old slot tells was so before anybody looked; a new one begins behind the look.
    #[test]
    fn t09_a_first_start_on_an_old_slot_sweeps_from_behind_the_log_s_end() {
        let name = TableName::parse("public.t").unwrap();
        let known = Known { name, on_drop: OnDrop::Halt, info: Some(Arc::new(info(1, "s", &[]))) };
        let fresh = PgPosition::new("7".into(), 1, "shop".into(), Lsn(5));
        let renewal =
            |is_new| works(std::slice::from_ref(&known), &fresh, true, NOW, is_new).unwrap()[0].renewal();
        assert_eq!(renewal(true), None);
        let behind = Lsn(NOW.0 + 1);
        assert_eq!(renewal(false), Some(Renewal { from: behind, sweep: true }));
        assert_eq!(renewal(false).map(Renewal::behind), Some(NOW));
    }

    #[test]
    fn t09_another_table_of_that_name_is_read_only_when_told() {
        let now = info(2, "s", &[]);
        let judged = |on_drop| again(&now, on_drop, &state(&[], None), true, NOW);
        assert!(judged(OnDrop::Halt).unwrap_err().to_string().contains("table-replaced"));
        assert_eq!(judged(OnDrop::Delete).unwrap().1, Some(Renewal { from: NOW, sweep: true }));
        assert_eq!(judged(OnDrop::Keep).unwrap().1, Some(Renewal { from: NOW, sweep: false }));
    }
}
