//! Members that a person keeps out: they serve nobody and are promoted by nobody, and the primary among them is not replaced.

use std::time::Duration;

use anyhow::{Result, ensure};
use mysql_async::prelude::Queryable;
use tokio::time::sleep;

use crate::rig::Cluster;
use crate::switchovers::{ask, refused, stage};
use e2e::stage::{eventually, on_stage};

/// Past the time in which a primary that is lost would be replaced.
const LONG: Duration = Duration::from_secs(8);
const RECEIVES: &str = "SELECT SERVICE_STATE FROM performance_schema.replication_connection_status";

/// Waits until a member's answer to a question is this.
async fn answers(cluster: &Cluster, member: &str, question: &str, answer: &str) -> Result<()> {
    eventually(&format!("{member} to answer {answer} to {question}"), || async {
        let said = cluster.sql(member, question).await?;
        ensure!(said == answer, "{said}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn fenced_members_serve_nobody_and_a_fenced_primary_is_not_replaced() -> Result<()> {
    on_stage("kept-out", |lab, namespace| async move {
        let (cluster, pool, plugin) = stage(&lab, &namespace).await?;
        let primary = cluster.primary().await?;
        let others = cluster.others(&primary).await?;
        let [one, two] = [&others[0], &others[1]];
        let shows = async |parts: &[&str]| {
            let status = plugin.says(&["status", "orders"]).await?;
            parts.iter().try_for_each(|part| {
                ensure!(status.contains(part), "{part:?} is missing in\n{status}");
                Ok(())
            })
        };

        // A replica: it follows nobody, and the rest goes on.
        plugin.says(&["fence", "orders", two]).await?;
        answers(&cluster, two, RECEIVES, "OFF").await?;
        let request = ask(&cluster, two).await?;
        refused(&cluster, &request, &format!("{two} is fenced")).await?;
        shows(&["fenced       ", "refused      ", &format!("{two} is fenced")]).await?;
        plugin.says(&["unfence", "orders", two]).await?;
        answers(&cluster, two, RECEIVES, "ON").await?;
        cluster.whole(3).await?;
        pool.tell_pause("a replica fenced and unfenced");

        // Its data directory is another one, and no client notices.
        let before = cluster.server_uuid(two).await?;
        plugin.says(&["reclone", "orders", two]).await?;
        ensure!(cluster.server_uuid(two).await? != before, "{two} has the data directory that was to be discarded");
        cluster.whole(3).await?;
        pool.tell_pause("a replica cloned anew");
        let acknowledged = pool.finish().await?;
        cluster.holds(&acknowledged).await?;

        // All replicas: nobody is left to take over.
        plugin.says(&["fence", "orders", one]).await?;
        plugin.says(&["fence", "orders", two]).await?;
        let request = ask(&cluster, "any").await?;
        refused(&cluster, &request, &format!("{one} is fenced; {two} is fenced")).await?;
        plugin.says(&["unfence", "orders", "--all"]).await?;
        cluster.whole(3).await?;

        // The primary: nobody writes, and nobody replaces it.
        let term = cluster.status().await?.term;
        let mut client = cluster.writes().await?;
        let said = plugin.says(&["fence", "orders", &primary]).await?;
        ensure!(said.contains("nobody writes until it is unfenced"), "{said}");
        answers(&cluster, &primary, "SELECT @@super_read_only", "1").await?;
        let write = "INSERT INTO ledger (number, note) VALUES (0, 'x')";
        ensure!(client.query_drop(write).await.is_err(), "a fenced primary accepted a write");
        sleep(LONG).await;
        ensure!(cluster.through("primary").await.is_err(), "somebody is routed to");
        let status = cluster.status().await?;
        ensure!(status.primary.as_ref() == Some(&primary) && status.term == term, "{}", status.reason);
        shows(&["the primary is fenced", "kubectl understudy unfence orders"]).await?;
        plugin.says(&["unfence", "orders", &primary]).await?;
        cluster.whole(3).await?;
        cluster.writes().await?.query_drop(write).await?;
        cluster.holds(&acknowledged).await
    })
    .await
}
