//! What comes back after an end: of the server, of the sidecar, of the pod.

use std::time::Duration;

use sidecar::redis::Persistence;
use sidecar_protocol::redis::{Data, Part, ProblemCode, Process, Role};
use tokio::time::{Instant, sleep};

use crate::rig::{Rig, Server};

#[tokio::test]
async fn a_server_boots_as_nobodys_replica_whatever_it_held_and_is_told_where_it_was() {
    for server in [Server::Redis, Server::Valkey] {
        let rig = Rig::of(server);
        let mut zero = rig.primary(&[1]).await;
        let _one = rig.replica(1, &zero).await;
        zero.app().await.set("a", 1).await.unwrap();
        let before = zero.until("written", |state| state.position.as_ref().is_some_and(|position| position.offset > 0)).await;
        sleep(Duration::from_millis(1500)).await;
        zero.replace_pod().await;
        let state = zero.until("back", |state| state.position.is_some()).await;
        let position = state.position.unwrap();
        assert_eq!((state.role, state.data, &state.identity), (Role::Isolated, Data::Present, &before.identity));
        assert!(position.recovered && position.led, "{position:?}");
        assert_eq!(position.replid, before.position.unwrap().replid);
        assert_eq!(zero.get("a").await.as_deref(), Some("x"));
        assert!(zero.login("app", "app-1").await.is_err(), "nobody gets in before it has an order");

        // It opens again under an order, with all that it holds, and goes on from a history of its own.
        zero.lead(&[1]);
        let state = zero.converged().await;
        assert!(!state.position.unwrap().recovered);
        assert_eq!(zero.app().await.set("b", 0).await.unwrap(), 0);
    }
}

#[tokio::test]
async fn what_stood_still_when_it_ended_is_known_exactly() {
    let rig = Rig::new();
    let mut zero = rig.primary(&[1]).await;
    let _one = rig.replica(1, &zero).await;
    zero.app().await.set("a", 1).await.unwrap();
    let held = zero.freeze().await;
    sleep(Duration::from_millis(200)).await;
    zero.kill_server().await;
    let state = zero.until("back", |state| state.process == Process::Running && state.position.is_some()).await;
    assert_eq!(state.position.as_ref(), Some(&held), "led, and not less than exact");
    assert!(held.led && !held.recovered);
}

#[tokio::test]
async fn a_replica_whose_end_is_announced_stands_still_and_is_known_exactly_after_it() {
    let rig = Rig::new();
    let zero = rig.primary(&[1]).await;
    let one = rig.replica(1, &zero).await;
    zero.app().await.set_on("a", 1).await;
    // Until its first copy is on its volume it is not.
    one.says("persistence", "aof_rewrite_in_progress:0\r\naof_rewrite_scheduled:0").await;
    sleep(Duration::from_millis(1000)).await;
    one.leaving.send_modify(|count| *count += 1);
    let held = one.until("still", |state| state.role == Role::Isolated).await.position.unwrap();
    sleep(Duration::from_millis(100)).await;
    one.signal_server("TERM").await;
    one.until("down", |state| state.process == Process::Down).await;
    let state = one.until("back", |state| state.position.is_some()).await;
    assert_eq!((state.position, held.recovered, held.led), (Some(held.clone()), false, false));
    // It follows again, by its order.
    one.converged().await;
    assert_eq!(one.get("a").await.as_deref(), Some("x"));
}

#[tokio::test]
async fn a_replica_that_ends_as_soon_as_it_has_its_first_copy_is_no_stranger() {
    let rig = Rig::new();
    let zero = rig.primary(&[1]).await;
    for key in 0..100 {
        zero.app().await.set(&format!("k{key}"), 0).await.unwrap();
    }
    let one = rig.replica(1, &zero).await;
    let identity = one.now().identity;
    for _ in 0..5 {
        one.kill_server().await;
        one.until("down", |state| state.role == Role::Unknown).await;
        one.converged().await;
    }
    assert_eq!(one.get("k99").await.as_deref(), Some("x"));
    assert!(one.now().identity.is_some() && identity.is_some());
}

#[tokio::test]
async fn a_killed_server_is_missed_before_it_is_back_and_opens_again_under_its_order() {
    let rig = Rig::new();
    let zero = rig.primary(&[]).await;
    zero.app().await.set("a", 0).await.unwrap();
    sleep(Duration::from_millis(1500)).await;
    zero.kill_server().await;
    let killed = Instant::now();
    zero.until("down", |state| state.process == Process::Down).await;
    eprintln!("missed after {:?}", killed.elapsed());
    zero.converged().await;
    assert_eq!(zero.get("a").await.as_deref(), Some("x"));
}

#[tokio::test]
async fn a_sidecar_that_starts_anew_disturbs_nobody() {
    let rig = Rig::new();
    let mut zero = rig.primary(&[1]).await;
    let mut one = rig.replica(1, &zero).await;
    let (client, before) = (zero.app().await, (zero.now().identity, one.now().identity));
    for member in [&mut zero, &mut one] {
        member.stop_sidecar().await;
        member.start_sidecar();
        member.until("seen", |state| state.position.is_some()).await;
    }
    // Without an order it changes nothing.
    sleep(Duration::from_millis(300)).await;
    assert_eq!(client.set("a", 1).await.unwrap(), 1, "neither client nor replica was cut off");
    zero.lead(&[1]);
    one.follow(&zero);
    zero.converged().await;
    one.converged().await;
    assert_eq!(client.set("b", 1).await.unwrap(), 1);
    assert_eq!((zero.now().identity, one.now().identity), before);
}

#[tokio::test]
async fn without_persistence_another_process_is_other_data_and_does_not_open_under_an_order_for_those_of_before() {
    let rig = Rig::new();
    let mut zero = rig.member_with(0, |config| config.persistence = Persistence::None);
    zero.until("up", |state| state.process == Process::Running).await;
    let identity = zero.now().identity;
    zero.order(sidecar_protocol::redis::Part::Primary {
        identity: identity.clone(),
        admitted: vec![],
        min_replicas: 0,
        max_lag_seconds: 10,
        yield_to: None,
    });
    let state = zero.converged().await;
    assert!(!state.persistent);
    zero.app().await.set("a", 0).await.unwrap();
    zero.kill_server().await;
    zero.until("down", |state| state.process == Process::Down).await;
    let state = zero.until("back", |state| state.process == Process::Running).await;
    assert_eq!((state.role, &state.data, &state.position), (Role::Isolated, &Data::Empty, &None));
    assert_ne!(state.identity, identity);
    sleep(Duration::from_millis(500)).await;
    assert_eq!(zero.now().role, Role::Isolated);
}

#[tokio::test]
async fn a_replica_without_persistence_comes_back_with_nothing_and_copies_again() {
    for server in [Server::Redis, Server::Valkey] {
        let rig = Rig::of(server);
        let volatile = |config: &mut sidecar::redis::Config| config.persistence = Persistence::None;
        let mut zero = rig.member_with(0, volatile);
        zero.lead(&[1]);
        zero.converged().await;
        zero.app().await.set("old", 0).await.unwrap();
        let mut one = rig.member_with(1, volatile);
        one.follow(&zero);
        one.converged().await;
        zero.app().await.set_on("a", 1).await;
        let identity = one.now().identity;
        // Without an order, so that it is seen as it comes back.
        one.stop_sidecar().await;
        one.kill_server().await;
        sleep(Duration::from_millis(300)).await;
        one.start_sidecar();
        let state = one.until("back", |state| state.role == Role::Isolated).await;
        assert_eq!((&state.data, &state.position), (&Data::Empty, &None), "no copy of old was read");
        assert_ne!(state.identity, identity);
        one.follow(&zero);
        one.converged().await;
        assert_eq!(one.get("a").await.as_deref(), Some("x"));
    }
}

#[tokio::test]
async fn a_snapshot_is_where_the_server_says_it_is() {
    let rig = Rig::new();
    rig.configure("save 3600 1\n");
    let snapshot = |config: &mut sidecar::redis::Config| config.persistence = Persistence::Snapshot;
    let mut zero = rig.member_with(0, snapshot);
    zero.lead(&[1]);
    zero.converged().await;
    let mut one = rig.member_with(1, snapshot);
    one.follow(&zero);
    one.converged().await;
    let client = zero.app().await;
    client.set("a", 1).await.unwrap();
    zero.local().await.ask(&["SAVE"]).await.unwrap();
    let saved = zero.until("saved", |state| state.position.as_ref().is_some_and(|position| position.offset > 0)).await;
    client.set("b", 1).await.unwrap();
    sleep(Duration::from_millis(1500)).await;
    let part = |identity| Part::Primary { identity, admitted: vec![1], min_replicas: 0, max_lag_seconds: 10, yield_to: None };
    let identity = zero.now().identity;
    zero.order(part(identity.clone()));
    zero.converged().await;
    zero.kill_server().await;
    zero.until("down", |state| state.process == Process::Down).await;
    // It does not hold all that it acknowledged: the order for those data is none for these.
    let state = zero.until("refused", |state| state.problem.is_some()).await;
    assert_eq!((state.role, state.problem.unwrap().code), (Role::Isolated, ProblemCode::OtherHistory));
    assert!(state.identity.is_some() && state.identity != identity);
    sleep(Duration::from_millis(300)).await;
    assert_eq!((zero.now().role, zero.now().identity), (Role::Isolated, state.identity.clone()), "it is renewed once");
    zero.order(part(state.identity));
    let state = zero.converged().await;
    assert_eq!(zero.get("b").await, None, "what no snapshot has is lost");
    let position = state.position.unwrap();
    let before = saved.position.unwrap().replid;
    assert!(position.holds(&before).is_some(), "it goes on from the history of its snapshot: {position:?}");

    // A replica whose snapshot names its history is where that says; it is who it was only if that is all.
    for whole in [false, true] {
        one.follow(&zero);
        one.converged().await;
        zero.app().await.set_on("c", 1).await;
        one.local().await.ask(&["SAVE"]).await.unwrap();
        zero.app().await.set_on("d", 1).await;
        let (held, identity) = (one.freeze().await, one.now().identity);
        // What is known of a standstill is on the volume.
        sleep(Duration::from_millis(300)).await;
        if whole {
            one.local().await.ask(&["SAVE"]).await.unwrap();
        }
        one.kill_server().await;
        one.until("down", |state| state.process == Process::Down).await;
        let state = one.until("back", |state| state.position.is_some()).await;
        let position = state.position.unwrap();
        assert_eq!((&position.replid, position.recovered), (&held.replid, false));
        assert_eq!((position.offset == held.offset, state.identity == identity), (whole, whole), "{position} of {held}");
    }
}
