//! TLS: whether it is asked for, whom it believes, and what a handshake's failure means.
//!
//! ```text
//!   sslmode                  first connection           else
//!   disable                  plain
//!   allow                    plain                      TLS, if the server refuses it so
//!   prefer                   TLS if the server has it   plain, if TLS fails or the server refuses it so
//!   require, verify-…        TLS
//! ```
//! - The server is asked (SSLRequest) and answers with one byte. Whatever comes with that byte was not
//!   encrypted, so the connection is over: it could be somebody's words in the server's name.
//! - Certificates and key are read for each connection, so that renewed ones are used.
//! - Without verification the connection is closed to who listens, not to who answers in the server's place.

mod binding;
mod files;
mod verify;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use rustls::pki_types::ServerName;
use rustls::{AlertDescription, CertificateError, ClientConfig, PeerIncompatible};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::WireError;
use super::socket::Socket;
use super::stream::Stream;

/// The protocol's number for "shall we speak TLS?", with its length.
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];

/// libpq's `sslmode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SslMode {
    Disable,
    Allow,
    Prefer,
    Require,
    VerifyCa,
    VerifyFull,
}

impl SslMode {
    const ALL: [(Self, &'static str); 6] = [
        (Self::Disable, "disable"),
        (Self::Allow, "allow"),
        (Self::Prefer, "prefer"),
        (Self::Require, "require"),
        (Self::VerifyCa, "verify-ca"),
        (Self::VerifyFull, "verify-full"),
    ];

    /// By its name.
    pub(crate) fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|(_, known)| *known == name).map(|(mode, _)| mode)
    }

    /// Its name.
    pub(crate) fn name(self) -> &'static str {
        Self::ALL.into_iter().find(|(mode, _)| *mode == self).map_or("", |(_, name)| name)
    }
}

/// Whose signature makes a certificate good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Roots {
    /// The authorities that the machine trusts.
    System,
    /// Those of a PEM file.
    File(PathBuf),
}

/// Whom TLS believes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Trust {
    /// Anybody: against listeners only.
    Anybody,
    /// Any server with a certificate of these.
    Issued(Roots),
    /// The host that was asked for, with a certificate of these.
    Host(Roots),
}

/// The client's own certificate and its key, both PEM files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    /// `sslcert`.
    pub(crate) certificate: PathBuf,
    /// `sslkey`.
    pub(crate) key: PathBuf,
}

/// How a source's connections use TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Tls {
    /// Whether.
    pub(crate) mode: SslMode,
    /// With whom.
    pub(crate) trust: Trust,
    /// As whom.
    pub(crate) identity: Option<Identity>,
}

/// One try at a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Try {
    Plain,
    /// TLS, or plain when the server has none.
    IfOffered,
    Encrypted,
}

impl Tls {
    /// Never.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(crate) fn never() -> Self {
        Self { mode: SslMode::Disable, trust: Trust::Anybody, identity: None }
    }

    /// What to try, and what then.
    pub(super) fn tries(&self) -> (Try, Option<Try>) {
        match self.mode {
            SslMode::Disable => (Try::Plain, None),
            SslMode::Allow => (Try::Plain, Some(Try::Encrypted)),
            SslMode::Prefer => (Try::IfOffered, Some(Try::Plain)),
            SslMode::Require | SslMode::VerifyCa | SslMode::VerifyFull => (Try::Encrypted, None),
        }
    }

    /// Reads what the files hold, to see at the start what is wrong with them: the key and the fault.
    pub(crate) fn judge(&self) -> Result<(), (&'static str, String)> {
        if let Trust::Issued(Roots::File(path)) | Trust::Host(Roots::File(path)) = &self.trust {
            files::roots(path).map_err(|error| ("sslrootcert", format!("{}: {error}", path.display())))?;
        }
        if let Some(identity) = &self.identity {
            files::identity(identity).map_err(|(key, error)| (key, error.to_string()))?;
            self.client().map_err(|error| ("sslcert", error.to_string()))?;
        }
        Ok(())
    }

    fn client(&self) -> io::Result<ClientConfig> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = Arc::new(verify::Verifier::new(&self.trust, &provider)?);
        let builder = ClientConfig::builder_with_provider(provider);
        let builder = builder.with_safe_default_protocol_versions().map_err(io::Error::other)?;
        let builder = builder.dangerous().with_custom_certificate_verifier(verifier);
        let mut client = match &self.identity {
            None => builder.with_no_client_auth(),
            Some(identity) => {
                let (chain, key) = files::identity(identity).map_err(|(_, error)| error)?;
                builder.with_client_auth_cert(chain, key).map_err(io::Error::other)?
            }
        };
        // So that what speaks another protocol on that port cannot be taken for the server.
        client.alpn_protocols = vec![b"postgresql".to_vec()];
        // Connections are made rarely: to remember sessions would only take memory.
        client.resumption = rustls::client::Resumption::disabled();
        Ok(client)
    }

    /// Asks the server for TLS on a fresh connection, and begins it.
    pub(super) async fn secure(
        &self,
        mut tcp: TcpStream,
        host: &str,
        tried: Try,
    ) -> Result<Stream, WireError> {
        if tried == Try::Plain {
            return Ok(Stream::Plain(Socket::Polled(tcp)));
        }
        if !asks(&mut tcp).await? {
            return match tried {
                Try::IfOffered | Try::Plain => Ok(Stream::Plain(Socket::Polled(tcp))),
                Try::Encrypted => Err(WireError::Tls {
                    what: format!("the server has no TLS, and sslmode={} wants it", self.mode.name()),
                    fix:
                        "set ssl = on in postgresql.conf; or sslmode=disable, within a network that you trust"
                            .into(),
                }),
            };
        }
        let name = ServerName::try_from(host.to_owned()).map_err(|_| WireError::Tls {
            what: format!("{host:?} is no name that a certificate can have"),
            fix: "name the host by its DNS name or its address".into(),
        })?;
        let read = |error| WireError::Io { doing: "read the certificates for TLS", error };
        let connector = TlsConnector::from(Arc::new(self.client().map_err(read)?));
        match connector.connect(name, Socket::Polled(tcp)).await {
            Ok(stream) => Ok(Stream::Tls(Box::new(stream))),
            Err(error) => Err(self.fault("begin TLS", error)),
        }
    }

    /// What a failed read, write or handshake is; TLS's own faults are among them.
    pub(super) fn fault(&self, doing: &'static str, error: io::Error) -> WireError {
        let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
        let said = inner.and_then(|error| self.words(error));
        said.map_or(WireError::Io { doing, error }, |(what, fix)| WireError::Tls { what, fix })
    }

    /// What a person must change; `None`: what broke was the connection.
    fn words(&self, error: &rustls::Error) -> Option<(String, String)> {
        let both = |what: &str, fix: &str| Some((what.to_owned(), fix.to_owned()));
        match error {
            rustls::Error::InvalidCertificate(error) => Some(self.of_certificate(error)),
            rustls::Error::AlertReceived(alert) => match alert {
                AlertDescription::CertificateRequired
                | AlertDescription::BadCertificate
                | AlertDescription::UnsupportedCertificate
                | AlertDescription::CertificateRevoked
                | AlertDescription::CertificateExpired
                | AlertDescription::CertificateUnknown
                | AlertDescription::UnknownCA
                | AlertDescription::AccessDenied
                | AlertDescription::DecryptError => Some((
                    format!("the server refuses the client's certificate ({alert:?})"),
                    "give sslcert and sslkey a certificate that is valid now and issued by an authority of \
                     the server's ssl_ca_file"
                        .to_owned(),
                )),
                AlertDescription::ProtocolVersion
                | AlertDescription::HandshakeFailure
                | AlertDescription::InsufficientSecurity => both(OLD, OLD_FIX),
                _ => None,
            },
            rustls::Error::PeerIncompatible(
                PeerIncompatible::ServerDoesNotSupportTls12Or13
                | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig,
            ) => both(OLD, OLD_FIX),
            _ => None,
        }
    }

    fn of_certificate(&self, error: &CertificateError) -> (String, String) {
        let roots = match &self.trust {
            Trust::Issued(Roots::File(path)) | Trust::Host(Roots::File(path)) => path.display().to_string(),
            _ => "the machine's certificates".to_owned(),
        };
        let renew = "renew the server's certificate, and see that both clocks are right";
        match error {
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                ("the server's certificate has expired".to_owned(), renew.to_owned())
            }
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                ("the server's certificate is not valid yet".to_owned(), renew.to_owned())
            }
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => (
                format!("the server's certificate is for another host: {error}"),
                "connect by a name that is in the certificate's subjectAltName (its common name does not count)"
                    .to_owned(),
            ),
            CertificateError::UnknownIssuer => (
                format!("the server's certificate was issued by nobody in {roots}"),
                "set sslrootcert to the certificate of the authority that issued the server's".to_owned(),
            ),
            CertificateError::BadSignature => (
                format!("the server's certificate does not bear the signature of its issuer in {roots}"),
                "set sslrootcert to the certificate of the authority that issued the server's".to_owned(),
            ),
            other => (
                format!("the server's certificate cannot be verified: {other}"),
                "name that very certificate in sslrootcert; or give the server one of X.509 version 3 that is no \
                 authority's"
                    .to_owned(),
            ),
        }
    }
}

const OLD: &str = "the server and Rowtide have no version or cipher of TLS in common";
const OLD_FIX: &str = "allow TLS 1.2 or 1.3 on the server: ssl_min_protocol_version, ssl_ciphers";

/// The hash that a login is bound to (`tls-server-end-point`), if the server's certificate has one.
pub(super) fn end_point(stream: &TlsStream<Socket>) -> Option<Vec<u8>> {
    binding::tls_server_end_point(stream.get_ref().1.peer_certificates()?.first()?)
}

/// For the fuzz targets: the hash of a certificate.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn end_point_of(certificate: &[u8]) -> Option<Vec<u8>> {
    binding::tls_server_end_point(certificate)
}

/// Asks for TLS; whether the server has it. Takes nothing from the socket that comes after the answer.
async fn asks(socket: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> Result<bool, WireError> {
    const DOING: &str = "ask the server for TLS";
    let io = |error| WireError::Io { doing: DOING, error };
    socket.write_all(&SSL_REQUEST).await.map_err(io)?;
    socket.flush().await.map_err(io)?;
    // Room for one byte more than the answer, to see that there is none.
    let mut answer = [0; 2];
    let read = socket.read(&mut answer).await.map_err(io)?;
    match (&answer[..read], answer[0]) {
        ([b'S'], _) => Ok(true),
        ([b'N'], _) => Ok(false),
        ([], _) => Err(io(io::Error::new(io::ErrorKind::UnexpectedEof, "the server closed the connection"))),
        // Its words are not shown: they could be anybody's.
        (_, b'E') => Err(WireError::Protocol("the question for TLS was answered by an error")),
        (_, b'S' | b'N') => Err(WireError::Protocol(
            "more than one byte answers the question for TLS: somebody may be speaking in the server's name",
        )),
        _ => Err(WireError::Protocol("the question for TLS was not understood: is this PostgreSQL?")),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// What comes of an answer that is there at once.
    async fn answered(answer: &[u8]) -> Result<bool, String> {
        let (mut ours, mut theirs) = tokio::io::duplex(64);
        theirs.write_all(answer).await.unwrap();
        if answer.is_empty() {
            theirs.shutdown().await.unwrap();
        }
        let asked = asks(&mut ours).await.map_err(|error| error.to_string());
        let mut heard = [0; 8];
        theirs.read_exact(&mut heard).await.unwrap();
        assert_eq!(heard, SSL_REQUEST);
        asked
    }

    #[tokio::test]
    async fn only_one_byte_may_answer_the_question_for_tls() {
        assert_eq!(answered(b"S").await, Ok(true));
        assert_eq!(answered(b"N").await, Ok(false));
        // CVE-2021-23222: words put in behind the answer would be taken for the server's.
        for injected in [&b"S\x16"[..], b"SR\0\0\0\x08\0\0\0\0", b"NZ"] {
            let error = answered(injected).await.unwrap_err();
            assert!(error.contains("in the server's name"), "{error}");
        }
        // CVE-2024-10977: what an unknown server says is not shown.
        let error = answered(b"E\0\0\0\x10Msecret\0\0").await.unwrap_err();
        assert!(error.contains("answered by an error") && !error.contains("secret"), "{error}");
        assert!(answered(b"H").await.unwrap_err().contains("is this PostgreSQL"));
        assert!(answered(b"").await.unwrap_err().contains("closed the connection"));
    }

    #[test]
    fn each_mode_has_its_name_and_its_tries() {
        for (mode, name) in SslMode::ALL {
            assert_eq!((SslMode::parse(name), mode.name()), (Some(mode), name));
        }
        assert_eq!(SslMode::parse("on"), None);
        let tries = |mode| Tls { mode, ..Tls::never() }.tries();
        assert_eq!(tries(SslMode::Disable), (Try::Plain, None));
        assert_eq!(tries(SslMode::Allow), (Try::Plain, Some(Try::Encrypted)));
        assert_eq!(tries(SslMode::Prefer), (Try::IfOffered, Some(Try::Plain)));
        assert_eq!(tries(SslMode::VerifyFull), (Try::Encrypted, None));
    }
}
