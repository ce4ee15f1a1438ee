//! The binary's errands for the database container: the guard that starts the server, and the probe.

use std::process::Stdio;
use std::time::Duration;

use sidecar_protocol::redis::{Process, Role};
use tokio::process::Command;
use tokio::time::timeout;

use crate::rig::{DEADLINE, Rig, Server, signal};

const SIDECAR: &str = env!("CARGO_BIN_EXE_sidecar");

#[tokio::test]
async fn the_guard_starts_what_was_prepared_and_ends_it_in_order_though_nobody_relieved_it() {
    for server in [Server::Redis, Server::Valkey] {
        let rig = Rig::of(server);
        let mut zero = rig.member(0);
        zero.until("prepared", |state| state.identity.is_some()).await;
        zero.stop_server().await;
        let config = zero.config.clone();
        let guard = || {
            let mut command = Command::new(SIDECAR);
            // Nobody answers there.
            command.args(["guard", "--health-port", "1", "--redis"]).arg(&config.run_dir);
            command.stdout(Stdio::null()).kill_on_drop(true).spawn().unwrap()
        };
        let probe = async || {
            let mut command = Command::new(SIDECAR);
            command.args(["live", "--redis"]).arg(config.socket()).stderr(Stdio::null()).status().await.unwrap().success()
        };
        let mut running = guard();
        zero.until("up", |state| state.process == Process::Running).await;
        assert!(probe().await);
        let pid = running.id().unwrap();
        zero.lead(&[]);
        zero.converged().await;
        assert!(probe().await, "it wants a login, which is a sign of life");
        zero.app().await.set("a", 0).await.unwrap();
        signal(pid, "TERM").await;
        let ended = timeout(DEADLINE, running.wait()).await.expect("it ends").unwrap();
        assert!(ended.success(), "in order: {ended:?}");
        assert!(!probe().await);

        let mut running = guard();
        zero.until("primary", |state| state.role == Role::Primary).await;
        assert_eq!(zero.get("a").await.as_deref(), Some("x"));
        signal(running.id().unwrap(), "TERM").await;
        timeout(DEADLINE, running.wait()).await.expect("it ends").unwrap();
    }
}

#[tokio::test]
async fn a_server_that_is_frozen_is_not_alive() {
    let rig = Rig::new();
    let zero = rig.primary(&[]).await;
    zero.signal_server("STOP").await;
    let probe = Command::new(SIDECAR).args(["live", "--redis"]).arg(zero.config.socket()).output();
    let probe = timeout(Duration::from_secs(8), probe).await.unwrap().unwrap();
    assert!(!probe.status.success() && String::from_utf8_lossy(&probe.stderr).contains("no answer within"), "{probe:?}");
    zero.until("silent", |state| state.process == Process::Silent).await;
    zero.signal_server("CONT").await;
    zero.converged().await;
}
