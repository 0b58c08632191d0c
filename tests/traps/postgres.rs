//! What hurts those who follow PostgreSQL: the real program between a real PostgreSQL 18 and a real
//! Elasticsearch 8.

mod columns;
mod drops;
#[path = "../../sources/postgres/live/extremes.rs"]
mod extremes;
mod giant;
mod held;
mod history;
mod index;
mod letters;
mod partitions;
mod patterns;
mod published;
mod reads;
mod schema;
mod slot;
mod slot_versions;
mod stream;
mod types;

/// A table with a few rows.
const SMALL: &str = "CREATE TABLE t (id bigint PRIMARY KEY, n bigint NOT NULL);
    INSERT INTO t SELECT id, 0 FROM generate_series(1, 200) id;";
