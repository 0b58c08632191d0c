//! `rowtide pause`, `resume`, `throttle`, `restart`: what a running process is asked through its control channel.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use reqwest::{Client, Method, StatusCode};
use serde::de::DeserializeOwned;
use sources::world::RealWorld;

use super::{Exit, load, with_runtime, words};
use crate::config::{Config, HttpSettings};
use crate::control::wire;

/// A process that has not answered by then hangs.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

#[derive(Args, Debug)]
pub(super) struct NamedArgs {
    /// The pipeline, as in [pipelines.NAME]
    name: String,
    /// The configuration file (TOML) of the running process
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

#[derive(Args, Debug)]
#[command(group(clap::ArgGroup::new("rate").required(true).multiple(true)))]
pub(super) struct ThrottleArgs {
    #[command(flatten)]
    named: NamedArgs,
    /// Documents and deletes a second, to all targets together; none: no limit
    #[arg(long, value_name = "N|none", value_parser = documents, group = "rate")]
    documents: Option<Rate>,
    /// Bytes a second, to all targets together, as in 4MiB; none: no limit
    #[arg(long, value_name = "SIZE|none", value_parser = bytes, group = "rate")]
    bytes: Option<Rate>,
}

/// A rate as it was typed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Rate(Option<u64>);

fn documents(text: &str) -> Result<Rate, String> {
    rate(text, text.parse().ok(), "a whole number from 1 on")
}

fn bytes(text: &str) -> Result<Rate, String> {
    let number = text.parse().ok().or_else(|| sources::size::parse(text));
    rate(text, number, "bytes, or a size as in 4MiB, from 1 on")
}

fn rate(text: &str, number: Option<u64>, wanted: &str) -> Result<Rate, String> {
    match (text, number) {
        ("none", _) => Ok(Rate(None)),
        (_, Some(1..)) => Ok(Rate(number)),
        _ => Err(format!("write {wanted}, or none for no limit; `rowtide pause` stops all sending")),
    }
}

pub(super) fn pause(args: &NamedArgs) -> Exit {
    act(args, "pause", None)
}

pub(super) fn resume(args: &NamedArgs) -> Exit {
    act(args, "resume", None)
}

pub(super) fn restart(args: &NamedArgs) -> Exit {
    act(args, "restart", None)
}

pub(super) fn throttle(args: &ThrottleArgs) -> Exit {
    let given = |rate: Option<Rate>| rate.map(|Rate(rate)| rate);
    let wanted = wire::SetThrottle { documents_per_s: given(args.documents), bytes_per_s: given(args.bytes) };
    match serde_json::to_string(&wanted) {
        Ok(body) => act(&args.named, "throttle", Some(body)),
        Err(error) => fail(&error.to_string()),
    }
}

fn act(args: &NamedArgs, what: &'static str, body: Option<String>) -> Exit {
    let config = match open(&args.config) {
        Ok(config) => config,
        Err(exit) => return exit,
    };
    let Some(http) = &config.http else {
        eprintln!("rowtide: {} has no [http] section, so the process cannot be asked", args.config.display());
        eprintln!("    fix: add [http] with listen = \"127.0.0.1:7171\", and start rowtide run again");
        return Exit::Configuration;
    };
    // What is no name cannot be a path either.
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if !args.name.chars().all(plain) || args.name.is_empty() {
        eprintln!("rowtide: {:?} is no pipeline's name", args.name);
        return Exit::Configuration;
    }
    let path = format!("/api/v1/pipelines/{}/{what}", args.name);
    with_runtime(async {
        match ask::<wire::Controlled>(http, Method::POST, &path, body).await {
            Ok(wire::Controlled { name, paused, throttle }) => {
                let state = if paused { "paused" } else { "not paused" };
                println!("{name}: {state}, {}", rates(&throttle));
                Exit::Clean
            }
            Err(error) => fail(&error.to_string()),
        }
    })
}

/// The rates, for people.
pub(super) fn rates(throttle: &wire::Throttle) -> String {
    let documents = throttle.documents_per_s.map(|rate| format!("{} documents/s", words::count(rate)));
    let bytes = throttle.bytes_per_s.map(|rate| format!("{}/s", words::bytes(rate)));
    match documents.into_iter().chain(bytes).collect::<Vec<_>>() {
        none if none.is_empty() => "no limit of rate".to_owned(),
        some => format!("at most {}", some.join(" and ")),
    }
}

/// The configuration of a command; its problems are said.
pub(super) fn open(file: &Path) -> Result<Config, Exit> {
    load(file, &RealWorld::shared()).map_err(|error| {
        eprintln!("rowtide: {error}");
        Exit::Configuration
    })
}

pub(super) fn fail(what: &str) -> Exit {
    eprintln!("rowtide: {what}");
    Exit::Failed
}

/// Why the process did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub(super) enum AskError {
    /// Nobody listens there.
    #[error("no rowtide answers on {0}: start it with this configuration")]
    Nobody(SocketAddr),
    /// Something else went wrong on the way.
    #[error("ask {address}: {reason}")]
    Lost { address: SocketAddr, reason: String },
    /// It said no.
    #[error("{address} answers {status}: {message}")]
    Refused { address: SocketAddr, status: StatusCode, message: String },
}

/// Asks the process that listens by these settings.
pub(super) async fn ask<T: DeserializeOwned>(
    http: &HttpSettings,
    method: Method,
    path: &str,
    body: Option<String>,
) -> Result<T, AskError> {
    let address = reachable(http.listen);
    let lost = |error: reqwest::Error| match error.is_connect() {
        true => AskError::Nobody(address),
        false => AskError::Lost { address, reason: error.without_url().to_string() },
    };
    let client = Client::builder().no_proxy().timeout(ANSWER_WITHIN).build().map_err(lost)?;
    let mut request = client.request(method, format!("http://{address}{path}"));
    if let Some(token) = http.admin_token.as_ref().or(http.read_token.as_ref()) {
        request = request.bearer_auth(token.expose());
    }
    if let Some(body) = body {
        request = request.header("content-type", "application/json").body(body);
    }
    let answer = request.send().await.map_err(lost)?;
    let status = answer.status();
    let text = answer.bytes().await.map_err(lost)?;
    if !status.is_success() {
        let error = serde_json::from_slice::<wire::Error>(&text);
        let message =
            error.map_or_else(|_| "no Rowtide listens there".to_owned(), |error| error.error.message);
        return Err(AskError::Refused { address, status, message });
    }
    serde_json::from_slice(&text).map_err(|error| AskError::Lost { address, reason: error.to_string() })
}

/// Where who listens on all addresses is reached from this machine.
fn reachable(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_numbers_sizes_or_none() {
        assert_eq!(documents("100"), Ok(Rate(Some(100))));
        assert_eq!(documents("none"), Ok(Rate(None)));
        assert_eq!(bytes("4MiB"), Ok(Rate(Some(4 << 20))));
        assert_eq!(bytes("4096"), Ok(Rate(Some(4_096))));
        for wrong in ["0", "-1", "1.5", "", "4MiB"] {
            assert!(documents(wrong).is_err(), "{wrong}");
        }
        assert!(bytes("0").is_err() && bytes("0MiB").is_err() && bytes("4mib").is_err());
    }

    #[test]
    fn rates_read_well() {
        let said = |documents_per_s, bytes_per_s| rates(&wire::Throttle { documents_per_s, bytes_per_s });
        assert_eq!(said(None, None), "no limit of rate");
        assert_eq!(said(Some(1_000), Some(4 << 20)), "at most 1,000 documents/s and 4.0 MiB/s");
    }
}
