//! How members are reached, and by whom.

use crds::shared::{ServiceOptions, ServiceType};
use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::api::networking::v1::{NetworkPolicy, NetworkPolicyIngressRule, NetworkPolicyPeer, NetworkPolicyPort, NetworkPolicySpec};
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use sidecar_protocol::{API_PORT, HEALTH_PORT};

use super::{members_selector, metadata};
use crate::desired::Desired;
use crate::engine::Engine;
use crate::names::{self, OPERATOR_LABEL, selector};

/// The governing Service: a stable name for each member, ready or not, since members find each other before they serve.
pub(super) fn members<E: Engine>(desired: &Desired<E>) -> Service {
    Service {
        metadata: metadata(desired, desired.name.clone()),
        spec: Some(ServiceSpec {
            cluster_ip: Some("None".to_owned()),
            publish_not_ready_addresses: Some(true),
            selector: Some(selector::<E>(&desired.name)),
            ports: Some(vec![port(E::LABEL, E::PORT), port("api", API_PORT), port("health", HEALTH_PORT)]),
            ..ServiceSpec::default()
        }),
        status: None,
    }
}

/// `NAME-primary`. It selects nobody: its one endpoint is written by the operator, in one write.
pub(super) fn primary<E: Engine>(desired: &Desired<E>) -> Service {
    exposed(desired, names::primary(&desired.name), &desired.services.primary)
}

/// `NAME-read`: every ready member.
pub(super) fn read<E: Engine>(desired: &Desired<E>) -> Service {
    let mut service = exposed(desired, names::read(&desired.name), &desired.services.read);
    if let Some(spec) = &mut service.spec {
        spec.selector = Some(selector::<E>(&desired.name));
    }
    service
}

fn exposed<E: Engine>(desired: &Desired<E>, name: String, options: &ServiceOptions) -> Service {
    let type_ = match options.type_ {
        ServiceType::ClusterIP => "ClusterIP",
        ServiceType::NodePort => "NodePort",
        ServiceType::LoadBalancer => "LoadBalancer",
    };
    let mut metadata = metadata(desired, name);
    metadata.annotations = Some(options.annotations.clone()).filter(|all| !all.is_empty());
    Service {
        metadata,
        spec: Some(ServiceSpec { type_: Some(type_.to_owned()), ports: Some(vec![port(E::LABEL, E::PORT)]), ..ServiceSpec::default() }),
        status: None,
    }
}

/// A port of a Service.
#[must_use]
pub fn port(name: &str, number: u16) -> ServicePort {
    ServicePort {
        name: Some(name.to_owned()),
        port: number.into(),
        target_port: Some(IntOrString::Int(number.into())),
        protocol: Some("TCP".to_owned()),
        ..ServicePort::default()
    }
}

/// A port that is let through.
#[must_use]
pub fn open(number: u16) -> NetworkPolicyPort {
    NetworkPolicyPort { port: Some(IntOrString::Int(number.into())), protocol: Some("TCP".to_owned()), end_port: None }
}

/// Anybody may speak to the database and read the probes; orders come from the operator, in whatever namespace it runs. Every caller must
/// still show its certificate.
pub(super) fn policy<E: Engine>(desired: &Desired<E>) -> NetworkPolicy {
    let operator = LabelSelector {
        match_labels: Some([(OPERATOR_LABEL.0.to_owned(), OPERATOR_LABEL.1.to_owned())].into()),
        ..LabelSelector::default()
    };
    let from = vec![
        NetworkPolicyPeer { pod_selector: Some(members_selector(desired)), ..NetworkPolicyPeer::default() },
        NetworkPolicyPeer {
            namespace_selector: Some(LabelSelector::default()),
            pod_selector: Some(operator),
            ..NetworkPolicyPeer::default()
        },
    ];
    NetworkPolicy {
        metadata: metadata(desired, desired.name.clone()),
        spec: Some(NetworkPolicySpec {
            pod_selector: Some(members_selector(desired)),
            policy_types: Some(vec!["Ingress".to_owned()]),
            ingress: Some(vec![
                NetworkPolicyIngressRule { ports: Some(vec![open(E::PORT), open(HEALTH_PORT)]), from: None },
                NetworkPolicyIngressRule { ports: Some(vec![open(API_PORT)]), from: Some(from) },
            ]),
            egress: None,
        }),
    }
}

/// One member at a time may be evicted; one that does not work anyway may always go.
pub(super) fn disruption_budget<E: Engine>(desired: &Desired<E>) -> PodDisruptionBudget {
    PodDisruptionBudget {
        metadata: metadata(desired, desired.name.clone()),
        spec: Some(PodDisruptionBudgetSpec {
            max_unavailable: Some(IntOrString::Int(1)),
            selector: Some(members_selector(desired)),
            ..PodDisruptionBudgetSpec::default()
        }),
        status: None,
    }
}
