//! The program as a person meets it: its words, its exit codes, what it never says.

mod check;
mod init;
mod remove;

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::process::Output;

use serde_json::Value;

use crate::harness::rowtide::Rowtide;

/// A configuration with four faults and two secrets in it.
const FAULTY: &str = r#"data_dir = "data"

[sources.shop]
type = "postgres"
url = "postgres://cdc@127.0.0.1:1/shop"
password = "${TEST_PASSWORD}"

[targets.search]
type = "elasticsearch"
nodes = ["http://127.0.0.1:1"]
username = "rowtide"
password = "s3cret-of-the-target"
lane = 3
linger_ms = -1

[pipelines.shop]
source = "shop"
target = "search"

[pipelines.shop.tables."public.products"]
indx = "products"
"#;

/// The same without its faults.
fn faultless() -> String {
    FAULTY.replace("lane = 3\nlinger_ms = -1\n", "").replace("indx", "index")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn assert_no_secret(output: &Output) {
    for said in [text(&output.stdout), text(&output.stderr)] {
        assert!(!said.contains("s3cret"), "a secret is said:\n{said}");
    }
}

fn code(output: &Output) -> i32 {
    output.status.code().expect("it was not ended by a signal")
}

fn with_password(config: &str) -> Rowtide {
    let mut rowtide = Rowtide::new(config);
    rowtide.environment("TEST_PASSWORD", "s3cret-of-the-source");
    rowtide
}

#[test]
fn the_version_is_one_line() {
    let output = Rowtide::new("").call(&["--version"]);
    assert_eq!(code(&output), 0);
    assert_eq!(text(&output.stdout), format!("rowtide {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn a_wrong_command_line_is_refused_with_help() {
    for arguments in [&["run"][..], &["walk"][..], &[][..]] {
        let output = Rowtide::new("").call(arguments);
        assert_eq!(code(&output), 2, "{arguments:?}");
        assert!(text(&output.stderr).contains("Usage: rowtide"), "{arguments:?}");
    }
}

#[test]
fn configuration_errors_come_all_at_once_with_file_line_key_and_fix() {
    let output = with_password(FAULTY).call(&["check", "--config", "rowtide.toml"]);
    assert_eq!(code(&output), 2);
    let said = text(&output.stderr);
    let wanted = [
        "the configuration has 4 problems:\n",
        "rowtide.toml:13: targets.search.lane: unknown key\n    fix: did you mean \"lanes\"?\n",
        "rowtide.toml:14: targets.search.linger_ms: -1 is out of range\n    fix: a whole number from 0 to",
        "rowtide.toml:20: pipelines.shop.tables.\"public.products\".index: is missing\n    fix: add index",
        "rowtide.toml:21: pipelines.shop.tables.\"public.products\".indx: unknown key\n    fix: did you mean",
    ];
    for part in wanted {
        assert!(said.contains(part), "{part:?} is not in:\n{said}");
    }
    assert_no_secret(&output);
}

#[test]
fn where_a_machine_reads_each_configuration_error_is_one_json_line() {
    let output = with_password(FAULTY).call(&["run", "--config", "rowtide.toml"]);
    assert_eq!(code(&output), 2);
    let lines: Vec<Value> =
        text(&output.stderr).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 4, "{lines:?}");
    assert_eq!(lines[0]["level"], "ERROR");
    assert_eq!(lines[0]["file"], "rowtide.toml");
    assert_eq!(lines[0]["line"], 13);
    assert_eq!(lines[0]["key"], "targets.search.lane");
    assert_eq!(lines[0]["error"], "unknown key");
    assert_eq!(lines[0]["fix"], "did you mean \"lanes\"?");
    assert_no_secret(&output);
}

#[test]
fn a_missing_variable_and_a_wrong_override_are_named() {
    let mut rowtide = Rowtide::new(&faultless());
    rowtide.environment("ROWTIDE__TARGETS__SEARCH__LANES", "s3cret");
    let output = rowtide.call(&["check", "--config", "rowtide.toml"]);
    assert_eq!(code(&output), 2);
    let said = text(&output.stderr);
    let missing =
        "rowtide.toml:6: sources.shop.password: the environment variable \"TEST_PASSWORD\" is not set";
    assert!(said.contains(missing), "{said}");
    let wrong = "$ROWTIDE__TARGETS__SEARCH__LANES: targets.search.lanes: must be a whole number, not text";
    assert!(said.contains(wrong), "{said}");
    assert_no_secret(&output);
}

#[test]
fn a_file_that_is_not_there_is_a_wrong_configuration() {
    for command in ["run", "check"] {
        let output = Rowtide::new("").call(&[command, "--config", "nowhere.toml"]);
        assert_eq!(code(&output), 2);
        assert!(text(&output.stderr).contains("nowhere.toml: cannot be read"), "{}", text(&output.stderr));
    }
}

#[test]
fn check_names_both_servers_that_cannot_be_reached() {
    let output = with_password(&faultless()).call(&["check", "--config", "rowtide.toml"]);
    let said = text(&output.stdout);
    assert_eq!(code(&output), 4, "{said}{}", text(&output.stderr));
    assert!(said.contains("source shop: "), "{said}");
    assert!(said.contains("target search: "), "{said}");
    assert!(said.contains("    fix: "), "{said}");
    assert!(said.ends_with("2 things are missing\n"), "{said}");
    assert_no_secret(&output);
}

#[test]
fn a_data_directory_that_others_use_halts_before_anything_is_read() {
    let rowtide = with_password(&faultless());
    let data = rowtide.folder.join("data");
    std::fs::create_dir(&data).unwrap();
    std::fs::File::create(data.join("somebody's")).unwrap().write_all(b"file").unwrap();
    std::fs::set_permissions(&data, std::fs::Permissions::from_mode(0o755)).unwrap();
    let output = rowtide.call(&["run", "--config", "rowtide.toml"]);
    let said = text(&output.stderr);
    assert!(said.contains("is open to other users (mode 0755)") && said.contains("chmod 700"), "{said}");
    assert_eq!(code(&output), 3, "a person must act: {said}");
    assert_no_secret(&output);
}
