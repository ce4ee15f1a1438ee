//! What was seen of a cluster: plain values, filled by `observe`, read by `decide` and `status`. No I/O here.
//!
//! Unknown is a value: a member that does not answer is [`Seen::Silent`], never "down".

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Deserialize;
use sidecar_protocol::Report;

use crate::engine::Engine;

/// What is known of something that may not answer.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Seen<T> {
    /// Its own, recent words.
    Answered(T),
    /// It does not answer, since then.
    Silent {
        /// Last word, or first attempt.
        since: Timestamp,
    },
}

impl<T> Seen<T> {
    /// Its words, if it answered.
    pub fn answered(&self) -> Option<&T> {
        match self {
            Self::Answered(words) => Some(words),
            Self::Silent { .. } => None,
        }
    }
}

/// Everything seen of one cluster in one pass.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Observed<E: Engine> {
    /// By ordinal: every pod of the cluster, and every ordinal that the StatefulSet should have.
    pub members: BTreeMap<u32, Member<E>>,
    /// The StatefulSet, if it exists.
    pub stateful_set: Option<StatefulSetSeen>,
    /// Pod name and UID that `NAME-primary` routes to now.
    pub route: Option<(String, String)>,
    /// What a person asks by annotations.
    pub asked: E::Asked,
}

/// One member.
#[derive(Clone, Debug, PartialEq)]
pub struct Member<E: Engine> {
    /// Pod name.
    pub name: String,
    /// Its pod, if there is one.
    pub pod: Option<PodSeen>,
    /// Its sidecar's words.
    pub report: Seen<Report<E::State>>,
    /// Whether its volume cannot hold data of an earlier life: it does not exist yet or is younger than the custom resource.
    pub fresh_volume: bool,
}

/// A pod, as far as deciding needs it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodSeen {
    /// UID, the precondition of a delete.
    pub uid: String,
    /// Address, once it has one.
    pub ip: Option<String>,
    /// The Ready condition.
    pub ready: bool,
    /// Being deleted.
    pub deleting: bool,
    /// Its revision is not the StatefulSet's update revision.
    pub outdated: bool,
    /// Why it cannot start, as Kubernetes says: image, Secret, volume, scheduling, crash loop.
    pub trouble: Option<Trouble>,
    /// Its labels; Kubernetes adds those of its node's topology.
    pub labels: BTreeMap<String, String>,
}

/// Why a pod cannot start.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Trouble {
    /// Kubernetes' reason, such as ImagePullBackOff or Unschedulable.
    pub reason: String,
    /// Kubernetes' message.
    pub message: String,
}

/// The StatefulSet, as far as deciding needs it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StatefulSetSeen {
    /// `spec.replicas`.
    pub replicas: u32,
    /// Whether its controller has seen the newest spec, so that revisions can be compared.
    pub current: bool,
}
