//! What is MySQL's in a member's pod: the sidecar initialises and clones with the very mysqld that will serve.

use k8s_openapi::api::core::v1::{ExecAction, KeyToPath, PodSpec, Probe, Volume};

use crate::build::pod::{self, SIDECAR, mount};
use crate::mysql::validate::Desired;
use crate::names::{self, DATA};

/// The pod of a member whose my.cnf is in the ConfigMap `config`.
pub(super) fn spec(desired: &Desired, sidecar_image: &str, config: &str) -> PodSpec {
    let data = || vec![mount(DATA, "/var/lib/mysql", false)];
    let lag = desired.own.max_replica_lag_seconds.to_string();
    let sidecar = pod::sidecar(desired, "mysql", &["--max-replica-lag-seconds", &lag], data());
    let mysqld = pod::database(desired, &["mysqld", "--defaults-file=/understudy/run/my.cnf"], &greets(), data());
    pod::spec(desired, sidecar_image, config, sidecar, mysqld, vec![app(&desired.name)])
}

/// Absent until a database is asked for, and until its password exists; the sidecar makes the account when it comes.
fn app(cluster: &str) -> Volume {
    let mut app = pod::secret("app", names::app(cluster));
    if let Some(source) = &mut app.secret {
        source.optional = Some(true);
        let item = |key: &str| KeyToPath { key: key.to_owned(), path: key.to_owned(), mode: None };
        source.items = Some(["username", "password", "database"].map(item).into());
    }
    app
}

/// mysqld greets on its socket, whatever its role and its users' passwords.
fn greets() -> Probe {
    Probe {
        exec: Some(ExecAction { command: Some([SIDECAR, "live"].map(str::to_owned).into()) }),
        timeout_seconds: Some(5),
        ..Probe::default()
    }
}
