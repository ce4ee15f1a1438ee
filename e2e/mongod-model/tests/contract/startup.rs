//! How a server is started: its file, its socket, TLS, the version it is.

use std::path::Path;

use mongodb::Client;
use mongodb::bson::doc;
use mongodb::options::{Tls, TlsOptions};

use crate::server::{Server, attempt, fail, file, options, single_of, until};

/// A directory of a test's own.
fn directory(name: &str) -> std::path::PathBuf {
    let path = std::env::temp_dir().join(format!("mongod-contract-{name}-{}", std::process::id()));
    std::fs::create_dir_all(&path).expect("a directory");
    path
}

#[tokio::test]
async fn a_configuration_file_says_what_flags_say() {
    let directory = directory("file");
    let text = "replication:\n  replSetName: rs0\nprocessManagement:\n  fork: false\n";
    let path = file(&directory, "mongod.conf", text);
    let server = Server::standalone(&["--config", &path]);
    assert!(server.hello().contains_key("isreplicaset"), "it has a set's name");
    std::fs::remove_dir_all(&directory).expect("removed");
}

#[tokio::test]
async fn a_socket_is_there_when_asked_for() {
    let directory = directory("socket");
    let server = Server::start(&["--unixSocketPrefix", &directory.display().to_string()]);
    let socket = directory.join(format!("mongodb-{}.sock", server.port));
    until("the socket is there", || std::os::unix::net::UnixStream::connect(&socket).is_ok()).await;
    std::fs::remove_dir_all(&directory).expect("removed");
}

/// An authority, and a certificate of `localhost` with its key.
fn certificates(directory: &Path) -> (String, String) {
    let key = rcgen::KeyPair::generate().expect("a key");
    let mut authority = rcgen::CertificateParams::new(Vec::new()).expect("parameters");
    authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let certificate = authority.self_signed(&key).expect("an authority");
    let own = rcgen::KeyPair::generate().expect("a key");
    let issuer = rcgen::Issuer::new(authority, key);
    let leaf = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).expect("parameters").signed_by(&own, &issuer).expect("signed");
    let both = format!("{}{}", leaf.pem(), own.serialize_pem());
    (file(directory, "ca.pem", &certificate.pem()), file(directory, "server.pem", &both))
}

#[tokio::test]
async fn with_tls_required_nobody_comes_in_without_and_members_find_each_other() {
    let directory = directory("tls");
    let (authority, own) = certificates(&directory);
    let arguments = ["--tlsMode", "requireTLS", "--tlsCertificateKeyFile", &own, "--tlsCAFile", &authority];
    let arguments: Vec<&str> = arguments.into_iter().chain(["--tlsAllowConnectionsWithoutCertificates"]).collect();
    let servers = [Server::start(&arguments), Server::start(&arguments)];
    let mut with_tls = options(vec![servers[0].port], None, true);
    with_tls.tls = Some(Tls::Enabled(TlsOptions::builder().ca_file_path(std::path::PathBuf::from(&authority)).build()));
    let admin = Client::with_options(with_tls).expect("options").database("admin");
    let members = [doc! { "_id": 0, "host": servers[0].host() }, doc! { "_id": 1, "host": servers[1].host() }];
    let config = doc! { "_id": "rs0", "members": members.to_vec(), "settings": crate::server::quick() };
    attempt(&admin, doc! { "replSetInitiate": config }).await.expect("both answer by TLS");
    let mut without = options(vec![servers[0].port], None, true);
    without.server_selection_timeout = Some(std::time::Duration::from_secs(2));
    let plain = Client::with_options(without).expect("options").database("admin").run_command(doc! { "ping": 1 }).await;
    assert!(plain.is_err(), "TLS is required");
    let end = tokio::time::Instant::now() + crate::server::PATIENCE;
    let is_primary =
        async || attempt(&admin, doc! { "hello": 1 }).await.is_ok_and(|hello| hello.get_bool("isWritablePrimary").unwrap_or_default());
    while !is_primary().await {
        assert!(tokio::time::Instant::now() < end, "never: a primary");
        drop(attempt(&admin, doc! { "replSetStepUp": 1 }).await);
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    std::fs::remove_dir_all(&directory).expect("removed");
}

#[tokio::test]
async fn from_5_1_the_old_opcode_only_greets() {
    let server = Server::playing("6.0.0");
    if server.major().await < 6 {
        return;
    }
    let refused = server.raw().query(1, &doc! { "replSetGetStatus": 1 }).body;
    assert!(refused.get_str("errmsg").expect("a text").starts_with("Unsupported OP_QUERY command: replSetGetStatus"), "{refused}");
}

#[tokio::test]
async fn from_7_0_the_feature_version_is_changed_with_a_confirmation() {
    let server = single_of(Server::playing("7.0.0")).await;
    if server.major().await < 7 {
        return;
    }
    let (code, text) = fail(&server.admin(), doc! { "setFeatureCompatibilityVersion": "6.0" }).await;
    assert!(code == 7_369_100 && text.contains("confirm: true"), "{code} {text}");
    server.run(doc! { "setFeatureCompatibilityVersion": "6.0", "confirm": true }).await;
}

#[tokio::test]
async fn a_data_directory_has_one_server() {
    let server = Server::start(&[]);
    let output = Server::refused(&["--dbpath", &server.directory.display().to_string()]);
    assert!(output.contains("DBPathInUse") || output.contains("another mongod"), "{output}");
}
