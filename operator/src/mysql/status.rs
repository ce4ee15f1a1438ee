//! (Desired, Observed, Decision, what came of it, old status, now) → status (pure). No clocks, lags or counters: an idle cluster writes
//! nothing. The fields that claim authority are copied: they are written before anything is done, not after.

use crds::conditions::{self, DEGRADED, PROGRESSING, READY, STALLED, condition, upsert};
use crds::mysql::{MemberStatus, MySQLClusterStatus};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use sidecar_protocol::mysql::{Data, Role};

use super::decide::{Decision, Route, View};
use super::names::selector_text;
use super::observed::{Member, Observed};
use super::validate::{Desired, Invalid};
use crate::members::material;

/// What a pass came to.
#[derive(Debug)]
pub struct Pass<'a> {
    /// What the user wants.
    pub desired: &'a Desired,
    /// What was seen.
    pub observed: &'a Observed,
    /// What was decided.
    pub decision: &'a Decision,
    /// What stood in the way of it.
    pub obstacles: &'a [Obstacle],
    /// Generation of the spec that was decided about.
    pub generation: Option<i64>,
    /// Whether Kubernetes has taken up all of it: then the status answers this generation.
    pub settled: bool,
}

/// Something that stands in the way of a decision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Obstacle {
    /// Reason of the condition.
    pub reason: &'static str,
    /// For people.
    pub message: String,
    /// It goes away by itself.
    pub passes: bool,
}

/// The status after a pass.
#[must_use]
pub fn status(pass: &Pass<'_>, old: &MySQLClusterStatus, now: Timestamp) -> MySQLClusterStatus {
    let Pass { desired, observed, decision, obstacles, generation, settled } = pass;
    let view = View { desired, observed, status: old, now };
    let serving = (0..desired.replicas).filter(|ordinal| view.serves(*ordinal)).count();
    let routed = match decision.route {
        Route::To(_) => true,
        Route::Keep => observed.route.is_some(),
        Route::Nobody => false,
    };
    let wanted = if desired.hibernate { 0 } else { desired.replicas };
    let ready = routed && wanted > 0 && serving == wanted as usize;
    let answered = if *settled { *generation } else { old.observed_generation };

    let passing = obstacles.iter().find(|obstacle| obstacle.passes).map(|obstacle| (obstacle.reason, obstacle.message.as_str()));
    let lasting = obstacles.iter().find(|obstacle| !obstacle.passes).map(|obstacle| (obstacle.reason, obstacle.message.as_str()));
    let state = decision.state.as_str();
    let unsettled = (!settled).then_some(("Applying", "Kubernetes has not taken up the newest spec yet"));
    let progressing = decision.progressing.as_deref().map(|message| (state, message)).or(passing).or(unsettled);
    let degraded = decision.degraded.as_deref().map(|message| (state, message));
    let stalled = decision.stalled.as_ref().map(|(reason, message)| (reason.as_str(), message.as_str())).or(lasting);

    let mut conditions = old.conditions.clone();
    let mut set = |type_: &str, holds: bool, (reason, message): (&str, &str)| {
        upsert(&mut conditions, condition(type_, holds, reason, message, answered, Time(now)));
    };
    set(READY, ready, (state, &decision.reason));
    set(PROGRESSING, progressing.is_some(), progressing.unwrap_or(("Settled", "")));
    set(DEGRADED, degraded.is_some(), degraded.unwrap_or(("Redundant", "")));
    set(STALLED, stalled.is_some(), stalled.unwrap_or(("Going", "")));

    MySQLClusterStatus {
        observed_generation: answered,
        state: state.to_owned(),
        reason: decision.reason.clone(),
        ready: format!("{serving}/{wanted}"),
        replicas: i32::try_from(observed.members.values().filter(|member| member.pod.is_some()).count()).unwrap_or(i32::MAX),
        selector: selector_text(&desired.name),
        members: rows(&view),
        conditions,
        // Authority is claimed, not reported.
        term: old.term,
        claims: old.claims,
        primary: old.primary.clone(),
        initialised: old.initialised,
        transition: old.transition.clone(),
        ack_set: old.ack_set.clone(),
        acks: old.acks,
        handover: old.handover.clone(),
    }
}

/// The status of a cluster that is left alone.
#[must_use]
pub fn suspended(old: &MySQLClusterStatus, generation: Option<i64>, now: Timestamp) -> MySQLClusterStatus {
    let reason = "suspend is set: nothing is changed, repaired or decided until it is false again";
    let mut status =
        MySQLClusterStatus { observed_generation: generation, state: "Suspended".to_owned(), reason: reason.to_owned(), ..old.clone() };
    upsert(&mut status.conditions, condition(PROGRESSING, false, "Suspended", reason, generation, Time(now)));
    status
}

/// The status of a cluster whose spec cannot be meant: it stays as it is, and says so.
#[must_use]
pub fn invalid(old: &MySQLClusterStatus, invalid: &Invalid, generation: Option<i64>, now: Timestamp) -> MySQLClusterStatus {
    let message = invalid.to_string();
    let mut status = MySQLClusterStatus { observed_generation: generation, reason: message.clone(), ..old.clone() };
    upsert(&mut status.conditions, condition(conditions::STALLED, true, "InvalidSpec", &message, generation, Time(now)));
    status
}

fn rows(view: &View<'_>) -> Vec<MemberStatus> {
    let shown = view
        .observed
        .members
        .iter()
        .filter(|(ordinal, member)| member.pod.is_some() || (**ordinal < view.desired.replicas && !view.desired.hibernate));
    shown.map(|(ordinal, member)| row(view, *ordinal, member)).collect()
}

fn row(view: &View<'_>, ordinal: u32, member: &Member) -> MemberStatus {
    let mut row = MemberStatus { name: member.name.clone(), ready: view.serves(ordinal), ..MemberStatus::default() };
    row.message = view.member_problem(ordinal);
    let Some(state) = view.state(ordinal) else {
        "Unknown".clone_into(&mut row.role);
        // Who is silent for a moment was still cloned from somebody.
        if let Some(old) = view.status.members.iter().find(|old| old.name == member.name) {
            row.cloned_from.clone_from(&old.cloned_from);
            row.version.clone_from(&old.version);
            row.server_uuid.clone_from(&old.server_uuid);
            row.archive.clone_from(&old.archive);
        }
        return row;
    };
    let role = match (&state.data, state.role) {
        (Data::Present, Role::Primary) => "Primary",
        (Data::Present, Role::Replica) => "Replica",
        (Data::Present, Role::Isolated) => "Isolated",
        (Data::Present, Role::Unknown) => "Unknown",
        (Data::Empty | Data::Initialising | Data::Cloning { .. }, _) => "Joining",
    };
    role.clone_into(&mut row.role);
    if let (Some(message), Some(percent)) = (&mut row.message, material::progress(&state.data)) {
        *message = format!("{message}: {percent} %");
    }
    row.cloned_from.clone_from(&state.cloned_from);
    row.version.clone_from(&state.version);
    row.server_uuid.clone_from(&state.server_uuid);
    row.archive = state.archive.as_ref().map(|archive| archive.file.clone());
    if let Some(channel) = state.replication.as_ref().filter(|_| state.role == Role::Replica) {
        row.source = channel.source.split('.').next().map(str::to_owned);
        row.tls = Some(channel.tls);
    }
    row
}

#[cfg(test)]
#[path = "status_tests.rs"]
mod tests;
