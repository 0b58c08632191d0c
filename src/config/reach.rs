//! How a target is reached: its nodes, the login, whom to trust.

use std::path::Path;

use super::problem::{KeyPath, Place, Problems};
use super::secret::{self, Secret};
use super::section::Section;
use super::tree::Value;
use crate::target::elasticsearch::Trust;

/// The list of all public authorities has some 250 KB.
const CA_FILE_MAX: u64 = 4 << 20;

/// How to log in to a target.
#[derive(Clone, Debug)]
pub enum Auth {
    /// Not at all.
    None,
    /// HTTP basic.
    Basic {
        /// The user.
        username: String,
        /// Its password.
        password: Secret,
    },
    /// `Authorization: ApiKey …`, the encoded form.
    ApiKey(Secret),
    /// `Authorization: Bearer …`.
    Bearer(Secret),
}

/// The login: one way, or none.
pub(super) fn auth(section: &mut Section<'_>, folder: &Path, problems: &mut Problems) -> Auth {
    let username = section.text("username", problems);
    let before = problems.len();
    let password = secret::read(section, "password", "password_file", folder, problems);
    let api_key = secret::read(section, "api_key", "api_key_file", folder, problems);
    let bearer = secret::read(section, "bearer_token", "bearer_token_file", folder, problems);
    if problems.len() > before {
        return Auth::None;
    }
    let first = match (&username, &api_key) {
        (Some(_), _) => "username",
        (None, Some(_)) => "api_key",
        (None, None) => "",
    };
    let second = match (&username, &api_key, &bearer) {
        (Some(_), Some(_), _) => Some(("api_key", "api_key_file")),
        (Some(_), None, Some(_)) | (None, Some(_), Some(_)) => Some(("bearer_token", "bearer_token_file")),
        _ => None,
    };
    if let Some((key, file_key)) = second {
        let entry = section.entry(key).or_else(|| section.entry(file_key));
        let place = entry.map_or(section.place.clone(), |entry| entry.place.clone());
        let path = section.path.key(entry.map_or(key, |entry| entry.key.as_str()));
        let fix = "keep one login: username and password, the API key, or the bearer token";
        problems.add(&place, &path, format!("is given beside {first}"), fix);
        return Auth::None;
    }
    match (username, password, api_key, bearer) {
        (Some(username), Some(password), ..) => Auth::Basic { username, password },
        (Some(_), None, ..) => {
            let fix = "password = \"${ES_PASSWORD}\", or password_file".to_owned();
            section.missing("password", fix, problems);
            Auth::None
        }
        (None, Some(_), ..) => {
            section.missing("username", "username = \"…\" for the password".to_owned(), problems);
            Auth::None
        }
        (None, None, Some(key), _) => Auth::ApiKey(key),
        (None, None, None, Some(token)) => Auth::Bearer(token),
        (None, None, None, None) => Auth::None,
    }
}

/// Whom to trust: what the machine does, unless one of two keys says otherwise.
pub(super) fn trust(
    section: &mut Section<'_>,
    nodes: &[String],
    folder: &Path,
    problems: &mut Problems,
) -> Trust {
    let file = section.text("ca_file", problems);
    let fingerprint = section.text("ca_fingerprint", problems);
    let at = |section: &mut Section<'_>, key| {
        let place = section.place_of(key);
        (place, section.path.key(key))
    };
    for key in ["ca_file", "ca_fingerprint"].into_iter().filter(|key| section.entry(key).is_some()) {
        if nodes.iter().any(|node| node.starts_with("http:")) {
            let (place, path) = at(section, key);
            let fix = "write https:// in nodes, or leave it out";
            problems.add(&place, &path, "is given, and a node is http://, which has no certificate", fix);
            return Trust::System;
        }
    }
    match (file, fingerprint) {
        (None, None) => Trust::System,
        (Some(_), Some(_)) => {
            let (place, path) = at(section, "ca_fingerprint");
            problems.add(&place, &path, "is given beside ca_file", "keep one of the two");
            Trust::System
        }
        (Some(file), None) => {
            let read = read_bounded(&folder.join(&file)).map_err(|error| format!("cannot be read: {error}"));
            read.and_then(|pem| Trust::authorities(&pem)).unwrap_or_else(|what| {
                let (place, path) = at(section, "ca_file");
                let fix = "name a PEM file with the authority's certificate (BEGIN CERTIFICATE)";
                problems.add(&place, &path, format!("{file:?} {what}"), fix);
                Trust::System
            })
        }
        (None, Some(text)) => text.parse().map(Trust::Pinned).unwrap_or_else(|()| {
            let (place, path) = at(section, "ca_fingerprint");
            let fix = "the SHA-256 of a certificate: 64 hexadecimal digits, colons between them or not";
            problems.add(&place, &path, "is no fingerprint", fix);
            Trust::System
        }),
    }
}

fn read_bounded(path: &Path) -> std::io::Result<Vec<u8>> {
    use std::io::Read;
    let mut text = Vec::new();
    std::fs::File::open(path)?.take(CA_FILE_MAX + 1).read_to_end(&mut text)?;
    match text.len() as u64 > CA_FILE_MAX {
        true => Err(std::io::Error::other("it has more than 4 MiB")),
        false => Ok(text),
    }
}

/// Whether the cluster is asked for its nodes. What it names is reached as it is: through a path of a
/// proxy it cannot be, and with two schemes it would not be known by which.
pub(super) fn sniff(section: &mut Section<'_>, nodes: &[String], problems: &mut Problems) -> bool {
    if !section.flag("sniff", problems) {
        return false;
    }
    let place = section.place_of("sniff");
    let path = section.path.key("sniff");
    let is_https = |node: &String| node.starts_with("https:");
    if nodes.iter().any(is_https) && !nodes.iter().all(is_https) {
        let fix = "write all of nodes with https://, or leave sniff out";
        problems.add(&place, &path, "is true, and nodes has both http:// and https://", fix);
    }
    let has_path = |node: &String| node.split_once("://").is_some_and(|(_, rest)| rest.contains('/'));
    if nodes.iter().any(has_path) {
        let fix = "name the nodes themselves, or leave sniff out";
        problems.add(&place, &path, "is true, and a node has a path, so it lies behind a proxy", fix);
    }
    true
}

/// The nodes, without a slash at the end.
pub(super) fn nodes(section: &mut Section<'_>, problems: &mut Problems) -> Vec<String> {
    let example = "nodes = [\"http://127.0.0.1:9200\"]";
    let Some(entry) = section.entry("nodes") else {
        section.missing("nodes", example.to_owned(), problems);
        return Vec::new();
    };
    let path = section.path.key("nodes");
    let Some(nodes) = section.texts("nodes", problems) else { return Vec::new() };
    if nodes.is_empty() {
        problems.add(&entry.place, &path, "names no node", example);
    }
    let hidden = matches!(entry.node.value, Value::Untyped(_));
    for (index, node) in nodes.iter().enumerate() {
        judge_node(node, hidden, &entry.place, &path.index(index), problems);
    }
    nodes.into_iter().map(|node| node.trim_end_matches('/').to_owned()).collect()
}

fn judge_node(node: &str, hidden: bool, place: &Place, path: &KeyPath, problems: &mut Problems) {
    let example = "as in \"http://127.0.0.1:9200\"";
    let url = match reqwest::Url::parse(node) {
        Ok(url) if matches!(url.scheme(), "http" | "https") && url.host().is_some() => url,
        // What is no URL may be a secret that was put into the wrong place.
        _ if hidden => return problems.add(place, path, "is no http or https URL", example),
        _ => {
            // A user and password may stand before the @.
            let tail = node.rsplit('@').next().unwrap_or_default();
            return problems.add(place, path, format!("{tail:?} is no http or https URL"), example);
        }
    };
    if !url.username().is_empty() || url.password().is_some() {
        let fix = "give them as username and password, where they stay out of logs";
        problems.add(place, path, "holds a user or password", fix);
    }
    if url.query().is_some() || url.fragment().is_some() {
        problems.add(place, path, "holds a query or fragment", example);
    }
}
