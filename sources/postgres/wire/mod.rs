//! Our own connection to PostgreSQL, protocol version 3.
//!
//! ```text
//!              open ──► idle ──simple────────► idle
//!                        │ ──query──► rows ──End, cancel_rest──► idle
//!                        └─start_replication──► log ──Done──► close
//!
//!  fill()       sends what waits and reads from the socket; may be dropped at any await
//!  parse_…()    takes the next thing out of the buffer; never waits, never copies a value
//! ```
//! - Nothing is allocated for a message; a message over the caller's limit is read past, and only
//!   the columns that the caller names are kept of it ([`large`]).
//! - Everything that waits is safe to drop inside `tokio::select!`, with one exception: a dropped
//!   [`Connection::simple`] leaves its answer behind, and the connection then refuses to go on.
//! - A connection on which anything but [`WireError::Server`] was returned is over.
//! - An answer that does not come is not waited for when the server is not at work on it ([`silence`]).
//!
//! tokio-postgres has no CopyBoth, and holds whole rows.

mod error;
mod input;
mod large;
mod log;
mod login;
mod rows;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod scripted;
mod silence;
mod socket;
mod stream;
#[cfg(test)]
mod tests;
mod tls;

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use postgres_protocol::message::frontend;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

pub(crate) use error::{ServerError, WireError};
#[allow(unused_imports)] // for the reader of the log
pub(crate) use large::{KEPT_MAX, Kept, LargeRow};
#[allow(unused_imports)]
pub(crate) use log::{Copy, LargeChange, LargeKind};
#[allow(unused_imports)]
pub(crate) use rows::Next;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use tls::end_point_of;
pub(crate) use tls::{Identity, Roots, SslMode, Tls, Trust};

use input::{HEAD, Input, Peek};
use large::Skip;
use stream::Stream;
use tls::Try;

use crate::postgres::credentials::{Login, Password};
use crate::postgres::tuple::Tuple;
use crate::world::{SharedWorld, within};

/// The most bytes of a message that is not a row: a table of 1,600 columns with long names has
/// about 150 KB in the log.
const CONTROL_MAX: usize = 1 << 20;

/// The most bytes that the rows of a short answer may take, counted by [`Answered`]: those of a catalog
/// with some ten thousand columns.
const ANSWER_MAX: usize = 8 << 20;

/// The most bytes read after a polite end, while the server notices it.
const LAST_BYTES_MAX: usize = 16 << 20;

/// Where to and as whom.
#[derive(Clone, Debug)]
pub(crate) struct Connect {
    /// A name or an address.
    pub(crate) host: String,
    /// 5432 when nothing else is said.
    pub(crate) port: u16,
    /// The role.
    pub(crate) user: String,
    /// The password, if there is one; shared with all other connections of the source.
    pub(crate) login: Arc<Login>,
    /// Whether the connection is closed to others, and with whom it is made.
    pub(crate) tls: Arc<Tls>,
    /// The database.
    pub(crate) database: String,
    /// Whether the server shall be a walsender, which speaks the replication commands too.
    pub(crate) replication: bool,
    /// Shown in `pg_stat_activity` and `pg_stat_replication`.
    pub(crate) application_name: String,
    /// How long connecting may take, where the configuration says it.
    pub(crate) timeout: Option<Duration>,
    /// More startup parameters; they win over ours.
    pub(crate) options: Vec<(String, String)>,
}

impl Connect {
    /// The same, for SQL.
    fn for_questions(&self) -> Self {
        Self { replication: false, ..self.clone() }
    }
}

/// Settings of every connection. A walsender takes them too: the output functions that pgoutput
/// calls look at them. So a row read by SQL and the same row in the log are equal byte by byte.
const SETTINGS: [(&str, &str); 12] = [
    ("client_encoding", "UTF8"),
    ("DateStyle", "ISO"),
    ("IntervalStyle", "iso_8601"),
    ("TimeZone", "UTC"),
    ("extra_float_digits", "3"),
    ("bytea_output", "hex"),
    // Names in values (regclass and the like) and in types are then always whole.
    ("search_path", "pg_catalog"),
    // A policy must be an error: it would hide rows silently.
    ("row_security", "off"),
    // A role's limits for people would end long reads.
    ("statement_timeout", "0"),
    ("lock_timeout", "0"),
    ("idle_in_transaction_session_timeout", "0"),
    // A chunk is too short to be worth compiling.
    ("jit", "off"),
];

/// What the connection is in the middle of.
enum State {
    Idle,
    /// A command whose answer is being read; found at the next call, it was dropped.
    Busy,
    /// Rows of a query.
    Rows(rows::Reading),
    /// The stream of the log.
    Log,
    /// The stream of the log was ended by the server.
    LogDone,
}

/// A connection.
pub(crate) struct Connection {
    stream: Stream,
    world: SharedWorld,
    input: Input,
    output: BytesMut,
    state: State,
    /// A large row that is being read past.
    skip: Option<Skipping>,
    /// Bytes of a message that interests nobody, still to come.
    discard: usize,
    /// What the server reported. Nothing needs it, and a server could report without end.
    #[cfg(test)]
    parameters: Vec<(String, String)>,
    backend_pid: i32,
    user: String,
    /// To ask elsewhere what the server does.
    connect: Connect,
}

/// A large row, and what is known of it so far.
struct Skipping {
    skip: Skip,
    /// None for a row of a SELECT.
    change: Option<log::Head>,
}

/// A frame out of the buffer, already consumed there.
enum Taken {
    /// It is there in part, or not at all.
    More,
    /// Its tag, and its body's range in the buffer until the next fill.
    Frame(u8, Range<usize>),
    /// More bytes than wanted; not consumed.
    Large { total: usize },
}

impl Connection {
    /// Connects and logs in within `limit`, or within what the configuration says.
    pub(crate) async fn open(
        connect: &Connect,
        world: &SharedWorld,
        limit: Duration,
    ) -> Result<Self, WireError> {
        let limit = connect.timeout.unwrap_or(limit);
        // Boxed: the handshake's future is large and is needed once.
        let opening = Box::pin(Self::open_unlimited(connect, world));
        match within(world.as_ref(), limit, opening).await {
            Some(opened) => opened,
            None => Err(WireError::Timeout {
                address: format!("{}:{}", connect.host, connect.port),
                seconds: limit.as_secs(),
            }),
        }
    }

    /// When the login is refused, and there is another password by now, once more with that one.
    async fn open_unlimited(connect: &Connect, world: &SharedWorld) -> Result<Self, WireError> {
        let password = connect.login.password();
        let refused = match Self::open_as(connect, world, password.as_ref()).await {
            Err(error) if error.is_refused_login() => error,
            done => return done,
        };
        match connect.login.read_again(password.as_ref()) {
            Some(another) => Self::open_as(connect, world, Some(&another)).await,
            None => Err(refused),
        }
    }

    /// With TLS or without, in the order that `sslmode` has.
    async fn open_as(
        connect: &Connect,
        world: &SharedWorld,
        password: Option<&Password>,
    ) -> Result<Self, WireError> {
        let (first, second) = connect.tls.tries();
        let failed = match Self::open_over(connect, world, password, first).await {
            Err(error) if error.may_be_for_want_of_tls() => error,
            done => return done,
        };
        let Some(second) = second else { return Err(failed) };
        match Self::open_over(connect, world, password, second).await {
            // The first one is what the person wanted to work.
            Err(error) if error.may_be_for_want_of_tls() => Err(failed),
            done => done,
        }
    }

    async fn open_over(
        connect: &Connect,
        world: &SharedWorld,
        password: Option<&Password>,
        tried: Try,
    ) -> Result<Self, WireError> {
        let tcp = Self::dial(connect).await?;
        let stream = connect.tls.secure(tcp, &connect.host, tried).await?;
        let mut connection = Self::over(stream, connect, world);
        connection.log_in(connect, password).await?;
        connection.state = State::Idle;
        Ok(connection)
    }

    async fn dial(connect: &Connect) -> Result<TcpStream, WireError> {
        let io = |error| WireError::Io { doing: "connect", error };
        let stream = TcpStream::connect((connect.host.as_str(), connect.port)).await.map_err(io)?;
        // Small requests and feedback must not wait for each other.
        stream.set_nodelay(true).map_err(io)?;
        // A server that vanishes without a word ends a read after a minute; but what stands between
        // may answer for it (`silence`).
        let keepalive = TcpKeepalive::new()
            .with_time(Duration::from_secs(30))
            .with_interval(Duration::from_secs(10))
            .with_retries(3);
        SockRef::from(&stream).set_tcp_keepalive(&keepalive).map_err(io)?;
        Ok(stream)
    }

    fn over(stream: Stream, connect: &Connect, world: &SharedWorld) -> Self {
        Self {
            stream,
            world: world.clone(),
            input: Input::new(),
            output: BytesMut::new(),
            state: State::Busy,
            skip: None,
            discard: 0,
            #[cfg(test)]
            parameters: Vec::new(),
            backend_pid: 0,
            user: connect.user.clone(),
            connect: connect.clone(),
        }
    }

    /// The server's process that serves this connection, as in `pg_stat_activity`.
    pub(crate) fn backend_pid(&self) -> i32 {
        self.backend_pid
    }

    /// The role that is logged in.
    pub(crate) fn user(&self) -> &str {
        &self.user
    }

    /// A parameter that the server reported, as in `server_version`.
    #[cfg(test)]
    pub(crate) fn parameter(&self, name: &str) -> Option<&str> {
        let found = self.parameters.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str())
    }

    /// Bytes of memory that the buffer has, or needs for the next message.
    #[cfg(test)]
    pub(crate) fn memory(&self) -> usize {
        self.input.memory()
    }

    /// Runs commands and gives the rows of all of them. For commands with short answers.
    pub(crate) async fn simple(&mut self, sql: &str) -> Result<Vec<Vec<Option<String>>>, WireError> {
        self.must_be_idle()?;
        frontend::query(sql, &mut self.output).map_err(unsendable)?;
        self.state = State::Busy;
        let mut answered = Answered::default();
        let mut refused = None;
        loop {
            let (tag, body) = self.next_frame().await?;
            let body = self.input.slice(body);
            match tag {
                b'D' => answered.push(&Tuple::of_data_row(body)?)?,
                b'E' => refused = Some(ServerError::parse(body)),
                b'Z' => break,
                b'T' | b'C' | b'I' => {}
                _ => return Err(WireError::Protocol("an unexpected message answers a command")),
            }
        }
        self.state = State::Idle;
        match refused {
            Some(error) => Err(Box::new(error).into()),
            None => Ok(answered.rows),
        }
    }

    /// Sends what waits to be sent, then reads once from the socket. Dropping it loses nothing.
    pub(crate) async fn fill(&mut self) -> Result<(), WireError> {
        self.flush().await?;
        let filled = self.input.fill(&mut self.stream).await;
        filled.map_err(|error| self.connect.tls.fault("read from the server", error))
    }

    /// Takes what comes within `time` at once, and nobody is woken for a part of it; whether anything came.
    /// Dropping it loses nothing.
    pub(crate) async fn gather(&mut self, time: Duration) -> Result<bool, WireError> {
        let fault = |connect: &Connect, error| connect.tls.fault("read from the server", error);
        self.stream.rest().map_err(|error| fault(&self.connect, error))?;
        self.world.sleep(time).await;
        let filled = self.input.fill_now(&mut self.stream);
        filled.map_err(|error| fault(&self.connect, error))
    }

    /// Bytes that were read and not parsed yet.
    pub(crate) fn buffered(&self) -> usize {
        self.input.ready().len()
    }

    /// Ends the connection politely and waits until the server has noticed it, so that a slot is
    /// free again. The caller limits the time.
    pub(crate) async fn close(mut self) {
        if matches!(self.state, State::Log) {
            frontend::copy_done(&mut self.output);
        }
        frontend::terminate(&mut self.output);
        let flushed = self.flush().await;
        if flushed.is_err() || self.stream.shutdown().await.is_err() {
            return;
        }
        let mut last = [0; 8192];
        let mut bytes = 0;
        while let Ok(read @ 1..) = self.stream.read(&mut last).await {
            bytes += read;
            if bytes > LAST_BYTES_MAX {
                return;
            }
        }
    }

    /// Sends what waits to be sent. Dropping it loses nothing: the rest goes out next time.
    async fn flush(&mut self) -> Result<(), WireError> {
        self.stream.wake().map_err(|error| self.connect.tls.fault("read from the server", error))?;
        while !self.output.is_empty() {
            // It takes from `output` what was written.
            let written = self.stream.write_buf(&mut self.output).await;
            written.map_err(|error| self.connect.tls.fault("send to the server", error))?;
        }
        // What TLS has taken and not sent yet, its own answers too.
        self.stream.flush().await.map_err(|error| self.connect.tls.fault("send to the server", error))
    }

    fn must_be_idle(&self) -> Result<(), WireError> {
        match self.state {
            State::Idle => Ok(()),
            _ => Err(WireError::Protocol("a command was sent while another one's answer was due")),
        }
    }

    /// The next frame that is no row, read whole.
    async fn next_frame(&mut self) -> Result<(u8, Range<usize>), WireError> {
        loop {
            match self.take(CONTROL_MAX)? {
                Taken::Frame(tag, body) => return Ok((tag, body)),
                Taken::More => self.hear().await?,
                Taken::Large { .. } => {
                    return Err(WireError::Protocol("an answer of more than 1 MiB to a short command"));
                }
            }
        }
    }

    /// The next frame of at most `limit` bytes out of the buffer. Notices and parameters, which may
    /// come at any time, are dealt with here.
    fn take(&mut self, limit: usize) -> Result<Taken, WireError> {
        loop {
            if self.discard > 0 {
                let bytes = self.discard.min(self.input.ready().len());
                self.input.consume(bytes);
                self.discard -= bytes;
                if self.discard > 0 {
                    return Ok(Taken::More);
                }
            }
            let (tag, total, body) = match self.input.peek() {
                Peek::Nothing => return Ok(Taken::More),
                Peek::Malformed => return Err(WireError::Protocol("a message has an impossible length")),
                Peek::Part { tag, total } => (tag, total, None),
                Peek::Whole { tag, total, body } => (tag, total, Some(body)),
            };
            // A limit is for rows; the server's own words are short, or are dropped.
            let is_row = matches!(tag, b'D' | b'd');
            if is_row && total > limit {
                return Ok(Taken::Large { total });
            }
            if !is_row && total > CONTROL_MAX {
                if tag != b'N' {
                    return Err(WireError::Protocol("a message that is no row has more than 1 MiB"));
                }
                self.discard = total;
                continue;
            }
            let Some(body) = body else {
                self.input.want(total);
                return Ok(Taken::More);
            };
            self.input.consume(total);
            match tag {
                b'N' => self.notice(body),
                b'S' | b'A' =>
                {
                    #[cfg(test)]
                    if tag == b'S' {
                        self.parameter_status(body);
                    }
                }
                _ => return Ok(Taken::Frame(tag, body)),
            }
        }
    }

    fn notice(&self, body: Range<usize>) {
        let notice = ServerError::parse(self.input.slice(body));
        tracing::debug!(sqlstate = notice.sqlstate, message = notice.message, "notice from postgresql");
    }

    #[cfg(test)]
    fn parameter_status(&mut self, body: Range<usize>) {
        let mut words = self.input.slice(body).split(|&byte| byte == 0);
        let (Some(name), Some(value)) = (words.next(), words.next()) else { return };
        let name = String::from_utf8_lossy(name).into_owned();
        let value = String::from_utf8_lossy(value).into_owned();
        match self.parameters.iter_mut().find(|(known, _)| *known == name) {
            Some((_, old)) => *old = value,
            None => self.parameters.push((name, value)),
        }
    }
}

/// The rows of a short answer. It outgrows no budget, however much the server says.
#[derive(Default)]
struct Answered {
    rows: Vec<Vec<Option<String>>>,
    bytes: usize,
}

impl Answered {
    fn push(&mut self, tuple: &Tuple<'_>) -> Result<(), WireError> {
        use crate::postgres::tuple::Value;
        self.bytes += tuple.bytes() + (tuple.columns() + 1) * size_of::<Option<String>>();
        if self.bytes > ANSWER_MAX {
            return Err(WireError::Protocol("more than 8 MiB answer a short command"));
        }
        let values = tuple.values().map(|value| match value {
            Value::Text(text) => Some(String::from_utf8_lossy(text).into_owned()),
            Value::Null | Value::Unchanged => None,
        });
        self.rows.push(values.collect());
        Ok(())
    }
}

/// A message that cannot be put on the wire: a zero byte in a text, or more than 2 GiB.
fn unsendable(error: std::io::Error) -> WireError {
    WireError::Io { doing: "put a command on the wire", error }
}
