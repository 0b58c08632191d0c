//! What a connection reads from and writes to.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::client::TlsStream;

use super::socket::Socket;

/// The transport.
pub(super) enum Stream {
    Plain(Socket),
    /// Boxed: it has the session's keys and buffers in it.
    Tls(Box<TlsStream<Socket>>),
    /// Bytes that were given, in place of a server.
    #[cfg(any(test, feature = "fuzzing"))]
    Scripted(super::scripted::Scripted),
}

impl Stream {
    /// From here on nobody is woken for what comes; see [`Socket`].
    pub(super) fn rest(&mut self) -> io::Result<()> {
        self.socket().map_or(Ok(()), Socket::rest)
    }

    /// Before anybody waits for it again.
    pub(super) fn wake(&mut self) -> io::Result<()> {
        self.socket().map_or(Ok(()), Socket::wake)
    }

    fn socket(&mut self) -> Option<&mut Socket> {
        match self {
            Self::Plain(socket) => Some(socket),
            Self::Tls(stream) => Some(stream.get_mut().0),
            #[cfg(any(test, feature = "fuzzing"))]
            Self::Scripted(_) => None,
        }
    }

    /// How it is closed to others, for people: `None` when it is not.
    pub(super) fn protection(&self) -> Option<&'static str> {
        match self {
            Self::Tls(stream) => stream.get_ref().1.protocol_version().and_then(|version| version.as_str()),
            _ => None,
        }
    }

    /// What a login over it can be bound to.
    pub(super) fn end_point(&self) -> Option<Vec<u8>> {
        match self {
            Self::Tls(stream) => super::tls::end_point(stream),
            _ => None,
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(context, buffer),
            Self::Tls(stream) => Pin::new(stream).poll_read(context, buffer).map_err(ended),
            #[cfg(any(test, feature = "fuzzing"))]
            Self::Scripted(script) => {
                script.read(buffer);
                Poll::Ready(Ok(()))
            }
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(context, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write(context, bytes),
            #[cfg(any(test, feature = "fuzzing"))]
            Self::Scripted(script) => {
                script.hear(bytes);
                Poll::Ready(Ok(bytes.len()))
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(context),
            Self::Tls(stream) => Pin::new(stream).poll_flush(context),
            #[cfg(any(test, feature = "fuzzing"))]
            Self::Scripted(_) => Poll::Ready(Ok(())),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(context),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(context),
            #[cfg(any(test, feature = "fuzzing"))]
            Self::Scripted(_) => Poll::Ready(Ok(())),
        }
    }
}

/// A server that ends does not always say so within TLS. For us it is the same: what was cut off is read again.
fn ended(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => io::Error::new(error.kind(), "the server closed the connection"),
        _ => error,
    }
}
