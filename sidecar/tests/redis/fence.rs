//! A primary that is on its own, as the database and its clients see it. The test plays the other members' sidecars.

use std::time::Duration;

use sidecar::fence::{Guard, Ordered};
use sidecar_protocol::redis::{Process, Role};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use crate::rig::{Member, Rig};

/// As the shell tells it of an order that was accepted.
fn ordered(member: &Member) {
    member.guard.order(Some(Ordered { term: member.term, members: [0, 1, 2].into() }));
}

/// A member that is heard twice a second, with the primary's term.
fn peer(guard: Guard, term: u64) -> JoinHandle<()> {
    tokio::spawn(async move {
        loop {
            assert!(guard.heard(guard.epoch(), 1, term));
            sleep(Duration::from_millis(500)).await;
        }
    })
}

#[tokio::test]
async fn a_deposed_primary_closes_and_sends_its_clients_away_until_a_current_order_comes() {
    let rig = Rig::new();
    let mut zero = rig.primary(&[]).await;
    let client = zero.app().await;
    client.set("a", 0).await.unwrap();
    ordered(&zero);
    let _ = zero.guard.heard(zero.guard.epoch(), 1, zero.term);
    let start = Instant::now();
    let _ = zero.guard.heard(zero.guard.epoch(), 2, zero.term + 1);
    let state = zero.until("fenced", |state| state.fenced).await;
    // Not only when its time as a primary that hears nobody is over.
    assert!(start.elapsed() < Duration::from_secs(3), "deposed is deposed: {:?}", start.elapsed());
    assert_eq!((state.role, state.ready), (Role::Isolated, false));
    assert!(!state.accepted.unwrap().converged);
    assert!(client.set("b", 0).await.is_err(), "sent away");
    assert_eq!(zero.app().await.set("b", 0).await.unwrap_err().code(), Some("READONLY"));

    let again = zero.now().accepted.unwrap().assignment.part;
    zero.term += 1;
    ordered(&zero);
    zero.term -= 1;
    zero.order(again);
    let _ = zero.guard.heard(zero.guard.epoch(), 1, zero.term);
    let state = zero.converged().await;
    assert_eq!((state.role, state.ready, state.fenced), (Role::Primary, true, false));
    zero.app().await.set("c", 0).await.unwrap();
}

#[tokio::test]
async fn a_server_that_restarts_opens_again_while_a_majority_confirms_it_and_only_then() {
    let rig = Rig::new();
    let zero = rig.primary(&[]).await;
    zero.app().await.set("a", 0).await.unwrap();
    ordered(&zero);
    let confirming = peer(zero.guard.clone(), zero.term);
    zero.kill_server().await;
    zero.until("down", |state| state.process == Process::Down).await;
    zero.converged().await;

    confirming.abort();
    sleep(Duration::from_millis(3_100)).await;
    assert_eq!((zero.now().role, zero.guard.verdict().may_open), (Role::Primary, false), "open, but it would not open now");
    zero.kill_server().await;
    zero.until("up", |state| state.process == Process::Running && state.role == Role::Isolated).await;
    sleep(Duration::from_secs(1)).await;
    assert_eq!(zero.now().role, Role::Isolated);
    let state = zero.until("fenced", |state| state.fenced).await;
    assert!(!state.ready);

    let confirming = peer(zero.guard.clone(), zero.term);
    zero.converged().await;
    assert_eq!(zero.get("a").await.as_deref(), Some("x"));
    confirming.abort();
}

#[tokio::test]
async fn an_open_primary_whose_sidecar_restarts_without_contact_closes() {
    let rig = Rig::new();
    let mut zero = rig.primary(&[]).await;
    zero.stop_sidecar().await;
    zero.start_sidecar();
    // Its order is on the volume, and nobody confirms it.
    ordered(&zero);
    let state = zero.until("open", |state| state.role == Role::Primary).await;
    assert!(!state.ready && state.accepted.is_none());
    let state = zero.until("fenced", |state| state.fenced).await;
    assert_eq!((state.role, state.accepted), (Role::Isolated, None));
    assert!(zero.app().await.set("a", 0).await.is_err());
}

#[tokio::test]
async fn a_primary_that_ends_with_nobody_to_take_over_closes_first_and_is_known_exactly_after_that() {
    let rig = Rig::new();
    let zero = rig.primary(&[]).await;
    zero.app().await.set("a", 0).await.unwrap();
    ordered(&zero);
    zero.guard.leave();
    let state = zero.until("closed", |state| state.fenced).await;
    let held = state.position.unwrap();
    zero.signal_server("TERM").await;
    zero.until("down", |state| state.process == Process::Down).await;
    let state = zero.until("back", |state| state.position.is_some()).await;
    assert_eq!(state.position, Some(held.clone()));
    assert!(held.led && !held.recovered);
}
