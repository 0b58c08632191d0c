//! Settings that are set otherwise while an index is being filled.
//!
//! ```text
//!   made ─► _meta.rowtide.eased = what is there ─► settings ═══ filled ═══► settings back ─► eased gone
//! ```
//! What was there is kept in the index before it is changed, so that any later start can give it back, wherever
//! the last one ended. A setting that is no longer as Rowtide set it was changed by somebody: it stays.

use std::collections::BTreeMap;

use reqwest::Method;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::client::{Call, Client, escape, failure, parse};
use super::index::{check_name, no_index, refresh};
use crate::target::setup::plain;
use crate::target::{Easing, TargetError};

const CONTEXT: &str = "ease the filling of an index";
const REFRESH: &str = "refresh_interval";
const REPLICAS: &str = "number_of_replicas";
/// A request's first line has at most 4096 bytes; an alias takes up to three times its bytes when escaped.
const NAMES_BYTES_MAX: usize = 3000;

#[derive(Default, Deserialize)]
struct Found {
    #[serde(default)]
    settings: BTreeMap<String, Value>,
    #[serde(default)]
    mappings: Mappings,
    #[serde(default)]
    aliases: BTreeMap<String, Value>,
}

#[derive(Default, Deserialize)]
struct Mappings {
    #[serde(default, rename = "_meta")]
    meta: Value,
}

impl Found {
    fn setting(&self, name: &str) -> Option<&Value> {
        self.settings.get(&format!("index.{name}"))
    }

    /// What was there before, by the settings that were changed.
    fn eased(&self) -> Option<&Map<String, Value>> {
        self.mappings.meta["rowtide"]["eased"].as_object()
    }
}

/// What a setting is while an index is filled; `None` for one that is never changed.
fn while_filled(setting: &str) -> Option<&'static str> {
    match setting {
        // Nearly as cheap as never, and what is written can be found meanwhile.
        REFRESH => Some("30s"),
        REPLICAS => Some("0"),
        _ => None,
    }
}

/// Eases an index that was just made.
pub(super) async fn ease(client: &Client, name: &str, easing: Easing) -> Result<(), TargetError> {
    let wanted: &[&str] = match easing {
        Easing::Nothing => return Ok(()),
        Easing::Refresh => &[REFRESH],
        Easing::RefreshAndReplicas => &[REFRESH, REPLICAS],
    };
    let Some((name, found)) = look(client, name).await? else { return Ok(()) };
    let before = match found.eased() {
        // The answer to an earlier attempt was lost.
        Some(eased) => eased.clone(),
        None => before(&found, wanted),
    };
    if before.is_empty() {
        return Ok(());
    }
    if found.eased().is_none() {
        write_eased(client, &name, &found, Some(&before)).await?;
    }
    let eased = |setting: &String| Some((setting.clone(), json!(while_filled(setting)?)));
    change(client, &name, before.keys().filter_map(eased).collect()).await
}

/// What is there of the settings that would be changed.
fn before(found: &Found, wanted: &[&str]) -> Map<String, Value> {
    let mut before = Map::new();
    for setting in wanted {
        let there = found.setting(setting);
        let expands = found.setting("auto_expand_replicas").is_some_and(|value| plain(value) != "false");
        // The cluster itself counts replicas that follow the number of nodes.
        if there.map(plain).as_deref() == while_filled(setting) || (*setting == REPLICAS && expands) {
            continue;
        }
        if *setting == REFRESH && there.is_some_and(is_rare) {
            continue;
        }
        before.insert((*setting).to_owned(), there.cloned().unwrap_or(Value::Null));
    }
    before
}

/// Whether an index is refreshed more rarely than while it is filled: never, or every minute or hour.
fn is_rare(interval: &Value) -> bool {
    let text = plain(interval);
    let number = |unit: &str| text.strip_suffix(unit).and_then(|number| number.trim().parse::<u64>().ok());
    let is_long = ["m", "h", "d"].iter().any(|unit| number(unit).is_some_and(|number| number > 0));
    is_long || text.starts_with('-') || number("s").is_some_and(|seconds| seconds > 30)
}

pub(super) async fn restore(client: &Client, alias: &str) -> Result<Vec<String>, TargetError> {
    let Some((name, found)) = look(client, alias).await? else { return Ok(Vec::new()) };
    let Some(eased) = found.eased() else { return Ok(Vec::new()) };
    let back = back(&found, eased);
    let given: Vec<String> = back.keys().cloned().collect();
    if !back.is_empty() {
        change(client, &name, back).await?;
    }
    write_eased(client, &name, &found, None).await?;
    if given.iter().any(|setting| setting == REFRESH) {
        // Else the first search would wait for all of it.
        refresh(client, &name).await?;
    }
    Ok(given)
}

/// What is given back: of those that are still as Rowtide set them, what was there before.
fn back(found: &Found, eased: &Map<String, Value>) -> Map<String, Value> {
    let ours = |setting: &str| found.setting(setting).map(plain).as_deref() == while_filled(setting);
    let known = eased.iter().filter(|(setting, _)| while_filled(setting).is_some() && ours(setting));
    known.map(|(setting, before)| (setting.clone(), before.clone())).collect()
}

pub(super) async fn eased(client: &Client, aliases: &[String]) -> Result<Vec<String>, TargetError> {
    let mut eased = Vec::new();
    let mut names = String::new();
    for (number, alias) in aliases.iter().enumerate() {
        check_name(CONTEXT, alias)?;
        if !names.is_empty() {
            names.push(',');
        }
        names.push_str(&escape(alias));
        let next = aliases.get(number + 1).map_or(NAMES_BYTES_MAX, |next| escape(next).len());
        if names.len() + next < NAMES_BYTES_MAX {
            continue;
        }
        let filter = "ignore_unavailable=true&filter_path=*.mappings._meta.rowtide.eased,*.aliases";
        let path = format!("/{names}?{filter}");
        let answer = client.send(Call::new(CONTEXT, Method::GET, &path)).await?;
        names.clear();
        let found: BTreeMap<String, Found> = match answer.status {
            200 => parse(CONTEXT, &answer)?,
            404 if no_index(&answer) => continue,
            _ => return Err(failure(CONTEXT, &answer)),
        };
        let found = found.into_values().filter(|found| found.eased().is_some());
        eased.extend(found.flat_map(|found| found.aliases.into_keys()));
    }
    eased.retain(|alias| aliases.contains(alias));
    Ok(eased)
}

async fn look(client: &Client, alias: &str) -> Result<Option<(String, Found)>, TargetError> {
    check_name(CONTEXT, alias)?;
    let filter = "flat_settings=true&filter_path=*.mappings._meta,*.settings";
    let path = format!("/{}?{filter}", escape(alias));
    let answer = client.send(Call::new(CONTEXT, Method::GET, &path)).await?;
    match answer.status {
        200 => {}
        404 if no_index(&answer) => return Ok(None),
        _ => return Err(failure(CONTEXT, &answer)),
    }
    let found: BTreeMap<String, Found> = parse(CONTEXT, &answer)?;
    Ok(found.into_iter().next())
}

async fn change(client: &Client, name: &str, settings: Map<String, Value>) -> Result<(), TargetError> {
    let path = format!("/{}/_settings", escape(name));
    let body = json!({ "index": settings });
    client.succeed(Call::new(CONTEXT, Method::PUT, &path).json(&body)).await.map(drop)
}

/// `_meta` is written whole: a cluster does not merge it.
async fn write_eased(
    client: &Client,
    name: &str,
    found: &Found,
    eased: Option<&Map<String, Value>>,
) -> Result<(), TargetError> {
    let mut meta = found.mappings.meta.clone();
    let Some(ours) = meta["rowtide"].as_object_mut() else { return Ok(()) };
    match eased {
        Some(eased) => drop(ours.insert("eased".to_owned(), Value::Object(eased.clone()))),
        None => drop(ours.remove("eased")),
    }
    let path = format!("/{}/_mapping", escape(name));
    let body = json!({ "_meta": meta });
    client.succeed(Call::new(CONTEXT, Method::PUT, &path).json(&body)).await.map(drop)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn found(settings: Value, eased: Value) -> Found {
        let meta = json!({ "rowtide": { "format": 2, "eased": eased } });
        serde_json::from_value(json!({ "settings": settings, "mappings": { "_meta": meta } })).unwrap()
    }

    fn object(value: Value) -> Map<String, Value> {
        value.as_object().unwrap().clone()
    }

    #[test]
    fn t35_what_is_there_is_remembered_unless_it_is_so_already() {
        let both = [REFRESH, REPLICAS];
        let plain = found(json!({ "index.number_of_replicas": "1" }), Value::Null);
        assert_eq!(before(&plain, &both), object(json!({ REFRESH: null, REPLICAS: "1" })));
        assert_eq!(before(&plain, &[REFRESH]), object(json!({ REFRESH: null })));
        let so = json!({ "index.number_of_replicas": "0", "index.refresh_interval": "30s" });
        assert!(before(&found(so, Value::Null), &both).is_empty());
        for (interval, is_eased) in
            [("-1", false), ("1m", false), ("60s", false), ("5s", true), ("500ms", true)]
        {
            let there = found(json!({ "index.refresh_interval": interval }), Value::Null);
            assert_eq!(before(&there, &[REFRESH]).is_empty(), !is_eased, "{interval}");
        }
        let expands = json!({ "index.number_of_replicas": "2", "index.auto_expand_replicas": "0-2" });
        assert!(before(&found(expands, Value::Null), &[REPLICAS]).is_empty());
    }

    #[test]
    fn t35_what_somebody_has_changed_since_is_not_written_over() {
        let eased = json!({ REFRESH: "5s", REPLICAS: "1", "codec": "best" });
        let ours = json!({ "index.number_of_replicas": "0", "index.refresh_interval": "30s" });
        let there = found(ours, eased.clone());
        assert_eq!(back(&there, there.eased().unwrap()), object(json!({ REFRESH: "5s", REPLICAS: "1" })));
        let theirs = json!({ "index.number_of_replicas": "2", "index.refresh_interval": "30s" });
        let there = found(theirs, eased.clone());
        assert_eq!(back(&there, there.eased().unwrap()), object(json!({ REFRESH: "5s" })));
        let gone = found(json!({ "index.number_of_replicas": "2" }), eased);
        assert!(back(&gone, gone.eased().unwrap()).is_empty());
    }
}
