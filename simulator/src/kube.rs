//! The API server in memory: the custom resource with its resourceVersion, the StatefulSet and its pods, the routing slice.
//!
//! Reads of the custom resource are from here; pods, set and slice are read from each operator's cache ([`crate::operator`]), late.

use std::rc::Rc;

use crds::mysql::{MySQLCluster, MySQLClusterStatus};
use operator::mysql::validate::{Desired, validate};

/// UID of the custom resource.
pub const UID: &str = "u1";
/// Name of the cluster.
pub const NAME: &str = "orders";

/// The custom resource at one resourceVersion.
#[derive(Clone, Debug)]
pub struct Read {
    /// `metadata.resourceVersion`.
    pub version: u64,
    /// The spec, checked; the same until the generation changes.
    pub desired: Rc<Desired>,
    /// The status.
    pub status: Rc<MySQLClusterStatus>,
    /// What a person asks by annotations.
    pub annotations: Annotations,
}

/// What a person asks by annotations.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Annotations {
    /// Promote this member in this term, and lose what it does not hold.
    pub consent: Option<(u32, u64)>,
    /// Hand over to this member, or any, in this term.
    pub switchover: Option<(Option<u32>, u64)>,
    /// These serve nobody.
    pub fenced: Vec<u32>,
    /// Clone this one anew, if it is this data directory.
    pub reclone: Option<(u32, u32)>,
}

/// The API server.
#[derive(Debug)]
pub struct Api {
    /// The custom resource now.
    pub read: Read,
    /// Replicas of the StatefulSet; it exists once this was written.
    pub replicas: Option<u32>,
    /// Revision of its template.
    pub revision: u64,
    /// Ordinal and pod that the slice routes to.
    pub route: Option<(u32, u64)>,
    cluster: MySQLCluster,
}

/// The write was made upon an older read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conflict;

impl Api {
    /// An API server with a new cluster in it.
    #[must_use]
    pub fn new(replicas: u8, available: bool) -> Self {
        let mut cluster: MySQLCluster = serde_json::from_value(serde_json::json!({
            "apiVersion": "understudy.dev/v1alpha1", "kind": "MySQLCluster",
            "metadata": { "name": NAME, "namespace": "shop", "uid": UID },
            "spec": { "replicas": replicas, "storage": { "size": "1Gi" } },
        }))
        .expect("written as a user writes it");
        if available {
            cluster.spec.durability = crds::mysql::Durability::Available;
        }
        let read = Read {
            version: 1,
            desired: Rc::new(validate(&cluster).expect("a spec that can be meant")),
            status: Rc::default(),
            annotations: Annotations::default(),
        };
        Self { read, replicas: None, revision: 1, route: None, cluster }
    }

    /// The user edits the spec.
    pub fn edit(&mut self, edit: impl FnOnce(&mut MySQLCluster)) {
        edit(&mut self.cluster);
        let desired = Rc::new(validate(&self.cluster).expect("a spec that can be meant"));
        self.write(|read| read.desired = desired);
    }

    /// The user annotates.
    pub fn annotate(&mut self, edit: impl FnOnce(&mut Annotations)) {
        self.write(|read| edit(&mut read.annotations));
    }

    /// Replaces the status, if nobody wrote since `version` was read.
    ///
    /// # Errors
    /// When somebody did.
    pub fn replace_status(&mut self, version: u64, status: MySQLClusterStatus) -> Result<Read, Conflict> {
        if version != self.read.version {
            return Err(Conflict);
        }
        self.write(|read| read.status = Rc::new(status));
        Ok(self.read.clone())
    }

    fn write(&mut self, edit: impl FnOnce(&mut Read)) {
        self.read.version += 1;
        edit(&mut self.read);
    }
}
