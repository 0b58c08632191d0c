//! What hurt everyone before: a test for each trap, named by its number.

pub(crate) mod elasticsearch;
mod postgres;
