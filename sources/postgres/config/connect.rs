//! Where to connect, as whom and how closed: the section, else the url, else the environment, else the
//! password file. What each variable means is libpq's; the default of `sslmode` is not.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::Section;
use super::url::Url;
use crate::postgres::credentials::{Login, Origin, Password, pgpass};
use crate::postgres::wire::{Connect, Identity, Roots, SslMode, Tls, Trust};

const EXAMPLE: &str = "url = \"postgres://rowtide@127.0.0.1:5432/shop\"";

/// Keys of the section that the url or the environment may say as well.
const KEYS: [&str; 4] = ["sslmode", "sslrootcert", "sslcert", "sslkey"];

/// The longest time that connecting may be given.
const TIMEOUT_MAX: u64 = 3600;

/// What was said, in all places.
pub(super) struct Said {
    /// `None`: it cannot be read, which was told.
    url: Option<Url>,
    password: Option<String>,
    /// Where the application has read the password, to read it again.
    password_file: Option<PathBuf>,
    keys: Vec<(&'static str, String)>,
    folder: PathBuf,
    environment: BTreeMap<String, String>,
}

/// A value, and where it was found.
struct Found {
    text: String,
    /// The key that a problem with it is told for; empty for a variable.
    key: &'static str,
    /// As in a message.
    spelled: String,
}

impl Said {
    /// Takes its keys out of the section.
    pub(super) fn take(
        section: &mut Section,
        folder: PathBuf,
        environment: BTreeMap<String, String>,
    ) -> Self {
        let has_host = environment.get("PGHOST").is_some_and(|host| !host.is_empty());
        let url = url(section, has_host);
        let password = section.text("password");
        let password_file = section.text("password_file").map(PathBuf::from);
        let keys = KEYS.into_iter().filter_map(|key| Some((key, section.text(key)?))).collect();
        Self { url, password, password_file, keys, folder, environment }
    }

    /// All of it together; what is wrong is told to the section.
    pub(super) fn judge(self, source: &str, section: &mut Section) -> Option<Connect> {
        let url = self.url.as_ref()?;
        if self.password.is_some() && url.password.is_some() {
            section.problem("password", "the url holds a password as well: keep one of them".to_owned());
        }
        let host = self.host(url, section);
        let port = self.port(url, section);
        let user = url.user.clone().or_else(|| self.variable("PGUSER"));
        if user.is_none() {
            section
                .problem("url", format!("it names no role, and PGUSER is not set; it looks like {EXAMPLE}"));
        }
        let tls = self.tls(host.as_deref().unwrap_or_default(), section);
        let timeout = self.timeout(section);
        let (host, user) = (host?, user?);
        let database = url.database.clone().or_else(|| self.variable("PGDATABASE"));
        let database = database.unwrap_or_else(|| user.clone());
        let name = self.found("application_name", "PGAPPNAME").map(|found| found.text);
        let wanted = pgpass::Wanted { host, port, database, user };
        let login = Arc::new(self.login(&wanted, section));
        Some(Connect {
            host: wanted.host,
            port,
            user: wanted.user,
            login,
            tls: Arc::new(tls?),
            database: wanted.database,
            replication: false,
            application_name: name.unwrap_or_else(|| format!("rowtide {source}")),
            timeout,
            options: Vec::new(),
        })
    }

    fn host(&self, url: &Url, section: &mut Section) -> Option<String> {
        let said = url.host.clone().map(|host| (host, "url", "its host"));
        let found = said.or_else(|| Some((self.variable("PGHOST")?, "", "PGHOST")));
        let Some((host, key, spelled)) = found else {
            section
                .problem("url", format!("it names no host, and PGHOST is not set; it looks like {EXAMPLE}"));
            return None;
        };
        let fault = match host.as_str() {
            host if host.contains(',') => "names several hosts, where one is expected",
            host if host.starts_with('/') || host.starts_with('@') => {
                "is a socket's folder, but Rowtide connects by TCP: name a host, as 127.0.0.1"
            }
            _ => return Some(host),
        };
        section.problem(key, format!("{spelled} {fault}"));
        None
    }

    fn port(&self, url: &Url, section: &mut Section) -> u16 {
        const DEFAULT: u16 = 5432;
        if let Some(port) = url.port {
            return port;
        }
        let Some(text) = self.variable("PGPORT") else { return DEFAULT };
        text.parse().ok().filter(|port| *port > 0).unwrap_or_else(|| {
            section.problem("", format!("PGPORT={text} is no number from 1 to 65535"));
            DEFAULT
        })
    }

    fn timeout(&self, section: &mut Section) -> Option<Duration> {
        let found = self.found("connect_timeout", "PGCONNECT_TIMEOUT")?;
        match found.text.parse().ok().filter(|seconds| *seconds <= TIMEOUT_MAX) {
            Some(0) => None,
            Some(seconds) => Some(Duration::from_secs(seconds)),
            None => {
                let Found { text, key, spelled } = found;
                let message = format!(
                    "{spelled}={text} is no number of seconds from 1 to {TIMEOUT_MAX}; 0 is the default"
                );
                section.problem(key, message);
                None
            }
        }
    }

    fn tls(&self, host: &str, section: &mut Section) -> Option<Tls> {
        let mut tls = self.judge_tls(host, section)?;
        if tls.mode == SslMode::Disable {
            tls.identity = None;
        }
        match tls.judge() {
            Ok(()) => Some(tls),
            Err((key, message)) => {
                let found = self.found(key, variable_of(key));
                let (key, spelled) = found.map_or((key, key.to_owned()), |found| (found.key, found.spelled));
                section.problem(key, format!("{spelled} cannot be used: {message}"));
                None
            }
        }
    }

    fn judge_tls(&self, host: &str, section: &mut Section) -> Option<Tls> {
        let roots = self.found("sslrootcert", "PGSSLROOTCERT");
        let mode = match self.found("sslmode", "PGSSLMODE") {
            // Not libpq's `prefer`: a network is not trusted unless somebody says so.
            None if roots.is_some() || !is_loopback(host) => SslMode::VerifyFull,
            None => SslMode::Prefer,
            Some(Found { text, key, spelled }) => match SslMode::parse(&text) {
                Some(mode) => mode,
                None => {
                    let message = "is none of disable, allow, prefer, require, verify-ca, verify-full";
                    section.problem(key, format!("{spelled}={text} {message}"));
                    return None;
                }
            },
        };
        let mut refuse =
            |found: &Found, message: &str| section.problem(found.key, format!("{} {message}", found.spelled));
        let verifies = !matches!(mode, SslMode::Disable | SslMode::Allow | SslMode::Prefer);
        let trust = match (mode, &roots) {
            // Said by the environment for all clients, it is none of this one's.
            _ if !verifies => {
                if let Some(found) = roots.as_ref().filter(|found| !found.key.is_empty()) {
                    let name = mode.name();
                    refuse(
                        found,
                        &format!("is not looked at with sslmode={name}: set verify-full, or leave it out"),
                    );
                }
                Trust::Anybody
            }
            (SslMode::VerifyFull, None) => Trust::Host(Roots::System),
            (SslMode::VerifyFull, Some(found)) if found.text == "system" => Trust::Host(Roots::System),
            (SslMode::VerifyFull, Some(found)) => Trust::Host(Roots::File(self.path(found))),
            (SslMode::Require, None) => Trust::Anybody,
            (_, None) => {
                let message = "sslmode=verify-ca needs sslrootcert to name a file: any server of the world has a \
                               certificate of the machine's authorities; or set verify-full";
                section.problem("sslmode", message.to_owned());
                return None;
            }
            (_, Some(found)) if found.text == "system" => {
                refuse(
                    found,
                    "=system needs sslmode=verify-full: any server of the world has such a certificate",
                );
                return None;
            }
            // As libpq: with authorities named, `require` looks at them too.
            (_, Some(found)) => Trust::Issued(Roots::File(self.path(found))),
        };
        let identity = match (self.found("sslcert", "PGSSLCERT"), self.found("sslkey", "PGSSLKEY")) {
            (Some(certificate), Some(key)) => {
                Some(Identity { certificate: self.path(&certificate), key: self.path(&key) })
            }
            (Some(alone), None) => {
                refuse(&alone, "needs sslkey beside it");
                None
            }
            (None, Some(alone)) => {
                refuse(&alone, "needs sslcert beside it");
                None
            }
            (None, None) => None,
        };
        Some(Tls { mode, trust, identity })
    }

    fn login(&self, wanted: &pgpass::Wanted, section: &mut Section) -> Login {
        let password = |text: &String| Some(Password(text.clone()));
        let in_url = self.url.as_ref().and_then(|url| url.password.as_ref());
        if let Some(text) = &self.password {
            let origin = self.password_file.clone().map_or(Origin::Fixed, Origin::File);
            return Login::new(password(text), origin);
        }
        let variable = self.variable("PGPASSWORD");
        if let Some(text) = in_url.or(variable.as_ref()) {
            return Login::new(password(text), Origin::Fixed);
        }
        let named = self.variable("PGPASSFILE").map(PathBuf::from);
        let home =
            || Some(PathBuf::from(self.variable("HOME")?).join(".pgpass")).filter(|path| path.exists());
        let Some(path) = named.or_else(home) else { return Login::new(None, Origin::Fixed) };
        match pgpass::read(&path, wanted) {
            Ok(found) => Login::new(found, Origin::Line(path, wanted.clone())),
            Err(error) => {
                section.problem(
                    "password",
                    format!("the password file {} cannot be used: {error}", path.display()),
                );
                Login::new(None, Origin::Fixed)
            }
        }
    }

    /// By the section, else the url, else the environment.
    fn found(&self, key: &'static str, variable: &'static str) -> Option<Found> {
        if let Some((_, text)) = self.keys.iter().find(|(known, _)| *known == key) {
            return Some(Found { text: text.clone(), key, spelled: key.to_owned() });
        }
        if let Some(text) = self.url.as_ref().and_then(|url| url.parameter(key)) {
            return Some(Found { text: text.to_owned(), key: "url", spelled: format!("its {key}") });
        }
        let text = self.variable(variable)?;
        Some(Found { text, key: "", spelled: variable.to_owned() })
    }

    /// A variable that is set and not empty.
    fn variable(&self, name: &str) -> Option<String> {
        self.environment.get(name).filter(|value| !value.is_empty()).cloned()
    }

    /// Relative to the configuration; what the environment says, to the working directory.
    fn path(&self, found: &Found) -> PathBuf {
        match found.key {
            "" => PathBuf::from(&found.text),
            _ => self.folder.join(&found.text),
        }
    }
}

fn url(section: &mut Section, may_be_missing: bool) -> Option<Url> {
    if !section.keys.contains_key("url") {
        if may_be_missing {
            return Some(Url::default());
        }
        section.problem("url", format!("is missing, as in {EXAMPLE}"));
        return None;
    }
    let text = section.text("url")?;
    let parsed = Url::parse(&text);
    parsed.map_err(|fault| section.problem("url", format!("{fault}; it looks like {EXAMPLE}"))).ok()
}

fn variable_of(key: &str) -> &'static str {
    match key {
        "sslrootcert" => "PGSSLROOTCERT",
        "sslcert" => "PGSSLCERT",
        _ => "PGSSLKEY",
    }
}

/// Whether the way to it leaves this machine for nobody to listen.
fn is_loopback(host: &str) -> bool {
    let is_address = |address: IpAddr| address.to_canonical().is_loopback();
    host.eq_ignore_ascii_case("localhost") || host.parse().is_ok_and(is_address)
}

#[cfg(test)]
mod tests;
