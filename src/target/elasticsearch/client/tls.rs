//! Whether a node's certificate is believed, and what is said when it is not.
//!
//! ```text
//!   System       the machine's authorities ─┐
//!   Authorities  those of `ca_file`         ├─► signatures lead there ─► in its time ─► for this host
//!   Pinned       an authority in the chain ─┘
//!                the server's own certificate ────────────────────────► in its time
//! ```
//! `ca_fingerprint` is the hash of any certificate that the server presents, as in Elasticsearch's
//! clients. They stop there; here the hash only chooses whom to trust: the signatures must lead from the
//! server's certificate to the chosen one, and the host must be named. Otherwise anybody could present
//! the authority's certificate, which is public, beside his own. Only when the server's own certificate
//! is the chosen one does its name not matter: nobody else has its key.

use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::str::FromStr;
use std::sync::Arc;

use ring::digest::{SHA256, digest};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};

/// Who may vouch for a node.
#[derive(Clone, Debug, Default)]
pub enum Trust {
    /// The authorities that the machine trusts.
    #[default]
    System,
    /// These, in place of the machine's; never empty.
    Authorities(Vec<CertificateDer<'static>>),
    /// The certificate of this hash, which the server presents.
    Pinned(Fingerprint),
}

impl Trust {
    /// The certificates of a PEM file; an error says what is wrong with it.
    pub fn authorities(pem: &[u8]) -> Result<Self, String> {
        let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
        let Some(found) = found.ok().filter(|found| !found.is_empty()) else {
            return Err("holds no certificate in PEM form".to_owned());
        };
        let mut store = RootCertStore::empty();
        for certificate in &found {
            store
                .add(certificate.clone())
                .map_err(|_| "holds a certificate that cannot be read".to_owned())?;
        }
        Ok(Self::Authorities(found))
    }
}

/// The SHA-256 of a certificate. No secret: whoever connects is shown the certificate.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint([u8; 32]);

impl Fingerprint {
    fn of(certificate: &CertificateDer<'_>) -> Self {
        let mut bytes = [0; 32];
        bytes.copy_from_slice(digest(&SHA256, certificate.as_ref()).as_ref());
        Self(bytes)
    }
}

/// 64 hexadecimal digits, with or without colons, large or small.
impl FromStr for Fingerprint {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let digits: Vec<u8> = text.trim().bytes().filter(|byte| *byte != b':').collect();
        let mut bytes = [0; 32];
        if digits.len() != 2 * bytes.len() || !digits.iter().all(u8::is_ascii_hexdigit) {
            return Err(());
        }
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks(2)) {
            let pair = std::str::from_utf8(pair).map_err(|_| ())?;
            *byte = u8::from_str_radix(pair, 16).map_err(|_| ())?;
        }
        Ok(Self(bytes))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02X}"))
    }
}

/// What connections are made with; `None` stands for the machine's own trust. Without `https` nothing is
/// trusted, and the machine's list is not read.
pub(super) fn config(
    trust: &Trust,
    is_https: bool,
    provider: &Arc<CryptoProvider>,
) -> Result<Option<ClientConfig>, Error> {
    let anchors = match trust {
        _ if !is_https => Anchors::Known { store: RootCertStore::empty(), own: Vec::new() },
        Trust::System => return Ok(None),
        Trust::Authorities(own) => {
            let mut store = RootCertStore::empty();
            own.iter().try_for_each(|certificate| store.add(certificate.clone()))?;
            Anchors::Known { store, own: own.clone() }
        }
        Trust::Pinned(fingerprint) => Anchors::Pinned(*fingerprint),
    };
    let verifier = Verifier { anchors, algorithms: provider.signature_verification_algorithms };
    let config = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()?
        // Its own verifier, which refuses more than the usual one does.
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    Ok(Some(config))
}

#[derive(Debug)]
enum Anchors {
    Known {
        store: RootCertStore,
        /// As they are: one may be the server's own.
        own: Vec<CertificateDer<'static>>,
    },
    Pinned(Fingerprint),
}

#[derive(Debug)]
struct Verifier {
    anchors: Anchors,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let leaf = ParsedCertificate::try_from(end_entity)?;
        let leads_to = |store: &RootCertStore| {
            verify_server_cert_signed_by_trust_anchor(&leaf, store, intermediates, now, self.algorithms.all)
        };
        let mut is_named = false;
        match &self.anchors {
            Anchors::Known { store, own } => {
                is_vouched_for(leads_to(store), own.contains(end_entity))?;
            }
            Anchors::Pinned(pin) if Fingerprint::of(end_entity) == *pin => {
                is_vouched_for(leads_to(&RootCertStore::empty()), true)?;
                is_named = true;
            }
            Anchors::Pinned(pin) => {
                let pinned = intermediates.iter().find(|&other| Fingerprint::of(other) == *pin);
                let Some(pinned) = pinned else {
                    return Err(CertificateError::ApplicationVerificationFailure.into());
                };
                let mut store = RootCertStore::empty();
                store.add(pinned.clone().into_owned())?;
                leads_to(&store)?;
            }
        }
        if !is_named {
            verify_server_name(&leaf, server_name)?;
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signed, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// A certificate that is trusted itself needs no issuer; its time and purpose were looked at before its
/// issuer. `openssl req -x509` marks it as an authority's, which is refused for a server's as "other".
fn is_vouched_for(judged: Result<(), Error>, is_trusted_itself: bool) -> Result<(), Error> {
    match judged {
        Err(Error::InvalidCertificate(CertificateError::UnknownIssuer | CertificateError::Other(_)))
            if is_trusted_itself =>
        {
            Ok(())
        }
        judged => judged,
    }
}

/// Why a node was not believed, and what to do.
pub(super) struct Distrust {
    pub(super) what: String,
    pub(super) fix: &'static str,
}

/// What TLS has against a node, if that is the cause of the error.
pub(super) fn distrust(error: &reqwest::Error) -> Option<Distrust> {
    let mut cause: Option<&(dyn StdError + 'static)> = Some(error);
    while let Some(found) = cause {
        if let Some(found) = inside(found) {
            return words(found);
        }
        cause = found.source();
    }
    None
}

/// What I/O errors are wrapped around: their source is only the source of that.
fn inside<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a Error> {
    error.downcast_ref().or_else(|| inside(error.downcast_ref::<io::Error>()?.get_ref()?))
}

fn words(error: &Error) -> Option<Distrust> {
    const DAY: u64 = 86_400;
    let days = |later: &UnixTime, earlier: &UnixTime| later.as_secs().saturating_sub(earlier.as_secs()) / DAY;
    let (what, fix) = match error {
        Error::InvalidCertificate(error) => match error {
            CertificateError::ExpiredContext { time, not_after } => (
                format!("the certificate expired {} days ago", days(time, not_after)),
                "renew the node's certificate, and look at this machine's clock",
            ),
            CertificateError::Expired => (
                "the certificate has expired".to_owned(),
                "renew the node's certificate, and look at this machine's clock",
            ),
            CertificateError::NotValidYetContext { time, not_before } => (
                format!("the certificate is valid only in {} days", days(not_before, time)),
                "look at the clocks of this machine and of the one that made the certificate",
            ),
            CertificateError::NotValidYet => (
                "the certificate is not valid yet".to_owned(),
                "look at the clocks of this machine and of the one that made the certificate",
            ),
            CertificateError::NotValidForNameContext { presented, .. } => {
                let names = presented.iter().take(5).cloned().collect::<Vec<_>>().join(", ");
                let names = if names.is_empty() { "no host".to_owned() } else { names };
                (
                    format!("the certificate is for another host ({names})"),
                    "name the node in `nodes` as its certificate does, or give it one for this name",
                )
            }
            CertificateError::NotValidForName => (
                "the certificate is for another host".to_owned(),
                "name the node in `nodes` as its certificate does, or give it one for this name",
            ),
            // The second is of an authority that was made anew under its old name.
            CertificateError::UnknownIssuer | CertificateError::BadSignature => (
                "the certificate is from an authority that is not trusted here".to_owned(),
                "set ca_file to the authority's certificate (PEM), or ca_fingerprint to its SHA-256",
            ),
            CertificateError::ApplicationVerificationFailure => (
                "no certificate that the node presents has the ca_fingerprint".to_owned(),
                "compare it with the authority's, or set ca_file instead if the node does not present that one",
            ),
            other => (
                format!("the certificate is refused ({other:?})"),
                "give the node a certificate for servers, signed by a trusted authority",
            ),
        },
        Error::InvalidMessage(_) => (
            "the node does not speak TLS".to_owned(),
            "write http:// in `nodes` if it is meant to be open, or switch TLS on in the cluster",
        ),
        _ => return None,
    };
    Some(Distrust { what, fix })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn a_fingerprint_is_read_as_the_tools_print_it() {
        let plain = "0f".repeat(32);
        let colons = vec!["0F"; 32].join(":");
        let read = |text: &str| text.parse::<Fingerprint>();
        assert_eq!(read(&plain), Ok(Fingerprint([15; 32])));
        assert_eq!(read(&colons), read(&plain));
        assert_eq!(format!("{:?}", Fingerprint([15; 32])), "0F".repeat(32));
        for wrong in ["", "0f", &"0g".repeat(32), &"0f".repeat(33), &"é".repeat(32)] {
            assert_eq!(read(wrong), Err(()), "{wrong}");
        }
    }

    #[test]
    fn a_file_without_certificates_is_refused() {
        for wrong in ["", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"] {
            let found = Trust::authorities(wrong.as_bytes()).unwrap_err();
            assert!(found.contains("no certificate"), "{found}");
        }
    }
}
