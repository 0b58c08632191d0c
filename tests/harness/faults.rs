//! A network that fails on demand, between Rowtide and any server: bytes in, bytes out.
//!
//! ```text
//!   Rowtide ══► [half-open] [cut] [garbage] [latency] [bandwidth] ══► server     each way by itself,
//!           ◄══ [half-open] [cut] [garbage] [latency] [bandwidth] ◄══            each kind by itself
//! ```
//! - **Latency**: each piece waits 5 to 150 ms. **Bandwidth**: 16 to 256 KiB a second, in small pieces.
//! - **Cut**: a part of a piece goes through, then both sockets close; half of the time with a reset.
//!   Connections without traffic are closed as well, and new ones are while it is on.
//! - **Half-open**: what is sent vanishes, and nobody is told; both sockets stay open and are acknowledged
//!   by the kernel, so keepalives of TCP find nothing. Such a connection never heals, as a real one would
//!   not. An end that gives up is noticed by the other only where its way is whole; else after [`FORGET`].
//! - **Garbage**: in the place of a message's first byte come random bytes, then both sockets close. No
//!   protocol begins a message with 0xff, so it can be told. Bytes changed *inside* a row could not: plain
//!   TCP has nothing but its 16-bit sum against that, TLS has (guarantees.md).
//!
//! It is blind to the protocols but for two things: where a message begins ([`Speech`]), and whether a
//! connection of PostgreSQL's is a walsender's ([`Kind`]). Each effect is counted when bytes were really
//! hit. What is drawn by chance is drawn from the seed.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use memchr::memmem;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;

use super::Random;

/// How long a half-open connection is kept for a server whose client has gone without its knowing: longer
/// than PostgreSQL's patience with a walsender (60 s), so that the server finds out by itself.
const FORGET: Duration = Duration::from_secs(75);
/// Bytes taken at once.
const PIECE: usize = 32 << 10;

/// What can be wrong with a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fault {
    Latency,
    Bandwidth,
    Cut,
    HalfOpen,
    Garbage,
}

impl Fault {
    pub(crate) const ALL: [Self; 5] =
        [Self::Latency, Self::Bandwidth, Self::Cut, Self::HalfOpen, Self::Garbage];
}

/// Which bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Way {
    ToServer,
    ToRowtide,
}

impl Way {
    pub(crate) const BOTH: [Self; 2] = [Self::ToServer, Self::ToRowtide];
}

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// Questions to the database.
    Sql,
    /// The database's log.
    Replication,
    /// The target.
    Http,
}

impl Kind {
    pub(crate) const ALL: [Self; 3] = [Self::Sql, Self::Replication, Self::Http];
}

/// How messages follow each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Speech {
    /// Question and answer: a message begins where the direction turns.
    Http,
    /// Protocol 3: a tag and a length, but for the first message.
    Postgres,
}

/// A fault where it acts.
pub(crate) type Place = (Kind, Fault, Way);

/// What is on and what was done, shared by all proxies of a run.
#[derive(Debug)]
pub(crate) struct Faults {
    on: watch::Sender<Vec<Place>>,
    hits: Mutex<BTreeMap<Place, u64>>,
    seed: u64,
}

impl Faults {
    pub(crate) fn new(seed: u64) -> Arc<Self> {
        let (on, hits) = (watch::Sender::new(Vec::new()), Mutex::default());
        Arc::new(Self { on, hits, seed })
    }

    /// From now on exactly these are on.
    pub(crate) fn set(&self, places: impl IntoIterator<Item = Place>) {
        self.on.send_replace(places.into_iter().collect());
    }

    /// The network is well; what is half-open stays so.
    pub(crate) fn clear(&self) {
        self.set([]);
    }

    /// How often a fault really hit: pieces that waited, connections that were cut, made half-open by
    /// bytes that vanished, or ended by garbage.
    pub(crate) fn hits(&self, place: Place) -> u64 {
        self.hits.lock().unwrap().get(&place).copied().unwrap_or(0)
    }

    /// All of [`Self::hits`] as a table, a line for each fault.
    pub(crate) fn table(&self) -> String {
        let mut text = format!("{:<10}", "");
        for kind in Kind::ALL {
            text += &format!("{:>16} >{:>14} <", format!("{kind:?}"), format!("{kind:?}"));
        }
        for fault in Fault::ALL {
            text += &format!("\n{:<10}", format!("{fault:?}"));
            for kind in Kind::ALL {
                let [to_server, to_rowtide] = Way::BOTH.map(|way| self.hits((kind, fault, way)));
                text += &format!("{to_server:>18}{to_rowtide:>16}");
            }
        }
        text
    }
}

/// A proxy before one server; it ends with the test's runtime or when it is dropped.
#[derive(Debug)]
pub(crate) struct FaultProxy {
    pub(crate) port: u16,
    _tasks: JoinSet<()>,
}

impl FaultProxy {
    /// Listens on a free port and passes on to `server` on 127.0.0.1.
    pub(crate) async fn start(server: u16, speech: Speech, faults: &Arc<Faults>) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let mut tasks = JoinSet::new();
        let faults = faults.clone();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            for number in 0.. {
                let (client, _) = listener.accept().await.unwrap();
                connections.spawn(serve(client, server, speech, faults.clone(), number));
                while connections.try_join_next().is_some() {}
            }
        });
        Self { port, _tasks: tasks }
    }
}

/// One connection, both ways.
struct Link {
    faults: Arc<Faults>,
    speech: Speech,
    /// Known after the client's first bytes; before, nothing is done to it.
    is_known: AtomicBool,
    is_replication: AtomicBool,
    /// Bytes of that way vanish, until the connection's end.
    lost: [AtomicBool; 2],
    /// Which way moved last, plus one.
    last: AtomicU64,
    /// Both sockets are to be closed now.
    end: Notify,
}

impl Link {
    fn place(&self, fault: Fault, way: Way) -> Place {
        let kind = match self.speech {
            Speech::Http => Kind::Http,
            Speech::Postgres if self.is_replication.load(Relaxed) => Kind::Replication,
            Speech::Postgres => Kind::Sql,
        };
        (kind, fault, way)
    }

    fn is_on(&self, fault: Fault, way: Way) -> bool {
        self.is_known.load(Relaxed) && self.faults.on.borrow().contains(&self.place(fault, way))
    }

    fn hit(&self, fault: Fault, way: Way) {
        *self.faults.hits.lock().unwrap().entry(self.place(fault, way)).or_default() += 1;
    }

    fn is_lost(&self, way: Way) -> bool {
        self.lost[way as usize].load(Relaxed)
    }

    fn lose(&self, way: Way) {
        self.lost[way as usize].store(true, Relaxed);
    }

    /// Closes both sockets; never comes back.
    async fn close(&self) {
        self.end.notify_one();
        std::future::pending().await
    }
}

async fn serve(mut client: TcpStream, server: u16, speech: Speech, faults: Arc<Faults>, number: u64) {
    let Ok(mut server) = TcpStream::connect(("127.0.0.1", server)).await else { return };
    client.set_nodelay(true).ok();
    server.set_nodelay(true).ok();
    let mut random = Random::new(faults.seed ^ number.wrapping_mul(0x9e6c_63d0_876a_68ee));
    let link = Link {
        faults,
        speech,
        is_known: AtomicBool::new(false),
        is_replication: AtomicBool::new(false),
        lost: Default::default(),
        last: AtomicU64::new(0),
        end: Notify::new(),
    };
    let [up, down] = Way::BOTH.map(|way| Pump {
        link: &link,
        way,
        frames: Frames::new(way),
        random: Random::new(random.next()),
    });
    let is_cut = {
        let (from_client, to_client) = client.split();
        let (from_server, to_server) = server.split();
        tokio::select! {
            _ = async { tokio::join!(up.run(from_client, to_server), down.run(from_server, to_client)) } => false,
            () = link.end.notified() => true,
        }
    };
    if is_cut && random.below(2) == 0 {
        client.set_zero_linger().ok();
        server.set_zero_linger().ok();
    }
}

/// One way of one connection.
struct Pump<'a> {
    link: &'a Link,
    way: Way,
    frames: Frames,
    random: Random,
}

impl Pump<'_> {
    async fn run(mut self, mut from: ReadHalf<'_>, mut to: WriteHalf<'_>) {
        let mut switched = self.link.faults.on.subscribe();
        let mut piece = vec![0; PIECE];
        let mut nobody_listens = false;
        loop {
            let read = tokio::select! {
                biased;
                read = from.read(&mut piece) => read.unwrap_or(0),
                _ = switched.changed() => {
                    if self.link.is_on(Fault::Cut, self.way) {
                        self.cut().await;
                    }
                    continue;
                }
            };
            if read == 0 {
                return self.hang_up(to).await;
            }
            let piece = &piece[..read];
            self.recognise(piece);
            if self.is_lost() || nobody_listens {
                continue;
            }
            if self.pass(piece, &mut to).await.is_err() {
                // Whoever sends here does not learn of it where the other way is lost.
                if !self.link.is_lost(self.other()) {
                    self.link.close().await;
                }
                nobody_listens = true;
            }
        }
    }

    fn other(&self) -> Way {
        match self.way {
            Way::ToServer => Way::ToRowtide,
            Way::ToRowtide => Way::ToServer,
        }
    }

    fn recognise(&self, piece: &[u8]) {
        if self.way == Way::ToServer && !self.link.is_known.load(Relaxed) {
            let is_replication = memmem::find(piece, b"replication\0").is_some();
            self.link.is_replication.store(is_replication, Relaxed);
            self.link.is_known.store(true, Relaxed);
        }
    }

    /// Whether what was read vanishes.
    fn is_lost(&self) -> bool {
        if !self.link.is_lost(self.way) && self.link.is_on(Fault::HalfOpen, self.way) {
            self.link.lose(self.way);
            self.link.hit(Fault::HalfOpen, self.way);
        }
        self.link.is_lost(self.way)
    }

    /// The sender has closed. A lost way does not say so.
    async fn hang_up(&self, mut to: WriteHalf<'_>) {
        if self.link.is_lost(self.way) {
            tokio::time::sleep(FORGET).await;
            self.link.close().await;
        }
        to.shutdown().await.ok();
    }

    async fn cut(&self) {
        self.link.hit(Fault::Cut, self.way);
        self.link.close().await;
    }

    async fn pass(&mut self, piece: &[u8], to: &mut WriteHalf<'_>) -> io::Result<()> {
        if self.link.is_on(Fault::Cut, self.way) {
            let part = self.random.below(piece.len() as u64) as usize;
            to.write_all(&piece[..part]).await?;
            self.cut().await;
        }
        let turned = self.link.last.swap(self.way as u64 + 1, Relaxed) != self.way as u64 + 1;
        let begins = match self.link.speech {
            Speech::Http => turned.then_some(0),
            Speech::Postgres => self.frames.next_begin().filter(|&begin| begin <= piece.len()),
        };
        if let Some(begin) = begins.filter(|_| self.link.is_on(Fault::Garbage, self.way)) {
            to.write_all(&piece[..begin]).await?;
            self.garbage(to).await?;
        }
        self.frames.pass(piece);
        if self.link.is_on(Fault::Latency, self.way) {
            self.link.hit(Fault::Latency, self.way);
            tokio::time::sleep(Duration::from_millis(5 + self.random.below(146))).await;
        }
        if !self.link.is_on(Fault::Bandwidth, self.way) {
            return to.write_all(piece).await;
        }
        self.link.hit(Fault::Bandwidth, self.way);
        let bytes_per_second = (16 + self.random.below(241)) * 1024;
        for part in piece.chunks(4 << 10) {
            tokio::time::sleep(Duration::from_secs_f64(part.len() as f64 / bytes_per_second as f64)).await;
            to.write_all(part).await?;
        }
        Ok(())
    }

    /// The last that is heard of the connection. What it is answered does not come back: it would be the
    /// server's opinion of the garbage.
    async fn garbage(&mut self, to: &mut WriteHalf<'_>) -> io::Result<()> {
        self.link.hit(Fault::Garbage, self.way);
        Way::BOTH.into_iter().for_each(|way| self.link.lose(way));
        let count = 1 + self.random.below(300);
        let mut bytes: Vec<u8> = (0..count).map(|_| self.random.next() as u8).collect();
        bytes[0] = 0xff;
        to.write_all(&bytes).await?;
        to.shutdown().await?;
        // Read before a reset can take it away.
        tokio::time::sleep(Duration::from_millis(200)).await;
        self.link.close().await;
        Ok(())
    }
}

/// Where PostgreSQL's messages begin.
struct Frames {
    /// Of the next message, as far as it came.
    head: Vec<u8>,
    /// A tag comes before the length; not in a connection's first message.
    is_tagged: bool,
    /// Bytes of the present message still to come.
    left: usize,
}

impl Frames {
    fn new(way: Way) -> Self {
        Self { head: Vec::new(), is_tagged: way == Way::ToRowtide, left: 0 }
    }

    /// How many bytes come before the next message's first; `None` inside a head.
    fn next_begin(&self) -> Option<usize> {
        self.head.is_empty().then_some(self.left)
    }

    fn pass(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let part = self.left.min(bytes.len());
            self.left -= part;
            bytes = &bytes[part..];
            let length_at = usize::from(self.is_tagged);
            while self.left == 0 && self.head.len() < length_at + 4 {
                let Some((first, rest)) = bytes.split_first() else { return };
                self.head.push(*first);
                bytes = rest;
            }
            if self.left == 0 {
                let length: [u8; 4] = self.head[length_at..].try_into().unwrap();
                self.left = (u32::from_be_bytes(length) as usize).saturating_sub(4);
                self.head.clear();
                self.is_tagged = true;
            }
        }
    }
}
