//! Numbers of JSON compared as numbers, every digit counted: no float is made of them.

use std::cmp::Ordering;

/// How one number stands to another; both are JSON numbers.
pub(super) fn compare(one: &[u8], other: &[u8]) -> Ordering {
    let (one, other) = (Number::of(one), Number::of(other));
    match (one.sign(), other.sign()) {
        (a, b) if a != b => a.cmp(&b),
        (0, _) => Ordering::Equal,
        (sign, _) => {
            let by_size = one.place.cmp(&other.place).then_with(|| one.compare_digits(&other));
            if sign < 0 { by_size.reverse() } else { by_size }
        }
    }
}

/// A number as the digits from its first to its last one that is not 0.
struct Number<'a> {
    negative: bool,
    /// With a point among them, if there is one.
    digits: &'a [u8],
    /// How many places before the point the first digit stands: 1 for 7, 0 for 0.7.
    place: i64,
}

impl<'a> Number<'a> {
    fn of(text: &'a [u8]) -> Self {
        let (negative, text) = match text {
            [b'-', rest @ ..] => (true, rest),
            rest => (false, rest),
        };
        let (mantissa, exponent) = match text.iter().position(|byte| matches!(byte, b'e' | b'E')) {
            None => (text, 0),
            Some(at) => (&text[..at], exponent(&text[at + 1..])),
        };
        let point = mantissa.iter().position(|&byte| byte == b'.').unwrap_or(mantissa.len());
        let is_digit = |byte: &u8| (b'1'..=b'9').contains(byte);
        let Some(first) = mantissa.iter().position(is_digit) else {
            return Self { negative: false, digits: &[], place: 0 };
        };
        let last = mantissa.iter().rposition(is_digit).unwrap_or(first);
        let place = match first < point {
            true => (point - first) as i64,
            false => -((first - point) as i64 - 1),
        };
        Self { negative, digits: &mantissa[first..=last], place: place.saturating_add(exponent) }
    }

    fn sign(&self) -> i8 {
        match (self.digits.is_empty(), self.negative) {
            (true, _) => 0,
            (false, true) => -1,
            (false, false) => 1,
        }
    }

    /// From the same place on.
    fn compare_digits(&self, other: &Number<'_>) -> Ordering {
        let own = self.digits.iter().filter(|byte| **byte != b'.');
        own.cmp(other.digits.iter().filter(|byte| **byte != b'.'))
    }
}

fn exponent(text: &[u8]) -> i64 {
    let (negative, digits) = match text {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        rest => (false, rest),
    };
    let add = |sum: i64, byte: &u8| sum.saturating_mul(10).saturating_add(i64::from(byte.wrapping_sub(b'0')));
    let power = digits.iter().fold(0, add);
    if negative { -power } else { power }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn of(one: &str, other: &str) -> Ordering {
        assert_eq!(
            compare(other.as_bytes(), one.as_bytes()),
            compare(one.as_bytes(), other.as_bytes()).reverse()
        );
        compare(one.as_bytes(), other.as_bytes())
    }

    #[test]
    fn every_digit_and_every_form_counts() {
        for (one, other) in
            [("0", "-0.0"), ("1", "1.00"), ("10", "1e1"), ("0.01", "1E-2"), ("100", "1.0e+2"), ("0e9", "0")]
        {
            assert_eq!(of(one, other), Ordering::Equal, "{one} {other}");
        }
        for (less, more) in [
            ("9007199254740992", "9007199254740993"),
            ("-2", "-1"),
            ("-1", "0"),
            ("9", "10"),
            ("0.09", "0.1"),
            ("1.999", "2"),
            ("12", "12.000000000000000000001"),
            ("-1e400", "-1e399"),
            ("1e-400", "1e99999999999999999999"),
            ("20", "100"),
        ] {
            assert_eq!(of(less, more), Ordering::Less, "{less} {more}");
        }
    }

    proptest! {
        #[test]
        fn as_whole_numbers_are_compared(one in any::<i64>(), other in any::<i64>(), shift in 0_usize..9) {
            prop_assert_eq!(of(&one.to_string(), &other.to_string()), one.cmp(&other));
            let moved = format!("{}e-{shift}", i128::from(one) * 10_i128.pow(shift as u32));
            prop_assert_eq!(of(&moved, &other.to_string()), one.cmp(&other));
        }
    }
}
