//! The primary is lost: another member that holds every acknowledged row leads, and the old one follows by itself.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mysql_async::prelude::Queryable;
use serde_json::json;
use tokio::time::sleep;

use crate::rig::Cluster;
use crate::writer::Writer;
use e2e::stage::operator;
use e2e::stage::{SYSTEM, alone_on_stage, eventually, on_stage};

/// Kills the primary, and the one that follows it as soon as somebody acknowledges what it takes; returns when all serve again.
async fn crash_twice(cluster: &Cluster) -> Result<()> {
    let term = cluster.status().await?.term;
    let first = cluster.primary().await?;
    let second = cluster.crashed(&first).await?;
    cluster.leads(&second).await?;
    eventually("somebody to acknowledge again", || async {
        ensure!(!cluster.status().await?.ack_set.is_empty(), "nobody");
        Ok(())
    })
    .await?;
    let third = cluster.crashed(&second).await?;
    cluster.leads(&third).await?;
    cluster.whole(3).await?;
    let status = cluster.status().await?;
    ensure!(status.term >= term + 2, "two failovers took the term from {term} to {}", status.term);
    let roles: Vec<_> =
        status.members.iter().map(|member| (member.name.as_str(), member.role.as_str(), member.source.as_deref())).collect();
    let followers = roles.iter().filter(|(_, role, source)| *role == "Replica" && *source == status.primary.as_deref()).count();
    ensure!(followers == 2, "the old primaries do not follow: {roles:?}");
    Ok(())
}

#[tokio::test]
async fn a_primary_that_dies_twice_in_a_row_empty_idle_or_under_load_is_replaced_and_follows() -> Result<()> {
    on_stage("crash", |lab, namespace| async move {
        let cluster = Cluster::create(&lab, &namespace, 3).await?;
        cluster.whole(3).await?;
        // Nobody has ever written.
        let first = cluster.primary().await?;
        let second = cluster.crashed(&first).await?;
        cluster.leads(&second).await?;
        cluster.whole(3).await?;

        cluster.ledger().await?;
        cluster.writes().await?.query_drop("INSERT INTO ledger VALUES (1, 'before')").await?;
        crash_twice(&cluster).await.context("idle")?;
        cluster.holds(&[1].into()).await?;

        let writer = Writer::start(&cluster, 2);
        writer.goes_on().await?;
        crash_twice(&cluster).await.context("under load")?;
        writer.goes_on().await?;

        // At once: whoever leads, perhaps before anybody can acknowledge, so that only its own return is safe.
        let first = cluster.primary().await?;
        let second = cluster.crashed(&first).await?;
        cluster.restarted(&second, "mysql").await?;
        writer.goes_on().await?;
        cluster.whole(3).await?;

        // Its pod goes at once, and comes back as another one.
        let lost = cluster.primary().await?;
        let next = cluster.deleted(&lost).await?;
        cluster.leads(&next).await?;
        writer.goes_on().await?;
        cluster.whole(3).await?;
        let acknowledged = writer.finish().await?;
        cluster.holds(&acknowledged).await
    })
    .await
}

#[tokio::test]
async fn of_two_members_the_other_leads_and_strict_commits_wait_until_the_old_one_is_back() -> Result<()> {
    on_stage("pair", |lab, namespace| async move {
        let cluster = Cluster::perform(&lab, &namespace, 2).await?;
        let writer = Writer::start(&cluster, 1);
        writer.goes_on().await?;
        let old = cluster.primary().await?;
        lab.freeze(&namespace, &old).await?;
        let new = cluster.succeeded(&old).await?;
        // It leads, and says why nothing is acknowledged: what it took alone would be lost with it.
        cluster.says("Degraded", "commits wait").await?;
        let waiting = writer.count();
        sleep(Duration::from_secs(3)).await;
        ensure!(writer.count() == waiting, "{} commits were acknowledged by nobody but the primary", writer.count() - waiting);
        lab.thaw(&namespace, &old).await?;
        writer.goes_on().await?;
        cluster.whole(2).await?;
        ensure!(cluster.primary().await? == new, "who is back does not lead again");

        cluster.crashed(&new).await?;
        writer.goes_on().await?;
        cluster.whole(2).await?;
        let acknowledged = writer.finish().await?;
        cluster.holds(&acknowledged).await
    })
    .await
}

#[tokio::test]
async fn of_five_members_the_primary_and_a_replica_may_be_lost_at_the_same_time() -> Result<()> {
    on_stage("five", |lab, namespace| async move {
        let cluster = Cluster::perform(&lab, &namespace, 5).await?;
        let writer = Writer::start(&cluster, 1);
        writer.goes_on().await?;
        let old = cluster.primary().await?;
        let frozen = cluster.others(&old).await?.remove(0);
        lab.freeze(&namespace, &frozen).await?;
        let new = cluster.deleted(&old).await?;
        ensure!(new != frozen, "who does not answer is not promoted");
        writer.goes_on().await?;
        lab.thaw(&namespace, &frozen).await?;
        cluster.whole(5).await?;
        let acknowledged = writer.finish().await?;
        cluster.holds(&acknowledged).await
    })
    .await
}

#[tokio::test]
async fn a_replica_that_lags_is_not_promoted_before_one_that_holds_all() -> Result<()> {
    on_stage("lag", |lab, namespace| async move {
        let cluster = Cluster::perform(&lab, &namespace, 3).await?;
        let writer = Writer::start(&cluster, 1);
        writer.goes_on().await?;
        // The lower ordinal, which is preferred among equals, receives nothing more.
        let old = cluster.primary().await?;
        let others = cluster.others(&old).await?;
        lab.cut(&namespace, &[&old], &[&others[0]]).await?;
        writer.goes_on().await?;
        let new = cluster.crashed(&old).await?;
        ensure!(new == others[1], "{new} leads, which lacks what was acknowledged while it was cut off");
        writer.goes_on().await?;
        lab.heal_namespace(&namespace).await?;
        cluster.whole(3).await?;

        // One that has received all, and applies nothing: somebody reads for long.
        let others = cluster.others(&new).await?;
        let mut reader = cluster.to(&others[0]).await?;
        reader.query_drop("LOCK TABLES ledger READ").await?;
        writer.goes_on().await?;
        let last = cluster.crashed(&new).await?;
        cluster.leads(&last).await?;
        writer.goes_on().await?;
        drop(reader);
        cluster.whole(3).await?;
        let acknowledged = writer.finish().await?;
        cluster.holds(&acknowledged).await
    })
    .await
}

#[tokio::test]
async fn an_operator_that_dies_in_the_middle_of_a_failover_goes_on_with_it() -> Result<()> {
    alone_on_stage("mortal", |lab, namespace| async move {
        let cluster = Cluster::perform(&lab, &namespace, 3).await?;
        let writer = Writer::start(&cluster, 1);
        writer.goes_on().await?;
        // A failover takes a few hundred milliseconds: each round dies in another of its steps. A new pod knows no back-off.
        for moment in [0, 40, 120, 300] {
            let (old, term) = (cluster.primary().await?, cluster.status().await?.term);
            let operator = operator(&lab).await?;
            cluster.crash(&old).await?;
            sleep(Duration::from_millis(moment)).await;
            lab.kill_container(SYSTEM, &operator, "operator").await?;
            lab.kubectl(&["delete", "pod", "-n", SYSTEM, &operator, "--grace-period=0", "--force"]).await?;
            eventually("another operator", || async {
                ensure!(e2e::stage::operator(&lab).await? != operator, "still {operator}");
                Ok(())
            })
            .await?;
            writer.goes_on().await?;
            cluster.whole(3).await.with_context(|| format!("killed after {moment} ms"))?;
            let status = cluster.status().await?;
            ensure!(status.primary.as_ref() == Some(&old) || status.term > term, "another primary in the same term");
        }
        let acknowledged = writer.finish().await?;
        cluster.holds(&acknowledged).await
    })
    .await
}

#[tokio::test]
async fn clusters_that_hang_or_cannot_start_delay_no_other() -> Result<()> {
    on_stage("neighbours", |lab, namespace| async move {
        let (mut hangs, mut broken) = (Cluster::new(&lab, &namespace), Cluster::new(&lab, &namespace));
        (hangs.name, broken.name) = ("hangs".into(), "broken".into());
        hangs.apply(Cluster::spec(1)).await?;
        let mut spec = Cluster::spec(1);
        spec["image"] = json!("localhost/there-is-no-such-image");
        broken.apply(spec).await?;
        let cluster = Cluster::perform(&lab, &namespace, 3).await?;
        hangs.ready(1).await?;

        // It keeps its connections, and says nothing more.
        lab.freeze(&namespace, "hangs-0").await?;
        hangs.says("Degraded", "does not answer").await?;
        broken.says("Stalled", "broken-0").await?;
        let writer = Writer::start(&cluster, 1);
        writer.goes_on().await?;
        let new = cluster.crashed(&cluster.primary().await?).await?;
        cluster.leads(&new).await?;
        writer.goes_on().await?;
        cluster.whole(3).await?;
        ensure!(hangs.status().await?.state == "PrimaryUnavailable", "{:?}", hangs.status().await?);
        let acknowledged = writer.finish().await?;
        cluster.holds(&acknowledged).await?;
        lab.thaw(&namespace, "hangs-0").await?;
        hangs.ready(1).await
    })
    .await
}
