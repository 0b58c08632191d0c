//! Configuration and columns become fields; all that does not fit is told at once.
//!
//! ```text
//!   columns − exclude, renamed ┐
//!   constants                  ├─► fields by path (a dot: an object) ─► names judged ─► treatments judged ─► tree
//!   flatten (members)          │
//!   templates                  ┘
//! ```

use std::collections::BTreeMap;
use std::sync::Arc;

use sources::change::{Kind, Table};

use super::fields::{Field, Fields, Part, Source, insert};
use super::json;
use super::plan::Missing;
use super::value::{Treatment, is_plain};
use crate::config::{Piece, TableShape, Template};

/// Fields that a search cluster keeps for itself: a document with one is refused.
const RESERVED: &[&str] = &[
    "_doc_count",
    "_field_names",
    "_id",
    "_ignored",
    "_index",
    "_routing",
    "_seq_no",
    "_source",
    "_tier",
    "_type",
    "_version",
];

/// What is found to be wrong, and what would be right.
pub(super) type Fault<'a> = dyn FnMut(String, String) + 'a;

/// Resolves the fields of `shape` against `table`; tells what does not fit.
pub(super) fn fit(shape: &TableShape, table: &Arc<Table>, missing: Missing, fault: &mut Fault<'_>) -> Fields {
    let mut fitting = Fitting { shape, table, missing, fault, found: Vec::new() };
    fitting.columns();
    fitting.constants();
    fitting.flattened();
    fitting.templates();
    fitting.judge_names();
    fitting.judge_treatments();
    let found = fitting.found;
    let growth = growth(&found, table);
    let mut nodes = Vec::new();
    for Found { path, field, .. } in found {
        insert(&mut nodes, &path, field);
    }
    Fields::of(nodes, growth)
}

/// A field that was found to be wanted.
struct Found {
    path: Vec<String>,
    field: Field,
    /// What it is made of, for messages.
    origin: String,
}

struct Fitting<'a, 'f> {
    shape: &'a TableShape,
    table: &'a Arc<Table>,
    missing: Missing,
    fault: &'a mut Fault<'f>,
    found: Vec<Found>,
}

impl Fitting<'_, '_> {
    fn place(&self, name: &str) -> Option<usize> {
        self.table.columns.iter().position(|column| &*column.name == name)
    }

    /// The place of a column that a key of the configuration names.
    fn named(&mut self, key: &str, name: &str) -> Option<usize> {
        let place = self.place(name);
        if place.is_none() && self.missing == Missing::IsAFault {
            let names: Vec<&str> = self.table.columns.iter().map(|column| &*column.name).collect();
            let there = format!("it has {}", names.join(", "));
            (self.fault)(format!("{key} names {name:?}, which is no column of it"), there);
        }
        place
    }

    fn kind(&self, column: usize) -> &Kind {
        &self.table.columns[column].kind
    }

    fn add(&mut self, path: Vec<String>, origin: String, source: Source, kind: Kind) {
        let name = path.join(".");
        let key = path.last().cloned().unwrap_or_default();
        let prefix = format!("{}:", serde_json::Value::from(key.as_str())).into_bytes().into();
        let column = match source {
            Source::Column(column) => Some(self.table.columns[usize::from(column)].name.clone()),
            _ => None,
        };
        let field = Field { name, key, column, prefix, source, treatment: Treatment::default(), kind };
        self.found.push(Found { path, field, origin });
    }

    fn columns(&mut self) {
        let shape = self.shape;
        for (column, _) in &shape.rename {
            self.named("rename", column);
        }
        for column in &shape.steps.exclude {
            self.named("exclude", column);
        }
        let mut places = Vec::new();
        match &shape.columns {
            None => places.extend(0..self.table.columns.len()),
            Some(names) => places.extend(names.iter().filter_map(|name| self.named("columns", name))),
        }
        for place in places {
            let own = &*self.table.columns[place].name;
            if shape.steps.exclude.iter().any(|name| name == own) {
                continue;
            }
            let renamed = shape.rename.iter().find(|(from, _)| from == own);
            // A dot in a column's own name is refused by the target: who wants an object writes it.
            let path = renamed.map_or_else(|| vec![own.to_owned()], |(_, to)| path_of(to));
            let origin = format!("the column {own:?}");
            let kind = self.kind(place).clone();
            self.add(path, origin, Source::Column(place as u16), kind);
        }
    }

    fn constants(&mut self) {
        let shape = self.shape;
        for (field, value) in &shape.steps.constants {
            let kind = match value {
                serde_json::Value::String(_) => Kind::Keyword,
                serde_json::Value::Bool(_) => Kind::Boolean,
                serde_json::Value::Number(number) if number.is_f64() => Kind::Float { bits: 64 },
                serde_json::Value::Number(_) => Kind::Integer { bits: 64 },
                _ => Kind::Json,
            };
            let source = Source::Constant(value.to_string().into_bytes().into());
            self.add(path_of(field), "constants".to_owned(), source, kind);
        }
    }

    fn flattened(&mut self) {
        let shape = self.shape;
        for (field, member) in &shape.steps.flatten {
            let Some((column, names)) = member.split_first() else { continue };
            let Some(place) = self.named("flatten", column) else { continue };
            let is_text = matches!(self.kind(place), Kind::Text | Kind::Keyword);
            let kind = match is_text {
                true => Kind::Json,
                false => match member_kind(self.kind(place), names) {
                    Ok(kind) => kind,
                    Err(what) => {
                        let fix = "name a member of a composite, hstore or JSON column".to_owned();
                        let member = member.join(".");
                        (self.fault)(format!("flatten wants {member:?}, and {what}"), fix);
                        continue;
                    }
                },
            };
            let names = names.iter().map(|name| name.as_str().into()).collect();
            let source = Source::Member { column: place as u16, names, is_text };
            self.add(path_of(field), format!("flatten of {column:?}"), source, kind);
        }
    }

    fn templates(&mut self) {
        let shape = self.shape;
        for (field, template) in &shape.steps.templates {
            let Some(parts) = self.parts(template) else { continue };
            self.add(path_of(field), "template".to_owned(), Source::Template(parts), Kind::Text);
        }
    }

    /// `None` when a column is not there.
    fn parts(&mut self, template: &Template) -> Option<Box<[Part]>> {
        let part = |piece: &Piece| match piece {
            Piece::Text(text) => {
                let mut escaped = Vec::new();
                json::escape(&mut escaped, text.as_bytes());
                Some(Part::Text(escaped.into()))
            }
            Piece::Column(name) => Some(Part::Column(self.named("template", name)? as u16)),
        };
        template.pieces.iter().map(part).collect()
    }

    fn judge_names(&mut self) {
        let mut taken: BTreeMap<&str, &str> = BTreeMap::new();
        for Found { path, field, origin } in &self.found {
            let fix = || format!("give {origin} another name, or leave it out");
            let is_blank = path.iter().any(|part| part.trim().is_empty());
            if is_blank || RESERVED.contains(&path[0].as_str()) {
                (self.fault)(format!("{:?} cannot be a field of a document", field.name), fix());
            }
            if let Some(other) = taken.insert(&field.name, origin) {
                let what = format!("{other} and {origin} would both be the field {:?}", field.name);
                (self.fault)(what, fix());
            }
        }
        for name in taken.keys() {
            // `a.b` beside a plain `a` is refused by the target.
            let mut rest = *name;
            while let Some((object, _)) = rest.rsplit_once('.') {
                if taken.contains_key(object) {
                    let fix = format!("rename one of them, as in {:?}", name.replace('.', "_"));
                    let what = format!("the field {name:?} would lie inside of the field {object:?}");
                    (self.fault)(what, fix);
                }
                rest = object;
            }
        }
    }

    fn judge_treatments(&mut self) {
        let steps = &self.shape.steps;
        let casts = steps.cast.iter().map(|(field, _)| ("cast", field));
        let lists =
            [("parse_json", &steps.parse_json), ("trim", &steps.trim), ("lower", &steps.lower)].into_iter();
        let named = casts.chain(lists.flat_map(|(key, fields)| fields.iter().map(move |field| (key, field))));
        for (key, wanted) in named {
            let is_there = self.found.iter().any(|found| found.field.name == *wanted);
            if !is_there && self.missing == Missing::IsAFault {
                let names: Vec<&str> = self.found.iter().map(|found| found.field.name.as_str()).collect();
                let what = format!("{key} names {wanted:?}, which is no field of its documents");
                (self.fault)(what, format!("the fields are {}", names.join(", ")));
            }
        }
        for Found { field, .. } in &mut self.found {
            let is_in = |fields: &[String]| fields.contains(&field.name);
            let cast = steps.cast.iter().find(|(name, _)| *name == field.name).map(|(_, cast)| *cast);
            let treatment = Treatment {
                parse: is_in(&steps.parse_json),
                trim: is_in(&steps.trim),
                lower: is_in(&steps.lower),
                cast,
            };
            let is_constant = matches!(field.source, Source::Constant(_));
            if is_constant && !treatment.is_none() {
                let what = format!("the field {:?} is a constant", field.name);
                (self.fault)(what, "write it in constants as it is wanted".to_owned());
            } else if let Some(what) = treatment.fault(&field.kind) {
                let fix = "remove it from parse_json, trim, lower or cast of the table".to_owned();
                (self.fault)(format!("the field {:?} {what}", field.name), fix);
            }
            field.treatment = treatment;
        }
    }
}

fn path_of(field: &str) -> Vec<String> {
    field.split('.').map(str::to_owned).collect()
}

/// The kind of a member of values of a kind.
fn member_kind(kind: &Kind, names: &[String]) -> Result<Kind, String> {
    let Some((name, rest)) = names.split_first() else { return Ok(kind.clone()) };
    match kind {
        Kind::Json => Ok(Kind::Json),
        Kind::Map if rest.is_empty() => Ok(Kind::Text),
        Kind::Object(fields) => match fields.iter().find(|(own, _)| **own == **name) {
            Some((_, kind)) => member_kind(kind, rest),
            None => {
                let there: Vec<&str> = fields.iter().map(|(own, _)| &**own).collect();
                Err(format!("there is no {name:?}, but {}", there.join(", ")))
            }
        },
        _ => Err(format!("what holds {name:?} is no object")),
    }
}

/// The most times that a byte of a row can stand in its document.
fn growth(found: &[Found], table: &Table) -> usize {
    let of_column = |column: u16| {
        let kind = &table.columns[usize::from(column)].kind;
        let mut times = 0;
        let mut members: Vec<(&[Box<str>], usize)> = Vec::new();
        for Found { field, .. } in found {
            match &field.source {
                Source::Column(own) if *own == column => times += field.treatment.growth(kind),
                Source::Template(parts) => {
                    let uses =
                        parts.iter().filter(|part| matches!(part, Part::Column(own) if *own == column));
                    let escaped = if is_plain(kind) { 1 } else { 2 };
                    times += uses.count() * escaped * field.treatment.growth(&Kind::Text);
                }
                Source::Member { column: own, names, .. } if *own == column => {
                    // A member of any form may be an object that is cast to text.
                    members.push((names, field.treatment.growth(&Kind::Json)));
                }
                _ => {}
            }
        }
        // Members beside each other share the column's bytes; one inside of another has them again.
        let around = |names: &[Box<str>]| -> usize {
            members.iter().filter(|(outer, _)| names.starts_with(outer)).map(|(_, times)| times).sum()
        };
        times + members.iter().map(|(names, _)| around(names)).max().unwrap_or(0)
    };
    (0..table.columns.len() as u16).map(of_column).max().unwrap_or(1).max(1)
}
