//! The laws by search: the real heart on simulated time, between a model database and a model target
//! whose every step is drawn from a seed.
//!
//! ```text
//!   Plan (acts, drawn or read) ─► Run ─► Executor: one poll after another, in a drawn order
//!                                  │      process: the real pipeline, lanes, ledger, lease, merge, queue
//!                                  │      outside: server, cluster, disk, network
//!                                  └─► the end: index == database, and what each law says
//! ```
//! - `ROWTIDE_SEED=n ROWTIDE_SEEDS=1` plays one seed; a failing one is shrunk and printed. Its text, as a
//!   file under `found/`, is a test by its name.
//! - [`mutants`] leaves one rule out at a time.

mod acts;
mod cluster;
#[path = "../../sources/merge/tests/database.rs"]
#[allow(dead_code, reason = "the merge's own tests use the rest")]
mod database;
mod env;
mod executor;
mod found;
mod mutants;
mod plan;
mod reader;
mod reads;
mod rules;
mod run;
mod search;
mod server;
mod shrink;
mod source;
mod store;
