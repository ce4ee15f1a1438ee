//! Keys, users and certificates.

use std::time::Duration;

use sidecar::mongo::{Config, Mongo, Tls};
use sidecar_protocol::mongo::{Answer, Assignment, Part, ProblemCode, Process, Role, User};

use crate::rig::{KEY, Member, Rig, converged};

fn user(name: &str) -> User {
    let roles = vec![Role { role: "readWrite".into(), db: "shop".into() }];
    User { name: name.into(), database: "shop".into(), roles, secret: name.into() }
}

#[tokio::test]
async fn users_are_made_and_their_passwords_follow_the_mounted_secrets() {
    let rig = Rig::of(1).await;
    rig.secret("app", "first");
    let mut members = rig.set().await;
    let part = Part { desired: rig.desired(0..1), users: vec![user("app")], ..Part::default() };
    members[0].part(part.clone());
    members[0].done("the user is there").await;
    assert!(members[0].knows(("app", "first", "shop")).await && !members[0].knows(("app", "second", "shop")).await);
    rig.secret("app", "second");
    members[0].until("it is noticed", |state| !converged(state)).await;
    members[0].done("it is changed").await;
    assert!(members[0].knows(("app", "second", "shop")).await && !members[0].knows(("app", "first", "shop")).await);
    let written = members[0].now().optime;
    members[0].restart_sidecar();
    members[0].done("a sidecar that starts finds it right").await;
    assert!(members[0].now().optime.unwrap().ts.t - written.unwrap().ts.t < 20, "and writes nothing");
}

#[tokio::test]
async fn a_password_that_is_not_mounted_is_told_by_its_path() {
    let rig = Rig::of(1).await;
    let members = rig.set().await;
    members[0].part(Part { desired: rig.desired(0..1), users: vec![user("absent")], ..Part::default() });
    let state = members[0].until("it is told", |state| state.problem.is_some()).await;
    let problem = state.problem.unwrap();
    assert!(problem.code == ProblemCode::Credentials && problem.message.contains("users/absent"), "{problem:?}");
    assert!(state.writable && state.ready, "nothing else suffers");
}

#[tokio::test]
async fn a_role_that_does_not_exist_is_told_in_mongods_words() {
    let rig = Rig::of(1).await;
    rig.secret("app", "first");
    let members = rig.set().await;
    let wrong = User { roles: vec![Role { role: "everything".into(), db: "shop".into() }], ..user("app") };
    members[0].part(Part { desired: rig.desired(0..1), users: vec![wrong], ..Part::default() });
    let problem = members[0].until("it is told", |state| state.problem.is_some()).await.problem.unwrap();
    assert!(problem.code == ProblemCode::StepRefused && problem.message.contains("everything"), "{problem:?}");
}

#[tokio::test]
async fn a_wrong_key_is_told_and_no_key_is_ever_shown() {
    let rig = Rig::of(1).await;
    let members = rig.set().await;
    rig.key("YW5vdGhlci1rZXk=");
    let state = members[0].until("it is told", |state| state.problem.is_some()).await;
    assert!(state.writable, "what is known of mongod stays known");
    let problem = state.problem.unwrap();
    assert_eq!(problem.code, ProblemCode::KeyRefused);
    assert!(!problem.message.contains(KEY) && !problem.message.contains("YW5v"), "{problem:?}");
    rig.key(KEY);
    members[0].until("it is mended", |state| state.problem.is_none() && state.writable).await;
}

#[tokio::test]
async fn a_member_with_another_key_is_not_taken_in_and_who_leads_says_why() {
    let rig = Rig::of(2).await;
    let first = rig.member(0);
    first.order(Assignment::Initiate { set: "shop".into(), desired: rig.desired(0..2) });
    first.until("it leads", |state| state.writable).await;
    let other = rig.dir.join("key/other");
    std::fs::write(&other, "YW5vdGhlci1rZXk=").unwrap();
    let second = Member::start(Mongo::new(Config { key_file: Some(other), ..rig.config(1) }), &rig.dir);
    second.until("it waits", |state| state.version.is_some()).await;
    let state =
        first.until("it is told", |state| state.problem.as_ref().is_some_and(|problem| problem.code == ProblemCode::KeyRefused)).await;
    assert!(state.problem.unwrap().message.contains(&rig.hosts[1]));
    assert_eq!(state.config.unwrap().members.len(), 1);
    assert_eq!(second.now().answer, Answer::NotInSet, "and no second set is begun");
}

#[tokio::test]
async fn tls_on_one_side_only_is_no_answer_and_not_a_crash() {
    let rig = Rig::of(1).await;
    let mut members = rig.set().await;
    members[0].engine.config = Config { tls: Some(rig.tls()), layout: None, ..rig.config(0) };
    members[0].restart_sidecar();
    members[0].until("it starts", |state| state.process == Process::Starting).await;
    let state = members[0].until("it is told", |state| state.problem.is_some()).await;
    assert_eq!((state.process, state.problem.unwrap().code), (Process::Silent, ProblemCode::ProcessDown));
}

#[tokio::test]
async fn a_key_is_replaced_by_way_of_two() {
    let rig = Rig::of(1).await;
    let members = rig.set().await;
    let old = members[0].now().keys;
    let new = "bmV3LWtleS1vZi10aGUtc2V0";
    rig.key(&format!("- {KEY}\n- {new}\n"));
    let file = members[0].engine.config.layout.as_ref().unwrap().keyfile();
    while !std::fs::read_to_string(&file).unwrap().contains(new) {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(members[0].now().keys, old, "this process took one key only");
    members[0].kill();
    members[0].until("started anew it takes both", |state| state.keys.len() == 2 && state.writable).await;
    rig.key(new);
    let state = members[0].until("the new one alone is used", |state| state.keys.len() == 1 && state.writable).await;
    assert_ne!(state.keys, old);
    members[0].kill();
    members[0].until("and is enough", |state| state.keys.len() == 1 && state.writable && converged(state)).await;
}

#[tokio::test]
async fn a_set_speaks_tls() {
    let rig = Rig::of(3).await;
    let tls = rig.tls();
    let start = |at: usize, tls: Option<Tls>| Member::start(Mongo::new(Config { tls, ..rig.config(at) }), &rig.dir);
    let members: Vec<_> = (0..3).map(|at| start(at, Some(tls.clone()))).collect();
    rig.grow(&members, rig.desired(0..3)).await;
    assert!(members.iter().all(|member| member.now().ready));
}

#[tokio::test]
async fn options_that_are_understudys_own_keep_the_curtain_closed() {
    let rig = Rig::of(1).await;
    std::fs::write(rig.dir.join("mongod.conf"), "net: {port: 1}").unwrap();
    let member = rig.member(0);
    let problem = member.until("it is told", |state| state.problem.is_some()).await.problem.unwrap();
    assert!(problem.code == ProblemCode::ConfigRejected && problem.message.contains("net.port"), "{problem:?}");
    assert!(!member.engine.config.curtain_is_open());
    std::fs::write(rig.dir.join("mongod.conf"), "replication: {oplogSizeMB: 512}").unwrap();
    member.until("mended in place, mongod starts", |state| state.version.is_some()).await;
}
