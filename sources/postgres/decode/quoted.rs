//! Parts of a composite and bounds of a range, as record_out and range_out write them.
//!
//! ```text
//!  (1,"a ""b"" \\ c",,"")        unquoted · quoted, with each " and \ twice · nothing · an empty text
//! ```

use super::{DecodeError, Decoder, Space};

/// What stands between two delimiters.
#[derive(Clone, Copy)]
pub(super) enum Part<'a> {
    /// Not even quotes: null in a composite, no bound in a range.
    Nothing,
    /// As it stands.
    Plain(&'a [u8]),
    /// With escapes; without them it has so many bytes.
    Escaped {
        /// What stands between the quotes.
        text: &'a [u8],
        /// Bytes of what it stands for.
        bytes: usize,
    },
}

/// The part that `text` begins with, and what follows it: one of `ends` at the least.
pub(super) fn part<'a>(text: &'a [u8], ends: &[u8]) -> Option<(Part<'a>, &'a [u8])> {
    let (part, rest) = match text.split_first()? {
        (b'"', quoted) => in_quotes(quoted)?,
        _ => {
            let end = text.iter().position(|byte| ends.contains(byte) || b"\"\\".contains(byte))?;
            let (plain, rest) = text.split_at(end);
            (if plain.is_empty() { Part::Nothing } else { Part::Plain(plain) }, rest)
        }
    };
    rest.first().filter(|byte| ends.contains(byte))?;
    Some((part, rest))
}

/// What follows an opening quote, up to the closing one, which no other quote follows.
fn in_quotes(text: &[u8]) -> Option<(Part<'_>, &[u8])> {
    let (mut at, mut escapes) = (0, 0);
    loop {
        at += text.get(at..)?.iter().position(|&byte| byte == b'"' || byte == b'\\')?;
        match (text[at], text.get(at + 1)) {
            (b'"', next) if next != Some(&b'"') => break,
            (_, None) => return None,
            _ => {
                escapes += 1;
                at += 2;
            }
        }
    }
    let (inside, rest) = (&text[..at], &text[at + 1..]);
    let part = match escapes {
        0 => Part::Plain(inside),
        _ => Part::Escaped { text: inside, bytes: inside.len() - escapes },
    };
    Some((part, rest))
}

impl Part<'_> {
    /// Appends its JSON; nothing at all for [`Part::Nothing`].
    pub(super) fn append(
        self,
        decoder: &Decoder,
        out: &mut Vec<u8>,
        space: Space,
    ) -> Result<(), DecodeError> {
        match self {
            Part::Nothing => Ok(()),
            Part::Plain(text) => decoder.append_checked(text, out, space),
            Part::Escaped { text, bytes } => {
                let inner = space.without(bytes)?;
                let mut plain = Vec::with_capacity(bytes);
                let mut rest = text;
                while let Some(at) = rest.iter().position(|&byte| byte == b'"' || byte == b'\\') {
                    plain.extend_from_slice(&rest[..at]);
                    // The first of two is the escape.
                    plain.extend(rest.get(at + 1));
                    rest = rest.get(at + 2..).unwrap_or_default();
                }
                plain.extend_from_slice(rest);
                decoder.append_checked(&plain, out, inner)
            }
        }
    }
}
