//! What may be asked of a cluster as it is, and the annotation that asks it (pure).
//!
//! The operator checks all of it again, with more knowledge; here is refused what cannot be meant, with a sentence that helps.

use std::collections::BTreeSet;

use anyhow::{Result, bail, ensure};
use crds::annotations::{ANY, FENCED};
use crds::mysql::{MySQLCluster, MySQLClusterStatus};
use crds::shared::TransitionKind;
use kube::ResourceExt;

/// State of a cluster in which nothing safe can be done without a person.
pub const LOST: &str = "Lost";

/// Value of [`crds::annotations::SWITCHOVER`].
pub fn switchover(cluster: &MySQLCluster, to: Option<&str>) -> Result<String> {
    let status = awake(cluster)?;
    let Some(primary) = &status.primary else { bail!("{} has no primary yet: {}", cluster.name_any(), status.reason) };
    if let Some(change) = status.transition.as_ref().filter(|change| change.kind != TransitionKind::TakenBack) {
        bail!("a change of primary ({:?}) is under way since {}; wait for its end", change.kind, change.since);
    }
    ensure!(status.state != LOST, "{} is Lost: see `kubectl understudy status {0}`, then `promote`", cluster.name_any());
    if let Some(to) = to {
        member(cluster, status, to)?;
        ensure!(to != primary, "{to} is the primary already");
        ensure!(!fenced(cluster).contains(to), "{to} is fenced: `kubectl understudy unfence {} {to}` first", cluster.name_any());
    }
    Ok(format!("{}@{}", to.unwrap_or(ANY), status.term))
}

/// Value of [`crds::annotations::ACCEPT_LOSS`].
pub fn promote(cluster: &MySQLCluster, to: &str) -> Result<String> {
    let status = awake(cluster)?;
    member(cluster, status, to)?;
    ensure!(
        status.state == LOST,
        "{} is {}, not Lost: the operator finds its way without losing anything ({}); `switchover` changes the primary",
        cluster.name_any(),
        status.state,
        status.reason
    );
    Ok(format!("{to}@{}", status.term))
}

/// Value of [`crds::annotations::RECLONE`].
pub fn reclone(cluster: &MySQLCluster, name: &str) -> Result<String> {
    let status = awake(cluster)?;
    let row = member(cluster, status, name)?;
    ensure!(status.primary.as_deref() != Some(name), "{name} is the primary: hand its role over first, with `switchover`");
    let Some(uuid) = &row.server_uuid else {
        bail!("{name} has no data directory to discard ({})", row.message.as_deref().unwrap_or("it has not been seen yet"))
    };
    Ok(format!("{name}@{uuid}"))
}

/// Value of [`FENCED`] with `name` in it.
pub fn fence(cluster: &MySQLCluster, name: &str) -> Result<Option<String>> {
    member(cluster, &status(cluster), name)?;
    let mut all = fenced(cluster);
    all.insert(name.to_owned());
    Ok(list(&all))
}

/// Value of [`FENCED`] without `name`, or of nobody at all.
pub fn unfence(cluster: &MySQLCluster, name: Option<&str>) -> Result<Option<String>> {
    let mut all = fenced(cluster);
    match name {
        Some(name) => ensure!(all.remove(name), "{name} is not fenced; fenced are: {}", list(&all).unwrap_or_else(|| "none".to_owned())),
        None => all.clear(),
    }
    Ok(list(&all))
}

/// Who is fenced.
pub fn fenced(cluster: &MySQLCluster) -> BTreeSet<String> {
    let text = cluster.annotations().get(FENCED).map_or("", String::as_str);
    text.split(',').map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

fn list(all: &BTreeSet<String>) -> Option<String> {
    (!all.is_empty()).then(|| all.iter().cloned().collect::<Vec<_>>().join(","))
}

fn status(cluster: &MySQLCluster) -> MySQLClusterStatus {
    cluster.status.clone().unwrap_or_default()
}

/// The status of a cluster that somebody looks after.
fn awake(cluster: &MySQLCluster) -> Result<&MySQLClusterStatus> {
    let name = cluster.name_any();
    ensure!(!cluster.spec.suspend, "{name} is suspended: nothing is decided until spec.suspend is false");
    ensure!(!cluster.spec.hibernate, "{name} hibernates: no member runs until spec.hibernate is false");
    match &cluster.status {
        Some(status) if status.initialised => Ok(status),
        Some(status) => bail!("{name} is not initialised yet: {}", status.reason),
        None => bail!("{name} has no status: does the operator run, and does it serve this namespace?"),
    }
}

fn member<'a>(cluster: &MySQLCluster, status: &'a MySQLClusterStatus, name: &str) -> Result<&'a crds::mysql::MemberStatus> {
    match status.members.iter().find(|member| member.name == name) {
        Some(member) => Ok(member),
        None => {
            let names: Vec<&str> = status.members.iter().map(|member| member.name.as_str()).collect();
            bail!("{} has no member {name}; its members are: {}", cluster.name_any(), names.join(", "))
        }
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use serde_json::{Value, json};

    /// A cluster of three with `shop-0` as its primary, changed by `patch`.
    pub fn cluster(patch: &Value) -> MySQLCluster {
        let row = |name: &str, role: &str| json!({"name": name, "role": role, "ready": true, "serverUuid": format!("uuid-of-{name}")});
        let mut object = json!({
            "apiVersion": "understudy.dev/v1alpha1", "kind": "MySQLCluster",
            "metadata": {"name": "shop", "annotations": {}},
            "spec": {"storage": {"size": "1Gi"}},
            "status": {"state": "Healthy", "reason": "shop-0 is the primary and all 3 members serve", "ready": "3/3", "term": 3,
                "primary": "shop-0", "initialised": true, "acks": 1,
                "members": [row("shop-0", "Primary"), row("shop-1", "Replica"), row("shop-2", "Replica")]},
        });
        merge(&mut object, patch);
        serde_json::from_value(object).unwrap()
    }

    fn merge(into: &mut Value, patch: &Value) {
        match (into, patch) {
            (Value::Object(into), Value::Object(patch)) => {
                for (key, value) in patch {
                    merge(into.entry(key.clone()).or_insert(Value::Null), value);
                }
            }
            (into, patch) => *into = patch.clone(),
        }
    }

    fn refusal(result: Result<impl std::fmt::Debug>) -> String {
        result.unwrap_err().to_string()
    }

    #[test]
    fn a_switchover_names_its_member_and_the_term_it_was_asked_in() {
        let shop = cluster(&json!({}));
        assert_eq!(switchover(&shop, Some("shop-1")).unwrap(), "shop-1@3");
        assert_eq!(switchover(&shop, None).unwrap(), "any@3");
        assert_eq!(refusal(switchover(&shop, Some("shop-0"))), "shop-0 is the primary already");
        assert_eq!(refusal(switchover(&shop, Some("shop-7"))), "shop has no member shop-7; its members are: shop-0, shop-1, shop-2");
    }

    #[test]
    fn no_switchover_while_something_else_is_under_way() {
        let change = |kind: &str| cluster(&json!({"status": {"transition": {"kind": kind, "since": "2026-01-01T00:00:00Z"}}}));
        assert!(refusal(switchover(&change("Failover"), None)).contains("Failover"));
        assert!(switchover(&change("TakenBack"), None).is_ok(), "the last one was taken back: it is over");
        assert!(refusal(switchover(&cluster(&json!({"spec": {"suspend": true}})), None)).contains("suspended"));
        assert!(refusal(switchover(&cluster(&json!({"spec": {"hibernate": true}})), None)).contains("hibernates"));
        assert!(refusal(switchover(&cluster(&json!({"status": {"state": "Lost"}})), None)).contains("promote"));
        let fenced = cluster(&json!({"metadata": {"annotations": {"understudy.dev/fenced": "shop-1"}}}));
        assert!(refusal(switchover(&fenced, Some("shop-1"))).contains("unfence"));
    }

    #[test]
    fn consent_is_only_given_to_a_cluster_that_asks_for_it() {
        let lost = cluster(&json!({"status": {"state": "Lost"}}));
        assert_eq!(promote(&lost, "shop-1").unwrap(), "shop-1@3");
        assert!(refusal(promote(&cluster(&json!({})), "shop-1")).contains("not Lost"));
    }

    #[test]
    fn a_reclone_names_the_data_directory_and_spares_the_primary() {
        let shop = cluster(&json!({}));
        assert_eq!(reclone(&shop, "shop-2").unwrap(), "shop-2@uuid-of-shop-2");
        assert!(refusal(reclone(&shop, "shop-0")).contains("is the primary"));
        let empty = cluster(&json!({"status": {"members": [{"name": "shop-1", "role": "Joining", "ready": false}]}}));
        assert!(refusal(reclone(&empty, "shop-1")).contains("no data directory"));
    }

    #[test]
    fn fencing_adds_and_removes_one_name() {
        let with = |text: &str| cluster(&json!({"metadata": {"annotations": {"understudy.dev/fenced": text}}}));
        assert_eq!(fence(&cluster(&json!({})), "shop-1").unwrap().as_deref(), Some("shop-1"));
        assert_eq!(fence(&with("shop-2, shop-1"), "shop-1").unwrap().as_deref(), Some("shop-1,shop-2"));
        assert_eq!(unfence(&with("shop-1,shop-2"), Some("shop-1")).unwrap().as_deref(), Some("shop-2"));
        assert_eq!(unfence(&with("shop-1"), Some("shop-1")).unwrap(), None);
        assert_eq!(unfence(&with("shop-1,shop-2"), None).unwrap(), None);
        assert!(refusal(unfence(&with("shop-1"), Some("shop-2"))).contains("not fenced"));
        assert!(fence(&with(""), "shop-9").is_err());
    }
}
