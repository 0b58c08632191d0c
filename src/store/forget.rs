//! The end of a pipeline: what the store keeps of it.

use super::StoreError;
use super::look::time_key;
use super::sqlite::Sqlite;

/// Dead letters are kept by `pipeline/target`, before format 3 by pipeline.
const OF_PIPELINE: &str = "(pipeline = ?1 OR substr(pipeline, 1, length(?1) + 1) = ?1 || '/')";

/// What was kept of a pipeline.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Kept {
    /// Whether there was a row with its checkpoint, if only a blank one.
    pub checkpoint: bool,
    /// How many dead letters there were.
    pub dead_letters: u64,
}

impl Sqlite {
    /// What is kept of a pipeline.
    pub async fn kept(&self, pipeline: &str) -> Result<Kept, StoreError> {
        let pipeline = pipeline.to_owned();
        let look = move |connection: &mut rusqlite::Connection| {
            let count = |from: &str| {
                let sql = format!("SELECT count(*) FROM {from}");
                connection.query_row(&sql, [&pipeline], |row| row.get::<_, u64>(0))
            };
            Ok(Kept {
                checkpoint: count("pipelines WHERE name = ?1")? > 0,
                dead_letters: count(&format!("dead_letters WHERE {OF_PIPELINE}"))?,
            })
        };
        self.run("look at what is kept of the pipeline", look).await
    }

    /// Deletes the checkpoint and the dead letters of a pipeline, in one step; those of others stay.
    pub async fn forget(&self, pipeline: &str) -> Result<(), StoreError> {
        let pipeline = pipeline.to_owned();
        let forget = move |connection: &mut rusqlite::Connection| {
            let transaction = connection.transaction()?;
            transaction.execute("DELETE FROM pipelines WHERE name = ?1", [&pipeline])?;
            transaction.execute("DELETE FROM meta WHERE key = ?1", [time_key(&pipeline)])?;
            transaction.execute(&format!("DELETE FROM dead_letters WHERE {OF_PIPELINE}"), [&pipeline])?;
            transaction.commit()
        };
        self.run("forget the pipeline", forget).await
    }
}
