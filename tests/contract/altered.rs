//! Tables change in mid-run: what DDL does has no event, and no row is lost, kept or changed by it.
//!
//! ```text
//!   load ─► run ─► writers ─► each alteration (backfill) ─► kill ─► the fill ends ─►
//!   ─► each alteration (tail), a kill after the third ─► quiet ─► equal ─► clean stop
//! ```
//! The alterations are the origin's ([`Altered`]); tables beside the suite's three come by a pattern.

use std::time::Duration;

use super::suite::{PATIENCE, Phase, Plan, Stage, allow_outages};
use super::writers::Writers;
use super::{Origin, TABLES, Tag};
use crate::harness::comparer::{become_equal, compare};
use crate::harness::servers::Engine;
use crate::harness::{poll_until, seed};

/// How the alterations are called, in their order.
pub(crate) const ALTERATIONS: [&str; 6] = [
    "a column is added",
    "a column is dropped",
    "a partition is attached with its rows",
    "a table is truncated",
    "a table joins under an open transaction",
    "a partition is detached",
];

/// An origin whose tables can be altered.
pub(crate) trait Altered: Origin {
    /// The pattern of the tables beside the three.
    const PATTERN: &'static str;

    /// Makes what the alterations need.
    async fn prepare(&self);

    /// Does the alteration of that number: in round 0 while the tables are filled, in 1 while they are
    /// followed.
    async fn alter(&self, number: usize, round: usize);

    /// Schema and name of the tables that match the pattern after both rounds.
    fn matching() -> Vec<(&'static str, &'static str)>;
}

/// The alias that the pattern gives to a table.
fn index(name: &str, schema: &str, table: &str) -> String {
    format!("{name}-{schema}-{table}")
}

/// The index ends equal to the source, whatever is altered meanwhile.
pub(crate) async fn equal_with_alterations<O: Altered>(engine: Engine, plan: Plan) {
    let seed = seed();
    let mut stage = Stage::<O>::set(engine, plan.chunk_rows, plan.bulk_count_max, seed).await;
    allow_outages(&mut stage.rowtide);
    stage.origin.prepare().await;
    let (name, alias) = (stage.name.clone(), index(&stage.name, "{schema}", "{table}"));
    let section = format!("[pipelines.{name}.tables.\"{}\"]\nindex = \"{alias}\"\n", O::PATTERN);
    stage.rowtide.configure(&section);
    stage.load(plan.rows, seed).await;

    // The fill lasts until the first round has passed.
    stage.proxy.delay_answers(Duration::from_millis(500));
    stage.rowtide.run_again();
    stage.wait_for_documents(1).await;
    let writers = Writers::start(&stage.origin, plan.rows, seed).await;
    writers.pause(Duration::from_millis(30));
    for round in 0..2 {
        for (number, what) in ALTERATIONS.into_iter().enumerate() {
            stage.origin.alter(number, round).await;
            let left = plan.calm_rows().saturating_sub(stage.documents(Tag::Calm).await);
            println!("round {round}: {what}; {left} calm rows were not yet in their index");
            if round == 0 && number == 0 {
                assert!(left > 0, "the fill had ended before the first alteration");
            }
            if round == 1 && number == 2 {
                stage.kill(Phase::Tail).await;
            }
        }
        if round == 0 {
            stage.kill(Phase::Backfill).await;
            stage.proxy.delay_answers(Duration::from_millis(100));
            poll_until("the end of the fill", PATIENCE, async || {
                (stage.documents(Tag::Calm).await == plan.calm_rows()).then_some(())
            })
            .await;
        }
    }
    println!("changes: {:?}", writers.stop().await);
    stage.quiesce().await;
    all_equal(&mut stage).await;
    stage.stop_cleanly();
    stage.assert_memory();
}

/// DDL is noticed within some seconds; what is equal stays so.
async fn all_equal<O: Altered>(stage: &mut Stage<O>) {
    let mut pairs: Vec<(String, String)> =
        (0..TABLES).map(|table| (stage.indices[table].clone(), stage.origin.table(table))).collect();
    for (schema, table) in O::matching() {
        pairs.push((index(&stage.name, schema, table), format!("{schema}.{table}")));
    }
    for (index, table) in &pairs {
        become_equal(&stage.search.http, index, PATIENCE, async || stage.origin.rows(table).await).await;
    }
    stage.quiesce().await;
    for (index, table) in &pairs {
        let report = compare(&stage.search.http, index, stage.origin.rows(table).await).await;
        println!("{table}: {report}");
        report.assert_equal();
    }
    stage.quiesce().await;
}
