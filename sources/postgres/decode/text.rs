//! Text → a JSON string. Clean runs, which are nearly everything, are copied whole.

/// Appends `text`, which is UTF-8, as a JSON string.
pub(crate) fn append_string(text: &[u8], out: &mut Vec<u8>) {
    // What is longer has its room already.
    if text.len() <= super::LARGE {
        out.reserve(text.len() + 2);
    }
    out.push(b'"');
    let mut rest = text;
    while let Some(at) = first_to_escape(rest) {
        out.extend_from_slice(&rest[..at]);
        escape(rest[at], out);
        rest = &rest[at + 1..];
    }
    out.extend_from_slice(rest);
    out.push(b'"');
}

/// Bytes that [`append_string`] appends.
pub(super) fn string_bytes(text: &[u8]) -> usize {
    let more = |&byte: &u8| match byte {
        b'"' | b'\\' | b'\n' | b'\r' | b'\t' | 0x08 | 0x0c => 1,
        0..0x20 => 5,
        _ => 0,
    };
    text.len() + 2 + text.iter().map(more).sum::<usize>()
}

/// Where the first byte stands that a JSON string cannot hold as it is.
#[inline]
fn first_to_escape(text: &[u8]) -> Option<usize> {
    let (words, rest) = text.as_chunks::<8>();
    for (number, word) in words.iter().enumerate() {
        let marks = marks(u64::from_le_bytes(*word));
        if marks != 0 {
            return Some(number * 8 + (marks.trailing_zeros() / 8) as usize);
        }
    }
    let at = rest.iter().position(|&byte| byte < 0x20 || byte == b'"' || byte == b'\\');
    at.map(|at| words.len() * 8 + at)
}

/// Sets the top bit of each byte that must be escaped; eight bytes at once. Above a byte that is
/// marked rightly, one may be marked wrongly (a borrow): only the lowest mark is to be trusted.
#[inline]
fn marks(word: u64) -> u64 {
    const ONES: u64 = u64::from_ne_bytes([1; 8]);
    const TOPS: u64 = ONES << 7;
    // A byte is zero exactly if subtracting one borrows from its top bit, which it had not set.
    let zero = |word: u64| word.wrapping_sub(ONES) & !word;
    let control = word.wrapping_sub(ONES * 0x20) & !word;
    let quote = zero(word ^ (ONES * b'"' as u64));
    let backslash = zero(word ^ (ONES * b'\\' as u64));
    (control | quote | backslash) & TOPS
}

#[cold]
fn escape(byte: u8, out: &mut Vec<u8>) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let short = match byte {
        b'"' | b'\\' => byte,
        b'\n' => b'n',
        b'\r' => b'r',
        b'\t' => b't',
        0x08 => b'b',
        0x0c => b'f',
        _ => {
            let digits = [DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]];
            out.extend_from_slice(b"\\u00");
            out.extend_from_slice(&digits);
            return;
        }
    };
    out.extend_from_slice(&[b'\\', short]);
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    fn check(text: &str) {
        let mut out = Vec::new();
        append_string(text.as_bytes(), &mut out);
        assert_eq!(out.len(), string_bytes(text.as_bytes()));
        assert_eq!(String::from_utf8(out).unwrap(), serde_json::to_string(text).unwrap());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        #[test]
        fn a_string_is_escaped_as_serde_json_does_it(text in prop_oneof![any::<String>(), "[ -~]{0,40}", "[\u{0}-\u{30}\"\\\\é\u{10ffff}]{0,40}"]) {
            check(&text);
        }
    }

    #[test]
    fn every_byte_at_every_place_of_a_word() {
        for byte in 0..128_u8 {
            for place in 0..20 {
                let mut text = [b'a'; 20];
                text[place] = byte;
                check(std::str::from_utf8(&text).unwrap());
            }
        }
    }
}
