//! What is done to one value on its way into a field, as bytes: parsed, trimmed, put in lower case, cast.

use sources::change::Kind;

use super::json;
use crate::config::Cast;

/// What is done to a value, in this order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Treatment {
    /// Text becomes the JSON that it holds; nothing else is done then.
    pub(super) parse: bool,
    pub(super) trim: bool,
    pub(super) lower: bool,
    pub(super) cast: Option<Cast>,
}

/// Where texts are unescaped and changed; kept over rows, given back when one was large.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    pub(super) json: Vec<u8>,
    pub(super) name: Vec<u8>,
    plain: Vec<u8>,
    lower: Vec<u8>,
}

impl Scratch {
    /// One maximal value must not pin its memory for ever (law 5).
    pub(super) fn give_back(&mut self, most: usize) {
        for buffer in [&mut self.json, &mut self.name, &mut self.plain, &mut self.lower] {
            if buffer.capacity() > most {
                *buffer = Vec::new();
            }
        }
    }
}

/// Most bytes that a cast adds to a value that is no object.
pub(super) const CAST_BYTES: usize = 8;

impl Treatment {
    pub(super) fn is_none(self) -> bool {
        self == Self::default()
    }

    /// What is wrong with it for values of a kind.
    pub(super) fn fault(self, kind: &Kind) -> Option<&'static str> {
        let text = matches!(kind, Kind::Text | Kind::Keyword | Kind::KeyText);
        let scalar =
            text || matches!(kind, Kind::Boolean | Kind::Integer { .. } | Kind::Float { .. } | Kind::Decimal);
        let any = *kind == Kind::Json;
        if self.parse && (self.trim || self.lower || self.cast.is_some()) {
            Some("is parsed as JSON: nothing else can be done to it")
        } else if self.parse && !text {
            Some("is no text, so no JSON can be parsed of it")
        } else if (self.trim || self.lower) && !text && !any {
            Some("is no text, so it cannot be trimmed or put in lower case")
        } else if matches!(self.cast, Some(Cast::Number | Cast::Boolean)) && !scalar && !any {
            Some("is neither text, number nor boolean, so it can be cast to \"string\" only")
        } else {
            None
        }
    }

    /// What values of a kind become.
    pub(super) fn kind(self, kind: &Kind) -> Kind {
        match (self.parse, self.cast) {
            (true, _) => Kind::Json,
            (false, None) => kind.clone(),
            (false, Some(Cast::Boolean)) => Kind::Boolean,
            (false, Some(Cast::Number)) => match kind {
                Kind::Integer { .. } | Kind::Float { .. } | Kind::Decimal => kind.clone(),
                _ => Kind::Decimal,
            },
            (false, Some(Cast::String)) => match kind {
                Kind::Text | Kind::Keyword | Kind::KeyText => kind.clone(),
                Kind::Boolean | Kind::Integer { .. } | Kind::Float { .. } | Kind::Decimal => Kind::Keyword,
                Kind::Date | Kind::Timestamp | Kind::Binary => Kind::Keyword,
                _ => Kind::Text,
            },
        }
    }

    /// How many times its own bytes a value of a kind can take afterwards, [`CAST_BYTES`] aside.
    pub(super) fn growth(self, kind: &Kind) -> usize {
        // Some letters are three bytes small and two bytes large; quotes in objects are escaped.
        let escapes = self.cast == Some(Cast::String) && !is_plain(kind);
        if self.lower || escapes { 2 } else { 1 }
    }

    /// Appends what the value becomes, as JSON; `Err` says what is wrong with it, without the value.
    pub(super) fn apply(
        self,
        out: &mut Vec<u8>,
        value: &[u8],
        scratch: &mut Scratch,
    ) -> Result<(), &'static str> {
        match value {
            b"null" => out.extend_from_slice(value),
            _ if self.is_none() => out.extend_from_slice(value),
            [b'"', text @ .., b'"'] => self.text(out, text, scratch)?,
            _ => self.other(out, value)?,
        }
        Ok(())
    }

    fn text(self, out: &mut Vec<u8>, escaped: &[u8], scratch: &mut Scratch) -> Result<(), &'static str> {
        let Scratch { plain, lower, .. } = scratch;
        plain.clear();
        json::unescape(plain, escaped);
        if self.parse {
            if !json::is_valid(plain) {
                return Err("its text is no JSON");
            }
            json::on_one_line(out, plain);
            return Ok(());
        }
        let mut text = std::str::from_utf8(plain).map_err(|_| "its text is no UTF-8")?;
        if self.trim {
            text = text.trim();
        }
        if self.lower {
            lower.clear();
            let mut own = [0; 4];
            for c in text.chars().flat_map(char::to_lowercase) {
                lower.extend_from_slice(c.encode_utf8(&mut own).as_bytes());
            }
            text = std::str::from_utf8(lower).map_err(|_| "its text is no UTF-8")?;
        }
        match self.cast {
            None | Some(Cast::String) => {
                out.push(b'"');
                json::escape(out, text.as_bytes());
                out.push(b'"');
            }
            Some(Cast::Number) => number(out, text).ok_or("its text is no number")?,
            Some(Cast::Boolean) => {
                out.extend_from_slice(boolean(text).ok_or("its text is neither true nor false")?);
            }
        }
        Ok(())
    }

    /// A value that is no text.
    fn other(self, out: &mut Vec<u8>, value: &[u8]) -> Result<(), &'static str> {
        let is_truth = matches!(value, b"true" | b"false");
        let is_number = value.first().is_some_and(|first| *first == b'-' || first.is_ascii_digit());
        match self.cast {
            None => out.extend_from_slice(value),
            Some(Cast::String) => {
                out.push(b'"');
                json::escape(out, value);
                out.push(b'"');
            }
            Some(Cast::Number) if is_number => out.extend_from_slice(value),
            Some(Cast::Number) if is_truth => out.push(if value == b"true" { b'1' } else { b'0' }),
            Some(Cast::Number) => return Err("it is no number"),
            Some(Cast::Boolean) if is_truth => out.extend_from_slice(value),
            Some(Cast::Boolean) => match value {
                b"1" => out.extend_from_slice(b"true"),
                b"0" => out.extend_from_slice(b"false"),
                _ => return Err("it is neither true nor false, nor 1 or 0"),
            },
        }
        Ok(())
    }
}

/// Whether JSON of this kind has nothing to escape in a string, its own quotes aside.
pub(super) fn is_plain(kind: &Kind) -> bool {
    matches!(
        kind,
        Kind::Boolean
            | Kind::Integer { .. }
            | Kind::Float { .. }
            | Kind::Decimal
            | Kind::Text
            | Kind::Keyword
            | Kind::KeyText
            | Kind::Binary
            | Kind::Date
            | Kind::Timestamp
    )
}

/// Appends the number that a text is: an optional sign, digits with an optional point among or beside them, an
/// optional exponent. JSON wants neither `+` nor leading zeros nor a bare point.
fn number(out: &mut Vec<u8>, text: &str) -> Option<()> {
    let (sign, rest) = match text.as_bytes() {
        [b'-', rest @ ..] => (&b"-"[..], rest),
        [b'+', rest @ ..] => (&b""[..], rest),
        rest => (&b""[..], rest),
    };
    let (mantissa, exponent) = match rest.iter().position(|byte| matches!(byte, b'e' | b'E')) {
        None => (rest, None),
        Some(at) => (rest.get(..at)?, Some(rest.get(at + 1..)?)),
    };
    let (whole, part) = match mantissa.iter().position(|&byte| byte == b'.') {
        None => (mantissa, &b""[..]),
        Some(at) => (mantissa.get(..at)?, mantissa.get(at + 1..)?),
    };
    let digits = |text: &[u8]| text.iter().all(u8::is_ascii_digit);
    if !digits(whole) || !digits(part) || (whole.is_empty() && part.is_empty()) {
        return None;
    }
    let power = exponent.map(|power| power.strip_prefix(b"+").unwrap_or(power));
    let unsigned = power.map(|power| power.strip_prefix(b"-").unwrap_or(power));
    if exponent.is_some_and(|text| text.starts_with(b"+-"))
        || unsigned.is_some_and(|power| power.is_empty() || !digits(power))
    {
        return None;
    }
    let zeros = whole.iter().take_while(|&&byte| byte == b'0').count();
    let whole = whole.get(zeros..).filter(|rest| !rest.is_empty()).unwrap_or(b"0");
    out.extend_from_slice(sign);
    out.extend_from_slice(whole);
    if !part.is_empty() {
        out.push(b'.');
        out.extend_from_slice(part);
    }
    if let Some(power) = power {
        out.push(b'e');
        out.extend_from_slice(power);
    }
    Some(())
}

/// The words that PostgreSQL takes too.
fn boolean(text: &str) -> Option<&'static [u8]> {
    let is = |words: &[&str]| words.iter().any(|word| text.eq_ignore_ascii_case(word));
    if is(&["true", "t", "yes", "y", "on", "1"]) {
        Some(b"true")
    } else if is(&["false", "f", "no", "n", "off", "0"]) {
        Some(b"false")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    fn of(treatment: Treatment, value: &str) -> Result<String, &'static str> {
        let mut out = Vec::new();
        treatment.apply(&mut out, value.as_bytes(), &mut Scratch::default())?;
        Ok(String::from_utf8(out).unwrap())
    }

    fn cast(cast: Cast) -> Treatment {
        Treatment { cast: Some(cast), ..Treatment::default() }
    }

    #[test]
    fn a_cast_to_a_number_takes_what_is_one_and_says_what_is_not() {
        let fine = [
            ("\"12\"", "12"),
            ("\"+007.50\"", "7.50"),
            ("\"-.5e-3\"", "-0.5e-3"),
            ("\"5.\"", "5"),
            ("\"1E+2\"", "1e2"),
            ("12.30", "12.30"),
            ("true", "1"),
            ("null", "null"),
        ];
        for (value, expected) in fine {
            assert_eq!(of(cast(Cast::Number), value).as_deref(), Ok(expected));
        }
        let wrong =
            ["\"\"", "\"1 2\"", "\" 1\"", "\"NaN\"", "\".\"", "\"1e\"", "\"1e+-2\"", "\"--1\"", "{}", "[1]"];
        for value in wrong {
            assert!(of(cast(Cast::Number), value).is_err_and(|why| why.contains("no number")), "{value}");
        }
    }

    #[test]
    fn a_cast_to_a_boolean_or_a_text() {
        for (value, expected) in [("\"Yes\"", "true"), ("\"0\"", "false"), ("1", "true"), ("false", "false")]
        {
            assert_eq!(of(cast(Cast::Boolean), value).as_deref(), Ok(expected));
        }
        for value in ["\"maybe\"", "2", "[]", "\"\""] {
            assert!(of(cast(Cast::Boolean), value).is_err());
        }
        let fine =
            [("1.50", r#""1.50""#), ("true", r#""true""#), (r#"{"a":"b\\"}"#, r#""{\"a\":\"b\\\\\"}""#)];
        for (value, expected) in fine {
            assert_eq!(of(cast(Cast::String), value).as_deref(), Ok(expected));
        }
    }

    #[test]
    fn text_is_trimmed_lowered_and_parsed() {
        let both = Treatment { trim: true, lower: true, ..Treatment::default() };
        assert_eq!(of(both, r#""  \u00c9 \"A\"\n ""#).as_deref(), Ok(r#""é \"a\"""#));
        assert_eq!(of(both, "17").as_deref(), Ok("17"));
        let trimmed = Treatment { trim: true, ..cast(Cast::Number) };
        assert_eq!(of(trimmed, "\" 3 \"").as_deref(), Ok("3"));
        let parse = Treatment { parse: true, ..Treatment::default() };
        assert_eq!(of(parse, r#""{\"a\":\n[1, \"\\n\"]}""#).as_deref(), Ok("{\"a\": [1, \"\\n\"]}"));
        for wrong in [r#""{""#, "\"\"", r#""1 2""#, &format!("\"{}\"", "[".repeat(1000))] {
            assert_eq!(of(parse, wrong), Err("its text is no JSON"));
        }
    }

    proptest! {
        #[test]
        fn what_comes_out_is_json_and_no_longer_than_was_reckoned(
            text in "[\\PCİȺ\"\\\\\n\u{1}0-9.e+-]{0,20}",
            trim in any::<bool>(), lower in any::<bool>(),
            to in prop::option::of(prop_oneof![Just(Cast::String), Just(Cast::Number), Just(Cast::Boolean)]),
            object in any::<bool>(),
        ) {
            let treatment = Treatment { parse: false, trim, lower, cast: to };
            let quoted = serde_json::to_string(&text).unwrap();
            let (value, kind) = match object {
                true => (format!("{{\"a\":{quoted}}}"), Kind::Json),
                false => (quoted, Kind::Text),
            };
            if let Ok(out) = of(treatment, &value) {
                prop_assert!(serde_json::from_str::<serde_json::Value>(&out).is_ok(), "{out}");
                prop_assert!(out.len() <= value.len() * treatment.growth(&kind) + CAST_BYTES);
            }
        }
    }
}
