//! Real search servers: each engine that Rowtide is for, with its security or without, alone or in a cluster.

use std::fmt;
use std::fs;
use std::path::PathBuf;
use std::sync::Mutex;

use reqwest::Method;
use rustix::process::Signal;
use tokio::sync::OnceCell;

use super::certificates::{Authority, Paper, write};
use super::http::Http;
use super::processes::{free_port, fresh_folder};
use super::rowtide::Rowtide;
use super::servers::{START_LIMIT, Server};
use super::{Scale, poll_until, scale};

/// Which search server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Engine {
    Elasticsearch7,
    Elasticsearch8,
    Elasticsearch9,
    OpenSearch2,
    OpenSearch3,
    /// With logins and TLS.
    Elasticsearch8Secured,
    /// With logins and TLS.
    OpenSearch2Secured,
}

impl Engine {
    const COUNT: usize = 7;

    fn script(self) -> &'static str {
        match self {
            Self::Elasticsearch7 => "start-es7.sh",
            Self::Elasticsearch8 => "start-es8.sh",
            Self::Elasticsearch9 => "start-es9.sh",
            Self::OpenSearch2 => "start-os2.sh",
            Self::OpenSearch3 => "start-os3.sh",
            Self::Elasticsearch8Secured => "start-es8-sec.sh",
            Self::OpenSearch2Secured => "start-os2-sec.sh",
        }
    }

    /// Its user, as the script makes it.
    fn login(self) -> Option<(&'static str, &'static str)> {
        match self {
            Self::Elasticsearch8Secured => Some(("rowtide", "rowtide-secret")),
            Self::OpenSearch2Secured => Some(("admin", "admin")),
            _ => None,
        }
    }
}

/// What a client of a secured server needs.
pub(crate) struct Security {
    pub(crate) username: &'static str,
    pub(crate) password: &'static str,
    /// Who issued the server's certificate.
    pub(crate) authority: Authority,
    /// Its certificate as a file.
    pub(crate) ca_file: PathBuf,
}

impl fmt::Debug for Security {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Security").field("username", &self.username).field("ca_file", &self.ca_file).finish()
    }
}

/// A real Elasticsearch or OpenSearch.
#[derive(Debug)]
pub(crate) struct Search {
    server: Server,
    pub(crate) engine: Engine,
    pub(crate) http: Http,
    pub(crate) security: Option<Security>,
}

impl Search {
    /// The shared server of that kind.
    pub(crate) async fn shared(engine: Engine) -> &'static Self {
        static SHARED: [OnceCell<Search>; Engine::COUNT] = [const { OnceCell::const_new() }; Engine::COUNT];
        SHARED[engine as usize].get_or_init(|| Self::start(engine, &[])).await
    }

    /// A server of one's own; `settings` as in `["http.max_content_length=2mb"]`.
    pub(crate) async fn start(engine: Engine, settings: &[&str]) -> Self {
        // 512 MiB are full after some 200,000 of the suite's documents: its circuit breaker trips.
        let heap = if scale() == Scale::Full { "1g" } else { "512m" };
        Self::start_with(engine, heap, settings).await
    }

    /// As [`Self::start`], with a heap for a thousand indices and documents of many megabytes.
    pub(crate) async fn roomy(engine: Engine, settings: &[&str]) -> Self {
        let heap = if scale() == Scale::Full { "4g" } else { "1g" };
        Self::start_with(engine, heap, settings).await
    }

    /// As [`Self::start`], with a heap as in `1g`.
    pub(crate) async fn start_with(engine: Engine, heap: &str, settings: &[&str]) -> Self {
        let search = Self::prepare(engine, free_port(100), heap, settings);
        search.start_again().await;
        search
    }

    /// A cluster of so many nodes, each with a copy of whatever has a replica.
    pub(crate) async fn cluster(engine: Engine, nodes: usize) -> Vec<Self> {
        let ports: Vec<u16> = (0..nodes).map(|_| free_port(100)).collect();
        let seeds: Vec<String> = ports.iter().map(|port| format!("127.0.0.1:{}", port + 100)).collect();
        let seeds = format!("discovery.seed_hosts={}", seeds.join(","));
        let names: Vec<String> = (0..nodes).map(|node| format!("node-{node}")).collect();
        let masters = format!("cluster.initial_master_nodes={}", names.join(","));
        let prepare = |(&port, name): (&u16, &String)| {
            let name = format!("node.name={name}");
            Self::prepare(engine, port, "512m", &[&seeds, &masters, &name])
        };
        let cluster: Vec<Self> = ports.iter().zip(&names).map(prepare).collect();
        // None is ready before it has found the others.
        cluster.iter().for_each(|node| node.server.launch());
        for node in &cluster {
            node.wait_until_ready().await;
        }
        cluster[0].wait_until_green(nodes).await;
        cluster
    }

    /// Not started yet.
    fn prepare(engine: Engine, port: u16, heap: &str, settings: &[&str]) -> Self {
        let folder = fresh_folder("search");
        let security = engine.login().map(|(username, password)| {
            let authority = Authority::new("the tests' authority of search servers");
            fs::create_dir_all(folder.join("data/config")).unwrap();
            let ca_file = write(&folder.join("data/config"), "ca.pem", &authority.certificate);
            Security { username, password, authority, ca_file }
        });
        let http = match &security {
            Some(Security { username, password, authority, .. }) => {
                Http::secured(port, &authority.certificate, (username, password))
            }
            None => Http::new(port),
        };
        let server = Server {
            script: engine.script(),
            environment: vec![("HEAP".into(), heap.into())],
            arguments: settings.iter().map(|&setting| setting.into()).collect(),
            ends_by: Signal::TERM,
            folder,
            port,
            child: Mutex::new(None),
        };
        let search = Self { server, engine, http, security };
        if let Some(security) = &search.security {
            search.show(&security.authority.issue(&["127.0.0.1", "localhost"], 2999));
        }
        search
    }

    /// The certificate that it shows from its next start on.
    pub(crate) fn show(&self, paper: &Paper) {
        let config = self.server.folder.join("data/config");
        write(&config, "node.pem", &paper.certificate);
        write(&config, "node-key.pem", &paper.key);
    }

    pub(crate) fn port(&self) -> u16 {
        self.server.port
    }

    /// See [`Server::pids`].
    pub(crate) fn pids(&self) -> Vec<u32> {
        self.server.pids()
    }

    /// The address of what listens on this port as this server does.
    pub(crate) fn url(&self, port: u16) -> String {
        let scheme = if self.security.is_some() { "https" } else { "http" };
        format!("{scheme}://127.0.0.1:{port}")
    }

    /// What `[targets.NAME]` needs besides the address: nothing, or the login, and on OpenSearch the authority.
    pub(crate) fn login(&self) -> String {
        let Some(Security { username, password, ca_file, .. }) = &self.security else { return String::new() };
        let login = format!("username = \"{username}\"\npassword = \"{password}\"\n");
        match self.trusts_by_environment() {
            true => login,
            false => format!("{login}ca_file = \"{}\"\n", ca_file.display()),
        }
    }

    /// Lets the program trust the server, where [`Self::login`] does not.
    pub(crate) fn be_trusted_by(&self, rowtide: &mut Rowtide) {
        if let Some(security) = self.security.as_ref().filter(|_| self.trusts_by_environment()) {
            rowtide.environment("SSL_CERT_FILE", security.ca_file.to_str().unwrap());
        }
    }

    /// One of the two ways for each of the two.
    fn trusts_by_environment(&self) -> bool {
        self.engine == Engine::Elasticsearch8Secured
    }

    /// Stops it: `Signal::TERM` cleanly, `Signal::KILL` as a crash does.
    pub(crate) fn stop(&self, signal: Signal) {
        self.server.stop(signal);
    }

    /// Starts it on its data and port, and waits until it answers and its shards are there.
    pub(crate) async fn start_again(&self) {
        self.server.launch();
        self.wait_until_ready().await;
    }

    async fn wait_until_ready(&self) {
        poll_until("an answer of the search server", START_LIMIT, async || {
            self.server.assert_runs();
            let health = "/_cluster/health?wait_for_status=yellow&timeout=5s";
            let root = self.http.try_call(Method::GET, "/", None).await.ok()?;
            let health = self.http.try_call(Method::GET, health, None).await.ok()?;
            (root.0.is_success() && health.0.is_success()).then_some(())
        })
        .await;
    }

    /// Waits until the cluster has so many nodes, and each copy of each shard is there.
    pub(crate) async fn wait_until_green(&self, nodes: usize) {
        let health = format!("/_cluster/health?wait_for_status=green&wait_for_nodes={nodes}&timeout=5s");
        poll_until("a green cluster", START_LIMIT, async || {
            self.server.assert_runs();
            let health = self.http.try_call(Method::GET, &health, None).await.ok()?;
            health.0.is_success().then_some(())
        })
        .await;
    }
}
