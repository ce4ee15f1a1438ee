//! `RedisReplication`: a Redis or Valkey primary with replicas, from one object.
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
    default_replicas, pattern,
};

/// A Redis or Valkey primary with replicas: failover that keeps what WAIT acknowledged, and an answer to clients that ask a Sentinel.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[kube(
    group = "understudy.dev",
    version = "v1alpha1",
    kind = "RedisReplication",
    plural = "redisreplications",
    shortname = "rr",
    category = "databases",
    namespaced,
    status = "RedisReplicationStatus",
    derive = "PartialEq",
    scale(spec_replicas_path = ".spec.replicas", status_replicas_path = ".status.replicas", label_selector_path = ".status.selector"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.ready", description = "ready members of wanted members"),
    printcolumn(name = "Primary", type_ = "string", json_path = ".status.primary"),
    printcolumn(name = "State", type_ = "string", json_path = ".status.state"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.reason", priority = "1"),
    printcolumn(name = "Term", type_ = "integer", json_path = ".status.term", priority = "1"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    doc = "A Redis or Valkey primary with replicas: failover that keeps what WAIT acknowledged, and an answer to clients that ask a Sentinel.",
    validation = shared::plain_name(),
    validation = shared::same_class(),
    validation = shared::no_smaller(),
    validation = Rule::new("!has(self.spec.users) || self.spec.users.all(user, !has(user.secret) || !user.secret.matches('-(system|app|users|tls|ca)$') || user.secret.substring(0, user.secret.lastIndexOf('-')) != self.metadata.name)").message("users.secret: this Secret is made by the operator; name one of your own, or leave it out and a password is made"),
    validation = Rule::new("self.spec.tls == oldSelf.spec.tls").message("spec.tls cannot be changed: members are updated one by one and could not understand each other meanwhile; create a second RedisReplication and move the data"),
    validation = Rule::new("self.spec.persistence == oldSelf.spec.persistence").message("spec.persistence cannot be changed: a member that starts with another mode does not read what it wrote in this one; create a second RedisReplication and move the data")
)]
#[x_kube(
    validation = shared::suspended_or_asleep(),
    validation = shared::partition_by_operator(),
    validation = Rule::new("!has(self.durability.minReplicasToWrite) || self.durability.minReplicasToWrite < self.replicas").message("durability.minReplicasToWrite: the primary has only replicas - 1 replicas, so no write would ever be taken; write a smaller number"),
    validation = Rule::new("!(self.hibernate && self.persistence == 'None')").message("hibernate: with persistence: None everything would be forgotten; delete the object if that is meant"),
    validation = Rule::new("self.persistence != 'Snapshot' || !has(self.config) || !('save' in self.config) || !string(self.config['save']).matches('^[ \\\\x22\\\\x27]*$')").message(EMPTY_SAVE)
)]
#[serde(rename_all = "camelCase")]
pub struct RedisReplicationSpec {
    /// Number of members: one primary, the others replicas. To stop them all, use `hibernate`.
    #[serde(default = "default_replicas")]
    #[schemars(range(min = 1, max = 31))]
    pub replicas: u8,

    /// Image of Redis 6.2 or newer, or Valkey, with the tools of the official image.
    #[serde(default = "default_image")]
    #[schemars(length(min = 1, max = 512))]
    #[x_kube(validation = shared::plain_image("valkey/valkey:8"))]
    pub image: String,

    /// What the image must hold; whichever it does if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub engine: Option<Engine>,

    /// When the image is pulled; Kubernetes' default applies if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_pull_policy: Option<PullPolicy>,

    /// Secrets for pulling the images.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    pub image_pull_secrets: Vec<LocalObjectReference>,

    /// The volume of each member. Without persistence too it holds what is copied between members, and the highest term that the member has seen.
    pub storage: Storage,

    /// What survives the process. `AppendOnly`: every write, the last second of a node's sudden death excepted. `Snapshot`: what the last
    /// snapshot held. `None`: nothing; then a member that was restarted never leads while another one holds data, and when all are restarted
    /// at once the data are gone and the cluster begins anew. Cannot be changed.
    #[serde(default)]
    pub persistence: Persistence,

    /// Resources of the database container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourceRequirements>,

    /// Options of redis.conf, such as `maxmemory: 2gb`. Options that the operator owns are refused by name. Changing one updates the members
    /// one by one, the primary last.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 128))]
    #[schemars(schema_with = "words_schema")]
    #[x_kube(
        validation = Rule::new("self.all(name, name.matches('^[a-z][a-z0-9-]{0,63}$'))").message("config: option names are lower-case letters, digits and '-', as in redis.conf"),
        validation = Rule::new(owned_rule()).message(OWNED_MESSAGE)
    )]
    pub config: BTreeMap<String, OptionValue>,

    /// Scheduling and metadata of the pods.
    #[serde(default)]
    pub pod: PodOptions,

    /// Accounts of applications. Their passwords and addresses are in the Secret `NAME-app`. One that is taken out of here can no longer log in.
    #[serde(default = "default_users")]
    #[schemars(length(max = MAX_USERS))]
    #[x_kube(
        validation = Rule::new("self.all(one, self.exists_one(other, other.name == one.name))").message("users: each name once"),
        validation = Rule::new(all_rules()).message(format!("users: {}", long_rules()).as_str())
    )]
    pub users: Vec<User>,

    /// For how long the password before the last one is still taken, in seconds.
    #[serde(default = "default_overlap")]
    #[schemars(range(min = 60, max = 2_592_000))]
    pub password_overlap_seconds: u32,

    /// TLS of the database and of the Sentinel endpoint. Cannot be changed.
    #[serde(default)]
    pub tls: Tls,

    /// How many replicas must be there for a write to be taken.
    #[serde(default)]
    pub durability: Durability,

    /// How clients that ask a Sentinel are answered, on port 26379 of each member and of the Service `NAME-sentinel`.
    #[serde(default)]
    pub sentinel: Sentinel,

    /// The Services `NAME-primary` and `NAME-read`.
    #[serde(default)]
    pub services: Services,

    /// A replica that has not heard of the primary for longer is not ready, so that `NAME-read` does not route to it. In seconds; a primary
    /// says something each second.
    #[serde(default = "default_lag")]
    #[schemars(range(min = 3, max = 86400))]
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

/// Which of the two.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    /// Redis.
    Redis,
    /// Valkey.
    Valkey,
}

/// What survives the process.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Persistence {
    /// An append-only file, flushed each second unless `config` says otherwise.
    #[default]
    AppendOnly,
    /// Snapshots, as often as `config` says in `save`, and at each orderly end.
    Snapshot,
    /// Nothing.
    None,
}

/// TLS.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tls {
    /// Required of everybody.
    #[default]
    Required,
    /// None.
    Disabled,
}

/// An account.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[x_kube(
    validation = Rule::new("self.name.matches('^[A-Za-z0-9][A-Za-z0-9_-]*$') && !self.name.startsWith('understudy')").message("users.name: use letters, digits, '_' and '-'; names that begin with understudy are the operator's own"),
    validation = Rule::new("!(self.name in ['host', 'port', 'sentinel', 'masterName'])").message("users.name: the Secret NAME-app has this key already; choose another name"),
    validation = Rule::new("!self.rules.matches('[^ -~]')").message("users.rules: one line of printable text"),
    validation = Rule::new("self.rules.split(' ').all(rule, !rule.lowerAscii().matches('^([<>#!].*|on|off|nopass|resetpass|reset|clearselectors|sanitize-payload|skip-sanitize-payload)$'))").message("users.rules: passwords and on or off are not given here; name a Secret in users.secret, and take the user out to shut it out"),
    validation = Rule::new("!has(self.secret) || self.secret != ''").message("users.secret: name a Secret with the key 'password', or leave it out and one is made")
)]
#[serde(rename_all = "camelCase")]
pub struct User {
    /// Its name. `default` is who logs in with a password alone.
    #[schemars(length(min = 1, max = 63))]
    pub name: String,
    /// What it may do, as `ACL SETUSER` takes it.
    #[serde(default = "default_rules")]
    #[schemars(length(max = 1024))]
    pub rules: String,
    /// Secret with the key `password`; if absent, a password is made and kept in `NAME-app`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub secret: Option<String>,
}

/// How many replicas must be there for a write to be taken.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Durability {
    /// `min-replicas-to-write`: with fewer replicas connected the primary refuses writes. 1 if absent, 0 of a single member. With 0 a primary
    /// that is cut off goes on taking writes until it has closed itself. What a client waited for by `WAIT` with at least this number (and at
    /// least 1) is not lost by the loss of any member.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 30))]
    pub min_replicas_to_write: Option<u8>,
    /// `min-replicas-max-lag`: a replica that has not acknowledged for longer does not count. In seconds.
    #[serde(default = "default_max_lag")]
    #[schemars(range(min = 2, max = 3600))]
    pub max_lag_seconds: u32,
}

impl Default for Durability {
    fn default() -> Self {
        Self { min_replicas_to_write: None, max_lag_seconds: default_max_lag() }
    }
}

/// How clients that ask a Sentinel are answered.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Sentinel {
    /// The name by which clients ask for the primary; the object's own name if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    #[x_kube(validation = Rule::new("self.matches('^[A-Za-z0-9._-]+$')").message("sentinel.masterName: use letters, digits, '.', '_' and '-'"))]
    pub master_name: Option<String>,
    /// Whether clients log in to it, as any user of the database.
    #[serde(default)]
    pub auth: SentinelAuth,
}

/// Whether clients log in to the Sentinel endpoint.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SentinelAuth {
    /// They must.
    #[default]
    Required,
    /// They need not: whoever reaches it learns the members' names.
    Disabled,
}

/// What is known of the cluster. No clocks, lags or counters: an idle cluster writes nothing.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct RedisReplicationStatus {
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
    /// There was a first primary; no empty member is made one again (I10).
    #[serde(default)]
    pub initialised: bool,
    /// A change of primary that is under way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transition: Option<Transition>,
    /// The hand-over that was asked for last, while it waits or when it was refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub handover: Option<HandoverRequest>,
    /// Replicas that the primary lets replicate; a joining member is written here before it can acknowledge anything.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ack_set: Vec<AckMember>,
    /// What a client waits for by `WAIT` with at least this number survives.
    #[serde(default)]
    pub acks: u32,
    /// Which data the primary leads with; other data under its name are another member's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub primary_identity: Option<String>,
    /// The primary's own past, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub history: Vec<Epoch>,
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

/// A replica that may acknowledge, and which data of it: a member that lost its volume, or without persistence its process, is another one.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct AckMember {
    /// Pod name.
    pub name: String,
    /// Tells its data from others.
    pub identity: String,
}

/// One history of the primary's past.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Epoch {
    /// Its replication id.
    pub replid: String,
    /// How many bytes of it are part of the primary's past, in decimal; absent while it is being written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<String>,
}

shared::cluster_status!(RedisReplicationStatus, |status| status.initialised);

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
    /// Tells its data from others: what `understudy.dev/reclone` names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<String>,
    /// File on its volume with the newest data that only it held.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub archive: Option<String>,
    /// Redis or Valkey.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub engine: Option<String>,
    /// Server version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Whom it follows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// What is wrong with it, or how far it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// Most users.
const MAX_USERS: usize = 64;

/// Longest rules of all users, in bytes: an order with all of them stays below what a sidecar reads.
pub const MAX_ALL_RULES: usize = 20 * 1024;

/// What is said of longer ones.
#[must_use]
pub fn long_rules() -> String {
    format!("the rules of all have at most {MAX_ALL_RULES} characters together; use categories (+@read)")
}

/// What is said of snapshots that are never taken: a process that was told to end would not take one either.
pub const EMPTY_SAVE: &str = "config.save: with persistence: Snapshot an empty one would keep nothing, at an orderly end neither; write when to save, such as '3600 1', leave it out for the server's default, or use persistence: None";

/// Keys of `NAME-app` that are no user's.
pub const RESERVED_USERS: &[&str] = &["host", "port", "sentinel", "masterName"];

/// Options of redis.conf that the operator owns.
pub const OWNED_OPTIONS: &[&str] = &[
    "include",
    "bind",
    "bind-source-addr",
    "port",
    "unixsocket",
    "unixsocketperm",
    "protected-mode",
    "daemonize",
    "supervised",
    "pidfile",
    "logfile",
    "syslog-enabled",
    "syslog-ident",
    "syslog-facility",
    "dir",
    "dbfilename",
    "appendonly",
    "appendfilename",
    "appenddirname",
    "replicaof",
    "slaveof",
    "masterauth",
    "primaryauth",
    "masteruser",
    "primaryuser",
    "requirepass",
    "user",
    "aclfile",
    "replica-announced",
    "replica-announce-ip",
    "replica-announce-port",
    "slave-announce-ip",
    "slave-announce-port",
    "replica-read-only",
    "slave-read-only",
    "replica-priority",
    "slave-priority",
    "replica-serve-stale-data",
    "slave-serve-stale-data",
    "replica-ignore-disk-write-errors",
    "repl-diskless-sync",
    "repl-diskless-sync-delay",
    "repl-diskless-load",
    "repl-ping-replica-period",
    "repl-ping-slave-period",
    "repl-backlog-ttl",
    "min-replicas-to-write",
    "min-slaves-to-write",
    "min-replicas-max-lag",
    "min-slaves-max-lag",
    "rename-command",
    "enable-debug-command",
    "enable-module-command",
    "enable-protected-configs",
    "loadmodule",
    "shutdown-on-sigterm",
    "shutdown-on-sigint",
];

/// Families of options that the operator owns, by prefix.
pub const OWNED_FAMILIES: &[&str] = &["tls-", "cluster-", "sentinel"];

/// The same lists in CEL.
fn owned_rule() -> String {
    let names = OWNED_OPTIONS.iter().map(|name| (*name).to_owned()).chain(OWNED_FAMILIES.iter().map(|family| format!("{family}.*")));
    format!("self.all(name, !name.matches('^({})$'))", names.collect::<Vec<_>>().join("|"))
}

/// The sum of all rules, of a list that is written out: Kubernetes 1.29 does not know how long one is that `map` makes.
fn all_rules() -> String {
    let sizes = (0..MAX_USERS).map(|user| format!("size(self) > {user} ? size(self[{user}].rules) : 0")).collect::<Vec<_>>();
    format!("[{}].sum() <= {MAX_ALL_RULES}", sizes.join(", "))
}

/// A value is words as redis-server reads them (`operator/src/redis/option.rs`): plain, or ending in quotes, between spaces. What is no text
/// when it is read, or might not be, is not taken: NUL, and parts of a character.
fn words_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
    let double = r"\x22([^\x22\\]|\\[^x]|\\x(0[1-9a-fA-F]|[1-7][0-9a-fA-F]))*\x22";
    let single = r"\x27([^\x27\\]|\\+[^\\])*\x27";
    let word = format!(r"[^ \x22\x27]*({double}|{single})?");
    let advice = "write the value as in redis.conf: quotes in pairs, a space or nothing after the closing one, and an escape in hexadecimal only from x01 to x7f";
    let mut schema = config_schema(generator);
    if let Some(value) = schema.get_mut("additionalProperties").and_then(serde_json::Value::as_object_mut) {
        value.insert("allOf".to_owned(), serde_json::json!([{ "pattern": pattern(&format!("{word}( {word})*"), advice) }]));
    }
    schema
}

const OWNED_MESSAGE: &str = "config: this option is set by the operator (replication, persistence, accounts, TLS, paths: see docs/redis.md, \"Options the operator owns\"); remove it";

fn default_image() -> String {
    "valkey/valkey:8".to_owned()
}

fn default_users() -> Vec<User> {
    vec![User { name: "app".to_owned(), rules: default_rules(), secret: None }]
}

fn default_rules() -> String {
    "~* &* +@all -@admin -@dangerous +info +keys +sort +client|kill".to_owned()
}

fn default_overlap() -> u32 {
    3600
}

fn default_max_lag() -> u32 {
    10
}
