#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use bytes::Bytes;
use rusqlite::Connection;
use sources::budget::Budget;
use sources::position::{Position, Version};
use sources::world::RealWorld;

use super::*;
use crate::dead_letters::{DeadLetter, DeadLetterError, DeadLetters};

/// A directory of the test's own, removed at its end.
pub(crate) struct Folder(pub(crate) PathBuf);

impl Folder {
    pub(crate) fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("rowtide-store-{}-{number}", std::process::id()));
        let _left_by_an_older_run = std::fs::remove_dir_all(&path);
        Self(path)
    }

    pub(crate) fn open(&self) -> Result<Sqlite, StoreError> {
        Sqlite::open(&self.0, &RealWorld::shared())
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _best_effort = std::fs::remove_dir_all(&self.0);
    }
}

const LIMITS: LetterLimits = LetterLimits { disk_bytes: 1 << 20, memory_bytes: 1 << 20 };

fn budget() -> Budget {
    Budget::new(8 << 20)
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

fn position(number: u32) -> Position {
    Position::seal(&number).unwrap()
}

fn indices(uuid: &str) -> BTreeMap<String, String> {
    BTreeMap::from([("products".to_owned(), uuid.to_owned())])
}

fn letter(id: &str, version: u64) -> DeadLetter {
    let body = Bytes::from(format!("{{\"index\":{{}}}}\n{{\"v\":{version}}}\n"));
    let bytes = body.len() as u64;
    DeadLetter {
        index: "products".into(),
        id: id.as_bytes().into(),
        version: Version::from_target(version),
        reason: "failed to parse".to_owned(),
        body: Some(body),
        bytes,
    }
}

#[tokio::test]
async fn a_new_store_knows_nothing_and_keeps_its_owner() {
    let folder = Folder::new();
    let store = folder.open().unwrap();
    let saved = store.load("shop").await.unwrap();
    assert_eq!((saved.position.clone(), saved.clean, saved.identity.clone()), (None, false, None));
    assert!(saved.resume().is_none());
    assert_eq!(saved.owner.len(), 16);
    drop(store);
    let store = folder.open().unwrap();
    assert_eq!(store.owner(), saved.owner);
    assert_ne!(Folder::new().open().unwrap().owner(), saved.owner);
}

#[tokio::test]
async fn what_was_kept_outlives_an_end_without_warning() {
    let folder = Folder::new();
    let store = folder.open().unwrap();
    store.begin("shop", &indices("uuid-1")).await.unwrap();
    store.identify("shop", "system 1").await.unwrap();
    for number in 0..50 {
        store.checkpoint("shop", &position(number)).await.unwrap();
    }
    // What a kill leaves: the files as they are, the write-ahead log not folded in.
    let killed = Folder::new();
    std::fs::create_dir(&killed.0).unwrap();
    for file in ["rowtide.sqlite", "rowtide.sqlite-wal"] {
        std::fs::copy(folder.0.join(file), killed.0.join(file)).unwrap();
    }
    drop(store);
    for folder in [&folder, &killed] {
        let saved = folder.open().unwrap().load("shop").await.unwrap();
        assert_eq!(saved.position, Some(position(49)));
        assert_eq!(saved.identity.as_deref(), Some("system 1"));
        assert_eq!(saved.indices, Some(indices("uuid-1")));
        assert!(!saved.clean);
    }
}

#[tokio::test]
async fn a_clean_end_is_remembered_until_the_next_beginning() {
    let folder = Folder::new();
    let store = folder.open().unwrap();
    store.checkpoint("shop", &position(1)).await.unwrap();
    store.finish("shop", Some(&position(2))).await.unwrap();
    assert_eq!(store.load("shop").await.unwrap().position, Some(position(2)));
    store.begin("shop", &indices("uuid-1")).await.unwrap();
    assert!(!store.load("shop").await.unwrap().clean);
    store.finish("shop", None).await.unwrap();
    drop(store);
    let saved = folder.open().unwrap().load("shop").await.unwrap();
    assert!(saved.clean && saved.resume().unwrap().clean);
    assert_eq!(saved.position, Some(position(2)), "no new position leaves the last one");
}

#[tokio::test]
async fn pipelines_do_not_mix() {
    let folder = Folder::new();
    let store = folder.open().unwrap();
    store.checkpoint("a", &position(1)).await.unwrap();
    store.finish("b", None).await.unwrap();
    assert_eq!(store.load("a").await.unwrap().position, Some(position(1)));
    assert!(!store.load("a").await.unwrap().clean);
    assert_eq!(store.load("b").await.unwrap().position, None);
}

#[test]
fn a_second_process_is_refused_by_the_first_one_s_pid() {
    let folder = Folder::new();
    let first = folder.open().unwrap();
    let halt = Halt::from(folder.open().err().unwrap());
    assert_eq!(halt.state, "data-dir-in-use");
    assert_eq!(halt.hint, "stop it, or give this one a data_dir of its own");
    let error = folder.open().err().unwrap().to_string();
    assert!(error.contains(&format!("another rowtide (pid {}) uses", std::process::id())), "{error}");
    drop(first);
    folder.open().unwrap();
}

#[test]
fn the_directory_is_closed_to_others() {
    let folder = Folder::new();
    drop(folder.open().unwrap());
    assert_eq!(mode(&folder.0), 0o700);
    std::fs::set_permissions(&folder.0, std::fs::Permissions::from_mode(0o755)).unwrap();
    drop(folder.open().unwrap());
    assert_eq!(mode(&folder.0), 0o700, "our own is closed again");
}

#[test]
fn a_directory_that_others_use_is_left_alone_and_refused() {
    let folder = Folder::new();
    std::fs::create_dir(&folder.0).unwrap();
    std::fs::write(folder.0.join("somebody's file"), "").unwrap();
    std::fs::set_permissions(&folder.0, std::fs::Permissions::from_mode(0o755)).unwrap();
    let error = folder.open().err().unwrap().to_string();
    assert!(error.contains("is open to other users (mode 0755)") && error.contains("chmod 700"), "{error}");
    assert_eq!(mode(&folder.0), 0o755);

    let file = folder.0.join("somebody's file");
    let error = Sqlite::open(&file, &RealWorld::shared()).err().unwrap().to_string();
    assert!(error.contains("is no directory"), "{error}");
}

#[test]
fn a_newer_format_is_refused_by_name_and_left_as_it_is() {
    let folder = Folder::new();
    drop(folder.open().unwrap());
    let file = folder.0.join("rowtide.sqlite");
    let connection = Connection::open(&file).unwrap();
    connection.execute("UPDATE meta SET value = '4' WHERE key = 'format'", []).unwrap();
    drop(connection);
    let before = std::fs::read(&file).unwrap();
    let error = folder.open().err().unwrap().to_string();
    assert!(error.contains("made by a newer Rowtide: format 4, this program knows 3"), "{error}");
    assert_eq!(std::fs::read(&file).unwrap(), before);
}

#[test]
fn what_is_no_store_is_refused() {
    let folder = Folder::new();
    drop(folder.open().unwrap());
    std::fs::write(folder.0.join("rowtide.sqlite"), "no database, but long enough to be looked at").unwrap();
    let error = folder.open().err().unwrap().to_string();
    assert!(error.contains("not a database"), "{error}");
}

/// `tests/fixtures/store-v1.sql` to `store-v3.sql` are what earlier programs wrote, as SQLite's own dump.
#[tokio::test]
async fn stores_of_earlier_formats_are_read_and_brought_up() {
    let fixtures = [
        (include_str!("../../tests/fixtures/store-v1.sql"), None),
        (include_str!("../../tests/fixtures/store-v2.sql"), Some(indices("Jx2k-0aQ"))),
        (
            include_str!("../../tests/fixtures/store-v3.sql"),
            Some([("search/products".to_owned(), "Jx2k-0aQ".to_owned())].into()),
        ),
    ];
    for (fixture, written) in fixtures {
        open_fixture(fixture, written).await;
    }
}

async fn open_fixture(fixture: &str, written: Option<BTreeMap<String, String>>) {
    let folder = Folder::new();
    std::fs::create_dir(&folder.0).unwrap();
    Connection::open(folder.0.join("rowtide.sqlite")).unwrap().execute_batch(fixture).unwrap();
    let store = folder.open().unwrap();
    assert_eq!(store.owner(), "00c0ffee00c0ffee");
    let saved = store.load("shop").await.unwrap();
    assert_eq!(saved.position, Some(Position::from_text("{\"lsn\":\"0/16B3748\"}")));
    assert_eq!((saved.clean, saved.identity.as_deref()), (true, Some("7301234567890123456/1")));
    assert_eq!(saved.indices, written);
    store.name_letters("shop", "search").await.unwrap();
    let letters = store.letters(&letters_of("shop", "search"), LIMITS, &budget()).await.unwrap();
    assert!(letters.holds("products", b"42"));
    let listed = letters.list(10).await.unwrap();
    assert_eq!((listed.len(), listed[0].version.get(), listed[0].bytes), (1, 81, 20));
    assert_eq!(listed[0].reason, "failed to parse field [price]");
    store.begin("shop", &indices("uuid-2")).await.unwrap();
    assert_eq!(store.load("shop").await.unwrap().indices, Some(indices("uuid-2")));
}

#[tokio::test]
async fn a_dead_letter_is_kept_until_a_later_change_of_its_place() {
    let folder = Folder::new();
    let store = folder.open().unwrap();
    let letters = store.letters("shop", LIMITS, &budget()).await.unwrap();
    letters.keep(letter("1", 5)).await.unwrap();
    letters.keep(letter("2", 5)).await.unwrap();
    assert!(letters.holds("products", b"1") && !letters.holds("other", b"1"));
    letters.superseded("products", b"1", Version::from_target(4)).await.unwrap();
    assert!(letters.holds("products", b"1"), "an older change ends nothing");
    letters.superseded("products", b"1", Version::from_target(5)).await.unwrap();
    assert!(!letters.holds("products", b"1"), "an equal version came later in the stream");
    drop((letters, store));

    let letters = folder.open().unwrap().letters("shop", LIMITS, &budget()).await.unwrap();
    assert!(!letters.holds("products", b"1") && letters.holds("products", b"2"));
    let listed = letters.list(10).await.unwrap();
    assert_eq!(listed.iter().map(|letter| letter.id.as_str()).collect::<Vec<_>>(), ["2"]);
}

#[tokio::test]
async fn letters_are_each_target_s_own_and_go_with_their_pipeline() {
    let folder = Folder::new();
    let store = folder.open().unwrap();
    // `shop_2` and `shopX2` differ only for those who take _ for itself.
    for owner in [letters_of("shop_2", "a"), letters_of("shop_2", "b"), letters_of("shopX2", "a")] {
        store.letters(&owner, LIMITS, &budget()).await.unwrap().keep(letter("1", 5)).await.unwrap();
    }
    let first = store.letters(&letters_of("shop_2", "a"), LIMITS, &budget()).await.unwrap();
    first.superseded("products", b"1", Version::from_target(6)).await.unwrap();
    let second = store.letters(&letters_of("shop_2", "b"), LIMITS, &budget()).await.unwrap();
    assert!(second.holds("products", b"1"), "it is another target's");
    assert_eq!(store.kept("shop_2").await.unwrap().dead_letters, 1);
    store.forget("shop_2").await.unwrap();
    assert_eq!(store.kept("shop_2").await.unwrap(), Kept::default());
    assert_eq!(store.kept("shopX2").await.unwrap().dead_letters, 1);
}

#[tokio::test]
async fn a_truncate_ends_the_letters_of_its_index_up_to_its_version() {
    let folder = Folder::new();
    let letters = folder.open().unwrap().letters("shop", LIMITS, &budget()).await.unwrap();
    for (id, version) in [("1", 5), ("2", 6), ("3", 7)] {
        letters.keep(letter(id, version)).await.unwrap();
    }
    letters.cleared("other", Version::from_target(9)).await.unwrap();
    assert_eq!(letters.count(), 3);
    letters.cleared("products", Version::from_target(6)).await.unwrap();
    assert!(!letters.holds("products", b"1") && !letters.holds("products", b"2"));
    assert!(letters.holds("products", b"3"), "it is newer than the TRUNCATE");
    assert_eq!(letters.list(10).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_newer_letter_takes_the_older_one_s_place() {
    let folder = Folder::new();
    let letters = folder.open().unwrap().letters("shop", LIMITS, &budget()).await.unwrap();
    letters.keep(letter("1", 5)).await.unwrap();
    let bytes = letters.bytes();
    letters.keep(letter("1", 6)).await.unwrap();
    assert_eq!((letters.count(), letters.bytes()), (1, bytes));
    letters.superseded("products", b"1", Version::from_target(5)).await.unwrap();
    assert!(letters.holds("products", b"1"));
    letters.superseded("products", b"1", Version::from_target(7)).await.unwrap();
    assert_eq!((letters.count(), letters.bytes()), (0, 0));
}

#[tokio::test]
async fn letters_without_end_are_refused() {
    let folder = Folder::new();
    let letters = folder
        .open()
        .unwrap()
        .letters("shop", LetterLimits { disk_bytes: 3_000, ..LIMITS }, &budget())
        .await
        .unwrap();
    letters.keep(letter("1", 5)).await.unwrap();
    letters.keep(letter("2", 5)).await.unwrap();
    let refused = letters.keep(letter("3", 5)).await;
    assert!(matches!(refused, Err(DeadLetterError::Full { limit: 3_000, .. })), "{refused:?}");
    assert!(!letters.holds("products", b"3"));
    assert_eq!(letters.count(), 2);
}

#[tokio::test]
async fn sizes_that_nobody_wrote_do_not_overflow() {
    let folder = Folder::new();
    let store = folder.open().unwrap();
    store
        .run("spoil it", |connection| {
            for id in ["a", "b", "c"] {
                connection.execute(
                    "INSERT INTO dead_letters VALUES ('p', 'i', CAST(?1 AS BLOB), 1, 'r', NULL, 0, 9223372036854775807, 0)",
                    [id],
                )?;
            }
            Ok(())
        })
        .await
        .unwrap();
    let letters = store.letters("p", LIMITS, &budget()).await.unwrap();
    assert_eq!((letters.count(), letters.bytes()), (3, u64::MAX));
    assert!(letters.keep(letter("d", 1)).await.is_err(), "full");
}

#[tokio::test]
async fn places_are_charged_loaded_again_and_bounded() {
    let folder = Folder::new();
    let store = folder.open().unwrap();
    let fill = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 30000)
                INSERT INTO dead_letters SELECT 'p', 'products', CAST(i AS BLOB), i, 'r', NULL, 1, 1, 1 FROM n";
    store.run("fill it", move |connection| connection.execute(fill, [])).await.unwrap();
    let budget = budget();
    let letters = store.letters("p", LIMITS, &budget).await.unwrap();
    assert!(letters.holds("products", b"30000") && !letters.holds("products", b"30001"));
    assert_eq!(letters.count(), 30_000);
    assert!((240_000..1 << 20).contains(&budget.used()), "{} bytes", budget.used());
    letters.cleared("products", Version::from_target(29_999)).await.unwrap();
    assert_eq!((letters.count(), letters.bytes()), (1, 1));
    assert!(letters.holds("products", b"30000") && budget.used() < 64 << 10, "{} bytes", budget.used());
    drop(letters);
    assert_eq!(budget.used(), 0);

    store
        .run("fill it", move |connection| connection.execute(&fill.replace("INTO", "OR REPLACE INTO"), []))
        .await
        .unwrap();
    let few = LetterLimits { memory_bytes: 100 << 10, ..LIMITS };
    let refused = store.letters("p", few, &budget).await.err().unwrap();
    assert!(matches!(refused, DeadLetterError::Crowded { .. }), "{refused:?}");
    assert_eq!((Halt::from(refused).state, budget.used()), ("dead-letters-full", 0));
}

#[test]
fn targets_share_the_bounds() {
    let limits = LetterLimits::of_each(2, 256 << 20, &Budget::new(64 << 20));
    assert_eq!(limits, LetterLimits { disk_bytes: 128 << 20, memory_bytes: 4 << 20 });
}

#[tokio::test]
async fn a_look_from_outside_sees_what_is_kept_beside_the_process_and_after_it() {
    let folder = Folder::new();
    let targets = ["search".to_owned(), "second".to_owned()];
    let looked = || look(&folder.0, "shop", &targets).unwrap();
    assert!(looked().is_none() && !is_in_use(&folder.0));
    let store = folder.open().unwrap();
    assert_eq!(looked(), Some(Looked { dead_letters: vec![0, 0], ..Looked::default() }));
    assert!(is_in_use(&folder.0));
    let before = RealWorld::shared().unix_seconds();
    store.begin("shop", &indices("uuid")).await.unwrap();
    assert_eq!(looked().unwrap().checkpoint_unix_seconds, None);
    store.checkpoint("shop", &position(1)).await.unwrap();
    let letters = store.letters("shop/second", LIMITS, &budget()).await.unwrap();
    letters.keep(letter("a", 1)).await.unwrap();
    letters.keep(letter("b", 1)).await.unwrap();
    letters.keep(letter("b", 2)).await.unwrap();
    assert_eq!(DeadLetters::count(&letters), 2, "one for each place");
    let running = looked().unwrap();
    assert!((running.has_checkpoint, running.clean) == (true, false));
    assert!(
        running.checkpoint_unix_seconds.is_some_and(|at| at >= before && at < before + 600),
        "{running:?}"
    );
    assert_eq!(running.dead_letters, [0, 2]);
    letters.superseded("products", b"b", Version::from_target(2)).await.unwrap();
    assert_eq!((DeadLetters::count(&letters), looked().unwrap().dead_letters), (1, vec![0, 1]));
    store.finish("shop", None).await.unwrap();
    drop((letters, store));
    let after = looked().unwrap();
    assert!(after.clean && !is_in_use(&folder.0));
    assert_eq!(after.checkpoint_unix_seconds, running.checkpoint_unix_seconds);
    // And a process can begin beside it.
    let store = folder.open().unwrap();
    store.forget("shop").await.unwrap();
    assert_eq!(looked(), Some(Looked { dead_letters: vec![0, 0], ..Looked::default() }));
}
