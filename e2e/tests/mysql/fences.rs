//! Members and the operator are cut off from each other: no second writer, no needless failover, and when nothing safe can be done a
//! person is asked.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mysql_async::prelude::Queryable;
use tokio::time::sleep;

use crate::rig::Cluster;
use crate::writer::Writer;
use e2e::stage::operator;
use e2e::stage::{SYSTEM, eventually, on_stage};

/// Numbers of the clients on the wrong side.
const INSIDE: u64 = 1_000_000;
/// Longer than any silence that is acted on.
const LONG: Duration = Duration::from_secs(12);

#[tokio::test]
async fn an_operator_that_alone_cannot_see_the_primary_changes_nothing_and_a_cut_off_primary_fences_itself() -> Result<()> {
    on_stage("cut", |lab, namespace| async move {
        let cluster = Cluster::perform(&lab, &namespace, 3).await?;
        let writer = Writer::start(&cluster, 1);
        writer.goes_on().await?;
        let old = cluster.primary().await?;
        let term = cluster.status().await?.term;
        lab.cut_between((&namespace, &[&old]), (SYSTEM, &[&operator(&lab).await?])).await?;
        eventually("the reason to say that only the operator lost it", || async {
            let status = cluster.status().await?;
            ensure!(status.reason.contains("still receive"), "{}: {}", status.state, status.reason);
            Ok(())
        })
        .await?;
        let before = writer.count();
        sleep(LONG).await;
        ensure!(writer.count() > before + 100, "writes stopped: {} in {LONG:?}", writer.count() - before);
        let status = cluster.status().await?;
        ensure!(status.term == term && status.primary.as_ref() == Some(&old), "a healthy primary was replaced: {}", status.reason);
        lab.heal_namespace(&namespace).await?;
        cluster.whole(3).await?;
        ensure!(cluster.status().await?.term == term, "a healthy primary was replaced");

        // Now from everybody, with clients on its side.
        let visitor = Writer::to_address(&cluster, INSIDE, cluster.address(&old).await?);
        visitor.goes_on().await?;
        lab.isolate(&namespace, &old).await?;
        let new = cluster.succeeded(&old).await?;
        let before = visitor.count();
        cluster.leads(&new).await?;
        writer.goes_on().await?;
        eventually("the cut-off primary to fence itself", || async {
            let closed = cluster.sql(&old, "SELECT @@super_read_only").await?;
            ensure!(closed == "1", "it is open");
            let mut inside = cluster.to(&old).await?;
            let refusal = inside.query_drop(format!("INSERT INTO ledger VALUES ({}, 'x')", INSIDE - 1)).await;
            let refusal = refusal.err().context("it took a write")?.to_string();
            ensure!(refusal.contains("read-only option"), "{refusal}");
            Ok(())
        })
        .await?;
        ensure!(visitor.count() == before, "{} writes were acknowledged on the wrong side", visitor.count() - before);
        lab.heal_namespace(&namespace).await?;
        cluster.whole(3).await?;
        ensure!(cluster.primary().await? == new && visitor.count() == before, "the old primary took writes again");
        let mut acknowledged = writer.finish().await?;
        acknowledged.append(&mut visitor.finish().await?);
        cluster.holds(&acknowledged).await
    })
    .await
}

#[tokio::test]
async fn without_a_quorum_nobody_is_promoted_and_a_person_sees_every_position_and_decides() -> Result<()> {
    on_stage("quorum", |lab, namespace| async move {
        let cluster = Cluster::perform(&lab, &namespace, 3).await?;
        let writer = Writer::start(&cluster, 1);
        writer.goes_on().await?;
        let mut acknowledged = writer.finish().await?;
        cluster.holds(&acknowledged).await?;
        let old = cluster.primary().await?;
        let others = cluster.others(&old).await?;
        let (away, left) = (&others[0], &others[1]);
        // At the same moment: each alone would heal.
        lab.isolate(&namespace, away).await?;
        lab.isolate(&namespace, &old).await?;
        cluster.says("Stalled", &format!("accept-loss={left}@")).await?;
        let (_, _, message) = cluster.condition("Stalled").await?;
        let held = cluster.sql(left, "SELECT REPLACE(@@gtid_executed, '\\n', '')").await?;
        let status = cluster.status().await?;
        ensure!(status.state == "Lost", "the state is {}", status.state);
        ensure!(message.contains(&format!("{left} holds {}", held.replace(", ", ","))), "{message} does not tell {held}");
        ensure!(status.primary.as_ref() == Some(&old), "somebody was promoted");

        // Consent for another term than this one is none.
        cluster.annotate("understudy.dev/accept-loss", &format!("{left}@{}", status.term + 7)).await?;
        sleep(Duration::from_secs(3)).await;
        ensure!(cluster.primary().await? == old, "consent for another term counted");
        cluster.annotate("understudy.dev/accept-loss", &format!("{left}@{}", status.term)).await?;
        let new = cluster.succeeded(&old).await?;
        ensure!(new == *left, "consent names {left}, {new} leads");
        let writer = Writer::start(&cluster, INSIDE);
        writer.goes_on().await?;
        lab.heal_namespace(&namespace).await?;
        cluster.whole(3).await?;
        acknowledged.append(&mut writer.finish().await?);
        cluster.holds(&acknowledged).await
    })
    .await
}
