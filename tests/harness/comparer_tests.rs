//! The comparer on a real PostgreSQL and a real Elasticsearch: each kind of difference is planted and found.

use reqwest::Method;

use super::comparer::{Report, compare};
use super::fresh_name;
use super::postgres_rows::PostgresRows;
use super::rows::{Rows, canonical};
use super::servers::{Database, Engine, Postgres, Search};

const TABLE: &str = "CREATE TABLE t (id bigint PRIMARY KEY, name text, price numeric, at timestamptz,
        day date, doc jsonb, flag bool, ratio float8, numbers int[], words text[], raw bytea);
    INSERT INTO t VALUES
        (1, E'quote \" back \\\\ line\\n', 1, '2026-01-02 03:04:05.123456+01', '2026-02-03', '{\"b\": 1.0, \"a\": null}',
            true, 0.1, '{1,NULL,3}', NULL, '\\x00ff10'),
        (2, '', 1.0, 'infinity', NULL, '[1, \"1\", 1.0]', false, 'NaN', '{}', '{\"a,b\",\"c\\\"d\",NULL,\"NULL\"}', ''),
        (3, NULL, 12345678901234567890.00100, '2026-01-02', '2026-02-03', NULL, NULL, 1e300, NULL, '{x}', NULL)";

/// The documents that the table's rows should be, by hand.
const DOCUMENTS: [&str; 3] = [
    r#"{"id":1,"name":"quote \" back \\ line\n","price":1,"at":"2026-01-02T02:04:05.123456Z","day":"2026-02-03","doc":{"a":null,"b":1.0},"flag":true,"ratio":0.1,"numbers":[1,null,3],"words":null,"raw":"AP8Q"}"#,
    r#"{"id":2,"name":"","price":1.0,"at":"infinity","day":null,"doc":[1,"1",1.0],"flag":false,"ratio":"NaN","numbers":[],"words":["a,b","c\"d",null,"NULL"],"raw":""}"#,
    r#"{"id":3,"name":null,"price":12345678901234567890.00100,"at":"2026-01-02T00:00:00Z","day":"2026-02-03","doc":null,"flag":null,"ratio":1e+300,"numbers":null,"words":["x"],"raw":null}"#,
];

struct Sides {
    search: &'static Search,
    index: String,
    database: Database,
}

impl Sides {
    async fn equal() -> Self {
        let database = Postgres::shared().await.fresh_database().await;
        database.client().await.batch_execute(TABLE).await.unwrap();
        let search = Search::shared(Engine::Elasticsearch8).await;
        let sides = Self { search, index: fresh_name("compared"), database };
        // No mapping: values are kept as they come, whatever their types.
        let settings = r#"{"mappings":{"enabled":false}}"#.to_owned();
        search.http.text(Method::PUT, &format!("/{}", sides.index), Some(settings)).await;
        for (number, document) in DOCUMENTS.iter().enumerate() {
            sides.put(&(number + 1).to_string(), document).await;
        }
        sides
    }

    async fn put(&self, id: &str, document: &str) {
        let path = format!("/{}/_doc/{id}", self.index);
        self.search.http.text(Method::PUT, &path, Some(document.into())).await;
    }

    async fn compare(&self) -> Report {
        let rows = PostgresRows::open(self.database.client().await, "public.t").await;
        compare(&self.search.http, &self.index, rows).await
    }

    /// Compares with one place of document 2 or another changed.
    async fn changed(number: usize, from: &str, to: &str) -> Report {
        let sides = Self::equal().await;
        let changed = DOCUMENTS[number - 1].replacen(from, to, 1);
        assert_ne!(changed, DOCUMENTS[number - 1], "{from} is not there");
        sides.put(&number.to_string(), &changed).await;
        sides.compare().await
    }
}

fn assert_one_different(report: &Report) {
    assert_eq!((report.missing, report.extra, report.different), (0, 0, 1), "{report}");
}

#[tokio::test(flavor = "multi_thread")]
async fn equal_sides_are_equal() {
    let report = Sides::equal().await.compare().await;
    assert_eq!((report.rows, report.documents), (3, 3));
    report.assert_equal();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_document_is_reported() {
    let sides = Sides::equal().await;
    sides.search.http.text(Method::DELETE, &format!("/{}/_doc/2", sides.index), None).await;
    let report = sides.compare().await;
    assert_eq!((report.missing, report.extra, report.different), (1, 0, 0), "{report}");
    assert!(report.to_string().contains("missing 2"), "{report}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_extra_document_is_reported() {
    let sides = Sides::equal().await;
    sides.put("9", DOCUMENTS[0]).await;
    let report = sides.compare().await;
    assert_eq!((report.missing, report.extra, report.different), (0, 1, 0), "{report}");
    assert!(report.to_string().contains("extra 9"), "{report}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_last_byte_is_reported() {
    assert_one_different(&Sides::changed(1, "line\\n", "line\\r").await);
    assert_one_different(&Sides::changed(3, "7890.00100", "7890.00101").await);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_and_its_text_and_its_float_are_three_values() {
    assert_one_different(&Sides::changed(1, r#""price":1,"#, r#""price":"1","#).await);
    assert_one_different(&Sides::changed(1, r#""price":1,"#, r#""price":1.0,"#).await);
    assert_one_different(&Sides::changed(2, r#""price":1.0,"#, r#""price":1,"#).await);
    assert_one_different(&Sides::changed(2, r#"[1,"1",1.0]"#, r#"[1,"1",1]"#).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn null_and_absent_are_two_values() {
    assert_one_different(&Sides::changed(3, r#""name":null,"#, "").await);
    assert_one_different(&Sides::changed(3, r#""name":null,"#, r#""name":"","#).await);
    assert_one_different(&Sides::changed(1, r#"{"a":null,"b":1.0}"#, r#"{"b":1.0}"#).await);
    assert_one_different(&Sides::changed(1, r#""id":1,"#, r#""id":1,"more":null,"#).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn more_documents_than_a_page_are_compared() {
    struct Numbers(std::ops::Range<u32>);
    impl Rows for Numbers {
        async fn next(&mut self) -> Vec<(String, String)> {
            self.0.by_ref().take(700).map(|n| (n.to_string(), format!("{{\"n\":{n}}}"))).collect()
        }
    }
    let search = Search::shared(Engine::OpenSearch2).await;
    let index = fresh_name("compared");
    let bulk: String =
        (1..2500).map(|n| format!("{{\"index\":{{\"_id\":\"{n}\"}}}}\n{{\"n\":{n}}}\n")).collect();
    search.http.text(Method::POST, &format!("/{index}/_bulk"), Some(bulk)).await;
    compare(&search.http, &index, Numbers(1..2500)).await.assert_equal();
    let report = compare(&search.http, &index, Numbers(0..2499)).await;
    assert_eq!((report.missing, report.extra, report.different), (1, 1, 0), "{report}");
}

#[test]
fn the_canonical_text_keeps_numbers_and_forgets_order_and_escapes() {
    assert_eq!(canonical(r#" { "b" : [ 1 , 1.0, -0 ], "a" : "\u00e9\/" } "#), r#"{"a":"é/","b":[1,1.0,-0]}"#);
    assert_ne!(canonical(r#"{"a":{}}"#), canonical(r#"{"a":[]}"#));
}
