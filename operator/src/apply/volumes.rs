//! Volumes: those of an earlier cluster are waited for, and ours grow. They are never deleted here (I10): that is the
//! StatefulSet's retention policy.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use kube::api::{ListParams, Patch, PatchParams};
use kube::{Api, Client, ResourceExt};
use serde_json::json;
use tokio::time::Instant;

use super::{ApplyError, MANAGER};
use crate::desired::Desired;
use crate::engine::Engine;
use crate::names::{self, selector_text};
use crate::quantity;

/// A refused size is asked for again after this long: somebody may have changed the StorageClass or the quota.
const ASK_AGAIN: Duration = Duration::from_secs(300);

/// How the volumes are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Growth {
    /// Every volume was asked to be as large as wanted.
    Settled,
    /// The API server refuses.
    Refused(Refused),
}

/// A volume that may not grow. The rest of the spec is applied all the same.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("volume {claim} cannot grow to {size} (StorageClass {class}): {message}; write the old size, or let the class allow expansion")]
pub struct Refused {
    /// The claim.
    pub claim: String,
    /// Its StorageClass.
    pub class: String,
    /// The size that was asked for.
    pub size: String,
    /// What the API server said.
    pub message: String,
}

impl Refused {
    /// Reason of the condition.
    pub const REASON: &'static str = "VolumeExpansionRefused";
}

/// Refusals by UID of the claim, and until when they stand.
#[derive(Debug, Default)]
pub(super) struct Refusals(Mutex<HashMap<String, (Refused, Instant)>>);

impl Refusals {
    fn standing(&self, uid: &str, size: &str) -> Option<Refused> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.get(uid).filter(|(refused, until)| refused.size == size && *until > Instant::now()).map(|(refused, _)| refused.clone())
    }

    fn note(&self, uid: String, refused: &Refused) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(uid, (refused.clone(), Instant::now() + ASK_AGAIN));
    }
}

/// Before the first member of a cluster is made: a volume of its name that is going with an earlier cluster would be taken for its
/// own, and then go.
pub(super) async fn wait_for_old<E: Engine>(client: &Client, desired: &Desired<E>) -> Result<(), ApplyError> {
    let selector = selector_text::<E>(&desired.name);
    let claims = Api::<PersistentVolumeClaim>::namespaced(client.clone(), &desired.namespace)
        .list(&ListParams::default().labels(&selector))
        .await
        .map_err(|error| ApplyError::api::<PersistentVolumeClaim>("list", &selector, error))?;
    match claims.items.iter().find(|claim| ordinal(desired, claim).is_some() && is_going(claim)) {
        Some(claim) => Err(ApplyError::StillOwnedByOld { kind: "PersistentVolumeClaim".to_owned(), name: claim.name_any() }),
        None => Ok(()),
    }
}

/// It is being deleted, or will be with the StatefulSet or the pod that owns it. A volume that is kept has no owner.
fn is_going(claim: &PersistentVolumeClaim) -> bool {
    let owners = claim.metadata.owner_references.iter().flatten();
    claim.metadata.deletion_timestamp.is_some() || owners.into_iter().any(|owner| owner.kind == "StatefulSet" || owner.kind == "Pod")
}

fn ordinal<E: Engine>(desired: &Desired<E>, claim: &PersistentVolumeClaim) -> Option<u32> {
    names::claim_ordinal(&desired.name, claim.metadata.name.as_deref()?)
}

/// Asks for the wanted size where a volume is smaller.
pub(super) async fn grow<E: Engine>(
    client: &Client,
    desired: &Desired<E>,
    claims: &[Arc<PersistentVolumeClaim>],
    refusals: &Refusals,
) -> Result<Growth, ApplyError> {
    let size = &desired.volume.size;
    let api = Api::<PersistentVolumeClaim>::namespaced(client.clone(), &desired.namespace);
    let mut growth = Growth::Settled;
    for claim in claims.iter().filter(|claim| ordinal(desired, claim).is_some_and(|ordinal| ordinal < desired.replicas)) {
        if !is_too_small(claim, desired) {
            continue;
        }
        let (name, uid) = (claim.name_any(), claim.uid().unwrap_or_default());
        if let Some(refused) = refusals.standing(&uid, &size.0) {
            growth = Growth::Refused(refused);
            continue;
        }
        let patch = json!({ "metadata": { "uid": uid }, "spec": { "resources": { "requests": { "storage": size } } } });
        let parameters = PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() };
        match api.patch(&name, &parameters, &Patch::Merge(&patch)).await {
            Ok(_) => tracing::info!(claim = name, size = size.0, "volume asked to grow"),
            Err(kube::Error::Api(status)) if status.is_not_found() || status.is_conflict() => {}
            // Forbidden by the class or a quota, or not a valid change.
            Err(kube::Error::Api(status)) if matches!(status.code, 403 | 422) => {
                let class = claim.spec.as_ref().and_then(|spec| spec.storage_class_name.clone()).filter(|class| !class.is_empty());
                let class = class.unwrap_or_else(|| "none".to_owned());
                let refused = Refused { claim: name, class, size: size.0.clone(), message: status.message.clone() };
                refusals.note(uid, &refused);
                growth = Growth::Refused(refused);
            }
            Err(error) => return Err(ApplyError::api::<PersistentVolumeClaim>("grow", &name, error)),
        }
    }
    Ok(growth)
}

/// A claim that is not bound yet cannot change, and one that is being deleted need not.
fn is_too_small<E: Engine>(claim: &PersistentVolumeClaim, desired: &Desired<E>) -> bool {
    let bound = claim.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Bound");
    let asked = || quantity::units(claim.spec.as_ref()?.resources.as_ref()?.requests.as_ref()?.get("storage")?);
    bound && claim.metadata.deletion_timestamp.is_none() && asked() < quantity::units(&desired.volume.size)
}
