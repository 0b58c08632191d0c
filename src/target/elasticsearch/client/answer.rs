//! What the answer to a whole request says, when it is no success.

use serde::Deserialize;

use crate::target::TargetError;

/// A whole answer.
pub(in super::super) struct Answer {
    pub(in super::super) status: u16,
    pub(in super::super) body: Vec<u8>,
}

/// What the status of a whole request means, when it is no success.
pub(in super::super) fn failure(context: &'static str, answer: &Answer) -> TargetError {
    let said = said(&answer.body);
    let reason = format!("status {}: {said}", answer.status);
    let halt = |hint: &str| TargetError::Halt { context, reason: reason.clone(), hint: hint.to_owned() };
    match answer.status {
        429 => TargetError::Busy { context, reason },
        413 => TargetError::TooLarge { context },
        401 => halt("check the target's login: username and password, api_key, or bearer_token"),
        403 => halt("give Rowtide's user the rights to write and manage its indices and `rowtide-state`"),
        // Another success (a proxy's 202) says nothing about the items.
        ..=299 | 408 | 500.. => TargetError::Unresolved { context, reason },
        300..=399 => halt("the address redirects: name in `nodes` the address that it points to"),
        415 => halt("if the target has gzip = true, take it out: what is in between may not take it"),
        _ => halt(
            "is this Elasticsearch 7.17 or newer, or OpenSearch 2 or newer? It refuses the form of the request",
        ),
    }
}

/// Type and reason of an error answer. Never the answer itself when it is something else.
pub(in super::super) fn said(body: &[u8]) -> String {
    let Some(error) = error_of(body) else {
        return "not an answer of Elasticsearch or OpenSearch".to_owned();
    };
    format!("{}: {}", error.kind, error.reason.unwrap_or_default())
}

/// The `error` of an error answer.
#[derive(Deserialize)]
pub(in super::super) struct ErrorBody {
    #[serde(rename = "type")]
    pub(in super::super) kind: String,
    pub(in super::super) reason: Option<String>,
}

pub(in super::super) fn error_of(body: &[u8]) -> Option<ErrorBody> {
    #[derive(Deserialize)]
    struct Whole {
        error: ErrorBody,
    }
    serde_json::from_slice::<Whole>(body).ok().map(|whole| whole.error)
}

/// Reads an answer whose form is known.
pub(in super::super) fn parse<'a, T: Deserialize<'a>>(
    context: &'static str,
    answer: &'a Answer,
) -> Result<T, TargetError> {
    // The position only: serde_json's own words may quote what it found.
    serde_json::from_slice(&answer.body).map_err(|error| TargetError::Unresolved {
        context,
        reason: format!("an answer of another form, at byte {}", error.column()),
    })
}

/// One segment of a path.
pub(in super::super) fn escape(segment: &str) -> String {
    let mut escaped = String::with_capacity(segment.len());
    for byte in segment.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                escaped.push(char::from(byte))
            }
            _ => escaped.push_str(&format!("%{byte:02X}")),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    fn answer(status: u16, body: &str) -> Answer {
        Answer { status, body: body.as_bytes().to_vec() }
    }

    #[test]
    fn the_status_of_a_whole_request_decides_what_is_known_about_it() {
        let json = r#"{"error":{"root_cause":[],"type":"es_rejected_execution_exception","reason":"full"},"status":429}"#;
        let busy = failure("bulk", &answer(429, json));
        assert!(matches!(&busy, TargetError::Busy { reason, .. } if reason.contains("es_rejected")));
        assert!(matches!(failure("bulk", &answer(413, "")), TargetError::TooLarge { .. }));
        for status in [301, 400, 401, 403, 404, 405, 406, 415] {
            assert!(matches!(failure("bulk", &answer(status, "{}")), TargetError::Halt { .. }), "{status}");
        }
        for status in [408, 500, 502, 503, 504] {
            assert!(matches!(failure("bulk", &answer(status, "<html>")), TargetError::Unresolved { .. }));
        }
    }

    #[test]
    fn an_answer_of_something_else_is_never_quoted() {
        assert!(!said(b"<html>a secret document</html>").contains("secret"));
        assert!(!said(br#"{"secret":1}"#).contains("secret"));
    }

    #[test]
    fn a_segment_cannot_leave_its_place_in_the_path() {
        assert_eq!(escape("a/b?c#d é*"), "a%2Fb%3Fc%23d%20%C3%A9%2A");
    }
}
