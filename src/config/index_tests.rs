use serde_json::json;

use super::tests::{GOOD, assert_lines, errors, load_good};
use crate::target::Easing;

fn with_index(lines: &str) -> String {
    format!("{GOOD}{lines}")
}

#[test]
fn what_is_wanted_of_an_index_is_read_as_json() {
    let config = load_good(
        &with_index(
            r#"mapping = { price = { type = "scaled_float", scaling_factor = 100 }, name = { fields = { s = { type = "keyword", normalizer = "own" } } } }
dynamic = "strict"
settings = { number_of_shards = 3, "index.refresh_interval" = "30s", analysis = { normalizer = { own = { type = "custom", filter = ["lowercase"] } } }, boost = 1.5 }
aliases = ["all", "everything"]
ingest_pipeline = "clean"
"#,
        ),
        &[],
    );
    let setup = &config.pipelines[0].settings.tables[1].setup;
    let mapping = json!({
        "price": { "type": "scaled_float", "scaling_factor": 100 },
        "name": { "fields": { "s": { "type": "keyword", "normalizer": "own" } } },
    });
    assert_eq!(json!(setup.mapping), mapping);
    let settings = json!({
        "number_of_shards": 3,
        "refresh_interval": "30s",
        "analysis.normalizer.own.type": "custom",
        "analysis.normalizer.own.filter": ["lowercase"],
        "boost": 1.5,
    });
    assert_eq!(json!(setup.settings), settings);
    assert_eq!(setup.dynamic, Some(json!("strict")));
    assert_eq!(setup.aliases, ["all", "everything"]);
    assert_eq!(setup.ingest_pipeline.as_deref(), Some("clean"));
    assert_eq!(config.pipelines[0].targets[0].easing, Easing::Refresh);
    assert_eq!(config.pipelines[0].settings.tables[0].setup, Default::default());
}

#[test]
fn t29_t34_what_cannot_be_wanted_of_an_index_is_said_with_its_fix() {
    let text = errors(
        &with_index(
            r#"mapping = { price = "keyword", name = { type = 3 }, at = { since = 2026-01-02 } }
dynamic = "maybe"
settings = { "index.translog.durability" = "async", gc_deletes = "10m", index = { default_pipeline = "p" }, version = { created = 1 } }
aliases = ["accounts", "All", "b", "b", "products"]
ingest_pipeline = ""
"#,
        ),
        &[],
    );
    let place = |line: usize, key: &str, what: &str| {
        let line = GOOD.lines().count() + line;
        format!("rowtide.toml:{line}: pipelines.shop.tables.\"public.accounts\".{key}: {what}")
    };
    assert_lines(
        &text,
        &[
            &place(1, "mapping.price", "must be a section"),
            &place(1, "mapping.name", "has a type that is no text"),
            &place(2, "dynamic", "is not known"),
            &place(5, "ingest_pipeline", "is empty"),
            "    fix: price = { type = \"keyword\" }",
            "    fix: one of false (the default), true, \"strict\", \"runtime\"",
        ],
    );
    for part in [
        "mapping.at.since: holds a date",
        "settings.\"translog.durability\": would lose documents that were answered for",
        "settings.gc_deletes: is shorter than an hour",
        "settings.default_pipeline: is the table's `ingest_pipeline` here",
        "settings.\"version.created\": is the cluster's own",
        "aliases[0]: \"accounts\" is the table's index already",
        "aliases[1]: \"All\" holds an upper-case letter",
        "aliases[3]: \"b\" is there twice",
        "aliases: \"products\" is the index of a table",
    ] {
        assert!(text.contains(part), "{part:?} is not in:\n{text}");
    }
}

#[test]
fn how_a_backfill_is_eased_is_one_of_three_words() {
    let eased = |word: &str| GOOD.replacen("linger_ms = 20", &format!("ease_backfill = {word:?}"), 1);
    assert_eq!(
        load_good(&eased("refresh-and-replicas"), &[]).pipelines[0].targets[0].easing,
        Easing::RefreshAndReplicas
    );
    assert_eq!(load_good(&eased("nothing"), &[]).pipelines[0].targets[0].easing, Easing::Nothing);
    let text = errors(&eased("all"), &[]);
    assert!(text.contains("one of \"nothing\", \"refresh\", \"refresh-and-replicas\""), "{text}");
}
