//! The stream of the log: CopyBoth, as a walsender speaks it.
//!
//! ```text
//!  ◄── 'w'  start:u64 end:u64 time:i64  a pgoutput message        Data, Large
//!  ◄── 'k'  end:u64 time:i64 reply:u8                             Keepalive
//!  ──► 'r'  written:u64 flushed:u64 applied:u64 time:i64 reply:u8
//! ```

use std::ops::Range;

use bytes::BufMut;
use postgres_protocol::message::frontend;

use super::{Connection, HEAD, LargeRow, ServerError, Skip, Skipping, State, Taken, WireError, unsendable};
use crate::postgres::lsn::Lsn;
use crate::postgres::pgoutput::OldKind;

/// Bytes before a pgoutput message in its CopyData: kind, start, end, time.
const DATA_HEAD: usize = 1 + 8 + 8 + 8;

/// Bytes before the rows of a change: kind, relation.
const CHANGE_HEAD: usize = 1 + 4;

/// Seconds from 1970 to 2000, where PostgreSQL's clock begins.
const POSTGRES_EPOCH_SECONDS: i64 = 946_684_800;

/// The next thing in the stream.
#[derive(Debug)]
pub(crate) enum Copy<'a> {
    /// A message of the output plugin.
    Data {
        /// Where it stands in the log; 0 for some kinds.
        #[cfg_attr(not(test), expect(dead_code, reason = "only tests look at it"))]
        start_lsn: Lsn,
        /// How far the server has sent.
        #[cfg_attr(not(test), expect(dead_code, reason = "only tests look at it"))]
        end_lsn: Lsn,
        /// The message.
        message: &'a [u8],
    },
    /// The server has nothing to send up to here, or wants to hear from us.
    Keepalive {
        /// How far the server has read its log.
        end_lsn: Lsn,
        /// Whether it wants an answer now.
        reply_requested: bool,
    },
    /// A change over the limit.
    Large(LargeChange),
    /// The server has ended the stream.
    Done,
}

/// What a large change did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LargeKind {
    /// A new row.
    Insert,
    /// A changed row.
    Update,
    /// A row gone.
    Delete,
}

/// A change over the limit: of its rows only the columns asked for were kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LargeChange {
    /// Where it stands in the log.
    pub(crate) start_lsn: Lsn,
    /// What it did.
    pub(crate) kind: LargeKind,
    /// The table's oid.
    pub(crate) relation: u32,
    /// Bytes of the whole message on the wire.
    pub(crate) bytes: u64,
    /// The row before it, or its key.
    pub(crate) old: Option<(OldKind, LargeRow)>,
    /// The row after it.
    pub(crate) new: Option<LargeRow>,
}

/// What is known of a large change before its rows.
pub(super) struct Head {
    start_lsn: Lsn,
    kind: LargeKind,
    relation: u32,
    bytes: u64,
}

impl Connection {
    /// Begins the stream: `sql` is START_REPLICATION.
    pub(crate) async fn start_replication(&mut self, sql: &str) -> Result<(), WireError> {
        self.must_be_idle()?;
        frontend::query(sql, &mut self.output).map_err(unsendable)?;
        self.state = State::Busy;
        let mut refused = None;
        loop {
            let (tag, body) = self.next_frame().await?;
            match tag {
                b'W' => {
                    self.state = State::Log;
                    return Ok(());
                }
                b'E' => refused = Some(Box::new(ServerError::parse(self.input.slice(body)))),
                b'Z' => break,
                _ => return Err(WireError::Protocol("an unexpected message answers START_REPLICATION")),
            }
        }
        self.state = State::Idle;
        match refused {
            Some(error) => Err(error.into()),
            None => Err(WireError::Protocol("START_REPLICATION was answered by nothing")),
        }
    }

    /// The next thing in the stream if the buffer holds it; else [`Connection::fill`] brings more.
    /// Of the rows of a change over `limit` bytes only those columns are kept whose places `keep`
    /// gives for the relation. The caller passes the same `limit` and `keep` each time.
    pub(crate) fn parse_copy(
        &mut self,
        limit: usize,
        keep: &mut dyn FnMut(u32) -> Vec<usize>,
    ) -> Result<Option<Copy<'_>>, WireError> {
        if matches!(self.state, State::LogDone) {
            return Ok(Some(Copy::Done));
        }
        if !matches!(self.state, State::Log) {
            return Err(WireError::Protocol("the log is not being streamed"));
        }
        loop {
            if self.skip.is_some() {
                return Ok(self.go_on_skipping_change()?.map(Copy::Large));
            }
            let (tag, body) = match self.take(limit)? {
                Taken::More => return Ok(None),
                Taken::Large { total } => match self.begin_large(total, limit, keep)? {
                    Begun::More => return Ok(None),
                    Begun::Skipping => continue,
                    Begun::Whole(body) => (b'd', body),
                },
                Taken::Frame(tag, body) => (tag, body),
            };
            match tag {
                b'd' => return copy_data(self.input.slice(body)).map(Some),
                b'c' => {
                    self.state = State::LogDone;
                    return Ok(Some(Copy::Done));
                }
                b'E' => return Err(Box::new(ServerError::parse(self.input.slice(body))).into()),
                _ => return Err(WireError::Protocol("an unexpected message in the stream of the log")),
            }
        }
    }

    /// Tells the server how far we are. Dropping it loses nothing: the rest goes out with the next
    /// [`Connection::fill`].
    pub(crate) async fn send_status(
        &mut self,
        written: Lsn,
        flushed: Lsn,
        applied: Lsn,
        reply: bool,
    ) -> Result<(), WireError> {
        let now = (self.world.unix_seconds() as i64 - POSTGRES_EPOCH_SECONDS) * 1_000_000;
        self.output.put_u8(b'd');
        self.output.put_u32(4 + 1 + 8 * 4 + 1);
        self.output.put_u8(b'r');
        for lsn in [written, flushed, applied] {
            self.output.put_u64(lsn.0);
        }
        self.output.put_i64(now);
        self.output.put_u8(u8::from(reply));
        self.flush().await
    }

    /// A CopyData over the limit. Only changes of rows are read past; other messages are short
    /// enough to be held, or interest nobody.
    fn begin_large(
        &mut self,
        total: usize,
        limit: usize,
        keep: &mut dyn FnMut(u32) -> Vec<usize>,
    ) -> Result<Begun, WireError> {
        const NEEDED: usize = HEAD + DATA_HEAD + CHANGE_HEAD;
        let ready = self.input.ready();
        let Some(head) = ready.first_chunk::<NEEDED>() else {
            if total >= NEEDED {
                self.input.want(NEEDED);
                return Ok(Begun::More);
            }
            return self.take_whole(total);
        };
        let kind = match (head[HEAD], head[HEAD + DATA_HEAD]) {
            (b'w', b'I') => LargeKind::Insert,
            (b'w', b'U') => LargeKind::Update,
            (b'w', b'D') => LargeKind::Delete,
            // A message that some application put into the log.
            (b'w', b'M') => {
                self.discard = total;
                return Ok(Begun::Skipping);
            }
            _ if total <= super::CONTROL_MAX.max(limit) => return self.take_whole(total),
            _ => return Err(WireError::Protocol("a message of the log that is no row has more than 1 MiB")),
        };
        let start_lsn = Lsn(number(&head[HEAD + 1..]));
        let relation = (number(&head[NEEDED - 8..]) & u64::from(u32::MAX)) as u32;
        let skip = Skip::change(total - NEEDED, keep(relation));
        self.input.consume(NEEDED);
        let head = Head { start_lsn, kind, relation, bytes: (total - NEEDED) as u64 };
        self.skip = Some(Skipping { skip, change: Some(head) });
        Ok(Begun::Skipping)
    }

    fn take_whole(&mut self, total: usize) -> Result<Begun, WireError> {
        match self.take(total)? {
            Taken::Frame(_, body) => Ok(Begun::Whole(body)),
            Taken::More | Taken::Large { .. } => Ok(Begun::More),
        }
    }

    fn go_on_skipping_change(&mut self) -> Result<Option<LargeChange>, WireError> {
        let Some(mut skipping) = self.skip.take() else { return Ok(None) };
        let taken = skipping.skip.feed(self.input.ready())?;
        self.input.consume(taken);
        if !skipping.skip.is_done() {
            self.skip = Some(skipping);
            return Ok(None);
        }
        let rows = skipping.skip.finish()?;
        let Some(head) = skipping.change else { return Ok(None) };
        let mut change = LargeChange {
            start_lsn: head.start_lsn,
            kind: head.kind,
            relation: head.relation,
            bytes: head.bytes,
            old: None,
            new: None,
        };
        for (mark, row) in rows {
            match mark {
                b'K' => change.old = Some((OldKind::Key, row)),
                b'O' => change.old = Some((OldKind::Full, row)),
                _ => change.new = Some(row),
            }
        }
        let complete = match change.kind {
            LargeKind::Insert | LargeKind::Update => change.new.is_some(),
            LargeKind::Delete => change.old.is_some(),
        };
        if !complete {
            return Err(WireError::Protocol("a large change lacks its row"));
        }
        Ok(Some(change))
    }
}

enum Begun {
    More,
    Skipping,
    Whole(Range<usize>),
}

fn copy_data(body: &[u8]) -> Result<Copy<'_>, WireError> {
    match body.split_first() {
        Some((b'w', rest)) if rest.len() >= DATA_HEAD - 1 => Ok(Copy::Data {
            start_lsn: Lsn(number(rest)),
            end_lsn: Lsn(number(&rest[8..])),
            message: &rest[DATA_HEAD - 1..],
        }),
        Some((b'k', rest)) if rest.len() == 8 + 8 + 1 => {
            Ok(Copy::Keepalive { end_lsn: Lsn(number(rest)), reply_requested: rest[16] != 0 })
        }
        _ => Err(WireError::Protocol("the stream of the log holds what is neither data nor keepalive")),
    }
}

/// The first eight bytes as a number; 0 when there are fewer.
fn number(bytes: &[u8]) -> u64 {
    bytes.first_chunk::<8>().map_or(0, |bytes| u64::from_be_bytes(*bytes))
}
