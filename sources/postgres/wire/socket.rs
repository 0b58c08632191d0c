//! A TCP socket that can be left alone.
//!
//! ```text
//!   polled    in the poll set: each packet wakes a thread             ◄── wake ──┐
//!   resting   out of it: nobody hears of a packet, a read or a write             │
//!             does what it can now                                     ── rest ──┘
//! ```
//! The server sends each change of the log by itself. A thread that is woken for each of them costs more
//! than all else that is done with a change; who rests reads many at once, a moment later.

use std::io::{self, Read, Write};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// The socket. While it rests nobody is woken: who wants to wait calls [`Socket::wake`] first.
pub(crate) enum Socket {
    Polled(TcpStream),
    Resting(std::net::TcpStream),
    /// It could be put neither into the poll set nor out of it.
    Lost,
}

impl Socket {
    pub(super) fn rest(&mut self) -> io::Result<()> {
        *self = match std::mem::replace(self, Self::Lost) {
            Self::Polled(stream) => Self::Resting(stream.into_std()?),
            other => other,
        };
        Ok(())
    }

    pub(super) fn wake(&mut self) -> io::Result<()> {
        *self = match std::mem::replace(self, Self::Lost) {
            Self::Resting(stream) => Self::Polled(TcpStream::from_std(stream)?),
            other => other,
        };
        Ok(())
    }
}

/// What could be done at once, if anything.
fn at_once<T>(done: io::Result<T>) -> Poll<io::Result<T>> {
    match done {
        Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
            Poll::Pending
        }
        done => Poll::Ready(done),
    }
}

fn lost<T>() -> Poll<io::Result<T>> {
    Poll::Ready(Err(io::ErrorKind::NotConnected.into()))
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Polled(stream) => Pin::new(stream).poll_read(context, buffer),
            Self::Resting(stream) => {
                at_once(stream.read(buffer.initialize_unfilled())).map_ok(|bytes| buffer.advance(bytes))
            }
            Self::Lost => lost(),
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Polled(stream) => Pin::new(stream).poll_write(context, bytes),
            Self::Resting(stream) => at_once(stream.write(bytes)),
            Self::Lost => lost(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // TCP holds nothing back.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Polled(stream) => Pin::new(stream).poll_shutdown(context),
            Self::Resting(stream) => Poll::Ready(stream.shutdown(std::net::Shutdown::Write)),
            Self::Lost => lost(),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic, clippy::disallowed_methods)]
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    async fn pair() -> (Socket, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let ours = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (Socket::Polled(ours), listener.accept().await.unwrap().0)
    }

    fn now(socket: &mut Socket) -> Option<Vec<u8>> {
        let mut bytes = [0; 16];
        let mut buffer = ReadBuf::new(&mut bytes);
        let mut context = Context::from_waker(std::task::Waker::noop());
        match Pin::new(socket).poll_read(&mut context, &mut buffer) {
            Poll::Ready(read) => {
                read.unwrap();
                Some(buffer.filled().to_vec())
            }
            Poll::Pending => None,
        }
    }

    #[tokio::test]
    async fn a_resting_socket_gives_what_is_there_and_waits_for_nothing() {
        let (mut socket, mut server) = pair().await;
        socket.rest().unwrap();
        assert_eq!(now(&mut socket), None);
        server.write_all(b"one").await.unwrap();
        server.write_all(b"two").await.unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert_eq!(now(&mut socket).unwrap(), b"onetwo");
        socket.write_all(b"heard").await.unwrap();
        let mut heard = [0; 5];
        server.read_exact(&mut heard).await.unwrap();
        assert_eq!(&heard, b"heard");
        drop(server);
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert_eq!(now(&mut socket).unwrap(), b"", "the end is seen too");
    }

    #[tokio::test]
    async fn what_came_while_it_rested_is_heard_of_when_it_wakes() {
        let (mut socket, mut server) = pair().await;
        for round in 0..3_u8 {
            socket.rest().unwrap();
            server.write_all(&[round]).await.unwrap();
            tokio::time::sleep(Duration::from_millis(20)).await;
            socket.wake().unwrap();
            let read = tokio::time::timeout(Duration::from_secs(10), socket.read_u8()).await;
            assert_eq!(read.expect("it is woken").unwrap(), round);
        }
    }
}
