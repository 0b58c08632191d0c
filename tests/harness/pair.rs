//! A database followed into a search server: what a test of one trap or one attack needs.
//!
//! ```text
//!   Pair::set(…) ─► run ─► filled ─► changes ─► caught_up ─► assert_equal ─► stop
//! ```
//! - Each table has an index of its own, [`Pair::index`].
//! - [`Pair::caught_up`] relies on law 4 alone: what is acknowledged to the slot is in the index. The
//!   tests of T01 and T03 show that this holds and that it comes.

use std::time::Duration;

use serde_json::{Value, json};
use tokio_postgres::{Client, SimpleQueryMessage};

use super::comparer::{become_equal, compare};
use super::http::Http;
use super::postgres_rows::PostgresRows;
use super::proxy::Proxy;
use super::rowtide::{Line, Rowtide};
use super::servers::{Database, Engine, Postgres, Search};
use super::{fresh_name, poll_until};

/// Long enough for two cores with everything on them, a quarantine of 10 s included.
pub(crate) const PATIENCE: Duration = Duration::from_secs(90);

/// What a test begins with.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Setup<'a> {
    /// Run in the fresh database.
    pub(crate) sql: &'a str,
    /// Tables of the schema `public` that are followed.
    pub(crate) tables: &'a [&'a str],
    /// Lines of `[memory]`.
    pub(crate) memory: &'a str,
    /// Lines of `[sources.shop]`.
    pub(crate) source: &'a str,
    /// Lines of `[targets.search]`.
    pub(crate) target: &'a str,
    /// Lines of each table's section.
    pub(crate) table: &'a str,
    /// The port of a second target, called `second`.
    pub(crate) second: Option<u16>,
}

/// Everything that takes part.
pub(crate) struct Pair {
    pub(crate) database: Database,
    pub(crate) client: Client,
    pub(crate) http: Http,
    pub(crate) proxy: Proxy,
    pub(crate) rowtide: Rowtide,
    pub(crate) config: String,
    name: String,
    tables: Vec<String>,
}

impl Pair {
    /// Database and configuration are there; nothing runs.
    pub(crate) async fn set(postgres: &Postgres, setup: Setup<'_>) -> Self {
        Self::set_on(postgres, Search::shared(Engine::Elasticsearch8).await, setup).await
    }

    /// As [`Self::set`], with a search server of one's own.
    pub(crate) async fn set_on(postgres: &Postgres, search: &Search, setup: Setup<'_>) -> Self {
        let database = postgres.fresh_database().await;
        let client = database.client().await;
        client.batch_execute(setup.sql).await.unwrap();
        let proxy = Proxy::before(search).await;
        let name = fresh_name("pair");
        let target = format!("nodes = [\"{}\"]\n{}{}", search.url(proxy.port), search.login(), setup.target);
        let config = configuration(&database, &name, &target, &setup);
        let mut rowtide = Rowtide::new(&config);
        search.be_trusted_by(&mut rowtide);
        let tables = setup.tables.iter().map(|&table| table.to_owned()).collect();
        Self { database, client, http: search.http.clone(), proxy, rowtide, config, name, tables }
    }

    /// As [`Self::set`] on the shared server, started and with its tables read.
    pub(crate) async fn filled(setup: Setup<'_>) -> Self {
        let mut pair = Self::set(Postgres::shared().await, setup).await;
        pair.rowtide.run_again();
        pair.wait_until_following().await;
        pair
    }

    /// The name of the publication, the slot and the database.
    pub(crate) fn slot(&self) -> &str {
        &self.database.name
    }

    /// The pipeline's name, and the state document's id.
    pub(crate) fn pipeline(&self) -> &str {
        &self.name
    }

    /// The alias of a table's documents.
    pub(crate) fn index(&self, table: &str) -> String {
        index(&self.name, table)
    }

    /// Follows these tables too from the next run on.
    pub(crate) fn add_table(&mut self, table: &str) {
        let section = table_section(&self.name, table);
        self.configure(&section);
        self.tables.push(table.to_owned());
    }

    /// Adds to the configuration, for the next run.
    pub(crate) fn configure(&mut self, text: &str) {
        self.config += text;
        self.rowtide.configure(text);
    }

    /// Runs SQL.
    pub(crate) async fn sql(&self, sql: &str) {
        self.client.batch_execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    }

    /// The first value of the answer as text.
    pub(crate) async fn ask(&self, sql: &str) -> String {
        let answer = self.client.simple_query(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
        let value = answer.iter().find_map(|message| match message {
            SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
            _ => None,
        });
        value.unwrap_or_else(|| panic!("no value: {sql}"))
    }

    /// Where the log ends.
    pub(crate) async fn log_end(&self) -> u64 {
        self.ask("SELECT pg_current_wal_insert_lsn() - '0/0'").await.parse().unwrap()
    }

    /// What was acknowledged to the slot.
    pub(crate) async fn confirmed(&self) -> u64 {
        let sql = format!(
            "SELECT confirmed_flush_lsn - '0/0' FROM pg_replication_slots WHERE slot_name = '{}'",
            self.slot()
        );
        self.ask(&sql).await.parse().unwrap()
    }

    /// Waits for the end of the first fill.
    pub(crate) async fn wait_until_following(&mut self) {
        self.rowtide.wait_for_line("\"state\":\"following\"", PATIENCE).await;
    }

    /// Waits until everything that is in the log now was acknowledged, and so every row that was read before.
    /// A row that was read after the log had been passed to its end stands before no acknowledgement but one of
    /// something newer: so there is something newer.
    pub(crate) async fn caught_up(&mut self) {
        self.caught_up_within(PATIENCE).await;
    }

    /// The same, where it may take longer.
    pub(crate) async fn caught_up_within(&mut self, limit: Duration) {
        self.sql("SELECT pg_logical_emit_message(true, 'rowtide', '')").await;
        let end = self.log_end().await;
        poll_until("the acknowledgement of all that was written", limit, async || {
            (self.confirmed().await >= end).then_some(())
        })
        .await;
        self.rowtide.assert_runs();
    }

    /// Documents of a table's index, after a refresh.
    pub(crate) async fn documents(&self, table: &str) -> u64 {
        self.http.count(&self.index(table), json!({ "match_all": {} })).await
    }

    /// Waits until the index of a table holds so many documents or more.
    pub(crate) async fn wait_for_documents_at_least(&mut self, table: &str, count: u64) {
        poll_until(&format!("{count} documents of {table} or more"), PATIENCE, async || {
            (self.documents(table).await >= count).then_some(())
        })
        .await;
    }

    /// Waits until the index of a table holds so many documents.
    pub(crate) async fn wait_for_documents(&mut self, table: &str, count: u64) {
        poll_until(&format!("{count} documents of {table}"), PATIENCE, async || {
            (self.documents(table).await == count).then_some(())
        })
        .await;
        self.rowtide.assert_runs();
    }

    /// A document with its version, in real time.
    pub(crate) async fn document(&self, table: &str, id: &str) -> Option<(Value, u64)> {
        self.http.document(&self.index(table), id).await
    }

    /// Waits until a document has this value in a field.
    pub(crate) async fn wait_for_value(&mut self, table: &str, id: &str, field: &str, value: Value) {
        poll_until(&format!("{field} = {value} in {table} {id}"), PATIENCE, async || {
            (self.document(table, id).await?.0[field] == value).then_some(())
        })
        .await;
        self.rowtide.assert_runs();
    }

    /// Waits until every index equals its table: DDL is noticed within some seconds.
    pub(crate) async fn become_equal(&mut self) {
        for table in self.tables.clone() {
            let name = format!("public.{table}");
            let rows = async || PostgresRows::open(self.database.client().await, &name).await;
            become_equal(&self.http, &self.index(&table), PATIENCE, rows).await;
        }
        self.rowtide.assert_runs();
        // And they stay so.
        self.caught_up().await;
        self.assert_equal().await;
    }

    /// Fails the test unless every index equals its table.
    pub(crate) async fn assert_equal(&self) {
        for table in &self.tables {
            let rows = PostgresRows::open(self.database.client().await, &format!("public.{table}")).await;
            let report = compare(&self.http, &self.index(table), rows).await;
            println!("{table}: {report}");
            report.assert_equal();
        }
    }

    /// SIGTERM: ends with 0, and law 6 adds up.
    pub(crate) fn stop(&mut self) {
        let (code, log) = self.rowtide.stop();
        assert_eq!(code, 0, "exit code after SIGTERM");
        Rowtide::final_counts(&log);
    }

    /// Waits until it has halted by itself with exit code 3, this state and a hint.
    pub(crate) fn assert_halts(&mut self, state: &str) -> Line {
        self.rowtide.allow("halted: a person must act");
        let (code, log) = self.rowtide.wait(PATIENCE);
        let line = log.iter().find(|line| line.message == "halted: a person must act");
        let line = line.unwrap_or_else(|| panic!("it did not halt: {log:#?}"));
        println!("{}", line.text);
        assert_eq!((code, line.fields["state"].as_str()), (3, Some(state)), "{}", line.text);
        assert!(line.fields["hint"].as_str().is_some_and(|hint| hint.len() > 10), "{}", line.text);
        line.clone()
    }

    /// Ends the server's process that sends the log.
    pub(crate) async fn cut_the_log(&self) {
        let sql = format!(
            "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = '{}'",
            self.slot()
        );
        assert_eq!(self.ask(&sql).await, "t");
    }
}

fn index(name: &str, table: &str) -> String {
    format!("{name}_{table}")
}

fn table_section(name: &str, table: &str) -> String {
    let index = index(name, table);
    format!("[pipelines.{name}.tables.\"public.{table}\"]\nindex = \"{index}\"\n")
}

fn configuration(database: &Database, name: &str, target: &str, setup: &Setup<'_>) -> String {
    let mut config = String::new();
    if !setup.memory.is_empty() {
        config += &format!("[memory]\n{}\n\n", setup.memory);
    }
    config += &format!("{}{}\n\n", database.source_section(), setup.source);
    config += &format!("[targets.search]\ntype = \"elasticsearch\"\n{target}\n\n");
    let named = match setup.second {
        None => "target = \"search\"".to_owned(),
        Some(port) => {
            let nodes = format!("nodes = [\"http://127.0.0.1:{port}\"]");
            config += &format!("[targets.second]\ntype = \"elasticsearch\"\n{nodes}\n{}\n\n", setup.target);
            "targets = [\"search\", \"second\"]".to_owned()
        }
    };
    config += &format!("[pipelines.{name}]\nsource = \"shop\"\n{named}\n");
    for table in setup.tables {
        config += &format!("{}{}\n", table_section(name, table), setup.table);
    }
    config
}
