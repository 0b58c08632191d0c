//! From `memory.max_rss` to the byte budget.

use super::problem::{KeyPath, Place, Problems};
use super::section::Section;

/// What the process needs before it holds any row: code, runtime, TLS, SQLite's cache, the
/// allocator's own (measured idle: 14 to 18 MiB).
pub const FLOOR_BYTES: usize = 24 << 20;

/// What a further pipeline needs before it holds any row: its connections, tasks and clients.
pub const PIPELINE_BYTES: usize = 4 << 20;

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

/// What one pipeline needs of the memory beside its part of the budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Load {
    /// Connections that read beside the log.
    pub readers: usize,
    /// Targets that a document goes to.
    pub copies: usize,
    /// What compressed copies of requests hold, in bytes.
    pub packed_bytes: usize,
    /// Its part of the budget is this among the shares of all.
    pub share: usize,
}

impl Load {
    /// Maximal documents that it may hold uncharged.
    fn documents(&self) -> usize {
        self.readers + DOCUMENTS_BESIDE_READERS + self.copies.saturating_sub(1)
    }
}

/// The byte budget under `max_rss` of all pipelines together:
///
/// ```text
/// (max_rss − 24 MiB − 4 MiB for each further pipeline − documents × document_bytes_max) × 3/4
/// documents = readers + 4 + targets, of each pipeline
/// ```
/// So many maximal documents may be held without a charge; a quarter of the rest is left for what the
/// allocator rounds up and returns late. `None` when nothing is left.
pub fn budget_bytes(max_rss: usize, document_bytes_max: usize, loads: &[Load]) -> Option<usize> {
    let documents = loads.iter().map(Load::documents).fold(0, usize::saturating_add);
    let packed = loads.iter().map(|load| load.packed_bytes).fold(0, usize::saturating_add);
    let further = PIPELINE_BYTES.saturating_mul(loads.len().saturating_sub(1));
    let fixed = FLOOR_BYTES.saturating_add(further).saturating_add(packed);
    let rest = max_rss.checked_sub(fixed)?.checked_sub(document_bytes_max.checked_mul(documents)?)?;
    Some(rest / 4 * 3)
}

/// Each one's part of the budget, by its share.
fn parts(budget: usize, loads: &[Load]) -> Vec<usize> {
    let whole = loads.iter().map(|load| load.share).sum::<usize>().max(1);
    loads.iter().map(|load| (budget as u128 * load.share as u128 / whole as u128) as usize).collect()
}

/// Reads `[memory]`; returns with it each pipeline's part of the budget.
pub(super) fn read(
    section: Option<Section<'_>>,
    loads: &[Load],
    problems: &mut Problems,
) -> (Memory, Vec<usize>) {
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
    let budget = budget_bytes(max_rss, document_bytes_max, loads);
    if let Some(what) = too_small(budget, max_rss, document_bytes_max, loads) {
        let fix = match loads.len() {
            0 | 1 => "raise memory.max_rss, or lower memory.document_bytes_max or the source's readers",
            _ => {
                "raise memory.max_rss, lower memory.document_bytes_max or the sources' readers, \
                 or run fewer pipelines in this process"
            }
        };
        problems.add(&place, &path, what, fix);
    }
    let budget_bytes = budget.unwrap_or(BUDGET_BYTES_MIN);
    (Memory { max_rss, document_bytes_max, budget_bytes }, parts(budget_bytes, loads))
}

fn too_small(
    budget: Option<usize>,
    max_rss: usize,
    document_bytes_max: usize,
    loads: &[Load],
) -> Option<String> {
    let parts = parts(budget.unwrap_or(0), loads);
    let each = if loads.len() > 1 { " for each pipeline" } else { "" };
    if parts.iter().any(|part| *part < BUDGET_BYTES_MIN) {
        let further = PIPELINE_BYTES.saturating_mul(loads.len().saturating_sub(1));
        return Some(format!(
            "{} leaves less than {} of budget{each}: {} for the process itself and {} documents of {} under way come first",
            mib(max_rss),
            mib(BUDGET_BYTES_MIN),
            mib(FLOOR_BYTES.saturating_add(further)),
            loads.iter().map(Load::documents).fold(0, usize::saturating_add),
            mib(document_bytes_max),
        ));
    }
    // Reads hold at most half of the budget, and a document is held twice while it is rendered.
    let fits = |(load, part): (&Load, &usize)| document_bytes_max.saturating_mul(load.copies) <= part / 4;
    let smallest = loads.iter().zip(&parts).find(|&(load, part)| !fits((load, part)))?.1;
    Some(format!(
        "documents of {} do not fit: one, with a copy for each target, may take a quarter of the budget{each}, which is {}",
        mib(document_bytes_max),
        mib(*smallest),
    ))
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

    fn load(readers: usize, copies: usize) -> Load {
        Load { readers, copies, packed_bytes: 0, share: 1 }
    }

    #[test]
    fn the_budget_is_three_quarters_of_what_floor_and_documents_leave() {
        assert_eq!(budget_bytes(256 * MIB, 8 * MIB, &[load(2, 1)]), Some((256 - 24 - 56) * MIB / 4 * 3));
        assert_eq!(budget_bytes(128 * MIB, 4 * MIB, &[load(2, 1)]), Some((128 - 24 - 28) * MIB / 4 * 3));
    }

    #[test]
    fn each_target_has_a_copy_of_a_document() {
        assert_eq!(budget_bytes(256 * MIB, 8 * MIB, &[load(2, 3)]), Some((256 - 24 - 72) * MIB / 4 * 3));
        let loads = [load(2, 4)];
        let budget = budget_bytes(64 * MIB, 2 * MIB, &loads);
        let told = too_small(budget, 64 * MIB, 2 * MIB, &loads);
        assert!(told.is_some_and(|what| what.contains("each target")));
    }

    #[test]
    fn pipelines_have_parts_by_their_shares_and_each_its_own_documents() {
        let loads = [load(2, 1), Load { share: 3, ..load(4, 2) }];
        let budget = budget_bytes(512 * MIB, 4 * MIB, &loads).unwrap();
        assert_eq!(budget, (512 - 24 - 4 - (7 + 10) * 4) * MIB / 4 * 3);
        let parts = parts(budget, &loads);
        assert_eq!(parts, [budget / 4, budget / 4 * 3]);
        assert!(parts.iter().sum::<usize>() <= budget);
        assert_eq!(too_small(Some(budget), 512 * MIB, 4 * MIB, &loads), None);
    }

    #[test]
    fn a_share_that_moves_nothing_is_refused() {
        let loads = [load(2, 1), Load { share: 20, ..load(2, 1) }];
        let budget = budget_bytes(256 * MIB, 2 * MIB, &loads);
        let told = too_small(budget, 256 * MIB, 2 * MIB, &loads).unwrap();
        assert!(told.contains("less than 8 MiB of budget for each pipeline: 28 MiB"), "{told}");
        // 8 MiB documents fit into the whole budget, and not into a half of it.
        let loads = [load(2, 1), load(2, 1)];
        let told = too_small(Some(50 * MIB), 256 * MIB, 8 * MIB, &loads).unwrap();
        assert!(told.contains("a quarter of the budget for each pipeline, which is 25 MiB"), "{told}");
        assert_eq!(too_small(Some(50 * MIB), 256 * MIB, 8 * MIB, &loads[..1]), None);
    }

    #[test]
    fn a_bound_that_leaves_too_little_is_refused() {
        let is_refused = |max_rss, document| {
            let loads = [load(2, 1)];
            too_small(budget_bytes(max_rss, document, &loads), max_rss, document, &loads).is_some()
        };
        assert!(is_refused(32 * MIB, MIB));
        assert!(is_refused(8 * MIB, MIB));
        assert!(is_refused(usize::MAX, usize::MAX / 2));
        assert!(!is_refused(48 * MIB, 48 * MIB / DOCUMENT_PART));
    }
}
