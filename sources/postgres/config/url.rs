//! `postgres://user:password@host:port/database?sslmode=disable`, as libpq reads it.

/// What a URL says; the defaults are libpq's.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Url {
    pub(super) user: String,
    pub(super) password: Option<String>,
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) database: Option<String>,
    pub(super) application_name: Option<String>,
}

/// What is wrong with a URL. It never says what the URL was: a password can be in it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum UrlFault {
    #[error("it does not begin with postgres:// or postgresql://")]
    Scheme,
    #[error("it names no role")]
    User,
    #[error("it names no host")]
    Host,
    #[error("it names several hosts, where one is expected")]
    Hosts,
    #[error("its port is no number from 1 to 65535")]
    Port,
    #[error("a % in it is not followed by two hexadecimal digits of a UTF-8 text")]
    Percent,
    #[error(
        "sslmode={0} needs TLS, which is not there yet: use sslmode=prefer or sslmode=disable \
         within a network that you trust"
    )]
    Tls(String),
    #[error("sslmode={0} is none of disable, allow, prefer, require, verify-ca, verify-full")]
    SslMode(String),
    #[error("it has an @ behind a ?: write a ? in the password as %3F, and an @ in a parameter as %40")]
    Unescaped,
    #[error("its parameter {0} is not known; there are sslmode and application_name")]
    Parameter(String),
}

impl Url {
    pub(super) fn parse(text: &str) -> Result<Self, UrlFault> {
        let rest = text.strip_prefix("postgres://").or_else(|| text.strip_prefix("postgresql://"));
        let rest = rest.ok_or(UrlFault::Scheme)?;
        let (rest, parameters) = rest.split_once('?').unwrap_or((rest, ""));
        // A password may hold an unescaped @ or /: the last @ before the database is the one.
        let (login, place) = rest.rsplit_once('@').ok_or(UrlFault::User)?;
        let (address, database) = place.split_once('/').unwrap_or((place, ""));
        let (user, password) = match login.split_once(':') {
            Some((user, password)) => (user, Some(decoded(password)?)),
            None => (login, None),
        };
        let (host, port) = host_and_port(address)?;
        let mut url = Self {
            user: decoded(user)?,
            password,
            host,
            port,
            database: Some(decoded(database)?).filter(|database| !database.is_empty()),
            application_name: None,
        };
        if url.user.is_empty() {
            return Err(UrlFault::User);
        }
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
        let value = decoded(value)?;
        match name {
            "sslmode" => judge_sslmode(value)?,
            "application_name" => self.application_name = Some(value),
            _ => return Err(UrlFault::Parameter(name.to_owned())),
        }
        Ok(())
    }
}

fn judge_sslmode(mode: String) -> Result<(), UrlFault> {
    match mode.as_str() {
        "disable" | "allow" | "prefer" => Ok(()),
        "require" | "verify-ca" | "verify-full" => Err(UrlFault::Tls(mode)),
        _ => Err(UrlFault::SslMode(mode)),
    }
}

fn host_and_port(address: &str) -> Result<(String, u16), UrlFault> {
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
    if host.is_empty() {
        return Err(UrlFault::Host);
    }
    let port = port.map_or(Ok(5432), |port| port.parse().map_err(|_| UrlFault::Port))?;
    if port == 0 {
        return Err(UrlFault::Port);
    }
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
        assert_eq!((url.user.as_str(), url.password.as_deref()), ("me@x", Some("p:w/")));
        assert_eq!((url.host.as_str(), url.port), ("db.example", 6000));
        assert_eq!((url.database.as_deref(), url.application_name.as_deref()), (Some("my db"), Some("a&b")));
        let url = Url::parse("postgres://me@[::1]").ok().unwrap();
        assert_eq!((url.host.as_str(), url.port, url.database, url.password), ("::1", 5432, None, None));
        let url = Url::parse("postgres://me@[::1]:7/x").ok().unwrap();
        assert_eq!((url.host.as_str(), url.port), ("::1", 7));
        let url = Url::parse("postgres://me:a@b@h/d").ok().unwrap();
        assert_eq!(url.password.as_deref(), Some("a@b"));
    }

    #[test]
    fn each_fault_is_named() {
        assert_eq!(fault("mysql://a@b/c"), UrlFault::Scheme);
        assert_eq!(fault("postgres://h/d"), UrlFault::User);
        assert_eq!(fault("postgres://@h/d"), UrlFault::User);
        assert_eq!(fault("postgres://u@/d"), UrlFault::Host);
        assert_eq!(fault("postgres://u@a,b/d"), UrlFault::Hosts);
        for port in ["0", "65536", "x", ""] {
            assert_eq!(fault(&format!("postgres://u@h:{port}/d")), UrlFault::Port);
        }
        for bad in ["%", "%4", "%zz", "%ff"] {
            assert_eq!(fault(&format!("postgres://u@h/{bad}")), UrlFault::Percent);
        }
        for mode in ["require", "verify-ca", "verify-full"] {
            assert_eq!(fault(&format!("postgres://u@h/d?sslmode={mode}")), UrlFault::Tls(mode.to_owned()));
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
        ] {
            assert_eq!(fault(url), UrlFault::Unescaped, "{url}");
        }
        let named = Url::parse("postgres://me@h/d?application_name=a@b").ok().unwrap();
        assert_eq!(named.application_name.as_deref(), Some("a@b"));
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
