//! hstore's text form → a JSON object of strings and nulls.
//!
//! ```text
//!  "a"=>"1", "b c"=>NULL, "q\"\\"=>""    →   {"a":"1","b c":null,"q\"\\":""}
//! ```

use super::{DecodeError, Decoder, Space};

/// Appends the hstore `text`; ends when `out` outgrows its room.
pub(super) fn append(text: &[u8], out: &mut Vec<u8>, space: Space) -> Result<(), DecodeError> {
    out.push(b'{');
    let mut rest = text;
    while !rest.is_empty() {
        rest = append_quoted(rest, out, space)?.strip_prefix(b"=>").ok_or(DecodeError::Hstore)?;
        out.push(b':');
        rest = match rest.strip_prefix(b"NULL") {
            Some(tail) => {
                out.extend_from_slice(b"null");
                tail
            }
            None => append_quoted(rest, out, space)?,
        };
        space.check(out)?;
        if !rest.is_empty() {
            rest = rest.strip_prefix(b", \"").map(|_| &rest[2..]).ok_or(DecodeError::Hstore)?;
            out.push(b',');
        }
    }
    out.push(b'}');
    Ok(())
}

/// Appends the quoted text that `text` begins with, and gives what follows it.
fn append_quoted<'a>(text: &'a [u8], out: &mut Vec<u8>, space: Space) -> Result<&'a [u8], DecodeError> {
    let quoted = text.strip_prefix(b"\"").ok_or(DecodeError::Hstore)?;
    let (mut at, mut escapes) = (0, 0);
    loop {
        let special = |&byte: &u8| byte == b'"' || byte == b'\\';
        at += quoted.get(at..).and_then(|rest| rest.iter().position(special)).ok_or(DecodeError::Hstore)?;
        if quoted[at] == b'"' {
            break;
        }
        escapes += 1;
        at += 2;
    }
    let (inside, rest) = (&quoted[..at], &quoted[at + 1..]);
    if escapes == 0 {
        Decoder::Text.append_checked(inside, out, space)?;
        return Ok(rest);
    }
    let bytes = inside.len() - escapes;
    let inner = space.without(bytes)?;
    let mut plain = Vec::with_capacity(bytes);
    let mut is_escaped = false;
    for &byte in inside {
        is_escaped = byte == b'\\' && !is_escaped;
        if !is_escaped {
            plain.push(byte);
        }
    }
    Decoder::Text.append_checked(&plain, out, inner)?;
    Ok(rest)
}
