//! (Observed, Decision) → what is recorded of it (pure): text for people, nothing secret.

use crds::decisions::{Claim, Decided, Input};
use crds::mongo::{MongoReplicaSet, MongoReplicaSetStatus};
use jiff::Timestamp;
use sidecar_protocol::mongo::{Answer, Assignment, Data};

use super::decide::{Authority, Decision};
use super::observed::{Member, Observed};
use super::validate::Desired;
use crate::explain::{self, recorded};

/// What is recorded of `decision`.
#[must_use]
pub fn decided(
    cluster: &MongoReplicaSet,
    desired: &Desired,
    observed: &Observed,
    status: &MongoReplicaSetStatus,
    decision: &Decision,
    now: Timestamp,
) -> Decided {
    let orders = decision.orders.iter().map(|(ordinal, order)| (desired.member_name(*ordinal), assignment(order)));
    Decided {
        intent: decision.intent.as_ref().map(claim),
        orders: orders.collect(),
        members: observed.members.values().map(input).collect(),
        ..recorded(cluster, desired, observed, status, decision, now)
    }
}

fn claim(authority: &Authority) -> Claim {
    let Authority { term, primary, election_term: _, replica_set_id: _, feature: _, transition, handover, consent: _ } = authority;
    Claim {
        term: *term,
        primary: primary.clone(),
        transition: transition.clone(),
        handover: handover.as_ref().map(|known| format!("{} is refused", known.request)),
        ..Claim::default()
    }
}

fn assignment(assignment: &Assignment) -> String {
    match assignment {
        Assignment::Initiate { set, desired: _ } => format!("initiate {set}"),
        Assignment::Member(part) => {
            let members = format!("member of {}", part.desired.members.len());
            let stand = part.stand.map(|term| format!(", stands after the election of term {term}"));
            let yields = part.yield_to.as_ref().map(|to| format!(", yields to {}", short(&to.host)));
            let fcv = part.fcv.as_ref().map(|version| format!(", features of {version}"));
            let force = part.desired.consent.force.as_ref().map(|words| format!(", {words}"));
            [Some(members), stand, yields, fcv, force].into_iter().flatten().collect()
        }
    }
}

fn input(member: &Member) -> Input {
    let (mut input, report) = explain::input(member);
    let Some(report) = report else { return input };
    let state = &report.state;
    input.process = Some(format!("{:?}", state.process));
    input.role = Some(format!("{}{}", state.member, if state.writable { ", takes writes" } else { "" }));
    input.data = match (state.data, &state.answer) {
        (Data::Empty, _) => Some("empty".to_owned()),
        (Data::Present, Answer::NotInSet) => Some("in no set".to_owned()),
        (Data::Present, _) => None,
    };
    input.order = state.accepted.as_ref().map(|accepted| {
        let holds = if accepted.converged { "holds" } else { "not yet" };
        format!("{} (term {}, {holds})", assignment(&accepted.assignment), accepted.term)
    });
    input.held = state.optime.map(|optime| optime.to_string());
    input.follows = state.primary.as_deref().map(short);
    input.lag_seconds = state.lag_seconds.map(u64::from);
    input.problem = state.problem.as_ref().map(|problem| format!("{:?}: {}", problem.code, problem.message));
    input
}

/// The pod name in a host.
fn short(host: &str) -> String {
    host.split('.').next().unwrap_or_default().to_owned()
}
