//! `rowtide check`: everything that is missing, each with what mends it.

use std::time::Duration;

use sources::source::{Finding, SourceError};
use sources::world::{SharedWorld, within};

use super::Exit;
use crate::config::Config;

/// A server that has not answered by then counts as unreachable.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);

/// Asks both sides and prints what they lack.
pub(super) async fn check(config: Config, world: SharedWorld) -> Exit {
    let mut findings = Vec::new();
    let name = &config.source.name;
    let asked = within(&*world, ANSWER_WITHIN, config.source.source.check()).await;
    findings.extend(asked_source(asked).into_iter().map(|finding| (format!("source {name}"), finding)));
    print(&findings)
}

fn asked_source(answer: Option<Result<Vec<Finding>, SourceError>>) -> Vec<Finding> {
    let one = |what: String, fix: String| vec![Finding { what, fix }];
    match answer {
        Some(Ok(findings)) => findings,
        Some(Err(SourceError::Wait { context, reason })) => {
            one(format!("{context}: {reason}"), "start the server, or correct the url".to_owned())
        }
        Some(Err(SourceError::Halt { what, hint, .. })) => one(what, hint),
        Some(Err(SourceError::Closed)) => one("the source has ended".to_owned(), "try again".to_owned()),
        None => {
            let what = format!("no answer within {} s", ANSWER_WITHIN.as_secs());
            one(what, "look at the server's load and the network between".to_owned())
        }
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
