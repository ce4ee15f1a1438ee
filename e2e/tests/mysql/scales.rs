//! More and fewer members under writes: point 3.

use anyhow::{Result, ensure};
use serde_json::json;

use crate::pool::Pool;
use crate::rig::Cluster;
use crate::writer::Writer;
use e2e::stage::{eventually, on_stage};

#[tokio::test]
async fn scale_up_down_and_up_again_under_writes() -> Result<()> {
    on_stage("scale", |lab, namespace| async move {
        let cluster = Cluster::create(&lab, &namespace, 1).await?;
        cluster.ledger().await?;
        let writer = Writer::start(&cluster, 1);
        // Through the scale subresource, as `kubectl scale` and autoscalers do.
        lab.kubectl(&["scale", "mysqlcluster", "orders", "--replicas=3", "-n", &namespace]).await?;
        cluster.ready(3).await?;
        cluster.acks(1).await?;
        cluster.merge(json!({"replicas": 5})).await?;
        cluster.ready(5).await?;
        cluster.acks(2).await?;
        let claims = [cluster.claim_uid(3).await?, cluster.claim_uid(4).await?];

        cluster.merge(json!({"replicas": 3})).await?;
        cluster.ready(3).await?;
        cluster.acks(1).await?;
        ensure!([cluster.claim_uid(3).await?, cluster.claim_uid(4).await?] == claims, "a retained claim is gone");
        let before = cluster.numbers(&cluster.primary().await?).await?.len();

        cluster.merge(json!({"replicas": 5})).await?;
        cluster.ready(5).await?;
        ensure!([cluster.claim_uid(3).await?, cluster.claim_uid(4).await?] == claims, "the claims were not used again");
        let acknowledged = writer.finish().await?;
        ensure!(acknowledged.len() > before, "no write was acknowledged while scaling");
        cluster.holds(&acknowledged).await
    })
    .await
}

#[tokio::test]
async fn a_primary_above_the_new_size_hands_over_before_it_leaves() -> Result<()> {
    on_stage("shrink", |lab, namespace| async move {
        let cluster = Cluster::create(&lab, &namespace, 3).await?;
        cluster.acks(1).await?;
        cluster.ledger().await?;
        // An update makes another member primary.
        cluster.merge(json!({"pod": {"annotations": {"shop/revision": "2"}}})).await?;
        eventually("another primary", || async {
            ensure!(cluster.primary().await? != "orders-0", "still orders-0");
            Ok(())
        })
        .await?;
        cluster.ready(3).await?;
        cluster.acks(1).await?;
        let term = cluster.status().await?.term;
        let pool = Pool::start(&cluster, 1).await?;
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
        cluster.merge(json!({"replicas": 1})).await?;
        cluster.ready(1).await?;
        ensure!(cluster.primary().await? == "orders-0", "the only member left must lead");
        ensure!(cluster.status().await?.term > term, "a hand-over claims a term");
        let acknowledged = pool.finish().await?;
        cluster.holds(&acknowledged).await
    })
    .await
}
