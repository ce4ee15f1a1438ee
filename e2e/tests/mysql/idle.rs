//! What an idle cluster costs the API: point 13.

use std::time::Duration;

use anyhow::{Result, ensure};
use jiff::Timestamp;
use tokio::time::sleep;

use crate::rig::Cluster;
use e2e::stage::{SYSTEM, eventually, on_stage};

#[tokio::test]
async fn an_idle_cluster_costs_no_api_write_and_drift_is_repaired() -> Result<()> {
    on_stage("idle", |lab, namespace| async move {
        let cluster = Cluster::create(&lab, &namespace, 3).await?;
        cluster.acks(1).await?;
        sleep(Duration::from_secs(5)).await;
        #[expect(clippy::disallowed_methods, reason = "the audit log has wall-clock times")]
        let since = Timestamp::now();
        sleep(Duration::from_secs(60)).await;
        let user = format!("system:serviceaccount:{SYSTEM}:");
        let all = lab.writes_since(since).await?;
        // Other tests' clusters are written to; this one's namespace and the cluster-wide paths are what counts.
        let others = |uri: &str| {
            uri.contains("/namespaces/")
                && !uri.contains(&format!("/namespaces/{namespace}/"))
                && !uri.contains(&format!("/namespaces/{SYSTEM}/"))
        };
        let writes: Vec<_> = all.iter().filter(|write| write.user.username.starts_with(&user) && !others(&write.uri)).collect();
        ensure!(writes.is_empty(), "{} writes in an idle minute: {writes:?}", writes.len());

        lab.kubectl(&["delete", "service", "orders-read", "-n", &namespace]).await?;
        lab.kubectl(&[
            "patch",
            "service",
            "orders-primary",
            "-n",
            &namespace,
            "--type=merge",
            "-p",
            "{\"spec\":{\"ports\":[{\"name\":\"mysql\",\"port\":3306,\"targetPort\":1}]}}",
        ])
        .await?;
        eventually("the Services to be repaired", || async {
            lab.kubectl(&["get", "service", "orders-read", "-n", &namespace]).await?;
            cluster.through("primary").await.map(drop)
        })
        .await
    })
    .await
}
