//! Rowtide's application: everything right of the queue.

pub mod retry;
pub mod target;
