//! What a retired pipeline leaves on the server, taken down: the slot, which keeps log, and the
//! publication, if Rowtide made it.
//!
//! ```text
//!   slot: active ──► nothing is touched        ready, lost ──► dropped        of another kind ──► left
//!   publication: with Rowtide's comment ──► dropped        without ──► left, with the SQL
//! ```
//! A slot that the configuration names, and that is of our kind, is ours: nobody else can read with it
//! what Rowtide has acknowledged. The server itself refuses to drop one that is read, so a reader that
//! comes between the look and the drop loses nothing.

use super::catalog::{literal, quoted};
use super::config::Config;
use super::open;
use super::slot::{self, Made, SlotState};
use super::wire::Connection;
use crate::source::{Finding, Removed, SourceError};
use crate::world::SharedWorld;

/// Takes down slot and publication.
pub(super) async fn remove(config: &Config, world: &SharedWorld) -> Removed {
    let mut removed = Removed::default();
    removed.unfinished = take_down(config, world, &mut removed).await.err();
    removed
}

async fn take_down(config: &Config, world: &SharedWorld, removed: &mut Removed) -> Result<(), SourceError> {
    let mut sql = open::connect(&config.connect, world, "connect to the database").await?;
    drop_slot(&mut sql, &config.slot, removed).await?;
    drop_publication(&mut sql, &config.publication, removed).await?;
    sql.close().await;
    Ok(())
}

async fn drop_slot(sql: &mut Connection, name: &str, removed: &mut Removed) -> Result<(), SourceError> {
    let found = SlotState::look(sql, name).await.map_err(|error| error.into_source("look at the slot"))?;
    match found {
        SlotState::Missing => return Ok(()),
        SlotState::Active { pid, .. } => return Err(is_read(name, &format!("by process {pid}"))),
        SlotState::Foreign { what } => {
            removed.left.push(Finding {
                what: format!("the replication slot {name} is not Rowtide's: {what}"),
                fix: slot::drop_slot_sql(name),
            });
            return Ok(());
        }
        SlotState::Ready(_) | SlotState::Lost { .. } => {}
    }
    let dropped = sql.all_rows("SELECT pg_drop_replication_slot($1)", &[Some(name)]).await;
    match dropped {
        Ok(_) => removed.gone.push(format!("the replication slot {name}")),
        // object_in_use: a reader has come meanwhile.
        Err(error) if error.sqlstate() == Some("55006") => return Err(is_read(name, "now")),
        // undefined_object: somebody else was faster.
        Err(error) if error.sqlstate() == Some("42704") => {}
        Err(error) => return Err(refused(error, "drop the replication slot", slot::drop_slot_sql(name))),
    }
    Ok(())
}

fn is_read(name: &str, by: &str) -> SourceError {
    SourceError::Halt {
        state: "slot-active",
        what: format!("the replication slot {name} is being read {by}"),
        hint:
            "stop what reads it; after a crash the server notices within wal_sender_timeout (60 s by default)"
                .to_owned(),
    }
}

async fn drop_publication(
    sql: &mut Connection,
    name: &str,
    removed: &mut Removed,
) -> Result<(), SourceError> {
    let context = "look at the publication";
    let made = slot::who_made(sql, name).await.map_err(|error| error.into_source(context))?;
    let drop = format!("DROP PUBLICATION {};", quoted(name));
    match made {
        None => Ok(()),
        Some(Made::ByOthers) => {
            removed
                .left
                .push(Finding { what: format!("the publication {name} was not made by Rowtide"), fix: drop });
            Ok(())
        }
        Some(Made::ByRowtide) => match sql.simple(&drop).await {
            Ok(_) => {
                removed.gone.push(format!("the publication {name}"));
                Ok(())
            }
            Err(error) if error.sqlstate() == Some("42704") => Ok(()),
            Err(error) => Err(refused(error, "drop the publication", drop)),
        },
    }
}

/// What the server refuses now it will refuse again, until somebody who may does it.
fn refused(error: super::wire::WireError, context: &'static str, sql: String) -> SourceError {
    match error.sqlstate() {
        Some("42501") => SourceError::Wait { context, reason: format!("{error}; somebody who may: {sql}") },
        _ => error.into_source(context),
    }
}

/// The comment by which a publication of Rowtide's is known.
pub(super) fn comment_sql(publication: &str) -> String {
    format!("COMMENT ON PUBLICATION {} IS {};", quoted(publication), literal(slot::MADE_BY_ROWTIDE))
}
