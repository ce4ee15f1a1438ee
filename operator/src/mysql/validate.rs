//! Spec → [`Desired`] (pure): parse, don't check. After this step nobody reads the raw spec.
//!
//! The API server refuses most of this before us (`crds`), but an older definition may be installed, and what a name or an option
//! may hold guards more than comfort: both end in files and addresses.

use std::collections::BTreeMap;

use crds::GROUP;
use crds::mysql::{Database, Durability, MySQLCluster, PodOptions, PullPolicy, Retention, Services, UpdateStrategy};
use k8s_openapi::api::core::v1::{LocalObjectReference, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::Resource;

use super::{names, option};
use crate::quantity;

/// Ask for new certificates: a value that was not there before starts one rotation.
pub const ROTATE_ANNOTATION: &str = "understudy.dev/rotate-certificates";
/// Longest name of a cluster: Services and host names are made from it.
const MAX_NAME: usize = 40;
/// Most members: acknowledgements and positions stay readable, and ordinals short.
const MAX_REPLICAS: u8 = 31;
/// System schemas of MySQL.
const SYSTEM_SCHEMAS: [&str; 4] = ["mysql", "sys", "information_schema", "performance_schema"];

/// What the user wants, checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Desired {
    /// Name of the cluster.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// UID of the custom resource.
    pub uid: String,
    /// Members, 1 to 31.
    pub replicas: u32,
    /// No pods, every volume kept.
    pub hibernate: bool,
    /// The operator replaces outdated pods; else the user does.
    pub automatic_update: bool,
    /// Members with a lower ordinal keep their revision.
    pub partition: u32,
    /// What a commit waits for when replicas are missing.
    pub durability: Durability,
    /// Image of MySQL.
    pub image: String,
    /// When it is pulled.
    pub image_pull_policy: Option<PullPolicy>,
    /// With which Secrets.
    pub image_pull_secrets: Vec<LocalObjectReference>,
    /// The volume of each member.
    pub volume: Volume,
    /// Resources of mysqld.
    pub resources: Option<ResourceRequirements>,
    /// Options of mysqld: checked names, one-line values, none that the operator owns.
    pub config: BTreeMap<String, String>,
    /// Scheduling and metadata of the pods.
    pub pod: PodOptions,
    /// A database to create.
    pub database: Option<Database>,
    /// How the Services are exposed.
    pub services: Services,
    /// A replica that lags more is not ready.
    pub max_replica_lag_seconds: u32,
    /// The value of [`ROTATE_ANNOTATION`].
    pub rotate: Option<String>,
}

/// The volume of each member.
#[derive(Clone, Debug, PartialEq)]
pub struct Volume {
    /// Size, positive.
    pub size: Quantity,
    /// StorageClass, if not the default.
    pub class: Option<String>,
    /// What becomes of volumes that are no longer used.
    pub retention: Retention,
}

/// What is wrong with a spec, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {message}")]
pub struct Invalid {
    /// Path of the field.
    pub field: String,
    /// What to write instead.
    pub message: String,
}

impl Invalid {
    pub(super) fn new(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self { field: field.into(), message: message.into() }
    }
}

impl Desired {
    /// Pod name of a member.
    #[must_use]
    pub fn member_name(&self, ordinal: u32) -> String {
        format!("{}-{ordinal}", self.name)
    }

    /// Stable host name of a member.
    #[must_use]
    pub fn host(&self, ordinal: u32) -> String {
        format!("{0}-{ordinal}.{0}.{1}.svc", self.name, self.namespace)
    }

    /// The reference that makes an object ours: it goes when the custom resource goes.
    #[must_use]
    pub fn owner(&self) -> OwnerReference {
        OwnerReference {
            api_version: MySQLCluster::api_version(&()).into_owned(),
            kind: MySQLCluster::kind(&()).into_owned(),
            name: self.name.clone(),
            uid: self.uid.clone(),
            controller: Some(true),
            block_owner_deletion: None,
        }
    }
}

/// Checks `cluster`.
///
/// # Errors
/// The first field that cannot be meant, and what to write instead.
pub fn validate(cluster: &MySQLCluster) -> Result<Desired, Invalid> {
    let metadata = &cluster.metadata;
    let missing = |field: &str| Invalid::new(field, "the API server gives one to every object; this object did not come from it");
    let spec = &cluster.spec;
    let valid = name(metadata.name.as_deref().unwrap_or_default())?;
    if spec.replicas == 0 || spec.replicas > MAX_REPLICAS {
        return Err(Invalid::new(
            "spec.replicas",
            format!("write 1 to {MAX_REPLICAS}; to stop all members and keep their volumes, set hibernate"),
        ));
    }
    if spec.image.trim().is_empty() || spec.image.contains(char::is_whitespace) {
        return Err(Invalid::new("spec.image", "name an image such as mysql:8.4"));
    }
    if quantity::units(&spec.storage.size).is_none_or(|bytes| bytes == 0) {
        return Err(Invalid::new("spec.storage.size", "write a positive quantity such as 10Gi"));
    }
    if spec.suspend && spec.hibernate {
        return Err(Invalid::new(
            "spec.hibernate",
            "a suspended cluster is left alone, so it cannot be put to sleep; set suspend or hibernate",
        ));
    }
    let automatic_update = spec.update.strategy == UpdateStrategy::Automatic;
    if !automatic_update && spec.update.partition > 0 {
        return Err(Invalid::new("spec.update.partition", "needs update.strategy: Automatic; with OnDelete you choose the pods yourself"));
    }
    Ok(Desired {
        name: valid,
        namespace: metadata.namespace.clone().ok_or_else(|| missing("metadata.namespace"))?,
        uid: metadata.uid.clone().ok_or_else(|| missing("metadata.uid"))?,
        replicas: u32::from(spec.replicas),
        hibernate: spec.hibernate,
        automatic_update,
        partition: u32::from(spec.update.partition),
        durability: spec.durability,
        image: spec.image.clone(),
        image_pull_policy: spec.image_pull_policy,
        image_pull_secrets: spec.image_pull_secrets.clone(),
        volume: Volume { size: spec.storage.size.clone(), class: spec.storage.class_name.clone(), retention: spec.storage.retention },
        resources: spec.resources.clone(),
        config: spec
            .config
            .iter()
            .map(|(name, value)| {
                option::parse(name, value).map_err(|refused| Invalid::new(format!("spec.config.{}", name.escape_debug()), refused.0))
            })
            .collect::<Result<_, _>>()?,
        pod: pod(&spec.pod)?,
        database: spec
            .database
            .as_ref()
            .map(|database| self::database(database, metadata.name.as_deref().unwrap_or_default()))
            .transpose()?,
        services: spec.services.clone(),
        max_replica_lag_seconds: spec.max_replica_lag_seconds.max(1),
        rotate: metadata.annotations.as_ref().and_then(|all| all.get(ROTATE_ANNOTATION)).cloned(),
    })
}

fn name(name: &str) -> Result<String, Invalid> {
    let plain = name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
    if plain && name.len() <= MAX_NAME && name.starts_with(|char: char| char.is_ascii_lowercase()) && !name.ends_with('-') {
        return Ok(name.to_owned());
    }
    Err(Invalid::new(
        "metadata.name",
        format!(
            "use at most {MAX_NAME} lower-case letters, digits and '-', beginning with a letter; Services and host names are made from it"
        ),
    ))
}

fn pod(pod: &PodOptions) -> Result<PodOptions, Invalid> {
    if let Some(key) =
        pod.annotations.keys().chain(pod.labels.keys()).find(|key| key.split('/').next().is_some_and(|domain| domain == GROUP))
    {
        return Err(Invalid::new(
            "spec.pod",
            format!("{key}: labels and annotations under {GROUP}/ are the operator's; choose another name"),
        ));
    }
    Ok(pod.clone())
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
