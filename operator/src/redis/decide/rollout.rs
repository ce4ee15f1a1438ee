//! Scale and updates: members are released, and pods replaced one at a time, replicas first, the primary last after a hand-over.

use sidecar_protocol::redis::ProblemCode;

use super::handover::PATIENCE;
use super::{Decision, SETTLING, State, Step, View};
use crate::redis::observed::PodSeen;
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
    /// Leaving members still hold something that the others need.
    Release {
        /// Who is waited for.
        waiting_for: Vec<u32>,
    },
    /// The leaving members can go.
    Shrink,
    /// Members are being added.
    Grow,
    /// Replace this pod.
    Replace(Step),
    /// An update goes on when the members serve again.
    Wait {
        /// Why.
        why: String,
    },
}

/// Plans the next step.
pub fn plan(view: &View<'_>, primary: u32) -> Plan {
    let wanted = view.desired.replicas;
    let now = view.observed.stateful_set.as_ref().map_or(0, |set| set.replicas);
    if now > wanted {
        if primary >= wanted {
            return Plan::HandOver { why: format!("{} leaves with the smaller cluster", view.desired.member_name(primary)) };
        }
        let recorded = |ordinal: &u32| view.status.ack_set.iter().any(|member| view.ordinal(&member.name) == Some(*ordinal));
        let waiting_for: Vec<u32> = (wanted..now).filter(recorded).collect();
        return if waiting_for.is_empty() { Plan::Shrink } else { Plan::Release { waiting_for } };
    }
    match update(view, primary) {
        Plan::Nothing if now < wanted || (0..wanted).any(|ordinal| !view.has_data(ordinal)) => Plan::Grow,
        other => other,
    }
}

fn update(view: &View<'_>, primary: u32) -> Plan {
    let outdated = rollout::outdated(view.desired, view.observed);
    let replace = |ordinal: u32, pod: &PodSeen, why: &str| Plan::Replace(rollout::replace(view.desired, ordinal, pod, why));
    let Some((ordinal, pod)) = outdated.iter().rev().find(|(ordinal, _)| *ordinal != primary).or(outdated.first()) else {
        return Plan::Nothing;
    };
    let not_serving: Vec<String> = (0..view.desired.replicas).filter(|o| !view.serves(*o)).map(|o| view.desired.member_name(o)).collect();
    if !not_serving.is_empty() {
        return Plan::Wait { why: format!("the update goes on when {} is ready", not_serving.join(", ")) };
    }
    if *ordinal != primary {
        // The others must be able to acknowledge while this one is away.
        let waiting = view.status.ack_set.iter().any(|member| view.ordinal(&member.name).is_none_or(|o| !view.follows(o, primary)));
        return if waiting {
            Plan::Wait { why: "the update goes on when every replica follows the primary".to_owned() }
        } else {
            replace(*ordinal, pod, "gets the new revision")
        };
    }
    if view.desired.replicas == 1 {
        return replace(*ordinal, pod, "gets the new revision; with one member there is nobody to hand over to");
    }
    Plan::HandOver { why: format!("{} gets the new revision", view.desired.member_name(primary)) }
}

/// A pod that cannot run in its old revision.
#[must_use]
pub fn stuck(view: &View<'_>) -> Option<Step> {
    rollout::stuck(view.desired, view.observed, |ordinal, pod| !view.serves(ordinal) && (pod.trouble.is_some() || rejected(view, ordinal)))
}

/// What it was started with is refused: its options, or the engine of its image.
fn rejected(view: &View<'_>, ordinal: u32) -> bool {
    let problem = view.state(ordinal).and_then(|state| state.problem.as_ref()).map(|problem| problem.code);
    matches!(problem, Some(ProblemCode::ConfigRejected | ProblemCode::WrongEngine))
}

impl Plan {
    /// Adds this plan to a decision about a cluster that is otherwise left as it is.
    pub fn apply(self, view: &View<'_>, mut decision: Decision) -> Decision {
        match self {
            Self::Nothing => decision,
            // Nobody can take over yet: it is waited for, and all else goes on as it was decided.
            Self::HandOver { why } => {
                let old = view.status.primary.clone().unwrap_or_default();
                let message = format!("{why}; {old} stays primary until another member is ready to take over");
                decision.requeue = decision.requeue.or(Some(PATIENCE));
                decision.progressing = Some(message.clone());
                decision.reason = message;
                decision
            }
            Self::Grow => {
                let message = format!("members are being added: {}", decision.reason);
                decision.progressing = Some(message);
                decision
            }
            Self::Shrink => {
                decision.replicas = view.desired.replicas;
                decision.settling(State::Scaling, format!("scaling down to {}", view.desired.replicas))
            }
            Self::Release { waiting_for } => {
                let names = waiting_for.iter().map(|ordinal| view.desired.member_name(*ordinal)).collect::<Vec<_>>().join(", ");
                decision.requeue = Some(SETTLING);
                let silent = waiting_for.iter().find(|ordinal| view.state(**ordinal).is_none());
                let why = match silent {
                    Some(ordinal) => format!(
                        "; {} does not answer, and only it can say that it stopped acknowledging",
                        view.desired.member_name(*ordinal)
                    ),
                    None => String::new(),
                };
                decision
                    .settling(State::Scaling, format!("scaling down: {names} is released when the others hold what it acknowledged{why}"))
            }
            // One irreversible step a pass.
            Self::Replace(_) if decision.step.is_some() => decision,
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
