//! The primary is lost: another member that holds every acknowledged number leads, and the old one follows by itself.

use anyhow::{Context, Result, ensure};
use e2e::stage::{SYSTEM, alone_on_stage, eventually, on_light_stage, operator};
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use redis::cmd;
use serde_json::json;

use crate::rig::{Cluster, VALKEY, answer};
use crate::writer::Writer;

#[tokio::test]
async fn a_primary_of_redis_that_is_killed_or_whose_pod_is_lost_is_replaced_and_follows() -> Result<()> {
    on_light_stage("crash", |lab, namespace| async move { lose_it(&Cluster::create(&lab, &namespace, 3).await?).await }).await
}

#[tokio::test]
async fn a_primary_of_valkey_that_is_killed_or_whose_pod_is_lost_is_replaced_and_follows() -> Result<()> {
    on_light_stage("crash-valkey", |lab, namespace| async move {
        let mut spec = Cluster::spec(3);
        spec["image"] = json!(VALKEY);
        lose_it(&Cluster::create_from(&lab, &namespace, spec).await?).await
    })
    .await
}

async fn lose_it(cluster: &Cluster) -> Result<()> {
    // Nobody has ever written.
    let first = cluster.primary().await?;
    let second = cluster.crashed(&first).await.context("empty")?;
    cluster.leads(&second).await?;
    cluster.whole(3).await?;

    let term = cluster.status().await?.term;
    let writer = Writer::start(cluster, 1);
    writer.goes_on().await?;
    // Twice in a row, the second time as soon as somebody acknowledges again.
    let third = cluster.crashed(&second).await.context("under load")?;
    cluster.leads(&third).await?;
    writer.goes_on().await?;
    let fourth = cluster.crashed(&third).await.context("again under load")?;
    cluster.leads(&fourth).await?;
    writer.goes_on().await?;
    cluster.whole(3).await?;
    eventually("the old primaries to follow", || async {
        let status = cluster.status().await?;
        ensure!(status.term >= term + 2, "two failovers took the term from {term} to {}", status.term);
        let followers = status.members.iter().filter(|row| row.role == "Replica" && row.source == status.primary).count();
        ensure!(followers == 2, "{:?}", status.members);
        Ok(())
    })
    .await?;

    // At once: whoever leads, perhaps before anybody can acknowledge, so that only its own return is safe.
    let lost = cluster.primary().await?;
    let next = cluster.crashed(&lost).await?;
    cluster.crash(&next).await?;
    writer.goes_on().await?;
    cluster.whole(3).await?;

    // Its pod goes at once, and comes back as another one.
    let lost = cluster.primary().await?;
    let next = cluster.deleted(&lost).await?;
    cluster.leads(&next).await?;
    writer.goes_on().await?;
    cluster.whole(3).await?;
    cluster.holds(&writer.finish().await?).await
}

#[tokio::test]
async fn a_primary_whose_node_is_lost_is_replaced_and_follows_when_it_is_back() -> Result<()> {
    alone_on_stage("node", |lab, namespace| async move {
        let cluster = Cluster::create(&lab, &namespace, 3).await?;
        let writer = Writer::start(&cluster, 1);
        writer.goes_on().await?;
        let node = |pod: Pod| pod.spec.and_then(|spec| spec.node_name).context("no node yet");
        let operators = node(Api::<Pod>::namespaced(lab.client().clone(), SYSTEM).get(&operator(&lab).await?).await?)?;
        // The operator's own node is another test: who leads there yields first.
        let mut old = cluster.primary().await?;
        if cluster.node(&old).await? == operators {
            cluster.switch_over("any").await?;
            old = cluster.succeeded(&old).await?;
            cluster.whole(3).await?;
        }
        let lost = cluster.node(&old).await?;
        ensure!(lost != operators, "two members are on one node");
        lab.lose_node(&lost).await?;
        let survived = async {
            let new = cluster.succeeded(&old).await?;
            writer.goes_on().await?;
            anyhow::Ok(new)
        };
        let survived = survived.await;
        lab.return_node(&lost).await?;
        let new = survived?;
        cluster.whole(3).await?;
        ensure!(cluster.primary().await? == new, "who is back does not lead again");
        cluster.holds(&writer.finish().await?).await
    })
    .await
}

#[tokio::test]
async fn of_two_members_the_other_leads_and_takes_no_write_until_the_old_one_is_back() -> Result<()> {
    on_light_stage("pair", |lab, namespace| async move {
        let cluster = Cluster::create(&lab, &namespace, 2).await?;
        let writer = Writer::start(&cluster, 1);
        writer.goes_on().await?;
        let old = cluster.primary().await?;
        lab.freeze(&namespace, &old).await?;
        let new = cluster.succeeded(&old).await?;
        // It leads, and what it took alone would be lost with it.
        eventually("a refusal for want of replicas", || async {
            let mut writes = cluster.to(&new).await?;
            let refused = answer::<u64>(&mut writes, cmd("RPUSH").arg("aside").arg(1)).await;
            let said = refused.err().map(|error| format!("{error:#}")).unwrap_or_default();
            ensure!(said.contains("NOREPLICAS"), "{said:?}");
            Ok(())
        })
        .await?;
        lab.thaw(&namespace, &old).await?;
        writer.goes_on().await?;
        cluster.whole(2).await?;
        ensure!(cluster.primary().await? == new, "who is back does not lead again");

        cluster.crashed(&new).await?;
        writer.goes_on().await?;
        cluster.whole(2).await?;
        cluster.holds(&writer.finish().await?).await
    })
    .await
}

#[tokio::test]
async fn a_replica_that_lags_is_not_promoted_before_one_that_holds_all() -> Result<()> {
    on_light_stage("lag", |lab, namespace| async move {
        let cluster = Cluster::create(&lab, &namespace, 3).await?;
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
        cluster.holds(&writer.finish().await?).await
    })
    .await
}

#[tokio::test]
async fn of_five_members_the_primary_and_a_replica_may_be_lost_at_the_same_time() -> Result<()> {
    on_light_stage("five", |lab, namespace| async move {
        let mut spec = Cluster::spec(5);
        // What two replicas acknowledge survives two losses; a client that waits for one loses nothing with the primary alone.
        spec["durability"] = json!({"minReplicasToWrite": 2});
        let cluster = Cluster::new(&lab, &namespace);
        cluster.apply(spec).await?;
        cluster.whole_with(5, 2).await?;
        let writer = Writer::waiting_for(&cluster, 1, 2);
        writer.goes_on().await?;
        let old = cluster.primary().await?;
        let frozen = cluster.others(&old).await?.remove(0);
        lab.freeze(&namespace, &frozen).await?;
        let new = cluster.deleted(&old).await?;
        ensure!(new != frozen, "who does not answer is not promoted");
        writer.goes_on().await?;
        lab.thaw(&namespace, &frozen).await?;
        cluster.whole_with(5, 2).await?;
        cluster.holds(&writer.finish().await?).await
    })
    .await
}
