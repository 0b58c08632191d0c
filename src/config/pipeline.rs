//! `[pipelines.NAME]` and its tables.

use std::collections::BTreeSet;

use sources::{OnDrop, pattern};

use super::condition::{self, RowFilter};
use super::index;
use super::problem::{KeyPath, Place, Problems};
use super::section::{Section, suggestion};
use super::steps::{self, Steps};
use crate::target::IndexSetup;

/// A pipeline's section.
#[derive(Clone, Debug)]
pub struct PipelineSettings {
    /// As in `[pipelines.NAME]`.
    pub name: String,
    /// In the file's order; a table's number in its source is its place here. Never empty.
    pub tables: Vec<TableShape>,
}

/// What becomes of one table's rows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TableShape {
    /// `schema.table`.
    pub table: String,
    /// The alias that is written through.
    pub index: String,
    /// The columns that go into documents, in this order; `None`: all.
    pub columns: Option<Vec<String>>,
    /// Column to field, for those that differ.
    pub rename: Vec<(String, String)>,
    /// What else is done between columns and fields.
    pub steps: Steps,
    /// Which rows have a document.
    pub filter: RowFilter,
    /// The columns that the id is made of; `None`: the primary key.
    pub id: Option<Vec<String>>,
    /// What becomes of its documents when it is dropped.
    pub on_drop: OnDrop,
    /// What is wanted of its index.
    pub setup: IndexSetup,
}

/// A pipeline as it was read, with the sections it refers to by name.
pub(super) struct Named {
    pub(super) pipeline: PipelineSettings,
    pub(super) source: Option<String>,
    /// In the pipeline's order; empty when what it names is not there.
    pub(super) targets: Vec<String>,
    /// Its part of the budget, among those of all.
    pub(super) share: usize,
    /// Where its source is named.
    pub(super) source_place: (Place, KeyPath),
    /// Where each table stands.
    pub(super) table_places: Vec<(Place, KeyPath)>,
}

/// Where Rowtide keeps its own state in a target.
const STATE_INDEX: &str = "rowtide-state";

/// An index name has at most 255 bytes, and the real index adds `-rowtide-N` to the alias.
const ALIAS_BYTES_MAX: usize = 230;

/// Fields that Elasticsearch and OpenSearch keep for themselves.
const RESERVED_FIELDS: &[&str] = &[
    "_doc_count",
    "_field_names",
    "_id",
    "_ignored",
    "_index",
    "_meta",
    "_routing",
    "_seq_no",
    "_size",
    "_source",
    "_tier",
    "_type",
    "_version",
];

/// Reads a pipeline's section.
pub(super) fn read(
    name: &str,
    mut section: Section<'_>,
    sources: &[&str],
    targets: &[&str],
    problems: &mut Problems,
) -> Named {
    let source_place = (section.place_of("source"), section.path.key("source"));
    let source = refer(&mut section, "source", sources, problems);
    let share = section.number("share", 1..=100, 1, problems) as usize;
    let targets = read_targets(&mut section, targets, problems);
    let place = section.place.clone();
    let path = section.path.key("tables");
    let mut tables = Vec::new();
    let mut table_places = Vec::new();
    let mut indices = BTreeSet::new();
    for (table, inner) in section.sections("tables", problems) {
        let index_place = inner.place.clone();
        let index_path = inner.path.key("index");
        table_places.push((index_place.clone(), inner.path.clone()));
        let shape = read_table(&table, inner, problems);
        if !shape.index.is_empty()
            && !pattern::is_pattern(&shape.table)
            && !indices.insert(shape.index.clone())
        {
            let what = format!("{:?} is another table's index already", shape.index);
            problems.add(&index_place, &index_path, what, "give each table an index of its own");
        }
        tables.push(shape);
    }
    for shape in &tables {
        for alias in shape.setup.aliases.iter().filter(|alias| indices.contains(*alias)) {
            let what = format!("{alias:?} is the index of a table, and writes go through its name");
            problems.add(&place, &path.key(&shape.table).key("aliases"), what, "choose another alias");
        }
    }
    if tables.is_empty() {
        let fix = format!("add [{path}.\"public.products\"] with index = \"products\"");
        problems.add(&place, &path, "names no table", fix);
    }
    section.finish(problems);
    let pipeline = PipelineSettings { name: name.to_owned(), tables };
    Named { pipeline, source, targets, share, source_place, table_places }
}

/// A name of another section, which must be there.
fn refer(
    section: &mut Section<'_>,
    key: &'static str,
    names: &[&str],
    problems: &mut Problems,
) -> Option<String> {
    let name = section.required_text(key, names.first().unwrap_or(&"shop"), problems)?;
    let place = section.place_of(key);
    is_there(&name, names, &format!("{key}s"), (&place, &section.path.key(key)), problems).then_some(name)
}

/// Whether a name stands for a section `[KIND.NAME]`.
fn is_there(
    name: &str,
    names: &[&str],
    kind: &str,
    (place, path): (&Place, &KeyPath),
    problems: &mut Problems,
) -> bool {
    if names.contains(&name) {
        return true;
    }
    let fix = match names {
        [] => format!("add [{kind}.{name}]"),
        _ => suggestion(name, names).replace("the keys here are", "there is"),
    };
    problems.add(place, path, format!("there is no [{kind}.{name}]"), fix);
    false
}

/// `target = "a"`, or `targets = ["a", "b"]`: every change goes to each of them.
fn read_targets(section: &mut Section<'_>, names: &[&str], problems: &mut Problems) -> Vec<String> {
    let Some(entry) = section.entry("targets") else {
        return refer(section, "target", names, problems).into_iter().collect();
    };
    let (place, path) = (entry.place.clone(), section.path.key("targets"));
    if section.entry("target").is_some() {
        problems.add(&place, &path, "is given beside target", "keep one of the two");
        return Vec::new();
    }
    let Some(targets) = section.texts("targets", problems) else { return Vec::new() };
    if targets.is_empty() {
        problems.add(&place, &path, "names no target", "targets = [\"search\"]");
    }
    let mut kept: Vec<String> = Vec::new();
    for (number, name) in targets.into_iter().enumerate() {
        let path = path.index(number);
        if kept.contains(&name) {
            problems.add(&place, &path, format!("{name:?} is there twice"), "remove it");
        } else if is_there(&name, names, "targets", (&place, &path), problems) {
            kept.push(name);
        }
    }
    kept
}

fn read_table(name: &str, mut section: Section<'_>, problems: &mut Problems) -> TableShape {
    if !name.split_once('.').is_some_and(|(schema, table)| !schema.is_empty() && !table.is_empty()) {
        let fix = format!("write it with its schema, as in \"public.{}\"", name.trim_matches('.'));
        problems.add(&section.place, &section.path, "is no schema.table", fix);
    }
    let index = section.required_text("index", "products", problems).unwrap_or_default();
    if !index.is_empty() || section.entry("index").is_some() {
        judge_index(&index, &mut section, problems);
    }
    judge_pattern(name, &index, &mut section, problems);
    let columns = column_list(&mut section, "columns", problems);
    let rename = section.text_map("rename", problems);
    judge_fields(columns.as_deref(), &rename, &mut section, problems);
    let steps = steps::read(&mut section, problems);
    let filter = condition::read(&mut section, problems);
    let id = column_list(&mut section, "id", problems);
    let policies = [("halt", OnDrop::Halt), ("delete", OnDrop::Delete), ("keep", OnDrop::Keep)];
    let on_drop = section.choice("on_drop", &policies, problems).unwrap_or_default();
    let setup = index::read(&index, &mut section, problems);
    section.finish(problems);
    TableShape { table: name.to_owned(), index, columns, rename, steps, filter, id, on_drop, setup }
}

fn judge_index(index: &str, section: &mut Section<'_>, problems: &mut Problems) {
    let (Some(wrong), Some(entry)) = (index_fault(index), section.entry("index")) else { return };
    problems.add(&entry.place, &section.path.key("index"), wrong, "choose a name like \"products\"");
}

/// What is wrong with the name of an index, by the rules of Elasticsearch and OpenSearch; `None` when
/// nothing is.
pub fn index_fault(index: &str) -> Option<&'static str> {
    if index.is_empty() {
        Some("is empty")
    } else if index.len() > ALIAS_BYTES_MAX {
        Some("is longer than 230 bytes")
    } else if index.starts_with(['-', '_', '+', '.']) {
        Some("begins with one of - _ + .")
    } else if index.chars().any(|c| c.is_uppercase() || c.is_control() || "\\/*?\"<>| ,#:".contains(c)) {
        Some("holds an upper-case letter, a space or one of \\ / * ? \" < > | , # :")
    } else if index == STATE_INDEX {
        Some("is the index in which Rowtide keeps its own state")
    } else {
        None
    }
}

/// Whether Elasticsearch and OpenSearch keep a field of this name for themselves.
pub fn is_reserved_field(name: &str) -> bool {
    RESERVED_FIELDS.contains(&name)
}

/// Every table that matches has an index of its own, so the index's name must tell them apart.
fn judge_pattern(name: &str, index: &str, section: &mut Section<'_>, problems: &mut Problems) {
    let Some((schema, table)) = pattern::parts(name) else { return };
    for (part, placeholder) in [(schema, "{schema}"), (table, "{table}")] {
        if pattern::is_pattern(&part) && !index.contains(placeholder) {
            let place = section.place_of("index");
            let what = format!("does not hold {placeholder}, so tables that match would share an index");
            let fix = "write it with placeholders, as in \"{schema}-{table}\"";
            problems.add(&place, &section.path.key("index"), what, fix);
        }
    }
}

fn column_list(section: &mut Section<'_>, key: &'static str, problems: &mut Problems) -> Option<Vec<String>> {
    let columns = section.texts(key, problems)?;
    let place = section.place_of(key);
    let path = section.path.key(key);
    if columns.is_empty() {
        problems.add(&place, &path, "names no column", format!("name some, or remove {key} for the default"));
    }
    let mut seen = BTreeSet::new();
    for (index, column) in columns.iter().enumerate() {
        if column.is_empty() || !seen.insert(column) {
            problems.add(
                &place,
                &path.index(index),
                format!("{column:?} is empty or there twice"),
                "remove it",
            );
        }
    }
    Some(columns)
}

/// Each renamed column must be read, and no two columns may end in one field.
fn judge_fields(
    columns: Option<&[String]>,
    rename: &[(String, String)],
    section: &mut Section<'_>,
    problems: &mut Problems,
) {
    let place = section.place_of("rename");
    let path = section.path.key("rename");
    let mut taken: BTreeSet<&str> = columns.into_iter().flatten().map(String::as_str).collect();
    for (column, _) in rename {
        if columns.is_some_and(|columns| !columns.contains(column)) {
            let fix = format!("add {column:?} to columns, or remove it here");
            problems.add(&place, &path.key(column), "is not among the columns", fix);
        }
        taken.remove(column.as_str());
    }
    for (column, field) in rename {
        if field.is_empty() || RESERVED_FIELDS.contains(&field.as_str()) {
            let what = format!("{field:?} cannot be a field");
            problems.add(&place, &path.key(column), what, "choose another name");
        } else if !taken.insert(field) {
            let what = format!("{field:?} is another column's field already");
            problems.add(&place, &path.key(column), what, "choose another name");
        }
    }
}
