//! More members and fewer, under writes.

use anyhow::{Result, ensure};
use e2e::stage::on_light_stage;
use redis::cmd;
use serde_json::json;

use crate::pool::Pool;
use crate::rig::{Cluster, LEDGER, WRITER, answer};
use crate::writer::Writer;

#[tokio::test]
async fn from_one_to_three_to_five_to_three_under_writes_nothing_is_lost() -> Result<()> {
    on_light_stage("scale", |lab, namespace| async move {
        let cluster = Cluster::create(&lab, &namespace, 1).await?;
        // A single member takes writes that nobody can acknowledge.
        let mut alone = cluster.through("primary").await?;
        for number in 0..20 {
            answer::<u64>(&mut alone, cmd("RPUSH").arg(LEDGER).arg(number)).await?;
        }
        let writer = Writer::start(&cluster, WRITER);
        // Through the scale subresource, as `kubectl scale` and autoscalers do.
        lab.kubectl(&["scale", "redisreplication", "cache", "--replicas=3", "-n", &namespace]).await?;
        cluster.whole(3).await?;
        writer.goes_on().await?;
        cluster.merge(json!({"replicas": 5})).await?;
        cluster.whole(5).await?;
        writer.goes_on().await?;
        let claims = [cluster.claim_uid(3).await?, cluster.claim_uid(4).await?];
        cluster.merge(json!({"replicas": 3})).await?;
        cluster.whole(3).await?;
        writer.goes_on().await?;
        ensure!([cluster.claim_uid(3).await?, cluster.claim_uid(4).await?] == claims, "a retained claim is gone");
        let mut acknowledged = writer.finish().await?;
        acknowledged.extend(0..20);
        cluster.holds(&acknowledged).await
    })
    .await
}

#[tokio::test]
async fn a_primary_above_the_new_size_hands_over_before_it_leaves_and_comes_back_with_its_old_volume() -> Result<()> {
    on_light_stage("shrink", |lab, namespace| async move {
        let cluster = Cluster::create(&lab, &namespace, 3).await?;
        let (old, wanted) = (cluster.primary().await?, cluster.member(2));
        if old != wanted {
            cluster.switch_over(&wanted).await?;
            cluster.succeeded(&old).await?;
            cluster.whole(3).await?;
        }
        let (pool, writer) = (Pool::start(&cluster).await?, Writer::start(&cluster, 1));
        writer.goes_on().await?;
        let claim = cluster.claim_uid(2).await?;
        cluster.merge(json!({"replicas": 2})).await?;
        cluster.whole(2).await?;
        ensure!(cluster.primary().await? != wanted, "who left leads");
        cluster.handed_over(&wanted).await?;
        pool.tell_pause("a primary above the new size");
        writer.goes_on().await?;

        cluster.merge(json!({"replicas": 3})).await?;
        cluster.whole(3).await?;
        ensure!(cluster.claim_uid(2).await? == claim, "the volume was not used again");
        writer.goes_on().await?;
        pool.finish(&cluster).await?;
        cluster.holds(&writer.finish().await?).await
    })
    .await
}
