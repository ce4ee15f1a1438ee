//! (Desired, Observed, Decision, what came of it, old status, now) → status (pure). No clocks, lags or counters: an idle set writes
//! nothing. The fields that claim authority are copied: they are written before anything is done, not after.

use crds::mongo::{MemberStatus, MongoReplicaSetStatus};
use crds::shared::ClusterStatus;
use jiff::Timestamp;
use sidecar_protocol::mongo::status::MemberState;

use super::Mongo;
use super::decide::View;
use super::material;
use super::observed::Member;
use crate::status::Pass;

/// The status after a pass.
#[must_use]
pub fn status(pass: &Pass<'_, Mongo>, old: &MongoReplicaSetStatus, now: Timestamp) -> MongoReplicaSetStatus {
    let Pass { desired, observed, .. } = *pass;
    let view = View { desired, observed, status: old, now };
    let serving = (0..desired.replicas).filter(|ordinal| view.serves(*ordinal)).count();
    let status = old.clone().with_head(pass.head(&old.head(), serving, now));
    // Authority is claimed, not reported: the rest stays.
    MongoReplicaSetStatus { members: rows(&view), ..status }
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
    let seat = view.seat(ordinal);
    let mut row = MemberStatus {
        name: member.name.clone(),
        role: MemberState::Unknown.to_string(),
        ready: view.serves(ordinal),
        healthy: view.leader().and_then(|leader| view.is_heard(leader, ordinal)),
        votes: seat.map(|seat| seat.votes),
        priority: seat.map(|seat| whole(seat.priority)),
        lag: None,
        zone: view.zone(ordinal),
        version: None,
        message: view.member_problem(ordinal),
    };
    match view.state(ordinal) {
        Some(state) => {
            row.role = state.member.to_string();
            row.lag = material::lag(state.lag_seconds).map(str::to_owned);
            row.version.clone_from(&state.version);
        }
        // Who is silent for a moment still runs what it ran.
        None => row.version = view.status.members.iter().find(|old| old.name == member.name).and_then(|old| old.version.clone()),
    }
    row
}

#[expect(clippy::cast_possible_truncation, reason = "mongod takes 0 to 1000, and a cast of a float saturates")]
fn whole(priority: f64) -> i32 {
    priority as i32
}
