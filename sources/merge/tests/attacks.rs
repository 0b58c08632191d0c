//! The cases of ATTACKS that the merge decides, one by one.

use super::super::{Finish, Merge, Snapshot};
use super::database::{Database, Event, Id, Xid};
use super::key;
use super::reader::Seen;

const K: Id = Id { table: 0, key: 1 };
const OTHER: Id = Id { table: 0, key: 2 };

fn seen(database: &Database) -> Seen {
    Seen { view: database.snapshot(), blind: false }
}

fn put(database: &mut Database, id: Id) -> Xid {
    let xid = database.open();
    let value = database.fresh_value();
    assert!(database.write(xid, Event::Put { id, value, partial: false, unused: false }));
    xid
}

fn merge() -> Merge<Seen, Id> {
    Merge::default()
}

fn keyed(id: &Id) -> Option<crate::change::Key> {
    Some(key(*id))
}

/// A commit is in the log and passed, and not visible: the read that cannot see it is read again,
/// and counts as soon as it can.
#[test]
fn a1_a_read_that_does_not_see_what_was_passed_is_read_again() {
    let (mut database, mut merge) = (Database::new(!0), merge());
    let xid = put(&mut database, K);
    database.commit(xid, 1);
    merge.pass(xid);
    assert!(!merge.change(&key(K)));
    merge.end();

    let early = merge.begin(K.table);
    let blind = seen(&database);
    assert!(!blind.view.shows(xid), "committed, and still not visible");
    assert_eq!(merge.finish(early, &blind, vec![K], keyed), Finish::Again);
    assert_eq!(merge.unseen(), 1, "and remembered until a snapshot sees it");

    database.show(xid);
    let again = merge.begin(K.table);
    assert_eq!(merge.finish(again, &seen(&database), vec![K], keyed), Finish::Out(vec![K], 0));
    assert_eq!(merge.unseen(), 0, "what one snapshot has seen is forgotten");
}

/// The event of an unused column may not be suppressed when it displaced a row: whoever passes it
/// is told so, and the row is counted.
#[test]
fn a2_a_change_that_displaces_a_row_says_so() {
    let (mut database, mut merge) = (Database::new(!0), merge());
    let before = merge.begin(K.table);
    let old = seen(&database);
    let xid = put(&mut database, K);
    database.commit(xid, 1);
    merge.pass(xid);
    assert!(merge.change(&key(K)));
    assert!(!merge.change(&key(Id { table: 1, key: 1 })), "no read of that table is under way");
    merge.end();
    assert_eq!(merge.finish(before, &old, vec![K, OTHER], keyed), Finish::Out(vec![OTHER], 1));
    assert!(!merge.change(&key(K)), "nothing is under way any more");
}

/// The same for rows that are held: only a change that takes one away displaces it, and once.
#[test]
fn a2_a_held_row_is_displaced_once() {
    let (mut database, mut merge) = (Database::new(!0), merge());
    let id = merge.begin(K.table);
    let old = seen(&database);
    let xid = put(&mut database, K);
    database.commit(xid, 1);
    merge.pass(xid);
    assert!(!merge.is_idle(), "a read is under way");
    assert_eq!(merge.finish(id, &old, vec![K, OTHER], keyed), Finish::Held);
    assert!(!merge.is_idle(), "and held");
    assert!(merge.released().is_empty(), "the transaction has not ended");
    assert!(merge.change(&key(K)));
    assert!(!merge.change(&key(K)));
    assert!(!merge.change(&key(Id { table: 0, key: 3 })), "no such row is held");
    merge.end();
    assert_eq!(merge.released(), vec![(id, vec![OTHER], 1)]);
    assert!(merge.is_idle());
}

/// The events that a table's writer made before the table joined the publication never come. Only
/// the wait for that writer saves its rows: the merge cannot know of it.
#[test]
fn a4_the_rows_of_a_writer_from_before_the_table_joined_are_read_after_it() {
    let late = Id { table: super::LATE, key: 0 };
    let (mut database, mut merge) = (Database::new(!0), merge());
    let writer = put(&mut database, late);
    database.publish(super::LATE);
    let value = database.fresh_value();
    let second = Id { key: 1, ..late };
    assert!(database.write(writer, Event::Put { id: second, value, partial: false, unused: false }));
    assert_eq!(database.writers(super::LATE), vec![writer], "whom the first read waits for");
    database.commit(writer, 1);
    assert_eq!(database.events(writer).len(), 1, "the first event is not in the log");

    let early = merge.begin(late.table);
    let blind = seen(&database);
    assert_eq!(
        merge.finish(early, &blind, vec![late], keyed),
        Finish::Out(vec![late], 0),
        "without the wait"
    );

    database.show(writer);
    assert!(database.writers(super::LATE).is_empty());
    let read = seen(&database);
    assert_eq!(database.line(late, &read.view).value, database.newest(late), "with it");
}

/// An orphaned prepared transaction stays in every snapshot for ever; nothing waits for it.
#[test]
fn d4_a_transaction_that_never_ends_holds_no_read_back() {
    let (mut database, mut merge) = (Database::new(!0), merge());
    let orphan = put(&mut database, OTHER);
    for _ in 0..3 {
        let xid = put(&mut database, K);
        database.commit(xid, 1);
        database.show(xid);
        merge.pass(xid);
        merge.change(&key(K));
        merge.end();
        let read = merge.begin(K.table);
        let now = seen(&database);
        assert!(!now.sees(&orphan));
        assert_eq!(merge.finish(read, &now, vec![K, OTHER], keyed), Finish::Out(vec![K, OTHER], 0));
    }
    assert_eq!(merge.unseen(), 0);
}

/// "Passed" means passed when the read began: a reader that goes on repeats no read.
#[test]
fn d6_a_reader_that_goes_on_does_not_make_reads_repeat() {
    let (mut database, mut merge) = (Database::new(!0), merge());
    let read = merge.begin(K.table);
    let old = seen(&database);
    for _ in 0..100 {
        let xid = put(&mut database, K);
        database.commit(xid, 1);
        database.show(xid);
        merge.pass(xid);
        merge.change(&key(K));
        merge.end();
    }
    assert!(merge.changed_bytes() > 0);
    assert_eq!(merge.finish(read, &old, vec![K, OTHER], keyed), Finish::Out(vec![OTHER], 1));
    assert_eq!(merge.changed_bytes(), 0);
}

/// The rules of the merge at work in one interleaving; the random ones are in the module above.
#[test]
fn d10_dropped_held_displaced_and_released_in_one_run() {
    let (mut database, mut merge) = (Database::new(!0), merge());
    let (third, fourth) = (Id { table: 0, key: 3 }, Id { table: 0, key: 0 });
    let read = merge.begin(K.table);
    let old = seen(&database);

    let first = put(&mut database, K);
    database.commit(first, 1);
    merge.pass(first);
    merge.change(&key(K));
    merge.end();
    let second = put(&mut database, OTHER);
    database.commit(second, 0);
    merge.pass(second);
    merge.change(&key(OTHER));
    // It sees neither; the second is being passed, so what is left of it waits for its end.
    assert_eq!(merge.finish(read, &old, vec![K, OTHER, third, fourth], keyed), Finish::Held);
    assert!(merge.change(&key(third)));

    // A read that begins now has to see both; it does, and goes out at the second's place.
    database.show(first);
    database.show(second);
    let inside = merge.begin(K.table);
    assert_eq!(merge.finish(inside, &seen(&database), vec![K], keyed), Finish::Out(vec![K], 0));
    merge.end();
    assert_eq!(merge.released(), vec![(read, vec![fourth], 3)]);
}

/// A reader that must wait within a transaction gives its held reads up; begun again, they see it.
#[test]
fn a_held_read_that_is_given_up_is_begun_again_and_sees_the_transaction() {
    let (mut database, mut merge) = (Database::new(!0), merge());
    let read = merge.begin(K.table);
    let old = seen(&database);
    let xid = put(&mut database, OTHER);
    database.commit(xid, 1);
    merge.pass(xid);
    assert_eq!(merge.finish(read, &old, vec![K], keyed), Finish::Held);
    assert_eq!(merge.unhold(), vec![read]);

    let blind = merge.begin(K.table);
    assert_eq!(merge.finish(blind, &seen(&database), vec![K], keyed), Finish::Again);
    database.show(xid);
    let again = merge.begin(K.table);
    assert_eq!(merge.finish(again, &seen(&database), vec![K], keyed), Finish::Out(vec![K], 0));
}

/// After a restart within a transaction, what had gone out of it is not told: a change that was
/// suppressed then would displace the row that is now read in its place.
#[test]
fn t48_an_event_skipped_after_a_restart_displaces_nothing() {
    let (mut database, mut merge) = (Database::new(!0), merge());
    let xid = put(&mut database, K);
    database.commit(xid, 1);
    database.show(xid);
    // The new life: the gate has let the read begin, the transaction comes again afterwards.
    let read = merge.begin(K.table);
    merge.pass(xid);
    assert_eq!(merge.finish(read, &seen(&database), vec![K], keyed), Finish::Out(vec![K], 0));
}

/// A row of a read that has no key can never be displaced, so it is never held.
#[test]
fn a_row_without_a_key_is_not_held() {
    let (mut database, mut merge) = (Database::new(!0), merge());
    let read = merge.begin(K.table);
    let old = seen(&database);
    let xid = put(&mut database, OTHER);
    database.commit(xid, 1);
    merge.pass(xid);
    let key_of = |id: &Id| (*id != K).then(|| key(*id));
    assert_eq!(merge.finish(read, &old, vec![K, OTHER], key_of), Finish::Held);
    merge.end();
    assert_eq!(merge.released(), vec![(read, vec![OTHER], 1)]);
}

/// A refetch can be asked for one key twice; a change displaces both rows.
#[test]
fn rows_of_one_key_are_displaced_together() {
    let (mut database, mut merge) = (Database::new(!0), merge());
    let read = merge.begin(K.table);
    let old = seen(&database);
    let xid = put(&mut database, K);
    database.commit(xid, 1);
    merge.pass(xid);
    assert_eq!(merge.finish(read, &old, vec![K, K, OTHER], keyed), Finish::Held);
    assert!(merge.change(&key(K)));
    merge.end();
    assert_eq!(merge.released(), vec![(read, vec![OTHER], 2)]);
}

/// ATTACKS A1's own snapshot, 757:757: the transaction is at xmax and not in xip, and unseen.
#[test]
fn a_transaction_at_xmax_is_unseen_without_being_listed() {
    let mut database = Database::new(!0);
    let xid = put(&mut database, K);
    database.commit(xid, 1);
    assert!(!database.snapshot().lists(xid));
    assert!(!database.snapshot().shows(xid));
}
