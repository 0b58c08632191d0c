//! `rowtide check`: everything that is missing, each with what mends it.

use std::time::Duration;

use sources::source::{Finding, SourceError};
use sources::world::{SharedWorld, within};

use super::Exit;
use crate::config::{Config, Existing};
use crate::target::elasticsearch::Elasticsearch;
use crate::target::{IndexState, Target, TargetError};

/// A server that has not answered by then counts as unreachable.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);

/// Asks both sides and prints what they lack.
pub(super) async fn check(config: Config, world: SharedWorld) -> Exit {
    let asked = within(&*world, ANSWER_WITHIN, config.source.source.check()).await;
    let source = asked_source(asked);
    let target = ask_target(&config, &world).await;
    let named = |side: String, findings: Vec<Finding>| {
        findings.into_iter().map(move |finding| (side.clone(), finding))
    };
    let source = named(format!("source {}", config.source.name), source);
    let target = named(format!("target {}", config.target.name), target);
    print(&source.chain(target).collect::<Vec<_>>())
}

/// Whether the target answers, lets this user in, and has room under each alias.
async fn ask_target(config: &Config, world: &SharedWorld) -> Vec<Finding> {
    let target = match Elasticsearch::new(config.target.client_settings(), world.clone()) {
        Ok(target) => target,
        Err(error) => return vec![target_finding(error)],
    };
    let mut findings = Vec::new();
    // What a pattern matches is known when it runs.
    for table in config.pipeline.tables.iter().filter(|table| !table.table.contains('*')) {
        match within(&**world, ANSWER_WITHIN, target.index(&table.index)).await {
            Some(Ok(Some(index))) => {
                findings.extend(judge_index(
                    &table.index,
                    &index,
                    &config.pipeline.name,
                    config.target.existing,
                ));
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

fn target_finding(error: TargetError) -> Finding {
    match error {
        TargetError::Halt { context, reason, hint } => {
            Finding { what: format!("{context}: {reason}"), fix: hint }
        }
        error @ (TargetError::NotExecuted { .. }
        | TargetError::Unresolved { .. }
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

fn asked_source(answer: Option<Result<Vec<Finding>, SourceError>>) -> Vec<Finding> {
    let one = |what: String, fix: String| vec![Finding { what, fix }];
    match answer {
        Some(Ok(findings)) => findings,
        Some(Err(SourceError::Wait { context, reason })) => {
            one(format!("{context}: {reason}"), "start the server, or correct the url".to_owned())
        }
        Some(Err(SourceError::Halt { what, hint, .. })) => one(what, hint),
        Some(Err(SourceError::Changed { what })) => one(what, "try again".to_owned()),
        Some(Err(SourceError::Closed)) => one("the source has ended".to_owned(), "try again".to_owned()),
        None => vec![unanswered()],
    }
}

fn print(findings: &[(String, Finding)]) -> Exit {
    if findings.is_empty() {
        println!("everything is there");
        return Exit::Clean;
    }
    for (side, finding) in findings {
        println!("{side}: {}", finding.what);
        for (number, line) in finding.fix.lines().enumerate() {
            println!("    {}{line}", if number == 0 { "fix: " } else { "     " });
        }
    }
    let things = if findings.len() == 1 { "thing is" } else { "things are" };
    println!("{} {things} missing", findings.len());
    Exit::Missing
}
