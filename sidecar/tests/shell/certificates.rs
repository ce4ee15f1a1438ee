//! Certificates change under a running shell.

use std::fs;
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use sidecar_protocol::MEMBER_COMMON_NAME;
use sidecar_protocol::mysql::{ProblemCode, State};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::rig::{Authority, HOST, Rig};

/// Longer than the interval at which the files are read again.
const PATIENCE: Duration = Duration::from_secs(10);

async fn served(rig: &Rig, authority: &Authority) -> Vec<u8> {
    let tcp = TcpStream::connect(rig.api).await.unwrap();
    let connector = TlsConnector::from(authority.client(MEMBER_COMMON_NAME));
    let tls = connector.connect(ServerName::try_from(HOST).unwrap(), tcp).await.unwrap();
    tls.get_ref().1.peer_certificates().unwrap()[0].to_vec()
}

#[tokio::test]
async fn a_new_certificate_is_served_without_a_restart_and_no_stream_ends() {
    let mut rig = Rig::start().await;
    let mut reports = rig.member().await.reports::<State>().await.unwrap();
    let new = rig.authority.issue(MEMBER_COMMON_NAME);
    assert_ne!(served(&rig, &rig.authority).await, CertificateDer::from_pem_slice(new.certificate.as_bytes()).unwrap().to_vec());
    rig.authority.mount(&rig.root.join("tls"), &new);
    timeout(PATIENCE, rig.tls_changed.changed()).await.expect("mysqld's room hears of it").unwrap();
    assert_eq!(served(&rig, &rig.authority).await, CertificateDer::from_pem_slice(new.certificate.as_bytes()).unwrap().to_vec());
    for _ in 0..3 {
        assert!(reports.next().await.unwrap().is_some());
    }
}

#[tokio::test]
async fn a_new_authority_lets_its_clients_in_and_the_old_ones_out() {
    let mut rig = Rig::start().await;
    let old = rig.authority.client(MEMBER_COMMON_NAME);
    let mut reports = rig.member().await.reports::<State>().await.unwrap();
    let next = Authority::new();
    next.mount(&rig.root.join("tls"), &next.issue(MEMBER_COMMON_NAME));
    timeout(PATIENCE, rig.tls_changed.changed()).await.unwrap().unwrap();
    let trusted = async { while reports.next().await.unwrap().unwrap().trust != sidecar::tls::sha256(next.pem.as_bytes()) {} };
    timeout(PATIENCE, trusted).await.expect("the report says whom it trusts");
    let mut client = (*next.client(MEMBER_COMMON_NAME)).clone();
    assert!(rig.connect(std::sync::Arc::new(client.clone())).await.is_ok());
    client.client_auth_cert_resolver = std::sync::Arc::clone(&old.client_auth_cert_resolver);
    let answer = match rig.connect(std::sync::Arc::new(client)).await {
        Ok(client) => client.reports::<State>().await.map(drop),
        Err(error) => Err(error),
    };
    assert!(answer.is_err(), "a certificate of the old authority is no longer trusted");
}

#[tokio::test]
async fn a_broken_set_is_reported_and_the_old_one_stays() {
    let rig = Rig::start().await;
    let before = served(&rig, &rig.authority).await;
    let mut reports = rig.member().await.reports::<State>().await.unwrap();
    let directory = rig.root.join("tls");
    let key = fs::read(directory.join("tls.key")).unwrap();
    fs::write(directory.join("tls.key"), rig.authority.issue(MEMBER_COMMON_NAME).key).unwrap();
    let reported = async {
        loop {
            if let Some(problem) = reports.next().await.unwrap().unwrap().state.problem {
                return problem;
            }
        }
    };
    let problem = timeout(PATIENCE, reported).await.expect("a key that does not fit is a problem");
    assert_eq!(problem.code, ProblemCode::Credentials);
    assert!(problem.message.contains("tls.key"), "{}", problem.message);
    assert_eq!(served(&rig, &rig.authority).await, before);

    fs::write(directory.join("tls.key"), key).unwrap();
    let mended = async { while reports.next().await.unwrap().unwrap().state.problem.is_some() {} };
    timeout(PATIENCE, mended).await.expect("mended, it is no problem any more");
}
