//! T29, T34, T35: what Rowtide makes of an index, beside what a person and the cluster's templates want of it.

use std::time::Duration;

use reqwest::Method;
use rowtide::target::elasticsearch::Elasticsearch;
use rowtide::target::{Easing, IndexSetup, IndexSpec, Odd, Outcome, Target, TargetError};
use serde_json::{Map, Value, json};
use sources::change::Kind;

use crate::harness::pair::{PATIENCE, Pair, Setup};
use crate::harness::servers::{Engine, Postgres, Search};
use crate::harness::{fresh_name, poll_until};
use crate::traps::elasticsearch::{self, bulk};

const ENGINES: [Engine; 2] = [Engine::Elasticsearch8, Engine::OpenSearch2];

fn target(search: &Search) -> Elasticsearch {
    elasticsearch::target(&[search.port()])
}

fn spec(alias: &str, fields: &[(&str, Kind)], setup: IndexSetup) -> IndexSpec {
    IndexSpec { setup, easing: Easing::Nothing, ..elasticsearch::spec(alias, fields) }
}

fn object(value: Value) -> Map<String, Value> {
    value.as_object().unwrap().clone()
}

/// The first index behind an alias, as the cluster shows it, its settings by full names.
async fn shown(search: &Search, alias: &str) -> Value {
    let all = search.http.get(&format!("/{alias}?flat_settings=true")).await;
    all.as_object().unwrap().values().next().unwrap().clone()
}

async fn put(search: &Search, path: &str, body: Value) {
    search.http.json(Method::PUT, path, Some(body)).await;
}

#[tokio::test]
async fn t35_what_a_person_wants_of_an_index_comes_with_it() {
    for engine in ENGINES {
        let (search, alias) = (Search::shared(engine).await, fresh_name("wanted"));
        let (target, pipeline, other) = (target(search), fresh_name("pipeline"), fresh_name("other"));
        let setup = IndexSetup {
            mapping: object(json!({
                "name": { "type": "keyword" },
                "price": { "type": "float" },
                "title": { "analyzer": "own" },
            })),
            dynamic: Some(json!("strict")),
            settings: object(
                json!({ "number_of_shards": 2, "analysis.analyzer.own.tokenizer": "standard", "gc_deletes": "2h" }),
            ),
            aliases: vec![other.clone()],
            ingest_pipeline: Some(pipeline.clone()),
        };
        let fields = [("name", Kind::Text), ("price", Kind::Decimal), ("title", Kind::Text)];
        let spec = spec(&alias, &fields, setup);
        let missing = target.create_index(&spec).await.unwrap_err();
        assert!(
            matches!(&missing, TargetError::Halt { reason, .. } if reason.contains(&pipeline)),
            "{missing}"
        );
        assert_eq!(target.index(&alias).await.unwrap(), None, "no index without its pipeline");

        put(search, &format!("/_ingest/pipeline/{pipeline}"), json!({ "processors": [] })).await;
        let made = target.create_index(&spec).await.unwrap();
        assert_eq!(made.odd, [Odd::Pipeline { setting: "index.final_pipeline", pipeline: pipeline.clone() }]);
        let shown = shown(search, &other).await;
        for (setting, value) in [
            ("index.number_of_shards", json!("2")),
            ("index.analysis.analyzer.own.tokenizer", json!("standard")),
            ("index.gc_deletes", json!("2h")),
            ("index.translog.durability", json!("request")),
            ("index.final_pipeline", json!(pipeline)),
        ] {
            assert_eq!(shown["settings"][setting], value, "{engine:?} {setting}");
        }
        assert_eq!(shown["mappings"]["dynamic"], "strict");
        let title = &shown["mappings"]["properties"]["title"];
        assert_eq!(
            (&title["analyzer"], &title["fields"]["keyword"]["type"]),
            (&json!("own"), &json!("keyword"))
        );
        let documents = [
            // A term that is too long for Lucene, and a number that is none.
            ("1", 1, Some(json!({ "name": "w".repeat(40_000), "price": "NaN", "title": "a b" }))),
            ("2", 1, Some(json!({ "unknown": 1 }))),
            ("3", 1, None),
        ];
        let outcomes = target.bulk(bulk(&alias, &documents)).await.unwrap();
        assert_eq!([&outcomes[0], &outcomes[2]], [&Outcome::Written; 2], "{engine:?} {outcomes:?}");
        assert!(
            matches!(&outcomes[1], Outcome::Failed { status: 400, kind, .. } if kind.contains("strict")),
            "{engine:?} {outcomes:?}"
        );
    }
}

#[tokio::test]
async fn t35_what_is_wanted_later_is_done_as_far_as_the_cluster_allows_and_the_rest_is_told() {
    for engine in ENGINES {
        let (search, alias) = (Search::shared(engine).await, fresh_name("later"));
        let (target, pipeline, other) = (target(search), fresh_name("pipeline"), fresh_name("other"));
        let fields = [("name", Kind::Text), ("n", Kind::Integer { bits: 32 })];
        target.create_index(&spec(&alias, &fields, IndexSetup::default())).await.unwrap();
        put(search, &format!("/_ingest/pipeline/{pipeline}"), json!({ "processors": [] })).await;

        let possible = IndexSetup {
            mapping: object(
                json!({ "name": { "fields": { "words": { "type": "text" } } }, "new": { "type": "keyword" } }),
            ),
            dynamic: Some(json!(true)),
            settings: object(json!({ "refresh_interval": "9s" })),
            aliases: vec![other.clone()],
            ingest_pipeline: Some(pipeline.clone()),
        };
        let more = [("name", Kind::Text), ("n", Kind::Integer { bits: 32 }), ("new", Kind::Text)];
        let extended = target.extend_mapping(&spec(&alias, &more, possible.clone())).await.unwrap();
        assert_eq!(extended.added, ["new"], "{engine:?}");
        assert!(extended.unfit.is_empty() && extended.told.is_empty(), "{engine:?} {extended:?}");
        let there = shown(search, &other).await;
        assert_eq!(there["mappings"]["properties"]["name"]["fields"]["words"]["type"], "text");
        assert_eq!(there["mappings"]["properties"]["name"]["fields"]["keyword"]["ignore_above"], 256);
        assert_eq!(
            there["mappings"]["properties"]["new"],
            json!({ "type": "keyword", "ignore_above": 8191 })
        );
        assert_eq!(
            (&there["mappings"]["dynamic"], &there["settings"]["index.final_pipeline"]),
            (&json!("true"), &json!(pipeline))
        );
        // Again, nothing is left to do.
        let again = target.extend_mapping(&spec(&alias, &more, possible)).await.unwrap();
        assert!(again.added.is_empty() && again.told.is_empty(), "{engine:?} {again:?}");

        let impossible = IndexSetup {
            mapping: object(json!({ "n": { "type": "keyword" } })),
            settings: object(json!({ "number_of_shards": 7 })),
            ..IndexSetup::default()
        };
        let extended = target.extend_mapping(&spec(&alias, &more, impossible)).await.unwrap();
        assert!(extended.unfit.is_empty(), "an integer still holds it: {extended:?}");
        let told = extended.told.join("\n");
        assert!(told.contains("[n]") && told.contains("number_of_shards is 1"), "{engine:?} {told}");
        assert_eq!(extended.told.len(), 2);
        let gone = IndexSetup { ingest_pipeline: Some(fresh_name("gone")), ..IndexSetup::default() };
        let halted = target.extend_mapping(&spec(&alias, &more, gone)).await;
        assert!(matches!(halted, Err(TargetError::Halt { .. })), "{halted:?}");
    }
}

#[tokio::test]
async fn t35_the_clusters_templates_go_together_with_what_rowtide_sends() {
    for engine in ENGINES {
        let (search, alias) = (Search::shared(engine).await, fresh_name("templated"));
        let (target, pipeline) = (target(search), fresh_name("pipeline"));
        put(search, &format!("/_ingest/pipeline/{pipeline}"), json!({ "processors": [] })).await;
        let template = json!({
            "index_patterns": [format!("{alias}-rowtide-*")],
            "priority": 900,
            "template": {
                "settings": { "index": {
                    "translog.durability": "async", "gc_deletes": "5m", "refresh_interval": "7s",
                    "default_pipeline": pipeline, "sort.field": "n", "number_of_replicas": 0,
                } },
                "mappings": {
                    "dynamic": "strict",
                    "_meta": { "team": "search" },
                    "properties": { "name": { "type": "long" }, "extra": { "type": "ip" } },
                },
                "aliases": { (format!("{alias}-all")): {} },
            },
        });
        let path = format!("/_index_template/{alias}");
        put(search, &path, template).await;
        let fields = [("name", Kind::Text), ("n", Kind::Integer { bits: 32 })];
        let wanted =
            IndexSpec { easing: Easing::RefreshAndReplicas, ..spec(&alias, &fields, IndexSetup::default()) };
        let made = target.create_index(&wanted).await.unwrap();
        let default = Odd::Pipeline { setting: "index.default_pipeline", pipeline: pipeline.clone() };
        assert_eq!(made.odd, [default], "{engine:?}");
        let there = shown(search, &format!("{alias}-all")).await;
        for (setting, value) in [
            // What Rowtide needs.
            ("index.translog.durability", "request"),
            ("index.gc_deletes", "1h"),
            ("index.refresh_interval", "30s"),
            // What the template adds.
            ("index.sort.field", "n"),
            ("index.number_of_replicas", "0"),
        ] {
            assert_eq!(there["settings"][setting], value, "{engine:?} {setting}");
        }
        let mappings = &there["mappings"];
        assert_eq!(
            (&mappings["dynamic"], &mappings["properties"]["name"]["type"]),
            (&json!("false"), &json!("text"))
        );
        assert_eq!(mappings["properties"]["extra"]["type"], "ip", "{engine:?} {there}");
        // The replicas were none before: there is nothing to remember.
        assert_eq!(mappings["_meta"]["rowtide"]["eased"], json!({ "refresh_interval": "7s" }), "{engine:?}");
        assert_eq!(mappings["_meta"]["team"], "search");
        assert_eq!(target.restore(&alias).await.unwrap(), ["refresh_interval"]);
        let there = shown(search, &alias).await;
        assert_eq!(there["settings"]["index.refresh_interval"], "7s", "the template's, not the default");
        assert_eq!(there["mappings"]["_meta"]["rowtide"]["eased"], Value::Null);
        assert_eq!(there["mappings"]["_meta"]["team"], "search");
        let documents = [("1", 1, Some(json!({ "name": "a", "n": 1, "unknown": 2 })))];
        assert_eq!(target.bulk(bulk(&alias, &documents)).await.unwrap(), [Outcome::Written]);
        search.http.text(Method::DELETE, &path, None).await;
    }
}

#[tokio::test]
async fn t35_what_was_eased_is_given_back_but_for_what_somebody_has_changed() {
    for engine in ENGINES {
        let (search, target) = (Search::shared(engine).await, target(Search::shared(engine).await));
        let names: Vec<String> = (0..3).map(|_| fresh_name("eased")).collect();
        for (name, easing) in names.iter().zip([Easing::RefreshAndReplicas, Easing::Refresh, Easing::Nothing])
        {
            let wanted = IndexSpec { easing, ..spec(name, &[("a", Kind::Text)], IndexSetup::default()) };
            target.create_index(&wanted).await.unwrap();
            // The first answer was lost.
            target.create_index(&wanted).await.unwrap();
        }
        let eased = target.eased(&[&names[..], &[fresh_name("nothing")]].concat()).await.unwrap();
        assert_eq!(
            eased.iter().collect::<std::collections::BTreeSet<_>>(),
            names[..2].iter().collect(),
            "{engine:?}"
        );
        let settings = shown(search, &names[0]).await["settings"].clone();
        assert_eq!(
            (&settings["index.refresh_interval"], &settings["index.number_of_replicas"]),
            (&json!("30s"), &json!("0"))
        );
        // Written while it is rarely refreshed, and found afterwards without waiting.
        target.bulk(bulk(&names[0], &[("1", 1, Some(json!({ "a": "x" })))])).await.unwrap();
        assert_eq!(target.index(&names[0]).await.unwrap().unwrap().documents, 1, "{engine:?}");
        put(search, &format!("/{}/_settings", names[0]), json!({ "index.number_of_replicas": 2 })).await;
        assert_eq!(target.restore(&names[0]).await.unwrap(), ["refresh_interval"]);
        let settings = shown(search, &names[0]).await["settings"].clone();
        assert_eq!(
            (&settings["index.refresh_interval"], &settings["index.number_of_replicas"]),
            (&Value::Null, &json!("2"))
        );
        put(search, &format!("/{}/_settings", names[0]), json!({ "index.number_of_replicas": 0 })).await;
        assert!(target.restore(&names[0]).await.unwrap().is_empty(), "only once");
        assert_eq!(target.restore(&names[1]).await.unwrap(), ["refresh_interval"]);
        assert!(target.eased(&names).await.unwrap().is_empty());
        // A crash between the two steps of easing: remembered, and not changed yet.
        let there = shown(search, &names[2]).await;
        let mut meta = there["mappings"]["_meta"].clone();
        meta["rowtide"]["eased"] = json!({ "refresh_interval": "1h" });
        put(search, &format!("/{}/_mapping", names[2]), json!({ "_meta": meta })).await;
        assert!(target.restore(&names[2]).await.unwrap().is_empty());
        assert_eq!(shown(search, &names[2]).await["settings"]["index.refresh_interval"], Value::Null);
    }
}

/// Killed in the middle of a backfill: reading waits for the target, since the tables are more than the budget.
async fn killed_in_the_middle(search: &Search) -> Pair {
    let setup = Setup {
        sql: "CREATE TABLE t AS SELECT n AS id, repeat('x', 1000) AS x FROM generate_series(1, 20000) n;
              CREATE TABLE u AS SELECT * FROM t; ALTER TABLE t ADD PRIMARY KEY (id); ALTER TABLE u ADD PRIMARY KEY (id)",
        tables: &["t", "u"],
        memory: "max_rss = \"64MiB\"",
        source: "chunk_rows = 100\nreaders = 1",
        target: "lanes = 1\nbulk_count_max = 100\nease_backfill = \"refresh-and-replicas\"",
        table: "settings = { refresh_interval = \"3s\", number_of_replicas = 1 }",
        second: None,
    };
    let mut pair = Pair::set_on(Postgres::shared().await, search, setup).await;
    pair.proxy.delay_answers(Duration::from_millis(150));
    pair.rowtide.run_again();
    poll_until("some documents", PATIENCE, async || (pair.proxy.documents() > 500).then_some(())).await;
    pair.rowtide.kill();
    pair.proxy.delay_answers(Duration::ZERO);
    pair
}

#[tokio::test(flavor = "multi_thread")]
async fn t35_what_was_eased_for_a_backfill_is_given_back_after_a_crash() {
    for engine in ENGINES {
        let search = Search::shared(engine).await;
        let mut pair = killed_in_the_middle(search).await;
        let settings = |table: &str| {
            let (search, index) = (search, pair.index(table));
            async move { shown(search, &index).await["settings"].clone() }
        };
        for table in ["t", "u"] {
            let there = settings(table).await;
            let both = (&there["index.refresh_interval"], &there["index.number_of_replicas"]);
            assert_eq!(both, (&json!("30s"), &json!("0")), "{engine:?} {table}");
        }
        // A person does not like it meanwhile.
        put(search, &format!("/{}/_settings", pair.index("u")), json!({ "index.refresh_interval": "20s" }))
            .await;
        let indices = ["t", "u"].map(|table| pair.index(table));
        pair.rowtide.run_again();
        pair.wait_until_following().await;
        for index in &indices {
            poll_until("the settings from before", PATIENCE, async || {
                let there = shown(search, index).await;
                (there["mappings"]["_meta"]["rowtide"]["eased"].is_null()).then_some(())
            })
            .await;
        }
        for (index, refresh) in indices.iter().zip(["3s", "20s"]) {
            let there = shown(search, index).await["settings"].clone();
            let both = (&there["index.refresh_interval"], &there["index.number_of_replicas"]);
            assert_eq!(both, (&json!(refresh), &json!("1")), "{engine:?} {index}");
        }
        pair.become_equal().await;
        pair.stop();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn t35_remove_gives_back_what_was_eased() {
    let search = Search::shared(Engine::Elasticsearch8).await;
    let pair = killed_in_the_middle(search).await;
    let output = pair.rowtide.call(&["remove", "shop", "--config", "rowtide.toml"]);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    for table in ["t", "u"] {
        let index = pair.index(table);
        let line = format!(
            "{index:?}: what was eased while it was filled was given back: number_of_replicas, refresh_interval"
        );
        assert!(said.contains(&line), "{said}");
        let there = shown(search, &index).await["settings"].clone();
        let both = (&there["index.refresh_interval"], &there["index.number_of_replicas"]);
        assert_eq!(both, (&json!("3s"), &json!("1")), "{table}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn t29_an_index_that_is_not_durable_is_not_written_to() {
    let setup = Setup {
        sql: "CREATE TABLE t (id int PRIMARY KEY, x int); INSERT INTO t VALUES (1, 1)",
        tables: &["t"],
        ..Setup::default()
    };
    let mut pair = Pair::filled(setup).await;
    pair.caught_up().await;
    let search = Search::shared(Engine::Elasticsearch8).await;
    let path = format!("/{}/_settings", pair.index("t"));
    // It only is a help: told, and gone on with. The first look is 10 s after the start.
    tokio::time::sleep(Duration::from_secs(11)).await;
    pair.rowtide.allow("a setting of the index is not as Rowtide needs it");
    put(search, &path, json!({ "index.gc_deletes": "30s" })).await;
    pair.rowtide.wait_for_line("index.gc_deletes is 30s", PATIENCE).await;
    pair.rowtide.assert_runs();
    put(search, &path, json!({ "index.translog.durability": "async" })).await;
    let told = pair.assert_halts("target-not-durable");
    assert!(told.text.contains("index.translog.durability"), "{}", told.text);
    // At a start too, and in `check`.
    pair.rowtide.run_again();
    pair.assert_halts("target-not-durable");
    let output = pair.rowtide.call(&["check", "--config", "rowtide.toml"]);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.contains("index.translog.durability is async"), "{said}");
    put(search, &path, json!({ "index.translog.durability": "request", "index.gc_deletes": "1h" })).await;
    pair.rowtide.run_again();
    pair.wait_until_following().await;
    pair.become_equal().await;
    pair.stop();
}
