//! What only one member holds: archived before it follows, or kept where nobody may throw it away.

use std::path::Path;
use std::time::Duration;

use sidecar_protocol::redis::{Data, Lineage, ProblemCode, Role};
use tokio::time::sleep;

use crate::rig::{Rig, Server};

#[tokio::test]
async fn a_former_primary_archives_what_nobody_else_holds_and_follows_then() {
    for server in [Server::Redis, Server::Valkey] {
        let rig = Rig::of(server);
        let mut zero = rig.primary(&[1]).await;
        let mut one = rig.replica(1, &zero).await;
        zero.app().await.set_on("both", 1).await;
        let held = one.freeze().await;
        zero.app().await.set("only-zero", 0).await.unwrap();
        let ahead = zero.freeze().await;
        let identity = zero.now().identity;
        one.lead(&[0]);
        let leads = one.converged().await.position.unwrap();
        let lineage = Lineage::default().written(&held).ended_at(&held).written(&leads);
        zero.follow_with(&one, lineage, None);
        let state = zero.converged().await;
        assert_eq!((state.role, zero.get("only-zero").await, zero.get("both").await.as_deref()), (Role::Replica, None, Some("x")));
        let archive = state.archive.unwrap();
        assert_eq!(archive.position, ahead);
        assert!(std::fs::read(Path::new(&archive.file)).unwrap().windows(9).any(|bytes| bytes == b"only-zero"));
        assert_ne!(state.identity, identity, "it no longer holds what it acknowledged");
    }
}

#[tokio::test]
async fn an_archive_that_could_not_be_written_is_written_when_it_can() {
    let rig = Rig::new();
    let mut zero = rig.primary(&[1]).await;
    let mut one = rig.replica(1, &zero).await;
    zero.app().await.set_on("both", 1).await;
    let held = one.freeze().await;
    zero.app().await.set("only-zero", 0).await.unwrap();
    zero.freeze().await;
    one.lead(&[0]);
    let leads = one.converged().await.position.unwrap();
    // Nothing takes the place of a directory that is not empty.
    let dump = zero.config.data_dir.join("data/dump.rdb");
    let _ = std::fs::remove_file(&dump);
    std::fs::create_dir_all(dump.join("in-the-way")).unwrap();
    zero.follow_with(&one, Lineage::default().written(&held).ended_at(&held).written(&leads), None);
    let problem = zero.until("a problem", |state| state.problem.is_some()).await.problem.unwrap();
    assert_eq!(problem.code, ProblemCode::Storage, "{problem:?}");
    assert_eq!(zero.get("only-zero").await.as_deref(), Some("x"));
    std::fs::remove_dir_all(&dump).unwrap();
    assert!(zero.converged().await.archive.is_some());
}

#[tokio::test]
async fn a_replica_that_holds_no_more_than_the_new_primary_goes_on_without_a_full_copy() {
    let rig = Rig::new();
    let mut zero = rig.primary(&[1, 2]).await;
    let mut one = rig.replica(1, &zero).await;
    let mut two = rig.replica(2, &zero).await;
    zero.app().await.set_on("a", 2).await;
    let held = one.freeze().await;
    let identity = two.now().identity;
    assert!(held.contains(&two.freeze().await));
    zero.freeze().await;
    one.lead(&[2]);
    let leads = one.converged().await.position.unwrap();
    two.follow_with(&one, Lineage::default().written(&held).ended_at(&held).written(&leads), None);
    let state = two.converged().await;
    assert_eq!((state.identity, state.archive), (identity, None));
    let info = one.local().await.ask(&["INFO", "stats"]).await.unwrap();
    let info: String = redis::from_redis_value(info).unwrap();
    assert!(info.contains("sync_full:0") && info.contains("sync_partial_ok:1"), "{info}");
}

#[tokio::test]
async fn data_of_another_history_are_thrown_away_only_by_consent() {
    let rig = Rig::new();
    let zero = rig.primary(&[1]).await;
    zero.app().await.set("a", 0).await.unwrap();
    let mut one = rig.member(1);
    one.lead(&[]);
    one.converged().await;
    one.app().await.set("precious", 0).await.unwrap();
    let held = one.freeze().await;
    one.follow(&zero);
    let state = one.until("a problem", |state| state.problem.is_some()).await;
    let problem = state.problem.unwrap();
    assert_eq!((state.role, problem.code), (Role::Isolated, ProblemCode::OtherHistory));
    let position = state.position.as_ref().unwrap();
    assert!(problem.message.contains(&format!("1 keys of a history ({position}) that shop-0 never had")), "{}", problem.message);

    // Consent to give up other data says nothing of these.
    let lineage = Lineage::default().written(&zero.now().position.unwrap());
    one.follow_with(&zero, lineage.clone(), Some("another".into()));
    one.until("still there", |state| state.accepted.as_ref().is_some_and(|accepted| accepted.term == 4) && state.problem.is_some()).await;
    sleep(Duration::from_secs(1)).await;
    assert_eq!(one.get("precious").await.as_deref(), Some("x"));
    one.follow_with(&zero, lineage, state.identity.clone());
    let after = one.converged().await;
    assert_eq!((one.get("precious").await, after.archive.unwrap().position, &after.data), (None, held, &Data::Present));
    assert_ne!(after.identity, state.identity);
}

#[tokio::test]
async fn a_former_primary_that_forgot_where_it_was_archives_all_the_same() {
    let rig = Rig::new();
    let mut zero = rig.primary(&[1]).await;
    let mut one = rig.replica(1, &zero).await;
    zero.app().await.set_on("both", 1).await;
    zero.kill_server().await;
    zero.stop_sidecar().await;
    let held = one.freeze().await;
    one.lead(&[0]);
    let leads = one.converged().await.position.unwrap();
    zero.start_sidecar();
    let position = zero.until("back", |state| state.position.is_some()).await.position.unwrap();
    assert!(position.recovered && position.led);
    zero.follow_with(&one, Lineage::default().written(&held).ended_at(&held).written(&leads), None);
    let state = zero.converged().await;
    assert_eq!(state.archive.unwrap().position, position);
}
