//! What pipelines of one process must not share: a source, what it holds on its server, an index.

use std::collections::BTreeSet;

use sources::pattern;

use super::Read;
use super::pipeline::{Named, TableShape};
use super::problem::{KeyPath, Place, Problems};
use super::source::SourceSettings;
use super::target::TargetSettings;

/// Judges what each section by itself cannot show.
pub(super) fn judge(
    named: &[Named],
    sources: &[Read<SourceSettings>],
    targets: &[Read<TargetSettings>],
    problems: &mut Problems,
) {
    judge_sources(named, problems);
    judge_claims(sources, problems);
    judge_nodes(named, targets, problems);
    judge_indices(named, targets, problems);
}

/// Two pipelines of one source would take each other's slot, and see only what the other has left.
fn judge_sources(named: &[Named], problems: &mut Problems) {
    for (number, second) in named.iter().enumerate() {
        let same = |first: &&Named| first.source.is_some() && first.source == second.source;
        if let (Some(first), Some(source)) = (named[..number].iter().find(same), &second.source) {
            let what = format!(
                "[pipelines.{}] reads {source:?} already, and its slot serves one pipeline",
                first.pipeline.name
            );
            let fix = "add another [sources.NAME] with the same url and a slot and publication of its own, \
                       or put the tables into one pipeline";
            let (place, path) = &second.source_place;
            problems.add(place, path, what, fix);
        }
    }
}

/// As two sources that name one slot.
fn judge_claims(sources: &[Read<SourceSettings>], problems: &mut Problems) {
    for (number, Read { settings, place, path }) in sources.iter().enumerate() {
        for claim in settings.source.claims() {
            let same = |first: &&Read<SourceSettings>| first.settings.source.claims().contains(&claim);
            if let Some(first) = sources[..number].iter().find(same) {
                let what = format!("{} is that of [sources.{}]", claim.what, first.settings.name);
                problems.add(place, &path.key(claim.key), what, format!("name another {}", claim.key));
            }
        }
    }
}

/// Two targets of a pipeline are two clusters: in one, both would write the same indices under one lease.
fn judge_nodes(named: &[Named], targets: &[Read<TargetSettings>], problems: &mut Problems) {
    let beside = |first: &str, second: &str| {
        let has = |named: &Named, name: &str| named.targets.iter().any(|target| target == name);
        named.iter().any(|named| has(named, first) && has(named, second))
    };
    for (number, Read { settings, place, path }) in targets.iter().enumerate() {
        let same = |other: &&Read<TargetSettings>| {
            beside(&other.settings.name, &settings.name) && is_one_cluster(&other.settings, settings)
        };
        if let Some(other) = targets[..number].iter().find(same) {
            let what = format!("has a node of [targets.{}]: they would be one cluster", other.settings.name);
            problems.add(place, &path.key("nodes"), what, "name the nodes of another cluster, or remove one");
        }
    }
}

fn is_one_cluster(one: &TargetSettings, other: &TargetSettings) -> bool {
    one.name == other.name || one.nodes.iter().any(|node| other.nodes.contains(node))
}

/// Two pipelines never write to one index: each would delete what the other has made.
fn judge_indices(named: &[Named], targets: &[Read<TargetSettings>], problems: &mut Problems) {
    for (number, second) in named.iter().enumerate() {
        for first in &named[..number] {
            if !meet(first, second, targets) {
                continue;
            }
            for (shape, place) in second.pipeline.tables.iter().zip(&second.table_places) {
                judge_table(shape, place, first, problems);
            }
            // The other way round, an index of the second under an alias of the first.
            let indices: BTreeSet<&str> =
                second.pipeline.tables.iter().map(|shape| shape.index.as_str()).collect();
            for (shape, (place, path)) in first.pipeline.tables.iter().zip(&first.table_places) {
                for alias in shape.setup.aliases.iter().filter(|alias| indices.contains(alias.as_str())) {
                    taken(alias, &second.pipeline.name, (place, &path.key("aliases")), problems);
                }
            }
        }
    }
}

/// Whether they write to one cluster, as far as the configuration shows.
fn meet(first: &Named, second: &Named, targets: &[Read<TargetSettings>]) -> bool {
    let of = |named: &Named| -> Vec<&TargetSettings> {
        let is_named = |read: &&Read<TargetSettings>| named.targets.contains(&read.settings.name);
        targets.iter().filter(is_named).map(|read| &read.settings).collect()
    };
    let seconds = of(second);
    of(first).iter().any(|one| seconds.iter().any(|other| is_one_cluster(one, other)))
}

fn judge_table(shape: &TableShape, (place, path): &(Place, KeyPath), first: &Named, problems: &mut Problems) {
    let names = names_of(shape);
    let name = &first.pipeline.name;
    if first.pipeline.tables.iter().any(|other| can_be_equal(&names, &names_of(other))) {
        taken(&shape.index, name, (place, &path.key("index")), problems);
    }
    let indices: BTreeSet<&str> = first.pipeline.tables.iter().map(|other| other.index.as_str()).collect();
    for alias in shape.setup.aliases.iter().filter(|alias| indices.contains(alias.as_str())) {
        taken(alias, name, (place, &path.key("aliases")), problems);
    }
}

fn taken(index: &str, pipeline: &str, (place, path): (&Place, &KeyPath), problems: &mut Problems) {
    let what = format!("{index:?} can be an index of [pipelines.{pipeline}] in the same cluster");
    problems.add(place, path, what, "give each pipeline indices of its own, as by a prefix");
}

/// The names that a table's indices can have, with `*` for any text.
fn names_of(shape: &TableShape) -> Vec<char> {
    let index = match pattern::parts(&shape.table).filter(|_| pattern::is_pattern(&shape.table)) {
        Some((schema, table)) => {
            shape.index.replace("{schema}", &schema.to_lowercase()).replace("{table}", &table.to_lowercase())
        }
        None => shape.index.clone(),
    };
    index.chars().collect()
}

/// Whether two texts with `*` have a text in common.
fn can_be_equal(one: &[char], other: &[char]) -> bool {
    // Whether what is before a place of `one` and a place of `other` can be equal, for each place of `other`.
    let mut row = vec![false; other.len() + 1];
    for at in 0..=one.len() {
        let above = std::mem::replace(&mut row, vec![false; other.len() + 1]);
        for to in 0..=other.len() {
            let left = to > 0 && row[to - 1];
            row[to] = match (at.checked_sub(1).map(|at| one[at]), to.checked_sub(1).map(|to| other[to])) {
                (None, None) => true,
                (Some('*'), _) | (_, Some('*')) if above[to] || left => true,
                (Some(a), Some(b)) => a == b && above[to - 1],
                (Some(_), None) | (None, Some(_)) => false,
            };
        }
    }
    row[other.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_with_stars_meet_where_one_text_fits_both() {
        let meet = |one: &str, other: &str| {
            let chars = |text: &str| text.chars().collect::<Vec<_>>();
            let (one, other) = (chars(one), chars(other));
            assert_eq!(can_be_equal(&one, &other), can_be_equal(&other, &one), "{one:?} {other:?}");
            can_be_equal(&one, &other)
        };
        for (one, other) in [
            ("a", "a"),
            ("*", ""),
            ("*", "*"),
            ("a-*", "*-b"),
            ("tenant_*-products", "tenant_7-products"),
            ("a*c", "abbc"),
            ("*a*", "bab"),
            ("*", "anything"),
            ("a**", "a"),
        ] {
            assert!(meet(one, other), "{one} {other}");
        }
        for (one, other) in [
            ("a", "b"),
            ("a", ""),
            ("a-*", "b-*"),
            ("*-a", "*-b"),
            ("tenant_*-products", "shop-products"),
            ("a*c", "abbd"),
            ("a*", "b"),
        ] {
            assert!(!meet(one, other), "{one} {other}");
        }
    }
}
