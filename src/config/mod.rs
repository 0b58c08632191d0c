//! The configuration: one TOML file and what the environment adds to it.
//!
//! ```text
//!   file ─► tree (values with their lines) ─► ROWTIDE__A__B overrides ─► ${VAR} ─► sections judged
//!                                                                                      │
//!                                       all problems at once, or a valid Config ◄──────┘
//! ```
//! Guarantees: a [`Config`] is valid; a key that nobody knows is refused; everything that is wrong is
//! said at once, each with file, line, key and fix; no message holds a secret.

mod environment;
mod http;
mod index;
#[cfg(test)]
mod index_tests;
mod memory;
mod pipeline;
mod problem;
mod reach;
mod secret;
mod section;
mod source;
mod target;
#[cfg(test)]
mod tests;
mod tree;

use std::path::{Path, PathBuf};

use sources::world::SharedWorld;
use sources::{Make, TableSettings};

pub use environment::Environment;
pub use http::HttpSettings;
pub use memory::{BUDGET_BYTES_MIN, FLOOR_BYTES, Memory, budget_bytes};
pub use pipeline::{PipelineSettings, TableShape, index_fault, is_reserved_field};
pub use problem::{ConfigError, Place, Problem, Problems};
pub use reach::Auth;
pub use secret::Secret;
pub use source::SourceSettings;
pub use target::{Existing, TargetSettings};

use problem::KeyPath;
use section::Section;
use tree::Table;

/// A configuration that can be run.
pub struct Config {
    /// Where the store lives; absolute, or relative to the working directory.
    pub data_dir: PathBuf,
    /// What the process may hold.
    pub memory: Memory,
    /// Where a running process can be asked; `None`: nowhere.
    pub http: Option<HttpSettings>,
    /// Where changes come from.
    pub source: SourceSettings,
    /// Where documents go: to each of them, in the pipeline's order; never empty.
    pub targets: Vec<TargetSettings>,
    /// What is done between them.
    pub pipeline: PipelineSettings,
}

/// Reads the file and judges it. `kinds` are the known sources, [`sources::makes`] but in tests.
pub fn load(
    file: &Path,
    environment: &Environment,
    kinds: &[(&'static str, Make)],
    world: &SharedWorld,
) -> Result<Config, ConfigError> {
    let text = std::fs::read_to_string(file)
        .map_err(|error| ConfigError::Unreadable { file: file.display().to_string(), error })?;
    let folder = file.parent().unwrap_or(Path::new(""));
    parse(&text, folder, environment, kinds, world)
        .map_err(|problems| ConfigError::Wrong { file: file.to_owned(), problems })
}

/// Judges the file's text; paths in it are relative to `folder`.
pub(crate) fn parse(
    text: &str,
    folder: &Path,
    environment: &Environment,
    kinds: &[(&'static str, Make)],
    world: &SharedWorld,
) -> Result<Config, Problems> {
    let mut problems = Problems::default();
    let mut root = tree::parse(text, &mut problems);
    if !problems.is_empty() {
        return Err(problems.sorted());
    }
    environment::override_with(&mut root, environment, &mut problems);
    environment::substitute(&mut root, &KeyPath::default(), environment, &mut problems);
    let config = judge(&root, folder, environment, kinds, world, &mut problems);
    match config {
        Some(config) if problems.is_empty() => Ok(config),
        _ => Err(problems.sorted()),
    }
}

fn judge(
    root: &Table,
    folder: &Path,
    environment: &Environment,
    kinds: &[(&'static str, Make)],
    world: &SharedWorld,
    problems: &mut Problems,
) -> Option<Config> {
    let mut section = Section::new(KeyPath::default(), Place::Line(1), root);
    let data_dir = section.required_text("data_dir", "rowtide-data", problems);
    let http = section.section("http", problems).map(|section| http::read(section, folder, problems));
    let memory_section = section.section("memory", problems);
    let source_sections = section.sections("sources", problems);
    let target_sections = section.sections("targets", problems);
    let pipeline_sections = section.sections("pipelines", problems);
    section.finish(problems);

    let readers = source_sections.iter().map(|(_, section)| source::readers(section)).max().unwrap_or(0);
    for sections in [&source_sections, &target_sections, &pipeline_sections] {
        sections.iter().for_each(|(name, section)| judge_name(name, section, problems));
    }
    let names = |sections: &[(String, Section<'_>)]| -> Vec<String> {
        sections.iter().map(|(name, _)| name.clone()).collect()
    };
    let source_names = names(&source_sections);
    let target_names = names(&target_sections);
    let named = one_pipeline(pipeline_sections, &source_names, &target_names, problems);
    let copies = named.as_ref().map_or(1, |named| named.targets.len().max(1));
    let packed = target_sections.iter().map(|(_, section)| target::packed_bytes(section)).sum();
    let memory = memory::read(memory_section, readers, copies, packed, problems);

    let tables_of = |source: &str| match &named {
        Some(named) if named.source.as_deref() == Some(source) => named
            .pipeline
            .tables
            .iter()
            .map(|shape| TableSettings { name: shape.table.clone(), on_drop: shape.on_drop })
            .collect(),
        _ => Vec::new(),
    };
    let mut source = None;
    for (name, section) in source_sections {
        let (folder, document_bytes_max) = (folder, memory.document_bytes_max);
        let tables = tables_of(&name);
        let around = source::Around { kinds, folder, environment, document_bytes_max, tables, world };
        let used = named.as_ref().is_none_or(|named| named.source.as_ref().is_none_or(|used| *used == name));
        if judge_use(used, &section, problems) {
            source = source.or(source::read(&name, section, &around, problems));
        }
    }
    let mut targets = Vec::new();
    for (name, section) in target_sections {
        let is_used = |named: &pipeline::Named| named.targets.is_empty() || named.targets.contains(&name);
        let (place, path) = (section.place.clone(), section.path.clone());
        if judge_use(named.as_ref().is_none_or(is_used), &section, problems) {
            let target = target::read(&name, section, folder, problems);
            judge_nodes(&target, &targets, &place, &path, problems);
            targets.push(target);
        }
    }
    let order = |target: &TargetSettings| {
        named.as_ref().and_then(|named| named.targets.iter().position(|name| *name == target.name))
    };
    targets.sort_by_key(order);
    if targets.is_empty() {
        return None;
    }
    Some(Config {
        data_dir: folder.join(data_dir?),
        memory,
        http: http.flatten(),
        source: source?,
        targets,
        pipeline: named?.pipeline,
    })
}

/// Two targets of a pipeline are two clusters: in one, both would write the same indices under one lease.
fn judge_nodes(
    target: &TargetSettings,
    others: &[TargetSettings],
    place: &Place,
    path: &KeyPath,
    problems: &mut Problems,
) {
    let same = |other: &&TargetSettings| other.nodes.iter().any(|node| target.nodes.contains(node));
    if let Some(other) = others.iter().find(same) {
        let what = format!("has a node of [targets.{}]: they would be one cluster", other.name);
        problems.add(place, &path.key("nodes"), what, "name the nodes of another cluster, or remove one");
    }
}

/// Exactly one pipeline, for now.
fn one_pipeline(
    sections: Vec<(String, Section<'_>)>,
    sources: &[String],
    targets: &[String],
    problems: &mut Problems,
) -> Option<pipeline::Named> {
    let sources: Vec<&str> = sources.iter().map(String::as_str).collect();
    let targets: Vec<&str> = targets.iter().map(String::as_str).collect();
    let mut first = None;
    for (number, (name, section)) in sections.into_iter().enumerate() {
        if number > 0 {
            let fix = "run one process for each pipeline, each with a file and a data_dir of its own";
            problems.add(
                &section.place,
                &section.path,
                "is a second pipeline: Rowtide runs one for now",
                fix,
            );
        }
        let named = pipeline::read(&name, section, &sources, &targets, problems);
        first = first.or(Some(named));
    }
    if first.is_none() {
        let path = KeyPath::default().key("pipelines");
        let fix = "add [pipelines.shop] with source, target and tables";
        problems.add(&Place::Line(1), &path, "there is no pipeline", fix);
    }
    first
}

/// Names go into slot names, ids and headers.
fn judge_name(name: &str, section: &Section<'_>, problems: &mut Problems) {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if name.is_empty() || name.len() > 60 || !name.chars().all(plain) {
        let fix = "use at most 60 of a-z, A-Z, 0-9, _ and -";
        problems.add(&section.place, &section.path, "cannot be a name", fix);
    }
}

/// Whether a pipeline uses the section. What nobody uses is a slip, and nothing judges it.
fn judge_use(used: bool, section: &Section<'_>, problems: &mut Problems) -> bool {
    if !used {
        let fix = "remove it, or name it in the pipeline";
        problems.add(&section.place, &section.path, "is used by no pipeline", fix);
    }
    used
}
