//! The program itself, between an operator that the test plays and a mongod.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use sidecar_protocol::client::{Client, tls_config};
use sidecar_protocol::mongo::{Assignment, Part, State};
use sidecar_protocol::{MEMBER_COMMON_NAME, OPERATOR_COMMON_NAME, Order, Report};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use crate::rig::{self, DEADLINE, Rig};

const SIDECAR: &str = env!("CARGO_BIN_EXE_sidecar");
const UID: &str = "0b9e9e0c-7a7e-4b39-8f5e-2d1b7e5c9a11";

fn port() -> SocketAddr {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap()
}

async fn get(address: SocketAddr, path: &str) -> String {
    let mut tcp = TcpStream::connect(address).await.unwrap();
    tcp.write_all(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").as_bytes()).await.unwrap();
    let mut answer = String::new();
    tcp.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn an_operated_member_is_ordered_by_its_api_and_probed_by_its_health_port() {
    let rig = Rig::of(1).await;
    let ca_key = KeyPair::generate().unwrap();
    let mut ca = CertificateParams::default();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca_pem = ca.self_signed(&ca_key).unwrap().pem();
    let issue = |name: &str| {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["localhost".into()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        (params.signed_by(&key, &Issuer::from_params(&ca, &ca_key)).unwrap().pem(), key.serialize_pem())
    };
    let ((certificate, key), operator) = (issue(MEMBER_COMMON_NAME), issue(OPERATOR_COMMON_NAME));
    fs::create_dir_all(rig.dir.join("tls")).unwrap();
    for (file, text) in [("ca.crt", &ca_pem), ("tls.crt", &certificate), ("tls.key", &key)] {
        fs::write(rig.dir.join("tls").join(file), text).unwrap();
    }
    let config = rig.config(0);
    let layout = config.layout.clone().unwrap();
    let (api, health) = (port(), port());
    let mut command = tokio::process::Command::new(SIDECAR);
    command.args(["mongo", "--cluster", "shop", "--cluster-uid", UID, "--log-format", "json", "--host", &config.host]);
    command.args(["--port", &config.port.to_string(), "--api-port", &api.port().to_string(), "--health-port", &health.port().to_string()]);
    command.arg("--data").arg(&layout.data_dir).arg("--run").arg(&layout.run_dir).arg("--tls").arg(rig.dir.join("tls"));
    command.arg("--key").arg(rig.dir.join("key/keyfile")).arg("--users").arg(rig.dir.join("users")).env("POD_NAME", "shop-0");
    let mut process = command.kill_on_drop(true).spawn().unwrap();
    let _mongod = rig::mongod_beside(&config, &rig.dir);
    let tls = Arc::new(tls_config(ca_pem.as_bytes(), operator.0.as_bytes(), operator.1.as_bytes()).unwrap());
    let client = timeout(DEADLINE, async {
        loop {
            if let Ok(client) = Client::connect(api, "localhost", Arc::clone(&tls)).await {
                return client;
            }
            sleep(Duration::from_millis(50)).await;
        }
    })
    .await
    .unwrap();
    let mut reports = client.reports::<State>().await.unwrap();
    let first = reports.next().await.unwrap().unwrap();
    let order =
        |assignment, after| Order { cluster: UID.into(), term: 1, claim: 0, incarnation: first.incarnation.clone(), after, assignment };
    let desired = rig.desired(0..1);
    let accepted: Report<State> =
        client.order(&order(Assignment::Initiate { set: "shop".into(), desired: desired.clone() }, 0)).await.unwrap();
    assert_eq!(accepted.orders, 1);
    let leads = async {
        loop {
            let state = reports.next().await.unwrap().unwrap().state;
            if state.writable && rig::converged(&state) {
                return;
            }
        }
    };
    timeout(DEADLINE, leads).await.unwrap();
    let _: Report<State> = client.order(&order(Assignment::Member(Part { desired, ..Part::default() }.into()), 1)).await.unwrap();
    assert!(get(health, "/startupz").await.starts_with("HTTP/1.1 200") && get(health, "/readyz").await.starts_with("HTTP/1.1 200"));
    let metrics = get(health, "/metrics").await;
    assert!(metrics.contains(r#"understudy_writable{engine="mongo"} 1.0"#), "{metrics}");
    let live = Command::new(SIDECAR).args(["live", "--mongod", &config.port.to_string()]).output().unwrap();
    assert!(live.status.success(), "{live:?}: a mongod that wants TLS shows life all the same");
    assert!(get(health, "/releasez").await.contains("released"), "alone it may go");
    let pid = rustix::process::Pid::from_raw(process.id().unwrap() as i32).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert!(timeout(DEADLINE, process.wait()).await.unwrap().unwrap().success());
}
