//! Spec → [`Desired`] (pure): parse, don't check. After this step nobody reads the raw spec.
//!
//! What every kind has is checked in [`crate::desired`].

use std::collections::BTreeSet;

use crds::redis::{
    Durability, EMPTY_SAVE, Engine, MAX_ALL_RULES, Persistence, RESERVED_USERS, RedisReplication, RedisReplicationSpec, SentinelAuth, Tls,
    User, long_rules,
};
use crds::shared::ClusterStatus;

use super::{Redis, option};
use crate::desired::Given;
pub use crate::desired::Invalid;
use crate::names;

/// Most members: acknowledgements and positions stay readable, and ordinals short.
const MAX_REPLICAS: u8 = 31;
/// Longest rules of one user, in bytes.
const MAX_RULES: usize = 1024;
/// Rules that say what only the operator says: who is let in, and with which password.
const OWNED_RULES: [&str; 8] = ["on", "off", "nopass", "resetpass", "reset", "clearselectors", "sanitize-payload", "skip-sanitize-payload"];

/// What the user wants, checked.
pub type Desired = crate::desired::Desired<Redis>;

/// What only a Redis cluster has.
#[derive(Clone, Debug, PartialEq)]
pub struct Own {
    /// What the image must hold; whichever it does if `None`.
    pub engine: Option<Engine>,
    /// What survives the process.
    pub persistence: Persistence,
    /// The application's accounts.
    pub users: Vec<User>,
    /// `min-replicas-to-write` of a primary that has all its replicas.
    pub min_replicas: u32,
    /// `min-replicas-max-lag`, in seconds.
    pub max_lag_seconds: u32,
    /// TLS of the database and of the Sentinel endpoint.
    pub tls: Tls,
    /// The name by which clients ask a Sentinel for the primary.
    pub master_name: String,
    /// Whether they log in for that.
    pub sentinel_auth: SentinelAuth,
    /// For how long the password before the last one is still taken, in seconds.
    pub password_overlap_seconds: u32,
    /// A replica that lags more is not ready.
    pub max_replica_lag_seconds: u32,
}

/// Checks `cluster`.
///
/// # Errors
/// The first field that cannot be meant, and what to write instead.
pub fn validate(cluster: &RedisReplication) -> Result<Desired, Invalid> {
    let spec = &cluster.spec;
    let given = Given {
        metadata: &cluster.metadata,
        replicas: spec.replicas,
        max_replicas: MAX_REPLICAS,
        image: &spec.image,
        example_image: "valkey/valkey:8",
        image_pull_policy: spec.image_pull_policy,
        image_pull_secrets: &spec.image_pull_secrets,
        storage: &spec.storage,
        resources: spec.resources.as_ref(),
        config: &spec.config,
        pod: &spec.pod,
        services: &spec.services,
        update: spec.update,
        suspend: spec.suspend,
        hibernate: spec.hibernate,
    };
    let desired: Desired = given.check(option::parse, |name| own(spec, name))?;
    let saves = desired.config.get("save").is_none_or(|value| value.contains(|char| !matches!(char, ' ' | '"' | '\'')));
    // One that is born was admitted by an older definition: an update of the operator does not take its failover away.
    if desired.own.persistence == Persistence::Snapshot && !saves && !cluster.status.as_ref().is_some_and(ClusterStatus::is_born) {
        return Err(Invalid::new("spec.config.save", EMPTY_SAVE));
    }
    Ok(desired)
}

fn own(spec: &RedisReplicationSpec, name: &str) -> Result<Own, Invalid> {
    if spec.hibernate && spec.persistence == Persistence::None {
        return Err(Invalid::new(
            "spec.hibernate",
            "with persistence: None everything would be forgotten; delete the object if that is meant",
        ));
    }
    users(&spec.users, name)?;
    let master_name = spec.sentinel.master_name.clone().unwrap_or_else(|| name.to_owned());
    let plain = |text: &str| text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
    if master_name.is_empty() || master_name.len() > 63 || !plain(&master_name) {
        return Err(Invalid::new("spec.sentinel.masterName", "use 1 to 63 letters, digits, '.', '_' and '-'"));
    }
    Ok(Own {
        engine: spec.engine,
        persistence: spec.persistence,
        users: spec.users.clone(),
        min_replicas: min_replicas(spec.durability, spec.replicas)?,
        max_lag_seconds: spec.durability.max_lag_seconds.max(1),
        tls: spec.tls,
        master_name,
        sentinel_auth: spec.sentinel.auth,
        password_overlap_seconds: spec.password_overlap_seconds,
        max_replica_lag_seconds: spec.max_replica_lag_seconds.max(1),
    })
}

fn min_replicas(durability: Durability, replicas: u8) -> Result<u32, Invalid> {
    match durability.min_replicas_to_write {
        None => Ok(u32::from(replicas > 1)),
        Some(wanted) if wanted < replicas => Ok(wanted.into()),
        Some(_) => Err(Invalid::new(
            "spec.durability.minReplicasToWrite",
            "the primary has only replicas - 1 replicas, so no write would ever be taken; write a smaller number",
        )),
    }
}

fn users(users: &[User], cluster: &str) -> Result<(), Invalid> {
    let plain = |text: &str| !text.is_empty() && text.len() <= 63 && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-".contains(&b));
    let ours = [names::system(cluster), names::app(cluster), names::users(cluster), names::tls(cluster), names::ca(cluster)];
    if users.iter().map(|user| user.rules.len()).sum::<usize>() > MAX_ALL_RULES {
        return Err(Invalid::new("spec.users", long_rules()));
    }
    let mut seen = BTreeSet::new();
    for (at, user) in users.iter().enumerate() {
        let wrong = |field: &str, message: &str| Err(Invalid::new(format!("spec.users[{at}].{field}"), message));
        if !plain(&user.name) || user.name.starts_with(['_', '-']) || user.name.starts_with("understudy") {
            return wrong("name", "use 1 to 63 letters, digits, '_' and '-'; names that begin with understudy are the operator's own");
        }
        if RESERVED_USERS.contains(&user.name.as_str()) {
            return wrong("name", "the Secret of applications has this key already; choose another name");
        }
        if !seen.insert(&user.name) {
            return wrong("name", "this name is there already; each name once");
        }
        if user.rules.len() > MAX_RULES || !user.rules.bytes().all(|byte| (b' '..=b'~').contains(&byte)) {
            return wrong("rules", "write at most 1024 characters of printable text in one line");
        }
        if user.rules.split(' ').any(is_owned) {
            return wrong(
                "rules",
                "passwords and on or off are not given here; name a Secret in users.secret, and take the user out to shut it out",
            );
        }
        if user.secret.as_deref() == Some("") {
            return wrong("secret", "name a Secret with the key 'password', or leave it out and one is made");
        }
        if user.secret.as_ref().is_some_and(|secret| ours.contains(secret)) {
            return wrong("secret", "this Secret is made by the operator; name one of your own, or leave it out");
        }
    }
    Ok(())
}

/// Whether a rule of an account is the operator's to say.
fn is_owned(rule: &str) -> bool {
    rule.starts_with(['<', '>', '#', '!']) || OWNED_RULES.contains(&rule.to_ascii_lowercase().as_str())
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use serde_json::{Value, json};

    pub fn check(spec: Value) -> Result<Desired, Invalid> {
        let mut whole = json!({"storage": {"size": "1Gi"}});
        whole.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        let metadata = json!({"name": "cache", "namespace": "shop", "uid": "u"});
        let object = json!({"apiVersion": "understudy.dev/v1alpha1", "kind": "RedisReplication", "metadata": metadata, "spec": whole});
        validate(&serde_json::from_value(object).unwrap())
    }

    #[test]
    fn the_smallest_object_is_three_members_of_which_one_must_hold_a_write() {
        let desired = check(json!({})).unwrap();
        assert_eq!((desired.replicas, desired.own.min_replicas, desired.own.tls), (3, 1, Tls::Required));
        assert_eq!((desired.own.persistence, desired.own.master_name.as_str()), (Persistence::AppendOnly, "cache"));
        assert_eq!(desired.own.users.iter().map(|user| user.name.as_str()).collect::<Vec<_>>(), ["app"]);
    }

    #[test]
    fn a_single_member_waits_for_nobody() {
        assert_eq!(check(json!({"replicas": 1})).unwrap().own.min_replicas, 0);
        assert_eq!(check(json!({"replicas": 2, "durability": {"minReplicasToWrite": 0}})).unwrap().own.min_replicas, 0);
    }

    /// An operator that is updated would not look after it any more.
    #[test]
    fn a_born_cluster_that_never_saves_is_still_looked_after() {
        let object = |initialised: bool| {
            json!({"apiVersion": "understudy.dev/v1alpha1", "kind": "RedisReplication",
                "metadata": {"name": "cache", "namespace": "shop", "uid": "u"}, "status": {"initialised": initialised},
                "spec": {"storage": {"size": "1Gi"}, "persistence": "Snapshot", "config": {"save": ""}}})
        };
        assert!(validate(&serde_json::from_value(object(true)).unwrap()).is_ok());
        assert_eq!(validate(&serde_json::from_value(object(false)).unwrap()).unwrap_err().field, "spec.config.save");
        assert!(check(json!({"persistence": "Snapshot"})).is_ok() && check(json!({"config": {"save": ""}})).is_ok());
        assert!(check(json!({"persistence": "Snapshot", "config": {"save": "900 1"}})).is_ok());
    }

    /// The API server refuses all of this; an older definition may not.
    #[test]
    fn what_cannot_be_meant_is_refused_by_the_name_of_its_field() {
        let user = |patch: Value| {
            let mut user = json!({"name": "clerk"});
            user.as_object_mut().unwrap().extend(patch.as_object().unwrap().clone());
            json!({"users": [user]})
        };
        for (spec, field) in [
            (json!({"replicas": 0}), "spec.replicas"),
            (json!({"replicas": 32}), "spec.replicas"),
            (json!({"image": " "}), "spec.image"),
            (json!({"storage": {"size": "0"}}), "spec.storage.size"),
            (json!({"replicas": 1, "durability": {"minReplicasToWrite": 1}}), "spec.durability.minReplicasToWrite"),
            (json!({"durability": {"minReplicasToWrite": 3}}), "spec.durability.minReplicasToWrite"),
            (json!({"persistence": "None", "hibernate": true}), "spec.hibernate"),
            (json!({"sentinel": {"masterName": ""}}), "spec.sentinel.masterName"),
            (json!({"sentinel": {"masterName": "a b"}}), "spec.sentinel.masterName"),
            (json!({"config": {"port": 1}}), "spec.config.port"),
            (json!({"config": {"save": "\""}}), "spec.config.save"),
            (json!({"persistence": "Snapshot", "config": {"save": ""}}), "spec.config.save"),
            (json!({"persistence": "Snapshot", "config": {"save": " '' "}}), "spec.config.save"),
            (json!({"users": [{"name": "a"}, {"name": "a"}]}), "spec.users[1].name"),
            (user(json!({"name": "understudy-x"})), "spec.users[0].name"),
            (user(json!({"name": "a/b"})), "spec.users[0].name"),
            (user(json!({"name": ".."})), "spec.users[0].name"),
            (user(json!({"name": "host"})), "spec.users[0].name"),
            (user(json!({"rules": "~* +@all\non"})), "spec.users[0].rules"),
            (user(json!({"rules": "~* >secret"})), "spec.users[0].rules"),
            (user(json!({"rules": "~* NoPass"})), "spec.users[0].rules"),
            (user(json!({"rules": "reset ~*"})), "spec.users[0].rules"),
            (user(json!({"rules": "x".repeat(1025)})), "spec.users[0].rules"),
            (user(json!({"secret": ""})), "spec.users[0].secret"),
            (user(json!({"secret": "cache-users"})), "spec.users[0].secret"),
        ] {
            assert_eq!(check(spec.clone()).unwrap_err().field, field, "{spec}");
        }
        let many = |first: usize| {
            let rules = |n: u8| "x".repeat(if n == 0 { first } else { 320 });
            json!({"users": (0..64).map(|n| json!({"name": format!("u{n}"), "rules": rules(n)})).collect::<Vec<_>>()})
        };
        assert!(check(many(320)).is_ok());
        assert_eq!(check(many(321)).unwrap_err().field, "spec.users");
        assert!(check(user(json!({"name": "default", "rules": "~app:* &* +@read (~other:* +get)"}))).is_ok());
    }
}
