//! A schema as wide as PostgreSQL's own regression database: many tables of every make and odd names.

use super::extremes::OWN;
use super::types::{AGAIN, sources, spelled, types};
use crate::harness::pair::PATIENCE;
use crate::harness::rowtide::Rowtide;
use crate::harness::servers::{Engine, Postgres, Search};
use crate::harness::{fresh_name, poll_until};

/// More than the regression database has with a key.
const TABLES: usize = 156;
/// Columns beside the key, each of another type.
const COLUMNS: usize = 12;
/// Rows that are there before Rowtide is.
const ROWS: usize = 3;

/// Names that people do not give, and databases have.
const NAMES: [&str; 8] = [
    "two words",
    "Upper Case",
    "a \"quoted\" one",
    "dots.in.it",
    "select",
    "größe 大きさ 😀",
    "'; DROP TABLE x; --",
    "a_name_that_is_exactly_as_long_as_postgresql_takes_it_63_bytes_",
];

struct Made {
    /// Quoted, with its schema.
    sql_name: String,
    /// Its columns that can be written, quoted; the first is `id`.
    columns: Vec<String>,
    ddl: String,
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Table number `number`; what it is made like follows from the number alone.
fn table(number: usize) -> Made {
    let name = match number % 4 {
        0 => {
            let odd = NAMES[number / 4 % NAMES.len()];
            if odd.len() == 63 { format!("{}{number:03}", &odd[..60]) } else { format!("{odd}{number}") }
        }
        _ => format!("t{number}"),
    };
    let schema = if number % 7 == 3 { "Odd schema." } else { "public" };
    let sql_name = format!("{}.{}", quoted(schema), quoted(&name));
    let types: Vec<_> = types().collect();
    let mut columns = vec!["id".to_owned()];
    let mut list = vec!["id bigint NOT NULL".to_owned()];
    let mut values: Vec<Vec<String>> = (0..ROWS).map(|row| vec![row.to_string()]).collect();
    let is_bare = number % 13 == 5;
    let wanted = if is_bare { 0 } else { COLUMNS };
    for place in 0..wanted {
        let (kind, extremes) = types[(number * COLUMNS + place) % types.len()];
        // A dot would make an object of a field, which Rowtide refuses by name.
        let column = quoted(&format!("{} {kind}", NAMES[(number + place) % 3]));
        let column = if place % 2 == 0 { format!("c{place}") } else { column };
        list.push(format!("{column} {}", spelled(kind)));
        columns.push(column);
        for (row, values) in values.iter_mut().enumerate() {
            let value = extremes.get(row).unwrap_or(&"NULL");
            values.push(format!("({value})::{}", spelled(kind)));
        }
    }
    let key = match number % 11 {
        4 => {
            list.push("span int4range NOT NULL, tag text NOT NULL".to_owned());
            columns.extend(["span".to_owned(), "tag".to_owned()]);
            values
                .iter_mut()
                .for_each(|values| values.extend(["'[1,5)'".to_owned(), "E'a\"\\\\ '".to_owned()]));
            "PRIMARY KEY (tag, id, span)"
        }
        _ => "PRIMARY KEY (id)",
    };
    if number % 5 == 2 && !is_bare {
        list.push("made bigint GENERATED ALWAYS AS (id % 1000) STORED".to_owned());
    }
    list.push(key.to_owned());
    let body = list.join(", ");
    let mut ddl = match number % 10 {
        6 => format!(
            "CREATE TABLE {sql_name} ({body}) PARTITION BY HASH (id);
             CREATE TABLE part_{number}_a PARTITION OF {sql_name} FOR VALUES WITH (MODULUS 2, REMAINDER 0);
             CREATE TABLE part_{number}_b PARTITION OF {sql_name} FOR VALUES WITH (MODULUS 2, REMAINDER 1);"
        ),
        // The child is followed, the parent has rows of its own that are not the child's.
        8 => format!(
            "CREATE TABLE parent_{number} (id bigint); INSERT INTO parent_{number} VALUES (99);
             CREATE TABLE {sql_name} ({body}) INHERITS (parent_{number});"
        ),
        _ => format!(
            "CREATE TABLE {sql_name} (dropped int, {body}); ALTER TABLE {sql_name} DROP COLUMN dropped;"
        ),
    };
    for values in &values {
        ddl += &format!("INSERT INTO {sql_name} ({}) VALUES ({});", columns.join(", "), values.join(", "));
    }
    // A server refuses changes of a whole image that has a generated column which is not published.
    if number % 6 == 1 && number % 5 != 2 {
        ddl += &format!("ALTER TABLE {sql_name} REPLICA IDENTITY FULL;");
    }
    Made { sql_name, columns, ddl }
}

#[tokio::test(flavor = "multi_thread")]
async fn t11_a_schema_as_wide_as_the_regression_database_goes_through() {
    let search = Search::shared(Engine::Elasticsearch8).await;
    let database = Postgres::shared().await.fresh_database().await;
    let client = database.client().await;
    client.batch_execute(&format!("CREATE SCHEMA \"Odd schema.\"; {OWN}")).await.unwrap();
    let tables: Vec<Made> = (0..TABLES).map(table).collect();
    let name = fresh_name("wide");
    let mut config = format!(
        "{}\n[targets.search]\ntype = \"elasticsearch\"\nnodes = [\"http://127.0.0.1:{}\"]\n\
         [pipelines.{name}]\nsource = \"shop\"\ntarget = \"search\"\n",
        database.source_section(),
        search.port()
    );
    for (number, table) in tables.iter().enumerate() {
        client.batch_execute(&table.ddl).await.unwrap_or_else(|error| panic!("{}: {error:?}", table.ddl));
        let key = serde_json::to_string(&table.sql_name).unwrap();
        config += &format!("[pipelines.{name}.tables.{key}]\nindex = \"{name}_{number}\"\n");
    }
    let mut rowtide = Rowtide::start(&config);
    rowtide.wait_for_line("\"state\":\"following\"", 3 * PATIENCE).await;
    for Made { sql_name, columns, .. } in &tables {
        let rest: Vec<String> = columns[1..].iter().map(|column| format!(", {column}")).collect();
        let (all, rest) = (columns.join(", "), rest.concat());
        let again = format!(
            "INSERT INTO {sql_name} ({all}) SELECT id + {AGAIN}{rest} FROM ONLY {sql_name};
             UPDATE {sql_name} SET id = id + {AGAIN} * 2 WHERE id = {AGAIN} + 1; DELETE FROM {sql_name} WHERE id = {AGAIN} + 2"
        );
        // What a partitioned table holds is in its partitions.
        let again = again
            .replace("FROM ONLY", if is_partitioned(sql_name, &client).await { "FROM" } else { "FROM ONLY" });
        client.batch_execute(&again).await.unwrap_or_else(|error| panic!("{again}: {error:?}"));
    }
    let caught_up = format!(
        "SELECT confirmed_flush_lsn >= '{}' FROM pg_replication_slots WHERE slot_name = '{}'",
        client.query_one("SELECT pg_current_wal_insert_lsn()::text", &[]).await.unwrap().get::<_, String>(0),
        database.name
    );
    poll_until("the acknowledgement of all that was written", PATIENCE, async || {
        client.query_one(&caught_up, &[]).await.unwrap().get::<_, bool>(0).then_some(())
    })
    .await;
    for (number, table) in tables.iter().enumerate() {
        let documents = sources(&search.http, &format!("{name}_{number}")).await;
        let ids: Vec<u64> = documents.keys().copied().collect();
        assert_eq!(ids, [0, 1, 2, AGAIN, 3 * AGAIN + 1], "{}", table.sql_name);
        for (id, document) in documents.range(AGAIN..) {
            assert_eq!(document, &documents[&(id % AGAIN)], "{}: row {id}", table.sql_name);
        }
    }
    let (code, log) = rowtide.stop();
    assert_eq!(code, 0);
    let counts = Rowtide::final_counts(&log);
    assert_eq!(counts.ends["dead_lettered"], 0, "{counts:?}");
    // The server is shared, and so many shards are a good part of what it may have.
    for number in 0..TABLES {
        search.http.text(reqwest::Method::DELETE, &format!("/{name}_{number}-rowtide-1"), None).await;
    }
}

async fn is_partitioned(sql_name: &str, client: &tokio_postgres::Client) -> bool {
    let kind = "SELECT relkind = 'p' FROM pg_class WHERE oid = $1::text::regclass";
    client.query_one(kind, &[&sql_name]).await.unwrap().get(0)
}
