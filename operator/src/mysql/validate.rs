//! Spec → [`Desired`] (pure): parse, don't check. After this step nobody reads the raw spec.
//!
//! What every kind has is checked in [`crate::desired`].

use crds::mysql::{Database, Durability, MySQLCluster};

use super::{MySql, option};
use crate::desired::Given;
pub use crate::desired::Invalid;
use crate::names;

/// Most members: acknowledgements and positions stay readable, and ordinals short.
const MAX_REPLICAS: u8 = 31;
/// System schemas of MySQL.
const SYSTEM_SCHEMAS: [&str; 4] = ["mysql", "sys", "information_schema", "performance_schema"];

/// What the user wants, checked.
pub type Desired = crate::desired::Desired<MySql>;

/// What only a MySQL cluster has.
#[derive(Clone, Debug, PartialEq)]
pub struct Own {
    /// What a commit waits for when replicas are missing.
    pub durability: Durability,
    /// A database to create.
    pub database: Option<Database>,
    /// A replica that lags more is not ready.
    pub max_replica_lag_seconds: u32,
}

/// Checks `cluster`.
///
/// # Errors
/// The first field that cannot be meant, and what to write instead.
pub fn validate(cluster: &MySQLCluster) -> Result<Desired, Invalid> {
    let spec = &cluster.spec;
    let given = Given {
        metadata: &cluster.metadata,
        replicas: spec.replicas,
        max_replicas: MAX_REPLICAS,
        image: &spec.image,
        example_image: "mysql:8.4",
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
    given.check(option::parse, |name| {
        Ok(Own {
            durability: spec.durability,
            database: spec.database.as_ref().map(|database| self::database(database, name)).transpose()?,
            max_replica_lag_seconds: spec.max_replica_lag_seconds.max(1),
        })
    })
}

fn database(database: &Database, cluster: &str) -> Result<Database, Invalid> {
    let word = |text: &str, longest: usize| {
        !text.is_empty() && text.len() <= longest && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
    };
    if !word(&database.name, 64) || SYSTEM_SCHEMAS.contains(&database.name.to_ascii_lowercase().as_str()) {
        return Err(Invalid::new("spec.database.name", "use 1 to 64 letters, digits and '_', and none of MySQL's system schemas"));
    }
    let owner = database.owner.to_ascii_lowercase();
    if !word(&owner, 32) || owner == "root" || owner.starts_with("understudy") {
        return Err(Invalid::new(
            "spec.database.owner",
            "use 1 to 32 letters, digits and '_'; root and understudy… are not for applications",
        ));
    }
    if database.secret.as_deref() == Some("") {
        return Err(Invalid::new("spec.database.secret", "name a Secret with the key 'password', or leave it out and one is made"));
    }
    let ours = [names::system(cluster), names::app(cluster), names::tls(cluster), names::ca(cluster)];
    if database.secret.as_ref().is_some_and(|secret| ours.contains(secret)) {
        return Err(Invalid::new("spec.database.secret", "this Secret is made by the operator; name one of your own, or leave it out"));
    }
    Ok(database.clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn check(name: &str, spec: Value) -> Result<Desired, Invalid> {
        let mut whole = json!({"storage": {"size": "1Gi"}});
        whole.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        let metadata = json!({"name": name, "namespace": "shop", "uid": "u"});
        let object = json!({"apiVersion": "understudy.dev/v1alpha1", "kind": "MySQLCluster", "metadata": metadata, "spec": whole});
        validate(&serde_json::from_value(object).unwrap())
    }

    #[test]
    fn the_smallest_object_is_three_members() {
        let desired = check("orders", json!({})).unwrap();
        assert_eq!((desired.replicas, desired.automatic_update, desired.image.as_str()), (3, true, "mysql:8.4"));
        assert_eq!((desired.member_name(2), desired.host(2)), ("orders-2".into(), "orders-2.orders.shop.svc".into()));
    }

    /// The API server refuses all of this; an older definition may not.
    #[test]
    fn what_cannot_be_meant_is_refused_by_the_name_of_its_field() {
        for (spec, field) in [
            (json!({"replicas": 0}), "spec.replicas"),
            (json!({"replicas": 32}), "spec.replicas"),
            (json!({"image": " "}), "spec.image"),
            (json!({"storage": {"size": "0"}}), "spec.storage.size"),
            (json!({"storage": {"size": "-1Gi"}}), "spec.storage.size"),
            (json!({"storage": {"size": "ten"}}), "spec.storage.size"),
            (json!({"suspend": true, "hibernate": true}), "spec.hibernate"),
            (json!({"update": {"strategy": "OnDelete", "partition": 1}}), "spec.update.partition"),
            (json!({"config": {"server-id": 1}}), "spec.config.server-id"),
            (json!({"config": {"a\nb": 1}}), "spec.config.a\\nb"),
            (json!({"pod": {"labels": {"understudy.dev/cluster": "other"}}}), "spec.pod"),
            (json!({"database": {"name": "a`b", "owner": "c"}}), "spec.database.name"),
            (json!({"database": {"name": "MySQL", "owner": "c"}}), "spec.database.name"),
            (json!({"database": {"name": "a", "owner": "Root"}}), "spec.database.owner"),
            (json!({"database": {"name": "a", "owner": "understudy_repl_1"}}), "spec.database.owner"),
            (json!({"database": {"name": "a", "owner": "b", "secret": ""}}), "spec.database.secret"),
            (json!({"database": {"name": "a", "owner": "b", "secret": "orders-system"}}), "spec.database.secret"),
        ] {
            assert_eq!(check("orders", spec.clone()).unwrap_err().field, field, "{spec}");
        }
        for name in ["", "1a", "A", "a-", "a.b", "a_b", &"a".repeat(41)] {
            assert_eq!(check(name, json!({})).unwrap_err().field, "metadata.name", "{name}");
        }
        assert!(check(&"a".repeat(40), json!({})).is_ok());
    }
}
