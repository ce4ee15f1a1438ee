//! (Desired, Observed, status, now) → [`Decision`]: pure and total. No client, no clock, no randomness.
//!
//! mongod elects, and whoever leads takes the set to what is desired; here is decided what that is, who is recorded as primary, and who
//! stands or yields. Read [`decide`] first. Each question has its room: [`birth`] the first configuration; [`leaderless`] a lost primary
//! or a lost majority; [`handover`] a planned change; [`rollout`] scale and updates; [`set`] the set that there shall be.
//!
//! A decision that claims authority ([`Decision::intent`]) is written to status, guarded by resourceVersion, before anything is
//! done; then `decide` runs again on what was written. So a crash between any two steps resumes.

pub mod birth;
pub mod handover;
pub mod leaderless;
pub mod rollout;
pub mod set;
mod view;

use std::time::Duration;

use crds::mongo::MongoReplicaSetStatus;
use crds::shared::{HandoverRequest, Transition, TransitionKind};
use jiff::Timestamp;

use super::Mongo;
use super::observed::Observed;
use super::validate::Desired;
pub use crate::decision::{Route, State, Step};
pub use view::View;

/// How soon to look again while a change of primary is under way.
const CHANGING: Duration = Duration::from_millis(200);
/// How soon to look again while something is waited for that no report tells.
const SETTLING: Duration = Duration::from_secs(1);

/// What to do, and why.
pub type Decision = crate::decision::Decision<Mongo>;

/// The fields of status that claim authority.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authority {
    /// Term; grows with each change of primary.
    pub term: u64,
    /// Pod name of the member that leads, or led last.
    pub primary: Option<String>,
    /// MongoDB's term of its election.
    pub election_term: Option<i64>,
    /// Which set this is; once known it never changes.
    pub replica_set_id: Option<String>,
    /// The feature compatibility version that is asked for.
    pub feature: Option<String>,
    /// A change of primary that is under way.
    pub transition: Option<Transition>,
    /// A hand-over that was refused.
    pub handover: Option<HandoverRequest>,
    /// The forced configuration that a person consents to.
    pub consent: Option<String>,
}

impl Authority {
    /// What the status says now.
    #[must_use]
    pub fn of(status: &MongoReplicaSetStatus) -> Self {
        Self {
            term: status.term,
            primary: status.primary.clone(),
            election_term: status.election_term,
            replica_set_id: status.replica_set_id.clone(),
            feature: status.feature_compatibility_version.clone(),
            transition: status.transition.clone(),
            handover: status.handover.clone(),
            consent: status.consent.clone(),
        }
    }

    /// Records it in `status`: a claim more, whatever it says.
    pub fn write(self, status: &mut MongoReplicaSetStatus) {
        let Self { term, primary, election_term, replica_set_id, feature, transition, handover, consent } = self;
        status.claims += 1;
        status.term = term;
        status.primary = primary;
        status.election_term = election_term;
        status.replica_set_id = replica_set_id;
        status.feature_compatibility_version = feature;
        status.transition = transition;
        status.handover = handover;
        status.consent = consent;
    }
}

impl Decision {
    /// Nothing to do, in `state`, because of `reason`.
    pub(crate) fn new(view: &View<'_>, state: State, reason: impl Into<String>) -> Self {
        Self::with(rollout::replicas(view), state, reason)
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
pub fn decide(desired: &Desired, observed: &Observed, status: &MongoReplicaSetStatus, now: Timestamp) -> Decision {
    let view = View { desired, observed, status, now };
    if desired.hibernate {
        return Decision::hibernate(observed.members.values().filter(|member| member.pod.is_some()).count());
    }
    let mut decision = match (&status.replica_set_id, view.leader()) {
        (None, _) => birth::decide(&view),
        (Some(_), None) => leaderless::decide(&view),
        (Some(_), Some(leader)) => led(&view, leader),
    };
    if decision.intent.is_none() {
        decision.stalled = decision.stalled.or_else(|| view.stall());
        decision.step = rollout::stuck(&view).or(decision.step);
    }
    decision
}

/// Somebody leads: that is recorded first, and then the house is kept.
fn led(view: &View<'_>, leader: u32) -> Decision {
    if let Some(claim) = record(view, leader) {
        return claim;
    }
    if let Some(change) = view.status.transition.as_ref().filter(|change| change.kind == TransitionKind::Switchover) {
        return handover::go_on(view, leader, change);
    }
    if let Some(claim) = set::feature(view, leader) {
        return claim;
    }
    let rollout = rollout::plan(view, leader);
    let planned = match &rollout {
        rollout::Plan::HandOver { why } => Some(why.as_str()),
        _ => None,
    };
    let refused = match handover::wanted(view, leader, planned) {
        handover::Wanted::Nothing => None,
        handover::Wanted::Claim(claim) => return *claim,
        handover::Wanted::Refused(why) => Some(why),
    };
    let mut decision = summary(view, leader);
    decision.refused = refused;
    decision.orders = set::orders(view, None, None);
    decision.route = Route::To(leader);
    rollout.apply(decision)
}

/// Claims what the set itself has chosen: who leads, by which election. A change that was asked for ends with it.
fn record(view: &View<'_>, leader: u32) -> Option<Decision> {
    let status = view.status;
    let name = view.desired.member_name(leader);
    let elected = view.state(leader)?.election_term;
    let same = status.primary.as_ref() == Some(&name) && status.election_term == elected;
    let kind = status.transition.as_ref().map(|change| change.kind);
    let over = matches!(kind, Some(TransitionKind::Initialise | TransitionKind::Failover));
    if same && !over && status.consent.is_none() {
        return None;
    }
    let moved = status.primary.as_ref().is_some_and(|old| *old != name);
    // A change that was claimed has its term already; one that the set made by itself gets one here.
    let claimed = matches!(kind, Some(TransitionKind::Switchover | TransitionKind::Failover | TransitionKind::Initialise));
    let authority = Authority {
        term: if moved && !claimed { status.term + 1 } else { status.term },
        primary: Some(name.clone()),
        election_term: elected,
        transition: status.transition.clone().filter(|change| change.kind == TransitionKind::TakenBack && !moved),
        consent: None,
        ..Authority::of(status)
    };
    let state = match kind {
        Some(TransitionKind::Switchover) => State::SwitchingOver,
        _ if moved => State::FailingOver,
        _ => State::Creating,
    };
    Some(Decision::claim(view, state, format!("{name} leads, elected in MongoDB's term {}", elected.unwrap_or_default()), authority))
}

/// State and reason of a set that changes nothing.
fn summary(view: &View<'_>, leader: u32) -> Decision {
    let name = view.desired.member_name(leader);
    let said = view.state(leader).and_then(|state| state.said.as_ref());
    let missing: Vec<String> = (0..view.desired.replicas)
        .filter(|ordinal| !view.serves(*ordinal))
        .map(|ordinal| match view.member_problem(ordinal) {
            Some(why) => format!("{} ({why})", view.desired.member_name(ordinal)),
            None => view.desired.member_name(ordinal),
        })
        .collect();
    let mut decision = match (missing.is_empty(), said) {
        (true, Some(said)) if !said.settled => {
            Decision::new(view, State::Scaling, format!("{name} is the primary; the set is being changed: {}", said.next)).progressing(None)
        }
        (true, _) => Decision::new(view, State::Healthy, format!("{name} is the primary and all {} members serve", view.desired.replicas)),
        (false, said) => {
            let mut decision = Decision::new(view, State::Degraded, format!("{name} is the primary; not ready: {}", missing.join(", ")));
            decision.degraded = Some(decision.reason.clone());
            decision.progressing = said.filter(|said| !said.settled).map(|said| said.next.clone());
            decision
        }
    };
    if view.is_fenced(leader) {
        decision.reason = format!("{}; {name} is fenced on request and hands over when another member can lead", decision.reason);
    }
    decision
}
