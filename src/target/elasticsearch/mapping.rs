//! What a field's mapping is, by the kind of its column's values.
//!
//! A document must never be refused for a value that the database holds rightly. So where a database knows
//! more values than a type of the index (NaN, infinity, years beyond 9999), `ignore_malformed` keeps the
//! document and leaves the field out of the search; where a type has no such setting and can refuse, as
//! range fields can, another is taken. Every value stays in `_source` exactly as it was sent (a decimal with
//! all its digits).

use serde_json::{Map, Value, json};
use sources::change::Kind;

/// Most fields that one composite gives an index; one with more is kept, and not searched.
const OBJECT_FIELDS_MAX: usize = 500;

/// The mapping of values of a kind.
pub(super) fn mapping(kind: &Kind) -> Value {
    let number = |name: &str| json!({ "type": name, "ignore_malformed": true });
    match kind {
        Kind::Boolean => json!({ "type": "boolean" }),
        Kind::Integer { bits: 16 } => json!({ "type": "short" }),
        Kind::Integer { bits: 32 } => json!({ "type": "integer" }),
        Kind::Integer { .. } => json!({ "type": "long" }),
        Kind::Float { bits: 32 } => number("float"),
        Kind::Float { .. } | Kind::Decimal => number("double"),
        // 256 characters: what one sorts or groups by; a longer text is found by its words.
        Kind::Text => {
            json!({ "type": "text", "fields": { "keyword": { "type": "keyword", "ignore_above": 256 } } })
        }
        // Lucene's terms hold 32,766 bytes and a character takes up to 4.
        Kind::Keyword | Kind::KeyText => json!({ "type": "keyword", "ignore_above": 8191 }),
        Kind::Binary => json!({ "type": "binary" }),
        Kind::Date | Kind::Timestamp => {
            json!({ "type": "date", "format": "strict_date_optional_time", "ignore_malformed": true })
        }
        Kind::Json | Kind::Map => kept(),
        Kind::Array(inner) => mapping(inner),
        Kind::Object(fields) => match can_be_fields(kind) {
            true => {
                let of = |(name, kind): &(Box<str>, Kind)| (name.to_string(), mapping(kind));
                json!({ "properties": fields.iter().map(of).collect::<Map<_, _>>() })
            }
            false => kept(),
        },
        // [from,to) of whole numbers: none of them is refused.
        Kind::IntegerRange { bits: 32 } => json!({ "type": "integer_range" }),
        Kind::IntegerRange { .. } => json!({ "type": "long_range" }),
        // Range fields refuse the whole document for infinity, NaN and BC, and where the step of their
        // numbers is wider than the range: so each bound is a field of its own.
        Kind::Range(bound) => match can_be_fields(kind) {
            true => {
                let bound = mapping(bound);
                json!({ "properties": { "gte": bound, "gt": bound, "lte": bound, "lt": bound } })
            }
            false => kept(),
        },
        Kind::Geometry => json!({ "type": "geo_shape", "ignore_malformed": true }),
    }
}

/// In `_source`, whatever its names and values are.
fn kept() -> Value {
    json!({ "type": "object", "enabled": false })
}

/// How many fields of the mapping a kind takes.
pub(super) fn fields_of(kind: &Kind) -> usize {
    if !can_be_fields(kind) {
        return 1;
    }
    let mut left = OBJECT_FIELDS_MAX;
    take_fields(kind, &mut left);
    OBJECT_FIELDS_MAX - left
}

fn can_be_fields(kind: &Kind) -> bool {
    take_fields(kind, &mut OBJECT_FIELDS_MAX.clone())
}

/// Whether all its names can be fields and there are not too many. It ends where they are: a composite of
/// composites of … can have more than one could count.
fn take_fields(kind: &Kind, left: &mut usize) -> bool {
    let own = if *kind == Kind::Text { 2 } else { 1 };
    let Some(rest) = left.checked_sub(own) else { return false };
    *left = rest;
    match kind {
        Kind::Array(inner) => take_fields(inner, left),
        Kind::Range(bound) => (0..4).all(|_| take_fields(bound, left)),
        Kind::Object(fields) => fields.iter().all(|(name, kind)| is_field(name) && take_fields(kind, left)),
        _ => true,
    }
}

/// Dots make objects, and a name of blanks is refused with its whole document.
fn is_field(name: &str) -> bool {
    !name.contains('.') && !name.trim().is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(fields: &[(&str, Kind)]) -> Kind {
        Kind::Object(fields.iter().map(|(name, kind)| ((*name).into(), kind.clone())).collect())
    }

    #[test]
    fn a_composite_is_searched_by_its_attributes() {
        let kind = object(&[("n", Kind::Integer { bits: 32 }), ("in", object(&[("t", Kind::Text)]))]);
        assert_eq!(mapping(&kind)["properties"]["in"]["properties"]["t"]["type"], "text");
        assert_eq!(mapping(&Kind::Array(Box::new(kind.clone())))["properties"]["n"]["type"], "integer");
        assert_eq!(fields_of(&kind), 5);
    }

    #[test]
    fn t35_a_composite_that_an_index_cannot_hold_as_fields_is_kept_and_not_searched() {
        let kept = json!({ "type": "object", "enabled": false });
        for name in [".", "a.b", "a.", "..", " ", "\t"] {
            let kind = object(&[("fine", Kind::Text), (name, Kind::Text)]);
            assert_eq!(mapping(&kind), kept, "{name:?}");
            assert_eq!(mapping(&object(&[("outer", kind.clone())])), kept, "{name:?}");
            assert_eq!(fields_of(&kind), 1);
        }
        let wide: Vec<(Box<str>, Kind)> = (0..300).map(|n| (format!("c{n}").into(), Kind::Text)).collect();
        assert_eq!(mapping(&Kind::Object(wide.into())), kept);
        // 100^12 fields: it ends all the same.
        let mut deep = Kind::Boolean;
        for _ in 0..12 {
            deep = Kind::Object((0..100).map(|n| (format!("c{n}").into(), deep.clone())).collect());
        }
        assert_eq!(mapping(&deep), kept);
    }

    #[test]
    fn ranges_are_range_fields_only_where_no_value_can_be_refused() {
        assert_eq!(mapping(&Kind::IntegerRange { bits: 32 })["type"], "integer_range");
        assert_eq!(mapping(&Kind::IntegerRange { bits: 64 })["type"], "long_range");
        let times = mapping(&Kind::Range(Box::new(Kind::Timestamp)));
        for bound in ["gte", "gt", "lte", "lt"] {
            assert_eq!(times["properties"][bound]["ignore_malformed"], true);
        }
    }
}
