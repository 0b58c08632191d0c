//! A password that is changed while the pipeline runs, and one that is wrong from the start.

use serde_json::json;

use super::*;
use crate::harness::certificates::write;
use crate::harness::pair::PATIENCE;
use crate::harness::rowtide::Line;

#[tokio::test(flavor = "multi_thread")]
async fn a_rotated_password_is_read_again_and_a_late_one_is_waited_for() {
    let server = Server::shared().await;
    server.show(&server.authority.issue(&["localhost"], 2999)).await;
    let mut pair = server.pair().await;
    let folder = pair.rowtide.folder.clone();
    let change = async |pair: &Pair, password: &str| {
        pair.sql(&format!("ALTER ROLE rotated PASSWORD '{password}'")).await;
    };
    change(&pair, PASSWORD).await;
    write(&folder, "password", &format!("{PASSWORD}\n"));
    let lines = format!("password_file = \"password\"\nsslrootcert = \"{}\"", server.roots());
    configure(&pair, "rotated", "localhost", &lines);
    pair.rowtide.environment("RUST_LOG", "info,sources=debug,rowtide_sources=debug");
    pair.rowtide.allow("the source was lost");
    pair.rowtide.run_again();
    pair.wait_until_following().await;
    // Bound to the server's certificate.
    let login = pair.rowtide.wait_for_line("log in to postgresql", PATIENCE).await;
    assert_eq!(login.fields["mechanism"], "SCRAM-SHA-256-PLUS", "{}", login.text);
    assert_eq!(login.fields["tls"], "TLSv1_3", "{}", login.text);

    // In the file before the connection is lost: nobody has to wait.
    change(&pair, "s3cret-2").await;
    write(&folder, "password", "s3cret-2\n");
    pair.cut_the_log().await;
    pair.sql("UPDATE t SET v = 'two'").await;
    pair.wait_for_value("t", "1", "v", json!("two")).await;
    let waited = |log: Vec<Line>| log.iter().any(|line| line.text.contains("is read again for another"));
    assert!(!waited(pair.rowtide.log()), "the new password was there");

    // In the file later: it waits, says so, and goes on by itself.
    change(&pair, "s3cret-3").await;
    pair.cut_the_log().await;
    let waits = pair.rowtide.wait_for_line("is read again for another", PATIENCE).await;
    assert!(waits.text.contains("password authentication failed for user"), "{}", waits.text);
    pair.sql("UPDATE t SET v = 'three'").await;
    write(&folder, "password", "s3cret-3\n");
    pair.wait_for_value("t", "1", "v", json!("three")).await;
    pair.assert_equal().await;
    for line in pair.rowtide.log() {
        assert!(!line.text.contains("s3cret"), "a secret is said: {}", line.text);
    }
    pair.stop();

    // A first start with a wrong one halts.
    write(&folder, "password", "s3cret-4\n");
    assert_check(&pair, 4, "password authentication failed for user").await;
    pair.rowtide.run_again();
    let line = pair.assert_halts("access-denied");
    assert!(!line.text.contains("s3cret"), "{}", line.text);
}
