//! What broke the first draft of the laws, each case with the tests that show that it does not any
//! more. The letters are those of the list of attacks; `later` names the part that a case waits for.
//!
//! | case | what | test |
//! |---|---|---|
//! | A1 | a read from before a commit that is passed and not visible | `sources/merge/tests/attacks.rs::a1_a_read_that_does_not_see_what_was_passed_is_read_again`<br>`sources/postgres/snapshot.rs::a1_a_commit_in_the_log_that_is_not_visible_is_not_seen`<br>`tests/traps/postgres/reads.rs::t06_commit_in_the_log_that_is_not_visible` |
//! | A2 | a suppressed event that displaced a chunk row | `sources/merge/tests/attacks.rs::a2_a_change_that_displaces_a_row_says_so`<br>`sources/merge/tests/attacks.rs::a2_a_held_row_is_displaced_once` |
//! | A3 | fingerprints from before event mode | later: scheduled mode |
//! | A4 | a writer from before the table joined or the slot was made | `sources/merge/tests/attacks.rs::a4_the_rows_of_a_writer_from_before_the_table_joined_are_read_after_it`<br>`tests/traps/postgres/reads.rs::t44_table_joins_while_a_transaction_is_open`<br>`tests/traps/postgres/reads.rs::t05_seam_between_snapshot_and_stream` |
//! | A5 | a row leaves the filter | `tests/attacks/transactions.rs::a5_a_row_that_leaves_the_filter_leaves_the_index` |
//! | A6 | a put older than a forgotten delete: two processes | `tests/attacks/processes.rs::a6_a_second_process_waits_and_never_writes_into_what_it_does_not_know`<br>`tests/attacks/processes.rs::a6_a_copy_of_the_store_takes_the_lease_and_the_first_process_halts`<br>`src/lease_tests.rs::a_lease_is_taken_over_only_after_its_owner_has_become_invalid` |
//! | A6 | a dead letter's retry after its key's delete | `src/lanes/tests/faults.rs::b13_a_newer_change_removes_the_letter_and_an_equal_version_counts` |
//! | A6 | repair, switch of mode, Kafka group | later: repair, scheduled mode, Kafka |
//! | A7 | more Kafka partitions | later: Kafka |
//! | A8 | delete.retention.ms | later: Kafka |
//! | A9 | the log goes back under its identity | `tests/traps/postgres/history.rs::t42_t43_restored_volume` |
//! | A9 | RESET MASTER | later: MySQL |
//! | A10 | a server that lost the tail | `tests/attacks/failover.rs::a10_a_server_is_followed_only_if_it_has_every_transaction`<br>`tests/attacks/failover.rs::a10_after_an_unclean_stop_another_timeline_is_another_history` |
//! | A11 | a slot that a person advanced or made again | `tests/traps/postgres/history.rs::t43_slot_advanced_or_made_again_by_a_person` |
//! | A12 | an index that a person deleted or made again | `tests/traps/postgres/index.rs::t45_index_deleted_while_running`<br>`tests/traps/postgres/index.rs::t45_index_made_again_under_the_alias`<br>`tests/traps/elasticsearch.rs::t45_only_create_index_makes_an_index` |
//! | A13 | TRUNCATE | `tests/traps/postgres/stream.rs::t10_truncate_is_a_barrier` |
//! | B1 | versions after a lost store | `tests/attacks/versions.rs::b1_after_a_lost_store_versions_lie_above_all_that_were_issued`<br>`src/lease_tests.rs::a_ceiling_is_durable_before_it_counts_and_never_beyond_53_bits` |
//! | B2 | a base that only rises | `sources/position.rs::a_new_identity_starts_above_every_version_issued` |
//! | B3 | a late request and equal versions | `src/lanes/tests/order.rs::b3_zombie_bulk_with_equal_versions` |
//! | B4 | two_phase slots | `tests/attacks/transactions.rs::b4_a_slot_with_two_phase_is_refused` |
//! | B4 | XA | later: MySQL |
//! | B5 | snapshots of a standby | `tests/attacks/failover.rs::b5_a_standby_is_refused` |
//! | B6 | a ledger inside a transaction | `src/ledger.rs::b6_not_sealed`<br>`tests/traps/postgres/giant.rs::t08_t48_giant_transaction_is_bounded_and_keeps_its_progress` |
//! | B7 | moves that lose a delete | `src/lanes/tests/order.rs::b7_moves_keep_each_delete`<br>`tests/traps/postgres/stream.rs::t02_several_rows_share_one_lsn` |
//! | B8 | keys that change places | `tests/attacks/transactions.rs::b8_a_deferrable_key_is_refused` |
//! | B9 | an index, id or routing without an old image | later: templates; an id is made from the key alone |
//! | B10 | chunk and reader wait for each other | `tests/attacks/memory.rs::b10_reads_and_log_never_wait_for_each_other_while_the_budget_is_full`<br>`sources/budget/tests.rs::held_reads_never_keep_the_log_from_going_on` |
//! | B11 | fan-out behind newer parents | later: joined documents |
//! | B12 | reads that are rolled back | later: MongoDB |
//! | B13 | an equal version supersedes a dead letter | `src/lanes/tests/faults.rs::b13_a_newer_change_removes_the_letter_and_an_equal_version_counts` |
//! | D1 | the version is in Begin | `tests/attacks/versions.rs::d1_the_version_is_the_commit_records_lsn` |
//! | D2 | a restored volume beyond the checkpoint | `tests/traps/postgres/history.rs::t42_t43_restored_volume` |
//! | D3 | late requests and equal versions, at random | `src/lanes/tests/order.rs::d3_late_requests_beyond_the_quarantine_are_asked_after`<br>`src/lanes/tests/order.rs::d3_a_taint_outlasts_the_success_of_the_repetition` |
//! | D4 | an orphaned prepared transaction | `tests/attacks/transactions.rs::d4_only_a_prepared_writer_of_the_table_itself_is_waited_for`<br>`sources/merge/tests/attacks.rs::d4_a_transaction_that_never_ends_holds_no_read_back` |
//! | D5 | XA over a restart | later: MySQL |
//! | D6 | a reader that goes on repeats reads | `sources/merge/tests/attacks.rs::d6_a_reader_that_goes_on_does_not_make_reads_repeat` |
//! | D7 | compare-and-set of the state | `tests/traps/elasticsearch.rs::the_state_document_changes_only_by_compare_and_set` |
//! | D8 | a chunk row displaced by a filtered event | later: filters in the shape |
//! | D9 | list, then read | later: repair |
//! | D10 | the merge and its mutants | `sources/merge/tests/attacks.rs::d10_dropped_held_displaced_and_released_in_one_run`<br>`sources/merge/tests.rs::every_mutant_is_caught` |
//! | D11 | a scheduled run is one place | later: scheduled mode |
//! | D12 | positions inside compressed payloads | later: MySQL |
//! | D13 | only a settled prefix is skipped | `tests/traps/postgres/giant.rs::t08_t48_giant_transaction_is_bounded_and_keeps_its_progress`<br>`src/ledger.rs::t01_earlier_outstanding` |

use std::collections::BTreeSet;
use std::fs;

use crate::harness::processes::source_path;

mod failover;
mod memory;
mod processes;
mod transactions;
mod versions;

/// A table with a few rows.
const SMALL: &str = "CREATE TABLE t (id bigint PRIMARY KEY, n bigint NOT NULL);
    INSERT INTO t SELECT id, 0 FROM generate_series(1, 200) id;";

/// The rows of the table above: the case, and its last column.
fn cases() -> Vec<(String, String)> {
    let text = fs::read_to_string(source_path("tests/attacks/mod.rs")).unwrap();
    let rows = text.lines().filter_map(|line| line.strip_prefix("//! | ")).skip(1);
    let parts =
        rows.map(|row| row.trim_end_matches(" |").splitn(3, " | ").map(str::to_owned).collect::<Vec<_>>());
    parts.map(|row| (row[0].clone(), row[2].clone())).collect()
}

/// Whether the file has a test of that name.
fn is_there(test: &str) -> bool {
    let Some((file, name)) = test.split_once("::") else { return false };
    let Ok(text) = fs::read_to_string(source_path(file)) else { return false };
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let is_test = |at: usize| {
        lines[at.saturating_sub(4)..at].iter().any(|line| line.starts_with("#[") && line.contains("test"))
    };
    let named = |line: &str| line.contains(&format!("fn {name}("));
    // What runs on several engines is listed once, for the macro that makes a test of it.
    let is_listed = text.contains("macro_rules! tests_on") && lines.contains(&name);
    lines.iter().enumerate().any(|(at, line)| named(line) && (is_test(at) || is_listed))
}

#[test]
fn every_case_names_tests_that_exist_or_the_part_that_it_waits_for() {
    let cases = cases();
    for (case, shown) in &cases {
        if shown.starts_with("later: ") {
            continue;
        }
        let tests: Vec<&str> = shown.split('`').skip(1).step_by(2).collect();
        assert!(!tests.is_empty(), "{case} names no test: {shown}");
        for test in tests {
            assert!(is_there(test), "{case}: there is no test {test}");
        }
    }
    let found: BTreeSet<&str> = cases.iter().map(|(case, _)| case.as_str()).collect();
    let all = ["A", "B", "D"]
        .into_iter()
        .flat_map(|letter| (1..=13).map(move |number| format!("{letter}{number}")));
    let missing: Vec<String> = all.filter(|case| !found.contains(case.as_str())).collect();
    assert!(missing.is_empty(), "not in the table: {missing:?}");
    assert!(!is_there("tests/attacks/mod.rs::is_there"), "a function that is no test counts as one");
    assert!(!is_there("tests/attacks/mod.rs::nowhere"));
    assert!(!is_there("tests/traps/elasticsearch.rs::packing"), "a function beside those of the list");
}
