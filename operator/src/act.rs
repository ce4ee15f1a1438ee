//! [`Decision`] → calls: orders to members, the routing slice, the one irreversible step.

use std::net::IpAddr;

use crds::shared::ClusterStatus;
use k8s_openapi::api::core::v1::{ObjectReference, Pod};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use sidecar_protocol::{Order, Report};

use crate::apply::{ApplyError, MANAGER, check_owner};
use crate::build::metadata;
use crate::context::Context;
use crate::decision::{Decision, Route, Step};
use crate::desired::Desired;
use crate::engine::Engine;
use crate::names;
use crate::observed::{Observed, PodSeen};
use crate::watches::SLICE_MANAGER;

/// Why a decision was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum ActError {
    /// The slice cannot be written.
    #[error("route of {slice}: {source}")]
    Route {
        /// Its name.
        slice: String,
        /// Why.
        #[source]
        source: Box<ApplyError>,
    },
    /// A pod cannot be deleted.
    #[error("delete pod {pod}: {source}")]
    ReplacePod {
        /// Its name.
        pod: String,
        /// What the API server said.
        #[source]
        source: Box<kube::Error>,
    },
}

/// Carries out `decision`, which was made upon `status`.
///
/// # Errors
/// When Kubernetes refuses. What members refuse is told by their reports.
pub async fn act<E: Engine>(
    context: &Context<E>,
    desired: &Desired<E>,
    observed: &Observed<E>,
    status: &E::Status,
    decision: &Decision<E>,
) -> Result<(), ActError> {
    order(context, desired, observed, status, decision);
    route(context, desired, observed, decision.route).await?;
    match &decision.step {
        None => Ok(()),
        Some(Step::ReplacePod { ordinal, uid, why: _ }) => replace_pod(context, desired, *ordinal, uid).await,
    }
}

/// Orders go only to members that answer and do not hold them already. They are carried in the background: nobody waits for anybody.
fn order<E: Engine>(context: &Context<E>, desired: &Desired<E>, observed: &Observed<E>, status: &E::Status, decision: &Decision<E>) {
    for (ordinal, assignment) in &decision.orders {
        let Some(report) = observed.members.get(ordinal).and_then(|member| member.report.answered()) else { continue };
        // The start of the sidecar that this was decided about: another one may have lost its volume since.
        let Report { incarnation, orders: after, .. } = report;
        let order = Order {
            cluster: desired.uid.clone(),
            term: status.term(),
            claim: status.claims(),
            incarnation: incarnation.clone(),
            after: *after,
            assignment: assignment.clone(),
        };
        if !E::holds(&report.state, &order) {
            context.members.order(&desired.uid, &desired.member_name(*ordinal), order);
        }
    }
}

/// One write that swaps the address: routing proxies apply it at once, while a removal and an addition take them a second.
async fn route<E: Engine>(context: &Context<E>, desired: &Desired<E>, observed: &Observed<E>, route: Route) -> Result<(), ActError> {
    let name = names::primary(&desired.name);
    let live = context.caches.slice(&desired.namespace, &name);
    let now = live.as_ref().and_then(|slice| slice.endpoints.as_ref()).map_or(&[][..], Vec::as_slice);
    let wanted = match route {
        Route::Keep => return Ok(()),
        Route::Nobody if now.is_empty() => return Ok(()),
        Route::Nobody => Vec::new(),
        Route::To(ordinal) => {
            let pod = observed.members.get(&ordinal).and_then(|member| member.pod.as_ref());
            match pod.and_then(|pod| endpoint(desired, ordinal, pod)) {
                Some(endpoint) => vec![endpoint],
                None => return Ok(()),
            }
        }
    };
    let same = |old: &Endpoint, new: &Endpoint| {
        let uid = |endpoint: &Endpoint| endpoint.target_ref.as_ref().and_then(|pod| pod.uid.clone());
        old.addresses == new.addresses && uid(old) == uid(new) && old.conditions == new.conditions
    };
    if live.is_some() && now.len() == wanted.len() && now.iter().zip(&wanted).all(|(old, new)| same(old, new)) {
        return Ok(());
    }
    let refuse = |source| ActError::Route { slice: name.clone(), source: Box::new(source) };
    if let Some(live) = &live {
        check_owner::<EndpointSlice>(&live.metadata, &desired.owner()).map_err(refuse)?;
    }
    let family = |endpoint: &Endpoint| match endpoint.addresses.first().and_then(|address| address.parse().ok()) {
        Some(IpAddr::V6(_)) => "IPv6",
        _ => "IPv4",
    };
    // A slice's family cannot change; an empty one keeps its own.
    let family = wanted.first().map(family).or(live.as_ref().map(|slice| slice.address_type.as_str())).unwrap_or("IPv4");
    let slice = slice(desired, &name, family, wanted);
    let api = Api::<EndpointSlice>::namespaced(context.client.clone(), &desired.namespace);
    let written = api.patch(&name, &PatchParams::apply(MANAGER).force(), &Patch::Apply(&slice)).await;
    written.map_err(|error| refuse(ApplyError::api::<EndpointSlice>("apply", &name, error)))?;
    let to = slice.endpoints.iter().flatten().next().and_then(|endpoint| endpoint.target_ref.as_ref()?.name.clone());
    tracing::info!(to = to.as_deref().unwrap_or("nobody"), "routed");
    Ok(())
}

fn endpoint<E: Engine>(desired: &Desired<E>, ordinal: u32, pod: &PodSeen) -> Option<Endpoint> {
    Some(Endpoint {
        addresses: vec![pod.ip.clone()?],
        conditions: Some(EndpointConditions { ready: Some(true), serving: Some(true), terminating: Some(false) }),
        target_ref: Some(ObjectReference {
            kind: Some("Pod".to_owned()),
            name: Some(desired.member_name(ordinal)),
            namespace: Some(desired.namespace.clone()),
            uid: Some(pod.uid.clone()),
            ..ObjectReference::default()
        }),
        ..Endpoint::default()
    })
}

fn slice<E: Engine>(desired: &Desired<E>, name: &str, family: &str, endpoints: Vec<Endpoint>) -> EndpointSlice {
    let mut metadata = metadata(desired, name.to_owned());
    let labels = [("kubernetes.io/service-name", name), SLICE_MANAGER].map(|(key, value)| (key.to_owned(), value.to_owned()));
    metadata.labels.get_or_insert_default().extend(labels);
    EndpointSlice {
        metadata,
        address_type: family.to_owned(),
        endpoints: Some(endpoints),
        ports: Some(vec![EndpointPort {
            name: Some(E::LABEL.to_owned()),
            port: Some(E::PORT.into()),
            protocol: Some("TCP".to_owned()),
            app_protocol: None,
        }]),
    }
}

async fn replace_pod<E: Engine>(context: &Context<E>, desired: &Desired<E>, ordinal: u32, uid: &str) -> Result<(), ActError> {
    let pod = desired.member_name(ordinal);
    let exactly = Preconditions { uid: Some(uid.to_owned()), resource_version: None };
    let api = Api::<Pod>::namespaced(context.client.clone(), &desired.namespace);
    match api.delete(&pod, &DeleteParams::default().preconditions(exactly)).await {
        Ok(_) => Ok(()),
        // Gone, or another pod by now: that is what was wanted.
        Err(kube::Error::Api(status)) if status.is_not_found() || status.is_conflict() => Ok(()),
        Err(source) => Err(ActError::ReplacePod { pod, source: Box::new(source) }),
    }
}
