//! Memory under abuse (law 5): a thousand tables, rows of every size, a target that answers late, and
//! restarts with all of it pending. VmHWM of every life stays under `memory.max_rss`.
//!
//! ```text
//!   schema.rs   tables, rows of every size, and what must become of each
//!   abuse.rs    the lives of a process: filled, killed, stopped, the log pending, tailing
//!   bounds.rs   the largest documents that a configuration may allow, and keys to be read again
//! ```

mod abuse;
mod bounds;
mod schema;
