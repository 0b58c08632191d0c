//! What the log says of a table, and whether the catalog still says the same.

use std::sync::Arc;

use super::catalog::{TableInfo, ValueTypes};
use super::config::Config;
use super::failure::FILL_ANEW;
use super::known;
use super::pgoutput::Message;
use super::rows;
use super::wire::Connection;
use super::work::TableWork;
use crate::source::SourceError;

/// The SQL side of the reader: the types that the log names.
pub(super) struct Catalog {
    pub(super) sql: Connection,
    pub(super) types: ValueTypes,
    pub(super) config: Config,
}

impl Catalog {
    /// The table as the log describes it from here on, with its oid; `None` when nobody reads it.
    pub(super) async fn describe(
        &mut self,
        tables: &[Arc<TableWork>],
        message: &[u8],
        is_emitted: bool,
    ) -> Result<(u32, Option<Arc<TableInfo>>), SourceError> {
        let parsed = Message::parse(message).map_err(|error| rows::unexpected(error.0))?;
        let Message::Relation(relation) = parsed else {
            return Err(rows::unexpected("no description of a table"));
        };
        let mine = |work: &&Arc<TableWork>| work.info.oid == relation.oid && !work.is_gone;
        let Some(work) = tables.iter().find(mine) else {
            return Ok((relation.oid, None));
        };
        if is_emitted {
            self.is_still(&work.info).await?;
        }
        let missing = self.types.missing(&relation);
        let loaded = self.types.load(&mut self.sql, &missing).await;
        loaded.map_err(|error| error.into_source("look at types"))?;
        match work.info.from_relation(&relation, &self.types) {
            Some(info) => Ok((relation.oid, Some(Arc::new(info)))),
            None => Err(SourceError::Halt {
                state: "key-changed",
                what: format!("the key of {} has lost a column", work.info.table.name),
                hint: FILL_ANEW.into(),
            }),
        }
    }

    /// The log describes a table at its first change and after each DDL, as it was then (T09). Whether it
    /// is still what was opened is asked of the catalog: an old description, replayed, says nothing new.
    async fn is_still(&mut self, info: &TableInfo) -> Result<(), SourceError> {
        let Self { sql, types, config } = self;
        let (number, name) = (info.table.number, &info.name);
        let loaded = TableInfo::load(sql, types, number, name, &config.publication).await;
        let what = match loaded.map_err(|error| error.into_source("look at a table"))? {
            Ok(now) => known::changed(&name.spelled, Some(info), Some(&now)),
            Err(fault) => Some(fault.what),
        };
        what.map_or(Ok(()), |what| Err(SourceError::Changed { what }))
    }
}
