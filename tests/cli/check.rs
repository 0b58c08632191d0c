//! `rowtide check` on a server where everything is broken at once, and on what others left behind.

use rustix::process::Signal;
use tokio_postgres::Client;

use super::{code, text};
use crate::harness::fresh_name;
use crate::harness::rowtide::Rowtide;
use crate::harness::servers::{Database, Engine, Postgres, Search, client};

const ROLE: &str = "CREATE ROLE reader LOGIN PASSWORD 'reader'";

/// One of each fault that tables, publication, server and role can have at the same time.
const BROKEN: &str = "\
    CREATE SCHEMA closed; CREATE TABLE closed.a (id int PRIMARY KEY);
    CREATE UNLOGGED TABLE b (id int);
    CREATE TABLE c (id int PRIMARY KEY DEFERRABLE);
    CREATE TABLE d (id int PRIMARY KEY); ALTER TABLE d REPLICA IDENTITY NOTHING;
    CREATE TABLE e (id int, u int NOT NULL UNIQUE);
    CREATE TABLE f (id int PRIMARY KEY); ALTER TABLE f ENABLE ROW LEVEL SECURITY;
    CREATE TABLE g (id int PRIMARY KEY, x int, secret text);
    CREATE TABLE h (id int PRIMARY KEY, x int);
    CREATE TABLE p (id int PRIMARY KEY) PARTITION BY RANGE (id);
    CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (10);
    CREATE PUBLICATION broken FOR TABLE g (x), p WITH (publish = 'insert');
    GRANT SELECT ON c, d, e, f, g, h, p TO reader;
    ALTER SYSTEM SET wal_level = replica;
    ALTER SYSTEM SET max_wal_senders = 0;
    ALTER SYSTEM SET max_replication_slots = 1;
    SELECT pg_create_physical_replication_slot('taken');";

/// What check must say of it, in this order.
const SAID: &[&str] = &[
    "wal_level is replica, where the log must hold rows",
    "no walsender is left: 0 of 0 (max_wal_senders) are in use",
    "role reader may not replicate",
    "the role may not use the schema of closed.a",
    "the role may not read closed.a",
    "table public.b is unlogged: its changes are in no log",
    "the role may not read public.b",
    "table public.b has no primary key",
    "the key c_pkey of table public.c is deferrable",
    "table public.d has REPLICA IDENTITY NOTHING",
    "table public.e has no primary key",
    "row-level security hides rows of public.f",
    "the publication leaves a column of the key g_pkey of table public.g out",
    "publication broken leaves update, delete, truncate out",
    "table public.p is partitioned, and the publication names its partitions",
    "publication broken lacks closed.a, public.b, public.c, public.d, public.e, public.f, public.h",
    "no replication slot is left: 1 of 1 (max_replication_slots) are in use",
    "public.h: id names \"x\", which is no column of its key",
    "public.h: id leaves out \"id\" of its key",
    "advice: max_slot_wal_keep_size is unlimited",
];

fn configuration(database: &Database, search: &Search, role: &str, extra: &str) -> String {
    let name = fresh_name("checked");
    let tables = [
        "closed.a", "public.b", "public.c", "public.d", "public.e", "public.f", "public.g", "public.h",
        "public.p",
    ];
    let tables = tables.map(|table| {
        let id = if table == "public.h" { "id = [\"x\"]\n" } else { "" };
        format!("[pipelines.{name}.tables.\"{table}\"]\nindex = \"{name}_{}\"\n{id}", table.replace('.', "_"))
    });
    format!(
        "[sources.shop]\ntype = \"postgres\"\nurl = \"postgres://{role}@127.0.0.1:{}/{}\"\npassword = \"{role}\"\n{extra}\n\
         [targets.search]\ntype = \"elasticsearch\"\nnodes = [\"http://127.0.0.1:{}\"]\n\n\
         [pipelines.{name}]\nsource = \"shop\"\ntarget = \"search\"\n{}",
        database.port,
        database.name,
        search.port(),
        tables.join("")
    )
}

/// Each line of a fix that is a statement, without its comment; and those that are words.
fn fixes(said: &str) -> (Vec<String>, Vec<String>) {
    let lines =
        said.lines().filter_map(|line| line.strip_prefix("    fix: ").or(line.strip_prefix("         ")));
    let mut sql = Vec::new();
    let mut words = Vec::new();
    for line in lines {
        let statement = line.split(" -- ").next().unwrap();
        match statement.trim_end().ends_with(';') {
            true => sql.push(statement.to_owned()),
            false => words.push(line.to_owned()),
        }
    }
    (sql, words)
}

async fn apply(client: &Client, statements: &[String]) {
    for sql in statements {
        println!("{sql}");
        client.batch_execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    }
}

fn check(rowtide: &Rowtide) -> (i32, String) {
    let output = rowtide.call(&["check", "--config", "rowtide.toml"]);
    let said = text(&output.stdout) + &text(&output.stderr);
    println!("{said}");
    (code(&output), said)
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_that_is_broken_is_said_at_once_and_its_sql_mends_it() {
    let search = Search::shared(Engine::Elasticsearch8).await;
    let postgres = Postgres::start_unset("18").await;
    let database = postgres.fresh_database().await;
    let admin = database.client().await;
    for sql in ROLE.split("; ").chain(BROKEN.split(";\n").flat_map(|line| line.split("; "))) {
        admin.batch_execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    }
    drop(admin);
    postgres.stop(Signal::INT);
    postgres.start_again().await;

    let config = configuration(&database, search, "reader", "publication = \"broken\"\nslot = \"ours\"\n");
    let rowtide = Rowtide::new(&config);
    let (ended, said) = check(&rowtide);
    assert_eq!(ended, 4);
    let mut rest = said.as_str();
    for part in SAID {
        let found = rest.find(part).unwrap_or_else(|| panic!("{part:?} is not in its place in:\n{said}"));
        rest = &rest[found + part.len()..];
    }
    let missing = SAID.iter().filter(|part| !part.starts_with("advice")).count();
    assert!(said.ends_with(&format!("{missing} things are missing\n")), "nothing else is missing:\n{said}");

    let (sql, words) = fixes(&said);
    assert!(words.iter().all(|line| line.starts_with("write id = [\"id\"]")), "{words:?}");
    let admin = client(database.port, &database.name).await;
    apply(&admin, &sql).await;
    drop(admin);
    postgres.stop(Signal::INT);
    postgres.start_again().await;
    std::fs::write(
        rowtide.folder.join("rowtide.toml"),
        format!("data_dir = \"data\"\n{}", config.replace("id = [\"x\"]", "id = [\"id\"]")),
    )
    .unwrap();
    assert_eq!(check(&rowtide), (0, "everything is there\n".to_owned()));
    // What was published of g before is still all that is published, with the key.
    let admin = client(database.port, &database.name).await;
    let sql = "SELECT attnames::text FROM pg_publication_tables WHERE pubname = 'broken' AND tablename = 'g'";
    let row = admin.query_one(sql, &[]).await.unwrap();
    assert_eq!(row.get::<_, String>(0), "{id,x}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_for_two_phases_is_refused_and_forgotten_slots_are_only_advice() {
    let search = Search::shared(Engine::Elasticsearch8).await;
    let database = Postgres::shared().await.fresh_database().await;
    let admin = database.client().await;
    let forgotten = format!("rowtide_{}_old", database.name);
    admin
        .batch_execute(&format!(
            "CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE leaf_of (id int PRIMARY KEY) PARTITION BY RANGE (id);
             CREATE TABLE leaf PARTITION OF leaf_of FOR VALUES FROM (0) TO (9);
             CREATE PUBLICATION {forgotten} FOR TABLE t;
             CREATE PUBLICATION {} FOR TABLE t, leaf_of WITH (publish_via_partition_root = true);",
            database.name
        ))
        .await
        .unwrap();
    for (slot, two_phase) in [(&database.name, true), (&forgotten, false)] {
        let sql =
            format!("SELECT pg_create_logical_replication_slot('{slot}', 'pgoutput', false, {two_phase})");
        admin.batch_execute(&sql).await.unwrap();
    }
    let name = fresh_name("checked");
    let config = format!(
        "{}\n[targets.search]\ntype = \"elasticsearch\"\nnodes = [\"http://127.0.0.1:{}\"]\n\n\
         [pipelines.{name}]\nsource = \"shop\"\ntarget = \"search\"\n\
         [pipelines.{name}.tables.\"public.t\"]\nindex = \"{name}_t\"\n",
        database.source_section(),
        search.port()
    );
    let leaf = format!("[pipelines.{name}.tables.\"public.leaf\"]\nindex = \"{name}_leaf\"\n");
    let rowtide = Rowtide::new(&format!("{config}{leaf}"));
    let (ended, said) = check(&rowtide);
    assert_eq!(ended, 4);
    for part in [
        format!("slot {} cannot be used: it has two_phase", database.name),
        "table public.leaf is a partition of public.leaf_of, under whose name its changes come".to_owned(),
        format!("advice: slot {forgotten} of the database {} is read by nobody and keeps ", database.name),
        format!("advice: publication {forgotten} is used by no slot that is read now"),
    ] {
        assert!(said.contains(&part), "{part:?} is not in:\n{said}");
    }
    std::fs::write(rowtide.folder.join("rowtide.toml"), format!("data_dir = \"data\"\n{config}")).unwrap();
    admin.batch_execute(&format!("SELECT pg_drop_replication_slot('{}')", database.name)).await.unwrap();
    let (ended, said) = check(&rowtide);
    assert_eq!(ended, 0, "advice is nothing missing");
    assert!(said.contains(&format!("advice: slot {forgotten}")), "{said}");
    let (sql, _) = fixes(&said);
    let sql: Vec<String> = sql.into_iter().filter(|sql| sql.contains(&forgotten)).collect();
    assert_eq!(sql.len(), 2);
    apply(&admin, &sql).await;
    let (ended, said) = check(&rowtide);
    assert!(ended == 0 && !said.contains(&forgotten), "{said}");
}
