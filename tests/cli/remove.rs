//! `rowtide remove`: all of it, never somebody else's, and again after half of it.

use std::process::Output;

use reqwest::{Method, StatusCode};
use serde_json::json;

use super::{code, text};
use crate::harness::pair::{PATIENCE, Pair, Setup};
use crate::harness::poll_until;
use crate::harness::rowtide::Rowtide;
use crate::harness::servers::Postgres;

const SETUP: Setup<'static> = Setup {
    sql: "CREATE TABLE t (id int PRIMARY KEY, x text); INSERT INTO t VALUES (1, 'a'), (2, 'b'), (3, 'c')",
    tables: &["t"],
    memory: "",
    source: "",
    target: "",
    table: "",
    second: None,
};

fn remove(rowtide: &Rowtide, more: &[&str]) -> (i32, String) {
    let arguments = [&["remove", "shop", "--config", "rowtide.toml"], more].concat();
    let output: Output = rowtide.call(&arguments);
    let said = text(&output.stdout) + &text(&output.stderr);
    println!("rowtide {}: {}\n{said}", arguments.join(" "), code(&output));
    (code(&output), said)
}

impl Pair {
    async fn slots(&self) -> String {
        self.ask(&format!("SELECT count(*) FROM pg_replication_slots WHERE slot_name = '{}'", self.slot()))
            .await
    }

    async fn publications(&self) -> String {
        self.ask(&format!("SELECT count(*) FROM pg_publication WHERE pubname = '{}'", self.slot())).await
    }

    async fn has(&self, path: &str) -> bool {
        let (status, body) = self.http.try_call(Method::GET, path, None).await.unwrap();
        assert!(status.is_success() || status == StatusCode::NOT_FOUND, "{path}: {status}: {body}");
        status.is_success()
    }

    async fn has_state(&self) -> bool {
        self.has(&format!("/rowtide-state/_doc/{}", self.pipeline())).await
    }

    fn write_config(&self, config: &str) {
        let text = format!("data_dir = \"data\"\n{config}");
        std::fs::write(self.rowtide.folder.join("rowtide.toml"), text).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn remove_takes_all_of_it_down_and_a_second_time_finds_nothing() {
    let mut pair = Pair::filled(SETUP).await;
    let (ended, said) = remove(&pair.rowtide, &[]);
    assert_eq!(ended, 3, "it runs: {said}");
    assert!(said.contains("uses the data directory") && said.contains("nothing was touched"), "{said}");
    pair.rowtide.assert_runs();
    pair.stop();
    assert_eq!((pair.slots().await, pair.publications().await), ("1".into(), "1".into()));
    let wrong = pair.rowtide.call(&["remove", "other", "--config", "rowtide.toml"]);
    assert_eq!(code(&wrong), 2);
    assert!(text(&wrong.stderr).contains("there is shop"), "{}", text(&wrong.stderr));

    let (ended, said) = remove(&pair.rowtide, &[]);
    assert_eq!(ended, 0, "{said}");
    for part in [
        format!("source shop: the replication slot {} was dropped", pair.slot()),
        format!("source shop: the publication {} was dropped", pair.slot()),
        "with 3 documents can still be searched".to_owned(),
        format!("the checkpoint of {} was deleted", pair.pipeline()),
        format!("the state document {} in rowtide-state was deleted", pair.pipeline()),
    ] {
        assert!(said.contains(&part), "{part:?} is not in:\n{said}");
    }
    assert_eq!((pair.slots().await, pair.publications().await), ("0".into(), "0".into()));
    assert!(!pair.has_state().await);
    assert_eq!(pair.documents("t").await, 3, "the index is kept");
    let (ended, said) = remove(&pair.rowtide, &[]);
    assert_eq!(ended, 0);
    assert!(said.ends_with("nothing was there to remove\n"), "{said}");

    // Nothing is written into an index that nobody knows the order of.
    pair.rowtide.run_again();
    pair.assert_halts("index-exists");
    let (ended, said) = remove(&pair.rowtide, &["--delete-index"]);
    assert_eq!(ended, 0, "{said}");
    assert!(said.contains("and its alias") && !pair.has(&format!("/{}", pair.index("t"))).await, "{said}");
    pair.rowtide.run_again();
    pair.wait_until_following().await;
    pair.sql("UPDATE t SET x = 'd' WHERE id = 2; DELETE FROM t WHERE id = 3").await;
    pair.caught_up().await;
    pair.assert_equal().await;
    pair.stop();
}

/// The versions of deleted documents outlive their documents in an index that is kept.
#[tokio::test(flavor = "multi_thread")]
async fn t29_after_remove_a_kept_empty_index_does_not_refuse_the_new_documents() {
    let mut pair = Pair::filled(SETUP).await;
    pair.stop();
    let index = pair.index("t");
    for id in 1..=3 {
        // As after a change of identity: higher than any place in the log.
        let path = format!("/{index}/_doc/{id}?version=9000000000000000&version_type=external_gte");
        pair.http.text(Method::DELETE, &path, None).await;
    }
    // Until a refresh the index still counts them.
    pair.http.text(Method::POST, &format!("/{index}/_refresh"), None).await;
    let (ended, said) = remove(&pair.rowtide, &[]);
    assert_eq!(ended, 0, "{said}");
    pair.rowtide.run_again();
    pair.wait_until_following().await;
    pair.assert_equal().await;
    pair.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn remove_leaves_what_somebody_else_made() {
    let pair = Pair::set(Postgres::shared().await, SETUP).await;
    let (slot, index) = (pair.slot(), pair.index("t"));
    pair.sql(&format!("CREATE PUBLICATION {slot} FOR TABLE t")).await;
    pair.sql(&format!("SELECT pg_create_physical_replication_slot('{slot}')")).await;
    let mappings = json!({ "mappings": { "_meta": { "rowtide": { "format": 1, "pipeline": "another" } } } });
    pair.http.json(Method::PUT, &format!("/{index}-other"), Some(mappings)).await;
    pair.http.json(Method::PUT, &format!("/{index}-other/_alias/{index}"), None).await;
    let (ended, said) = remove(&pair.rowtide, &["--delete-index", "--yes"]);
    assert_eq!(ended, 0, "{said}");
    for part in [
        "is not Rowtide's: it is a physical slot".to_owned(),
        format!("fix: SELECT pg_drop_replication_slot(E'{slot}');"),
        format!("the publication {slot} was not made by Rowtide\n    fix: DROP PUBLICATION \"{slot}\";"),
        format!("the index {index}-other was not made by this pipeline"),
        "nothing was there to remove".to_owned(),
    ] {
        assert!(said.contains(&part), "{part:?} is not in:\n{said}");
    }
    assert_eq!((pair.slots().await, pair.publications().await), ("1".into(), "1".into()));
    assert!(pair.has(&format!("/{index}")).await);
    assert!(!pair.rowtide.folder.join("data").exists(), "it makes no store to look into");
    pair.sql(&format!("SELECT pg_drop_replication_slot('{slot}')")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn remove_refuses_while_another_process_writes_or_reads_the_slot() {
    let mut pair = Pair::filled(SETUP).await;
    // With a data directory of its own: the lease tells.
    let stranger = Rowtide::new(&pair.config);
    let (ended, said) = remove(&stranger, &["--delete-index"]);
    assert_eq!(ended, 3, "{said}");
    assert!(said.contains("holds the lease of") && said.contains("nothing was touched"), "{said}");
    // Under another pipeline's name: the slot tells.
    let stranger =
        Rowtide::new(&pair.config.replace(&format!("pipelines.{}", pair.pipeline()), "pipelines.stranger"));
    let (ended, said) = remove(&stranger, &["--delete-index"]);
    assert_eq!(ended, 3, "{said}");
    assert!(said.contains("is being read by process") && said.contains("nothing was touched"), "{said}");
    pair.sql("INSERT INTO t VALUES (4, 'd')").await;
    pair.caught_up().await;
    pair.assert_equal().await;
    pair.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn half_a_removal_says_what_is_left_and_is_finished_by_the_next() {
    let mut pair = Pair::filled(SETUP).await;
    pair.rowtide.kill();
    let slot = pair.slot().to_owned();
    poll_until("the server to notice", PATIENCE, async || {
        let active =
            pair.ask(&format!("SELECT active FROM pg_replication_slots WHERE slot_name = '{slot}'")).await;
        (active == "f").then_some(())
    })
    .await;
    // The database is away: the target's half is done.
    let config = pair.config.clone();
    pair.write_config(&config.replace(&format!("127.0.0.1:{}/", pair.database.port), "127.0.0.1:1/"));
    let (ended, said) = remove(&pair.rowtide, &["--delete-index"]);
    assert_eq!(ended, 1, "{said}");
    assert!(said.contains("source: not done: connect to the database"), "{said}");
    assert!(said.contains("waiting 10 s: the last process did not end in order"), "{said}");
    assert!(said.ends_with("run it again when what is away is back\n"), "{said}");
    assert_eq!(pair.slots().await, "1");
    assert!(!pair.has_state().await && !pair.has(&format!("/{}", pair.index("t"))).await);
    // Then all that is left.
    pair.write_config(&config);
    let (ended, said) = remove(&pair.rowtide, &["--delete-index"]);
    assert_eq!((ended, pair.slots().await), (0, "0".into()), "{said}");

    // The target is away: the slot goes all the same, since it is what fills a disk.
    pair.rowtide.run_again();
    pair.wait_until_following().await;
    pair.stop();
    pair.write_config(&config.replace(&format!("127.0.0.1:{}\"", pair.proxy.port), "127.0.0.1:1\""));
    let (ended, said) = remove(&pair.rowtide, &["--delete-index"]);
    assert_eq!((ended, pair.slots().await), (1, "0".into()), "{said}");
    assert!(said.contains("target: not done") && pair.has_state().await, "{said}");
    pair.write_config(&config);
    let (ended, said) = remove(&pair.rowtide, &["--delete-index"]);
    assert_eq!(ended, 0, "{said}");
    assert!(!pair.has_state().await && !pair.has(&format!("/{}", pair.index("t"))).await);
    let (_, said) = remove(&pair.rowtide, &["--delete-index"]);
    assert_eq!(said, "nothing was there to remove\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_go_only_when_a_person_says_so() {
    let mut pair = Pair::filled(SETUP).await;
    pair.stop();
    let store = rusqlite::Connection::open(pair.rowtide.folder.join("data/rowtide.sqlite")).unwrap();
    let put = "INSERT INTO dead_letters (pipeline, index_name, id, version, reason, body, bytes, held_bytes, unix_seconds)
               VALUES (?1, 'i', x'31', 7, 'because', NULL, 1, 1, 1)";
    for pipeline in [pair.pipeline(), "another"] {
        store.execute(put, [pipeline]).unwrap();
    }
    let (ended, said) = remove(&pair.rowtide, &["--delete-index"]);
    assert_eq!((ended, pair.slots().await), (3, "1".into()), "{said}");
    assert!(said.contains("would be deleted: 1") && said.contains("--yes"), "{said}");
    let (ended, said) = remove(&pair.rowtide, &["--delete-index", "--yes"]);
    assert_eq!(ended, 0, "{said}");
    assert!(said.contains("and its dead letters (1) was deleted"), "{said}");
    let left = |sql: &str| store.query_row(sql, [], |row| row.get::<_, u32>(0)).unwrap();
    assert_eq!(left("SELECT count(*) FROM dead_letters"), 1, "those of another pipeline stay");
    assert_eq!(left("SELECT count(*) FROM pipelines"), 0);
}
