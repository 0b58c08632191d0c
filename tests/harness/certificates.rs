//! Certificates of the tests' own, each as right or as wrong as a test needs it.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, date_time_ymd};

/// A certificate and its key, in PEM.
pub(crate) struct Paper {
    pub(crate) certificate: String,
    pub(crate) key: String,
}

/// Who issues certificates.
pub(crate) struct Authority {
    pub(crate) certificate: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    pub(crate) fn new(name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut parameters = CertificateParams::default();
        parameters.distinguished_name.push(DnType::CommonName, name);
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = parameters.self_signed(&key).unwrap().pem();
        Self { certificate, issuer: Issuer::new(parameters, key) }
    }

    /// For these hosts, until the end of this year.
    pub(crate) fn issue(&self, hosts: &[&str], last_year: i32) -> Paper {
        let key = KeyPair::generate().unwrap();
        let certificate = parameters(hosts, last_year).signed_by(&key, &self.issuer).unwrap().pem();
        Paper { certificate, key: key.serialize_pem() }
    }

    /// For a client; the common name is the role.
    pub(crate) fn issue_to(&self, role: &str) -> Paper {
        let key = KeyPair::generate().unwrap();
        let mut parameters = parameters(&[], 2999);
        parameters.distinguished_name.push(DnType::CommonName, role);
        let certificate = parameters.signed_by(&key, &self.issuer).unwrap().pem();
        Paper { certificate, key: key.serialize_pem() }
    }
}

/// Signed by nobody else, and marked as an authority's, as `openssl req -x509` makes it.
pub(crate) fn self_signed(hosts: &[&str], last_year: i32) -> Paper {
    let key = KeyPair::generate().unwrap();
    let mut parameters = parameters(hosts, last_year);
    parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    Paper { certificate: parameters.self_signed(&key).unwrap().pem(), key: key.serialize_pem() }
}

fn parameters(hosts: &[&str], last_year: i32) -> CertificateParams {
    let hosts: Vec<String> = hosts.iter().map(|&host| host.to_owned()).collect();
    let mut parameters = CertificateParams::new(hosts).unwrap();
    parameters.not_before = date_time_ymd(2001, 1, 1);
    parameters.not_after = date_time_ymd(last_year, 12, 31);
    parameters
}

/// Writes a file for everybody.
pub(crate) fn write(folder: &Path, name: &str, text: &str) -> PathBuf {
    let path = folder.join(name);
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
    path
}

/// Writes a file that only this user may read.
pub(crate) fn write_private(folder: &Path, name: &str, text: &str) -> PathBuf {
    let path = write(folder, name, text);
    fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
    path
}

/// Gives a file to the user whom `start-pg.sh` lets the server run as.
pub(crate) fn give_to_the_server(path: &Path) {
    if !rustix::process::getuid().is_root() {
        return;
    }
    let id = |user: &str| {
        let output = Command::new("id").args(["-u", user]).output().unwrap();
        String::from_utf8(output.stdout).unwrap().trim().parse::<u32>().ok()
    };
    let user = id("postgres").or_else(|| id("nobody"));
    chown(path, user, None).unwrap();
}
