//! From `memory.max_rss` to the byte budget.

use super::problem::{KeyPath, Place, Problems};
use super::section::Section;

/// What the process needs before it holds any row: code, runtime, TLS, SQLite's cache, the
/// allocator's own (measured idle: 14 to 18 MiB).
pub const FLOOR_BYTES: usize = 24 << 20;

/// Maximal documents that may be held uncharged, beside one in the wire buffer of each reader: in the
/// wire buffers of the log and of the reader by key; the row of the log that waits for its charge; the
/// action that is made of a row; a dead letter on its way into the store.
const DOCUMENTS_BESIDE_READERS: usize = 5;

/// The smallest budget that still moves: some batches for each of the lanes and a chunk.
pub const BUDGET_BYTES_MIN: usize = 8 << 20;

/// Default of `memory.max_rss`, in bytes.
const MAX_RSS_DEFAULT: usize = 256 << 20;

/// Default of `memory.document_bytes_max` as a part of `max_rss`: what is held uncharged then takes
/// less than a quarter with two readers.
const DOCUMENT_PART: usize = 32;

/// What the process may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// The most resident memory the process may have, in bytes.
    pub max_rss: usize,
    /// The most bytes one row may have; a larger one becomes a dead letter without a body.
    pub document_bytes_max: usize,
    /// The byte budget (law 5), computed by [`budget_bytes`].
    pub budget_bytes: usize,
}

/// The byte budget under `max_rss`:
///
/// ```text
/// (max_rss − 24 MiB floor − (readers + 4 + copies) × document_bytes_max) × 3/4
/// ```
/// `copies` is how many targets a document goes to. /// So many maximal documents may be held without a charge; a quarter of the rest is left for what the
/// allocator rounds up and returns late. `None` when less than [`BUDGET_BYTES_MIN`] is left.
pub fn budget_bytes(
    max_rss: usize,
    document_bytes_max: usize,
    readers: usize,
    copies: usize,
) -> Option<usize> {
    let uncharged = document_bytes_max.checked_mul(documents(readers, copies))?;
    let rest = max_rss.checked_sub(FLOOR_BYTES)?.checked_sub(uncharged)?;
    let budget = rest / 4 * 3;
    (budget >= BUDGET_BYTES_MIN).then_some(budget)
}

/// Maximal documents that may be held uncharged.
fn documents(readers: usize, copies: usize) -> usize {
    readers + DOCUMENTS_BESIDE_READERS + copies.saturating_sub(1)
}

/// Reads `[memory]`; `readers` is how many connections read beside the log, `copies` how many targets there are,
/// `packed` what compressed copies of requests hold.
pub(super) fn read(
    section: Option<Section<'_>>,
    readers: usize,
    copies: usize,
    packed: usize,
    problems: &mut Problems,
) -> Memory {
    let (mut max_rss, mut document_bytes_max) = (MAX_RSS_DEFAULT, MAX_RSS_DEFAULT / DOCUMENT_PART);
    let mut place = Place::Line(1);
    let path = KeyPath::default().key("memory").key("max_rss");
    if let Some(mut section) = section {
        max_rss = section.size("max_rss", problems).unwrap_or(max_rss);
        let document = section.size("document_bytes_max", problems);
        document_bytes_max = document.unwrap_or(max_rss / DOCUMENT_PART);
        let entry = section.entry("max_rss").or_else(|| section.entry("document_bytes_max"));
        place = entry.map_or(section.place.clone(), |entry| entry.place.clone());
        section.finish(problems);
    }
    let budget = budget_bytes(max_rss.saturating_sub(packed), document_bytes_max, readers, copies);
    if let Some(what) = too_small(budget, max_rss, document_bytes_max, (readers, copies)) {
        let fix = "raise memory.max_rss, or lower memory.document_bytes_max or the source's readers";
        problems.add(&place, &path, what, fix);
    }
    Memory { max_rss, document_bytes_max, budget_bytes: budget.unwrap_or(BUDGET_BYTES_MIN) }
}

fn too_small(
    budget: Option<usize>,
    max_rss: usize,
    document_bytes_max: usize,
    (readers, copies): (usize, usize),
) -> Option<String> {
    match budget {
        None => Some(format!(
            "{} leaves less than {} of budget: {} for the process itself and {} documents of {} under way come first",
            mib(max_rss),
            mib(BUDGET_BYTES_MIN),
            mib(FLOOR_BYTES),
            documents(readers, copies),
            mib(document_bytes_max),
        )),
        // Reads hold at most half of the budget, and a document is held twice while it is rendered.
        Some(budget) if document_bytes_max.saturating_mul(copies) > budget / 4 => Some(format!(
            "documents of {} do not fit: one, with a copy for each target, may take a quarter of the budget, which is {}",
            mib(document_bytes_max),
            mib(budget),
        )),
        Some(_) => None,
    }
}

fn mib(bytes: usize) -> String {
    match bytes >= 1 << 20 {
        true => format!("{} MiB", bytes >> 20),
        false => format!("{bytes} bytes"),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const MIB: usize = 1 << 20;

    #[test]
    fn the_budget_is_three_quarters_of_what_floor_and_documents_leave() {
        assert_eq!(budget_bytes(256 * MIB, 8 * MIB, 2, 1), Some((256 - 24 - 56) * MIB / 4 * 3));
        assert_eq!(budget_bytes(128 * MIB, 4 * MIB, 2, 1), Some((128 - 24 - 28) * MIB / 4 * 3));
    }

    #[test]
    fn each_target_has_a_copy_of_a_document() {
        assert_eq!(budget_bytes(256 * MIB, 8 * MIB, 2, 3), Some((256 - 24 - 72) * MIB / 4 * 3));
        let budget = budget_bytes(64 * MIB, 2 * MIB, 2, 4);
        assert!(
            too_small(budget, 64 * MIB, 2 * MIB, (2, 4)).is_some_and(|what| what.contains("each target"))
        );
    }

    #[test]
    fn a_bound_that_leaves_too_little_is_refused() {
        assert_eq!(budget_bytes(32 * MIB, MIB, 2, 1), None);
        assert_eq!(budget_bytes(8 * MIB, MIB, 2, 1), None);
        assert_eq!(budget_bytes(usize::MAX, usize::MAX / 2, 2, 1), None);
        assert!(budget_bytes(48 * MIB, 48 * MIB / DOCUMENT_PART, 2, 1).is_some());
    }
}
