//! What is Redis' in a member's pod: the sidecar writes its redis.conf and answers as a Sentinel does.

use crds::redis::{Engine, Persistence, SentinelAuth, Tls};
use k8s_openapi::api::core::v1::{ExecAction, PodSpec, Probe, Volume};
use sidecar_protocol::redis::SENTINEL_PORT;

use super::sentinel::PORT_NAME;
use crate::build::pod::{self, SIDECAR, mount};
use crate::names::{self, DATA};
use crate::redis::validate::Desired;

/// The pod of a member whose redis.conf is in the ConfigMap `config`.
pub(super) fn spec(desired: &Desired, sidecar_image: &str, config: &str) -> PodSpec {
    let data = || vec![mount(DATA, "/data", false)];
    let mut sidecar = pod::sidecar(desired, "redis", &arguments(desired).iter().map(String::as_str).collect::<Vec<_>>(), data());
    sidecar.ports.get_or_insert_default().push(pod::port(PORT_NAME, SENTINEL_PORT));
    let mut server = pod::database(desired, &[], &greets(), data());
    // Which program the image has, the sidecar finds out.
    server.command = Some([SIDECAR, "guard", "--redis", "/understudy/run"].map(str::to_owned).into());
    pod::spec(desired, sidecar_image, config, sidecar, server, vec![users(&desired.name)])
}

fn arguments(desired: &Desired) -> Vec<String> {
    let own = &desired.own;
    let persistence = match own.persistence {
        Persistence::AppendOnly => "append-only",
        Persistence::Snapshot => "snapshot",
        Persistence::None => "none",
    };
    let (lag, port) = (own.max_replica_lag_seconds.to_string(), SENTINEL_PORT.to_string());
    let mut all = vec!["--persistence", persistence, "--max-replica-lag-seconds", &lag, "--users", "/understudy/app"];
    all.extend(["--sentinel-port", &port, "--master-name", &own.master_name]);
    if own.sentinel_auth == SentinelAuth::Disabled {
        all.push("--no-sentinel-auth");
    }
    if own.tls == Tls::Disabled {
        all.push("--no-tls");
    }
    match own.engine {
        Some(Engine::Redis) => all.extend(["--engine", "redis"]),
        Some(Engine::Valkey) => all.extend(["--engine", "valkey"]),
        None => {}
    }
    all.into_iter().map(str::to_owned).collect()
}

/// Absent until there are users, and until their passwords exist. Mounted whole: a new user must not restart anybody.
fn users(cluster: &str) -> Volume {
    let mut users = pod::secret("app", names::users(cluster));
    if let Some(source) = &mut users.secret {
        source.optional = Some(true);
    }
    users
}

/// The server greets on its socket, whatever its role and its users' passwords.
fn greets() -> Probe {
    Probe {
        exec: Some(ExecAction { command: Some([SIDECAR, "live", "--redis"].map(str::to_owned).into()) }),
        timeout_seconds: Some(5),
        ..Probe::default()
    }
}
