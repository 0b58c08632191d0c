//! The configuration: one TOML file and what the environment adds to it.
//!
//! ```text
//!   file ─► tree (values with their lines) ─► ROWTIDE__A__B overrides ─► ${VAR} ─► sections judged
//!                                                                                      │
//!                                       all problems at once, or a valid Config ◄──────┘
//! ```
//! Guarantees: a [`Config`] is valid; a key that nobody knows is refused; everything that is wrong is
//! said at once, each with file, line, key and fix; no message holds a secret.

#[cfg(test)]
mod bounds_tests;
mod condition;
mod dead_letters;
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
mod several;
#[cfg(test)]
mod several_tests;
mod source;
mod steps;
#[cfg(test)]
mod steps_tests;
mod target;
#[cfg(test)]
mod tests;
mod tree;

use std::path::{Path, PathBuf};

use sources::world::SharedWorld;
use sources::{Make, TableSettings};

pub use condition::{Comparison, Condition, Literal, RowFilter};
pub use environment::Environment;
pub use http::HttpSettings;
pub use memory::{BUDGET_BYTES_MIN, FLOOR_BYTES, Load, Memory, PIPELINE_BYTES, budget_bytes};
pub use pipeline::{PipelineSettings, TableShape, index_fault, is_reserved_field};
pub use problem::{ConfigError, Place, Problem, Problems};
pub use reach::Auth;
pub use secret::Secret;
pub use source::SourceSettings;
pub use steps::{Cast, Piece, Steps, Template};
pub use target::{Existing, TargetSettings};

use crate::telemetry;

use pipeline::Named;
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
    /// The most bytes that all dead letters of the process may hold on the disk, those of each target of each
    /// pipeline an equal part.
    pub dead_letters_bytes: u64,
    /// What runs in it, in the file's order; never empty. No two read one source or write one index.
    pub pipelines: Vec<PipelineConfig>,
}

/// A pipeline with both of its sides.
pub struct PipelineConfig {
    /// Where changes come from.
    pub source: SourceSettings,
    /// Where documents go: to each of them, in the pipeline's order; never empty.
    pub targets: Vec<TargetSettings>,
    /// What is done between them.
    pub settings: PipelineSettings,
    /// Its share of the byte budget, which no other pipeline can take.
    pub budget_bytes: usize,
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
    let letters_section = section.section("dead_letters", problems);
    let source_sections = section.sections("sources", problems);
    let target_sections = section.sections("targets", problems);
    let pipeline_sections = section.sections("pipelines", problems);
    section.finish(problems);

    for sections in [&source_sections, &target_sections, &pipeline_sections] {
        sections.iter().for_each(|(name, section)| judge_name(name, section, problems));
    }
    let named = read_pipelines(pipeline_sections, &source_sections, &target_sections, problems);
    let loads: Vec<Load> =
        named.iter().map(|named| load_of(named, &source_sections, &target_sections)).collect();
    let (memory, budgets) = memory::read(memory_section, &loads, problems);
    let around = source::Around {
        kinds,
        folder,
        environment,
        document_bytes_max: memory.document_bytes_max,
        tables: Vec::new(),
        world: world.clone(),
    };
    let dead_letters_bytes = dead_letters::read(letters_section, problems);
    let mut sources = read_sources(source_sections, &named, around, problems);
    let targets = read_targets(target_sections, &named, folder, problems);
    several::judge(&named, &sources, &targets, problems);

    let mut pipelines = Vec::with_capacity(named.len());
    for (named, budget_bytes) in named.into_iter().zip(budgets) {
        let at = sources.iter().position(|read| Some(&read.settings.name) == named.source.as_ref())?;
        let source = sources.swap_remove(at).settings;
        let of = |name: &String| targets.iter().find(|read| read.settings.name == *name);
        let targets: Vec<_> = named.targets.iter().filter_map(of).map(|read| read.settings.clone()).collect();
        if targets.is_empty() {
            return None;
        }
        pipelines.push(PipelineConfig { source, targets, settings: named.pipeline, budget_bytes });
    }
    Some(Config {
        data_dir: folder.join(data_dir?),
        memory,
        http: http.flatten(),
        dead_letters_bytes,
        pipelines,
    })
}

/// A section that was judged, with its place for what is found out later.
struct Read<T> {
    settings: T,
    place: Place,
    path: KeyPath,
}

fn read_pipelines(
    sections: Vec<(String, Section<'_>)>,
    sources: &[(String, Section<'_>)],
    targets: &[(String, Section<'_>)],
    problems: &mut Problems,
) -> Vec<Named> {
    fn names<'a>(sections: &'a [(String, Section<'_>)]) -> Vec<&'a str> {
        sections.iter().map(|(name, _)| name.as_str()).collect()
    }
    let (sources, targets) = (names(sources), names(targets));
    if sections.is_empty() {
        let path = KeyPath::default().key("pipelines");
        let fix = "add [pipelines.shop] with source, target and tables";
        problems.add(&Place::Line(1), &path, "there is no pipeline", fix);
    }
    let read =
        |(name, section): (String, Section<'_>)| pipeline::read(&name, section, &sources, &targets, problems);
    sections.into_iter().map(read).collect()
}

/// What a pipeline needs of the memory beside its budget.
fn load_of(named: &Named, sources: &[(String, Section<'_>)], targets: &[(String, Section<'_>)]) -> Load {
    let source = sources.iter().find(|(name, _)| Some(name) == named.source.as_ref());
    let readers = source.map_or(source::READERS_DEFAULT, |(_, section)| source::readers(section));
    let is_used = |(name, _): &&(String, Section<'_>)| named.targets.contains(name);
    let packed = targets.iter().filter(is_used).map(|(_, section)| target::packed_bytes(section)).sum();
    Load { readers, copies: named.targets.len().max(1), packed_bytes: packed, share: named.share }
}

fn read_sources(
    sections: Vec<(String, Section<'_>)>,
    named: &[Named],
    mut around: source::Around<'_>,
    problems: &mut Problems,
) -> Vec<Read<SourceSettings>> {
    // Which one is meant where a name is missing or wrong cannot be told.
    let any = named.is_empty() || named.iter().any(|named| named.source.is_none());
    let world = around.world.clone();
    let mut sources = Vec::new();
    for (name, section) in sections {
        let user = named.iter().find(|named| named.source.as_ref() == Some(&name));
        if !judge_use(any || user.is_some(), &section, problems) {
            continue;
        }
        let tables = user.iter().flat_map(|named| &named.pipeline.tables);
        around.tables =
            tables.map(|shape| TableSettings { name: shape.table.clone(), on_drop: shape.on_drop }).collect();
        around.world = match user {
            Some(user) if named.len() > 1 => telemetry::named(&world, &user.pipeline.name),
            _ => world.clone(),
        };
        let (place, path) = (section.place.clone(), section.path.clone());
        let read = source::read(&name, section, &around, problems);
        sources.extend(read.map(|settings| Read { settings, place, path }));
    }
    sources
}

fn read_targets(
    sections: Vec<(String, Section<'_>)>,
    named: &[Named],
    folder: &Path,
    problems: &mut Problems,
) -> Vec<Read<TargetSettings>> {
    let any = named.is_empty() || named.iter().any(|named| named.targets.is_empty());
    let mut targets = Vec::new();
    for (name, section) in sections {
        let is_used = any || named.iter().any(|named| named.targets.contains(&name));
        if judge_use(is_used, &section, problems) {
            let (place, path) = (section.place.clone(), section.path.clone());
            let settings = target::read(&name, section, folder, problems);
            targets.push(Read { settings, place, path });
        }
    }
    targets
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
        let fix = "remove it, or name it in a pipeline";
        problems.add(&section.place, &section.path, "is used by no pipeline", fix);
    }
    used
}
