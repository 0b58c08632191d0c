//! What becomes of answers that no cluster gives: a server of a few lines says them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_methods)]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use sources::world::RealWorld;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::Notify;

use super::*;
use crate::target::elasticsearch::Elasticsearch;
use crate::target::{Bulk, Outcome, Target};

/// A server that gives each request the same answer and then closes; nothing when it is empty.
struct Fake {
    url: String,
    requests: Arc<AtomicUsize>,
    hung_up: Arc<Notify>,
}

async fn fake(answer: String) -> Fake {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (requests, hung_up) = (Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
    let (count, notice) = (requests.clone(), hung_up.clone());
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let (mut request, mut answered) = (Vec::new(), false);
            while let Ok(1..) = socket.read_buf(&mut request).await {
                if answered || !request.ends_with(b"\n") {
                    continue;
                }
                count.fetch_add(1, Ordering::SeqCst);
                answered = true;
                if !answer.is_empty() {
                    socket.write_all(answer.as_bytes()).await.unwrap();
                    break;
                }
            }
            notice.notify_one();
        }
    });
    Fake { url, requests, hung_up }
}

fn http(status: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

async fn send(fake: &Fake) -> Result<Vec<Outcome>, TargetError> {
    rustls::crypto::ring::default_provider().install_default().ok();
    let mut settings = Settings::new(vec![fake.url.clone()]);
    settings.request_timeout = Duration::from_millis(300);
    let target = Elasticsearch::new(settings, RealWorld::shared()).unwrap();
    let body = Bytes::from_static(b"{\"index\":{\"_index\":\"a\",\"_id\":\"1\"}}\n{}\n");
    target.bulk(Bulk { opaque_id: "rowtide-test".to_owned(), body, actions: 1 }).await
}

const GOOD: &str = r#"{"errors":false,"items":[{"index":{"status":201}}]}"#;

#[tokio::test]
async fn a_whole_answer_is_believed_and_anything_less_is_not() {
    assert_eq!(send(&fake(http("200 OK", GOOD)).await).await.unwrap(), [Outcome::Written]);
    let cut = http("200 OK", GOOD);
    let endless = http("200 OK", &format!("{GOOD}{}", " ".repeat(1 << 20)));
    let unresolved = [
        cut[..cut.len() - 1].to_owned(),
        cut[..20].to_owned(),
        "nonsense\r\n\r\n".to_owned(),
        endless,
        http("200 OK", "<html>a captive portal</html>"),
        http("200 OK", ""),
        http("202 Accepted", GOOD),
        http("502 Bad Gateway", "<html>"),
        http("502 Bad Gateway", "<html><body>a proxy says that the node is away</body></html>"),
        http("503 Service Unavailable", r#"{"error":{"type":"x","reason":"y"},"status":503}"#),
    ];
    for answer in unresolved {
        let server = fake(answer.clone()).await;
        let sent = send(&server).await;
        let text = &answer[..answer.len().min(80)];
        assert!(matches!(sent, Err(TargetError::Unresolved { .. })), "{text:?}: {sent:?}");
        assert_eq!(server.requests.load(Ordering::SeqCst), 1, "{text:?}");
    }
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let elsewhere = fake(http("200 OK", GOOD)).await;
    let status = format!("307 Temporary Redirect\r\nlocation: {}/_bulk", elsewhere.url);
    let sent = send(&fake(http(&status, "")).await).await;
    assert!(matches!(&sent, Err(TargetError::Halt { hint, .. }) if hint.contains("nodes")), "{sent:?}");
    assert_eq!(elsewhere.requests.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn the_time_limit_closes_the_connection() {
    let silent = fake(String::new()).await;
    let sent = send(&silent).await;
    assert!(matches!(sent, Err(TargetError::TimedOut { .. })), "{sent:?}");
    tokio::time::timeout(Duration::from_secs(5), silent.hung_up.notified()).await.expect("it hangs up");
    assert_eq!(silent.requests.load(Ordering::SeqCst), 1);
}
