//! A former primary returns with what nobody else holds: it is archived, and the member is cloned anew (I6). Never without an order,
//! never before the archive is there.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use mysql_async::prelude::Queryable;
use sidecar_protocol::mysql::{Archive, Assignment, Data, ProblemCode, Role, State};
use tokio::process::Command;
use tokio::time::sleep;

use crate::rig::{Member, Rig, create_rows};

const OTHER: &str = "4e11fa47-71ca-11e1-9e33-c80aa9429562";

fn is(code: ProblemCode) -> impl Fn(&State) -> bool {
    move |state| state.problem.as_ref().is_some_and(|problem| problem.code == code)
}

impl Member {
    /// The order that gives the data directory `uuid` up.
    fn replace(&mut self, rig: &Rig, source: u32, uuid: &str) {
        let replace = Some(uuid.to_owned());
        self.order(Assignment::Replica { source: rig.peer(source), donors: vec![rig.peer(source)], acknowledges: false, replace });
    }

    fn errant(&self) -> PathBuf {
        self.config.data_dir.join(".understudy/errant")
    }

    fn marked(&self) -> bool {
        self.config.data_dir.join(".understudy/condemned").exists()
    }

    /// Archives, without the record.
    fn archives(&self) -> usize {
        fs::read_dir(self.errant()).map_or(0, |files| files.filter(|file| file.as_ref().unwrap().file_name() != "archive.json").count())
    }
}

/// Member 0 was the primary and died with a commit that nobody acknowledged; member 1 was promoted and goes on. Member 0 is back, and
/// is told to follow.
async fn a_failover(rig: &Rig) -> (Member, Member) {
    let mut zero = rig.primary().await;
    let mut one = rig.replica(1, 0, 0).await;
    one.follow(rig, 0, &[], true);
    one.converged().await;
    one.until("acknowledging", |state| state.acknowledges).await;
    zero.order(Assignment::Primary { acks: 1, members: vec![0, 1], barred: vec![] });
    zero.converged().await;
    create_rows(&mut zero.app().await, 0, 5).await;
    one.until_rows(5).await;
    one.order(Assignment::Isolated);
    one.converged().await;
    let mut client = zero.app().await;
    let write = tokio::spawn(async move { client.query_drop("INSERT INTO shop_db.t VALUES (666)").await });
    sleep(Duration::from_millis(500)).await;
    assert!(!write.is_finished(), "nobody acknowledges it");
    zero.order(Assignment::Isolated);
    zero.kill_mysqld().await;
    assert!(write.await.unwrap().is_err());
    one.order(Assignment::Primary { acks: 0, members: vec![0, 1], barred: vec![] });
    one.converged().await;
    create_rows(&mut one.app().await, 5, 5).await;
    zero.follow(rig, 1, &[1], false);
    (zero, one)
}

async fn uuid(member: &Member) -> String {
    member.until("known", |state| state.server_uuid.is_some()).await.server_uuid.unwrap()
}

#[tokio::test]
async fn what_only_a_former_primary_held_is_archived_and_the_member_cloned_anew() {
    let rig = Rig::new().await;
    let (mut zero, one) = a_failover(&rig).await;
    let state = zero.until("errant", is(ProblemCode::Errant)).await;
    assert!(!state.condemned && !zero.marked() && zero.archives() == 0, "only an order condemns: {state:#?}");
    assert_eq!(zero.rows().await, 6, "a restarted mysqld commits what was in flight");

    let old = uuid(&zero).await;
    zero.replace(&rig, 1, &old);
    let state = zero.until("condemned", |state| state.condemned).await;
    assert!(is(ProblemCode::Errant)(&state), "it is still wrong: {state:#?}");
    let archive = state.archive.unwrap();
    let held = zero.now().position.unwrap().held();
    let extra = held.minus(&one.now().position.unwrap().held());
    assert_eq!((&archive.gtids, archive.gtids.count()), (&extra, 1));
    let text = fs::read_to_string(&archive.file).unwrap();
    assert!(text.contains("### INSERT INTO `shop_db`.`t`") && text.contains("###   @1=666"), "{text}");
    assert_eq!(text.matches("###   @1=").count(), 1, "nothing else: {text}");
    assert_eq!(zero.rows().await, 6, "nothing is discarded while mysqld runs");

    // A sidecar that restarts beside its mysqld says the same and discards nothing.
    zero.stop_sidecar().await;
    zero.start_sidecar();
    assert_eq!((zero.now().condemned, zero.now().archive), (true, Some(archive.clone())));
    zero.replace(&rig, 1, &old);
    zero.until("seen again", |state| state.condemned && state.role != Role::Unknown).await;
    assert_eq!((zero.rows().await, zero.archives()), (6, 1));

    zero.replace_pod().await;
    assert_eq!((&zero.now().data, zero.now().condemned), (&Data::Empty, false));
    zero.follow(&rig, 1, &[1], false);
    let state = zero.converged().await;
    zero.until_rows(10).await;
    assert_eq!((state.cloned_from.as_deref(), state.problem, state.archive), (Some("shop-1"), None, Some(archive.clone())));
    assert_ne!(uuid(&zero).await, old);
    assert!(!zero.marked() && !zero.config.data_dir.join(".discarded").exists());
    create_rows(&mut one.app().await, 10, 5).await;
    zero.until_rows(15).await;

    // And it can be applied again, where a person wants that.
    replay(&rig, &one, &archive).await;
    zero.until_rows(16).await;
    assert_eq!(zero.ask("SELECT COUNT(*) FROM shop_db.t WHERE id=666").await, "1");
}

/// As the documentation tells a person to.
async fn replay(rig: &Rig, primary: &Member, archive: &Archive) {
    let account = "CREATE USER auditor IDENTIFIED BY 'a-1'; GRANT REPLICATION_APPLIER, SESSION_VARIABLES_ADMIN ON *.* TO auditor; \
                   GRANT INSERT ON shop_db.* TO auditor";
    primary.local().await.query_drop(account).await.unwrap();
    let mut client = Command::new(rig.dir.join("mysql"));
    let socket = format!("--socket={}", primary.config.socket().display());
    client.args([socket.as_str(), "--user=auditor"]).env("MYSQL_PWD", "a-1").stdin(fs::File::open(&archive.file).unwrap());
    let output = client.output().await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test]
async fn an_order_that_names_another_data_directory_or_is_withdrawn_discards_nothing() {
    let rig = Rig::new().await;
    let (mut zero, _one) = a_failover(&rig).await;
    zero.replace(&rig, 1, OTHER);
    zero.until("errant", is(ProblemCode::Errant)).await;
    sleep(Duration::from_secs(2)).await;
    assert!(!zero.now().condemned && !zero.marked() && zero.archives() == 0);

    let own = uuid(&zero).await;
    zero.replace(&rig, 1, &own);
    zero.until("condemned", |state| state.condemned).await;
    zero.follow(&rig, 1, &[1], false);
    zero.until("pardoned", |state| !state.condemned).await;
    assert!(!zero.marked());
    zero.replace_pod().await;
    zero.follow(&rig, 1, &[1], false);
    zero.until("errant again", is(ProblemCode::Errant)).await;
    assert_eq!((zero.rows().await, zero.archives()), (6, 1));

    // Archived once is enough.
    zero.replace(&rig, 1, &own);
    zero.until("condemned", |state| state.condemned).await;
    assert_eq!(zero.archives(), 1);

    // A pardon does not wait for a mysqld that does not answer.
    zero.stop_mysqld().await;
    zero.order(Assignment::Isolated);
    zero.until("pardoned", |state| !state.condemned).await;
    assert!(!zero.marked());
}

#[tokio::test]
async fn nothing_is_discarded_that_cannot_be_archived_nor_for_a_source_that_is_no_open_primary_or_of_another_history() {
    let rig = Rig::new().await;
    let (mut zero, mut one) = a_failover(&rig).await;
    zero.until("errant", is(ProblemCode::Errant)).await;
    // What its logs do not have any more cannot be archived, and is not thrown away.
    let own = uuid(&zero).await;
    zero.purge_logs().await;
    zero.replace(&rig, 1, &own);
    let state =
        zero.until("refusing", |state| state.problem.as_ref().is_some_and(|wrong| wrong.message.contains("cannot be archived"))).await;
    assert!(is(ProblemCode::Errant)(&state) && !state.condemned && !zero.marked() && zero.archives() == 0, "{state:#?}");

    one.order(Assignment::Isolated);
    one.converged().await;
    zero.replace(&rig, 1, &own);
    sleep(Duration::from_secs(3)).await;
    assert!(!zero.now().condemned && !zero.marked() && zero.archives() == 0, "{:#?}", zero.now());
    one.stop_mysqld().await;
    zero.until("told that it is silent", is(ProblemCode::ReplicationFailed)).await;
    assert!(!zero.now().condemned && !zero.marked() && zero.archives() == 0);

    // A primary that was initialised anew shares nothing with it.
    let mut two = rig.member(2);
    two.order(Assignment::Initialise);
    two.converged().await;
    two.order(Assignment::Primary { acks: 0, members: vec![0, 1, 2], barred: vec![] });
    two.converged().await;
    zero.replace(&rig, 2, &own);
    let state =
        zero.until("refusing", |state| state.problem.as_ref().is_some_and(|wrong| wrong.message.contains("shares no history"))).await;
    assert!(is(ProblemCode::Errant)(&state) && !state.condemned && !zero.marked() && zero.archives() == 0, "{state:#?}");
}

#[tokio::test]
async fn a_member_whose_source_purged_what_it_lacks_is_cloned_anew_with_nothing_to_archive() {
    let rig = Rig::new().await;
    let (_zero, mut one) = rig.primary_without_logs().await;
    one.follow(&rig, 0, &[0], false);
    one.until("stuck", is(ProblemCode::LogsPurged)).await;
    let own = uuid(&one).await;
    one.replace(&rig, 0, &own);
    let state = one.until("condemned", |state| state.condemned).await;
    assert!(state.archive.is_none() && is(ProblemCode::LogsPurged)(&state), "{state:#?}");
    one.replace_pod().await;
    one.follow(&rig, 0, &[0], false);
    one.converged().await;
    one.until_rows(5).await;
}

#[tokio::test]
async fn without_mysqlbinlog_the_logs_themselves_are_kept() {
    let rig = Rig::new().await;
    fs::remove_file(rig.dir.join("mysqlbinlog")).unwrap();
    let (mut zero, one) = a_failover(&rig).await;
    // A log that holds nothing of it is not kept.
    zero.until("errant", is(ProblemCode::Errant)).await;
    zero.local().await.query_drop("FLUSH BINARY LOGS").await.unwrap();
    let own = uuid(&zero).await;
    zero.replace(&rig, 1, &own);
    let archive = zero.until("condemned", |state| state.condemned).await.archive.unwrap();
    zero.replace_pod().await;
    zero.follow(&rig, 1, &[1], false);
    zero.converged().await;
    zero.until_rows(10).await;
    assert_eq!(zero.now().archive.as_ref(), Some(&archive));
    let dir = Path::new(&archive.file);
    assert_eq!(fs::read_to_string(dir.join("gtids")).unwrap(), archive.gtids.to_string());
    let logs: Vec<PathBuf> = fs::read_dir(dir).unwrap().map(|file| file.unwrap().path()).filter(|path| !path.ends_with("gtids")).collect();
    assert_eq!(logs.len(), 1, "{logs:?}");
    rig.tool("mysqlbinlog");
    let decoded = Command::new(rig.dir.join("mysqlbinlog")).arg("-v").args(logs).output().await.unwrap();
    assert!(String::from_utf8_lossy(&decoded.stdout).contains("###   @1=666"));
    drop(one);
}

#[tokio::test]
async fn what_was_received_but_never_applied_is_archived_too() {
    let rig = Rig::new().await;
    let mut zero = rig.primary().await;
    let mut one = rig.replica(1, 0, 0).await;
    let mut two = rig.replica(2, 0, 0).await;
    create_rows(&mut zero.app().await, 0, 5).await;
    for member in [&one, &two] {
        member.until_rows(5).await;
    }
    one.order(Assignment::Isolated);
    one.converged().await;
    // Member 2 receives a row that it cannot apply.
    let lose = "SET sql_log_bin=OFF; SET GLOBAL super_read_only=OFF; DROP TABLE shop_db.t";
    while two.local().await.query_drop(lose).await.is_err() {
        sleep(Duration::from_millis(50)).await;
    }
    zero.app().await.query_drop("INSERT INTO shop_db.t VALUES (777)").await.unwrap();
    let all = zero.now().position.unwrap().executed;
    two.until("holding it", |state| state.position.as_ref().is_some_and(|position| position.held().contains(&all))).await;
    zero.order(Assignment::Isolated);
    zero.converged().await;
    one.order(Assignment::Primary { acks: 0, members: vec![0, 1, 2], barred: vec![] });
    one.converged().await;
    let own = uuid(&two).await;
    two.replace(&rig, 1, &own);
    let archive = two.until("condemned", |state| state.condemned).await.archive.unwrap();
    assert!(!two.now().position.unwrap().executed.contains(&archive.gtids), "it was never applied");
    let text = fs::read_to_string(&archive.file).unwrap();
    assert_eq!((text.matches("###   @1=").count(), text.matches("###   @1=777").count()), (1, 1), "{text}");
}
