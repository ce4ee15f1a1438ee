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
        Part::Replica { source, lineage: _, discard, heir_of } => {
            let discard = if discard.is_some() { ", its data are discarded" } else { "" };
            let heir = heir_of.map_or(String::new(), |from| format!(", takes over from {}", desired.member_name(from)));
            format!("replica of {}{discard}{heir}", source.member)
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
