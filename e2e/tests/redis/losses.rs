//! Pods, processes and volumes are lost, one or all at once; what a replica acknowledged is not.

use anyhow::{Result, ensure};
use e2e::Lab;
use e2e::stage::{eventually, on_light_stage};
use futures::future::try_join_all;
use serde_json::json;

use crate::rig::{Cluster, WRITER};
use crate::writer::Writer;

#[tokio::test]
async fn all_pods_deleted_at_once_come_back_behind_one_that_holds_everything() -> Result<()> {
    on_light_stage("all-pods", |lab, namespace| async move {
        let cluster = Cluster::create(&lab, &namespace, 3).await?;
        let writer = Writer::start(&cluster, 1);
        writer.goes_on().await?;
        cluster.delete_all().await?;
        writer.goes_on().await?;
        cluster.whole(3).await?;

        // One of them lags behind when it happens: it must not lead.
        let old = cluster.primary().await?;
        let lags = cluster.others(&old).await?.remove(0);
        lab.cut(&namespace, &[&old], &[&lags]).await?;
        writer.goes_on().await?;
        cluster.delete_all().await?;
        lab.heal_namespace(&namespace).await?;
        writer.goes_on().await?;
        ensure!(cluster.primary().await? != lags, "{lags} leads, with the shortest history");
        cluster.whole(3).await?;

        // Every server, while pods and sidecars stay.
        let members: Vec<String> = (0..3).map(|ordinal| cluster.member(ordinal)).collect();
        try_join_all(members.iter().map(|member| cluster.crash(member))).await?;
        writer.goes_on().await?;
        cluster.whole(3).await?;
        cluster.holds(&writer.finish().await?).await
    })
    .await
}

#[tokio::test]
async fn the_lost_volume_of_a_primary_and_those_of_its_replicas_are_filled_again() -> Result<()> {
    on_light_stage("volumes", |lab, namespace| async move {
        let cluster = Cluster::create(&lab, &namespace, 3).await?;
        let writer = Writer::start(&cluster, 1);
        writer.goes_on().await?;
        let old = cluster.primary().await?;
        let identity = cluster.row(&old).await?.identity;
        lab.lose_pvc(&namespace, &format!("data-{old}")).await?;
        cluster.succeeded(&old).await?;
        writer.goes_on().await?;
        cluster.whole(3).await?;
        ensure!(cluster.row(&old).await?.identity != identity, "an empty volume bears the old name");

        // All but the primary's.
        let primary = cluster.primary().await?;
        let others = cluster.others(&primary).await?;
        try_join_all(others.iter().map(|member| lose_volume(&lab, &namespace, member))).await?;
        cluster.whole(3).await?;
        ensure!(cluster.primary().await? == primary, "the survivor goes on as primary");
        writer.goes_on().await?;
        cluster.holds(&writer.finish().await?).await
    })
    .await
}

#[tokio::test]
async fn without_persistence_a_primary_that_restarts_fast_is_replaced_and_its_replicas_keep_their_data() -> Result<()> {
    on_light_stage("forgetful", |lab, namespace| async move {
        let mut spec = Cluster::spec(3);
        spec["persistence"] = json!("None");
        let cluster = Cluster::create_from(&lab, &namespace, spec).await?;
        let writer = Writer::start(&cluster, 1);
        writer.goes_on().await?;
        // The kubelet restarts it in a moment: an empty server in the place of one that everybody copies.
        for _ in 0..2 {
            let old = cluster.primary().await?;
            cluster.crash(&old).await?;
            let new = cluster.succeeded(&old).await?;
            cluster.leads(&new).await?;
            writer.goes_on().await?;
            cluster.whole(3).await?;
        }
        let acknowledged = writer.finish().await?;
        cluster.holds(&acknowledged).await?;
        // Primary and replica in the same moment: when all have answered, the last one that remembers is all that there will ever be.
        let old = cluster.primary().await?;
        let others = cluster.others(&old).await?;
        try_join_all([cluster.crash(&old), cluster.crash(&others[0])]).await?;
        ensure!(cluster.succeeded(&old).await? == others[1], "one that has forgotten everything leads");
        cluster.whole(3).await?;
        cluster.holds(&acknowledged).await?;

        // Nobody remembers anything: that is what was asked for, and it is said.
        let members: Vec<String> = (0..3).map(|ordinal| cluster.member(ordinal)).collect();
        try_join_all(members.iter().map(|member| cluster.crash(member))).await?;
        let writer = Writer::start(&cluster, WRITER);
        writer.goes_on().await?;
        cluster.whole(3).await?;
        eventually("an Event that tells of it", || async {
            let told = cluster.told("").await?;
            ensure!(told.contains("nothing is left"), "nobody was told that the data are gone: {told}");
            Ok(())
        })
        .await?;
        cluster.holds(&writer.finish().await?).await
    })
    .await
}

#[tokio::test]
async fn with_snapshots_an_orderly_restart_loses_nothing_and_a_killed_primary_is_replaced() -> Result<()> {
    on_light_stage("snapshots", |lab, namespace| async move {
        let mut spec = Cluster::spec(3);
        spec["persistence"] = json!("Snapshot");
        let cluster = Cluster::create_from(&lab, &namespace, spec).await?;
        let writer = Writer::start(&cluster, 1);
        writer.goes_on().await?;
        // What its file holds is old: a replica leads, and it takes a copy.
        let old = cluster.primary().await?;
        cluster.crash(&old).await?;
        cluster.succeeded(&old).await?;
        writer.goes_on().await?;
        cluster.whole(3).await?;
        let acknowledged = writer.finish().await?;
        cluster.merge(json!({"hibernate": true})).await?;
        eventually("no pods", || async {
            let pods = cluster.pods().list(&kube::api::ListParams::default()).await?.items.len();
            ensure!(pods == 0, "{pods} pods");
            Ok(())
        })
        .await?;
        cluster.merge(json!({"hibernate": false})).await?;
        cluster.whole(3).await?;
        cluster.holds(&acknowledged).await
    })
    .await
}

async fn lose_volume(lab: &Lab, namespace: &str, member: &str) -> Result<()> {
    lab.lose_pvc(namespace, &format!("data-{member}")).await
}
