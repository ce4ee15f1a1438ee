//! (Desired, Observed, status, now) → [`Decision`]: pure and total. No client, no clock, no randomness.
//!
//! Read [`decide`] first: it asks, in this order, whether the cluster sleeps, has been born, is changing its primary, has lost it,
//! and only then looks after acknowledgements, scale and roll-out. Each question has its room:
//! [`birth`] the first primary; [`handover`] a planned switchover; [`alarm`] whether the primary is lost, and [`failover`] what then;
//! [`acks`] who acknowledges; [`repair`] members that cannot follow; [`rollout`] scale and updates.
//!
//! A decision that claims authority ([`Decision::intent`]) is written to status, guarded by resourceVersion, before anything is
//! done; then `decide` runs again on what was written. So a crash between any two steps resumes.

pub mod acks;
pub mod alarm;
pub mod birth;
pub mod failover;
pub mod handover;
pub mod repair;
pub mod rollout;
mod view;

use std::collections::BTreeMap;
use std::time::Duration;

use crds::mysql::{AckMember, MySQLClusterStatus};
use crds::shared::{HandoverRequest, Transition, TransitionKind};
use jiff::Timestamp;
use sidecar_protocol::mysql::Assignment;

use super::MySql;
use super::observed::Observed;
use super::validate::Desired;
pub use crate::decision::{Route, State, Step};
use alarm::Alarm;
pub use view::View;

/// How soon to look again while a change of primary is under way: positions move without an event.
const CHANGING: Duration = Duration::from_millis(200);
/// How soon to look again while acknowledgements ramp up or members leave.
const SETTLING: Duration = Duration::from_secs(1);

/// What to do, and why.
pub type Decision = crate::decision::Decision<MySql>;

/// The fields of status that claim authority.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authority {
    /// Term; grows with each change of primary.
    pub term: u64,
    /// Pod name of the member that is, or is becoming, primary.
    pub primary: Option<String>,
    /// The data directory was initialised.
    pub initialised: bool,
    /// A change of primary that is under way.
    pub transition: Option<Transition>,
    /// Who acknowledges.
    pub ack_set: Vec<AckMember>,
    /// How many at least.
    pub acks: u32,
    /// A hand-over that was asked for and has not begun.
    pub handover: Option<HandoverRequest>,
}

impl Authority {
    /// What the status says now.
    #[must_use]
    pub fn of(status: &MySQLClusterStatus) -> Self {
        Self {
            term: status.term,
            primary: status.primary.clone(),
            initialised: status.initialised,
            transition: status.transition.clone(),
            ack_set: status.ack_set.clone(),
            acks: status.acks,
            handover: status.handover.clone(),
        }
    }

    /// Records it in `status`: a claim more, whatever it says.
    pub fn write(self, status: &mut MySQLClusterStatus) {
        let Self { term, primary, initialised, transition, ack_set, acks, handover } = self;
        status.claims += 1;
        status.term = term;
        status.primary = primary;
        status.initialised = initialised;
        status.transition = transition;
        status.ack_set = ack_set;
        status.acks = acks;
        status.handover = handover;
    }
}

impl Decision {
    /// Nothing to do, in `state`, because of `reason`.
    pub(crate) fn new(view: &View<'_>, state: State, reason: impl Into<String>) -> Self {
        Self::with(view.replicas_without_scaling_down(), state, reason)
    }

    /// Claim `authority` before anything else.
    pub(crate) fn claim(view: &View<'_>, state: State, reason: impl Into<String>, authority: Authority) -> Self {
        Self::new(view, state, reason).claiming(authority)
    }
}

/// Decides.
///
/// `status` is the last status written by this operator, or read back after a conflict; `now` is used for deadlines only.
#[must_use]
pub fn decide(desired: &Desired, observed: &Observed, status: &MySQLClusterStatus, now: Timestamp) -> Decision {
    let view = View { desired, observed, status, now };
    if desired.hibernate {
        return Decision::hibernate(observed.members.values().filter(|member| member.pod.is_some()).count());
    }
    let mut decision = awake(&view);
    if decision.intent.is_none() {
        decision.stalled = decision.stalled.or_else(|| view.stall());
        decision.step = rollout::stuck(&view).or(decision.step);
    }
    decision
}

fn awake(view: &View<'_>) -> Decision {
    let status = view.status;
    if !status.initialised {
        return birth::decide(view);
    }
    let Some(primary) = view.primary() else {
        // Cannot come about by our own writes: initialised is only ever written together with a primary.
        return Decision::new(view, State::Lost, "status names no primary; write status.primary from a backup of the object")
            .stalled("NoPrimary");
    };
    match &status.transition {
        Some(change) if change.kind == TransitionKind::Switchover => handover::go_on(view, primary, change),
        Some(change) if change.kind == TransitionKind::Failover => failover::go_on(view, primary, change),
        _ => steady(view, primary),
    }
}

/// Everybody follows the primary, and the rest of the house is kept; unless it is lost.
fn steady(view: &View<'_>, primary: u32) -> Decision {
    let alarm = alarm::of(view, primary);
    if let Some(claim) = failover::begin(view, primary, &alarm) {
        return claim;
    }
    if alarm != Alarm::None {
        let mut decision = failover::stuck(view, primary, &alarm, summary(view, primary));
        decision.orders = follow(view, primary, view.status.acks);
        return decision;
    }
    let acks = acks::plan(view, primary);
    if let Some((reason, authority)) = acks.intent {
        return Decision::claim(view, State::Scaling, reason, authority);
    }
    let rollout = rollout::plan(view, primary);
    let planned = match &rollout {
        rollout::Plan::HandOver { why } => Some(why.as_str()),
        _ => None,
    };
    let (mut waiting, mut refused) = (None, None);
    match handover::wanted(view, primary, planned) {
        handover::Wanted::Nothing => {}
        handover::Wanted::Claim(claim) => return *claim,
        handover::Wanted::Waiting(why) => waiting = Some(why),
        handover::Wanted::Refused(why) => refused = Some(why),
    }
    let mut decision = summary(view, primary);
    decision.progressing.clone_from(&waiting);
    decision.refused = refused;
    decision.orders = follow(view, primary, acks.order);
    decision.step = repair::replaceable(view, primary);
    if view.is_fenced(primary) {
        decision.orders.insert(primary, Assignment::Isolated);
        decision.state = State::PrimaryUnavailable;
        decision.reason = format!("{} is the primary and is fenced on request", view.desired.member_name(primary));
        decision.degraded = Some(decision.reason.clone());
        decision.route = Route::Nobody;
    } else if let Some(why) = acks::closed_until_filled(view) {
        let name = view.desired.member_name(primary);
        decision.orders.insert(primary, Assignment::Isolated);
        decision.state = State::PrimaryUnavailable;
        decision.reason = format!("{name} is the primary and takes no writes for now: {why}");
        decision.degraded = Some(decision.reason.clone());
    } else if view.is_open_primary(primary) {
        decision.route = Route::To(primary);
    }
    // Who is missing, and what that means for commits.
    decision.degraded = [decision.degraded, acks.degraded].into_iter().flatten().reduce(|members, commits| format!("{members}; {commits}"));
    // Clients wait while fewer are recorded than must acknowledge.
    let hanging = view.status.ack_set.len() < usize::try_from(view.status.acks).unwrap_or(usize::MAX);
    decision.requeue = (acks.settling || waiting.is_some()).then_some(if hanging { CHANGING } else { SETTLING });
    rollout.apply(view, decision)
}

/// Everybody's order while `primary` leads.
fn follow(view: &View<'_>, primary: u32, acks: u32) -> BTreeMap<u32, Assignment> {
    let mut orders = BTreeMap::new();
    for &ordinal in view.observed.members.keys() {
        let assignment = if ordinal == primary {
            Assignment::Primary { acks, members: view.everybody(), barred: acks::barred(view, primary) }
        } else if view.is_fenced(ordinal) || ordinal >= view.desired.replicas && acks::spares_leavers(view, primary) {
            // Leaving: it stops receiving, so that its position stands still while the others reach it (I2).
            Assignment::Isolated
        } else {
            Assignment::Replica {
                source: view.peer(primary),
                donors: view.donors(ordinal, primary),
                acknowledges: acks::counts(view, ordinal),
                replace: repair::replace(view, ordinal, primary),
            }
        };
        orders.insert(ordinal, assignment);
    }
    orders
}

/// State and reason of a cluster that changes nothing.
fn summary(view: &View<'_>, primary: u32) -> Decision {
    let name = view.desired.member_name(primary);
    if !view.is_open_primary(primary) {
        let why = view.member_problem(primary).unwrap_or_else(|| "it has not opened yet".to_owned());
        let mut decision =
            Decision::new(view, State::PrimaryUnavailable, format!("{name} is the primary and does not accept writes: {why}"));
        decision.degraded = Some(decision.reason.clone());
        return decision;
    }
    let missing: Vec<String> = (0..view.desired.replicas)
        .filter(|ordinal| !view.serves(*ordinal))
        .map(|ordinal| match view.member_problem(ordinal) {
            Some(why) => format!("{} ({why})", view.desired.member_name(ordinal)),
            None => view.desired.member_name(ordinal),
        })
        .collect();
    if missing.is_empty() {
        return Decision::new(view, State::Healthy, format!("{name} is the primary and all {} members serve", view.desired.replicas));
    }
    let mut decision = Decision::new(view, State::Degraded, format!("{name} is the primary; not ready: {}", missing.join(", ")));
    decision.degraded = Some(decision.reason.clone());
    decision
}
