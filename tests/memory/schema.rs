//! Tables for the abuse of memory, and what must become of each of their rows.
//!
//! ```text
//!   t0001 … t1000   some small rows, one of any size, both drawn evenly by the logarithm
//!   tiny            very many of the smallest rows there are
//!   wild            values that grow as JSON: quotes twofold, control characters sixfold
//!   poison          documents near the limit that the target refuses: letters with a body
//! ```
//! `body` is stored uncompressed outside of the row (EXTERNAL), so that an UPDATE of `n` leaves it out
//! of the log, and every byte of it really travels.

use std::fmt::Write as _;

use crate::harness::Random;

const KIB: u64 = 1 << 10;
pub(super) const MIB: u64 = 1 << 20;

/// How large everything is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sizes {
    /// Tables with rows of any size.
    pub(super) tables: u64,
    /// Small rows of each of them, in each of the two waves.
    pub(super) small_rows: u64,
    /// The rows of any size have at least so many bytes.
    pub(super) row_min: u64,
    /// The largest of them.
    pub(super) row_max: u64,
    /// One row.
    pub(super) giant: u64,
    /// Rows of the table of tiny ones.
    pub(super) tiny: u64,
    /// `memory.max_rss`.
    pub(super) max_rss: u64,
    /// `memory.document_bytes_max`.
    pub(super) document_bytes_max: u64,
}

/// The smallest row that is drawn.
pub(super) const ROW_MIN: u64 = 10;
/// A small row's largest.
const SMALL_MAX: u64 = 4 * KIB;
/// No row is drawn whose frame alone decides whether it fits.
pub(super) const FRAME: u64 = 8 * KIB;
/// Rows of `wild` and of `poison`, each.
const SPECIAL_ROWS: u64 = 6;

impl Sizes {
    pub(super) fn names(&self) -> Vec<String> {
        let numbered = (1..=self.tables).map(|number| format!("t{number:04}"));
        numbered.chain(["tiny", "wild", "poison"].map(str::to_owned)).collect()
    }

    /// A size between the bounds, even by its logarithm, clear of the limit.
    fn draw(&self, random: &mut Random, least: u64, most: u64) -> u64 {
        let share = random.below(1 << 20) as f64 / f64::from(1 << 20);
        let size = (least as f64 * (most as f64 / least as f64).powf(share)) as u64;
        match size.abs_diff(self.document_bytes_max) < FRAME {
            true => self.document_bytes_max - FRAME,
            false => size,
        }
    }

    /// Empty tables.
    pub(super) fn create(&self) -> String {
        let mut sql = String::new();
        for name in self.names() {
            let columns = match name.as_str() {
                "tiny" => "id bigint PRIMARY KEY, n bigint NOT NULL",
                "poison" => "id bigint PRIMARY KEY, doc json NOT NULL, body text NOT NULL",
                _ => "id bigint PRIMARY KEY, n bigint NOT NULL, body text NOT NULL",
            };
            writeln!(sql, "CREATE TABLE {name} ({columns});").unwrap();
            if name != "tiny" {
                writeln!(sql, "ALTER TABLE {name} ALTER body SET STORAGE EXTERNAL;").unwrap();
            }
        }
        sql
    }

    /// The statements of a wave of rows; wave 0 fills the tables, wave 1 comes by the log. Each is a
    /// transaction of its own.
    pub(super) fn wave(&self, wave: u64, random: &mut Random) -> Vec<String> {
        let mut statements = Vec::new();
        let first = wave * 1000;
        for number in 1..=self.tables {
            let mut values: Vec<String> = (0..self.small_rows)
                .map(|row| {
                    let size = self.draw(random, ROW_MIN, SMALL_MAX);
                    format!("({}, {wave}, repeat('s', {size}))", first + row)
                })
                .collect();
            let size = match number {
                1 => self.giant,
                2 => self.row_max,
                3 => self.document_bytes_max - FRAME,
                _ => self.draw(random, self.row_min, self.row_max),
            };
            values.push(format!("({}, {wave}, repeat('b', {size}))", first + 999));
            statements.push(format!("INSERT INTO t{number:04} VALUES {}", values.join(", ")));
        }
        let (from, to) = (wave * self.tiny + 1, (wave + 1) * self.tiny);
        statements.push(format!("INSERT INTO tiny SELECT id, {wave} FROM generate_series({from}, {to}) id"));
        // On the wire all of these fit.
        let near = self.document_bytes_max - FRAME;
        for row in 0..SPECIAL_ROWS {
            let id = first + row;
            let letter = ["E'\\x01'", "E'\\\"'"][(row % 2) as usize];
            statements.push(format!("INSERT INTO wild VALUES ({id}, {wave}, repeat({letter}, {near}))"));
            statements.push(format!(
                "INSERT INTO wild VALUES ({}, {wave}, repeat({letter}, {}))",
                id + 100,
                near / 7
            ));
            let body = near - FRAME;
            statements.push(format!(
                "INSERT INTO poison VALUES ({id}, '{{\"a\": 1, \"a\": 2}}', repeat('p', {body}))"
            ));
        }
        statements
    }

    /// Whether the row of a table becomes a document, in SQL. PostgreSQL escapes as Rowtide does.
    pub(super) fn fits(&self, table: &str) -> String {
        match table {
            "tiny" => "true".into(),
            "poison" => "false".into(),
            "wild" => format!("octet_length(to_json(body)::text) < {}", self.document_bytes_max),
            // `to_json` of the largest would not fit into PostgreSQL's own limit.
            _ => format!("octet_length(body) < {}", self.document_bytes_max),
        }
    }
}
