//! A range's text form → the object that a search cluster's range fields take.
//!
//! ```text
//!  [1,5)           →  {"gte":1,"lt":5}          (,"a b"]    →  {"lte":"a b"}
//!  (,)             →  {}  every value           empty       →  []  no value
//!  {[1,3),[5,)}    →  [{"gte":1,"lt":3},{"gte":5}]           a multirange
//! ```
//! The empty range is an empty array, since to a search cluster that is a field without a value, and an
//! object without bounds is one with every value.

use super::quoted::{self, Part};
use super::{DecodeError, Decoder, Space};

/// Appends the range `text`, whose bounds are of the type that `bound` decodes.
pub(super) fn append(
    bound: &Decoder,
    text: &[u8],
    out: &mut Vec<u8>,
    space: Space,
) -> Result<(), DecodeError> {
    if text == b"empty" {
        out.extend_from_slice(b"[]");
        return Ok(());
    }
    match append_one(bound, text, out, space)? {
        [] => Ok(()),
        _ => Err(DecodeError::Range),
    }
}

/// Appends the multirange `text`; ends when `out` outgrows its room.
pub(super) fn append_many(
    bound: &Decoder,
    text: &[u8],
    out: &mut Vec<u8>,
    space: Space,
) -> Result<(), DecodeError> {
    let mut rest = text.strip_prefix(b"{").ok_or(DecodeError::Range)?;
    out.push(b'[');
    if rest != b"}" {
        loop {
            rest = append_one(bound, rest, out, space)?;
            space.check(out)?;
            match rest.split_first() {
                Some((b',', tail)) => rest = tail,
                Some((b'}', [])) => break,
                _ => return Err(DecodeError::Range),
            }
            out.push(b',');
        }
    }
    out.push(b']');
    Ok(())
}

/// Appends the range that `text` begins with, and gives what follows it.
fn append_one<'a>(
    bound: &Decoder,
    text: &'a [u8],
    out: &mut Vec<u8>,
    space: Space,
) -> Result<&'a [u8], DecodeError> {
    let lower_name: &[u8] = match text.first() {
        Some(b'[') => b"\"gte\":",
        Some(b'(') => b"\"gt\":",
        _ => return Err(DecodeError::Range),
    };
    let (lower, rest) = quoted::part(&text[1..], b",])").ok_or(DecodeError::Range)?;
    let rest = rest.strip_prefix(b",").ok_or(DecodeError::Range)?;
    let (upper, rest) = quoted::part(rest, b",])").ok_or(DecodeError::Range)?;
    let upper_name: &[u8] = match rest.first() {
        Some(b']') => b"\"lte\":",
        Some(b')') => b"\"lt\":",
        _ => return Err(DecodeError::Range),
    };
    out.push(b'{');
    let from = out.len();
    for (name, part) in [(lower_name, lower), (upper_name, upper)] {
        if matches!(part, Part::Nothing) {
            continue;
        }
        if out.len() > from {
            out.push(b',');
        }
        out.extend_from_slice(name);
        part.append(bound, out, space)?;
    }
    out.push(b'}');
    Ok(&rest[1..])
}
