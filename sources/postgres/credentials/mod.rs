//! The password: where it comes from, and what a refused login means.
//!
//! ```text
//!   refused (28P01, 28000) ─► read it again ─► changed: once more, at once, with the new one
//!                                          └─► as before ─► first start: halt
//!                                                       └─► while it runs: wait up to PATIENCE, then halt
//! ```
//! All connections of a source share one [`Login`], so a new password that one has found is everybody's.
//! It is held once, is never shown, and is read only when a login needs it.

pub(crate) mod pgpass;
pub(crate) mod private;

use std::fmt;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::world::Moment;

/// How long a pipeline that was running waits for a login that works: long enough for what changes
/// the password in the server and in the file one after the other, short beside the log that the slot keeps.
pub(crate) const PATIENCE: Duration = Duration::from_secs(600);

/// The most bytes of a file with one password.
const SECRET_MAX: u64 = 64 << 10;

/// A password; never shown.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Password(pub(crate) String);

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// Where the password was found, and may be found again.
#[derive(Debug)]
pub(crate) enum Origin {
    /// In the configuration or the environment: it stays what it is while the process lives.
    Fixed,
    /// A file that holds nothing else.
    File(PathBuf),
    /// A line of a password file in libpq's form.
    Line(PathBuf, pgpass::Wanted),
}

/// The password of a source, shared by all of its connections.
#[derive(Debug)]
pub(crate) struct Login {
    origin: Origin,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    password: Option<Password>,
    /// Whether the log was read with this login since the process began.
    has_run: bool,
    /// When it was refused first since it was last read with.
    refused_at: Option<Moment>,
}

impl Login {
    /// What was found, and where.
    pub(crate) fn new(password: Option<Password>, origin: Origin) -> Self {
        Self { origin, state: Mutex::new(State { password, ..State::default() }) }
    }

    /// The newest one; `None` where none is needed.
    pub(crate) fn password(&self) -> Option<Password> {
        self.state().password.clone()
    }

    /// After `refused` was refused: another one, if there is one by now.
    pub(crate) fn read_again(&self, refused: Option<&Password>) -> Option<Password> {
        // What cannot be read this moment is being changed: the old one stays.
        let found = match &self.origin {
            Origin::Fixed => None,
            Origin::File(path) => private::read_text(path, SECRET_MAX).ok().map(|text| trimmed(&text)),
            Origin::Line(path, wanted) => pgpass::read(path, wanted).ok().flatten(),
        };
        let mut state = self.state();
        if let Some(found) = found {
            state.password = Some(found);
        }
        state.password.clone().filter(|password| Some(password) != refused)
    }

    /// The log is read with it.
    pub(crate) fn works(&self) {
        let mut state = self.state();
        state.has_run = true;
        state.refused_at = None;
    }

    /// After a refusal: how much longer another password is waited for, and where. `None`: not at all.
    pub(crate) fn patience(&self, now: Moment) -> Option<(Duration, String)> {
        let place = match &self.origin {
            Origin::Fixed => return None,
            Origin::File(path) | Origin::Line(path, _) => path.display().to_string(),
        };
        let mut state = self.state();
        if !state.has_run {
            return None;
        }
        let since = *state.refused_at.get_or_insert(now);
        let left = PATIENCE.checked_sub(now.saturating_sub(since)).filter(|left| !left.is_zero());
        left.map(|left| (left, place))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Editors and `echo` end a file with a newline that is no part of the secret.
fn trimmed(text: &str) -> Password {
    Password(text.trim_end_matches(['\n', '\r']).to_owned())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn password(text: &str) -> Password {
        Password(text.to_owned())
    }

    fn in_a_file(name: &str) -> (PathBuf, Login) {
        let path = std::env::temp_dir().join(format!("rowtide-{}-{name}", std::process::id()));
        std::fs::write(&path, "old\n").unwrap();
        let login = Login::new(Some(password("old")), Origin::File(path.clone()));
        (path, login)
    }

    #[test]
    fn another_password_is_found_once_it_is_in_the_file_and_by_every_connection() {
        let (path, login) = in_a_file("again");
        let old = password("old");
        assert_eq!(login.read_again(Some(&old)), None);
        std::fs::write(&path, "new\r\n").unwrap();
        assert_eq!(login.read_again(Some(&old)), Some(password("new")));
        assert_eq!(login.password(), Some(password("new")));
        std::fs::remove_file(&path).unwrap();
        // A connection that began before with the old one takes what another has found.
        assert_eq!(login.read_again(Some(&old)), Some(password("new")));
        assert_eq!(login.read_again(Some(&password("new"))), None);
        assert!(!format!("{login:?}").contains("new"));
    }

    #[test]
    fn a_lost_login_is_waited_for_only_after_it_has_worked_and_not_for_ever() {
        let (path, login) = in_a_file("patience");
        let at = Duration::from_secs;
        assert_eq!(login.patience(at(5)), None, "a first start halts");
        login.works();
        assert_eq!(login.patience(at(10)).unwrap().0, PATIENCE);
        assert_eq!(login.patience(at(70)).unwrap().0, PATIENCE - at(60));
        assert_eq!(login.patience(at(10) + PATIENCE), None);
        login.works();
        assert_eq!(login.patience(at(9999)).unwrap().0, PATIENCE, "the next loss is another one");
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn a_password_that_cannot_change_is_not_waited_for() {
        let login = Login::new(Some(password("p")), Origin::Fixed);
        login.works();
        assert_eq!((login.read_again(Some(&password("p"))), login.patience(Duration::ZERO)), (None, None));
    }
}
