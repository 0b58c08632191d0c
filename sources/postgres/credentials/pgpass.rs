//! libpq's password file: `host:port:database:role:password`, a line each, the first that fits.
//!
//! `*` fits anything; `\` makes the next character an ordinary one; `#` begins a comment line.

use std::io;
use std::path::Path;

use super::{Password, private};

/// The most bytes of the file: some ten thousand lines.
const FILE_MAX: u64 = 1 << 20;

/// Whose password is looked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// As the configuration spells it.
    pub(crate) host: String,
    /// Of the server.
    pub(crate) port: u16,
    /// The database.
    pub(crate) database: String,
    /// The role.
    pub(crate) user: String,
}

/// Looks into a file; refused when others may read it.
pub(crate) fn read(path: &Path, wanted: &Wanted) -> io::Result<Option<Password>> {
    Ok(find(&private::read_private(path, FILE_MAX)?, wanted))
}

/// The password of the first line that fits.
pub(crate) fn find(text: &str, wanted: &Wanted) -> Option<Password> {
    let port = wanted.port.to_string();
    let fields = [&wanted.host, &port, &wanted.database, &wanted.user];
    text.lines().filter(|line| !line.starts_with('#')).find_map(|line| {
        let mut rest = line;
        for field in fields {
            let (found, after) = field_of(rest);
            if found.is_any || found.text == *field {
                rest = after?;
            } else {
                return None;
            }
        }
        // The last one ends the line: a colon in it may be escaped, or not.
        let password = field_of_rest(rest);
        (!password.is_empty()).then_some(Password(password))
    })
}

struct Field {
    text: String,
    /// A `*` that was not escaped.
    is_any: bool,
}

/// The field up to the next colon, and what follows the colon.
fn field_of(text: &str) -> (Field, Option<&str>) {
    let mut field = String::new();
    let mut letters = text.char_indices();
    while let Some((at, letter)) = letters.next() {
        match letter {
            ':' => return (Field { is_any: text[..at] == *"*", text: field }, Some(&text[at + 1..])),
            '\\' => field.extend(letters.next().map(|(_, letter)| letter)),
            letter => field.push(letter),
        }
    }
    (Field { is_any: text == "*", text: field }, None)
}

fn field_of_rest(text: &str) -> String {
    let mut field = String::new();
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        match letter {
            '\\' => field.extend(letters.next()),
            // libpq's own end of the field.
            ':' => break,
            letter => field.push(letter),
        }
    }
    field
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;

    use proptest::prelude::*;

    use super::*;

    fn wanted() -> Wanted {
        Wanted { host: "db".into(), port: 5432, database: "shop".into(), user: "cdc".into() }
    }

    fn found(text: &str) -> Option<String> {
        find(text, &wanted()).map(|password| password.0)
    }

    #[test]
    fn the_first_line_that_fits_has_the_password() {
        assert_eq!(found("db:5432:shop:cdc:p"), Some("p".into()));
        assert_eq!(
            found("# db:5432:shop:cdc:no\n\nother:*:*:*:no\n*:*:*:*:p\ndb:5432:shop:cdc:late"),
            Some("p".into())
        );
        assert_eq!(found("db:5433:*:*:no\ndb:*:shop:someone:no\n"), None);
        assert_eq!(found("db:5432:shop:cdc:\n"), None);
        for cut in ["", "db", "db:5432", "db:5432:shop:cdc"] {
            assert_eq!(found(cut), None, "{cut}");
        }
        // A * that was escaped is a name.
        assert_eq!(found("\\*:*:*:*:no"), None);
    }

    #[test]
    fn escapes_stand_for_themselves() {
        let wanted = Wanted { host: "::1".into(), port: 1, database: "a\\b".into(), user: "*".into() };
        let password = find("\\:\\:1:1:a\\\\b:\\*:p\\:w\\\\d", &wanted).unwrap();
        assert_eq!(password.0, "p:w\\d");
    }

    #[test]
    fn a_file_that_others_may_read_is_refused() {
        let path = std::env::temp_dir().join(format!("rowtide-{}-pgpass", std::process::id()));
        std::fs::write(&path, "*:*:*:*:p").unwrap();
        std::fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        let error = read(&path, &wanted()).unwrap_err().to_string();
        assert!(error.contains("others may read it: chmod 06"), "{error}");
        std::fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        assert_eq!(read(&path, &wanted()).unwrap(), Some(Password("p".into())));
        std::fs::remove_file(&path).unwrap();
    }

    proptest! {
        #[test]
        fn what_was_escaped_is_found(host in ".{1,8}", user in "[a*:\\\\é]{1,8}", password in ".{1,8}") {
            prop_assume!(![&host, &password].iter().any(|text| text.contains(['\n', '\r'])) && !host.starts_with('#'));
            let escaped = |text: &str| text.replace('\\', "\\\\").replace(':', "\\:").replace('*', "\\*");
            let line = format!("{}:*:*:{}:{}", escaped(&host), escaped(&user), escaped(&password));
            let wanted = Wanted { host, user, ..wanted() };
            prop_assert_eq!(find(&line, &wanted), Some(Password(password)));
        }

        #[test]
        fn no_text_makes_it_panic(text in "[a*:\\\\#\né0]{0,30}") {
            let _any = find(&text, &wanted());
        }
    }
}
