//! Which tables are read: those that the configuration names, those that match its patterns, and those
//! that were read before and are gone.
//!
//! ```text
//!   "public.orders"      ─► that table                       ┐
//!   "tenant_*.products"  ─► each that matches, by name       ├─► loaded, numbered in this order
//!   the checkpoint       ─► matched before and gone: by on_drop ┘
//! ```
//! A table that is told to be missing by nobody is not guessed at: without `on_drop` a drop halts.

use std::sync::Arc;

use super::catalog::{self, TableFault, TableInfo, ValueTypes};
use super::config::{Config, Entry, TableName};
use super::position::PgPosition;
use super::wire::{Connection, WireError};
use crate::OnDrop;
use crate::change::Table;
use crate::source::SourceError;

/// A table of the list.
#[derive(Clone)]
pub(super) struct Known {
    pub name: TableName,
    pub on_drop: OnDrop,
    /// `None`: it is gone, and its documents are dealt with by `on_drop`.
    pub info: Option<Arc<TableInfo>>,
}

impl Known {
    /// What the rest of Rowtide knows of it; one that is gone has no columns.
    pub(super) fn table(&self, number: usize) -> Arc<Table> {
        match &self.info {
            Some(info) => info.table.clone(),
            None => Arc::new(Table {
                number: number as u32,
                name: self.name.spelled.as_str().into(),
                columns: Box::new([]),
                key: Box::new([]),
            }),
        }
    }
}

/// What of a table must stay for as long as a reader runs.
#[derive(PartialEq, Eq)]
struct Revision<'a> {
    oid: u32,
    leaves: Vec<(u32, u32)>,
    signature: &'a str,
    key: Vec<&'a str>,
}

impl<'a> Revision<'a> {
    fn of(info: &'a TableInfo) -> Self {
        let leaves = info.leaves.iter().map(|(oid, leaf)| (*oid, leaf.file)).collect();
        Self { oid: info.oid, leaves, signature: &info.signature, key: info.key_names() }
    }
}

/// What has changed of a table, in words; `None` when nothing has that a reader must know of.
pub(super) fn changed(name: &str, before: Option<&TableInfo>, now: Option<&TableInfo>) -> Option<String> {
    let what = match (before.map(Revision::of), now.map(Revision::of)) {
        (old, now) if old == now => return None,
        (_, None) => "was dropped",
        (None, _) => "is there again",
        (Some(old), Some(now)) if old.oid != now.oid => "is another table",
        (Some(old), Some(now)) if old.leaves != now.leaves => {
            return Some(format!("the partitions of {name} are others"));
        }
        _ => return Some(format!("columns, key or row filter of {name} are others")),
    };
    Some(format!("{name} {what}"))
}

/// What has changed between two lists, in words; `None` when nothing has that a reader must know of.
/// Numbers are places in the list: another order is a change too.
pub(super) fn difference(before: &[Known], now: &[Known]) -> Option<String> {
    for known in now {
        let name = &known.name.spelled;
        let Some(old) = before.iter().find(|old| old.name.spelled == *name) else {
            return Some(format!("{name} is new"));
        };
        let what = changed(name, old.info.as_deref(), known.info.as_deref());
        if what.is_some() {
            return what;
        }
    }
    let mut pairs = before.iter().zip(now.iter().map(Some).chain(std::iter::repeat(None)));
    let moved = pairs.find(|(old, known)| known.is_none_or(|known| known.name.spelled != old.name.spelled));
    moved.map(|(old, _)| format!("{} is not where it was in the list", old.name.spelled))
}

/// Looks all of them up; what cannot be read is told at once.
pub(super) async fn look_up(
    sql: &mut Connection,
    types: &mut ValueTypes,
    config: &Config,
    before: Option<&PgPosition>,
) -> Result<Vec<Known>, SourceError> {
    let wrong = |error: WireError| error.into_source("look at the tables");
    let found = matching(sql, config).await;
    let found = found.map_err(|error| error.into_source("look for tables that match a pattern"))?;
    let read = before.into_iter().flat_map(|before| before.tables.keys());
    let read = read.filter_map(|spelled| TableName::parse(spelled));
    let (wanted, overlaps) = wanted(config, found.into_iter().chain(read));
    if let Some(what) = overlaps.into_iter().next() {
        return Err(SourceError::Halt { state: "patterns-overlap", what, hint: NARROWER.into() });
    }
    let mut list = Vec::new();
    let mut faults = Vec::new();
    for Wanted { name, on_drop, is_exact } in wanted {
        let number = list.len() as u32;
        let loaded = TableInfo::load(sql, types, number, &name, &config.publication).await.map_err(wrong)?;
        let was_read = before.is_some_and(|before| before.tables.contains_key(&name.spelled));
        match loaded {
            Ok(info) => list.push(Known { name, on_drop, info: Some(Arc::new(info)) }),
            Err(TableFault { is_missing: true, .. }) if on_drop != OnDrop::Halt => {
                list.push(Known { name, on_drop, info: None });
            }
            Err(TableFault { is_missing: true, .. }) if was_read => return Err(dropped(&name)),
            Err(fault) if is_exact || was_read => faults.push(fault),
            Err(fault) => {
                tracing::warn!(
                    table = name.spelled,
                    error = fault.what,
                    fix = fault.fix,
                    "a table matches a pattern and cannot be read: it is left out until it can be"
                );
            }
        }
    }
    if faults.is_empty() {
        return Ok(list);
    }
    let whats: Vec<&str> = faults.iter().map(|fault| fault.what.as_str()).collect();
    let fixes: Vec<&str> = faults.iter().map(|fault| fault.fix.as_str()).collect();
    Err(SourceError::Halt { state: "tables-unreadable", what: whats.join("; "), hint: fixes.join("; ") })
}

/// A table of the configuration, or one that matches a pattern of it.
pub(super) struct Wanted {
    pub name: TableName,
    pub on_drop: OnDrop,
    /// Whether the configuration spells it out.
    pub is_exact: bool,
}

/// Those that the configuration spells out, and of `found` those that match one of its patterns; then what is
/// wrong with the others, and [`NARROWER`] mends it.
pub(super) fn wanted(config: &Config, found: impl Iterator<Item = TableName>) -> (Vec<Wanted>, Vec<String>) {
    let exact = |entry: &Entry| Wanted { name: entry.name.clone(), on_drop: entry.on_drop, is_exact: true };
    let mut wanted: Vec<Wanted> = config.exact().map(exact).collect();
    let mut overlaps = Vec::new();
    for name in found {
        if wanted.iter().any(|known| known.name.schema == name.schema && known.name.name == name.name) {
            continue;
        }
        let mut matching = config.patterns().filter(|entry| entry.name.matches(&name));
        match (matching.next(), matching.next()) {
            (None, _) => {}
            (Some(entry), None) => wanted.push(Wanted { name, on_drop: entry.on_drop, is_exact: false }),
            (Some(one), Some(other)) => {
                let (table, one, other) = (name.spelled, &one.name.spelled, &other.name.spelled);
                overlaps.push(format!("{table} matches both {one:?} and {other:?}"));
            }
        }
    }
    (wanted, overlaps)
}

/// What mends a table that matches two patterns.
pub(super) const NARROWER: &str = "make one of the patterns narrower, or name the table by itself";

/// The tables that are there and match a pattern of the configuration, by name.
pub(super) async fn matching(sql: &mut Connection, config: &Config) -> Result<Vec<TableName>, WireError> {
    let patterns: Vec<TableName> = config.patterns().map(|entry| entry.name.clone()).collect();
    if patterns.is_empty() {
        return Ok(Vec::new());
    }
    let found = catalog::matching(sql, &patterns).await?;
    Ok(found.into_iter().map(|(schema, name)| TableName::of(schema, name)).collect())
}

fn dropped(name: &TableName) -> SourceError {
    SourceError::Halt {
        state: "table-dropped",
        what: format!("the table {} was dropped; its documents are still there", name.spelled),
        hint: format!(
            "set on_drop = \"delete\" on {} to have them deleted, or on_drop = \"keep\" to keep them; or \
             remove the table from the pipeline",
            name.spelled
        ),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn gone(name: &str) -> Known {
        Known { name: TableName::parse(name).unwrap(), on_drop: OnDrop::Delete, info: None }
    }

    /// Numbers lead to indices: a list in which they moved must never be taken for the old one.
    #[test]
    fn a_list_that_is_shorter_or_in_another_order_is_another_one() {
        let list = [gone("a.t"), gone("b.t"), gone("c.t")];
        assert_eq!(difference(&list, &list), None);
        assert!(difference(&list, &list[..2]).is_some() && difference(&list[..2], &list).is_some());
        assert!(difference(&list, &[gone("b.t"), gone("a.t"), gone("c.t")]).is_some());
    }
}
