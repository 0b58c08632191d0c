//! Sizes as configurations spell them.

/// Bytes in `256MiB` and the like; a bare number is refused, since nobody can tell its unit.
pub fn parse(text: &str) -> Option<u64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let factor: u64 = match unit.trim() {
        "B" => 1,
        "kB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_need_their_unit() {
        assert_eq!(parse("256MiB"), Some(256 << 20));
        assert_eq!(parse("5 MB"), Some(5_000_000));
        assert_eq!(parse("7B"), Some(7));
        for wrong in
            ["", "256", "MiB", "-1MiB", "1.5GiB", "256mib", "99999999999999999999GiB", "17179869184GiB"]
        {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }
}
