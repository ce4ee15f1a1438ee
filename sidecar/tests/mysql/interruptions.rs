//! Whatever dies while a member joins: a data directory is whole or absent, and the next start does the right thing.

use std::fs;
use std::time::Duration;

use mysql_async::prelude::Queryable;
use sidecar_protocol::mysql::{Data, ProblemCode};
use tokio::process::Command;
use tokio::time::{Instant, sleep};

use crate::rig::{Member, Rig, create_rows, signal};

/// Enough that a clone can be caught in the middle.
async fn fill(primary: &Member) {
    let mut app = primary.app().await;
    create_rows(&mut app, 0, 10).await;
    app.query_drop("CREATE TABLE shop_db.ballast (id BIGINT AUTO_INCREMENT PRIMARY KEY, b LONGBLOB)").await.unwrap();
    app.query_drop("INSERT INTO shop_db.ballast (b) VALUES (REPEAT('x', 4000000))").await.unwrap();
    for _ in 0..5 {
        app.query_drop("INSERT INTO shop_db.ballast (b) SELECT b FROM shop_db.ballast").await.unwrap();
    }
}

/// The mysqld that works in the scratch directory of `member`.
async fn scratch_pid(member: &Member) -> u32 {
    let pattern = format!("mysqld .*defaults-file={}/scratch.cnf", member.config.run_dir.display());
    let found = Command::new("pgrep").args(["-o", "-f", &pattern]).output().await.unwrap();
    String::from_utf8(found.stdout).unwrap().trim().parse().unwrap_or(0)
}

/// Until the clone is under way: its files appear.
async fn cloning(member: &Member) {
    let marker = member.config.data_dir.join(".joining/data/#clone");
    let deadline = Instant::now() + Duration::from_secs(60);
    while !marker.exists() {
        assert!(Instant::now() < deadline, "no clone begins: {:#?}", member.now());
        sleep(Duration::from_millis(2)).await;
    }
}

#[tokio::test]
async fn a_clone_whose_recipient_is_killed_starts_over() {
    let rig = Rig::new().await;
    let zero = rig.primary().await;
    fill(&zero).await;
    let mut one = rig.member(1);
    one.follow(&rig, 0, &[0], false);
    cloning(&one).await;
    signal(scratch_pid(&one).await, "KILL").await;
    one.converged().await;
    one.until_rows(10).await;
    assert_eq!(one.ask("SELECT COUNT(*) FROM shop_db.ballast").await, "32");
    assert_eq!(one.now().cloned_from.as_deref(), Some("shop-0"));
}

#[tokio::test]
async fn a_clone_whose_donor_is_killed_goes_on_with_another_or_starts_over() {
    let rig = Rig::new().await;
    let zero = rig.primary().await;
    fill(&zero).await;
    let mut one = rig.member(1);
    one.follow(&rig, 0, &[3, 0], false);
    cloning(&one).await;
    assert!(!one.config.datadir().exists());
    zero.kill_mysqld().await;
    one.converged().await;
    one.until_rows(10).await;
    assert_eq!(one.now().cloned_from.as_deref(), Some("shop-0"), "the first donor does not exist, the second came back");
}

#[tokio::test]
async fn a_clone_whose_sidecar_dies_is_no_data_directory() {
    let rig = Rig::new().await;
    let zero = rig.primary().await;
    fill(&zero).await;
    let mut one = rig.member(1);
    // What other tools left on the volume is not ours to remove.
    fs::write(one.config.data_dir.join("ibdata1"), "foreign").unwrap();
    for pause in [0, 300, 900] {
        one.follow(&rig, 0, &[0], false);
        cloning(&one).await;
        sleep(Duration::from_millis(pause)).await;
        one.stop_sidecar().await;
        if one.config.datadir().exists() {
            break;
        }
        one.start_sidecar();
        assert_eq!(one.now().data, Data::Empty, "a half-filled directory is not data");
    }
    if one.now().data == Data::Present {
        one.start_sidecar();
    }
    one.follow(&rig, 0, &[0], false);
    one.converged().await;
    one.until_rows(10).await;
    assert_eq!(fs::read_to_string(one.config.data_dir.join("ibdata1")).unwrap(), "foreign");
}

#[tokio::test]
async fn an_empty_member_says_that_no_donor_works_and_goes_on_trying() {
    let rig = Rig::new().await;
    let zero = rig.primary().await;
    let mut one = rig.member(1);
    one.follow(&rig, 0, &[3, 4], false);
    let state = one.until("stuck", |state| state.problem.is_some()).await;
    let problem = state.problem.unwrap();
    assert_eq!(problem.code, ProblemCode::CloneFailed);
    assert!(problem.message.contains("shop-3") && problem.message.contains("shop-4"), "{}", problem.message);
    assert_eq!(state.data, Data::Empty);
    one.follow(&rig, 0, &[3, 0], false);
    one.converged().await;
    assert_eq!((one.now().problem, one.now().cloned_from.as_deref()), (None, Some("shop-0")));
    drop(zero);
}
