//! What an index would make of a table, for people who have not filled one yet.

use sources::change::Kind;

use super::making::check_field;
use super::mapping::mapping;

/// How a kind is mapped, in short: as in `text, keyword` or `date`.
pub fn mapping_words(kind: &Kind) -> String {
    let mapping = mapping(kind);
    let own = mapping["type"].as_str().unwrap_or("object");
    if mapping["enabled"] == false {
        return format!("{own}, kept but not searched");
    }
    let more = mapping["fields"].as_object().into_iter().flat_map(|fields| fields.values());
    let more = more.filter_map(|field| field["type"].as_str());
    std::iter::once(own).chain(more).collect::<Vec<_>>().join(" and ")
}

/// Whether an index takes a field of this name.
pub fn takes_field(name: &str) -> bool {
    check_field(name, name).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_is_named_as_it_is_mapped() {
        let array = Kind::Array(Box::new(Kind::Integer { bits: 64 }));
        for (kind, words) in [
            (Kind::Text, "text and keyword"),
            (Kind::Timestamp, "date"),
            (Kind::Decimal, "double"),
            (Kind::Json, "object, kept but not searched"),
            (array, "long"),
        ] {
            assert_eq!(mapping_words(&kind), words);
        }
        assert!(takes_field("name") && !takes_field("a.b") && !takes_field("_id") && !takes_field(" "));
    }
}
