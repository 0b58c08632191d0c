//! Several targets on one pipeline, of different versions: each has all, and the slowest sets the pace.

use std::time::Duration;

use rusqlite::Connection;
use serde_json::json;

use crate::harness::comparer::{become_equal, compare};
use crate::harness::http::Http;
use crate::harness::pair::{PATIENCE, Pair, Setup};
use crate::harness::poll_until;
use crate::harness::postgres_rows::PostgresRows;
use crate::harness::proxy::Proxy;
use crate::harness::servers::{Engine, Postgres, Search};

const TABLES: &str = "CREATE TABLE t (id bigint PRIMARY KEY, n bigint NOT NULL, doc json);
    INSERT INTO t SELECT id, 0, '{}' FROM generate_series(1, 2000) id;
    CREATE TABLE emptied (id bigint PRIMARY KEY, n bigint NOT NULL);
    INSERT INTO emptied SELECT id, 0 FROM generate_series(1, 300) id;";

/// A pair whose second target is an OpenSearch behind a proxy of its own.
struct Two {
    pair: Pair,
    proxy: Proxy,
    http: Http,
}

impl Two {
    async fn set() -> Self {
        let second = Search::shared(Engine::OpenSearch2).await;
        let proxy = Proxy::start(second.port()).await;
        let setup =
            Setup { sql: TABLES, tables: &["t", "emptied"], second: Some(proxy.port), ..Setup::default() };
        let mut pair = Pair::set(Postgres::shared().await, setup).await;
        for message in ["could not renew the lease", "the end was not clean", "answers are still missing"] {
            pair.rowtide.allow(&format!("\"message\":\"{message}"));
        }
        Self { pair, proxy, http: second.http.clone() }
    }

    async fn rows(&self, table: &str) -> PostgresRows {
        PostgresRows::open(self.pair.database.client().await, &format!("public.{table}")).await
    }

    /// Both become equal to the source, and say the same version of each document.
    async fn become_equal(&mut self) {
        for table in ["t", "emptied"] {
            let index = self.pair.index(table);
            for http in [&self.pair.http, &self.http] {
                become_equal(http, &index, PATIENCE, async || self.rows(table).await).await;
            }
        }
        self.pair.caught_up().await;
        for table in ["t", "emptied"] {
            for http in [&self.pair.http, &self.http] {
                let report = compare(http, &self.pair.index(table), self.rows(table).await).await;
                println!("{table}: {report}");
                report.assert_equal();
            }
        }
        for id in ["1", "1000", "2000"] {
            let index = self.pair.index("t");
            let (first, second) =
                (self.pair.http.document(&index, id).await, self.http.document(&index, id).await);
            assert_eq!(first, second, "one version for both");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn t01_every_target_has_all_and_nothing_is_acknowledged_before_the_last_one_has_it() {
    let mut two = Two::set().await;
    two.pair.rowtide.run_again();
    two.pair.wait_until_following().await;
    two.become_equal().await;

    // The second one is away: the first goes on, the source is told nothing.
    two.proxy.cut(true);
    let before = two.pair.log_end().await;
    two.pair.sql("UPDATE t SET n = 1 WHERE id <= 1000; DELETE FROM t WHERE id = 1500").await;
    let index = two.pair.index("t");
    let query = json!({ "term": { "n": 1 } });
    poll_until("the first target to have it", PATIENCE, async || {
        (two.pair.http.count(&index, query.clone()).await == 1000).then_some(())
    })
    .await;
    two.pair.rowtide.wait_for_line("second: ", PATIENCE).await;
    let end = two.pair.log_end().await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let confirmed = two.pair.confirmed().await;
    assert!(confirmed < end && end > before, "{confirmed} was acknowledged, {end} is not everywhere");

    // What the first has and the second lacks outlives a kill.
    two.pair.rowtide.kill();
    two.pair
        .sql("UPDATE t SET n = 2 WHERE id > 1900; TRUNCATE emptied; INSERT INTO emptied VALUES (7, 7)")
        .await;
    two.proxy.cut(false);
    two.pair.rowtide.run_again();
    two.become_equal().await;
    two.pair.stop();

    // After a clean stop nothing is sent again to either.
    let sent = (two.pair.proxy.documents(), two.proxy.documents());
    two.pair.rowtide.run_again();
    two.pair.wait_until_following().await;
    two.pair.sql("UPDATE t SET n = 3 WHERE id = 1").await;
    two.become_equal().await;
    assert_eq!((two.pair.proxy.documents(), two.proxy.documents()), (sent.0 + 1, sent.1 + 1));
    two.pair.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn t32_a_letter_is_of_the_target_that_refused_its_document() {
    let mut two = Two::set().await;
    two.pair.rowtide.run_again();
    two.pair.wait_until_following().await;
    // Both refuse a key that is there twice; one of them has not been asked yet.
    two.proxy.cut(true);
    two.pair.sql("INSERT INTO t VALUES (9001, 1, '{\"a\": 1, \"a\": 2}'), (9002, 1, '{}')").await;
    let letters = |two: &Two| {
        let store = Connection::open(two.pair.rowtide.folder.join("data/rowtide.sqlite")).unwrap();
        let mut select =
            store.prepare("SELECT pipeline, id FROM dead_letters ORDER BY id, pipeline").unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        let rows = select.query_map([], |row| Ok((row.get::<_, String>(0)?, text(row.get(1)?))));
        rows.unwrap().map(Result::unwrap).collect::<Vec<_>>()
    };
    let (first, second) =
        (format!("{}/search", two.pair.pipeline()), format!("{}/second", two.pair.pipeline()));
    let wanted = [(first, "9001".to_owned()), (second, "9001".to_owned())];
    poll_until("the first one's letter", PATIENCE, async || (letters(&two) == wanted[..1]).then_some(()))
        .await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(letters(&two), wanted[..1]);
    two.proxy.cut(false);
    poll_until("a letter for each", PATIENCE, async || (letters(&two) == wanted).then_some(())).await;
    two.pair.sql("UPDATE t SET doc = '{}' WHERE id = 9001").await;
    poll_until("no letter", PATIENCE, async || letters(&two).is_empty().then_some(())).await;
    two.become_equal().await;
    two.pair.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_joins_later_is_not_taken_for_a_full_one() {
    let mut two = Two::set().await;
    let both = two.pair.config.clone();
    let one = both
        .replace("targets = [\"search\", \"second\"]", "target = \"search\"")
        .replace("[targets.second]", "[targets.unused]");
    let cut = one.find("[targets.unused]").unwrap();
    let one = format!("{}{}", &one[..cut], &one[one[cut..].find("[pipelines").unwrap() + cut..]);
    two.pair.rowtide.replace_configuration(&one);
    two.pair.rowtide.run_again();
    two.pair.wait_until_following().await;
    two.pair.caught_up().await;
    two.pair.stop();

    two.pair.rowtide.replace_configuration(&both);
    two.pair.rowtide.run_again();
    let line = two.pair.assert_halts("target-new");
    assert!(line.text.contains("the target second"), "{}", line.text);
    let index = two.pair.index("t");
    assert_eq!(two.http.count(&index, json!({ "match_all": {} })).await, 0, "nothing was made there");

    // Without it the pipeline goes on as if nothing had been.
    two.pair.rowtide.replace_configuration(&one);
    two.pair.rowtide.run_again();
    two.pair.sql("UPDATE t SET n = 5 WHERE id = 5").await;
    two.pair.caught_up().await;
    two.pair.assert_equal().await;
    two.pair.stop();
}
