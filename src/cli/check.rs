//! `rowtide check`: everything that is missing, each with what mends it; then what is only advised, which
//! changes no exit code.

use std::time::Duration;

use sources::source::{Checked, Finding, SourceError};
use sources::world::{SharedWorld, within};

use super::Exit;
use crate::config::{Config, Existing, PipelineConfig, PipelineSettings, TargetSettings};
use crate::pipeline::judge_odd;
use crate::shape::{Shape, ShapeError};
use crate::target::elasticsearch::Elasticsearch;
use crate::target::{IndexState, Target, TargetError};

/// A server that has not answered by then counts as unreachable.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);

/// A side that was asked, and what it lacks.
type Found = (String, Finding);

/// Asks both sides of every pipeline and prints what they lack.
pub(super) async fn check(config: Config, world: SharedWorld) -> Exit {
    let (mut missing, mut advised) = (Vec::new(), Vec::new());
    for pipeline in &config.pipelines {
        let (lacks, could_have) = ask(pipeline, &world).await;
        // What two pipelines share lacks the same for both.
        lacks.into_iter().for_each(|found| {
            if !missing.contains(&found) {
                missing.push(found)
            }
        });
        could_have.into_iter().for_each(|found| {
            if !advised.contains(&found) {
                advised.push(found)
            }
        });
    }
    print(&missing, &advised)
}

/// What a pipeline lacks, and what is advised.
async fn ask(config: &PipelineConfig, world: &SharedWorld) -> (Vec<Found>, Vec<Found>) {
    let PipelineConfig { source, targets, settings, .. } = config;
    let asked = asked_source(within(&**world, ANSWER_WITHIN, source.source.check()).await);
    let mut of_targets = Vec::new();
    for target in targets {
        let findings = ask_target(target, settings, world).await;
        of_targets.extend(findings.into_iter().map(|finding| (format!("target {}", target.name), finding)));
    }
    let shapes = Shape::faults(&settings.tables, &asked.tables).into_iter().map(|fault| {
        let ShapeError { table, what, fix } = fault;
        Finding { what: format!("{table}: {what}"), fix }
    });
    let side = |side: String, findings: Vec<Finding>| {
        findings.into_iter().map(move |finding| (side.clone(), finding))
    };
    let named = format!("source {}", source.name);
    let missing = side(named.clone(), asked.missing)
        .chain(side(format!("pipeline {}", settings.name), shapes.collect()))
        .chain(of_targets);
    (missing.collect(), side(named, asked.advised).collect())
}

/// Whether the target answers, lets this user in, and has room under each alias.
async fn ask_target(
    settings: &TargetSettings,
    pipeline: &PipelineSettings,
    world: &SharedWorld,
) -> Vec<Finding> {
    let target = match Elasticsearch::new(settings.client_settings(), world.clone()) {
        Ok(target) => target,
        Err(error) => return vec![target_finding(error)],
    };
    let mut findings = Vec::new();
    match within(&**world, ANSWER_WITHIN, target.look()).await {
        Some(Ok(None)) => {}
        Some(Ok(Some(what))) => {
            let fix = "try your own use of it before you rely on it".to_owned();
            say(&format!("target {}", settings.name), "advice: ", &Finding { what, fix });
        }
        Some(Err(error)) => return vec![target_finding(error)],
        None => return vec![unanswered()],
    }
    // What a pattern matches is known when it runs.
    for table in pipeline.tables.iter().filter(|table| !sources::pattern::is_pattern(&table.table)) {
        match within(&**world, ANSWER_WITHIN, target.index(&table.index)).await {
            Some(Ok(Some(index))) => {
                findings.extend(judge_index(&table.index, &index, &pipeline.name, settings.existing));
                findings.extend(judge_durability(&table.index, &index, &pipeline.name));
            }
            Some(Ok(None)) => {}
            // What refuses one question refuses the others.
            Some(Err(error)) => {
                findings.push(target_finding(error));
                break;
            }
            None => {
                findings.push(unanswered());
                break;
            }
        }
    }
    findings
}

/// An index that somebody else filled.
fn judge_index(alias: &str, index: &IndexState, pipeline: &str, existing: Existing) -> Option<Finding> {
    let owner = index.pipeline.as_deref();
    if owner == Some(pipeline) || existing == Existing::Replace {
        return None;
    }
    let IndexState { name, documents, .. } = index;
    let maker = match owner {
        Some(other) => format!("belongs to the pipeline {other}"),
        None => "was not made by Rowtide".to_owned(),
    };
    Some(Finding {
        what: format!("{alias:?} is there already: the index {name} with {documents} documents {maker}"),
        fix: "choose another index, delete it, or set existing = \"replace\" to have it deleted".to_owned(),
    })
}

/// An index of ours that loses what it has answered for; one of somebody else's is not written to.
fn judge_durability(alias: &str, index: &IndexState, pipeline: &str) -> Option<Finding> {
    let halt = judge_odd(alias, &index.odd).filter(|_| index.pipeline.as_deref() == Some(pipeline))?;
    Some(Finding { what: halt.what, fix: halt.hint })
}

fn target_finding(error: TargetError) -> Finding {
    match error {
        TargetError::Halt { context, reason, hint } => {
            Finding { what: format!("{context}: {reason}"), fix: hint }
        }
        error @ (TargetError::NotExecuted { .. }
        | TargetError::Busy { .. }
        | TargetError::Unresolved { .. }
        | TargetError::TimedOut { .. }
        | TargetError::TooLarge { .. }
        | TargetError::Conflict { .. }) => {
            Finding { what: error.to_string(), fix: "start the cluster, or correct nodes".to_owned() }
        }
    }
}

fn unanswered() -> Finding {
    Finding {
        what: format!("no answer within {} s", ANSWER_WITHIN.as_secs()),
        fix: "look at the server's load and the network between".to_owned(),
    }
}

fn asked_source(answer: Option<Result<Checked, SourceError>>) -> Checked {
    let one =
        |what: String, fix: String| Checked { missing: vec![Finding { what, fix }], ..Checked::default() };
    match answer {
        Some(Ok(checked)) => checked,
        Some(Err(SourceError::Wait { context, reason })) => {
            one(format!("{context}: {reason}"), "start the server, or correct the url".to_owned())
        }
        Some(Err(SourceError::Halt { what, hint, .. })) => one(what, hint),
        Some(Err(SourceError::Changed { what })) => one(what, "try again".to_owned()),
        Some(Err(SourceError::Closed)) => one("the source has ended".to_owned(), "try again".to_owned()),
        None => Checked { missing: vec![unanswered()], ..Checked::default() },
    }
}

fn print(missing: &[Found], advised: &[Found]) -> Exit {
    missing.iter().for_each(|(side, finding)| say(side, "", finding));
    advised.iter().for_each(|(side, finding)| say(side, "advice: ", finding));
    if missing.is_empty() {
        println!("everything is there");
        return Exit::Clean;
    }
    let things = if missing.len() == 1 { "thing is" } else { "things are" };
    println!("{} {things} missing", missing.len());
    Exit::Missing
}

/// One finding, its fix below it.
pub(super) fn say(side: &str, word: &str, finding: &Finding) {
    println!("{side}: {word}{}", finding.what);
    for (number, line) in finding.fix.lines().enumerate() {
        println!("    {}{line}", if number == 0 { "fix: " } else { "     " });
    }
}
