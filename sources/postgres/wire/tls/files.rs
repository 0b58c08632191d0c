//! Certificates and keys from PEM files, and what the machine trusts.

use std::io;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use rustls::RootCertStore;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::Identity;
use crate::postgres::credentials::private;

/// The most bytes of a PEM file: the list of all public authorities has some 250 KB.
const FILE_MAX: u64 = 4 << 20;

/// The certificates of a file: as authorities, and as they are.
pub(super) fn roots(path: &Path) -> io::Result<(RootCertStore, Vec<CertificateDer<'static>>)> {
    let certificates = certificates(path)?;
    let mut store = RootCertStore::empty();
    for certificate in &certificates {
        store.add(certificate.clone()).map_err(io::Error::other)?;
    }
    Ok((store, certificates))
}

/// What the machine trusts; read once.
pub(super) fn system() -> io::Result<Arc<RootCertStore>> {
    static SYSTEM: OnceLock<Arc<RootCertStore>> = OnceLock::new();
    if let Some(known) = SYSTEM.get() {
        return Ok(known.clone());
    }
    let mut store = RootCertStore::empty();
    store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if store.is_empty() {
        return Err(io::Error::other(
            "this machine has no certificates of authorities: install ca-certificates, or set sslrootcert",
        ));
    }
    Ok(SYSTEM.get_or_init(|| Arc::new(store)).clone())
}

/// The client's chain and key; an error names the key of the configuration that it is about.
pub(super) fn identity(
    identity: &Identity,
) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), (&'static str, io::Error)> {
    let about = |path: &Path, error: io::Error| io::Error::other(format!("{}: {error}", path.display()));
    let certificate = &identity.certificate;
    let chain = certificates(certificate).map_err(|error| ("sslcert", about(certificate, error)))?;
    let key = key(&identity.key).map_err(|error| ("sslkey", about(&identity.key, error)))?;
    Ok((chain, key))
}

fn certificates(path: &Path) -> io::Result<Vec<CertificateDer<'static>>> {
    let text = private::read_text(path, FILE_MAX)?;
    let found: Result<Vec<_>, pem::Error> = CertificateDer::pem_slice_iter(text.as_bytes()).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        _ => Err(io::Error::other("it holds no certificate in PEM form")),
    }
}

fn key(path: &Path) -> io::Result<PrivateKeyDer<'static>> {
    let text = private::read_private(path, FILE_MAX)?;
    PrivateKeyDer::from_pem_slice(text.as_bytes()).map_err(|_| {
        io::Error::other("it holds no private key in PEM form (one under a passphrase cannot be read)")
    })
}
