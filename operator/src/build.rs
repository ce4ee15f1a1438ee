//! What every engine's objects are made of (pure). The engine's `build` adds its configuration and what runs in the pods.
//!
//! Names, ports and mounts are the contract with the sidecar. [`network`] is how members are reached, [`pod`] what surrounds a database.

pub mod network;
pub mod pod;

use crds::shared::{Keep, Retention};
use k8s_openapi::api::apps::v1::{
    StatefulSet, StatefulSetPersistentVolumeClaimRetentionPolicy, StatefulSetSpec, StatefulSetUpdateStrategy,
};
use k8s_openapi::api::core::v1::{
    ConfigMap, PersistentVolumeClaim, PersistentVolumeClaimSpec, PodSpec, PodTemplateSpec, Service, VolumeResourceRequirements,
};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use ring::digest::{SHA256, digest};

use crate::desired::Desired;
use crate::engine::Engine;
use crate::names::{DATA, labels, selector};

/// The objects of one cluster, in the order in which they are applied: whatever a pod mounts or is found by comes before the pod.
#[derive(Clone, Debug, PartialEq)]
pub struct Objects {
    /// The database's configuration file.
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

/// On pods: what they read when they start and never again.
const READ_AT_START_ANNOTATION: &str = "understudy.dev/read-at-start";

impl Objects {
    /// Pods that were started with something of another digest are outdated; without one, nobody is that was not before.
    pub fn started_with(&mut self, digest: Option<String>, live: Option<&StatefulSet>) {
        let of = |live: &StatefulSet| {
            live.spec.as_ref()?.template.metadata.as_ref()?.annotations.as_ref()?.get(READ_AT_START_ANNOTATION).cloned()
        };
        if let Some(digest) = digest.or_else(|| of(live?)) {
            let metadata = self.stateful_set.spec.get_or_insert_default().template.metadata.get_or_insert_default();
            metadata.annotations.get_or_insert_default().insert(READ_AT_START_ANNOTATION.to_owned(), digest);
        }
    }
}

/// A file for the database's configuration, under a name that is made of its text: another text is another object, so that a pod keeps
/// what it was started with.
#[must_use]
pub fn config_map<E: Engine>(desired: &Desired<E>, file: &str, text: String) -> ConfigMap {
    ConfigMap {
        metadata: metadata(desired, map_name(&desired.name, &text)),
        data: Some([(file.to_owned(), text)].into()),
        immutable: Some(true),
        ..ConfigMap::default()
    }
}

/// Name of the ConfigMap that holds `text`.
#[must_use]
pub fn map_name(cluster: &str, text: &str) -> String {
    format!("{cluster}-config-{}", fingerprint(text, 5))
}

/// What tells `text` from another one, and nothing of it: the first so many bytes of its digest.
#[must_use]
pub fn fingerprint(text: &str, bytes: usize) -> String {
    digest(&SHA256, text.as_bytes()).as_ref().iter().take(bytes).map(|byte| format!("{byte:02x}")).collect()
}

/// The objects around the pods of `spec`, whose configuration is in `config_map`.
///
/// `volume_size` is what the living StatefulSet's template says ([`template_size`]), which cannot be changed: volumes grow one by one.
#[must_use]
pub fn objects<E: Engine>(
    desired: &Desired<E>,
    replicas: u32,
    volume_size: Option<&Quantity>,
    config_map: ConfigMap,
    spec: PodSpec,
) -> Objects {
    Objects {
        config_map,
        services: vec![network::members(desired), network::primary(desired), network::read(desired)],
        network_policy: network::policy(desired),
        // The budget of a single member would only forbid every drain of its node.
        disruption_budget: (desired.replicas > 1).then(|| network::disruption_budget(desired)),
        stateful_set: stateful_set(desired, replicas, volume_size, spec),
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
pub fn metadata<E: Engine>(desired: &Desired<E>, name: String) -> ObjectMeta {
    ObjectMeta {
        name: Some(name),
        namespace: Some(desired.namespace.clone()),
        labels: Some(labels::<E>(&desired.name)),
        owner_references: Some(vec![desired.owner()]),
        ..ObjectMeta::default()
    }
}

fn members_selector<E: Engine>(desired: &Desired<E>) -> LabelSelector {
    LabelSelector { match_labels: Some(selector::<E>(&desired.name)), ..LabelSelector::default() }
}

fn stateful_set<E: Engine>(desired: &Desired<E>, replicas: u32, volume_size: Option<&Quantity>, spec: PodSpec) -> StatefulSet {
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
                    labels: Some(desired.pod.labels.clone().into_iter().chain(labels::<E>(&desired.name)).collect()),
                    annotations: Some(desired.pod.annotations.clone()).filter(|all| !all.is_empty()),
                    ..ObjectMeta::default()
                }),
                spec: Some(spec),
            },
            volume_claim_templates: Some(vec![claim(desired, volume_size)]),
            ..StatefulSetSpec::default()
        }),
        ..StatefulSet::default()
    }
}

fn claim<E: Engine>(desired: &Desired<E>, size: Option<&Quantity>) -> PersistentVolumeClaim {
    let size = size.unwrap_or(&desired.volume.size).clone();
    PersistentVolumeClaim {
        metadata: ObjectMeta { name: Some(DATA.to_owned()), labels: Some(labels::<E>(&desired.name)), ..ObjectMeta::default() },
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_text_has_one_name_and_another_text_another() {
        assert_eq!(map_name("orders", "a"), map_name("orders", "a"));
        assert_ne!(map_name("orders", "a"), map_name("orders", "b"));
        assert!(map_name(&"a".repeat(40), "b").len() <= 63);
    }
}
