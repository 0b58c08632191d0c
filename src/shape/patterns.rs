//! The shape of each table that is there: by its name, else by the pattern that it matches.

use std::sync::Arc;

use sources::change::Table;
use sources::pattern;

use super::ShapeError;
use crate::config::{TableShape, index_fault};

/// One shape a table, in the order of their numbers, then those that are configured for a table which the
/// source does not have.
pub fn resolve(shapes: &[TableShape], tables: &[Arc<Table>]) -> Result<Vec<TableShape>, Vec<ShapeError>> {
    let mut resolved = Vec::with_capacity(tables.len());
    let mut errors = Vec::new();
    for table in tables {
        match of(shapes, &table.name) {
            Ok(shape) => resolved.push(shape),
            Err(error) => errors.push(error),
        }
    }
    if !errors.is_empty() {
        return Err(errors);
    }
    let is_there = |shape: &&TableShape| tables.iter().any(|table| *table.name == *shape.table);
    resolved.extend(
        shapes.iter().filter(|shape| !pattern::is_pattern(&shape.table) && !is_there(shape)).cloned(),
    );
    Ok(resolved)
}

/// The alias of a table's documents; `None` when no section of the pipeline names the table.
pub fn alias_of(shapes: &[TableShape], table: &str) -> Option<String> {
    of(shapes, table).ok().map(|shape| shape.index)
}

/// The shape of one table.
pub(super) fn of(shapes: &[TableShape], name: &str) -> Result<TableShape, ShapeError> {
    if let Some(exact) = shapes.iter().find(|shape| shape.table == name) {
        return Ok(exact.clone());
    }
    let fault = |what: String, fix: &str| ShapeError { table: name.to_owned(), what, fix: fix.to_owned() };
    let parts = pattern::parts(name);
    let matching = shapes.iter().find_map(|shape| {
        let (schema, table) = parts.as_ref()?;
        let (schemas, tables) = pattern::parts(&shape.table)?;
        (pattern::matches(&schemas, schema) && pattern::matches(&tables, table))
            .then_some((shape, schema, table))
    });
    let Some((shape, schema, table)) = matching else {
        return Err(fault("no section of the pipeline names it".into(), "report this as a fault of Rowtide"));
    };
    let filled = |name: &str| {
        name.replace("{schema}", &schema.to_lowercase()).replace("{table}", &table.to_lowercase())
    };
    let index = filled(&shape.index);
    if let Some(wrong) = index_fault(&index) {
        let what = format!("the index {index:?} of the pattern {:?} {wrong}", shape.table);
        return Err(fault(what, "give this table a section and an index of its own, or another name"));
    }
    let mut setup = shape.setup.clone();
    for alias in &mut setup.aliases {
        *alias = filled(alias);
    }
    if let Some((alias, wrong)) = setup.aliases.iter().find_map(|alias| Some((alias, index_fault(alias)?))) {
        let what = format!("the alias {alias:?} of the pattern {:?} {wrong}", shape.table);
        return Err(fault(what, "give this table a section of its own, or choose another name"));
    }
    Ok(TableShape { table: name.to_owned(), index, setup, ..shape.clone() })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use sources::OnDrop;

    fn shape(table: &str, index: &str) -> TableShape {
        let (table, index) = (table.to_owned(), index.to_owned());
        TableShape { table, index, on_drop: OnDrop::Keep, ..TableShape::default() }
    }

    fn table(number: u32, name: &str) -> Arc<Table> {
        Arc::new(Table { number, name: name.into(), columns: Box::new([]), key: Box::new([]) })
    }

    #[test]
    fn an_exact_name_wins_over_a_pattern_and_placeholders_are_filled_in() {
        let shapes = [shape("tenant_*.products", "{schema}-{table}"), shape("tenant_a.products", "special")];
        let tables = [table(0, "tenant_a.products"), table(1, "tenant_B.products")];
        let resolved = resolve(&shapes, &tables).unwrap();
        let indices: Vec<&str> = resolved.iter().map(|shape| shape.index.as_str()).collect();
        assert_eq!(indices, ["special", "tenant_b-products"]);
        assert_eq!((resolved[1].table.as_str(), resolved[1].on_drop), ("tenant_B.products", OnDrop::Keep));
    }

    #[test]
    fn a_name_that_no_index_can_have_is_a_fault_of_that_table() {
        let errors = resolve(&[shape("*.t", "{schema}")], &[table(0, "a b.t")]).unwrap_err();
        assert!(errors[0].what.contains("a b") && errors[0].table == "a b.t", "{errors:?}");
    }
}
