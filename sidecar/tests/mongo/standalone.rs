//! Members with no operator: a list of who is there takes its place.

use std::time::Duration;

use sidecar::mongo::standalone::Found;
use sidecar::mongo::{Config, Login};
use sidecar_protocol::mongo::plan::Lost;
use sidecar_protocol::mongo::status::MemberState;
use sidecar_protocol::mongo::{Answer, ProblemCode};
use tokio::sync::watch;
use tokio::time::sleep;

use crate::rig::{List, Member, Rig, votes};

type Sender = watch::Sender<Result<Vec<Found>, String>>;

fn list(rig: &Rig, ordinals: impl IntoIterator<Item = usize>) -> Result<Vec<Found>, String> {
    let hostname = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap().trim().to_owned();
    Ok(ordinals
        .into_iter()
        .map(|at| {
            let port = rig.hosts[at].rsplit_once(':').unwrap().1;
            Found { ordinal: at as u32, host: rig.hosts[at].clone(), aliases: vec![format!("{hostname}:{port}")] }
        })
        .collect())
}

/// Members `ordinals` of a plain StatefulSet whose mongods are started by somebody else, of a set whose name nobody tells.
fn members(rig: &Rig, ordinals: impl IntoIterator<Item = usize>, others: &Sender, edit: impl Fn(&mut Config)) -> Vec<Member> {
    let start = |at: usize| {
        let mut config = Config { layout: None, set: None, standalone: true, ..rig.config(at) };
        edit(&mut config);
        Member::alone(config, &rig.dir, List(others.subscribe()))
    };
    ordinals.into_iter().map(start).collect()
}

/// mongod wants the file of its key for itself.
fn sealed(rig: &Rig) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(rig.dir.join("key/keyfile"), std::fs::Permissions::from_mode(0o400)).unwrap();
}

#[tokio::test]
async fn three_pods_become_a_set_with_a_user_and_one_that_goes_is_removed() {
    let rig = Rig::of(3).await;
    sealed(&rig);
    let others = watch::Sender::new(list(&rig, 0..3));
    let login = Login::User { name: "root".into(), password: "pw".into(), source: "admin".into() };
    let members = members(&rig, 0..3, &others, |config| config.login = Some(login.clone()));
    for member in &members {
        member.until("all of them vote", |state| votes(state) == 3 && state.ready).await;
    }
    let state = members[0].until("it leads", |state| state.writable).await;
    assert_eq!(state.config.unwrap().members[0].host, rig.hosts[0], "by its name, not the host's");
    while !members[0].knows(("root", "pw", "admin")).await {
        sleep(Duration::from_millis(200)).await;
    }
    members[2].hold(true);
    members[2].kill();
    sleep(Duration::from_secs(5)).await;
    assert_eq!(members[0].now().config.unwrap().members.len(), 3, "a pod that is down and listed stays");
    drop(others.send_replace(list(&rig, 0..2)));
    members[0]
        .until("gone from the list too, it is removed", |state| state.config.as_ref().is_some_and(|set| set.members.len() == 2))
        .await;
}

#[tokio::test]
async fn ordinal_0_waits_for_a_pod_that_does_not_answer_and_for_a_list_that_fails() {
    let rig = Rig::of(2).await;
    sealed(&rig);
    let others = watch::Sender::new(Err("the name server is silent".to_owned()));
    let first = members(&rig, 0..1, &others, |_| ());
    let state = first[0].until("it says why", |state| state.problem.is_some()).await;
    assert!(state.problem.unwrap().message.contains("silent"));
    drop(others.send_replace(list(&rig, 0..2)));
    first[0].until("it waits for the other", |state| state.said.as_ref().is_some_and(|said| said.next.contains(&rig.hosts[1]))).await;
    sleep(Duration::from_secs(3)).await;
    assert_eq!(first[0].now().answer, Answer::NotInSet, "an error is no no");
    let second = members(&rig, 1..2, &others, |_| ());
    second[0].until("one set of both", |state| state.member == MemberState::Secondary).await;
}

#[tokio::test]
async fn a_minority_says_what_is_lost_and_forces_nothing() {
    let rig = Rig::of(3).await;
    sealed(&rig);
    let others = watch::Sender::new(list(&rig, 0..3));
    let members = members(&rig, 0..3, &others, |_| ());
    members[2].until("all of them vote", |state| votes(state) == 3 && state.ready).await;
    for member in &members[..2] {
        member.hold(true);
        member.kill();
    }
    drop(others.send_replace(list(&rig, [2])));
    let state = members[2]
        .until("it is told", |state| state.problem.as_ref().is_some_and(|problem| problem.code == ProblemCode::MajorityLost))
        .await;
    let Some(Lost { missing, .. }) = state.said.and_then(|said| said.lost) else { panic!("what is lost") };
    assert_eq!(missing.len(), 2);
    sleep(Duration::from_secs(5)).await;
    let state = members[2].now();
    assert!(!state.writable && votes(&state) == 3);
}

#[tokio::test]
async fn without_a_key_the_first_user_is_made_while_nobody_has_to_log_in() {
    let rig = Rig::of(1).await;
    let others = watch::Sender::new(list(&rig, 0..1));
    let login = Login::User { name: "root".into(), password: "pw".into(), source: "admin".into() };
    let edit = |config: &mut Config| (config.key_file, config.login) = (None, Some(login.clone()));
    let mut members = members(&rig, 0..1, &others, edit);
    members[0]
        .until("a set of one, and we are logged in", |state| state.writable && state.said.as_ref().is_some_and(|said| said.settled))
        .await;
    assert!(members[0].knows(("root", "pw", "admin")).await);
    let wrong = Login::User { name: "root".into(), password: "other".into(), source: "admin".into() };
    members[0].engine.config.login = Some(wrong);
    members[0].restart_sidecar();
    let problem = members[0].until("a wrong password is told", |state| state.problem.is_some()).await.problem.unwrap();
    assert!(!problem.message.contains("other"), "{problem:?}");
}
