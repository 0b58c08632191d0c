//! `[dead_letters]`.

use std::ops::RangeInclusive;

use super::problem::Problems;
use super::section::Section;

/// Default of `dead_letters.max_bytes`: some hundred thousand small documents, and no disk that is filled.
const MAX_BYTES_DEFAULT: usize = 256 << 20;

/// Less than some letters are no use; more than this no person reads, and no store is made for.
const MAX_BYTES: RangeInclusive<usize> = 64 << 10..=1 << 40;

/// The most bytes that all dead letters of a pipeline may hold on the disk.
pub(super) fn read(section: Option<Section<'_>>, problems: &mut Problems) -> u64 {
    let Some(mut section) = section else { return MAX_BYTES_DEFAULT as u64 };
    let bytes = section.size("max_bytes", problems).unwrap_or(MAX_BYTES_DEFAULT);
    if !MAX_BYTES.contains(&bytes) {
        let (place, path) = (section.place_of("max_bytes"), section.path.key("max_bytes"));
        let fix = "from \"64KiB\" to \"1024GiB\"; the default is \"256MiB\"";
        problems.add(&place, &path, "is out of range", fix);
    }
    section.finish(problems);
    bytes as u64
}
