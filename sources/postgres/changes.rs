//! The catalog is looked at every few seconds while the log is followed: DDL has no event (T09), and a
//! table that nobody writes to has no Relation message either.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use super::catalog::{self, ValueTypes};
use super::config::Config;
use super::known::{self, Known};
use super::position::PgPosition;
use super::reads::FromRead;
use super::wire::Connection;
use crate::source::SourceError;
use crate::world::SharedWorld;

/// Between two looks.
const EVERY: Duration = Duration::from_secs(10);

/// What was there when the source was opened.
#[derive(Clone)]
pub(super) struct Seen {
    pub list: Vec<Known>,
    /// Taken before the list: what changes meanwhile is noticed.
    pub digest: String,
    /// Which tables were read before.
    pub position: PgPosition,
}

/// Looks until the tables are not those that were seen. A look that fails is no failure of the source.
pub(super) async fn watch(
    world: SharedWorld,
    config: Arc<Config>,
    seen: Seen,
    tell: mpsc::UnboundedSender<FromRead>,
) {
    let mut connection: Option<Connection> = None;
    let mut digest = seen.digest;
    loop {
        world.sleep(EVERY).await;
        if connection.is_none() {
            connection = Connection::open(&config.connect, &world, EVERY).await.ok();
        }
        let Some(sql) = &mut connection else { continue };
        let Ok(now) = catalog::digest(sql, &config.publication, &config.wanted()).await else {
            connection = None;
            continue;
        };
        if now == digest {
            continue;
        }
        let looked = known::look_up(sql, &mut ValueTypes::default(), &config, Some(&seen.position)).await;
        let what = match looked {
            Ok(list) => known::difference(&seen.list, &list),
            Err(SourceError::Halt { what, .. }) => Some(what),
            Err(_) => {
                connection = None;
                continue;
            }
        };
        if let Some(what) = what {
            // Whoever asks for the tables anew hears of a fault as well; when nobody listens, the
            // reader has gone.
            let _ = tell.send(FromRead::Failed(SourceError::Changed { what }));
            return;
        }
        digest = now;
    }
}
