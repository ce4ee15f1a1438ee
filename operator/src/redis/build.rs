//! (Desired, replicas) → [`Objects`] (pure): every Kubernetes object of a cluster except its Secrets and the EndpointSlice that routes.
//!
//! What all engines build is in [`crate::build`]; here is what is Redis': redis.conf, what runs in a [`pod`], and how clients that ask a
//! [`sentinel`] reach one.

mod pod;
mod sentinel;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::ResourceExt;

use super::config;
use super::validate::Desired;
pub use crate::build::{Objects, template_size};
use crate::build::{config_map, objects};

/// Builds them.
///
/// `volume_size` is what the living StatefulSet's template says ([`template_size`]), which cannot be changed: volumes grow one by one.
#[must_use]
pub fn build(desired: &Desired, replicas: u32, volume_size: Option<&Quantity>, sidecar_image: &str) -> Objects {
    let config_map = config_map(desired, "redis.conf", config::redis_conf(desired));
    let pods = pod::spec(desired, sidecar_image, &config_map.name_any());
    sentinel::reached(desired, objects(desired, replicas, volume_size, config_map, pods))
}
