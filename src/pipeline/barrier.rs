//! A barrier (law 9): a table was emptied, so each of its documents is deleted with the event's
//! version, through the lanes, before anything newer goes out.
//!
//! Found by listing, which begins with a refresh, never by `_delete_by_query`: that misses what was not
//! refreshed, and races with the lanes (ATTACKS A13).

use std::sync::Arc;
use std::time::Duration;

use sources::budget::{Budget, BudgetError, Charge};
use sources::change::Table;
use sources::mutant::{Rule, is_left_out};
use sources::position::{Offset, Version};
use sources::world::BoxFuture;

use super::branch::Branch;
use super::insist::insist;
use super::intake::Intake;
use super::{PipelineError, SharedTarget};
use crate::retry::Halt;
use crate::shape::Entered;
use crate::target::{IdPage, TargetError};

/// Ids of one page; an id has at most 512 bytes, and as many go around it.
const PAGE: usize = 500;
const PAGE_BYTES: usize = PAGE * 2048;

/// Between two looks at requests that may still be executed; they end with the quarantine.
const UNRESOLVED_LOOK_EVERY: Duration = Duration::from_millis(500);

/// Bytes set aside for a barrier's pages: while the intake is at a barrier, the reader may fill the
/// rest of the budget, and nothing of that is settled before the barrier has passed.
pub(super) struct Barrier(Charge);

impl Barrier {
    pub(super) async fn reserve(budget: &Budget) -> Result<Self, BudgetError> {
        let bytes = PAGE_BYTES.min(budget.full_limit() / 16);
        budget.set_aside(bytes).await.map(Self)
    }

    fn page(&self) -> usize {
        (self.0.bytes() / 2048).clamp(1, PAGE)
    }
}

impl Intake {
    /// TRUNCATE: every document of the table goes.
    pub(super) async fn clear(&mut self, table: &Table, offset: Offset) -> Result<(), PipelineError> {
        if is_left_out(Rule::BarrierDeletes) {
            return Ok(());
        }
        tracing::info!(table = &*table.name, "the table was emptied; its documents are deleted");
        let version = self.version(offset)?;
        self.delete(table, version, None).await.map(drop)
    }

    /// The table was read again: every document that was not written since `below` goes, since no row
    /// stands for it any more.
    pub(super) async fn sweep(
        &mut self,
        table: &Table,
        below: Offset,
        offset: Offset,
    ) -> Result<(), PipelineError> {
        let (below, version) = (self.version(below)?, self.version(offset)?);
        let deleted = self.delete(table, version, Some(below)).await?;
        if deleted > 0 {
            tracing::info!(table = &*table.name, deleted, "documents of rows that are gone were deleted");
        }
        Ok(())
    }

    /// Deletes the table's documents, or those of a version below; how many.
    async fn delete(
        &mut self,
        table: &Table,
        version: Version,
        below: Option<Version>,
    ) -> Result<u64, PipelineError> {
        let number = table.number as usize;
        let Some(alias) = self.shape.indices().get(number).cloned() else {
            return Ok(0);
        };
        // A request that may still be executed unseen could bring a document after the listing.
        while !is_left_out(Rule::BarrierDrainsFirst) && self.drain().await? > 0 {
            self.world.sleep(UNRESOLVED_LOOK_EVERY).await;
        }
        let mut deleted = 0;
        for branch in 0..self.branches.len() {
            deleted += self.delete_at(branch, number, &alias, version, below).await?;
        }
        Ok(deleted)
    }

    /// The same at one target.
    async fn delete_at(
        &mut self,
        branch: usize,
        number: usize,
        alias: &Arc<str>,
        version: Version,
        below: Option<Version>,
    ) -> Result<u64, PipelineError> {
        let Some(Branch { target, letters, .. }) = self.branches.get(branch) else { return Ok(0) };
        let (target, letters, world) = (target.clone(), letters.clone(), self.world.clone());
        let status = self.status.clone();
        let waits = |why: &str| super::waits(&status, why);
        // What never got into the index is gone from the table as well: sent again, it would come back.
        // What was read again has a newer letter, or none.
        if !is_left_out(Rule::BarrierEndsLetters) {
            let upto = below.map_or(version, |below| Version::from_target(below.get().saturating_sub(1)));
            letters.cleared(alias, upto).await.map_err(Halt::from)?;
        }
        let size = self.barrier.page();
        let mut cursor: Option<String> = None;
        let mut deleted = 0;
        loop {
            let after = cursor.clone();
            let page = insist(&world, &waits, || page_of(&target, alias, after.clone(), size)).await?;
            // A letter that is left is of a row that is there: its delete here would end it.
            let has_letter =
                |id: &str| letters.holds(alias, id.as_bytes()) && !is_left_out(Rule::SweepsSpareLetters);
            let is_old = |id: &str, held: u64| below.is_none_or(|it| held < it.get() && !has_letter(id));
            let old = page.ids.iter().filter(|(id, held)| is_old(id, *held));
            let ids: Vec<&String> = old.map(|(id, _)| id).collect();
            if !ids.is_empty() {
                deleted += ids.len() as u64;
                let Some(Branch { ledger, lanes, .. }) = self.branches.get_mut(branch) else { return Ok(0) };
                let segment = ledger.enter(ids.len() as u64);
                // Their bytes are the barrier's own.
                let entered = Entered { segment, charge: 0 };
                let deletes = ids.iter().filter_map(|id| self.shape.delete(number, id, version, entered));
                // Lanes that have halted say why through their events.
                let _ = lanes.submit(deletes.collect(), self.budget.nothing());
                self.drain().await?;
            }
            cursor = page.cursor;
            if cursor.is_none() {
                break;
            }
        }
        Ok(deleted)
    }
}

/// The next page of a listing. A node that was restarted has forgotten the listing: it begins anew,
/// without what was deleted by then, since a listing begins with a refresh.
fn page_of<'a>(
    target: &'a SharedTarget,
    alias: &'a str,
    after: Option<String>,
    size: usize,
) -> BoxFuture<'a, Result<IdPage, TargetError>> {
    Box::pin(async move {
        let goes_on = after.is_some();
        match target.ids(alias, after, size).await {
            Err(TargetError::Conflict { .. }) if goes_on => target.ids(alias, None, size).await,
            page => page,
        }
    })
}
