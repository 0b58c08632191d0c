//! `postgres://user:password@host:port/database?sslmode=verify-full`, as libpq reads it.

use crate::postgres::wire::SslMode;

/// What a URL says. Each part may be left out: the environment may say it.
#[derive(Clone, Default, PartialEq, Eq)]
pub(super) struct Url {
    pub(super) user: Option<String>,
    pub(super) password: Option<String>,
    pub(super) host: Option<String>,
    pub(super) port: Option<u16>,
    pub(super) database: Option<String>,
    /// Behind the `?`, each of [`PARAMETERS`] at most once.
    pub(super) parameters: Vec<(&'static str, String)>,
}

/// The parameters that are known.
const PARAMETERS: [&str; 6] =
    ["sslmode", "sslrootcert", "sslcert", "sslkey", "application_name", "connect_timeout"];

/// What is wrong with a URL. It never says what the URL was: a password can be in it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum UrlFault {
    #[error("it does not begin with postgres:// or postgresql://")]
    Scheme,
    #[error("it names several hosts, where one is expected")]
    Hosts,
    #[error("its port is no number from 1 to 65535")]
    Port,
    #[error("a % in it is not followed by two hexadecimal digits of a UTF-8 text")]
    Percent,
    #[error("its sslmode={0} is none of disable, allow, prefer, require, verify-ca, verify-full")]
    SslMode(String),
    #[error("it has an @ behind a ?: write a ? in the password as %3F, and an @ in a parameter as %40")]
    Unescaped,
    #[error("its parameter {0} is not known; there are {known}", known = PARAMETERS.join(", "))]
    Parameter(String),
}

impl Url {
    pub(super) fn parse(text: &str) -> Result<Self, UrlFault> {
        let rest = text.strip_prefix("postgres://").or_else(|| text.strip_prefix("postgresql://"));
        let rest = rest.ok_or(UrlFault::Scheme)?;
        let (rest, parameters) = rest.split_once('?').unwrap_or((rest, ""));
        // A password may hold an unescaped @ or /: the last @ before the database is the one.
        let (login, place) = rest.rsplit_once('@').unwrap_or(("", rest));
        let (address, database) = place.split_once('/').unwrap_or((place, ""));
        let (user, password) = match login.split_once(':') {
            Some((user, password)) => (user, Some(decoded(password)?)),
            None => (login, None),
        };
        let (host, port) = host_and_port(address)?;
        let said = |text: String| Some(text).filter(|text| !text.is_empty());
        let mut url = Self {
            user: said(decoded(user)?),
            password,
            host: said(host),
            port,
            database: said(decoded(database)?),
            parameters: Vec::new(),
        };
        for parameter in parameters.split('&').filter(|parameter| !parameter.is_empty()) {
            url.set(parameter).map_err(|fault| match parameters.contains('@') {
                // What looks like parameters can be the end of a password, which no message may show.
                true => UrlFault::Unescaped,
                false => fault,
            })?;
        }
        Ok(url)
    }

    fn set(&mut self, parameter: &str) -> Result<(), UrlFault> {
        let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        let known = PARAMETERS.into_iter().find(|known| *known == name);
        let name = known.ok_or_else(|| UrlFault::Parameter(name.to_owned()))?;
        // In a name for people it can be meant. Elsewhere it may end a password that began before the ?.
        if name != "application_name" && value.contains('@') {
            return Err(UrlFault::Unescaped);
        }
        let value = decoded(value)?;
        if name == "sslmode" && !value.is_empty() && SslMode::parse(&value).is_none() {
            return Err(UrlFault::SslMode(value));
        }
        // As libpq does: the last one counts.
        self.parameters.retain(|(before, _)| *before != name);
        self.parameters.push((name, value));
        Ok(())
    }

    /// A parameter that was given and is not empty.
    pub(super) fn parameter(&self, name: &str) -> Option<&str> {
        let found = self.parameters.iter().find(|(known, value)| *known == name && !value.is_empty());
        found.map(|(_, value)| value.as_str())
    }
}

fn host_and_port(address: &str) -> Result<(String, Option<u16>), UrlFault> {
    if address.contains(',') {
        return Err(UrlFault::Hosts);
    }
    // An IPv6 address stands in brackets.
    let (host, port) = match address.strip_prefix('[').and_then(|inside| inside.split_once(']')) {
        Some((host, "")) => (host, None),
        Some((host, port)) => (host, Some(port.strip_prefix(':').ok_or(UrlFault::Port)?)),
        None => match address.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (address, None),
        },
    };
    let port = match port {
        None => None,
        Some(port) => Some(port.parse().ok().filter(|port| *port > 0).ok_or(UrlFault::Port)?),
    };
    Ok((decoded(host)?, port))
}

fn decoded(text: &str) -> Result<String, UrlFault> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        rest = tail;
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let Some(([high, low], tail)) = rest.split_first_chunk::<2>() else {
            return Err(UrlFault::Percent);
        };
        let digit = |byte: u8| char::from(byte).to_digit(16).ok_or(UrlFault::Percent);
        bytes.push((digit(*high)? << 4 | digit(*low)?) as u8);
        rest = tail;
    }
    String::from_utf8(bytes).map_err(|_| UrlFault::Percent)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    fn fault(text: &str) -> UrlFault {
        Url::parse(text).err().unwrap()
    }

    #[test]
    fn each_part_is_read() {
        let url = Url::parse(
            "postgresql://me%40x:p%3Aw%2F@db.example:6000/my%20db?sslmode=prefer&application_name=a%26b",
        )
        .ok()
        .unwrap();
        assert_eq!((url.user.as_deref(), url.password.as_deref()), (Some("me@x"), Some("p:w/")));
        assert_eq!((url.host.as_deref(), url.port), (Some("db.example"), Some(6000)));
        assert_eq!(url.database.as_deref(), Some("my db"));
        assert_eq!(
            (url.parameter("sslmode"), url.parameter("application_name")),
            (Some("prefer"), Some("a&b"))
        );
        let url = Url::parse("postgres://me@[::1]").ok().unwrap();
        assert_eq!(
            (url.host.as_deref(), url.port, url.database, url.password),
            (Some("::1"), None, None, None)
        );
        let url = Url::parse("postgres://me@[::1]:7/x").ok().unwrap();
        assert_eq!((url.host.as_deref(), url.port), (Some("::1"), Some(7)));
        let url = Url::parse("postgres://me:a@b@h/d").ok().unwrap();
        assert_eq!(url.password.as_deref(), Some("a@b"));
        let url = Url::parse("postgres://h/d?sslmode=disable&sslmode=require&sslkey=").ok().unwrap();
        assert_eq!((url.user.as_deref(), url.host.as_deref()), (None, Some("h")));
        assert_eq!((url.parameter("sslmode"), url.parameter("sslkey")), (Some("require"), None));
        assert!(Url::parse("postgresql://").ok().unwrap() == Url::default());
    }

    #[test]
    fn each_fault_is_named() {
        assert_eq!(fault("mysql://a@b/c"), UrlFault::Scheme);
        assert_eq!(fault("postgres://u@a,b/d"), UrlFault::Hosts);
        for port in ["0", "65536", "x", ""] {
            assert_eq!(fault(&format!("postgres://u@h:{port}/d")), UrlFault::Port);
        }
        for bad in ["%", "%4", "%zz", "%ff"] {
            assert_eq!(fault(&format!("postgres://u@h/{bad}")), UrlFault::Percent);
        }
        assert_eq!(fault("postgres://u@h/d?sslmode=on"), UrlFault::SslMode("on".to_owned()));
        assert_eq!(fault("postgres://u@h/d?x=1"), UrlFault::Parameter("x".to_owned()));
    }

    #[test]
    fn a_password_with_a_question_mark_is_not_told_as_a_parameter() {
        for url in [
            "postgres://me:a@b?secret@h/d",
            "postgres://me:a@b?sslmode=secret@h/d",
            "postgres://me:a@b?secret&x@h/d",
            "postgres://me:a@b?sslrootcert=secret@h/d",
        ] {
            assert_eq!(fault(url), UrlFault::Unescaped, "{url}");
        }
        let named = Url::parse("postgres://me@h/d?application_name=a@b").ok().unwrap();
        assert_eq!(named.parameter("application_name"), Some("a@b"));
    }

    proptest! {
        #[test]
        fn what_was_escaped_comes_back(text in ".{0,20}") {
            let escaped: String = text.bytes().map(|byte| format!("%{byte:02X}")).collect();
            prop_assert_eq!(decoded(&escaped), Ok(text));
        }

        #[test]
        fn no_text_makes_it_panic(text in "(postgres://)?[a@:/?%&=\\[\\],é0]{0,20}") {
            let _any = Url::parse(&text);
        }
    }
}
