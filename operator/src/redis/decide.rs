//! (Desired, Observed, status, now) → [`Decision`]: pure and total. No client, no clock, no randomness.
//!
//! Read [`decide`] first: it asks, in this order, whether the cluster sleeps, has been born, is changing its primary, has lost it,
//! and only then looks after who may acknowledge, scale and roll-out. Each question has its room:
//! [`birth`] the first primary; [`handover`] a planned switchover; [`alarm`] whether the primary is lost, and [`failover`] what then;
//! [`acks`] who may acknowledge a `WAIT`; [`rollout`] scale and updates.
//!
//! A decision that claims authority ([`Decision::intent`]) is written to status, guarded by resourceVersion, before anything is
//! done; then `decide` runs again on what was written. So a crash between any two steps resumes.

pub mod acks;
pub mod alarm;
pub mod birth;
pub mod failover;
pub mod handover;
pub mod rollout;
mod view;

use std::collections::BTreeMap;
use std::time::Duration;

use crds::redis::{AckMember, Epoch, RedisReplicationStatus};
use crds::shared::{HandoverRequest, Transition, TransitionKind};
use jiff::Timestamp;
use sidecar_protocol::redis::{Assignment, Part, Yield};

use super::Redis;
use super::observed::Observed;
use super::validate::Desired;
pub use crate::decision::{Route, State, Step};
use alarm::Alarm;
pub use view::View;

/// How soon to look again while a change of primary is under way: positions move without an event.
const CHANGING: Duration = Duration::from_millis(200);
/// How soon to look again while members join or leave.
const SETTLING: Duration = Duration::from_secs(1);

/// What to do, and why.
pub type Decision = crate::decision::Decision<Redis>;

/// The fields of status that claim authority.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authority {
    /// Term; grows with each change of primary.
    pub term: u64,
    /// Pod name of the member that is, or is becoming, primary.
    pub primary: Option<String>,
    /// There was a first primary.
    pub initialised: bool,
    /// A change of primary that is under way.
    pub transition: Option<Transition>,
    /// Who may acknowledge.
    pub ack_set: Vec<AckMember>,
    /// How many of them hold what a client waited for.
    pub acks: u32,
    /// Which data the primary leads with.
    pub primary_identity: Option<String>,
    /// The primary's own past.
    pub history: Vec<Epoch>,
    /// A hand-over that was asked for and has not begun.
    pub handover: Option<HandoverRequest>,
}

impl Authority {
    /// What the status says now.
    #[must_use]
    pub fn of(status: &RedisReplicationStatus) -> Self {
        Self {
            term: status.term,
            primary: status.primary.clone(),
            initialised: status.initialised,
            transition: status.transition.clone(),
            ack_set: status.ack_set.clone(),
            acks: status.acks,
            primary_identity: status.primary_identity.clone(),
            history: status.history.clone(),
            handover: status.handover.clone(),
        }
    }

    /// Records it in `status`: a claim more, whatever it says.
    pub fn write(self, status: &mut RedisReplicationStatus) {
        let Self { term, primary, initialised, transition, ack_set, acks, primary_identity, history, handover } = self;
        status.claims += 1;
        status.term = term;
        status.primary = primary;
        status.initialised = initialised;
        status.transition = transition;
        status.ack_set = ack_set;
        status.acks = acks;
        status.primary_identity = primary_identity;
        status.history = history;
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
pub fn decide(desired: &Desired, observed: &Observed, status: &RedisReplicationStatus, now: Timestamp) -> Decision {
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
        decision.orders = follow(view, primary, None);
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
    decision.orders = follow(view, primary, None);
    if view.is_fenced(primary) {
        decision.orders.insert(primary, view.order(Part::Isolated));
        decision.state = State::PrimaryUnavailable;
        decision.reason = format!("{} is the primary and is fenced on request", view.desired.member_name(primary));
        decision.degraded = Some(decision.reason.clone());
        decision.route = Route::Nobody;
    } else if view.is_open_primary(primary) {
        decision.route = Route::To(primary);
    }
    // Who is missing, and what that means for writes.
    decision.degraded = [decision.degraded, acks.degraded].into_iter().flatten().reduce(|members, writes| format!("{members}; {writes}"));
    // Who holds everything shows only in a moment in which a replica spoke later than the primary, which pings it each second.
    decision.requeue = (acks.settling || waiting.is_some()).then_some(if acks.soon { CHANGING } else { SETTLING });
    rollout.apply(view, decision)
}

/// Everybody's order while `primary` leads, and hands over by `yield_to`, if so.
fn follow(view: &View<'_>, primary: u32, yield_to: Option<(u32, Yield)>) -> BTreeMap<u32, Assignment> {
    let mut orders = BTreeMap::new();
    let heir = yield_to.as_ref().map(|(heir, _)| *heir);
    // Until it is ready nothing changes for anybody else.
    let yield_to = yield_to.filter(|(heir, _)| handover::is_ready(view, *heir, primary));
    for &ordinal in view.observed.members.keys() {
        let part = if ordinal == primary {
            let (min_replicas, max_lag_seconds) = (acks::min_replicas(view, primary), view.desired.own.max_lag_seconds);
            let yield_to = yield_to.as_ref().map(|(_, to)| to.clone());
            let identity = view.status.primary_identity.clone();
            Part::Primary { identity, admitted: acks::admitted(view, primary), min_replicas, max_lag_seconds, yield_to }
        } else if view.is_fenced(ordinal) || acks::lets_go(view, primary, ordinal) {
            // Leaving: it receives nothing more, so that all that it may have acknowledged is known (I2).
            Part::Isolated
        } else {
            Part::Replica {
                source: view.peer(primary),
                lineage: view.lineage(),
                discard: view.consented_discard(ordinal),
                heir_of: (heir == Some(ordinal)).then_some(primary),
                source_yields: yield_to.as_ref().is_some_and(|(heir, _)| *heir != ordinal),
            }
        };
        orders.insert(ordinal, view.order(part));
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
