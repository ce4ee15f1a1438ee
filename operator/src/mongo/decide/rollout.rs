//! Scale and updates. A pod leaves only when the configuration does not name it any more; pods are replaced one at a time, secondaries
//! first, the primary last after a hand-over.

use sidecar_protocol::mongo::ProblemCode;

use super::handover::PATIENCE;
use super::{Decision, State, Step, View};
use crate::mongo::observed::PodSeen;
use crate::rollout;

/// What the roll-out needs next.
#[derive(Debug, PartialEq, Eq)]
pub enum Plan {
    /// Nothing.
    Nothing,
    /// The primary has to move first.
    HandOver {
        /// Why.
        why: String,
    },
    /// Members leave, or come.
    Scale {
        /// What is being done.
        what: String,
    },
    /// Replace this pod.
    Replace(Step),
    /// An update goes on when the set is in order.
    Wait {
        /// Why.
        why: String,
    },
}

/// Replicas that the StatefulSet shall have: as many as are wanted, and every pod that the set still has a place for. Who leads is asked,
/// since an older configuration may know less.
pub fn replicas(view: &View<'_>) -> u32 {
    let (now, wanted) = (view.observed.stateful_set.as_ref().map_or(0, |set| set.replicas), view.desired.replicas);
    if now <= wanted {
        return wanted;
    }
    let led = view.leader().and_then(|leader| view.state(leader)?.config.as_ref());
    let Some(config) = led else { return now };
    let named = config.members.iter().filter_map(|seat| view.desired.of_set_host(&seat.host));
    named.map(|ordinal| ordinal + 1).max().unwrap_or(now).max(wanted).min(now)
}

/// Pods of an older revision.
pub fn outdated<'a>(view: &View<'a>) -> Vec<(u32, &'a PodSeen)> {
    rollout::outdated(view.desired, view.observed)
}

/// Plans the next step.
pub fn plan(view: &View<'_>, leader: u32) -> Plan {
    let wanted = view.desired.replicas;
    let now = view.observed.stateful_set.as_ref().map_or(0, |set| set.replicas);
    if now > wanted {
        let left = replicas(view);
        let leaving = (wanted..now).map(|ordinal| view.desired.member_name(ordinal)).collect::<Vec<_>>().join(", ");
        let what = if left == now { "leaves the set's configuration first" } else { "is out of the set's configuration, and its pod goes" };
        return Plan::Scale { what: format!("scaling down to {wanted}: {leaving} {what}") };
    }
    match update(view, leader) {
        Plan::Nothing if (0..wanted).any(|ordinal| view.seat(ordinal).is_none()) => {
            let joining = (0..wanted).filter(|ordinal| view.seat(*ordinal).is_none()).map(|ordinal| view.desired.member_name(ordinal));
            Plan::Scale { what: format!("members are being added: {}", joining.collect::<Vec<_>>().join(", ")) }
        }
        other => other,
    }
}

fn update(view: &View<'_>, leader: u32) -> Plan {
    let outdated = outdated(view);
    let replace = |ordinal: u32, pod: &PodSeen, why: &str| Plan::Replace(rollout::replace(view.desired, ordinal, pod, why));
    let Some((ordinal, pod)) = outdated.iter().rev().find(|(ordinal, _)| *ordinal != leader).or(outdated.first()) else {
        return Plan::Nothing;
    };
    let not_serving: Vec<String> = (0..view.desired.replicas).filter(|o| !view.serves(*o)).map(|o| view.desired.member_name(o)).collect();
    if !not_serving.is_empty() {
        return Plan::Wait { why: format!("the update goes on when {} is ready", not_serving.join(", ")) };
    }
    if !view.state(leader).and_then(|state| state.said.as_ref()).is_some_and(|said| said.settled) {
        return Plan::Wait { why: "the update goes on when the set is as desired".to_owned() };
    }
    if *ordinal != leader {
        return replace(*ordinal, pod, "gets the new revision");
    }
    if view.desired.replicas - view.desired.own.arbiters == 1 {
        return replace(*ordinal, pod, "gets the new revision; with one member there is nobody to hand over to");
    }
    Plan::HandOver { why: format!("{} gets the new revision", view.desired.member_name(leader)) }
}

/// A pod that cannot run in its old revision.
#[must_use]
pub fn stuck(view: &View<'_>) -> Option<Step> {
    let stuck = |ordinal: u32, pod: &PodSeen| {
        let problem = view.state(ordinal).and_then(|state| state.problem.as_ref()).map(|problem| problem.code);
        // One that was started with another key is parted from the others until it is started anew. It takes a while to say so: just
        // after an election nobody hears of anybody.
        let parted = matches!(problem, Some(ProblemCode::MajorityLost | ProblemCode::KeyRefused)) && view.is_parted(ordinal);
        pod.trouble.is_some() || problem == Some(ProblemCode::ConfigRejected) || parted
    };
    rollout::stuck(view.desired, view.observed, |ordinal, pod| !view.serves(ordinal) && stuck(ordinal, pod))
}

impl Plan {
    /// Adds this plan to a decision about a set that is otherwise left as it is.
    pub fn apply(self, mut decision: Decision) -> Decision {
        match self {
            Self::Nothing => decision,
            // Nobody can take over yet: it is waited for, and all else goes on as it was decided.
            Self::HandOver { why } => {
                decision.requeue = decision.requeue.or(Some(PATIENCE));
                decision.settling(State::Updating, format!("{why}; it stays primary until another member is ready to take over"))
            }
            Self::Scale { what } => decision.settling(State::Scaling, what),
            Self::Replace(step) => {
                let Step::ReplacePod { why, .. } = &step;
                let message = why.clone();
                decision.step = Some(step);
                decision.settling(State::Updating, message)
            }
            Self::Wait { why } => decision.settling(State::Updating, why),
        }
    }
}
