//! The cluster's own list of nodes (`sniff = true`): `GET /_nodes/http`.
//!
//! Asked before the first request, every five minutes, and soon after a node has failed; by the request
//! that happens to be next, so no task runs beside. Only data nodes are taken: a bulk request that
//! reaches another is sent on by it. Each address keeps the scheme, the login and the trust of the
//! configured nodes; a seed that does not answer this question changes nothing.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use reqwest::Url;
use serde::Deserialize;
use sources::world::Moment;

pub(super) const PATH: &str = "/_nodes/http?filter_path=nodes.*.roles,nodes.*.http.publish_address";
/// Nodes come and go with days between; a node that is gone is noticed by its failure.
const EVERY: Duration = Duration::from_secs(300);
/// After a failure, of a node or of the question.
const SOON: Duration = Duration::from_secs(10);
/// More than any cluster has; the answer is bounded too.
const NODES_MAX: usize = 1_000;

/// When the cluster is asked next.
#[derive(Default)]
pub(super) struct Schedule(Mutex<Times>);

#[derive(Default)]
struct Times {
    asked: Moment,
    due: Moment,
}

impl Schedule {
    /// Whether the caller is the one to ask now.
    pub(super) fn is_due(&self, now: Moment) -> bool {
        let mut times = self.times();
        let is_due = now >= times.due;
        if is_due {
            *times = Times { asked: now, due: now + EVERY };
        }
        is_due
    }

    /// A node failed, or the question was not answered.
    pub(super) fn soon(&self) {
        let mut times = self.times();
        times.due = times.due.min(times.asked + SOON);
    }

    fn times(&self) -> std::sync::MutexGuard<'_, Times> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Deserialize)]
struct Listing<'a> {
    #[serde(borrow)]
    nodes: BTreeMap<String, Listed<'a>>,
}

#[derive(Deserialize)]
struct Listed<'a> {
    #[serde(default, borrow)]
    roles: Vec<std::borrow::Cow<'a, str>>,
    #[serde(borrow)]
    http: Option<Http<'a>>,
}

#[derive(Deserialize)]
struct Http<'a> {
    #[serde(borrow)]
    publish_address: std::borrow::Cow<'a, str>,
}

/// The bases of the data nodes, in order; `None` when it is no such answer.
pub(super) fn data_nodes(body: &[u8], scheme: &str) -> Option<Vec<String>> {
    let listing: Listing<'_> = serde_json::from_slice(body).ok()?;
    let data = listing.nodes.values().filter(|node| node.roles.iter().any(|role| holds_data(role)));
    let mut bases: Vec<String> = data
        .filter_map(|node| node.http.as_ref())
        .filter_map(|http| base(&http.publish_address, scheme))
        .take(NODES_MAX)
        .collect();
    bases.sort();
    bases.dedup();
    Some(bases)
}

/// Frozen nodes hold snapshots, which nobody writes to.
fn holds_data(role: &str) -> bool {
    role == "data" || (role.starts_with("data_") && role != "data_frozen")
}

/// Of `ip:port`, `[ip]:port` or `host/ip:port`; the host is what a certificate is made for.
fn base(address: &str, scheme: &str) -> Option<String> {
    let (host, numbers) = match address.split_once('/') {
        Some((host, numbers)) => (Some(host).filter(|host| !host.is_empty()), numbers),
        None => (None, address),
    };
    let (ip, port) = numbers.rsplit_once(':')?;
    let (host, port) = (host.unwrap_or(ip), port.parse::<u16>().ok()?);
    let url = Url::parse(&format!("{scheme}://{host}:{port}")).ok()?;
    // Whatever else it names was no host.
    let is_plain = url.username().is_empty()
        && url.password().is_none()
        && url.path() == "/"
        && url.query().is_none()
        && url.fragment().is_none();
    (is_plain && url.scheme() == scheme).then(|| url.as_str().trim_end_matches('/').to_owned())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn every_form_of_an_address_is_read_and_nothing_else() {
        for (address, wanted) in [
            ("127.0.0.1:9200", "https://127.0.0.1:9200"),
            ("[::1]:9200", "https://[::1]:9200"),
            ("es-1.example/10.0.0.1:9201", "https://es-1.example:9201"),
            ("es-1.example/[fe80::1]:9201", "https://es-1.example:9201"),
            ("/10.0.0.1:9201", "https://10.0.0.1:9201"),
        ] {
            assert_eq!(base(address, "https").as_deref(), Some(wanted), "{address}");
        }
        for wrong in
            ["", "host", "host:", "host:99999", "u:p@host:1", "u@h/1.2.3.4:1", "h?x:1", "h#x:1", "a b:1"]
        {
            assert_eq!(base(wrong, "http"), None, "{wrong}");
        }
    }

    #[test]
    fn the_answers_of_real_servers_are_read() {
        // Elasticsearch 7.17.29, 8.19.21 and 9.5.3; OpenSearch 2.19.6 and 3.8.0.
        for recorded in [
            r#"{"nodes":{"zeZnpn1BR8eyEs7vS1Tflw":{"roles":["data","data_cold","data_content","data_frozen","data_hot","data_warm","ingest","master","remote_cluster_client"],"http":{"publish_address":"127.0.0.1:9200"}}}}"#,
            r#"{"nodes":{"evUkuP2STheeJYF8KZqKSw":{"roles":["data","data_cold","data_content","data_frozen","data_hot","data_warm","ingest","master","ml","remote_cluster_client","transform"],"http":{"publish_address":"127.0.0.1:9200"}}}}"#,
            r#"{"nodes":{"_q4icyYgQgeBgsVcCWkqbg":{"roles":["data","data_cold","data_content","data_frozen","data_hot","data_warm","ingest","master","ml","remote_cluster_client","transform"],"http":{"publish_address":"127.0.0.1:9200"}}}}"#,
            r#"{"nodes":{"lxj56BdQQBSMRWBvF-ZD1Q":{"roles":["cluster_manager","data","ingest","remote_cluster_client"],"http":{"publish_address":"127.0.0.1:9200"}}}}"#,
            r#"{"nodes":{"KlRSaW0BTUCkQ31HaK2eDg":{"roles":["cluster_manager","data","ingest","remote_cluster_client"],"http":{"publish_address":"127.0.0.1:9200"}}}}"#,
        ] {
            assert_eq!(
                data_nodes(recorded.as_bytes(), "http").unwrap(),
                ["http://127.0.0.1:9200"],
                "{recorded}"
            );
        }
    }

    #[test]
    fn only_nodes_that_hold_data_are_taken() {
        let node = |roles: &str, port: u16| {
            format!(r#""n{port}":{{"roles":{roles},"http":{{"publish_address":"10.0.0.1:{port}"}}}}"#)
        };
        let nodes = [
            node(r#"["master"]"#, 1),
            node(r#"["cluster_manager","remote_cluster_client"]"#, 2),
            node(r#"["data","master"]"#, 3),
            node(r#"["data_hot","data_content"]"#, 4),
            node(r#"["data_frozen"]"#, 5),
            node("[]", 6),
            node(r#"["ingest"]"#, 7),
            node(r#"["data_warm"]"#, 8),
            r#""n9":{"roles":["data"]}"#.to_owned(),
        ];
        let body = format!("{{\"nodes\":{{{}}}}}", nodes.join(","));
        let found = data_nodes(body.as_bytes(), "http").unwrap();
        assert_eq!(found, ["http://10.0.0.1:3", "http://10.0.0.1:4", "http://10.0.0.1:8"]);
        assert_eq!(data_nodes(b"<html>", "http"), None);
        assert_eq!(data_nodes(br#"{"error":{}}"#, "http"), None);
    }

    #[test]
    fn the_cluster_is_asked_first_then_seldom_and_soon_after_a_failure() {
        let (schedule, at) = (Schedule::default(), Duration::from_secs);
        assert!(schedule.is_due(at(0)) && !schedule.is_due(at(0)) && !schedule.is_due(at(299)));
        assert!(schedule.is_due(at(300)));
        schedule.soon();
        assert!(!schedule.is_due(at(309)) && schedule.is_due(at(310)) && !schedule.is_due(at(321)));
    }
}
