//! `rowtide dead-letters list|show|retry|drop`: what the index refused, for people.
//!
//! ```text
//!   list, show    read the store beside whatever runs; bodies are printed by show alone
//!   retry, drop   take the data directory's lock: a process that runs knows its letters from its start on
//! ```

mod retry;
mod words;

use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;

use clap::{Args, Subcommand};
use sources::world::{RealWorld, SharedWorld};

use super::{Exit, load, with_runtime};
use crate::config::{Config, PipelineConfig};
use crate::retry::Halt;
use crate::shape::alias_of;
use crate::store::{Choice, KeptLetter, Sqlite, StoreError, Sum};

/// Letters that are looked up at once.
const PAGE: u32 = 200;
/// What `list` shows unless it is told otherwise.
const LISTED: u64 = 100;
/// What `show` shows unless it is told otherwise: bodies are long.
const SHOWN: u64 = 10;

#[derive(Args, Debug)]
pub(super) struct DeadLettersArgs {
    #[command(subcommand)]
    command: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Lists them, the oldest first, without their documents
    List(Chosen),
    /// Prints them with reason and document
    Show(Chosen),
    /// Sends them again as they were; those that are taken end. Nothing else may run on the data directory
    Retry(Chosen),
    /// Deletes them. Nothing else may run on the data directory
    Drop(DropArgs),
}

/// Which letters: those to which all of it applies.
#[derive(Args, Debug)]
struct Chosen {
    /// The configuration file (TOML)
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Of this pipeline
    #[arg(long, value_name = "NAME")]
    pipeline: Option<String>,
    /// Of this target
    #[arg(long, value_name = "NAME")]
    target: Option<String>,
    /// Of this table, as in public.products
    #[arg(long, value_name = "TABLE", conflicts_with = "index")]
    table: Option<String>,
    /// Of this index, by the alias in the configuration
    #[arg(long, value_name = "ALIAS")]
    index: Option<String>,
    /// Of the document with this id
    #[arg(long, value_name = "ID")]
    id: Option<String>,
    /// With this text in the reason
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// At most so many, the oldest first [default: list 100, show 10, else all]
    #[arg(long, value_name = "NUMBER")]
    limit: Option<u64>,
    /// One JSON object a line
    #[arg(long)]
    json: bool,
}

#[derive(Args, Debug)]
struct DropArgs {
    #[command(flatten)]
    chosen: Chosen,
    /// Delete them unasked
    #[arg(long)]
    yes: bool,
}

/// What a command works with.
struct Work {
    config: Config,
    world: SharedWorld,
    choice: Choice,
    limit: Option<u64>,
    json: bool,
}

/// Why a command came to no end.
enum Failed {
    /// A person must act.
    Halt(Halt),
    /// Nobody reads any more what is printed, or it cannot be.
    Output(io::Error),
}

impl From<Halt> for Failed {
    fn from(halt: Halt) -> Self {
        Self::Halt(halt)
    }
}

impl From<io::Error> for Failed {
    fn from(error: io::Error) -> Self {
        Self::Output(error)
    }
}

impl From<StoreError> for Failed {
    fn from(error: StoreError) -> Self {
        let is_locked = matches!(error, StoreError::Locked { .. });
        let mut halt = Halt::from(error);
        if is_locked {
            halt.hint =
                "stop it first, and start it again afterwards; list and show work beside it".to_owned();
        }
        Self::Halt(halt)
    }
}

/// Does what was asked.
pub(super) fn execute(args: DeadLettersArgs) -> Exit {
    let world = RealWorld::shared();
    let (chosen, yes) = match &args.command {
        What::List(chosen) | What::Show(chosen) | What::Retry(chosen) => (chosen, false),
        What::Drop(DropArgs { chosen, yes }) => (chosen, *yes),
    };
    let config = match load(&chosen.config, &world) {
        Ok(config) => config,
        Err(error) => {
            eprintln!("rowtide: {error}");
            return Exit::Configuration;
        }
    };
    let work = match chosen.judge(config, world) {
        Ok(work) => work,
        Err(wrong) => {
            eprintln!("rowtide: {wrong}");
            return Exit::Configuration;
        }
    };
    let ended = match &args.command {
        What::List(_) => run(list(&work, false)),
        What::Show(_) => run(list(&work, true)),
        What::Retry(_) => run(retry::retry(work)),
        What::Drop(_) => run(drop_them(&work, yes)),
    };
    match ended {
        Ok(exit) => exit,
        // As of `rowtide dead-letters list | head`.
        Err(Failed::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => Exit::Clean,
        Err(Failed::Output(error)) => {
            eprintln!("rowtide: print dead letters: {error}");
            Exit::Failed
        }
        Err(Failed::Halt(Halt { what, hint, .. })) => {
            eprintln!("refused: {what}\n    fix: {hint}");
            Exit::Halted
        }
    }
}

fn run(work: impl Future<Output = Result<Exit, Failed>>) -> Result<Exit, Failed> {
    let mut failed = None;
    let exit = with_runtime(async {
        work.await.unwrap_or_else(|error| {
            failed = Some(error);
            Exit::Failed
        })
    });
    failed.map_or(Ok(exit), Err)
}

impl Chosen {
    /// Names that the configuration does not have are slips. Only the chosen pipelines are left in it.
    fn judge(&self, mut config: Config, world: SharedWorld) -> Result<Work, String> {
        if let Some(wanted) = &self.pipeline {
            let names: Vec<String> = config.pipelines.iter().map(|one| one.settings.name.clone()).collect();
            config.pipelines.retain(|one| one.settings.name == *wanted);
            if config.pipelines.is_empty() {
                let names = names.join(", ");
                return Err(format!(
                    "there is no [pipelines.{wanted}] in this configuration; there is {names}"
                ));
            }
        }
        let index = match &self.table {
            Some(table) => Some(index_of(&mut config, table)?),
            None => self.index.clone(),
        };
        let pipeline = match &config.pipelines[..] {
            [only] => Some(only.settings.name.clone()),
            _ => None,
        };
        let (target, id, reason) = (self.target.clone(), self.id.clone(), self.reason.clone());
        let choice = Choice { pipeline, target, index, id, reason };
        Ok(Work { config, world, choice, limit: self.limit, json: self.json })
    }
}

/// The index of a table, whose pipeline alone is left in the configuration.
fn index_of(config: &mut Config, table: &str) -> Result<String, String> {
    let of = |one: &PipelineConfig| alias_of(&one.settings.tables, table);
    let found: Vec<(String, String)> =
        config.pipelines.iter().filter_map(|one| Some((one.settings.name.clone(), of(one)?))).collect();
    match &found[..] {
        [(pipeline, alias)] => {
            config.pipelines.retain(|one| one.settings.name == *pipeline);
            Ok(alias.clone())
        }
        [] => {
            let tables: Vec<&str> =
                config.pipelines.iter().flat_map(|one| &one.settings.tables).map(|one| &*one.table).collect();
            Err(format!("no table is called {table}; there are {}", tables.join(", ")))
        }
        all => {
            let names: Vec<&str> = all.iter().map(|(pipeline, _)| pipeline.as_str()).collect();
            Err(format!("the table {table} is in several pipelines: say --pipeline {}", names.join(" or ")))
        }
    }
}

/// `list`, and with the bodies `show`.
async fn list(work: &Work, with_bodies: bool) -> Result<Exit, Failed> {
    let mut out = io::BufWriter::new(io::stdout().lock());
    let Some(store) = Sqlite::look(&work.config.data_dir, &work.world)? else {
        return say_none(work, &mut out);
    };
    let sum = store.letters_sum(&work.choice).await?;
    let limit = work.limit.unwrap_or(if with_bodies { SHOWN } else { LISTED });
    let (mut after, mut shown) = (i64::MIN, 0);
    while shown < limit {
        let most = (limit - shown).min(u64::from(PAGE)) as u32;
        let page = store.letters_page(&work.choice, after, i64::MAX, most).await?;
        let Some(last) = page.last() else { break };
        after = last.number;
        shown += page.len() as u64;
        for letter in &page {
            let body = match with_bodies {
                true => store.letter_body(letter.number).await?,
                false => None,
            };
            print(&mut out, work, letter, with_bodies.then_some(body))?;
        }
    }
    if !work.json {
        match shown {
            0 => return say_none(work, &mut out),
            _ => writeln!(out, "{}", words::shown(shown, sum))?,
        }
    }
    out.flush()?;
    Ok(Exit::Clean)
}

/// `body` is `None` in a list, and `Some(None)` for a letter without one.
fn print(
    out: &mut impl Write,
    work: &Work,
    letter: &KeptLetter,
    body: Option<Option<Vec<u8>>>,
) -> io::Result<()> {
    match (work.json, body) {
        (true, body) => writeln!(out, "{}", words::json(letter, body.as_ref().map(Option::as_deref))),
        (false, None) => writeln!(out, "{}", words::line(letter)),
        (false, Some(body)) => writeln!(out, "{}", words::whole(letter, body.as_deref())),
    }
}

fn say_none(work: &Work, out: &mut impl Write) -> Result<Exit, Failed> {
    if !work.json {
        writeln!(out, "there are no such dead letters")?;
    }
    out.flush()?;
    Ok(Exit::Clean)
}

/// Deletes those that were counted before a person was asked, and none that came later.
async fn drop_them(work: &Work, yes: bool) -> Result<Exit, Failed> {
    let mut out = io::stdout().lock();
    let Some(store) = Sqlite::open_existing(&work.config.data_dir, &work.world)? else {
        return say_none(work, &mut out);
    };
    let limit = work.limit.unwrap_or(u64::MAX);
    let sum = store.letters_sum(&work.choice).await?;
    let count = sum.count.min(limit);
    if count == 0 {
        return say_none(work, &mut out);
    }
    if !yes && !is_allowed(count, sum)? {
        return Err(Failed::Halt(Halt {
            state: "dead-letters",
            what: format!("{} would be deleted", words::letters(count)),
            hint: "look at them first, or say --yes".to_owned(),
        }));
    }
    let gone = store.drop_letters(&work.choice, sum.newest, limit).await?;
    match work.json {
        true => writeln!(out, "{}", serde_json::json!({ "dropped": gone }))?,
        false => writeln!(out, "{} deleted", words::letters(gone))?,
    }
    Ok(Exit::Clean)
}

/// Asks, where somebody is there to answer.
fn is_allowed(count: u64, sum: Sum) -> io::Result<bool> {
    if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
        return Ok(false);
    }
    eprint!("{} of {} would be deleted for good. Delete? [y/N] ", words::letters(count), sum.count);
    let mut answer = String::new();
    io::stdin().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}
