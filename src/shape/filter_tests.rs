#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use sources::change::{Kind as ColumnKind, Op};

use super::tests::{change, entered, row, table, version};
use super::{Shape, ShapeError};
use crate::config::{Condition, RowFilter, TableShape};
use crate::lanes::{Action, Kind};

const COLUMNS: [(&str, ColumnKind); 9] = [
    ("id", ColumnKind::Integer { bits: 64 }),
    ("name", ColumnKind::Text),
    ("code", ColumnKind::Keyword),
    ("price", ColumnKind::Decimal),
    ("gone", ColumnKind::Boolean),
    ("day", ColumnKind::Date),
    ("at", ColumnKind::Timestamp),
    ("doc", ColumnKind::Json),
    ("odd", ColumnKind::Binary),
];

const VALUES: [&str; 9] = [
    "7",
    r#""a \"b\"""#,
    r#""x""#,
    "9007199254740993",
    "false",
    r#""2026-01-02""#,
    r#""2026-01-02T03:04:05.5Z""#,
    "{}",
    "null",
];

fn shape(condition: &str, soft_delete: Option<&str>) -> TableShape {
    let condition = (!condition.is_empty()).then(|| Condition::read(condition).unwrap());
    let filter = RowFilter { condition, soft_delete: soft_delete.map(str::to_owned) };
    TableShape { table: "public.t".into(), index: "things".into(), filter, ..TableShape::default() }
}

fn render(shape: TableShape, values: &[&str]) -> Action {
    let table = table(&COLUMNS, &[0]);
    let mut compiled = Shape::compile(&[shape], std::slice::from_ref(&table)).unwrap();
    let values: Vec<_> = values.iter().copied().map(Some).collect();
    compiled.render(&change(&table, Op::Put(row(&values))), version(), entered()).unwrap()
}

fn passes(condition: &str, values: &[&str]) -> bool {
    match render(shape(condition, None), values).kind {
        Kind::Put => true,
        Kind::Delete => false,
        other => panic!("{other:?}"),
    }
}

fn with(column: &str, value: &'static str) -> [&'static str; 9] {
    let mut values = VALUES;
    values[COLUMNS.iter().position(|(name, _)| *name == column).unwrap()] = value;
    values
}

#[test]
fn a_row_stays_where_the_condition_is_true() {
    for (condition, stays) in [
        ("id = 7 and name = 'a \"b\"'", true),
        ("id = 7.0 and id in (1, 7e0)", true),
        ("id <> 7 or name > 'a '", true),
        ("name < 'a'", false),
        ("code in ('y', 'z') or code <> 'x'", false),
        ("price > 9007199254740992 and price < 9007199254740993.5", true),
        ("not gone and gone = false and gone <> true", true),
        ("gone", false),
        ("day >= '2026-01-02' and day < '2026-01-03'", true),
        ("at > '2026-01-02T03:04:05Z' and at <= '2026-01-02 03:04:05.500'", true),
        ("at >= '2026-01-02' and at < '2026-01-03'", true),
        ("odd is null and doc is not null", true),
        ("not (odd is null)", false),
    ] {
        assert_eq!(passes(condition, &VALUES), stays, "{condition}");
    }
}

#[test]
fn a_comparison_with_null_is_neither_true_nor_false() {
    let null = with("name", "null");
    for (condition, stays) in [
        ("name = 'x'", false),
        ("not name = 'x'", false),
        ("name <> 'x'", false),
        ("name in ('x') or not name in ('x')", false),
        ("name = 'x' or id = 7", true),
        ("not (name = 'x' and id = 8)", true),
        ("not (name = 'x' or id = 8)", false),
        ("name is null and not name is not null", true),
    ] {
        assert_eq!(passes(condition, &null), stays, "{condition}");
    }
    assert!(!passes("gone", &with("gone", "null")) && !passes("not gone", &with("gone", "null")));
}

#[test]
fn values_without_a_common_form_stand_where_the_database_puts_them() {
    for (value, stays) in [("\"NaN\"", true), ("\"Infinity\"", true), ("\"-Infinity\"", false)] {
        assert_eq!(passes("price > 1e300", &with("price", value)), stays, "{value}");
    }
    assert!(passes("price > 1e300", &with("price", Box::leak(format!("\"{}\"", "9".repeat(1001)).into()))));
    for (value, stays) in [
        ("\"infinity\"", true),
        ("\"10000-01-01\"", true),
        ("\"-infinity\"", false),
        ("\"0044-03-15 BC\"", false),
        ("\"9999-12-31\"", true),
    ] {
        assert_eq!(passes("day >= '9999-01-01'", &with("day", value)), stays, "{value}");
    }
}

#[test]
fn a_row_that_leaves_is_a_delete_of_its_id_with_the_same_version() {
    let action = render(shape("id = 8", None), &VALUES);
    let line = r#"{"delete":{"_index":"things","_id":"7","version":77,"version_type":"external_gte"}}"#;
    assert_eq!(std::str::from_utf8(&action.data).unwrap(), format!("{line}\n"));
    assert_eq!((action.kind, action.version), (Kind::Delete, version()));
}

#[test]
fn a_soft_delete_is_true_or_a_value() {
    let is_gone =
        |column: &str, values: &[&str]| render(shape("", Some(column)), values).kind == Kind::Delete;
    assert!(!is_gone("gone", &VALUES) && is_gone("gone", &with("gone", "true")));
    assert!(!is_gone("gone", &with("gone", "null")));
    assert!(is_gone("at", &VALUES) && !is_gone("at", &with("at", "null")) && !is_gone("odd", &VALUES));
    let both = |values: &[&str]| render(shape("id = 7", Some("gone")), values).kind;
    assert_eq!((both(&VALUES), both(&with("gone", "true"))), (Kind::Put, Kind::Delete));
    assert_eq!(both(&with("id", "8")), Kind::Delete);
}

#[test]
fn what_does_not_fit_the_columns_is_told_at_once() {
    let condition = "nope = 1 and id = 'x' and name = 1 and code > 'x' and gone = 1 and gone > true and name
        and (day = 'today' or at = '2026-13') and doc = '{}' and odd in ('a') and not id in (1, 'a')";
    let errors = Shape::compile(&[shape(condition, Some("none"))], &[table(&COLUMNS, &[0])]).unwrap_err();
    let told: Vec<String> = errors.iter().map(ShapeError::to_string).collect();
    let expected = [
        "filter names \"nope\", which is no column of it; it has id, name",
        "filter compares \"id\" = 'x'; the column holds numbers",
        "filter compares \"name\" = 1; the column holds texts",
        "filter compares \"code\" > 'x'; the order of such values is the database's own",
        "filter compares \"gone\" = 1; a boolean column is = true",
        "filter compares \"gone\" > true; a boolean column is = true",
        "filter takes \"name\" for true or false, and it is no boolean",
        "filter compares \"day\" = 'today'; write a date as in",
        "filter compares \"at\" = '2026-13'; write a time as in",
        "filter compares \"doc\" = '{}'; values of this type can be asked",
        "filter looks for 'a' in \"odd\"; values of this type",
        "filter looks for 'a' in \"id\"; the column holds numbers",
        "soft_delete names \"none\", which is no column of it",
    ];
    assert_eq!(told.len(), expected.len(), "{told:#?}");
    for (told, expected) in told.iter().zip(expected) {
        assert!(told.contains(expected), "{told}\n{expected}");
    }
}

#[test]
fn a_filter_whose_column_is_gone_ends_instead_of_deleting_every_document() {
    let mut compiled = Shape::compile(&[shape("not gone", None)], &[table(&COLUMNS, &[0])]).unwrap();
    let without = table(&COLUMNS[..4], &[0]);
    let put = Op::Put(row(&[Some("7"), Some("null"), Some("null"), Some("null")]));
    let error = compiled.render(&change(&without, put), version(), entered()).unwrap_err();
    assert!(error.what.contains("filter names \"gone\""), "{error}");
    assert!(Shape::compile_again(&[shape("not gone", None)], &[without]).is_err());
    let dropped = table(&[], &[]);
    assert!(Shape::compile_again(&[shape("not gone", None)], &[dropped]).is_ok(), "the table is gone");
}

#[test]
fn a_filter_is_a_part_of_the_shape_however_it_is_written() {
    let hash = |shape: TableShape| Shape::compile(&[shape], &[table(&COLUMNS, &[0])]).unwrap().shape_hash(0);
    let plain = hash(shape("", None));
    let one = hash(shape("id=7 AND gone", None));
    assert_eq!(one, hash(shape("(id = 7) and (\"gone\")", None)));
    let all = [plain, one, hash(shape("id = 8 and gone", None)), hash(shape("", Some("gone")))];
    assert_eq!(all.iter().collect::<std::collections::BTreeSet<_>>().len(), 4);
}
