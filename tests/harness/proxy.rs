//! A recording proxy between Rowtide and a search server, which can also be a bad network.
//!
//! ```text
//!   Rowtide ──request──► [link] [bandwidth] [refuse: 429] [hold] ──► server
//!           ◄──answer─── [link] [drop: close the socket] [delay] ◄──
//! ```
//! Before a secured server it speaks TLS to both, with a certificate of the server's authority.
//! It reads whole requests and answers (HTTP/1.1, Content-Length or chunked) and passes their bytes on
//! unchanged. Only `_bulk` requests are counted and meddled with.
//! - A bulk request is in flight from its last byte here until its answer has been passed on.
//! - A document is received when the request that carries it is passed on to the server, whole.
//! - Whoever hangs up in the middle of a request has sent nothing; after it, everything.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::BufMut;
use memchr::memmem;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::certificates::Paper;
use super::search::{Search, Security};

/// What was seen and what is to be done, shared by all connections.
#[derive(Debug, Default)]
struct Shared {
    in_flight: AtomicU64,
    in_flight_most: AtomicU64,
    requests: AtomicU64,
    puts: AtomicU64,
    deletes: AtomicU64,
    given_up: AtomicU64,
    answered: AtomicU64,
    room: AtomicU64,
    up: Way,
    down: Way,
    round_trip_ms: AtomicU64,
    hold_ms: AtomicU64,
    delay_ms: AtomicU64,
    bytes_per_second: AtomicU64,
    drops: AtomicU64,
    dropped: AtomicU64,
    refusals: AtomicU64,
    refused: AtomicU64,
    page: Mutex<Option<String>>,
    cut: AtomicBool,
    watched: Mutex<BTreeMap<String, u64>>,
    keep: AtomicBool,
    kept: Mutex<Vec<Seen>>,
    last: Mutex<Option<Instant>>,
}

/// One direction of the link, shared by all connections: a piece of each passes in turn.
#[derive(Debug, Default)]
struct Way {
    /// 0: no limit.
    bytes_per_second: AtomicU64,
    passed: AtomicU64,
    /// When what has been let in so far is through.
    free_at: Mutex<Option<Instant>>,
}

impl Way {
    /// The most that passes at once.
    const PIECE: usize = 16 * 1024;

    async fn pass(&self, bytes: usize) {
        self.passed.fetch_add(bytes as u64, Relaxed);
        let rate = self.bytes_per_second.load(Relaxed);
        if rate == 0 {
            return;
        }
        let through = {
            let mut free_at = self.free_at.lock().unwrap();
            let now = Instant::now();
            let begins = free_at.map_or(now, |free_at| free_at.max(now));
            *free_at.insert(begins + Duration::from_secs_f64(bytes as f64 / rate as f64))
        };
        tokio::time::sleep_until(through.into()).await;
    }

    async fn write(&self, to: &mut BoxWire, bytes: &[u8]) -> Option<()> {
        for piece in bytes.chunks(Self::PIECE) {
            self.pass(piece.len()).await;
            to.write_all(piece).await.ok()?;
            to.flush().await.ok()?;
        }
        Some(())
    }
}

/// A bulk request as it went to the server.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    /// Request line and headers.
    pub(crate) head: String,
    /// Actions and documents.
    pub(crate) body: String,
}

/// The proxy; it ends with the test's runtime or when it is dropped.
#[derive(Debug)]
pub(crate) struct Proxy {
    pub(crate) port: u16,
    shared: Arc<Shared>,
    _tasks: JoinSet<()>,
}

/// One end of a connection, with TLS or without.
trait Wire: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Wire for T {}
type BoxWire = Box<dyn Wire>;

/// How it speaks TLS to both.
#[derive(Clone)]
struct Tls {
    acceptor: TlsAcceptor,
    connector: TlsConnector,
}

impl Tls {
    fn of(security: &Security, paper: &Paper) -> Self {
        let authority = CertificateDer::from_pem_slice(security.authority.certificate.as_bytes()).unwrap();
        let certificate = CertificateDer::from_pem_slice(paper.certificate.as_bytes()).unwrap();
        let key = PrivateKeyDer::from_pem_slice(paper.key.as_bytes()).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(authority).unwrap();
        let server =
            ServerConfig::builder().with_no_client_auth().with_single_cert(vec![certificate], key).unwrap();
        let client = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        Self {
            acceptor: TlsAcceptor::from(Arc::new(server)),
            connector: TlsConnector::from(Arc::new(client)),
        }
    }

    async fn both(&self, client: TcpStream, server: TcpStream) -> Option<(BoxWire, BoxWire)> {
        let name = ServerName::try_from("127.0.0.1").unwrap();
        let client = self.acceptor.accept(client).await.ok()?;
        let server = self.connector.connect(name, server).await.ok()?;
        Some((Box::new(client), Box::new(server)))
    }
}

impl Proxy {
    /// Listens on a free port and passes on to this server as it is spoken to.
    pub(crate) async fn before(search: &Search) -> Self {
        let tls = |security: &Security| Tls::of(security, &security.authority.issue(&["127.0.0.1"], 2999));
        Self::listen(search.port(), search.security.as_ref().map(tls)).await
    }

    /// The same before a secured server, with this certificate.
    pub(crate) async fn showing(search: &Search, paper: &Paper) -> Self {
        Self::listen(search.port(), search.security.as_ref().map(|security| Tls::of(security, paper))).await
    }

    /// Listens on a free port and passes on to `server` on 127.0.0.1, without TLS.
    pub(crate) async fn start(server: u16) -> Self {
        Self::listen(server, None).await
    }

    async fn listen(server: u16, tls: Option<Tls>) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::new(Shared::default());
        shared.room.store(u64::MAX, Relaxed);
        let mut tasks = JoinSet::new();
        let of_task = shared.clone();
        tasks.spawn(async move {
            // The connections end with this task.
            let mut connections = JoinSet::new();
            loop {
                let (client, _) = listener.accept().await.unwrap();
                client.set_nodelay(true).unwrap();
                connections.spawn(serve(client, server, tls.clone(), of_task.clone()));
                while connections.try_join_next().is_some() {}
            }
        });
        Self { port, shared, _tasks: tasks }
    }

    /// Bulk requests whose answer has not been passed on.
    pub(crate) fn in_flight(&self) -> u64 {
        self.shared.in_flight.load(Relaxed)
    }

    /// The most bulk requests that were ever in flight at once.
    pub(crate) fn in_flight_most(&self) -> u64 {
        self.shared.in_flight_most.load(Relaxed)
    }

    /// Bulk requests that the server has received.
    pub(crate) fn requests(&self) -> u64 {
        self.shared.requests.load(Relaxed)
    }

    /// Documents, deletes included, that the server has received.
    pub(crate) fn documents(&self) -> u64 {
        self.puts() + self.deletes()
    }

    pub(crate) fn puts(&self) -> u64 {
        self.shared.puts.load(Relaxed)
    }

    pub(crate) fn deletes(&self) -> u64 {
        self.shared.deletes.load(Relaxed)
    }

    /// How long no bulk request has come or been in flight.
    pub(crate) fn idle_for(&self) -> Duration {
        if self.in_flight() > 0 {
            return Duration::ZERO;
        }
        self.shared.last.lock().unwrap().map_or(Duration::MAX, |last| last.elapsed())
    }

    /// Each bulk request goes to the server only after this time.
    pub(crate) fn hold_requests(&self, time: Duration) {
        self.shared.hold_ms.store(time.as_millis() as u64, Relaxed);
    }

    /// Each answer to a bulk request comes back only after this time; the server has done the work.
    pub(crate) fn delay_answers(&self, time: Duration) {
        self.shared.delay_ms.store(time.as_millis() as u64, Relaxed);
    }

    /// Bulk requests are taken from Rowtide no faster than this, each connection for itself; 0: no limit.
    pub(crate) fn limit_bandwidth(&self, bytes_per_second: u64) {
        self.shared.bytes_per_second.store(bytes_per_second, Relaxed);
    }

    /// What lies between Rowtide and the server is a link of so many bytes a second each way, shared by
    /// all connections, and this far; 0 and zero: no link.
    pub(crate) fn link(&self, bytes_per_second: u64, round_trip: Duration) {
        self.shared.up.bytes_per_second.store(bytes_per_second, Relaxed);
        self.shared.down.bytes_per_second.store(bytes_per_second, Relaxed);
        self.shared.round_trip_ms.store(round_trip.as_millis() as u64, Relaxed);
    }

    /// Bytes of requests that have come over the link.
    pub(crate) fn link_bytes(&self) -> u64 {
        self.shared.up.passed.load(Relaxed)
    }

    /// Bulk requests whose connection has ended before they were answered.
    pub(crate) fn given_up(&self) -> u64 {
        self.shared.given_up.load(Relaxed)
    }

    /// While more bulk requests than this are in flight, a further one is answered with 429.
    pub(crate) fn take_at_once(&self, count: u64) {
        self.shared.room.store(count, Relaxed);
    }

    /// The next `count` bulk requests reach the server, but their answers are lost: the socket closes.
    pub(crate) fn drop_answers(&self, count: u64) {
        self.shared.drops.store(count, Relaxed);
    }

    /// Answers that were lost so.
    pub(crate) fn dropped(&self) -> u64 {
        self.shared.dropped.load(Relaxed)
    }

    /// The next `count` bulk requests are answered with 429 and do not reach the server.
    pub(crate) fn refuse(&self, count: u64) {
        self.shared.refusals.store(count, Relaxed);
    }

    /// From now on bulk requests are answered with this, head and body, and do not reach the server.
    pub(crate) fn answer_with(&self, answer: Option<String>) {
        *self.shared.page.lock().unwrap() = answer;
    }

    /// Requests that were refused by one of the two.
    pub(crate) fn refused(&self) -> u64 {
        self.shared.refused.load(Relaxed)
    }

    /// While it is true, every connection is closed at its next request.
    pub(crate) fn cut(&self, cut: bool) {
        self.shared.cut.store(cut, Relaxed);
    }

    /// How often this text is in what the server receives is counted from now on.
    pub(crate) fn watch(&self, text: &str) {
        self.shared.watched.lock().unwrap().insert(text.into(), 0);
    }

    /// How often a watched text was received.
    pub(crate) fn seen(&self, text: &str) -> u64 {
        self.shared.watched.lock().unwrap()[text]
    }

    /// From now on bulk requests are kept, for [`Self::kept`].
    pub(crate) fn keep_requests(&self, keep: bool) {
        self.shared.keep.store(keep, Relaxed);
    }

    /// The bulk requests kept so far, in the order in which they went to the server.
    pub(crate) fn kept(&self) -> Vec<Seen> {
        self.shared.kept.lock().unwrap().clone()
    }
}

/// Counts down; true while something was left.
fn take_one(counter: &AtomicU64) -> bool {
    counter.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1)).is_ok()
}

/// A bulk request in flight, until it is dropped.
struct InFlight(Arc<Shared>);

impl InFlight {
    fn begin(shared: &Arc<Shared>) -> Self {
        let now = shared.in_flight.fetch_add(1, Relaxed) + 1;
        shared.in_flight_most.fetch_max(now, Relaxed);
        Self(shared.clone())
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        *self.0.last.lock().unwrap() = Some(Instant::now());
        self.0.in_flight.fetch_sub(1, Relaxed);
    }
}

/// One connection of Rowtide's, with one of its own to the server. Any failure closes both.
async fn serve(client: TcpStream, server: u16, tls: Option<Tls>, shared: Arc<Shared>) {
    let Ok(server) = TcpStream::connect(("127.0.0.1", server)).await else { return };
    server.set_nodelay(true).ok();
    let wires: Option<(BoxWire, BoxWire)> = match tls {
        None => Some((Box::new(client), Box::new(server))),
        Some(tls) => tls.both(client, server).await,
    };
    let Some((mut client, mut server)) = wires else { return };
    let (mut from_client, mut from_server) = (Reader::default(), Reader::default());
    loop {
        let Some(head) = from_client.head(&mut client).await else { return };
        let is_bulk = head.lines().next().is_some_and(|line| line.contains("_bulk"));
        let limit = if is_bulk { shared.bytes_per_second.load(Relaxed) } else { 0 };
        let way = Some(&shared.up);
        let Some(body) = from_client.body(&mut client, &head, Body::Request, limit, way).await else {
            shared.given_up.fetch_add(u64::from(is_bulk), Relaxed);
            return;
        };
        let half = Duration::from_millis(shared.round_trip_ms.load(Relaxed)) / 2;
        tokio::time::sleep(half).await;
        if shared.cut.load(Relaxed) {
            return;
        }
        let passed = if is_bulk {
            pass_bulk(&mut client, &mut server, &mut from_server, &head, &body, &shared).await
        } else {
            pass(&mut client, &mut server, &mut from_server, &head, &body, &shared).await
        };
        if passed.is_none() {
            shared.given_up.fetch_add(u64::from(is_bulk), Relaxed);
            return;
        }
    }
}

async fn pass(
    client: &mut BoxWire,
    server: &mut BoxWire,
    from_server: &mut Reader,
    head: &str,
    body: &[u8],
    shared: &Shared,
) -> Option<()> {
    let answer = ask(server, from_server, head, body).await?;
    send_back(client, &answer, shared).await
}

/// Over the link, which is as far in this direction.
async fn send_back(client: &mut BoxWire, answer: &[u8], shared: &Shared) -> Option<()> {
    tokio::time::sleep(Duration::from_millis(shared.round_trip_ms.load(Relaxed)) / 2).await;
    shared.down.write(client, answer).await
}

async fn pass_bulk(
    client: &mut BoxWire,
    server: &mut BoxWire,
    from_server: &mut Reader,
    head: &str,
    body: &[u8],
    shared: &Arc<Shared>,
) -> Option<()> {
    let _in_flight = InFlight::begin(shared);
    let page = shared.page.lock().unwrap().clone();
    if let Some(page) = page {
        shared.refused.fetch_add(1, Relaxed);
        return send_back(client, page.as_bytes(), shared).await;
    }
    let is_full = shared.in_flight.load(Relaxed) > shared.room.load(Relaxed);
    if is_full || take_one(&shared.refusals) {
        shared.refused.fetch_add(1, Relaxed);
        let text = r#"{"error":{"type":"es_rejected_execution_exception","reason":"test"},"status":429}"#;
        let answer = format!(
            "HTTP/1.1 429 Too Many Requests\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{text}",
            text.len()
        );
        return send_back(client, answer.as_bytes(), shared).await;
    }
    tokio::time::sleep(Duration::from_millis(shared.hold_ms.load(Relaxed))).await;
    let (puts, deletes) = count_actions(body);
    shared.requests.fetch_add(1, Relaxed);
    shared.puts.fetch_add(puts, Relaxed);
    shared.deletes.fetch_add(deletes, Relaxed);
    for (text, seen) in shared.watched.lock().unwrap().iter_mut() {
        *seen += memmem::find_iter(body, text.as_bytes()).count() as u64;
    }
    if shared.keep.load(Relaxed) {
        let body = String::from_utf8_lossy(body).into_owned();
        shared.kept.lock().unwrap().push(Seen { head: head.into(), body });
    }
    let answer = ask(server, from_server, head, body).await?;
    if take_one(&shared.drops) {
        shared.dropped.fetch_add(1, Relaxed);
        return None;
    }
    tokio::time::sleep(Duration::from_millis(shared.delay_ms.load(Relaxed))).await;
    send_back(client, &answer, shared).await?;
    shared.answered.fetch_add(1, Relaxed);
    Some(())
}

/// Puts and deletes in the lines of a bulk request. An update is neither: Rowtide sends one, of a
/// document that is never there, so that a delete makes no index.
fn count_actions(body: &[u8]) -> (u64, u64) {
    let (mut puts, mut deletes) = (0, 0);
    let mut lines = body.split(|&byte| byte == b'\n').filter(|line| !line.is_empty());
    while let Some(action) = lines.next() {
        let word: Vec<u8> =
            action.iter().copied().filter(|byte| !byte.is_ascii_whitespace()).take(9).collect();
        if word == b"{\"delete\"" {
            deletes += 1;
        } else {
            lines.next().expect("a put is followed by its document");
            puts += u64::from(word != b"{\"update\"");
        }
    }
    (puts, deletes)
}

/// Sends a request and reads the whole answer, as bytes.
async fn ask(server: &mut BoxWire, from_server: &mut Reader, head: &str, body: &[u8]) -> Option<Vec<u8>> {
    send(server, &[head.as_bytes(), body]).await?;
    let answer_head = from_server.head(server).await?;
    let kind = if head.starts_with("HEAD ") { Body::None } else { Body::Answer };
    let answer_body = from_server.body(server, &answer_head, kind, 0, None).await?;
    let mut answer = answer_head.into_bytes();
    answer.extend_from_slice(&answer_body);
    Some(answer)
}

async fn send(to: &mut BoxWire, parts: &[&[u8]]) -> Option<()> {
    for part in parts {
        to.write_all(part).await.ok()?;
    }
    to.flush().await.ok()
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().skip(1).find_map(|line| {
        let (found, value) = line.split_once(':')?;
        found.eq_ignore_ascii_case(name).then(|| value.trim())
    })
}

/// What a message may have after its head.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Body {
    Request,
    Answer,
    None,
}

/// Cuts a stream of bytes into messages.
#[derive(Default)]
struct Reader {
    buffer: Vec<u8>,
}

impl Reader {
    /// Reads more; `None` at the end or at a failure.
    async fn more(&mut self, from: &mut BoxWire) -> Option<usize> {
        match from.read_buf(&mut self.buffer).await {
            Ok(0) | Err(_) => None,
            Ok(count) => Some(count),
        }
    }

    /// Up to and with the empty line.
    async fn head(&mut self, from: &mut BoxWire) -> Option<String> {
        loop {
            if let Some(end) = self.buffer.windows(4).position(|four| four == b"\r\n\r\n") {
                let head = self.buffer.drain(..end + 4).collect();
                return String::from_utf8(head).ok();
            }
            self.more(from).await?;
        }
    }

    /// The body's bytes as they came, chunk frames included.
    async fn body(
        &mut self,
        from: &mut BoxWire,
        head: &str,
        kind: Body,
        limit: u64,
        way: Option<&Way>,
    ) -> Option<Vec<u8>> {
        let status = head.split(' ').nth(1).unwrap_or_default();
        if kind == Body::None || (kind == Body::Answer && ["204", "304"].contains(&status)) {
            return Some(Vec::new());
        }
        if header(head, "transfer-encoding").is_some_and(|value| value.eq_ignore_ascii_case("chunked")) {
            return self.chunks(from).await;
        }
        let length = header(head, "content-length").map_or(0, |value| value.parse().unwrap());
        let began = Instant::now();
        let mut read = self.buffer.len();
        while self.buffer.len() < length {
            if limit > 0 {
                let due = Duration::from_secs_f64(read as f64 / limit as f64);
                tokio::time::sleep(due.saturating_sub(began.elapsed())).await;
                self.buffer.reserve(16 * 1024);
            }
            let Some(way) = way else {
                read += self.more(from).await?;
                continue;
            };
            let piece = from.read_buf(&mut (&mut self.buffer).limit(Way::PIECE)).await.ok()?;
            if piece == 0 {
                return None;
            }
            read += piece;
            way.pass(piece).await;
        }
        Some(self.buffer.drain(..length).collect())
    }

    async fn chunks(&mut self, from: &mut BoxWire) -> Option<Vec<u8>> {
        let mut at = 0;
        loop {
            let line_end = loop {
                if let Some(end) = self.buffer[at..].windows(2).position(|two| two == b"\r\n") {
                    break at + end;
                }
                self.more(from).await?;
            };
            let size = String::from_utf8_lossy(&self.buffer[at..line_end]).into_owned();
            let size = usize::from_str_radix(size.split(';').next()?.trim(), 16).ok()?;
            at = line_end + 2 + size + 2;
            while self.buffer.len() < at {
                self.more(from).await?;
            }
            if size == 0 {
                return Some(self.buffer.drain(..at).collect());
            }
        }
    }
}

#[test]
fn actions_are_counted_by_their_lines() {
    let body =
        b"{\"index\":{\"_id\":\"1\"}}\n{\"delete\":1}\n{ \"delete\": {\"_id\":\"2\"}}\n{\"index\":{}}\n{}\n\
        {\"update\":{\"_id\":\"rowtide:guard\"}}\n{\"doc\":{}}\n";
    assert_eq!(count_actions(body), (2, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_proxy_counts_and_meddles_as_told() {
    use super::http::Http;
    use super::servers::{Engine, Search};
    use reqwest::{Method, StatusCode};
    let search = Search::shared(Engine::Elasticsearch8).await;
    let proxy = Proxy::start(search.port()).await;
    let (http, index) = (Http::new(proxy.port), super::fresh_name("proxied"));
    let path = format!("/{index}/_bulk");
    let bulk = |id: u32| {
        let body = format!("{{\"index\":{{\"_id\":\"{id}\"}}}}\n{{}}\n{{\"delete\":{{\"_id\":\"x\"}}}}\n");
        http.try_call(Method::POST, &path, Some(body))
    };
    assert_eq!(bulk(1).await.unwrap().0, StatusCode::OK);
    assert_eq!((proxy.requests(), proxy.puts(), proxy.deletes()), (1, 1, 1));

    proxy.refuse(1);
    assert_eq!(bulk(2).await.unwrap().0, StatusCode::TOO_MANY_REQUESTS);
    assert_eq!((proxy.requests(), proxy.refused()), (1, 1));

    proxy.drop_answers(1);
    assert!(bulk(3).await.is_err());
    assert_eq!((proxy.dropped(), search.http.document(&index, "3").await.is_some()), (1, true));

    proxy.delay_answers(Duration::from_millis(300));
    let (began, delayed) = (Instant::now(), bulk(4));
    let watch = async {
        super::poll_until("a request in flight", Duration::from_secs(5), async || {
            (proxy.in_flight() == 1).then_some(())
        })
        .await;
    };
    let (answer, ()) = tokio::join!(delayed, watch);
    assert_eq!(answer.unwrap().0, StatusCode::OK);
    assert!(began.elapsed() >= Duration::from_millis(300));
    assert_eq!((proxy.in_flight(), proxy.in_flight_most()), (0, 1));
    assert_eq!(http.count(&index, serde_json::json!({ "match_all": {} })).await, 3);
}
