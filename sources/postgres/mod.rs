//! PostgreSQL by logical replication (pgoutput), with the first fill read beside the log.
//!
//! ```text
//!   config ─ check          what the configuration says; all that is missing, with its SQL
//!   discover ─ remove       what could be read; slot and publication taken down
//!   catalog ─ slot          tables and types; publication, slot, who holds write locks
//!   credentials             the password, where it comes from, what a refused login means
//!   wire ─ tuple ─ pgoutput the connection and its messages, in place
//!   decode ─ rows           PostgreSQL's text to JSON, one decoder for reads and log
//!   open ─ history          law 8: asked and compared before anything is read; another timeline
//!   stream ─ step           the reader: the log in order, reads merged in, checkpoints
//!   reads ─ progress ─ sql  chunks and refetches
//!   known ─ changes         which tables there are; the catalog looked at, since DDL has no event
//!   renewal                 what changed without an event, and is read again
//!   watch                   bytes of log that the slot holds
//! ```

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::mpsc;

use crate::change::Table;
use crate::position::{Offset, Position};
use crate::source::{
    Checked, Claim, Continuity, Link, Reader, Removed, Resume, Source, SourceError, StatusSender,
    TableProgress,
};
use crate::world::{BoxFuture, SharedWorld, Task};
use crate::{Problem, Settings};

mod catalog;
mod changes;
mod check;
mod config;
mod credentials;
mod decode;
mod describe;
mod discover;
mod failure;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod history;
mod known;
#[cfg(all(test, feature = "live"))]
mod live;
mod lsn;
mod open;
mod pgoutput;
mod position;
mod progress;
mod reads;
mod refetch;
mod remove;
mod renewal;
mod rows;
mod slot;
mod snapshot;
mod sql;
mod step;
mod stream;
mod tuple;
mod watch;
mod wire;
mod work;

pub(crate) use discover::discover;

use catalog::ValueTypes;
use config::Config;
use history::Emitted;
use known::Known;
use open::Opened;
use position::PgPosition;
use reads::Reads;
use refetch::Refetches;
use stream::Stream;

struct Postgres {
    config: Arc<Config>,
    world: SharedWorld,
    /// Outlives each reader: another server must have all of it.
    emitted: Arc<Emitted>,
    /// As [`Source::tables`] told them last: what is opened must be the same.
    told: Mutex<Option<Vec<Known>>>,
}

/// Makes the source from its section.
pub(crate) fn make(settings: Settings, world: SharedWorld) -> Result<Box<dyn Source>, Vec<Problem>> {
    let config = Arc::new(Config::new(settings)?);
    Ok(Box::new(Postgres { config, world, emitted: Arc::default(), told: Mutex::new(None) }))
}

impl Source for Postgres {
    fn check(&self) -> BoxFuture<'_, Result<Checked, SourceError>> {
        Box::pin(async {
            let checked = check::check(&self.config, &self.world).await;
            checked.map_err(|error| error.into_source("check the database"))
        })
    }

    fn remove(&self) -> BoxFuture<'_, Removed> {
        Box::pin(remove::remove(&self.config, &self.world))
    }

    fn claims(&self) -> Vec<Claim> {
        let Config { connect, slot, publication, .. } = &*self.config;
        let server = format!("{}:{}", connect.host, connect.port);
        let publication =
            format!("the publication {publication} of the database {} on {server}", connect.database);
        vec![
            // Of the whole server, whatever the database.
            Claim { key: "slot", what: format!("the slot {slot} on {server}") },
            Claim { key: "publication", what: publication },
        ]
    }

    fn tables(&self, before: Option<Position>) -> BoxFuture<'_, Result<Vec<Arc<Table>>, SourceError>> {
        Box::pin(async move {
            let before = before.as_ref().map(PgPosition::open).transpose()?;
            let mut sql = open::connect(&self.config.connect, &self.world, "connect to the database").await?;
            let types = &mut ValueTypes::default();
            let list = known::look_up(&mut sql, types, &self.config, before.as_ref()).await?;
            let tables = list.iter().enumerate().map(|(number, known)| known.table(number)).collect();
            *self.told.lock().unwrap_or_else(PoisonError::into_inner) = Some(list);
            Ok(tables)
        })
    }

    fn open(
        &self,
        resume: Option<Resume>,
        status: StatusSender,
    ) -> BoxFuture<'_, Result<Box<dyn Reader>, SourceError>> {
        Box::pin(async move {
            let told = self.told.lock().unwrap_or_else(PoisonError::into_inner).clone();
            let (config, world) = (&self.config, &self.world);
            let opened = open::open(config, world, told, resume, &self.emitted, &status).await?;
            let progress = opened.tables.iter().map(|work| TableProgress {
                name: work.info.table.name.to_string(),
                rows_estimated: work.info.rows_estimated,
                rows_read: 0,
                done: work.with_progress(|progress| progress.is_done()),
            });
            status.send_modify(|status| {
                status.tables = progress.collect();
                status.waiting_for = None;
            });
            let reader: Box<dyn Reader> = Box::new(PgReader {
                config: self.config.clone(),
                world: self.world.clone(),
                emitted: self.emitted.clone(),
                opened,
            });
            Ok(reader)
        })
    }
}

struct PgReader {
    config: Arc<Config>,
    world: SharedWorld,
    emitted: Arc<Emitted>,
    opened: Opened,
}

impl Reader for PgReader {
    fn identity(&self) -> &str {
        &self.opened.identity
    }

    fn continuity(&self) -> &Continuity {
        &self.opened.continuity
    }

    fn first(&self) -> Offset {
        self.opened.first
    }

    fn run(self: Box<Self>, link: Link) -> BoxFuture<'static, Result<(), SourceError>> {
        Box::pin(self.read(link))
    }
}

impl PgReader {
    async fn read(self: Box<Self>, link: Link) -> Result<(), SourceError> {
        let Self { config, world, emitted, opened } = *self;
        config.connect.login.works();
        let passed = Arc::new(AtomicU64::new(opened.position.lsn.0));
        let (to_reader, from_reads) = mpsc::unbounded_channel();
        let (to_refetch, jobs) = mpsc::unbounded_channel();
        let reads = Arc::new(Reads {
            world: world.clone(),
            connect: config.connect.clone(),
            tables: opened.tables,
            timeline: opened.position.timeline,
            emitted,
            passed: passed.clone(),
            awaited: AtomicU64::new(0),
            outlet: link.outlet.clone(),
            to_reader,
            status: link.status.clone(),
            chunk_rows: config.chunk_rows as usize,
            document_bytes_max: config.document_bytes_max,
            sharers: config.readers as usize,
            yields: Arc::default(),
            more: tokio::sync::Notify::new(),
        });
        let watching = watch::Watch {
            world: world.clone(),
            connect: config.connect.clone(),
            slot: config.slot.clone(),
            held_max: config.log_held_bytes_max,
            status: link.status.clone(),
            passed: passed.clone(),
            yields: reads.yields.clone(),
        }
        .run();
        // They end with this future: none of them has anything to finish.
        let mut tasks: Vec<Task> = Vec::with_capacity(config.readers as usize + 3);
        tasks.push(world.spawn(Box::pin(watching)));
        let looking = changes::watch(world.clone(), config.clone(), opened.seen, reads.to_reader.clone());
        tasks.push(world.spawn(Box::pin(looking)));
        tasks.push(world.spawn(Box::pin(reads.clone().refetch(jobs))));
        for _ in 0..config.readers {
            tasks.push(world.spawn(Box::pin(reads.clone().work())));
        }
        let stream = Stream::new(
            opened.connection,
            opened.catalog,
            world,
            link,
            reads,
            from_reads,
            Refetches::new(to_refetch),
            opened.position,
            opened.relations,
            config.document_bytes_max,
            passed,
        );
        let ended = stream.run(opened.begun).await;
        drop(tasks);
        ended
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::world::RealWorld;

    #[test]
    fn a_slot_is_claimed_on_the_server_and_a_publication_in_the_database() {
        let claims = |name: &str, database: &str| -> Vec<String> {
            let url = format!("postgres://cdc:p@db/{database}");
            let settings = Settings {
                name: name.to_owned(),
                folder: std::path::PathBuf::new(),
                environment: std::collections::BTreeMap::new(),
                keys: serde_json::json!({ "url": url }).as_object().unwrap().clone(),
                tables: Vec::new(),
                document_bytes_max: 1 << 20,
            };
            let source =
                make(settings, RealWorld::shared()).unwrap_or_else(|problems| panic!("{problems:?}"));
            source.claims().into_iter().map(|claim| format!("{}: {}", claim.key, claim.what)).collect()
        };
        let shop = claims("shop-a", "shop");
        assert_eq!(
            shop,
            [
                "slot: the slot rowtide_shop_a on db:5432",
                "publication: the publication rowtide_shop_a of the database shop on db:5432"
            ]
        );
        // Both names come to one default.
        let crm = claims("shop_a", "crm");
        assert_eq!(crm[0], shop[0]);
        assert_ne!(crm[1], shop[1]);
        assert_ne!(claims("crm", "shop"), shop);
    }
}
