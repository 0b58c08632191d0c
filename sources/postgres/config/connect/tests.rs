#![allow(clippy::unwrap_used)]
use std::os::unix::fs::PermissionsExt;

use serde_json::{Value, json};

use super::*;
use crate::Problem;

fn judged(keys: &Value, variables: &[(&str, &str)]) -> Result<Connect, Vec<Problem>> {
    let environment = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    let mut section = Section { keys: keys.as_object().unwrap().clone(), problems: Vec::new() };
    let said = Said::take(&mut section, PathBuf::from("/etc/rowtide"), environment.collect());
    let connect = said.judge("shop", &mut section);
    match (connect, section.problems.is_empty()) {
        (Some(connect), true) => Ok(connect),
        _ => Err(section.problems),
    }
}

fn connect(url: &str, variables: &[(&str, &str)]) -> Connect {
    judged(&json!({ "url": url }), variables).unwrap()
}

fn problem(keys: &Value, variables: &[(&str, &str)]) -> (String, String) {
    let problem = judged(keys, variables).err().unwrap().remove(0);
    (problem.key, problem.message)
}

fn mode(url: &str, variables: &[(&str, &str)]) -> (SslMode, Trust) {
    let tls = connect(url, variables).tls;
    (tls.mode, tls.trust.clone())
}

#[test]
fn without_a_word_about_tls_only_the_own_machine_is_trusted() {
    let full = (SslMode::VerifyFull, Trust::Host(Roots::System));
    for host in ["db", "10.0.0.7", "[::2]", "localhost.example.com", "[::ffff:10.0.0.1]"] {
        assert_eq!(mode(&format!("postgres://u@{host}/d"), &[]), full, "{host}");
    }
    for host in ["127.0.0.1", "127.1.2.3", "localhost", "[::1]", "[::ffff:127.0.0.1]"] {
        let prefer = (SslMode::Prefer, Trust::Anybody);
        assert_eq!(mode(&format!("postgres://u@{host}/d"), &[]), prefer, "{host}");
    }
    assert_eq!(mode("postgres://u@127.0.0.1/d?sslrootcert=system", &[]), full);
}

#[test]
fn the_section_comes_before_the_url_and_the_url_before_the_environment() {
    let url = "postgres://u@db/d?sslmode=require&application_name=one&connect_timeout=7";
    let variables = [
        ("PGHOST", "no"),
        ("PGPORT", "1"),
        ("PGUSER", "no"),
        ("PGDATABASE", "no"),
        ("PGSSLMODE", "disable"),
        ("PGAPPNAME", "no"),
        ("PGCONNECT_TIMEOUT", "9"),
    ];
    let said = connect(url, &variables);
    assert_eq!((said.host.as_str(), said.port, said.user.as_str()), ("db", 1, "u"));
    assert_eq!((said.database.as_str(), said.application_name.as_str()), ("d", "one"));
    assert_eq!((said.tls.mode, said.timeout), (SslMode::Require, Some(Duration::from_secs(7))));
    let said = judged(&json!({"url": url, "sslmode": "disable"}), &[]).unwrap();
    assert_eq!(said.tls.mode, SslMode::Disable);
}

#[test]
fn the_environment_says_what_is_left_out_the_url_too() {
    let variables = [
        ("PGHOST", "db"),
        ("PGPORT", "6000"),
        ("PGUSER", "me"),
        ("PGDATABASE", "shop"),
        ("PGPASSWORD", "secret"),
        ("PGSSLMODE", "prefer"),
        ("PGAPPNAME", "app"),
        ("PGCONNECT_TIMEOUT", "0"),
        ("PGSSLROOTCERT", "/for/others.pem"),
    ];
    let said = judged(&json!({}), &variables).unwrap();
    assert_eq!((said.host.as_str(), said.port, said.user.as_str()), ("db", 6000, "me"));
    assert_eq!((said.database.as_str(), said.application_name.as_str()), ("shop", "app"));
    assert_eq!((said.tls.mode, said.timeout), (SslMode::Prefer, None));
    assert_eq!(said.login.password(), Some(Password("secret".into())));
    assert!(!format!("{said:?}").contains("secret"));
    let said = connect("postgres://db", &[("PGUSER", "me"), ("PGSSLMODE", "")]);
    assert_eq!((said.database.as_str(), said.port, said.tls.mode), ("me", 5432, SslMode::VerifyFull));
}

#[test]
fn what_nobody_says_and_what_cannot_be_used_is_told_where_it_was_said() {
    let url = |url: &str| json!({ "url": url });
    let cases = [
        (json!({}), vec![], "url", "is missing"),
        (url("postgres://db/d"), vec![], "url", "names no role, and PGUSER is not set"),
        (url("postgres://u@/d"), vec![], "url", "names no host, and PGHOST is not set"),
        (url("postgres://u@%2Frun/d"), vec![], "url", "connects by TCP"),
        (json!({}), vec![("PGHOST", "/run"), ("PGUSER", "u")], "", "PGHOST is a socket's folder"),
        (json!({}), vec![("PGHOST", "a,b"), ("PGUSER", "u")], "", "PGHOST names several hosts"),
        (url("postgres://u@h/d"), vec![("PGPORT", "x")], "", "PGPORT=x is no number"),
        (url("postgres://u@h/d"), vec![("PGCONNECT_TIMEOUT", "-1")], "", "PGCONNECT_TIMEOUT=-1 is no number"),
        (url("postgres://u@h/d?sslmode=on"), vec![], "url", "its sslmode=on is none of"),
        (json!({"url": "postgres://u@h/d", "sslmode": "on"}), vec![], "sslmode", "sslmode=on is none of"),
        (url("postgres://u@h/d"), vec![("PGSSLMODE", "on")], "", "PGSSLMODE=on is none of"),
        (
            url("postgres://u@h/d?sslmode=prefer&sslrootcert=x"),
            vec![],
            "url",
            "is not looked at with sslmode=prefer",
        ),
        (url("postgres://u@h/d?sslmode=verify-ca"), vec![], "sslmode", "needs sslrootcert to name a file"),
        (
            url("postgres://u@h/d?sslmode=require&sslrootcert=system"),
            vec![],
            "url",
            "needs sslmode=verify-full",
        ),
        (url("postgres://u@h/d?sslcert=x"), vec![], "url", "its sslcert needs sslkey"),
        (url("postgres://u@h/d"), vec![("PGSSLKEY", "x")], "", "PGSSLKEY needs sslcert"),
        (
            json!({"url": "postgres://u@h/d", "sslrootcert": "nowhere.pem"}),
            vec![],
            "sslrootcert",
            "sslrootcert cannot be used: /etc/rowtide/nowhere.pem: No such file",
        ),
        (
            url("postgres://u@h/d"),
            vec![("PGSSLROOTCERT", "no.pem")],
            "",
            "PGSSLROOTCERT cannot be used: no.pem: ",
        ),
        (
            url("postgres://u@h/d"),
            vec![("PGPASSFILE", "/nowhere")],
            "password",
            "the password file /nowhere cannot",
        ),
    ];
    for (keys, variables, key, message) in cases {
        let (found, said) = problem(&keys, &variables);
        assert!(found == key && said.contains(message), "{keys} {variables:?}: {found:?}: {said}");
    }
}

#[test]
fn the_password_file_is_asked_last_and_refused_when_others_may_read_it() {
    let home = std::env::temp_dir().join(format!("rowtide-{}-home", std::process::id()));
    std::fs::create_dir_all(&home).unwrap();
    let file = home.join(".pgpass");
    std::fs::write(&file, "127.0.0.1:5432:d:u:from-the-file\n").unwrap();
    std::fs::set_permissions(&file, PermissionsExt::from_mode(0o600)).unwrap();
    let (url, home_is) = ("postgres://u@127.0.0.1/d", ("HOME", home.to_str().unwrap()));
    let password = |url: &str, more: &[(&str, &str)]| {
        connect(url, &[&[home_is], more].concat()).login.password().map(|password| password.0)
    };
    assert_eq!(password(url, &[]).as_deref(), Some("from-the-file"));
    assert_eq!(password(url, &[("PGPASSWORD", "p")]).as_deref(), Some("p"));
    assert_eq!(password("postgres://u:q@127.0.0.1/d", &[("PGPASSWORD", "p")]).as_deref(), Some("q"));
    assert_eq!(password("postgres://other@127.0.0.1/d", &[]), None);
    let moved = home.join("moved");
    std::fs::rename(&file, &moved).unwrap();
    assert_eq!(password(url, &[]), None);
    assert_eq!(password(url, &[("PGPASSFILE", moved.to_str().unwrap())]).as_deref(), Some("from-the-file"));
    std::fs::set_permissions(&moved, PermissionsExt::from_mode(0o644)).unwrap();
    let (key, said) = problem(&json!({ "url": url }), &[("PGPASSFILE", moved.to_str().unwrap())]);
    assert!(key == "password" && said.contains("others may read it: chmod"), "{said}");
    assert!(!said.contains("from-the-file"));
    std::fs::remove_dir_all(&home).unwrap();
}
