//! Columns on their way into fields: left out, renamed, nested, constant, flattened, put together, parsed, trimmed,
//! in lower case, cast.

use serde_json::json;

use super::assert_documents;
use crate::harness::pair::{Pair, Setup};

const TABLE: &str = "CREATE TYPE dims AS (width integer, unit text);
    CREATE TABLE t (id bigint PRIMARY KEY, brand text, name text, email text, city text, zip text, price text,
        active text, code integer, attributes jsonb, size dims, payload text, secret text);
    INSERT INTO t SELECT n, 'Brand ' || n % 7, 'Name \"' || n || '\"', '  User' || n || '@Example.ORG ', 'City ' || n % 5,
        lpad(n::text, 5, '0'), '+' || n || '.50', CASE WHEN n % 2 = 0 THEN 'yes' ELSE 'F' END, n,
        jsonb_build_object('color', 'c' || n % 3, 'deep', jsonb_build_object('list', jsonb_build_array(n, null))),
        ROW(n, E'line\\n' || n)::dims, '{\"n\": ' || n || E',\\n\"t\": \"a\\\\nb\"}', 'secret'
        FROM generate_series(1, 500) n;
    INSERT INTO t (id) VALUES (501);
    INSERT INTO t (id, attributes, size) VALUES (502, '{\"deep\": {}}', ROW(NULL, NULL)::dims), (503, 'null', NULL);";

const SHAPE: &str = r#"exclude = ["secret", "brand", "attributes", "size"]
rename = { city = "address.city", zip = "address.post.code" }
constants = { kind = "product", "meta.form" = 2, "meta.tags" = ["a", "b"] }
flatten = { color = "attributes.color", list = "attributes.deep.list", "size.width" = "size.width" }
template = { label = "{brand}: {name} {{{id}}}", "size.text" = "{size}" }
parse_json = ["payload"]
trim = ["email"]
lower = ["email", "label"]
cast = { price = "number", active = "boolean", code = "string" }
"#;

/// Rows whose price is no number or whose payload is no JSON cannot be documents.
const DOCUMENTS: &str = "SELECT id::text, jsonb_build_object(
        'id', id, 'name', name, 'email', lower(btrim(email)),
        'address', jsonb_build_object('city', city, 'post', jsonb_build_object('code', zip)),
        'price', price::numeric, 'active', active::boolean, 'code', code::text, 'payload', payload::jsonb,
        'kind', 'product', 'meta', '{\"form\": 2, \"tags\": [\"a\", \"b\"]}'::jsonb,
        'color', attributes -> 'color', 'list', attributes -> 'deep' -> 'list',
        'size', jsonb_build_object('width', (size).width, 'text', CASE WHEN size IS NOT DISTINCT FROM NULL THEN '' ELSE
            '{\"width\":' || coalesce((size).width::text, 'null') || ',\"unit\":' ||
            coalesce(to_json((size).unit)::text, 'null') || '}' END),
        'label', lower(concat(brand, ': ', name, ' {', id, '}')))
    FROM t WHERE (price IS NULL OR pg_input_is_valid(price, 'numeric'))
        AND (payload IS NULL OR pg_input_is_valid(payload, 'jsonb')) ORDER BY 1";

fn setup() -> Setup<'static> {
    Setup { sql: TABLE, tables: &["t"], table: SHAPE, ..Setup::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn documents_are_what_sql_makes_of_their_rows() {
    let mut pair = Pair::filled(setup()).await;
    pair.caught_up().await;
    assert_documents(&pair, "t", DOCUMENTS, 503).await;
    let count = async |query| pair.http.count(&pair.index("t"), query).await;
    assert_eq!(count(json!({ "term": { "address.city.keyword": "City 3" } })).await, 100, "it is searched");
    assert_eq!(count(json!({ "range": { "price": { "gte": 400 } } })).await, 101, "as a number");
    assert_eq!(count(json!({ "term": { "meta.tags": "a" } })).await, 0, "of any form: kept, not searched");
    pair.sql(
        "UPDATE t SET city = NULL, price = '-0' || id || 'e-1', email = upper(email) WHERE id % 3 = 0;
         UPDATE t SET id = id + 1000, attributes = '[]'::jsonb - 'x' WHERE id = 501;
         UPDATE t SET attributes = NULL WHERE id = 1501;
         INSERT INTO t (id, name, payload) VALUES (600, 'new', ' [1, {\"a\": \"\\u00e9\"}] '); DELETE FROM t WHERE id <= 20",
    )
    .await;
    pair.caught_up().await;
    assert_documents(&pair, "t", DOCUMENTS, 480).await;
    pair.stop();
    pair.rowtide.run_again();
    pair.sql("UPDATE t SET name = 'after ' || id WHERE id < 100").await;
    pair.caught_up().await;
    assert_documents(&pair, "t", DOCUMENTS, 480).await;
    pair.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_a_step_cannot_work_on_are_dead_letters_until_they_are_mended() {
    let mut pair = Pair::set(crate::harness::servers::Postgres::shared().await, setup()).await;
    pair.sql("UPDATE t SET price = 'twelve' WHERE id = 3; UPDATE t SET payload = '{' WHERE id = 5").await;
    pair.rowtide.run_again();
    pair.wait_until_following().await;
    pair.sql("INSERT INTO t (id, price) VALUES (700, ''), (701, '1')").await;
    pair.caught_up().await;
    let letters = pair.rowtide.letters();
    let ids: Vec<(&str, bool)> = letters.iter().map(|(id, body, _)| (&**id, *body)).collect();
    assert_eq!(ids, [("3", false), ("5", false), ("700", false)], "{letters:?}");
    assert!(letters[0].2.contains("the field price") && letters[0].2.contains("no number"), "{letters:?}");
    assert!(letters[1].2.contains("the field payload") && letters[1].2.contains("no JSON"), "{letters:?}");
    assert!(!letters[0].2.contains("twelve"), "a reason holds no value");
    assert_documents(&pair, "t", DOCUMENTS, 502).await;
    pair.sql("UPDATE t SET price = '12' WHERE id IN (3, 700); DELETE FROM t WHERE id = 5").await;
    pair.caught_up().await;
    assert_eq!(pair.rowtide.letters(), []);
    assert_documents(&pair, "t", DOCUMENTS, 504).await;
    pair.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn another_step_is_another_shape() {
    let mut pair = Pair::filled(setup()).await;
    pair.stop();
    let text = pair.config.replace("lower = [\"email\", \"label\"]", "lower = [\"email\"]");
    assert_ne!(text, pair.config);
    pair.rowtide.replace_configuration(&text);
    pair.rowtide.run_again();
    pair.assert_halts("shape-changed");
}
