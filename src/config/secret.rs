//! Secrets: kept in a type that never prints them, read from the file, the environment or a file of
//! their own.

use std::fmt;
use std::path::Path;

use secrecy::{ExposeSecret, SecretString};

use super::problem::Problems;
use super::section::Section;

/// A password or a key. Prints as `***`, and its memory is wiped when it is dropped.
#[derive(Clone)]
pub struct Secret(SecretString);

impl Secret {
    /// Hides a text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(SecretString::from(text.into()))
    }

    /// The text itself: for the one place that sends it.
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }

    /// For a client that keeps its secrets hidden too.
    pub(super) fn hidden(&self) -> SecretString {
        self.0.clone()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// A secret under `key`, or in the file that `file_key` names (relative to `folder`).
pub(super) fn read(
    section: &mut Section<'_>,
    key: &'static str,
    file_key: &'static str,
    folder: &Path,
    problems: &mut Problems,
) -> Option<Secret> {
    let direct = section.text(key, problems);
    let Some(file) = section.text(file_key, problems) else { return direct.map(Secret::new) };
    let place = section.place_of(file_key);
    let path = section.path.key(file_key);
    if direct.is_some() {
        problems.add(&place, &path, format!("is given beside {key}"), "keep one of the two");
        return None;
    }
    match std::fs::read_to_string(folder.join(&file)) {
        // Editors and `echo` end a file with a newline that is no part of the secret.
        Ok(text) => Some(Secret::new(text.trim_end_matches(['\n', '\r']))),
        Err(error) => {
            let what = format!("{file:?} cannot be read: {error}");
            problems.add(&place, &path, what, "name a file that this user can read");
            None
        }
    }
}
