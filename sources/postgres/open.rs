//! Law 8: what is asked, and compared, before anything is read.
//!
//! ```text
//!   confirmed_flush ≤ checkpoint ≤ the server's flush LSN          else another history
//!        │ start here, compare: the checkpoint's last commit must come, and none between it and
//!        ▼ the checkpoint; nothing is emitted
//!   checkpoint ──► emit (the transaction that was unfinished there goes on after its settled prefix)
//! ```
//! The server moves START_REPLICATION without a word when it is asked for what lies below
//! `confirmed_flush_lsn` or beyond its end (T43; ATTACKS A10, A11, D2), so it is not asked for either.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::catalog::{self, Server, TableInfo, ValueTypes};
use super::changes::Seen;
use super::config::{Config, TableName};
use super::describe::Catalog;
use super::failure::FILL_ANEW;
use super::history::{self, Emitted};
use super::known::{self, Known};
use super::lsn::Lsn;
use super::pgoutput::Message;
use super::position::PgPosition;
use super::renewal;
use super::rows;
use super::slot::{self, Publication, Published, SlotState};
use super::wire::{Connect, Connection, Copy};
use super::work::TableWork;
use crate::position::Offset;
use crate::source::{Continuity, Resume, SourceError, StatusSender};
use crate::world::SharedWorld;

/// How often the server is asked where its log ends, while nothing comes.
const ASK_EVERY: Duration = Duration::from_millis(100);
/// A server that was asked so often, for a minute, and said nothing is gone.
const UNANSWERED_MOST: u32 = 600;
/// How long connecting may take.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// A slot that is not made after so long waits for somebody.
const TELL_AFTER: Duration = Duration::from_secs(1);

/// The Begin of a transaction that is about to be emitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Begin {
    /// The commit record's LSN.
    pub lsn: Lsn,
    pub time_us: i64,
    pub xid: u32,
}

/// A connection that stands where emitting starts.
pub(super) struct Opened {
    pub connection: Connection,
    pub catalog: Catalog,
    pub position: PgPosition,
    pub continuity: Continuity,
    pub identity: String,
    pub first: Offset,
    /// The Begin that ended the comparison.
    pub begun: Option<Begin>,
    /// Relations that this connection has described, by oid; `None` for tables nobody reads.
    pub relations: HashMap<u32, Option<Arc<TableInfo>>>,
    pub tables: Vec<Arc<TableWork>>,
    /// What the catalog showed.
    pub seen: Seen,
    world: SharedWorld,
    document_bytes_max: usize,
}

/// Connects, asks and compares.
pub(super) async fn open(
    config: &Config,
    world: &SharedWorld,
    told: Option<Vec<Known>>,
    resume: Option<Resume>,
    emitted: &Emitted,
    status: &StatusSender,
) -> Result<Opened, SourceError> {
    let mut sql = connect(&config.connect, world, "connect to the database").await?;
    let mut log = connect(&config.replication(), world, "open the replication connection").await?;
    let server =
        Server::identify(&mut log).await.map_err(|error| error.into_source("ask who the server is"))?;
    if server.in_recovery {
        return Err(history::standby(resume.is_some()));
    }
    if server.wal_level != "logical" {
        return Err(no_rows_in_the_log(&server.wal_level));
    }
    let mut types = ValueTypes::default();
    let mut old = resume.as_ref().map(|resume| PgPosition::open(&resume.position)).transpose()?;
    let (list, digest) = list(&mut sql, &mut types, config, told, old.as_ref()).await?;
    let published = fingerprint(config, &list);
    let (confirmed, is_new) = slot_position(&mut sql, config, world, old.is_some(), status).await?;

    let fresh = || {
        PgPosition::new(server.system_identifier.clone(), server.timeline, server.database.clone(), confirmed)
    };
    let clean = resume.is_some_and(|resume| resume.clean);
    let mut continuity = match &mut old {
        None => Continuity::First,
        Some(old) => match history::elsewhere(old, &fresh()) {
            Some(reason) => Continuity::Broken { reason },
            None => match history::differs(&mut log, &server, old, clean, emitted.get()).await? {
                Some(reason) => Continuity::Broken { reason },
                None => asked(old, confirmed, server.flush_lsn),
            },
        },
    };
    if emitted.get().is_none() {
        emitted.go_on(server.timeline, history::reach(&mut sql, old.as_ref(), clean).await?);
    }
    let mut position = old.unwrap_or_else(fresh);
    // Beyond all that the catalog has shown.
    let now = slot::log_end(&mut sql).await.map_err(|error| error.into_source("ask for the log's end"))?;
    let same_epoch = position.timeline == server.timeline;
    let tables = renewal::works(&list, &position, same_epoch, now, is_new)?;
    if position.published != published {
        // A prefix counted under another publication means nothing: the transaction goes out whole.
        if let Some(inside) = &mut position.inside {
            inside.changes = 0;
        }
        position.published = published;
    }
    position.timeline = server.timeline;
    let seen = Seen { list, digest, position: position.clone() };

    let start = slot::start_replication_sql(&config.slot, confirmed, &config.publication);
    log.start_replication(&start).await.map_err(|error| error.into_source("start replication"))?;
    let identity = format!("postgres/{}/{}/{}", server.system_identifier, server.timeline, server.database);
    let mut opened = Opened {
        connection: log,
        catalog: Catalog { sql, types, config: config.clone() },
        first: offset(position.lsn.max(confirmed))?,
        position,
        continuity: Continuity::First,
        identity,
        begun: None,
        relations: HashMap::new(),
        tables,
        seen,
        world: world.clone(),
        document_bytes_max: config.document_bytes_max,
    };
    if continuity == Continuity::Continued {
        let compared = opened.compare(confirmed).await?;
        if let Some(reason) = compared {
            continuity = Continuity::Broken { reason };
        }
    }
    if !matches!(continuity, Continuity::Broken { .. }) {
        emitted.go_on(server.timeline, Lsn(0));
    }
    opened.continuity = continuity;
    Ok(opened)
}

/// An LSN as an offset; beyond 2^53 the source halts (law 1).
pub(super) fn offset(lsn: Lsn) -> Result<Offset, SourceError> {
    lsn.offset().ok_or_else(|| SourceError::Halt {
        state: "offset-too-large",
        what: format!("the log position {lsn} does not fit below 2^53"),
        hint: "move the database into a new cluster; its log has passed 9 PB".into(),
    })
}

/// A server that was told to write less into its log; it has then no logical slot either.
fn no_rows_in_the_log(wal_level: &str) -> SourceError {
    SourceError::Halt {
        state: "wal-level",
        what: format!("wal_level is {wal_level}, where the log must hold rows"),
        hint: "ALTER SYSTEM SET wal_level = logical; and restart the server".into(),
    }
}

/// The questions that need no log.
fn asked(old: &PgPosition, confirmed: Lsn, flush: Lsn) -> Continuity {
    let broken = |reason: String| Continuity::Broken { reason };
    if confirmed > old.lsn {
        return broken(format!(
            "the slot was moved to {confirmed}, beyond the checkpoint {}: what lies between is lost",
            old.lsn
        ));
    }
    if old.lsn > flush {
        return broken(format!(
            "the server's log ends at {flush}, before the checkpoint {}: it went back",
            old.lsn
        ));
    }
    Continuity::Continued
}

/// Where the slot stands, and whether it is new: made when this is a first start.
async fn slot_position(
    sql: &mut Connection,
    config: &Config,
    world: &SharedWorld,
    resumes: bool,
    status: &StatusSender,
) -> Result<(Lsn, bool), SourceError> {
    let name = &config.slot;
    let halt = |state: &'static str, what: String, hint: String| SourceError::Halt { state, what, hint };
    let found = SlotState::look(sql, name).await.map_err(|error| error.into_source("look at the slot"))?;
    match found {
        SlotState::Ready(slot) => Ok((slot.confirmed_flush, false)),
        SlotState::Missing if resumes => Err(halt(
            "slot-lost",
            format!("the replication slot {name} is gone, and with it the log since the checkpoint"),
            format!(
                "{FILL_ANEW}; a slot outlives a failover on PostgreSQL 17 and later with sync_replication_slots"
            ),
        )),
        SlotState::Missing => Ok((create_slot(sql, config, world, status).await?, true)),
        SlotState::Active { pid, .. } => Err(SourceError::Wait {
            context: "take over the replication slot",
            reason: format!("{name} is active for pid {pid}"),
        }),
        SlotState::Lost { reason } => Err(halt(
            "slot-lost",
            format!("the server has dropped log that the slot {name} needed: {reason}"),
            format!("{}{}; then {FILL_ANEW}", slot::what_keeps_it(&reason), slot::drop_slot_sql(name)),
        )),
        SlotState::Foreign { what } => Err(halt(
            "slot-foreign",
            format!("the replication slot {name} cannot be used: {what}"),
            "name another one with the source's key slot".into(),
        )),
    }
}

/// Makes the slot. The server waits for every transaction that is open now; `status` names them.
async fn create_slot(
    sql: &mut Connection,
    config: &Config,
    world: &SharedWorld,
    status: &StatusSender,
) -> Result<Lsn, SourceError> {
    let context = "make the replication slot";
    let pid = sql.backend_pid();
    let mut watcher = connect(&config.connect, world, context).await?;
    let mut creating = std::pin::pin!(slot::create_slot(sql, &config.slot));
    let created = loop {
        tokio::select! {
            biased;
            created = &mut creating => break created,
            () = world.sleep(TELL_AFTER) => {}
        }
        const SQL: &str = "SELECT string_agg(format('process %s of %s', a.pid, a.usename), ', ') \
             FROM pg_stat_activity a WHERE a.pid = ANY (pg_blocking_pids($1::int))";
        let asked = watcher.all_rows(SQL, &[Some(&pid.to_string())]).await;
        let who = asked.map_err(|error| error.into_source(context))?.into_iter().flatten().flatten().next();
        let who = who.unwrap_or_else(|| "every open transaction".to_owned());
        let text = format!("{who} to end, before the replication slot can be made");
        status.send_modify(|status| status.waiting_for = Some(text));
    };
    status.send_modify(|status| status.waiting_for = None);
    created.map_err(|error| error.into_source(context))
}

/// The publication holds all tables, and all that happens to them: it is made, or what is missing is
/// added.
async fn publish(sql: &mut Connection, config: &Config, tables: &[TableName]) -> Result<(), SourceError> {
    let name = &config.publication;
    let context = "make the publication";
    let refused = |error: super::wire::WireError| match error.sqlstate() {
        // What the server refuses now it will refuse again.
        Some(code) if !code.starts_with("57") && !code.starts_with("08") && !code.starts_with("53") => {
            SourceError::Halt {
                state: "publication-refused",
                what: format!("{context}: {error}"),
                hint: "rowtide check names what is missing, with its SQL".into(),
            }
        }
        _ => error.into_source(context),
    };
    match slot::ensure_publication(sql, name, tables).await.map_err(refused)? {
        Published::Already => {}
        Published::Created => tracing::info!(publication = name, "the publication was made"),
        Published::Added(tables) => {
            tracing::info!(publication = name, tables = tables.len(), "tables were added to the publication");
        }
    }
    let found = Publication::look(sql, name).await.map_err(|error| error.into_source(context))?;
    match found {
        Some(found) if found.unpublished.is_empty() => Ok(()),
        Some(found) => Err(SourceError::Halt {
            state: "publication-incomplete",
            what: format!("the publication {name} leaves out every {}", found.unpublished.join(", ")),
            hint: format!(
                "ALTER PUBLICATION {} SET (publish = 'insert, update, delete, truncate');",
                super::catalog::quoted(name)
            ),
        }),
        None => Err(rows::unexpected("no publication after it was made")),
    }
}

/// Where the publication names partitions, changes of a partitioned table come under other names.
async fn refuse_partitions(sql: &mut Connection, config: &Config, list: &[Known]) -> Result<(), SourceError> {
    let partitioned = list.iter().filter_map(|known| known.info.as_ref()).find(|info| info.is_partitioned);
    let Some(info) = partitioned else { return Ok(()) };
    let name = &config.publication;
    let found = Publication::look(sql, name).await;
    let found = found.map_err(|error| error.into_source("look at the publication"))?;
    if found.is_none_or(|publication| publication.via_root) {
        return Ok(());
    }
    Err(SourceError::Halt {
        state: "publication-incomplete",
        what: format!("{} is partitioned, and the publication {name} names its partitions", info.table.name),
        hint: format!("ALTER PUBLICATION {} SET (publish_via_partition_root = true);", catalog::quoted(name)),
    })
}

/// The tables that were told, published, and as they are now: the application has made ready for those
/// and no others. With the catalog's digest, taken before the list.
async fn list(
    sql: &mut Connection,
    types: &mut ValueTypes,
    config: &Config,
    told: Option<Vec<Known>>,
    old: Option<&PgPosition>,
) -> Result<(Vec<Known>, String), SourceError> {
    let told = match told {
        Some(told) => told,
        None => known::look_up(sql, types, config, old).await?,
    };
    let there = told.iter().filter(|known| known.info.is_some());
    let names: Vec<TableName> = there.map(|known| known.name.clone()).collect();
    refuse_partitions(sql, config, &told).await?;
    publish(sql, config, &names).await?;
    let digest = catalog::digest(sql, &config.publication, &config.wanted()).await;
    let digest = digest.map_err(|error| error.into_source("look at the tables"))?;
    let list = known::look_up(sql, types, config, old).await?;
    if let Some(what) = known::difference(&told, &list) {
        return Err(SourceError::Changed { what });
    }
    Ok((list, digest))
}

/// What is published, in short: counts of a transaction's changes mean nothing under another one.
fn fingerprint(config: &Config, list: &[Known]) -> String {
    let tables = list.iter().filter_map(|known| known.info.as_ref()).map(|info| {
        let columns: Vec<&str> = info.table.columns.iter().map(|column| &*column.name).collect();
        format!("{}:{}:{:?}", info.oid, columns.join(","), info.row_filter)
    });
    let mut all: Vec<String> = tables.collect();
    all.sort();
    format!("{} {}", config.publication, all.join(" "))
}

/// A connection, within the time that connecting may take.
pub(super) async fn connect(
    to: &Connect,
    world: &SharedWorld,
    context: &'static str,
) -> Result<Connection, SourceError> {
    let error = match Connection::open(to, world, CONNECT_TIMEOUT).await {
        Ok(connection) => return Ok(connection),
        Err(error) => error,
    };
    let patience = error.is_refused_login().then(|| to.login.patience(world.now())).flatten();
    let Some((left, place)) = patience else { return Err(error.into_source(context)) };
    let seconds = left.as_secs();
    let reason = format!("{error}; {place} is read again for another {seconds} s, for a new password");
    Err(SourceError::Wait { context, reason })
}

impl Opened {
    /// Reads up to the checkpoint without emitting. `Some` says what shows another history.
    async fn compare(&mut self, confirmed: Lsn) -> Result<Option<String>, SourceError> {
        let wrong = |error: super::wire::WireError| error.into_source("compare the log with the checkpoint");
        let until = self.position.lsn;
        let beyond = self.position.inside.as_ref().map_or(until, |inside| Lsn(inside.lsn.0 + 1));
        let mut due = self.position.last_commit.clone().filter(|commit| commit.lsn >= confirmed);
        self.connection.send_status(confirmed, confirmed, confirmed, true).await.map_err(wrong)?;
        let mut unanswered = 0;
        loop {
            let limit = self.document_bytes_max;
            let step = match self.connection.parse_copy(limit, &mut |_| Vec::new()).map_err(wrong)? {
                None => {
                    tokio::select! {
                        biased;
                        filled = self.connection.fill() => {
                            filled.map_err(wrong)?;
                            unanswered = 0;
                        }
                        // An idle server says where its log ends only when it is asked.
                        () = self.world.sleep(ASK_EVERY) => {
                            unanswered += 1;
                            if unanswered > UNANSWERED_MOST {
                                let seconds = (ASK_EVERY * UNANSWERED_MOST).as_secs();
                                return Err(wrong(super::wire::WireError::Silent { seconds }));
                            }
                            self.connection.send_status(confirmed, confirmed, confirmed, true).await.map_err(wrong)?;
                        }
                    }
                    continue;
                }
                Some(Copy::Keepalive { end_lsn, reply_requested }) => {
                    Compare::Keepalive(end_lsn, reply_requested)
                }
                Some(Copy::Data { message, .. }) => {
                    match Message::parse(message).map_err(|e| wrong(e.into()))? {
                        Message::Begin { final_lsn, commit_time_us, xid } => {
                            Compare::Begin(Begin { lsn: final_lsn, time_us: commit_time_us, xid })
                        }
                        Message::Relation(_) => Compare::Relation(message.to_vec()),
                        _ => continue,
                    }
                }
                Some(Copy::Large(_)) => continue,
                Some(Copy::Done) => return Err(rows::unexpected("the end of the log")),
            };
            match step {
                Compare::Relation(message) => {
                    let (oid, info) = self.catalog.describe(&self.tables, &message, false).await?;
                    self.relations.insert(oid, info);
                }
                Compare::Keepalive(end, reply) => {
                    if reply {
                        self.connection
                            .send_status(confirmed, confirmed, confirmed, false)
                            .await
                            .map_err(wrong)?;
                    }
                    if end >= beyond {
                        let missing = self.position.inside.as_ref().map(|inside| (inside.xid, inside.lsn));
                        let missing = due.map(|commit| (commit.xid, commit.lsn)).or(missing);
                        return Ok(missing.map(|(xid, lsn)| {
                            format!("transaction {xid} at {lsn} is not in the log any more")
                        }));
                    }
                }
                Compare::Begin(begin) if begin.lsn >= until => {
                    self.begun = Some(begin);
                    return Ok(self.at_checkpoint(begin, due.as_ref().map(|commit| commit.xid)));
                }
                Compare::Begin(begin) => {
                    let known = self.position.last_commit.as_ref();
                    let same = |commit: &super::position::CommitMark| {
                        commit.lsn == begin.lsn && commit.xid == begin.xid && commit.time_us == begin.time_us
                    };
                    match (known.is_some_and(same), known) {
                        (true, _) => due = None,
                        (false, Some(commit)) if begin.lsn < commit.lsn => {}
                        _ => {
                            let text = format!(
                                "the log holds transaction {} at {}, which the checkpoint does not know",
                                begin.xid, begin.lsn
                            );
                            return Ok(Some(text));
                        }
                    }
                }
            }
        }
    }

    /// The first transaction beyond the checkpoint has come.
    fn at_checkpoint(&self, begin: Begin, due: Option<u32>) -> Option<String> {
        if let Some(xid) = due {
            return Some(format!("the checkpoint's last transaction {xid} is not in the log any more"));
        }
        let inside = self.position.inside.as_ref()?;
        let same = inside.xid == begin.xid && inside.lsn == begin.lsn;
        (!same).then(|| {
            format!("transaction {}, of which a part was written, is not in the log any more", inside.xid)
        })
    }
}

enum Compare {
    Keepalive(Lsn, bool),
    Begin(Begin),
    Relation(Vec<u8>),
}
