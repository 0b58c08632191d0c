//! The dead letters that a person has chosen: found, counted, read and removed page by page.
//!
//! Pages go by the rows' numbers, which rise with every letter that is kept. A letter that is kept again while
//! pages are read gets a higher number: whoever has asked for [`Sum::newest`] first meets none twice.

use rusqlite::{Connection, OptionalExtension, Params};
use sources::position::Version;

use super::StoreError;
use super::sqlite::Sqlite;

/// Rows that one statement removes.
const DROPPED_AT_ONCE: u64 = 1000;

/// Which letters: those to which all of it applies.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Choice {
    /// Of this pipeline.
    pub pipeline: Option<String>,
    /// Of this target.
    pub target: Option<String>,
    /// Written through this alias.
    pub index: Option<String>,
    /// Of the document with this id, as a person writes it.
    pub id: Option<String>,
    /// With this text in the reason.
    pub reason: Option<String>,
}

/// A letter without its body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptLetter {
    /// The number of its row: the newest letter has the highest.
    pub number: i64,
    /// Whose it is.
    pub pipeline: String,
    /// Which target refused it; `None` when a store before format 3 kept it and no process has run since.
    pub target: Option<String>,
    /// The alias it was written through.
    pub index: String,
    /// The document's id as it stands in a JSON string: escaped, without the quotes.
    pub id: Vec<u8>,
    /// The version it was to be written with.
    pub version: Version,
    /// Why it was refused. May quote the document.
    pub reason: String,
    /// Bytes of the document.
    pub bytes: u64,
    /// When it was kept, in UTC, as in `2026-11-25T13:00:00Z`.
    pub kept_at: String,
    /// Whether the action was kept with it.
    pub has_body: bool,
}

/// How many were chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sum {
    /// Letters.
    pub count: u64,
    /// Bytes that they hold on the disk, as they are counted against the limit.
    pub held_bytes: u64,
    /// The highest number among them; 0 when there are none.
    pub newest: i64,
}

/// Owners are `pipeline/target`, before format 3 `pipeline`; names have no slash.
const CHOSEN: &str = "
    (?1 IS NULL OR pipeline = ?1 OR substr(pipeline, 1, length(?1) + 1) = ?1 || '/')
    AND (?2 IS NULL OR (instr(pipeline, '/') > 0 AND substr(pipeline, instr(pipeline, '/') + 1) = ?2))
    AND (?3 IS NULL OR index_name = ?3)
    AND (?4 IS NULL OR id = ?4 OR id = ?5)
    AND (?6 IS NULL OR instr(reason, ?6) > 0)
    AND rowid > ?7 AND rowid <= ?8";

impl Choice {
    /// The numbers between `after` and `upto`, which counts.
    fn between(&self, after: i64, upto: i64) -> impl Params + use<> {
        let Self { pipeline, target, index, id, reason } = self.clone();
        let raw = id.as_ref().map(|id| id.clone().into_bytes());
        let escaped = id.as_ref().map(|id| escaped(id));
        (pipeline, target, index, raw, escaped, reason, after, upto)
    }
}

/// An id as it stands in a JSON string.
fn escaped(id: &str) -> Vec<u8> {
    let quoted = serde_json::Value::String(id.to_owned()).to_string();
    quoted.trim_start_matches('"').strip_suffix('"').map_or_else(Vec::new, |inner| inner.as_bytes().to_vec())
}

fn read(row: &rusqlite::Row<'_>) -> rusqlite::Result<KeptLetter> {
    let owner: String = row.get(1)?;
    let (pipeline, target) = match owner.split_once('/') {
        Some((pipeline, target)) => (pipeline.to_owned(), Some(target.to_owned())),
        None => (owner, None),
    };
    Ok(KeptLetter {
        number: row.get(0)?,
        pipeline,
        target,
        index: row.get(2)?,
        id: row.get(3)?,
        version: Version::from_target(row.get(4)?),
        reason: row.get(5)?,
        has_body: row.get(6)?,
        bytes: row.get(7)?,
        kept_at: row.get::<_, Option<String>>(8)?.unwrap_or_default(),
    })
}

impl Sqlite {
    /// How many letters are chosen.
    pub async fn letters_sum(&self, choice: &Choice) -> Result<Sum, StoreError> {
        let chosen = choice.between(i64::MIN, i64::MAX);
        self.run("count the dead letters", move |connection: &mut Connection| {
            // In floating point: sizes that nobody wrote must not overflow.
            let select = format!(
                "SELECT count(*), CAST(min(total(held_bytes), 9e18) AS INTEGER), coalesce(max(rowid), 0)
                 FROM dead_letters WHERE {CHOSEN}"
            );
            connection.query_row(&select, chosen, |row| {
                Ok(Sum { count: row.get(0)?, held_bytes: row.get(1)?, newest: row.get(2)? })
            })
        })
        .await
    }

    /// At most `limit` letters with numbers between `after` and `upto`, the oldest first.
    pub async fn letters_page(
        &self,
        choice: &Choice,
        after: i64,
        upto: i64,
        limit: u32,
    ) -> Result<Vec<KeptLetter>, StoreError> {
        let chosen = choice.between(after, upto);
        self.run("list the dead letters", move |connection: &mut Connection| {
            let select = format!(
                "SELECT rowid, pipeline, index_name, id, version, reason, body IS NOT NULL, bytes,
                        strftime('%Y-%m-%dT%H:%M:%SZ', unix_seconds, 'unixepoch')
                 FROM dead_letters WHERE {CHOSEN} ORDER BY rowid LIMIT {limit}"
            );
            let mut statement = connection.prepare_cached(&select)?;
            statement.query_map(chosen, read)?.collect()
        })
        .await
    }

    /// The action of a letter as it was sent; `None` when it has none, or is gone.
    pub async fn letter_body(&self, number: i64) -> Result<Option<Vec<u8>>, StoreError> {
        self.run("read a dead letter", move |connection: &mut Connection| {
            let select = "SELECT body FROM dead_letters WHERE rowid = ?1";
            let body = connection.prepare_cached(select)?.query_row([number], |row| row.get(0)).optional()?;
            Ok(body.flatten())
        })
        .await
    }

    /// The aliases that chosen letters were written through.
    pub async fn letters_indices(&self, choice: &Choice) -> Result<Vec<String>, StoreError> {
        let chosen = choice.between(i64::MIN, i64::MAX);
        self.run("list the indices of dead letters", move |connection: &mut Connection| {
            let select = format!("SELECT DISTINCT index_name FROM dead_letters WHERE {CHOSEN} ORDER BY 1");
            connection.prepare(&select)?.query_map(chosen, |row| row.get(0))?.collect()
        })
        .await
    }

    /// Removes the oldest `limit` of the chosen letters with numbers up to `upto`; how many there were. No
    /// process may run that keeps letters in this store: it knows them from its start on.
    pub async fn drop_letters(&self, choice: &Choice, upto: i64, limit: u64) -> Result<u64, StoreError> {
        let mut dropped = 0;
        while dropped < limit {
            let chosen = choice.between(i64::MIN, upto);
            let most = (limit - dropped).min(DROPPED_AT_ONCE);
            let gone = self
                .run("drop dead letters", move |connection: &mut Connection| {
                    let delete = format!(
                        "DELETE FROM dead_letters WHERE rowid IN
                         (SELECT rowid FROM dead_letters WHERE {CHOSEN} ORDER BY rowid LIMIT {most})"
                    );
                    connection.execute(&delete, chosen)
                })
                .await?;
            dropped += gone as u64;
            if (gone as u64) < most {
                break;
            }
        }
        Ok(dropped)
    }

    /// Keeps a letter as a process would have, for tests.
    #[cfg(test)]
    pub(super) async fn put_letter(&self, owner: &'static str, id: &'static str, reason: &'static str) {
        let put =
            "INSERT INTO dead_letters VALUES (?1, 'products', CAST(?2 AS BLOB), 7, ?3, x'7b7d', 2, 1030, 60)";
        let work = move |connection: &mut Connection| connection.execute(put, (owner, id, reason));
        assert_eq!(self.run("put a letter", work).await.ok(), Some(1));
    }
}

#[cfg(test)]
#[path = "chosen_tests.rs"]
mod tests;
