//! What is wrong with a configuration: all of it at once, each with its place and its fix.

use std::fmt;
use std::path::{Path, PathBuf};

/// Where a value was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A line of the file, counted from 1.
    Line(usize),
    /// An environment variable that overrides the file.
    Variable(String),
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where it was written; for a key that is missing, where its section begins.
    pub place: Place,
    /// The key with all its sections, as in `targets.search.lanes`.
    pub key: String,
    /// What is wrong. Never a secret's value.
    pub what: String,
    /// What would be right; empty when `what` says it.
    pub fix: String,
}

/// The problems of one configuration file, in the order in which they were found.
#[derive(Debug, Default)]
pub struct Problems(Vec<Problem>);

impl Problems {
    /// Adds one.
    pub(super) fn add(
        &mut self,
        place: &Place,
        key: &KeyPath,
        what: impl Into<String>,
        fix: impl Into<String>,
    ) {
        let place = place.clone();
        self.0.push(Problem { place, key: key.to_string(), what: what.into(), fix: fix.into() });
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All of them.
    pub fn iter(&self) -> std::slice::Iter<'_, Problem> {
        self.0.iter()
    }

    /// In the file's order, those of the environment last: a person reads from the top.
    pub(super) fn sorted(mut self) -> Self {
        self.0.sort_by_key(|problem| match problem.place {
            Place::Line(line) => line,
            Place::Variable(_) => usize::MAX,
        });
        self
    }
}

/// A configuration that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file could not be read.
    #[error("{file}: cannot be read: {error}; give the configuration file with --config FILE")]
    Unreadable {
        /// Its name.
        file: String,
        /// Why.
        error: std::io::Error,
    },
    /// It was read, and this is wrong with it.
    #[error("{}", Listing(.file, .problems))]
    Wrong {
        /// Its name.
        file: PathBuf,
        /// Everything that is wrong.
        problems: Problems,
    },
}

struct Listing<'a>(&'a Path, &'a Problems);

impl fmt::Display for Listing<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Listing(file, problems) = self;
        match problems.len() {
            1 => write!(f, "the configuration has a problem:")?,
            many => write!(f, "the configuration has {many} problems:")?,
        }
        for problem in problems.iter() {
            match &problem.place {
                Place::Line(line) => write!(f, "\n{}:{line}: ", file.display())?,
                Place::Variable(name) => write!(f, "\n${name}: ")?,
            }
            if !problem.key.is_empty() {
                write!(f, "{}: ", problem.key)?;
            }
            write!(f, "{}", problem.what)?;
            if !problem.fix.is_empty() {
                write!(f, "\n    fix: {}", problem.fix)?;
            }
        }
        Ok(())
    }
}

/// A key with its sections, written as TOML writes it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct KeyPath(String);

impl KeyPath {
    /// The key `key` of the section that this path names.
    pub(super) fn key(&self, key: &str) -> Self {
        let bare =
            !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
        let written = if bare { key.to_owned() } else { format!("{key:?}") };
        match self.0.is_empty() {
            true => Self(written),
            false => Self(format!("{}.{written}", self.0)),
        }
    }

    /// The element number `index` of the list that this path names, counted from 0.
    pub(super) fn index(&self, index: usize) -> Self {
        Self(format!("{}[{index}]", self.0))
    }
}

impl fmt::Display for KeyPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
