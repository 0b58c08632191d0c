//! The `rowtide` program.

use std::process::ExitCode;

use clap::Parser;
use rowtide::cli::{self, Cli};

/// It gives freed memory back within half a second (its settings are in `.cargo/config.toml`), and
/// law 5 counts what is resident.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    let cli = Cli::parse();
    // Before any connection, so that no other TLS provider is asked for.
    if rustls::crypto::ring::default_provider().install_default().is_err() {
        eprintln!("rowtide: another TLS provider is installed");
        return ExitCode::FAILURE;
    }
    cli::execute(cli)
}
