//! Rolling changes: replicas first, the primary last; a mistake stops and heals: point 7.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::json;
use tokio::time::sleep;

use crate::pool::Pool;
use crate::rig::{Cluster, OTHER_IMAGE};
use crate::writer::Writer;
use e2e::stage::{eventually, on_stage};

async fn image_of(cluster: &Cluster, member: &str) -> Result<String> {
    let pod = cluster.pods().get(member).await?;
    let containers = pod.spec.map(|spec| spec.containers).unwrap_or_default();
    Ok(containers.into_iter().find(|container| container.name == "mysql").and_then(|container| container.image).unwrap_or_default())
}

#[tokio::test]
async fn an_update_rolls_replicas_first_and_a_partition_holds_it() -> Result<()> {
    on_stage("update", |lab, namespace| async move {
        let cluster = Cluster::create(&lab, &namespace, 3).await?;
        cluster.acks(1).await?;
        cluster.ledger().await?;
        let pool = Pool::start(&cluster, 1).await?;
        // A canary: only ordinal 2.
        cluster.merge(json!({"image": OTHER_IMAGE, "update": {"partition": 2}})).await?;
        eventually("the canary", || async {
            ensure!(image_of(&cluster, "orders-2").await? == OTHER_IMAGE, "not yet");
            Ok(())
        })
        .await?;
        cluster.ready(3).await?;
        sleep(Duration::from_secs(5)).await;
        ensure!(
            image_of(&cluster, "orders-0").await? != OTHER_IMAGE && image_of(&cluster, "orders-1").await? != OTHER_IMAGE,
            "the partition did not hold"
        );

        // A changed option goes everywhere, the primary last, after a hand-over.
        let before = cluster.primary().await?;
        let old_primary = cluster.pod_uid(&before).await?;
        cluster.merge(json!({"update": {"partition": 0}, "config": {"max_connections": 77}})).await?;
        eventually("a hand-over", || async {
            ensure!(cluster.primary().await? != before, "{before} still leads");
            Ok(())
        })
        .await?;
        cluster.ready(3).await?;
        ensure!(cluster.pod_uid(&before).await? != old_primary, "the old primary was not updated");
        for ordinal in 0..3 {
            let member = cluster.member(ordinal);
            ensure!(image_of(&cluster, &member).await? == OTHER_IMAGE, "{member} has the old image");
            ensure!(cluster.sql(&member, "SELECT @@max_connections").await? == "77", "{member} has the old option");
        }
        let acknowledged = pool.finish().await?;
        cluster.holds(&acknowledged).await
    })
    .await
}

#[tokio::test]
async fn a_bad_image_or_option_stops_harms_nobody_says_so_and_heals_when_reverted() -> Result<()> {
    on_stage("mistake", |lab, namespace| async move {
        let cluster = Cluster::create(&lab, &namespace, 3).await?;
        cluster.acks(1).await?;
        cluster.ledger().await?;
        let writer = Writer::start(&cluster, 1);
        let spec = Cluster::spec(3);
        let untouched = [cluster.pod_uid("orders-0").await?, cluster.pod_uid("orders-1").await?];

        for (mistake, words) in [
            (json!({"image": "localhost/mysql:does-not-exist"}), "does-not-exist"),
            (json!({"config": {"no_such_option": 1}}), "no_such_option"),
        ] {
            cluster.merge(mistake).await?;
            cluster.says("Stalled", words).await?;
            ensure!(
                [cluster.pod_uid("orders-0").await?, cluster.pod_uid("orders-1").await?] == untouched,
                "a mistake reached a member that ran"
            );
            cluster.merge(json!({"image": spec["image"], "config": {"no_such_option": null}})).await?;
            cluster.ready(3).await?;
            ensure!(!cluster.condition("Stalled").await?.0, "still Stalled after the mistake was taken back");
        }
        ensure!(
            [cluster.pod_uid("orders-0").await?, cluster.pod_uid("orders-1").await?] == untouched,
            "healing restarted a member that ran"
        );
        let acknowledged = writer.finish().await?;
        cluster.holds(&acknowledged).await
    })
    .await
}
