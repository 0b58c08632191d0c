//! JSON as bytes: what a shape must know of it without making values of it. All text that comes in is valid
//! JSON, by the source's decoder or by [`is_valid`]; what is not gives `None` and never a panic.

use serde::de::IgnoredAny;

/// Appends the text of a JSON string (without its quotes), unescaped. Half of a surrogate pair becomes U+FFFD.
pub(super) fn unescape(out: &mut Vec<u8>, escaped: &[u8]) {
    let mut rest = escaped;
    while let Some(at) = rest.iter().position(|&byte| byte == b'\\') {
        out.extend_from_slice(&rest[..at]);
        rest = &rest[at + 1..];
        let Some((&kind, after)) = rest.split_first() else { return };
        rest = after;
        let plain = match kind {
            b'n' => b'\n',
            b't' => b'\t',
            b'r' => b'\r',
            b'b' => 8,
            b'f' => 12,
            b'u' => {
                let (c, after) = character(rest);
                rest = after;
                out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
                continue;
            }
            other => other,
        };
        out.push(plain);
    }
    out.extend_from_slice(rest);
}

/// The character of the digits that follow `\u`, and what follows it.
fn character(rest: &[u8]) -> (char, &[u8]) {
    let Some((first, after)) = unit(rest) else { return (char::REPLACEMENT_CHARACTER, &[]) };
    if let Some(c) = char::from_u32(first) {
        return (c, after);
    }
    let low = after.strip_prefix(b"\\u").and_then(unit).filter(|(low, _)| (0xdc00..0xe000).contains(low));
    match low.filter(|_| first < 0xdc00) {
        Some((low, after)) => {
            let code = 0x1_0000 + ((first - 0xd800) << 10) + (low - 0xdc00);
            (char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER), after)
        }
        None => (char::REPLACEMENT_CHARACTER, after),
    }
}

fn unit(rest: &[u8]) -> Option<(u32, &[u8])> {
    let (digits, after) = rest.split_at_checked(4)?;
    Some((u32::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?, after))
}

/// Appends text as it stands inside a JSON string: never longer than any other way to write it.
pub(super) fn escape(out: &mut Vec<u8>, text: &[u8]) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    for &byte in text {
        let short = match byte {
            b'"' | b'\\' => byte,
            b'\n' => b'n',
            b'\t' => b't',
            b'\r' => b'r',
            8 => b'b',
            12 => b'f',
            0..0x20 => {
                out.extend_from_slice(b"\\u00");
                out.push(HEX[usize::from(byte >> 4)]);
                out.push(HEX[usize::from(byte & 15)]);
                continue;
            }
            _ => {
                out.push(byte);
                continue;
            }
        };
        out.extend_from_slice(&[b'\\', short]);
    }
}

/// Whether text is one JSON value, of no more levels than a search cluster could want.
pub(super) fn is_valid(text: &[u8]) -> bool {
    serde_json::from_slice::<IgnoredAny>(text).is_ok()
}

/// Appends a JSON value on one line: line breaks stand only between its tokens.
pub(super) fn on_one_line(out: &mut Vec<u8>, json: &[u8]) {
    out.extend(json.iter().map(|&byte| if byte < 0x20 { b' ' } else { byte }));
}

/// The value of an object's member; the last one of that name, as `jsonb` has it. `Ok(None)`: there is none.
/// `Err`: it is no object. `name` is the plain name; `scratch` is for names that are written with escapes.
pub(super) fn member<'a>(
    json: &'a [u8],
    name: &[u8],
    scratch: &mut Vec<u8>,
) -> Result<Option<&'a [u8]>, NoObject> {
    let mut at = blanks(json, 0);
    if json.get(at) != Some(&b'{') {
        return Err(NoObject);
    }
    let mut found = None;
    loop {
        at = blanks(json, at + 1);
        if json.get(at) == Some(&b'}') {
            return Ok(found);
        }
        let key = string_end(json, at).ok_or(NoObject)?;
        let own = json.get(at + 1..key - 1).ok_or(NoObject)?;
        let colon = blanks(json, key);
        let start = blanks(json, colon + 1);
        let end = value_end(json, start).ok_or(NoObject)?;
        if is_named(own, name, scratch) {
            found = json.get(start..end);
        }
        at = blanks(json, end);
        match json.get(at) {
            Some(b',') => {}
            Some(b'}') => return Ok(found),
            _ => return Err(NoObject),
        }
    }
}

/// What was to be an object is none.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct NoObject;

fn is_named(own: &[u8], name: &[u8], scratch: &mut Vec<u8>) -> bool {
    if !own.contains(&b'\\') {
        return own == name;
    }
    scratch.clear();
    unescape(scratch, own);
    scratch == name
}

fn blanks(json: &[u8], mut at: usize) -> usize {
    while json.get(at).is_some_and(u8::is_ascii_whitespace) {
        at += 1;
    }
    at
}

/// Behind the closing quote of the string that begins at `at`.
fn string_end(json: &[u8], at: usize) -> Option<usize> {
    if json.get(at) != Some(&b'"') {
        return None;
    }
    let mut at = at + 1;
    loop {
        match json.get(at)? {
            b'"' => return Some(at + 1),
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
}

/// Behind the value that begins at `at`.
fn value_end(json: &[u8], mut at: usize) -> Option<usize> {
    let mut depth = 0_usize;
    let start = at;
    loop {
        match json.get(at) {
            Some(b'"') => at = string_end(json, at)?,
            Some(b'{' | b'[') => {
                depth += 1;
                at += 1;
                continue;
            }
            Some(b'}' | b']') if depth > 0 => {
                depth -= 1;
                at += 1;
            }
            Some(b',' | b'}' | b']') if depth == 0 => return (at > start).then_some(at),
            Some(byte) if depth == 0 && byte.is_ascii_whitespace() => return (at > start).then_some(at),
            Some(_) => {
                at += 1;
                continue;
            }
            None => return (depth == 0 && at > start).then_some(at),
        }
        if depth == 0 {
            return Some(at);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;
    use serde_json::Value;

    fn json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            "[\\PC\"\\\\\n\u{1}]{0,8}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 24, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map("[a-c\"\\\\é]{0,2}", inner, 0..4)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn members_are_those_that_a_parser_finds(value in json(), pretty in any::<bool>()) {
            let text = if pretty { serde_json::to_string_pretty(&value) } else { serde_json::to_string(&value) };
            let text = text.unwrap();
            let names = value.as_object().map(|it| it.keys().cloned().collect::<Vec<_>>()).unwrap_or_default();
            for name in names.iter().map(String::as_str).chain(value.is_object().then_some("none")) {
                let found = member(text.as_bytes(), name.as_bytes(), &mut Vec::new());
                let found = found.unwrap().map(|found| serde_json::from_slice::<Value>(found).unwrap());
                prop_assert_eq!(found.as_ref(), value.get(name));
            }
            prop_assert_eq!(member(text.as_bytes(), b"x", &mut Vec::new()).is_ok(), value.is_object());
        }

        #[test]
        fn text_comes_back_as_it_was(text in "[\\PC\"\\\\\u{0}-\u{1f}]{0,40}") {
            let (mut escaped, mut plain) = (Vec::new(), Vec::new());
            escape(&mut escaped, text.as_bytes());
            let quoted = [b"\"", &*escaped, b"\""].concat();
            prop_assert_eq!(&serde_json::from_slice::<String>(&quoted).unwrap(), &text);
            unescape(&mut plain, &escaped);
            prop_assert_eq!(plain, text.as_bytes());
        }

        #[test]
        fn bytes_that_are_no_json_are_no_panic(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            let _ = member(&bytes, b"a", &mut Vec::new());
            let _ = member(&[b"{\"a\":", &*bytes].concat(), b"a", &mut Vec::new());
            unescape(&mut Vec::new(), &bytes);
        }
    }

    #[test]
    fn escapes_of_every_form_are_read() {
        let mut plain = Vec::new();
        unescape(&mut plain, br"\u00e9\ud83d\ude00\/\b\ud800x\u12");
        assert_eq!(String::from_utf8(plain).unwrap(), "é😀/\u{8}\u{fffd}x\u{fffd}");
        let twice = br#"{"a":1,"\u0061":2}"#;
        assert_eq!(member(twice, b"a", &mut Vec::new()), Ok(Some(&b"2"[..])), "the last one counts");
    }
}
