//! What is shipped but not run here: the Dockerfile, docker-compose.yml and the examples in `config/`.

use std::fs;
use std::path::Path;

use rowtide::config::{self, Environment};
use sources::world::RealWorld;
use yaml_rust2::{Yaml, YamlLoader};

use super::harness::processes::source_path;

/// A Dockerfile's instructions as keyword and rest, continued lines joined.
fn instructions(text: &str) -> Vec<(String, String)> {
    let joined = text.replace("\\\n", " ");
    let lines = joined.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let parts = |line: &str| {
        let (keyword, rest) = line.split_once(char::is_whitespace).expect("an instruction has arguments");
        (keyword.to_uppercase(), rest.trim().to_owned())
    };
    lines.map(parts).collect()
}

/// What is wrong with a Dockerfile of ours.
fn dockerfile_faults(text: &str) -> Vec<String> {
    const KNOWN: [&str; 14] = [
        "FROM",
        "RUN",
        "COPY",
        "ADD",
        "WORKDIR",
        "ENV",
        "ARG",
        "USER",
        "VOLUME",
        "EXPOSE",
        "STOPSIGNAL",
        "ENTRYPOINT",
        "CMD",
        "LABEL",
    ];
    let all = instructions(text);
    let mut faults = Vec::new();
    for (keyword, rest) in &all {
        if !KNOWN.contains(&keyword.as_str()) {
            faults.push(format!("no instruction is called {keyword}"));
        }
        if rest.starts_with('[') && serde_json::from_str::<Vec<String>>(rest).is_err() {
            faults.push(format!("{keyword}'s list is not JSON: {rest}"));
        }
    }
    let stages: Vec<usize> = (0..all.len()).filter(|&at| all[at].0 == "FROM").collect();
    if stages.len() < 2 || stages[0] != 0 {
        faults.push("it needs a stage that builds and one that runs, FROM first".into());
        return faults;
    }
    let names: Vec<&str> =
        stages.iter().filter_map(|&at| all[at].1.split_once(" AS ")).map(|parts| parts.1).collect();
    let last = &all[stages[stages.len() - 1]..];
    for (_, rest) in last.iter().filter(|(keyword, _)| keyword == "COPY") {
        let from = rest.strip_prefix("--from=").and_then(|rest| rest.split(' ').next());
        if !from.is_some_and(|from| names.contains(&from)) {
            faults.push(format!("the last stage copies from no named stage: COPY {rest}"));
        }
    }
    let user = last.iter().rev().find(|(keyword, _)| keyword == "USER").map(|(_, user)| user.as_str());
    if user.is_none_or(|user| user.starts_with("root") || user.starts_with('0')) {
        faults.push(format!("the last stage runs as {user:?}"));
    }
    if !last.iter().any(|(keyword, rest)| keyword == "ENTRYPOINT" && rest.contains("rowtide")) {
        faults.push("the last stage does not start rowtide".into());
    }
    faults
}

#[test]
fn the_dockerfile_builds_in_one_stage_and_runs_in_another_as_no_root() {
    let text = fs::read_to_string(source_path("Dockerfile")).unwrap();
    assert_eq!(dockerfile_faults(&text), Vec::<String>::new());
    // The check itself can fail.
    let without_user: String =
        text.lines().filter(|line| !line.starts_with("USER")).collect::<Vec<_>>().join("\n");
    assert_eq!(dockerfile_faults(&without_user).len(), 1);
    assert_eq!(dockerfile_faults(&text.replace("USER rowtide", "USER root")).len(), 1);
    assert_eq!(dockerfile_faults(&text.replace("--from=build", "--from=other")).len(), 1);
    assert_eq!(dockerfile_faults(&text.replace("[\"--help\"]", "['--help']")).len(), 1);
}

fn text<'a>(yaml: &'a Yaml, what: &str) -> &'a str {
    yaml.as_str().unwrap_or_else(|| panic!("{what} is a text"))
}

#[test]
fn the_compose_file_starts_what_it_names() {
    let file = fs::read_to_string(source_path("docker-compose.yml")).unwrap();
    let document = YamlLoader::load_from_str(&file).expect("docker-compose.yml is YAML").remove(0);
    let services = document["services"].as_hash().expect("it has services");
    let has = |name: &str| services.contains_key(&Yaml::String(name.into()));
    assert!(has("postgres") && has("elasticsearch") && has("rowtide"), "{:?}", services.keys());
    let volumes = document["volumes"].as_hash().expect("it names volumes");
    for (name, service) in services {
        let name = text(name, "a service's name");
        assert!(!service["image"].is_badvalue() || !service["build"].is_badvalue(), "{name} has no image");
        for port in service["ports"].as_vec().into_iter().flatten() {
            assert!(text(port, "a port").starts_with("127.0.0.1:"), "{name} is open to others: {port:?}");
        }
        for volume in service["volumes"].as_vec().into_iter().flatten() {
            let from = text(volume, "a volume").split(':').next().unwrap();
            let there = from.starts_with("./") && source_path(from).exists();
            assert!(there || volumes.contains_key(&Yaml::String(from.into())), "{name}: {from} is not there");
        }
        for (other, condition) in service["depends_on"].as_hash().into_iter().flatten() {
            let other = text(other, "a dependency");
            assert!(has(other), "{name} depends on {other}, which is not there");
            let waits = condition["condition"].as_str() == Some("service_healthy");
            let healthy = !services[&Yaml::String(other.into())]["healthcheck"].is_badvalue();
            assert!(waits && healthy, "{name} does not wait until {other} answers");
        }
    }
    let command: Vec<&str> = services[&Yaml::String("rowtide".into())]["command"]
        .as_vec()
        .expect("rowtide has a command")
        .iter()
        .map(|word| text(word, "an argument"))
        .collect();
    assert_eq!(command[..2], ["run", "--config"]);
}

/// Sections of a configuration without errors; the variables that the examples use are given.
fn load(file: &Path) -> Result<(), String> {
    let world = RealWorld::shared();
    let file_text = fs::read_to_string(file).unwrap();
    let names = file_text.split("${").skip(1).filter_map(|rest| rest.split('}').next());
    let environment: Environment = names.map(|name| (name.to_owned(), "secret".to_owned())).collect();
    config::load(file, &environment, &sources::makes(), &world).map(|_| ()).map_err(|error| error.to_string())
}

#[test]
fn every_example_configuration_is_read_without_an_error() {
    let mut read = 0;
    for entry in fs::read_dir(source_path("config")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "toml") {
            load(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            read += 1;
        }
    }
    assert!(read >= 4, "{read} examples in config/");
    let wrong = super::harness::processes::fresh_folder("config").join("wrong.toml");
    fs::write(&wrong, "[memory]\nmax_rss = \"256MiB\"\nno_such_key = 1\n").unwrap();
    assert!(load(&wrong).is_err(), "a wrong file is refused");
}
