#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value as Json;
use sources::change::Table as SourceTable;
use sources::source::{Checked, Claim, Reader, Resume, Source, SourceError, StatusSender};
use sources::world::{BoxFuture, RealWorld};
use sources::{Problem as SourceProblem, Settings};

use super::*;

/// A source that judges like a real one: strict kinds, unknown keys refused, the password quoted.
struct Fake(Option<String>);

impl Source for Fake {
    fn check(&self) -> BoxFuture<'_, Result<Checked, SourceError>> {
        Box::pin(async { Ok(Checked::default()) })
    }
    fn claims(&self) -> Vec<Claim> {
        self.0.iter().map(|slot| Claim { key: "slot", what: format!("the slot {slot}") }).collect()
    }
    fn tables(
        &self,
        _before: Option<sources::position::Position>,
    ) -> BoxFuture<'_, Result<Vec<Arc<SourceTable>>, SourceError>> {
        Box::pin(async { Ok(Vec::new()) })
    }
    fn open(
        &self,
        _resume: Option<Resume>,
        _status: StatusSender,
    ) -> BoxFuture<'_, Result<Box<dyn Reader>, SourceError>> {
        Box::pin(async { Err(SourceError::Closed) })
    }
}

fn fake(settings: Settings, _world: SharedWorld) -> Result<Box<dyn Source>, Vec<SourceProblem>> {
    let mut problems = Vec::new();
    let mut add = |key: &str, message: String| problems.push(SourceProblem { key: key.to_owned(), message });
    for (key, value) in &settings.keys {
        match (key.as_str(), value) {
            ("url" | "slot", Json::String(_)) | ("readers", Json::Number(_)) => {}
            ("password", Json::String(text)) if text.starts_with('0') => {}
            // Where it was read, so that the source can read it again.
            ("password_file", Json::String(file)) if file.ends_with("/pg") => {}
            ("password", _) => add(key, format!("{value} does not begin with 0")),
            ("url" | "slot" | "readers", _) => add(key, "is of the wrong kind".to_owned()),
            _ => add(key, "unknown key".to_owned()),
        }
    }
    match problems.is_empty() {
        true => {
            let slot = settings.keys.get("slot").and_then(Json::as_str);
            Ok(Box::new(Fake(slot.map(str::to_owned))))
        }
        false => Err(problems),
    }
}

pub(super) const GOOD: &str = r#"data_dir = "rowtide-data"

[memory]
max_rss = "128MiB"

[sources.shop]
type = "fake"
url = "fake://cdc@127.0.0.1/shop"
password = "${PGPASSWORD}"

[targets.search]
type = "elasticsearch"
nodes = ["http://127.0.0.1:9200/"]
username = "rowtide"
password = "es-secret"
linger_ms = 20

[pipelines.shop]
source = "shop"
target = "search"

[pipelines.shop.tables."public.products"]
index = "products"
columns = ["id", "name"]
rename = { name = "title" }

[pipelines.shop.tables."public.accounts"]
index = "accounts"
id = ["id"]
"#;

fn environment(pairs: &[(&str, &str)]) -> Environment {
    let with_password = [("PGPASSWORD", "0123")];
    with_password.iter().chain(pairs).map(|(k, v)| (k.to_string(), v.to_string())).collect()
}

fn try_load(text: &str, environment: &Environment) -> Result<Config, Problems> {
    parse(text, Path::new("/etc/rowtide"), environment, &[("fake", fake)], &RealWorld::shared())
}

pub(super) fn load_good(text: &str, pairs: &[(&str, &str)]) -> Config {
    match try_load(text, &environment(pairs)) {
        Ok(config) => config,
        Err(problems) => panic!("{}", listing(problems)),
    }
}

fn listing(problems: Problems) -> String {
    ConfigError::Wrong { file: PathBuf::from("rowtide.toml"), problems }.to_string()
}

pub(super) fn errors(text: &str, pairs: &[(&str, &str)]) -> String {
    match try_load(text, &environment(pairs)) {
        Ok(_) => panic!("the configuration was taken"),
        Err(problems) => listing(problems),
    }
}

/// The good file with one line's text replaced.
pub(super) fn with(from: &str, to: &str) -> String {
    assert!(GOOD.contains(from), "{from} is not in the file");
    GOOD.replacen(from, to, 1)
}

pub(super) fn assert_lines(text: &str, wanted: &[&str]) {
    for line in wanted {
        assert!(text.lines().any(|found| found == *line), "{line:?} is not a line of:\n{text}");
    }
}

#[test]
fn a_good_file_gives_every_setting_with_its_default() {
    let config = load_good(GOOD, &[]);
    assert_eq!(config.data_dir, Path::new("/etc/rowtide/rowtide-data"));
    assert_eq!(config.memory.max_rss, 128 << 20);
    assert_eq!(config.memory.document_bytes_max, 4 << 20);
    assert_eq!(config.memory.budget_bytes, (128 - 24 - 28) * (1 << 20) / 4 * 3);
    assert_eq!((config.pipelines[0].source.name.as_str(), config.pipelines[0].source.kind), ("shop", "fake"));
    let target = &config.pipelines[0].targets[0];
    assert_eq!(target.nodes, ["http://127.0.0.1:9200"]);
    assert_eq!((target.lanes, target.bulk_bytes_max, target.bulk_count_max), (4, 5 << 20, 5_000));
    assert_eq!((target.linger, target.existing), (Duration::from_millis(20), Existing::Refuse));
    let Auth::Basic { username, password } = &target.auth else { panic!("{:?}", target.auth) };
    assert_eq!((username.as_str(), password.expose()), ("rowtide", "es-secret"));
    let tables = &config.pipelines[0].settings.tables;
    assert_eq!(tables.len(), 2);
    assert_eq!(tables[0].table, "public.products", "the file's order is kept");
    assert_eq!(tables[0].columns, Some(vec!["id".to_owned(), "name".to_owned()]));
    assert_eq!(tables[0].rename, [("name".to_owned(), "title".to_owned())]);
    assert_eq!(tables[1].id, Some(vec!["id".to_owned()]));
    assert_eq!(tables[1].columns, None);
}

#[test]
fn all_problems_come_at_once_with_line_key_and_fix() {
    let text = GOOD
        .replace("linger_ms = 20", "linger = 20\nlanes = 0\nexisting = \"keep\"")
        .replace("max_rss = \"128MiB\"", "max_rss = 128")
        .replace("index = \"accounts\"", "index = \"products\"")
        .replace("target = \"search\"", "target = \"serach\"")
        .replace("[\"id\", \"name\"]", "[\"id\"]");
    let found = errors(&text, &[]);
    assert_lines(
        &found,
        &[
            "the configuration has 7 problems:",
            "rowtide.toml:4: memory.max_rss: must be a size in quotes, not a whole number",
            "    fix: a number with its unit, as in \"256MiB\" (B, KiB, MiB, GiB, kB, MB, GB)",
            "rowtide.toml:16: targets.search.linger: unknown key",
            "    fix: did you mean \"linger_ms\"?",
            "rowtide.toml:17: targets.search.lanes: 0 is out of range",
            "    fix: a whole number from 1 to 64; the default is 4",
            "rowtide.toml:18: targets.search.existing: \"keep\" is not known",
            "    fix: one of \"refuse\", \"replace\"",
            "rowtide.toml:22: pipelines.shop.target: there is no [targets.serach]",
            "    fix: did you mean \"search\"?",
            "rowtide.toml:27: pipelines.shop.tables.\"public.products\".rename.name: is not among the columns",
            "rowtide.toml:29: pipelines.shop.tables.\"public.accounts\".index: \"products\" is another table's index already",
        ],
    );
}

#[test]
fn what_is_missing_is_named_with_its_section() {
    let found = errors("[sources.shop]\ntype = \"fake\"\n[targets.search]\n[pipelines.shop]\n", &[]);
    assert_lines(
        &found,
        &[
            "rowtide.toml:1: data_dir: is missing",
            "    fix: add data_dir = \"rowtide-data\"",
            "rowtide.toml:3: targets.search.type: is missing",
            "rowtide.toml:3: targets.search.nodes: is missing",
            "    fix: add nodes = [\"http://127.0.0.1:9200\"]",
            "rowtide.toml:4: pipelines.shop.source: is missing",
            "    fix: add source = \"shop\"",
            "rowtide.toml:4: pipelines.shop.target: is missing",
            "rowtide.toml:4: pipelines.shop.tables: names no table",
        ],
    );
    assert_lines(&errors("", &[]), &["rowtide.toml:1: pipelines: there is no pipeline"]);
}

#[test]
fn broken_toml_names_its_line() {
    let found = errors("data_dir = \"x\"\nlanes = = 4\n[a]\nb = 1\nb = 2\n", &[]);
    assert!(found.contains("rowtide.toml:2: "), "{found}");
    assert!(found.contains("rowtide.toml:5: duplicate key"), "{found}");
}

#[test]
fn nothing_is_left_unused() {
    let text = format!("{GOOD}[sources.other]\ntype = \"fake\"\n[targets.other]\n");
    assert_lines(
        &errors(&text, &[]),
        &[
            "rowtide.toml:30: sources.other: is used by no pipeline",
            "    fix: remove it, or name it in a pipeline",
            "rowtide.toml:32: targets.other: is used by no pipeline",
        ],
    );
}

#[test]
fn a_pipeline_may_have_several_targets() {
    let second = "[targets.second]\ntype = \"elasticsearch\"\nnodes = [\"http://b:1\"]\n";
    let several = |targets: &str| with("target = \"search\"", targets) + second;
    let config = load_good(&several("targets = [\"second\", \"search\"]"), &[]);
    let names: Vec<&str> = config.pipelines[0].targets.iter().map(|target| target.name.as_str()).collect();
    assert_eq!(names, ["second", "search"], "in the pipeline's order");
    assert!(config.memory.budget_bytes < load_good(GOOD, &[]).memory.budget_bytes);

    for (targets, wrong) in [
        ("targets = []", "pipelines.shop.targets: names no target"),
        ("targets = [\"search\", \"secnd\"]", "pipelines.shop.targets[1]: there is no [targets.secnd]"),
        ("targets = [\"search\", \"search\"]", "pipelines.shop.targets[1]: \"search\" is there twice"),
        ("target = \"search\"\ntargets = [\"second\"]", "pipelines.shop.targets: is given beside target"),
        ("targets = [\"search\"]", "targets.second: is used by no pipeline"),
    ] {
        let found = errors(&several(targets), &[]);
        assert!(found.contains(wrong), "{targets}: {found}");
    }
    let same = several("targets = [\"second\", \"search\"]").replace("http://b:1", "http://127.0.0.1:9200");
    assert!(errors(&same, &[]).contains("targets.second.nodes: has a node of [targets.search]"));
}

#[test]
fn a_source_s_own_problems_come_back_with_their_lines_and_without_secrets() {
    let text = with("url = ", "plonk = 1\nslot = 5\nurl = ").replace("${PGPASSWORD}", "${WRONG}");
    let found = errors(&text, &[("WRONG", "hunter2")]);
    assert_lines(
        &found,
        &[
            "rowtide.toml:8: sources.shop.plonk: unknown key",
            "rowtide.toml:9: sources.shop.slot: is of the wrong kind",
            "rowtide.toml:11: sources.shop.password: \"***\" does not begin with 0",
        ],
    );
    assert!(!found.contains("hunter2"), "{found}");
}

#[test]
fn an_unknown_source_names_those_there_are() {
    let found = errors(&with("\"fake\"", "\"oracle\""), &[]);
    assert_lines(&found, &["rowtide.toml:7: sources.shop.type: \"oracle\" is not known"]);
    assert_lines(&found, &["    fix: one of \"fake\""]);
}

#[test]
fn variables_are_filled_in_and_a_missing_one_is_a_problem() {
    let text = with("\"es-secret\"", "\"a${ONE}b$${TWO}c${ONE}\"");
    let Auth::Basic { password, .. } = &load_good(&text, &[("ONE", "1")]).pipelines[0].targets[0].auth else {
        panic!()
    };
    assert_eq!(password.expose(), "a1b${TWO}c1");
    let found = errors(&text.replace("rowtide\"\n", "${OPEN\"\n"), &[]);
    assert_lines(
        &found,
        &[
            "rowtide.toml:15: targets.search.password: the environment variable \"ONE\" is not set",
            "rowtide.toml:14: targets.search.username: ${ has no closing brace",
        ],
    );
}

#[test]
fn overrides_find_their_key_whatever_its_case_and_take_the_kind_it_wants() {
    let text = with("[targets.search]", "[targets.Search]").replace("\"search\"", "\"Search\"");
    let config = load_good(
        &text,
        &[
            ("ROWTIDE__TARGETS__SEARCH__LANES", "8"),
            ("ROWTIDE__TARGETS__SEARCH__PASSWORD", "0123"),
            ("ROWTIDE__TARGETS__SEARCH__NODES", "http://a:1,http://b:2"),
            ("ROWTIDE__SOURCES__SHOP__READERS", "3"),
            ("ROWTIDE__SOURCES__SHOP__PASSWORD", "0777"),
            ("ROWTIDE__PIPELINES__SHOP__TABLES__PUBLIC_PRODUCTS__INDEX", "goods"),
            ("ROWTIDE__PIPELINES__SHOP__TABLES__public.accounts__COLUMNS", "[\"id\", \"mail\"]"),
            ("ROWTIDE__DATA_DIR", "/var/lib/${NOT_A_VARIABLE}"),
        ],
    );
    assert_eq!(config.pipelines[0].targets[0].lanes, 8);
    let Auth::Basic { password, .. } = &config.pipelines[0].targets[0].auth else { panic!() };
    assert_eq!(password.expose(), "0123", "text that looks like a number stays text");
    assert_eq!(config.pipelines[0].targets[0].nodes, ["http://a:1", "http://b:2"]);
    assert_eq!(config.memory.budget_bytes, (128 - 24 - 32) * (1 << 20) / 4 * 3, "three readers");
    assert_eq!(config.pipelines[0].settings.tables[0].index, "goods");
    assert_eq!(
        config.pipelines[0].settings.tables[1].columns,
        Some(vec!["id".to_owned(), "mail".to_owned()])
    );
    assert_eq!(config.data_dir, Path::new("/var/lib/${NOT_A_VARIABLE}"));
}

#[test]
fn a_wrong_override_names_its_variable_and_not_its_value() {
    let found = errors(
        GOOD,
        &[
            ("ROWTIDE__TARGETS__SEARCH__LANES", "s3cret-value"),
            ("ROWTIDE__TARGET__SEARCH__LANES", "1"),
            ("ROWTIDE__DATA_DIR__X", "1"),
            ("ROWTIDE__SOURCES__SHOP__READERS", "s3cret-value"),
            ("ROWTIDE__MEMORY__MAX_RSS", "s3cret-value"),
        ],
    );
    assert_lines(
        &found,
        &[
            "$ROWTIDE__TARGETS__SEARCH__LANES: targets.search.lanes: must be a whole number, not text",
            "$ROWTIDE__TARGET__SEARCH__LANES: target: unknown key",
            "    fix: did you mean \"targets\"?",
            "$ROWTIDE__DATA_DIR__X: data_dir: is text, not a section: it has no keys",
            "$ROWTIDE__SOURCES__SHOP__READERS: sources.shop.readers: is of the wrong kind",
            "$ROWTIDE__MEMORY__MAX_RSS: memory.max_rss: the value is not a size",
        ],
    );
    assert!(!found.contains("s3cret"), "{found}");
}

#[test]
fn secrets_are_read_from_files_and_never_printed() {
    let folder = std::env::temp_dir().join(format!("rowtide-config-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("pg"), "0pg-secret\n").unwrap();
    std::fs::write(folder.join("key"), "api-secret\r\n").unwrap();
    let text = with("password = \"${PGPASSWORD}\"", "password_file = \"pg\"")
        .replace("username = \"rowtide\"\npassword = \"es-secret\"", "api_key_file = \"key\"");
    let kinds: &[(&str, Make)] = &[("fake", fake)];
    let world = RealWorld::shared();
    let config = match parse(&text, &folder, &environment(&[]), kinds, &world) {
        Ok(config) => config,
        Err(problems) => panic!("{}", listing(problems)),
    };
    let Auth::ApiKey(key) = &config.pipelines[0].targets[0].auth else {
        panic!("{:?}", config.pipelines[0].targets[0].auth)
    };
    assert_eq!(key.expose(), "api-secret");
    assert!(
        !format!("{:?}", config.pipelines[0].targets[0]).contains("secret"),
        "{:?}",
        config.pipelines[0].targets[0]
    );
    assert_eq!(key.to_string(), "***");

    std::fs::remove_file(folder.join("key")).unwrap();
    let text = text.replace("password_file", "password = \"0\"\npassword_file");
    let found = listing(parse(&text, &folder, &environment(&[]), kinds, &world).err().unwrap());
    std::fs::remove_dir_all(&folder).unwrap();
    assert!(
        found.contains("rowtide.toml:10: sources.shop.password_file: is given beside password"),
        "{found}"
    );
    assert!(found.contains("targets.search.api_key_file: \"key\" cannot be read: No such file"), "{found}");
}

#[test]
fn logins_that_do_not_fit_together_are_refused() {
    let found = errors(&with("password = \"es-secret\"", "api_key = \"k\""), &[]);
    assert_lines(&found, &["rowtide.toml:15: targets.search.api_key: is given beside username"]);
    let found = errors(&with("username = \"rowtide\"\n", ""), &[]);
    assert_lines(&found, &["rowtide.toml:11: targets.search.username: is missing"]);
    let found = errors(&with("password = \"es-secret\"\n", ""), &[]);
    assert_lines(&found, &["rowtide.toml:11: targets.search.password: is missing"]);
    let token = |rest: &str| with("password = \"es-secret\"", &format!("{rest}bearer_token = \"t0ken\""));
    let found = errors(&token(""), &[]);
    assert_lines(&found, &["rowtide.toml:15: targets.search.bearer_token: is given beside username"]);
    assert!(!found.contains("t0ken"), "{found}");
    let both = token("api_key = \"k\"\n").replace("username = \"rowtide\"\n", "");
    assert_lines(
        &errors(&both, &[]),
        &["rowtide.toml:15: targets.search.bearer_token: is given beside api_key"],
    );
    let config = load_good(&token("").replace("username = \"rowtide\"\n", ""), &[]);
    let Auth::Bearer(bearer) = &config.pipelines[0].targets[0].auth else {
        panic!("{:?}", config.pipelines[0].targets[0].auth)
    };
    assert_eq!(bearer.expose(), "t0ken");
    assert!(!format!("{:?}", config.pipelines[0].targets[0].client_settings()).contains("t0ken"));
    let found = errors(&with("http://127", "http://me:my-secret@127"), &[]);
    assert_lines(&found, &["rowtide.toml:13: targets.search.nodes[0]: holds a user or password"]);
    assert!(!found.contains("my-secret"), "{found}");
    let found = errors(&with("http://127.0.0.1:9200/", "elastic:my-secret@host"), &[]);
    assert_lines(&found, &["rowtide.toml:13: targets.search.nodes[0]: \"host\" is no http or https URL"]);
    assert!(!found.contains("my-secret"), "{found}");
}

#[test]
fn names_that_a_target_refuses_are_refused_here() {
    for (name, why) in [
        ("", "is empty"),
        ("Products", "holds an upper-case letter"),
        ("a b", "holds an upper-case letter, a space"),
        ("_a", "begins with one of"),
        ("rowtide-state", "keeps its own state"),
    ] {
        let found = errors(&with("\"products\"", &format!("{name:?}")), &[]);
        assert!(found.contains(why), "{name}: {found}");
    }
    let found = errors(&with("{ name = \"title\" }", "{ name = \"_id\" }"), &[]);
    assert_lines(
        &found,
        &[
            "rowtide.toml:25: pipelines.shop.tables.\"public.products\".rename.name: \"_id\" cannot be a field",
        ],
    );
    let found = errors(&with("{ name = \"title\" }", "{ name = \"id\" }"), &[]);
    assert!(found.contains("rename.name: \"id\" is another column's field already"), "{found}");
    let found = errors(&with("public.products", "products"), &[]);
    assert!(found.contains("tables.products: is no schema.table"), "{found}");
}

#[test]
fn every_example_in_config_is_taken() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("config");
    let mut taken = 0;
    for entry in std::fs::read_dir(&folder).unwrap() {
        let file = entry.unwrap().path();
        if file.extension().is_none_or(|extension| extension != "toml") {
            continue;
        }
        let text = std::fs::read_to_string(&file).unwrap();
        let names = text.split("${").skip(1).filter_map(|rest| rest.split_once('}'));
        let environment = names.map(|(name, _)| (name.to_owned(), "x".to_owned())).collect();
        if let Err(error) = load(&file, &environment, &sources::makes(), &RealWorld::shared()) {
            panic!("{error}");
        }
        taken += 1;
    }
    assert!(taken > 0, "there is no example");
}

#[test]
fn whom_to_trust_is_a_file_or_a_fingerprint_of_an_encrypted_node() {
    use crate::target::elasticsearch::Trust;
    let pin = "ab".repeat(32);
    let keys = |nodes: &str, keys: &str| {
        with("http://127.0.0.1:9200/", nodes)
            .replace("password = \"es-secret\"", &format!("password = \"p\"\n{keys}"))
    };
    let pinned = keys("https://es:9200", &format!("ca_fingerprint = \"{pin}\""));
    assert!(matches!(load_good(&pinned, &[]).pipelines[0].targets[0].trust, Trust::Pinned(_)));
    assert!(matches!(
        load_good(&keys("https://es:9200", ""), &[]).pipelines[0].targets[0].trust,
        Trust::System
    ));
    for (nodes, keys_given, key, what) in [
        (
            "http://es:9200",
            format!("ca_fingerprint = \"{pin}\""),
            "ca_fingerprint",
            "is given, and a node is http://",
        ),
        ("http://es:9200", "ca_file = \"ca.pem\"".to_owned(), "ca_file", "is given, and a node is http://"),
        ("https://es:9200", "ca_fingerprint = \"abc\"".to_owned(), "ca_fingerprint", "is no fingerprint"),
        ("https://es:9200", "ca_file = \"/nowhere\"".to_owned(), "ca_file", "\"/nowhere\" cannot be read"),
        (
            "https://es:9200",
            "ca_file = \"/dev/null\"".to_owned(),
            "ca_file",
            "\"/dev/null\" holds no certificate",
        ),
        ("https://es:9200", "gzip = 1".to_owned(), "gzip", "must be true or false"),
        ("https://es:9200/es", "sniff = true".to_owned(), "sniff", "is true, and a node has a path"),
        (
            "https://es:9200\", \"http://es:9201",
            "sniff = true".to_owned(),
            "sniff",
            "is true, and nodes has both",
        ),
    ] {
        let found = errors(&keys(nodes, &keys_given), &[]);
        assert!(found.contains(&format!(":16: targets.search.{key}: {what}")), "{found}");
    }
    let both = keys("https://es:9200", &format!("ca_file = \"ca.pem\"\nca_fingerprint = \"{pin}\""));
    assert!(errors(&both, &[]).contains("ca_fingerprint: is given beside ca_file"));
}
