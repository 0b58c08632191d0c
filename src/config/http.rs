//! `[http]`: where a running process can be asked, and by whom.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use super::problem::Problems;
use super::secret::{self, Secret};
use super::section::Section;

/// Shorter ones could be guessed.
const TOKEN_LEAST: usize = 16;
/// A header has to hold it.
const TOKEN_MOST: usize = 1024;

/// The control channel's section.
#[derive(Clone, Debug)]
pub struct HttpSettings {
    /// The address that is listened on; its port is never 0.
    pub listen: SocketAddr,
    /// Who has it may see and change everything.
    pub admin_token: Option<Secret>,
    /// Who has it may see everything but documents.
    pub read_token: Option<Secret>,
}

impl HttpSettings {
    /// Whether nobody is let in without a token.
    pub fn wants_token(&self) -> bool {
        self.admin_token.is_some() || self.read_token.is_some()
    }
}

/// Reads the section; `None` when no address can be made of it.
pub(super) fn read(mut section: Section<'_>, folder: &Path, problems: &mut Problems) -> Option<HttpSettings> {
    let written = section.required_text("listen", "127.0.0.1:7171", problems);
    let admin_token = token(&mut section, "admin_token", "admin_token_file", folder, problems);
    let read_token = token(&mut section, "read_token", "read_token_file", folder, problems);
    if let (Some(admin), Some(read)) = (&admin_token, &read_token)
        && admin.expose() == read.expose()
    {
        let (place, path) = (section.place_of("read_token"), section.path.key("read_token"));
        problems.add(&place, &path, "is the admin_token: it could change things", "choose another one");
    }
    let place = section.place_of("listen");
    let path = section.path.key("listen");
    section.finish(problems);
    let written = written?;
    let fix = "an address and a port, as in \"127.0.0.1:7171\" or \"[::1]:7171\"";
    let Ok(listen) = written.parse::<SocketAddr>() else {
        problems.add(&place, &path, "is no address with a port", fix);
        return None;
    };
    if listen.port() == 0 {
        let what = "has port 0, so nobody would know where to ask";
        problems.add(&place, &path, what, fix);
    }
    let settings = HttpSettings { listen, admin_token, read_token };
    if !is_loopback(listen.ip()) && !settings.wants_token() {
        let what =
            format!("{} can be reached by other machines, and nobody has to show a token", listen.ip());
        let fix = "listen on 127.0.0.1 or [::1], or set admin_token = \"${ROWTIDE_TOKEN}\"";
        problems.add(&place, &path, what, fix);
    }
    Some(settings)
}

fn is_loopback(address: IpAddr) -> bool {
    address.to_canonical().is_loopback()
}

/// A secret that can stand in a header and cannot be guessed.
fn token(
    section: &mut Section<'_>,
    key: &'static str,
    file_key: &'static str,
    folder: &Path,
    problems: &mut Problems,
) -> Option<Secret> {
    let token = secret::read(section, key, file_key, folder, problems)?;
    let text = token.expose();
    let what = if text.len() < TOKEN_LEAST {
        format!("has fewer than {TOKEN_LEAST} characters")
    } else if text.len() > TOKEN_MOST {
        format!("has more than {TOKEN_MOST} characters")
    } else if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        "holds a space or something else that no header can hold".to_owned()
    } else {
        return Some(token);
    };
    let written = if section.entry(key).is_some() { key } else { file_key };
    let place = section.place_of(written);
    let path = section.path.key(written);
    problems.add(&place, &path, what, "make one, as with: openssl rand -hex 24");
    // Present all the same: that it is missing is not what is wrong.
    Some(token)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::tests::{GOOD, errors, load_good};

    const TOKEN: &str = "0123456789abcdef";

    fn with(section: &str) -> String {
        format!("{GOOD}\n[http]\n{section}\n")
    }

    #[test]
    fn without_the_section_nothing_listens() {
        assert!(load_good(GOOD, &[]).http.is_none());
    }

    #[test]
    fn loopback_needs_no_token_and_another_address_does() {
        for listen in ["127.0.0.1:7171", "[::1]:7171", "127.8.0.1:1", "[::ffff:127.0.0.1]:7171"] {
            let http = load_good(&with(&format!("listen = \"{listen}\"")), &[]).http.unwrap();
            assert_eq!(http.listen, listen.parse().unwrap());
            assert!(!http.wants_token());
        }
        for listen in ["0.0.0.0:7171", "[::]:7171", "10.0.0.1:7171"] {
            let text = with(&format!("listen = \"{listen}\""));
            let problems = errors(&text, &[]);
            assert!(problems.contains("http.listen: ") && problems.contains("show a token"), "{problems}");
            for key in ["admin_token", "read_token"] {
                let text = with(&format!("listen = \"{listen}\"\n{key} = \"{TOKEN}\""));
                assert!(load_good(&text, &[]).http.unwrap().wants_token());
            }
        }
    }

    #[test]
    fn a_token_comes_from_the_environment_and_is_never_printed() {
        let text = with("listen = \"127.0.0.1:7171\"\nadmin_token = \"${T}\"");
        let http = load_good(&text, &[("T", TOKEN)]).http.unwrap();
        assert_eq!(http.admin_token.as_ref().unwrap().expose(), TOKEN);
        assert!(!format!("{http:?}").contains(TOKEN));
    }

    #[test]
    fn what_cannot_be_an_address_or_a_token_is_told_with_its_fix() {
        let listen = "listen = \"127.0.0.1:7171\"\n";
        for (section, wanted) in [
            ("", "http.listen: is missing"),
            ("listen = \"localhost:7171\"", "http.listen: is no address with a port"),
            ("listen = \"127.0.0.1\"", "http.listen: is no address with a port"),
            ("listen = \"127.0.0.1:0\"", "http.listen: has port 0"),
            ("listen = 7171", "http.listen: must be text in quotes"),
            ("listne = \"127.0.0.1:7171\"", "did you mean \"listen\"?"),
            (&format!("{listen}admin_token = \"short\""), "http.admin_token: has fewer than 16 characters"),
            (&format!("{listen}read_token = \"0123456789 abcdef\""), "http.read_token: holds a space"),
            (
                &format!("{listen}admin_token_file = \"/none\""),
                "http.admin_token_file: \"/none\" cannot be read",
            ),
            (&format!("{listen}admin_token = \"{TOKEN}\"\nread_token = \"{TOKEN}\""), "is the admin_token"),
        ] {
            let problems = errors(&with(section), &[]);
            assert!(problems.contains(wanted), "{section}: {problems}");
            assert!(!problems.contains("short") && !problems.contains(TOKEN), "{problems}");
        }
    }
}
