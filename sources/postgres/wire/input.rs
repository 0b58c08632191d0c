//! What has come from the server and was not read yet.
//!
//! ```text
//!  data  [ read already │ ready: frames, the last one perhaps in part │ room for the socket ]
//!        0            start                                          end               data.len()
//! ```
//! A frame is read where it stands. The buffer has 64 KiB; it grows to a single larger frame only
//! when whoever reads wants that frame whole, and goes back when the frame was read.

use std::io;
use std::ops::Range;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use tokio::io::{AsyncRead, AsyncReadExt};

/// Bytes of the buffer while no larger frame is wanted: what one read from a socket can bring, so
/// that many small rows share one system call.
const ROOM: usize = 64 << 10;

/// Bytes of a frame's tag and length.
pub(super) const HEAD: usize = 5;

/// The next frame, as far as it is there.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Peek {
    /// Not even its head.
    Nothing,
    /// Its head, but not all of it.
    Part { tag: u8, total: usize },
    /// All of it; the range is the body's.
    Whole { tag: u8, total: usize, body: Range<usize> },
    /// A length that no frame has.
    Malformed,
}

/// The buffer.
pub(super) struct Input {
    data: Vec<u8>,
    start: usize,
    end: usize,
    /// Bytes that the next step needs together in the buffer.
    wanted: usize,
}

impl Input {
    pub(super) fn new() -> Self {
        Self { data: vec![0; ROOM], start: 0, end: 0, wanted: 0 }
    }

    /// What is there.
    pub(super) fn ready(&self) -> &[u8] {
        &self.data[self.start..self.end]
    }

    /// The bytes of a range that [`Input::peek`] gave; valid until the next [`Input::fill`].
    pub(super) fn slice(&self, range: Range<usize>) -> &[u8] {
        &self.data[range]
    }

    /// Passes `bytes` of what is there.
    pub(super) fn consume(&mut self, bytes: usize) {
        self.start = (self.start + bytes).min(self.end);
        self.wanted = 0;
    }

    /// The next read must bring the buffer to this many bytes.
    pub(super) fn want(&mut self, bytes: usize) {
        self.wanted = bytes;
    }

    /// Bytes of memory that the buffer has or is about to have.
    #[cfg(test)]
    pub(super) fn memory(&self) -> usize {
        self.data.len().max(self.wanted)
    }

    /// Looks at the next frame.
    pub(super) fn peek(&self) -> Peek {
        let ready = self.ready();
        let Some((head, _)) = ready.split_first_chunk::<HEAD>() else {
            return Peek::Nothing;
        };
        let tag = head[0];
        let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
        // The length counts itself and is a signed number on the server's side.
        if !(4..=i32::MAX as usize).contains(&length) {
            return Peek::Malformed;
        }
        let total = length + 1;
        if ready.len() < total {
            return Peek::Part { tag, total };
        }
        Peek::Whole { tag, total, body: self.start + HEAD..self.start + total }
    }

    /// Reads once from `socket`. Dropping the future loses nothing.
    pub(super) async fn fill(&mut self, socket: &mut (impl AsyncRead + Unpin)) -> io::Result<()> {
        self.make_room();
        if self.end == self.data.len() {
            return Ok(());
        }
        let read = socket.read(&mut self.data[self.end..]).await?;
        if read == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the server closed the connection"));
        }
        self.end += read;
        Ok(())
    }

    /// Reads once what `socket` has now; whether it had anything.
    pub(super) fn fill_now(&mut self, socket: &mut (impl AsyncRead + Unpin)) -> io::Result<bool> {
        match pin!(self.fill(socket)).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(filled) => filled.map(|()| true),
            Poll::Pending => Ok(false),
        }
    }

    fn make_room(&mut self) {
        let held = self.end - self.start;
        if held == 0 {
            (self.start, self.end) = (0, 0);
        }
        let size = self.wanted.max(ROOM);
        if held >= size {
            return;
        }
        if size > self.data.len() || (size == ROOM && self.data.len() > ROOM) {
            // A new one in either case: growing in place would copy what was read already too.
            let mut data = vec![0; size];
            data[..held].copy_from_slice(&self.data[self.start..self.end]);
            self.data = data;
            (self.start, self.end) = (0, held);
            return;
        }
        // Moving the rest to the front is cheap when it is short, and needed when the frame does
        // not fit behind it.
        let tail_is_short = self.data.len() - self.end < ROOM / 4;
        if self.start > 0 && (tail_is_short || self.start + self.wanted > self.data.len()) {
            self.data.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, held);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;
    use proptest::prelude::*;

    fn frame(tag: u8, body: &[u8]) -> Vec<u8> {
        let mut bytes = vec![tag];
        bytes.extend_from_slice(&(body.len() as u32 + 4).to_be_bytes());
        bytes.extend_from_slice(body);
        bytes
    }

    /// Reads all frames that `wire` holds.
    async fn read_all(mut wire: &[u8], count: usize) -> (Vec<(u8, Vec<u8>)>, usize) {
        let mut input = Input::new();
        let mut frames = Vec::new();
        let mut most = 0;
        while frames.len() < count {
            match input.peek() {
                Peek::Whole { tag, total, body } => {
                    frames.push((tag, input.slice(body).to_vec()));
                    input.consume(total);
                }
                Peek::Part { total, .. } => {
                    input.want(total);
                    input.fill(&mut wire).await.unwrap();
                }
                Peek::Nothing => input.fill(&mut wire).await.unwrap(),
                Peek::Malformed => panic!("malformed"),
            }
            most = most.max(input.memory());
        }
        input.make_room();
        assert_eq!(input.memory(), ROOM, "the buffer goes back");
        (frames, most)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn frames_of_any_size_come_out_as_they_went_in(sizes in prop::collection::vec(prop_oneof![0_usize..300, 20_000_usize..200_000], 1..20)) {
            let bodies: Vec<Vec<u8>> = sizes.iter().enumerate().map(|(n, &size)| vec![n as u8; size]).collect();
            let wire: Vec<u8> = bodies.iter().flat_map(|body| frame(b'D', body)).collect();
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let (frames, most) = runtime.block_on(read_all(&wire, bodies.len()));
            let largest = sizes.iter().max().unwrap() + HEAD;
            prop_assert!(most <= largest.max(ROOM));
            for (frame, body) in frames.iter().zip(&bodies) {
                prop_assert_eq!(&frame.1, body);
            }
        }
    }

    #[tokio::test]
    async fn an_impossible_length_and_the_end_of_the_connection_are_seen() {
        let mut input = Input::new();
        input.fill(&mut &[b'D', 0, 0, 0, 3][..]).await.unwrap();
        assert_eq!(input.peek(), Peek::Malformed);
        assert_eq!(input.fill(&mut &[][..]).await.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }
}
