//! Whether a server's certificate is believed.

use std::io;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature,
};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};

use super::{Roots, Trust, files};

/// The judge of one connection.
#[derive(Debug)]
pub(super) struct Verifier {
    /// `None`: anybody is believed.
    authorities: Option<Authorities>,
    algorithms: WebPkiSupportedAlgorithms,
}

#[derive(Debug)]
struct Authorities {
    store: Arc<RootCertStore>,
    /// Those of the file, as they are: one may be the server's own.
    own: Vec<CertificateDer<'static>>,
    /// Whether the host's name must be in the certificate.
    with_name: bool,
}

impl Verifier {
    pub(super) fn new(trust: &Trust, provider: &CryptoProvider) -> io::Result<Self> {
        let (roots, with_name) = match trust {
            Trust::Anybody => (None, false),
            Trust::Issued(roots) => (Some(roots), false),
            Trust::Host(roots) => (Some(roots), true),
        };
        let authorities = match roots {
            None => None,
            Some(Roots::System) => Some(Authorities { store: files::system()?, own: Vec::new(), with_name }),
            Some(Roots::File(path)) => {
                let (store, own) = files::roots(path)?;
                Some(Authorities { store: Arc::new(store), own, with_name })
            }
        };
        Ok(Self { authorities, algorithms: provider.signature_verification_algorithms })
    }
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
        let Some(authorities) = &self.authorities else { return Ok(ServerCertVerified::assertion()) };
        let certificate = ParsedCertificate::try_from(end_entity)?;
        let algorithms = self.algorithms.all;
        match verify_server_cert_signed_by_trust_anchor(
            &certificate,
            &authorities.store,
            intermediates,
            now,
            algorithms,
        ) {
            Ok(()) => {}
            // The server's self-signed certificate is in the file itself. `openssl req -x509` marks it as an
            // authority's, which is refused for a server's as "other", after its time was looked at.
            Err(Error::InvalidCertificate(CertificateError::Other(_)))
                if authorities.own.contains(end_entity) => {}
            Err(error) => return Err(error),
        }
        if authorities.with_name {
            verify_server_name(&certificate, server_name)?;
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        match self.authorities {
            // Who is believed without a look may also have a certificate that is too old to be read.
            None => Ok(HandshakeSignatureValid::assertion()),
            Some(_) => verify_tls12_signature(message, certificate, signed, &self.algorithms),
        }
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        match self.authorities {
            None => Ok(HandshakeSignatureValid::assertion()),
            Some(_) => verify_tls13_signature(message, certificate, signed, &self.algorithms),
        }
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
