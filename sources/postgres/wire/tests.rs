//! The connection against a server that sends what the test says, in pieces of any size.
#![allow(clippy::unwrap_used, clippy::panic, clippy::disallowed_methods)]

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;
use crate::postgres::credentials::Origin;
use crate::postgres::lsn::Lsn;
use crate::postgres::tuple::Value;
use crate::postgres::tuple::tests::{data_row, log_row};
use crate::world::RealWorld;

const LIMIT: Duration = Duration::from_secs(10);

pub(super) fn frame(tag: u8, body: &[u8]) -> Vec<u8> {
    [&[tag][..], &(body.len() as u32 + 4).to_be_bytes(), body].concat()
}

pub(super) fn connect(port: u16) -> Connect {
    Connect {
        host: "127.0.0.1".to_owned(),
        port,
        user: "u".to_owned(),
        login: Arc::new(Login::new(Some(Password("hidden".to_owned())), Origin::Fixed)),
        tls: Arc::new(Tls::never()),
        database: "d".to_owned(),
        replication: false,
        application_name: "test".to_owned(),
        timeout: None,
        options: Vec::new(),
    }
}

pub(super) fn ready() -> Vec<u8> {
    frame(b'Z', b"I")
}

pub(super) fn logged_in() -> Vec<u8> {
    [
        frame(b'R', &[0; 4]),
        frame(b'S', b"server_version\x0018.1\0"),
        frame(b'K', &[0, 0, 0, 9, 0, 0, 0, 0]),
        ready(),
    ]
    .concat()
}

/// A connection to a server that answers the start and then sends `wire`, `piece` bytes at a time,
/// as soon as it hears anything; what it hears comes back from the task.
async fn connected(wire: Vec<u8>, piece: usize) -> (Connection, tokio::task::JoinHandle<Vec<u8>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = tokio::spawn(async move {
        let (mut socket, _) = listener.accept().await.unwrap();
        socket.set_nodelay(true).unwrap();
        let mut heard = vec![0; 4096];
        assert!(socket.read(&mut heard).await.unwrap() > 8);
        socket.write_all(&logged_in()).await.unwrap();
        let mut count = socket.read(&mut heard).await.unwrap();
        for piece in wire.chunks(piece) {
            socket.write_all(piece).await.unwrap();
        }
        // Until the client has gone.
        while let Ok(more @ 1..) = socket.read(&mut heard[count..]).await {
            count += more;
        }
        heard.truncate(count);
        heard
    });
    let world = RealWorld::shared();
    let connection = Connection::open(&connect(port), &world, LIMIT).await.unwrap();
    (connection, server)
}

#[tokio::test]
async fn a_command_gives_its_rows_and_a_refusal_leaves_the_connection_usable() {
    let wire = [
        frame(b'N', b"Mnotice\0\0"),
        frame(b'T', b"\0\0"),
        frame(b'D', &data_row(&[Some(b"a"), None])),
        frame(b'C', b"SELECT 1\0"),
        ready(),
        frame(b'E', b"SERROR\0C42P01\0Mno such table\0\0"),
        ready(),
    ];
    let (mut connection, _server) = connected(wire.concat(), 7).await;
    assert_eq!((connection.backend_pid(), connection.parameter("server_version")), (9, Some("18.1")));
    assert_eq!(connection.simple("one").await.unwrap(), [[Some("a".to_owned()), None]]);
    assert_eq!(connection.simple("two").await.unwrap_err().sqlstate(), Some("42P01"));
    assert!(connection.must_be_idle().is_ok());
}

#[tokio::test]
async fn rows_without_end_in_a_short_answer_are_refused() {
    let row = frame(b'D', &data_row(&[Some(&[b'x'; 1000])]));
    let endless = row.repeat(10_000);
    let mut connection = Connection::scripted(&endless, usize::MAX, scripted::Phase::Idle);
    let refused = connection.simple("one").await.unwrap_err().to_string();
    assert!(refused.contains("8 MiB"), "{refused}");
    let nulls = frame(b'D', &data_row(&[None; 1600])).repeat(300);
    let mut connection = Connection::scripted(&nulls, usize::MAX, scripted::Phase::Idle);
    let refused = connection.all_rows("one", &[]).await.unwrap_err().to_string();
    assert!(refused.contains("8 MiB"), "{refused}");
}

#[tokio::test]
async fn a_dropped_command_makes_the_connection_refuse_to_go_on() {
    let (mut connection, _server) = connected(frame(b'T', b"\0\0"), 100).await;
    assert!(
        within(RealWorld::shared().as_ref(), Duration::from_millis(50), connection.simple("one"))
            .await
            .is_none()
    );
    assert!(matches!(connection.simple("two").await, Err(WireError::Protocol(_))));
}

fn answer(large: usize) -> Vec<u8> {
    [
        frame(b'1', b""),
        frame(b'2', b""),
        frame(b'D', &data_row(&[Some(b"1"), Some(b"x")])),
        frame(b'D', &data_row(&[Some(b"2"), Some(&vec![b'y'; large])])),
        frame(b's', b""),
        frame(b'D', &data_row(&[Some(b"3"), None])),
        frame(b'C', b"SELECT 3\0"),
        ready(),
    ]
    .concat()
}

#[tokio::test]
async fn a_row_over_the_limit_is_read_past_and_its_key_is_kept() {
    let large = 3_000_000;
    for piece in [50_000, 1 << 20] {
        let (mut connection, _server) = connected(answer(large), piece).await;
        connection.query("q", &[Some("p"), None]).await.unwrap();
        let Next::Row(row) = connection.next_row(1000, &[0]).await.unwrap() else { panic!() };
        assert_eq!(row.values().next(), Some(Value::Text(b"1")));
        let Next::TooLarge(row) = connection.next_row(1000, &[0]).await.unwrap() else { panic!() };
        assert_eq!(row, LargeRow { bytes: large as u64 + 1, kept: vec![Kept::Text(b"2".to_vec())] });
        assert!(connection.memory() <= 64 << 10, "nothing of it was held");
        let Next::Row(row) = connection.next_row(1000, &[0]).await.unwrap() else { panic!() };
        assert_eq!(row.values().next(), Some(Value::Text(b"3")));
        assert!(matches!(connection.next_row(1000, &[0]).await.unwrap(), Next::End));
        assert!(connection.must_be_idle().is_ok());
    }
}

#[tokio::test]
async fn a_row_within_the_limit_is_held_whole_and_the_buffer_goes_back() {
    let (mut connection, _server) = connected(answer(3_000_000), 60_000).await;
    connection.query("q", &[]).await.unwrap();
    connection.next_row(4_000_000, &[0]).await.unwrap();
    let Next::Row(row) = connection.next_row(4_000_000, &[0]).await.unwrap() else { panic!() };
    assert_eq!(row.values().nth(1), Some(Value::Text(&vec![b'y'; 3_000_000])));
    assert!(connection.memory() > 3_000_000);
    while !matches!(connection.next_row(4_000_000, &[0]).await.unwrap(), Next::End) {}
    assert!(connection.parse_row(1, &[]).is_err(), "the answer has ended");
}

#[tokio::test]
async fn reading_can_end_early_in_the_middle_of_a_large_row_too() {
    for rows_read in 0..3 {
        let (mut connection, server) = connected(answer(200_000), 30_000).await;
        connection.query("q", &[]).await.unwrap();
        for _ in 0..rows_read {
            connection.next_row(100_000, &[]).await.unwrap();
        }
        if rows_read == 1 {
            while connection.skip.is_none() {
                assert!(connection.parse_row(100, &[]).unwrap().is_none());
                connection.fill().await.unwrap();
            }
        }
        connection.cancel_rest().await.unwrap();
        assert!(connection.must_be_idle().is_ok());
        connection.close().await;
        let heard = server.await.unwrap();
        let count = |part: &[u8]| heard.windows(part.len()).filter(|window| *window == part).count();
        assert_eq!(count(b"S\0\0\0\x04"), 1, "one Sync for one query");
    }
}

fn data(start: u64, message: &[u8]) -> Vec<u8> {
    frame(b'd', &[b"w", &start.to_be_bytes()[..], &99_u64.to_be_bytes(), &[0; 8], message].concat())
}

#[tokio::test]
async fn the_log_comes_in_order_and_a_large_change_keeps_its_key_only() {
    let large = vec![b'z'; 500_000];
    let row = log_row(&[Value::Text(b"7"), Value::Text(&large)]);
    let update =
        [b"U", &5_u32.to_be_bytes()[..], b"K", &log_row(&[Value::Text(b"6"), Value::Null]), b"N", &row]
            .concat();
    let relation = [b"R", &vec![b'r'; 90_000][..]].concat();
    let mut keepalive = vec![b'k'];
    keepalive.extend_from_slice(&77_u64.to_be_bytes());
    keepalive.extend_from_slice(&[0; 8]);
    keepalive.push(1);
    let wire = [
        frame(b'W', b"\0\0\0"),
        data(11, b"Bsmall"),
        data(12, &update),
        data(13, &[b'M'; 70_000]),
        data(14, &relation),
        frame(b'd', &keepalive),
        frame(b'c', b""),
    ];
    let (mut connection, server) = connected(wire.concat(), 1000).await;
    connection.start_replication("START_REPLICATION").await.unwrap();
    let mut seen = Vec::new();
    let mut most = 0;
    loop {
        let mut keep = |relation| if relation == 5 { vec![0] } else { panic!("another relation") };
        let Some(copy) = connection.parse_copy(60_000, &mut keep).unwrap() else {
            connection.fill().await.unwrap();
            most = most.max(connection.memory());
            continue;
        };
        match copy {
            Copy::Data { start_lsn, end_lsn: Lsn(99), message } => {
                seen.push(format!("{} {}", start_lsn.0, message.len()))
            }
            Copy::Keepalive { end_lsn, reply_requested: true } => {
                seen.push(format!("keepalive {}", end_lsn.0))
            }
            Copy::Large(change) => {
                assert_eq!((change.start_lsn, change.kind, change.relation), (Lsn(12), LargeKind::Update, 5));
                let (kind, old) = change.old.unwrap();
                assert_eq!(kind, crate::postgres::pgoutput::OldKind::Key);
                assert_eq!(old, LargeRow { bytes: 1, kept: vec![Kept::Text(b"6".to_vec())] });
                assert_eq!(
                    change.new.unwrap(),
                    LargeRow { bytes: 500_001, kept: vec![Kept::Text(b"7".to_vec())] }
                );
                seen.push("large".to_owned());
            }
            Copy::Done => break,
            other => panic!("{other:?}"),
        }
    }
    // Another application's message was passed over.
    assert_eq!(seen, ["11 6", "large", "14 90001", "keepalive 77"]);
    assert!(most < 100_000, "only the relation was held whole: {most}");
    connection.send_status(Lsn(1), Lsn(2), Lsn(3), false).await.unwrap();
    connection.close().await;
    let heard = server.await.unwrap();
    let status =
        [&b"d\0\0\0\x26r"[..], &1_u64.to_be_bytes(), &2_u64.to_be_bytes(), &3_u64.to_be_bytes()].concat();
    assert!(heard.windows(status.len()).any(|window| window == status));
}

#[tokio::test]
async fn a_server_that_says_nothing_is_given_up_after_the_limit() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let connect = connect(listener.local_addr().unwrap().port());
    let opened = Connection::open(&connect, &RealWorld::shared(), Duration::from_millis(50)).await;
    assert!(matches!(opened.err().unwrap(), WireError::Timeout { .. }));
}

#[test]
fn a_password_is_never_shown() {
    assert!(!format!("{:?}", connect(1)).contains("hidden"));
}
