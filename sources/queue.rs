//! The queue between a source and everything right of it, bounded in bytes.
//!
//! ```text
//!   reader: reserve(bytes) ─► Charge ─► Outgoing { items, charge } ─► send ══► Inlet::recv ─► lanes
//!                 ▲                                                                            │
//!                 └──────────── the charge is dropped when the bulk request is answered ◄──────┘
//! ```
//! Nothing is put in without a charge that covers it, and the charge travels with the items: the
//! queue itself never has to wait, and its bytes count until the memory is gone, not until the pop.

use tokio::sync::mpsc;

use crate::budget::{Budget, BudgetError, Charge, Class};
use crate::change::{Change, Item, Op, Table};
use crate::position::Position;

/// Memory that an item costs beside its values: the item itself, the allocator's rounding, the
/// lane's entry and its place in the lane's index.
const ITEM_BYTES: usize = 256;

/// How the memory that an item will need is reckoned, before it is held.
#[derive(Clone, Copy, Debug, Default)]
pub struct Costs {
    /// The most bytes that rendering adds to a row: field names, index name, the action's frame.
    pub render_bytes: usize,
    /// The most times that a byte of a row stands in what is rendered of it. At least 1.
    pub growth: usize,
    /// How many targets a change goes to: each has a rendered copy of its own. At least 1.
    pub copies: usize,
}

impl Costs {
    /// Bytes to charge for a change, from the queue to the answer of its bulk request.
    pub fn of_change(&self, change: &Change) -> usize {
        self.of_op(&change.table, &change.op)
    }

    /// Bytes to charge for what happened to a row of `table`.
    pub fn of_op(&self, table: &Table, op: &Op) -> usize {
        self.of_values(op.row().heap_bytes(), table.key_bytes(op.row()))
    }

    /// Bytes to charge for a row with so many bytes of values, of which so many are its key's.
    pub fn of_values(&self, bytes: usize, key_bytes: usize) -> usize {
        self.copies * (ITEM_BYTES + self.render_bytes + self.growth.max(1) * bytes + key_bytes)
    }

    /// Bytes to charge for a position, until it is durable.
    pub fn of_checkpoint(&self, position: &Position) -> usize {
        ITEM_BYTES + position.as_text().len()
    }

    /// Bytes to charge for any item.
    pub fn of(&self, item: &Item) -> usize {
        match item {
            Item::Change(change) => self.of_change(change),
            Item::Checkpoint(position) => self.of_checkpoint(position),
            Item::Clear { .. } | Item::Sweep { .. } => ITEM_BYTES,
        }
    }
}

/// Items with the charge that covers them.
#[derive(Debug)]
pub struct Batch {
    /// In the stream's order.
    pub items: Vec<Item>,
    /// At least the sum of [`Costs::of`] over the items.
    pub charge: Charge,
}

/// The other side has gone: the pipeline has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the pipeline has ended")]
pub struct Closed;

/// Why an item could not be given room.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QueueError {
    /// The other side has gone.
    #[error(transparent)]
    Closed(#[from] Closed),
    /// It is too large.
    #[error(transparent)]
    Budget(#[from] BudgetError),
}

/// The source's end.
#[derive(Clone, Debug)]
pub struct Outlet {
    budget: Budget,
    costs: Costs,
    queue: mpsc::UnboundedSender<Batch>,
}

/// The pipeline's end.
#[derive(Debug)]
pub struct Inlet {
    queue: mpsc::UnboundedReceiver<Batch>,
}

/// A queue whose items are charged against `budget`.
pub fn queue(budget: Budget, costs: Costs) -> (Outlet, Inlet) {
    // Unbounded in count, since every batch carries a charge that is bounded in bytes.
    let (sender, receiver) = mpsc::unbounded_channel();
    let outlet = Outlet { budget, costs, queue: sender };
    (outlet, Inlet { queue: receiver })
}

impl Outlet {
    /// Waits until `bytes` may be held.
    pub async fn reserve(&self, class: Class, bytes: usize) -> Result<Charge, BudgetError> {
        self.budget.reserve(class, bytes).await
    }

    /// The budget behind it.
    pub fn budget(&self) -> &Budget {
        &self.budget
    }

    /// How costs are reckoned.
    pub fn costs(&self) -> Costs {
        self.costs
    }

    /// Hands a batch over; never waits.
    pub fn send(&self, mut batch: Batch) -> Result<(), Closed> {
        batch.charge.hand_over();
        self.queue.send(batch).map_err(|_| Closed)
    }

    /// Ends when the pipeline has ended.
    pub async fn closed(&self) {
        self.queue.closed().await;
    }
}

impl Inlet {
    /// The next batch; `None` when the source has ended and everything was taken.
    pub async fn recv(&mut self) -> Option<Batch> {
        self.queue.recv().await
    }

    /// The next batch if there is one already.
    pub fn try_recv(&mut self) -> Option<Batch> {
        self.queue.try_recv().ok()
    }
}

/// Collects items against a charge that was prepaid, and hands them over as one batch.
#[derive(Debug)]
pub struct Outgoing {
    outlet: Outlet,
    class: Class,
    items: Vec<Item>,
    charge: Charge,
    used: usize,
}

/// What a batch is prepaid with: large enough that handing over is rare, small beside the budget.
const BATCH_BYTES: usize = 256 << 10;

impl Outgoing {
    /// An empty batch for `class`.
    pub fn new(outlet: Outlet, class: Class) -> Self {
        let charge = outlet.budget.nothing();
        Self { outlet, class, items: Vec::new(), charge, used: 0 }
    }

    /// Whether `item` fits into what is prepaid.
    pub fn has_room_for(&self, item: &Item) -> bool {
        self.used + self.outlet.costs.of(item) <= self.charge.bytes()
    }

    /// Waits until `item` can be pushed. What was collected is handed over first, and what was prepaid
    /// beyond it given back: whoever waits holds nothing that only it could free. Dropping the future
    /// loses nothing.
    pub async fn make_room(&mut self, item: &Item) -> Result<(), QueueError> {
        if self.has_room_for(item) {
            return Ok(());
        }
        self.hand_over()?;
        self.charge = self.outlet.reserve(self.class, self.wanted_for(item)).await?;
        Ok(())
    }

    /// What to reserve (with [`Outlet::reserve`]) and give to [`Outgoing::refill`] before `item`
    /// can be pushed. Who waits for it calls [`Outgoing::hand_over`] first.
    pub fn wanted_for(&self, item: &Item) -> usize {
        let share = BATCH_BYTES.min(self.outlet.budget.full_limit() / 16);
        self.outlet.costs.of(item).max(share)
    }

    /// Sends what is there and goes on with `charge`.
    pub fn refill(&mut self, charge: Charge) -> Result<(), Closed> {
        self.flush()?;
        self.charge = charge;
        Ok(())
    }

    /// Adds an item; [`Outgoing::has_room_for`] was true.
    pub fn push(&mut self, item: Item) {
        self.used += self.outlet.costs.of(&item);
        debug_assert!(self.used <= self.charge.bytes(), "an item was pushed without its charge");
        self.items.push(item);
    }

    /// Hands over what was collected and gives back what was prepaid beyond it: whoever waits for
    /// room holds nothing that only it could free.
    pub fn hand_over(&mut self) -> Result<(), Closed> {
        self.flush()?;
        self.charge = self.outlet.budget.nothing();
        Ok(())
    }

    /// Hands over what was collected, with its charge; what was prepaid beyond stays here.
    pub fn flush(&mut self) -> Result<(), Closed> {
        if self.items.is_empty() {
            return Ok(());
        }
        let charge = self.charge.split(std::mem::take(&mut self.used));
        let items = std::mem::take(&mut self.items);
        self.outlet.send(Batch { items, charge })
    }
}

#[cfg(test)]
mod tests;
