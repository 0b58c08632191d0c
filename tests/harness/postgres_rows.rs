//! A PostgreSQL table as the documents that an index of it should hold, for the comparer.
//!
//! Rows are read as text through a cursor in key order, and each value is put into JSON here, by the
//! name of its SQL type: written against PostgreSQL's manual, not against Rowtide.

use base64::Engine as _;
use tokio_postgres::{Client, SimpleQueryMessage};

use super::rows::{Rows, string};

const BATCH: usize = 1000;

/// How values come as text.
const SESSION: &str = "SET datestyle = 'ISO'; SET intervalstyle = 'iso_8601'; SET timezone = 'UTC'; \
    SET extra_float_digits = 3; SET bytea_output = 'hex'";

struct Column {
    name: String,
    /// As `pg_type.typname` has it: `int4`, `_text`.
    kind: String,
}

/// A table in key order.
pub(crate) struct PostgresRows {
    client: Client,
    columns: Vec<Column>,
    /// Places of the key's columns.
    key: Vec<usize>,
}

impl PostgresRows {
    /// All rows of `table`, as one snapshot sees them.
    pub(crate) async fn open(client: Client, table: &str) -> Self {
        Self::open_where(client, table, "true").await
    }

    /// The rows of `table` for which `condition` holds, as one snapshot sees them.
    pub(crate) async fn open_where(client: Client, table: &str, condition: &str) -> Self {
        client.batch_execute(SESSION).await.unwrap();
        let catalog = "SELECT a.attname::text, t.typname::text,
                array_position(i.indkey::int2[], a.attnum)
            FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
            LEFT JOIN pg_index i ON i.indrelid = a.attrelid AND i.indisprimary
            WHERE a.attrelid = $1::text::regclass AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum";
        let mut columns = Vec::new();
        let mut key: Vec<(i32, usize)> = Vec::new();
        for (place, row) in client.query(catalog, &[&table]).await.unwrap().iter().enumerate() {
            columns.push(Column { name: row.get(0), kind: row.get(1) });
            key.extend(row.get::<_, Option<i32>>(2).map(|rank| (rank, place)));
        }
        key.sort_unstable();
        let key: Vec<usize> = key.into_iter().map(|(_, place)| place).collect();
        assert!(!key.is_empty(), "{table} has no primary key");
        let quoted = |place: usize| format!("\"{}\"", columns[place].name);
        let list =
            |places: &mut dyn Iterator<Item = usize>| places.map(quoted).collect::<Vec<_>>().join(", ");
        let (all, order) = (list(&mut (0..columns.len())), list(&mut key.iter().copied()));
        let cursor = format!(
            "BEGIN ISOLATION LEVEL REPEATABLE READ; DECLARE rows NO SCROLL CURSOR FOR
             SELECT {all} FROM {table} WHERE {condition} ORDER BY {order}"
        );
        client.batch_execute(&cursor).await.unwrap();
        Self { client, columns, key }
    }

    fn id(&self, values: &[Option<&str>]) -> String {
        match self.key[..] {
            [place] => values[place].unwrap().to_owned(),
            _ => {
                let part = |&place: &usize| json(&self.columns[place].kind, values[place].unwrap());
                format!("[{}]", self.key.iter().map(part).collect::<Vec<_>>().join(","))
            }
        }
    }
}

impl Rows for PostgresRows {
    async fn next(&mut self) -> Vec<(String, String)> {
        let answer = self.client.simple_query(&format!("FETCH {BATCH} FROM rows")).await.unwrap();
        let mut batch = Vec::with_capacity(BATCH);
        for message in answer {
            let SimpleQueryMessage::Row(row) = message else { continue };
            let values: Vec<Option<&str>> = (0..self.columns.len()).map(|place| row.get(place)).collect();
            let field = |(column, value): (&Column, &Option<&str>)| {
                let value = value.map_or_else(|| "null".into(), |value| json(&column.kind, value));
                format!("{}:{value}", string(&column.name))
            };
            let fields: Vec<String> = self.columns.iter().zip(&values).map(field).collect();
            batch.push((self.id(&values), format!("{{{}}}", fields.join(","))));
        }
        batch
    }
}

/// A value's JSON, from the name of its type and its text.
fn json(kind: &str, text: &str) -> String {
    match kind {
        "bool" => if text == "t" { "true" } else { "false" }.into(),
        "int2" | "int4" | "int8" | "oid" | "float4" | "float8" | "numeric" => match text {
            "NaN" | "Infinity" | "-Infinity" => string(text),
            _ => text.into(),
        },
        "json" | "jsonb" => text.into(),
        "bytea" => string(&base64::prelude::BASE64_STANDARD.encode(bytes_of_hex(&text[2..]))),
        "timestamp" => string(&text.replace(' ', "T")),
        "timestamptz" => match text.strip_suffix("+00") {
            Some(moment) => string(&format!("{}Z", moment.replace(' ', "T"))),
            None => string(text),
        },
        _ => match kind.strip_prefix('_') {
            Some(element) => array(element, &mut text.chars().peekable()),
            None => string(text),
        },
    }
}

fn bytes_of_hex(hex: &str) -> Vec<u8> {
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}

/// `{1,NULL,"a \"b\""}`, nested as well.
fn array(element: &str, text: &mut std::iter::Peekable<std::str::Chars<'_>>) -> String {
    assert_eq!(text.next(), Some('{'), "an array's text begins with a brace");
    let mut values = Vec::new();
    loop {
        match text.peek() {
            Some('}') => {
                text.next();
                return format!("[{}]", values.join(","));
            }
            Some(',') => {
                text.next();
            }
            Some('{') => values.push(array(element, text)),
            Some('"') => {
                text.next();
                let mut value = String::new();
                loop {
                    match text.next().unwrap() {
                        '"' => break,
                        '\\' => value.push(text.next().unwrap()),
                        other => value.push(other),
                    }
                }
                values.push(json(element, &value));
            }
            _ => {
                let mut value = String::new();
                while !matches!(text.peek(), Some(',' | '}')) {
                    value.push(text.next().unwrap());
                }
                values.push(if value == "NULL" { "null".into() } else { json(element, &value) });
            }
        }
    }
}
