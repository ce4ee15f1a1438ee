//! What the kinds have in common: the same field has the same name, shape and rule in each of them.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Affinity, PodSecurityContext, ResourceRequirements, Toleration, TopologySpreadConstraint};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::KubeSchema;
use kube::core::Rule;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What the status of every kind says.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Head {
    /// Generation of the spec that it answers.
    pub observed_generation: Option<i64>,
    /// State in one word.
    pub state: String,
    /// Why, in one sentence.
    pub reason: String,
    /// Ready members of wanted members.
    pub ready: String,
    /// Members that exist.
    pub replicas: i32,
    /// Label selector of the members.
    pub selector: String,
    /// Ready, Progressing, Degraded, Stalled.
    pub conditions: Vec<Condition>,
}

/// The status of a kind, as far as all kinds are alike.
pub trait ClusterStatus: Clone + Default + PartialEq {
    /// What a pass reports.
    fn head(&self) -> Head;
    /// The same status with another head.
    #[must_use]
    fn with_head(self, head: Head) -> Self;
    /// Term of the last claimed authority.
    fn term(&self) -> u64;
    /// How often authority was recorded.
    fn claims(&self) -> u64;
    /// Whether the cluster has its first data; it never gets others (I10).
    fn is_born(&self) -> bool;
    /// A change of primary that is under way.
    fn transition(&self) -> Option<&Transition>;
}

/// [`ClusterStatus`] of a status whose fields have their common names; `$born` says by which field it is born.
macro_rules! cluster_status {
    ($status:ty, |$of:ident| $born:expr) => {
        impl $crate::shared::ClusterStatus for $status {
            fn head(&self) -> $crate::shared::Head {
                $crate::shared::Head {
                    observed_generation: self.observed_generation,
                    state: self.state.clone(),
                    reason: self.reason.clone(),
                    ready: self.ready.clone(),
                    replicas: self.replicas,
                    selector: self.selector.clone(),
                    conditions: self.conditions.clone(),
                }
            }

            fn with_head(self, head: $crate::shared::Head) -> Self {
                let $crate::shared::Head { observed_generation, state, reason, ready, replicas, selector, conditions } = head;
                Self { observed_generation, state, reason, ready, replicas, selector, conditions, ..self }
            }

            fn term(&self) -> u64 {
                self.term
            }

            fn claims(&self) -> u64 {
                self.claims
            }

            fn is_born(&self) -> bool {
                let $of = self;
                $born
            }

            fn transition(&self) -> Option<&$crate::shared::Transition> {
                self.transition.as_ref()
            }
        }
    };
}
pub(crate) use cluster_status;

// === Admission rules of the object ===

/// Services and host names are made from the name.
pub(crate) fn plain_name() -> Rule {
    Rule::new("self.metadata.name.matches('^[a-z]([-a-z0-9]{0,38}[a-z0-9])?$')").message("metadata.name: use at most 40 lower-case letters, digits and '-', beginning with a letter; Services and host names are made from it")
}

/// Volumes keep their class.
pub(crate) fn same_class() -> Rule {
    Rule::new("has(self.spec.storage.className) == has(oldSelf.spec.storage.className) && (!has(self.spec.storage.className) || self.spec.storage.className == oldSelf.spec.storage.className)").message("spec.storage.className cannot be changed: volumes keep their class; create a second cluster and move the data")
}

/// Volumes only grow.
pub(crate) fn no_smaller() -> Rule {
    Rule::new("quantity(self.spec.storage.size).compareTo(quantity(oldSelf.spec.storage.size)) >= 0")
        .message("spec.storage.size cannot shrink: volumes only grow; write the old size or a greater one")
}

// === Admission rules of the spec ===

/// An image as every runtime takes it.
pub(crate) fn plain_image(example: &str) -> Rule {
    Rule::new("self.matches('^[!-~]+$')").message(format!("image: name one such as {example}, without spaces").as_str())
}

/// Left alone, or put to sleep.
pub(crate) fn suspended_or_asleep() -> Rule {
    Rule::new("!(self.suspend && self.hibernate)")
        .message("suspend and hibernate contradict: a suspended cluster is left alone, so it cannot be put to sleep; set one of them")
}

/// Who deletes pods by hand chooses them.
pub(crate) fn partition_by_operator() -> Rule {
    Rule::new("!(self.update.strategy == 'OnDelete' && self.update.partition > 0)")
        .message("update.partition needs update.strategy: Automatic; with OnDelete you choose the pods yourself")
}

/// Labels and annotations that the operator reads are written by it alone.
fn no_own_keys() -> Rule {
    Rule::new("self.all(key, key != 'understudy.dev' && !key.startsWith('understudy.dev/'))")
        .message("pod: labels and annotations under understudy.dev/ are the operator's; choose another name")
}

/// Value of a database option. The int-or-string of Kubernetes' own types ends at 32 bits, which a cache does not.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(untagged)]
pub enum OptionValue {
    /// A number.
    Number(i64),
    /// Anything else.
    Text(String),
}

/// The volume of each member.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[x_kube(validation = Rule::new("isQuantity(self.size) && quantity(self.size).isGreaterThan(quantity('0'))").message("storage.size: write a positive quantity such as 10Gi"))]
#[serde(rename_all = "camelCase")]
pub struct Storage {
    /// Size, such as `10Gi`. Can grow where the StorageClass allows it.
    #[schemars(length(max = 32))]
    #[schemars(schema_with = "size_schema")]
    pub size: Quantity,

    /// StorageClass; the cluster's default class if absent. Cannot be changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub class_name: Option<String>,

    /// What becomes of volumes that are no longer used.
    #[serde(default)]
    pub retention: Retention,
}

/// What becomes of volumes that are no longer used.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Retention {
    /// When `replicas` goes down.
    #[serde(default)]
    pub when_scaled: Keep,
    /// When the cluster is deleted.
    #[serde(default)]
    pub when_deleted: Keep,
}

/// Whether a volume stays.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Keep {
    /// The volume and its data stay.
    #[default]
    Retain,
    /// The volume is deleted, with its data.
    Delete,
}

/// When an image is pulled.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub enum PullPolicy {
    /// At each start.
    Always,
    /// If the node does not have it.
    IfNotPresent,
    /// Never.
    Never,
}

/// Scheduling and metadata of the pods.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct PodOptions {
    /// Further labels. Those of the operator win.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 128))]
    #[x_kube(validation = no_own_keys())]
    pub labels: BTreeMap<String, String>,
    /// Further annotations.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 128))]
    #[x_kube(validation = no_own_keys())]
    pub annotations: BTreeMap<String, String>,
    /// Node labels that a pod needs.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub node_selector: BTreeMap<String, String>,
    /// Affinity; if absent, members prefer different nodes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub affinity: Option<Affinity>,
    /// Tolerations.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tolerations: Vec<Toleration>,
    /// Spreading over zones or nodes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub topology_spread_constraints: Vec<TopologySpreadConstraint>,
    /// Priority class.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority_class_name: Option<String>,
    /// Replaces the security context (user, group and fsGroup 999, as in the official image).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub security_context: Option<PodSecurityContext>,
    /// How long the database may take to shut down, in seconds.
    #[serde(default = "default_grace")]
    #[schemars(range(min = 10, max = 86400))]
    pub termination_grace_period_seconds: u32,
    /// Resources of the sidecar container; MySQL's also runs a clone's receiving mysqld.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sidecar_resources: Option<ResourceRequirements>,
}

impl Default for PodOptions {
    fn default() -> Self {
        Self {
            labels: BTreeMap::new(),
            annotations: BTreeMap::new(),
            node_selector: BTreeMap::new(),
            affinity: None,
            tolerations: Vec::new(),
            topology_spread_constraints: Vec::new(),
            priority_class_name: None,
            security_context: None,
            termination_grace_period_seconds: default_grace(),
            sidecar_resources: None,
        }
    }
}

/// The Services.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Services {
    /// `NAME-primary`: the primary, for writes.
    #[serde(default)]
    pub primary: ServiceOptions,
    /// `NAME-read`: every ready member.
    #[serde(default)]
    pub read: ServiceOptions,
}

/// How a Service is exposed.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ServiceOptions {
    /// ClusterIP, NodePort or LoadBalancer.
    #[serde(default, rename = "type")]
    pub type_: ServiceType,
    /// Annotations, as load balancers read them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

/// Type of a Service.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ServiceType {
    /// Inside the Kubernetes cluster only.
    #[default]
    ClusterIP,
    /// A port on each node.
    NodePort,
    /// A load balancer of the provider.
    LoadBalancer,
}

/// How changes of the pods are rolled out.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Update {
    /// `Automatic`: one by one, replicas first, the primary last after a hand-over. `OnDelete`: you delete the pods.
    #[serde(default)]
    pub strategy: UpdateStrategy,
    /// Members with a lower ordinal keep the old revision: a canary.
    #[serde(default)]
    #[schemars(range(max = 50))]
    pub partition: u8,
}

/// Who replaces outdated pods.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UpdateStrategy {
    /// The operator.
    #[default]
    Automatic,
    /// The user.
    OnDelete,
}

/// A change of primary that is under way.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Transition {
    /// Kind of change.
    pub kind: TransitionKind,
    /// Pod name of the member that gives the role up; absent when there was none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// Pod name of the member that gets it; absent while a failover still reads positions, unless a person named it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// The target may have been told to open: from here on there is no way back.
    #[serde(default)]
    pub promoting: bool,
    /// When it began, RFC 3339.
    pub since: String,
}

/// A hand-over that was asked for and has not begun.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct HandoverRequest {
    /// What asked for it: the annotation's text, or what the operator is about to do.
    pub request: String,
    /// Since when it waits, RFC 3339.
    pub since: String,
    /// Why it was refused; the same request is not considered again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
}

/// Kind of a change of primary.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransitionKind {
    /// The first primary.
    Initialise,
    /// Planned; rolls back when it cannot finish in time.
    Switchover,
    /// The old primary is lost: its process, its pod, its volume, or all contact with it.
    Failover,
    /// A switchover that could not finish in time; the next one waits a while.
    TakenBack,
}

fn size_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({ "type": "string", "maxLength": 32 })
}

fn default_grace() -> u32 {
    120
}

/// Options by name. What a text looks like is a pattern and no rule: Kubernetes before 1.34 takes any int-or-string for as long as a whole
/// request, so that a rule about each of 128 would cost too much for the definition to be taken.
pub(crate) fn config_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({
        "type": "object",
        "maxProperties": 128,
        "additionalProperties": {
            "x-kubernetes-int-or-string": true,
            "anyOf": [{ "type": "integer" }, { "type": "string" }],
            "maxLength": 1024,
            "pattern": pattern(r"[^\x00-\x1f\x7f-\x9f]*", "a value is one line of printable text; write each option as an entry of its own")
        }
    })
}

/// A pattern that tells the user what to write: the API server shows nothing else of it. Nothing comes after an end, so that the advice takes
/// no text.
pub(crate) fn pattern(text: &str, advice: &str) -> String {
    format!("^{text}$|$ ({advice})")
}

pub(crate) fn default_replicas() -> u8 {
    3
}

pub(crate) fn default_lag() -> u32 {
    30
}
