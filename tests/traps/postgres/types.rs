//! Every type with its extreme values, through both ways in and into both targets.

use std::collections::BTreeMap;

use reqwest::Method;
use serde::Deserialize;
use serde_json::json;
use serde_json::value::RawValue;

use super::extremes::{EXTREMES, OWN};
use crate::harness::http::Http;
use crate::harness::pair::{Pair, Setup};
use crate::harness::servers::{Engine, Postgres, Search};

/// A page of PostgreSQL holds no row with all the values at once.
const TURNS: usize = 8;

/// What the log writes again has this much added to its id.
pub(super) const AGAIN: u64 = 1000;

#[derive(Deserialize)]
struct Answer {
    hits: Hits,
}

#[derive(Deserialize)]
struct Hits {
    hits: Vec<Hit>,
}

#[derive(Deserialize)]
struct Hit {
    #[serde(rename = "_source")]
    source: Box<RawValue>,
}

/// Documents whose first field is `id`, by it: everything after it, byte by byte as it was sent.
pub(super) async fn sources(http: &Http, index: &str) -> BTreeMap<u64, String> {
    let query = json!({ "size": 500, "query": { "match_all": {} } }).to_string();
    http.text(Method::POST, &format!("/{index}/_refresh"), None).await;
    let answer = http.text(Method::POST, &format!("/{index}/_search"), Some(query)).await;
    let answer: Answer = serde_json::from_str(&answer).expect("hits");
    let split = |hit: Hit| {
        let rest = hit.source.get().strip_prefix("{\"id\":").expect("a document begins with its id");
        let end = rest.find([',', '}']).unwrap();
        (rest[..end].parse().unwrap(), rest[end..].to_owned())
    };
    answer.hits.hits.into_iter().map(split).collect()
}

/// A type in SQL by its plain name.
pub(super) fn spelled(name: &str) -> String {
    match name {
        "cardinal_number" | "character_data" | "sql_identifier" | "time_stamp" | "yes_or_no" => {
            format!("information_schema.{name}")
        }
        _ => format!("\"{name}\""),
    }
}

/// Each type that takes values and that PostgreSQL 18 has.
pub(super) fn types() -> impl Iterator<Item = &'static (&'static str, &'static [&'static str])> {
    EXTREMES.iter().filter(|(name, values)| !values.is_empty() && *name != "regdatabase")
}

/// Name, type and values of each column: of each type and of its arrays.
fn columns() -> Vec<(String, String, Vec<String>)> {
    let mut columns = Vec::new();
    for (name, values) in types() {
        let sql = spelled(name);
        let cast: Vec<String> = values.iter().map(|value| format!("({value})::{sql}")).collect();
        let list = cast.join(",");
        let arrays =
            ["'{}'".to_owned(), format!("ARRAY[{list},NULL]"), format!("ARRAY[ARRAY[{list}],ARRAY[{list}]]")];
        let arrays = arrays.map(|array| format!("({array})::{sql}[]"));
        columns.push((format!("c_{name}"), sql.clone(), cast));
        // The one type without arrays.
        if *name != "pg_node_tree" {
            columns.push((format!("a_{name}"), format!("{sql}[]"), arrays.into()));
        }
    }
    columns
}

fn wide_table() -> (String, u64) {
    let columns = columns();
    let list: Vec<String> = columns.iter().map(|(name, sql, _)| format!("\"{name}\" {sql}")).collect();
    let mut sql = format!(
        "{OWN} CREATE TABLE wide (id bigint PRIMARY KEY, {}, made int GENERATED ALWAYS AS (7 * 6) STORED,
           made_range int4range GENERATED ALWAYS AS (int4range(1, 5)) STORED, virtual int GENERATED ALWAYS AS (1) VIRTUAL);
         DO $$ BEGIN EXECUTE format('CREATE PUBLICATION %I FOR TABLE wide WITH (publish_via_partition_root = true,
           publish_generated_columns = stored)', current_database()); END $$;",
        list.join(", ")
    );
    let most = columns.iter().map(|(.., values)| values.len()).max().unwrap();
    let rows = (most + 1) * TURNS;
    for row in 0..rows {
        let value = |(number, (_, _, values)): (usize, &(String, String, Vec<String>))| {
            let mine = number % TURNS == row % TURNS;
            values.get(row / TURNS).filter(|_| mine).cloned().unwrap_or_else(|| "NULL".to_owned())
        };
        let list: Vec<String> = columns.iter().enumerate().map(value).collect();
        sql += &format!("INSERT INTO wide VALUES ({row}, {});", list.join(", "));
    }
    (sql, rows as u64)
}

async fn both_ways(engine: Engine) {
    let (sql, rows) = wide_table();
    let setup = Setup { sql: &sql, tables: &["wide"], ..Setup::default() };
    let mut pair = Pair::set_on(Postgres::shared().await, Search::shared(engine).await, setup).await;
    pair.rowtide.run_again();
    pair.wait_until_following().await;
    pair.wait_for_documents("wide", rows).await;
    let names: Vec<String> = columns().into_iter().map(|(name, ..)| format!("\"{name}\"")).collect();
    let names = names.join(", ");
    pair.sql(&format!("INSERT INTO wide (id, {names}) SELECT id + {AGAIN}, {names} FROM wide")).await;
    pair.caught_up().await;

    let documents = sources(&pair.http, &pair.index("wide")).await;
    assert_eq!(documents.len() as u64, 2 * rows);
    for (id, read) in documents.range(..AGAIN) {
        assert_eq!(read, &documents[&(id + AGAIN)], "row {id} by SELECT and by the log");
        assert!(read.contains("\"made\":42,\"made_range\":{\"gte\":1,\"lt\":5}"), "{read}");
        assert!(!read.contains("virtual"));
    }
    // What the mapping took is found.
    let index = pair.index("wide");
    // Twice each: as it was read, and as the log had it.
    for (expected, query) in [
        (2, json!({ "term": { "c_pair.n": -2147483648_i64 } })),
        (2, json!({ "term": { "c_nest.p.n": 1 } })),
        // Without bounds, with the widest ones, and (,-2147483648): no number is in it, but the index
        // counts down from the least number and comes out at the largest.
        (6, json!({ "range": { "c_int4range": { "gte": 7, "lte": 8, "relation": "contains" } } })),
        (2, json!({ "range": { "c_int8multirange": { "gte": 7, "lte": 8, "relation": "contains" } } })),
        (2, json!({ "range": { "c_tstzrange.gt": { "gte": "2026-01-01", "lt": "2026-01-02" } } })),
    ] {
        assert_eq!(pair.http.count(&index, query.clone()).await, expected, "{query}");
    }
    let (code, log) = pair.rowtide.stop();
    assert_eq!(code, 0);
    let counts = crate::harness::rowtide::Rowtide::final_counts(&log);
    assert_eq!(counts.ends["dead_lettered"], 0, "{counts:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn t11_a_wide_row_is_one_document_however_it_was_read() {
    both_ways(Engine::Elasticsearch8).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn t11_a_wide_row_is_one_document_in_opensearch_too() {
    both_ways(Engine::OpenSearch2).await;
}

/// The type changes while Rowtide runs, and no event says so: it reads the type again.
#[tokio::test(flavor = "multi_thread")]
async fn t09_an_attribute_that_is_added_to_a_composite_is_read_without_a_person() {
    let sql = "CREATE TYPE pair AS (n int, t text); CREATE TABLE t (id bigint PRIMARY KEY, p pair);
        INSERT INTO t VALUES (1, ROW(1, 'a'));";
    let mut pair = Pair::filled(Setup { sql, tables: &["t"], ..Setup::default() }).await;
    pair.rowtide.allow("one was added since");
    pair.sql("ALTER TYPE pair ADD ATTRIBUTE u bool").await;
    pair.sql("INSERT INTO t VALUES (2, ROW(2, 'b', true))").await;
    pair.wait_for_value("t", "2", "p", json!({ "n": 2, "t": "b", "u": true })).await;
    pair.caught_up().await;
    assert_eq!(pair.document("t", "1").await.unwrap().0["p"], json!({ "n": 1, "t": "a" }));
    pair.stop();
}

/// Two keys stay two documents, and names that an index refuses as fields are kept and not searched.
#[tokio::test(flavor = "multi_thread")]
async fn t35_odd_attributes_and_keys_poison_no_document() {
    let sql = "CREATE TYPE odd AS (\".\" int, \"a.b\" text, \" \" bool);
        CREATE TABLE t (k int[] PRIMARY KEY, o odd, os odd[]);
        CREATE TABLE r (k int4range PRIMARY KEY, p numeric);
        INSERT INTO t VALUES ('{1,2}', ROW(1, 'x', true), ARRAY[ROW(2, NULL, NULL)::odd, NULL]), ('[0:1]={1,2}', NULL, NULL);
        INSERT INTO r VALUES ('empty', 0), ('(,-2147483648)', 1), ('[1,5)', 2);";
    let mut pair = Pair::filled(Setup { sql, tables: &["t", "r"], ..Setup::default() }).await;
    pair.sql("INSERT INTO t SELECT k || 9, o, os FROM t; DELETE FROM r WHERE p = 0; UPDATE r SET k = '[1,6)' WHERE p = 2").await;
    pair.caught_up().await;
    assert_eq!((pair.documents("t").await, pair.documents("r").await), (4, 2));
    let odd = json!({ ".": 1, "a.b": "x", " ": true });
    for (id, expected) in [("{1,2}", odd.clone()), ("[0:1]={1,2}", json!(null)), ("{1,2,9}", odd)] {
        let (document, _) = pair.document("t", id).await.unwrap_or_else(|| panic!("no {id}"));
        assert_eq!((&document["k"], &document["o"]), (&json!(id), &expected));
    }
    let (document, _) = pair.document("r", r#"{"gte":1,"lt":6}"#).await.unwrap();
    assert_eq!(document["k"], json!({ "gte": 1, "lt": 6 }));
    pair.stop();
}
