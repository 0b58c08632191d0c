//! The suite's main promise on one search server for every change; `contract_targets` has the others.

use crate::contract::suite::{Plan, equal_after_kills};
use crate::contract_postgres::PostgresOrigin;
use crate::harness::servers::Engine;

#[tokio::test(flavor = "multi_thread")]
async fn the_index_equals_the_source_after_kills_on_opensearch_3() {
    equal_after_kills::<PostgresOrigin>(Engine::OpenSearch3, Plan::of_scale()).await;
}
