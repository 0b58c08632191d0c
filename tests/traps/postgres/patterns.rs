//! Patterns of tables: what matches is followed, what comes to match is picked up while it runs (T44).

use serde_json::json;

use crate::harness::comparer::become_equal;
use crate::harness::pair::{PATIENCE, Pair, Setup};
use crate::harness::poll_until;
use crate::harness::postgres_rows::PostgresRows;
use crate::harness::servers::Postgres;

fn tenant(name: &str, rows: u32) -> String {
    format!(
        "CREATE SCHEMA {name}; CREATE TABLE {name}.products (id bigint PRIMARY KEY, n bigint NOT NULL);
         INSERT INTO {name}.products SELECT id, 0 FROM generate_series(1, {rows}) id;"
    )
}

/// Follows `tenant_*.products`, with lines for its section.
async fn following(sql: &str, lines: &str) -> Pair {
    let mut pair = Pair::set(Postgres::shared().await, Setup { sql, ..Setup::default() }).await;
    let name = pair.pipeline().to_owned();
    pair.configure(&format!(
        "[pipelines.{name}.tables.\"tenant_*.products\"]\nindex = \"{name}-{{schema}}-{{table}}\"\n{lines}\n"
    ));
    pair.rowtide.run_again();
    pair
}

async fn becomes_equal(pair: &mut Pair, schema: &str) {
    let index = format!("{}-{}-products", pair.pipeline(), schema.to_lowercase());
    poll_until(&format!("the index of {schema}"), PATIENCE, async || {
        (pair.http.get(&format!("/{index}*")).await != json!({})).then_some(())
    })
    .await;
    let table = format!("\"{schema}\".products");
    let rows = async || PostgresRows::open(pair.database.client().await, &table).await;
    become_equal(&pair.http, &index, PATIENCE, rows).await;
    pair.rowtide.assert_runs();
}

#[tokio::test(flavor = "multi_thread")]
async fn t44_tables_that_come_to_match_a_pattern_are_picked_up() {
    let sql = &format!(
        "{} CREATE SCHEMA tenants; CREATE TABLE tenants.products (id bigint PRIMARY KEY);",
        tenant("tenant_a", 50)
    );
    let mut pair = following(sql, "on_drop = \"delete\"").await;
    pair.wait_until_following().await;
    becomes_equal(&mut pair, "tenant_a").await;
    // One comes with its rows, while a transaction that wrote to it is open.
    pair.sql(&tenant("tenant_b", 300)).await;
    let open = pair.database.client().await;
    open.batch_execute("BEGIN; UPDATE tenant_b.products SET n = 1 WHERE id = 1").await.unwrap();
    pair.rowtide.wait_for_line("to end, which wrote to tenant_b.products", PATIENCE).await;
    pair.sql("UPDATE tenant_a.products SET n = 2; UPDATE tenant_b.products SET n = 3 WHERE id = 5").await;
    becomes_equal(&mut pair, "tenant_a").await;
    open.batch_execute("UPDATE tenant_b.products SET n = 1 WHERE id = 2; COMMIT").await.unwrap();
    becomes_equal(&mut pair, "tenant_b").await;
    pair.caught_up().await;
    becomes_equal(&mut pair, "tenant_b").await;
    // One without a key is left out until it has one; one goes.
    pair.rowtide.allow("a table matches a pattern and cannot be read");
    pair.sql(
        "DROP SCHEMA tenant_a CASCADE;
         CREATE SCHEMA \"tenant_C\"; CREATE TABLE \"tenant_C\".products (id bigint NOT NULL, n bigint);
         INSERT INTO \"tenant_C\".products VALUES (1, 1)",
    )
    .await;
    pair.rowtide.wait_for_line("a table matches a pattern and cannot be read", PATIENCE).await;
    let gone = format!("{}-tenant_a-products", pair.pipeline());
    poll_until("the documents of the dropped table to go", PATIENCE, async || {
        (pair.http.count(&gone, json!({ "match_all": {} })).await == 0).then_some(())
    })
    .await;
    pair.sql("ALTER TABLE \"tenant_C\".products ADD PRIMARY KEY (id); INSERT INTO \"tenant_C\".products VALUES (2, 2)").await;
    becomes_equal(&mut pair, "tenant_C").await;
    becomes_equal(&mut pair, "tenant_b").await;
    // It comes again under its name, after a restart.
    pair.stop();
    pair.sql(&tenant("tenant_a", 20)).await;
    pair.rowtide.run_again();
    becomes_equal(&mut pair, "tenant_a").await;
    let others = pair.http.get(&format!("/{}-tenants-products*", pair.pipeline())).await;
    assert_eq!(others, json!({}), "what does not match is left alone");
    pair.stop();
}

/// A publication of all tables brings them by itself; two patterns for one table are a mistake.
#[tokio::test(flavor = "multi_thread")]
async fn t44_a_publication_of_all_tables_and_patterns_that_overlap() {
    let mut pair =
        Pair::set(Postgres::shared().await, Setup { sql: &tenant("tenant_a", 30), ..Setup::default() }).await;
    let name = pair.pipeline().to_owned();
    let slot = pair.slot().to_owned();
    pair.sql(&format!("CREATE PUBLICATION {slot} FOR ALL TABLES WITH (publish_via_partition_root = true)"))
        .await;
    let section = |pattern: &str, prefix: &str| {
        format!("[pipelines.{name}.tables.\"{pattern}\"]\nindex = \"{name}-{prefix}{{schema}}-{{table}}\"\n")
    };
    pair.configure(&section("tenant_*.*", ""));
    pair.configure(&section("*.special*", "s-"));
    pair.rowtide.run_again();
    becomes_equal(&mut pair, "tenant_a").await;
    pair.sql(&tenant("tenant_b", 30)).await;
    pair.sql("UPDATE tenant_b.products SET n = 4 WHERE id < 4").await;
    becomes_equal(&mut pair, "tenant_b").await;
    pair.sql("CREATE TABLE tenant_a.specials (id bigint PRIMARY KEY)").await;
    let line = pair.assert_halts("patterns-overlap");
    assert!(line.text.contains("tenant_a.specials"), "{}", line.text);
}

/// `check` judges the tables that match now; one that may be missing is no fault.
#[tokio::test(flavor = "multi_thread")]
async fn t44_check_judges_what_matches_now() {
    let sql = &format!(
        "{} CREATE SCHEMA tenant_b; CREATE TABLE tenant_b.products (id bigint);",
        tenant("tenant_a", 1)
    );
    let mut pair = Pair::set(Postgres::shared().await, Setup { sql, ..Setup::default() }).await;
    let name = pair.pipeline().to_owned();
    let section = |pattern: &str, index: &str, lines: &str| {
        format!("[pipelines.{name}.tables.\"{pattern}\"]\nindex = \"{name}-{index}\"\n{lines}\n")
    };
    let check = |pair: &Pair| {
        let output = pair.rowtide.call(&["check", "--config", "rowtide.toml"]);
        let said = [&output.stdout[..], &output.stderr[..]].concat();
        (output.status.code(), String::from_utf8(said).unwrap())
    };
    pair.configure(&section("tenant_*.products", "{schema}-{table}", ""));
    pair.configure(&section("public.later", "later", "on_drop = \"keep\""));
    let (code, said) = check(&pair);
    println!("{said}");
    assert_eq!(code, Some(4));
    assert!(said.contains("table tenant_b.products has no primary key"), "{said}");
    assert!(!said.contains("tenant_a.products"), "{said}");
    assert!(
        said.contains("advice: table public.later does not exist\n    fix: nothing, if it is yet to come"),
        "{said}"
    );

    pair.sql("ALTER TABLE tenant_b.products ADD PRIMARY KEY (id)").await;
    let (code, said) = check(&pair);
    assert_eq!(code, Some(0), "{said}");

    pair.configure(&section("*_a.*", "second-{schema}-{table}", ""));
    let (code, said) = check(&pair);
    assert_eq!(code, Some(4), "{said}");
    assert!(said.contains("tenant_a.products matches both \"tenant_*.products\" and \"*_a.*\""), "{said}");
    assert!(said.contains("make one of the patterns narrower"), "{said}");
}
