//! `[targets.NAME]`.

use std::path::Path;
use std::time::Duration;

use super::problem::{KeyPath, Place, Problems};
use super::secret::{self, Secret};
use super::section::Section;
use super::tree::Value;
use crate::target::{Easing, elasticsearch};

/// A target's section.
#[derive(Clone, Debug)]
pub struct TargetSettings {
    /// As in `[targets.NAME]`.
    pub name: String,
    /// `http://host:port` or `https://…`, each a node of one cluster; never empty.
    pub nodes: Vec<String>,
    /// How to log in.
    pub auth: Auth,
    /// Requests that may be in flight side by side.
    pub lanes: usize,
    /// A bulk request is sent when it has this many bytes …
    pub bulk_bytes_max: usize,
    /// … or this many actions …
    pub bulk_count_max: usize,
    /// … or when its first action has waited this long.
    pub linger: Duration,
    /// What to do at a first start with an index that holds documents.
    pub existing: Existing,
    /// What is set otherwise while an index is being filled.
    pub easing: Easing,
}

impl TargetSettings {
    /// What the client of the cluster is made with.
    pub fn client_settings(&self) -> elasticsearch::Settings {
        let auth = match &self.auth {
            Auth::None => elasticsearch::Auth::None,
            Auth::Basic { username, password } => {
                elasticsearch::Auth::Basic { username: username.clone(), password: password.hidden() }
            }
            Auth::ApiKey(key) => elasticsearch::Auth::ApiKey(key.hidden()),
        };
        elasticsearch::Settings { auth, ..elasticsearch::Settings::new(self.nodes.clone()) }
    }
}

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
}

/// What to do at a first start with an index that holds documents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Existing {
    /// Halt and say so.
    Refuse,
    /// Delete it and fill a new one.
    Replace,
}

const TYPES: &[(&str, ())] = &[("elasticsearch", ())];
const EXISTING: &[(&str, Existing)] = &[("refuse", Existing::Refuse), ("replace", Existing::Replace)];
const EASING: &[(&str, Easing)] = &[
    ("nothing", Easing::Nothing),
    ("refresh", Easing::Refresh),
    ("refresh-and-replicas", Easing::RefreshAndReplicas),
];

/// Reads a target's section.
pub(super) fn read(
    name: &str,
    mut section: Section<'_>,
    folder: &Path,
    problems: &mut Problems,
) -> TargetSettings {
    if section.choice("type", TYPES, problems).is_none() && section.entry("type").is_none() {
        section.missing(
            "type",
            "type = \"elasticsearch\" (Elasticsearch and OpenSearch)".to_owned(),
            problems,
        );
    }
    let nodes = read_nodes(&mut section, problems);
    let auth = read_auth(&mut section, folder, problems);
    let lanes = section.number("lanes", 1..=64, 4, problems) as usize;
    let bulk_bytes_max = section.size("bulk_bytes_max", problems).unwrap_or(5 << 20);
    // Servers refuse requests over 100 MiB by default (http.max_content_length).
    if !((1 << 10)..=(100 << 20)).contains(&bulk_bytes_max) {
        let entry = section.entry("bulk_bytes_max");
        let place = entry.map_or(section.place.clone(), |entry| entry.place.clone());
        let path = section.path.key("bulk_bytes_max");
        problems.add(
            &place,
            &path,
            "is out of range",
            "from \"1KiB\" to \"100MiB\"; the default is \"5MiB\"",
        );
    }
    let settings = TargetSettings {
        name: name.to_owned(),
        nodes,
        auth,
        lanes,
        bulk_bytes_max,
        bulk_count_max: section.number("bulk_count_max", 1..=100_000, 5_000, problems) as usize,
        linger: Duration::from_millis(section.number("linger_ms", 0..=60_000, 10, problems)),
        existing: section.choice("existing", EXISTING, problems).unwrap_or(Existing::Refuse),
        easing: section.choice("ease_backfill", EASING, problems).unwrap_or(Easing::Refresh),
    };
    section.finish(problems);
    settings
}

fn read_nodes(section: &mut Section<'_>, problems: &mut Problems) -> Vec<String> {
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

fn read_auth(section: &mut Section<'_>, folder: &Path, problems: &mut Problems) -> Auth {
    let username = section.text("username", problems);
    let before = problems.len();
    let password = secret::read(section, "password", "password_file", folder, problems);
    let api_key = secret::read(section, "api_key", "api_key_file", folder, problems);
    if problems.len() > before {
        return Auth::None;
    }
    match (username, password, api_key) {
        (None, None, None) => Auth::None,
        (Some(username), Some(password), None) => Auth::Basic { username, password },
        (None, None, Some(key)) => Auth::ApiKey(key),
        (Some(_), None, None) => {
            let fix = "password = \"${ES_PASSWORD}\", or password_file".to_owned();
            section.missing("password", fix, problems);
            Auth::None
        }
        (None, Some(_), _) => {
            section.missing("username", "username = \"…\" for the password".to_owned(), problems);
            Auth::None
        }
        (Some(_), _, Some(_)) => {
            let path = section.path.key("api_key");
            let entry = section.entry("api_key").or_else(|| section.entry("api_key_file"));
            let place = entry.map_or(section.place.clone(), |entry| entry.place.clone());
            let fix = "keep either username and password or the API key";
            problems.add(&place, &path, "is given beside username", fix);
            Auth::None
        }
    }
}
