//! `rowtide dead-letters`, command by command, on letters that a real index made.

use super::{letters, pair};
use crate::harness::pair::{PATIENCE, Pair};
use crate::harness::poll_until;
use crate::harness::rowtide::Rowtide;

const SQL: &str = "CREATE TABLE t (id text PRIMARY KEY, v text, body text);
    INSERT INTO t VALUES ('good', '1', 'x'), ('bad', 'poison one', 'secret-body'), ('worse', 'poison two', 'y')";

async fn poisoned() -> Pair {
    let mut pair = pair(SQL).await;
    pair.rowtide.run_again();
    pair.wait_until_following().await;
    poll_until("two letters", PATIENCE, async || (pair.rowtide.letters().len() == 2).then_some(())).await;
    pair
}

#[tokio::test(flavor = "multi_thread")]
async fn letters_are_listed_and_shown_beside_the_process_and_nothing_else_is_allowed() {
    let mut pair = poisoned().await;
    let (code, said) = letters(&pair.rowtide, "list", &[]);
    assert_eq!(code, 0);
    assert!(said.contains(" bad version ") && said.contains(" worse version "), "{said}");
    assert!(said.contains("for input string") || said.contains("failed to parse field [v]"), "{said}");
    assert!(
        said.contains("2 dead letters, ") && !said.contains("secret-body"),
        "no documents in a list: {said}"
    );
    let (code, said) = letters(&pair.rowtide, "list", &["--id", "bad", "--table", "public.t", "--json"]);
    let found: serde_json::Value = serde_json::from_str(&said).unwrap();
    assert_eq!((code, &found["id"], &found["target"]), (0, &"bad".into(), &"search".into()));
    assert!(found["version"].as_u64().unwrap() > 0 && found.get("document").is_none(), "{said}");
    let (_, said) = letters(&pair.rowtide, "list", &["--limit", "1"]);
    assert!(said.contains("1 of 2 dead letters"), "{said}");
    let (_, said) = letters(&pair.rowtide, "list", &["--reason", "no such text"]);
    assert_eq!(said, "there are no such dead letters\n");
    let (_, said) = letters(&pair.rowtide, "show", &["--id", "bad", "--json"]);
    let found: serde_json::Value = serde_json::from_str(&said).unwrap();
    assert_eq!(found["document"]["body"], "secret-body");
    assert_eq!(found["action"]["index"]["_id"], "bad");
    let (_, said) = letters(&pair.rowtide, "show", &["--id", "bad"]);
    assert!(said.contains("secret-body") && said.contains("reason: 400 "), "{said}");
    let (code, said) = letters(&pair.rowtide, "list", &["--table", "public.other"]);
    assert!(code == 2 && said.contains("no table is called public.other; there are public.t"), "{said}");
    let (code, said) = letters(&pair.rowtide, "list", &["--pipeline", "other"]);
    assert!(code == 2 && said.contains("there is no [pipelines.other]"), "{said}");

    for command in ["retry", "drop"] {
        let (code, said) = letters(&pair.rowtide, command, &[]);
        assert_eq!(code, 3, "{said}");
        assert!(said.contains("uses the data directory") && said.contains("stop it first"), "{said}");
    }
    pair.rowtide.assert_runs();
    pair.stop();
    let (code, said) = letters(&pair.rowtide, "list", &[]);
    assert!(code == 0 && said.contains("2 dead letters, "), "and when nothing runs: {said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn dropping_needs_a_yes_and_takes_only_what_was_chosen() {
    let mut pair = poisoned().await;
    pair.stop();
    let (code, said) = letters(&pair.rowtide, "drop", &["--id", "bad"]);
    assert_eq!((code, pair.rowtide.letters().len()), (3, 2), "{said}");
    assert!(said.contains("1 dead letter would be deleted") && said.contains("--yes"), "{said}");
    let (code, said) = letters(&pair.rowtide, "drop", &["--id", "bad", "--yes"]);
    assert!(code == 0 && said.contains("1 dead letter deleted"), "{said}");
    let left: Vec<String> = pair.rowtide.letters().into_iter().map(|(id, ..)| id).collect();
    assert_eq!(left, ["worse"]);
    pair.rowtide.run_again();
    pair.wait_until_following().await;
    pair.sql("UPDATE t SET v = '2' WHERE id = 'worse'").await;
    pair.caught_up().await;
    assert!(pair.rowtide.letters().is_empty(), "a good change ends the other");
    pair.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_refused_again_stays_with_the_new_reason_and_no_older_document_comes_back() {
    let mut pair = poisoned().await;
    pair.stop();
    let before = pair.rowtide.letters();
    let (code, said) = letters(&pair.rowtide, "retry", &["--id", "bad"]);
    assert_eq!((code, pair.rowtide.letters()), (3, before), "{said}");
    assert!(said.contains("refused again: ") && said.contains("1 refused again"), "{said}");
    assert!(!said.contains("secret-body") && !said.contains("waiting 10 s"), "{said}");

    pair.mend_the_mapping().await;
    let newer = format!("/{}/_doc/bad?version=9000000000000000&version_type=external_gte", pair.index("t"));
    pair.http.json(reqwest::Method::PUT, &newer, Some(serde_json::json!({ "v": "7" }))).await;
    let (code, said) = letters(&pair.rowtide, "retry", &[]);
    assert_eq!(code, 0, "{said}");
    assert!(
        said.contains("2 dead letters: 1 written, 1 older than what the index holds, 0 refused"),
        "{said}"
    );
    assert!(pair.rowtide.letters().is_empty());
    assert_eq!(pair.document("t", "bad").await.unwrap().0["v"], "7");
    assert_eq!(pair.document("t", "worse").await.unwrap().0["v"], "poison two");
    let (code, said) = letters(&pair.rowtide, "retry", &[]);
    assert!(code == 0 && said.contains("0 dead letters"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn retry_writes_beside_no_living_process_and_not_into_another_index() {
    let mut pair = poisoned().await;
    // Another process with a copy of the data directory: the lease tells.
    let stranger = Rowtide::new(&pair.config);
    std::fs::create_dir(stranger.folder.join("data")).unwrap();
    for file in ["rowtide.sqlite", "rowtide.sqlite-wal"] {
        std::fs::copy(pair.rowtide.folder.join("data").join(file), stranger.folder.join("data").join(file))
            .unwrap();
    }
    let store = rusqlite::Connection::open(stranger.folder.join("data/rowtide.sqlite")).unwrap();
    store.execute("UPDATE meta SET value = 'feedfeedfeedfeed' WHERE key = 'owner'", []).unwrap();
    drop(store);
    let (code, said) = letters(&stranger, "retry", &[]);
    assert!(code == 3 && said.contains("holds the lease of"), "{said}");
    assert_eq!(stranger.letters().len(), 2);
    pair.sql("INSERT INTO t VALUES ('more', '5', 'z')").await;
    pair.caught_up().await;
    pair.stop();
    let index = format!("/{}", pair.index("t"));
    let name = pair.http.get(&index).await.as_object().unwrap().keys().next().unwrap().clone();
    pair.http.text(reqwest::Method::DELETE, &format!("/{name}"), None).await;
    let (code, said) = letters(&pair.rowtide, "retry", &[]);
    assert!(code == 3 && said.contains("is gone from the target search"), "{said}");
    assert_eq!(pair.rowtide.letters().len(), 2);
}
