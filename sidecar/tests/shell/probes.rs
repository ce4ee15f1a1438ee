//! The health port.

use std::fs;
use std::net::SocketAddr;
use std::time::Duration;

use sidecar::fence::Ordered;
use sidecar_protocol::Report;
use sidecar_protocol::mysql::{Accepted, Assignment, Data, Peer, Process, Replication, Role, State};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use tokio::time::{Instant, sleep};

use super::rig::{Authority, PATIENCE, Rig, config, scratch};

/// Status and body of one request.
pub async fn get(address: SocketAddr, path: &str) -> std::io::Result<(u16, String)> {
    let mut tcp = TcpStream::connect(address).await?;
    tcp.write_all(format!("GET {path} HTTP/1.1\r\nHost: pod\r\n\r\n").as_bytes()).await?;
    let mut answer = String::new();
    tcp.read_to_string(&mut answer).await?;
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok()).ok_or(std::io::ErrorKind::InvalidData)?;
    Ok((status, answer.split_once("\r\n\r\n").map_or(String::new(), |(_, body)| body.into())))
}

#[tokio::test]
async fn the_curtain_opens_when_data_and_configuration_are_there() {
    let rig = Rig::start().await;
    let config = config(&rig.root);
    assert_eq!(get(rig.health, "/startupz").await.unwrap().0, 503);
    fs::create_dir_all(config.datadir()).unwrap();
    assert_eq!(get(rig.health, "/startupz").await.unwrap().0, 503);
    fs::write(config.my_cnf(), "").unwrap();
    assert_eq!(get(rig.health, "/startupz").await.unwrap().0, 200);
}

#[tokio::test]
async fn readiness_is_the_engines_and_says_why_not() {
    let rig = Rig::start().await;
    let (status, why) = get(rig.health, "/readyz").await.unwrap();
    assert_eq!(status, 503);
    assert!(why.contains("Unknown"), "{why}");
    rig.state.send_modify(|state| state.ready = true);
    assert_eq!(get(rig.health, "/readyz").await.unwrap().0, 200);
    assert_eq!(get(rig.health, "/livez").await.unwrap().0, 200);
}

#[tokio::test]
async fn an_open_primary_is_released_when_it_is_none_any_more_and_everybody_else_at_once() {
    let rig = Rig::start().await;
    let primary = |members: u32| {
        let assignment = Assignment::Primary { acks: 0, members: (0..members).collect(), barred: vec![] };
        Some(Accepted { term: 3, claim: 0, assignment, converged: true })
    };
    let at_once = async |what: &str| {
        let start = Instant::now();
        assert_eq!(get(rig.health, "/releasez").await.unwrap().0, 200);
        assert!(start.elapsed() < PATIENCE / 4, "{what}: {:?}", start.elapsed());
    };
    at_once("no order").await;
    rig.state.send_modify(|state| (state.process, state.role, state.accepted) = (Process::Running, Role::Primary, primary(1)));
    at_once("nobody to take over").await;
    rig.state.send_modify(|state| state.accepted = primary(2));
    let (start, health) = (Instant::now(), rig.health);
    let waiting = tokio::spawn(async move { get(health, "/releasez").await.unwrap().0 });
    sleep(PATIENCE / 4).await;
    assert!(!waiting.is_finished());
    rig.state.send_modify(|state| (state.role, state.fenced) = (Role::Isolated, true));
    assert_eq!(waiting.await.unwrap(), 200);
    assert!(start.elapsed() < PATIENCE / 2);
    at_once("closed").await;
    rig.state.send_modify(|state| state.fenced = false);

    let ordered = |assignment| Some(Accepted { term: 4, claim: 0, assignment, converged: true });
    rig.state.send_modify(|state| state.accepted = ordered(Assignment::Isolated));
    let (start, health) = (Instant::now(), rig.health);
    let waiting = tokio::spawn(async move { get(health, "/releasez").await.unwrap().0 });
    sleep(PATIENCE / 4).await;
    assert!(!waiting.is_finished(), "the others have yet to read what it holds");
    let source = Peer { member: "orders-1".into(), host: "orders-1".into() };
    let follows = Assignment::Replica { source, donors: vec![], acknowledges: false, replace: None };
    rig.state.send_modify(|state| state.accepted = ordered(follows));
    assert_eq!(waiting.await.unwrap(), 200);
    assert!(start.elapsed() < PATIENCE / 2);

    rig.state.send_modify(|state| (state.role, state.accepted) = (Role::Primary, primary(2)));
    let start = Instant::now();
    let (status, why) = get(rig.health, "/releasez").await.unwrap();
    assert_eq!((status, why.trim()), (200, "nobody took over in time"));
    assert!(start.elapsed() >= PATIENCE);
    rig.guard.order(Some(Ordered { term: 3, members: [0, 1].into() }));
    sleep(Duration::from_millis(3_100)).await;
    assert!(!rig.guard.verdict().fenced);
    let (start, health) = (Instant::now(), rig.health);
    let waiting = tokio::spawn(async move { get(health, "/releasez").await.unwrap().1 });
    sleep(PATIENCE / 4).await;
    assert!(!waiting.is_finished(), "the other member is gone, and this one is still open");
    assert!(rig.guard.verdict().fenced, "who leaves closes first");
    rig.state.send_modify(|state| (state.role, state.fenced) = (Role::Isolated, true));
    assert_eq!(waiting.await.unwrap().trim(), "released");
    assert!(start.elapsed() < PATIENCE);
    rig.state.send_modify(|state| state.fenced = false);
    assert!(rig.guard.heard(rig.guard.epoch(), 1, 3));
    rig.state.send_modify(|state| (state.process, state.role) = (Process::Down, Role::Unknown));
    at_once("no mysqld").await;
}

#[tokio::test]
async fn metrics_are_the_state_at_the_scrape() {
    let rig = Rig::start().await;
    rig.state.send_modify(|state| {
        state.process = Process::Running;
        state.role = Role::Replica;
        state.accepted = Some(Accepted { term: 3, claim: 0, assignment: Assignment::Isolated, converged: true });
        state.replication =
            Some(Replication { source: "shop-1".into(), receiving: true, applying: true, lag_seconds: Some(1.5), error: None, tls: true });
    });
    let (status, text) = get(rig.health, "/metrics").await.unwrap();
    assert_eq!(status, 200);
    for line in [
        "understudy_process_up{engine=\"mysql\"} 1.0",
        "understudy_role{engine=\"mysql\",role=\"replica\"} 1.0",
        "understudy_role{engine=\"mysql\",role=\"primary\"} 0.0",
        "understudy_converged{engine=\"mysql\"} 1.0",
        "understudy_replication_lag_seconds{engine=\"mysql\"} 1.5",
        "understudy_term{engine=\"mysql\"} 0.0",
        "understudy_ready{engine=\"mysql\"} 0.0",
        "# EOF",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
    }
    assert_eq!(text.matches("# TYPE understudy_role ").count(), 1);
    assert!(text.contains("understudy_certificate_expiry_timestamp_seconds"));
    assert!(!text.contains("clone_copied"), "no clone, no figure");

    rig.state.send_modify(|state| state.data = Data::Cloning { donor: "shop-1".into(), copied: 1 << 30, total: 3 << 30 });
    let (_, text) = get(rig.health, "/metrics").await.unwrap();
    assert!(text.contains("understudy_clone_copied_bytes{engine=\"mysql\"} 1073741824.0"), "{text}");
}

#[tokio::test]
async fn the_report_is_on_the_health_port_in_standalone_mode_only() {
    let operated = Rig::start().await;
    assert_eq!(get(operated.health, "/v1/report").await.unwrap().0, 404);
    let alone = Rig::start_in(scratch(), Authority::new(), true).await;
    let (status, body) = get(alone.health, "/v1/report").await.unwrap();
    let report: Report<State> = serde_json::from_str(&body).unwrap();
    assert_eq!((status, report.member.as_str()), (200, "shop-0"));
}

#[tokio::test]
async fn a_guarded_process_ends_in_order_unless_it_would_be_missed() {
    let rig = Rig::start().await;
    let ended = async || {
        let script = "trap 'exit 7' TERM; echo up; while :; do sleep 0.02; done";
        let mut guard = tokio::process::Command::new(env!("CARGO_BIN_EXE_sidecar"))
            .args(["guard", "--health-port", &rig.health.port().to_string(), "--", "sh", "-c", script])
            .stdout(std::process::Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        guard.stdout.as_mut().unwrap().read_u8().await.unwrap();
        let pid = rustix::process::Pid::from_raw(guard.id().unwrap().try_into().unwrap()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        guard.wait().await.unwrap().code()
    };
    assert_eq!(ended().await, Some(7), "nobody misses it");
    let assignment = Assignment::Primary { acks: 1, members: vec![0, 1], barred: vec![] };
    let accepted = Some(Accepted { term: 3, claim: 0, assignment, converged: true });
    rig.state.send_modify(|state| state.process = Process::Starting);
    assert_eq!(ended().await, Some(128 + 9), "a sidecar that has just begun knows of nobody whether it is open");
    rig.state.send_modify(|state| (state.process, state.role, state.accepted) = (Process::Running, Role::Primary, accepted));
    assert_eq!(ended().await, Some(128 + 9), "a shutdown would tell clients what nobody else holds");
}
