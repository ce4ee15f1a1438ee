//! (Desired, Observed, Decision, what came of it, old status, now) → status (pure). No clocks, lags or counters: an idle cluster writes
//! nothing. The fields that claim authority are copied: they are written before anything is done, not after.

use crds::redis::{MemberStatus, RedisReplicationStatus};
use crds::shared::ClusterStatus;
use jiff::Timestamp;
use sidecar_protocol::redis::{Data, NOBODY, Role};

use super::Redis;
use super::decide::View;
use super::material;
use super::observed::Member;
use crate::status::Pass;

/// The status after a pass.
#[must_use]
pub fn status(pass: &Pass<'_, Redis>, old: &RedisReplicationStatus, now: Timestamp) -> RedisReplicationStatus {
    let Pass { desired, observed, .. } = *pass;
    let view = View { desired, observed, status: old, now };
    let serving = (0..desired.replicas).filter(|ordinal| view.serves(*ordinal)).count();
    let status = old.clone().with_head(pass.head(&old.head(), serving, now));
    // Authority is claimed, not reported: the rest stays.
    RedisReplicationStatus { members: rows(&view), ..status }
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
        // Who is silent for a moment is still what it was.
        if let Some(old) = view.status.members.iter().find(|old| old.name == member.name) {
            row.identity.clone_from(&old.identity);
            row.archive.clone_from(&old.archive);
            row.engine.clone_from(&old.engine);
            row.version.clone_from(&old.version);
        }
        return row;
    };
    let role = match (state.role, &state.data) {
        (Role::Primary, _) => "Primary",
        (_, Data::Empty | Data::Loading { .. } | Data::Syncing { .. }) => "Joining",
        (Role::Replica, Data::Present) => "Replica",
        (Role::Isolated, Data::Present) => "Isolated",
        (Role::Unknown, Data::Present) => "Unknown",
    };
    role.clone_into(&mut row.role);
    if let (Some(message), Some(percent)) = (&mut row.message, material::progress(&state.data)) {
        *message = format!("{message}: {percent} %");
    }
    row.identity.clone_from(&state.identity);
    row.archive = state.archive.as_ref().map(|archive| archive.file.clone());
    row.engine = state.engine.map(|engine| format!("{engine:?}"));
    row.version.clone_from(&state.version);
    let followed = state.replication.as_ref().filter(|link| state.role == Role::Replica && link.source != NOBODY.0);
    row.source = followed.and_then(|link| link.source.split('.').next()).map(str::to_owned);
    row
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::json;
    use sidecar_protocol::Report;
    use sidecar_protocol::redis::State;

    use super::*;
    use crate::redis::observed::{Observed, PodSeen, Seen};
    use crate::redis::validate::tests::check;

    fn member(state: serde_json::Value) -> Member {
        let mut whole = json!({"data": {"kind": "present"}, "process": "running", "role": "replica", "ready": true});
        whole.as_object_mut().unwrap().extend(state.as_object().unwrap().clone());
        let report: Report<State> = serde_json::from_value(json!({"cluster": "u", "member": "cache", "incarnation": "i", "term": 1,
            "sidecar": "0", "trust": "", "state": whole}))
        .unwrap();
        let pod = PodSeen { uid: "p".into(), ready: true, ..PodSeen::default() };
        Member { name: "cache-0".into(), pod: Some(pod), report: Seen::Answered(report), fresh_volume: false }
    }

    fn shown(member: Member, old: &RedisReplicationStatus) -> MemberStatus {
        let desired = check(json!({})).unwrap();
        let observed = Observed { members: BTreeMap::from([(0, member)]), ..Observed::default() };
        row(&View { desired: &desired, observed: &observed, status: old, now: Timestamp::UNIX_EPOCH }, 0, &observed.members[&0])
    }

    #[test]
    fn a_row_says_what_a_member_is_and_whom_it_follows() {
        let link = |source: &str| json!({"source": source, "connected": true});
        let old = RedisReplicationStatus::default();
        let state = json!({"replication": link("cache-1.cache.shop.svc"), "identity": "id", "engine": "valkey", "version": "8.1.1"});
        let row = shown(member(state), &old);
        assert_eq!((row.role.as_str(), row.ready, row.source.as_deref()), ("Replica", true, Some("cache-1")));
        assert_eq!((row.identity.as_deref(), row.engine.as_deref(), row.version.as_deref()), (Some("id"), Some("Valkey"), Some("8.1.1")));
        for (state, role) in [
            (json!({"role": "primary"}), "Primary"),
            (json!({"role": "isolated", "replication": link("127.0.0.1")}), "Isolated"),
            (json!({"role": "unknown"}), "Unknown"),
            (json!({"data": {"kind": "empty"}}), "Joining"),
            (json!({"data": {"kind": "syncing", "copied": 1, "total": 2}}), "Joining"),
        ] {
            let row = shown(member(state.clone()), &old);
            assert_eq!((row.role.as_str(), row.source), (role, None), "{state}");
        }
    }

    #[test]
    fn who_is_silent_for_a_moment_keeps_what_is_known_of_it() {
        let known =
            MemberStatus { name: "cache-0".into(), identity: Some("id".into()), version: Some("7.2.1".into()), ..MemberStatus::default() };
        let old = RedisReplicationStatus { members: vec![known], ..RedisReplicationStatus::default() };
        let mut silent = member(json!({}));
        silent.report = Seen::Silent { since: Timestamp::UNIX_EPOCH };
        let row = shown(silent, &old);
        assert_eq!((row.role.as_str(), row.ready, row.identity.as_deref()), ("Unknown", false, Some("id")));
        assert_eq!(row.version.as_deref(), Some("7.2.1"));
    }
}
