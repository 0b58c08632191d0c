//! Conditions on a row, as they are written: `status = 'active' and (stock > 0 or not sold) and deleted_at is null`.
//!
//! ```text
//! or      = and { "or" and }
//! and     = not { "and" not }
//! not     = "not" not | "(" or ")" | column test
//! test    = ( "=" | "<>" | "!=" | "<" | "<=" | ">" | ">=" ) literal
//!         | "is" [ "not" ] "null"  |  [ "not" ] "in" "(" literal { "," literal } ")"  |  nothing: a boolean column
//! literal = 'text' | number | true | false
//! ```
//! Columns are spelled as the database spells them, in double quotes where they are no plain word.

use std::fmt;

use serde_json::{Value, json};

use super::problem::Problems;
use super::section::Section;

/// Which rows of a table have a document.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RowFilter {
    /// Those for which it is true; `None`: all.
    pub condition: Option<Condition>,
    /// None of those where this column is true, or has a value if it is no boolean.
    pub soft_delete: Option<String>,
}

impl RowFilter {
    /// What of it makes documents others, in one form; `None` for nothing.
    pub fn hashed(&self) -> Option<Value> {
        let condition = self.condition.as_ref().map(Condition::to_string);
        (*self != Self::default()).then(|| json!({ "filter": condition, "soft_delete": self.soft_delete }))
    }
}

/// Reads the keys of a table's section. Whether the columns are there is judged when the table is known.
pub(super) fn read(section: &mut Section<'_>, problems: &mut Problems) -> RowFilter {
    let text = section.text("filter", problems);
    let condition = text.and_then(|text| match Condition::read(&text) {
        Ok(condition) => Some(condition),
        Err(what) => {
            let (place, path) = (section.place_of("filter"), section.path.key("filter"));
            let fix = "write it as in \"status = 'active' and (stock > 0 or note is not null)\"";
            problems.add(&place, &path, what, fix);
            None
        }
    });
    let soft_delete = section.text("soft_delete", problems);
    if let (Some(""), Some(entry)) = (soft_delete.as_deref(), section.entry("soft_delete")) {
        let fix = "name the column that says that a row is deleted, or remove the key";
        problems.add(&entry.place, &section.path.key("soft_delete"), "is empty", fix);
    }
    RowFilter { condition, soft_delete }
}

/// A condition on the columns of a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    /// Both hold.
    And(Box<Condition>, Box<Condition>),
    /// One of them holds.
    Or(Box<Condition>, Box<Condition>),
    /// It does not hold.
    Not(Box<Condition>),
    /// The column's value is null.
    IsNull(String),
    /// The column is true.
    IsTrue(String),
    /// The column's value stands so to a literal.
    Compare(String, Comparison, Literal),
    /// The column's value is one of these.
    In(String, Vec<Literal>),
}

/// How a value stands to a literal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Comparison {
    /// `=`
    Equal,
    /// `<>`
    Other,
    /// `<`
    Less,
    /// `<=`
    LessOrEqual,
    /// `>`
    Greater,
    /// `>=`
    GreaterOrEqual,
}

impl Comparison {
    /// As it is written.
    pub fn sign(self) -> &'static str {
        match self {
            Self::Equal => "=",
            Self::Other => "<>",
            Self::Less => "<",
            Self::LessOrEqual => "<=",
            Self::Greater => ">",
            Self::GreaterOrEqual => ">=",
        }
    }
}

/// A value that is written in a condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Literal {
    /// In single quotes.
    Text(String),
    /// A number, as it is written.
    Number(String),
    /// `true` or `false`.
    Boolean(bool),
}

/// A longer text is no condition that a person wrote.
const BYTES_MAX: usize = 10_000;
/// Parentheses and `not` inside of each other.
const DEPTH_MAX: usize = 50;

impl Condition {
    /// Reads one; `Err` says what is wrong, and where.
    pub fn read(text: &str) -> Result<Self, String> {
        if text.len() > BYTES_MAX {
            return Err(format!("has more than {BYTES_MAX} bytes"));
        }
        let mut parser = Parser { tokens: tokens(text)?, next: 0, depth: 0 };
        let condition = parser.or()?;
        match parser.peek() {
            None => Ok(condition),
            Some(token) => Err(format!("{token} stands where \"and\", \"or\" or the end should be")),
        }
    }
}

/// In one form, however it was written.
impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::And(one, other) => write!(f, "({one} and {other})"),
            Self::Or(one, other) => write!(f, "({one} or {other})"),
            Self::Not(inner) => write!(f, "not {inner}"),
            Self::IsNull(column) => write!(f, "{column:?} is null"),
            Self::IsTrue(column) => write!(f, "{column:?}"),
            Self::Compare(column, comparison, literal) => {
                write!(f, "{column:?} {} {literal}", comparison.sign())
            }
            Self::In(column, literals) => {
                let all: Vec<String> = literals.iter().map(Literal::to_string).collect();
                write!(f, "{column:?} in ({})", all.join(", "))
            }
        }
    }
}

impl fmt::Display for Literal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => write!(f, "'{}'", text.replace('\'', "''")),
            Self::Number(number) => f.write_str(number),
            Self::Boolean(yes) => write!(f, "{yes}"),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    /// A keyword or a column, as it is written.
    Word(String),
    /// A column in double quotes.
    Quoted(String),
    Literal(Literal),
    Sign(&'static str),
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Word(word) => write!(f, "\"{word}\""),
            Self::Quoted(word) => write!(f, "the column \"{word}\""),
            Self::Literal(literal) => write!(f, "{literal}"),
            Self::Sign(sign) => write!(f, "\"{sign}\""),
        }
    }
}

/// Longer ones first.
const SIGNS: [&str; 10] = ["<>", "!=", "<=", ">=", "=", "<", ">", "(", ")", ","];

fn tokens(text: &str) -> Result<Vec<Token>, String> {
    let mut all = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        let (token, after) = match first {
            '\'' => {
                let (inner, after) = quoted(rest, '\'')?;
                (Token::Literal(Literal::Text(inner)), after)
            }
            '"' => {
                let (inner, after) = quoted(rest, '"')?;
                (Token::Quoted(inner), after)
            }
            '-' | '0'..='9' => number(rest)?,
            _ if first.is_alphabetic() || first == '_' => {
                let is_part = |c: char| c.is_alphanumeric() || c == '_' || c == '$';
                let end = rest.find(|c| !is_part(c)).unwrap_or(rest.len());
                (Token::Word(rest[..end].to_owned()), &rest[end..])
            }
            _ => match SIGNS.iter().find(|sign| rest.starts_with(**sign)) {
                Some(sign) => (Token::Sign(sign), &rest[sign.len()..]),
                None => return Err(format!("{first:?} means nothing in a condition")),
            },
        };
        all.push(token);
        rest = after.trim_start();
    }
    Ok(all)
}

/// The text in quotes at the beginning, in which a doubled quote is one, and what follows.
fn quoted(text: &str, quote: char) -> Result<(String, &str), String> {
    let mut inner = String::new();
    let mut chars = text.char_indices().skip(1).peekable();
    while let Some((at, c)) = chars.next() {
        if c != quote {
            inner.push(c);
        } else if chars.next_if(|(_, next)| *next == quote).is_some() {
            inner.push(quote);
        } else {
            return Ok((inner, &text[at + 1..]));
        }
    }
    Err(format!("a {quote} has no other one that ends it"))
}

fn number(text: &str) -> Result<(Token, &str), String> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || "+-.".contains(c);
    let end = text.find(|c| !is_part(c)).unwrap_or(text.len());
    let (number, after) = text.split_at(end);
    match serde_json::from_str::<serde_json::Number>(number) {
        Ok(_) => Ok((Token::Literal(Literal::Number(number.to_owned())), after)),
        Err(_) => Err(format!("{number:?} is no number")),
    }
}

struct Parser {
    tokens: Vec<Token>,
    next: usize,
    depth: usize,
}

impl Parser {
    fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.next)
    }

    /// Takes this keyword, if it comes next.
    fn takes(&mut self, keyword: &str) -> bool {
        let is_next = matches!(self.peek(), Some(Token::Word(word)) if word.eq_ignore_ascii_case(keyword));
        self.next += usize::from(is_next);
        is_next
    }

    fn takes_sign(&mut self, sign: &str) -> bool {
        let is_next = matches!(self.peek(), Some(Token::Sign(next)) if *next == sign);
        self.next += usize::from(is_next);
        is_next
    }

    fn or(&mut self) -> Result<Condition, String> {
        let mut all = self.and()?;
        while self.takes("or") {
            all = Condition::Or(Box::new(all), Box::new(self.and()?));
        }
        Ok(all)
    }

    fn and(&mut self) -> Result<Condition, String> {
        let mut all = self.not()?;
        while self.takes("and") {
            all = Condition::And(Box::new(all), Box::new(self.not()?));
        }
        Ok(all)
    }

    fn not(&mut self) -> Result<Condition, String> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err(format!("has more than {DEPTH_MAX} parentheses inside of each other"));
        }
        let condition = if self.takes("not") {
            Condition::Not(Box::new(self.not()?))
        } else if self.takes_sign("(") {
            let inner = self.or()?;
            if !self.takes_sign(")") {
                return Err("a ( has no ) that ends it".to_owned());
            }
            inner
        } else {
            self.test()?
        };
        self.depth -= 1;
        Ok(condition)
    }

    fn test(&mut self) -> Result<Condition, String> {
        let column = match self.peek() {
            Some(Token::Word(word)) if !is_keyword(word) => word.clone(),
            Some(Token::Quoted(word)) => word.clone(),
            Some(token) => return Err(format!("{token} stands where a column should be")),
            None => return Err("ends where a column should be".to_owned()),
        };
        self.next += 1;
        if self.takes("is") {
            let is_not = self.takes("not");
            if !self.takes("null") {
                return Err(format!("\"is\" after {column:?} is followed by \"null\" or \"not null\" only"));
            }
            let test = Condition::IsNull(column);
            return Ok(if is_not { Condition::Not(Box::new(test)) } else { test });
        }
        if self.takes("in") {
            return Ok(Condition::In(column, self.list()?));
        }
        if self.takes("not") {
            if !self.takes("in") {
                return Err(format!("\"not\" after {column:?} is followed by \"in\" only"));
            }
            return Ok(Condition::Not(Box::new(Condition::In(column, self.list()?))));
        }
        let comparison = match self.peek() {
            Some(Token::Sign("=")) => Comparison::Equal,
            Some(Token::Sign("<>" | "!=")) => Comparison::Other,
            Some(Token::Sign("<")) => Comparison::Less,
            Some(Token::Sign("<=")) => Comparison::LessOrEqual,
            Some(Token::Sign(">")) => Comparison::Greater,
            Some(Token::Sign(">=")) => Comparison::GreaterOrEqual,
            _ => return Ok(Condition::IsTrue(column)),
        };
        self.next += 1;
        Ok(Condition::Compare(column, comparison, self.literal()?))
    }

    fn list(&mut self) -> Result<Vec<Literal>, String> {
        if !self.takes_sign("(") {
            return Err("\"in\" is followed by a list in parentheses, as in in ('a', 'b')".to_owned());
        }
        let mut all = vec![self.literal()?];
        while self.takes_sign(",") {
            all.push(self.literal()?);
        }
        match self.takes_sign(")") {
            true => Ok(all),
            false => Err("a list has no ) that ends it".to_owned()),
        }
    }

    fn literal(&mut self) -> Result<Literal, String> {
        let literal = match self.peek() {
            Some(Token::Literal(literal)) => literal.clone(),
            Some(Token::Word(word)) if word.eq_ignore_ascii_case("true") => Literal::Boolean(true),
            Some(Token::Word(word)) if word.eq_ignore_ascii_case("false") => Literal::Boolean(false),
            Some(Token::Word(word)) if word.eq_ignore_ascii_case("null") => {
                return Err("nothing is equal to null: write \"is null\"".to_owned());
            }
            Some(token) => {
                return Err(format!("{token} stands where a 'text', a number, true or false should be"));
            }
            None => return Err("ends where a 'text', a number, true or false should be".to_owned()),
        };
        self.next += 1;
        Ok(literal)
    }
}

fn is_keyword(word: &str) -> bool {
    let keywords = ["and", "or", "not", "is", "in", "null", "true", "false"];
    keywords.iter().any(|keyword| word.eq_ignore_ascii_case(keyword))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(text: &str) -> String {
        Condition::read(text).map_or_else(|what| format!("! {what}"), |condition| condition.to_string())
    }

    #[test]
    fn conditions_are_read_as_sql_reads_them() {
        for (text, meaning) in [
            ("a = 1 or b and not c", r#"("a" = 1 or ("b" and not "c"))"#),
            ("(a = 1 OR b) AND c IS NOT NULL", r#"(("a" = 1 or "b") and not "c" is null)"#),
            (
                "a in ('x', 'it''s') and b NOT IN (1,-2.5e3)",
                r#"("a" in ('x', 'it''s') and not "b" in (1, -2.5e3))"#,
            ),
            ("\"Odd \"\"one\" != true", r#""Odd \"one" <> true"#),
            ("a<=1 and b>='x'", r#"("a" <= 1 and "b" >= 'x')"#),
            ("not not größe", r#"not not "größe""#),
        ] {
            assert_eq!(read(text), meaning);
        }
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (text, what) in [
            ("", "ends where a column"),
            ("a =", "ends where a 'text'"),
            ("a = null", "write \"is null\""),
            ("a = b", "\"b\" stands where a 'text'"),
            ("1 = a", "1 stands where a column"),
            ("a = 'x", "has no other one"),
            ("(a", "has no )"),
            ("a)", "\")\" stands where"),
            ("a b", "\"b\" stands where \"and\""),
            ("a is 1", "\"null\" or \"not null\" only"),
            ("a in 1", "list in parentheses"),
            ("a in (1", "no ) that ends it"),
            ("a not 1", "followed by \"in\" only"),
            ("a = 1x", "\"1x\" is no number"),
            ("a = 01", "\"01\" is no number"),
            ("a ; b", "';' means nothing"),
            (&"x".repeat(10_001), "more than 10000 bytes"),
            (&"(".repeat(9_000), "inside of each other"),
        ] {
            assert!(read(text).starts_with('!') && read(text).contains(what), "{text}: {}", read(text));
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "[a-c'\"()<>=!, 0-9.orndti\\PC-]{0,60}") {
            let _ = Condition::read(&text);
        }
    }
}
