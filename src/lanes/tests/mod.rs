#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod faults;
mod order;
mod random;
mod rig;
