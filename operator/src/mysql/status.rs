//! (Desired, Observed, Decision, what came of it, old status, now) → status (pure). No clocks, lags or counters: an idle cluster writes
//! nothing. The fields that claim authority are copied: they are written before anything is done, not after.

use crds::mysql::{MemberStatus, MySQLClusterStatus};
use crds::shared::ClusterStatus;
use jiff::Timestamp;
use sidecar_protocol::mysql::{Data, Role};

use super::MySql;
use super::decide::View;
use super::material;
use super::observed::Member;
use crate::status::Pass;

/// The status after a pass.
#[must_use]
pub fn status(pass: &Pass<'_, MySql>, old: &MySQLClusterStatus, now: Timestamp) -> MySQLClusterStatus {
    let Pass { desired, observed, .. } = *pass;
    let view = View { desired, observed, status: old, now };
    let serving = (0..desired.replicas).filter(|ordinal| view.serves(*ordinal)).count();
    let status = old.clone().with_head(pass.head(&old.head(), serving, now));
    // Authority is claimed, not reported: the rest stays.
    MySQLClusterStatus { members: rows(&view), ..status }
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
