//! The primary's pod is told to go, by an eviction, a drain or a deletion: another member leads before it dies.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kube::ResourceExt;
use kube::api::{EvictParams, ListParams};
use mysql_async::prelude::Queryable;
use tokio::time::sleep;

use crate::pool::Pool;
use crate::rig::Cluster;
use crate::switchovers::stage;
use e2e::stage::{eventually, on_stage};

/// What the API server answers when a disruption budget allows no more.
const TOO_MANY: u16 = 429;
/// Longer than a running transaction is waited for by a switchover that nobody hurries.
const OLD: Duration = Duration::from_secs(2);

/// Waits until another member leads, then until everybody serves.
async fn moves_on(cluster: &Cluster, old: &str, pool: &Pool, what: &str) -> Result<()> {
    cluster.succeeded(old).await?;
    cluster.whole(3).await?;
    pool.tell_pause(what);
    Ok(())
}

#[tokio::test]
async fn a_primary_that_is_evicted_drained_or_deleted_hands_over_before_it_dies() -> Result<()> {
    on_stage("evict", |lab, namespace| async move {
        let (cluster, pool, _) = stage(&lab, &namespace).await?;

        // Its time is short: a transaction that does not end is not waited for, and ends with the switchover.
        let primary = cluster.primary().await?;
        let mut client = cluster.writes().await?;
        client.query_drop("START TRANSACTION").await?;
        client.query_drop("INSERT INTO ledger (number, note) VALUES (1000000000, 'x')").await?;
        sleep(OLD).await;
        cluster.pods().evict(&primary, &EvictParams::default()).await?;
        let others = cluster.others(&primary).await?;
        match cluster.pods().evict(&others[0], &EvictParams::default()).await {
            Err(kube::Error::Api(status)) if status.code == TOO_MANY => {}
            outcome => anyhow::bail!("the disruption budget let a second member go: {outcome:?}"),
        }
        moves_on(&cluster, &primary, &pool, "eviction of the primary").await?;
        ensure!(client.query_drop("COMMIT").await.is_err(), "it was committed after the primary had closed");
        let reason = format!("the pod of {primary} is being deleted: {primary} hands over to");
        eventually("the record to tell of a switchover", || async {
            let record = lab.decided(&namespace, &cluster.name).await?;
            ensure!(record.iter().any(|decided| decided.reason.starts_with(&reason)), "no switchover: {record:?}");
            Ok(())
        })
        .await?;

        // A drain. With its volume on that node, the member comes back when the node may be used again.
        let primary = cluster.primary().await?;
        let node = cluster.pods().get(&primary).await?.spec.and_then(|spec| spec.node_name).context("it runs")?;
        let ours = ListParams::default().labels("understudy.dev/cluster=orders").fields(&format!("spec.nodeName={node}"));
        lab.kubectl(&["cordon", &node]).await?;
        let drain = async {
            for pod in cluster.pods().list(&ours).await? {
                let name = pod.name_any();
                eventually("an eviction that the disruption budget allows", || async {
                    Ok(cluster.pods().evict(&name, &EvictParams::default()).await.map(drop)?)
                })
                .await?;
            }
            eventually("another primary, and an empty node", || async {
                let left = cluster.pods().list(&ours).await?.items.len();
                let leads = cluster.primary().await?;
                ensure!(left == 0 && leads != primary, "{left} pods on {node}, {leads} leads");
                Ok(())
            })
            .await
        };
        let outcome = drain.await;
        lab.kubectl(&["uncordon", &node]).await?;
        outcome?;
        moves_on(&cluster, &primary, &pool, "drain of the primary's node").await?;

        for round in 1..=5 {
            let primary = cluster.primary().await?;
            cluster.delete_pod(&primary).await?;
            moves_on(&cluster, &primary, &pool, &format!("deletion {round} of the primary's pod")).await?;
        }
        let failed_over: Vec<_> =
            lab.decided(&namespace, &cluster.name).await?.into_iter().filter(|decided| decided.state == "FailingOver").collect();
        ensure!(failed_over.is_empty(), "it was lost, not handed over: {failed_over:?}");
        let acknowledged = pool.finish().await?;
        ensure!(!cluster.numbers("orders-0").await?.contains(&1_000_000_000), "a transaction that was cut off is there");
        cluster.holds(&acknowledged).await
    })
    .await
}
