//! Which rows have a document: a condition on columns, fitted to one revision of a table.
//!
//! As in SQL, a comparison with null is neither true nor false, and a row stays only where the condition is true.
//! Values are compared as they stand in the row's JSON; nothing is allocated for a row but where a text has escapes.

use std::cmp::Ordering;

use sources::change::{Kind, Row, Table};

use super::fitting::Fault;
use super::{json, number};
use crate::config::{Comparison, Condition, Literal, RowFilter};

/// The filter of a table's rows.
#[derive(Debug, Default)]
pub(super) struct Filter {
    /// What must be true.
    wanted: Option<Test>,
    /// What must not be true.
    gone: Option<Test>,
}

#[derive(Debug)]
enum Test {
    And(Box<Test>, Box<Test>),
    Or(Box<Test>, Box<Test>),
    Not(Box<Test>),
    IsNull(u16),
    IsTrue(u16),
    Compare(u16, Comparison, Bound),
    In(u16, Box<[Bound]>),
}

/// A literal in the form of its column's values.
#[derive(Debug)]
enum Bound {
    Boolean(bool),
    Number(Box<[u8]>),
    /// Compared byte by byte.
    Text(Box<[u8]>),
    /// ISO 8601 with a year of four digits, without its zone.
    Time(Box<[u8]>),
}

impl Filter {
    /// Fits it to the table; a column that is not there is a fault whenever it is found: every row would leave.
    pub(super) fn of(filter: &RowFilter, table: &Table, fault: &mut Fault<'_>) -> Self {
        let wanted = filter.condition.as_ref().and_then(|it| test(it, "filter", table, fault));
        let gone = filter.soft_delete.as_ref().and_then(|column| {
            let place = place(column, "soft_delete", table, fault)?;
            Some(match table.columns[usize::from(place)].kind {
                Kind::Boolean => Test::IsTrue(place),
                _ => Test::Not(Box::new(Test::IsNull(place))),
            })
        });
        Self { wanted, gone }
    }

    /// Whether the row has a document.
    pub(super) fn passes(&self, row: &Row, scratch: &mut Vec<u8>) -> bool {
        let wanted = self.wanted.as_ref().is_none_or(|test| test.holds(row, scratch) == Some(true));
        wanted && self.gone.as_ref().is_none_or(|test| test.holds(row, scratch) != Some(true))
    }
}

fn place(name: &str, key: &str, table: &Table, fault: &mut Fault<'_>) -> Option<u16> {
    let place = table.columns.iter().position(|column| &*column.name == name);
    if place.is_none() {
        let names: Vec<&str> = table.columns.iter().map(|column| &*column.name).collect();
        let there = format!("it has {}", names.join(", "));
        fault(format!("{key} names {name:?}, which is no column of it"), there);
    }
    place.map(|place| place as u16)
}

fn test(condition: &Condition, key: &str, table: &Table, fault: &mut Fault<'_>) -> Option<Test> {
    let kind = |place: u16| &table.columns[usize::from(place)].kind;
    Some(match condition {
        Condition::And(one, other) => {
            // Both, so that all faults are told.
            let (one, other) = (test(one, key, table, fault), test(other, key, table, fault));
            Test::And(Box::new(one?), Box::new(other?))
        }
        Condition::Or(one, other) => {
            let (one, other) = (test(one, key, table, fault), test(other, key, table, fault));
            Test::Or(Box::new(one?), Box::new(other?))
        }
        Condition::Not(inner) => Test::Not(Box::new(test(inner, key, table, fault)?)),
        Condition::IsNull(column) => Test::IsNull(place(column, key, table, fault)?),
        Condition::IsTrue(column) => {
            let place = place(column, key, table, fault)?;
            if *kind(place) != Kind::Boolean {
                let fix = format!("compare it, as in {column} = …, or write {column} is not null");
                fault(format!("{key} takes {column:?} for true or false, and it is no boolean"), fix);
                return None;
            }
            Test::IsTrue(place)
        }
        Condition::Compare(column, comparison, literal) => {
            let place = place(column, key, table, fault)?;
            let ordered = !matches!(comparison, Comparison::Equal | Comparison::Other);
            match bound(literal, kind(place), ordered) {
                Ok(bound) => Test::Compare(place, *comparison, bound),
                Err(why) => {
                    let sign = comparison.sign();
                    fault(format!("{key} compares {column:?} {sign} {literal}"), why.to_owned());
                    return None;
                }
            }
        }
        Condition::In(column, literals) => {
            let place = place(column, key, table, fault)?;
            let mut all = Vec::with_capacity(literals.len());
            for literal in literals {
                match bound(literal, kind(place), false) {
                    Ok(bound) => all.push(bound),
                    Err(why) => {
                        fault(format!("{key} looks for {literal} in {column:?}"), why.to_owned());
                        return None;
                    }
                }
            }
            Test::In(place, all.into())
        }
    })
}

/// The literal for a column of a kind; `Err` says what would be right.
fn bound(literal: &Literal, kind: &Kind, ordered: bool) -> Result<Bound, &'static str> {
    match (kind, literal) {
        (Kind::Boolean, Literal::Boolean(yes)) if !ordered => Ok(Bound::Boolean(*yes)),
        (Kind::Boolean, _) => Err("a boolean column is = true or = false"),
        (Kind::Integer { .. } | Kind::Float { .. } | Kind::Decimal, Literal::Number(number)) => {
            Ok(Bound::Number(number.as_bytes().into()))
        }
        (Kind::Integer { .. } | Kind::Float { .. } | Kind::Decimal, _) => {
            Err("the column holds numbers: write one, without quotes")
        }
        (Kind::Text, Literal::Text(text)) => Ok(Bound::Text(text.as_bytes().into())),
        (Kind::Keyword | Kind::KeyText, Literal::Text(text)) if !ordered => {
            Ok(Bound::Text(text.as_bytes().into()))
        }
        (Kind::Keyword | Kind::KeyText, Literal::Text(_)) => {
            Err("the order of such values is the database's own: only =, <>, in and is null are known here")
        }
        (Kind::Text | Kind::Keyword | Kind::KeyText, _) => Err("the column holds texts: write 'a text'"),
        (Kind::Date, Literal::Text(text)) if is_date(text) => Ok(Bound::Time(text.as_bytes().into())),
        (Kind::Timestamp, Literal::Text(text)) => match timestamp(text) {
            Some(text) => Ok(Bound::Time(text.into_bytes().into())),
            None => Err("write a time as in '2026-01-02T03:04:05', in UTC"),
        },
        (Kind::Date, _) => Err("write a date as in '2026-01-02'"),
        (Kind::Timestamp, _) => Err("write a time as in '2026-01-02T03:04:05', in UTC"),
        _ => Err("values of this type can be asked for \"is null\" only"),
    }
}

/// `2026-01-02`; whether the day is in the calendar is no matter for the order.
fn is_date(text: &str) -> bool {
    let is_part = |(at, byte): (usize, u8)| match at {
        4 | 7 => byte == b'-',
        _ => byte.is_ascii_digit(),
    };
    text.len() == 10 && text.bytes().enumerate().all(is_part)
}

/// As a time stands in a row, without its `Z`.
fn timestamp(text: &str) -> Option<String> {
    let (date, rest) = text.split_at_checked(10)?;
    if !is_date(date) {
        return None;
    }
    let rest = rest.strip_suffix('Z').unwrap_or(rest);
    if rest.is_empty() {
        return Some(format!("{date}T00:00:00"));
    }
    let time = rest.strip_prefix(['T', ' '])?;
    let (whole, part) = time.split_once('.').unwrap_or((time, ""));
    let is_part = |(at, byte): (usize, u8)| match at {
        2 | 5 => byte == b':',
        _ => byte.is_ascii_digit(),
    };
    let is_time = whole.len() == 8 && whole.bytes().enumerate().all(is_part);
    if !is_time || part.len() > 6 || !part.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    // The database writes no zeros at the end.
    let part = part.trim_end_matches('0');
    Some(if part.is_empty() { format!("{date}T{whole}") } else { format!("{date}T{whole}.{part}") })
}

impl Test {
    /// `None`: neither true nor false.
    fn holds(&self, row: &Row, scratch: &mut Vec<u8>) -> Option<bool> {
        // What a row does not have is as unknown as null.
        let value = |place: &u16| row.get(usize::from(*place)).filter(|value| *value != b"null");
        match self {
            Self::And(one, other) => match one.holds(row, scratch) {
                Some(false) => Some(false),
                one => match other.holds(row, scratch) {
                    Some(false) => Some(false),
                    other => Some(one? && other?),
                },
            },
            Self::Or(one, other) => match one.holds(row, scratch) {
                Some(true) => Some(true),
                one => match other.holds(row, scratch) {
                    Some(true) => Some(true),
                    other => Some(one? || other?),
                },
            },
            Self::Not(inner) => inner.holds(row, scratch).map(|holds| !holds),
            Self::IsNull(place) => Some(value(place).is_none()),
            Self::IsTrue(place) => value(place).map(|value| value == b"true"),
            Self::Compare(place, comparison, bound) => {
                let order = bound.order(value(place)?, scratch);
                Some(match comparison {
                    Comparison::Equal => order.is_eq(),
                    Comparison::Other => order.is_ne(),
                    Comparison::Less => order.is_lt(),
                    Comparison::LessOrEqual => order.is_le(),
                    Comparison::Greater => order.is_gt(),
                    Comparison::GreaterOrEqual => order.is_ge(),
                })
            }
            Self::In(place, all) => {
                let value = value(place)?;
                Some(all.iter().any(|bound| bound.order(value, scratch).is_eq()))
            }
        }
    }
}

impl Bound {
    /// How a value that is not null stands to it.
    fn order(&self, value: &[u8], scratch: &mut Vec<u8>) -> Ordering {
        let text = match value {
            [b'"', text @ .., b'"'] => Some(text),
            _ => None,
        };
        match (self, text) {
            (Self::Boolean(yes), _) => (value == b"true").cmp(yes),
            // As the database orders them: NaN is the greatest of all.
            (Self::Number(_), Some(b"NaN" | b"Infinity")) => Ordering::Greater,
            (Self::Number(_), Some(b"-Infinity")) => Ordering::Less,
            (Self::Number(number), text) => number::compare(text.unwrap_or(value), number),
            (Self::Text(own), Some(text)) if !text.contains(&b'\\') => text.cmp(own),
            (Self::Text(own), text) => {
                scratch.clear();
                json::unescape(scratch, text.unwrap_or(value));
                scratch.as_slice().cmp(own)
            }
            (Self::Time(own), text) => order_of_time(text.unwrap_or(value), own),
        }
    }
}

/// Years beyond four digits, before our era and infinity stand in other forms.
fn order_of_time(value: &[u8], own: &[u8]) -> Ordering {
    let value = value.strip_suffix(b"Z").unwrap_or(value);
    if value.starts_with(b"-") || value.ends_with(b"BC") {
        return Ordering::Less;
    }
    let has_four = value.get(..4).is_some_and(|year| year.iter().all(u8::is_ascii_digit));
    match has_four && value.get(4) == Some(&b'-') {
        true => value.cmp(own),
        false => Ordering::Greater,
    }
}
