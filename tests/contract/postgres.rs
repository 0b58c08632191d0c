//! PostgreSQL as an [`Origin`], and its runs of the suite.
//!
//! Contents are made by the server, from a row's number and a salt: every common type, with the values
//! that hurt.

use std::ops::Range;
use std::time::Duration;

use rustix::process::Signal;
use tokio_postgres::{Client, SimpleQueryMessage};

use crate::contract::altered::{Altered, equal_with_alterations};
use crate::contract::faulty::equal_with_every_fault;
use crate::contract::suite::{
    PATIENCE, Plan, bounded_with_a_slow_target, equal_after_kills, origin_counts_right,
};
use crate::contract::{Change, Kind, Origin, TABLES, Tag, Writer};
use crate::harness::faults::Speech;
use crate::harness::poll_until;
use crate::harness::postgres_rows::PostgresRows;
use crate::harness::rows::Rows;
use crate::harness::servers::{Database, Engine, Postgres, client};

/// `h` is a hash of row and salt; the same column takes each of its values in some rows.
const CONTENT: &str = r#"
CREATE TYPE content AS (name text, price numeric, at timestamptz, doc jsonb, flag boolean,
    ratio double precision, numbers int[], raw bytea, day date);
CREATE FUNCTION content(n bigint, salt bigint) RETURNS content LANGUAGE sql IMMUTABLE AS $$
SELECT ROW(
    (ARRAY['plain ' || n, '', E'it''s "quoted" \\ back', E'line\nbreak\ttab\r\x01\x1f\x7f', 'Grüße, 日本語',
        '😀 🏳️‍🌈 ' || salt, NULL, '</script>&amp;', 'null', '{"a":1}', E'\u2028\u2029'])[1 + h % 11],
    CASE h % 7 WHEN 0 THEN NULL WHEN 1 THEN 12345678901234567890.1234500 WHEN 2 THEN 0.00 WHEN 3 THEN -h / 7.0
        ELSE (h % 100000)::numeric / 100 END,
    CASE h % 11 WHEN 0 THEN NULL ELSE timestamptz '2001-02-03 04:05:06' + (h % 700000000000) * interval '1 ms'
        + (h % 999983) * interval '1 us' END,
    CASE h % 5 WHEN 0 THEN NULL WHEN 1 THEN jsonb_build_object('n', n, 'big', 12345678901234567890.10, 'text', E'a "b"\n')
        WHEN 2 THEN '{"list": [1, "1", 1.0, null, {"deep": [[]]}], "empty": {}, "": 1.50}' WHEN 3 THEN '{}'
        ELSE jsonb_build_object('salt', salt, 'flag', h % 2 = 0) END,
    CASE h % 3 WHEN 0 THEN NULL WHEN 1 THEN true ELSE false END,
    CASE h % 6 WHEN 0 THEN NULL WHEN 1 THEN 1e300 WHEN 2 THEN -0.1 WHEN 3 THEN 3 ELSE h::float8 / 7 END,
    CASE h % 4 WHEN 0 THEN NULL WHEN 1 THEN '{}' WHEN 2 THEN ARRAY[1, NULL, (n % 1000)::int] ELSE '{{1,2},{3,4}}' END,
    CASE h % 4 WHEN 0 THEN NULL WHEN 1 THEN '' ELSE decode(md5(salt::text), 'hex') || '\x00ff' END,
    CASE h % 5 WHEN 0 THEN NULL ELSE date '1999-12-31' + (h % 20000)::int END)::content
FROM (SELECT hashint8extended(n, salt) & 9223372036854775807 AS h) hashed $$;
CREATE FUNCTION incompressible(salt bigint) RETURNS text LANGUAGE sql IMMUTABLE AS $$
    SELECT string_agg(md5((salt * 1000 + part)::text), ' ') FROM generate_series(1, 300) part $$;
CREATE FUNCTION region(n bigint) RETURNS text LANGUAGE sql IMMUTABLE AS $$
    SELECT (ARRAY['north', 'süd "x"', 'a,b', '', E'tab\t', '[1]', '😀'])[1 + n % 7] $$;
"#;
const COLUMNS: &str = "tag, name, price, at, doc, flag, ratio, numbers, raw, day";
const COLUMN_TYPES: &str =
    "tag text NOT NULL, name text, price numeric, at timestamptz, doc jsonb, flag boolean,
    ratio double precision, numbers int[], raw bytea, day date, big text";

/// Name, key columns with their types, and the key of row `$n` as SQL.
const SHAPES: [(&str, &str, &str, &str); TABLES] = [
    ("items", "id", "id bigint", "$n"),
    ("places", "region, no", "region text, no int", "region($n), $n::int"),
    ("things", "id", "id uuid", "md5($n::text)::uuid"),
];

/// PostgreSQL of a version.
pub(crate) struct PostgresOrigin<const VERSION: u32 = 18> {
    database: Database,
}

impl<const VERSION: u32> PostgresOrigin<VERSION> {
    async fn run(&self, sql: &str) {
        self.database.client().await.batch_execute(sql).await.unwrap();
    }
}

/// The key's columns, and the key of a row as SQL.
fn key(table: usize, row: u64) -> (&'static str, String) {
    let (_, columns, _, values) = SHAPES[table];
    (columns, values.replace("$n", &row.to_string()))
}

/// Inserts rows of a series, the big value being `big`.
fn insert(table: usize, rows: &Range<u64>, tag: &str, salt: u64, big: &str) -> String {
    let (name, key_columns, _, key_values) = SHAPES[table];
    let key_values = key_values.replace("$n", "n");
    format!(
        "INSERT INTO {name} ({key_columns}, {COLUMNS}, big) SELECT {key_values}, {tag}, c.*, {big}
         FROM generate_series({}::bigint, {}) n, LATERAL content(n, {salt}) c",
        rows.start,
        rows.end - 1
    )
}

impl<const VERSION: u32> Origin for PostgresOrigin<VERSION> {
    type Writer = PostgresWriter;

    async fn start() -> Self {
        let database = Postgres::shared_of(VERSION).await.fresh_database().await;
        let client = database.client().await;
        client.batch_execute(CONTENT).await.unwrap();
        for (name, columns, typed, _) in SHAPES {
            let table = format!(
                "CREATE TABLE {name} ({typed}, {COLUMN_TYPES}, PRIMARY KEY ({columns}));
                 ALTER TABLE {name} ALTER big SET STORAGE EXTERNAL"
            );
            client.batch_execute(&table).await.unwrap();
        }
        Self { database }
    }

    fn port(&self) -> u16 {
        self.database.port
    }

    const SPEECH: Speech = Speech::Postgres;

    fn source_section(&self, port: u16) -> String {
        // The faults' proxy follows messages from a connection's first byte on, and the answer to the question
        // for TLS is none. TLS has a suite of its own.
        self.database.source_section_through(port) + "sslmode = \"disable\"\n"
    }

    async fn restart(&self) {
        let postgres = Postgres::shared_of(VERSION).await;
        postgres.stop(Signal::INT);
        postgres.start_again().await;
    }

    async fn give_up_after(&self, silence: Duration) {
        let (name, ms) = (&self.database.name, silence.as_millis());
        let sql = format!("ALTER DATABASE {name} SET wal_sender_timeout = {ms}");
        self.run(&sql).await;
    }

    fn table(&self, table: usize) -> String {
        format!("public.{}", SHAPES[table].0)
    }

    async fn load(&self, table: usize, rows: Range<u64>, salt: u64) {
        let tag = format!("CASE WHEN n % 5 = 4 THEN '{}' ELSE '{}' END", Tag::Calm.word(), Tag::Load.word());
        let big = "CASE WHEN n % 50 = 0 THEN incompressible(n) END";
        self.run(&insert(table, &rows, &tag, salt, big)).await;
        self.run(&format!("ANALYZE {}", SHAPES[table].0)).await;
    }

    async fn load_wide(&self, table: usize, rows: Range<u64>, bytes: u64) {
        let big = format!("repeat('some plain words ', {})", bytes / 17);
        let tag = format!("'{}'", Tag::Writer.word());
        self.run(&insert(table, &rows, &tag, 7, &big)).await;
    }

    async fn giant(&self, rows: Range<u64>, salt: u64) {
        let tag = format!("'{}'", Tag::Giant.word());
        let all: Vec<String> = (0..TABLES).map(|table| insert(table, &rows, &tag, salt, "NULL")).collect();
        self.run(&format!("BEGIN; {}; COMMIT", all.join("; "))).await;
    }

    async fn sentinel(&self, row: u64) {
        let tag = format!("'{}'", Tag::Sentinel.word());
        for table in 0..TABLES {
            self.run(&insert(table, &(row..row + 1), &tag, 1, "NULL")).await;
        }
    }

    async fn writer(&self) -> PostgresWriter {
        let (name, port) = (self.database.name.clone(), self.database.port);
        PostgresWriter { client: self.database.client().await, name, port }
    }

    async fn rows(&self, table: &str) -> impl Rows {
        PostgresRows::open(self.database.client().await, table).await
    }
}

pub(crate) struct PostgresWriter {
    client: Client,
    name: String,
    port: u16,
}

fn statement(change: &Change) -> String {
    let Change { table, row, kind, salt } = *change;
    let name = SHAPES[table].0;
    let (columns, values) = key(table, row);
    let found = format!("WHERE ({columns}) = ({values})");
    let tag = Tag::Writer.word();
    match kind {
        Kind::Insert => insert(table, &(row..row + 1), &format!("'{tag}'"), salt, "NULL"),
        Kind::Update | Kind::KeepBig => {
            format!(
                "UPDATE {name} SET ({COLUMNS}) = (SELECT '{tag}', c.* FROM content({row}, {salt}) c) {found}"
            )
        }
        Kind::SetBig => format!("UPDATE {name} SET tag = '{tag}', big = incompressible({salt}) {found}"),
        Kind::Delete => format!("DELETE FROM {name} {found}"),
        Kind::ChangeKey(to) => {
            let (_, values) = key(table, to);
            format!("UPDATE {name} SET ({columns}, tag) = ROW({values}, '{tag}') {found}")
        }
    }
}

impl Writer for PostgresWriter {
    async fn commit(&mut self, changes: &[Change], roll_back: bool) {
        let statements: Vec<String> = changes.iter().map(statement).collect();
        let end = if roll_back { "ROLLBACK" } else { "COMMIT" };
        let sql = format!("BEGIN; {}; {end}", statements.join("; "));
        let answer = self.client.simple_query(&sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
        let rows = |message: &SimpleQueryMessage| match message {
            SimpleQueryMessage::CommandComplete(rows) => *rows,
            _ => 0,
        };
        let hit: Vec<u64> = answer.iter().map(rows).collect();
        assert_eq!(hit[1..=changes.len()], vec![1; changes.len()], "each change hits one row: {sql}");
    }

    async fn connect_again(&mut self) {
        self.client = client(self.port, &self.name).await;
    }
}

/// Beside the suite's tables: one in partitions, one that is emptied. Each round's column is there to go.
const MORE: &str = "
    ALTER TABLE places ADD spare_0 text DEFAULT 'spare', ADD spare_1 integer DEFAULT 1;
    CREATE TABLE more_parts (id bigint, part text, n bigint NOT NULL, PRIMARY KEY (id, part)) PARTITION BY LIST (part);
    CREATE TABLE first_part PARTITION OF more_parts FOR VALUES IN ('first');
    CREATE TABLE goes_0 PARTITION OF more_parts FOR VALUES IN ('goes_0');
    CREATE TABLE goes_1 PARTITION OF more_parts FOR VALUES IN ('goes_1');
    INSERT INTO more_parts SELECT id, part, 0 FROM generate_series(1, 300) id, unnest(ARRAY['first', 'goes_0', 'goes_1']) part;
    CREATE TABLE more_emptied (id bigint PRIMARY KEY, n bigint NOT NULL);
    INSERT INTO more_emptied SELECT id, 0 FROM generate_series(1, 1000) id;";

impl<const VERSION: u32> PostgresOrigin<VERSION> {
    /// Rows are there, are written by a transaction that is open when the publication comes to hold the
    /// table, and after it.
    async fn join_under_an_open_transaction(&self, round: usize) {
        let table = format!("more_joins_{round}");
        let open = self.database.client().await;
        self.run(&format!(
            "CREATE TABLE {table} (id bigint PRIMARY KEY, n bigint NOT NULL);
             INSERT INTO {table} SELECT id, 0 FROM generate_series(1, 500) id"
        ))
        .await;
        let begun = format!(
            "BEGIN; INSERT INTO {table} SELECT id, 1 FROM generate_series(501, 600) id;
             UPDATE {table} SET n = 1 WHERE id <= 50; DELETE FROM {table} WHERE id BETWEEN 51 AND 60"
        );
        open.batch_execute(&begun).await.unwrap();
        let name = &self.database.name;
        let joined =
            format!("SELECT FROM pg_publication_tables WHERE pubname = '{name}' AND tablename = '{table}'");
        poll_until("the table to join the publication", PATIENCE, async || {
            let rows = open.query(&joined, &[]).await.unwrap();
            (!rows.is_empty()).then_some(())
        })
        .await;
        self.run(&format!("UPDATE {table} SET n = 2 WHERE id BETWEEN 100 AND 150")).await;
        let ends = format!(
            "UPDATE {table} SET n = n + 3 WHERE id > 580 OR id BETWEEN 140 AND 160 OR id < 10;
             DELETE FROM {table} WHERE id IN (20, 570); COMMIT"
        );
        open.batch_execute(&ends).await.unwrap();
    }
}

impl<const VERSION: u32> Altered for PostgresOrigin<VERSION> {
    const PATTERN: &'static str = "public.more_*";

    async fn prepare(&self) {
        self.run(MORE).await;
    }

    async fn alter(&self, number: usize, round: usize) {
        let sql = match number {
            // Writers leave calm rows alone.
            0 => format!(
                "ALTER TABLE items ADD extra_{round} integer NOT NULL DEFAULT 7;
                 UPDATE items SET extra_{round} = 8 WHERE id < 500 AND tag = '{}'",
                Tag::Calm.word()
            ),
            1 => format!("ALTER TABLE places DROP spare_{round}"),
            2 => format!(
                "CREATE TABLE came_{round} (part text NOT NULL, n bigint NOT NULL, id bigint NOT NULL);
                 INSERT INTO came_{round} SELECT 'came_{round}', 1, id FROM generate_series(1, 700) id;
                 ALTER TABLE more_parts ATTACH PARTITION came_{round} FOR VALUES IN ('came_{round}');
                 UPDATE more_parts SET n = 2 WHERE part = 'came_{round}' AND id < 20;
                 DELETE FROM more_parts WHERE part = 'came_{round}' AND id BETWEEN 30 AND 40"
            ),
            3 => "UPDATE more_emptied SET n = 1 WHERE id % 3 = 0; TRUNCATE more_emptied;
                  INSERT INTO more_emptied SELECT id, 2 FROM generate_series(900, 1100) id"
                .to_owned(),
            4 => return self.join_under_an_open_transaction(round).await,
            5 => format!(
                "UPDATE more_parts SET n = 5 WHERE part = 'goes_{round}';
                 ALTER TABLE more_parts DETACH PARTITION goes_{round};
                 INSERT INTO more_parts VALUES ({round} + 1000, 'first', 6)"
            ),
            _ => panic!("no alteration has the number {number}"),
        };
        // Each statement by itself: a lock on two tables could meet a writer's.
        for statement in sql.split(';') {
            self.run(statement).await;
        }
    }

    fn matching() -> Vec<(&'static str, &'static str)> {
        ["more_parts", "more_emptied", "more_joins_0", "more_joins_1"].map(|table| ("public", table)).to_vec()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_index_equals_the_source_with_its_tables_altered() {
    equal_with_alterations::<PostgresOrigin>(Engine::Elasticsearch8, Plan::of_scale()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_index_equals_the_source_after_kills() {
    equal_after_kills::<PostgresOrigin>(Engine::Elasticsearch8, Plan::of_scale()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_index_equals_the_source_with_every_fault_on_every_connection() {
    equal_with_every_fault::<PostgresOrigin>(Engine::Elasticsearch8).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_stays_bounded_with_a_slow_target() {
    bounded_with_a_slow_target::<PostgresOrigin>(Engine::Elasticsearch8).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_origin_does_what_its_writers_count() {
    origin_counts_right::<PostgresOrigin>().await;
}
