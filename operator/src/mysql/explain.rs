//! (Observed, Decision) → what is recorded of it (pure): text for people, nothing secret.

use crds::decisions::{Claim, Decided, Input};
use crds::mysql::{MySQLCluster, MySQLClusterStatus};
use jiff::Timestamp;
use sidecar_protocol::mysql::{Assignment, Data};

use super::decide::{Authority, Decision};
use super::material;
use super::observed::{Member, Observed};
use super::validate::Desired;
use crate::engine::News;
use crate::explain::{self, recorded};

/// A GTID set with more text than this has thousands of gaps; its beginning tells as much.
const MAX_HELD: usize = 4096;

/// What a member archived since the status was written.
#[must_use]
pub fn news(observed: &Observed, old: &MySQLClusterStatus) -> Vec<News> {
    let news = observed.members.values().filter_map(|member| {
        let archive = member.report.answered()?.state.archive.as_ref()?;
        let known = old.members.iter().find(|known| known.name == member.name).and_then(|known| known.archive.as_ref());
        let message = format!("{} held {} alone: archived on its volume as {}", member.name, archive.gtids, archive.file);
        (known != Some(&archive.file)).then_some(News { reason: "ErrantArchived", action: "Repair", message })
    });
    news.collect()
}

/// What is recorded of `decision`.
#[must_use]
pub fn decided(
    cluster: &MySQLCluster,
    desired: &Desired,
    observed: &Observed,
    status: &MySQLClusterStatus,
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
    let Authority { term, primary, initialised: _, transition, ack_set, acks, handover } = authority;
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
    match assignment {
        Assignment::Initialise => "initialise".to_owned(),
        Assignment::Primary { acks, members: _, barred } if barred.is_empty() => format!("primary, {acks} acknowledgements"),
        Assignment::Primary { acks, members: _, barred } => {
            let barred: Vec<String> = barred.iter().map(|ordinal| desired.member_name(*ordinal)).collect();
            format!("primary, {acks} acknowledgements, barred: {}", barred.join(", "))
        }
        Assignment::Replica { source, donors: _, acknowledges, replace } => {
            let acknowledges = if *acknowledges { ", acknowledges" } else { "" };
            let replace = if replace.is_some() { ", its data is archived and cloned anew" } else { "" };
            format!("replica of {}{acknowledges}{replace}", source.member)
        }
        Assignment::Isolated => "isolated".to_owned(),
    }
}

fn input(desired: &Desired, member: &Member) -> Input {
    let (mut input, report) = explain::input(member);
    let Some(report) = report else { return input };
    let state = &report.state;
    input.process = Some(format!("{:?}", state.process));
    input.role = Some(format!("{:?}{}", state.role, if state.fenced { ", fenced itself" } else { "" }));
    input.data = match &state.data {
        Data::Present if state.condemned => Some("condemned".to_owned()),
        Data::Present => None,
        Data::Empty => Some("empty".to_owned()),
        Data::Initialising => Some("initialising".to_owned()),
        Data::Cloning { donor, .. } => Some(format!(
            "cloning from {donor}{}",
            material::progress(&state.data).map_or(String::new(), |percent| format!(", {percent} %"))
        )),
    };
    input.order = state.accepted.as_ref().map(|accepted| {
        let holds = if accepted.converged { "holds" } else { "not yet" };
        format!("{} (term {}, {holds})", assignment(desired, &accepted.assignment), accepted.term)
    });
    input.held = state.position.as_ref().map(|position| {
        let mut held = position.held().to_string();
        if held.len() > MAX_HELD {
            held.truncate(MAX_HELD);
            held.push('…');
        }
        held
    });
    input.follows = state.replication.as_ref().map(|channel| {
        let source = channel.source.split('.').next().unwrap_or_default();
        let does = |what: &str, it: bool| format!("{}{what}", if it { "" } else { "not " });
        format!("{source}, {}, {}", does("receiving", channel.receiving), does("applying", channel.applying))
    });
    let lag = state.replication.as_ref().and_then(|channel| channel.lag_seconds);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a lag is positive; a cast of a float saturates")]
    let whole = |lag: f64| lag as u64;
    input.lag_seconds = lag.map(whole);
    input.server_uuid.clone_from(&state.server_uuid);
    input.problem = state.problem.as_ref().map(|problem| format!("{:?}: {}", problem.code, problem.message));
    input
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mysql::decide::decide;
    use crate::mysql::validate::validate;
    use crate::observed::{PodSeen, Seen};
    use serde_json::json;
    use sidecar_protocol::Report;
    use sidecar_protocol::mysql::State;

    const UUID: &str = "3e11fa47-71ca-11e1-9e33-c80aa9429562";

    fn report(role: &str, held: &str) -> Seen<Report<State>> {
        let order =
            json!({"role": "replica", "source": {"member": "shop-0", "host": "shop-0.shop.db.svc"}, "donors": [], "acknowledges": true});
        let report = json!({
            "cluster": "uid", "member": "shop", "incarnation": "one", "term": 3, "sidecar": "1", "trust": "x",
            "state": {
                "data": {"kind": "present"}, "process": "running", "role": role, "serverUuid": format!("uuid-{role}"),
                "accepted": {"term": 3, "assignment": order, "converged": true},
                "position": {"executed": format!("{UUID}:{held}"), "received": format!("{UUID}:9"), "purged": ""},
                "replication": {"source": "shop-0.shop.db.svc", "receiving": true, "applying": false, "lagSeconds": 4.6},
                "problem": {"code": "replicationFailed", "message": "duplicate key"},
            },
        });
        Seen::Answered(serde_json::from_value(report).unwrap())
    }

    fn recorded(held: &str, annotations: &serde_json::Value) -> Decided {
        let cluster: MySQLCluster = serde_json::from_value(json!({
            "apiVersion": "understudy.dev/v1alpha1", "kind": "MySQLCluster",
            "metadata": {"name": "shop", "namespace": "db", "uid": "uid", "annotations": annotations},
            "spec": {"storage": {"size": "1Gi"}, "replicas": 2},
            "status": {"term": 3, "primary": "shop-0", "initialised": true},
        }))
        .unwrap();
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let pod = Some(PodSeen { uid: "p".to_owned(), ready: true, ..PodSeen::default() });
        let member = |name: &str, report| Member { name: name.to_owned(), pod: pod.clone(), report, fresh_volume: false };
        let silent = Seen::Silent { since: now };
        let members = [(0, member("shop-0", silent)), (1, member("shop-1", report("replica", held)))];
        let observed = Observed { members: members.into(), ..Observed::default() };
        let (desired, status) = (validate(&cluster).unwrap(), cluster.status.clone().unwrap());
        decided(&cluster, &desired, &observed, &status, &decide(&desired, &observed, &status, now), now)
    }

    #[test]
    fn a_decision_is_recorded_with_all_that_was_known() {
        let all = recorded("1-5", &json!({"understudy.dev/switchover": "shop-1@3", "understudy.dev/rotate-certificates": "now"}));
        assert_eq!((all.time.as_str(), all.term), ("2026-01-01T00:00:00.000Z", 3));
        assert_eq!(all.asked.iter().collect::<Vec<_>>(), [(&"understudy.dev/switchover".to_owned(), &"shop-1@3".to_owned())]);
        let [silent, answers] = &all.members[..] else { unreachable!("two members: {all:?}") };
        assert_eq!((silent.seen.as_str(), &silent.held), ("silent since 2026-01-01T00:00:00.000Z", &None));
        assert_eq!(answers.held, Some(format!("{UUID}:1-5:9")), "what it has not applied yet counts");
        assert_eq!(answers.order.as_deref(), Some("replica of shop-0, acknowledges (term 3, holds)"));
        assert_eq!(answers.follows.as_deref(), Some("shop-0, receiving, not applying"));
        assert_eq!((answers.lag_seconds, answers.pod.as_str()), (Some(4), "ready"));
        assert_eq!(answers.problem.as_deref(), Some("ReplicationFailed: duplicate key"));
    }

    #[test]
    fn positions_that_move_are_no_news_and_a_request_is() {
        let one = recorded("1-5", &json!({}));
        assert!(one.same(&recorded("1-6", &json!({}))));
        assert!(!one.same(&recorded("1-5", &json!({"understudy.dev/fenced": "shop-1"}))));
    }
}
