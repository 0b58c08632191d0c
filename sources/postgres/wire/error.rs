//! What can go wrong on a connection, and the server's own words for it.

use std::fmt;
use std::io;

use crate::postgres::tuple::Malformed;

/// A failure of a connection. It is over then, except after [`WireError::Server`] outside of the
/// log stream.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WireError {
    /// The server refused, in its own words.
    #[error(transparent)]
    Server(#[from] Box<ServerError>),
    /// The network.
    #[error("{doing}: {error}")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// What the system answered.
        error: io::Error,
    },
    /// The server sent what the protocol does not have.
    #[error("the server broke the protocol: {0}")]
    Protocol(&'static str),
    /// Who we are could not be shown.
    #[error("authenticate: {0}")]
    Auth(String),
    /// TLS cannot be had, or not with whom it was asked for.
    #[error("TLS: {what}")]
    Tls {
        /// What was found.
        what: String,
        /// What to change.
        fix: String,
    },
    /// The time for connecting was up.
    #[error("connect to {address}: no answer within {seconds} s")]
    Timeout {
        /// `host:port`.
        address: String,
        /// The limit.
        seconds: u64,
    },
    /// No answer, and nobody at work on one.
    #[error("no answer for {seconds} s, and the server is not at work on one: the connection is lost")]
    Silent {
        /// How long nothing came before the server was asked.
        seconds: u64,
    },
}

impl From<Malformed> for WireError {
    fn from(malformed: Malformed) -> Self {
        Self::Protocol(malformed.0)
    }
}

impl WireError {
    /// The server's code for the error, as in `42P01`.
    pub(crate) fn sqlstate(&self) -> Option<&str> {
        match self {
            Self::Server(error) => Some(&error.sqlstate),
            _ => None,
        }
    }

    /// The server does not let this role in with this password.
    pub(crate) fn is_refused_login(&self) -> bool {
        matches!(self.sqlstate(), Some("28P01" | "28000"))
    }

    /// What may go better with TLS, or without it.
    pub(super) fn may_be_for_want_of_tls(&self) -> bool {
        matches!(self, Self::Tls { .. }) || self.sqlstate() == Some("28000")
    }
}

/// An ErrorResponse. The detail is left out when it is shown: it can hold a row's values.
#[derive(Clone, Default, PartialEq, Eq, thiserror::Error)]
pub(crate) struct ServerError {
    /// `ERROR`, `FATAL` or `PANIC`.
    pub(crate) severity: String,
    /// Five characters, as in `42P01`.
    pub(crate) sqlstate: String,
    /// The primary message.
    pub(crate) message: String,
    /// More of it.
    pub(crate) detail: Option<String>,
    /// What the server proposes.
    pub(crate) hint: Option<String>,
}

impl ServerError {
    /// Reads the body of an ErrorResponse or a NoticeResponse; what is not there stays empty.
    pub(super) fn parse(body: &[u8]) -> Self {
        let mut error = Self::default();
        for field in body.split(|&byte| byte == 0) {
            let Some((kind, text)) = field.split_first() else { continue };
            let text = String::from_utf8_lossy(text).into_owned();
            match kind {
                // V is S without translation, since PostgreSQL 9.6; it comes later.
                b'S' | b'V' => error.severity = text,
                b'C' => error.sqlstate = text,
                b'M' => error.message = text,
                b'D' => error.detail = Some(text),
                b'H' => error.hint = Some(text),
                _ => {}
            }
        }
        error
    }
}

impl fmt::Display for ServerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (SQLSTATE {})", self.message, self.sqlstate)?;
        match &self.hint {
            Some(hint) => write!(f, "; {hint}"),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for ServerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {self}", self.severity)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_has_the_servers_words_and_does_not_show_a_rows_values() {
        let error = ServerError::parse(
            b"SFEHLER\0VERROR\0C23505\0Mduplicate key\0DKey (id)=(secret)\0Hdo this\0Fx.c\0L1\0\0",
        );
        assert_eq!(error.severity, "ERROR");
        assert_eq!(error.detail.as_deref(), Some("Key (id)=(secret)"));
        assert_eq!(error.to_string(), "duplicate key (SQLSTATE 23505); do this");
        assert!(!format!("{error:?}").contains("secret"));
    }

    #[test]
    fn no_bytes_make_it_panic() {
        assert_eq!(ServerError::parse(b""), ServerError::default());
        assert_eq!(ServerError::parse(b"\0\0C").sqlstate, "");
        assert_eq!(ServerError::parse(b"M\xff").message, "\u{fffd}");
    }
}
