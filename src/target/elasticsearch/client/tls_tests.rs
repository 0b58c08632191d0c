//! Certificates as right and as wrong as they come, before a server that counts what it is sent.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods)]

use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::atomic::{AtomicUsize, Ordering};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, date_time_ymd};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use secrecy::SecretString;
use sources::world::RealWorld;

use super::*;
use crate::target::elasticsearch::Elasticsearch;
use crate::target::{Bulk, Outcome, Target};

/// Who issues certificates.
struct Authority {
    certificate: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate and its key.
struct Paper {
    certificate: CertificateDer<'static>,
    key: Vec<u8>,
}

impl Authority {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut parameters = CertificateParams::default();
        parameters.distinguished_name.push(DnType::CommonName, "search-ca");
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = parameters.self_signed(&key).unwrap().der().clone();
        Self { certificate, issuer: Issuer::new(parameters, key) }
    }

    fn issue(&self, host: &str, last_year: i32) -> Paper {
        let key = KeyPair::generate().unwrap();
        let certificate = parameters(host, last_year).signed_by(&key, &self.issuer).unwrap().der().clone();
        Paper { certificate, key: key.serialize_der() }
    }
}

/// Marked as an authority's, as `openssl req -x509` makes it.
fn self_signed(host: &str, last_year: i32) -> Paper {
    let key = KeyPair::generate().unwrap();
    let mut parameters = parameters(host, last_year);
    parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    Paper { certificate: parameters.self_signed(&key).unwrap().der().clone(), key: key.serialize_der() }
}

fn parameters(host: &str, last_year: i32) -> CertificateParams {
    let mut parameters = CertificateParams::new([host.to_owned()]).unwrap();
    parameters.not_before = date_time_ymd(2001, 1, 1);
    parameters.not_after = date_time_ymd(last_year, 12, 31);
    parameters
}

fn pem(certificate: &CertificateDer<'_>) -> String {
    use base64::Engine;
    let text = base64::engine::general_purpose::STANDARD.encode(certificate);
    format!("-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n")
}

fn fingerprint(certificate: &CertificateDer<'_>) -> String {
    let hash = ring::digest::digest(&ring::digest::SHA256, certificate);
    hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(":")
}

fn pinned(certificate: &CertificateDer<'_>) -> Trust {
    Trust::Pinned(fingerprint(certificate).parse().unwrap())
}

fn file(certificates: &[&CertificateDer<'_>]) -> Trust {
    let text: String = certificates.iter().map(|certificate| pem(certificate)).collect();
    Trust::authorities(text.as_bytes()).unwrap()
}

/// Presents this chain, and counts the bytes of requests.
fn serve(paper: &Paper, beside: &[&CertificateDer<'static>]) -> (u16, &'static AtomicUsize) {
    rustls::crypto::ring::default_provider().install_default().ok();
    let chain = [&paper.certificate].into_iter().chain(beside.iter().copied()).cloned().collect();
    let key = PrivatePkcs8KeyDer::from(paper.key.clone()).into();
    let config = ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key).unwrap();
    let config = std::sync::Arc::new(config);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let read: &'static AtomicUsize = Box::leak(Box::default());
    std::thread::spawn(move || {
        while let Ok((socket, _)) = listener.accept() {
            let mut stream = StreamOwned::new(ServerConnection::new(config.clone()).unwrap(), socket);
            let (mut request, mut buffer) = (Vec::new(), [0; 4096]);
            while let Ok(count @ 1..) = stream.read(&mut buffer) {
                read.fetch_add(count, Ordering::SeqCst);
                request.extend_from_slice(&buffer[..count]);
                let body = match () {
                    () if request.ends_with(b"\n{}\n") => {
                        r#"{"errors":false,"items":[{"index":{"status":201}}]}"#
                    }
                    () if request.starts_with(b"GET / ") => r#"{"version":{"number":"8.19.0"}}"#,
                    () => continue,
                };
                let length = body.len();
                write!(
                    stream,
                    "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}"
                )
                .unwrap();
                stream.conn.send_close_notify();
                stream.flush().ok();
                break;
            }
        }
    });
    (port, read)
}

fn target(port: u16, trust: Trust) -> Elasticsearch {
    let mut settings = Settings::new(vec![format!("https://localhost:{port}")]);
    settings.trust = trust;
    settings.auth = Auth::Bearer(SecretString::from("s3cret"));
    Elasticsearch::new(settings, RealWorld::shared()).unwrap()
}

async fn send(port: u16, trust: Trust) -> Result<Vec<Outcome>, TargetError> {
    let body = Bytes::from_static(b"{\"index\":{\"_index\":\"a\",\"_id\":\"1\"}}\n{}\n");
    target(port, trust).bulk(Bulk { opaque_id: "rowtide-test".to_owned(), body, actions: 1 }).await
}

/// The request is taken.
async fn believed((port, read): (u16, &AtomicUsize), trust: Trust) {
    assert_eq!(send(port, trust).await.unwrap(), [Outcome::Written]);
    assert!(read.load(Ordering::SeqCst) > 0);
}

/// Nothing of it is sent, and the reason says `what` and `fix`, for those who look too.
async fn refused((port, read): (u16, &AtomicUsize), trust: Trust, what: &str, fix: &str) {
    let sent = send(port, trust.clone()).await;
    let Err(TargetError::NotExecuted { reason, .. }) = &sent else { panic!("{what}: {sent:?}") };
    assert!(reason.contains(what) && reason.contains(fix), "{reason}");
    let looked = target(port, trust).look().await;
    let Err(TargetError::Halt { reason, hint, .. }) = &looked else { panic!("{what}: {looked:?}") };
    assert!(reason.contains(what) && hint.contains(fix), "{reason}; {hint}");
    assert_eq!(read.load(Ordering::SeqCst), 0, "{what}: the login went out");
}

#[tokio::test]
async fn an_authority_of_the_file_is_trusted_in_place_of_the_machines() {
    let (ours, another) = (Authority::new(), Authority::new());
    let paper = ours.issue("localhost", 2999);
    believed(serve(&paper, &[]), file(&[&ours.certificate])).await;
    believed(serve(&paper, &[]), file(&[&another.certificate, &ours.certificate])).await;
    refused(serve(&paper, &[]), file(&[&another.certificate]), "not trusted", "ca_file").await;
    refused(serve(&paper, &[&ours.certificate]), Trust::System, "not trusted", "ca_fingerprint").await;
}

#[tokio::test]
async fn an_expired_certificate_and_one_for_another_host_are_told_apart() {
    let ours = Authority::new();
    let trust = || file(&[&ours.certificate]);
    refused(serve(&ours.issue("localhost", 2020), &[]), trust(), "expired", "renew").await;
    let elsewhere = serve(&ours.issue("es.example", 2999), &[]);
    refused(elsewhere, trust(), "for another host (", "nodes").await;
}

#[tokio::test]
async fn a_fingerprint_names_an_authority_of_the_chain() {
    let (ours, another) = (Authority::new(), Authority::new());
    let paper = ours.issue("localhost", 2999);
    let trust = || pinned(&ours.certificate);
    believed(serve(&paper, &[&ours.certificate]), trust()).await;
    // It does not present it.
    refused(serve(&paper, &[]), trust(), "ca_fingerprint", "ca_file").await;
    refused(serve(&paper, &[&ours.certificate]), pinned(&another.certificate), "ca_fingerprint", "compare")
        .await;
    // The hash fits, and somebody else has signed: the authority's certificate is public.
    let rogue = another.issue("localhost", 2999);
    let chain: &[_] = &[&another.certificate, &ours.certificate];
    refused(serve(&rogue, chain), trust(), "certificate", "").await;
    // Elasticsearch's clients believe these two.
    let elsewhere = ours.issue("es.example", 2999);
    refused(serve(&elsewhere, &[&ours.certificate]), trust(), "for another host", "nodes").await;
    let old = ours.issue("localhost", 2020);
    refused(serve(&old, &[&ours.certificate]), trust(), "expired", "renew").await;
}

#[tokio::test]
async fn the_servers_own_certificate_may_be_the_trusted_one() {
    let ours = Authority::new();
    for paper in [ours.issue("es.example", 2999), self_signed("es.example", 2999)] {
        believed(serve(&paper, &[]), pinned(&paper.certificate)).await;
    }
    for paper in [ours.issue("localhost", 2020), self_signed("localhost", 2020)] {
        refused(serve(&paper, &[]), pinned(&paper.certificate), "expired", "renew").await;
    }
    let own = self_signed("localhost", 2999);
    believed(serve(&own, &[]), file(&[&own.certificate])).await;
    // Beside another leaf it is no authority's.
    let rogue = Authority::new().issue("localhost", 2999);
    refused(serve(&rogue, &[&own.certificate]), pinned(&own.certificate), "certificate", "").await;
    let elsewhere = self_signed("es.example", 2999);
    let trust = file(&[&elsewhere.certificate]);
    refused(serve(&elsewhere, &[]), trust, "for another host", "nodes").await;
}

#[tokio::test]
async fn a_node_without_tls_is_named_as_such() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        while let Ok((mut socket, _)) = listener.accept() {
            let _hello = socket.read(&mut [0; 1024]);
            socket.write_all(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n").ok();
        }
    });
    rustls::crypto::ring::default_provider().install_default().ok();
    static NOTHING: AtomicUsize = AtomicUsize::new(0);
    refused((port, &NOTHING), Trust::System, "does not speak TLS", "http://").await;
}
