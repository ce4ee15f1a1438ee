//! Interrupted clones: the next start does the right thing: point 6.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mysql_async::prelude::Queryable;
use serde_json::json;
use tokio::time::sleep;

use crate::rig::Cluster;
use e2e::stage::{eventually, on_stage};

/// Enough that a clone can be met half-way, in rows of 64 KiB.
const ROWS: u32 = 6000;

#[tokio::test]
async fn an_interrupted_clone_starts_over_and_half_a_directory_is_never_data() -> Result<()> {
    on_stage("clone", |lab, namespace| async move {
        let cluster = Cluster::create(&lab, &namespace, 1).await?;
        let mut writes = cluster.writes().await?;
        writes.query_drop("CREATE TABLE ledger (number BIGINT PRIMARY KEY AUTO_INCREMENT, note MEDIUMBLOB)").await?;
        writes.query_drop("INSERT INTO ledger (note) VALUES (REPEAT('understudy', 6500))").await?;
        let mut rows = 1;
        while rows < ROWS {
            writes
                .query_drop(format!("INSERT INTO ledger (note) SELECT note FROM ledger LIMIT {}", rows.min(ROWS - rows).min(500)))
                .await?;
            rows += rows.min(ROWS - rows).min(500);
        }
        let count: Option<u32> = writes.query_first("SELECT COUNT(*) FROM ledger").await?;
        ensure!(count == Some(ROWS), "{count:?} rows");

        cluster.merge(json!({"replicas": 2})).await?;
        for fault in ["donor", "recipient", "pod"] {
            cloning(&cluster).await?;
            match fault {
                "donor" => lab.kill_container(&namespace, "orders-0", "mysql").await?,
                "recipient" => lab.kill_container(&namespace, "orders-1", "sidecar").await?,
                _ => cluster.replaced("orders-1", cluster.delete_pod("orders-1")).await?,
            }
            sleep(Duration::from_millis(500)).await;
        }
        cluster.ready(2).await?;
        eventually("all rows on the clone", || async {
            let copied: Option<u32> = cluster.to("orders-1").await?.query_first("SELECT COUNT(*) FROM ledger").await?;
            ensure!(copied == Some(ROWS), "{copied:?} rows");
            Ok(())
        })
        .await?;
        let row = cluster.status().await?.members.into_iter().find(|member| member.name == "orders-1").context("no row")?;
        ensure!(row.cloned_from.as_deref() == Some("orders-0"), "{row:?}");
        Ok(())
    })
    .await
}

/// Waits until the clone is under way.
async fn cloning(cluster: &Cluster) -> Result<()> {
    let end = tokio::time::Instant::now() + e2e::stage::patience();
    loop {
        let looks = "test -d /var/lib/mysql/.joining && ! test -d /var/lib/mysql/data && du -sm /var/lib/mysql/.joining | cut -f1";
        let arguments = ["exec", "-n", &cluster.namespace, "orders-1", "-c", "sidecar", "--", "sh", "-c", looks];
        let size: u32 = cluster.lab.kubectl(&arguments).await.ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0);
        if size > 150 {
            return Ok(());
        }
        ensure!(tokio::time::Instant::now() < end, "never met a clone half-way");
        sleep(Duration::from_millis(20)).await;
    }
}
