//! (Observed, Decision) → what is recorded of it (pure): text for people, nothing secret.

use crds::decisions::{Claim, Decided, Input};
use crds::redis::{RedisReplication, RedisReplicationStatus};
use jiff::Timestamp;
use sidecar_protocol::redis::{Assignment, Data, Handover, Part, Replication};

use super::decide::{Authority, Decision};
use super::material;
use super::observed::{Member, Observed};
use super::validate::Desired;
use crate::engine::News;
use crate::explain::{self, recorded};

/// What a member archived since the status was written.
#[must_use]
pub fn news(observed: &Observed, old: &RedisReplicationStatus) -> Vec<News> {
    let news = observed.members.values().filter_map(|member| {
        let archive = member.report.answered()?.state.archive.as_ref()?;
        let known = old.members.iter().find(|known| known.name == member.name).and_then(|known| known.archive.as_ref());
        let message = format!("{} held {} alone: archived on its volume as {}", member.name, archive.position, archive.file);
        (known != Some(&archive.file)).then_some(News { reason: "ErrantArchived", action: "Repair", message })
    });
    news.collect()
}

/// What is recorded of `decision`.
#[must_use]
pub fn decided(
    cluster: &RedisReplication,
    desired: &Desired,
    observed: &Observed,
    status: &RedisReplicationStatus,
    decision: &Decision,
    now: Timestamp,
) -> Decided {
    let orders = decision.orders.iter().map(|(ordinal, order)| (desired.member_name(*ordinal), assignment(desired, order)));
    Decided {
        intent: decision.intent.as_ref().map(claim),
        orders: orders.collect(),
        members: observed.members.values().map(|member| input(desired, member)).collect(),
        ..recorded(cluster, desired, observed, status, decision, now)
    }
}

fn claim(authority: &Authority) -> Claim {
    let Authority { term, primary, initialised: _, transition, ack_set, acks, primary_identity: _, history: _, handover } = authority;
    Claim {
        term: *term,
        primary: primary.clone(),
        transition: transition.clone(),
        ack_set: ack_set.iter().map(|member| member.name.clone()).collect(),
        acks: *acks,
        handover: handover.as_ref().map(|known| match &known.refused {
            Some(_) => format!("{} is refused", known.request),
            None => format!("{} waits", known.request),
        }),
    }
}

fn assignment(desired: &Desired, assignment: &Assignment) -> String {
    match &assignment.part {
        Part::Primary { identity: _, admitted, min_replicas, max_lag_seconds: _, yield_to } => {
            let admitted: Vec<String> = admitted.iter().map(|ordinal| desired.member_name(*ordinal)).collect();
            let admitted = if admitted.is_empty() { "nobody".to_owned() } else { admitted.join(", ") };
            let yields = yield_to.as_ref().map_or(String::new(), |yields| format!(", hands over to {}", yields.to.member));
            format!("primary with {min_replicas} replicas at least, lets replicate: {admitted}{yields}")
        }
        Part::Replica { source, lineage: _, discard, heir_of, source_yields } => {
            let discard = if discard.is_some() { ", its data are discarded" } else { "" };
            let heir = heir_of.map_or(String::new(), |from| format!(", takes over from {}", desired.member_name(from)));
            let yields = if *source_yields { ", which hands over" } else { "" };
            format!("replica of {}{yields}{discard}{heir}", source.member)
        }
        Part::Isolated => "isolated".to_owned(),
    }
}

fn input(desired: &Desired, member: &Member) -> Input {
    let (mut input, report) = explain::input(member);
    let Some(report) = report else { return input };
    let state = &report.state;
    input.process = Some(format!("{:?}", state.process));
    let handover = match &state.handover {
        Handover::None => String::new(),
        Handover::Waiting => ", hands over".to_owned(),
        Handover::Changing => ", has handed over".to_owned(),
        Handover::Failed { why } => format!(", could not hand over: {why}"),
    };
    input.role = Some(format!("{:?}{}{handover}", state.role, if state.fenced { ", fenced itself" } else { "" }));
    let percent = material::progress(&state.data).map_or(String::new(), |percent| format!(", {percent} %"));
    input.data = match &state.data {
        Data::Present => None,
        Data::Empty => Some("empty".to_owned()),
        Data::Loading { .. } => Some(format!("loading{percent}")),
        Data::Syncing { .. } => Some(format!("copying{percent}")),
    };
    input.order = state.accepted.as_ref().map(|accepted| {
        let holds = if accepted.converged { "holds" } else { "not yet" };
        format!("{} (term {}, {holds})", assignment(desired, &accepted.assignment), accepted.term)
    });
    input.held = state.position.as_ref().map(|position| position.to_string());
    input.follows = state.replication.as_ref().map(|Replication { source, connected, .. }| {
        let source = if source.parse::<std::net::IpAddr>().is_ok() { source } else { source.split('.').next().unwrap_or_default() };
        format!("{source}, {}connected", if *connected { "" } else { "not " })
    });
    let lag = state.replication.as_ref().and_then(|link| link.lag_seconds);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a lag is positive; a cast of a float saturates")]
    let whole = |lag: f64| lag as u64;
    input.lag_seconds = lag.map(whole);
    input.server_uuid.clone_from(&state.identity);
    input.problem = state.problem.as_ref().map(|problem| format!("{:?}: {}", problem.code, problem.message));
    input
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observed::{PodSeen, Seen};
    use crate::redis::decide::decide;
    use crate::redis::validate::validate;
    use serde_json::{Value, json};

    fn recorded(offset: u64, annotations: &Value) -> Decided {
        let cluster: RedisReplication = serde_json::from_value(json!({
            "apiVersion": "understudy.dev/v1alpha1", "kind": "RedisReplication",
            "metadata": {"name": "cache", "namespace": "db", "uid": "uid", "annotations": annotations},
            "spec": {"storage": {"size": "1Gi"}, "replicas": 2},
            "status": {"term": 3, "primary": "cache-0", "initialised": true},
        }))
        .unwrap();
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let order = json!({"role": "replica", "members": [0, 1], "source": {"member": "cache-0", "host": "cache-0.cache.db.svc"},
            "lineage": [], "discard": "old", "heirOf": 0});
        let report = json!({
            "cluster": "uid", "member": "cache-1", "incarnation": "one", "term": 3, "sidecar": "1", "trust": "x",
            "state": {
                "data": {"kind": "syncing", "copied": 55, "total": 100}, "process": "running", "role": "replica", "identity": "id",
                "accepted": {"term": 3, "assignment": order, "converged": false}, "handover": {"state": "failed", "why": "too late"},
                "position": {"replid": "aaaaaaaabbbb", "offset": offset, "recovered": true},
                "replication": {"source": "cache-0.cache.db.svc", "connected": false, "lagSeconds": 4.6},
                "problem": {"code": "replicationFailed", "message": "the link does not come up"},
            },
        });
        let pod = Some(PodSeen { uid: "p".to_owned(), ready: true, ..PodSeen::default() });
        let member = |name: &str, report| Member { name: name.to_owned(), pod: pod.clone(), report, fresh_volume: false };
        let answered = Seen::Answered(serde_json::from_value(report).unwrap());
        let members = [(0, member("cache-0", Seen::Silent { since: now })), (1, member("cache-1", answered))];
        let observed = Observed { members: members.into(), ..Observed::default() };
        let (desired, status) = (validate(&cluster).unwrap(), cluster.status.clone().unwrap());
        decided(&cluster, &desired, &observed, &status, &decide(&desired, &observed, &status, now), now)
    }

    #[test]
    fn a_decision_is_recorded_with_all_that_was_known() {
        let all = recorded(900, &json!({"understudy.dev/switchover": "cache-1@3", "understudy.dev/rotate-passwords": "now"}));
        assert_eq!(all.asked.iter().collect::<Vec<_>>(), [(&"understudy.dev/switchover".to_owned(), &"cache-1@3".to_owned())]);
        let [silent, answers] = &all.members[..] else { unreachable!("two members: {all:?}") };
        assert_eq!((silent.seen.as_str(), &silent.held), ("silent since 2026-01-01T00:00:00.000Z", &None));
        assert_eq!(answers.held.as_deref(), Some("aaaaaaaa:900 or a little more"));
        assert_eq!(
            (answers.data.as_deref(), answers.role.as_deref()),
            (Some("copying, 50 %"), Some("Replica, could not hand over: too late"))
        );
        assert_eq!(answers.order.as_deref(), Some("replica of cache-0, its data are discarded, takes over from cache-0 (term 3, not yet)"));
        assert_eq!(answers.follows.as_deref(), Some("cache-0, not connected"));
        assert_eq!((answers.lag_seconds, answers.server_uuid.as_deref()), (Some(4), Some("id")));
        assert_eq!(answers.problem.as_deref(), Some("ReplicationFailed: the link does not come up"));
    }

    #[test]
    fn offsets_that_move_are_no_news_and_a_request_is() {
        let one = recorded(1, &json!({}));
        assert!(one.same(&recorded(2, &json!({}))));
        assert!(!one.same(&recorded(1, &json!({"understudy.dev/fenced": "cache-1"}))));
    }
}
