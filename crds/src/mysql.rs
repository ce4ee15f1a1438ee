//! `MySQLCluster`: a primary and its replicas, from one object.
//!
//! Only what a user writes or reads is here. What can be refused by the API server is refused by it, with a message that
//! says what to write instead; the rest becomes a condition.

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
    validation = shared::plain_name(),
    validation = shared::same_class(),
    validation = shared::no_smaller(),
    validation = Rule::new("!has(oldSelf.spec.database) || (has(self.spec.database) && self.spec.database.name == oldSelf.spec.database.name && self.spec.database.owner == oldSelf.spec.database.owner)").message("spec.database cannot be renamed or removed once given: create further databases with SQL")
)]
#[x_kube(
    validation = shared::suspended_or_asleep(),
    validation = shared::partition_by_operator(),
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
    #[x_kube(validation = shared::plain_image("mysql:8.4"))]
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

/// What a commit waits for when replicas are missing.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// Its acknowledgements, however long that takes.
    #[default]
    Strict,
    /// Fewer acknowledgements after a grace time, with a condition while that lasts.
    Available,
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

shared::cluster_status!(MySQLClusterStatus, |status| status.initialised);

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

fn default_image() -> String {
    "mysql:8.4".to_owned()
}
