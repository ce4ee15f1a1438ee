//! Members that a person keeps out, by the plugin: they serve nobody and are promoted by nobody, and the primary among them is not replaced.
//! On Valkey.

use std::time::Duration;

use anyhow::{Result, ensure};
use e2e::Plugin;
use e2e::stage::{eventually, on_light_stage};
use redis::cmd;
use serde_json::json;
use tokio::time::sleep;

use crate::pool::Pool;
use crate::rig::{Cluster, VALKEY, answer, refused_with};

/// Past the time in which a primary that is lost would be replaced.
const LONG: Duration = Duration::from_secs(8);

/// Waits until a line of a member's `INFO replication` says this.
async fn tells(cluster: &Cluster, member: &str, name: &str, value: &str) -> Result<()> {
    eventually(&format!("{name}:{value} of {member}"), || async {
        let found = cluster.replication(member).await?.remove(name);
        ensure!(found.as_deref() == Some(value), "{found:?}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn fenced_members_serve_nobody_and_a_fenced_primary_is_not_replaced() -> Result<()> {
    on_light_stage("kept-out", |lab, namespace| async move {
        let mut spec = Cluster::spec(3);
        (spec["image"], spec["engine"]) = (json!(VALKEY), json!("Valkey"));
        let cluster = Cluster::create_from(&lab, &namespace, spec).await?;
        let (pool, plugin) = (Pool::start(&cluster).await?, Plugin::new(&lab.kubeconfig(), &namespace).await?);
        let primary = cluster.primary().await?;
        let others = cluster.others(&primary).await?;
        let [one, two] = [&others[0], &others[1]];
        let shows = async |parts: &[&str]| {
            let status = plugin.says(&["status", "rr/cache"]).await?;
            parts.iter().try_for_each(|part| {
                ensure!(status.contains(part), "{part:?} is missing in\n{status}");
                Ok(())
            })
        };
        pool.tell_pause("nothing asked for");

        // A replica: it follows nobody, and the rest goes on.
        plugin.says(&["fence", "cache", two]).await?;
        tells(&cluster, two, "master_link_status", "down").await?;
        let request = cluster.switch_over(two).await?;
        cluster.refused(&request, &format!("{two} is fenced")).await?;
        shows(&["fenced       ", "refused      ", &format!("{two} is fenced")]).await?;
        plugin.says(&["unfence", "cache", two]).await?;
        tells(&cluster, two, "master_link_status", "up").await?;
        cluster.whole(3).await?;
        pool.tell_pause("a replica fenced and unfenced");

        // All replicas: nobody is left to take over.
        let acknowledged = pool.finish(&cluster).await;
        plugin.says(&["fence", "cache", one]).await?;
        plugin.says(&["fence", "cache", two]).await?;
        let request = cluster.switch_over("any").await?;
        cluster.refused(&request, &format!("{one} is fenced; {two} is fenced")).await?;
        plugin.says(&["unfence", "cache", "--all"]).await?;
        cluster.whole(3).await?;
        acknowledged?;

        // The primary: nobody writes, and nobody replaces it.
        let term = cluster.status().await?.term;
        let mut client = cluster.to(&primary).await?;
        let said = plugin.says(&["fence", "cache", &primary]).await?;
        ensure!(said.contains("nobody writes until it is unfenced"), "{said}");
        tells(&cluster, &primary, "role", "slave").await?;
        ensure!(answer::<u64>(&mut client, cmd("INCR").arg("late")).await.is_err(), "a fenced primary accepted a write");
        let write = answer::<u64>(&mut cluster.to(&primary).await?, cmd("INCR").arg("late")).await;
        refused_with(write, "READONLY")?;
        sleep(LONG).await;
        let status = cluster.status().await?;
        ensure!(status.primary.as_ref() == Some(&primary) && status.term == term, "{}", status.reason);
        shows(&["the primary is fenced", "kubectl understudy unfence cache"]).await?;
        plugin.says(&["unfence", "cache", &primary]).await?;
        cluster.whole(3).await?;
        cluster.leads(&primary).await?;

        // What a person asks first when something is odd.
        let explained = plugin.says(&["explain", "cache"]).await?;
        ensure!(explained.contains(&format!("{primary} is the primary")), "{explained}");
        let log = plugin.says(&["logs", "cache"]).await?;
        for member in [&primary, one, two] {
            ensure!(log.contains(member.as_str()), "nothing of {member} in\n{log}");
        }
        ensure!(log.contains("Ready to accept connections"), "it is no log of the database:\n{log}");
        let log = plugin.says(&["logs", "cache", one, "--sidecar"]).await?;
        ensure!(log.contains("the database answers"), "it is no log of the sidecar:\n{log}");
        Ok(())
    })
    .await
}
