//! Which cluster it is: `GET /`, once.
//!
//! ```text
//!   Elasticsearch  < 7.17 refused │ 7.17, 8, 9 tested │ newer: expected by protocol
//!   OpenSearch     < 2    refused │ 2, 3       tested │ newer: expected by protocol
//! ```
//! Some managed services forbid this question; what they are is then not known, and every later answer
//! is judged by itself as always.

use reqwest::Method;
use serde::Deserialize;

use super::client::{Answer, Call, Client, failure};
use crate::target::TargetError;

const CONTEXT: &str = "ask the cluster what it is";

/// What was found.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Met {
    /// One that is tested, by name and version.
    Known(String),
    /// One that is newer, by name and version.
    Newer(String),
    /// It does not say.
    Silent(String),
}

impl Met {
    /// What a person should know, if anything.
    pub(super) fn oddity(&self) -> Option<String> {
        match self {
            Met::Known(_) => None,
            Met::Newer(name) => Some(format!("{name} is newer than what is tested: expected by protocol")),
            Met::Silent(why) => {
                Some(format!("the cluster does not say what it is ({why}): expected by protocol"))
            }
        }
    }
}

/// Asks. A cluster that is too old is a halt.
pub(super) async fn meet(client: &Client, halts_on_distrust: bool) -> Result<Met, TargetError> {
    let mut call = Call::new(CONTEXT, Method::GET, "/");
    call.halts_on_distrust = halts_on_distrust;
    judge(&client.send(call).await?)
}

fn judge(answer: &Answer) -> Result<Met, TargetError> {
    #[derive(Deserialize)]
    struct Root {
        version: Version,
    }
    #[derive(Deserialize)]
    struct Version {
        number: String,
        distribution: Option<String>,
    }
    match answer.status {
        200 => {}
        status @ (403..=405) => return Ok(Met::Silent(format!("status {status}"))),
        _ => return Err(failure(CONTEXT, answer)),
    }
    let Ok(Root { version }) = serde_json::from_slice::<Root>(&answer.body) else {
        return Ok(Met::Silent("its answer names no version".to_owned()));
    };
    let mut numbers = version.number.split(['.', '-']).map(str::parse::<u32>);
    let (Some(Ok(major)), Some(Ok(minor))) = (numbers.next(), numbers.next()) else {
        return Ok(Met::Silent("its version is no number".to_owned()));
    };
    let is_opensearch = version.distribution.as_deref() == Some("opensearch");
    let product = if is_opensearch { "OpenSearch" } else { "Elasticsearch" };
    let name = format!("{product} {major}.{minor}");
    match (is_opensearch, major, minor) {
        // `compatibility.override_main_response_version`: the real number is not to be had here.
        (true, 7, 10) => Ok(Met::Silent("it gives the version of another, 7.10".to_owned())),
        (true, 2..=3, _) | (false, 7, 17..) | (false, 8..=9, _) => Ok(Met::Known(name)),
        (true, 4.., _) | (false, 10.., _) => Ok(Met::Newer(name)),
        (true, ..=1, _) | (false, ..=7, _) => Err(TargetError::Halt {
            context: CONTEXT,
            reason: format!("{name} is too old"),
            hint: "Rowtide needs Elasticsearch 7.17 or OpenSearch 2, or newer: upgrade the cluster"
                .to_owned(),
        }),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    fn judged(number: &str, distribution: Option<&str>) -> Result<Met, TargetError> {
        let version = match distribution {
            Some(name) => serde_json::json!({ "distribution": name, "number": number }),
            None => serde_json::json!({ "number": number, "build_flavor": "default" }),
        };
        let body = serde_json::json!({ "name": "n", "version": version }).to_string().into_bytes();
        judge(&Answer { status: 200, body })
    }

    #[test]
    fn what_is_too_old_is_refused_and_what_is_newer_is_expected() {
        for (number, distribution) in [("7.17.29", None), ("8.19.21", None), ("9.5.0-SNAPSHOT", None)]
            .into_iter()
            .chain([("2.19.6", Some("opensearch")), ("3.0.0", Some("opensearch"))])
        {
            assert!(matches!(judged(number, distribution), Ok(Met::Known(_))), "{number}");
        }
        for (number, distribution) in [("10.0.0", None), ("4.1.0", Some("opensearch"))] {
            let met = judged(number, distribution).unwrap();
            assert!(met.oddity().unwrap().contains("expected by protocol"), "{met:?}");
        }
        for (number, distribution) in
            [("7.16.3", None), ("6.8.0", None), ("7.10.2", None), ("1.3.20", Some("opensearch"))]
        {
            let refused = judged(number, distribution).unwrap_err();
            assert!(matches!(&refused, TargetError::Halt { hint, .. } if hint.contains("7.17")), "{refused}");
        }
    }

    #[test]
    fn a_cluster_that_may_not_say_what_it_is_is_gone_on_with() {
        for (status, body) in [(403, "{}"), (404, "<html>"), (405, ""), (200, "<html>"), (200, "{}")] {
            let met = judge(&Answer { status, body: body.as_bytes().to_vec() }).unwrap();
            assert!(matches!(met, Met::Silent(_)), "{status} {met:?}");
        }
        assert!(matches!(judged("7.10.2", Some("opensearch")), Ok(Met::Silent(_))));
        let login = judge(&Answer { status: 401, body: Vec::new() });
        assert!(matches!(login, Err(TargetError::Halt { .. })), "{login:?}");
        let away = judge(&Answer { status: 503, body: Vec::new() });
        assert!(matches!(away, Err(TargetError::Unresolved { .. })), "{away:?}");
    }
}
