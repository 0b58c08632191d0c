//! Rowtide's application: everything right of the queue.

pub mod config;
pub mod dead_letters;
pub mod lanes;
pub mod ledger;
pub mod retry;
pub mod store;
pub mod target;
