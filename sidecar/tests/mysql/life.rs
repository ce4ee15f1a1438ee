//! The common life: initialise, clone, replicate, hand over.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use mysql_async::Conn;
use mysql_async::prelude::Queryable;
use sidecar::mysql::Config;
use sidecar_protocol::mysql::{Assignment, Data, ProblemCode, Process, Role};
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};

use crate::rig::{Rig, create_rows};

#[tokio::test]
async fn members_clone_from_the_previous_one_and_follow_the_primary_over_tls() {
    let rig = Rig::new().await;
    let zero = rig.primary().await;
    let state = zero.now();
    assert_eq!((state.role, state.ready, &state.data, &state.cloned_from), (Role::Primary, true, &Data::Present, &None));
    create_rows(&mut zero.app().await, 0, 10).await;

    let one = rig.replica(1, 0, 0).await;
    let two = rig.replica(2, 1, 0).await;
    assert_eq!(one.now().cloned_from.as_deref(), Some("shop-0"));
    assert_eq!(two.now().cloned_from.as_deref(), Some("shop-1"));
    let source = two.ask("SELECT SOURCE FROM performance_schema.clone_status WHERE STATE='Completed'").await;
    assert_eq!(source, format!("{}:3306", rig.address(1)));
    create_rows(&mut zero.app().await, 10, 10).await;
    for member in [&one, &two] {
        member.until_rows(20).await;
        let state = member.until("ready", |state| state.ready).await;
        let replication = state.replication.unwrap();
        assert!(replication.tls && replication.receiving && replication.applying, "{replication:?}");
        assert_eq!(state.role, Role::Replica);
        let refused = member.app().await.query_drop("INSERT INTO shop_db.t VALUES (99)").await;
        assert!(refused.unwrap_err().to_string().contains("read-only"), "a replica accepts no write");
    }
    assert_eq!(
        zero.ask(
            "SELECT GROUP_CONCAT(DISTINCT CONNECTION_TYPE) FROM performance_schema.threads WHERE PROCESSLIST_COMMAND LIKE 'Binlog Dump%'"
        )
        .await,
        "SSL/TLS"
    );
}

#[tokio::test]
async fn commits_wait_for_acknowledgements_only_once_a_replica_gives_them() {
    let rig = Rig::new().await;
    let mut zero = rig.primary().await;
    let mut one = rig.replica(1, 0, 0).await;
    one.follow(&rig, 0, &[], true);
    one.converged().await;
    one.until("acknowledging", |state| state.acknowledges).await;
    zero.order(Assignment::Primary { acks: 1, members: vec![0, 1], barred: vec![] });
    let state = zero.converged().await;
    assert_eq!(state.semi_sync.unwrap().acks, 1);
    zero.until("heard", |state| state.semi_sync.as_ref().is_some_and(|semi| semi.clients == 1)).await;
    create_rows(&mut zero.app().await, 0, 5).await;
    assert_eq!(
        zero.ask("SELECT VARIABLE_VALUE>=5 FROM performance_schema.global_status WHERE VARIABLE_NAME='Rpl_semi_sync_source_yes_tx'").await,
        "1"
    );

    // Isolated, it acknowledges nothing: a commit waits, for ever, and no "done" reaches its client.
    one.order(Assignment::Isolated);
    let held = one.converged().await.position.unwrap().held();
    let mut app = zero.app().await;
    let write = tokio::spawn(async move { app.query_drop("INSERT INTO shop_db.t VALUES (1000)").await });
    sleep(Duration::from_millis(500)).await;
    assert!(!write.is_finished(), "acknowledged by nobody");
    assert_eq!(one.now().position.unwrap().held(), held, "nothing is received after the answer");

    // Demoted, it lets go of that commit without telling its client that it was done.
    zero.order(Assignment::Isolated);
    zero.converged().await;
    let told = write.await.unwrap();
    assert!(told.is_err(), "the client of a commit that no replica holds must not hear of success: {told:?}");
    assert_eq!(zero.now().role, Role::Isolated);
}

#[tokio::test]
async fn a_commit_whose_only_receiver_did_not_count_yet_is_freed_when_it_does() {
    let rig = Rig::new().await;
    let mut zero = rig.primary().await;
    let mut one = rig.replica(1, 0, 0).await;
    create_rows(&mut zero.app().await, 0, 1).await;
    zero.order(Assignment::Primary { acks: 1, members: vec![0, 1], barred: vec![] });
    zero.until("acknowledgements due", |state| state.semi_sync.is_some()).await;
    let mut app = zero.app().await;
    let write = tokio::spawn(async move { app.query_drop("INSERT INTO shop_db.t VALUES (1000)").await });
    one.until_rows(2).await;
    assert!(!write.is_finished(), "received, not acknowledged");

    // It holds that row already, and acknowledges only what it receives from now on.
    one.follow(&rig, 0, &[], true);
    one.until("acknowledging", |state| state.acknowledges).await;
    timeout(Duration::from_secs(20), write).await.expect("freed").unwrap().unwrap();
    assert_eq!(zero.rows().await, 2);
    // Clients that keep coming do not hold up a seal that has a commit to let go.
    one.order(Assignment::Isolated);
    one.converged().await;
    let mut app = zero.app().await;
    let hanging = tokio::spawn(async move { app.query_drop("INSERT INTO shop_db.t VALUES (1001)").await });
    zero.until("a commit that waits", |state| state.busy_seconds.is_some()).await;
    let (stop, comers) = (Arc::new(AtomicBool::new(false)), zero.options("shop", "app-1"));
    let stopped = Arc::clone(&stop);
    let coming = tokio::spawn(async move {
        while !stopped.load(Ordering::Relaxed) {
            if let Ok(mut conn) = Conn::new(comers.clone()).await {
                let _ = timeout(Duration::from_millis(30), conn.query_drop("INSERT INTO shop_db.t VALUES (2000)")).await;
            }
        }
    });
    zero.order(Assignment::Isolated);
    let begun = Instant::now();
    zero.converged().await;
    assert!(begun.elapsed() < Duration::from_secs(15), "sealed although clients keep coming");
    stop.store(true, Ordering::Relaxed);
    coming.await.unwrap();
    assert!(hanging.await.unwrap().is_err(), "its client was told nothing");
}

#[tokio::test]
async fn a_planned_switch_loses_no_row_and_the_old_primary_follows() {
    let rig = Rig::new().await;
    let mut zero = rig.primary().await;
    let mut one = rig.replica(1, 0, 0).await;
    create_rows(&mut zero.app().await, 0, 20).await;
    let mut client = zero.app().await;

    zero.order(Assignment::Isolated);
    let last = zero.converged().await.position.unwrap().executed;
    assert!(client.query_drop("SELECT 1").await.is_err(), "clients are sent away to find the new primary");
    one.until("caught up", |state| state.position.as_ref().is_some_and(|position| position.held().contains(&last))).await;
    one.order(Assignment::Primary { acks: 0, members: vec![0, 1], barred: vec![] });
    let state = one.converged().await;
    assert_eq!((state.role, state.ready), (Role::Primary, true));
    assert_eq!(state.replication, None);
    zero.follow(&rig, 1, &[], false);
    zero.converged().await;
    create_rows(&mut one.app().await, 20, 10).await;
    zero.until_rows(30).await;
    assert_eq!(one.rows().await, 30);
}

#[tokio::test]
async fn a_killed_primary_opens_again_under_the_same_order_and_starts_read_only() {
    let rig = Rig::new().await;
    let zero = rig.primary().await;
    create_rows(&mut zero.app().await, 0, 20).await;
    zero.kill_mysqld().await;
    zero.until("down", |state| state.process == Process::Down && !state.ready).await;
    zero.converged().await;
    assert_eq!(zero.rows().await, 20);
    create_rows(&mut zero.app().await, 20, 1).await;

    // With nobody to give orders, it stays closed.
    let mut zero = zero;
    zero.stop_sidecar().await;
    zero.kill_mysqld().await;
    sleep(Duration::from_millis(500)).await;
    zero.start_sidecar();
    let state = zero.until("up", |state| state.process == Process::Running).await;
    assert_eq!((state.role, state.ready), (Role::Isolated, false));
    assert_eq!(zero.ask("SELECT @@super_read_only").await, "1");
}

#[tokio::test]
async fn a_sidecar_that_restarts_without_orders_leaves_everything_as_it_is() {
    let rig = Rig::new().await;
    let mut zero = rig.primary().await;
    let mut one = rig.replica(1, 0, 0).await;
    for member in [&mut zero, &mut one] {
        member.stop_sidecar().await;
        member.start_sidecar();
    }
    let state = zero.until("seen", |state| state.role == Role::Primary).await;
    assert!(!state.ready && state.accepted.is_none(), "without an order nobody claims to be the primary");
    create_rows(&mut zero.app().await, 0, 5).await;
    one.until("ready", |state| state.ready).await;
    one.until_rows(5).await;
}

#[tokio::test]
async fn a_member_with_transactions_of_its_own_is_not_let_in() {
    let rig = Rig::new().await;
    let zero = rig.primary().await;
    let mut one = rig.replica(1, 0, 0).await;
    one.order(Assignment::Primary { acks: 0, members: vec![0, 1], barred: vec![] });
    one.converged().await;
    create_rows(&mut one.app().await, 500, 1).await;
    one.follow(&rig, 0, &[], false);
    let state = one.until("errant", |state| state.problem.as_ref().is_some_and(|problem| problem.code == ProblemCode::Errant)).await;
    assert_eq!(state.role, Role::Isolated, "it follows nobody");
    assert_eq!(zero.now().role, Role::Primary);
}

#[tokio::test]
async fn a_member_whose_source_purged_what_it_lacks_says_so() {
    let rig = Rig::new().await;
    let (_zero, mut one) = rig.primary_without_logs().await;
    one.follow(&rig, 0, &[], false);
    one.until("stuck", |state| state.problem.as_ref().is_some_and(|problem| problem.code == ProblemCode::LogsPurged)).await;
}

#[tokio::test]
async fn a_configuration_that_mysqld_refuses_keeps_the_curtain_closed_until_it_is_mended() {
    let rig = Rig::new().await;
    rig.configure("foo=bar");
    let mut zero = rig.member(0);
    let state = zero.until("refused", |state| state.problem.is_some()).await;
    let problem = state.problem.unwrap();
    assert_eq!((problem.code, problem.message.as_str()), (ProblemCode::ConfigRejected, "mysqld says: unknown variable 'foo=bar'."));
    assert!(!zero.config.curtain_is_open());
    rig.configure("");
    zero.order(Assignment::Initialise);
    zero.converged().await;
    assert!(zero.config.curtain_is_open());
}

#[tokio::test]
async fn a_rotated_password_locks_nobody_out() {
    let rig = Rig::new().await;
    let zero = rig.primary().await;
    let one = rig.replica(1, 0, 0).await;
    std::fs::write(rig.dir.join("app/password"), "app-2").unwrap();
    std::fs::write(rig.dir.join("system/replication"), "repl-2").unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    while zero.login("shop", "app-2").await.is_err() {
        assert!(Instant::now() < deadline, "the new password never works: {:#?}", zero.now());
        sleep(Duration::from_millis(100)).await;
    }
    assert!(zero.login("shop", "app-1").await.is_ok(), "the old password works until the next change");
    while one.ask("SELECT User_password FROM mysql.slave_master_info").await != "repl-2" {
        assert!(Instant::now() < deadline, "the replica never takes the new password: {:#?}", one.now());
        sleep(Duration::from_millis(100)).await;
    }
    one.converged().await;
    create_rows(&mut zero.app().await, 0, 3).await;
    one.until_rows(3).await;
    let state = format!("{:?}{:?}", zero.now(), one.now());
    assert!(!state.contains("repl-") && !state.contains("app-1"), "{state}");
}

#[tokio::test]
async fn new_certificates_are_taken_without_a_restart() {
    let rig = Rig::new().await;
    let zero = rig.primary().await;
    let one = rig.replica(1, 0, 0).await;
    let serial = "SELECT VARIABLE_VALUE FROM performance_schema.global_status WHERE VARIABLE_NAME='Current_tls_cert'";
    assert!(zero.ask(serial).await.ends_with("tls.crt"));
    let valid = "SELECT VARIABLE_VALUE FROM performance_schema.global_status WHERE VARIABLE_NAME='Ssl_server_not_after'";
    let (before, uptime) =
        (zero.ask(valid).await, zero.ask("SELECT VARIABLE_VALUE FROM performance_schema.global_status WHERE VARIABLE_NAME='Uptime'").await);
    rig.certificates(2040);
    for member in [&zero, &one] {
        member.tls.send_modify(|version| *version += 1);
    }
    let deadline = Instant::now() + Duration::from_secs(10);
    while zero.ask(valid).await == before {
        assert!(Instant::now() < deadline, "still the old certificate, {before}");
        sleep(Duration::from_millis(50)).await;
    }
    assert!(
        zero.ask("SELECT VARIABLE_VALUE FROM performance_schema.global_status WHERE VARIABLE_NAME='Uptime'").await.parse::<u64>().unwrap()
            >= uptime.parse().unwrap()
    );
    create_rows(&mut zero.app().await, 0, 3).await;
    one.until_rows(3).await;
    assert!(one.now().replication.unwrap().receiving);
}

#[tokio::test]
async fn standalone_members_need_no_certificates_and_are_encrypted_all_the_same() {
    let rig = Rig::new().await;
    let plain = |config: &mut Config| (config.tls_dir, config.standalone) = (None, true);
    let mut zero = rig.member_with(0, plain);
    zero.order(Assignment::Initialise);
    zero.converged().await;
    zero.order(Assignment::Primary { acks: 0, members: vec![0, 1], barred: vec![] });
    zero.converged().await;
    zero.local().await.query_drop("CREATE TABLE shop_db.t (id BIGINT PRIMARY KEY)").await.unwrap();
    let mut one = rig.member_with(1, plain);
    one.follow(&rig, 0, &[0], false);
    assert!(one.converged().await.replication.unwrap().tls);
    // A receiver is connected before it has asked for anything.
    zero.local().await.query_drop("INSERT INTO shop_db.t VALUES (1)").await.unwrap();
    one.until_rows(1).await;
    assert_eq!(
        zero.ask(
            "SELECT GROUP_CONCAT(DISTINCT CONNECTION_TYPE) FROM performance_schema.threads WHERE PROCESSLIST_COMMAND LIKE 'Binlog Dump%'"
        )
        .await,
        "SSL/TLS"
    );
}

#[tokio::test]
async fn no_password_is_found_where_it_does_not_belong() {
    let rig = Rig::new().await;
    let zero = rig.primary().await;
    let one = rig.replica(1, 0, 0).await;
    let local = std::fs::read_to_string(one.config.data_dir.join(".understudy/local-password")).unwrap();
    for member in [&zero, &one] {
        for file in ["my.cnf", "scratch.cnf", "mysqld.log"] {
            let text = std::fs::read_to_string(member.config.run_dir.join(file)).unwrap();
            for secret in ["repl-", "clone-\"1", "app-1", &local] {
                assert!(!text.contains(secret), "{secret} is in {file}");
            }
        }
        let mode = std::fs::metadata(member.config.run_dir.join("init.sql")).unwrap().permissions();
        assert_eq!(std::os::unix::fs::PermissionsExt::mode(&mode) & 0o777, 0o600);
        assert!(!member.config.run_dir.join("first.sql").exists());
    }
    assert!(zero.login("root", "").await.is_err(), "nobody gets in without a password");
    assert!(zero.login("understudy_repl_1", "repl-'1\\").await.is_err(), "a password without the certificate is not enough");
}
