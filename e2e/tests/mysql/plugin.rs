//! `kubectl understudy` on a living cluster: every verb that the operator has a part in. Its refusals and its words are tested without pods,
//! in `tests/plugin.rs`.

use anyhow::{Result, ensure};
use e2e::Plugin;

use crate::rig::Cluster;
use crate::writer::Writer;
use e2e::stage::{eventually, on_stage};

#[tokio::test]
async fn what_a_person_asks_for_is_done_and_explained() -> Result<()> {
    on_stage("plugin", |lab, namespace| async move {
        let plugin = Plugin::new(&lab.kubeconfig(), &namespace).await?;
        let cluster = Cluster::create(&lab, &namespace, 3).await?;
        cluster.acks(1).await?;
        cluster.ledger().await?;
        let says = async |arguments: &[&str], words: &str| -> Result<()> {
            let said = plugin.says(arguments).await?;
            ensure!(said.contains(words), "{arguments:?} does not say {words:?}:\n{said}");
            Ok(())
        };
        says(&["status", "orders"], "orders  Healthy  3/3 ready").await?;
        says(&["sql", "orders", "--", "-NBe", "SELECT CONCAT(CURRENT_USER(), ' ', @@hostname)"], "understudy@localhost orders-0").await?;
        says(&["sql", "orders", "orders-2", "--", "-NBe", "SELECT @@hostname, @@super_read_only"], "orders-2\t1").await?;
        says(&["logs", "orders", "--tail", "-1"], "ready for connections").await?;
        says(&["logs", "orders", "orders-1", "--sidecar", "--tail", "-1"], "order accepted").await?;

        // A named switchover under load.
        let writer = Writer::start(&cluster, 1);
        says(&["switchover", "orders", "--to", "orders-1"], "orders-1 is the primary: ").await?;
        ensure!(cluster.primary().await? == "orders-1", "another one is the primary");
        let acknowledged = writer.finish().await?;
        cluster.ready(3).await?;
        cluster.holds(&acknowledged).await?;
        eventually("the switchover to be recorded", || async {
            says(&["explain", "orders", "--last", "30"], "Switchover from orders-0 to orders-1").await?;
            says(&["explain", "orders", "--last", "30"], "understudy.dev/switchover=orders-1@").await
        })
        .await?;

        // A fenced replica stands still and is no candidate; unfenced it follows again.
        cluster.acks(1).await?;
        says(&["fence", "orders", "orders-2"], "fenced: orders-2").await?;
        eventually("the fenced member to stand still", || async {
            ensure!(cluster.status().await?.ack_set.iter().all(|member| member.name != "orders-2"), "its acknowledgement still counts");
            let receiver = "SELECT SERVICE_STATE FROM performance_schema.replication_connection_status";
            says(&["sql", "orders", "orders-2", "--", "-NBe", receiver], "OFF").await
        })
        .await?;
        let refused = plugin.refuses(&["switchover", "orders", "--to", "orders-2"]).await?;
        ensure!(refused.contains("orders-2 is fenced"), "{refused}");
        says(&["unfence", "orders", "--all"], "fenced: nobody").await?;
        cluster.ready(3).await?;
        cluster.acks(1).await?;

        // A data directory is discarded and cloned anew on request.
        says(&["reclone", "orders", "orders-0", "--wait", "240"], "orders-0 is cloned from ").await?;
        cluster.ready(3).await?;
        cluster.holds(&acknowledged).await
    })
    .await
}
