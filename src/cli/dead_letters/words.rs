//! A dead letter as people and machines read it.

use serde_json::json;
use serde_json::value::RawValue;

use crate::cli::words;
use crate::store::{KeptLetter, Sum};

/// Of a reason in a list.
const REASON_CHARS: usize = 200;

/// As in `3 dead letters`.
pub(super) fn letters(count: u64) -> String {
    match count {
        1 => "1 dead letter".to_owned(),
        _ => format!("{} dead letters", words::count(count)),
    }
}

/// What a list ends with.
pub(super) fn shown(shown: u64, sum: Sum) -> String {
    let all = format!("{}, {} on the disk", letters(sum.count), words::bytes(sum.held_bytes));
    match shown < sum.count {
        true => format!("{} of {all}; more with --limit", words::count(shown)),
        false => all,
    }
}

/// One line. The id is its own last but one, the reason the last: both may hold blanks.
pub(super) fn line(letter: &KeptLetter) -> String {
    let reason = plain(&letter.reason);
    let cut = match reason.char_indices().nth(REASON_CHARS) {
        Some((end, _)) => format!("{}…", &reason[..end]),
        None => reason,
    };
    let body = if letter.has_body { "" } else { " without its document" };
    format!(
        "{} {} {} {} version {} {}{body}: {cut}",
        letter.kept_at,
        owner(letter),
        letter.index,
        plain(&id(letter)),
        letter.version.get(),
        words::bytes(letter.bytes),
    )
}

/// All of it, the action as it was sent at the end.
pub(super) fn whole(letter: &KeptLetter, body: Option<&[u8]>) -> String {
    let body = match body {
        Some(body) => String::from_utf8_lossy(body).lines().map(plain).collect::<Vec<_>>().join("\n"),
        None => "(its row was too large to be held: there is no document)".to_owned(),
    };
    format!(
        "{}: id {} version {}\n  kept: {}\n  pipeline/target: {}\n  size: {} bytes\n  reason: {}\n{body}\n",
        letter.index,
        plain(&id(letter)),
        letter.version.get(),
        letter.kept_at,
        owner(letter),
        letter.bytes,
        plain(&letter.reason),
    )
}

/// One object. `body` is `None` where bodies are not asked for.
pub(super) fn json(letter: &KeptLetter, body: Option<Option<&[u8]>>) -> String {
    let mut object = json!({
        "pipeline": letter.pipeline,
        "target": letter.target,
        "index": letter.index,
        "id": id(letter),
        "version": letter.version.get(),
        "reason": letter.reason,
        "bytes": letter.bytes,
        "kept_at": letter.kept_at,
        "has_body": letter.has_body,
    })
    .to_string();
    let Some(body) = body else { return object };
    // The document goes out byte by byte as it was sent: parsing would change its numbers.
    object.pop();
    let lines = body.map(|body| String::from_utf8_lossy(body).into_owned()).unwrap_or_default();
    let (action, document) = lines.split_once('\n').unwrap_or((&lines, ""));
    object + &format!(",\"action\":{},\"document\":{}}}", raw(action), raw(document))
}

/// The text where it is JSON, `null` where there is none, else as a string.
fn raw(text: &str) -> String {
    match text.trim_end() {
        "" => "null".to_owned(),
        text if serde_json::from_str::<&RawValue>(text).is_ok() => text.to_owned(),
        text => json!(text).to_string(),
    }
}

/// As a person writes it.
pub(super) fn id(letter: &KeptLetter) -> String {
    let escaped = String::from_utf8_lossy(&letter.id);
    serde_json::from_str(&format!("\"{escaped}\"")).unwrap_or_else(|_| escaped.into_owned())
}

fn owner(letter: &KeptLetter) -> String {
    match &letter.target {
        Some(target) => format!("{}/{target}", letter.pipeline),
        None => letter.pipeline.clone(),
    }
}

/// On one line, with nothing that a terminal obeys.
pub(super) fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use sources::position::Version;

    use super::*;

    fn letter(id: &str, reason: &str) -> KeptLetter {
        KeptLetter {
            number: 1,
            pipeline: "shop".to_owned(),
            target: Some("search".to_owned()),
            index: "products".to_owned(),
            id: id.as_bytes().to_vec(),
            version: Version::from_target(81),
            reason: reason.to_owned(),
            bytes: 2048,
            kept_at: "2026-11-25T13:00:00Z".to_owned(),
            has_body: true,
        }
    }

    #[test]
    fn a_line_says_all_but_the_document() {
        let text = line(&letter("42", "400 mapper_parsing_exception: failed"));
        let wanted = "2026-11-25T13:00:00Z shop/search products 42 version 81 2.0 KiB: 400 mapper_parsing_exception: failed";
        assert_eq!(text, wanted);
        let bare = KeptLetter { has_body: false, ..letter(r#"a\"b"#, "x\n\u{1b}[2Jy") };
        assert!(line(&bare).ends_with("a\"b version 81 2.0 KiB without its document: x\u{fffd}\u{fffd}[2Jy"));
        let long = line(&letter("1", &"é".repeat(300)));
        assert!(long.ends_with(&format!("{}…", "é".repeat(200))), "{long}");
    }

    #[test]
    fn json_keeps_the_document_as_it_was_sent() {
        let body = b"{\"index\":{\"_id\":\"1\"}}\n{\"n\":12345678901234567890.10}\n";
        let text = json(&letter("1", "because"), Some(Some(body)));
        assert!(
            text.ends_with(r#","action":{"index":{"_id":"1"}},"document":{"n":12345678901234567890.10}}"#),
            "{text}"
        );
        assert!(json(&letter("1", "because"), Some(None)).ends_with(r#","action":null,"document":null}"#));
        assert!(!json(&letter("1", "because"), None).contains("document"));
        let delete = json(&letter("1", "r"), Some(Some(b"{\"delete\":{}}\n")));
        assert!(delete.ends_with(r#","action":{"delete":{}},"document":null}"#), "{delete}");
        let broken = json(&letter("1", "r"), Some(Some(b"{\"ind")));
        assert!(serde_json::from_str::<serde_json::Value>(&broken).is_ok(), "{broken}");
    }

    #[test]
    fn the_end_says_how_many_there_are() {
        let sum = Sum { count: 1_234, held_bytes: 3 << 20, newest: 9 };
        assert_eq!(shown(100, sum), "100 of 1,234 dead letters, 3.0 MiB on the disk; more with --limit");
        let one = Sum { count: 1, held_bytes: 1_030, newest: 9 };
        assert_eq!(shown(1, one), "1 dead letter, 1.0 KiB on the disk");
    }
}
