//! A process as those who run it see it: several pipelines in it; and it is asked, told and attacked through its control channel.

mod channel;
mod hostile;
mod several;

use std::time::Duration;

use reqwest::{Client, Method};
use serde_json::Value;

use crate::harness::http::Http;
use crate::harness::pair::PATIENCE;
use crate::harness::pair::Pair;
use crate::harness::poll_until;
use crate::harness::processes::free_port;

/// The control channel of a pair's process.
struct Channel {
    http: Http,
    port: u16,
    name: String,
}

impl Channel {
    /// Configures one for the next run; `more` lines of the section.
    fn of(pair: &mut Pair, more: &str) -> Self {
        let port = free_port(0);
        pair.configure(&format!("\n[http]\nlisten = \"127.0.0.1:{port}\"\n{more}\n"));
        Self { http: Http::new(port), port, name: pair.pipeline().to_owned() }
    }

    fn path(&self, act: &str) -> String {
        format!("/api/v1/pipelines/{}{act}", self.name)
    }

    /// What is said of the pipeline; the process must listen.
    async fn pipeline(&self) -> Value {
        self.http.get(&self.path("")).await["pipeline"].clone()
    }

    /// Asks for a change that is granted.
    async fn post(&self, act: &str, body: &str) -> Value {
        let text = self.http.text(Method::POST, &self.path(act), Some(body.to_owned())).await;
        serde_json::from_str(&text).unwrap()
    }

    /// Waits until the process listens.
    async fn listens(&self) {
        poll_until("the channel to listen", PATIENCE, async || {
            self.http.try_call(Method::GET, "/healthz", None).await.ok().map(drop)
        })
        .await;
    }

    /// Waits until the pipeline says that.
    async fn says(&self, what: &str, is_so: impl Fn(&Value) -> bool) -> Value {
        poll_until(what, PATIENCE, async || {
            let pipeline = self.pipeline().await;
            is_so(&pipeline).then_some(pipeline)
        })
        .await
    }
}

/// A client that keeps its connections.
fn client() -> Client {
    Client::builder().no_proxy().timeout(Duration::from_secs(60)).build().unwrap()
}

/// Seconds of processor time that a process has used: both kinds, of all its threads.
fn processor_seconds(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    let ticks: f64 = fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap();
    ticks / rustix::param::clock_ticks_per_second() as f64
}
