//! `MongoReplicaSet`: a MongoDB replica set, from one object.
//!
//! Only what a user writes or reads is here. What it has in common with the other kinds is in [`crate::shared`].

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{LocalObjectReference, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::shared::{
    self, HandoverRequest, OptionValue, PodOptions, PullPolicy, Services, Storage, Transition, Update, config_schema, default_lag,
    default_replicas,
};

/// A MongoDB replica set: members, votes and priorities planned one safe step at a time, with a key file, users and TLS.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[kube(
    group = "understudy.dev",
    version = "v1alpha1",
    kind = "MongoReplicaSet",
    plural = "mongoreplicasets",
    shortname = "mrs",
    category = "databases",
    namespaced,
    status = "MongoReplicaSetStatus",
    derive = "PartialEq",
    scale(spec_replicas_path = ".spec.replicas", status_replicas_path = ".status.replicas", label_selector_path = ".status.selector"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.ready", description = "ready members of wanted members"),
    printcolumn(name = "Primary", type_ = "string", json_path = ".status.primary"),
    printcolumn(name = "State", type_ = "string", json_path = ".status.state"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.reason", priority = "1"),
    printcolumn(name = "Term", type_ = "integer", json_path = ".status.term", priority = "1"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    doc = "A MongoDB replica set: members, votes and priorities planned one safe step at a time, with a key file, users and TLS.",
    validation = shared::plain_name(),
    validation = shared::same_class(),
    validation = shared::no_smaller(),
    validation = Rule::new("self.spec.tls == oldSelf.spec.tls || [oldSelf.spec.tls, self.spec.tls] in [['Disabled', 'Allowed'], ['Allowed', 'Preferred'], ['Preferred', 'Required'], ['Required', 'Preferred'], ['Preferred', 'Allowed'], ['Allowed', 'Disabled']]").message("spec.tls: members are updated one by one, and each must understand the others meanwhile: go one step at a time, Disabled, Allowed, Preferred, Required, and on when all members are ready"),
    validation = Rule::new("self.spec.replicas == oldSelf.spec.replicas || (self.spec.arbiters == 0 && oldSelf.spec.arbiters == 0)").message("spec.replicas cannot be changed while there is an arbiter, whose place is the last one: set arbiters to 0 first, and to 1 again afterwards")
)]
#[x_kube(
    validation = shared::suspended_or_asleep(),
    validation = shared::partition_by_operator(),
    validation = Rule::new("self.arbiters == 0 || self.replicas % 2 == 0").message("arbiters: an arbiter makes an even number of members odd; with this odd number of replicas it only takes part in losing a majority; set it to 0"),
    validation = Rule::new("self.arbiters == 0 || self.replicas <= 6").message("arbiters: at most 7 members vote, and 7 or more replicas fill all seats; set it to 0"),
    validation = Rule::new(format!("!(self.arbiters == 1 && self.replicas == 2) || (has(self.arbiterConsent) && self.arbiterConsent == '{PSA_CONSENT}')")).message(PSA_MESSAGE)
)]
#[serde(rename_all = "camelCase")]
pub struct MongoReplicaSetSpec {
    /// Number of members that hold data. At most 7 members vote. To stop them all, use `hibernate`.
    #[serde(default = "default_replicas")]
    #[schemars(range(min = 1, max = 50))]
    pub replicas: u8,

    /// Members that vote and hold no data, after the others: the pod `NAME-REPLICAS`. Only beside an even number of replicas.
    #[serde(default)]
    #[schemars(range(min = 0, max = 1))]
    pub arbiters: u8,

    /// Beside two replicas an arbiter is taken only with this sentence: `majority writes stop while one of the two data members is away`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 128))]
    pub arbiter_consent: Option<String>,

    /// Image of MongoDB 4.4 or newer, with the tools of the official image.
    #[serde(default = "default_image")]
    #[schemars(length(min = 1, max = 512))]
    #[x_kube(validation = shared::plain_image("mongo:8.0"))]
    pub image: String,

    /// When the image is pulled; Kubernetes' default applies if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_pull_policy: Option<PullPolicy>,

    /// Secrets for pulling the images.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    pub image_pull_secrets: Vec<LocalObjectReference>,

    /// The volume of each member.
    pub storage: Storage,

    /// Resources of the mongod container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourceRequirements>,

    /// mongod options by their path in mongod.conf, such as `net.maxIncomingConnections: 500`. Options that the operator owns are refused
    /// by name. Changing one updates the members one by one, the primary last.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 128))]
    #[schemars(schema_with = "config_schema")]
    #[x_kube(
        validation = Rule::new("self.all(name, size(name) <= 128 && name.matches('^[a-zA-Z][a-zA-Z0-9_]*([.][a-zA-Z][a-zA-Z0-9_]*)*$'))").message("config: option names are paths as in mongod.conf, such as storage.wiredTiger.engineConfig.cacheSizeGB"),
        validation = Rule::new(owned_rule()).message(OWNED_MESSAGE)
    )]
    pub config: BTreeMap<String, OptionValue>,

    /// Scheduling and metadata of the pods.
    #[serde(default)]
    pub pod: PodOptions,

    /// How votes and priorities are spread.
    #[serde(default)]
    pub zones: Zones,

    /// Accounts. Their passwords and connection strings are in the Secret `NAME-app`. One that is taken out of here stays in MongoDB.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    #[x_kube(validation = Rule::new("self.all(one, self.exists_one(other, other.name == one.name))").message("users: each name once"))]
    pub users: Vec<User>,

    /// TLS of mongod.
    #[serde(default)]
    pub tls: Tls,

    /// `Automatic`: raised to the release of the image once every member runs it, which forbids going back. `Manual`: left alone. Or a
    /// version, such as `7.0`.
    #[serde(default = "default_feature_version")]
    #[schemars(length(max = 16))]
    #[x_kube(validation = Rule::new("self.matches('^(Automatic|Manual|[1-9][0-9]?[.][0-9])$')").message("featureCompatibilityVersion: write Automatic, Manual, or a version such as '7.0'"))]
    pub feature_compatibility_version: String,

    /// The Services `NAME-primary` and `NAME-read`.
    #[serde(default)]
    pub services: Services,

    /// A secondary that lags more is not ready, so that `NAME-read` does not route to it. In seconds.
    #[serde(default = "default_lag")]
    #[schemars(range(min = 1, max = 86400))]
    pub max_replica_lag_seconds: u32,

    /// How changes of the pods are rolled out.
    #[serde(default)]
    pub update: Update,

    /// Leave everything as it is: nothing is changed, repaired or decided until this is false again.
    #[serde(default)]
    pub suspend: bool,

    /// Stop all members and keep their volumes. Set to false to wake them.
    #[serde(default)]
    pub hibernate: bool,
}

/// How votes and priorities are spread.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Zones {
    /// Label of the pods that says where one runs. Kubernetes 1.35 and newer give pods the topology labels of their nodes; where none has
    /// it, votes go by ordinal.
    #[serde(default = "default_zone_label")]
    #[schemars(length(min = 1, max = 253))]
    pub label: String,
    /// Priority of the members in a zone, 0 to 1000, 1 where none is given: who leads should be where it is highest; in a zone of priority 0
    /// nobody leads.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 32))]
    #[x_kube(validation = Rule::new("self.all(zone, self[zone] >= 0 && self[zone] <= 1000)").message("zones.priorities: a priority is 0 to 1000"))]
    pub priorities: BTreeMap<String, i32>,
}

impl Default for Zones {
    fn default() -> Self {
        Self { label: default_zone_label(), priorities: BTreeMap::new() }
    }
}

/// An account.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[x_kube(
    validation = Rule::new("self.name.matches('^[A-Za-z0-9][A-Za-z0-9_-]*$') && !self.name.startsWith('understudy') && self.name != '__system'").message("users.name: use letters, digits, '_' and '-'; names that begin with understudy are the operator's own"),
    validation = Rule::new("self.database.matches('^[A-Za-z0-9_-]+$') && self.database != 'local' && self.database != 'config'").message("users.database: use letters, digits, '_' and '-', and not local or config, which hold no accounts"),
    validation = Rule::new("!has(self.secret) || self.secret != ''").message("users.secret: name a Secret with the key 'password', or leave it out and one is made")
)]
#[serde(rename_all = "camelCase")]
pub struct User {
    /// Its name.
    #[schemars(length(min = 1, max = 63))]
    pub name: String,
    /// The database that it belongs to and logs in with (`authSource`).
    #[serde(default = "default_database")]
    #[schemars(length(min = 1, max = 63))]
    pub database: String,
    /// What it may do.
    #[schemars(length(min = 1, max = 32))]
    pub roles: Vec<Role>,
    /// Secret with the key `password`; if absent, a password is made and kept in `NAME-app`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub secret: Option<String>,
}

/// A role in a database.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Role {
    /// Such as `readWrite`.
    #[schemars(length(min = 1, max = 128))]
    pub role: String,
    /// The database it is for.
    #[schemars(length(min = 1, max = 63))]
    pub db: String,
}

/// TLS of mongod.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tls {
    /// Required of everybody.
    #[default]
    Required,
    /// Used between members, offered to others: the step below Required.
    Preferred,
    /// Offered to everybody, used between members by none: the step above Disabled.
    Allowed,
    /// None.
    Disabled,
}

/// What is known of the set. No clocks, lags or counters: an idle set writes nothing.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct MongoReplicaSetStatus {
    /// Generation of the spec that this status answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// State in one word, such as Healthy, Creating, SwitchingOver, Lost.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub state: String,
    /// Why, in one sentence.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// Ready members of wanted members, such as `3/3`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub ready: String,
    /// Term of the last claimed authority, the operator's own; only grows.
    #[serde(default)]
    pub term: u64,
    /// How often who leads was recorded here; only grows. Orders carry it: none of an older record is obeyed.
    #[serde(default)]
    pub claims: u64,
    /// Pod name of the member that leads, or led last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub primary: Option<String>,
    /// MongoDB's term of the election by which it leads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub election_term: Option<i64>,
    /// `settings.replicaSetId`: once it is here no set is ever initiated again (I10).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replica_set_id: Option<String>,
    /// The feature compatibility version that was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub feature_compatibility_version: Option<String>,
    /// A change of primary that is under way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transition: Option<Transition>,
    /// The hand-over that was asked for last, when it was refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub handover: Option<HandoverRequest>,
    /// The forced configuration that a person has consented to, word for word, while nobody leads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub consent: Option<String>,
    /// Members that exist, for the scale subresource.
    #[serde(default)]
    pub replicas: i32,
    /// Label selector of the members, for the scale subresource.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub selector: String,
    /// One row a member.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub members: Vec<MemberStatus>,
    /// Ready, Progressing, Degraded, Stalled.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}

shared::cluster_status!(MongoReplicaSetStatus, |status| status.replica_set_id.is_some());

/// One member.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct MemberStatus {
    /// Pod name.
    pub name: String,
    /// MongoDB's word for what it does, such as PRIMARY, SECONDARY, STARTUP2; UNKNOWN while its sidecar does not answer.
    pub role: String,
    /// Whether it serves.
    pub ready: bool,
    /// Whether who leads hears of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub healthy: Option<bool>,
    /// Whether it votes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub votes: Option<bool>,
    /// Its priority; 0 never leads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<i32>,
    /// How far it is behind, in coarse words: `seconds`, `minutes`, `hours`; absent while it keeps up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lag: Option<String>,
    /// Where it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// Server version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// What is wrong with it, or how far it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// What [`MongoReplicaSetSpec::arbiter_consent`] must say.
pub const PSA_CONSENT: &str = "majority writes stop while one of the two data members is away";

const PSA_MESSAGE: &str = "arbiters: with two replicas and an arbiter, majority writes stop while one of the two data members is away, and memory pressure grows with it; use 3 replicas, or consent by arbiterConsent: 'majority writes stop while one of the two data members is away'";

/// mongod options that the operator owns, by their paths in mongod.conf: each with everything below it.
pub const OWNED_OPTIONS: &[&str] = &[
    "net.port",
    "net.bindIp",
    "net.bindIpAll",
    "net.ipv6",
    "net.tls",
    "net.ssl",
    "net.unixDomainSocket",
    "storage.dbPath",
    "storage.directoryPerDB",
    "storage.journal",
    "replication.replSetName",
    "replication.replSet",
    "replication.enableMajorityReadConcern",
    "security.keyFile",
    "security.authorization",
    "security.clusterAuthMode",
    "security.transitionToAuth",
    "sharding",
    "processManagement",
    "systemLog.destination",
    "systemLog.path",
    "setParameter.enableLocalhostAuthBypass",
];

/// The same list in CEL.
fn owned_rule() -> String {
    let names = OWNED_OPTIONS.iter().map(|name| name.replace('.', "[.]")).collect::<Vec<_>>().join("|");
    format!("self.all(name, !name.matches('^({names})([.].*)?$'))")
}

const OWNED_MESSAGE: &str = "config: this option is set by the operator (membership, identity, authentication, TLS, paths: see docs/mongodb.md, \"Options the operator owns\"); remove it";

fn default_image() -> String {
    "mongo:8.0".to_owned()
}

fn default_zone_label() -> String {
    "topology.kubernetes.io/zone".to_owned()
}

fn default_database() -> String {
    "admin".to_owned()
}

fn default_feature_version() -> String {
    "Automatic".to_owned()
}
