//! A rolling restart: the nodes of a cluster go and come back one after the other, under writers.

use std::time::Duration;

use rustix::process::Signal;
use serde_json::json;

use crate::contract::suite::{PATIENCE, allow_outages, configuration};
use crate::contract::writers::Writers;
use crate::contract::{Origin, TABLES, Tag};
use crate::contract_postgres::PostgresOrigin;
use crate::harness::comparer::become_equal;
use crate::harness::rowtide::Rowtide;
use crate::harness::servers::{Engine, Search};
use crate::harness::{fresh_name, poll_until, seed};

/// One node of two is always there, but the cluster has no master while the only voting one restarts: Rowtide waits.
#[tokio::test(flavor = "multi_thread")]
async fn the_index_equals_the_source_after_a_rolling_restart_of_two_nodes() {
    let (seed, rows) = (seed(), [3_000; TABLES]);
    let origin = PostgresOrigin::<18>::start().await;
    for (table, count) in rows.into_iter().enumerate() {
        origin.load(table, 0..count, seed % (1 << 31)).await;
    }
    let cluster = Search::cluster(Engine::Elasticsearch9, 2).await;
    let name = fresh_name("rolling");
    let indices = ["items", "places", "things"].map(|table| format!("{name}_{table}"));
    let source = format!("{}chunk_rows = 250", origin.source_section(origin.port()));
    let nodes: Vec<String> = cluster.iter().map(|node| node.url(node.port())).collect();
    let config = configuration(&origin, &name, &indices, &source, (&nodes, "bulk_count_max = 200"));
    let mut rowtide = Rowtide::new(&config);
    allow_outages(&mut rowtide);
    rowtide.run_again();
    let writers = Writers::start(&origin, rows, seed).await;
    writers.pause(Duration::from_millis(30));
    for (number, node) in cluster.iter().enumerate() {
        let goal = writers.fewest() + 20;
        poll_until("changes", PATIENCE, async || (writers.fewest() >= goal).then_some(())).await;
        node.wait_until_green(2).await;
        // Each shard has a copy on the other node, or what was written to it would be gone with the node.
        let shards = format!("/_cat/shards/{name}*?format=json");
        poll_until("two copies of each shard", PATIENCE, async || {
            let shards = node.http.get(&shards).await;
            let copies = shards.as_array()?.iter().filter(|shard| shard["state"] == "STARTED").count();
            (copies == 2 * TABLES).then_some(())
        })
        .await;
        node.stop(Signal::TERM);
        tokio::time::sleep(Duration::from_secs(2)).await;
        rowtide.assert_runs();
        node.start_again().await;
        println!("node {number} was restarted; changes so far: {:?}", writers.counts());
    }
    cluster[0].wait_until_green(2).await;
    println!("changes: {:?}", writers.stop().await);
    origin.sentinel(2_000_000_000).await;
    let sentinels = json!({ "match": { "tag": Tag::Sentinel.word() } });
    let http = &cluster[0].http;
    poll_until("the sentinels", PATIENCE, async || {
        (http.count(&indices.join(","), sentinels.clone()).await == TABLES as u64).then_some(())
    })
    .await;
    for (table, index) in indices.iter().enumerate() {
        let table = origin.table(table);
        become_equal(http, index, PATIENCE, async || origin.rows(&table).await).await;
    }
    let (code, log) = rowtide.stop();
    let counts = Rowtide::final_counts(&log);
    println!("{counts:?}");
    assert_eq!((code, counts.ends["dead_lettered"]), (0, 0), "{counts:?}");
}
