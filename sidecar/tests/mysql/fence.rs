//! A primary that is on its own, as mysqld and its clients see it. The test plays the other members' sidecars.

use std::time::Duration;

use mysql_async::prelude::Queryable;
use sidecar::fence::{Guard, Ordered};
use sidecar_protocol::mysql::{Process, Role};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use crate::rig::{Member, Rig, create_rows};

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
async fn a_fenced_primary_is_read_only_and_its_clients_are_sent_away_until_a_current_order_comes() {
    let rig = Rig::new().await;
    let mut zero = rig.primary().await;
    let mut app = zero.app().await;
    create_rows(&mut app, 0, 5).await;
    ordered(&zero);
    let _ = zero.guard.heard(zero.guard.epoch(), 1, zero.term);
    assert!(zero.guard.verdict().may_open);

    let start = Instant::now();
    let _ = zero.guard.heard(zero.guard.epoch(), 2, zero.term + 1);
    let state = zero.until("fenced", |state| state.fenced).await;
    assert!(start.elapsed() < Duration::from_secs(2), "deposed is deposed: {:?}", start.elapsed());
    assert_eq!((state.role, state.ready), (Role::Isolated, false));
    assert!(!state.accepted.unwrap().converged);
    assert_eq!(zero.ask("SELECT @@super_read_only").await, "1");
    assert!(app.query_drop("SELECT 1").await.is_err(), "its clients go to find the new primary");
    let refused = zero.app().await.query_drop("INSERT INTO shop_db.t VALUES (99)").await;
    assert!(refused.unwrap_err().to_string().contains("read-only"));

    let again = zero.now().accepted.unwrap().assignment;
    zero.term += 1;
    ordered(&zero);
    zero.term -= 1;
    zero.order(again);
    let _ = zero.guard.heard(zero.guard.epoch(), 1, zero.term);
    let state = zero.converged().await;
    assert_eq!((state.role, state.ready, state.fenced), (Role::Primary, true, false));
    create_rows(&mut zero.app().await, 5, 5).await;
}

#[tokio::test]
async fn a_mysqld_that_restarts_opens_again_while_a_majority_confirms_it_and_only_then() {
    let rig = Rig::new().await;
    let zero = rig.primary().await;
    create_rows(&mut zero.app().await, 0, 5).await;
    ordered(&zero);
    let confirming = peer(zero.guard.clone(), zero.term);
    zero.kill_mysqld().await;
    zero.until("down", |state| state.process == Process::Down).await;
    zero.converged().await;
    create_rows(&mut zero.app().await, 5, 1).await;

    confirming.abort();
    sleep(Duration::from_millis(3_100)).await;
    assert_eq!((zero.now().role, zero.guard.verdict().may_open), (Role::Primary, false), "open, but it would not open now");
    zero.kill_mysqld().await;
    zero.until("up", |state| state.process == Process::Running && state.role == Role::Isolated).await;
    sleep(Duration::from_secs(2)).await;
    assert_eq!((zero.now().role, zero.ask("SELECT @@super_read_only").await.as_str()), (Role::Isolated, "1"));
    let state = zero.until("fenced", |state| state.fenced).await;
    assert!(!state.ready);

    let confirming = peer(zero.guard.clone(), zero.term);
    zero.converged().await;
    assert_eq!(zero.rows().await, 6);
    create_rows(&mut zero.app().await, 6, 1).await;
    confirming.abort();
}

#[tokio::test]
async fn an_open_primary_whose_sidecar_restarts_without_contact_closes() {
    let rig = Rig::new().await;
    let mut zero = rig.primary().await;
    create_rows(&mut zero.app().await, 0, 5).await;
    zero.stop_sidecar().await;
    zero.start_sidecar();
    // Its order is on the volume, and nobody confirms it.
    ordered(&zero);
    let state = zero.until("open", |state| state.role == Role::Primary).await;
    assert!(!state.ready && state.accepted.is_none());
    let state = zero.until("fenced", |state| state.fenced).await;
    assert_eq!((state.role, state.accepted), (Role::Isolated, None));
}
