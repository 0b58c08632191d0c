//! TLS and logins of the PostgreSQL source, on real servers with certificates of the test's own.
//!
//! A role of the server here is let in by TLS only, without TLS only, or by a client's certificate only
//! (`pg_hba.conf`): so whether a connection was encrypted is the server's word. The proxy before the search server
//! runs beside a test, which waits for processes: hence several threads.

mod rotation;
mod verification;

use std::fs;
use std::path::PathBuf;
use std::process::Output;
use std::time::{Duration, Instant};

use tokio::sync::OnceCell;

use crate::harness::pair::{Pair, Setup};
use crate::harness::processes::fresh_folder;
use crate::harness::servers::{Postgres, client};

use crate::harness::certificates::{Authority, Paper, give_to_the_server, write, write_private};

/// Every role's password.
const PASSWORD: &str = "s3cret-of-the-role";

const HBA: &str = "
host      all postgres,rotated 127.0.0.1/32 scram-sha-256
hostssl   all tls_only         127.0.0.1/32 scram-sha-256
hostnossl all plain_only       127.0.0.1/32 scram-sha-256
hostssl   all certified        127.0.0.1/32 scram-sha-256 clientcert=verify-ca
hostssl   all by_certificate   127.0.0.1/32 cert
";

/// A PostgreSQL with TLS.
struct Server {
    postgres: Postgres,
    folder: PathBuf,
    authority: Authority,
}

impl Server {
    /// One for all tests: they run one after the other, and each shows the certificate that it needs.
    async fn shared() -> &'static Self {
        static SHARED: OnceCell<Server> = OnceCell::const_new();
        SHARED.get_or_init(Self::start).await
    }

    async fn start() -> Self {
        let folder = fresh_folder("tls");
        let authority = Authority::new("the tests' authority");
        let path = |name: &str| folder.join(name).display().to_string();
        write(&folder, "authority.pem", &authority.certificate);
        write(&folder, "pg_hba.conf", HBA);
        install(&folder, &authority.issue(&["localhost", "127.0.0.1"], 2999));
        let settings = [
            "ssl=on".to_owned(),
            format!("ssl_cert_file={}", path("server.pem")),
            format!("ssl_key_file={}", path("server.key")),
            format!("ssl_ca_file={}", path("authority.pem")),
            format!("hba_file={}", path("pg_hba.conf")),
        ];
        let arguments: Vec<&str> = settings.iter().flat_map(|setting| ["-c", setting]).collect();
        let postgres = Postgres::start("18", &arguments).await;
        let admin = client(postgres.port(), "postgres").await;
        for role in ["rotated", "tls_only", "plain_only", "certified", "by_certificate"] {
            let sql = format!("CREATE ROLE {role} LOGIN SUPERUSER PASSWORD '{PASSWORD}'");
            admin.batch_execute(&sql).await.unwrap();
        }
        Self { postgres, folder, authority }
    }

    /// From now on, or a moment later, the server has this certificate.
    async fn show(&self, paper: &Paper) {
        install(&self.folder, paper);
        client(self.postgres.port(), "postgres")
            .await
            .batch_execute("SELECT pg_reload_conf()")
            .await
            .unwrap();
    }

    /// The authority's certificate, for `sslrootcert`.
    fn roots(&self) -> String {
        self.folder.join("authority.pem").display().to_string()
    }

    /// A database that can be followed.
    async fn pair(&self) -> Pair {
        pair(&self.postgres).await
    }
}

fn install(folder: &std::path::Path, paper: &Paper) {
    write(folder, "server.pem", &paper.certificate);
    give_to_the_server(&write_private(folder, "server.key", &paper.key));
}

async fn pair(postgres: &Postgres) -> Pair {
    let sql = "CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t VALUES (1, 'one')";
    Pair::set(postgres, Setup { sql, tables: &["t"], ..Setup::default() }).await
}

/// Connects as this role with these lines in the section, by way of this host.
fn configure(pair: &Pair, role: &str, host: &str, lines: &str) {
    let (port, name) = (pair.database.port, &pair.database.name);
    let before = format!("url = \"postgres://postgres:postgres@127.0.0.1:{port}/{name}\"\n");
    assert!(pair.config.contains(&before));
    let after = format!("url = \"postgres://{role}@{host}:{port}/{name}\"\n{lines}\n");
    let text = format!("data_dir = \"data\"\n{}", pair.config.replace(&before, &after));
    fs::write(pair.rowtide.folder.join("rowtide.toml"), text).unwrap();
}

/// The same with the role's password.
fn configure_known(pair: &Pair, role: &str, host: &str, lines: &str) {
    configure(pair, role, host, &format!("password = \"{PASSWORD}\"\n{lines}"));
}

fn words(output: &Output) -> String {
    [&output.stdout[..], &output.stderr[..]].map(String::from_utf8_lossy).concat()
}

/// `rowtide check` ends with this code and says this. The server takes a new certificate a moment later.
async fn assert_check(pair: &Pair, code: i32, says: &str) {
    let end = Instant::now() + Duration::from_secs(20);
    loop {
        let output = pair.rowtide.call(&["check", "--config", "rowtide.toml"]);
        let said = words(&output);
        assert!(!said.contains("s3cret"), "a secret is said: {said}");
        if output.status.code() == Some(code) && said.contains(says) {
            return println!("{said}");
        }
        assert!(Instant::now() < end, "{code} and {says:?} are expected, not {:?}: {said}", output.status);
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

const FINE: &str = "everything is there";

#[tokio::test(flavor = "multi_thread")]
async fn each_sslmode_against_a_server_without_tls() {
    let pair = pair(Postgres::shared().await).await;
    for line in ["", "sslmode = \"disable\"", "sslmode = \"allow\"", "sslmode = \"prefer\""] {
        configure(&pair, "postgres:postgres", "127.0.0.1", line);
        assert_check(&pair, 0, FINE).await;
    }
    let server = Server::shared().await;
    let roots = format!("sslrootcert = \"{}\"", server.roots());
    for (mode, line) in [("require", ""), ("verify-ca", roots.as_str()), ("verify-full", roots.as_str())] {
        configure(&pair, "postgres:postgres", "127.0.0.1", &format!("sslmode = \"{mode}\"\n{line}"));
        assert_check(&pair, 4, &format!("TLS: the server has no TLS, and sslmode={mode} wants it")).await;
    }
    let mut pair = pair;
    pair.rowtide.run_again();
    let line = pair.assert_halts("tls-failed");
    assert!(line.text.contains("the server has no TLS"), "{}", line.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_sslmode_against_a_server_with_tls_is_what_its_name_says() {
    let server = Server::shared().await;
    server.show(&server.authority.issue(&["localhost", "127.0.0.1"], 2999)).await;
    let pair = server.pair().await;
    let roots = format!("sslrootcert = \"{}\"", server.roots());
    let plain = "no pg_hba.conf entry for host \"127.0.0.1\"";
    let encrypted = "SSL encryption";
    // By TLS only.
    for (mode, line) in [
        ("allow", ""),
        ("prefer", ""),
        ("require", ""),
        ("require", roots.as_str()),
        ("verify-ca", roots.as_str()),
        ("verify-full", roots.as_str()),
    ] {
        configure_known(&pair, "tls_only", "127.0.0.1", &format!("sslmode = \"{mode}\"\n{line}"));
        assert_check(&pair, 0, FINE).await;
    }
    configure_known(&pair, "tls_only", "127.0.0.1", "");
    assert_check(&pair, 0, FINE).await;
    configure_known(&pair, "tls_only", "localhost", &roots);
    assert_check(&pair, 0, FINE).await;
    configure_known(&pair, "tls_only", "127.0.0.1", "sslmode = \"disable\"");
    assert_check(&pair, 4, plain).await;
    // Without TLS only.
    for mode in ["disable", "allow", "prefer"] {
        configure_known(&pair, "plain_only", "127.0.0.1", &format!("sslmode = \"{mode}\""));
        assert_check(&pair, 0, FINE).await;
    }
    for line in ["sslmode = \"require\"", roots.as_str()] {
        configure_known(&pair, "plain_only", "127.0.0.1", line);
        assert_check(&pair, 4, encrypted).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_environment_of_libpq_and_its_password_file_say_what_the_section_leaves_out() {
    let server = Server::shared().await;
    server.show(&server.authority.issue(&["localhost"], 2999)).await;
    let mut pair = server.pair().await;
    let (port, name) = (pair.database.port.to_string(), pair.database.name.clone());
    let url = format!("url = \"postgres://postgres:postgres@127.0.0.1:{port}/{name}\"\n");
    let text = format!("data_dir = \"data\"\n{}", pair.config.replace(&url, ""));
    let folder = pair.rowtide.folder.clone();
    fs::write(folder.join("rowtide.toml"), text).unwrap();
    let line = format!("# ours\nlocalhost:{port}:*:tls_only:{PASSWORD}\n");
    let passwords = write(&folder, "passwords", &line).display().to_string();
    let roots = server.roots();
    let variables = [
        ("PGHOST", "localhost"),
        ("PGPORT", &port),
        ("PGUSER", "tls_only"),
        ("PGDATABASE", &name),
        ("PGSSLMODE", "verify-full"),
        ("PGSSLROOTCERT", &roots),
        ("PGPASSFILE", &passwords),
    ];
    variables.iter().for_each(|(name, value)| pair.rowtide.environment(name, value));
    assert_check(&pair, 2, "others may read it: chmod 06").await;
    write_private(&folder, "passwords", &line);
    assert_check(&pair, 0, FINE).await;
    pair.rowtide.environment("PGSSLMODE", "on");
    assert_check(&pair, 2, "PGSSLMODE=on is none of disable").await;
}
