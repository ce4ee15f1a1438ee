//! What a person asks of a RedisReplication by annotations (pure). Pods, reports, StatefulSet and route are read in [`crate::observe`].

use std::collections::BTreeSet;

use crds::annotations::{ACCEPT_LOSS, FENCED, RECLONE, SWITCHOVER};
use crds::redis::RedisReplication;
use kube::ResourceExt;

use super::observed::Asked;
use crate::observe::{in_term, listed};

/// Ask for new passwords, of members and of applications that have none of their own: a value that was not there before starts one rotation.
pub const ROTATE_ANNOTATION: &str = "understudy.dev/rotate-passwords";

/// Reads them.
#[must_use]
pub fn asked(cluster: &RedisReplication) -> Asked {
    let of = |annotation: &str| cluster.annotations().get(annotation).map(String::as_str);
    Asked {
        consent: of(ACCEPT_LOSS).and_then(in_term),
        switchover: of(SWITCHOVER).and_then(in_term),
        fenced: of(FENCED).map_or_else(BTreeSet::new, listed),
        reclone: of(RECLONE).and_then(|text| text.trim().split_once('@')).map(|(name, identity)| (name.to_owned(), identity.to_owned())),
        passwords: of(ROTATE_ANNOTATION).map(str::to_owned),
    }
}
