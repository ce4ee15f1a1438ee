//! Spec → [`Desired`] (pure): parse, don't check. After this step nobody reads the raw spec.
//!
//! What every kind has is checked in [`crate::desired`].

use std::collections::BTreeSet;

use crds::mongo::{MongoReplicaSet, MongoReplicaSetSpec, PSA_CONSENT, Tls, User, Zones};
use sidecar_protocol::mongo::{MAX_MEMBERS, MAX_VOTERS};

use super::{Mongo, config, option};
use crate::desired::Given;
pub use crate::desired::Invalid;
use crate::names;

/// Highest priority that mongod takes.
const MAX_PRIORITY: i32 = 1000;

/// Most roles of all users: an order with all of them stays below what a sidecar reads.
const MAX_ROLES: usize = 200;

/// What the user wants, checked. Its `replicas` are all members, arbiters included.
pub type Desired = crate::desired::Desired<Mongo>;

/// What only a replica set has.
#[derive(Clone, Debug, PartialEq)]
pub struct Own {
    /// Members that hold no data: the last ordinals.
    pub arbiters: u32,
    /// The user has consented to an arbiter beside two members.
    pub thin: bool,
    /// How votes and priorities are spread.
    pub zones: Zones,
    /// Accounts.
    pub users: Vec<User>,
    /// TLS of mongod.
    pub tls: Tls,
    /// What becomes of the feature compatibility version.
    pub feature: Feature,
    /// A secondary that lags more is not ready.
    pub max_replica_lag_seconds: u32,
}

/// What becomes of the feature compatibility version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Feature {
    /// It follows the binaries, once all are the same.
    Automatic,
    /// It is left alone.
    Manual,
    /// It is to be this one.
    Version(u16, u16),
}

impl Feature {
    /// Reads one.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "Automatic" => Some(Self::Automatic),
            "Manual" => Some(Self::Manual),
            version => release(version).filter(|(major, minor)| format!("{major}.{minor}") == version).map(|(a, b)| Self::Version(a, b)),
        }
    }
}

/// Major and minor of a version.
#[must_use]
pub fn release(version: &str) -> Option<(u16, u16)> {
    let mut parts = version.split('.');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

impl Desired {
    /// Whether this member votes only.
    #[must_use]
    pub fn is_arbiter(&self, ordinal: u32) -> bool {
        ordinal < self.replicas && ordinal >= self.replicas - self.own.arbiters
    }

    /// A member as the configuration of the set names it.
    #[must_use]
    pub fn set_host(&self, ordinal: u32) -> String {
        format!("{}:{}", self.host(ordinal), sidecar_protocol::mongo::PORT)
    }

    /// Whose name that is.
    #[must_use]
    pub fn of_set_host(&self, host: &str) -> Option<u32> {
        let ordinal = self.ordinal(host.split('.').next()?)?;
        (self.set_host(ordinal) == host).then_some(ordinal)
    }
}

/// Checks `cluster`.
///
/// # Errors
/// The first field that cannot be meant, and what to write instead.
pub fn validate(cluster: &MongoReplicaSet) -> Result<Desired, Invalid> {
    let spec = &cluster.spec;
    let given = Given {
        metadata: &cluster.metadata,
        replicas: spec.replicas,
        max_replicas: u8::try_from(MAX_MEMBERS).unwrap_or(u8::MAX),
        image: &spec.image,
        example_image: "mongo:8.0",
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
    let mut desired: Desired = given.check(option::parse, |name| own(spec, name))?;
    config::check(&desired.config)?;
    desired.replicas += desired.own.arbiters;
    Ok(desired)
}

fn own(spec: &MongoReplicaSetSpec, name: &str) -> Result<Own, Invalid> {
    let thin = spec.arbiter_consent.as_deref() == Some(PSA_CONSENT);
    match (spec.arbiters, spec.replicas) {
        (0, _) => {}
        (1, replicas) if !replicas.is_multiple_of(2) || usize::from(replicas) >= MAX_VOTERS => {
            return Err(Invalid::new("spec.arbiters", "an arbiter makes an even number of at most 6 replicas odd; set it to 0"));
        }
        (1, 2) if !thin => {
            return Err(Invalid::new("spec.arbiterConsent", format!("write '{PSA_CONSENT}', or use 3 replicas and no arbiter")));
        }
        (1, _) => {}
        _ => return Err(Invalid::new("spec.arbiters", "write 0 or 1")),
    }
    if let Some(zone) = spec.zones.priorities.iter().find(|(_, priority)| !(0..=MAX_PRIORITY).contains(*priority)) {
        return Err(Invalid::new(format!("spec.zones.priorities.{}", zone.0), format!("write 0 to {MAX_PRIORITY}")));
    }
    users(&spec.users, name)?;
    let feature = Feature::parse(&spec.feature_compatibility_version);
    Ok(Own {
        arbiters: u32::from(spec.arbiters),
        thin,
        zones: spec.zones.clone(),
        users: spec.users.clone(),
        tls: spec.tls,
        feature: feature
            .ok_or_else(|| Invalid::new("spec.featureCompatibilityVersion", "write Automatic, Manual, or a version such as '7.0'"))?,
        max_replica_lag_seconds: spec.max_replica_lag_seconds.max(1),
    })
}

fn users(users: &[User], cluster: &str) -> Result<(), Invalid> {
    let plain = |text: &str| !text.is_empty() && text.len() <= 63 && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-".contains(&b));
    let ours = [names::system(cluster), names::app(cluster), names::tls(cluster), names::ca(cluster)];
    if users.iter().map(|user| user.roles.len()).sum::<usize>() > MAX_ROLES {
        return Err(Invalid::new(
            "spec.users",
            format!("at most {MAX_ROLES} roles in all; make roles of your own in MongoDB and give those"),
        ));
    }
    let mut seen = BTreeSet::new();
    for (at, user) in users.iter().enumerate() {
        let wrong = |field: &str, message: &str| Err(Invalid::new(format!("spec.users[{at}].{field}"), message));
        if !plain(&user.name) || user.name.starts_with("understudy") || user.name.starts_with("__") {
            return wrong("name", "use 1 to 63 letters, digits, '_' and '-'; names that begin with understudy are the operator's own");
        }
        if !seen.insert(&user.name) {
            return wrong("name", "this name is there already; each name once");
        }
        if !plain(&user.database) || matches!(user.database.as_str(), "local" | "config") {
            return wrong("database", "use letters, digits, '_' and '-', and not local or config, which hold no accounts");
        }
        if user.roles.is_empty() {
            return wrong("roles", "give it a role, such as {role: readWrite, db: shop}");
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

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use serde_json::{Value, json};

    pub fn check(spec: Value) -> Result<Desired, Invalid> {
        let mut whole = json!({"storage": {"size": "1Gi"}});
        whole.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        let metadata = json!({"name": "stock", "namespace": "shop", "uid": "u"});
        let object = json!({"apiVersion": "understudy.dev/v1alpha1", "kind": "MongoReplicaSet", "metadata": metadata, "spec": whole});
        validate(&serde_json::from_value(object).unwrap())
    }

    #[test]
    fn the_smallest_object_is_three_members() {
        let desired = check(json!({})).unwrap();
        assert_eq!((desired.replicas, desired.own.arbiters, desired.own.tls), (3, 0, Tls::Required));
        assert_eq!(desired.set_host(2), "stock-2.stock.shop.svc:27017");
        assert_eq!(desired.of_set_host("stock-2.stock.shop.svc:27017"), Some(2));
        assert_eq!(desired.of_set_host("stock-2.other.shop.svc:27017"), None);
    }

    #[test]
    fn an_arbiter_is_the_last_member() {
        let desired = check(json!({"replicas": 4, "arbiters": 1})).unwrap();
        assert_eq!((desired.replicas, desired.is_arbiter(3), desired.is_arbiter(4), desired.is_arbiter(5)), (5, false, true, false));
    }

    /// The API server refuses all of this; an older definition may not.
    #[test]
    fn what_cannot_be_meant_is_refused_by_the_name_of_its_field() {
        let user = |patch: Value| {
            let mut user = json!({"name": "clerk", "roles": [{"role": "readWrite", "db": "shop"}]});
            user.as_object_mut().unwrap().extend(patch.as_object().unwrap().clone());
            json!({"users": [user]})
        };
        for (spec, field) in [
            (json!({"replicas": 0}), "spec.replicas"),
            (json!({"replicas": 51}), "spec.replicas"),
            (json!({"image": " "}), "spec.image"),
            (json!({"storage": {"size": "0"}}), "spec.storage.size"),
            (json!({"replicas": 3, "arbiters": 1}), "spec.arbiters"),
            (json!({"replicas": 8, "arbiters": 1}), "spec.arbiters"),
            (json!({"replicas": 2, "arbiters": 1}), "spec.arbiterConsent"),
            (json!({"replicas": 2, "arbiters": 1, "arbiterConsent": "yes"}), "spec.arbiterConsent"),
            (json!({"zones": {"priorities": {"a": -1}}}), "spec.zones.priorities.a"),
            (json!({"featureCompatibilityVersion": "7"}), "spec.featureCompatibilityVersion"),
            (json!({"featureCompatibilityVersion": "07.0"}), "spec.featureCompatibilityVersion"),
            (json!({"config": {"net.port": 1}}), "spec.config.net.port"),
            (json!({"config": {"net": "x", "net.maxIncomingConnections": 1}}), "spec.config.net"),
            (user(json!({"name": "understudy"})), "spec.users[0].name"),
            (user(json!({"name": "a/b"})), "spec.users[0].name"),
            (user(json!({"database": "local"})), "spec.users[0].database"),
            (user(json!({"roles": []})), "spec.users[0].roles"),
            (user(json!({"secret": "stock-system"})), "spec.users[0].secret"),
        ] {
            assert_eq!(check(spec.clone()).unwrap_err().field, field, "{spec}");
        }
        assert!(check(json!({"replicas": 2, "arbiters": 1, "arbiterConsent": PSA_CONSENT})).unwrap().own.thin);
    }
}
