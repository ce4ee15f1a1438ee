//! Members come back: contained histories follow; what only one member held is archived on its volume, and it is cloned anew (I6).

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mysql_async::prelude::Queryable;
use tokio::time::{sleep, timeout};

use crate::rig::Cluster;
use crate::writer::Writer;
use e2e::stage::{eventually, on_stage};

/// Rows that nobody may find in the ledger in the end.
const UNSEEN: u64 = 1_000_000;

/// Waits until what only `member` held is archived with a row whose note is `note`, and told; nobody holds the row `number`.
async fn is_archived(cluster: &Cluster, member: &str, number: u64, note: &str) -> Result<()> {
    let row = cluster.status().await?.members.into_iter().find(|row| row.name == member);
    let file = row.and_then(|row| row.archive).with_context(|| format!("the status names no archive of {member}"))?;
    let script = format!("{note:?}");
    let found = cluster.lab.exec(&cluster.namespace, member, "mysql", &["grep", "-c", note, &file]).await;
    ensure!(found.is_ok(), "{file} on {member} does not hold {script}: {found:?}");
    let told = cluster.told("ErrantArchived").await?;
    ensure!(told.contains(&file) && told.contains(member), "no Event names {file} of {member}: {told:?}");
    for name in cluster.status().await?.members {
        ensure!(
            !cluster.numbers(&name.name).await?.contains(&number),
            "{} holds row {number}, which was acknowledged to nobody",
            name.name
        );
    }
    Ok(())
}

#[tokio::test]
async fn a_frozen_primary_acknowledges_nothing_after_its_thaw_and_what_only_it_took_is_archived() -> Result<()> {
    on_stage("frozen", |lab, namespace| async move {
        let cluster = Cluster::perform(&lab, &namespace, 3).await?;
        let writer = Writer::start(&cluster, 1);
        writer.goes_on().await?;
        let old = cluster.primary().await?;
        let uuid = cluster.server_uuid(&old).await?;
        let mut open = cluster.to(&old).await?;
        open.query_drop("SELECT 1").await?;
        let visitor = Writer::to_address(&cluster, UNSEEN + 1, cluster.address(&old).await?);
        visitor.goes_on().await?;

        lab.freeze(&namespace, &old).await?;
        // It lies in the socket until the thaw: then it runs, before anybody tells the old primary that it is one no more.
        let statement = format!("INSERT INTO ledger VALUES ({UNSEEN}, 'posthumous')");
        let pending = tokio::spawn(async move { open.query_drop(statement).await });
        let new = cluster.succeeded(&old).await?;
        cluster.leads(&new).await?;
        writer.goes_on().await?;
        let before = visitor.count();
        lab.thaw(&namespace, &old).await?;
        let answer = timeout(Duration::from_secs(60), pending).await.context("a client of the old primary is left hanging")??;
        ensure!(answer.is_err(), "the old primary acknowledged a write after another one had taken over");
        cluster.whole(3).await?;
        ensure!(visitor.count() == before, "the old primary acknowledged {} writes after its thaw", visitor.count() - before);
        ensure!(cluster.primary().await? == new, "who is back does not lead again");
        if cluster.server_uuid(&old).await? == uuid {
            // Its sidecar was thawed first, and had closed it before the statement was read.
            ensure!(!cluster.numbers(&old).await?.contains(&UNSEEN), "{old} follows with a row that nobody else has");
        } else {
            is_archived(&cluster, &old, UNSEEN, "posthumous").await?;
        }
        let mut acknowledged = writer.finish().await?;
        acknowledged.append(&mut visitor.finish().await?);
        cluster.holds(&acknowledged).await
    })
    .await
}

#[tokio::test]
async fn a_crashed_primary_with_a_commit_that_nobody_acknowledged_is_archived_and_cloned_anew() -> Result<()> {
    on_stage("errant", |lab, namespace| async move {
        let cluster = Cluster::perform(&lab, &namespace, 3).await?;
        let writer = Writer::start(&cluster, 1);
        writer.goes_on().await?;
        let acknowledged = writer.finish().await?;
        let old = cluster.primary().await?;
        let (uuid, claim) = (cluster.server_uuid(&old).await?, cluster.claims().get(&format!("data-{old}")).await?.metadata.uid);
        let others = cluster.others(&old).await?;
        let mut client = cluster.to(&old).await?;
        lab.cut(&namespace, &[&old], &[&others[0], &others[1]]).await?;
        let statement = format!("INSERT INTO ledger VALUES ({UNSEEN}, 'unheard')");
        let commit = timeout(Duration::from_secs(2), client.query_drop(statement)).await;
        ensure!(commit.is_err(), "a commit that no replica can have received was answered: {commit:?}");
        let new = cluster.crashed(&old).await?;
        lab.heal_namespace(&namespace).await?;
        cluster.cloned_anew(&old, &uuid, 3).await?;
        ensure!(cluster.primary().await? == new, "who is back does not lead again");
        is_archived(&cluster, &old, UNSEEN, "unheard").await?;
        let claim_now = cluster.claims().get(&format!("data-{old}")).await?.metadata.uid;
        ensure!(claim_now == claim, "the volume, and the archive on it, must stay");
        cluster.holds(&acknowledged).await
    })
    .await
}

#[tokio::test]
async fn a_primary_whose_sidecar_has_just_begun_is_killed_rather_than_shut_down() -> Result<()> {
    on_stage("unaware", |lab, namespace| async move {
        let cluster = Cluster::perform(&lab, &namespace, 3).await?;
        let writer = Writer::start(&cluster, 1);
        writer.goes_on().await?;
        let acknowledged = writer.finish().await?;
        let old = cluster.primary().await?;
        let mut client = cluster.to(&old).await?;
        client.query_drop("SELECT 1").await?;

        lab.isolate(&namespace, &old).await?;
        let commit = tokio::spawn(async move { client.query_drop(format!("INSERT INTO ledger VALUES ({UNSEEN}, 'unheard')")).await });
        sleep(Duration::from_millis(200)).await;
        // It knows nobody's order yet, and its mysqld is open: an orderly shutdown would tell the client that its commit is done.
        cluster.restarted(&old, "sidecar").await?;
        cluster.delete_at_once(&old).await?;
        let answer = timeout(Duration::from_secs(30), commit).await.context("the client is left hanging")??;
        ensure!(answer.is_err(), "a commit that nobody else holds was acknowledged by the end of the primary");
        lab.heal_namespace(&namespace).await?;
        let new = cluster.succeeded(&old).await?;
        cluster.leads(&new).await?;
        cluster.whole(3).await?;
        cluster.holds(&acknowledged).await
    })
    .await
}

#[tokio::test]
async fn a_replica_with_transactions_of_its_own_is_never_promoted_and_is_cloned_anew() -> Result<()> {
    on_stage("stray", |lab, namespace| async move {
        let cluster = Cluster::perform(&lab, &namespace, 3).await?;
        let writer = Writer::start(&cluster, 1);
        writer.goes_on().await?;
        let old = cluster.primary().await?;
        let others = cluster.others(&old).await?;
        // The lower ordinal, which is preferred among equals.
        let (stray, sound) = (&others[0], &others[1]);
        let uuid = cluster.server_uuid(stray).await?;
        let statement = format!(
            "SET GLOBAL super_read_only=OFF; SET GLOBAL read_only=OFF; INSERT INTO shop.ledger VALUES ({UNSEEN}, 'stray'); SET GLOBAL super_read_only=ON"
        );
        cluster.sql(stray, &statement).await?;
        // Known or not: the primary dies a moment later.
        sleep(Duration::from_millis(1500)).await;
        cluster.crash(&old).await?;
        let new = eventually("a primary that takes writes", || async {
            ensure!(cluster.primary().await? != *stray, "{stray} was promoted with a transaction of its own");
            let status = cluster.status().await?;
            ensure!(status.transition.is_none(), "{}: {}", status.state, status.reason);
            let before = writer.count();
            sleep(Duration::from_secs(1)).await;
            ensure!(writer.count() > before, "{}: {}", status.state, status.reason);
            Ok(())
        });
        new.await?;
        let leader = cluster.primary().await?;
        ensure!(leader == *sound || leader == old, "{leader} leads");
        cluster.cloned_anew(stray, &uuid, 3).await?;
        is_archived(&cluster, stray, UNSEEN, "stray").await?;
        let acknowledged = writer.finish().await?;
        cluster.holds(&acknowledged).await
    })
    .await
}

#[tokio::test]
async fn a_replica_that_is_lost_leaves_the_ack_set_so_the_next_loss_fails_over_and_without_its_logs_it_is_cloned_anew() -> Result<()> {
    on_stage("purged", |lab, namespace| async move {
        let cluster = Cluster::perform(&lab, &namespace, 3).await?;
        let writer = Writer::start(&cluster, 1);
        writer.goes_on().await?;
        let old = cluster.primary().await?;
        let others = cluster.others(&old).await?;
        let (away, left) = (&others[0], &others[1]);
        let uuid = cluster.server_uuid(away).await?;
        lab.isolate(&namespace, away).await?;
        cluster.acknowledged_by(&[left]).await?;
        writer.goes_on().await?;

        let new = cluster.crashed(&old).await?;
        ensure!(new == *left, "{new} leads, which is cut off");
        writer.goes_on().await?;
        cluster.acknowledged_by(&[&old]).await?;

        // Whatever it missed is in no log any more.
        for member in [&new, &old] {
            cluster.sql(member, "FLUSH BINARY LOGS; PURGE BINARY LOGS BEFORE NOW() + INTERVAL 1 DAY").await?;
        }
        lab.heal_namespace(&namespace).await?;
        cluster.cloned_anew(away, &uuid, 3).await?;
        let acknowledged = writer.finish().await?;
        cluster.holds(&acknowledged).await
    })
    .await
}
