#![allow(clippy::unwrap_used)]

use super::super::tests::Folder;
use super::*;

async fn filled(folder: &Folder) -> Sqlite {
    let store = folder.open().unwrap();
    for (owner, id, reason) in [
        ("shop/search", "1", "failed to parse [price]"),
        ("shop/search", r#"a\"b"#, "limit of total fields"),
        ("shop/second", "1", "failed to parse [price]"),
        ("shop2/search", "1", "failed to parse [weight]"),
        ("shop", "9", "of an older format"),
    ] {
        store.put_letter(owner, id, reason).await;
    }
    store
}

async fn numbers(store: &Sqlite, choice: Choice) -> Vec<i64> {
    let page = store.letters_page(&choice, 0, i64::MAX, 100).await.unwrap();
    let sum = store.letters_sum(&choice).await.unwrap();
    let last = page.last().map_or(0, |letter| letter.number);
    assert_eq!((sum.count, sum.held_bytes, sum.newest), (page.len() as u64, page.len() as u64 * 1030, last));
    page.iter().map(|letter| letter.number).collect()
}

#[tokio::test]
async fn letters_are_chosen_by_all_that_is_said() {
    let folder = Folder::new();
    let store = filled(&folder).await;
    let text = |text: &str| Some(text.to_owned());
    assert_eq!(numbers(&store, Choice::default()).await, [1, 2, 3, 4, 5]);
    let shop = Choice { pipeline: text("shop"), ..Choice::default() };
    assert_eq!(numbers(&store, shop.clone()).await, [1, 2, 3, 5]);
    assert_eq!(numbers(&store, Choice { target: text("search"), ..Choice::default() }).await, [1, 2, 4]);
    assert_eq!(numbers(&store, Choice { target: text("second"), ..shop.clone() }).await, [3]);
    assert_eq!(numbers(&store, Choice { id: text("1"), ..shop.clone() }).await, [1, 3]);
    assert_eq!(numbers(&store, Choice { id: text("a\"b"), ..Choice::default() }).await, [2]);
    assert_eq!(numbers(&store, Choice { id: text(r#"a\"b"#), ..Choice::default() }).await, [2]);
    assert_eq!(numbers(&store, Choice { reason: text("[price]"), ..shop.clone() }).await, [1, 3]);
    assert_eq!(numbers(&store, Choice { index: text("products"), ..Choice::default() }).await.len(), 5);
    assert_eq!(numbers(&store, Choice { index: text("others"), ..Choice::default() }).await, [0_i64; 0]);
    assert_eq!(store.letters_indices(&shop).await.unwrap(), ["products"]);
}

#[tokio::test]
async fn pages_follow_one_another_and_say_all_but_the_body() {
    let folder = Folder::new();
    let store = filled(&folder).await;
    let all = Choice::default();
    let first = store.letters_page(&all, 0, 4, 3).await.unwrap();
    let second = store.letters_page(&all, 3, 4, 3).await.unwrap();
    assert_eq!((first.len(), second.len()), (3, 1));
    let letter = &first[1];
    assert_eq!((letter.pipeline.as_str(), letter.target.as_deref()), ("shop", Some("search")));
    assert_eq!((letter.id.as_slice(), letter.version.get(), letter.bytes), (&br#"a\"b"#[..], 7, 2));
    assert_eq!((letter.kept_at.as_str(), letter.has_body), ("1970-01-01T00:01:00Z", true));
    assert_eq!(store.letter_body(letter.number).await.unwrap().unwrap(), b"{}");
    assert_eq!(store.letter_body(99).await.unwrap(), None);
    assert_eq!(store.letters_page(&all, 4, 5, 3).await.unwrap()[0].target, None);
}

#[tokio::test]
async fn the_oldest_of_the_chosen_are_dropped_and_no_other() {
    let folder = Folder::new();
    let store = filled(&folder).await;
    let search = Choice { target: Some("search".to_owned()), ..Choice::default() };
    assert_eq!(store.drop_letters(&search, i64::MAX, 2).await.unwrap(), 2);
    assert_eq!(numbers(&store, Choice::default()).await, [3, 4, 5]);
    assert_eq!(store.drop_letters(&Choice::default(), 4, u64::MAX).await.unwrap(), 2);
    assert_eq!(numbers(&store, Choice::default()).await, [5], "what came later stays");
}

#[tokio::test]
async fn a_store_is_looked_at_beside_the_process_that_has_it() {
    let folder = Folder::new();
    let world = sources::world::RealWorld::shared();
    assert!(Sqlite::look(&folder.0, &world).unwrap().is_none() && !folder.0.exists());
    let store = filled(&folder).await;
    let beside = Sqlite::look(&folder.0, &world).unwrap().unwrap();
    assert_eq!(beside.letters_sum(&Choice::default()).await.unwrap().count, 5);
    store.put_letter("shop/search", "10", "later").await;
    assert_eq!(beside.letters_sum(&Choice::default()).await.unwrap().count, 6);
    assert!(beside.drop_letters(&Choice::default(), i64::MAX, 1).await.is_err(), "it only looks");
    assert_eq!(beside.owner(), store.owner());
    drop(store);
    assert!(folder.open().is_ok(), "it keeps nobody out");
    let alone = Sqlite::look(&folder.0, &world).unwrap().unwrap();
    assert_eq!(alone.letters_sum(&Choice::default()).await.unwrap().count, 6);
}
