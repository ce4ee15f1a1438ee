//! What the user writes and reads: one custom resource an engine, its admission rules, its status, the record of decisions.
//!
//! `yaml/` is generated from here (`make generate`) and CI compares it. Nothing in this package decides anything.

pub mod annotations;
pub mod conditions;
pub mod decisions;
pub mod mongo;
pub mod mysql;
pub mod shared;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;

/// API group of every kind.
pub const GROUP: &str = "understudy.dev";

/// Every custom resource definition: a new engine is one line here.
#[must_use]
pub fn all() -> Vec<CustomResourceDefinition> {
    vec![mysql::MySQLCluster::crd(), mongo::MongoReplicaSet::crd()]
}
