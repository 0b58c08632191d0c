//! Rows become documents: one table, one index.
//!
//! ```text
//!   configuration + tables ─► compile (all faults at once) ─► one plan a table
//!   change ─► plan of its table's revision ─► action: line and document, one allocation
//! ```
//! Guarantees:
//! - a document is its row's JSON slices, copied between names that were escaped once; what is done to a
//!   value beyond that works on its bytes too, and allocates nothing for a row;
//! - a value that a step cannot work on makes its row a dead letter that names field and reason;
//! - an unknown column is absent from the document, never null;
//! - ids are injective over a table: one key column is its own text, several are the JSON array of
//!   their values, so no two keys share an id (T34);
//! - a row that the filter takes out is a delete of its id, whether it had a document or not: no image of what
//!   it was is needed for that;
//! - a delete needs the key's columns only, so an id is made of nothing else.

use std::collections::BTreeSet;
use std::sync::Arc;

use sources::change::{Change, Column, Op, Table};
use sources::mutant::{Rule, is_left_out};
use sources::position::Version;

use crate::config::{RowFilter, Steps, TableShape};
use crate::lanes::{Action, Dead, Kind};
use crate::ledger::SegmentId;
use crate::retry::Halt;
use crate::target::IndexSetup;

mod fields;
mod filter;
#[cfg(test)]
mod filter_tests;
mod fitting;
mod json;
mod number;
mod patterns;
mod plan;
#[cfg(test)]
mod steps_tests;
#[cfg(test)]
mod tests;
mod value;

use fields::Bad;
pub use patterns::{alias_of, resolve};
use plan::{ID_BYTES_MAX, Missing, Plan};
use value::Scratch;

/// Why rows of a table cannot become documents.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{table}: {what}; {fix}")]
pub struct ShapeError {
    /// `schema.table`.
    pub table: String,
    /// What is wrong.
    pub what: String,
    /// What would be right.
    pub fix: String,
}

/// With what a change entered the pipeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entered {
    /// The ledger's segment.
    pub segment: SegmentId,
    /// Bytes of the batch's charge that cover it.
    pub charge: usize,
}

/// The shape of a pipeline.
#[derive(Debug)]
pub struct Shape {
    /// By the table's number.
    tables: Vec<TableShape>,
    /// Each table's newest revision that was seen; its number is the index's number too.
    plans: Vec<Plan>,
    /// Where actions are put together.
    scratch: Vec<u8>,
    /// Where values are changed.
    values: Scratch,
}

/// What of an action's charge is for the lane's entry and its place in the index.
const ENTRY_BYTES: usize = 200;

/// A scratch buffer larger than this is given back or becomes the action itself: one maximal document
/// must neither pin it nor be held twice.
const SCRATCH_KEPT: usize = 1 << 20;

impl Shape {
    /// Fits the configured shapes to the tables as they are, in the same order; every fault of
    /// every table at once.
    pub fn compile(shapes: &[TableShape], tables: &[Arc<Table>]) -> Result<Self, Vec<ShapeError>> {
        Self::fit(shapes, tables, Missing::IsAFault)
    }

    /// The same for tables that have changed while they were followed: a configured column that is gone
    /// is absent from documents, as it is in the log (T09).
    pub fn compile_again(shapes: &[TableShape], tables: &[Arc<Table>]) -> Result<Self, Vec<ShapeError>> {
        Self::fit(shapes, tables, Missing::IsUnknown)
    }

    fn fit(shapes: &[TableShape], tables: &[Arc<Table>], missing: Missing) -> Result<Self, Vec<ShapeError>> {
        let mut plans = Vec::new();
        let mut errors = Vec::new();
        let mut indices = BTreeSet::new();
        for (number, shape) in shapes.iter().enumerate() {
            let fault = |what: String, fix: &str| ShapeError {
                table: shape.table.clone(),
                what,
                fix: fix.to_owned(),
            };
            if !indices.insert(&shape.index) {
                errors.push(index_is_taken(shape));
            }
            let Some(table) = tables.iter().find(|table| table.number as usize == number) else {
                errors.push(fault("the source has no such table".into(), "correct its name, or remove it"));
                continue;
            };
            // Of a table that is gone, only the index is known.
            let gone = TableShape {
                id: None,
                steps: Steps::default(),
                filter: RowFilter::default(),
                ..shape.clone()
            };
            let (shape, missing) = match table.columns.is_empty() {
                true => (&gone, Missing::IsUnknown),
                false => (shape, missing),
            };
            match Plan::of(shape, table, missing) {
                Ok(plan) => plans.push(plan),
                Err(found) => errors.extend(found),
            }
        }
        if errors.is_empty() {
            Ok(Self { tables: shapes.to_vec(), plans, scratch: Vec::new(), values: Scratch::default() })
        } else {
            Err(errors)
        }
    }

    /// What of the configured shapes does not fit those of the tables that can be read; for `check`,
    /// which goes on where a start would end.
    pub fn faults(shapes: &[TableShape], tables: &[Arc<Table>]) -> Vec<ShapeError> {
        let mut indices = BTreeSet::new();
        let fit = |table: &Arc<Table>| {
            let shape = match patterns::of(shapes, &table.name) {
                Ok(shape) => shape,
                Err(error) => return vec![error],
            };
            let mut errors = Plan::of(&shape, table, Missing::IsAFault).err().unwrap_or_default();
            if !indices.insert(shape.index.clone()) {
                errors.push(index_is_taken(&shape));
            }
            errors
        };
        tables.iter().flat_map(fit).collect()
    }

    /// The aliases, by the number that actions name them with: the table's number.
    pub fn indices(&self) -> Arc<[Arc<str>]> {
        self.tables.iter().map(|shape| Arc::from(shape.index.as_str())).collect()
    }

    /// The documents' fields of a table, with the columns they come from; for the mapping.
    pub fn fields(&self, table: usize) -> Vec<(String, Column)> {
        self.plans.get(table).map(Plan::fields).unwrap_or_default()
    }

    /// A table's name, as in `schema.table`; empty for a number that no table has.
    pub fn table(&self, table: usize) -> &str {
        self.tables.get(table).map_or("", |shape| shape.table.as_str())
    }

    /// What is wanted of a table's index.
    pub fn setup(&self, table: usize) -> IndexSetup {
        self.tables.get(table).map(|shape| shape.setup.clone()).unwrap_or_default()
    }

    /// A name of a table's shape as it is configured, equal over restarts and versions of Rowtide.
    /// A column that is added to a table of which all are read does not change it. Empty for a table that
    /// is gone.
    pub fn shape_hash(&self, table: usize) -> String {
        let (Some(shape), Some(plan)) = (self.tables.get(table), self.plans.get(table)) else {
            return String::new();
        };
        if plan.id_names().is_empty() {
            return String::new();
        }
        let mut rename = shape.rename.clone();
        rename.sort();
        // The order of columns is the order of fields, which a search cluster does not see.
        let columns: Option<BTreeSet<&String>> =
            shape.columns.as_ref().map(|columns| columns.iter().collect());
        let mut text = serde_json::json!([1, shape.table, shape.index, columns, rename, plan.id_names()]);
        if let Some(all) = text.as_array_mut() {
            all.extend([shape.steps.hashed(), shape.filter.hashed()].into_iter().flatten());
        }
        format!("{:032x}", fnv(text.to_string().as_bytes()))
    }

    /// The most bytes that rendering adds to a row of any table; for the queue's costs.
    pub fn render_bytes(&self) -> usize {
        self.plans.iter().map(Plan::render_bytes).max().unwrap_or(0)
    }

    /// The most times that a byte of a row stands in its document; for the queue's costs. At least 1.
    pub fn growth(&self) -> usize {
        self.plans.iter().map(Plan::growth).max().unwrap_or(1)
    }

    /// The delete of a document that was found by listing its index (law 9); `None` for a table that
    /// is not configured.
    pub fn delete(&self, table: usize, id: &str, version: Version, entered: Entered) -> Option<Action> {
        let plan = self.plans.get(table)?;
        let mut data = Vec::new();
        let (id_at, id_len) = plan.begin_delete(&mut data, id);
        plan.end_line(&mut data, version);
        Some(Action {
            index: table as u32,
            id_at: id_at as u32,
            id_len: id_len as u32,
            version,
            kind: Kind::Delete,
            data: data.into(),
            segment: entered.segment,
            charge: entered.charge,
        })
    }

    /// Renders a change. An error means that the table has changed so that its rows can no longer
    /// be documents; a row that cannot be one becomes [`Kind::Dead`].
    pub fn render(
        &mut self,
        change: &Change,
        version: Version,
        entered: Entered,
    ) -> Result<Action, ShapeError> {
        let number = change.table.number as usize;
        let (Some(plan), Some(shape)) = (self.plans.get_mut(number), self.tables.get(number)) else {
            return Err(unknown(&change.table));
        };
        if !plan.is_for(&change.table) {
            *plan = refit(plan, shape, &change.table)?;
        }
        let scratch = &mut self.scratch;
        scratch.clear();
        if entered.charge > SCRATCH_KEPT {
            // What was paid for is the most that it needs: growing step by step would take twice that.
            scratch.reserve_exact(entered.charge);
        }
        let row = change.row();
        // A row that the filter takes out has no document, and what it had before must go.
        let whole = matches!(change.op, Op::Put(_)) && plan.passes(row, &mut self.values);
        let id = plan.begin(scratch, row, whole);
        let is_wrong = is_left_out(Rule::DeletesCarryVersions) && matches!(change.op, Op::Delete(_));
        plan.end_line(scratch, if is_wrong { Version::from_target(1) } else { version });
        let dead =
            |reason: String| Kind::Dead(Box::new(Dead { reason, whole, bytes: row.heap_bytes() as u64 }));
        let mut kind = match (&change.op, &id.plain_bytes) {
            (_, None) => dead(format!("a column of the key of {} is unknown", shape.table)),
            (_, Some(0)) => dead("the id is empty, and the target takes no empty id".into()),
            (_, Some(bytes)) if *bytes > ID_BYTES_MAX => {
                dead(format!("the id has {bytes} bytes; the target takes at most {ID_BYTES_MAX}"))
            }
            (Op::TooLarge { bytes, .. }, _) => {
                let reason = format!("the row has {bytes} bytes, more than memory.document_bytes_max");
                Kind::Dead(Box::new(Dead { reason, whole, bytes: *bytes }))
            }
            (Op::Delete(_), _) => Kind::Delete,
            (Op::Put(_), _) if !whole => Kind::Delete,
            (Op::Put(_), _) => Kind::Put,
        };
        let line = scratch.len();
        if whole {
            let done = plan.document(scratch, row, &mut self.values);
            self.values.give_back(SCRATCH_KEPT);
            if let Err(Bad { field, what }) = done {
                scratch.truncate(line);
                if kind == Kind::Put {
                    kind = dead(format!("the field {field} of {} cannot be made: {what}", shape.table));
                }
                if let Kind::Dead(dead) = &mut kind {
                    dead.whole = false;
                }
            }
        }
        if let Kind::Dead(dead) = &mut kind
            && scratch.len() + ENTRY_BYTES > entered.charge
        {
            // The escapes of an id that is far too long are not paid for.
            scratch.truncate(line);
            dead.whole = false;
        }
        let data = match scratch.len() > SCRATCH_KEPT {
            true => std::mem::take(scratch).into_boxed_slice(),
            false => scratch.as_slice().into(),
        };
        let action = Action {
            index: number as u32,
            id_at: id.start as u32,
            id_len: id.len as u32,
            version,
            kind,
            data,
            segment: entered.segment,
            charge: entered.charge,
        };
        if scratch.capacity() > SCRATCH_KEPT {
            *scratch = Vec::new();
        }
        Ok(action)
    }
}

/// The plan for another revision of a table.
fn refit(plan: &Plan, shape: &TableShape, table: &Arc<Table>) -> Result<Plan, ShapeError> {
    let fitted = Plan::of(shape, table, Missing::IsUnknown);
    let fitted = fitted.map_err(|mut errors| errors.pop().unwrap_or_else(|| unknown(table)))?;
    if fitted.id_names() == plan.id_names() {
        return Ok(fitted);
    }
    Err(ShapeError {
        table: shape.table.clone(),
        what: format!("its key was {:?} and is {:?} now", plan.id_names(), fitted.id_names()),
        fix: "its documents would get other ids beside the old ones: fill a new index".to_owned(),
    })
}

impl From<ShapeError> for Halt {
    fn from(error: ShapeError) -> Self {
        let ShapeError { table, what, fix } = error;
        Halt { state: "shape-wrong", what: format!("{table}: {what}"), hint: fix }
    }
}

fn unknown(table: &Table) -> ShapeError {
    ShapeError {
        table: table.name.to_string(),
        what: "a change of a table that is not configured came".to_owned(),
        fix: "this is a fault in Rowtide: please report it".to_owned(),
    }
}

/// Two tables behind one alias would overwrite each other's documents.
fn index_is_taken(shape: &TableShape) -> ShapeError {
    ShapeError {
        table: shape.table.clone(),
        what: format!("the index {:?} is another table's already", shape.index),
        fix: "give each table an index of its own".to_owned(),
    }
}

/// FNV-1a of 128 bits: stable, and nobody has a reason to forge a shape.
fn fnv(bytes: &[u8]) -> u128 {
    let start = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d_u128;
    let prime = 0x0000_0000_0100_0000_0000_0000_0000_013b_u128;
    bytes.iter().fold(start, |hash, byte| (hash ^ u128::from(*byte)).wrapping_mul(prime))
}
