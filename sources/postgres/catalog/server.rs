//! Who the server is, asked before anything is read (laws 1 and 8).

use crate::postgres::lsn::Lsn;
use crate::postgres::wire::{Connection, WireError};

/// Who the server is (law 1) and how far it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Server {
    /// Chosen when the database cluster was made; a copy of its files has it too.
    pub(crate) system_identifier: String,
    /// Rises at each promotion.
    pub(crate) timeline: u32,
    /// The end of the log that is safe on disk.
    pub(crate) flush_lsn: Lsn,
    /// The database that is connected.
    pub(crate) database: String,
    /// As in 180001.
    pub(crate) version: u32,
    /// Whether it is a standby.
    pub(crate) in_recovery: bool,
    /// How much its log holds; rows are in it when this is `logical`.
    pub(crate) wal_level: String,
}

impl Server {
    /// Asks on a connection with `replication`.
    pub(crate) async fn identify(connection: &mut Connection) -> Result<Self, WireError> {
        let odd = WireError::Protocol("IDENTIFY_SYSTEM was answered by something else");
        let system = connection.simple("IDENTIFY_SYSTEM").await?;
        let more = "SELECT current_setting('server_version_num'), pg_is_in_recovery(), current_database(), \
             current_setting('wal_level')";
        let more = connection.simple(more).await?;
        let (Some(system), Some(more)) = (system.first(), more.first()) else { return Err(odd) };
        let [Some(identifier), Some(timeline), Some(lsn), ..] = system.as_slice() else { return Err(odd) };
        let [Some(version), Some(in_recovery), Some(database), Some(wal_level)] = more.as_slice() else {
            return Err(odd);
        };
        let (Ok(timeline), Ok(flush_lsn), Ok(version)) = (timeline.parse(), lsn.parse(), version.parse())
        else {
            return Err(odd);
        };
        Ok(Self {
            system_identifier: identifier.clone(),
            timeline,
            flush_lsn,
            database: database.clone(),
            version,
            in_recovery: in_recovery == "t",
            wal_level: wal_level.clone(),
        })
    }
}
