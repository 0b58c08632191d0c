//! What people and disks do wrong, on real servers: each has a clear message, a hint and its exit code, and
//! when it is mended nothing is missing.

use std::path::PathBuf;
use std::process::Command;

use rustix::process::Signal;

use crate::harness::pair::{PATIENCE, Pair, Setup};
use crate::harness::poll_until;
use crate::harness::servers::Postgres;

const SMALL: &str = "CREATE TABLE t (id bigint PRIMARY KEY, v text);
    INSERT INTO t SELECT id, 'x' FROM generate_series(1, 200) id;";

async fn set(sql: &str) -> Pair {
    Pair::set(Postgres::shared().await, Setup { sql, tables: &["t"], ..Setup::default() }).await
}

fn write_config(pair: &Pair, config: &str) {
    std::fs::write(pair.rowtide.folder.join("rowtide.toml"), format!("data_dir = \"data\"\n{config}"))
        .unwrap();
}

/// It goes on from where it halted, and nothing is missing.
async fn goes_on(mut pair: Pair) {
    pair.rowtide.run_again();
    pair.wait_until_following().await;
    pair.sql("INSERT INTO t VALUES (5000, 'late')").await;
    pair.caught_up().await;
    let rows = pair.ask("SELECT count(*) FROM t").await.parse().unwrap();
    pair.wait_for_documents("t", rows).await;
    pair.assert_equal().await;
    pair.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_halts_and_is_not_said() {
    let mut pair = set(SMALL).await;
    let config = pair.config.clone();
    write_config(&pair, &config.replace("postgres:postgres@", "postgres:s3cret-and-wrong@"));
    pair.rowtide.run_again();
    let line = pair.assert_halts("access-denied");
    assert!(!line.text.contains("s3cret"), "{}", line.text);
    assert!(line.text.contains("pg_hba.conf"), "{}", line.text);
    write_config(&pair, &config);
    goes_on(pair).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_without_rows_halts_with_the_sql() {
    let postgres = Postgres::start("18", &["-c", "wal_level=replica"]).await;
    let mut pair = Pair::set(&postgres, Setup { sql: SMALL, tables: &["t"], ..Setup::default() }).await;
    let output = pair.rowtide.call(&["check", "--config", "rowtide.toml"]);
    assert_eq!(output.status.code(), Some(4));
    assert!(String::from_utf8_lossy(&output.stdout).contains("wal_level = logical"));
    pair.rowtide.run_again();
    let line = pair.assert_halts("wal-level");
    assert!(line.text.contains("ALTER SYSTEM SET wal_level = logical"), "{}", line.text);
    drop(pair);
    postgres.stop(Signal::INT);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_table_is_named_and_the_rest_is_untouched() {
    let mut pair = set(SMALL).await;
    pair.add_table("absent");
    let output = pair.rowtide.call(&["check", "--config", "rowtide.toml"]);
    assert_eq!(output.status.code(), Some(4));
    assert!(String::from_utf8_lossy(&output.stdout).contains("public.absent"));
    pair.rowtide.run_again();
    pair.rowtide.allow("halted: a person must act");
    let (code, log) = pair.rowtide.wait(PATIENCE);
    let line = log.iter().find(|line| line.message == "halted: a person must act").unwrap();
    assert_eq!(code, 3);
    assert!(line.text.contains("public.absent"), "{}", line.text);
    pair.sql("CREATE TABLE absent (id int PRIMARY KEY); INSERT INTO absent VALUES (1)").await;
    goes_on(pair).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_misspelt_key_of_the_source_is_named_with_those_that_exist() {
    let pair = set(SMALL).await;
    write_config(&pair, &pair.config.replace("slot =", "log_held_byte_max = \"1GiB\"\nslot ="));
    let output = pair.rowtide.call(&["run", "--config", "rowtide.toml", "--log", "json"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("log_held_byte_max") && said.contains("log_held_bytes_max"), "{said}");
    write_config(&pair, &pair.config);
    goes_on(pair).await;
}

/// A database of encoding SQL_ASCII takes every byte, and says that it cannot tell what they mean.
#[tokio::test(flavor = "multi_thread")]
async fn text_that_is_not_utf_8_halts_until_it_is_mended() {
    let mut pair = set("").await;
    let name = pair.database.name.clone();
    let admin = crate::harness::servers::client(pair.database.port, "postgres").await;
    admin.batch_execute(&format!("DROP DATABASE {name} WITH (FORCE)")).await.unwrap();
    let create = format!("CREATE DATABASE {name} TEMPLATE template0 ENCODING 'SQL_ASCII' LOCALE 'C'");
    admin.batch_execute(&create).await.unwrap();
    pair.client = pair.database.client().await;
    pair.sql(SMALL).await;
    pair.sql("INSERT INTO t VALUES (1000, convert_from('\\x61ff62', 'SQL_ASCII'))").await;
    pair.rowtide.run_again();
    let line = pair.assert_halts("value-unreadable");
    assert!(line.text.contains("UTF8") && line.text.contains("0xff"), "{}", line.text);
    pair.sql("UPDATE t SET v = 'mended' WHERE id = 1000").await;
    goes_on(pair).await;
}

/// A file system of its own, of two megabytes; gone when it is dropped. Wants root, as the servers' user does.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(at: PathBuf) -> Self {
        std::fs::create_dir_all(&at).unwrap();
        let mount = ["-t", "tmpfs", "-o", "size=2m,mode=0700", "none"];
        let done = Command::new("mount").args(mount).arg(&at).status().unwrap();
        assert!(done.success(), "mount a small disk at {}", at.display());
        Self(at)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        Command::new("umount").arg("--lazy").arg(&self.0).status().ok();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_under_the_store_halts_and_nothing_is_lost() {
    let mut pair = set(SMALL).await;
    let disk = SmallDisk::mount(pair.rowtide.folder.join("data"));
    pair.rowtide.allow("the end was not clean");
    pair.rowtide.allow("answers are still missing");
    pair.rowtide.run_again();
    pair.wait_for_documents("t", 200).await;
    pair.caught_up().await;
    let ballast = disk.0.join("ballast");
    // As large as it gets: what is written is what fits.
    std::fs::write(&ballast, vec![0_u8; 4 << 20]).unwrap_err();
    let mut id = 10_000;
    pair.rowtide.allow("halted: a person must act");
    poll_until("the store's end", PATIENCE, async || {
        pair.sql(&format!("INSERT INTO t VALUES ({id}, 'y')")).await;
        id += 1;
        tokio::time::sleep(std::time::Duration::from_millis(120)).await;
        let log = pair.rowtide.log();
        log.iter().any(|line| line.message == "halted: a person must act").then_some(())
    })
    .await;
    let line = pair.assert_halts("store-failed");
    assert!(line.text.contains("full"), "{}", line.text);
    std::fs::remove_file(ballast).unwrap();
    goes_on(pair).await;
    drop(disk);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_of_a_newer_format_is_left_as_it_is() {
    let mut pair = set(SMALL).await;
    pair.rowtide.run_again();
    pair.wait_for_documents("t", 200).await;
    pair.stop();
    let path = pair.rowtide.folder.join("data/rowtide.sqlite");
    let set_format = |format: &str| {
        let store = rusqlite::Connection::open(&path).unwrap();
        let old: String =
            store.query_row("SELECT value FROM meta WHERE key = 'format'", [], |row| row.get(0)).unwrap();
        assert_eq!(store.execute("UPDATE meta SET value = ?1 WHERE key = 'format'", [format]).unwrap(), 1);
        old
    };
    let format = set_format("99");
    pair.rowtide.run_again();
    let line = pair.assert_halts("store-newer");
    assert!(line.text.contains("99"), "{}", line.text);
    assert_eq!(set_format(&format), "99");
    goes_on(pair).await;
}
