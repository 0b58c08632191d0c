//! Reading a section key by key: each question names the key and says what is wrong with the
//! answer; a key that nobody asked for is refused at the end, with the name it was probably meant
//! to be.

use std::ops::RangeInclusive;

use super::problem::{KeyPath, Place, Problems};
use super::tree::{Entry, Node, Table, Value};

/// A section that is being read.
pub(super) struct Section<'a> {
    pub(super) path: KeyPath,
    pub(super) place: Place,
    table: &'a Table,
    known: Vec<&'static str>,
}

impl<'a> Section<'a> {
    pub(super) fn new(path: KeyPath, place: Place, table: &'a Table) -> Self {
        Self { path, place, table, known: Vec::new() }
    }

    /// What is written under `key`, if anything; the key is known from then on.
    pub(super) fn entry(&mut self, key: &'static str) -> Option<&'a Entry> {
        self.known.push(key);
        self.table.get(key)
    }

    /// Whether anything is written under `key`.
    pub(super) fn is_written(&self, key: &str) -> bool {
        self.table.get(key).is_some()
    }

    /// Where `key` is written; the section's own place when it is not.
    pub(super) fn place_of(&mut self, key: &'static str) -> Place {
        self.entry(key).map_or_else(|| self.place.clone(), |entry| entry.place.clone())
    }

    /// All entries, for those who judge them themselves.
    pub(super) fn entries(&self) -> &'a [Entry] {
        &self.table.0
    }

    /// A text; `None` when it is absent or something else.
    pub(super) fn text(&mut self, key: &'static str, problems: &mut Problems) -> Option<String> {
        let entry = self.entry(key)?;
        let text = as_text(&entry.node);
        if text.is_none() {
            self.wrong_kind(entry, "text in quotes", "", problems);
        }
        text
    }

    /// A text that must be there.
    pub(super) fn required_text(
        &mut self,
        key: &'static str,
        example: &str,
        problems: &mut Problems,
    ) -> Option<String> {
        if self.table.get(key).is_none() {
            self.known.push(key);
            self.missing(key, format!("{key} = {example:?}"), problems);
            return None;
        }
        self.text(key, problems)
    }

    /// Says that a key is missing.
    pub(super) fn missing(&self, key: &str, fix: String, problems: &mut Problems) {
        problems.add(&self.place, &self.path.key(key), "is missing", format!("add {fix}"));
    }

    /// A whole number within `range`.
    pub(super) fn number(
        &mut self,
        key: &'static str,
        range: RangeInclusive<u64>,
        default: u64,
        problems: &mut Problems,
    ) -> u64 {
        let Some(entry) = self.entry(key) else { return default };
        let fix =
            format!("a whole number from {} to {}; the default is {default}", range.start(), range.end());
        let number = match &entry.node.value {
            Value::Integer(number) => *number,
            Value::Untyped(text) if text.trim().parse::<i64>().is_ok() => {
                text.trim().parse().unwrap_or_default()
            }
            _ => {
                self.wrong_kind(entry, "a whole number", &fix, problems);
                return default;
            }
        };
        match u64::try_from(number).ok().filter(|number| range.contains(number)) {
            Some(number) => number,
            None => {
                let what = format!("{number} is out of range");
                problems.add(&entry.place, &self.path.key(key), what, fix);
                default
            }
        }
    }

    /// `true` or `false`; absent is `false`.
    pub(super) fn flag(&mut self, key: &'static str, problems: &mut Problems) -> bool {
        let Some(entry) = self.entry(key) else { return false };
        match &entry.node.value {
            Value::Boolean(flag) => *flag,
            Value::Untyped(text) if matches!(text.trim(), "true" | "false") => text.trim() == "true",
            _ => {
                self.wrong_kind(entry, "true or false", &format!("{key} = true"), problems);
                false
            }
        }
    }

    /// A size in bytes, written with its unit.
    pub(super) fn size(&mut self, key: &'static str, problems: &mut Problems) -> Option<usize> {
        let entry = self.entry(key)?;
        let fix = "a number with its unit, as in \"256MiB\" (B, KiB, MiB, GiB, kB, MB, GB)";
        let Some(text) = as_text(&entry.node) else {
            self.wrong_kind(entry, "a size in quotes", fix, problems);
            return None;
        };
        let size = sources::size::parse(&text).and_then(|size| usize::try_from(size).ok());
        if size.is_none() {
            let what = format!("{} is not a size", shown(&entry.node, &text));
            problems.add(&entry.place, &self.path.key(key), what, fix);
        }
        size
    }

    /// One of several words.
    pub(super) fn choice<T: Copy>(
        &mut self,
        key: &'static str,
        choices: &[(&'static str, T)],
        problems: &mut Problems,
    ) -> Option<T> {
        let entry = self.entry(key)?;
        let words: Vec<String> = choices.iter().map(|(word, _)| format!("{word:?}")).collect();
        let fix = format!("one of {}", words.join(", "));
        let Some(text) = as_text(&entry.node) else {
            self.wrong_kind(entry, "text in quotes", &fix, problems);
            return None;
        };
        let chosen = choices.iter().find(|(word, _)| *word == text).map(|(_, choice)| *choice);
        if chosen.is_none() {
            let what = format!("{} is not known", shown(&entry.node, &text));
            problems.add(&entry.place, &self.path.key(key), what, fix);
        }
        chosen
    }

    /// A list of texts. From the environment: `a,b` or `["a", "b"]`.
    pub(super) fn texts(&mut self, key: &'static str, problems: &mut Problems) -> Option<Vec<String>> {
        let entry = self.entry(key)?;
        let fix = format!("{key} = [\"…\", \"…\"]");
        let texts = match &entry.node.value {
            Value::List(items) => items.iter().map(as_text).collect(),
            Value::Untyped(text) => split_list(text),
            _ => None,
        };
        if texts.is_none() {
            self.wrong_kind(entry, "a list of texts", &fix, problems);
        }
        texts
    }

    /// The keys of an inner section with their texts, in the file's order.
    pub(super) fn text_map(&mut self, key: &'static str, problems: &mut Problems) -> Vec<(String, String)> {
        let Some(entry) = self.entry(key) else { return Vec::new() };
        let Value::Table(table) = &entry.node.value else {
            self.wrong_kind(entry, "a section", &format!("{key} = {{ name = \"…\" }}"), problems);
            return Vec::new();
        };
        let path = self.path.key(key);
        let mut pairs = Vec::new();
        for inner in &table.0 {
            match as_text(&inner.node) {
                Some(text) => pairs.push((inner.key.clone(), text)),
                None => {
                    let what = format!("must be text in quotes, not {}", inner.node.value.kind());
                    problems.add(&inner.place, &path.key(&inner.key), what, "");
                }
            }
        }
        pairs
    }

    /// An inner section; `None` when it is absent or something else.
    pub(super) fn section(&mut self, key: &'static str, problems: &mut Problems) -> Option<Section<'a>> {
        let entry = self.entry(key)?;
        self.inner(entry, problems)
    }

    /// The named sections in an inner one: `[sources.shop]`, `[sources.other]`, …
    pub(super) fn sections(
        &mut self,
        key: &'static str,
        problems: &mut Problems,
    ) -> Vec<(String, Section<'a>)> {
        let Some(section) = self.section(key, problems) else { return Vec::new() };
        let entries = section.entries().iter();
        entries.filter_map(|entry| Some((entry.key.clone(), section.inner(entry, problems)?))).collect()
    }

    fn inner(&self, entry: &'a Entry, problems: &mut Problems) -> Option<Section<'a>> {
        let path = self.path.key(&entry.key);
        match &entry.node.value {
            Value::Table(table) => Some(Section::new(path, entry.place.clone(), table)),
            _ => {
                self.wrong_kind(entry, "a section", &format!("write [{path}]"), problems);
                None
            }
        }
    }

    fn wrong_kind(&self, entry: &Entry, wanted: &str, fix: &str, problems: &mut Problems) {
        let what = format!("must be {wanted}, not {}", entry.node.value.kind());
        problems.add(&entry.place, &self.path.key(&entry.key), what, fix);
    }

    /// Refuses the keys that nobody asked for.
    pub(super) fn finish(self, problems: &mut Problems) {
        for entry in &self.table.0 {
            if !self.known.contains(&entry.key.as_str()) {
                let path = self.path.key(&entry.key);
                problems.add(&entry.place, &path, "unknown key", suggestion(&entry.key, &self.known));
            }
        }
    }
}

/// What was probably meant, or what there is.
pub(super) fn suggestion(written: &str, known: &[&str]) -> String {
    let distance = |key: &str| match key.starts_with(written) || written.starts_with(key) {
        true => 1,
        false => strsim::damerau_levenshtein(written, key),
    };
    let near = known.iter().map(|key| (distance(key), *key)).min();
    match near {
        // A third of the letters wrong is still a slip; more is another word.
        Some((distance, key)) if distance <= 1 + written.len() / 3 => format!("did you mean {key:?}?"),
        _ => format!("the keys here are {}", known.join(", ")),
    }
}

/// The node's text, if it is one.
pub(super) fn as_text(node: &Node) -> Option<String> {
    match &node.value {
        Value::Text(text) | Value::Untyped(text) => Some(text.clone()),
        _ => None,
    }
}

/// A text for a message: what may be a secret is not shown.
fn shown(node: &Node, text: &str) -> String {
    match node.hidden {
        true => "the value".to_owned(),
        false => format!("{text:?}"),
    }
}

fn split_list(text: &str) -> Option<Vec<String>> {
    if !text.trim_start().starts_with('[') {
        return Some(text.split(',').map(|item| item.trim().to_owned()).collect());
    }
    let parsed = toml::de::DeValue::parse(text.trim()).ok()?;
    match super::tree::node(text, parsed.get_ref()).value {
        Value::List(items) => items.iter().map(as_text).collect(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_is_recognised_and_another_word_is_not() {
        let known = ["lanes", "linger_ms", "nodes"];
        assert_eq!(suggestion("lane", &known), "did you mean \"lanes\"?");
        assert_eq!(suggestion("linger", &known), "did you mean \"linger_ms\"?");
        assert_eq!(suggestion("color", &known), "the keys here are lanes, linger_ms, nodes");
    }
}
