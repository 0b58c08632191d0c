use serde_json::json;

use super::tests::{GOOD, assert_lines, errors, load_good};
use super::{Cast, Piece};

#[test]
fn steps_are_read() {
    let lines = r#"exclude = ["secret"]
rename = { street = "address.street" }
constants = { kind = "account", "meta.form" = 2, tags = ["a"] }
flatten = { color = "attributes.color", "size.width" = "attributes.size.width" }
template = { "name.full" = "{first} {{{last}}}" }
parse_json = ["payload"]
trim = ["email"]
lower = ["email"]
cast = { price = "number", active = "boolean", code = "string" }
"#;
    let config = load_good(&format!("{GOOD}{lines}"), &[]);
    let steps = &config.pipelines[0].settings.tables[1].steps;
    assert_eq!(steps.exclude, ["secret"]);
    assert_eq!(
        config.pipelines[0].settings.tables[1].rename,
        [("street".to_owned(), "address.street".to_owned())]
    );
    assert!(steps.constants.contains(&("kind".to_owned(), json!("account"))));
    assert!(steps.constants.contains(&("meta.form".to_owned(), json!(2))));
    assert!(steps.constants.contains(&("tags".to_owned(), json!(["a"]))));
    assert_eq!(steps.flatten[1].1, ["attributes", "size", "width"]);
    let column = |name: &str| Piece::Column(name.to_owned());
    let text = |text: &str| Piece::Text(text.to_owned());
    assert_eq!(steps.templates[0].1.pieces, [column("first"), text(" {"), column("last"), text("}")]);
    let casts = [("price", Cast::Number), ("active", Cast::Boolean), ("code", Cast::String)];
    assert_eq!(steps.cast, casts.map(|(field, cast)| (field.to_owned(), cast)));
    assert_eq!(steps.parse_json, ["payload"]);
    assert_eq!((&steps.trim, &steps.lower), (&vec!["email".to_owned()], &vec!["email".to_owned()]));
    assert_eq!(config.pipelines[0].settings.tables[0].steps, super::Steps::default());
}

#[test]
fn wrong_steps_are_told_with_their_fix() {
    let lines = r#"columns = ["a"]
exclude = ["b", "b"]
flatten = { color = "attributes" }
template = { one = "{a", two = "text" }
cast = { a = "integer" }
trim = "a"
"#;
    let text = errors(&format!("{GOOD}{lines}"), &[]);
    for (key, what) in [
        ("exclude", "is given beside columns"),
        ("exclude[1]", "\"b\" is empty or there twice"),
        ("flatten.color", "\"attributes\" is no column.member"),
        ("template.one", "has a { without its }"),
        ("template.two", "names no column"),
        ("cast.a", "\"integer\" is not known"),
        ("trim", "must be a list of texts"),
    ] {
        let is_told = text.lines().any(|line| line.contains(key) && line.contains(what));
        assert!(is_told, "{key} {what}:\n{text}");
    }
    assert_lines(&text, &["    fix: one of \"string\", \"number\", \"boolean\""]);
}

#[test]
fn a_filter_and_a_soft_delete_are_read_and_what_is_wrong_is_told() {
    let config =
        load_good(&format!("{GOOD}filter = \"id > 1 and not gone\"\nsoft_delete = \"deleted_at\"\n"), &[]);
    let filter = &config.pipelines[0].settings.tables[1].filter;
    assert_eq!(
        filter.condition.as_ref().map(ToString::to_string).as_deref(),
        Some("(\"id\" > 1 and not \"gone\")")
    );
    assert_eq!(filter.soft_delete.as_deref(), Some("deleted_at"));
    assert_eq!(config.pipelines[0].settings.tables[0].filter, super::RowFilter::default());
    let text = errors(&format!("{GOOD}filter = \"id >\"\nsoft_delete = \"\"\n"), &[]);
    assert!(text.contains("filter: ends where a 'text'") && text.contains("soft_delete: is empty"), "{text}");
}
