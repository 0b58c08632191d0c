//! The `rowtide` program.

fn main() {}
