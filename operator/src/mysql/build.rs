//! (Desired, replicas) → [`Objects`] (pure): every Kubernetes object of a cluster except its Secrets and the EndpointSlice that routes.
//!
//! Names, ports and mounts are the contract with the sidecar. [`network`] is how members are reached, [`pod`] what runs in one.

pub mod network;
pub mod pod;

use crds::mysql::{Keep, Retention};
use k8s_openapi::api::apps::v1::{
    StatefulSet, StatefulSetPersistentVolumeClaimRetentionPolicy, StatefulSetSpec, StatefulSetUpdateStrategy,
};
use k8s_openapi::api::core::v1::{
    ConfigMap, PersistentVolumeClaim, PersistentVolumeClaimSpec, PodTemplateSpec, Service, VolumeResourceRequirements,
};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};

use super::config;
pub use super::names::{CLUSTER_LABEL, MANAGED_BY, selector_text};
use super::names::{DATA, labels, selector};
use super::validate::Desired;

/// The objects of one cluster, in the order in which they are applied: whatever a pod mounts or is found by comes before the pod.
#[derive(Clone, Debug, PartialEq)]
pub struct Objects {
    /// my.cnf.
    pub config_map: ConfigMap,
    /// The governing Service, `NAME-primary`, `NAME-read`.
    pub services: Vec<Service>,
    /// Who may reach the members.
    pub network_policy: NetworkPolicy,
    /// At most one member is evicted at a time.
    pub disruption_budget: Option<PodDisruptionBudget>,
    /// The members.
    pub stateful_set: StatefulSet,
}

/// Builds them.
///
/// `volume_size` is what the living StatefulSet's template says ([`template_size`]), which cannot be changed: volumes grow one by one.
#[must_use]
pub fn build(desired: &Desired, replicas: u32, volume_size: Option<&Quantity>, sidecar_image: &str) -> Objects {
    let config_map = config_map(desired);
    let config = config_map.metadata.name.clone().unwrap_or_default();
    Objects {
        services: vec![network::members(desired), network::primary(desired), network::read(desired)],
        network_policy: network::policy(desired),
        // The budget of a single member would only forbid every drain of its node.
        disruption_budget: (desired.replicas > 1).then(|| network::disruption_budget(desired)),
        stateful_set: stateful_set(desired, replicas, volume_size, sidecar_image, &config),
        config_map,
    }
}

/// The volume size in the template of a living StatefulSet.
#[must_use]
pub fn template_size(live: &StatefulSet) -> Option<&Quantity> {
    let templates = live.spec.as_ref()?.volume_claim_templates.as_ref()?;
    let data = templates.iter().find(|template| template.metadata.name.as_deref() == Some(DATA))?;
    data.spec.as_ref()?.resources.as_ref()?.requests.as_ref()?.get("storage")
}

/// Metadata of one of the cluster's own objects.
#[must_use]
pub fn metadata(desired: &Desired, name: String) -> ObjectMeta {
    ObjectMeta {
        name: Some(name),
        namespace: Some(desired.namespace.clone()),
        labels: Some(labels(&desired.name)),
        owner_references: Some(vec![desired.owner()]),
        ..ObjectMeta::default()
    }
}

fn members_selector(desired: &Desired) -> LabelSelector {
    LabelSelector { match_labels: Some(selector(&desired.name)), ..LabelSelector::default() }
}

fn config_map(desired: &Desired) -> ConfigMap {
    let text = config::my_cnf(desired);
    ConfigMap {
        metadata: metadata(desired, config::map_name(&desired.name, &text)),
        data: Some([("my.cnf".to_owned(), text)].into()),
        immutable: Some(true),
        ..ConfigMap::default()
    }
}

fn stateful_set(desired: &Desired, replicas: u32, volume_size: Option<&Quantity>, sidecar_image: &str, config: &str) -> StatefulSet {
    StatefulSet {
        metadata: metadata(desired, desired.name.clone()),
        spec: Some(StatefulSetSpec {
            replicas: Some(replicas.cast_signed()),
            service_name: Some(desired.name.clone()),
            selector: members_selector(desired),
            pod_management_policy: Some("Parallel".to_owned()),
            // Which pod is replaced, and when, is decided with the primary in mind; the StatefulSet cannot know it.
            update_strategy: Some(StatefulSetUpdateStrategy { type_: Some("OnDelete".to_owned()), rolling_update: None }),
            persistent_volume_claim_retention_policy: Some(retention(desired.volume.retention)),
            template: PodTemplateSpec {
                metadata: Some(ObjectMeta {
                    labels: Some(desired.pod.labels.clone().into_iter().chain(labels(&desired.name)).collect()),
                    annotations: Some(desired.pod.annotations.clone()).filter(|all| !all.is_empty()),
                    ..ObjectMeta::default()
                }),
                spec: Some(pod::spec(desired, sidecar_image, config)),
            },
            volume_claim_templates: Some(vec![claim(desired, volume_size)]),
            ..StatefulSetSpec::default()
        }),
        ..StatefulSet::default()
    }
}

fn claim(desired: &Desired, size: Option<&Quantity>) -> PersistentVolumeClaim {
    let size = size.unwrap_or(&desired.volume.size).clone();
    PersistentVolumeClaim {
        metadata: ObjectMeta { name: Some(DATA.to_owned()), labels: Some(labels(&desired.name)), ..ObjectMeta::default() },
        spec: Some(PersistentVolumeClaimSpec {
            access_modes: Some(vec!["ReadWriteOnce".to_owned()]),
            storage_class_name: desired.volume.class.clone(),
            resources: Some(VolumeResourceRequirements { requests: Some([("storage".to_owned(), size)].into()), limits: None }),
            ..PersistentVolumeClaimSpec::default()
        }),
        status: None,
    }
}

fn retention(retention: Retention) -> StatefulSetPersistentVolumeClaimRetentionPolicy {
    let word = |keep| match keep {
        Keep::Retain => Some("Retain".to_owned()),
        Keep::Delete => Some("Delete".to_owned()),
    };
    StatefulSetPersistentVolumeClaimRetentionPolicy { when_scaled: word(retention.when_scaled), when_deleted: word(retention.when_deleted) }
}
