//! Whose certificate is believed, and what is said of one that is not.

use super::*;
use crate::harness::certificates::{Authority, Paper, self_signed, write, write_private};

/// What `sslmode` says of a server with this certificate.
async fn shown(server: &Server, pair: &Pair, paper: &Paper, lines: &str, code: i32, says: &str) {
    server.show(paper).await;
    configure_known(pair, "tls_only", "127.0.0.1", lines);
    assert_check(pair, code, says).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_is_wrong_is_refused_with_the_reason() {
    let server = Server::shared().await;
    let mut pair = server.pair().await;
    let full = format!("sslmode = \"verify-full\"\nsslrootcert = \"{}\"", server.roots());
    let of_authority = full.replace("verify-full", "verify-ca");
    let other = Authority::new("another authority");

    let strange = other.issue(&["127.0.0.1"], 2999);
    let says = format!("TLS: the server's certificate was issued by nobody in {}", server.roots());
    shown(server, &pair, &strange, &full, 4, &says).await;
    shown(server, &pair, &strange, &of_authority, 4, &says).await;
    // Whom nobody looks at may be anybody.
    shown(server, &pair, &strange, "sslmode = \"require\"", 0, FINE).await;

    let elsewhere = server.authority.issue(&["db.example"], 2999);
    shown(server, &pair, &elsewhere, &full, 4, "TLS: the server's certificate is for another host").await;
    shown(server, &pair, &elsewhere, &of_authority, 0, FINE).await;
    shown(server, &pair, &elsewhere, &full.replace("verify-full", "require"), 0, FINE).await;

    let old = server.authority.issue(&["127.0.0.1"], 2020);
    shown(server, &pair, &old, &of_authority, 4, "TLS: the server's certificate has expired").await;
    shown(server, &pair, &old, &full, 4, "TLS: the server's certificate has expired").await;
    pair.rowtide.run_again();
    let line = pair.assert_halts("tls-failed");
    assert!(line.text.contains("has expired"), "{}", line.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_self_signed_certificate_is_believed_when_it_is_the_one_of_the_file() {
    let server = Server::shared().await;
    let pair = server.pair().await;
    let own = self_signed(&["127.0.0.1"], 2999);
    let file = write(&pair.rowtide.folder, "own.pem", &own.certificate);
    let lines = format!("sslrootcert = \"{}\"", file.file_name().unwrap().display());
    shown(server, &pair, &own, &lines, 0, FINE).await;
    // The same name and another key; the right key for another host; the right one, too old.
    shown(server, &pair, &self_signed(&["127.0.0.1"], 2999), &lines, 4, "TLS: the server's certificate ")
        .await;
    let elsewhere = self_signed(&["db.example"], 2999);
    write(&pair.rowtide.folder, "own.pem", &elsewhere.certificate);
    shown(server, &pair, &elsewhere, &lines, 4, "is for another host").await;
    let old = self_signed(&["127.0.0.1"], 2020);
    write(&pair.rowtide.folder, "own.pem", &old.certificate);
    shown(server, &pair, &old, &lines, 4, "has expired").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_machines_certificates_are_believed_where_no_file_is_named() {
    let server = Server::shared().await;
    let mut pair = server.pair().await;
    let good = server.authority.issue(&["127.0.0.1"], 2999);
    let lines = "sslrootcert = \"system\"";
    let says = "was issued by nobody in the machine's certificates";
    let other = Authority::new("another authority");
    let machine = write(&pair.rowtide.folder, "machine.pem", &other.certificate);
    pair.rowtide.environment("SSL_CERT_FILE", &machine.display().to_string());
    shown(server, &pair, &good, lines, 4, says).await;
    pair.rowtide.environment("SSL_CERT_FILE", &server.roots());
    shown(server, &pair, &good, lines, 0, FINE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_wants_a_clients_certificate_gets_it() {
    let server = Server::shared().await;
    let pair = server.pair().await;
    let good = server.authority.issue(&["127.0.0.1"], 2999);
    server.show(&good).await;
    let full = format!("sslrootcert = \"{}\"", server.roots());
    configure_known(&pair, "certified", "127.0.0.1", &full);
    assert_check(&pair, 4, "connection requires a valid client certificate").await;

    let folder = pair.rowtide.folder.clone();
    let ours = |paper: &Paper, name: &str| {
        write(&folder, "client.pem", &paper.certificate);
        write_private(&folder, "client.key", &paper.key);
        configure_known(
            &pair,
            name,
            "127.0.0.1",
            &format!("{full}\nsslcert = \"client.pem\"\nsslkey = \"client.key\""),
        );
    };
    ours(&server.authority.issue_to("anybody"), "certified");
    assert_check(&pair, 0, FINE).await;
    ours(&Authority::new("another authority").issue_to("certified"), "certified");
    assert_check(&pair, 4, "TLS: the server refuses the client's certificate").await;

    // The certificate alone is the login.
    ours(&server.authority.issue_to("by_certificate"), "by_certificate");
    assert_check(&pair, 0, FINE).await;
    ours(&server.authority.issue_to("somebody"), "by_certificate");
    assert_check(&pair, 4, "certificate authentication failed for user").await;

    // A key for others' eyes, and another's key.
    write(&folder, "client.key", "");
    assert_check(&pair, 2, "sslkey cannot be used: ").await;
    write_private(&folder, "client.key", &good.key);
    assert_check(&pair, 2, "sslcert cannot be used: ").await;
}
