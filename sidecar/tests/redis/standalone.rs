//! Members on their own: no operator, ordinal 0 leads.

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use sidecar::discovery::Peer;
use sidecar::fence::Guard;
use sidecar::health;
use sidecar::hub::{Hub, Identity, Sources};
use sidecar::redis::standalone::{By, run};
use sidecar::redis::{Config, Persistence, Redis};
use sidecar_protocol::HEALTH_PORT;
use sidecar_protocol::redis::{Data, Role};
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::rig::{Member, Rig};

/// A member that gives itself orders, and tells the others of itself.
async fn alone(rig: &Rig, ordinal: u32, edit: impl FnOnce(&mut Config)) -> Member {
    let peers = (0..3).map(|ordinal| Peer { member: format!("shop-{ordinal}"), ordinal, host: rig.address(ordinal).to_string() }).collect();
    let mut member = rig.member_with(ordinal, |config| {
        config.standalone = true;
        edit(config);
    });
    member.stop_sidecar().await;
    let config = member.config.clone();
    let (state_in, state) = watch::channel(config.first_state());
    let (trouble_in, trouble) = watch::channel(None);
    let (orders, _) = watch::channel(None);
    let identity = Identity { cluster: "shop".into(), member: config.member.clone(), incarnation: "one".into() };
    let sources = Sources { state: state.clone(), certificates: None, trouble };
    let hub = Hub::new(Redis::new(config.clone()), identity, sources, None, orders, Guard::new(ordinal));
    let listener = TcpListener::bind((rig.address(ordinal), HEALTH_PORT)).await.unwrap();
    let leaving = member.leaving.subscribe();
    member.state = state;
    member.engine = Some(tokio::spawn(async move {
        let _open = trouble_in;
        tokio::select! {
            ended = run(config, By::Told(peers), state_in, leaving) => panic!("it ended: {ended:?}"),
            () = health::serve(listener, Arc::clone(&hub), Duration::from_secs(1), true) => {}
        }
    }));
    member
}

#[tokio::test]
async fn a_first_member_that_forgot_everything_copies_before_it_leads_again() {
    let rig = Rig::new();
    rig.password("users", "default", "plain-1");
    let volatile = |config: &mut Config| config.persistence = Persistence::None;
    let zero = alone(&rig, 0, volatile).await;
    let one = alone(&rig, 1, volatile).await;
    let two = alone(&rig, 2, volatile).await;
    zero.until("primary", |state| state.role == Role::Primary).await;
    for member in [&one, &two] {
        member.until("a replica", |state| state.replication.as_ref().is_some_and(|link| link.connected) && state.ready).await;
    }
    zero.login("default", "plain-1").await.unwrap().set_on("a", 2).await;
    let identity = zero.now().identity;
    zero.kill_server().await;
    let state = zero.until("primary again", |state| state.role == Role::Primary && state.identity != identity).await;
    assert_eq!((zero.get("a").await.as_deref(), state.data), (Some("x"), Data::Present), "its emptiness led");
    zero.login("default", "plain-1").await.unwrap().set_on("b", 2).await;
    assert_eq!((one.get("a").await.as_deref(), two.get("a").await.as_deref()), (Some("x"), Some("x")));
}

#[tokio::test]
async fn three_members_become_a_cluster_in_any_order_and_a_lost_first_one_gets_everything_back() {
    for passwords in [true, false] {
        let rig = Rig::new();
        rig.password("users", "default", "plain-1");
        let edit = |config: &mut Config| {
            if !passwords {
                (config.system_dir, config.tls, config.tls_dir) = (None, false, None);
                config.users_dir = "/nonexistent".into();
            }
        };
        let two = alone(&rig, 2, edit).await;
        let one = alone(&rig, 1, edit).await;
        let mut zero = alone(&rig, 0, edit).await;
        zero.until("primary", |state| state.role == Role::Primary).await;
        for member in [&one, &two] {
            member.until("a replica", |state| state.replication.as_ref().is_some_and(|link| link.connected) && state.ready).await;
        }
        let client = zero.login("default", "plain-1").await.unwrap();
        client.set_on("a", 2).await;

        // A restart of the first one: it leads again, and the others, which it has forgotten, follow it again.
        zero.kill_server().await;
        zero.until("down", |state| state.role == Role::Unknown).await;
        zero.until("primary", |state| state.role == Role::Primary).await;
        let client = zero.login("default", "plain-1").await.unwrap();
        client.set_on("b", 2).await;

        // Its volume is lost. It leads again only when it has everything.
        zero.stop_sidecar().await;
        zero.stop_server().await;
        fs::remove_dir_all(rig.dir.join("m0")).unwrap();
        drop(zero);
        zero = alone(&rig, 0, edit).await;
        let state = zero.until("primary", |state| state.role == Role::Primary).await;
        assert_eq!((zero.get("a").await.as_deref(), zero.get("b").await.as_deref(), state.data), (Some("x"), Some("x"), Data::Present));
        let client = zero.login("default", "plain-1").await.unwrap();
        client.set_on("c", 2).await;
        for member in [&one, &two] {
            assert_eq!((member.get("a").await.as_deref(), member.now().role), (Some("x"), Role::Replica));
        }
    }
}
