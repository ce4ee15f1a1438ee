//! (Desired, replicas) → [`Objects`] (pure): every Kubernetes object of a set except its Secrets and the EndpointSlice that routes.
//!
//! What all engines build is in [`crate::build`]; here is what is MongoDB's: mongod.conf, and what runs in a pod.

use crds::mongo::Tls;
use k8s_openapi::api::core::v1::{ExecAction, PodSpec, Probe};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::ResourceExt;
use sidecar_protocol::mongo::PORT;

use super::config;
use super::keys;
use super::validate::Desired;
use crate::build::pod::{self, SIDECAR, mount};
pub use crate::build::{Objects, template_size};
use crate::build::{config_map, objects};
use crate::names::{self, DATA};

/// Builds them.
///
/// `volume_size` is what the living StatefulSet's template says ([`template_size`]), which cannot be changed: volumes grow one by one.
#[must_use]
pub fn build(desired: &Desired, replicas: u32, volume_size: Option<&Quantity>, sidecar_image: &str) -> Objects {
    let config_map = config_map(desired, "mongod.conf", config::mongod_conf(desired));
    let pods = spec(desired, sidecar_image, &config_map.name_any());
    objects(desired, replicas, volume_size, config_map, pods)
}

fn spec(desired: &Desired, sidecar_image: &str, config: &str) -> PodSpec {
    let data = || vec![mount(DATA, "/data/db", false)];
    let (lag, key) = (desired.own.max_replica_lag_seconds.to_string(), format!("/understudy/system/{}", keys::FILE));
    let tls = match desired.own.tls {
        Tls::Required => "requireTLS",
        Tls::Preferred => "preferTLS",
        Tls::Allowed => "allowTLS",
        Tls::Disabled => "disabled",
    };
    let arguments = ["--max-replica-lag-seconds", &lag, "--key", &key, "--users", "/understudy/app", "--tls-mode", tls];
    let sidecar = pod::sidecar(desired, "mongo", &arguments, data());
    let mongod = pod::database(desired, &["mongod", "--config", "/understudy/run/mongod.conf"], &greets(), data());
    let mut app = pod::secret("app", names::app(&desired.name));
    if let Some(source) = &mut app.secret {
        // Absent until there are users, and until their passwords exist. Mounted whole: a new user must not restart anybody.
        source.optional = Some(true);
    }
    pod::spec(desired, sidecar_image, config, sidecar, mongod, vec![app])
}

/// mongod answers on its port, whatever its state and its users' passwords.
fn greets() -> Probe {
    let port = PORT.to_string();
    Probe {
        exec: Some(ExecAction { command: Some([SIDECAR, "live", "--mongod", &port].map(str::to_owned).into()) }),
        timeout_seconds: Some(5),
        ..Probe::default()
    }
}
