//! A connection whose server says what it is given, piece by piece, and then closes. It never waits.

use std::pin::pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, Waker};

use tokio::io::ReadBuf;
use tokio::runtime::{Builder, Runtime};

use super::stream::Stream;
use super::{Connect, Connection, LargeRow, State, Tls, WireError, rows};
use crate::postgres::credentials::{Login, Origin, Password};
use crate::world::RealWorld;

/// Stands in a script where the client's SCRAM nonce, which is drawn by chance, must come back.
const NONCE: &[u8; 24] = b"{the client's own nonce}";

/// What the server says.
pub(super) struct Scripted {
    script: Vec<u8>,
    at: usize,
    /// Bytes of one read.
    piece: usize,
}

impl Scripted {
    pub(super) fn read(&mut self, buffer: &mut ReadBuf<'_>) {
        let rest = &self.script[self.at..];
        let bytes = rest.len().min(self.piece).min(buffer.remaining());
        buffer.put_slice(&rest[..bytes]);
        self.at += bytes;
    }

    /// The client's first SCRAM message ends in its nonce.
    pub(super) fn hear(&mut self, bytes: &[u8]) {
        let Some((head, nonce)) = bytes.split_last_chunk::<24>() else { return };
        if !head.ends_with(b"n,,n=,r=") {
            return;
        }
        let place = self.script.windows(NONCE.len()).position(|window| window == NONCE);
        if let Some(place) = place {
            self.script[place..place + NONCE.len()].copy_from_slice(nonce);
        }
    }
}

/// What a scripted connection is in the middle of.
pub(crate) enum Phase {
    /// Nothing was said yet.
    Start,
    /// A command can be sent.
    Idle,
    /// A query was sent.
    Rows,
    /// START_REPLICATION was accepted.
    Log,
}

impl Connection {
    /// A connection to a server that says `script` in pieces of `piece` bytes.
    pub(crate) fn scripted(script: &[u8], piece: usize, phase: Phase) -> Self {
        let stream = Scripted { script: script.to_vec(), at: 0, piece: piece.max(1) };
        let mut connection = Self::over(Stream::Scripted(stream), &scripted_role(), &RealWorld::shared());
        connection.state = match phase {
            Phase::Start => State::Busy,
            Phase::Idle => State::Idle,
            Phase::Rows => State::Rows(rows::Reading::default()),
            Phase::Log => State::Log,
        };
        connection
    }

    /// The start of a connection, without the network.
    pub(crate) async fn scripted_start(&mut self) -> Result<(), WireError> {
        let role = scripted_role();
        self.log_in(&role, role.login.password().as_ref()).await
    }
}

fn scripted_role() -> Connect {
    Connect {
        host: String::new(),
        port: 0,
        user: "cdc".to_owned(),
        login: Arc::new(Login::new(Some(Password("cdc".to_owned())), Origin::Fixed)),
        tls: Arc::new(Tls::never()),
        database: "shop".to_owned(),
        replication: true,
        application_name: "rowtide".to_owned(),
        timeout: None,
        options: Vec::new(),
    }
}

/// What [`super::large::Skip`] keeps of a message that is given to it in pieces.
pub(crate) fn skip(
    message: &[u8],
    in_log: bool,
    keep: &[usize],
    piece: usize,
) -> Result<Vec<(u8, LargeRow)>, WireError> {
    let mut skip = match in_log {
        true => super::Skip::change(message.len(), keep.to_vec()),
        false => super::Skip::data_row(message.len(), keep),
    };
    let mut rest = message;
    while !skip.is_done() {
        let taken = skip.feed(&rest[..piece.max(1).min(rest.len())])?;
        rest = &rest[taken..];
    }
    Ok(skip.finish()?)
}

/// Runs what never waits. Time limits are made, though they are never waited for, and need a runtime.
pub(crate) fn ready<T>(work: impl Future<Output = T>) -> Option<T> {
    static CLOCK: OnceLock<Option<Runtime>> = OnceLock::new();
    let clock = CLOCK.get_or_init(|| Builder::new_current_thread().enable_time().build().ok());
    let _within = clock.as_ref().map(Runtime::enter);
    match pin!(work).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(done) => Some(done),
        Poll::Pending => None,
    }
}
