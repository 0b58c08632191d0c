//! The command line: what a person types, and what the process says when it ends.

mod bars;
mod channel;
mod check;
mod dead_letters;
mod init;
mod remove;
mod report;
mod run;
mod status;
mod taking;
mod words;

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};
use sources::world::{RealWorld, SharedWorld};
use tracing::error;

use crate::config::{self, Config, ConfigError, Environment, Place};
use crate::telemetry::{self, Form, field};

/// Keeps Elasticsearch and OpenSearch indices equal to a database.
#[derive(Debug, Parser)]
#[command(name = "rowtide", version, arg_required_else_help = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Writes a first configuration for the tables of a database; changes nothing
    Init(init::InitArgs),
    /// Fills the indices, then follows the database until it is told to stop (SIGTERM, Ctrl-C)
    Run(RunArgs),
    /// Says everything that is missing, each with what mends it; changes nothing
    Check(CheckArgs),
    /// What every pipeline does; where nothing runs, what is kept of it
    Status(status::StatusArgs),
    /// Sends nothing to the targets of a pipeline until it is resumed
    Pause(channel::NamedArgs),
    /// Ends a pause
    Resume(channel::NamedArgs),
    /// Sets how fast a pipeline sends, while it runs
    Throttle(channel::ThrottleArgs),
    /// Starts a pipeline of a running process again, one that has halted too
    Restart(channel::NamedArgs),
    /// Takes down what a retired source holds: slot, publication, state, and the index if told so
    Remove(RemoveArgs),
    /// Lists, shows, sends again or deletes the documents that an index refused
    DeadLetters(dead_letters::DeadLettersArgs),
}

#[derive(Args, Debug)]
struct RunArgs {
    /// The configuration file (TOML)
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// The form of logs on stderr; auto: bars on a terminal, JSON lines elsewhere
    #[arg(long, value_enum, default_value_t = Log::Auto)]
    log: Log,
}

#[derive(Args, Debug)]
struct CheckArgs {
    /// The configuration file (TOML)
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

#[derive(Args, Debug)]
struct RemoveArgs {
    /// The source, as in [sources.SOURCE]
    source: String,
    /// The configuration file (TOML)
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Delete the indices that Rowtide made for it, too
    #[arg(long)]
    delete_index: bool,
    /// Delete dead letters unasked
    #[arg(long)]
    yes: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Log {
    Auto,
    Json,
    Text,
}

/// What the process's exit code means; of several, a later one is worse.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Exit {
    /// A clean end, after a signal too.
    Clean = 0,
    /// An unexpected failure.
    Failed = 1,
    /// The configuration or the command line is wrong.
    Configuration = 2,
    /// A person must act; the message has a hint.
    Halted = 3,
    /// `check` found something missing.
    Missing = 4,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        ExitCode::from(exit as u8)
    }
}

/// Threads that run the pipeline: one core reads and renders, one talks; more than four only wait.
const WORKERS_MAX: usize = 4;

/// Does what was asked.
pub fn execute(cli: Cli) -> ExitCode {
    match cli.command {
        Command::Run(args) => execute_run(&args),
        Command::Check(args) => execute_check(&args),
        Command::Init(args) => with_runtime(init::init(&args, RealWorld::shared())),
        Command::Remove(args) => execute_remove(&args),
        Command::DeadLetters(args) => dead_letters::execute(args),
        Command::Status(args) => status::execute(&args),
        Command::Pause(args) => channel::pause(&args),
        Command::Resume(args) => channel::resume(&args),
        Command::Throttle(args) => channel::throttle(&args),
        Command::Restart(args) => channel::restart(&args),
    }
    .into()
}

fn execute_run(args: &RunArgs) -> Exit {
    let on_terminal = std::io::stderr().is_terminal();
    let form = match args.log {
        Log::Json => Form::Json,
        Log::Text => Form::Text,
        Log::Auto if on_terminal => Form::Text,
        Log::Auto => Form::Json,
    };
    let bars = (on_terminal && args.log == Log::Auto).then(bars::Bars::new);
    let filter = std::env::var("RUST_LOG").ok();
    let started = match &bars {
        Some(bars) => telemetry::init(form, true, filter.as_deref(), bars.writer()),
        None => telemetry::init(form, on_terminal, filter.as_deref(), std::io::stderr),
    };
    if let Err(error) = started {
        eprintln!("rowtide: {error}");
        return Exit::Configuration;
    }
    let world = RealWorld::shared();
    let config = match load(&args.config, &world) {
        Ok(config) => config,
        Err(error) => {
            match form {
                Form::Text => eprintln!("rowtide: {error}"),
                Form::Json => log_problems(&error),
            }
            return Exit::Configuration;
        }
    };
    with_runtime(run::run(config, world, bars))
}

fn execute_check(args: &CheckArgs) -> Exit {
    let world = RealWorld::shared();
    match load(&args.config, &world) {
        Ok(config) => with_runtime(check::check(config, world)),
        Err(error) => {
            eprintln!("rowtide: {error}");
            Exit::Configuration
        }
    }
}

fn execute_remove(args: &RemoveArgs) -> Exit {
    let world = RealWorld::shared();
    match load(&args.config, &world) {
        Ok(config) => {
            let RemoveArgs { source, delete_index, yes, .. } = args;
            with_runtime(remove::remove(
                config,
                source,
                remove::Told { delete_index: *delete_index, yes: *yes },
                world,
            ))
        }
        Err(error) => {
            eprintln!("rowtide: {error}");
            Exit::Configuration
        }
    }
}

fn load(file: &Path, world: &SharedWorld) -> Result<Config, ConfigError> {
    config::load(file, &environment(), &sources::makes(), world)
}

/// What is no Unicode cannot be meant for a TOML file; it counts as not set.
fn environment() -> Environment {
    let unicode = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    unicode.collect()
}

/// One line each, where a machine reads.
fn log_problems(error: &ConfigError) {
    let ConfigError::Wrong { file, problems } = error else {
        error!({ field::ERROR } = %error, "configuration cannot be read");
        return;
    };
    for problem in problems.iter() {
        let (line, variable) = match &problem.place {
            Place::Line(line) => (Some(*line), None),
            Place::Variable(name) => (None, Some(name.as_str())),
        };
        error!(
            { field::FILE } = %file.display(),
            { field::LINE } = line,
            variable,
            { field::KEY } = problem.key,
            { field::ERROR } = problem.what,
            { field::FIX } = problem.fix,
            "configuration is wrong"
        );
    }
}

fn with_runtime(work: impl Future<Output = Exit>) -> Exit {
    let cores = std::thread::available_parallelism().map_or(2, usize::from);
    let workers = cores.min(WORKERS_MAX);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(workers).enable_all().build();
    match runtime {
        Ok(runtime) => runtime.block_on(work),
        Err(error) => {
            eprintln!("rowtide: start the runtime: {error}");
            Exit::Failed
        }
    }
}
