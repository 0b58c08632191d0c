//! Connections, each within its bounds: hyper speaks HTTP, this says how much of it there may be.
//!
//! | bound | what lies beyond it |
//! |---|---|
//! | [`CONNECTIONS_MAX`] | 503 and closed |
//! | [`HEAD_BYTES_MAX`], [`HEADERS_MAX`] | 431 |
//! | [`HEAD_WITHIN`], from the first byte of a connection or the answer before | closed |
//! | a body: [`super::routes::BODY_BYTES_MAX`], [`super::routes::BODY_WITHIN`] | 413, 408 |
//! | [`CONNECTION_LIFE`], [`ANSWER_WITHIN`] | closed after the answer, then anyway |

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use sources::world::within;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::Channel;
use crate::retry::Halt;

/// At most 6 MiB in all, with [`HEAD_BYTES_MAX`] each; far more than people and their tools need.
pub(super) const CONNECTIONS_MAX: usize = 256;
/// The first line and the headers of a request.
pub(super) const HEAD_BYTES_MAX: usize = 16 << 10;
/// Headers of a request.
const HEADERS_MAX: usize = 64;
/// From the start of a connection, or from an answer, until the head of the next request is there.
pub(super) const HEAD_WITHIN: Duration = Duration::from_secs(10);
/// After it a connection takes no other request: who reads its answers slowly does not hold it for ever.
const CONNECTION_LIFE: Duration = Duration::from_secs(60);
/// What the last answer of a connection may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// Before another connection is taken when the system has none to give.
const ACCEPT_AGAIN: Duration = Duration::from_secs(1);

/// Said to a connection too many.
const FULL: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\ncontent-length: 76\r\n\
    connection: close\r\n\r\n{\"error\":{\"code\":\"busy\",\"message\":\"too many connections: try again later\"}}\n";

pub(super) async fn listen(address: SocketAddr) -> Result<TcpListener, Halt> {
    TcpListener::bind(address).await.map_err(|error| Halt {
        state: "http-address-unusable",
        what: format!("cannot listen on {address}: {error}"),
        hint: "choose a free address of this machine in [http] listen, or stop who has it".to_owned(),
    })
}

pub(super) async fn serve(listener: TcpListener, channel: Arc<Channel>) {
    // Not through World: connections are no part of the heart, and a simulation has none. They end with the set.
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    while connections.try_join_next().is_some() {}
                    if connections.len() < CONNECTIONS_MAX {
                        connections.spawn(connection(stream, channel.clone()));
                    } else {
                        // As much as goes at once: nobody is waited for.
                        let _who_is_gone_needs_no_answer = stream.try_write(FULL);
                    }
                }
                Err(error) => {
                    tracing::warn!({ crate::telemetry::field::ERROR } = %error, "the control channel cannot take a connection");
                    channel.world.sleep(ACCEPT_AGAIN).await;
                }
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn connection(stream: TcpStream, channel: Arc<Channel>) {
    let _only_slower_without = stream.set_nodelay(true);
    let world = channel.world.clone();
    let service = service_fn(move |request| {
        let channel = channel.clone();
        async move { Ok::<_, Infallible>(channel.answer(request).await) }
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD_WITHIN);
    http.max_buf_size(HEAD_BYTES_MAX).max_headers(HEADERS_MAX);
    let mut talk = pin!(http.serve_connection(TokioIo::new(stream), service));
    // How a connection ends is the other side's business.
    if within(&*world, CONNECTION_LIFE, talk.as_mut()).await.is_none() {
        talk.as_mut().graceful_shutdown();
        let _ended = within(&*world, ANSWER_WITHIN, talk).await;
    }
}
