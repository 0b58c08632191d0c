//! The JSON form of values: the manual's table, type by type.

use super::super::catalog::ValueTypes;
use super::super::slot::{self, Published};
use super::super::wire::Next;
use super::{ROW_MAX, load, server, start_log, transaction, values};

/// Type and values in SQL, with the JSON that each must have.
const VALUES: &[(&str, &[(&str, &str)])] = &[
    ("boolean", &[("true", "true"), ("false", "false")]),
    ("smallint", &[("-32768", "-32768")]),
    ("integer", &[("2147483647", "2147483647")]),
    ("bigint", &[("-9223372036854775808", "-9223372036854775808")]),
    ("oid", &[("4294967295", "4294967295")]),
    ("real", &[("'NaN'", "\"NaN\""), ("'-Infinity'", "\"-Infinity\""), ("1e-30", "1e-30"), ("0.1", "0.1")]),
    (
        "double precision",
        &[("0.1::float8 + 0.2", "0.30000000000000004"), ("1e300", "1e+300"), ("'-0'", "-0")],
    ),
    (
        "numeric",
        &[
            ("'123456789012345678901234567890.1234567890'", "123456789012345678901234567890.1234567890"),
            ("'NaN'", "\"NaN\""),
            ("1e40", "10000000000000000000000000000000000000000"),
            ("'Infinity'", "\"Infinity\""),
        ],
    ),
    ("numeric(10,3)", &[("1.5", "1.500"), ("-0.001", "-0.001")]),
    ("money", &[("1234.5", "\"$1,234.50\"")]),
    ("text", &[("E'a\"\\\\\\n\\t\\x01é😀'", r#""a\"\\\n\t\u0001é😀""#), ("''", "\"\"")]),
    ("varchar(9)", &[("'v'", "\"v\"")]),
    ("char(4)", &[("'ab'", "\"ab  \"")]),
    ("\"char\"", &[("'x'", "\"x\"")]),
    ("name", &[("'n'", "\"n\"")]),
    ("mood", &[("'very happy'", "\"very happy\"")]),
    ("mood[]", &[("ARRAY['very happy','sad',NULL]::mood[]", "[\"very happy\",\"sad\",null]")]),
    ("price", &[("12.50", "12.50")]),
    ("prices", &[("'{1.0,2.00}'", "[1.00,2.00]")]),
    (
        "pair",
        &[
            ("ROW(1,'a \"b\"')", r#"{"n":1,"t":"a \"b\""}"#),
            ("ROW(NULL,'')", r#"{"n":null,"t":""}"#),
            ("ROW(-2147483648,E'\\\\,()')", r#"{"n":-2147483648,"t":"\\,()"}"#),
        ],
    ),
    ("pair[]", &[("ARRAY[ROW(1,'x y')::pair,NULL]", r#"[{"n":1,"t":"x y"},null]"#)]),
    (
        "nest",
        &[(
            "ROW(ROW(1,'a,b'),ARRAY[ROW(2,'\"q\"')::pair,NULL],'{x,NULL,\"y z\"}','[1,5)','12.50')",
            r#"{"p":{"n":1,"t":"a,b"},"Odd name.":[{"n":2,"t":"\"q\""},null],"x":["x",null,"y z"],"r":{"gte":1,"lt":5},"d":12.50}"#,
        )],
    ),
    (
        "hstore",
        &[(r#"'"a"=>"1", ""=>NULL, "q\"\\"=>"."'"#, r#"{"":null,"a":"1","q\"\\":"."}"#), ("''", "{}")],
    ),
    ("hstore[]", &[("ARRAY['a=>1'::hstore,NULL]", r#"[{"a":"1"},null]"#)]),
    ("bytea", &[("'\\x00ff10'", "\"AP8Q\""), ("''", "\"\"")]),
    ("bytea[]", &[("ARRAY['\\xff'::bytea]", "[\"/w==\"]")]),
    (
        "date",
        &[
            ("'2026-01-02'", "\"2026-01-02\""),
            ("'infinity'", "\"infinity\""),
            ("'0044-03-15 BC'", "\"0044-03-15 BC\""),
            ("'12026-01-02'", "\"12026-01-02\""),
        ],
    ),
    ("time", &[("'03:04:05.6'", "\"03:04:05.6\"")]),
    ("timetz", &[("'03:04:05+02'", "\"03:04:05+02\"")]),
    (
        "timestamp",
        &[
            ("'2026-01-02 03:04:05.123456'", "\"2026-01-02T03:04:05.123456\""),
            ("'-infinity'", "\"-infinity\""),
            ("'0044-03-15 01:02:03 BC'", "\"0044-03-15 01:02:03 BC\""),
            ("'12026-01-02'", "\"12026-01-02 00:00:00\""),
        ],
    ),
    ("timestamp(0)", &[("'2026-01-02 03:04:05'", "\"2026-01-02T03:04:05\"")]),
    (
        "timestamptz",
        &[
            ("'2026-01-02 03:04:05.5+02'", "\"2026-01-02T01:04:05.5Z\""),
            ("'infinity'", "\"infinity\""),
            ("'0044-03-15 01:02:03+00 BC'", "\"0044-03-15 01:02:03+00 BC\""),
        ],
    ),
    (
        "timestamptz[]",
        &[(
            "ARRAY['2026-01-02 03:04:05+00'::timestamptz, 'infinity']",
            "[\"2026-01-02T03:04:05Z\",\"infinity\"]",
        )],
    ),
    ("interval", &[("'1 year 2 mons 3 days 04:05:06.7'", "\"P1Y2M3DT4H5M6.7S\"")]),
    ("uuid", &[("'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11'", "\"a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11\"")]),
    ("inet", &[("'10.0.0.1/24'", "\"10.0.0.1/24\"")]),
    ("macaddr", &[("'08:00:2b:01:02:03'", "\"08:00:2b:01:02:03\"")]),
    ("json", &[("E'{\"a\": [1,\\n2.50], \"b\": \"\\\\u0000\"}'", r#"{"a": [1, 2.50], "b": "\u0000"}"#)]),
    ("jsonb", &[("'{\"b\":1e2,\"a\":\"x\\ny\"}'", r#"{"a": "x\ny", "b": 100}"#), ("'null'", "null")]),
    ("jsonb[]", &[("ARRAY['{\"a\":\"q\\\"\"}'::jsonb, NULL]", r#"[{"a": "q\""},null]"#)]),
    ("xml", &[("'<a>b</a>'", "\"<a>b</a>\"")]),
    ("bit(4)", &[("B'1010'", "\"1010\"")]),
    (
        "int4range",
        &[
            ("'[1,5)'", r#"{"gte":1,"lt":5}"#),
            ("'(,)'", "{}"),
            ("'empty'", "[]"),
            ("'(1,3]'", r#"{"gte":2,"lt":4}"#),
        ],
    ),
    ("int8range", &[("'[-9223372036854775808,)'", r#"{"gte":-9223372036854775808}"#)]),
    (
        "numrange",
        &[
            ("'(0.10,1e3]'", r#"{"gt":0.10,"lte":1000}"#),
            ("'[-infinity,NaN)'", r#"{"gte":"-Infinity","lt":"NaN"}"#),
        ],
    ),
    (
        "daterange",
        &[
            ("'[2026-01-01,infinity)'", r#"{"gte":"2026-01-01","lt":"infinity"}"#),
            ("'(0044-03-15 BC,2026-01-01]'", r#"{"gte":"0044-03-16 BC","lt":"2026-01-02"}"#),
        ],
    ),
    ("tsrange", &[("'(2026-01-01 01:02:03.5,)'", r#"{"gt":"2026-01-01T01:02:03.5"}"#)]),
    ("tstzrange", &[("'[2026-01-01 00:00:00+00,)'", r#"{"gte":"2026-01-01T00:00:00Z"}"#)]),
    ("floats", &[("'[1.5,2.5]'", r#"{"gte":1.5,"lte":2.5}"#)]),
    ("span", &[(r#"'["""\\]","a b")'"#, r#"{"gte":"\"\\]","lt":"a b"}"#)]),
    ("int4range[]", &[("ARRAY['[1,2)'::int4range,'empty',NULL]", r#"[{"gte":1,"lt":2},[],null]"#)]),
    ("int4multirange", &[("'{[1,2),[5,)}'", r#"[{"gte":1,"lt":2},{"gte":5}]"#), ("'{}'", "[]")]),
    (
        "tstzmultirange",
        &[(
            "'{[2026-01-01 00:00:00+00,2026-01-02 00:00:00+00)}'",
            r#"[{"gte":"2026-01-01T00:00:00Z","lt":"2026-01-02T00:00:00Z"}]"#,
        )],
    ),
    ("tsvector", &[("'fat cat'", "\"'cat' 'fat'\"")]),
    ("point", &[("'(1.5,2)'", "\"(1.5,2)\"")]),
    ("box[]", &[("'{(1,1),(0,0);(2,2),(1,1)}'", r#"["(1,1),(0,0)","(2,2),(1,1)"]"#)]),
    ("integer[]", &[("'{}'", "[]"), ("'[0:1][5:6]={{1,2},{3,NULL}}'", "[[1,2],[3,null]]")]),
    ("text[]", &[(r#"ARRAY['NULL', NULL, '', 'a,b', '{"\']"#, r#"["NULL",null,"","a,b","{\"\\"]"#)]),
    ("boolean[]", &[("'{t,f}'", "[true,false]")]),
    ("int2vector", &[("'1 2'", "\"1 2\"")]),
    ("regclass", &[("'pg_class'", "\"pg_class\"")]),
];

#[tokio::test]
async fn t11_each_type_is_the_same_read_by_sql_and_in_the_log() {
    let (mut server, config) = server("live_values").await;
    let mut setup = "SET search_path = live_values, pg_catalog, public;
        CREATE TYPE mood AS ENUM ('sad', 'very happy'); CREATE DOMAIN price AS numeric(9,2);
        CREATE DOMAIN prices AS price[]; CREATE TYPE pair AS (n int, t text);
        CREATE TYPE nest AS (p pair, \"Odd name.\" pair[], x text[], r int4range, d price);
        CREATE TYPE floats AS RANGE (subtype = float8); CREATE TYPE span AS RANGE (subtype = text, collation = \"C\");
        CREATE EXTENSION IF NOT EXISTS hstore SCHEMA public;
        CREATE TABLE t (id int PRIMARY KEY"
        .to_owned();
    for (number, (column, _)) in VALUES.iter().enumerate() {
        setup.push_str(&format!(", c{number} {column}"));
    }
    setup.push_str(", made int GENERATED ALWAYS AS (id * 2) STORED)");
    server.sql.simple(&setup).await.unwrap();
    let done =
        slot::ensure_publication(&mut server.sql, &config.publication, &config.wanted()).await.unwrap();
    assert_eq!(done, Published::Created);
    slot::create_slot(&mut server.sql, &config.slot).await.unwrap();

    let rows = VALUES.iter().map(|(_, values)| values.len()).max().unwrap();
    let mut expected = Vec::new();
    for row in 0..=rows {
        let mut sql = vec![row.to_string()];
        let mut json = vec![row.to_string()];
        for (column, values) in VALUES {
            match values.get(row) {
                Some((value, form)) => {
                    sql.push(format!("({value})::{column}"));
                    json.push((*form).to_owned());
                }
                None => {
                    sql.push("NULL".to_owned());
                    json.push("null".to_owned());
                }
            }
        }
        server.sql.simple(&format!("INSERT INTO t VALUES ({})", sql.join(", "))).await.unwrap();
        expected.push(json);
    }
    server.sql.simple("SET search_path = pg_catalog").await.unwrap();

    let mut types = ValueTypes::default();
    let mut info = load(&mut server.sql, &mut types, &config).await;
    let select = format!("SELECT {} FROM {} ORDER BY id", info.sql_columns().join(", "), info.sql_from());
    server.sql.query(&select, &[]).await.unwrap();
    for expected in &expected {
        let Next::Row(tuple) = server.sql.next_row(ROW_MAX, &[0]).await.unwrap() else { panic!() };
        assert_eq!(&values(&info, tuple), expected);
    }
    assert!(matches!(server.sql.next_row(ROW_MAX, &[0]).await.unwrap(), Next::End));

    let before = info.clone();
    let mut log = start_log(&server, &config).await;
    for expected in &expected {
        let seen = transaction(&mut log, &mut info, &types, ROW_MAX).await;
        assert_eq!(seen, [format!("insert {}", expected.join(" | "))]);
    }
    assert_eq!((&info.table, &info.decoders), (&before.table, &before.decoders), "one table either way");
    log.close().await;
}
