//! Each search server that Rowtide is for. Elasticsearch 8 and OpenSearch 2 are those of most other suites; here are
//! the rest, and what needs a server of its own.
//!
//! | | the contract suite | T29 to T35, T45 |
//! |---|---|---|
//! | Elasticsearch 7 and 9 | `scripts/soak targets` | here |
//! | OpenSearch 3 | here | here |
//! | Elasticsearch 8, OpenSearch 2 | `scripts/soak targets` | `traps` |
//! | both with logins and TLS | `scripts/soak targets` | |

mod contract;
mod documents;
mod index_setup;
mod limits;
mod pages;
mod rolling;
mod secured;
mod several;

mod elasticsearch_7 {
    crate::traps::elasticsearch::tests_on!([crate::harness::servers::Engine::Elasticsearch7]);
}

mod elasticsearch_9 {
    crate::traps::elasticsearch::tests_on!([crate::harness::servers::Engine::Elasticsearch9]);
}

mod opensearch_3 {
    crate::traps::elasticsearch::tests_on!([crate::harness::servers::Engine::OpenSearch3]);
}
