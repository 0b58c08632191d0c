//! Every type that a column can have, asked of the server: read by SQL and in the log it is the same.
//!
//! ```text
//!   pg_type ──► CREATE TABLE probe (c type) ──► those that can be columns ──► all in one table, with
//!                                                 │                             their extreme values
//!                                                 └─ one that is not named here fails the test
//! ```
#![allow(clippy::expect_used)]

use super::super::catalog::ValueTypes;
use super::super::slot;
use super::super::wire::Next;
use super::{ROW_MAX, load, server, start_log, transaction, values};

/// Each scalar, range and domain with its extreme values in SQL; none where the server takes no value in.
const EXTREMES: &[(&str, &[&str])] = &[
    ("bool", &["true", "false"]),
    ("bytea", &["''", "'\\x00ff0a0d22'", "decode(repeat('ff', 3000), 'hex')"]),
    ("char", &["''", "'a'", "E'\\\\377'", "'\"'"]),
    ("name", &["''", "repeat('n', 63)", "E'a\"\\\\ \\n'"]),
    ("int8", &["'-9223372036854775808'", "'9223372036854775807'"]),
    ("int2", &["'-32768'", "'32767'"]),
    ("int2vector", &["''", "'-32768 0 32767'"]),
    ("int4", &["'-2147483648'", "'2147483647'"]),
    ("regproc", &["'0'", "'now'", "'4294967295'"]),
    ("text", &["''", "E'\\x01\\x1f\\x7f\"\\\\/\\r\\n\\t\\b\\fé😀\\u2028'", "repeat('x', 9000)"]),
    ("oid", &["'0'", "'4294967295'"]),
    ("tid", &["'(0,0)'", "'(4294967295,65535)'"]),
    ("xid", &["'0'", "'4294967295'"]),
    ("cid", &["'0'", "'4294967295'"]),
    ("oidvector", &["''", "'0 4294967295'"]),
    ("json", &["'null'", "E'[1e400, \"\\\\u0000\",\\n {\"\": -0}]'", "E'\\t\"x\"\\r\\n'"]),
    ("xml", &["''", "'<a b=\"c\">&lt;</a>'"]),
    ("pg_node_tree", &["(SELECT adbin FROM pg_attrdef LIMIT 1)"]),
    ("pg_ndistinct", &[]),
    ("pg_dependencies", &[]),
    ("pg_mcv_list", &[]),
    ("pg_brin_bloom_summary", &[]),
    ("pg_brin_minmax_multi_summary", &[]),
    ("xid8", &["'0'", "'18446744073709551615'"]),
    ("point", &["'(0,-0)'", "'(1e308,-1e-308)'", "'(NaN,Infinity)'"]),
    ("lseg", &["'[(0,0),(1e308,-1)]'"]),
    ("path", &["'[(0,0),(1,1)]'", "'((0,0),(1,NaN))'"]),
    ("box", &["'(1e308,1),(0,-1e308)'"]),
    ("polygon", &["'((0,0),(1,1),(1,0))'"]),
    ("line", &["'{1,-1,0}'"]),
    ("float4", &["'3.4028235e38'", "'-1e-45'", "'NaN'", "'Infinity'", "'-Infinity'", "'-0'"]),
    ("float8", &["'1.7976931348623157e308'", "'5e-324'", "'NaN'", "'Infinity'", "'-Infinity'", "'-0'"]),
    ("circle", &["'<(0,0),0>'", "'<(1,-1),1e308>'"]),
    ("money", &["'-92233720368547758.08'", "'92233720368547758.07'"]),
    ("macaddr", &["'00:00:00:00:00:00'", "'ff:ff:ff:ff:ff:ff'"]),
    ("inet", &["'0.0.0.0/0'", "'255.255.255.255'", "'::'", "'ffff:ffff::1/127'"]),
    ("cidr", &["'0.0.0.0/0'", "'::/0'", "'10.1.2.3/32'"]),
    ("macaddr8", &["'ff:ff:ff:ff:ff:ff:ff:ff'"]),
    ("aclitem", &["'postgres=arwdDxt/postgres'", "'=X/postgres'"]),
    ("bpchar", &["''", "'a  '"]),
    ("varchar", &["''", "'\"'"]),
    (
        "date",
        &["'4713-01-01 BC'", "'5874897-12-31'", "'infinity'", "'-infinity'", "'9999-12-31'", "'0001-01-01'"],
    ),
    ("time", &["'00:00'", "'24:00'", "'23:59:59.999999'"]),
    (
        "timestamp",
        &[
            "'4713-01-01 00:00:00 BC'",
            "'294276-12-31 23:59:59.999999'",
            "'infinity'",
            "'-infinity'",
            "'9999-12-31 23:59:59.999999'",
        ],
    ),
    (
        "timestamptz",
        &[
            "'4713-01-01 00:00:00+00 BC'",
            "'294276-12-31 23:59:59.999999+00'",
            "'infinity'",
            "'-infinity'",
            "'2026-01-01 00:00:00+15:59'",
        ],
    ),
    (
        "interval",
        &[
            "'0'",
            "'-178000000 years'",
            "'178000000 years 2147483647 days 1:2:3.000001'",
            "'-1 mon +1 day -00:00:00.000001'",
        ],
    ),
    ("timetz", &["'00:00+15:59'", "'24:00-15:59'"]),
    ("bit", &["B'1'", "B'0'"]),
    ("varbit", &["''", "repeat('10', 5000)"]),
    (
        "numeric",
        &[
            "'1e131071'",
            "'-1e-16383'",
            "'NaN'",
            "'Infinity'",
            "'-Infinity'",
            "'0.00'",
            "'12345678901234567890.0987654321'",
        ],
    ),
    ("refcursor", &["''", "'c\"'"]),
    ("regprocedure", &["'0'", "'abs(integer)'"]),
    ("regoper", &["'0'", "'||/'"]),
    ("regoperator", &["'0'", "'+(integer,integer)'"]),
    ("regclass", &["'0'", "'pg_class'", "'4294967295'"]),
    ("regcollation", &["'0'", "'\"C\"'"]),
    ("regtype", &["'0'", "'integer[]'"]),
    ("regrole", &["'0'", "'postgres'"]),
    ("regnamespace", &["'0'", "'pg_catalog'"]),
    ("regdatabase", &["'0'", "'postgres'"]),
    ("uuid", &["'00000000-0000-0000-0000-000000000000'", "'ffffffff-ffff-ffff-ffff-ffffffffffff'"]),
    ("pg_lsn", &["'0/0'", "'FFFFFFFF/FFFFFFFF'"]),
    ("tsvector", &["''", "'a:1A,16383 ''it''''s'' \\\\b'"]),
    ("gtsvector", &[]),
    ("tsquery", &["''", "'!a & (b:*AB | c) <2> d'"]),
    ("regconfig", &["'0'", "'simple'"]),
    ("regdictionary", &["'0'", "'simple'"]),
    ("jsonb", &["'null'", "'[1e1000, -0, \"\\\\\\u2028\", {\"\": {\".\": []}}]'", "'\"x\"'"]),
    ("jsonpath", &["'$'", "'$.\"a\"[*] ? (@ > 1).type()'"]),
    ("txid_snapshot", &["'1:1:'", "'10:9223372036854775807:11,12'"]),
    ("pg_snapshot", &["'1:1:'", "'10:9223372036854775807:11,12'"]),
    ("int4range", &["'empty'", "'(,)'", "'[-2147483648,2147483647)'", "'(,-2147483648)'"]),
    ("int8range", &["'empty'", "'(,)'", "'[-9223372036854775808,9223372036854775807)'"]),
    (
        "numrange",
        &["'empty'", "'(,)'", "'(-infinity,NaN]'", "'(1.00000000000000000001,1.00000000000000000002)'"],
    ),
    ("daterange", &["'empty'", "'[4713-01-01 BC,5874897-12-31)'", "'[-infinity,infinity]'"]),
    ("tsrange", &["'empty'", "'(4713-01-01 00:00:00 BC,infinity]'"]),
    ("tstzrange", &["'empty'", "'(2026-01-01 00:00:00+00,2026-01-01 00:00:00.000001+00)'", "'[-infinity,)'"]),
    ("int4multirange", &["'{}'", "'{(,1),[3,4),[6,)}'"]),
    ("int8multirange", &["'{}'", "'{[-9223372036854775808,9223372036854775807)}'"]),
    ("nummultirange", &["'{}'", "'{[-infinity,0),(0.5,NaN)}'"]),
    ("datemultirange", &["'{}'", "'{(,4713-01-01 BC),[infinity,)}'"]),
    ("tsmultirange", &["'{}'", "'{[2026-01-01 00:00:00,infinity)}'"]),
    ("tstzmultirange", &["'{}'", "'{(,)}'"]),
    ("cardinal_number", &["'0'", "'2147483647'"]),
    ("character_data", &["''", "'a'"]),
    ("sql_identifier", &["''", "'a'"]),
    ("time_stamp", &["'2026-01-01 00:00:00.12+00'"]),
    ("yes_or_no", &["'YES'", "'NO'"]),
    // Own ones, of each kind that there is.
    ("mood", &["'sad'", "'very \"happy\", \\ '"]),
    ("price", &["'-9999999.99'"]),
    ("prices", &["'{}'", "'{1.0,NULL}'"]),
    ("floats", &["'empty'", "'[-Infinity,NaN)'", "'(1,1.0000000000000002)'"]),
    ("many_floats", &["'{[1,2),(3,4]}'"]),
    ("pair", &["ROW(NULL,NULL)", "ROW(-2147483648,E'(\"\\\\,\\n)')", "ROW(0,'')"]),
    ("nothing", &["ROW()"]),
    (
        "nest",
        &[
            "ROW(ROW(1,'a \"b\"'),ARRAY[ROW(2,NULL)::pair,NULL],'{1.5,NULL}','very \"happy\", \\ ','[1,2)')",
            "NULL",
        ],
    ),
    ("hstore", &["''", r#"'""=>NULL, ".."=>"", "q\"\\"=>"é"'"#]),
    ("ghstore", &[]),
];

const OWN: &str = "\
    CREATE TYPE mood AS ENUM ('sad', 'very \"happy\", \\ '); CREATE DOMAIN price AS numeric(9,2);
    CREATE DOMAIN prices AS price[]; CREATE TYPE pair AS (n int, t text); CREATE TYPE nothing AS ();
    CREATE TYPE floats AS RANGE (subtype = float8, multirange_type_name = many_floats);
    CREATE TYPE nest AS (p pair, \"all\" pair[], d prices, m mood, f floats);
    CREATE TABLE made (id int DEFAULT 7 * 6, n nest); CREATE EXTENSION IF NOT EXISTS hstore SCHEMA public;";

/// Name in SQL, name alone, what relation's rows it is of, name of its element where it is an array; of each
/// type that the server lets a column have.
const PROBE: &str = "\
    CREATE FUNCTION columns() RETURNS TABLE (sql text, name name, relation \"char\", element name) AS $$
      DECLARE t record;
      BEGIN
        FOR t IN SELECT y.oid, y.typname, y.typtype, y.typoutput = 'array_out'::regproc AS is_array, e.typname AS of, c.relkind,
                        format('%I.%I', n.nspname, y.typname) AS spelled
                   FROM pg_type y JOIN pg_namespace n ON n.oid = y.typnamespace LEFT JOIN pg_type e ON e.oid = y.typelem
                        LEFT JOIN pg_class c ON c.oid = y.typrelid
                  WHERE y.typtype <> 'p' AND n.nspname IN ('pg_catalog', 'information_schema', 'live_types', 'public')
                  ORDER BY y.oid LOOP
          BEGIN
            EXECUTE format('CREATE TABLE probe (c %s)', t.spelled);
            EXECUTE 'DROP TABLE probe';
          EXCEPTION WHEN invalid_table_definition THEN CONTINUE;
          END;
          sql := t.spelled; name := t.typname; relation := t.relkind;
          element := CASE WHEN t.is_array AND t.typtype <> 'd' THEN t.of END;
          RETURN NEXT;
        END LOOP;
      END $$ LANGUAGE plpgsql";

/// A type as a column, with its values in SQL.
struct Tested {
    sql: String,
    values: Vec<String>,
}

fn extremes(name: &str) -> Option<Vec<String>> {
    let (_, values) = EXTREMES.iter().find(|(known, _)| *known == name)?;
    Some(values.iter().map(|value| (*value).to_owned()).collect())
}

/// `None` when nothing is known of it: a type that is new.
fn tested(row: &[Option<String>], all: &[Vec<Option<String>>]) -> Option<Tested> {
    let sql = row[0].clone().expect("a name");
    let name = row[1].as_deref().expect("a name");
    let cast = |value: String, sql: &str| format!("({value})::{sql}");
    if let Some(element) = &row[3] {
        let of = all.iter().find(|row| row[1].as_ref() == Some(element) && row[3].is_none())?;
        let inner = tested(of, all)?;
        let mut arrays = vec!["'{}'".to_owned(), "'{NULL}'".to_owned()];
        if !inner.values.is_empty() {
            let values: Vec<String> =
                inner.values.iter().map(|value| cast(value.clone(), &inner.sql)).collect();
            let values = values.join(",");
            arrays.push(format!("ARRAY[{values},NULL]"));
            arrays.push(format!("ARRAY[ARRAY[{values}],ARRAY[{values}]]"));
        }
        return Some(Tested { sql, values: arrays });
    }
    if let Some(values) = extremes(name) {
        return Some(Tested { sql, values });
    }
    if let Some(relation) = row[2].as_deref() {
        // A table's or a view's row: of nulls alone, and as it is in a table, if there is one.
        let nulls = format!(
            "(SELECT x FROM (SELECT 1) one LEFT JOIN LATERAL jsonb_populate_record(NULL::{sql}, '{{}}') x ON true)"
        );
        let some = format!("(SELECT x FROM {sql} x LIMIT 1)");
        let is_table = relation == "r";
        return Some(Tested { sql, values: if is_table { vec![nulls, some] } else { vec![nulls] } });
    }
    None
}

#[tokio::test]
async fn t11_every_type_that_a_column_can_have_is_the_same_read_by_sql_and_in_the_log() {
    let (mut server, config) = server("live_types").await;
    server.sql.simple("SET search_path = live_types, pg_catalog, public").await.unwrap();
    server.sql.simple(OWN).await.unwrap();
    server.sql.simple(PROBE).await.unwrap();
    let all = server.sql.simple("SELECT * FROM columns()").await.unwrap();
    let mut unknown = Vec::new();
    let mut columns = Vec::new();
    for row in &all {
        match tested(row, &all) {
            Some(tested) => columns.push(tested),
            None => unknown.push(row[0].clone().unwrap()),
        }
    }
    assert!(
        unknown.is_empty(),
        "types without values in this test, and perhaps without a line in the manual: {unknown:?}"
    );
    assert!(columns.len() > 300, "{} types", columns.len());

    let list: Vec<String> =
        columns.iter().enumerate().map(|(number, column)| format!("c{number} {}", column.sql)).collect();
    server.sql.simple(&format!("CREATE TABLE t (id int PRIMARY KEY, {})", list.join(", "))).await.unwrap();
    slot::ensure_publication(&mut server.sql, &config.publication, &config.tables).await.unwrap();
    slot::create_slot(&mut server.sql, &config.slot).await.unwrap();
    // A page holds no more at once, although large values go elsewhere.
    const TURNS: usize = 8;
    let most = columns.iter().map(|column| column.values.len()).max().unwrap();
    let rows = (most + 1) * TURNS;
    for row in 0..rows {
        let value = |(number, column): (usize, &Tested)| {
            let mine = number % TURNS == row % TURNS;
            match column.values.get(row / TURNS).filter(|_| mine) {
                Some(value) => format!("({value})::{}", column.sql),
                None => "NULL".to_owned(),
            }
        };
        let list: Vec<String> = columns.iter().enumerate().map(value).collect();
        server.sql.simple(&format!("INSERT INTO t VALUES ({row}, {})", list.join(", "))).await.unwrap();
    }
    server.sql.simple("SET search_path = pg_catalog").await.unwrap();

    let mut types = ValueTypes::default();
    let mut info = load(&mut server.sql, &mut types, &config).await;
    let select = format!("SELECT {} FROM {} ORDER BY id", info.sql_columns().join(", "), info.sql_from());
    server.sql.query(&select, &[]).await.unwrap();
    let mut read = Vec::new();
    while let Next::Row(tuple) = server.sql.next_row(ROW_MAX, &[0]).await.unwrap() {
        read.push(values(&info, tuple));
    }
    assert_eq!(read.len(), rows);
    let mut log = start_log(&server, &config).await;
    for row in &read {
        for (number, value) in row.iter().enumerate() {
            let of = number.checked_sub(1).map_or("id", |number| columns[number].sql.as_str());
            let is_json = serde_json::from_str::<serde::de::IgnoredAny>(value).is_ok();
            assert!(is_json && !value.contains(['\n', '\r']), "{of}: {value}");
        }
        let seen = transaction(&mut log, &mut info, &types, ROW_MAX).await;
        assert_eq!(seen, [format!("insert {}", row.join(" | "))]);
    }
    log.close().await;
    let some = read.iter().flatten().filter(|value| *value != "null").count();
    eprintln!("{} types, {} rows, {some} values that are not null", columns.len(), read.len());
}
