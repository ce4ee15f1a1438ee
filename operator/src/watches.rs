//! What Kubernetes tells us without being asked: one watch a kind, filtered by our labels, kept as a cache.
//!
//! No watch on Secrets: the operator may not know which there are. What a reader never looks at is dropped before it is kept.

use std::fmt::{self, Debug, Display, Formatter};
use std::future::ready;
use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, StreamExt};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolumeClaim, Pod, PodSpec, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::core::DeserializeGuard;
use kube::runtime::reflector::{ObjectRef, Store, store};
use kube::runtime::{Controller, WatchStreamExt, watcher};
use kube::{Api, Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use crate::apply::Live;
use crate::engine::Engine;
use crate::names::{CLUSTER_LABEL, ENGINE_LABEL, MANAGED_BY, RECORD_LABEL};
use crate::pauses;

/// A custom resource that may be unreadable: one malformed object must not stop the watch of all others (I13).
pub type Guarded<E> = DeserializeGuard<<E as Engine>::Kind>;

/// A cluster of one engine, by name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClusterRef {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl ClusterRef {
    /// The name of `object`.
    #[must_use]
    pub fn of<K: Resource>(object: &K) -> Self {
        Self { namespace: object.namespace().unwrap_or_default(), name: object.name_any() }
    }

    /// As the controller knows it.
    #[must_use]
    pub fn object<E: Engine>(&self) -> ObjectRef<Guarded<E>> {
        ObjectRef::new(&self.name).within(&self.namespace)
    }
}

impl Display for ClusterRef {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// The first lists take milliseconds; who waits longer says so and tries again.
const SYNC_DEADLINE: Duration = Duration::from_secs(10);
/// A broken watch is begun again at once, and then ever more rarely.
const FIRST_RETRY: Duration = Duration::from_millis(200);
/// Every operator of every Kubernetes comes back at the same time after the API server did.
const LAST_RETRY: Duration = Duration::from_secs(10);
/// Marks EndpointSlices as ours, so that nobody else's controller takes them, and tells them from those that Kubernetes makes for our
/// Services and labels like them.
pub const SLICE_MANAGER: (&str, &str) = ("endpointslice.kubernetes.io/managed-by", "understudy.dev");

/// The watches have not shown everything yet.
#[derive(Clone, Debug, thiserror::Error)]
#[error("the watch of {0} has not begun; see the log for the API server's reason")]
pub struct NotSynced(&'static str);

/// The caches of one namespace, or of all.
#[derive(Debug)]
pub struct Caches {
    stateful_sets: Store<StatefulSet>,
    services: Store<Service>,
    config_maps: Store<ConfigMap>,
    disruption_budgets: Store<PodDisruptionBudget>,
    network_policies: Store<NetworkPolicy>,
    slices: Store<EndpointSlice>,
    pods: Store<Pod>,
    claims: Store<PersistentVolumeClaim>,
}

/// Which namespaces: one, or all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scope(pub Option<String>);

impl Scope {
    /// Access to `K` in this scope.
    #[must_use]
    pub fn api<K: Resource<DynamicType = (), Scope = NamespaceResourceScope>>(&self, client: &Client) -> Api<K> {
        match &self.0 {
            Some(namespace) => Api::namespaced(client.clone(), namespace),
            None => Api::all(client.clone()),
        }
    }
}

/// The controller of custom resources in `scope`, awake to everything that belongs to them, and the caches it fills.
#[must_use]
pub fn start<E: Engine>(client: &Client, scope: &Scope) -> (Controller<Guarded<E>>, Caches) {
    // Each engine's watches see its own clusters' objects only.
    let labelled = |by: (&str, &str)| format!("{}={},{ENGINE_LABEL}={},{CLUSTER_LABEL}", by.0, by.1, E::LABEL);
    let ours = || watcher::Config::default().labels(&labelled(MANAGED_BY));
    let slices = watcher::Config::default().labels(&labelled(SLICE_MANAGER));
    let (clusters, stream) = watch::<Guarded<E>>(client, scope, watcher::Config::default(), strip);
    let controller = Controller::for_stream(stream, clusters);
    let (stateful_sets, stream) = watch(client, scope, ours(), strip::<StatefulSet>);
    let controller = controller.watches_stream(stream, owner::<E, _>);
    let (services, stream) = watch(client, scope, ours(), strip::<Service>);
    let controller = controller.watches_stream(stream, owner::<E, _>);
    // Not the record of decisions, which changes with each of them.
    let maps = watcher::Config::default().labels(&format!("{},!{}", labelled(MANAGED_BY), RECORD_LABEL.0));
    let (config_maps, stream) = watch(client, scope, maps, strip::<ConfigMap>);
    let controller = controller.watches_stream(stream, owner::<E, _>);
    let (disruption_budgets, stream) = watch(client, scope, ours(), strip::<PodDisruptionBudget>);
    let controller = controller.watches_stream(stream, owner::<E, _>);
    let (network_policies, stream) = watch(client, scope, ours(), strip::<NetworkPolicy>);
    let controller = controller.watches_stream(stream, owner::<E, _>);
    let (slices, stream) = watch(client, scope, slices, strip::<EndpointSlice>);
    let controller = controller.watches_stream(stream, owner::<E, _>);
    let (pods, stream) = watch(client, scope, ours(), strip_pod);
    let controller = controller.watches_stream(stream, owner::<E, _>);
    let (claims, stream) = watch(client, scope, ours(), strip::<PersistentVolumeClaim>);
    let controller = controller.watches_stream(stream, owner::<E, _>);
    let caches = Caches { stateful_sets, services, config_maps, disruption_budgets, network_policies, slices, pods, claims };
    (controller, caches)
}

/// One watch: its cache, and what it touches. It mends itself; an error is logged here and goes no further, since the controller
/// would hold back every other trigger for it.
fn watch<K>(
    client: &Client,
    scope: &Scope,
    config: watcher::Config,
    strip: fn(&mut K),
) -> (Store<K>, impl Stream<Item = Result<K, watcher::Error>> + Send + use<K>)
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
{
    let (reader, writer) = store::<K>();
    let backoff = watcher::ExponentialBackoff::from(pauses::builder(FIRST_RETRY, LAST_RETRY));
    let stream = watcher(scope.api::<K>(client), config).modify(strip).backoff(backoff).reflect(writer).touched_objects();
    let stream = stream.filter(|event| {
        if let Err(error) = event {
            tracing::warn!(kind = %K::kind(&()), %error, "watch failed; trying again");
        }
        ready(event.is_ok())
    });
    (reader, stream)
}

fn strip<K: Resource>(object: &mut K) {
    object.meta_mut().managed_fields = None;
}

/// Of a pod's spec only what it mounts from ConfigMaps is read, and where it runs.
fn strip_pod(pod: &mut Pod) {
    strip(pod);
    let Some(spec) = pod.spec.take() else { return };
    let volumes = spec.volumes.unwrap_or_default().into_iter().filter(|volume| volume.config_map.is_some()).collect();
    pod.spec = Some(PodSpec { node_name: spec.node_name, volumes: Some(volumes), ..PodSpec::default() });
}

/// The cluster that an object is labelled with.
fn owner<E: Engine, K: Resource>(object: K) -> Option<ObjectRef<Guarded<E>>> {
    Some(ObjectRef::new(object.labels().get(CLUSTER_LABEL)?).within(&object.namespace()?))
}

impl Caches {
    /// Waits until every watch has shown what there is.
    ///
    /// # Errors
    /// When one of them has not after ten seconds.
    pub async fn ready(&self) -> Result<(), NotSynced> {
        let Self { stateful_sets, services, config_maps, disruption_budgets, network_policies, slices, pods, claims } = self;
        tokio::try_join!(
            synced(stateful_sets),
            synced(services),
            synced(config_maps),
            synced(disruption_budgets),
            synced(network_policies),
            synced(slices),
            synced(pods),
            synced(claims),
        )?;
        Ok(())
    }

    /// What lives of one cluster.
    #[must_use]
    pub fn live(&self, cluster: &ClusterRef) -> Live {
        let Self { stateful_sets, services, config_maps, disruption_budgets, network_policies, slices: _, pods, claims } = self;
        Live {
            config_maps: of(config_maps, cluster),
            services: of(services, cluster),
            network_policies: of(network_policies, cluster),
            disruption_budgets: of(disruption_budgets, cluster),
            stateful_sets: of(stateful_sets, cluster),
            pods: of(pods, cluster),
            claims: of(claims, cluster),
        }
    }

    /// The slice with this name.
    #[must_use]
    pub fn slice(&self, namespace: &str, name: &str) -> Option<Arc<EndpointSlice>> {
        self.slices.get(&ObjectRef::new(name).within(namespace))
    }
}

async fn synced<K>(store: &Store<K>) -> Result<(), NotSynced>
where
    K: Resource<DynamicType = ()> + Clone + 'static,
{
    let name = std::any::type_name::<K>().rsplit("::").next().unwrap_or_default();
    match timeout(SYNC_DEADLINE, store.wait_until_ready()).await {
        Ok(Ok(())) => Ok(()),
        _ => Err(NotSynced(name)),
    }
}

fn of<K: Resource<DynamicType = ()> + Clone>(store: &Store<K>, cluster: &ClusterRef) -> Vec<Arc<K>> {
    store.state_filter(|object| {
        object.meta().namespace.as_ref() == Some(&cluster.namespace) && object.labels().get(CLUSTER_LABEL) == Some(&cluster.name)
    })
}
