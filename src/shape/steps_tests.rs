#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::sync::Arc;

use proptest::prelude::*;
use serde_json::{Value, json};
use sources::change::{Kind as ColumnKind, Op, Table};
use sources::queue::Costs;

use super::tests::{change, entered, row, table, version};
use super::{Shape, ShapeError};
use crate::config::{Cast, Piece, Steps, TableShape, Template};
use crate::lanes::{Action, Kind};

/// A number, three texts, JSON, a composite.
fn wide() -> Arc<Table> {
    let text = ColumnKind::Text;
    let size: Arc<[(Box<str>, ColumnKind)]> =
        [("width".into(), ColumnKind::Integer { bits: 32 }), ("unit".into(), text.clone())].into();
    let columns = [
        ("id", ColumnKind::Integer { bits: 64 }),
        ("name", text.clone()),
        ("city", text.clone()),
        ("price", text),
        ("attributes", ColumnKind::Json),
        ("size", ColumnKind::Object(size)),
    ];
    table(&columns, &[0])
}

const VALUES: [&str; 6] = [
    "7",
    r#"" A \"b\" ""#,
    r#""Rome""#,
    r#""12.50""#,
    r#"{"color":"Red","deep":{"er":[1,2]}}"#,
    r#"{"width":3,"unit":"M"}"#,
];

fn all() -> TableShape {
    let own = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    let steps = Steps {
        exclude: own(&["attributes", "size"]),
        constants: vec![("kind".into(), json!("product")), ("meta.form".into(), json!(2))],
        flatten: vec![
            ("color".into(), own(&["attributes", "color"])),
            ("inner".into(), own(&["attributes", "deep", "er"])),
            ("width".into(), own(&["size", "width"])),
        ],
        templates: vec![("label".into(), template(&["{name}", " of ", "{city}", " \"", "{id}"]))],
        parse_json: Vec::new(),
        trim: own(&["name"]),
        lower: own(&["address.city", "color"]),
        cast: vec![("price".into(), Cast::Number), ("width".into(), Cast::String)],
    };
    let rename = vec![("city".into(), "address.city".into())];
    TableShape { table: "public.t".into(), index: "things".into(), rename, steps, ..TableShape::default() }
}

fn template(parts: &[&str]) -> Template {
    let piece = |part: &&str| match part.strip_prefix('{') {
        Some(column) => Piece::Column(column.trim_end_matches('}').to_owned()),
        None => Piece::Text((*part).to_owned()),
    };
    Template { text: parts.concat(), pieces: parts.iter().map(piece).collect() }
}

fn render(shape: &TableShape, values: &[&str]) -> Action {
    let table = wide();
    let mut compiled = Shape::compile(std::slice::from_ref(shape), std::slice::from_ref(&table)).unwrap();
    let values: Vec<_> = values.iter().copied().map(Some).collect();
    compiled.render(&change(&table, Op::Put(row(&values))), version(), entered()).unwrap()
}

fn document(action: &Action) -> Value {
    let text = std::str::from_utf8(&action.data).unwrap();
    assert_eq!(action.kind, Kind::Put);
    serde_json::from_str(text.lines().nth(1).unwrap()).unwrap()
}

fn faults(shape: TableShape) -> Vec<String> {
    let errors = Shape::compile(&[shape], &[wide()]).unwrap_err();
    errors.iter().map(ShapeError::to_string).collect()
}

#[test]
fn every_step_has_its_place_in_the_document_and_in_the_mapping() {
    let expected = json!({
        "id": 7,
        "name": "A \"b\"",
        "address": { "city": "rome" },
        "price": 12.5,
        "kind": "product",
        "meta": { "form": 2 },
        "color": "red",
        "inner": [1, 2],
        "width": "3",
        "label": " A \"b\"  of Rome \"7",
    });
    assert_eq!(document(&render(&all(), &VALUES)), expected);
    let fields = Shape::compile(&[all()], &[wide()]).unwrap().fields(0);
    let kind = |name: &str| fields.iter().find(|(own, _)| own == name).unwrap().1.kind.clone();
    assert_eq!(kind("price"), ColumnKind::Decimal);
    assert_eq!(kind("width"), ColumnKind::Keyword);
    assert_eq!((kind("color"), kind("label")), (ColumnKind::Json, ColumnKind::Text));
    assert_eq!(kind("kind"), ColumnKind::Keyword);
    let city: Arc<[(Box<str>, ColumnKind)]> = [("city".into(), ColumnKind::Text)].into();
    assert_eq!(kind("address"), ColumnKind::Object(city));
    assert_eq!(fields.len(), 10);
}

#[test]
fn fields_of_one_object_stand_together_wherever_they_come_from() {
    let mut shape = all();
    shape.rename.push(("price".into(), "address.price".into()));
    shape.steps.cast.clear();
    shape.steps.constants.push(("address.land.code".into(), json!("IT")));
    let document = document(&render(&shape, &VALUES));
    let expected = json!({ "city": "rome", "price": "12.50", "land": { "code": "IT" } });
    assert_eq!(document["address"], expected);
}

#[test]
fn null_stays_null_and_is_no_text() {
    let document = document(&render(&all(), &["7", "null", "null", "null", "null", "null"]));
    for field in ["name", "price", "color", "inner", "width"] {
        assert_eq!(document.get(field), Some(&Value::Null), "{field}");
    }
    assert_eq!((&document["address"]["city"], &document["label"]), (&Value::Null, &json!(" of  \"7")));
    let none = self::document(&render(&all(), &["7", "null", "null", "null", r#"{"deep":null}"#, "null"]));
    assert_eq!((none.get("color"), none.get("inner")), (Some(&Value::Null), Some(&Value::Null)));
}

#[test]
fn a_value_that_a_step_cannot_work_on_is_a_dead_letter_with_its_field_and_without_its_value() {
    let with = |at: usize, value: &'static str| {
        let mut values = VALUES;
        values[at] = value;
        values
    };
    for (values, field) in [
        (with(3, r#""twelve""#), "price"),
        (with(3, r#""""#), "price"),
        (with(4, "[1]"), "color"),
        (with(4, r#"{"deep":"secret"}"#), "inner"),
    ] {
        let action = render(&all(), &values);
        let Kind::Dead(dead) = &action.kind else { panic!("{field}: {:?}", action.kind) };
        assert!(dead.reason.contains(&format!("the field {field} of public.t")), "{}", dead.reason);
        assert!(!dead.reason.contains("twelve") && !dead.reason.contains("secret"), "{}", dead.reason);
        assert!(!dead.whole, "half a document is kept nowhere");
        assert_eq!(action.id(), b"7");
        assert_eq!(std::str::from_utf8(&action.data).unwrap().lines().count(), 1);
    }
}

#[test]
fn text_that_holds_json_is_parsed_and_flattened() {
    let mut shape = all();
    shape.steps.parse_json = vec!["price".into()];
    shape.steps.cast.clear();
    shape.steps.flatten.push(("first".into(), vec!["name".into(), "x".into()]));
    shape.steps.trim.clear();
    let mut values = VALUES;
    values[3] = r#""{\"a\": [1,\n2]}""#;
    values[1] = r#"" {\"x\" : \"y\\n\"} ""#;
    let action = render(&shape, &values);
    assert_eq!(action.data.iter().filter(|&&byte| byte == b'\n').count(), 2, "a document is one line");
    let document = document(&action);
    assert_eq!((&document["price"], &document["first"]), (&json!({ "a": [1, 2] }), &json!("y\n")));
    values[1] = r#""{""#;
    let Kind::Dead(dead) = render(&shape, &values).kind else { panic!("not dead") };
    assert!(dead.reason.contains("the field first") && dead.reason.contains("no JSON"), "{}", dead.reason);
}

#[test]
fn steps_that_do_not_fit_the_table_are_told_at_once() {
    let mut shape = all();
    shape.steps.exclude.push("gone".into());
    shape.steps.flatten.push(("height".into(), vec!["size".into(), "height".into()]));
    shape.steps.flatten.push(("n".into(), vec!["id".into(), "n".into()]));
    shape.steps.templates.push(("t".into(), template(&["{nope}"])));
    shape.steps.constants.push(("address".into(), json!(1)));
    shape.steps.constants.push(("_source.x".into(), json!(1)));
    shape.steps.constants.push(("a..b".into(), json!(1)));
    shape.steps.lower.push("id".into());
    shape.steps.lower.push("kind".into());
    shape.steps.trim.push("nowhere".into());
    shape.steps.parse_json.push("name".into());
    shape.steps.cast.push(("inner".into(), Cast::Boolean));
    let told = faults(shape);
    for what in [
        "exclude names \"gone\", which is no column of it; it has id, name",
        "flatten wants \"size.height\", and there is no \"height\", but width, unit",
        "flatten wants \"id.n\", and what holds \"n\" is no object",
        "template names \"nope\"",
        "the field \"address.city\" would lie inside of the field \"address\"",
        "\"_source.x\" cannot be a field",
        "\"a..b\" cannot be a field",
        "the field \"id\" is no text",
        "the field \"kind\" is a constant",
        "trim names \"nowhere\", which is no field of its documents; the fields are id, name, address.city",
        "the field \"name\" is parsed as JSON: nothing else",
    ] {
        assert!(told.iter().any(|told| told.contains(what)), "{what}: {told:#?}");
    }
    assert_eq!(told.len(), 11, "{told:#?}");
}

#[test]
fn steps_make_another_shape_and_none_makes_none() {
    let hash =
        |shape: &TableShape| Shape::compile(std::slice::from_ref(shape), &[wide()]).unwrap().shape_hash(0);
    let base = hash(&all());
    let mut turned = all();
    turned.steps.exclude.reverse();
    turned.steps.flatten.reverse();
    assert_eq!(hash(&turned), base, "the order is no matter");
    let changes: [fn(&mut Steps); 8] = [
        |steps| steps.exclude.truncate(1),
        |steps| steps.constants.truncate(1),
        |steps| steps.flatten[2].1[1] = "unit".into(),
        |steps| steps.templates[0].1.text.push('!'),
        |steps| steps.parse_json.push("label".into()),
        |steps| steps.trim.clear(),
        |steps| steps.lower.truncate(1),
        |steps| steps.cast.truncate(1),
    ];
    for change in changes {
        let mut changed = all();
        change(&mut changed.steps);
        assert_ne!(hash(&changed), base);
    }
}

#[test]
fn how_often_a_byte_stands_in_a_document_is_known() {
    let growth = |change: fn(&mut TableShape)| {
        let mut shape = all();
        change(&mut shape);
        Shape::compile(&[shape], &[wide()]).unwrap().growth()
    };
    // The city in lower case, and once more in the label.
    assert_eq!(growth(|_| {}), 3);
    assert_eq!(growth(|shape| shape.steps = Steps::default()), 1);
    assert_eq!(
        growth(|shape| {
            let member = |path: &[&str]| {
                (path.join("_"), path.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>())
            };
            shape.steps = Steps::default();
            shape.steps.flatten = vec![
                member(&["attributes", "a"]),
                member(&["attributes", "b"]),
                member(&["attributes", "a", "c"]),
            ];
        }),
        3,
        "the column itself, a member and what is inside of it; beside them costs nothing"
    );
}

fn text() -> impl Strategy<Value = String> {
    "[\\PCİȺA-Z\"\\\\\u{1}\n]{0,200}".prop_map(|text| serde_json::to_string(&text).unwrap())
}

proptest! {
    #[test]
    fn what_steps_render_is_json_and_no_more_than_was_charged(
        name in text(), city in text(), price in prop_oneof![text(), Just("\"1.5\"".to_owned())],
        color in prop_oneof![text(), Just("null".to_owned())], null in any::<bool>(),
    ) {
        let object = format!("{{ \"color\" : {color}, \"deep\":{{\"er\":{name}}}, \"color \": 1}}");
        let attributes = if null { "null".to_owned() } else { object };
        let values = ["7", &name, &city, &price, &attributes, "{\"width\":null,\"unit\":null}"];
        let mut shape = all();
        shape.steps.cast.push(("inner".into(), Cast::String));
        shape.steps.lower.push("label".into());
        let table = wide();
        let mut compiled = Shape::compile(&[shape], std::slice::from_ref(&table)).unwrap();
        let costs = Costs { render_bytes: compiled.render_bytes(), growth: compiled.growth(), copies: 1 };
        let change = change(&table, Op::Put(row(&values.map(Some))));
        let action = compiled.render(&change, version(), entered()).unwrap();
        prop_assert!(action.data.len() + 200 <= costs.of_change(&change));
        if let Kind::Dead(dead) = &action.kind {
            prop_assert!(dead.reason.contains("the field price"));
            prop_assert!(price != "\"1.5\"");
            return Ok(());
        }
        let lower = |json: &str| {
            let text: String = serde_json::from_str(json).unwrap();
            text.chars().flat_map(char::to_lowercase).collect::<String>()
        };
        let document = document(&action);
        prop_assert_eq!(document["address"]["city"].as_str().unwrap(), lower(&city));
        if !null && color != "null" {
            prop_assert_eq!(document["color"].as_str().unwrap(), lower(&color));
        }
    }
}
