//! `durability: Available`: commits do not wait for a lost replica for ever, and that is said as long as it lasts.

use anyhow::{Result, ensure};
use serde_json::json;

use crate::rig::Cluster;
use crate::writer::Writer;
use e2e::stage::{eventually, on_stage};

#[tokio::test]
async fn available_goes_on_without_acknowledgements_after_the_grace_says_so_and_takes_them_back() -> Result<()> {
    on_stage("available", |lab, namespace| async move {
        let cluster = Cluster::new(&lab, &namespace);
        let mut spec = Cluster::spec(2);
        spec["durability"] = json!("Available");
        cluster.apply(spec).await?;
        cluster.whole(2).await?;
        cluster.ledger().await?;
        let writer = Writer::start(&cluster, 1);
        writer.goes_on().await?;
        let primary = cluster.primary().await?;
        let replica = cluster.others(&primary).await?.remove(0);
        lab.isolate(&namespace, &replica).await?;
        cluster.says("Degraded", "commits wait").await?;
        eventually("the acknowledgements to be given up", || async {
            let status = cluster.status().await?;
            ensure!(status.acks == 0, "{}: {}", status.state, status.reason);
            Ok(())
        })
        .await?;
        writer.goes_on().await?;
        cluster.says("Degraded", "durability is Available").await?;
        ensure!(cluster.primary().await? == primary, "nobody took over");

        lab.heal_namespace(&namespace).await?;
        cluster.whole(2).await?;
        eventually("the condition to end", || async {
            let (degraded, _, message) = cluster.condition("Degraded").await?;
            ensure!(!degraded, "{message}");
            Ok(())
        })
        .await?;
        let acknowledged = writer.finish().await?;
        cluster.holds(&acknowledged).await
    })
    .await
}
