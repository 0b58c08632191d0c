//! Configurations of several pipelines: what they may share, and what each has for itself.

use super::tests::{GOOD, assert_lines, errors, load_good};

/// The good file with a second pipeline, from line 30 on.
const SECOND: &str = r#"[sources.crm]
type = "fake"
url = "fake://cdc@127.0.0.1/crm"
password = "0"

[targets.other]
type = "elasticsearch"
nodes = ["http://127.0.0.1:9201"]

[pipelines.crm]
source = "crm"
target = "other"

[pipelines.crm.tables."public.people"]
index = "people"
"#;

fn both() -> String {
    format!("{GOOD}{SECOND}").replace("max_rss = \"128MiB\"", "max_rss = \"256MiB\"")
}

/// Two pipelines with one text replaced in the second's part.
fn with(from: &str, to: &str) -> String {
    assert!(SECOND.contains(from), "{from} is not in the file");
    both().replace(SECOND, &SECOND.replacen(from, to, 1))
}

/// As [`with`], where both write to one target.
fn in_one_target(from: &str, to: &str) -> String {
    let text = with(from, to).replace("target = \"other\"", "target = \"search\"");
    let (at, end) = (text.find("[targets.other]").unwrap_or(0), text.find("[pipelines.crm]").unwrap_or(0));
    format!("{}{}", &text[..at], &text[end..])
}

#[test]
fn each_pipeline_has_its_sides_and_its_share() {
    let config = load_good(&both(), &[]);
    let [shop, crm] = &config.pipelines[..] else { panic!("{}", config.pipelines.len()) };
    assert_eq!((shop.settings.name.as_str(), crm.settings.name.as_str()), ("shop", "crm"));
    assert_eq!((shop.source.name.as_str(), crm.source.name.as_str()), ("shop", "crm"));
    assert_eq!((shop.targets[0].name.as_str(), crm.targets[0].name.as_str()), ("search", "other"));
    assert_eq!(config.memory.budget_bytes, (256 - 24 - 4 - 2 * 7 * 8) * (1 << 20) / 4 * 3);
    assert_eq!((shop.budget_bytes, crm.budget_bytes), (config.memory.budget_bytes / 2, shop.budget_bytes));

    let config =
        load_good(&with("source = \"crm\"", "source = \"crm\"\nshare = 2").replace("256MiB", "1GiB"), &[]);
    let [shop, crm] = &config.pipelines[..] else { panic!("{}", config.pipelines.len()) };
    assert!(
        crm.budget_bytes / 2 == shop.budget_bytes && shop.budget_bytes > 64 << 20,
        "{}",
        shop.budget_bytes
    );
    assert!(
        errors(&with("source = \"crm\"", "source = \"crm\"\nshare = 0"), &[])
            .contains("pipelines.crm.share: 0 is out of range")
    );
}

#[test]
fn memory_for_one_is_not_enough_for_two() {
    let found = errors(&both().replace("256MiB", "128MiB\"\ndocument_bytes_max = \"8MiB"), &[]);
    assert_lines(
        &found,
        &[
            "rowtide.toml:4: memory.max_rss: 128 MiB leaves less than 8 MiB of budget for each pipeline: 28 MiB for \
           the process itself and 14 documents of 8 MiB under way come first",
        ],
    );
    assert!(found.contains("or run fewer pipelines in this process"), "{found}");
}

#[test]
fn a_source_is_read_by_one_pipeline() {
    let text = with("source = \"crm\"", "source = \"shop\"");
    let found = errors(&text, &[]);
    assert_lines(
        &found,
        &[
            "rowtide.toml:30: sources.crm: is used by no pipeline",
            "rowtide.toml:40: pipelines.crm.source: [pipelines.shop] reads \"shop\" already, and its slot serves one \
             pipeline",
        ],
    );
}

#[test]
fn what_a_source_holds_on_its_server_is_no_other_s() {
    let slots = |first: &str, second: &str| {
        let text =
            both().replace("url = \"fake://cdc@127.0.0.1/crm\"", &format!("url = \"\"\nslot = \"{second}\""));
        text.replace("url = \"fake://cdc@127.0.0.1/shop\"", &format!("url = \"\"\nslot = \"{first}\""))
    };
    load_good(&slots("one", "two"), &[]);
    assert_lines(
        &errors(&slots("one", "one"), &[]),
        &[
            "rowtide.toml:31: sources.crm.slot: the slot one is that of [sources.shop]",
            "    fix: name another slot",
        ],
    );
}

#[test]
fn a_target_may_be_shared_and_an_index_may_not() {
    let config = load_good(&in_one_target("index = \"people\"", "index = \"people\""), &[]);
    assert!(config.pipelines.iter().all(|pipeline| pipeline.targets[0].name == "search"));
    let clash = "pipelines.crm.tables.\"public.people\".index: \"products\" can be an index of [pipelines.shop] in the \
                 same cluster";
    let found = errors(&in_one_target("index = \"people\"", "index = \"products\""), &[]);
    assert!(found.contains(clash), "{found}");
    // Two sections of one cluster, by a node.
    let text = with("index = \"people\"", "index = \"products\"");
    load_good(&text, &[]);
    let found = errors(&text.replace("9201\"]", "9201\", \"http://127.0.0.1:9200\"]"), &[]);
    assert!(found.contains(clash), "{found}");
    // An alias beside is as bad, either way round.
    let found =
        errors(&in_one_target("index = \"people\"", "index = \"people\"\naliases = [\"accounts\"]"), &[]);
    assert!(found.contains("aliases: \"accounts\" can be an index of [pipelines.shop]"), "{found}");
    let text = in_one_target("index = \"people\"", "index = \"people\"");
    let text = text.replace("index = \"accounts\"", "index = \"accounts\"\naliases = [\"people\"]");
    let found = errors(&text, &[]);
    assert!(found.contains("aliases: \"people\" can be an index of [pipelines.crm]"), "{found}");
}

#[test]
fn patterns_must_not_meet_in_an_index() {
    let pattern = |table: &str, index: &str| {
        let text = in_one_target("index = \"people\"", &format!("index = \"{index}\""));
        text.replace("\"public.people\"", &format!("\"{table}\""))
    };
    load_good(&pattern("tenant_*.products", "{schema}-products"), &[]);
    load_good(&pattern("public.p*", "crm-{table}"), &[]);
    let found = errors(&pattern("public.p*", "{table}"), &[]);
    assert!(found.contains("index: \"{table}\" can be an index of [pipelines.shop]"), "{found}");
}
