//! Names and labels of a cluster's objects, each written once (pure).

use std::collections::BTreeMap;

use crate::engine::Engine;

/// Label that names the cluster of an object.
pub const CLUSTER_LABEL: &str = "understudy.dev/cluster";
/// Label and value of everything that this operator makes.
pub const MANAGED_BY: (&str, &str) = ("app.kubernetes.io/managed-by", "understudy");
/// Label and value of what the operator writes for people to read, and does not read itself.
pub const RECORD_LABEL: (&str, &str) = ("understudy.dev/record", "decisions");
/// Label and value of the operator's own pods, as the chart writes them.
pub const OPERATOR_LABEL: (&str, &str) = ("app.kubernetes.io/name", "understudy");
/// Label of what kind of cluster it is; its value is [`Engine::LABEL`].
pub const ENGINE_LABEL: &str = "app.kubernetes.io/name";
/// The volume of a member is `data-NAME-ORDINAL`.
pub const DATA: &str = "data";

/// The labels by which the members of a cluster are found.
#[must_use]
pub fn selector<E: Engine>(cluster: &str) -> BTreeMap<String, String> {
    [(ENGINE_LABEL, E::LABEL), ("app.kubernetes.io/instance", cluster), (CLUSTER_LABEL, cluster)]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into()
}

/// The same as text, for list calls and the scale subresource.
#[must_use]
pub fn selector_text<E: Engine>(cluster: &str) -> String {
    selector::<E>(cluster).iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(",")
}

/// The labels of everything that belongs to a cluster.
#[must_use]
pub fn labels<E: Engine>(cluster: &str) -> BTreeMap<String, String> {
    let mut labels = selector::<E>(cluster);
    labels.insert(MANAGED_BY.0.to_owned(), MANAGED_BY.1.to_owned());
    labels
}

/// Service of the primary.
#[must_use]
pub fn primary(cluster: &str) -> String {
    format!("{cluster}-primary")
}

/// Service of every ready member.
#[must_use]
pub fn read(cluster: &str) -> String {
    format!("{cluster}-read")
}

/// Secret with the passwords of the internal accounts; members mount it.
#[must_use]
pub fn system(cluster: &str) -> String {
    format!("{cluster}-system")
}

/// Secret with what an application needs to connect; members mount part of it.
#[must_use]
pub fn app(cluster: &str) -> String {
    format!("{cluster}-app")
}

/// Secret with the passwords that members take of applications, where those are kept apart from [`app`]; members mount it.
#[must_use]
pub fn users(cluster: &str) -> String {
    format!("{cluster}-users")
}

/// Service of every sidecar that answers as a Sentinel does.
#[must_use]
pub fn sentinel(cluster: &str) -> String {
    format!("{cluster}-sentinel")
}

/// Secret with the certificates that members mount.
#[must_use]
pub fn tls(cluster: &str) -> String {
    format!("{cluster}-tls")
}

/// Secret with the CA's key and the operator's own certificate; never mounted.
#[must_use]
pub fn ca(cluster: &str) -> String {
    format!("{cluster}-ca")
}

/// Ordinal in the name of a member's volume claim.
#[must_use]
pub fn claim_ordinal(cluster: &str, claim: &str) -> Option<u32> {
    claim.strip_prefix(DATA)?.strip_prefix('-')?.strip_prefix(cluster)?.strip_prefix('-')?.parse().ok()
}
