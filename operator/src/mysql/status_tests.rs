use std::collections::BTreeMap;

use sidecar_protocol::Report;
use sidecar_protocol::mysql::{Process, Replication, State};

use super::super::decide;
use super::super::observed::{Observed, PodSeen, Seen, StatefulSetSeen, Trouble};
use super::super::validate::validate;
use super::*;
use crate::decision::Route;
use crate::mysql::decide::Decision;
use crate::mysql::validate::{Desired, Invalid};
use crate::status::{Obstacle, invalid, suspended};
use crds::conditions::{DEGRADED, PROGRESSING, READY, STALLED};

const UID: &str = "2b0e";

fn desired() -> Desired {
    let yaml = "{apiVersion: understudy.dev/v1alpha1, kind: MySQLCluster, metadata: {name: simple, namespace: here, uid: 2b0e}, spec: {storage: {size: 1Gi}}}";
    validate(&serde_yaml::from_str(yaml).unwrap()).unwrap()
}

fn state(role: Role) -> State {
    let channel = Replication {
        source: "simple-0.simple.here.svc".into(),
        receiving: true,
        applying: true,
        lag_seconds: Some(0.0),
        error: None,
        tls: true,
    };
    State {
        data: Data::Present,
        process: Process::Running,
        role,
        replication: (role == Role::Replica).then_some(channel),
        server_uuid: Some("u".into()),
        cloned_from: (role == Role::Replica).then(|| "simple-0".into()),
        version: Some("9.7.4".into()),
        ready: true,
        ..State::default()
    }
}

fn member(ordinal: u32, state: State) -> (u32, Member) {
    let name = format!("simple-{ordinal}");
    let report = Report {
        cluster: UID.into(),
        member: name.clone(),
        incarnation: "i".into(),
        term: 1,
        orders: 0,
        sidecar: "0".into(),
        trust: String::new(),
        state,
    };
    let pod = PodSeen { uid: "p".into(), ip: Some("10.0.0.1".into()), ready: true, ..PodSeen::default() };
    (ordinal, Member { name, pod: Some(pod), report: Seen::Answered(report), fresh_volume: false })
}

fn observed() -> Observed {
    Observed {
        members: BTreeMap::from([member(0, state(Role::Primary)), member(1, state(Role::Replica)), member(2, state(Role::Replica))]),
        stateful_set: Some(StatefulSetSeen { replicas: 3, current: true }),
        route: Some(("simple-0".into(), "p".into())),
        ..Observed::default()
    }
}

fn decision(state: decide::State, reason: &str) -> Decision {
    Decision {
        state,
        reason: reason.into(),
        intent: None,
        orders: BTreeMap::new(),
        route: Route::Keep,
        replicas: 3,
        step: None,
        progressing: None,
        degraded: None,
        stalled: None,
        refused: None,
        requeue: None,
    }
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn after(observed: &Observed, decision: &Decision, obstacles: &[Obstacle], settled: bool, old: &MySQLClusterStatus) -> MySQLClusterStatus {
    let desired = desired();
    status(&Pass { desired: &desired, observed, decision, obstacles, generation: Some(7), settled }, old, at(100))
}

fn old() -> MySQLClusterStatus {
    MySQLClusterStatus { term: 4, primary: Some("simple-0".into()), initialised: true, acks: 1, ..MySQLClusterStatus::default() }
}

fn holds<'a>(status: &'a MySQLClusterStatus, type_: &str) -> Option<(&'a str, &'a str)> {
    let found = status.conditions.iter().find(|condition| condition.type_ == type_).unwrap();
    (found.status == "True").then_some((&*found.reason, &*found.message))
}

#[test]
fn a_healthy_cluster_is_ready_and_says_who_follows_whom() {
    let status = after(&observed(), &decision(decide::State::Healthy, "all serve"), &[], true, &old());
    assert_eq!((status.ready.as_str(), status.replicas, status.observed_generation), ("3/3", 3, Some(7)));
    assert_eq!(holds(&status, READY), Some(("Healthy", "all serve")));
    assert_eq!((holds(&status, PROGRESSING), holds(&status, DEGRADED), holds(&status, STALLED)), (None, None, None));
    let row = &status.members[1];
    assert_eq!((row.role.as_str(), row.source.as_deref(), row.tls), ("Replica", Some("simple-0"), Some(true)));
    assert_eq!((row.cloned_from.as_deref(), status.members[0].source.as_deref()), (Some("simple-0"), None));
    assert_eq!((status.term, status.primary.as_deref(), status.acks), (4, Some("simple-0"), 1));
}

#[test]
fn the_same_pass_a_minute_later_changes_nothing() {
    let decision = decision(decide::State::Healthy, "all serve");
    let first = after(&observed(), &decision, &[], true, &old());
    let mut later = observed();
    for member in later.members.values_mut() {
        let Seen::Answered(report) = &mut member.report else { unreachable!() };
        if let Some(channel) = &mut report.state.replication {
            channel.lag_seconds = Some(9.0);
        }
    }
    let desired = desired();
    let pass = Pass { desired: &desired, observed: &later, decision: &decision, obstacles: &[], generation: Some(7), settled: true };
    assert_eq!(status(&pass, &first, at(160)), first);
}

#[test]
fn it_is_not_ready_without_a_route_and_not_while_a_member_is_missing() {
    let healthy = decision(decide::State::Healthy, "");
    let nobody = Observed { route: None, ..observed() };
    assert_eq!(holds(&after(&nobody, &healthy, &[], true, &old()), READY), None);
    let mut missing = observed();
    missing.members.get_mut(&2).unwrap().report = Seen::Silent { since: at(1) };
    let status = after(&missing, &healthy, &[], true, &old());
    assert_eq!((status.ready.as_str(), holds(&status, READY)), ("2/3", None));
}

#[test]
fn a_silent_member_is_unknown_and_keeps_where_it_came_from() {
    let healthy = decision(decide::State::Healthy, "");
    let before = after(&observed(), &healthy, &[], true, &old());
    let mut silent = observed();
    silent.members.get_mut(&1).unwrap().report = Seen::Silent { since: at(1) };
    let row = after(&silent, &healthy, &[], true, &before).members[1].clone();
    assert_eq!((row.role.as_str(), row.cloned_from.as_deref(), row.ready), ("Unknown", Some("simple-0"), false));
}

#[test]
fn a_generation_is_answered_only_when_kubernetes_has_taken_it_up() {
    let status = after(&observed(), &decision(decide::State::Healthy, ""), &[], false, &old());
    assert_eq!(status.observed_generation, None);
    assert_eq!(holds(&status, PROGRESSING).map(|(reason, _)| reason), Some("Applying"));
}

#[test]
fn what_a_person_must_mend_stalls_and_what_passes_does_not() {
    let healthy = decision(decide::State::Healthy, "");
    let lasting = Obstacle { reason: "NameTaken", message: "rename it".into(), passes: false };
    let passing = Obstacle { reason: "WaitingForOldObjects", message: "soon".into(), passes: true };
    let status = after(&observed(), &healthy, &[passing, lasting], true, &old());
    assert_eq!(holds(&status, STALLED), Some(("NameTaken", "rename it")));
    assert_eq!(holds(&status, PROGRESSING), Some(("WaitingForOldObjects", "soon")));
    assert_eq!(holds(&status, READY), Some(("Healthy", "")), "the members serve all the same");
}

#[test]
fn a_clone_shows_its_progress_in_steps_and_a_pod_its_trouble() {
    let mut joining = observed();
    let Seen::Answered(report) = &mut joining.members.get_mut(&1).unwrap().report else { unreachable!() };
    report.state.data = Data::Cloning { donor: "simple-0".into(), copied: 47, total: 100 };
    joining.members.get_mut(&2).unwrap().pod.as_mut().unwrap().trouble =
        Some(Trouble { reason: "ImagePullBackOff".into(), message: "no such image".into() });
    let status = after(&joining, &decision(decide::State::Degraded, ""), &[], true, &old());
    let shown: Vec<_> = status.members.iter().map(|row| (row.role.as_str(), row.message.as_deref())).collect();
    assert_eq!(shown[1..], [("Joining", Some("cloning from simple-0: 40 %")), ("Replica", Some("ImagePullBackOff: no such image"))]);
}

#[test]
fn an_invalid_or_suspended_cluster_keeps_its_authority() {
    let wrong = Invalid { field: "spec.config.port".into(), message: "owned".into() };
    let status = invalid(&old(), &wrong, Some(8), at(1));
    assert_eq!(holds(&status, STALLED), Some(("InvalidSpec", "spec.config.port: owned")));
    assert_eq!((status.term, status.initialised, status.observed_generation), (4, true, Some(8)));
    let ready = |status: &MySQLClusterStatus| {
        status.conditions.iter().find(|one| one.type_ == READY).map(|one| (one.status.clone(), one.reason.clone()))
    };
    assert_eq!(ready(&status), Some(("Unknown".into(), "InvalidSpec".into())), "nobody looks");
    let unborn = invalid(&MySQLClusterStatus::default(), &wrong, Some(1), at(1));
    assert_eq!((ready(&unborn), holds(&unborn, STALLED).is_some()), (None, true));
    let status = suspended(&status, Some(9), at(2));
    assert_eq!((status.state.as_str(), status.term), ("Suspended", 4));
    assert_eq!(suspended(&status, Some(9), at(3)), status);
}
