//! Pods, processes, the operator and volumes are lost; rows are not: points 4 and 5.

use std::time::Duration;

use anyhow::{Result, ensure};
use futures::future::try_join_all;
use tokio::time::sleep;

use crate::rig::Cluster;
use crate::writer::Writer;
use e2e::stage::{alone_on_stage, eventually, on_stage, restart_operator};

#[tokio::test]
async fn lost_pods_processes_and_operators_lose_no_row() -> Result<()> {
    alone_on_stage("faults", |lab, namespace| async move {
        let cluster = Cluster::create(&lab, &namespace, 3).await?;
        cluster.acks(1).await?;
        cluster.ledger().await?;
        let writer = Writer::start(&cluster, 1);
        for ordinal in 0..3 {
            let member = cluster.member(ordinal);
            cluster.replaced(&member, cluster.delete_pod(&member)).await?;
            restart_operator(&lab).await?;
            cluster.ready(3).await?;
        }
        for ordinal in 0..3 {
            lab.kill_container(&namespace, &cluster.member(ordinal), "mysql").await?;
            restart_operator(&lab).await?;
            sleep(Duration::from_secs(1)).await;
            cluster.ready(3).await?;
        }
        lab.kill_container(&namespace, "orders-1", "sidecar").await?;
        sleep(Duration::from_secs(1)).await;
        cluster.ready(3).await?;
        // All at once.
        let members: Vec<String> = (0..3).map(|ordinal| cluster.member(ordinal)).collect();
        try_join_all(members.iter().map(|member| cluster.replaced(member, cluster.delete_pod(member)))).await?;
        restart_operator(&lab).await?;
        cluster.ready(3).await?;
        let acknowledged = writer.finish().await?;
        cluster.holds(&acknowledged).await
    })
    .await
}

#[tokio::test]
async fn a_lost_volume_is_filled_again_and_never_initialised_again() -> Result<()> {
    on_stage("volumes", |lab, namespace| async move {
        let cluster = Cluster::create(&lab, &namespace, 3).await?;
        cluster.acks(1).await?;
        cluster.ledger().await?;
        let writer = Writer::start(&cluster, 1);
        sleep(Duration::from_secs(1)).await;

        // A replica's. That it is lost is seen before it is seen to be back: a second loss in the same moment would be another test.
        let before = cluster.server_uuid("orders-2").await?;
        lab.lose_pvc(&namespace, &cluster.claim(2)).await?;
        cluster.cloned_anew("orders-2", &before, 3).await?;
        cluster.acks(1).await?;
        // Ordinal 0's, which is the primary's: another member leads, and 0 is cloned.
        ensure!(cluster.primary().await? == "orders-0", "the test expects orders-0 to lead");
        lab.lose_pvc(&namespace, &cluster.claim(0)).await?;
        eventually("another primary", || async {
            ensure!(cluster.primary().await? != "orders-0", "still orders-0");
            Ok(())
        })
        .await?;
        cluster.ready(3).await?;
        cluster.acks(1).await?;
        let row = cluster.status().await?.members.into_iter().find(|member| member.name == "orders-0");
        ensure!(row.as_ref().is_some_and(|row| row.cloned_from.is_some()), "orders-0 was not cloned: {row:?}");

        // All but the primary's.
        let primary = cluster.primary().await?;
        let others: Vec<u32> = (0..3).filter(|ordinal| cluster.member(*ordinal) != primary).collect();
        let claims: Vec<String> = others.iter().map(|ordinal| cluster.claim(*ordinal)).collect();
        try_join_all(claims.iter().map(|claim| lab.lose_pvc(&namespace, claim))).await?;
        cluster.ready(3).await?;
        let acknowledged = writer.finish().await?;
        ensure!(cluster.primary().await? == primary, "the survivor goes on as primary");
        cluster.holds(&acknowledged).await
    })
    .await
}

#[tokio::test]
async fn when_the_primary_and_an_acknowledging_replica_lose_their_volumes_a_person_decides() -> Result<()> {
    alone_on_stage("lost", |lab, namespace| async move {
        let cluster = Cluster::create(&lab, &namespace, 3).await?;
        cluster.acks(1).await?;
        cluster.ledger().await?;
        let writer = Writer::start(&cluster, 1);
        sleep(Duration::from_secs(1)).await;
        let acknowledged = writer.finish().await?;
        cluster.holds(&acknowledged).await?;
        // The operator must not see the losses one after the other: each alone would heal.
        lab.kubectl(&["scale", "deployment", "-n", e2e::stage::SYSTEM, "--all", "--replicas=0"]).await?;
        try_join_all([lab.lose_pvc(&namespace, "data-orders-0"), lab.lose_pvc(&namespace, "data-orders-1")]).await?;
        lab.kubectl(&["scale", "deployment", "-n", e2e::stage::SYSTEM, "--all", "--replicas=1"]).await?;
        cluster.says("Stalled", "understudy.dev/accept-loss=orders-2@").await?;
        ensure!(cluster.status().await?.state == "Lost", "the state must be Lost");
        let consent = format!("understudy.dev/accept-loss=orders-2@{}", cluster.status().await?.term);
        lab.kubectl(&["annotate", "mysqlcluster", "orders", "-n", &namespace, &consent]).await?;
        cluster.ready(3).await?;
        ensure!(cluster.primary().await? == "orders-2", "consent names the member");
        cluster.holds(&acknowledged).await
    })
    .await
}
