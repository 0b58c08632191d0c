//! Rowtide's tests against real servers, in one binary. Each module here is a suite:
//! `cargo test --test main traps:: -- --test-threads=1`, or `scripts/test traps`.
//!
//! | environment | meaning | default |
//! |---|---|---|
//! | `ROWTIDE_SCALE` | `small` or `full` sizes | `small` |
//! | `ROWTIDE_SEED` | the seed of what is random; printed by each test that uses it | chosen by the clock |
//! | `ROWTIDE_SOAK_MINUTES` | how long `soak_servers` lasts | 1, in full size 30 |
//! | `ROWTIDE_BIN` | the program under test | the one that cargo built |
//! | `ROWTIDE_KEEP` | any value: keep the folders of servers and processes | removed |

// What the lints keep from the heart is what a test of the whole is made of: clocks, threads, panics.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods)]

mod attacks;
mod bad_input;
mod cli;
/// The suite that every source passes on its real server; run by the modules of the sources.
mod contract;
#[path = "contract/postgres.rs"]
mod contract_postgres;
#[path = "contract/postgres_15.rs"]
mod contract_postgres_15;
#[path = "contract/postgres_17.rs"]
mod contract_postgres_17;
#[path = "contract/targets.rs"]
mod contract_targets;
mod control;
mod docker_files;
mod failover;
#[allow(dead_code, reason = "a place to stand for suites that are still to come")]
mod harness;
mod memory;
mod postgres_tls;
mod simulation;
#[path = "contract/soak.rs"]
mod soak_servers;
mod targets;
mod traps;
