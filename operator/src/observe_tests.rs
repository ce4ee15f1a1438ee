use k8s_openapi::api::core::v1::{ContainerState, ContainerStateWaiting};

use crds::mysql::MySQLCluster;

use super::*;
use crate::mysql::MySql;

fn of<K: serde::de::DeserializeOwned>(yaml: &str) -> K {
    serde_yaml::from_str(yaml).unwrap()
}

fn cluster() -> MySQLCluster {
    of(r"{apiVersion: understudy.dev/v1alpha1, kind: MySQLCluster,
        metadata: {name: simple, namespace: here, uid: u1, creationTimestamp: '2026-01-01T00:00:00Z',
          annotations: {understudy.dev/accept-loss: simple-2@7}},
        spec: {storage: {size: 1Gi, className: nope}}}")
}

fn set(owner: &str, observed: i64) -> Arc<StatefulSet> {
    Arc::new(of(&format!(
        "{{metadata: {{name: simple, uid: s1, generation: 2, ownerReferences: [{{apiVersion: v1, kind: MySQLCluster, name: simple, uid: {owner}}}]}},
          spec: {{replicas: 3, serviceName: simple, selector: {{}}, template: {{}}}},
          status: {{replicas: 3, observedGeneration: {observed}, updateRevision: new}}}}"
    )))
}

fn pod(name: &str, owner: &str, revision: &str, status: &str) -> Arc<Pod> {
    Arc::new(of(&format!(
        "{{metadata: {{name: {name}, uid: {name}-uid, creationTimestamp: '2026-01-01T00:00:00Z', labels: {{controller-revision-hash: {revision}}},
          ownerReferences: [{{apiVersion: apps/v1, kind: StatefulSet, name: simple, uid: {owner}}}]}}, status: {status}}}"
    )))
}

fn look(live: &Live, claims: Option<Vec<PersistentVolumeClaim>>) -> Observed<MySql> {
    let cluster = cluster();
    let desired = MySql::validate(&cluster).unwrap();
    let now = "2026-01-01T00:01:00Z".parse().unwrap();
    Looked { cluster: &cluster, desired: &desired, live, slice: None, claims, now }.at(|_| None)
}

#[test]
fn pods_of_an_earlier_cluster_are_not_members() {
    let pods =
        vec![pod("simple-0", "s1", "new", "{podIP: 10.0.0.1}"), pod("simple-1", "s0", "new", "{}"), pod("other-0", "s1", "new", "{}")];
    let seen = look(&Live { stateful_sets: vec![set("u1", 2)], pods: pods.clone(), ..Live::default() }, None);
    let with_pod: Vec<_> = seen.members.iter().filter(|(_, member)| member.pod.is_some()).map(|(ordinal, _)| *ordinal).collect();
    assert_eq!((with_pod, seen.members.len()), (vec![0], 3));
    let seen = look(&Live { stateful_sets: vec![set("u0", 2)], pods, ..Live::default() }, None);
    assert_eq!((seen.members.len(), seen.stateful_set), (0, None));
    assert_eq!(seen.asked.consent, Some(("simple-2".into(), 7)));
}

#[test]
fn a_pod_is_outdated_only_against_a_revision_that_is_current() {
    let pods = vec![pod("simple-0", "s1", "old", "{}"), pod("simple-1", "s1", "new", "{}")];
    let outdated = |observed: i64| {
        let seen = look(&Live { stateful_sets: vec![set("u1", observed)], pods: pods.clone(), ..Live::default() }, None);
        [0, 1].map(|ordinal| seen.members[&ordinal].pod.as_ref().unwrap().outdated)
    };
    assert_eq!(outdated(2), [true, false]);
    assert_eq!(outdated(1), [false, false]);
}

#[test]
fn a_volume_older_than_the_cluster_may_hold_data_of_an_earlier_life() {
    let claim = |name: &str, time: &str| of(&format!("{{metadata: {{name: {name}, creationTimestamp: '{time}'}}}}"));
    let claims = vec![claim("data-simple-0", "2025-12-31T23:59:59Z"), claim("data-simple-1", "2026-01-01T00:00:00Z")];
    let seen = look(&Live::default(), Some(claims));
    // Before birth every wanted ordinal counts, whether the StatefulSet has it already or not.
    assert_eq!(seen.members.values().map(|member| member.fresh_volume).collect::<Vec<_>>(), [false, true, true]);
    let seen = look(&Live { stateful_sets: vec![set("u1", 2)], ..Live::default() }, None);
    assert!(seen.members.values().all(|member| !member.fresh_volume), "nobody asked");
}

#[test]
fn a_pod_that_is_not_placed_names_the_storage_class() {
    let status = "{conditions: [{type: PodScheduled, status: 'False', reason: Unschedulable, message: 'pod has unbound immediate PersistentVolumeClaims.'}]}";
    let seen = look(&Live { stateful_sets: vec![set("u1", 2)], pods: vec![pod("simple-0", "s1", "new", status)], ..Live::default() }, None);
    let trouble = seen.members[&0].pod.as_ref().unwrap().trouble.clone().unwrap();
    assert_eq!(trouble.reason, "Unschedulable");
    assert!(trouble.message.contains("StorageClass nope") && trouble.message.contains("data-simple-0"), "{}", trouble.message);
}

#[test]
fn a_pod_that_waits_to_be_placed_becomes_trouble_by_waiting() {
    let live = Live { pods: vec![pod("simple-0", "s1", "new", "{}")], ..Live::default() };
    let at = |second: i64| {
        look_again(&live, Timestamp::from_second("2026-01-01T00:00:00Z".parse::<Timestamp>().unwrap().as_second() + second).unwrap())
    };
    assert_eq!(at(3), Some(Duration::from_secs(7)));
    assert_eq!(at(10), None);
}

#[test]
fn trouble_says_the_same_at_each_attempt() {
    let waiting = |reason: &str, message: &str, restarts: i32| {
        let waiting = ContainerStateWaiting { reason: Some(reason.into()), message: Some(message.into()) };
        let state = Some(ContainerState { waiting: Some(waiting), ..ContainerState::default() });
        cannot_start(&ContainerStatus {
            name: "mysql".into(),
            image: "m:1".into(),
            restart_count: restarts,
            state,
            ..ContainerStatus::default()
        })
    };
    assert_eq!(waiting("ErrImagePull", "a", 0), waiting("ImagePullBackOff", "b", 0));
    assert!(waiting("ImagePullBackOff", "b", 0).unwrap().message.contains("m:1"));
    assert_eq!(waiting("CrashLoopBackOff", "back-off 10s", 1), None, "a restart may heal it");
    assert_eq!(waiting("CrashLoopBackOff", "back-off 40s", 4), waiting("CrashLoopBackOff", "back-off 80s", 5));
    assert_eq!(waiting("ContainerCreating", "", 0), None);
}
