//! The suite's main promise on each search server but OpenSearch 3, which `targets` has for every change. Run by
//! `scripts/soak targets`.

use crate::contract::suite::{Plan, equal_after_kills};
use crate::contract_postgres::PostgresOrigin;
use crate::harness::servers::Engine;

async fn equal_on(engine: Engine) {
    equal_after_kills::<PostgresOrigin>(engine, Plan::of_scale()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_index_equals_the_source_after_kills_on_elasticsearch_7() {
    equal_on(Engine::Elasticsearch7).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_index_equals_the_source_after_kills_on_elasticsearch_8() {
    equal_on(Engine::Elasticsearch8).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_index_equals_the_source_after_kills_on_elasticsearch_9() {
    equal_on(Engine::Elasticsearch9).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_index_equals_the_source_after_kills_on_opensearch_2() {
    equal_on(Engine::OpenSearch2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_index_equals_the_source_after_kills_on_a_secured_elasticsearch() {
    equal_on(Engine::Elasticsearch8Secured).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_index_equals_the_source_after_kills_on_a_secured_opensearch() {
    equal_on(Engine::OpenSearch2Secured).await;
}
