//! The stream: the report now, each change at once, a heartbeat, and no mercy for readers who do not read.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::Empty;
use hyper::Request;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::ServerName;
use sidecar_protocol::mysql::{Assignment, Role, State};
use sidecar_protocol::{HEARTBEAT_MILLIS, MEMBER_COMMON_NAME, Report, route};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsConnector;

use super::rig::{HOST, INCARNATION, Rig, UID, order};

#[tokio::test]
async fn the_stream_gives_the_current_report_each_change_and_a_heartbeat() {
    let rig = Rig::start().await;
    let mut reports = rig.member().await.reports::<State>().await.unwrap();
    let first = reports.next().await.unwrap().unwrap();
    assert_eq!((first.cluster.as_str(), first.member.as_str(), first.incarnation.as_str()), (UID, "shop-0", INCARNATION));
    assert_eq!(first.trust, sidecar::tls::sha256(rig.authority.pem.as_bytes()));
    assert_eq!(first.state.role, Role::Unknown);

    let start = Instant::now();
    rig.state.send_modify(|state| state.role = Role::Replica);
    assert_eq!(reports.next().await.unwrap().unwrap().state.role, Role::Replica);
    assert!(start.elapsed() < Duration::from_millis(HEARTBEAT_MILLIS / 2), "a change waits for no heartbeat: {:?}", start.elapsed());

    let start = Instant::now();
    assert_eq!(reports.next().await.unwrap().unwrap().state.role, Role::Replica);
    assert!(start.elapsed() > Duration::from_millis(HEARTBEAT_MILLIS / 2), "nothing changed, only the heart beats");
    assert!(start.elapsed() < Duration::from_millis(HEARTBEAT_MILLIS * 2));
}

#[tokio::test]
async fn a_new_term_is_a_change() {
    let rig = Rig::start().await;
    let operator = rig.operator().await;
    let mut reports = operator.reports::<State>().await.unwrap();
    assert_eq!(reports.next().await.unwrap().unwrap().term, 0);
    let start = Instant::now();
    let _: Report<State> = operator.order(&order(UID, 4, Assignment::Isolated)).await.unwrap();
    assert_eq!(reports.next().await.unwrap().unwrap().term, 4);
    assert!(start.elapsed() < Duration::from_millis(HEARTBEAT_MILLIS / 2));
}

#[tokio::test]
async fn a_storm_of_changes_is_one_report() {
    let rig = Rig::start().await;
    let mut reports = rig.member().await.reports::<State>().await.unwrap();
    reports.next().await.unwrap();
    for lap in 0..1000 {
        rig.state.send_modify(|state| state.version = Some(lap.to_string()));
    }
    let mut received = 0;
    loop {
        let report = reports.next().await.unwrap().unwrap();
        received += 1;
        if report.state.version.as_deref() == Some("999") {
            break;
        }
    }
    assert!(received < 10, "{received} reports");
}

/// Opens the stream with room for one byte and reads nothing, but answers pings: alive, only not reading.
#[tokio::test]
async fn a_reader_who_does_not_read_is_cut_off_and_others_are_not() {
    let rig = Rig::start().await;
    let tcp = TcpStream::connect(rig.api).await.unwrap();
    let tls = TlsConnector::from(rig.authority.client(MEMBER_COMMON_NAME));
    let tls = tls.connect(ServerName::try_from(HOST).unwrap(), tcp).await.unwrap();
    let (mut requests, connection) =
        http2::Builder::new(TokioExecutor::new()).initial_stream_window_size(1).handshake(TokioIo::new(tls)).await.unwrap();
    let connection = tokio::spawn(connection);
    let request = Request::get(format!("https://{HOST}{}", route::REPORTS)).body(Empty::<Bytes>::new()).unwrap();
    let unread = requests.send_request(request).await.unwrap();

    let mut other = rig.member().await.reports::<State>().await.unwrap();
    let ended = timeout(Duration::from_secs(12), async {
        while !connection.is_finished() {
            other.next().await.unwrap().expect("the others' streams go on");
        }
    });
    ended.await.expect("cut off");
    assert!(other.next().await.unwrap().is_some());
    drop(unread);
}
