//! What a person asks of a MySQLCluster by annotations (pure). Pods, reports, StatefulSet and route are read in [`crate::observe`].

use std::collections::BTreeSet;

use crds::annotations::{ACCEPT_LOSS, FENCED, RECLONE, SWITCHOVER};
use crds::mysql::MySQLCluster;
use kube::ResourceExt;

use super::observed::Asked;
use crate::observe::{in_term, listed};

/// Reads them.
#[must_use]
pub fn asked(cluster: &MySQLCluster) -> Asked {
    let of = |annotation: &str| cluster.annotations().get(annotation).map(String::as_str);
    Asked {
        consent: of(ACCEPT_LOSS).and_then(in_term),
        switchover: of(SWITCHOVER).and_then(in_term),
        fenced: of(FENCED).map_or_else(BTreeSet::new, listed),
        reclone: of(RECLONE).and_then(|text| text.trim().split_once('@')).map(|(name, uuid)| (name.to_owned(), uuid.to_owned())),
    }
}
