//! What may be asked of a cluster as it is, and the annotation that asks it (pure).
//!
//! The operator checks all of it again, with more knowledge; here is refused what cannot be meant, with a sentence that helps.

use std::collections::BTreeSet;

use anyhow::{Result, bail, ensure};
use crds::annotations::{ACCEPT_LOSS, ANY, FENCED, FORCE, offered};
use crds::conditions::STALLED;
use crds::shared::TransitionKind;

use crate::cluster::{Cluster, LOST, Member};
use crate::engine::Engine;

/// Value of [`crds::annotations::SWITCHOVER`].
pub fn switchover(cluster: &Cluster, to: Option<&str>) -> Result<String> {
    awake(cluster)?;
    let name = &cluster.name;
    let Some(primary) = &cluster.primary else { bail!("{name} has no primary yet: {}", cluster.head.reason) };
    if let Some(change) = cluster.transition.as_ref().filter(|change| change.kind != TransitionKind::TakenBack) {
        bail!("a change of primary ({:?}) is under way since {}; wait for its end", change.kind, change.since);
    }
    ensure!(cluster.head.state != LOST, "{name} is Lost: see `kubectl understudy status {name}`, then `promote`");
    if let Some(to) = to {
        member(cluster, to)?;
        ensure!(to != primary, "{to} is the primary already");
        ensure!(!fenced(cluster).contains(to), "{to} is fenced: `kubectl understudy unfence {name} {to}` first");
    }
    Ok(format!("{}@{}", to.unwrap_or(ANY), cluster.term))
}

/// Annotation and value that consent to `to` as the primary, and to the loss of what only others hold.
pub fn promote(cluster: &Cluster, to: &str) -> Result<(&'static str, String)> {
    awake(cluster)?;
    member(cluster, to)?;
    let (name, reason) = (&cluster.name, &cluster.head.reason);
    ensure!(
        cluster.head.state == LOST,
        "{name} is {}, not Lost: the operator finds its way without losing anything ({reason}); `switchover` changes the primary",
        cluster.head.state
    );
    match (cluster.engine, forced(cluster)) {
        (Engine::MySql | Engine::Redis, _) => Ok((ACCEPT_LOSS, format!("{to}@{}", cluster.term))),
        (Engine::Mongo, Some(words)) => {
            let on = forced_on(words);
            ensure!(
                on == to,
                "{to} cannot be forced to lead: {on} is the most advanced that answers; promote that one, or bring a member back"
            );
            Ok((FORCE, words.to_owned()))
        }
        (Engine::Mongo, None) => bail!("nobody of {name} can be forced to lead as it is: {reason}"),
    }
}

/// The words of consent that a MongoReplicaSet without a majority offers: `force HOST at POSITION without HOST, HOST`.
pub fn forced(cluster: &Cluster) -> Option<&str> {
    offered(&cluster.condition(STALLED)?.message)
}

/// Whom they force to lead.
pub fn forced_on(words: &str) -> &str {
    pod(words.split(' ').nth(1).unwrap_or_default())
}

/// Whom they give up.
pub fn given_up(words: &str) -> Vec<&str> {
    let (_, hosts) = words.split_once(" without ").unwrap_or_default();
    hosts.split(", ").map(pod).collect()
}

/// The pod of a host.
fn pod(host: &str) -> &str {
    host.split(['.', ':']).next().unwrap_or_default()
}

/// Value of [`crds::annotations::RECLONE`].
pub fn reclone(cluster: &Cluster, name: &str) -> Result<String> {
    ensure!(
        cluster.engine != Engine::Mongo,
        "reclone is for MySQL and Redis; a member of a MongoReplicaSet copies the others' data when its volume is gone: \
         `kubectl delete --wait=false pvc/data-{name} && kubectl delete pod/{name}`, unless it is the primary"
    );
    awake(cluster)?;
    let row = member(cluster, name)?;
    ensure!(cluster.primary.as_deref() != Some(name), "{name} is the primary: hand its role over first, with `switchover`");
    ensure!(
        cluster.engine != Engine::Redis || !row.ready,
        "{name} follows and holds nothing else: reclone is for a member of Redis that does not follow since its data are of another history"
    );
    let Some(identity) = &row.identity else {
        bail!("{name} has no data to discard ({})", row.message.as_deref().unwrap_or("it has not been seen yet"))
    };
    Ok(format!("{name}@{identity}"))
}

/// Value of [`FENCED`] with `name` in it.
pub fn fence(cluster: &Cluster, name: &str) -> Result<Option<String>> {
    member(cluster, name)?;
    let mut all = fenced(cluster);
    all.insert(name.to_owned());
    Ok(list(&all))
}

/// Value of [`FENCED`] without `name`, or of nobody at all.
pub fn unfence(cluster: &Cluster, name: Option<&str>) -> Result<Option<String>> {
    let mut all = fenced(cluster);
    match name {
        Some(name) => ensure!(all.remove(name), "{name} is not fenced; fenced are: {}", list(&all).unwrap_or_else(|| "none".to_owned())),
        None => all.clear(),
    }
    Ok(list(&all))
}

/// Who is fenced.
pub fn fenced(cluster: &Cluster) -> BTreeSet<String> {
    let text = cluster.annotations.get(FENCED).map_or("", String::as_str);
    text.split(',').map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

/// What becomes of a primary that is fenced.
pub fn fenced_primary(engine: Engine) -> &'static str {
    match engine {
        Engine::MySql | Engine::Redis => "nobody writes until it is unfenced, and it is not replaced",
        Engine::Mongo => "it hands over as soon as another member can lead",
    }
}

fn list(all: &BTreeSet<String>) -> Option<String> {
    (!all.is_empty()).then(|| all.iter().cloned().collect::<Vec<_>>().join(","))
}

/// Somebody looks after it.
fn awake(cluster: &Cluster) -> Result<()> {
    let name = &cluster.name;
    ensure!(!cluster.suspend, "{name} is suspended: nothing is decided until spec.suspend is false");
    ensure!(!cluster.hibernate, "{name} hibernates: no member runs until spec.hibernate is false");
    ensure!(cluster.seen, "{name} has no status: does the operator run, and does it serve this namespace?");
    ensure!(cluster.born, "{name} is not initialised yet: {}", cluster.head.reason);
    Ok(())
}

fn member<'a>(cluster: &'a Cluster, name: &str) -> Result<&'a Member> {
    match cluster.members.iter().find(|member| member.name == name) {
        Some(member) => Ok(member),
        None => {
            let names: Vec<&str> = cluster.members.iter().map(|member| member.name.as_str()).collect();
            bail!("{} has no member {name}; its members are: {}", cluster.name, names.join(", "))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::tests::{WORDS, cache, lost_stock, shop as cluster, stock};
    use serde_json::json;

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
        assert_eq!(promote(&lost, "shop-1").unwrap(), (ACCEPT_LOSS, "shop-1@3".to_owned()));
        let lost = cache(&json!({"status": {"state": "Lost"}}));
        assert_eq!(promote(&lost, "cache-2").unwrap(), (ACCEPT_LOSS, "cache-2@3".to_owned()));
        for healthy in [cluster(&json!({})), stock(&json!({})), cache(&json!({}))] {
            assert!(refusal(promote(&healthy, &format!("{}-1", healthy.name))).contains("not Lost"));
        }
    }

    #[test]
    fn a_set_without_a_majority_is_forced_in_its_own_words_on_the_member_that_they_name() {
        let lost = lost_stock();
        assert_eq!(promote(&lost, "stock-2").unwrap(), (FORCE, WORDS.to_owned()));
        assert_eq!((forced_on(WORDS), given_up(WORDS)), ("stock-2", vec!["stock-0", "stock-1"]));
        assert!(refusal(promote(&lost, "stock-1")).contains("stock-2 is the most advanced"));
        assert!(refusal(promote(&lost, "stock-9")).contains("no member stock-9"));
        let nobody = stock(&json!({"status": {"state": "Lost", "reason": "nobody who can be reached could lead"}}));
        assert!(refusal(promote(&nobody, "stock-2")).contains("nobody who can be reached"));
    }

    #[test]
    fn a_set_is_asked_for_a_switchover_and_a_fence_as_a_cluster_is() {
        let set = stock(&json!({}));
        assert_eq!(switchover(&set, Some("stock-1")).unwrap(), "stock-1@3");
        assert_eq!(refusal(switchover(&set, Some("stock-0"))), "stock-0 is the primary already");
        assert!(refusal(switchover(&lost_stock(), None)).contains("promote"));
        assert!(refusal(switchover(&stock(&json!({"status": {"replicaSetId": null}})), None)).contains("not initialised"));
        assert_eq!(fence(&set, "stock-1").unwrap().as_deref(), Some("stock-1"));
        assert!(refusal(reclone(&set, "stock-1")).contains("pvc/data-stock-1"));
    }

    #[test]
    fn a_reclone_names_the_data_and_spares_the_primary() {
        let shop = cluster(&json!({}));
        assert_eq!(reclone(&shop, "shop-2").unwrap(), "shop-2@uuid-of-shop-2");
        assert!(refusal(reclone(&shop, "shop-0")).contains("is the primary"));
        let empty = cluster(&json!({"status": {"members": [{"name": "shop-1", "role": "Joining", "ready": false}]}}));
        assert!(refusal(reclone(&empty, "shop-1")).contains("no data to discard"));
    }

    #[test]
    fn only_data_of_redis_that_follow_nobody_are_given_up() {
        assert!(refusal(reclone(&cache(&json!({})), "cache-1")).contains("cache-1 follows"));
        let message = "its data are of another history";
        let row = json!({"name": "cache-1", "role": "Isolated", "ready": false, "identity": "data-of-cache-1", "message": message});
        let stuck = cache(&json!({"status": {"members": [row]}}));
        assert_eq!(reclone(&stuck, "cache-1").unwrap(), "cache-1@data-of-cache-1");
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
