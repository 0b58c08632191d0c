//! What a table's section says of the way from columns to fields, beyond their choice and names.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::index;
use super::problem::Problems;
use super::section::Section;

/// What is done between a table's columns and its documents' fields. Fields are named as they stand in the
/// document; a dot in a name that is written here means an object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Steps {
    /// Columns that do not go into documents.
    pub exclude: Vec<String>,
    /// Field to the value that it has in every document.
    pub constants: Vec<(String, Value)>,
    /// Field to the column whose member it is, and the members' names from there on.
    pub flatten: Vec<(String, Vec<String>)>,
    /// Field to the columns that its text is put together of.
    pub templates: Vec<(String, Template)>,
    /// Fields whose text is JSON, and becomes it.
    pub parse_json: Vec<String>,
    /// Fields that lose the white space around their text.
    pub trim: Vec<String>,
    /// Fields whose text is put in lower case.
    pub lower: Vec<String>,
    /// Field to what its value becomes.
    pub cast: Vec<(String, Cast)>,
}

impl Steps {
    /// What of it makes documents others, in one form whatever the order in the file; `None` for nothing.
    pub fn hashed(&self) -> Option<Value> {
        if *self == Self::default() {
            return None;
        }
        let sorted = |names: &[String]| names.iter().cloned().collect::<BTreeSet<_>>();
        let constants: BTreeMap<_, _> = self.constants.iter().cloned().collect();
        let flatten: BTreeMap<_, _> = self.flatten.iter().cloned().collect();
        let templates: BTreeMap<_, _> =
            self.templates.iter().map(|(field, template)| (field, &template.text)).collect();
        let cast: BTreeMap<_, _> = self.cast.iter().map(|(field, cast)| (field, cast.word())).collect();
        Some(json!({
            "exclude": sorted(&self.exclude),
            "constants": constants,
            "flatten": flatten,
            "template": templates,
            "parse_json": sorted(&self.parse_json),
            "trim": sorted(&self.trim),
            "lower": sorted(&self.lower),
            "cast": cast,
        }))
    }
}

/// What a value becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cast {
    /// A text.
    String,
    /// A number.
    Number,
    /// `true` or `false`.
    Boolean,
}

impl Cast {
    /// As it is written.
    pub fn word(self) -> &'static str {
        match self {
            Self::String => "string",
            Self::Number => "number",
            Self::Boolean => "boolean",
        }
    }

    fn of(word: &str) -> Option<Self> {
        [Self::String, Self::Number, Self::Boolean].into_iter().find(|cast| cast.word() == word)
    }
}

/// A text with places for columns.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Template {
    /// As it was written.
    pub text: String,
    /// In their order.
    pub pieces: Vec<Piece>,
}

/// A part of a [`Template`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// Itself.
    Text(String),
    /// The text of this column's value.
    Column(String),
}

impl Template {
    /// Reads `{column}`, and `{{` and `}}` for the braces themselves; `Err` says what is wrong.
    fn read(text: &str) -> Result<Self, &'static str> {
        let mut pieces = Vec::new();
        let mut plain = String::new();
        let mut rest = text.chars().peekable();
        while let Some(c) = rest.next() {
            match c {
                '{' | '}' if rest.next_if_eq(&c).is_some() => plain.push(c),
                '{' => {
                    let mut name = String::new();
                    loop {
                        match rest.next() {
                            Some('}') => break,
                            Some(c) => name.push(c),
                            None => return Err("has a { without its }"),
                        }
                    }
                    if name.is_empty() {
                        return Err("has {} without a column in it");
                    }
                    if !plain.is_empty() {
                        pieces.push(Piece::Text(std::mem::take(&mut plain)));
                    }
                    pieces.push(Piece::Column(name));
                }
                '}' => return Err("has a } without its {"),
                _ => plain.push(c),
            }
        }
        if !plain.is_empty() {
            pieces.push(Piece::Text(plain));
        }
        if !pieces.iter().any(|piece| matches!(piece, Piece::Column(_))) {
            return Err("names no column");
        }
        Ok(Self { text: text.to_owned(), pieces })
    }
}

/// Reads them. Whether columns and fields are there is judged when the table is known.
pub(super) fn read(section: &mut Section<'_>, problems: &mut Problems) -> Steps {
    let exclude = names(section, "exclude", problems);
    if let Some(entry) = section.entry("exclude").filter(|_| section.is_written("columns")) {
        let fix = "keep one of the two: columns names what goes into documents, exclude what does not";
        problems.add(&entry.place, &section.path.key("exclude"), "is given beside columns", fix);
    }
    let example = "constants = { kind = \"product\" }";
    let constants = index::table(section, "constants", example, problems).into_iter().collect();
    Steps {
        exclude,
        constants,
        flatten: flatten(section, problems),
        templates: templates(section, problems),
        parse_json: names(section, "parse_json", problems),
        trim: names(section, "trim", problems),
        lower: names(section, "lower", problems),
        cast: casts(section, problems),
    }
}

fn names(section: &mut Section<'_>, key: &'static str, problems: &mut Problems) -> Vec<String> {
    let names = section.texts(key, problems).unwrap_or_default();
    let (place, path) = (section.place_of(key), section.path.key(key));
    let mut seen = BTreeSet::new();
    for (number, name) in names.iter().enumerate() {
        if name.is_empty() || !seen.insert(name) {
            let what = format!("{name:?} is empty or there twice");
            problems.add(&place, &path.index(number), what, "remove it");
        }
    }
    names
}

fn flatten(section: &mut Section<'_>, problems: &mut Problems) -> Vec<(String, Vec<String>)> {
    let written = section.text_map("flatten", problems);
    let (place, path) = (section.place_of("flatten"), section.path.key("flatten"));
    let mut all = Vec::with_capacity(written.len());
    for (field, member) in written {
        let names: Vec<String> = member.split('.').map(str::to_owned).collect();
        if names.len() < 2 || names.iter().any(String::is_empty) {
            let fix = format!("name a column and a member of it, as in {field} = \"attributes.color\"");
            problems.add(&place, &path.key(&field), format!("{member:?} is no column.member"), fix);
        }
        all.push((field, names));
    }
    all
}

fn templates(section: &mut Section<'_>, problems: &mut Problems) -> Vec<(String, Template)> {
    let written = section.text_map("template", problems);
    let (place, path) = (section.place_of("template"), section.path.key("template"));
    let mut all = Vec::with_capacity(written.len());
    for (field, text) in written {
        match Template::read(&text) {
            Ok(template) => all.push((field, template)),
            Err(what) => {
                let fix = "write columns in braces, as in \"{brand} {name}\"; {{ and }} are the braces";
                problems.add(&place, &path.key(&field), what, fix);
            }
        }
    }
    all
}

fn casts(section: &mut Section<'_>, problems: &mut Problems) -> Vec<(String, Cast)> {
    let written = section.text_map("cast", problems);
    let (place, path) = (section.place_of("cast"), section.path.key("cast"));
    let mut all = Vec::with_capacity(written.len());
    for (field, word) in written {
        match Cast::of(&word) {
            Some(cast) => all.push((field, cast)),
            None => {
                let what = format!("{word:?} is not known");
                problems.add(&place, &path.key(&field), what, "one of \"string\", \"number\", \"boolean\"");
            }
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_is_text_and_columns_and_what_is_wrong_with_one_is_said() {
        let column = |name: &str| Piece::Column(name.to_owned());
        let text = |text: &str| Piece::Text(text.to_owned());
        let pieces = |text: &str| Template::read(text).map(|template| template.pieces);
        assert_eq!(pieces("{a} - {b c}!"), Ok(vec![column("a"), text(" - "), column("b c"), text("!")]));
        assert_eq!(pieces("{{{a}}}"), Ok(vec![text("{"), column("a"), text("}")]));
        for (wrong, what) in
            [("{a", "without its }"), ("a}", "without its {"), ("{}", "without a column"), ("a", "no column")]
        {
            assert!(pieces(wrong).is_err_and(|said| said.contains(what)), "{wrong}");
        }
    }
}
