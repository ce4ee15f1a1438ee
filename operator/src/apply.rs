//! Objects → Kubernetes, by server-side apply: in order, only what differs, the StatefulSet last; then what is no longer wanted goes.
//!
//! An idle pass writes nothing: a living object that already says what we want is left alone ([`same`]). What belongs to somebody
//! else, or to an earlier cluster of the same name that is still being deleted, is never touched. Volumes grow in [`volumes`].
//! Nothing is decided here.

mod same;
pub mod volumes;

use std::collections::HashMap;
use std::fmt::Debug;
use std::sync::{Arc, Mutex, PoisonError};

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolumeClaim, Pod, Service};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, Preconditions};
use kube::{Api, Client, Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::build::{self, Objects};
use crate::desired::Desired;
use crate::engine::Engine;
use crate::names::{RECORD_LABEL, selector_text};
use volumes::{Growth, Refusals};

/// Field manager of every write.
pub const MANAGER: &str = "understudy";
/// What was last applied, as a hash. It changes when a field is given up, which the living object alone does not show.
const APPLIED_ANNOTATION: &str = "understudy.dev/applied";

/// Why applying stopped.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// An earlier cluster of this name is being deleted; it will be gone soon.
    #[error("{kind} {name} still belongs to a deleted cluster of the same name; waiting until it is gone")]
    StillOwnedByOld {
        /// Kind of the object.
        kind: String,
        /// Its name.
        name: String,
    },
    /// Ours, and being deleted by somebody.
    #[error("{kind} {name} is being deleted; it is made anew when it is gone")]
    Leaving {
        /// Kind of the object.
        kind: String,
        /// Its name.
        name: String,
    },
    /// It belongs to somebody else.
    #[error("{kind} {name} exists and was not made for this cluster; delete or rename it, or choose another name for the cluster")]
    NotOurs {
        /// Kind of the object.
        kind: String,
        /// Its name.
        name: String,
    },
    /// The API server did not read, write or delete.
    #[error("{verb} {kind} {name}: {source}")]
    Api {
        /// What we tried.
        verb: &'static str,
        /// Kind of the object.
        kind: String,
        /// Its name.
        name: String,
        /// What the API server said.
        #[source]
        source: Box<kube::Error>,
    },
}

impl ApplyError {
    /// For condition reasons and metrics.
    #[must_use]
    pub fn category(&self) -> &'static str {
        match self {
            Self::StillOwnedByOld { .. } => "StillOwnedByOld",
            Self::Leaving { .. } => "ObjectLeaving",
            Self::NotOurs { .. } => "NameTaken",
            Self::Api { .. } => "ApplyFailed",
        }
    }

    pub(crate) fn api<K: Resource<DynamicType = ()>>(verb: &'static str, name: &str, source: kube::Error) -> Self {
        Self::Api { verb, kind: kind::<K>(), name: name.to_owned(), source: Box::new(source) }
    }
}

/// What lives of one cluster, as the watches or a list call show it. It may be a little old: what is missing is asked for again
/// before it is made, and server-side apply of what is there already changes nothing.
#[derive(Clone, Debug, Default)]
pub struct Live {
    /// Every configuration file, the outdated ones too.
    pub config_maps: Vec<Arc<ConfigMap>>,
    /// Services.
    pub services: Vec<Arc<Service>>,
    /// Network policies.
    pub network_policies: Vec<Arc<NetworkPolicy>>,
    /// Disruption budgets.
    pub disruption_budgets: Vec<Arc<PodDisruptionBudget>>,
    /// The StatefulSet.
    pub stateful_sets: Vec<Arc<StatefulSet>>,
    /// Pods.
    pub pods: Vec<Arc<Pod>>,
    /// Volume claims, of earlier clusters of this name too.
    pub claims: Vec<Arc<PersistentVolumeClaim>>,
}

impl Live {
    /// Asks the API server, by the cluster's labels.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn list<E: Engine>(client: &Client, desired: &Desired<E>) -> Result<Self, ApplyError> {
        let (namespace, selector) = (desired.namespace.as_str(), selector_text::<E>(&desired.name));
        let (config_maps, services, network_policies, disruption_budgets, stateful_sets, pods, claims) = tokio::try_join!(
            list(client, namespace, &selector),
            list(client, namespace, &selector),
            list(client, namespace, &selector),
            list(client, namespace, &selector),
            list(client, namespace, &selector),
            list(client, namespace, &selector),
            list(client, namespace, &selector),
        )?;
        Ok(Self { config_maps, services, network_policies, disruption_budgets, stateful_sets, pods, claims })
    }
}

async fn list<K: Child>(client: &Client, namespace: &str, selector: &str) -> Result<Vec<Arc<K>>, ApplyError> {
    let all = Api::<K>::namespaced(client.clone(), namespace)
        .list(&ListParams::default().labels(selector))
        .await
        .map_err(|error| ApplyError::api::<K>("list", selector, error))?;
    Ok(all.items.into_iter().map(Arc::new).collect())
}

/// What one cluster's passes remember of each other; it may be lost at any time.
#[derive(Debug, Default)]
pub struct Memory {
    /// By kind and name: what was applied and what the API server made of it, where the two differ in form.
    settled: Mutex<HashMap<(String, String), (String, String)>>,
    refusals: Refusals,
}

/// What came of it.
#[derive(Clone, Debug)]
pub struct Applied {
    /// The StatefulSet as it is now.
    pub stateful_set: Arc<StatefulSet>,
    /// How the volumes are.
    pub growth: Growth,
}

/// A kind that we make.
trait Child: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Serialize + DeserializeOwned + Clone + Debug {}
impl<K> Child for K where K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Serialize + DeserializeOwned + Clone + Debug {}

/// Makes Kubernetes hold `objects`.
///
/// An error leaves the rest for the next pass and says nothing about the members: orders to them must not wait for it.
///
/// # Errors
/// The first object that cannot be written now.
pub async fn apply<E: Engine>(
    client: &Client,
    desired: &Desired<E>,
    objects: &Objects,
    live: &Live,
    memory: &Memory,
) -> Result<Applied, ApplyError> {
    let pass = Pass { client, desired, memory };
    // Destructured whole: a new kind of object fails to compile here instead of silently never being applied.
    let Objects { config_map, services, network_policy, disruption_budget, stateful_set } = objects;
    let Live { config_maps, services: live_services, network_policies, disruption_budgets, stateful_sets, pods, claims } = live;
    pass.ensure(config_map, config_maps).await?;
    for service in services {
        pass.ensure(service, live_services).await?;
    }
    pass.ensure(network_policy, network_policies).await?;
    if let Some(budget) = disruption_budget {
        pass.ensure(budget, disruption_budgets).await?;
    }
    if pass.find(stateful_set, stateful_sets).await?.is_none() {
        volumes::wait_for_old(client, desired).await?;
    }
    let stateful_set = pass.ensure(stateful_set, stateful_sets).await?;
    let growth = volumes::grow(client, desired, claims, &memory.refusals).await?;

    if controller_is_current(&stateful_set) {
        let mounted = mounted(pods);
        let record = |map: &ConfigMap| map.labels().contains_key(RECORD_LABEL.0);
        let unused = |map: &ConfigMap| map.name_any() != config_map.name_any() && !mounted.contains(&map.name_any()) && !record(map);
        pass.prune(config_maps, unused).await?;
    }
    pass.prune(live_services, |old| services.iter().all(|wanted| wanted.name_any() != old.name_any())).await?;
    pass.prune(network_policies, |old| old.name_any() != network_policy.name_any()).await?;
    pass.prune(disruption_budgets, |old| disruption_budget.as_ref().is_none_or(|wanted| wanted.name_any() != old.name_any())).await?;
    Ok(Applied { stateful_set, growth })
}

/// Its controller makes no more pods by an older spec, which would mount an older configuration.
fn controller_is_current(stateful_set: &StatefulSet) -> bool {
    let observed = stateful_set.status.as_ref().and_then(|status| status.observed_generation);
    observed.is_some() && observed == stateful_set.metadata.generation
}

/// Names of the ConfigMaps that pods mount.
fn mounted(pods: &[Arc<Pod>]) -> Vec<String> {
    let volumes = pods.iter().filter_map(|pod| pod.spec.as_ref()?.volumes.as_ref()).flatten();
    volumes.filter_map(|volume| Some(volume.config_map.as_ref()?.name.clone())).collect()
}

struct Pass<'a, E: Engine> {
    client: &'a Client,
    desired: &'a Desired<E>,
    memory: &'a Memory,
}

impl<E: Engine> Pass<'_, E> {
    fn api<K: Child>(&self) -> Api<K> {
        Api::namespaced(self.client.clone(), &self.desired.namespace)
    }

    /// The living object of this name, checked to be ours.
    async fn find<K: Child>(&self, wanted: &K, live: &[Arc<K>]) -> Result<Option<Arc<K>>, ApplyError> {
        let name = wanted.name_any();
        let found = match live.iter().find(|object| object.name_any() == name) {
            Some(object) => Some(Arc::clone(object)),
            // Perhaps only the watch does not show it: somebody else's has not our labels.
            None => self.api::<K>().get_opt(&name).await.map_err(|error| ApplyError::api::<K>("get", &name, error))?.map(Arc::new),
        };
        if let Some(object) = &found {
            check_owner::<K>(object.meta(), &self.desired.owner())?;
        }
        Ok(found)
    }

    /// Writes `wanted` unless the living object already holds all of it.
    async fn ensure<K: Child>(&self, wanted: &K, live: &[Arc<K>]) -> Result<Arc<K>, ApplyError> {
        let (kind, name) = (kind::<K>(), wanted.name_any());
        let (text, hash) = with_hash(wanted);
        let key = (kind, name.clone());
        if let Some(object) = self.find(wanted, live).await? {
            let live = serde_json::to_value(&*object).expect("an object that was read can be written");
            let settled = || {
                self.memory.settled().get(&key).is_some_and(|(of, made)| *of == hash && *made == fingerprint(&same::project(&live, &text)))
            };
            if same::contains(&live, &text) || settled() {
                return Ok(object);
            }
        }
        let written = self
            .api::<K>()
            .patch(&name, &PatchParams::apply(MANAGER).force(), &Patch::Apply(&text))
            .await
            .map_err(|error| ApplyError::api::<K>("apply", &name, error))?;
        let made = serde_json::to_value(&written).expect("an object that was read can be written");
        if same::contains(&made, &text) {
            self.memory.settled().remove(&key);
        } else {
            // The API server writes it in another form: that form is what we find from now on.
            self.memory.settled().insert(key, (hash, fingerprint(&same::project(&made, &text))));
        }
        tracing::info!(kind = %K::kind(&()), name, "applied");
        Ok(Arc::new(written))
    }

    /// Deletes those of ours that are `unwanted`.
    async fn prune<K: Child>(&self, live: &[Arc<K>], unwanted: impl Fn(&K) -> bool) -> Result<(), ApplyError> {
        let owner = self.desired.owner();
        for object in live.iter().filter(|object| unwanted(object) && check_owner::<K>(object.meta(), &owner).is_ok()) {
            let name = object.name_any();
            let exactly = Preconditions { uid: object.uid(), resource_version: None };
            match self.api::<K>().delete(&name, &DeleteParams::default().preconditions(exactly)).await {
                Ok(_) => tracing::info!(kind = %K::kind(&()), name, "no longer wanted, deleted"),
                // Gone, or another object by now.
                Err(kube::Error::Api(status)) if status.is_not_found() || status.is_conflict() => {}
                Err(error) => return Err(ApplyError::api::<K>("delete", &name, error)),
            }
        }
        Ok(())
    }
}

impl Memory {
    fn settled(&self) -> std::sync::MutexGuard<'_, HashMap<(String, String), (String, String)>> {
        self.settled.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn kind<K: Resource<DynamicType = ()>>() -> String {
    K::kind(&()).into_owned()
}

/// Whether an existing object may be written: it belongs to this very custom resource and stays.
pub(crate) fn check_owner<K: Resource<DynamicType = ()>>(metadata: &ObjectMeta, owner: &OwnerReference) -> Result<(), ApplyError> {
    let (kind, name) = (kind::<K>(), metadata.name.clone().unwrap_or_default());
    let controller = metadata.owner_references.iter().flatten().find(|reference| reference.controller == Some(true));
    match controller {
        Some(controller) if controller.uid == owner.uid && metadata.deletion_timestamp.is_some() => Err(ApplyError::Leaving { kind, name }),
        Some(controller) if controller.uid == owner.uid => Ok(()),
        Some(old) if old.kind == owner.kind && old.name == owner.name => Err(ApplyError::StillOwnedByOld { kind, name }),
        _ => Err(ApplyError::NotOurs { kind, name }),
    }
}

/// The object as it is sent, and its hash, which it carries.
fn with_hash<K: Child>(wanted: &K) -> (Value, String) {
    let mut text = serde_json::to_value(wanted).expect("built from plain data");
    let hash = fingerprint(&text);
    let metadata = &mut text["metadata"];
    match metadata.get_mut("annotations") {
        Some(annotations) => annotations[APPLIED_ANNOTATION] = json!(hash),
        None => metadata["annotations"] = json!({ APPLIED_ANNOTATION: hash }),
    }
    (text, hash)
}

/// Keys of JSON objects are sorted, so that equal values have equal text.
fn fingerprint(value: &Value) -> String {
    build::fingerprint(&value.to_string(), 8)
}
