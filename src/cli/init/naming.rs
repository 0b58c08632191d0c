//! Names for indices and fields that a search cluster takes, from names that a database took.

use std::collections::BTreeSet;

use sources::change::Table;
use sources::discovery::FoundTable;

use crate::config;
use crate::target::elasticsearch::takes_field;

/// Room for a number behind it, within what the configuration takes.
const INDEX_BYTES_MAX: usize = 200;

/// An index for each table, in their order; no two are the same.
pub(super) fn indices(tables: &[FoundTable]) -> Vec<String> {
    let mut taken = BTreeSet::new();
    let mut names = Vec::with_capacity(tables.len());
    for table in tables {
        let short = legal(&table.short_name);
        let whole = legal(&format!("{}_{}", table.schema, table.short_name));
        let numbered = (2_u64..).map(|number| format!("{whole}_{number}"));
        let mut candidates = [short, whole.clone()].into_iter().chain(numbered);
        let free = candidates.find(|name| config::index_fault(name).is_none() && !taken.contains(name));
        let name = free.unwrap_or(whole);
        taken.insert(name.clone());
        names.push(name);
    }
    names
}

/// The nearest name that an index may have.
fn legal(name: &str) -> String {
    let lower = name.to_lowercase();
    let letter = |c: char| {
        let refused = c.is_uppercase() || c.is_control() || c.is_whitespace() || "\\/*?\"<>|,#:".contains(c);
        if refused { '_' } else { c }
    };
    let plain: String = lower.chars().map(letter).collect();
    // `a-rowtide-1` is the real index behind the alias `a`.
    let plain = plain.replace("-rowtide-", "_rowtide_");
    let plain = plain.trim_start_matches(['-', '_', '+', '.']);
    let mut end = plain.len().min(INDEX_BYTES_MAX);
    while !plain.is_char_boundary(end) {
        end -= 1;
    }
    match &plain[..end] {
        "" => "table".to_owned(),
        name => name.to_owned(),
    }
}

/// Columns that cannot be fields under their own names, each with a name that can.
pub(super) fn renames(table: &Table) -> Vec<(String, String)> {
    let own = table.columns.iter().map(|column| column.name.to_string());
    let mut taken: BTreeSet<String> = own.collect();
    let mut renames = Vec::new();
    for column in &table.columns {
        if is_field(&column.name) {
            continue;
        }
        let plain = column.name.replace('.', "_");
        let plain = plain.trim().trim_start_matches('_');
        let plain = if plain.is_empty() { "column" } else { plain };
        let numbered = (2_u64..).map(|number| format!("{plain}_{number}"));
        let mut candidates = std::iter::once(plain.to_owned()).chain(numbered);
        if let Some(name) = candidates.find(|name| is_field(name) && !taken.contains(name)) {
            taken.insert(name.clone());
            renames.push((column.name.to_string(), name));
        }
    }
    renames
}

fn is_field(name: &str) -> bool {
    takes_field(name) && !config::is_reserved_field(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use sources::change::{Column, Kind};

    fn found(schema: &str, name: &str) -> FoundTable {
        FoundTable {
            name: format!("{schema}.{name}"),
            short_name: name.to_owned(),
            schema: schema.to_owned(),
            rows_estimated: 0,
            bytes: 0,
            table: Err(Vec::new()),
        }
    }

    #[test]
    fn an_index_has_its_tables_name_or_the_nearest_that_is_legal() {
        let tables: Vec<FoundTable> = [
            ("public", "products"),
            ("old", "products"),
            ("public", "Products"),
            ("public", "My Table"),
            ("public", "_x"),
            ("public", "..."),
            ("public", "rowtide-state"),
            ("public", "a-rowtide-1"),
        ]
        .iter()
        .map(|(schema, name)| found(schema, name))
        .collect();
        let wanted = [
            "products",
            "old_products",
            "public_products",
            "my_table",
            "x",
            "table",
            "public_rowtide-state",
            "a_rowtide_1",
        ];
        assert_eq!(indices(&tables), wanted);
    }

    #[test]
    fn a_column_that_cannot_be_a_field_gets_another_name() {
        let columns = ["id", "a.b", "a_b", "_id", " ", "_ok"];
        let column = |name: &&str| Column { name: (*name).into(), kind: Kind::Text };
        let table = Table {
            number: 0,
            name: "public.t".into(),
            columns: columns.iter().map(column).collect(),
            key: [0].into(),
        };
        let pairs = [("a.b", "a_b_2"), ("_id", "id_2"), (" ", "column")];
        let wanted = pairs.map(|(from, to)| (from.to_owned(), to.to_owned()));
        assert_eq!(renames(&table), wanted);
    }

    proptest! {
        #[test]
        fn every_table_gets_a_legal_index_of_its_own(names in prop::collection::vec(".{1,40}", 1..8)) {
            let tables: Vec<FoundTable> = names.iter().map(|name| found("public", name)).collect();
            let indices = indices(&tables);
            let mut seen = BTreeSet::new();
            for index in &indices {
                prop_assert_eq!(config::index_fault(index), None);
                prop_assert!(seen.insert(index));
            }
        }
    }
}
