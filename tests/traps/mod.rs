//! What hurt everyone before: a test for each trap, named by its number.

mod elasticsearch;
mod index_setup;
mod postgres;
