//! What the user wants, checked: the part that is the same for every engine, and how it is checked (pure).
//!
//! The API server refuses most of what is wrong before us (`crds`), but an older definition may be installed, and what a name or an
//! option may hold guards more than comfort: both end in files and addresses.

use std::collections::BTreeMap;

use crds::GROUP;
use crds::shared::{OptionValue, PodOptions, PullPolicy, Retention, Services, Storage, Update, UpdateStrategy};
use k8s_openapi::api::core::v1::{LocalObjectReference, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::Resource;

use crate::engine::Engine;
use crate::quantity;

/// Ask for new certificates: a value that was not there before starts one rotation.
pub const ROTATE_ANNOTATION: &str = "understudy.dev/rotate-certificates";
/// Longest name of a cluster: Services and host names are made from it.
const MAX_NAME: usize = 40;

/// What the user wants, checked. After `validate` nobody reads the raw spec.
#[derive(Clone, Debug, PartialEq)]
pub struct Desired<E: Engine> {
    /// Name of the cluster.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// UID of the custom resource.
    pub uid: String,
    /// Members, at least 1.
    pub replicas: u32,
    /// No pods, every volume kept.
    pub hibernate: bool,
    /// The operator replaces outdated pods; else the user does.
    pub automatic_update: bool,
    /// Members with a lower ordinal keep their revision.
    pub partition: u32,
    /// Image of the database.
    pub image: String,
    /// When it is pulled.
    pub image_pull_policy: Option<PullPolicy>,
    /// With which Secrets.
    pub image_pull_secrets: Vec<LocalObjectReference>,
    /// The volume of each member.
    pub volume: Volume,
    /// Resources of the database.
    pub resources: Option<ResourceRequirements>,
    /// Options of the database: checked names, one-line values, none that the operator owns.
    pub config: BTreeMap<String, String>,
    /// Scheduling and metadata of the pods.
    pub pod: PodOptions,
    /// How the Services are exposed.
    pub services: Services,
    /// The value of [`ROTATE_ANNOTATION`].
    pub rotate: Option<String>,
    /// What only this engine has.
    pub own: E::Own,
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
    /// Reason of the condition and of the Event.
    pub const REASON: &str = "InvalidSpec";

    pub(crate) fn new(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self { field: field.into(), message: message.into() }
    }
}

/// The fields of a spec that every kind has.
#[derive(Debug)]
pub struct Given<'a> {
    /// Of the object.
    pub metadata: &'a ObjectMeta,
    /// `spec.replicas`.
    pub replicas: u8,
    /// At most.
    pub max_replicas: u8,
    /// `spec.image`.
    pub image: &'a str,
    /// An image as it could be written.
    pub example_image: &'a str,
    /// `spec.imagePullPolicy`.
    pub image_pull_policy: Option<PullPolicy>,
    /// `spec.imagePullSecrets`.
    pub image_pull_secrets: &'a [LocalObjectReference],
    /// `spec.storage`.
    pub storage: &'a Storage,
    /// `spec.resources`.
    pub resources: Option<&'a ResourceRequirements>,
    /// `spec.config`.
    pub config: &'a BTreeMap<String, OptionValue>,
    /// `spec.pod`.
    pub pod: &'a PodOptions,
    /// `spec.services`.
    pub services: &'a Services,
    /// `spec.update`.
    pub update: Update,
    /// `spec.suspend`.
    pub suspend: bool,
    /// `spec.hibernate`.
    pub hibernate: bool,
}

/// An option that cannot be one: why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Refused(pub String);

/// Reads one entry of `spec.config`: a checked name and value.
pub type ReadOption = fn(&str, &OptionValue) -> Result<(String, String), Refused>;

impl Given<'_> {
    /// Checks them. `option` reads one entry of `spec.config`, `own` what only this engine has.
    ///
    /// # Errors
    /// The first field that cannot be meant, and what to write instead.
    pub fn check<E: Engine>(&self, option: ReadOption, own: impl FnOnce(&str) -> Result<E::Own, Invalid>) -> Result<Desired<E>, Invalid> {
        let missing = |field: &str| Invalid::new(field, "the API server gives one to every object; this object did not come from it");
        let name = name(self.metadata.name.as_deref().unwrap_or_default())?;
        if self.replicas == 0 || self.replicas > self.max_replicas {
            let message = format!("write 1 to {}; to stop all members and keep their volumes, set hibernate", self.max_replicas);
            return Err(Invalid::new("spec.replicas", message));
        }
        if self.image.trim().is_empty() || self.image.contains(char::is_whitespace) {
            return Err(Invalid::new("spec.image", format!("name an image such as {}", self.example_image)));
        }
        if quantity::units(&self.storage.size).is_none_or(|bytes| bytes == 0) {
            return Err(Invalid::new("spec.storage.size", "write a positive quantity such as 10Gi"));
        }
        if self.suspend && self.hibernate {
            return Err(Invalid::new(
                "spec.hibernate",
                "a suspended cluster is left alone, so it cannot be put to sleep; set suspend or hibernate",
            ));
        }
        let automatic_update = self.update.strategy == UpdateStrategy::Automatic;
        if !automatic_update && self.update.partition > 0 {
            return Err(Invalid::new(
                "spec.update.partition",
                "needs update.strategy: Automatic; with OnDelete you choose the pods yourself",
            ));
        }
        let config = self.config.iter().map(|(name, value)| {
            option(name, value).map_err(|refused| Invalid::new(format!("spec.config.{}", name.escape_debug()), refused.0))
        });
        Ok(Desired {
            namespace: self.metadata.namespace.clone().ok_or_else(|| missing("metadata.namespace"))?,
            uid: self.metadata.uid.clone().ok_or_else(|| missing("metadata.uid"))?,
            replicas: u32::from(self.replicas),
            hibernate: self.hibernate,
            automatic_update,
            partition: u32::from(self.update.partition),
            image: self.image.to_owned(),
            image_pull_policy: self.image_pull_policy,
            image_pull_secrets: self.image_pull_secrets.to_vec(),
            volume: Volume { size: self.storage.size.clone(), class: self.storage.class_name.clone(), retention: self.storage.retention },
            resources: self.resources.cloned(),
            config: config.collect::<Result<_, _>>()?,
            pod: pod(self.pod)?,
            services: self.services.clone(),
            rotate: self.metadata.annotations.as_ref().and_then(|all| all.get(ROTATE_ANNOTATION)).cloned(),
            own: own(&name)?,
            name,
        })
    }
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

impl<E: Engine> Desired<E> {
    /// Pod name of a member.
    #[must_use]
    pub fn member_name(&self, ordinal: u32) -> String {
        format!("{}-{ordinal}", self.name)
    }

    /// Ordinal in a pod name of this cluster.
    #[must_use]
    pub fn ordinal(&self, member: &str) -> Option<u32> {
        member.strip_prefix(&self.name)?.strip_prefix('-')?.parse().ok()
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
            api_version: E::Kind::api_version(&()).into_owned(),
            kind: E::Kind::kind(&()).into_owned(),
            name: self.name.clone(),
            uid: self.uid.clone(),
            controller: Some(true),
            block_owner_deletion: None,
        }
    }
}
