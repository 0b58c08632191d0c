//! Each fault does what it says, on plain sockets.

use std::io;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use super::faults::{Fault, FaultProxy, Faults, Kind, Speech, Way};

const SHORT: Duration = Duration::from_millis(300);
const LONG: Duration = Duration::from_secs(5);

/// Both ends of a connection through a proxy, and what can be done to it.
struct Wire {
    client: TcpStream,
    server: TcpStream,
    faults: std::sync::Arc<Faults>,
    _proxy: FaultProxy,
}

impl Wire {
    /// The client has said `first`, and the server has heard it.
    async fn new(speech: Speech, first: &[u8]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let faults = Faults::new(7);
        let proxy = FaultProxy::start(listener.local_addr().unwrap().port(), speech, &faults).await;
        let client = TcpStream::connect(("127.0.0.1", proxy.port)).await.unwrap();
        let (server, _) = listener.accept().await.unwrap();
        let mut wire = Self { client, server, faults, _proxy: proxy };
        wire.client.write_all(first).await.unwrap();
        assert_eq!(read(&mut wire.server, first.len()).await.unwrap(), first);
        wire
    }
}

async fn read(from: &mut TcpStream, count: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; count];
    timeout(LONG, from.read_exact(&mut bytes)).await.expect("bytes come")?;
    Ok(bytes)
}

async fn rest(from: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    // A reset is an end as well.
    timeout(LONG, from.read_to_end(&mut bytes)).await.expect("it ends").ok();
    bytes
}

/// A first message of PostgreSQL's: a length and no tag.
fn startup(text: &[u8]) -> Vec<u8> {
    [&(text.len() as u32 + 4).to_be_bytes()[..], text].concat()
}

fn message(text: &[u8]) -> Vec<u8> {
    [b"D", &startup(text)[..]].concat()
}

#[tokio::test]
async fn without_a_fault_all_bytes_pass_and_ends_are_told() {
    let mut wire = Wire::new(Speech::Http, b"GET /").await;
    let much: Vec<u8> = (0..1_000_000_u32).map(|n| n as u8).collect();
    let (sent, got) = tokio::join!(wire.server.write_all(&much), read(&mut wire.client, much.len()));
    sent.unwrap();
    assert_eq!(got.unwrap(), much);
    drop(wire.client);
    assert_eq!(rest(&mut wire.server).await, b"");
    assert!(Fault::ALL.iter().all(|&fault| wire.faults.hits((Kind::Http, fault, Way::ToRowtide)) == 0));
}

#[tokio::test]
async fn latency_and_bandwidth_slow_one_way_and_lose_nothing() {
    let mut wire = Wire::new(Speech::Postgres, &startup(b"user\0x\0")).await;
    let places = [Fault::Latency, Fault::Bandwidth].map(|fault| (Kind::Sql, fault, Way::ToRowtide));
    wire.faults.set(places);
    let (began, text) = (Instant::now(), vec![5; 60_000]);
    let (sent, got) = tokio::join!(wire.server.write_all(&text), read(&mut wire.client, text.len()));
    sent.unwrap();
    assert_eq!(got.unwrap(), text);
    assert!(began.elapsed() > Duration::from_millis(200), "60 KB at 256 KiB a second at the most");
    places.iter().for_each(|&place| assert!(wire.faults.hits(place) > 0, "{place:?}"));
    let began = Instant::now();
    wire.client.write_all(b"back").await.unwrap();
    read(&mut wire.server, 4).await.unwrap();
    assert!(began.elapsed() < Duration::from_millis(5) + SHORT, "the other way is as it was");
}

#[tokio::test]
async fn a_cut_ends_connections_with_and_without_traffic() {
    for is_idle in [true, false] {
        let mut wire = Wire::new(Speech::Postgres, &startup(b"replication\0database\0")).await;
        let place = (Kind::Replication, Fault::Cut, Way::ToRowtide);
        if !is_idle {
            wire.server.write_all(&[1; 500]).await.unwrap();
        }
        wire.faults.set([(Kind::Sql, Fault::Cut, Way::ToRowtide)]);
        tokio::time::sleep(SHORT).await;
        assert_eq!(wire.faults.hits(place), 0, "another kind");
        wire.faults.set([place]);
        assert!(rest(&mut wire.client).await.len() <= 500);
        rest(&mut wire.server).await;
        assert_eq!(wire.faults.hits(place), 1);
    }
}

#[tokio::test]
async fn a_half_open_way_swallows_and_tells_nobody() {
    let mut wire = Wire::new(Speech::Http, b"GET /").await;
    let place = (Kind::Http, Fault::HalfOpen, Way::ToServer);
    wire.faults.set([place]);
    wire.client.write_all(b"lost").await.unwrap();
    tokio::time::sleep(SHORT).await;
    wire.faults.clear();
    wire.client.write_all(b"lost too, although the network is well again").await.unwrap();
    wire.server.write_all(b"heard").await.unwrap();
    assert_eq!(read(&mut wire.client, 5).await.unwrap(), b"heard");
    assert_eq!(wire.faults.hits(place), 1);
    drop(wire.client);
    let nothing = timeout(SHORT, wire.server.read_u8()).await;
    assert!(nothing.is_err(), "the server learnt that its client has gone: {nothing:?}");
    // What it says goes nowhere, and it does not learn that either.
    for _ in 0..3 {
        wire.server.write_all(b"hello?").await.unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
    }

    let mut wire = Wire::new(Speech::Http, b"GET /").await;
    wire.faults.set([(Kind::Http, Fault::HalfOpen, Way::ToRowtide)]);
    wire.server.write_all(b"lost").await.unwrap();
    assert!(timeout(SHORT, wire.client.read_u8()).await.is_err(), "nothing comes");
    wire.client.write_all(b"heard").await.unwrap();
    assert_eq!(read(&mut wire.server, 5).await.unwrap(), b"heard");
    drop(wire.client);
    assert_eq!(rest(&mut wire.server).await, b"", "this way is whole: the end is told");
}

#[tokio::test]
async fn garbage_comes_in_the_place_of_a_message_and_is_the_last() {
    let mut wire = Wire::new(Speech::Postgres, &startup(b"user\0x\0")).await;
    let place = (Kind::Sql, Fault::Garbage, Way::ToRowtide);
    // Half of a message, whose other half comes with two more.
    let (first, more) = (message(&[7; 1_000]), [message(b"a"), message(b"b")].concat());
    wire.server.write_all(&first[..400]).await.unwrap();
    assert_eq!(read(&mut wire.client, 400).await.unwrap(), first[..400]);
    wire.faults.set([place]);
    wire.server.write_all(&[&first[400..], &more].concat()).await.unwrap();
    let got = rest(&mut wire.client).await;
    assert_eq!((&got[..605], got[605]), (&first[400..], 0xff), "the message ends whole, and none begins");
    assert!(got.len() <= 605 + 300);
    assert_eq!(wire.faults.hits(place), 1);

    let mut wire = Wire::new(Speech::Http, b"GET / HTTP/1.1\r\n\r\n").await;
    wire.faults.set([(Kind::Http, Fault::Garbage, Way::ToServer)]);
    wire.server.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
    assert_eq!(read(&mut wire.client, 38).await.unwrap()[..8], *b"HTTP/1.1");
    wire.client.write_all(b"GET /again HTTP/1.1\r\n\r\n").await.unwrap();
    assert_eq!(read(&mut wire.server, 1).await.unwrap(), [0xff]);
    wire.server.write_all(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n").await.ok();
    assert_eq!(rest(&mut wire.client).await, b"", "the server's opinion of it does not come back");
}
