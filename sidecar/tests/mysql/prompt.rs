//! What a member sees and how fast it acts: the parts of a failover and of a switchover that happen in one pod.

use std::time::Duration;

use mysql_async::Conn;
use mysql_async::prelude::Queryable;
use sidecar_protocol::mysql::{Assignment, Data, Process, Role, State};
use tokio::time::{Instant, sleep, timeout};

use crate::rig::{Member, Rig, create_rows};

/// Two cores for everything, a debug build and other tests: many times what a pod needs.
const SLOW_MACHINE: u32 = 5;

/// How long `what` took, checked against what it may take on a machine of its own.
fn took(what: &str, since: Instant, allowed: Duration) {
    let took = since.elapsed();
    println!("{what}: {} ms", took.as_millis());
    assert!(took < allowed * SLOW_MACHINE, "{what} took {took:?}");
}

fn primary(acks: u32, barred: &[u32]) -> Assignment {
    Assignment::Primary { acks, members: vec![0, 1, 2, 3], barred: barred.to_vec() }
}

fn dumping(state: &State) -> Option<&[u32]> {
    state.semi_sync.as_ref().map(|semi| semi.dumping.as_slice())
}

/// A primary whose commits wait for one of two replicas.
async fn trio(rig: &Rig) -> [Member; 3] {
    let mut zero = rig.primary().await;
    create_rows(&mut zero.app().await, 0, 10).await;
    let mut others = [rig.replica(1, 0, 0).await, rig.replica(2, 0, 0).await];
    for other in &mut others {
        other.follow(rig, 0, &[], true);
        other.until("acknowledging", |state| state.acknowledges).await;
    }
    zero.order(primary(1, &[]));
    zero.converged().await;
    let [one, two] = others;
    [zero, one, two]
}

async fn is_stuck(write: &mut (impl Future<Output = mysql_async::Result<()>> + Unpin)) -> bool {
    timeout(Duration::from_millis(700), write).await.is_err()
}

fn insert(mut app: Conn, id: u64) -> std::pin::Pin<Box<dyn Future<Output = mysql_async::Result<()>>>> {
    Box::pin(async move { app.query_drop(format!("INSERT INTO shop_db.t VALUES ({id})")).await })
}

#[tokio::test]
async fn a_killed_mysqld_is_down_at_once_until_it_answers_again() {
    let rig = Rig::new().await;
    let zero = rig.primary().await;
    for _ in 0..2 {
        let mut state = zero.state.clone();
        state.borrow_and_update();
        let killed = Instant::now();
        zero.kill_mysqld().await;
        zero.until("down", |state| state.process == Process::Down).await;
        took("kill -9 to report", killed, Duration::from_millis(50));
        // Whatever it says next, it is nothing between down and up.
        while state.borrow_and_update().process != Process::Running || killed.elapsed() < Duration::from_millis(300) {
            assert!(matches!(state.borrow().process, Process::Down | Process::Running), "{:#?}", zero.now());
            let _ = timeout(Duration::from_secs(30), state.changed()).await;
        }
        zero.converged().await;
    }
}

#[tokio::test]
async fn a_lost_connection_is_not_a_lost_mysqld() {
    let rig = Rig::new().await;
    let zero = rig.primary().await;
    let mut state = zero.state.clone();
    let ids: Vec<u64> = zero
        .local()
        .await
        .query(
            "SELECT PROCESSLIST_ID FROM performance_schema.threads WHERE PROCESSLIST_USER='understudy' AND PROCESSLIST_ID<>CONNECTION_ID()",
        )
        .await
        .unwrap();
    assert!(ids.len() >= 2, "a connection that asks and one that watches: {ids:?}");
    for id in ids {
        zero.local().await.query_drop(format!("KILL {id}")).await.unwrap();
    }
    for _ in 0..20 {
        assert_eq!(state.borrow_and_update().process, Process::Running);
        let _ = timeout(Duration::from_millis(100), state.changed()).await;
    }
}

#[tokio::test]
async fn a_frozen_mysqld_is_silent_and_its_replicas_notice() {
    let rig = Rig::new().await;
    let mut zero = rig.primary().await;
    let mut one = rig.replica(1, 0, 0).await;
    // The receiver has had a heartbeat.
    sleep(Duration::from_millis(1500)).await;
    let before = zero.now();
    let (frozen, mut state) = (Instant::now(), zero.state.clone());
    zero.signal_mysqld("STOP").await;
    one.until("cut off", |state| state.replication.as_ref().is_some_and(|replication| !replication.receiving)).await;
    println!("SIGSTOP to a replica's report: {} ms", frozen.elapsed().as_millis());
    assert!(frozen.elapsed() < Duration::from_secs(5), "{:?}", frozen.elapsed());
    let silent = timeout(Duration::from_secs(4), state.wait_for(|state| state.process != Process::Running)).await.unwrap().unwrap().clone();
    assert_eq!((silent.process, silent.role, &silent.data), (Process::Silent, Role::Unknown, &Data::Present));
    assert_eq!((silent.position, silent.server_uuid), (None, before.server_uuid), "unknown is unknown, but it is the same directory");

    // It tries to connect to who never greets.
    one.order(Assignment::Isolated);
    one.converged().await;
    println!("SIGSTOP to a stopped receiver: {} ms", frozen.elapsed().as_millis());

    zero.stop_sidecar().await;
    zero.start_sidecar();
    sleep(Duration::from_secs(4)).await;
    assert_eq!(zero.now().process, Process::Starting, "it has never answered this sidecar");
    zero.signal_mysqld("CONT").await;
    zero.until("back", |state| state.role == Role::Primary).await;
}

#[tokio::test]
async fn a_barred_member_neither_acknowledges_nor_comes_back_until_it_is_let_in() {
    let rig = Rig::new().await;
    let [mut zero, one, two] = trio(&rig).await;
    zero.until("followed", |state| dumping(state) == Some(&[1, 2])).await;

    let began = Instant::now();
    zero.order(primary(1, &[1, 2]));
    let state = zero.converged().await;
    // The thread that reads acknowledgements looks up once a second.
    took("barring two members", began, Duration::from_millis(400));
    assert_eq!(dumping(&state), Some(&[][..]));
    let mut write = insert(zero.app().await, 100);
    assert!(is_stuck(&mut write).await, "acknowledged by nobody");
    sleep(Duration::from_secs(2)).await;
    for other in [&one, &two] {
        let replication = other.now().replication.unwrap();
        assert!(!replication.receiving && !other.now().acknowledges, "{replication:?}");
        assert_eq!(other.rows().await, 10);
    }
    assert_eq!(dumping(&zero.now()), Some(&[][..]), "they tried once a second");
    assert!(zero.now().accepted.unwrap().converged);

    zero.order(primary(1, &[1]));
    zero.converged().await;
    timeout(Duration::from_secs(5), write).await.expect("let in, it acknowledges").unwrap();
    two.until_rows(11).await;
    zero.until("followed", |state| dumping(state) == Some(&[2])).await;
    assert_eq!(one.rows().await, 10);

    // A lock is this server's own: the next primary does not know it, and what was cloned with the data is lifted.
    assert_eq!(two.ask("SELECT COUNT(*) FROM mysql.user WHERE account_locked='Y' AND User LIKE 'understudy%'").await, "0");
    let mut three = rig.replica(3, 0, 0).await;
    assert_eq!(three.ask("SELECT account_locked FROM mysql.user WHERE User='understudy_repl_1'").await, "Y");
    three.order(Assignment::Isolated);
    three.converged().await;
    three.order(primary(0, &[2]));
    three.converged().await;
    assert_eq!(
        three.ask("SELECT GROUP_CONCAT(User) FROM mysql.user WHERE account_locked='Y' AND User LIKE 'understudy%'").await,
        "understudy_repl_2"
    );
}

#[tokio::test]
async fn a_closing_primary_cuts_off_a_long_statement_which_leaves_nothing() {
    let rig = Rig::new().await;
    let mut zero = rig.primary().await;
    let mut app = zero.app().await;
    create_rows(&mut app, 0, 10).await;
    let mut idle = zero.app().await;
    idle.query_drop("BEGIN").await.unwrap();
    idle.query_drop("INSERT INTO shop_db.t VALUES (50)").await.unwrap();
    let update = tokio::spawn(async move { app.query_drop("UPDATE shop_db.t SET id=id+1000 WHERE id<40 AND SLEEP(2)=0").await });
    zero.until("busy", |state| state.busy_seconds.is_some_and(|seconds| seconds >= 2)).await;

    let began = Instant::now();
    zero.order(Assignment::Isolated);
    zero.converged().await;
    took("sealing under a long UPDATE", began, Duration::from_millis(300));
    assert!(update.await.unwrap().is_err());
    assert!(idle.query_drop("COMMIT").await.is_err(), "what was open is gone");
    assert_eq!(zero.now().busy_seconds, None);
    assert_eq!(zero.ask("SELECT CONCAT(COUNT(*), ':', MAX(id)) FROM shop_db.t").await, "10:9");
}

#[tokio::test]
async fn a_primary_whose_connections_are_all_taken_closes() {
    let rig = Rig::new().await;
    let mut zero = rig.primary().await;
    zero.local().await.query_drop("SET GLOBAL max_connections=12").await.unwrap();
    let mut clients = vec![];
    while let Ok(client) = zero.login("shop", "app-1").await {
        clients.push(client);
    }
    zero.order(Assignment::Isolated);
    zero.converged().await;
    assert_eq!(zero.now().role, Role::Isolated);
}

#[tokio::test]
async fn a_client_that_holds_a_lock_does_not_hold_up_a_member_that_is_to_lead() {
    let rig = Rig::new().await;
    let [mut zero, mut one, _] = trio(&rig).await;
    let mut app = zero.app().await;
    create_rows(&mut app, 10, 10).await;
    let there = zero.ask("SELECT @@gtid_executed").await.replace('\n', "").parse().unwrap();
    one.until("caught up", |state| state.position.as_ref().is_some_and(|position| position.executed.contains(&there))).await;
    let mut backup = one.app().await;
    backup.query_drop("LOCK TABLES shop_db.t READ").await.unwrap();
    create_rows(&mut app, 30, 10).await;
    zero.order(Assignment::Isolated);
    let last = zero.converged().await.position.unwrap().executed;
    one.until("all received", |state| state.position.as_ref().is_some_and(|position| position.held().contains(&last))).await;
    one.order(Assignment::Isolated);
    one.converged().await;

    let began = Instant::now();
    one.order(primary(1, &[0]));
    one.until("open", |state| state.role == Role::Primary && state.ready).await;
    assert!(began.elapsed() < Duration::from_secs(10));
    assert!(backup.query_drop("SELECT 1").await.is_err(), "it was sent away");
    assert_eq!(one.ask("SELECT COUNT(*) FROM shop_db.t").await, "30");
}

#[tokio::test]
async fn a_commit_that_the_barred_acknowledged_is_told_to_nobody() {
    let rig = Rig::new().await;
    let [mut zero, one, mut two] = trio(&rig).await;
    zero.order(primary(2, &[]));
    zero.converged().await;
    two.order(Assignment::Isolated);
    two.converged().await;
    let mut write = insert(zero.app().await, 500);
    assert!(is_stuck(&mut write).await, "one of two acknowledgements");
    assert_eq!(
        one.ask("SELECT COUNT(*) FROM performance_schema.replication_connection_status WHERE RECEIVED_TRANSACTION_SET<>''").await,
        "1"
    );

    zero.order(primary(2, &[1]));
    zero.until("barred", |state| dumping(state).is_some_and(|dumping| dumping.is_empty())).await;
    zero.order(primary(1, &[1]));
    two.follow(&rig, 0, &[], true);
    let told = timeout(Duration::from_secs(10), write).await.expect("its client is cut off");
    assert!(told.is_err(), "it was told that it is done");
    create_rows(&mut zero.app().await, 600, 1).await;
}

#[tokio::test]
async fn a_hand_over_takes_a_tenth_of_a_second() {
    let rig = Rig::new().await;
    let [mut zero, mut one, mut two] = trio(&rig).await;
    let mut app = zero.app().await;
    create_rows(&mut app, 10, 10).await;
    sleep(Duration::from_secs(6)).await;

    let began = Instant::now();
    zero.order(Assignment::Isolated);
    let last = zero.converged().await.position.unwrap().executed;
    took("primary to Isolated, idle", began, Duration::from_millis(30));
    one.until("caught up", |state| state.position.as_ref().is_some_and(|position| position.executed.contains(&last))).await;

    for member in [&mut one, &mut two] {
        let began = Instant::now();
        member.order(Assignment::Isolated);
        member.converged().await;
        took("replica to Isolated", began, Duration::from_millis(30));
    }
    let began = Instant::now();
    one.order(primary(1, &[0]));
    one.until("open", |state| state.role == Role::Primary && state.ready).await;
    took("replica to open primary", began, Duration::from_millis(60));
    one.converged().await;
    took("all of it", began, Duration::from_millis(120));
    let began = Instant::now();
    two.follow(&rig, 1, &[], true);
    two.until("acknowledging", |state| state.acknowledges).await;
    took("replica to the new primary", began, Duration::from_millis(150));
    create_rows(&mut one.app().await, 20, 1).await;
    took("first commit", began, Duration::from_millis(200));
}
