//! `[memory]` and `[dead_letters]`: what may be held.

use super::tests::{GOOD, errors, load_good, with};

#[test]
fn a_bound_without_room_for_a_budget_is_refused() {
    let found = errors(&with("128MiB", "32MiB"), &[]);
    assert!(
        found.contains("rowtide.toml:4: memory.max_rss: 32 MiB leaves less than 8 MiB of budget"),
        "{found}"
    );
    let found = errors(&with("\"128MiB\"", "\"128MiB\"\ndocument_bytes_max = \"10MiB\""), &[]);
    assert!(found.contains("documents of 10 MiB do not fit"), "{found}");
    let found = errors(
        &GOOD.replace("[memory]\nmax_rss = \"128MiB\"\n", "").replace("url", "readers = 99\nurl"),
        &[],
    );
    assert!(found.contains("rowtide.toml:1: memory.max_rss: 256 MiB leaves less"), "{found}");
}

#[test]
fn compressed_copies_are_taken_off_the_budget() {
    let text = with("password = \"es-secret\"", "password = \"p\"\ngzip = true\nsniff = true");
    let (plain, packed) = (load_good(GOOD, &[]), load_good(&text, &[]));
    assert!(
        packed.pipelines[0].targets[0].gzip
            && packed.pipelines[0].targets[0].sniff
            && !plain.pipelines[0].targets[0].gzip
            && !plain.pipelines[0].targets[0].sniff
    );
    let less = crate::target::elasticsearch::GZIP_BYTES_MAX / 4 * 3;
    assert_eq!(plain.memory.budget_bytes - packed.memory.budget_bytes, less);
}

#[test]
fn dead_letters_have_a_bound_with_its_unit() {
    assert_eq!(load_good(GOOD, &[]).dead_letters_bytes, 256 << 20);
    let text = |line: &str| format!("{GOOD}\n[dead_letters]\n{line}\n");
    assert_eq!(load_good(&text("max_bytes = \"1GiB\""), &[]).dead_letters_bytes, 1 << 30);
    let from_outside = [("ROWTIDE__DEAD_LETTERS__MAX_BYTES", "64KiB")];
    assert_eq!(load_good(GOOD, &from_outside).dead_letters_bytes, 64 << 10);
    for (line, wanted) in [
        ("max_bytes = 5", "dead_letters.max_bytes: must be a size in quotes, not a whole number"),
        ("max_bytes = \"5\"", "dead_letters.max_bytes: \"5\" is not a size"),
        ("max_bytes = \"63KiB\"", "dead_letters.max_bytes: is out of range\n    fix: from \"64KiB\" to"),
        ("max_bytes = \"1025GiB\"", "dead_letters.max_bytes: is out of range"),
        ("bytes = \"1GiB\"", "dead_letters.bytes: unknown key\n    fix: "),
    ] {
        let found = errors(&text(line), &[]);
        assert!(found.contains(wanted), "{line}: {found}");
    }
}
