//! `[targets.NAME]`.

use std::path::Path;
use std::time::Duration;

use super::problem::Problems;
use super::reach::{self, Auth};
use super::section::Section;
use super::tree::Value;
use crate::target::Easing;
use crate::target::elasticsearch::{self, Trust};

/// A target's section.
#[derive(Clone, Debug)]
pub struct TargetSettings {
    /// As in `[targets.NAME]`.
    pub name: String,
    /// `http://host:port` or `https://…`, each a node of one cluster; never empty.
    pub nodes: Vec<String>,
    /// How to log in.
    pub auth: Auth,
    /// Who may vouch for the nodes' certificates.
    pub trust: Trust,
    /// Whether bulk requests are compressed.
    pub gzip: bool,
    /// Whether the cluster is asked for its data nodes.
    pub sniff: bool,
    /// Requests that may be in flight side by side.
    pub lanes: usize,
    /// A bulk request is sent when it has this many bytes …
    pub bulk_bytes_max: usize,
    /// … or this many actions …
    pub bulk_count_max: usize,
    /// … or this long after the last one of its lane.
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
            Auth::Bearer(token) => elasticsearch::Auth::Bearer(token.hidden()),
        };
        let (trust, gzip, sniff) = (self.trust.clone(), self.gzip, self.sniff);
        elasticsearch::Settings {
            auth,
            trust,
            gzip,
            sniff,
            ..elasticsearch::Settings::new(self.nodes.clone())
        }
    }
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

/// What a target's compressed requests hold beside the budget; its keys are judged later.
pub(super) fn packed_bytes(section: &Section<'_>) -> usize {
    let gzip = section.entries().iter().find(|entry| entry.key == "gzip");
    let is_off = gzip.is_none_or(|entry| entry.node.value == Value::Boolean(false));
    if is_off { 0 } else { elasticsearch::GZIP_BYTES_MAX }
}

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
    let nodes = reach::nodes(&mut section, problems);
    let auth = reach::auth(&mut section, folder, problems);
    let trust = reach::trust(&mut section, &nodes, folder, problems);
    let gzip = section.flag("gzip", problems);
    let sniff = reach::sniff(&mut section, &nodes, problems);
    let lanes = section.number("lanes", 1..=64, 4, problems) as usize;
    let bulk_bytes_max = section.size("bulk_bytes_max", problems).unwrap_or(5 << 20);
    // Servers refuse requests over 100 MiB by default (http.max_content_length).
    if !((1 << 10)..=(100 << 20)).contains(&bulk_bytes_max) {
        let place = section.place_of("bulk_bytes_max");
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
        trust,
        gzip,
        sniff,
        lanes,
        bulk_bytes_max,
        bulk_count_max: section.number("bulk_count_max", 1..=100_000, 5_000, problems) as usize,
        linger: Duration::from_millis(section.number("linger_ms", 0..=60_000, 5, problems)),
        existing: section.choice("existing", EXISTING, problems).unwrap_or(Existing::Refuse),
        easing: section.choice("ease_backfill", EASING, problems).unwrap_or(Easing::Refresh),
    };
    section.finish(problems);
    settings
}
