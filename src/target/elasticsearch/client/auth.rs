//! Who Rowtide is for the cluster: one header, kept out of every text.

use std::fmt;

use base64::Engine;
use reqwest::header::HeaderValue;
use secrecy::{ExposeSecret, SecretString};

use super::wrong_settings;
use crate::target::TargetError;

/// How Rowtide proves who it is.
#[derive(Clone)]
pub enum Auth {
    /// The cluster asks for nothing.
    None,
    /// A user and a password.
    Basic {
        /// The user.
        username: String,
        /// The password.
        password: SecretString,
    },
    /// An API key of Elasticsearch: `id:key`, or already encoded as Elasticsearch prints it.
    ApiKey(SecretString),
    /// A token: of Elasticsearch's token service, a service account's, or a JWT.
    Bearer(SecretString),
}

impl fmt::Debug for Auth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Auth::None => f.write_str("None"),
            Auth::Basic { username, .. } => write!(f, "Basic({username}, ***)"),
            Auth::ApiKey(_) => f.write_str("ApiKey(***)"),
            Auth::Bearer(_) => f.write_str("Bearer(***)"),
        }
    }
}

/// The header's value; `None` when nothing is asked for.
pub(super) fn authorization(auth: &Auth) -> Result<Option<HeaderValue>, TargetError> {
    let encode = |text: String| base64::engine::general_purpose::STANDARD.encode(text);
    let (key, text) = match auth {
        Auth::None => return Ok(None),
        Auth::Basic { username, password } => {
            ("password", format!("Basic {}", encode(format!("{username}:{}", password.expose_secret()))))
        }
        Auth::ApiKey(key) if key.expose_secret().contains(':') => {
            ("api_key", format!("ApiKey {}", encode(key.expose_secret().to_owned())))
        }
        Auth::ApiKey(key) => ("api_key", format!("ApiKey {}", key.expose_secret())),
        Auth::Bearer(token) => ("bearer_token", format!("Bearer {}", token.expose_secret())),
    };
    let Ok(mut value) = HeaderValue::from_str(&text) else {
        let reason = format!("the {key} holds bytes that cannot be sent");
        return Err(wrong_settings(&reason, "copy it in its encoded form, on one line"));
    };
    value.set_sensitive(true);
    Ok(Some(value))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn secrets_print_as_stars() {
        let password = SecretString::from("hunter2");
        let auth = Auth::Basic { username: "u".to_owned(), password };
        assert_eq!(format!("{auth:?}"), "Basic(u, ***)");
        assert_eq!(format!("{:?}", Auth::ApiKey(SecretString::from("k"))), "ApiKey(***)");
        assert_eq!(format!("{:?}", Auth::Bearer(SecretString::from("t"))), "Bearer(***)");
        assert!(format!("{:?}", authorization(&auth).unwrap()).contains("Sensitive"));
    }

    #[test]
    fn each_login_has_its_header_and_a_broken_one_names_its_key() {
        let header = |auth| authorization(&auth).unwrap().unwrap().to_str().unwrap().to_owned();
        assert_eq!(header(Auth::Bearer(SecretString::from("AAEAA"))), "Bearer AAEAA");
        assert_eq!(header(Auth::ApiKey(SecretString::from("a:b"))), "ApiKey YTpi");
        assert_eq!(header(Auth::ApiKey(SecretString::from("YTpi"))), "ApiKey YTpi");
        let broken = authorization(&Auth::Bearer(SecretString::from("a\nb"))).unwrap_err().to_string();
        assert!(broken.contains("bearer_token") && !broken.contains("a\nb"), "{broken}");
    }
}
