//! Members and the operator are cut off from each other: no second writer, no needless failover, and when nothing safe can be done a
//! person is asked.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use crds::annotations::ACCEPT_LOSS;
use e2e::stage::{SYSTEM, eventually, on_light_stage, operator};
use redis::cmd;
use tokio::time::{Instant, sleep};

use crate::rig::{Cluster, WRITER, answer, refused_with};
use crate::writer::Writer;

/// Longer than any silence that is acted on.
const LONG: Duration = Duration::from_secs(10);
/// By then a primary that sees neither the operator nor a majority of the members takes no write from anybody: three seconds until they count as
/// silent, five more until it closes itself, and two for the machine. The other side may lead before.
const BOUND: Duration = Duration::from_secs(10);

#[tokio::test]
async fn an_operator_that_alone_cannot_see_the_primary_changes_nothing() -> Result<()> {
    on_light_stage("unseen", |lab, namespace| async move {
        let cluster = Cluster::create(&lab, &namespace, 3).await?;
        let writer = Writer::start(&cluster, 1);
        writer.goes_on().await?;
        let (old, term) = (cluster.primary().await?, cluster.status().await?.term);
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
        lab.heal_namespace(&namespace).await?;
        cluster.whole(3).await?;
        let status = cluster.status().await?;
        ensure!(status.term == term && status.primary.as_ref() == Some(&old), "a healthy primary was replaced: {}", status.reason);
        cluster.holds(&writer.finish().await?).await
    })
    .await
}

#[tokio::test]
async fn a_cut_off_primary_with_clients_inside_keeps_no_promise_it_cannot_and_closes_itself_in_time() -> Result<()> {
    on_light_stage("inside", |lab, namespace| async move {
        let cluster = Cluster::create(&lab, &namespace, 3).await?;
        let writer = Writer::start(&cluster, 1);
        writer.goes_on().await?;
        let old = cluster.primary().await?;
        let address = cluster.address(&old).await?;
        let (inside, careless) = (Writer::to_address(&cluster, WRITER, address.clone()), Writer::careless(&cluster, address));
        inside.goes_on().await?;
        careless.goes_on().await?;
        let cut = Instant::now();
        lab.isolate(&namespace, &old).await?;
        let new = cluster.succeeded(&old).await?;
        let before = inside.count();
        cluster.leads(&new).await?;
        writer.goes_on().await?;
        sleep(BOUND.saturating_sub(cut.elapsed())).await;
        let count = careless.count();
        sleep(Duration::from_secs(2)).await;
        ensure!(careless.count() == count, "the cut-off primary goes on taking writes {:?} after the cut", cut.elapsed());
        let taken = careless.last().duration_since(cut);
        println!("longest time in which a cut-off primary took plain writes: {} ms", taken.as_millis());
        ensure!(taken < BOUND, "the cut-off primary took writes for {taken:?}");
        ensure!(inside.count() == before, "{} writes were acknowledged on the wrong side", inside.count() - before);
        let mut visitor = cluster.to(&old).await?;
        let write = answer::<u64>(&mut visitor, cmd("RPUSH").arg("aside").arg(1)).await;
        refused_with(write, "READONLY").context("it is open")?;

        lab.heal_namespace(&namespace).await?;
        cluster.whole(3).await?;
        ensure!(cluster.primary().await? == new, "who is back does not lead again");
        ensure!(inside.count() == before && careless.count() == count, "the old primary took writes again");
        careless.finish().await?;
        let mut acknowledged = writer.finish().await?;
        acknowledged.append(&mut inside.finish().await?);
        cluster.holds(&acknowledged).await
    })
    .await
}

#[tokio::test]
async fn without_a_quorum_nobody_is_promoted_and_a_person_sees_what_the_last_one_holds_and_decides() -> Result<()> {
    on_light_stage("quorum", |lab, namespace| async move {
        let cluster = Cluster::create(&lab, &namespace, 3).await?;
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
        let status = cluster.status().await?;
        let offset = cluster.replication(left).await?.remove("slave_repl_offset").unwrap_or_default();
        ensure!(message.contains(&offset) && !offset.is_empty(), "{message} does not tell that {left} holds {offset}");
        ensure!(status.state == "Lost", "the state is {}", status.state);
        ensure!(status.primary.as_ref() == Some(&old), "somebody was promoted");

        // Consent for another term than this one is none.
        cluster.annotate(ACCEPT_LOSS, &format!("{left}@{}", status.term + 7)).await?;
        sleep(Duration::from_secs(3)).await;
        ensure!(cluster.primary().await? == old, "consent for another term counted");
        cluster.annotate(ACCEPT_LOSS, &format!("{left}@{}", status.term)).await?;
        let new = cluster.succeeded(&old).await?;
        ensure!(new == *left, "consent names {left}, {new} leads");
        lab.heal_namespace(&namespace).await?;
        let writer = Writer::start(&cluster, WRITER);
        writer.goes_on().await?;
        cluster.whole(3).await?;
        acknowledged.append(&mut writer.finish().await?);
        cluster.holds(&acknowledged).await
    })
    .await
}
