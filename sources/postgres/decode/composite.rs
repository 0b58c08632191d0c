//! A composite's text form → a JSON object by the names of its attributes.
//!
//! ```text
//!  (1,"a ""b""",)   →   {"n":1,"t":"a \"b\"","u":null}
//! ```
//! A type can gain and lose attributes while rows of it lie in the log, and no event says so (T09):
//!
//! | the text has | it is |
//! |---|---|
//! | as many parts as there are attributes | each under its name |
//! | fewer | from before ADD ATTRIBUTE, which adds at the end: those that it lacks are absent |
//! | more, and none were ever dropped | from after an ADD ATTRIBUTE: the type must be read again |
//! | more, and some were dropped | from before a DROP ATTRIBUTE: which is which nobody knows |

use super::quoted::{self, Part};
use super::{DecodeError, Decoder, Space, append_string};

/// What a composite type is made of.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Attributes {
    /// `"name":` and how its values become JSON, in the type's order.
    known: Box<[(Box<[u8]>, Decoder)]>,
    /// How many were dropped from the type.
    dropped: usize,
}

impl Attributes {
    /// Those that are there, in the type's order, and how many are no longer.
    pub(crate) fn new<'a>(known: impl Iterator<Item = (&'a str, Decoder)>, dropped: usize) -> Self {
        let prefixed = |(name, decoder): (&str, Decoder)| {
            let mut prefix = Vec::new();
            append_string(name.as_bytes(), &mut prefix);
            prefix.push(b':');
            (prefix.into_boxed_slice(), decoder)
        };
        Self { known: known.map(prefixed).collect(), dropped }
    }

    /// How their values become JSON.
    pub(super) fn decoders(&self) -> impl Iterator<Item = &Decoder> {
        self.known.iter().map(|(_, decoder)| decoder)
    }

    fn too_many(&self, parts: usize) -> DecodeError {
        match parts > self.known.len() + self.dropped {
            true => DecodeError::AttributeAdded,
            false => DecodeError::AttributeDropped,
        }
    }
}

/// Appends the composite `text`; ends when `out` outgrows its room.
pub(super) fn append(
    attributes: &Attributes,
    text: &[u8],
    out: &mut Vec<u8>,
    space: Space,
) -> Result<(), DecodeError> {
    let mut rest = text.strip_prefix(b"(").ok_or(DecodeError::Composite)?;
    out.push(b'{');
    // One null attribute looks the same; here there is none.
    if attributes.known.is_empty() && rest == b")" {
        out.push(b'}');
        return Ok(());
    }
    for (number, (prefix, decoder)) in attributes.known.iter().enumerate() {
        let (part, tail) = quoted::part(rest, b",)").ok_or(DecodeError::Composite)?;
        if number > 0 {
            out.push(b',');
        }
        out.extend_from_slice(prefix);
        match part {
            Part::Nothing => out.extend_from_slice(b"null"),
            part => part.append(decoder, out, space)?,
        }
        space.check(out)?;
        rest = &tail[1..];
        if tail[0] == b')' {
            out.push(b'}');
            return if rest.is_empty() { Ok(()) } else { Err(DecodeError::Composite) };
        }
    }
    let mut parts = attributes.known.len();
    loop {
        let (_, tail) = quoted::part(rest, b",)").ok_or(DecodeError::Composite)?;
        parts += 1;
        rest = &tail[1..];
        if tail[0] == b')' {
            return Err(attributes.too_many(parts));
        }
    }
}
