//! `rowtide init`: a first configuration, from what a database holds.
//!
//! ```text
//!   url ─► the source's discover ─► names that an index takes ─► commented TOML ─► stdout, or a new file
//! ```
//! It changes nothing in the database, asks nothing of the target, and writes no password down.

mod file;
mod naming;

use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;

use clap::Args;
use sources::SourceKind;
use sources::discovery::{DiscoverError, Discovered, Wanted};
use sources::source::SourceError;
use sources::world::SharedWorld;

use super::Exit;
use file::{Parts, Password};

/// What a person types.
#[derive(Args, Debug)]
pub(super) struct InitArgs {
    /// The database, without a password, as in postgres://cdc@127.0.0.1:5432/shop; the password is taken
    /// from PGPASSWORD
    url: String,
    /// Write to this file, which must not be there yet, instead of stdout
    #[arg(long, value_name = "FILE")]
    output: Option<std::path::PathBuf>,
    /// Only tables of this schema; can be given several times
    #[arg(long = "schema", value_name = "SCHEMA")]
    schemas: Vec<String>,
    /// The search cluster that goes into the configuration; it is not asked
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:9200")]
    target: String,
    /// Read the password from this file, and name the file in the configuration
    #[arg(long, value_name = "FILE")]
    password_file: Option<std::path::PathBuf>,
}

/// Looks, and writes.
pub(super) async fn init(args: &InitArgs, world: SharedWorld) -> Exit {
    match try_init(args, world).await {
        Ok(exit) => exit,
        Err((exit, what)) => {
            eprintln!("rowtide: {what}");
            exit
        }
    }
}

async fn try_init(args: &InitArgs, world: SharedWorld) -> Result<Exit, (Exit, String)> {
    let wrong = |what: String| (Exit::Configuration, what);
    let kind = kind_of(&args.url).map_err(wrong)?;
    judge_target(&args.target).map_err(wrong)?;
    if let Some(output) = args.output.as_deref().filter(|output| output.exists()) {
        return Err(wrong(format!(
            "{} is there already: name another file, or move it away",
            output.display()
        )));
    }
    let password_file = args.password_file.as_deref().map(|file| (file, file.to_string_lossy()));
    let (password, origin) = match &password_file {
        Some((file, shown)) => (Some(read_password(file).map_err(wrong)?), Password::File(shown)),
        None => match std::env::var(kind.password_variable) {
            Ok(password) => (Some(password), Password::Variable(kind.password_variable)),
            Err(_) => (None, Password::None(kind.password_variable)),
        },
    };
    let environment = super::environment();
    let wanted = Wanted { url: args.url.clone(), password, schemas: args.schemas.clone(), environment };
    let found = (kind.discover)(wanted, world).await.map_err(|error| failed(error, kind))?;
    if found.tables.is_empty() {
        let where_ = match args.schemas.as_slice() {
            [] => String::new(),
            schemas => format!(" in {}", schemas.join(", ")),
        };
        return Err((Exit::Missing, format!("{} has no table{where_}", found.place)));
    }
    let parts =
        Parts { kind: kind.name, url: &args.url, password: origin, target: &args.target, found: &found };
    put(args.output.as_deref(), &file::write(&parts))?;
    Ok(tell(args, &found))
}

/// The source that a url is for. What is wrong is said without the url: a password may be in it.
fn kind_of(url: &str) -> Result<&'static SourceKind, String> {
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    let kind = sources::SOURCES.iter().find(|kind| kind.schemes.contains(&scheme));
    let schemes: Vec<&str> = sources::SOURCES.iter().flat_map(|kind| kind.schemes).copied().collect();
    let kind = kind.ok_or_else(|| format!("the url must begin with {}://", schemes.join(":// or ")))?;
    let (address, query) = rest.split_once('?').unwrap_or((rest, ""));
    // A password may itself hold a ?: then the only @ stands behind it.
    let login = address.rsplit_once('@').or_else(|| rest.rsplit_once('@'));
    let in_login = login.is_some_and(|(login, _)| login.contains(':'));
    if in_login || query.split('&').any(|parameter| parameter.starts_with("password=")) {
        return Err(format!(
            "the url holds a password, which everybody on this machine can see among the arguments of \
             processes: take it out, change it, and set {} in the environment (or use --password-file)",
            kind.password_variable
        ));
    }
    Ok(kind)
}

fn judge_target(target: &str) -> Result<(), String> {
    let example = "--target must look like http://127.0.0.1:9200";
    match reqwest::Url::parse(target) {
        Ok(url) if !url.username().is_empty() || url.password().is_some() => {
            Err(format!("{example}: user and password go into the file, as the comments there show"))
        }
        Ok(url) if matches!(url.scheme(), "http" | "https") && url.query().is_none() => Ok(()),
        _ => Err(example.to_owned()),
    }
}

fn read_password(file: &Path) -> Result<String, String> {
    let text = std::fs::read_to_string(file);
    let text =
        text.map_err(|error| format!("the password file {} cannot be read: {error}", file.display()))?;
    Ok(text.trim_end_matches(['\n', '\r']).to_owned())
}

fn failed(error: DiscoverError, kind: &SourceKind) -> (Exit, String) {
    match error {
        DiscoverError::Wrong(problems) => {
            let all: Vec<String> =
                problems.iter().map(|problem| format!("{}: {}", problem.key, problem.message)).collect();
            (Exit::Configuration, all.join("; "))
        }
        DiscoverError::Source(SourceError::Halt { what, hint, .. }) => {
            let variable = kind.password_variable;
            (Exit::Halted, format!("{what}; {hint} (init takes the password from {variable})"))
        }
        DiscoverError::Source(error) => (Exit::Failed, error.to_string()),
    }
}

fn put(output: Option<&Path>, text: &str) -> Result<(), (Exit, String)> {
    let Some(output) = output else {
        let mut stdout = std::io::stdout().lock();
        let written = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
        return written.map_err(|error| (Exit::Failed, format!("write to stdout: {error}")));
    };
    let failed = |error: std::io::Error| {
        (Exit::Configuration, format!("{} cannot be written: {error}", output.display()))
    };
    let mut file = OpenOptions::new().write(true).create_new(true).open(output).map_err(failed)?;
    file.write_all(text.as_bytes()).map_err(failed)
}

/// For people, on stderr: stdout may be the file.
fn tell(args: &InitArgs, found: &Discovered) -> Exit {
    let unreadable = found.tables.iter().filter(|table| table.table.is_err()).count();
    let all = found.tables.len();
    eprintln!("rowtide: {all} tables, {unreadable} of them commented out since they cannot be read yet");
    if unreadable == all {
        eprintln!("rowtide: the reasons stand in the file, each with the SQL that mends it");
        return Exit::Missing;
    }
    if let Some(output) = &args.output {
        eprintln!("rowtide: next: rowtide check --config {}", output.display());
    }
    Exit::Clean
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_url_with_a_password_is_refused_and_never_said_again() {
        for url in [
            "postgres://cdc:hidden@h/d",
            "postgresql://cdc:hid?den@h/d",
            "postgres://cdc:@h/d",
            "postgres://cdc@h/d?password=hidden",
        ] {
            let said = kind_of(url).err().unwrap();
            assert!(said.contains("PGPASSWORD") && !said.contains("hid"), "{url}: {said}");
        }
        let said = kind_of("mysql://u:hidden@h/d").err().unwrap();
        assert!(said.contains("postgres://") && !said.contains("hidden"), "{said}");
        for url in ["postgres://cdc@h:5432/d", "postgres://cdc@[::1]:5432/d?sslmode=prefer", "postgres://h/d"]
        {
            assert_eq!(kind_of(url).map(|kind| kind.name), Ok("postgres"), "{url}");
        }
    }

    #[test]
    fn a_target_with_a_password_is_refused() {
        assert!(judge_target("http://127.0.0.1:9200").is_ok());
        for target in ["http://u:p@h:9200", "ftp://h", "h:9200", "http://h/?a=b"] {
            assert!(judge_target(target).is_err(), "{target}");
        }
    }
}
