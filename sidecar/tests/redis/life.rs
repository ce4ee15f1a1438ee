//! The common life: boot, lead, follow, stand still.

use std::time::Duration;

use sidecar::redis::converge::refuse;
use sidecar_protocol::redis::{Assignment, Data, Engine, Part, ProblemCode, Process, Role};
use tokio::time::{sleep, timeout};

use crate::rig::{DEADLINE, Rig, Server};

#[tokio::test]
async fn an_empty_member_leads_and_another_follows_it_over_tls() {
    for (server, engine) in [(Server::Redis, Engine::Redis), (Server::Valkey, Engine::Valkey)] {
        let rig = Rig::of(server);
        let mut zero = rig.member(0);
        let state = zero.until("up", |state| state.process == Process::Running).await;
        assert_eq!((state.role, &state.data, state.position, state.engine), (Role::Isolated, &Data::Empty, None, Some(engine)));
        assert!(!state.ready, "it follows nobody");
        zero.lead(&[1]);
        let state = zero.converged().await;
        assert_eq!((state.role, state.ready, &state.data, state.admits), (Role::Primary, true, &Data::Present, Some(vec![1])));
        zero.app().await.set("a", 0).await.unwrap();

        let first = zero.now().position.unwrap().replid;
        let one = rig.replica(1, &zero).await;
        assert_eq!(one.now().position.unwrap().replid, first, "the history has the name that it began with");
        assert_eq!(one.get("a").await.as_deref(), Some("x"));
        let client = zero.app().await;
        client.set_on("b", 1).await;
        let state = one.until("ready", |state| state.ready).await;
        assert_eq!((state.role, state.replication.unwrap().connected), (Role::Replica, true));
        assert_eq!(one.app().await.set("c", 0).await.unwrap_err().code(), Some("READONLY"));
        assert_eq!(zero.until("followed", |state| !state.replicas.is_empty()).await.replicas[0].host, one.config.host);
    }
}

#[tokio::test]
async fn what_stands_still_is_where_it_says_and_everything_acknowledged_is_before_that() {
    let rig = Rig::new();
    let mut zero = rig.primary(&[1]).await;
    let mut one = rig.replica(1, &zero).await;
    let client = zero.app().await;
    // A replica that has just come acknowledges for the first time within a second.
    client.set_on("first", 1).await;
    let writer = tokio::spawn(async move {
        let mut acknowledged = 0;
        while client.set(&format!("k{acknowledged}"), 1).await.is_ok_and(|held| held == 1) {
            acknowledged += 1;
        }
        acknowledged
    });
    sleep(Duration::from_millis(500)).await;
    let held = one.freeze().await;
    assert_eq!(one.now().role, Role::Isolated);
    let acknowledged = writer.await.unwrap();
    assert!(acknowledged > 10, "{acknowledged}");
    assert!(one.get(&format!("k{}", acknowledged - 1)).await.is_some(), "what was acknowledged is held");
    zero.app().await.set("later", 0).await.unwrap();
    sleep(Duration::from_millis(200)).await;
    assert_eq!((one.now().position.as_ref(), one.get("later").await), (Some(&held), None), "nothing is received any more");

    // The primary stands still too: its clients go, and it is at least where the replica is.
    let client = zero.app().await;
    let ahead = zero.freeze().await;
    assert!(ahead.contains(&held) && !held.contains(&ahead), "{ahead} {held}");
    assert!(client.set("x", 0).await.is_err(), "sent away to find the new primary");
    assert_eq!(zero.app().await.set("x", 0).await.unwrap_err().code(), Some("READONLY"));

    // The replica leads, and the old primary, which holds more, archives before it follows: see `surplus`.
    one.lead(&[0]);
    let state = one.converged().await;
    assert_eq!(state.position.unwrap().holds(&held.replid), Some(held.offset));
}

#[tokio::test]
async fn who_is_not_admitted_cannot_follow_and_who_is_barred_is_cut_off() {
    let rig = Rig::new();
    let mut zero = rig.primary(&[1]).await;
    let one = rig.replica(1, &zero).await;
    let mut two = rig.member(2);
    two.follow(&zero);
    two.until("a problem", |state| state.problem.as_ref().is_some_and(|problem| problem.code == ProblemCode::ReplicationFailed)).await;
    assert!(!two.now().ready && two.now().data == Data::Empty);

    zero.lead(&[2]);
    let state = zero.converged().await;
    assert_eq!(state.admits, Some(vec![2]));
    two.converged().await;
    one.until("cut off", |state| state.replication.as_ref().is_some_and(|replication| !replication.connected)).await;
    zero.app().await.set_on("a", 1).await;
    assert_eq!(zero.app().await.set("a", 2).await.unwrap(), 1, "only who is admitted acknowledges");
}

#[tokio::test]
async fn a_primary_sets_how_many_replicas_a_write_needs_and_nobody_else_does() {
    let rig = Rig::new();
    let mut zero = rig.member(0);
    zero.order(Part::Primary { identity: None, admitted: vec![1], min_replicas: 1, max_lag_seconds: 3, yield_to: None });
    zero.converged().await;
    assert_eq!(zero.app().await.set("a", 0).await.unwrap_err().code(), Some("NOREPLICAS"));
    let _one = rig.replica(1, &zero).await;
    let client = zero.app().await;
    let writes = async {
        while client.set("a", 1).await.is_err() {
            sleep(Duration::from_millis(20)).await;
        }
    };
    // The primary counts them once a second.
    timeout(DEADLINE, writes).await.unwrap();
    zero.freeze().await;
    let options = zero.local().await.ask(&["CONFIG", "GET", "min-replicas-to-write"]).await.unwrap();
    assert_eq!(redis::from_redis_value::<Vec<String>>(options).unwrap()[1], "0");
}

#[tokio::test]
async fn a_replica_that_is_silent_for_longer_than_the_allowed_lag_counts_no_more_though_its_link_stands() {
    for server in [Server::Redis, Server::Valkey] {
        let rig = Rig::of(server);
        let mut zero = rig.member(0);
        zero.order(Part::Primary { identity: None, admitted: vec![1], min_replicas: 1, max_lag_seconds: 3, yield_to: None });
        zero.converged().await;
        let one = rig.replica(1, &zero).await;
        let client = zero.app().await;
        client.set_on("a", 1).await;
        one.signal_server("STOP").await;
        let refused = async {
            loop {
                match client.set("b", 0).await {
                    Ok(_) => sleep(Duration::from_millis(50)).await,
                    Err(error) => break assert_eq!(error.code(), Some("NOREPLICAS"), "{error:?}"),
                }
            }
        };
        timeout(DEADLINE, refused).await.expect("writes go on beside a replica that is cut off");
        zero.says("replication", "connected_slaves:1").await;
        one.signal_server("CONT").await;
        client.set_on("c", 1).await;
    }
}

#[tokio::test]
async fn a_member_that_follows_leads_only_after_it_stood_still_and_never_with_other_data() {
    let rig = Rig::new();
    let zero = rig.primary(&[1]).await;
    let mut one = rig.replica(1, &zero).await;
    let part =
        |identity: Option<String>| Part::Primary { identity, admitted: vec![], min_replicas: 0, max_lag_seconds: 10, yield_to: None };
    let assignment = |part| Assignment { part, members: vec![0, 1], users: vec![] };
    assert!(refuse(&one.now(), &assignment(part(None))).unwrap().contains("isolate it first"));
    one.order(part(None));
    sleep(Duration::from_millis(300)).await;
    assert_eq!(one.now().role, Role::Replica);

    one.freeze().await;
    let other = "ab".repeat(16);
    assert!(refuse(&one.now(), &assignment(part(Some(other.clone())))).unwrap().contains("the data"));
    one.order(part(Some(other)));
    let state = one.until("a problem", |state| state.problem.is_some()).await;
    assert_eq!((state.role, state.problem.unwrap().code), (Role::Isolated, ProblemCode::OtherHistory));
    one.order(part(one.now().identity));
    assert_eq!(one.converged().await.role, Role::Primary);
}
