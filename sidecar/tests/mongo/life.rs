//! Sets under an operator that the test plays.

use std::time::Duration;

use bson::doc;
use sidecar::engine::{Engine, Missed};
use sidecar::mongo::Mongo;
use sidecar_protocol::mongo::plan::Desired;
use sidecar_protocol::mongo::status::MemberState;
use sidecar_protocol::mongo::{Answer, Assignment, Part, ProblemCode, Process, Yield};

use tokio::time::Instant;

use crate::rig::{Member, Rig, converged, votes};

#[tokio::test]
async fn a_set_is_initiated_once_and_a_member_that_is_in_it_only_takes_part() {
    let rig = Rig::of(1).await;
    let member = rig.member(0);
    let waiting = member.until("mongod is in no set", |state| state.answer == Answer::NotInSet).await;
    assert_eq!((waiting.process, waiting.accepted), (Process::Running, None), "nobody initiates by itself");
    let initiate = Assignment::Initiate { set: "shop".into(), desired: rig.desired(0..1) };
    member.order(initiate.clone());
    let born = member.until("it leads", |state| state.writable && converged(state)).await;
    let config = born.config.unwrap();
    assert_eq!((config.name.as_str(), born.ready, born.problem), ("shop", true, None));
    member.order(Assignment::Member(Part { desired: rig.desired(0..1), ..Part::default() }.into()));
    member.order(initiate);
    let same = member.done("the order holds").await;
    assert_eq!(same.answer, born.answer);
    assert!(same.said.unwrap().settled);
}

#[tokio::test]
async fn members_join_without_a_vote_and_get_it_and_leave_when_they_are_not_wanted() {
    let rig = Rig::of(3).await;
    let members = rig.set().await;
    let led = members[0].until("settled", |state| state.said.as_ref().is_some_and(|said| said.settled)).await;
    assert_eq!(votes(&led), 3);
    assert!(members.iter().all(|member| member.now().keys.len() == 1));
    for member in &members {
        member.part(Part { desired: rig.desired(0..1), ..Part::default() });
    }
    members[0].until("alone again", |state| votes(state) == 1 && converged(state)).await;
    let gone = members[2].until("it knows that it is removed", |state| state.member == MemberState::Removed).await;
    assert!(!gone.ready);
    members[2].done("which is as desired").await;
    for member in &members {
        member.part(Part { desired: rig.desired(0..3), ..Part::default() });
    }
    members[2].until("it is back", |state| votes(state) == 3 && state.member == MemberState::Secondary).await;
}

#[tokio::test]
async fn after_a_crash_of_the_primary_who_is_told_to_stand_leads_at_once() {
    let rig = Rig::of(3).await;
    let members = rig.set().await;
    let term = members[0].now().election_term.unwrap();
    let desired = rig.desired(0..3);
    members[0].hold(true);
    let begun = Instant::now();
    members[0].kill();
    members[0].until("the crash is known", |state| state.process == Process::Down).await;
    let known = begun.elapsed();
    members[1].part(Part { desired: desired.clone(), stand: Some(term), ..Part::default() });
    members[1].until("another leads", |state| state.writable).await;
    let led = begun.elapsed();
    println!("crash known after {known:?}, writable after {led:?}");
    assert!(led < Duration::from_secs(8), "no election timeout was waited for: {led:?}");
    members[0].hold(false);
    members[0].until("the old one comes back and follows", |state| state.member == MemberState::Secondary && state.ready).await;
    members[1].done("told to stand, it leads and does not stand again").await;
    assert_eq!(members[1].now().election_term, Some(term + 1));
}

#[tokio::test]
async fn a_primary_yields_to_whom_it_is_told_and_only_in_that_term() {
    let rig = Rig::of(3).await;
    let members = rig.set().await;
    let term = members[0].now().election_term.unwrap();
    let to = |term| Some(Yield { host: members[2].host().to_owned(), term });
    members[0].part(Part { desired: rig.desired(0..3), yield_to: to(term + 7), ..Part::default() });
    members[0].done("nothing to do").await;
    assert!(members[0].now().writable);
    members[0].part(Part { desired: rig.desired(0..3), yield_to: to(term), ..Part::default() });
    members[2].until("it leads", |state| state.writable).await;
    members[0].until("the old one follows", |state| state.member == MemberState::Secondary && converged(state)).await;
}

#[tokio::test]
async fn a_primary_that_is_asked_to_leave_hands_over_first() {
    let rig = Rig::of(3).await;
    let members = rig.set().await;
    assert_eq!(Mongo::missed(&members[0].now()), Missed::ByClients);
    assert_eq!(Mongo::missed(&members[1].now()), Missed::ByNobody);
    members[0].engine.leave();
    let left = members[0].until("somebody else leads", |state| Mongo::missed(state) == Missed::ByNobody).await;
    assert!(!left.ready, "clients go");
    assert!(members[1].now().writable || members[2].now().writable || left.primary.is_none_or(|primary| primary != members[0].host()));
}

#[tokio::test]
async fn a_single_member_is_let_go_at_once_and_comes_back_as_it_was() {
    let rig = Rig::of(1).await;
    let mut members = rig.set().await;
    let state = members[0].now();
    assert_eq!(Mongo::missed(&state), Missed::ByNobody);
    members[0].kill();
    members[0].until("the end is known", |state| state.process != Process::Running).await;
    let back = members[0].until("it leads again", |state| state.writable && converged(state)).await;
    assert_eq!((&back.answer, votes(&back)), (&state.answer, 1));
    members[0].restart_sidecar();
    members[0].until("the sidecar finds it as it is", |state| state.writable && converged(state)).await;
}

#[tokio::test]
async fn a_lost_volume_is_filled_anew_and_no_second_set_is_begun() {
    let rig = Rig::of(3).await;
    let members = rig.set().await;
    let id = members[0].now().answer;
    let Answer::InSet(pinned) = id.clone() else { panic!("{id:?}") };
    members[0].hold(true);
    members[0].kill();
    let term = members[1].now().election_term.unwrap();
    members[1].part(Part { desired: rig.desired(0..3), stand: Some(term), ..Part::default() });
    members[1].until("another leads", |state| state.writable).await;
    let volume = members[0].engine.config.layout.as_ref().unwrap().datadir();
    std::fs::remove_dir_all(&volume).unwrap();
    std::fs::create_dir_all(&volume).unwrap();
    let desired = Desired { set_id: Some(pinned), ..rig.desired(0..3) };
    members[0].order(Assignment::Initiate { set: "shop".into(), desired });
    members[0].hold(false);
    let filled = members[0].until("it follows", |state| state.member == MemberState::Secondary).await;
    assert_eq!(filled.answer, id);
}

#[tokio::test]
async fn a_member_of_another_set_is_neither_taken_in_nor_touched() {
    let rig = Rig::of(2).await;
    let members: Vec<_> = (0..2).map(|at| rig.member(at)).collect();
    for (at, member) in members.iter().enumerate() {
        member.order(Assignment::Initiate { set: "shop".into(), desired: rig.desired([at]) });
        member.until("two sets", |state| state.writable).await;
    }
    let Answer::InSet(first) = members[0].now().answer else { panic!("in a set") };
    let desired = Desired { set_id: Some(first), ..rig.desired(0..2) };
    for member in &members {
        member.part(Part { desired: desired.clone(), ..Part::default() });
    }
    members[0].until("it says why", |state| state.said.as_ref().is_some_and(|said| said.next.contains("another set"))).await;
    let other = members[1].until("it says so too", |state| state.problem.is_some()).await;
    assert_eq!(other.problem.unwrap().code, ProblemCode::OtherSet);
    assert_eq!(votes(&members[0].now()), 1);
}

#[tokio::test]
async fn a_majority_that_is_lost_is_told_with_the_words_of_consent_and_nothing_is_forced_without() {
    let rig = Rig::of(3).await;
    let members = rig.set().await;
    let last: &Member = &members[2];
    for member in &members[..2] {
        member.hold(true);
        member.kill();
    }
    let lost =
        last.until("it is told", |state| state.problem.as_ref().is_some_and(|problem| problem.code == ProblemCode::MajorityLost)).await;
    let lost = lost.said.unwrap().lost.unwrap();
    assert_eq!((lost.missing.len(), lost.reachable[0].host.as_str()), (2, last.host()));
    assert_eq!(votes(&last.now()), 3, "nothing is done by itself");
    let consent = lost.consent.unwrap();
    let mut desired = rig.desired(0..3);
    desired.consent.force = Some(format!("{consent} "));
    last.part(Part { desired: desired.clone(), ..Part::default() });
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(!last.now().writable && votes(&last.now()) == 3, "other words are no consent");
    desired.consent.force = Some(consent);
    last.part(Part { desired, ..Part::default() });
    last.until("it leads alone", |state| state.writable).await;
}

#[tokio::test]
async fn the_feature_version_is_set_when_it_is_ordered() {
    let rig = Rig::of(1).await;
    let members = rig.set().await;
    let now = members[0].until("it is known", |state| state.fcv.is_some()).await.fcv.unwrap();
    let reply = members[0].run(doc! { "getParameter": 1, "featureCompatibilityVersion": 1 }).await.unwrap();
    assert_eq!(reply.get_document("featureCompatibilityVersion").unwrap().get_str("version").unwrap(), now);
    let before = if now == "5.0" { "4.4" } else { return };
    members[0].part(Part { desired: rig.desired(0..1), fcv: Some(before.into()), ..Part::default() });
    members[0].until("it is lower", |state| state.fcv.as_deref() == Some(before) && converged(state)).await;
}
