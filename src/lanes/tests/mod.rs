#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod controls;
mod faults;
mod limit;
mod order;
mod pending;
mod random;
mod rig;
mod sizes;
