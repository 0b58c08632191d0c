//! `rowtide status`: what every pipeline does, from the running process; and what is kept of it where nothing runs
//! or nobody listens.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use reqwest::Method;
use serde_json::{Value, json};
use sources::world::RealWorld;

use super::channel::{AskError, ask, fail, open, rates};
use super::{Exit, with_runtime, words};
use crate::config::{Config, PipelineConfig};
use crate::control::wire;
use crate::store::{self, Looked, StoreError};

#[derive(Args, Debug)]
pub(super) struct StatusArgs {
    /// The configuration file (TOML)
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// One JSON object, for programs
    #[arg(long)]
    json: bool,
}

pub(super) fn execute(args: &StatusArgs) -> Exit {
    let config = match open(&args.config) {
        Ok(config) => config,
        Err(exit) => return exit,
    };
    with_runtime(async {
        if let Some(http) = &config.http {
            match ask::<wire::Pipelines>(http, Method::GET, "/api/v1/pipelines", None).await {
                Ok(pipelines) => return show(&pipelines, args.json),
                Err(AskError::Nobody(_)) => {}
                Err(error) => return fail(&error.to_string()),
            }
        }
        match kept(&config) {
            Ok(kept) => {
                show_kept(&kept, store::is_in_use(&config.data_dir), args.json);
                Exit::Clean
            }
            Err(error) => fail(&error.to_string()),
        }
    })
}

fn show(pipelines: &wire::Pipelines, json: bool) -> Exit {
    if json {
        return match serde_json::to_value(pipelines) {
            Ok(Value::Object(mut object)) => {
                object.insert("running".to_owned(), Value::Bool(true));
                println!("{}", Value::Object(object));
                Exit::Clean
            }
            _ => fail("the answer is no object"),
        };
    }
    let wire::Process { version, uptime_seconds, rss_bytes, max_rss_bytes } = &pipelines.process;
    println!(
        "rowtide {version}, up {}, memory {} of {}",
        words::time(Duration::from_secs(*uptime_seconds)),
        words::bytes(*rss_bytes),
        words::bytes(*max_rss_bytes)
    );
    pipelines.pipelines.iter().for_each(|pipeline| print!("{}", lines(pipeline)));
    Exit::Clean
}

/// One pipeline, for people.
fn lines(pipeline: &wire::Pipeline) -> String {
    let mut lines = vec![match &pipeline.reason {
        Some(reason) => format!("{}: {} ({reason})", pipeline.name, pipeline.state),
        None => format!("{}: {}", pipeline.name, pipeline.state),
    }];
    let seconds = |seconds: f64| words::time(Duration::try_from_secs_f64(seconds).unwrap_or_default());
    let lag = pipeline.lag_seconds.map_or_else(|| "not known yet".to_owned(), seconds);
    lines.push(format!("lag {lag}, {} of log", words::bytes(pipeline.lag_bytes)));
    let (documents, bytes) = (pipeline.documents_per_s.round() as u64, pipeline.bytes_per_s as u64);
    let limit = rates(&pipeline.throttle);
    lines.push(format!("{} changes/s, {}/s, {limit}", words::count(documents), words::bytes(bytes)));
    let wire::Memory { used_bytes, limit_bytes, .. } = pipeline.memory;
    lines.push(format!("budget {} of {}", words::bytes(used_bytes), words::bytes(limit_bytes)));
    if let Some(age) = pipeline.checkpoint_age_seconds {
        lines.push(format!("last checkpoint {} ago", seconds(age)));
    }
    let wire::Backfill { done, tables_total, tables_done, tables, .. } = &pipeline.backfill;
    if !done && *tables_total > 0 {
        lines.push(format!("{tables_done} of {tables_total} tables read"));
        for wire::Table { name, rows_read, rows_estimated, .. } in tables.iter().filter(|table| !table.done) {
            let (rows, all) = (words::count(*rows_read), words::count(*rows_estimated));
            lines.push(format!("  {name}: {rows} of about {all} rows"));
        }
    }
    for wire::Target { name, waiting_for, changes, dead_letters } in &pipeline.targets {
        let (written, flight) = (words::count(changes.written), words::count(changes.in_flight));
        let letters = words::count(*dead_letters);
        let waits = waiting_for.as_ref().map(|why| format!("; waits for {why}")).unwrap_or_default();
        lines.push(format!("{name}: {written} written, {flight} in flight, {letters} dead letters{waits}"));
    }
    lines.join("\n    ") + "\n"
}

/// What the store says of a pipeline.
struct Kept {
    name: String,
    targets: Vec<String>,
    looked: Looked,
}

fn kept(config: &Config) -> Result<Vec<Kept>, StoreError> {
    let one = |pipeline: &PipelineConfig| {
        let name = pipeline.settings.name.clone();
        let targets: Vec<String> = pipeline.targets.iter().map(|target| target.name.clone()).collect();
        let looked = store::look(&config.data_dir, &name, &targets)?.unwrap_or_default();
        Ok(Kept { name, targets, looked })
    };
    config.pipelines.iter().map(one).collect()
}

fn show_kept(kept: &[Kept], running: bool, json: bool) {
    if json {
        let pipelines: Vec<Value> = kept.iter().map(Kept::json).collect();
        println!("{}", json!({ "running": running, "pipelines": pipelines }));
        return;
    }
    kept.iter().for_each(|one| one.print(running));
}

impl Kept {
    fn age(&self) -> Option<u64> {
        let now = RealWorld::shared().unix_seconds();
        self.looked.checkpoint_unix_seconds.map(|at| now.saturating_sub(at))
    }

    /// Each target with its dead letters.
    fn letters(&self) -> impl Iterator<Item = (&String, &u64)> {
        self.targets.iter().zip(self.looked.dead_letters.iter().chain(std::iter::repeat(&0)))
    }

    fn json(&self) -> Value {
        let target = |(name, count)| json!({ "name": name, "dead_letters": count });
        json!({
            "name": self.name,
            "has_checkpoint": self.looked.has_checkpoint,
            "checkpoint_age_seconds": self.age(),
            "ended_cleanly": self.looked.clean,
            "targets": self.letters().map(target).collect::<Vec<Value>>(),
        })
    }

    fn print(&self, running: bool) {
        let (name, Looked { has_checkpoint, clean, .. }) = (&self.name, &self.looked);
        match running {
            true => println!("{name}: running; without [http] only what it keeps can be told"),
            false => println!("{name}: not running"),
        }
        match (has_checkpoint, self.age()) {
            (false, _) => println!("    no checkpoint: it has read nothing yet"),
            (true, None) => println!("    a checkpoint, of an older Rowtide: its age is not known"),
            (true, Some(age)) => {
                println!("    last checkpoint {} ago", words::time(Duration::from_secs(age)))
            }
        }
        if *has_checkpoint && !running {
            println!("    {}", if *clean { "ended with everything written" } else { "ended with work left" });
        }
        self.letters()
            .for_each(|(name, count)| println!("    {name}: {} dead letters", words::count(*count)));
    }
}
