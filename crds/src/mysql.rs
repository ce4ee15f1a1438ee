//! `MySQLCluster`: a primary and its replicas, from one object.
//!
//! Only what a user writes or reads is here. What can be refused by the API server is refused by it, with a message that
//! says what to write instead; the rest becomes a condition.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Affinity, LocalObjectReference, PodSecurityContext, ResourceRequirements, Toleration, TopologySpreadConstraint,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A MySQL primary with replicas: GTID and semi-synchronous replication over TLS, members cloned from each other.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[kube(
    group = "understudy.dev",
    version = "v1alpha1",
    kind = "MySQLCluster",
    plural = "mysqlclusters",
    shortname = "myc",
    category = "databases",
    namespaced,
    status = "MySQLClusterStatus",
    derive = "PartialEq",
    scale(spec_replicas_path = ".spec.replicas", status_replicas_path = ".status.replicas", label_selector_path = ".status.selector"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.ready", description = "ready members of wanted members"),
    printcolumn(name = "Primary", type_ = "string", json_path = ".status.primary"),
    printcolumn(name = "State", type_ = "string", json_path = ".status.state"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.reason", priority = "1"),
    printcolumn(name = "Term", type_ = "integer", json_path = ".status.term", priority = "1"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    doc = "A MySQL primary with replicas: GTID and semi-synchronous replication over TLS, members cloned from each other.",
    validation = Rule::new("self.metadata.name.matches('^[a-z]([-a-z0-9]{0,38}[a-z0-9])?$')").message("metadata.name: use at most 40 lower-case letters, digits and '-', beginning with a letter; Services and host names are made from it"),
    validation = Rule::new("has(self.spec.storage.className) == has(oldSelf.spec.storage.className) && (!has(self.spec.storage.className) || self.spec.storage.className == oldSelf.spec.storage.className)").message("spec.storage.className cannot be changed: volumes keep their class; create a second cluster and move the data"),
    validation = Rule::new("quantity(self.spec.storage.size).compareTo(quantity(oldSelf.spec.storage.size)) >= 0").message("spec.storage.size cannot shrink: volumes only grow; write the old size or a greater one"),
    validation = Rule::new("!has(oldSelf.spec.database) || (has(self.spec.database) && self.spec.database.name == oldSelf.spec.database.name && self.spec.database.owner == oldSelf.spec.database.owner)").message("spec.database cannot be renamed or removed once given: create further databases with SQL")
)]
#[x_kube(
    validation = Rule::new("!(self.suspend && self.hibernate)").message("suspend and hibernate contradict: a suspended cluster is left alone, so it cannot be put to sleep; set one of them"),
    validation = Rule::new("!(self.update.strategy == 'OnDelete' && self.update.partition > 0)").message("update.partition needs update.strategy: Automatic; with OnDelete you choose the pods yourself"),
    validation = Rule::new("!has(self.database) || !has(self.database.secret) || self.database.secret != ''").message("database.secret: name a Secret with the key 'password', or leave it out and one is made")
)]
#[serde(rename_all = "camelCase")]
pub struct MySQLClusterSpec {
    /// Number of members: one primary, the others replicas. To stop them all, use `hibernate`.
    #[serde(default = "default_replicas")]
    #[schemars(range(min = 1, max = 31))]
    pub replicas: u8,

    /// Image of MySQL 8.0.26 or newer, 8.4 or 9.x, with the tools of the official image.
    #[serde(default = "default_image")]
    #[schemars(length(min = 1, max = 512))]
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

    /// Resources of the mysqld container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourceRequirements>,

    /// mysqld options, such as `max_connections: 500`. Options that the operator owns are refused by name.
    /// Changing one updates the members one by one, the primary last.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 128))]
    #[schemars(schema_with = "config_schema")]
    #[x_kube(
        validation = Rule::new("self.all(name, name.matches('^[a-z][a-z0-9_.-]{0,63}$'))").message("config: option names are lower-case letters, digits, '_', '-' and '.', as in my.cnf, without leading dashes"),
        validation = Rule::new("self.all(name, !string(self[name]).matches('[[:cntrl:]]'))").message("config: a value is one line of printable text; write each option as an entry of its own"),
        validation = Rule::new(owned_rule()).message(OWNED_MESSAGE)
    )]
    pub config: BTreeMap<String, OptionValue>,

    /// Scheduling and metadata of the pods.
    #[serde(default)]
    pub pod: PodOptions,

    /// A database and its owner, created with the cluster. Its credentials are in the Secret `NAME-app`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub database: Option<Database>,

    /// The Services `NAME-primary` and `NAME-read`.
    #[serde(default)]
    pub services: Services,

    /// `Strict`: a commit waits for its acknowledgements however long that takes. `Available`: the operator may ask for fewer
    /// after a grace time, and says so in a condition.
    #[serde(default)]
    pub durability: Durability,

    /// A replica that lags more is not ready, so that `NAME-read` does not route to it. In seconds.
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

/// Value of a mysqld option. The int-or-string of Kubernetes' own types ends at 32 bits, which a buffer pool does not.
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
    /// When the MySQLCluster is deleted.
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
    pub labels: BTreeMap<String, String>,
    /// Further annotations.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
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
    /// How long mysqld may take to shut down, in seconds.
    #[serde(default = "default_grace")]
    #[schemars(range(min = 10, max = 86400))]
    pub termination_grace_period_seconds: u32,
    /// Resources of the sidecar container, which also runs a clone's receiving mysqld.
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

/// A database and its owner.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[x_kube(
    validation = Rule::new("self.name.matches('^[A-Za-z0-9_]+$')").message("database.name: use letters, digits and '_'"),
    validation = Rule::new("self.owner.matches('^[A-Za-z0-9_]+$')").message("database.owner: use letters, digits and '_'"),
    validation = Rule::new("!(self.name.lowerAscii() in ['mysql', 'sys', 'information_schema', 'performance_schema'])").message("database.name: this is a system schema of MySQL; choose another name"),
    validation = Rule::new("!(self.owner.lowerAscii() == 'root' || self.owner.startsWith('mysql.') || self.owner.lowerAscii().startsWith('understudy'))").message("database.owner: this account is MySQL's or the operator's own; choose another name")
)]
#[serde(rename_all = "camelCase")]
pub struct Database {
    /// Name of the database.
    #[schemars(length(min = 1, max = 64))]
    pub name: String,
    /// Account with all privileges on it.
    #[schemars(length(min = 1, max = 32))]
    pub owner: String,
    /// Secret with the key `password`; if absent, a password is made and kept in `NAME-app`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub secret: Option<String>,
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

/// What a commit waits for when replicas are missing.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// Its acknowledgements, however long that takes.
    #[default]
    Strict,
    /// Fewer acknowledgements after a grace time, with a condition while that lasts.
    Available,
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
    #[schemars(range(max = 31))]
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

/// What is known of the cluster. No clocks, lags or counters: an idle cluster writes nothing.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct MySQLClusterStatus {
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
    /// Term of the last claimed authority; only grows.
    #[serde(default)]
    pub term: u64,
    /// How often who leads and who acknowledges was recorded here; only grows. Orders carry it: none of an older record is obeyed.
    #[serde(default)]
    pub claims: u64,
    /// Pod name of the member that is, or is becoming, primary.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub primary: Option<String>,
    /// The data directory was initialised; it never is again (I10).
    #[serde(default)]
    pub initialised: bool,
    /// A change of primary that is under way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transition: Option<Transition>,
    /// The hand-over that was asked for last, while it waits or when it was refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub handover: Option<HandoverRequest>,
    /// Replicas whose acknowledgement counts for semi-sync; a joining member is written here before it counts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ack_set: Vec<AckMember>,
    /// How many of them must at least acknowledge a commit; raised at the primary before it is raised here.
    #[serde(default)]
    pub acks: u32,
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

/// A replica whose acknowledgement counts, and which data directory of it: a member that lost its volume is another one.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct AckMember {
    /// Pod name.
    pub name: String,
    /// `@@server_uuid`, new with each initialise or clone.
    pub server_uuid: String,
    /// GTID set of what it had committed itself when it joined. What it commits itself after that, as a replica, is errant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub committed: Option<String>,
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

/// One member.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct MemberStatus {
    /// Pod name.
    pub name: String,
    /// Primary, Replica, Joining, Isolated or Unknown.
    pub role: String,
    /// Whether it serves.
    pub ready: bool,
    /// Donor of the clone that filled its volume.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cloned_from: Option<String>,
    /// `@@server_uuid` of its data directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_uuid: Option<String>,
    /// File on its volume with the newest transactions that only it held.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub archive: Option<String>,
    /// Server version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Whom it follows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// Whether replication is encrypted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<bool>,
    /// What is wrong with it, or how far it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// mysqld options that the operator owns, in `my.cnf` spelling with underscores.
pub const OWNED_OPTIONS: &[&str] = &[
    "server_id",
    "report_host",
    "report_port",
    "port",
    "bind_address",
    "socket",
    "datadir",
    "user",
    "pid_file",
    "log_error",
    "gtid_mode",
    "enforce_gtid_consistency",
    "log_bin",
    "log_bin_index",
    "relay_log",
    "relay_log_index",
    "performance_schema",
    "innodb_data_home_dir",
    "innodb_log_group_home_dir",
    "innodb_undo_directory",
    "log_replica_updates",
    "log_slave_updates",
    "binlog_format",
    "sync_binlog",
    "innodb_flush_log_at_trx_commit",
    "relay_log_recovery",
    "skip_replica_start",
    "skip_slave_start",
    "read_only",
    "super_read_only",
    "replica_preserve_commit_order",
    "replica_net_timeout",
    "skip_name_resolve",
    "init_file",
    "plugin_load",
    "plugin_load_add",
    "early_plugin_load",
    "ssl_ca",
    "ssl_cert",
    "ssl_key",
    "ssl_capath",
    "mysqlx",
    "skip_networking",
    "skip_grant_tables",
    "defaults_file",
    "initialize",
    "initialize_insecure",
];

/// Families of options that the operator owns, by prefix.
pub const OWNED_FAMILIES: &[&str] = &["rpl_semi_sync_", "admin_"];

/// The same lists in CEL, under every spelling that mysqld takes.
fn owned_rule() -> String {
    let bare = |name: &&str| name.strip_prefix("skip_").unwrap_or(name).to_owned();
    let names = OWNED_OPTIONS.iter().map(bare).chain(OWNED_FAMILIES.iter().map(|family| format!("{family}.*"))).collect::<Vec<_>>();
    format!("self.all(name, !name.replace('-', '_').matches('^(loose_|enable_|disable_|skip_|maximum_)*({})$'))", names.join("|"))
}

const OWNED_MESSAGE: &str = "config: this option is set by the operator (replication, durability, identity, TLS, paths: see docs/mysql.md, \"Options the operator owns\"); remove it";

fn config_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({
        "type": "object",
        "maxProperties": 128,
        "additionalProperties": { "x-kubernetes-int-or-string": true, "anyOf": [{ "type": "integer" }, { "type": "string" }], "maxLength": 1024 }
    })
}

fn size_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({ "type": "string", "maxLength": 32 })
}

fn default_replicas() -> u8 {
    3
}

fn default_image() -> String {
    "mysql:8.4".to_owned()
}

fn default_lag() -> u32 {
    30
}

fn default_grace() -> u32 {
    120
}
