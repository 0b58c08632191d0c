//! Bulk bodies made smaller, away from the threads that answer (`gzip = true`).
//!
//! ```text
//!   body ──► a thread for work that blocks, two at a time ──► pieces of 64 KiB ──► the request
//!             └─ small, no room left, or nothing saved ──────────────────────────► the body as it is
//! ```
//! The body itself is charged to the budget until its answer, and stays so. The smaller copy beside it
//! is bounded by itself: all copies together hold [`HELD_MAX`], each piece until the connection has let
//! go of it. So a request never waits for that room: without it the body goes out as it is.

use std::io::{self, Write};
use std::sync::Arc;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Smaller bodies fit into few packets, and go as they are.
const BODY_MIN: usize = 4 << 10;
const PIECE: usize = 64 << 10;
/// The most bytes that all compressed copies hold.
pub const HELD_MAX: usize = 8 << 20;
/// How many bodies are made smaller side by side; each takes some 300 KB for it.
const AT_ONCE: usize = 2;
/// Measured on 3.9 MB of small rows: level 1 leaves 636 KB, 2 leaves 458 KB for a fifth more time, and 3
/// to 9 leave 440 to 410 KB for half as much again or more.
const LEVEL: u32 = 2;

/// The room for compressed copies.
pub(super) struct Gzip {
    turns: Arc<Semaphore>,
    pieces: Arc<Semaphore>,
}

impl Gzip {
    pub(super) fn new() -> Self {
        let turns = Arc::new(Semaphore::new(AT_ONCE));
        Self { turns, pieces: Arc::new(Semaphore::new(HELD_MAX / PIECE)) }
    }

    /// The body in pieces, smaller; `None` when it had better go as it is.
    pub(super) async fn shrink(&self, body: [Bytes; 2]) -> Option<Vec<Bytes>> {
        if body.iter().map(Bytes::len).sum::<usize>() < BODY_MIN {
            return None;
        }
        let turn = self.turns.clone().acquire_owned().await.ok()?;
        let pieces = self.pieces.clone();
        // Not one of the world's tasks: it takes no time of the simulation's and decides no order.
        let work = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            compress(&body, pieces).ok()
        });
        work.await.ok().flatten()
    }
}

fn compress(body: &[Bytes], pieces: Arc<Semaphore>) -> io::Result<Vec<Bytes>> {
    let whole: usize = body.iter().map(Bytes::len).sum();
    let output = Output { done: Vec::new(), piece: None, pieces, left: whole };
    let mut encoder = GzEncoder::new(output, Compression::new(LEVEL));
    for part in body {
        encoder.write_all(part)?;
    }
    let output = encoder.finish()?;
    let last = output.piece.into_iter();
    Ok(output.done.into_iter().chain(last).map(Bytes::from_owner).collect())
}

/// Where the compressed bytes go; an error once they are no fewer than the body, or find no room.
struct Output {
    done: Vec<Piece>,
    piece: Option<Piece>,
    pieces: Arc<Semaphore>,
    left: usize,
}

/// Its room is given back when its bytes are.
struct Piece {
    bytes: Vec<u8>,
    _room: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.len() >= self.left {
            return Err(io::Error::other("nothing is saved"));
        }
        if self.piece.as_ref().is_some_and(|piece| piece.bytes.len() == PIECE) {
            self.done.extend(self.piece.take());
        }
        let piece = match &mut self.piece {
            Some(piece) => piece,
            empty => {
                let room = self.pieces.clone().try_acquire_owned();
                let _room = room.map_err(|_| io::Error::other("no room"))?;
                let bytes = Vec::with_capacity(PIECE.min(self.left));
                empty.insert(Piece { bytes, _room })
            }
        };
        let taken = bytes.len().min(PIECE - piece.bytes.len());
        piece.bytes.extend_from_slice(&bytes[..taken]);
        self.left -= taken;
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use std::io::Read;

    use super::*;

    fn lines(count: usize) -> Bytes {
        let line = |n: usize| {
            format!(
                "{{\"index\":{{\"_index\":\"products\",\"_id\":\"{n}\",\"version\":{},\"version_type\":\"external_gte\"}}}}\n\
                 {{\"id\":{n},\"name\":\"product {}\",\"price\":{}.{:02},\"active\":{},\"updated_at\":\"2026-01-{:02}T12:00:00Z\"}}\n",
                24_000_000 + n * 56,
                n * 7919 % 10_007,
                n * 31 % 997,
                n % 100,
                n.is_multiple_of(3),
                1 + n % 28
            )
        };
        Bytes::from((0..count).map(line).collect::<String>())
    }

    fn text_of(pieces: &[Bytes]) -> Vec<u8> {
        let mut text = Vec::new();
        flate2::read::GzDecoder::new(&pieces.concat()[..]).read_to_end(&mut text).unwrap();
        text
    }

    #[tokio::test]
    async fn the_same_bytes_come_out_and_most_of_them_are_saved() {
        let gzip = Gzip::new();
        let (body, guard) = (lines(20_000), Bytes::from_static(b"{\"update\":{}}\n{\"doc\":{}}\n"));
        let pieces = gzip.shrink([body.clone(), guard.clone()]).await.unwrap();
        let (whole, small) = (body.len() + guard.len(), pieces.iter().map(Bytes::len).sum::<usize>());
        println!("gzip: {whole} bytes become {small}");
        assert!(small * 4 < whole, "{small} of {whole}");
        assert!(pieces.len() > 1, "the test wants several pieces");
        assert!(text_of(&pieces) == [body, guard].concat(), "other bytes come out");
    }

    #[tokio::test]
    async fn without_room_or_gain_the_body_goes_as_it_is() {
        let gzip = Gzip::new();
        assert!(gzip.shrink([lines(3), Bytes::new()]).await.is_none(), "small");
        let mut state = 1_u64;
        let mut noise = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 56) as u8
        };
        let noise: Vec<u8> = (0..1 << 20).map(|_| noise()).collect();
        assert!(gzip.shrink([Bytes::from(noise), Bytes::new()]).await.is_none(), "nothing is saved");
        assert_eq!(gzip.pieces.available_permits(), HELD_MAX / PIECE);

        let taken = gzip.pieces.clone().acquire_many_owned((HELD_MAX / PIECE) as u32 - 1).await.unwrap();
        assert!(gzip.shrink([lines(20_000), Bytes::new()]).await.is_none(), "no room");
        drop(taken);
        let pieces = gzip.shrink([lines(20_000), Bytes::new()]).await.unwrap();
        assert_eq!(gzip.pieces.available_permits(), HELD_MAX / PIECE - pieces.len());
        drop(pieces);
        assert_eq!(gzip.pieces.available_permits(), HELD_MAX / PIECE, "room comes back with the bytes");
    }
}
