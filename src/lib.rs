//! Rowtide's application: everything right of the queue.

pub mod cli;
pub mod config;
pub mod control;
pub mod controls;
pub mod dead_letters;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
pub mod lanes;
pub mod lease;
pub mod ledger;
pub mod memory;
pub mod pipeline;
pub mod resend;
pub mod retry;
pub mod shape;
pub mod status;
pub mod store;
pub mod supervisor;
pub mod target;
pub mod telemetry;
