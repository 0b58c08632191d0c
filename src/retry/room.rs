//! Whether a refusal for want of room is for ever: the cluster says how large the request is and what it takes at
//! most, and when the request alone is more than that, no waiting helps.

/// Said of a request or of one operation: its size, and what it may be at most.
const FORMS: [(&str, &str); 6] = [
    // The indexing pressure of a coordinating node: Elasticsearch 8 and 9; 7 and OpenSearch.
    ("coordinating_operation_bytes=", "max_coordinating_bytes="),
    ("coordinating_operation_bytes=", "max_coordinating_and_primary_bytes="),
    // Of the node with the primary shard, which holds the document beside what is said here.
    ("primary_operation_bytes=", "max_primary_bytes="),
    ("primary_operation_bytes=", "max_coordinating_and_primary_bytes="),
    // One operation of a request.
    ("an operation of size [", "the maximum allowed limit of ["),
    // A circuit breaker.
    ("new bytes reserved: [", "which is larger than the limit of ["),
];

/// Whether `reason`, that of a refusal with `429` or of a circuit breaker, means that a request of (at least)
/// `bytes` is refused however long one waits.
pub(super) fn never_fits(reason: &str, bytes: u64) -> bool {
    FORMS.iter().any(|&(size, most)| {
        let (Some(size_said), Some(most)) = (number_after(reason, size), number_after(reason, most)) else {
            return false;
        };
        let beside = if size.starts_with("primary") { bytes } else { 0 };
        size_said.saturating_add(beside) > most
    })
}

fn number_after(text: &str, name: &str) -> Option<u64> {
    let (_, after) = text.split_once(name)?;
    let digits = after.split(|c: char| !c.is_ascii_digit()).next()?;
    digits.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As Elasticsearch 9.5 with a heap of 1 GiB answers 20 MiB: four times that for its parsed form, beside it.
    const EXPANDED: &str = "rejected execution of primary operation [coordinating_and_primary_bytes=20971729, \
        replica_bytes=0, all_bytes=20971729, primary_operation_bytes=83886116, max_primary_bytes=103795916]";
    const WHOLE: &str = "rejected execution of coordinating operation [coordinating_and_primary_bytes=0, \
        replica_bytes=0, all_bytes=0, coordinating_operation_bytes=103809233, max_coordinating_bytes=103795916]";
    const OLDER: &str = "rejected execution of coordinating operation [coordinating_and_primary_bytes=9, \
        replica_bytes=0, all_bytes=9, coordinating_operation_bytes=SIZE, max_coordinating_and_primary_bytes=53687091]";
    const BREAKER: &str = "[parent] Data too large, data for [<http_request>] would be [499561600/476.4mb], which is \
        larger than the limit of [493030604/470.1mb], real usage: [497583400/474.5mb], new bytes reserved: \
        [SIZE/1.8mb], usages [request=0/0b]";
    const OPERATION: &str = "Request contains an operation of size [7] bytes, which exceeds the maximum allowed limit \
        of [6] bytes";

    #[test]
    fn t33_what_alone_is_more_than_the_target_takes_never_fits() {
        assert!(never_fits(EXPANDED, 20 << 20));
        assert!(never_fits(WHOLE, 0) && never_fits(OPERATION, 0));
        assert!(never_fits(&OLDER.replace("SIZE", "61790813"), 0));
        assert!(never_fits(&BREAKER.replace("SIZE", "493030605"), 0));
    }

    #[test]
    fn t33_what_others_take_the_room_of_fits_later() {
        assert!(!never_fits(EXPANDED, 19_000_000));
        assert!(!never_fits(&OLDER.replace("SIZE", "53687091"), 60_000_000));
        assert!(!never_fits(&BREAKER.replace("SIZE", "1978200"), 1_978_200));
        for nothing in ["", "because", "primary_operation_bytes=", "max_primary_bytes=1"] {
            assert!(!never_fits(nothing, u64::MAX), "{nothing}");
        }
    }
}
