//! The program itself: its errands, and that it starts and ends as Kubernetes wants it to.

use std::fs;
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::process::{Command, Output};
use std::thread;
use std::time::Duration;

use sidecar_protocol::client::Client;
use sidecar_protocol::mysql::{Data, State};
use sidecar_protocol::{MEMBER_COMMON_NAME, OPERATOR_COMMON_NAME};
use tokio::time::{sleep, timeout};

use super::probes::get;
use super::rig::{Authority, HOST, UID, scratch};

const SIDECAR: &str = env!("CARGO_BIN_EXE_sidecar");

#[test]
fn the_installed_copy_is_the_program() {
    let copy = scratch().join("sidecar");
    fs::write(&copy, "an older one").unwrap();
    assert!(Command::new(SIDECAR).arg("install").arg(&copy).status().unwrap().success());
    assert_eq!(fs::metadata(&copy).unwrap().permissions().mode() & 0o777, 0o755);
    let version = |program: &std::path::Path| Command::new(program).arg("--version").output().unwrap().stdout;
    assert_eq!(version(&copy), version(SIDECAR.as_ref()));
    assert_eq!(fs::read_dir(copy.parent().unwrap()).unwrap().count(), 1, "no draft is left");
}

/// What the exec probe says of a server that sends `greeting` and then keeps the connection open.
fn live(greeting: &'static [u8]) -> Output {
    let socket = scratch().join("mysqld.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.write_all(greeting).unwrap();
        thread::sleep(Duration::from_secs(20));
    });
    Command::new(SIDECAR).arg("live").arg("--socket").arg(&socket).output().unwrap()
}

#[test]
fn a_greeting_and_an_error_packet_are_signs_of_life() {
    assert!(live(b"\x4a\0\0\0\x0a9.7.4\0").status.success());
    assert!(live(b"\x17\0\0\0\xff\x10\x04Too many connections").status.success());
}

#[test]
fn nobody_silence_and_another_protocol_are_not() {
    let nobody = Command::new(SIDECAR).args(["live", "--socket", "/nonexistent/mysqld.sock"]).output().unwrap();
    assert_eq!(nobody.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&nobody.stderr).contains("/nonexistent/mysqld.sock"));
    assert_eq!(live(b"").status.code(), Some(1));
    assert_eq!(live(b"SSH-2.0-OpenSSH").status.code(), Some(1));
}

#[tokio::test]
async fn an_operated_member_serves_its_ports_and_ends_on_sigterm() {
    let root = scratch();
    let authority = Authority::new();
    authority.mount(&root.join("tls"), &authority.issue(MEMBER_COMMON_NAME));
    for (file, text) in
        [("config/my.cnf", "[mysqld]\n"), ("system/replication", "r"), ("system/clone", "c"), ("run/.keep", ""), ("data/.keep", "")]
    {
        let path = root.join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    let port = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
    let (api, health): (SocketAddr, SocketAddr) = (port(), port());
    let mut command = Command::new(SIDECAR);
    command.args(["mysql", "--cluster", "shop", "--cluster-uid", UID, "--log-format", "json"]);
    command.args(["--api-port", &api.port().to_string(), "--health-port", &health.port().to_string()]);
    for (flag, path) in [("--data", "data"), ("--run", "run"), ("--tls", "tls"), ("--system", "system"), ("--config", "config/my.cnf")] {
        command.arg(flag).arg(root.join(path));
    }
    command.envs([("POD_NAME", "shop-0"), ("POD_NAMESPACE", "prod"), ("POD_IP", "127.0.0.1")]);
    let mut member = command.stderr(fs::File::create(root.join("log")).unwrap()).spawn().unwrap();

    let up = async {
        while get(health, "/livez").await.is_err() {
            sleep(Duration::from_millis(50)).await
        }
    };
    timeout(Duration::from_secs(10), up).await.expect("it starts");
    assert_eq!(get(health, "/startupz").await.unwrap().0, 503, "nothing has told it to make data");
    let client = Client::connect(api, HOST, authority.client(OPERATOR_COMMON_NAME)).await.unwrap();
    let mut reports = client.reports::<State>().await.unwrap();
    let report = reports.next().await.unwrap().unwrap();
    assert_eq!((report.cluster.as_str(), report.state.data), (UID, Data::Empty));

    assert!(Command::new("kill").arg(member.id().to_string()).status().unwrap().success());
    let ended = timeout(Duration::from_secs(5), async { while let Ok(Some(_)) = reports.next().await {} }).await;
    ended.expect("its readers hear of the end at once");
    let status = tokio::task::spawn_blocking(move || member.wait()).await.unwrap().unwrap();
    let log = fs::read_to_string(root.join("log")).unwrap();
    assert!(status.success(), "{log}");
    assert!(log.lines().all(|line| serde_json::from_str::<serde_json::Value>(line).is_ok()), "JSON lines only: {log}");
}
