//! A cluster as the verbs see it, of whichever kind: what all kinds say under one name, and what only one says beside it (pure).

use std::collections::BTreeMap;

use crds::mongo::{self, MongoReplicaSet};
use crds::mysql::{self, MySQLCluster};
use crds::redis::{self, RedisReplication};
use crds::shared::{ClusterStatus, HandoverRequest, Head, Transition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, ObjectMeta};

use crate::engine::Engine;

/// State of a cluster in which nothing safe can be done without a person.
pub const LOST: &str = "Lost";
/// States in which nobody is known to take writes.
const WITHOUT_PRIMARY: [&str; 3] = [LOST, "PrimaryUnavailable", "FailingOver"];

/// A custom resource.
#[derive(Clone, Debug)]
pub struct Cluster {
    /// Its kind.
    pub engine: Engine,
    /// Its name.
    pub name: String,
    /// What is asked of it.
    pub annotations: BTreeMap<String, String>,
    /// Generation of its spec.
    pub generation: Option<i64>,
    /// What it was read at.
    pub resource_version: Option<String>,
    /// It is left alone.
    pub suspend: bool,
    /// It is put to sleep.
    pub hibernate: bool,
    /// An operator has looked at it: it has a status.
    pub seen: bool,
    /// What every status says first.
    pub head: Head,
    /// It has its first data.
    pub born: bool,
    /// Term of the last claimed authority.
    pub term: u64,
    /// Who leads, or led last.
    pub primary: Option<String>,
    /// A change of primary that is under way.
    pub transition: Option<Transition>,
    /// The hand-over that was asked for last, while it waits or when it was refused.
    pub handover: Option<HandoverRequest>,
    /// One a member.
    pub members: Vec<Member>,
    /// What only this kind says: a name, and a sentence.
    pub facts: Vec<(&'static str, String)>,
}

/// A member. What its kind does not say is absent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Member {
    /// Pod name.
    pub name: String,
    /// What it does, in its database's words.
    pub role: String,
    /// Whether it serves.
    pub ready: bool,
    /// Server version.
    pub version: Option<String>,
    /// What is wrong with it, or how far it is.
    pub message: Option<String>,
    /// MySQL, Redis: whom it follows.
    pub source: Option<String>,
    /// MySQL: donor of the clone that filled its volume.
    pub cloned_from: Option<String>,
    /// MySQL, Redis: which data.
    pub identity: Option<String>,
    /// MySQL, Redis: file with the newest data that only it held.
    pub archive: Option<String>,
    /// MongoDB: whether it votes.
    pub votes: Option<bool>,
    /// MongoDB: its priority.
    pub priority: Option<i32>,
    /// MongoDB: where it runs.
    pub zone: Option<String>,
    /// MongoDB: how far it is behind, in a word.
    pub lag: Option<String>,
    /// MongoDB: whether who leads hears of it.
    pub healthy: Option<bool>,
}

impl Cluster {
    /// A condition that holds.
    pub fn condition(&self, type_: &str) -> Option<&Condition> {
        self.head.conditions.iter().find(|condition| condition.type_ == type_ && condition.status == "True")
    }

    /// Somebody leads, as far as the operator knows.
    pub fn is_led(&self) -> bool {
        !WITHOUT_PRIMARY.contains(&self.head.state.as_str())
    }

    /// What all kinds have.
    fn of<S: ClusterStatus>(engine: Engine, metadata: ObjectMeta, seen: bool, status: &S) -> Self {
        Self {
            engine,
            name: metadata.name.unwrap_or_default(),
            annotations: metadata.annotations.unwrap_or_default(),
            generation: metadata.generation,
            resource_version: metadata.resource_version,
            suspend: false,
            hibernate: false,
            seen,
            head: status.head(),
            born: status.is_born(),
            term: status.term(),
            primary: None,
            transition: status.transition().cloned(),
            handover: None,
            members: Vec::new(),
            facts: Vec::new(),
        }
    }
}

// === MySQL ===

impl From<MySQLCluster> for Cluster {
    fn from(MySQLCluster { metadata, spec, status }: MySQLCluster) -> Self {
        let seen = status.is_some();
        let status = status.unwrap_or_default();
        let acknowledge = acknowledge(status.acks, status.ack_set.iter().map(|member| member.name.as_str()));
        Self {
            suspend: spec.suspend,
            hibernate: spec.hibernate,
            primary: status.primary.clone(),
            handover: status.handover.clone(),
            members: status.members.iter().cloned().map(Member::from).collect(),
            facts: vec![("acknowledge", acknowledge)],
            ..Self::of(Engine::MySql, metadata, seen, &status)
        }
    }
}

impl From<mysql::MemberStatus> for Member {
    fn from(row: mysql::MemberStatus) -> Self {
        let mysql::MemberStatus { name, role, ready, cloned_from, server_uuid, archive, version, source, tls: _, message } = row;
        Self { name, role, ready, version, message, source, cloned_from, identity: server_uuid, archive, ..Self::default() }
    }
}

/// How many of whom hold what is acknowledged.
fn acknowledge<'a>(acks: u32, set: impl Iterator<Item = &'a str>) -> String {
    let set: Vec<&str> = set.collect();
    if set.is_empty() { "nobody has to".to_owned() } else { format!("{acks} of {}", set.join(", ")) }
}

// === MongoDB ===

impl From<MongoReplicaSet> for Cluster {
    fn from(MongoReplicaSet { metadata, spec, status }: MongoReplicaSet) -> Self {
        let seen = status.is_some();
        let status = status.unwrap_or_default();
        let facts = [
            ("election", status.election_term.map(|term| format!("MongoDB's term {term}"))),
            ("features", status.feature_compatibility_version.clone().map(|version| format!("of {version}"))),
            ("consent", status.consent.clone()),
        ];
        Self {
            suspend: spec.suspend,
            hibernate: spec.hibernate,
            primary: status.primary.clone(),
            handover: status.handover.clone(),
            members: status.members.iter().cloned().map(Member::from).collect(),
            facts: facts.into_iter().filter_map(|(what, said)| Some((what, said?))).collect(),
            ..Self::of(Engine::Mongo, metadata, seen, &status)
        }
    }
}

impl From<mongo::MemberStatus> for Member {
    fn from(row: mongo::MemberStatus) -> Self {
        let mongo::MemberStatus { name, role, ready, healthy, votes, priority, lag, zone, version, message } = row;
        Self { name, role, ready, version, message, votes, priority, zone, lag, healthy, ..Self::default() }
    }
}

// === Redis ===

impl From<RedisReplication> for Cluster {
    fn from(RedisReplication { metadata, spec, status }: RedisReplication) -> Self {
        let seen = status.is_some();
        let status = status.unwrap_or_default();
        let acknowledge = acknowledge(status.acks, status.ack_set.iter().map(|member| member.name.as_str()));
        Self {
            suspend: spec.suspend,
            hibernate: spec.hibernate,
            primary: status.primary.clone(),
            handover: status.handover.clone(),
            members: status.members.iter().cloned().map(Member::from).collect(),
            facts: vec![("acknowledge", acknowledge)],
            ..Self::of(Engine::Redis, metadata, seen, &status)
        }
    }
}

impl From<redis::MemberStatus> for Member {
    fn from(row: redis::MemberStatus) -> Self {
        let redis::MemberStatus { name, role, ready, identity, archive, engine, version, source, message } = row;
        // Two engines count their versions each in its own way.
        let version = version.map(|version| engine.map_or_else(|| version.clone(), |engine| format!("{engine} {version}")));
        Self { name, role, ready, version, message, source, identity, archive, ..Self::default() }
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use serde_json::{Value, json};

    /// A MySQLCluster of three with `shop-0` as its primary, changed by `patch`.
    pub fn shop(patch: &Value) -> Cluster {
        let row = |name: &str, role: &str| json!({"name": name, "role": role, "ready": true, "serverUuid": format!("uuid-of-{name}")});
        let object = json!({
            "apiVersion": "understudy.dev/v1alpha1", "kind": "MySQLCluster",
            "metadata": {"name": "shop", "annotations": {}},
            "spec": {"storage": {"size": "1Gi"}},
            "status": {"state": "Healthy", "reason": "shop-0 is the primary and all 3 members serve", "ready": "3/3", "term": 3,
                "primary": "shop-0", "initialised": true, "acks": 1,
                "members": [row("shop-0", "Primary"), row("shop-1", "Replica"), row("shop-2", "Replica")]},
        });
        read(Engine::MySql, object, patch)
    }

    /// A MongoReplicaSet of three with `stock-0` as its primary, changed by `patch`.
    pub fn stock(patch: &Value) -> Cluster {
        let row = |name: &str, role: &str| json!({"name": name, "role": role, "ready": true, "votes": true, "priority": 1, "zone": "a"});
        let object = json!({
            "apiVersion": "understudy.dev/v1alpha1", "kind": "MongoReplicaSet",
            "metadata": {"name": "stock", "annotations": {}},
            "spec": {"storage": {"size": "1Gi"}},
            "status": {"state": "Healthy", "reason": "stock-0 is the primary and all 3 members serve", "ready": "3/3", "term": 3,
                "primary": "stock-0", "electionTerm": 5, "replicaSetId": "65920080aabbccddeeff0011",
                "members": [row("stock-0", "PRIMARY"), row("stock-1", "SECONDARY"), row("stock-2", "SECONDARY")]},
        });
        read(Engine::Mongo, object, patch)
    }

    /// A RedisReplication of three with `cache-0` as its primary, changed by `patch`.
    pub fn cache(patch: &Value) -> Cluster {
        let row = |name: &str, role: &str| json!({"name": name, "role": role, "ready": true, "identity": format!("data-of-{name}"), "engine": "Valkey", "version": "8.1.1"});
        let ack = |name: &str| json!({"name": name, "identity": format!("data-of-{name}")});
        let object = json!({
            "apiVersion": "understudy.dev/v1alpha1", "kind": "RedisReplication",
            "metadata": {"name": "cache", "annotations": {}},
            "spec": {"storage": {"size": "1Gi"}},
            "status": {"state": "Healthy", "reason": "cache-0 is the primary and all 3 members serve", "ready": "3/3", "term": 3,
                "primary": "cache-0", "initialised": true, "acks": 1, "ackSet": [ack("cache-1"), ack("cache-2")],
                "members": [row("cache-0", "Primary"), row("cache-1", "Replica"), row("cache-2", "Replica")]},
        });
        read(Engine::Redis, object, patch)
    }

    /// The words that `stock` without a majority offers.
    pub const WORDS: &str =
        "force stock-2.stock.db.svc:27017 at term 5 time 9.1 without stock-0.stock.db.svc:27017, stock-1.stock.db.svc:27017";

    /// [`stock`] without a majority, that can be forced on `stock-2`.
    pub fn lost_stock() -> Cluster {
        let message = format!("stock-0 and stock-1 do not answer; annotate it with {}, which loses", crds::annotations::offer(WORDS));
        let stalled = json!({"type": "Stalled", "status": "True", "reason": "MajorityLost", "message": message,
            "lastTransitionTime": "2026-01-01T00:00:00Z"});
        stock(&json!({"status": {"state": "Lost", "reason": message, "conditions": [stalled]}}))
    }

    fn read(engine: Engine, mut object: Value, patch: &Value) -> Cluster {
        merge(&mut object, patch);
        engine.read(serde_json::from_value(object).unwrap()).unwrap()
    }

    fn merge(into: &mut Value, patch: &Value) {
        match (into, patch) {
            (Value::Object(into), Value::Object(patch)) => {
                for (key, value) in patch {
                    merge(into.entry(key.clone()).or_insert(Value::Null), value);
                }
            }
            (into, patch) => *into = patch.clone(),
        }
    }

    #[test]
    fn every_kind_says_what_all_kinds_say() {
        for (cluster, name) in [(shop(&json!({})), "shop"), (stock(&json!({})), "stock"), (cache(&json!({})), "cache")] {
            assert_eq!(cluster.name, name);
            assert_eq!((cluster.term, cluster.born, cluster.seen, cluster.is_led()), (3, true, true, true));
            assert_eq!(cluster.primary, Some(format!("{name}-0")));
            assert_eq!((cluster.members.len(), cluster.members[1].name.clone()), (3, format!("{name}-1")));
        }
        assert!(!shop(&json!({"status": null})).seen);
        assert!(!stock(&json!({"status": {"replicaSetId": null}})).born);
        assert!(!cache(&json!({"status": {"initialised": false}})).born);
    }
}
