//! PostgreSQL's text form of a value → JSON. One decoder for rows read by SQL and rows in the log,
//! so that a column has one JSON form however it was read.
//!
//! | PostgreSQL | JSON |
//! |---|---|
//! | bool | `true`, `false` |
//! | int2, int4, int8, oid | the number |
//! | numeric, float4, float8 | the number, every digit as PostgreSQL prints it; `"NaN"`, `"Infinity"`, `"-Infinity"` |
//! | bytea | base64 |
//! | date | `"2026-01-02"` |
//! | timestamp | `"2026-01-02T03:04:05.123456"` |
//! | timestamptz | `"2026-01-02T03:04:05.123456Z"` |
//! | json, jsonb | itself, on one line |
//! | arrays | arrays, nested ones too; custom lower bounds are dropped |
//! | composites | objects by the names of their attributes |
//! | ranges | objects of `gte` or `gt`, `lte` or `lt`; the empty one is `[]` |
//! | multiranges | arrays of them |
//! | hstore | an object of strings and nulls |
//! | geometry, geography | GeoJSON |
//! | anything else | a string of the text form |
//!
//! - A date or time that ISO 8601 with four digits cannot say (`infinity`, BC, a year over 9999) is
//!   a string of the text form, as in `"0044-03-15 BC"`.
//! - A domain is decoded as what it is made of.
//! - json and jsonb are trusted to be JSON: the server checked it. That a text is UTF-8 it has not
//!   checked in a database of encoding SQL_ASCII, so it is checked here.

mod array;
mod composite;
mod geometry;
mod hstore;
#[cfg(test)]
mod nested_tests;
mod quoted;
mod range;
#[cfg(test)]
mod tests;
mod text;

pub(crate) use composite::Attributes;
pub(crate) use text::append_string;

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::change::Kind;

/// A text form that its type does not have. It never says what the text was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum DecodeError {
    /// Neither `t` nor `f`.
    #[error("a boolean is neither t nor f")]
    Boolean,
    /// Not `\x` and pairs of hexadecimal digits.
    #[error("a bytea is not in hex form")]
    Bytea,
    /// Braces, quotes or commas are not where an array has them.
    #[error("an array's text form is malformed")]
    Array,
    /// Parentheses, quotes or commas are not where a composite has them.
    #[error("a composite's text form is malformed")]
    Composite,
    /// More parts than there are attributes, and none were ever dropped.
    #[error("a composite has more attributes than its type had when it was read: one was added since")]
    AttributeAdded,
    /// More parts than there are attributes, and some were dropped.
    #[error("a composite was written before an attribute was dropped from its type")]
    AttributeDropped,
    /// Brackets, quotes or commas are not where a range has them.
    #[error("a range's text form is malformed")]
    Range,
    /// Quotes, arrows or commas are not where hstore has them.
    #[error("an hstore's text form is malformed")]
    Hstore,
    /// Begins like a number and is none.
    #[error("a number is not in decimal form")]
    Number,
    /// Bytes that no JSON can hold: the database's encoding is SQL_ASCII.
    #[error("a text is not UTF-8")]
    Utf8,
    /// No text at all where there must be some.
    #[error("a json value is empty")]
    Json,
    /// As JSON it leads over what was allowed; not all of it was appended.
    #[error("a value is too large")]
    TooLarge,
}

/// Bytes of a text from which on it is counted before it is decoded: less is sixfold at the most, and
/// that is little beside a document.
const LARGE: usize = 64 << 10;

/// The longest number that is written as one: Jackson's limit, which search clusters keep.
const NUMBER_BYTES_MAX: usize = 1000;

/// What a row may become.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Room {
    /// Most bytes of all its values.
    pub(crate) most: usize,
    /// Bytes of the texts that follow, so that their room is made at once.
    pub(crate) rest: usize,
}

/// Room, and what copies of quoted parts may still take: parts inside of quoted parts are copied once
/// for each level of quotes.
#[derive(Clone, Copy)]
struct Space {
    room: Room,
    copies: usize,
}

impl Space {
    /// The levels of quotes that people have are far below; a value that is hostile ends there.
    fn of(text: &[u8], room: Room) -> Self {
        Self { room, copies: text.len().saturating_mul(2).saturating_add(LARGE) }
    }

    /// What is left beside a copy of so many bytes.
    fn without(self, bytes: usize) -> Result<Self, DecodeError> {
        let copies = self.copies.checked_sub(bytes).ok_or(DecodeError::TooLarge)?;
        Ok(Self { copies, ..self })
    }

    fn check(self, out: &[u8]) -> Result<(), DecodeError> {
        if out.len() > self.room.most { Err(DecodeError::TooLarge) } else { Ok(()) }
    }
}

/// How the values of a column become JSON; chosen once for a column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Decoder {
    /// bool
    Boolean,
    /// Integers, numeric, floats.
    Number,
    /// bytea
    Bytea,
    /// timestamp
    Timestamp,
    /// timestamptz
    TimestampTz,
    /// json, jsonb
    Json,
    /// Everything that is shown as PostgreSQL shows it.
    Text,
    /// An array.
    Array {
        /// What its elements are.
        element: Box<Decoder>,
        /// Between them: a comma, but for box a semicolon.
        delimiter: u8,
    },
    /// A composite.
    Composite(Arc<Attributes>),
    /// A range with bounds of this type.
    Range(Box<Decoder>),
    /// A multirange with bounds of this type.
    Multirange(Box<Decoder>),
    /// hstore
    Hstore,
    /// PostGIS's geometry and geography
    Geometry,
}

/// Oids of built-in types, from PostgreSQL's pg_type.dat; they never change.
mod oid {
    pub(super) const BOOL: u32 = 16;
    pub(super) const BYTEA: u32 = 17;
    pub(super) const INT8: u32 = 20;
    pub(super) const INT2: u32 = 21;
    pub(super) const INT4: u32 = 23;
    pub(super) const TEXT: u32 = 25;
    pub(super) const OID: u32 = 26;
    pub(super) const JSON: u32 = 114;
    pub(super) const XML: u32 = 142;
    pub(super) const FLOAT4: u32 = 700;
    pub(super) const FLOAT8: u32 = 701;
    pub(super) const VARCHAR: u32 = 1043;
    pub(super) const DATE: u32 = 1082;
    pub(super) const TIMESTAMP: u32 = 1114;
    pub(super) const TIMESTAMPTZ: u32 = 1184;
    pub(super) const NUMERIC: u32 = 1700;
    pub(super) const TSVECTOR: u32 = 3614;
    pub(super) const JSONB: u32 = 3802;
}

impl Decoder {
    /// The decoder of a type that is neither a domain nor an array, by its oid.
    pub(crate) fn of_scalar(type_oid: u32) -> Self {
        match type_oid {
            oid::BOOL => Self::Boolean,
            oid::INT2 | oid::INT4 | oid::INT8 | oid::OID => Self::Number,
            oid::FLOAT4 | oid::FLOAT8 | oid::NUMERIC => Self::Number,
            oid::BYTEA => Self::Bytea,
            oid::TIMESTAMP => Self::Timestamp,
            oid::TIMESTAMPTZ => Self::TimestampTz,
            oid::JSON | oid::JSONB => Self::Json,
            _ => Self::Text,
        }
    }

    /// The decoder of an array of such elements.
    pub(crate) fn array_of(element: Self, delimiter: u8) -> Self {
        Self::Array { element: Box::new(element), delimiter }
    }

    /// Whether two different values never have one JSON form, as those of a key must not. An array loses
    /// its bounds, and a geometry its M and whether its SRID is 0 or 4326.
    pub(crate) fn tells_all_apart(&self) -> bool {
        match self {
            Self::Array { .. } | Self::Geometry => false,
            Self::Composite(attributes) => attributes.decoders().all(Self::tells_all_apart),
            Self::Range(bound) | Self::Multirange(bound) => bound.tells_all_apart(),
            _ => true,
        }
    }

    /// Appends the JSON of a value that is not null. A large one is refused before `out` outgrows its
    /// room, and grows it to no more than it needs (law 5): a control character takes six bytes in
    /// JSON, so what fits on the wire need not fit here.
    #[inline]
    pub(crate) fn append_within(
        &self,
        text: &[u8],
        out: &mut Vec<u8>,
        room: Room,
    ) -> Result<(), DecodeError> {
        // A bytea is long, and its digits are looked at anyway.
        if !matches!(self, Self::Bytea) && std::str::from_utf8(text).is_err() {
            return Err(DecodeError::Utf8);
        }
        self.append_checked(text, out, Space::of(text, room))
    }

    /// The same of what is UTF-8, or of a part of it, which an array's element is.
    #[inline]
    fn append_checked(&self, text: &[u8], out: &mut Vec<u8>, space: Space) -> Result<(), DecodeError> {
        if text.len() > LARGE {
            self.make_room(text, out, space.room)?;
        }
        match self {
            Self::Text => append_string(text, out),
            Self::Number => return append_number(text, out),
            Self::Boolean => match text {
                b"t" => out.extend_from_slice(b"true"),
                b"f" => out.extend_from_slice(b"false"),
                _ => return Err(DecodeError::Boolean),
            },
            Self::Timestamp => append_timestamp(text, b"", b"", out),
            Self::TimestampTz => append_timestamp(text, b"+00", b"Z", out),
            Self::Json => return append_json(text, out),
            Self::Bytea => return append_bytea(text, out),
            Self::Array { element, delimiter } => {
                return array::append(element, *delimiter, text, out, space);
            }
            Self::Composite(attributes) => return composite::append(attributes, text, out, space),
            Self::Range(bound) => return range::append(bound, text, out, space),
            Self::Multirange(bound) => return range::append_many(bound, text, out, space),
            Self::Hstore => return hstore::append(text, out, space),
            Self::Geometry => return geometry::append(text, out, space),
        }
        Ok(())
    }

    /// Room for exactly the JSON of a large value.
    #[cold]
    fn make_room(&self, text: &[u8], out: &mut Vec<u8>, room: Room) -> Result<(), DecodeError> {
        let left = room.most.saturating_sub(out.len());
        let bytes = match self {
            Self::Bytea => (text.len() / 2).div_ceil(3) * 4 + 2,
            Self::Json => text.len(),
            // How large it is shows element by element; most elements are quoted in JSON.
            Self::Array { .. } | Self::Composite(_) | Self::Range(_) | Self::Multirange(_) => {
                (text.len() * 2).min(left)
            }
            Self::Hstore | Self::Geometry => (text.len() * 2).min(left),
            _ => text::string_bytes(text),
        };
        if bytes > left {
            return Err(DecodeError::TooLarge);
        }
        out.reserve_exact(bytes + room.rest.min(left - bytes) + LARGE);
        Ok(())
    }

    /// As [`Self::append_within`], without a limit.
    #[cfg(any(test, feature = "live", feature = "fuzzing"))]
    pub(crate) fn append(&self, text: &[u8], out: &mut Vec<u8>) -> Result<(), DecodeError> {
        self.append_within(text, out, Room { most: usize::MAX / 2, rest: 0 })
    }
}

/// What a target is told of a type that is neither a domain nor an array.
pub(crate) fn kind_of_scalar(type_oid: u32, type_name: &str) -> Kind {
    match type_oid {
        oid::BOOL => Kind::Boolean,
        oid::INT2 => Kind::Integer { bits: 16 },
        oid::INT4 => Kind::Integer { bits: 32 },
        // An oid has no sign: 32 bits with one do not hold it.
        oid::INT8 | oid::OID => Kind::Integer { bits: 64 },
        oid::FLOAT4 => Kind::Float { bits: 32 },
        oid::FLOAT8 => Kind::Float { bits: 64 },
        oid::NUMERIC => Kind::Decimal,
        oid::BYTEA => Kind::Binary,
        oid::DATE => Kind::Date,
        oid::TIMESTAMP | oid::TIMESTAMPTZ => Kind::Timestamp,
        oid::JSON | oid::JSONB => Kind::Json,
        oid::TEXT | oid::VARCHAR | oid::XML | oid::TSVECTOR => Kind::Text,
        // An extension's type has another oid in each database.
        _ if type_name == "citext" => Kind::Text,
        _ => Kind::Keyword,
    }
}

fn append_number(text: &[u8], out: &mut Vec<u8>) -> Result<(), DecodeError> {
    let digits = text.strip_prefix(b"-").unwrap_or(text);
    // NaN, Infinity, -Infinity.
    if !digits.first().is_some_and(u8::is_ascii_digit) {
        append_string(text, out);
        return Ok(());
    }
    if !is_number(digits) {
        return Err(DecodeError::Number);
    }
    // Parsers of JSON refuse a longer number together with its whole document.
    if text.len() > NUMBER_BYTES_MAX {
        append_string(text, out);
        return Ok(());
    }
    out.extend_from_slice(text);
    Ok(())
}

/// Whether a text without a sign is a number as JSON has it.
fn is_number(text: &[u8]) -> bool {
    let past_digits = |text: &[u8]| text.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(text.len());
    let (whole, mut rest) = text.split_at(past_digits(text));
    if whole.is_empty() || (whole.len() > 1 && whole[0] == b'0') {
        return false;
    }
    if let Some(fraction) = rest.strip_prefix(b".") {
        let end = past_digits(fraction);
        if end == 0 {
            return false;
        }
        rest = &fraction[end..];
    }
    match rest {
        [] => true,
        [b'e' | b'E', b'+' | b'-', digits @ ..] | [b'e' | b'E', digits @ ..] => {
            !digits.is_empty() && past_digits(digits) == digits.len()
        }
        _ => false,
    }
}

/// `2026-01-02 03:04:05.123456` and then `zone`, which becomes `zone_iso`.
fn append_timestamp(text: &[u8], zone: &[u8], zone_iso: &[u8], out: &mut Vec<u8>) {
    const DATE: usize = "2026-01-02".len();
    let time = text.strip_suffix(zone).filter(|time| {
        // Infinity, another zone, a year over 9999 (the space is elsewhere), BC (it ends in a C).
        let plain = |byte: &u8| byte.is_ascii_digit() || matches!(byte, b'-' | b':' | b'.' | b' ');
        time.len() > DATE
            && time[DATE] == b' '
            && time.last().is_some_and(u8::is_ascii_digit)
            && time.iter().all(plain)
    });
    let Some(time) = time else {
        return append_string(text, out);
    };
    out.push(b'"');
    let date_at = out.len();
    out.extend_from_slice(time);
    out[date_at + DATE] = b'T';
    out.extend_from_slice(zone_iso);
    out.push(b'"');
}

fn append_json(text: &[u8], out: &mut Vec<u8>) -> Result<(), DecodeError> {
    if text.is_empty() {
        return Err(DecodeError::Json);
    }
    let from = out.len();
    out.extend_from_slice(text);
    // Inside of its strings JSON has no raw newline, so each stands between tokens; a bulk request
    // has one document a line.
    for byte in &mut out[from..] {
        if matches!(*byte, b'\n' | b'\r') {
            *byte = b' ';
        }
    }
    Ok(())
}

fn append_bytea(text: &[u8], out: &mut Vec<u8>) -> Result<(), DecodeError> {
    // Three bytes become four letters: pieces of a multiple of three join without padding.
    const PIECE: usize = 3 * 256;
    let (pairs, rest) = text.strip_prefix(b"\\x").ok_or(DecodeError::Bytea)?.as_chunks::<2>();
    if !rest.is_empty() {
        return Err(DecodeError::Bytea);
    }
    if text.len() <= LARGE {
        out.reserve(pairs.len().div_ceil(3) * 4 + 2);
    }
    out.push(b'"');
    let mut bytes = [0; PIECE];
    let mut letters = [0; PIECE / 3 * 4];
    for piece in pairs.chunks(PIECE) {
        let bytes = &mut bytes[..piece.len()];
        for ([high, low], byte) in piece.iter().zip(bytes.iter_mut()) {
            *byte = nibble(*high)? << 4 | nibble(*low)?;
        }
        // The letters fit by the constants above.
        let count = STANDARD.encode_slice(bytes, &mut letters).map_err(|_| DecodeError::Bytea)?;
        out.extend_from_slice(&letters[..count]);
    }
    out.push(b'"');
    Ok(())
}

#[inline]
fn nibble(digit: u8) -> Result<u8, DecodeError> {
    match digit {
        b'0'..=b'9' => Ok(digit - b'0'),
        b'a'..=b'f' => Ok(digit - b'a' + 10),
        b'A'..=b'F' => Ok(digit - b'A' + 10),
        _ => Err(DecodeError::Bytea),
    }
}
