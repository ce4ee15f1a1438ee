//! TLS: all connections or none, a certificate for the server alone, changed without a restart.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};
use sidecar::redis::sentinel::{Accounts, tls};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::client::Client;
use super::rig::{Endpoint, scratch, view};

const HOST: &str = "shop-0.shop.prod.svc";

/// Writes the files of a Secret of a new authority, and gives the authority's certificate.
pub fn mount(directory: &Path) -> String {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = params.self_signed(&key).unwrap().pem();
    let issuer = Issuer::new(params, key);
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(vec![HOST.to_owned()]).unwrap().signed_by(&key, &issuer).unwrap().pem();
    for (name, text) in [("ca.crt", &authority), ("tls.crt", &certificate), ("tls.key", &key.serialize_pem())] {
        fs::write(directory.join(name), text).unwrap();
    }
    authority
}

pub async fn connect(
    address: SocketAddr,
    authority: &str,
    versions: &[&'static SupportedProtocolVersion],
) -> std::io::Result<Client<TlsStream<TcpStream>>> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.as_bytes()).unwrap()).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let tcp = TcpStream::connect(address).await.unwrap();
    let connecting = TlsConnector::from(Arc::new(config)).connect(ServerName::try_from(HOST).unwrap(), tcp);
    Ok(Client::over(timeout(Duration::from_secs(5), connecting).await.unwrap()?))
}

#[tokio::test]
async fn clients_of_both_versions_of_tls_ask_listen_and_need_no_certificate() {
    let directory = scratch();
    let authority = mount(&directory);
    let tls = watch::Sender::new(tls::load(&directory).unwrap());
    let endpoint = Endpoint::with(Accounts::of([("app", &b"secret"[..])]), Some(tls.subscribe())).await;
    for version in [&rustls::version::TLS13, &rustls::version::TLS12] {
        let mut client = connect(endpoint.address, &authority, &[version]).await.unwrap();
        assert_eq!(client.ask("AUTH app secret").await.text(), "OK");
        let _ = client.ask("SUBSCRIBE +switch-master").await;
        endpoint.show(|now| *now = view(1));
        assert_eq!(client.read().await.list()[1].text(), "+switch-master");
        endpoint.show(|now| *now = view(0));
        assert_eq!(client.read().await.list()[1].text(), "+switch-master");
    }
}

#[tokio::test]
async fn plain_text_is_not_answered_where_tls_is_required() {
    let directory = scratch();
    mount(&directory);
    let tls = watch::Sender::new(tls::load(&directory).unwrap());
    let endpoint = Endpoint::with(Accounts::Open, Some(tls.subscribe())).await;
    let mut bytes = Vec::new();
    let mut stream = TcpStream::connect(endpoint.address).await.unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut stream, b"*1\r\n$4\r\nPING\r\n").await.unwrap();
    let reading = tokio::io::AsyncReadExt::read_to_end(&mut stream, &mut bytes);
    let _ = timeout(Duration::from_secs(5), reading).await.expect("it ends");
    assert!(!bytes.starts_with(b"+") && !bytes.starts_with(b"-"), "{bytes:?}");
}

#[tokio::test]
async fn a_new_certificate_is_for_new_connections_and_ends_none() {
    let directory = scratch();
    let old = mount(&directory);
    let tls = watch::Sender::new(tls::load(&directory).unwrap());
    let endpoint = Endpoint::with(Accounts::Open, Some(tls.subscribe())).await;
    let mut before = connect(endpoint.address, &old, &[&rustls::version::TLS13]).await.unwrap();
    assert_eq!(before.ask("PING").await.text(), "PONG");
    let new = mount(&directory);
    tls.send_replace(tls::load(&directory).unwrap());
    assert!(connect(endpoint.address, &old, &[&rustls::version::TLS13]).await.is_err());
    let mut after = connect(endpoint.address, &new, &[&rustls::version::TLS13]).await.unwrap();
    assert_eq!(after.ask("PING").await.text(), "PONG");
    assert_eq!(before.ask("PING").await.text(), "PONG");
}

#[test]
fn files_that_do_not_fit_together_are_refused_by_name() {
    let (one, other) = (scratch(), scratch());
    mount(&one);
    mount(&other);
    fs::copy(other.join("tls.key"), one.join("tls.key")).unwrap();
    let error = tls::load(&one).unwrap_err().to_string();
    assert!(error.contains("tls.key") && !error.contains("PRIVATE"), "{error}");
    fs::remove_file(one.join("tls.crt")).unwrap();
    assert!(tls::load(&one).unwrap_err().to_string().contains("tls.crt"));
}
