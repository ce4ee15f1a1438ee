//! Pods, reports, StatefulSet and the routing slice → [`Observed`]. What is read is in the watches' caches already; only before the
//! cluster's birth the volumes are asked for anew, since an old one that was overlooked would be initialised over (I10).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use crds::shared::ClusterStatus;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{ContainerStatus, PersistentVolumeClaim, Pod};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::ListParams;
use kube::core::object::HasStatus;
use kube::{Api, Client, Resource, ResourceExt};
use sidecar_protocol::Report;

use crate::apply::Live;
use crate::desired::Desired;
use crate::engine::Engine;
use crate::members::Said;
use crate::names::{self, DATA, selector_text};
use crate::observed::{Member, Observed, PodSeen, Seen, StatefulSetSeen, Trouble};
use crate::watches::Caches;

/// A pod that is not placed at once may only wait for its volume to be made.
const PLACING: Duration = Duration::from_secs(10);
/// A crash heals by a restart; what crashes again and again does not.
const CRASHES: i32 = 3;

/// Why nothing was seen.
#[derive(Debug, thiserror::Error)]
pub enum ObserveError {
    /// The API server does not show the volumes.
    #[error("list PersistentVolumeClaims of {cluster}: {source}")]
    Volumes {
        /// Whose.
        cluster: String,
        /// What it said.
        #[source]
        source: kube::Error,
    },
}

/// Looks at everything.
///
/// # Errors
/// When the API server does not answer, before the cluster's birth.
pub async fn observe<E: Engine>(
    client: &Client,
    caches: &Caches,
    said: &Said<E>,
    cluster: &E::Kind,
    desired: &Desired<E>,
    live: &Live,
    now: Timestamp,
) -> Result<Observed<E>, ObserveError> {
    let born = cluster.status().is_some_and(ClusterStatus::is_born);
    let claims = if born { None } else { Some(claims(client, desired).await?) };
    let slice = caches.slice(&desired.namespace, &names::primary(&desired.name));
    let looked = Looked { cluster, desired, live, slice: slice.as_deref(), claims, now };
    Ok(looked.at(|member| said.by(&desired.uid, member)))
}

async fn claims<E: Engine>(client: &Client, desired: &Desired<E>) -> Result<Vec<PersistentVolumeClaim>, ObserveError> {
    let parameters = ListParams::default().labels(&selector_text::<E>(&desired.name));
    let list = Api::namespaced(client.clone(), &desired.namespace).list(&parameters).await;
    list.map(|list| list.items).map_err(|source| ObserveError::Volumes { cluster: desired.name.clone(), source })
}

/// What was read, to be understood (pure from here on).
struct Looked<'a, E: Engine> {
    cluster: &'a E::Kind,
    desired: &'a Desired<E>,
    live: &'a Live,
    slice: Option<&'a EndpointSlice>,
    /// Before birth only.
    claims: Option<Vec<PersistentVolumeClaim>>,
    now: Timestamp,
}

impl<E: Engine> Looked<'_, E> {
    fn at(&self, seen: impl Fn(&str) -> Option<Seen<Report<E::State>>>) -> Observed<E> {
        let set = self.stateful_set();
        let pods: BTreeMap<u32, &Arc<Pod>> = set.map(|set| self.pods(set)).unwrap_or_default();
        let wanted = set.map_or(0, replicas).max(if self.claims.is_some() { self.desired.replicas } else { 0 });
        let ordinals: BTreeSet<u32> = pods.keys().copied().chain(0..wanted).collect();
        let revision = set.filter(|set| is_current(set)).and_then(|set| set.status.as_ref()?.update_revision.as_deref());
        let member = |ordinal: u32| {
            let name = self.desired.member_name(ordinal);
            let pod = pods.get(&ordinal);
            // Nobody listens yet: it is silent for as long as its pod exists.
            let since = pod.and_then(|pod| pod.metadata.creation_timestamp.as_ref()).map_or(self.now, |time| time.0);
            Member {
                report: seen(&name).filter(|_| pod.is_some()).unwrap_or(Seen::Silent { since }),
                pod: pod.map(|pod| self.pod(pod, revision)),
                fresh_volume: self.is_fresh(ordinal),
                name,
            }
        };
        Observed {
            members: ordinals.into_iter().map(|ordinal| (ordinal, member(ordinal))).collect(),
            stateful_set: set.map(|set| StatefulSetSeen { replicas: replicas(set), current: is_current(set) }),
            route: self.slice.and_then(routed),
            asked: E::asked(self.cluster),
        }
    }

    /// Ours, not that of an earlier cluster with this name.
    fn stateful_set(&self) -> Option<&StatefulSet> {
        let ours = |set: &&Arc<StatefulSet>| {
            set.name_any() == self.desired.name && set.owner_references().iter().any(|owner| owner.uid == self.desired.uid)
        };
        self.live.stateful_sets.iter().find(ours).map(|set| &**set)
    }

    fn pods(&self, set: &StatefulSet) -> BTreeMap<u32, &Arc<Pod>> {
        let uid = set.uid();
        let ours = |pod: &&Arc<Pod>| pod.owner_references().iter().any(|owner| Some(&owner.uid) == uid.as_ref());
        let ordinal = |pod: &Pod| self.desired.ordinal(&pod.name_any());
        self.live.pods.iter().filter(ours).filter_map(|pod| Some((ordinal(pod)?, pod))).collect()
    }

    fn is_fresh(&self, ordinal: u32) -> bool {
        let Some(claims) = &self.claims else { return false };
        let name = format!("{DATA}-{}", self.desired.member_name(ordinal));
        claims.iter().find(|claim| claim.name_any() == name).is_none_or(|claim| {
            let (volume, cluster) = (&claim.metadata.creation_timestamp, &self.cluster.meta().creation_timestamp);
            volume.as_ref().zip(cluster.as_ref()).is_some_and(|(volume, cluster)| volume >= cluster)
        })
    }

    fn pod(&self, pod: &Pod, revision: Option<&str>) -> PodSeen {
        let status = pod.status.clone().unwrap_or_default();
        let of = pod.labels().get("controller-revision-hash");
        PodSeen {
            uid: pod.uid().unwrap_or_default(),
            ip: status.pod_ip.clone().filter(|ip| !ip.is_empty()),
            ready: status.conditions.iter().flatten().any(|condition| condition.type_ == "Ready" && condition.status == "True"),
            deleting: pod.metadata.deletion_timestamp.is_some(),
            outdated: revision.is_some_and(|revision| of.is_some_and(|of| of != revision)),
            labels: pod.labels().clone(),
            trouble: self.not_placed(pod).or_else(|| {
                let containers = status.init_container_statuses.iter().chain(&status.container_statuses).flatten();
                containers.into_iter().find_map(cannot_start)
            }),
        }
    }

    fn not_placed(&self, pod: &Pod) -> Option<Trouble> {
        let conditions = pod.status.as_ref()?.conditions.as_ref()?;
        let placed = conditions.iter().find(|condition| condition.type_ == "PodScheduled" && condition.status == "False")?;
        if since(pod, self.now) < PLACING {
            return None;
        }
        let mut message = placed.message.clone().unwrap_or_default();
        if message.to_lowercase().contains("persistentvolumeclaim") || message.to_lowercase().contains("storageclass") {
            let class = match &self.desired.volume.class {
                Some(class) => format!("that StorageClass {class} exists"),
                None => "that there is a default StorageClass".to_owned(),
            };
            message = format!("{DATA}-{} is not there: check {class} and can provide it ({message})", pod.name_any());
        }
        Some(Trouble { reason: placed.reason.clone().unwrap_or_else(|| "Unschedulable".to_owned()), message })
    }
}

/// When to look again although nothing happens: a pod that waits to be placed becomes trouble by waiting.
#[must_use]
pub fn look_again(live: &Live, now: Timestamp) -> Option<Duration> {
    let unplaced = live.pods.iter().filter(|pod| pod.spec.as_ref().is_none_or(|spec| spec.node_name.is_none()));
    unplaced.map(|pod| PLACING.saturating_sub(since(pod, now))).filter(|left| !left.is_zero()).min()
}

/// How long ago the pod was made.
fn since(pod: &Pod, now: Timestamp) -> Duration {
    let made = pod.metadata.creation_timestamp.as_ref().map_or(now, |time| time.0);
    Duration::from_secs(u64::try_from(now.as_second() - made.as_second()).unwrap_or_default())
}

fn replicas(set: &StatefulSet) -> u32 {
    set.spec.as_ref().and_then(|spec| spec.replicas).and_then(|replicas| u32::try_from(replicas).ok()).unwrap_or_default()
}

/// Its controller has seen the newest spec.
fn is_current(set: &StatefulSet) -> bool {
    set.status.as_ref().and_then(|status| status.observed_generation).is_some_and(|seen| Some(seen) == set.metadata.generation)
}

/// Name and UID of the pod that the slice routes to.
fn routed(slice: &EndpointSlice) -> Option<(String, String)> {
    let pod = slice.endpoints.iter().flatten().next()?.target_ref.as_ref()?;
    Some((pod.name.clone()?, pod.uid.clone()?))
}

/// `MEMBER@TERM`.
#[must_use]
pub fn in_term(text: &str) -> Option<(String, u64)> {
    let (member, term) = text.trim().rsplit_once('@')?;
    Some((member.to_owned(), term.parse().ok()?))
}

/// `MEMBER,MEMBER`.
#[must_use]
pub fn listed(text: &str) -> BTreeSet<String> {
    text.split(',').map(|name| name.trim().to_owned()).collect()
}

/// Why a container cannot start. Kubernetes' own words change with each attempt; a status that did too would never be still.
fn cannot_start(status: &ContainerStatus) -> Option<Trouble> {
    let waiting = status.state.as_ref()?.waiting.as_ref()?;
    let reason = waiting.reason.as_deref()?;
    let (reason, message) = match reason {
        "ErrImagePull" | "ImagePullBackOff" | "RegistryUnavailable" | "ImageInspectError" => {
            ("ImagePullBackOff", format!("image {} cannot be pulled; see the pod's events for the registry's answer", status.image))
        }
        "ErrImageNeverPull" => (reason, format!("image {} is not on the node, and its pull policy is Never", status.image)),
        "InvalidImageName" => (reason, format!("{} is not the name of an image", status.image)),
        "CreateContainerConfigError" | "CreateContainerError" | "RunContainerError" => {
            (reason, waiting.message.clone().unwrap_or_else(|| format!("container {}", status.name)))
        }
        "CrashLoopBackOff" if status.restart_count >= CRASHES => {
            let ended = status.last_state.as_ref().and_then(|state| state.terminated.as_ref());
            let code = ended.map_or(String::new(), |ended| format!(" (exit code {})", ended.exit_code));
            (reason, format!("container {} ends again and again{code}; see its log", status.name))
        }
        _ => return None,
    };
    Some(Trouble { reason: reason.to_owned(), message })
}

#[cfg(test)]
#[path = "observe_tests.rs"]
mod tests;
