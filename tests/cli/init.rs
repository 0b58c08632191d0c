//! `rowtide init`: what it writes can be checked and run as it stands.

use reqwest::Method;
use serde_json::json;

use super::{code, text};
use crate::harness::comparer::compare;
use crate::harness::fresh_name;
use crate::harness::pair::PATIENCE;
use crate::harness::postgres_rows::PostgresRows;
use crate::harness::rowtide::Rowtide;
use crate::harness::servers::{Database, Engine, Postgres, Search};

/// The database's url, without its password.
fn url(database: &Database) -> String {
    format!("postgres://postgres@127.0.0.1:{}/{}", database.port, database.name)
}

fn with_password(password: &str) -> Rowtide {
    let mut rowtide = Rowtide::new("");
    rowtide.environment("PGPASSWORD", password);
    rowtide
}

#[tokio::test(flavor = "multi_thread")]
async fn what_init_writes_is_checked_and_run_as_it_stands() {
    let search = Search::shared(Engine::Elasticsearch8).await;
    let database = Postgres::shared().await.fresh_database().await;
    let client = database.client().await;
    let name = fresh_name("made");
    client
        .batch_execute(&format!(
            "CREATE TABLE {name} (id bigint PRIMARY KEY, title text, price numeric, at timestamptz, tags text[]);
             INSERT INTO {name} SELECT i, 'title ' || i, i / 7.0, now(), ARRAY['a', NULL] FROM generate_series(1, 500) i;
             CREATE TABLE {name}_parts (a int, b text, PRIMARY KEY (a, b)) PARTITION BY RANGE (a);
             CREATE TABLE {name}_part_1 PARTITION OF {name}_parts FOR VALUES FROM (0) TO (10);
             INSERT INTO {name}_parts VALUES (1, 'x'), (2, 'y');
             CREATE SCHEMA \"My.Schema\";
             CREATE TABLE \"My.Schema\".\"{name} Odd\"\"Name\" (\"ID\" int PRIMARY KEY, \"a.b\" text, \"${{x}}\" text);
             INSERT INTO \"My.Schema\".\"{name} Odd\"\"Name\" VALUES (7, 'dotted', 'braced');
             CREATE TABLE {name}_no_key (a int);
             CREATE TEMP TABLE {name}_temporary (a int PRIMARY KEY);
             CREATE VIEW {name}_view AS SELECT 1 AS a;"
        ))
        .await
        .unwrap();

    let mut rowtide = with_password("postgres");
    let target = format!("http://127.0.0.1:{}", search.port());
    let arguments = ["init", &url(&database), "--target", &target, "--output", "made.toml"];
    let made = rowtide.call(&arguments);
    let said = text(&made.stderr);
    assert_eq!(code(&made), 0, "{said}");
    assert!(said.contains("4 tables, 1 of them commented out"), "{said}");
    let file = std::fs::read_to_string(rowtide.folder.join("made.toml")).unwrap();
    for line in [
        format!("# public.{name}: about 500 rows, "),
        format!("[pipelines.{}.tables.\"public.{name}\"]\nindex = \"{name}\"\n", database.name),
        format!("[pipelines.{}.tables.\"public.{name}_parts\"]\n", database.name),
        format!(".tables.\"\\\"My.Schema\\\".{name} Odd\\\"Name\"]\nindex = \"{name}_odd_name\"\n"),
        "rename = { \"a.b\" = \"a_b\" }\n".to_owned(),
        format!("# It cannot be read yet: table public.{name}_no_key has no primary key\n#     ALTER TABLE"),
        format!("# index = \"{name}_no_key\"\n"),
        "#   price  decimal → double\n".to_owned(),
        "#   tags   array of text → text and keyword\n".to_owned(),
        "password = \"${PGPASSWORD}\"".to_owned(),
    ] {
        // The planner has not counted the rows yet, unless autovacuum was fast.
        let line = line.replace("about 500 rows, ", "");
        assert!(file.contains(&line), "{line:?} is not in:\n{file}");
    }
    for absent in ["postgres:postgres", "_part_1", "_temporary", "_view"] {
        assert!(!file.contains(absent), "{absent} is in:\n{file}");
    }
    let again = rowtide.call(&arguments);
    assert_eq!(code(&again), 2, "a file that is there is never written over");
    assert!(text(&again.stderr).contains("made.toml is there already"), "{}", text(&again.stderr));
    assert_eq!(std::fs::read_to_string(rowtide.folder.join("made.toml")).unwrap(), file);

    let checked = rowtide.call(&["check", "--config", "made.toml"]);
    let said = text(&checked.stdout) + &text(&checked.stderr);
    assert_eq!(code(&checked), 0, "{said}");
    assert!(said.ends_with("everything is there\n"), "{said}");

    std::fs::rename(rowtide.folder.join("made.toml"), rowtide.folder.join("rowtide.toml")).unwrap();
    rowtide.run_again();
    rowtide.wait_for_line("\"state\":\"following\"", PATIENCE).await;
    let (ended, _) = rowtide.stop();
    assert_eq!(ended, 0);
    for table in [name.clone(), format!("{name}_parts")] {
        let rows = PostgresRows::open(database.client().await, &format!("public.{table}")).await;
        compare(&search.http, &table, rows).await.assert_equal();
    }
    let (odd, _) =
        search.http.document(&format!("{name}_odd_name"), "7").await.expect("the odd row is there");
    assert_eq!(odd, json!({ "ID": 7, "a_b": "dotted", "${x}": "braced" }));
    let removed = rowtide.call(&["remove", &database.name, "--config", "rowtide.toml", "--delete-index"]);
    assert_eq!(code(&removed), 0, "{}", text(&removed.stdout));
    let answer = search.http.try_call(Method::GET, &format!("/{name}*"), None).await.unwrap();
    assert_eq!(answer.1, "{}", "every index of it is gone");
}

#[tokio::test(flavor = "multi_thread")]
async fn init_chooses_schemas_and_says_what_each_refused_table_lacks() {
    let database = Postgres::shared().await.fresh_database().await;
    let client = database.client().await;
    client
        .batch_execute(
            "CREATE SCHEMA one; CREATE SCHEMA two;
             CREATE TABLE one.a (id int PRIMARY KEY);
             CREATE UNLOGGED TABLE two.b (id int UNIQUE NOT NULL);
             ALTER TABLE two.b REPLICA IDENTITY NOTHING;",
        )
        .await
        .unwrap();
    let rowtide = with_password("postgres");
    let one = rowtide.call(&["init", &url(&database), "--schema", "one"]);
    let said = text(&one.stdout);
    assert_eq!(code(&one), 0, "{}", text(&one.stderr));
    assert!(said.contains("\"one.a\"") && !said.contains("two.b"), "{said}");
    let two = rowtide.call(&["init", &url(&database), "--schema", "two"]);
    let said = text(&two.stdout);
    assert_eq!(code(&two), 4, "nothing of it can be read: {}", text(&two.stderr));
    for line in [
        "# It cannot be read yet: table two.b is unlogged: its changes are in no log\n",
        "#     ALTER TABLE \"two\".\"b\" SET LOGGED;\n",
        "# It cannot be read yet: table two.b has REPLICA IDENTITY NOTHING",
        "#     ALTER TABLE \"two\".\"b\" REPLICA IDENTITY USING INDEX \"b_id_key\";\n",
    ] {
        assert!(said.contains(line), "{line:?} is not in:\n{said}");
    }
    let none = rowtide.call(&["init", &url(&database), "--schema", "three"]);
    assert_eq!(code(&none), 4);
    assert!(text(&none.stderr).contains("has no table in three"), "{}", text(&none.stderr));
}

#[tokio::test(flavor = "multi_thread")]
async fn init_takes_no_password_from_its_arguments_and_tells_a_wrong_one() {
    let database = Postgres::shared().await.fresh_database().await;
    database.client().await.batch_execute("CREATE TABLE t (id int PRIMARY KEY)").await.unwrap();
    let rowtide = with_password("s3cret-and-wrong");
    let inside = url(&database).replace("postgres@", "postgres:s3cret@");
    let refused = rowtide.call(&["init", &inside]);
    assert_eq!(code(&refused), 2);
    assert!(text(&refused.stderr).contains("set PGPASSWORD in the environment"), "{}", text(&refused.stderr));
    let wrong = rowtide.call(&["init", &url(&database)]);
    assert_eq!(code(&wrong), 3, "{}", text(&wrong.stderr));
    assert!(text(&wrong.stderr).contains("password authentication failed"), "{}", text(&wrong.stderr));
    let nobody = rowtide.call(&["init", "postgres://cdc@127.0.0.1:1/shop"]);
    assert_eq!(code(&nobody), 1);
    for output in [&refused, &wrong, &nobody] {
        super::assert_no_secret(output);
        assert!(output.stdout.is_empty());
    }
    // From a file, which the configuration names.
    std::fs::write(rowtide.folder.join("password"), "postgres\n").unwrap();
    let from_file = rowtide.call(&["init", &url(&database), "--password-file", "password"]);
    assert_eq!(code(&from_file), 0, "{}", text(&from_file.stderr));
    assert!(text(&from_file.stdout).contains("\npassword_file = \"password\"\n"));
}
