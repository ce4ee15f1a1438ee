//! Handing over by `FAILOVER`, and taking it back.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sidecar_protocol::redis::{Handover, Lineage, Part, Role, Yield};
use tokio::time::{Instant, sleep, timeout};

use crate::rig::{DEADLINE, Member, Rig, Server};

fn yields(to: &Member, timeout_millis: u64) -> Part {
    let yield_to = Some(Yield { to: to.peer(), timeout_millis });
    Part::Primary { identity: None, admitted: vec![1, 2], min_replicas: 0, max_lag_seconds: 10, yield_to }
}

fn inherits(from: &Member) -> Part {
    let lineage = Lineage::default().written(&from.now().position.unwrap());
    Part::Replica { source: from.peer(), lineage, discard: None, heir_of: Some(0), source_yields: false }
}

#[tokio::test]
async fn a_primary_hands_over_under_writes_and_its_clients_wait_or_are_told_to_look_for_the_new_one() {
    for server in [Server::Redis, Server::Valkey] {
        let rig = Rig::of(server);
        let mut zero = rig.primary(&[1, 2]).await;
        let mut one = rig.replica(1, &zero).await;
        let mut two = rig.replica(2, &zero).await;
        let (old, new) = (zero.app().await, one.app().await);
        let reader = zero.app().await;
        reader.set("seen", 0).await.unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let writer = tokio::spawn(async move {
            let (mut written, mut gap, mut last) = (0, Duration::ZERO, Instant::now());
            while !stopped.load(Ordering::Relaxed) {
                for client in [&old, &new] {
                    match client.set(&format!("k{written}"), 0).await {
                        Ok(_) => {
                            (written, gap, last) = (written + 1, gap.max(last.elapsed()), Instant::now());
                            break;
                        }
                        // The old one sends its clients away in the end.
                        Err(error) if error.is_connection_dropped() || error.is_io_error() => {}
                        Err(error) => assert!(matches!(error.code(), Some("READONLY" | "UNBLOCKED")), "{error:?}"),
                    }
                }
            }
            (written, gap)
        });
        sleep(Duration::from_millis(300)).await;
        one.order(inherits(&zero));
        one.converged().await;
        let begun = Instant::now();
        zero.order(yields(&one, 2_000));
        let state = one.until("primary", |state| state.role == Role::Primary).await;
        let took = begun.elapsed();
        assert!(state.ready && state.accepted.unwrap().converged);
        zero.until("a replica", |state| state.role == Role::Replica && state.replication.as_ref().is_some_and(|link| link.connected)).await;
        assert!(zero.now().accepted.is_some_and(|accepted| !accepted.converged), "it leads no more, though its order says so");
        // Who only reads would stay for ever with a member that is no primary any more.
        let cut_off = async { while reader.ask(&["GET", "seen"]).await.is_ok() {} };
        timeout(DEADLINE, cut_off).await.expect("a client of the time before is still there");
        one.lead(&[0, 2]);
        let leads = one.converged().await.position.unwrap();
        for member in [&mut zero, &mut two] {
            let lineage = Lineage::default().written(&leads);
            let lineage = leads.before.iter().fold(lineage, |lineage, before| {
                let mut lineage = lineage;
                lineage.0.insert(0, before.clone());
                lineage
            });
            member.follow_with(&one, lineage, None);
            member.converged().await;
        }
        sleep(Duration::from_millis(200)).await;
        stop.store(true, Ordering::Relaxed);
        let (written, gap) = writer.await.unwrap();
        eprintln!("{server:?}: seen after {took:?}, nobody could write for {gap:?}");
        for key in 0..written {
            assert!(one.get(&format!("k{key}")).await.is_some(), "k{key} of {written} is lost");
        }
        assert_eq!(zero.now().archive, None, "nothing was only the old one's");
        one.app().await.set_on("last", 2).await;
    }
}

#[tokio::test]
async fn an_heir_that_does_not_catch_up_in_time_is_given_up_and_the_primary_leads_on() {
    let rig = Rig::new();
    let mut zero = rig.primary(&[1, 2]).await;
    let mut one = rig.replica(1, &zero).await;
    one.order(inherits(&zero));
    one.converged().await;
    one.signal_server("STOP").await;
    let client = zero.app().await;
    client.set("a", 0).await.unwrap();
    zero.order(yields(&one, 500));
    zero.until("waiting", |state| state.handover == Handover::Waiting).await;
    let state = zero.until("given up", |state| matches!(state.handover, Handover::Failed { .. })).await;
    assert_eq!((state.role, state.ready), (Role::Primary, true));
    assert_eq!(client.set("b", 0).await.unwrap(), 0);
    sleep(Duration::from_millis(300)).await;
    assert!(matches!(zero.now().handover, Handover::Failed { .. }), "tried once");
    one.signal_server("CONT").await;
    zero.lead(&[1, 2]);
    assert_eq!(zero.converged().await.handover, Handover::None);
}

#[tokio::test]
async fn a_hand_over_that_is_withdrawn_while_it_waits_is_aborted() {
    let rig = Rig::new();
    let mut zero = rig.primary(&[1, 2]).await;
    let mut one = rig.replica(1, &zero).await;
    one.order(inherits(&zero));
    one.converged().await;
    one.signal_server("STOP").await;
    let client = zero.app().await;
    client.set("a", 0).await.unwrap();
    zero.order(yields(&one, 20_000));
    zero.until("waiting", |state| state.handover == Handover::Waiting).await;
    let held = tokio::spawn(async move { client.set("b", 0).await });
    sleep(Duration::from_millis(100)).await;
    assert!(!held.is_finished(), "writes wait");
    zero.lead(&[1, 2]);
    let state = zero.converged().await;
    assert_eq!((state.role, state.handover), (Role::Primary, Handover::None));
    assert_eq!(held.await.unwrap().unwrap(), 0, "and go on");
    one.signal_server("CONT").await;
}

#[tokio::test]
async fn a_primary_that_waits_for_an_heir_it_has_told_stands_still_when_it_must() {
    for server in [Server::Redis, Server::Valkey] {
        let rig = Rig::of(server);
        let mut zero = rig.primary(&[1, 2]).await;
        // It is no heir by its order, and has no account for its primary: that one knocks for ever.
        let one = rig.replica(1, &zero).await;
        let client = zero.app().await;
        client.set_on("a", 1).await;
        let before = zero.now().position.unwrap();
        zero.order(yields(&one, 2_000));
        zero.until("changing", |state| state.handover == Handover::Changing).await;
        let held = zero.freeze().await;
        assert_eq!((zero.now().role, zero.now().handover), (Role::Isolated, Handover::None));
        assert!(held.contains(&before), "{held} {before}");
        assert!(client.set("b", 0).await.is_err(), "nobody wrote in between");
        // It follows again whoever leads in its place.
        zero.lead(&[1, 2]);
        zero.converged().await;
        zero.app().await.set_on("c", 1).await;
    }
}

#[tokio::test]
async fn an_heir_that_is_not_there_is_given_up_when_its_time_is_over() {
    let rig = Rig::new();
    let mut zero = rig.primary(&[1, 2]).await;
    let one = rig.member(1);
    zero.order(yields(&one, 300));
    let state = zero.until("given up", |state| matches!(state.handover, Handover::Failed { .. })).await;
    assert!(state.problem.is_none(), "{:?}", state.problem);
    assert_eq!((state.role, zero.app().await.set("a", 0).await.unwrap()), (Role::Primary, 0));
}
