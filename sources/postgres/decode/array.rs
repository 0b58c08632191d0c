//! An array's text form → a JSON array.
//!
//! ```text
//!  [0:1][2:3]={{1,NULL},{"a \"b\"",x}}   →   [["1",null],["a \"b\"","x"]]
//!  bounds, dropped     │      └ backslash: the next byte as it is
//!                      └ not quoted: null
//! ```

use super::{DecodeError, Decoder, Space};

/// Appends the array `text`, each element through `element`; ends when `out` outgrows its room.
pub(super) fn append(
    element: &Decoder,
    delimiter: u8,
    text: &[u8],
    out: &mut Vec<u8>,
    space: Space,
) -> Result<(), DecodeError> {
    let mut rest = without_bounds(text)?;
    let mut depth = 0_usize;
    // Whether a value has just ended, so that only a delimiter or a brace can follow.
    let mut after_value = false;
    let mut unescaped = Vec::new();
    while let Some((&byte, tail)) = rest.split_first() {
        space.check(out)?;
        let here = rest;
        rest = tail;
        match byte {
            b'{' if !after_value => {
                depth += 1;
                out.push(b'[');
                // {} is the one place where no value stands between the braces.
                if let Some((b'}', tail)) = rest.split_first() {
                    rest = tail;
                    depth -= 1;
                    out.push(b']');
                    after_value = true;
                }
            }
            b'}' if after_value && depth > 0 => {
                depth -= 1;
                out.push(b']');
            }
            _ if byte == delimiter && after_value && depth > 0 => {
                out.push(b',');
                after_value = false;
            }
            _ if after_value || depth == 0 => return Err(DecodeError::Array),
            b'"' => {
                rest = append_quoted(element, rest, &mut unescaped, out, space)?;
                after_value = true;
            }
            _ => {
                let end = here.iter().position(|&byte| byte == delimiter || byte == b'}');
                let (value, tail) = here.split_at(end.ok_or(DecodeError::Array)?);
                rest = tail;
                match value {
                    b"NULL" => out.extend_from_slice(b"null"),
                    b"" => return Err(DecodeError::Array),
                    value => element.append_checked(value, out, space)?,
                }
                after_value = true;
            }
        }
        if depth == 0 && !rest.is_empty() {
            return Err(DecodeError::Array);
        }
    }
    if depth == 0 && after_value { Ok(()) } else { Err(DecodeError::Array) }
}

fn without_bounds(text: &[u8]) -> Result<&[u8], DecodeError> {
    if text.first() != Some(&b'[') {
        return Ok(text);
    }
    let end = text.iter().position(|&byte| byte == b'=').ok_or(DecodeError::Array)?;
    Ok(&text[end + 1..])
}

/// What follows an opening quote; gives what follows the closing one.
fn append_quoted<'a>(
    element: &Decoder,
    text: &'a [u8],
    unescaped: &mut Vec<u8>,
    out: &mut Vec<u8>,
    space: Space,
) -> Result<&'a [u8], DecodeError> {
    let special = |&byte: &u8| byte == b'"' || byte == b'\\';
    let mut at = text.iter().position(special).ok_or(DecodeError::Array)?;
    if text[at] == b'"' {
        element.append_checked(&text[..at], out, space)?;
        return Ok(&text[at + 1..]);
    }
    unescaped.clear();
    let mut rest = text;
    loop {
        unescaped.extend_from_slice(&rest[..at]);
        match &rest[at..] {
            [b'"', tail @ ..] => {
                element.append_checked(unescaped, out, space.without(unescaped.len())?)?;
                return Ok(tail);
            }
            [_, escaped, tail @ ..] => {
                unescaped.push(*escaped);
                rest = tail;
            }
            _ => return Err(DecodeError::Array),
        }
        at = rest.iter().position(special).ok_or(DecodeError::Array)?;
    }
}
