//! Who may ask what, and from where.
//!
//! | tokens set | who is answered | who may change things |
//! |---|---|---|
//! | none | who asks by a name or address of loopback | the same |
//! | `read_token` | who shows it | nobody |
//! | `admin_token` | who shows it | the same |
//! | both | who shows one of them | who shows `admin_token` |
//!
//! The name matters because a page of another site may make a browser ask this machine, under a name that the
//! site's owner has pointed to 127.0.0.1 (DNS rebinding); and whoever asks for a page's sake says so in `Origin`.

use std::net::IpAddr;

use hyper::header::{AUTHORIZATION, HOST, HeaderMap, HeaderName, ORIGIN};
use hyper::{StatusCode, Uri};
use subtle::ConstantTimeEq;

use super::routes::Refusal;
use crate::config::{HttpSettings, Secret};

/// What a request would do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Right {
    /// Nothing that anybody could learn from.
    Nothing,
    /// See.
    Read,
    /// Change.
    Change,
}

pub(super) struct Access {
    listen: IpAddr,
    admin: Option<Secret>,
    read: Option<Secret>,
}

impl Access {
    pub(super) fn new(settings: &HttpSettings) -> Self {
        let HttpSettings { listen, admin_token, read_token } = settings.clone();
        Self { listen: listen.ip(), admin: admin_token, read: read_token }
    }

    fn wants_token(&self) -> bool {
        self.admin.is_some() || self.read.is_some()
    }

    /// Whether a request with these headers may do that.
    pub(super) fn judge(&self, headers: &HeaderMap, wanted: Right) -> Result<(), Refusal> {
        let host = host(headers)?;
        if !self.wants_token() && !self.is_own_name(&host) {
            let message = "the Host header names another machine: ask 127.0.0.1 or localhost, or set a token";
            return Err(Refusal::new(StatusCode::FORBIDDEN, "wrong-host", message));
        }
        if let Some(origin) = single(headers, ORIGIN)?
            && origin.strip_prefix("http://").or(origin.strip_prefix("https://")) != single(headers, HOST)?
        {
            let message = "pages of other sites may not ask here";
            return Err(Refusal::new(StatusCode::FORBIDDEN, "wrong-origin", message));
        }
        if !self.wants_token() || wanted == Right::Nothing {
            return Ok(());
        }
        self.judge_token(headers, wanted)
    }

    fn judge_token(&self, headers: &HeaderMap, wanted: Right) -> Result<(), Refusal> {
        let shown = single(headers, AUTHORIZATION)?.and_then(|text| {
            let (scheme, token) = text.split_once(' ')?;
            scheme.eq_ignore_ascii_case("bearer").then_some(token)
        });
        let shown = shown.unwrap_or_default();
        // Each is compared, whatever the other says.
        let (is_admin, is_reader) = (is_same(&self.admin, shown), is_same(&self.read, shown));
        match wanted {
            _ if is_admin => Ok(()),
            Right::Change if is_reader => {
                let message = "this token may only read: what changes something needs the admin_token";
                Err(Refusal::new(StatusCode::FORBIDDEN, "read-only", message))
            }
            _ if is_reader => Ok(()),
            _ => {
                let message = "a token is needed: Authorization: Bearer TOKEN";
                Err(Refusal::new(StatusCode::UNAUTHORIZED, "no-token", message))
            }
        }
    }

    fn is_own_name(&self, host: &str) -> bool {
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        match bare.parse::<IpAddr>() {
            Ok(address) => address.to_canonical().is_loopback() || address == self.listen,
            Err(_) => bare.eq_ignore_ascii_case("localhost"),
        }
    }
}

/// In a time that does not tell how much of it is right; its length is no secret.
fn is_same(token: &Option<Secret>, shown: &str) -> bool {
    let Some(token) = token else { return false };
    token.expose().as_bytes().ct_eq(shown.as_bytes()).into()
}

/// A header that is there once at most, as text.
fn single(headers: &HeaderMap, name: HeaderName) -> Result<Option<&str>, Refusal> {
    let bad = || {
        let message = format!("the header {name} is there twice, or is no text");
        Refusal::new(StatusCode::BAD_REQUEST, "bad-header", message)
    };
    let mut all = headers.get_all(&name).iter();
    let first = all.next();
    if all.next().is_some() {
        return Err(bad());
    }
    first.map(|value| value.to_str().map_err(|_| bad())).transpose()
}

/// The machine that was asked, without the port.
fn host(headers: &HeaderMap) -> Result<String, Refusal> {
    let written = single(headers, HOST)?.unwrap_or_default();
    let uri = format!("http://{written}/").parse::<Uri>().ok();
    let uri = uri.filter(|uri| uri.path() == "/" && uri.query().is_none() && !written.contains('@'));
    // A port that is none is left out of what was read.
    let uri = uri.filter(|uri| uri.port().is_some() || uri.host() == Some(written));
    match uri.as_ref().and_then(Uri::host) {
        Some(host) => Ok(host.to_owned()),
        None => {
            Err(Refusal::new(StatusCode::BAD_REQUEST, "bad-host", "the Host header is missing or no name"))
        }
    }
}
