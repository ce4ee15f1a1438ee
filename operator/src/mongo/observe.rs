//! What a person asks of a MongoReplicaSet by annotations (pure). Pods, reports, StatefulSet and route are read in [`crate::observe`].

use std::collections::BTreeSet;

use crds::annotations::{FENCED, FORCE, SWITCHOVER};
use crds::mongo::MongoReplicaSet;
use kube::ResourceExt;

use super::keys::ROTATE_ANNOTATION;
use super::observed::Asked;
use crate::observe::{in_term, listed};

/// Reads them.
#[must_use]
pub fn asked(cluster: &MongoReplicaSet) -> Asked {
    let of = |annotation: &str| cluster.annotations().get(annotation).map(String::as_str);
    Asked {
        switchover: of(SWITCHOVER).and_then(in_term),
        fenced: of(FENCED).map_or_else(BTreeSet::new, listed),
        key: of(ROTATE_ANNOTATION).map(str::to_owned),
        force: of(FORCE).map(|words| words.trim().to_owned()).filter(|words| !words.is_empty()),
    }
}
