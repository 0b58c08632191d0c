#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
use std::sync::Arc;

use super::*;

/// `(id, version, document)`; no document deletes.
fn bulk(name: &str, actions: &[(&str, u64, Option<&str>)]) -> Bulk {
    let mut body = String::new();
    for (id, version, document) in actions {
        let word = if document.is_some() { "index" } else { "delete" };
        body.push_str(&format!(
            "{{\"{word}\":{{\"_index\":\"t\",\"_id\":\"{id}\",\"version\":{version},\"version_type\":\"external_gte\"}}}}\n"
        ));
        if let Some(document) = document {
            body.push_str(document);
            body.push('\n');
        }
    }
    Bulk { opaque_id: name.to_owned(), body: Bytes::from(body), actions: actions.len() }
}

const A: Option<&str> = Some("{\"a\":1}");
const B: Option<&str> = Some("{\"b\":2}");

#[tokio::test]
async fn t29_t30_versions_rise_and_a_delete_leaves_one_behind() {
    use Outcome::{Stale, Written};
    let memory = Memory::with_index("t");
    let request =
        bulk("r", &[("1", 5, A), ("1", 5, B), ("1", 4, A), ("1", 6, None), ("1", 5, A), ("2", 7, None)]);
    let outcomes = memory.bulk(request).await.unwrap();
    assert_eq!(outcomes, [Written, Written, Stale, Written, Stale, Written]);
    let late = || bulk("late", &[("2", 6, A), ("1", 6, None)]);
    assert_eq!(memory.bulk(late()).await.unwrap(), [Stale, Written]);
    memory.forget_tombstones();
    assert_eq!(memory.bulk(late()).await.unwrap(), [Written, Written]);
    assert_eq!(memory.documents("t")["2"].0, 6);
}

#[tokio::test]
async fn t45_nothing_is_written_without_the_alias() {
    let memory = Memory::with_index("t");
    memory.drop_alias("t");
    for outcome in memory.bulk(bulk("r", &[("1", 1, A), ("2", 1, None)])).await.unwrap() {
        assert!(matches!(outcome, Outcome::Failed { status: 404, .. }), "{outcome:?}");
    }
    assert_eq!(memory.index("t").await.unwrap(), None);
}

#[tokio::test]
async fn faults_are_what_they_say() {
    let memory = Arc::new(Memory::with_index("t"));
    let mut faults =
        vec![Fault::not_executed(), Fault::LoseRequest, Fault::LoseAnswer, Fault::Late].into_iter();
    memory.on_bulk(move |_| faults.next().unwrap_or(Fault::Hold));
    let send = |name: &str, version| memory.bulk(bulk(name, &[("1", version, A)]));
    assert!(matches!(send("a", 1).await, Err(TargetError::NotExecuted { .. })));
    assert!(matches!(send("b", 2).await, Err(TargetError::Unresolved { .. })));
    assert!(memory.applied().is_empty());
    assert!(matches!(send("c", 3).await, Err(TargetError::Unresolved { .. })));
    assert_eq!(memory.documents("t")["1"].0, 3);
    assert!(matches!(send("d", 4).await, Err(TargetError::Unresolved { .. })));
    assert!(memory.is_running("d").await.unwrap() && memory.documents("t")["1"].0 == 3);
    assert!(memory.execute("d") && !memory.execute("d"));
    assert!(!memory.is_running("d").await.unwrap() && memory.documents("t")["1"].0 == 4);
    let held = send("e", 5);
    let told = async {
        tokio::task::yield_now().await;
        assert!(memory.execute("e"));
    };
    assert_eq!(tokio::join!(held, told).0.unwrap(), [Outcome::Written]);
    assert_eq!(memory.requests().len(), 5);
}

#[tokio::test]
async fn items_fail_one_by_one_and_a_wrong_body_fails_whole() {
    let memory = Memory::with_index("t");
    let bad = Outcome::Failed { status: 400, kind: "x".to_owned(), reason: String::new() };
    let told = bad.clone();
    memory.on_item(move |action| (action.id == "2").then(|| told.clone()));
    let outcomes = memory.bulk(bulk("r", &[("1", 1, A), ("2", 1, A), ("3", 1, Some("[]"))])).await.unwrap();
    assert_eq!(outcomes[..2], [Outcome::Written, bad]);
    assert!(matches!(outcomes[2], Outcome::Failed { status: 400, .. }));
    let mut wrong = bulk("r", &[("1", 1, A)]);
    wrong.body = wrong.body.slice(..wrong.body.len() - 1);
    assert!(matches!(memory.bulk(wrong).await, Err(TargetError::Halt { .. })));
}

#[tokio::test]
async fn ids_come_page_by_page_without_the_deleted() {
    let memory = Memory::with_index("t");
    memory.bulk(bulk("r", &[("1", 1, A), ("2", 1, A), ("3", 1, A), ("2", 2, None)])).await.unwrap();
    let first = memory.ids("t", None, 1).await.unwrap();
    let second = memory.ids("t", first.cursor.clone(), 1).await.unwrap();
    let end = memory.ids("t", second.cursor.clone(), 1).await.unwrap();
    assert_eq!((first.ids, second.ids), (vec![("1".to_owned(), 1)], vec![("3".to_owned(), 1)]));
    assert_eq!(end, IdPage::default());
}
