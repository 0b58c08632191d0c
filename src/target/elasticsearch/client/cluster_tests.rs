//! Several listeners as the nodes of one cluster: who is asked, what reaches them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods)]

use std::io::Read;
use std::sync::{Arc, Mutex as StdMutex};

use secrecy::SecretString;
use sources::world::RealWorld;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::*;
use crate::target::elasticsearch::Elasticsearch;
use crate::target::{Bulk, Outcome, Target};

/// Of a request: its head in small letters, its body.
type Heard = Arc<StdMutex<Vec<(String, Vec<u8>)>>>;
/// What is answered to a head; nothing closes the connection.
type Answers = Box<dyn Fn(&str) -> Option<String> + Send + Sync>;

struct Listener {
    port: u16,
    heard: Heard,
    work: JoinHandle<()>,
}

impl Listener {
    async fn start(answers: Answers) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (port, heard) = (listener.local_addr().unwrap().port(), Heard::default());
        let (answers, hears) = (Arc::new(answers), heard.clone());
        let work = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((mut socket, _)) = listener.accept().await {
                let (answers, hears) = (answers.clone(), hears.clone());
                connections.spawn(async move {
                    while let Some((head, body)) = request(&mut socket).await {
                        let answer = answers(&head);
                        hears.lock().unwrap().push((head, body));
                        let Some(answer) = answer else { return };
                        let length = answer.len();
                        let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{answer}");
                        socket.write_all(answer.as_bytes()).await.unwrap();
                    }
                });
            }
        });
        Self { port, heard, work }
    }

    fn bulks(&self) -> usize {
        self.heard.lock().unwrap().iter().filter(|(head, _)| head.starts_with("post /_bulk")).count()
    }

    /// Nobody listens any more, and what was connected is closed.
    async fn end(&mut self) {
        self.work.abort();
        let _aborted = (&mut self.work).await;
    }
}

async fn request(socket: &mut tokio::net::TcpStream) -> Option<(String, Vec<u8>)> {
    let mut bytes = Vec::new();
    loop {
        if let Some(end) = memchr::memmem::find(&bytes, b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&bytes[..end]).to_lowercase();
            let length =
                head.split("content-length: ").nth(1).map_or("0", |rest| rest.lines().next().unwrap());
            if bytes.len() >= end + 4 + length.parse::<usize>().unwrap() {
                return Some((head, bytes[end + 4..].to_vec()));
            }
        }
        if socket.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    }
}

const GOOD: &str = r#"{"errors":false,"items":[{"index":{"status":201}}]}"#;

fn good() -> Answers {
    Box::new(|_| Some(GOOD.to_owned()))
}

/// Names these ports in the recorded form of Elasticsearch 8.19.21, and takes bulks too.
fn naming(ports: Vec<u16>) -> Answers {
    let roles = r#"["data","data_cold","data_content","data_frozen","data_hot","data_warm","ingest","master","ml","remote_cluster_client","transform"]"#;
    let node = |port: &u16| {
        format!(r#""evUkuP{port}":{{"roles":{roles},"http":{{"publish_address":"127.0.0.1:{port}"}}}}"#)
    };
    let listing = format!(r#"{{"nodes":{{{}}}}}"#, ports.iter().map(node).collect::<Vec<_>>().join(","));
    Box::new(move |head| match head.starts_with("get /_nodes/http") {
        true => Some(listing.clone()),
        false => Some(GOOD.to_owned()),
    })
}

fn settings(ports: &[u16]) -> Settings {
    rustls::crypto::ring::default_provider().install_default().ok();
    let nodes = ports.iter().map(|port| format!("http://127.0.0.1:{port}")).collect();
    let mut settings = Settings::new(nodes);
    settings.auth = Auth::ApiKey(SecretString::from("a:b"));
    settings.request_timeout = Duration::from_secs(5);
    settings
}

fn target(settings: Settings) -> Elasticsearch {
    Elasticsearch::new(settings, RealWorld::shared()).unwrap()
}

async fn send(target: &Elasticsearch, document: &str) -> Result<Vec<Outcome>, TargetError> {
    let body = Bytes::from(format!("{{\"index\":{{\"_index\":\"a\",\"_id\":\"1\"}}}}\n{document}\n"));
    target.bulk(Bulk { opaque_id: "rowtide-test".to_owned(), body, actions: 1 }).await
}

#[tokio::test]
async fn the_data_nodes_that_the_cluster_names_are_asked_until_none_is_left() {
    let (mut one, mut other) = (Listener::start(good()).await, Listener::start(good()).await);
    let seed = Listener::start(naming(vec![one.port, other.port])).await;
    let target = target(Settings { sniff: true, ..settings(&[seed.port]) });
    for _ in 0..6 {
        assert_eq!(send(&target, "{}").await.unwrap(), [Outcome::Written]);
    }
    assert_eq!((one.bulks(), other.bulks(), seed.bulks()), (3, 3, 0));
    for node in [&one, &other, &seed] {
        let heard = node.heard.lock().unwrap();
        assert!(heard.iter().all(|(head, _)| head.contains("authorization: apikey")), "{heard:?}");
    }
    other.end().await;
    for _ in 0..4 {
        // A connection that was kept open and is closed now may say nothing certain, once.
        let _either = send(&target, "{}").await;
    }
    assert!(one.bulks() >= 6, "{}", one.bulks());
    one.end().await;
    for _ in 0..3 {
        let _either = send(&target, "{}").await;
    }
    assert_eq!(send(&target, "{}").await.unwrap(), [Outcome::Written]);
    assert!(seed.bulks() > 0);
}

#[tokio::test]
async fn a_cluster_that_names_nothing_is_reached_by_its_seeds() {
    let unnamed: [Answers; 3] = [
        naming(Vec::new()),
        Box::new(|head| Some(if head.starts_with("get") { "<html>" } else { GOOD }.to_owned())),
        good(),
    ];
    for answers in unnamed {
        let seed = Listener::start(answers).await;
        let target = target(Settings { sniff: true, ..settings(&[seed.port]) });
        for _ in 0..3 {
            assert_eq!(send(&target, "{}").await.unwrap(), [Outcome::Written]);
        }
        assert_eq!(seed.bulks(), 3);
        assert_eq!(seed.heard.lock().unwrap().len(), 4, "asked once, not before each request");
    }
}

#[tokio::test]
async fn law_3_what_may_have_been_executed_is_not_sent_to_another_node() {
    let silent = || -> Answers { Box::new(|_| None) };
    let (one, other) = (Listener::start(silent()).await, Listener::start(silent()).await);
    let target = target(settings(&[one.port, other.port]));
    let sent = send(&target, "{}").await;
    assert!(matches!(sent, Err(TargetError::Unresolved { .. })), "{sent:?}");
    assert_eq!(one.bulks() + other.bulks(), 1);
    // The next request goes to the node that has not failed.
    let sent = send(&target, "{}").await;
    assert!(matches!(sent, Err(TargetError::Unresolved { .. })), "{sent:?}");
    assert_eq!((one.bulks(), other.bulks()), (1, 1));
}

#[tokio::test]
async fn a_large_body_goes_out_compressed_and_a_small_one_as_it_is() {
    let node = Listener::start(good()).await;
    let target = target(Settings { gzip: true, ..settings(&[node.port]) });
    let document = format!("{{\"text\":\"{}\"}}", "wörter ".repeat(40_000));
    send(&target, "{}").await.unwrap();
    send(&target, &document).await.unwrap();
    let heard = node.heard.lock().unwrap();
    let [(small, plain), (large, packed)] = &heard[..] else { panic!("{} requests", heard.len()) };
    assert!(!small.contains("content-encoding") && plain.ends_with(b"\n{}\n"), "{small}");
    assert!(large.contains("content-encoding: gzip") && !large.contains("chunked"), "{large}");
    let mut text = String::new();
    flate2::read::GzDecoder::new(&packed[..]).read_to_string(&mut text).unwrap();
    assert!(packed.len() * 10 < text.len(), "{} of {}", packed.len(), text.len());
    assert_eq!(text, format!("{{\"index\":{{\"_index\":\"a\",\"_id\":\"1\"}}}}\n{document}\n"));
}
