//! Each sidecar answers as a Sentinel does: a Service of all of them, the port at each member's own name, and the policy that lets clients in.

use k8s_openapi::api::core::v1::{Service, ServiceSpec};
use sidecar_protocol::redis::SENTINEL_PORT;

use crate::build::{Objects, metadata, network};
use crate::names::{self, selector};
use crate::redis::Redis;
use crate::redis::validate::Desired;

/// Name of the port, and of its SRV records.
pub(super) const PORT_NAME: &str = "sentinel";

/// `objects`, and the Sentinels in them can be reached.
pub(super) fn reached(desired: &Desired, mut objects: Objects) -> Objects {
    for service in &mut objects.services {
        // The governing one: clients are given the members' own names.
        if service.metadata.name.as_deref() == Some(&*desired.name) {
            let spec = service.spec.get_or_insert_default();
            spec.ports.get_or_insert_default().push(network::port(PORT_NAME, SENTINEL_PORT));
        }
    }
    objects.services.push(service(desired));
    let rules = objects.network_policy.spec.get_or_insert_default().ingress.get_or_insert_default();
    if let Some(anybody) = rules.iter_mut().find(|rule| rule.from.is_none()) {
        anybody.ports.get_or_insert_default().push(network::open(SENTINEL_PORT));
    }
    objects
}

/// `NAME-sentinel`: every member, ready or not, since it is asked for the primary when there is none.
fn service(desired: &Desired) -> Service {
    Service {
        metadata: metadata(desired, names::sentinel(&desired.name)),
        spec: Some(ServiceSpec {
            publish_not_ready_addresses: Some(true),
            selector: Some(selector::<Redis>(&desired.name)),
            ports: Some(vec![network::port(PORT_NAME, SENTINEL_PORT)]),
            ..ServiceSpec::default()
        }),
        status: None,
    }
}
