//! The suite on PostgreSQL 15. 18 is run for every change, this one by `scripts/soak contract-postgres-15`.

use crate::contract::altered::equal_with_alterations;
use crate::contract::faulty::equal_with_every_fault;
use crate::contract::suite::{Plan, bounded_with_a_slow_target, equal_after_kills};
use crate::contract_postgres::PostgresOrigin;
use crate::harness::servers::Engine;

#[tokio::test(flavor = "multi_thread")]
async fn the_index_equals_the_source_after_kills() {
    equal_after_kills::<PostgresOrigin<15>>(Engine::Elasticsearch8, Plan::of_scale()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_index_equals_the_source_with_every_fault_on_every_connection() {
    equal_with_every_fault::<PostgresOrigin<15>>(Engine::Elasticsearch8).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_stays_bounded_with_a_slow_target() {
    bounded_with_a_slow_target::<PostgresOrigin<15>>(Engine::Elasticsearch8).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_index_equals_the_source_with_its_tables_altered() {
    equal_with_alterations::<PostgresOrigin<15>>(Engine::Elasticsearch8, Plan::of_scale()).await;
}
