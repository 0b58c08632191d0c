//! Requests that no friend sends: each is refused, and nothing changes.

use std::time::Duration;

use reqwest::Method;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{Channel, client};
use crate::harness::pair::{Pair, Setup};
use crate::harness::poll_until;

const ADMIN: &str = "admin-s3cret-0123456789";
const READ: &str = "reader-s3cret-0123456789";

async fn pair(more: &str) -> (Pair, Channel) {
    let sql = "CREATE TABLE t (id bigint PRIMARY KEY, n bigint NOT NULL);
        INSERT INTO t SELECT id, 0 FROM generate_series(1, 2000) id;";
    let setup = Setup { sql, tables: &["t"], ..Setup::default() };
    let mut pair = Pair::set(crate::harness::servers::Postgres::shared().await, setup).await;
    let channel = Channel::of(&mut pair, more);
    pair.rowtide.run_again();
    channel.listens().await;
    pair.wait_until_following().await;
    (pair, channel)
}

/// Everything that is said back on a connection of one's own until it is closed.
async fn say(port: u16, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    // Whoever refuses closes, perhaps before all of it was sent.
    let _refused = stream.write_all(bytes).await;
    let mut answer = Vec::new();
    let reading = async {
        let mut buffer = [0; 4096];
        while let Ok(count @ 1..) = stream.read(&mut buffer).await {
            answer.extend_from_slice(&buffer[..count]);
        }
    };
    let limit = tokio::time::timeout(Duration::from_secs(60), reading).await;
    assert!(limit.is_ok(), "the connection was left open");
    String::from_utf8_lossy(&answer).into_owned()
}

fn status_of(answer: &str) -> u16 {
    answer.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0)
}

/// As it was before: not paused, no rate, and still equal.
async fn assert_unharmed(pair: &mut Pair, channel: &Channel) {
    let said = channel.pipeline().await;
    assert_eq!(
        (said["paused"].as_bool(), said["state"].as_str()),
        (Some(false), Some("following")),
        "{said}"
    );
    assert!(said["throttle"].as_object().unwrap().values().all(Value::is_null), "{said}");
    pair.sql("UPDATE t SET n = n + 1 WHERE id <= 100").await;
    pair.caught_up().await;
    pair.assert_equal().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_requests_are_refused_and_change_nothing() {
    let (mut pair, channel) = pair("").await;
    let (port, pause) = (channel.port, channel.path("/pause"));
    let host = format!("Host: 127.0.0.1:{port}\r\n");
    let end = "Connection: close\r\n\r\n";
    let huge = "x".repeat(1 << 20);
    for (status, request) in [
        // Bodies: announced as huge, sent as huge, in chunks, of a wrong length.
        (413, format!("POST {pause} HTTP/1.1\r\n{host}Content-Length: 1000000000000\r\n{end}")),
        (413, format!("POST {pause} HTTP/1.1\r\n{host}Content-Length: {}\r\n{end}{huge}", huge.len())),
        (
            413,
            format!(
                "POST {pause} HTTP/1.1\r\n{host}Transfer-Encoding: chunked\r\n{end}100000\r\n{huge}\r\n0\r\n\r\n"
            ),
        ),
        (400, format!("POST {pause} HTTP/1.1\r\n{host}Content-Length: -1\r\n{end}")),
        (400, format!("POST {pause} HTTP/1.1\r\n{host}Content-Length: 2\r\nContent-Length: 3\r\n{end}{{}}")),
        (
            400,
            format!(
                "POST {pause} HTTP/1.1\r\n{host}Transfer-Encoding: chunked\r\n{end}zz\r\n{{}}\r\n0\r\n\r\n"
            ),
        ),
        // Heads.
        (431, format!("GET /metrics HTTP/1.1\r\n{host}X: {huge}\r\n{end}")),
        (431, format!("GET /metrics HTTP/1.1\r\n{host}{}{end}", "A: b\r\n".repeat(200))),
        (431, format!("GET /{huge} HTTP/1.1\r\n{host}{end}")),
        (400, "\x16\x03\x01\x02\x00\x01\x00\x01\u{fc}\x03\x03 TLS\r\n\r\n".to_owned()),
        (400, format!("GET /metrics HTTP/1.1\r\n{end}")),
        // Places.
        (403, format!("POST {pause} HTTP/1.1\r\nHost: evil.example\r\n{end}")),
        (403, format!("POST {pause} HTTP/1.1\r\n{host}Origin: http://evil.example\r\n{end}")),
        (404, format!("POST /api/v1/pipelines/../pipelines{} HTTP/1.1\r\n{host}{end}", &pause[17..])),
        (404, format!("POST /api/v1/pipelines/none/pause HTTP/1.1\r\n{host}{end}")),
        (404, format!("POST {} HTTP/1.1\r\n{host}{end}", pause.replace("/pause", "%2fpause/"))),
        (404, format!("GET /../../etc/passwd HTTP/1.1\r\n{host}{end}")),
        (405, format!("GET {pause} HTTP/1.1\r\n{host}{end}")),
        (400, format!("POST http://127.0.0.1:{port}{pause} HTTP/1.1\r\n{host}{end}")),
    ] {
        let answer = say(port, request.as_bytes()).await;
        let line: String = request.chars().take(90).collect();
        // Who still sends when the connection is closed may not get to read why.
        if answer.is_empty() && request.len() > 100_000 {
            continue;
        }
        assert_eq!(status_of(&answer), status, "{line:?}: {answer}");
        // What is said is JSON, and tells nothing of the inside.
        let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
        assert!(body.is_empty() || body.starts_with("{\"error\":{\"code\":"), "{line:?}: {answer}");
        assert!(!answer.contains(".rs") && !answer.contains("hyper"), "{answer}");
    }
    let throttle = channel.path("/throttle");
    for body in
        ["{", "[[[[", "null", "{\"documents_per_s\":1e400}", "{\"documents_per_s\":18446744073709551616}"]
    {
        let answer = channel.http.try_call(Method::POST, &throttle, Some(body.to_owned())).await.unwrap();
        assert_eq!(answer.0, 400, "{body}: {}", answer.1);
    }
    let deep = "[".repeat(4_000);
    assert_eq!(channel.http.try_call(Method::POST, &throttle, Some(deep)).await.unwrap().0, 400);
    assert_unharmed(&mut pair, &channel).await;
    pair.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_tokens_are_refused_and_no_secret_is_ever_said() {
    let (mut pair, channel) = pair(&format!("admin_token = \"{ADMIN}\"\nread_token = \"{READ}\"")).await;
    let client = client();
    let call = async |method: Method, path: &str, token: &str| {
        let mut request = client.request(method, format!("{}{path}", channel.http.base));
        if !token.is_empty() {
            request = request.bearer_auth(token);
        }
        let answer = request.send().await.unwrap();
        let status = answer.status().as_u16();
        let text = answer.text().await.unwrap();
        assert!(!text.contains("s3cret"), "{text}");
        (status, text)
    };
    let all = "/api/v1/pipelines";
    for token in ["", "guess", &ADMIN[1..], &ADMIN.to_uppercase(), &format!("{ADMIN}x")] {
        for (method, path) in
            [(Method::GET, all), (Method::GET, "/metrics"), (Method::POST, &channel.path("/pause"))]
        {
            assert_eq!(call(method, path, token).await.0, 401, "{path} {token}");
        }
    }
    assert_eq!(call(Method::GET, all, READ).await.0, 200);
    for act in ["/pause", "/resume", "/throttle", "/restart"] {
        assert_eq!(call(Method::POST, &channel.path(act), READ).await.0, 403, "{act}");
    }
    let paused: Value = serde_json::from_str(&call(Method::GET, all, READ).await.1).unwrap();
    assert_eq!(paused["pipelines"][0]["paused"], false, "{paused}");
    assert_eq!(call(Method::POST, &channel.path("/pause"), ADMIN).await.0, 200);
    // The command line reads its token from the configuration.
    let output = pair.rowtide.call(&["resume", pair.pipeline(), "--config", "rowtide.toml"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let said: Value = serde_json::from_str(&call(Method::GET, all, ADMIN).await.1).unwrap();
    assert_eq!(said["pipelines"][0]["paused"], false, "{said}");
    pair.sql("UPDATE t SET n = 7 WHERE id <= 100").await;
    pair.caught_up().await;
    pair.assert_equal().await;
    let (code, log) = pair.rowtide.stop();
    assert_eq!(code, 0);
    assert!(log.iter().all(|line| !line.text.contains("s3cret")), "a token is in the log");
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_clients_and_too_many_of_them_hold_nobody_up() {
    let (mut pair, channel) = pair("").await;
    let port = channel.port;
    // Clients that say a little and then nothing, more than are let in.
    let mut slow = Vec::new();
    for number in 0..300 {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        let part = match number % 3 {
            0 => String::new(),
            1 => "GET /metrics HTTP/1.1\r\nHost: 127.0".to_owned(),
            _ => format!(
                "POST {} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 9\r\n\r\n{{",
                channel.path("/pause")
            ),
        };
        let _refused = stream.write_all(part.as_bytes()).await;
        slow.push(stream);
    }
    let refused = say(port, b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n").await;
    assert!(refused.is_empty() || refused.starts_with("HTTP/1.1 503 "), "{refused}");
    // The pipeline does not mind.
    pair.sql("UPDATE t SET n = 5 WHERE id > 1000").await;
    pair.caught_up().await;
    // They are all put out, without having closed themselves.
    poll_until("seats for others", Duration::from_secs(60), async || {
        let answer = channel.http.try_call(Method::GET, "/healthz", None).await.ok()?;
        (answer.0 == 200).then_some(())
    })
    .await;
    for stream in &mut slow {
        let ended = async { while let Ok(1..) = stream.read(&mut [0; 4096]).await {} };
        let limit = tokio::time::timeout(Duration::from_secs(60), ended).await;
        assert!(limit.is_ok(), "a slow client still holds its connection");
    }
    assert_unharmed(&mut pair, &channel).await;
    println!("at most {} KiB were resident", pair.rowtide.high_water_kib());
    assert!(pair.rowtide.high_water_kib() < 256 << 10);
    pair.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_connections_stay_open_side_by_side() {
    let (mut pair, channel) = pair("").await;
    let mut open = Vec::new();
    for _ in 0..200 {
        let mut stream = TcpStream::connect(("127.0.0.1", channel.port)).await.unwrap();
        stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n").await.unwrap();
        open.push(stream);
    }
    for stream in &mut open {
        let mut answer = [0; 15];
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"HTTP/1.1 200 OK");
    }
    assert_unharmed(&mut pair, &channel).await;
    pair.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_somebody_has_halts_with_a_hint() {
    let (mut pair, channel) = pair("").await;
    pair.stop();
    let _other = std::net::TcpListener::bind(("127.0.0.1", channel.port)).unwrap();
    pair.rowtide.run_again();
    let line = pair.assert_halts("http-address-unusable");
    assert!(line.text.contains(&channel.port.to_string()), "{}", line.text);
}
