//! The lab's dynamic volumes: answers claims of [`DYNAMIC`] and [`SMALL`] with directories, and removes those that are released.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use futures::StreamExt;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use kube::api::{DeleteParams, PostParams};
use kube::runtime::controller::{Action, Controller};
use kube::runtime::watcher;
use kube::{Api, Client, ResourceExt};

use crate::volumes::{DYNAMIC, PROVISIONER, SMALL, directory, local_volume, make_directory, remove_directory};

/// The scheduler's choice, which a claim carries once a pod wants it.
const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
/// The longest time between a failure and the next try; the lab is for impatient people.
const RETRY: Duration = Duration::from_secs(1);

struct Context {
    client: Client,
    lab: PathBuf,
}

/// The controller wants a type that is an `Error`, which `anyhow::Error` is not.
#[derive(Debug, thiserror::Error)]
#[error("{0:#}")]
struct Failure(anyhow::Error);

/// Serves claims until the process is stopped. `lab` is the lab's directory.
pub async fn run(client: Client, lab: PathBuf) -> Result<()> {
    let context = Arc::new(Context { client: client.clone(), lab });
    let claims = Controller::new(Api::<PersistentVolumeClaim>::all(client.clone()), watcher::Config::default())
        .run(
            async |claim, context| provide(&claim, &context).await.map_err(Failure),
            |_, error, _| {
                tracing::warn!(%error, "claim");
                Action::requeue(RETRY)
            },
            context.clone(),
        )
        .for_each(async |_| ());
    let volumes = Controller::new(Api::<PersistentVolume>::all(client), watcher::Config::default())
        .run(
            async |volume, context| reclaim(&volume, &context).await.map_err(Failure),
            |_, error, _| {
                tracing::warn!(%error, "volume");
                Action::requeue(RETRY)
            },
            context,
        )
        .for_each(async |_| ());
    tokio::join!(claims, volumes);
    Ok(())
}

/// A claim that waits for us and whose pod has a node gets its volume.
async fn provide(claim: &PersistentVolumeClaim, context: &Context) -> Result<Action> {
    let spec = claim.spec.clone().unwrap_or_default();
    let class = spec.storage_class_name.unwrap_or_default();
    let bound = spec.volume_name.is_some() || claim.metadata.deletion_timestamp.is_some();
    let (Some(node), Some(uid), true, false) =
        (claim.annotations().get(SELECTED_NODE), claim.uid(), [DYNAMIC, SMALL].contains(&&*class), bound)
    else {
        return Ok(Action::await_change());
    };
    let size = spec.resources.and_then(|resources| resources.requests?.get("storage").cloned()).unwrap_or_default().0;
    let name = format!("pvc-{uid}");
    let path = directory(&context.lab, &name);
    let tmpfs = (class == SMALL).then(|| tmpfs_size(&size));
    make_directory(&path, tmpfs.as_deref()).await?;
    let mut volume = local_volume(&name, &class, &size, node, &path);
    volume["spec"]["claimRef"] = serde_json::json!({
        "apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": claim.namespace(), "name": claim.name_any(), "uid": uid,
    });
    match Api::<PersistentVolume>::all(context.client.clone()).create(&PostParams::default(), &serde_json::from_value(volume)?).await {
        Ok(_) => tracing::info!(volume = name, node, claim = claim.name_any(), "made"),
        // An earlier try got this far; the claim's uid is in the name, so it is ours.
        Err(kube::Error::Api(status)) if status.is_already_exists() => {}
        Err(error) => return Err(error.into()),
    }
    Ok(Action::await_change())
}

/// A volume of ours whose claim is gone is removed, the directory first: a volume that is still listed is tried again.
async fn reclaim(volume: &PersistentVolume, context: &Context) -> Result<Action> {
    let ours = volume.annotations().get("pv.kubernetes.io/provisioned-by").is_some_and(|by| by == PROVISIONER);
    let spec = volume.spec.clone().unwrap_or_default();
    let released = volume.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Released");
    if !ours || !released || spec.persistent_volume_reclaim_policy.as_deref() != Some("Delete") {
        return Ok(Action::await_change());
    }
    let name = volume.name_any();
    remove_directory(&directory(&context.lab, &name)).await?;
    match Api::<PersistentVolume>::all(context.client.clone()).delete(&name, &DeleteParams::default()).await {
        Ok(_) => tracing::info!(volume = name, "removed"),
        Err(kube::Error::Api(status)) if status.is_not_found() => {}
        Err(error) => return Err(error.into()),
    }
    Ok(Action::await_change())
}

/// mount writes sizes as `64m` where Kubernetes writes `64Mi`.
fn tmpfs_size(quantity: &str) -> String {
    quantity.trim_end_matches('i').to_lowercase()
}
