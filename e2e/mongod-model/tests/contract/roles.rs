//! Leaving office and taking it on request.

use mongodb::bson::{Document, doc};
use mongodb::options::WriteConcern;

use crate::server::{Set, is_ok, quick, single, until};

#[tokio::test]
async fn a_step_down_hands_over_to_a_member_that_has_everything() {
    let set = Set::of(3).await;
    let collection = set.client().database("test").collection::<Document>("a");
    collection.insert_one(doc! { "_id": 1 }).write_concern(WriteConcern::majority()).await.expect("inserted");
    until("all have it", || set.servers.iter().all(|server| server.documents().len() == 1)).await;
    set.servers[0].run(doc! { "replSetStepDown": 60 }).await;
    let next = set.new_primary(Some(0)).await;
    assert_ne!(next, 0);
    until("the old one follows", || set.servers[0].hello().get_str("primary").is_ok_and(|name| name == set.servers[next].host())).await;
    assert_eq!(set.servers[0].state(), 2);
}

#[tokio::test]
async fn a_step_down_is_refused_where_it_makes_no_sense() {
    let set = Set::of(2).await;
    let admin = set.servers[1].fail(doc! { "replSetStepDown": 60 }).await;
    assert_eq!(admin, (10107, "not primary so can't step down".into()));
    let short = set.servers[0].fail(doc! { "replSetStepDown": 5, "secondaryCatchUpPeriodSecs": 10 }).await;
    assert_eq!(short, (2, "stepdown period must be longer than secondaryCatchUpPeriodSecs".into()));
    assert_eq!(set.primary(), Some(0));
}

#[tokio::test]
async fn nobody_caught_up_stops_a_step_down_unless_forced() {
    // Nobody else can be elected.
    let set = Set::with(vec![doc! {}, doc! { "priority": 0 }]).await;
    let (code, text) = set.servers[0].fail(doc! { "replSetStepDown": 10, "secondaryCatchUpPeriodSecs": 1 }).await;
    assert!(code == 262 && text.starts_with("No electable secondaries caught up as of "), "{code} {text}");
    assert!(text.ends_with("Please use the replSetStepDown command with the argument {force: true} to force node to step down."), "{text}");
    until("it goes on", || set.servers[0].is_writable()).await;
    set.servers[0].run(doc! { "replSetStepDown": 3, "secondaryCatchUpPeriodSecs": 0, "force": true }).await;
    assert_eq!(set.servers[0].state(), 2);
    // After its rest it is the only one that can.
    until("it is back", || set.servers[0].is_writable()).await;
}

#[tokio::test]
async fn a_secondary_steps_up_on_request() {
    let set = Set::of(3).await;
    let before = set.servers[0].hello().get_object_id("electionId").expect("an id");
    until("the others can stand", || is_ok(&set.servers[2].raw().run(&doc! { "replSetStepUp": 1, "$db": "admin" }))).await;
    until("it is primary", || set.servers[2].is_writable()).await;
    until("the old one is not", || set.servers[0].state() == 2).await;
    let after = set.servers[2].hello().get_object_id("electionId").expect("an id");
    assert!(after > before, "a later primary has a larger id: {before} {after}");
    set.servers[2].run(doc! { "replSetStepUp": 1 }).await;
}

#[tokio::test]
async fn members_that_cannot_be_elected_do_not_step_up() {
    let set = Set::with(vec![doc! {}, doc! { "priority": 0 }, doc! { "arbiterOnly": true }]).await;
    for index in [1, 2] {
        assert_eq!(set.servers[index].fail(doc! { "replSetStepUp": 1 }).await, (125, "Election failed.".into()));
    }
    assert_eq!(set.primary(), Some(0));
}

#[tokio::test]
async fn a_frozen_member_does_not_stand() {
    let mut set = Set::of(3).await;
    let (code, text) = set.servers[0].fail(doc! { "replSetFreeze": 60 }).await;
    assert!(code == 95 && text.starts_with("Cannot freeze node when primary or running for election"), "{code} {text}");
    set.servers[1].run(doc! { "replSetFreeze": 600 }).await;
    set.servers[0].kill();
    assert_eq!(set.new_primary(Some(0)).await, 2);
    let thawed = set.servers[1].run(doc! { "replSetFreeze": 0 }).await;
    assert_eq!(thawed.get_str("info").expect("an info"), "unfreezing");
}

#[tokio::test]
async fn a_terminated_primary_hands_over_and_ends_well() {
    let mut set = Set::of(3).await;
    let collection = set.client().database("test").collection::<Document>("a");
    collection.insert_one(doc! { "_id": 1 }).write_concern(WriteConcern::majority()).await.expect("inserted");
    assert_eq!(set.servers[0].terminate(), Some(0));
    let next = set.new_primary(Some(0)).await;
    assert_eq!(set.servers[next].documents().len(), 1);
    set.servers[0].restart();
    until("it is back", || set.servers[0].state() == 2).await;
}

#[tokio::test]
async fn a_terminating_member_says_that_it_goes() {
    let parameter = ["--setParameter", "shutdownTimeoutMillisForSignaledShutdown=5000"];
    let set = Set::start(vec![Document::new(); 2], quick(), &parameter).await;
    let given = set.servers[1].run(doc! { "getParameter": 1, "shutdownTimeoutMillisForSignaledShutdown": 1 }).await;
    assert_eq!(given.get("shutdownTimeoutMillisForSignaledShutdown").map(ToString::to_string).as_deref(), Some("5000"));
    let mut raw = set.servers[1].raw();
    set.servers[1].ask_to_terminate();
    let goes = |reply: Document| reply.get_i32("code").is_ok_and(|code| code == 91);
    until("hello fails with ShutdownInProgress", || goes(raw.run(&doc! { "hello": 1, "$db": "admin" }))).await;
    assert!(is_ok(&raw.run(&doc! { "ping": 1, "$db": "admin" })), "what came before is still answered");
}

#[tokio::test]
async fn a_single_members_feature_version_is_its_own_and_can_be_set() {
    let server = single().await;
    let version = server.run(doc! { "buildInfo": 1 }).await;
    let version = version.get_str("version").expect("a version").to_owned();
    let shown = server.run(doc! { "getParameter": 1, "featureCompatibilityVersion": 1 }).await;
    let feature = shown.get_document("featureCompatibilityVersion").expect("one").get_str("version").expect("a version").to_owned();
    assert!(version.starts_with(&feature), "{version} {feature}");
    let (code, _) = server.fail(doc! { "setFeatureCompatibilityVersion": "1.0" }).await;
    assert!([2, 72].contains(&code) || code > 1000, "{code}");
    server.run(doc! { "setFeatureCompatibilityVersion": feature, "confirm": true }).await;
}
