//! What becomes of an index at the start: kept, made, replaced, or a person must act (law 8, T45).

use super::FILL_ANEW;
use super::watcher;
use crate::config::Existing;
use crate::retry::Halt;
use crate::store::Saved;
use crate::target::{IndexSpec, IndexState};

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Decision {
    Keep(String),
    Create,
    Replace(String),
}

/// What to do about an alias.
///
/// | under the alias            | our store has a checkpoint | otherwise                              |
/// |----------------------------|----------------------------|----------------------------------------|
/// | nothing                    | halt: it is gone           | create                                 |
/// | the index we know          | keep (same shape)          | keep when empty, else by `existing`    |
/// | another index              | halt: it was replaced      | by `existing`                          |
///
/// An empty index of ours may hold the versions of documents that were deleted. Without the state document
/// (`has_state`), which is made before any index, nothing says that the new versions lie above them: it is
/// made anew.
/// An index of an older format is the one we know only if none of its fields has another form since.
pub(super) fn decide(
    spec: &IndexSpec,
    found: Option<&IndexState>,
    ours: Option<&String>,
    saved: &Saved,
    has_state: bool,
    existing: Existing,
) -> Result<Decision, Halt> {
    let resumes = saved.position.is_some();
    let Some(found) = found else {
        return match (resumes, ours) {
            (true, Some(uuid)) => Err(gone(&spec.alias, uuid, None)),
            // A table that was added to the configuration since.
            _ => Ok(Decision::Create),
        };
    };
    if resumes && let Some(uuid) = ours {
        if *uuid != found.uuid {
            return Err(gone(&spec.alias, uuid, Some(&found.uuid)));
        }
        if !spec.shape_hash.is_empty() && found.shape_hash.as_ref() != Some(&spec.shape_hash) {
            return Err(Halt {
                state: "shape-changed",
                what: format!(
                    "the index behind {} was filled with another choice of columns, names or ids",
                    spec.alias
                ),
                hint: FILL_ANEW.to_owned(),
            });
        }
        if let Some(field) = spec.changed_since(found.format) {
            return Err(older_form(spec, found, field));
        }
        return Ok(Decision::Keep(found.uuid.clone()));
    }
    let made_here = found.pipeline.as_ref() == Some(&spec.pipeline)
        && found.shape_hash.as_ref() == Some(&spec.shape_hash)
        && spec.changed_since(found.format).is_none();
    match (made_here && found.documents == 0, existing) {
        (true, _) if !has_state => Ok(Decision::Replace(found.name.clone())),
        (true, _) => Ok(Decision::Keep(found.uuid.clone())),
        (false, Existing::Replace) => Ok(Decision::Replace(found.name.clone())),
        (false, Existing::Refuse) => Err(Halt {
            state: "index-exists",
            what: format!("{} holds {} documents that this data directory knows nothing of (index {})", spec.alias, found.documents, found.name),
            hint: "set existing = \"replace\" on the target to delete it and fill a new one, or name another index".to_owned(),
        }),
    }
}

fn older_form(spec: &IndexSpec, found: &IndexState, field: &str) -> Halt {
    Halt {
        state: "format-changed",
        what: format!(
            "the index {} has Rowtide's format {}, and its field {field} has another form since: documents of two \
             forms do not belong into one index",
            found.name, found.format
        ),
        hint: format!("leave {field:?} out of the columns of {}, or {FILL_ANEW}", spec.alias),
    }
}

fn gone(alias: &str, ours: &str, found: Option<&str>) -> Halt {
    watcher::judge(alias, ours, found).unwrap_or_else(|| Halt {
        state: "index-replaced",
        what: format!("the index behind {alias} is not the one that Rowtide made"),
        hint: FILL_ANEW.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use sources::change::Kind;
    use sources::position::Position;

    fn spec() -> IndexSpec {
        IndexSpec {
            alias: "products".into(),
            pipeline: "shop".into(),
            fields: Vec::new(),
            shape_hash: "s1".into(),
            ..IndexSpec::default()
        }
    }

    fn index(uuid: &str, documents: u64, shape: Option<&str>) -> IndexState {
        IndexState {
            name: "products-rowtide-1".into(),
            uuid: uuid.into(),
            documents,
            pipeline: shape.map(|_| "shop".into()),
            shape_hash: shape.map(str::to_owned),
            format: crate::target::DOCUMENT_FORMAT,
            odd: Vec::new(),
        }
    }

    fn saved(resumes: bool) -> Saved {
        let position = resumes.then(|| Position::from_text("{}"));
        Saved { owner: "o".into(), position, clean: true, identity: None, indices: None }
    }

    fn decided(
        found: Option<IndexState>,
        ours: Option<&str>,
        resumes: bool,
        existing: Existing,
    ) -> Result<Decision, &'static str> {
        let ours = ours.map(str::to_owned);
        decide(&spec(), found.as_ref(), ours.as_ref(), &saved(resumes), true, existing)
            .map_err(|halt| halt.state)
    }

    #[test]
    fn t29_an_empty_index_of_ours_whose_order_nobody_knows_is_made_anew() {
        let found = index("a", 0, Some("s1"));
        let decided = decide(&spec(), Some(&found), None, &saved(false), false, Existing::Refuse);
        assert_eq!(decided.map_err(|halt| halt.state), Ok(Decision::Replace("products-rowtide-1".into())));
    }

    #[test]
    fn a_first_start_makes_the_index_or_keeps_its_own_empty_one() {
        assert_eq!(decided(None, None, false, Existing::Refuse), Ok(Decision::Create));
        assert_eq!(
            decided(Some(index("a", 0, Some("s1"))), None, false, Existing::Refuse),
            Ok(Decision::Keep("a".into()))
        );
    }

    #[test]
    fn documents_that_are_already_there_are_refused_unless_the_configuration_says_replace() {
        for found in
            [index("a", 3, Some("s1")), index("a", 3, None), index("a", 0, None), index("a", 0, Some("s2"))]
        {
            assert_eq!(decided(Some(found.clone()), Some("a"), false, Existing::Refuse), Err("index-exists"));
            let replaced = Ok(Decision::Replace("products-rowtide-1".into()));
            assert_eq!(decided(Some(found), Some("a"), false, Existing::Replace), replaced);
        }
    }

    #[test]
    fn t45_a_resumed_pipeline_never_makes_its_index_again() {
        assert_eq!(decided(None, Some("a"), true, Existing::Replace), Err("alias-gone"));
        assert_eq!(
            decided(Some(index("b", 9, Some("s1"))), Some("a"), true, Existing::Replace),
            Err("index-replaced")
        );
        assert_eq!(
            decided(Some(index("a", 9, Some("s2"))), Some("a"), true, Existing::Replace),
            Err("shape-changed")
        );
        assert_eq!(
            decided(Some(index("a", 9, Some("s1"))), Some("a"), true, Existing::Refuse),
            Ok(Decision::Keep("a".into()))
        );
    }

    #[test]
    fn an_index_of_the_older_format_is_kept_unless_a_field_has_another_form() {
        let column = |kind| vec![("c".to_owned(), sources::change::Column { name: "c".into(), kind })];
        let with = |kind| IndexSpec { fields: column(kind), ..spec() };
        let found = |documents| IndexState { format: 1, ..index("a", documents, Some("s1")) };
        let decided = |kind, documents, resumes| {
            let ours = "a".to_owned();
            decide(&with(kind), Some(&found(documents)), Some(&ours), &saved(resumes), true, Existing::Refuse)
                .map_err(|halt| halt.state)
        };
        for same in [Kind::Text, Kind::Json, Kind::Array(Box::new(Kind::Decimal))] {
            assert_eq!(decided(same, 9, true), Ok(Decision::Keep("a".into())));
        }
        let range = || Kind::Range(Box::new(Kind::Date));
        for changed in [range(), Kind::Array(Box::new(range())), Kind::Object(Arc::new([])), Kind::Map] {
            assert_eq!(decided(changed.clone(), 9, true), Err("format-changed"));
            // Its mapping is another one too.
            assert_eq!(decided(changed, 0, false), Err("index-exists"));
        }
    }
}
