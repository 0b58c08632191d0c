#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::sync::Arc;

use proptest::prelude::*;
use sources::change::{Change, Column, Kind as ColumnKind, Op, Origin, Row, RowBuilder, Table};
use sources::position::{Epoch, Offset, Version};
use sources::queue::Costs;

use super::{Entered, Shape, ShapeError};
use crate::config::TableShape;
use crate::lanes::{Action, Kind};
use crate::ledger::Ledger;

pub(super) fn table(columns: &[(&str, ColumnKind)], key: &[u16]) -> Arc<Table> {
    let column = |(name, kind): &(&str, ColumnKind)| Column { name: (*name).into(), kind: kind.clone() };
    let columns = columns.iter().map(column).collect();
    Arc::new(Table { number: 0, name: "public.t".into(), columns, key: key.into() })
}

fn things(key: &[u16]) -> Arc<Table> {
    let text = ColumnKind::Text;
    table(&[("id", ColumnKind::Integer { bits: 64 }), ("name", text.clone()), ("body", text)], key)
}

fn shape() -> TableShape {
    TableShape { table: "public.t".into(), index: "things".into(), ..TableShape::default() }
}

pub(super) fn row(values: &[Option<&str>]) -> Row {
    let mut builder = RowBuilder::default();
    for value in values {
        match value {
            Some(text) => {
                builder.value().extend_from_slice(text.as_bytes());
                builder.end_value();
            }
            None => builder.absent(),
        }
    }
    builder.finish()
}

pub(super) fn version() -> Version {
    Epoch { base: 0 }.version(Offset::new(77).unwrap()).unwrap()
}

pub(super) fn change(table: &Arc<Table>, op: Op) -> Change {
    Change { table: table.clone(), offset: Offset::new(77).unwrap(), op, origin: Origin::Log }
}

pub(super) fn entered() -> Entered {
    Entered { segment: Ledger::new().segment(), charge: 10 }
}

fn render(shape: &TableShape, table: &Arc<Table>, op: Op) -> Action {
    let mut compiled = Shape::compile(std::slice::from_ref(shape), std::slice::from_ref(table)).unwrap();
    compiled.render(&change(table, op), version(), entered()).unwrap()
}

fn text(action: &Action) -> &str {
    std::str::from_utf8(&action.data).unwrap()
}

fn id(action: &Action) -> String {
    serde_json::from_str(&format!("\"{}\"", std::str::from_utf8(action.id()).unwrap())).unwrap()
}

#[test]
fn a_row_becomes_two_lines_and_an_unknown_column_is_absent() {
    let put = render(&shape(), &things(&[0]), Op::Put(row(&[Some("7"), Some(r#""a \"b\"""#), None])));
    let expected = concat!(
        r#"{"index":{"_index":"things","_id":"7","version":77,"version_type":"external_gte"}}"#,
        "\n",
        r#"{"id":7,"name":"a \"b\""}"#,
        "\n"
    );
    assert_eq!(text(&put), expected);
    assert_eq!((put.kind.clone(), put.id(), put.index, put.charge), (Kind::Put, &b"7"[..], 0, 10));
    let null = render(&shape(), &things(&[0]), Op::Put(row(&[Some("7"), Some("null"), None])));
    assert!(text(&null).ends_with("{\"id\":7,\"name\":null}\n"));
}

#[test]
fn a_delete_needs_the_key_only() {
    let delete = render(&shape(), &things(&[1]), Op::Delete(row(&[None, Some(r#""x""#), None])));
    let expected = r#"{"delete":{"_index":"things","_id":"x","version":77,"version_type":"external_gte"}}"#;
    assert_eq!(text(&delete), format!("{expected}\n"));
    assert_eq!(delete.kind, Kind::Delete);
}

#[test]
fn columns_are_chosen_in_their_order_and_renamed() {
    let mut shape = shape();
    shape.columns = Some(vec!["body".into(), "id".into()]);
    shape.rename = vec![("body".into(), "a \"text\"".into())];
    let put = render(&shape, &things(&[0]), Op::Put(row(&[Some("7"), Some("1"), Some("2")])));
    assert!(text(&put).ends_with("\n{\"a \\\"text\\\"\":2,\"id\":7}\n"));
    let compiled = Shape::compile(&[shape], &[things(&[0])]).unwrap();
    let names: Vec<_> = compiled.fields(0).into_iter().map(|(name, column)| (name, column.name)).collect();
    assert_eq!(names, [("a \"text\"".to_owned(), "body".into()), ("id".to_owned(), "id".into())]);
    assert_eq!(&*compiled.indices(), [Arc::from("things")]);
}

#[test]
fn t34_ids_of_several_columns_are_unambiguous() {
    let of = |a: &str, b: &str| {
        id(&render(&shape(), &things(&[1, 2]), Op::Delete(row(&[None, Some(a), Some(b)]))))
    };
    assert_eq!(of(r#""a""#, "1"), r#"["a",1]"#);
    assert_ne!(of(r#""a,b""#, r#""c""#), of(r#""a""#, r#""b,c""#));
    assert_ne!(of(r#""1""#, "1"), of("1", "1"));
    assert_eq!(of(r#""q\"\\\n""#, "1"), r#"["q\"\\\n",1]"#);
    let mut turned = shape();
    turned.id = Some(vec!["body".into(), "name".into()]);
    let turned = render(&turned, &things(&[1, 2]), Op::Delete(row(&[None, Some("1"), Some("2")])));
    assert_eq!(id(&turned), "[2,1]");
}

#[test]
fn t34_a_json_key_keeps_its_quotes() {
    let json = table(&[("k", ColumnKind::Json)], &[0]);
    let of = |value: &str| id(&render(&shape(), &json, Op::Delete(row(&[Some(value)]))));
    assert_eq!((of(r#""1""#).as_str(), of("1").as_str()), (r#""1""#, "1"));
    assert_eq!(of(r#"{"a":"b\\"}"#), r#"{"a":"b\\"}"#);
}

#[test]
fn t34_an_id_that_the_target_refuses_is_a_dead_letter() {
    let of = |value: String| render(&shape(), &things(&[1]), Op::Put(row(&[Some("1"), Some(&value), None])));
    assert_eq!(of(format!("\"{}\"", "x".repeat(512))).kind, Kind::Put);
    assert!(matches!(of(format!("\"{}\"", "x".repeat(513))).kind, Kind::Dead(_)));
    assert_eq!(of(format!("\"{}\"", r#"\""#.repeat(512))).kind, Kind::Put, "counted as the target does");
    assert_eq!(of(format!("\"{}\"", r"\ud83d\ude00".repeat(128))).kind, Kind::Put);
    assert!(matches!(of(format!("\"{}x\"", "é".repeat(256))).kind, Kind::Dead(_)));
    let Kind::Dead(dead) = of("\"\"".into()).kind else { panic!("not dead") };
    assert!(dead.reason.contains("empty"), "one would fail its whole request");
}

#[test]
fn a_row_that_was_too_large_is_dead_with_its_id_and_size() {
    let op = Op::TooLarge { key: row(&[Some("7"), None, None]), bytes: 1 << 40 };
    let action = render(&shape(), &things(&[0]), op);
    assert_eq!(action.id(), b"7");
    let Kind::Dead(dead) = action.kind else { panic!("not dead") };
    assert_eq!(dead.bytes, 1 << 40);
}

#[test]
fn every_fault_is_told_at_once_with_its_fix() {
    let mut wrong = shape();
    wrong.columns = Some(vec!["id".into(), "nmae".into(), "name".into()]);
    wrong.rename = vec![("nothing".into(), "x".into()), ("name".into(), "id".into())];
    wrong.id = Some(vec!["name".into()]);
    let mut other = shape();
    other.table = "public.u".into();
    let errors = Shape::compile(&[wrong, other], &[things(&[0])]).unwrap_err();
    let told: Vec<String> = errors.iter().map(ShapeError::to_string).collect();
    let expected = [
        "public.t: rename names \"nothing\", which is no column of it; it has id, name, body",
        "public.t: columns names \"nmae\", which is no column of it; it has id, name, body",
        "public.t: the column \"id\" and the column \"name\" would both be the field \"id\"",
        "public.t: id names \"name\", which is no column of its key; write id = [\"id\"]",
        "public.t: id leaves out \"id\" of its key",
        "public.u: the index \"things\" is another table's already",
        "public.u: the source has no such table",
    ];
    assert_eq!(told.len(), expected.len(), "{told:#?}");
    for (told, expected) in told.iter().zip(expected) {
        assert!(told.starts_with(expected), "{told}");
    }
}

#[test]
fn t35_names_that_the_target_refuses_are_refused_here() {
    let text = ColumnKind::Text;
    let odd = table(&[("_id", text.clone()), ("a", text.clone()), ("a.b.c", text)], &[0]);
    let errors = Shape::compile(&[shape()], &[odd]).unwrap_err();
    let told: Vec<String> = errors.iter().map(|error| error.what.clone()).collect();
    let inside = "the field \"a.b.c\" would lie inside of the field \"a\"";
    assert_eq!(told, ["\"_id\" cannot be a field of a document", inside]);
}

#[test]
fn t09_a_new_revision_of_a_table_is_fitted_anew() {
    let mut chosen = shape();
    chosen.rename = vec![("name".into(), "title".into())];
    let mut compiled = Shape::compile(&[chosen], &[things(&[0])]).unwrap();
    let kind = ColumnKind::Text;
    let newer = table(&[("name", kind.clone()), ("added", kind.clone()), ("id", kind.clone())], &[2]);
    let put = Op::Put(row(&[Some("\"n\""), Some("\"a\""), Some("\"k\"")]));
    let action = compiled.render(&change(&newer, put), version(), entered()).unwrap();
    assert_eq!(action.id(), b"k");
    assert!(text(&action).ends_with("{\"title\":\"n\",\"added\":\"a\",\"id\":\"k\"}\n"));
    let older = table(&[("id", kind.clone())], &[0]);
    let action = compiled.render(&change(&older, Op::Put(row(&[Some("1")]))), version(), entered()).unwrap();
    assert!(text(&action).ends_with("\n{\"id\":1}\n"), "what it does not have is unknown");
    let rekeyed = table(&[("name", kind)], &[0]);
    let error =
        compiled.render(&change(&rekeyed, Op::Put(row(&[Some("1")]))), version(), entered()).unwrap_err();
    assert_eq!(error.what, "its key was [\"id\"] and is [\"name\"] now");
}

#[test]
fn the_hash_is_stable_and_follows_the_configuration() {
    let of = |shape: TableShape, table: Arc<Table>| Shape::compile(&[shape], &[table]).unwrap().shape_hash(0);
    let plain = of(shape(), things(&[0]));
    assert_eq!(
        plain, "27fdf2829d54ae2e9d383122a16b6d5a",
        "a change of this changes every shape that is deployed"
    );
    let wider = table(&[("id", ColumnKind::Text), ("more", ColumnKind::Text)], &[0]);
    assert_eq!(of(shape(), wider), plain, "a column that is added is no new shape");
    assert_ne!(of(shape(), things(&[1])), plain);
    let mut renamed = shape();
    renamed.rename = vec![("name".into(), "title".into())];
    assert_ne!(of(renamed, things(&[0])), plain);
    let mut chosen = shape();
    chosen.columns = Some(vec!["id".into(), "name".into(), "body".into()]);
    assert_ne!(of(chosen, things(&[0])), plain);
}

fn value() -> impl Strategy<Value = String> {
    prop_oneof![
        any::<i64>().prop_map(|number| number.to_string()),
        "[\\PC\"\\\\\u{1}\n]{0,700}".prop_map(|text| serde_json::to_string(&text).unwrap()),
        "[\"\\\\]{0,700}".prop_map(|text| serde_json::to_string(&text).unwrap()),
    ]
}

proptest! {
    #[test]
    fn rendering_never_needs_more_than_was_charged_and_is_json(
        values in prop::collection::vec(value(), 3),
        key in prop_oneof![Just(vec![0_u16]), Just(vec![1, 2]), Just(vec![2, 1, 0])],
        delete in any::<bool>(),
    ) {
        let table = things(&key);
        let kept = |place: usize| !delete || key.contains(&(place as u16));
        let all: Vec<_> =
            values.iter().enumerate().map(|(place, text)| kept(place).then_some(text.as_str())).collect();
        let op = if delete { Op::Delete(row(&all)) } else { Op::Put(row(&all)) };
        let change = change(&table, op);
        let mut compiled = Shape::compile(&[shape()], std::slice::from_ref(&table)).unwrap();
        let costs = Costs { render_bytes: compiled.render_bytes(), growth: compiled.growth(), copies: 1 };
        let action = compiled.render(&change, version(), entered()).unwrap();
        // 200 of the 256 that an item is charged are for the lane's entry and its place in the index.
        prop_assert!(action.data.len() + 200 <= costs.of_change(&change));

        let lines: Vec<serde_json::Value> =
            text(&action).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let about = lines[0].as_object().unwrap().values().next().unwrap();
        prop_assert_eq!(about["_id"].as_str().unwrap(), id(&action));
        let parsed = |place: usize| serde_json::from_str::<serde_json::Value>(&values[place]).unwrap();
        let expected = match key.as_slice() {
            [one] => match parsed(usize::from(*one)) {
                serde_json::Value::String(text) => text,
                other => other.to_string(),
            },
            _ => {
                let parts: Vec<_> = key.iter().map(|&place| values[usize::from(place)].as_str()).collect();
                format!("[{}]", parts.join(","))
            }
        };
        prop_assert_eq!(id(&action), expected.clone());
        prop_assert_eq!(matches!(action.kind, Kind::Dead(_)), expected.len() > 512 || expected.is_empty());
        if action.kind == Kind::Put {
            prop_assert_eq!(&lines[1]["id"], &parsed(0));
            prop_assert_eq!(&lines[1]["body"], &parsed(2));
        }
    }
}

#[test]
fn t35_a_mapping_for_a_field_that_no_document_has_is_refused_by_name_and_is_no_part_of_the_shape() {
    let mut shape = shape();
    shape.rename = vec![("name".to_owned(), "title".to_owned())];
    let table = things(&[0]);
    let hash = |shape: &super::TableShape| {
        Shape::compile(std::slice::from_ref(shape), std::slice::from_ref(&table)).unwrap().shape_hash(0)
    };
    let before = hash(&shape);
    shape.setup.mapping.insert("title".to_owned(), serde_json::json!({ "type": "keyword" }));
    assert_eq!(hash(&shape), before, "documents are the same");
    shape.setup.mapping.insert("name".to_owned(), serde_json::json!({ "type": "keyword" }));
    let errors = Shape::compile(&[shape], &[table]).unwrap_err();
    assert_eq!(errors.len(), 1, "{errors:?}");
    let text = errors[0].to_string();
    assert!(text.contains("mapping names \"name\"") && text.contains("id, title, body"), "{text}");
}
