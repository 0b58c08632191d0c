//! A few words with a search server, answers as JSON.

use std::sync::OnceLock;
use std::time::Duration;

use reqwest::{Certificate, Client, Method, StatusCode};
use serde_json::Value;

/// A search server's address.
#[derive(Clone, Debug)]
pub(crate) struct Http {
    pub(crate) base: String,
    client: Client,
    /// User and password.
    login: Option<(&'static str, &'static str)>,
}

impl Http {
    pub(crate) fn new(port: u16) -> Self {
        Self { base: format!("http://127.0.0.1:{port}"), client: Self::client(None), login: None }
    }

    /// By TLS, with a certificate of this authority, which is PEM.
    pub(crate) fn secured(port: u16, authority: &str, login: (&'static str, &'static str)) -> Self {
        let authority = Certificate::from_pem(authority.as_bytes()).unwrap();
        let client = Self::client(Some(authority));
        Self { base: format!("https://127.0.0.1:{port}"), client, login: Some(login) }
    }

    fn client(authority: Option<Certificate>) -> Client {
        static PROVIDER: OnceLock<()> = OnceLock::new();
        PROVIDER.get_or_init(|| {
            rustls::crypto::ring::default_provider().install_default().ok();
        });
        // No connection is kept: runtimes end with their tests, servers are restarted under way.
        let mut client =
            Client::builder().pool_max_idle_per_host(0).timeout(Duration::from_secs(180)).no_proxy();
        if let Some(authority) = authority {
            client = client.tls_certs_only([authority]);
        }
        client.build().unwrap()
    }

    /// Status and body; `Err` when no answer was read. A server that is short of memory (429, its circuit
    /// breaker) is asked again: that is nothing that a test asks about by this way.
    pub(crate) async fn try_call(
        &self,
        method: Method,
        path: &str,
        body: Option<String>,
    ) -> Result<(StatusCode, String), reqwest::Error> {
        for _ in 0..40 {
            let (status, text) = self.call_once(method.clone(), path, body.clone()).await?;
            if status != StatusCode::TOO_MANY_REQUESTS || !text.contains("circuit_breaking_exception") {
                return Ok((status, text));
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        self.call_once(method, path, body).await
    }

    async fn call_once(
        &self,
        method: Method,
        path: &str,
        body: Option<String>,
    ) -> Result<(StatusCode, String), reqwest::Error> {
        let mut request = self.client.request(method, format!("{}{path}", self.base));
        if let Some((username, password)) = self.login {
            request = request.basic_auth(username, Some(password));
        }
        if let Some(body) = body {
            let kind = if path.contains("_bulk") { "application/x-ndjson" } else { "application/json" };
            request = request.header("content-type", kind).body(body);
        }
        let answer = request.send().await?;
        let status = answer.status();
        Ok((status, answer.text().await?))
    }

    /// The body of a successful answer as text; anything else fails the test.
    pub(crate) async fn text(&self, method: Method, path: &str, body: Option<String>) -> String {
        let (status, text) = self.try_call(method.clone(), path, body).await.expect("the server answers");
        assert!(status.is_success(), "{method} {path}: {status}: {text}");
        text
    }

    /// The same as JSON.
    pub(crate) async fn json(&self, method: Method, path: &str, body: Option<Value>) -> Value {
        let text = self.text(method, path, body.map(|body| body.to_string())).await;
        serde_json::from_str(&text).expect("the answer is JSON")
    }

    pub(crate) async fn get(&self, path: &str) -> Value {
        self.json(Method::GET, path, None).await
    }

    /// Documents of an index that match, after a refresh; 0 when there is no such index yet.
    pub(crate) async fn count(&self, index: &str, query: Value) -> u64 {
        let (status, _) = self
            .try_call(Method::POST, &format!("/{index}/_refresh"), None)
            .await
            .expect("the server answers");
        if status == StatusCode::NOT_FOUND {
            return 0;
        }
        let body = serde_json::json!({ "query": query });
        self.json(Method::POST, &format!("/{index}/_count"), Some(body)).await["count"].as_u64().unwrap()
    }

    /// A document's `_source` with its `_version`, in real time; `None` when it is not there.
    pub(crate) async fn document(&self, index: &str, id: &str) -> Option<(Value, u64)> {
        let path = format!("/{index}/_doc/{}", percent_encoded(id));
        let (status, text) = self.try_call(Method::GET, &path, None).await.expect("the server answers");
        if status == StatusCode::NOT_FOUND {
            return None;
        }
        assert!(status.is_success(), "GET {path}: {status}: {text}");
        let answer: Value = serde_json::from_str(&text).unwrap();
        Some((answer["_source"].clone(), answer["_version"].as_u64().unwrap()))
    }
}

fn percent_encoded(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte);
    text.bytes()
        .map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}
