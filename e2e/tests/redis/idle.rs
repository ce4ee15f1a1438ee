//! A cluster in which nothing happens: what it costs the API, and one that sleeps.

use std::time::Duration;

use anyhow::{Result, ensure};
use e2e::stage::{SYSTEM, eventually, on_light_stage};
use jiff::Timestamp;
use kube::api::ListParams;
use serde_json::json;
use tokio::time::sleep;

use crate::rig::Cluster;
use crate::writer::Writer;

#[tokio::test]
async fn an_idle_cluster_costs_no_api_write_and_drift_is_repaired() -> Result<()> {
    on_light_stage("idle", |lab, namespace| async move {
        let cluster = Cluster::create(&lab, &namespace, 3).await?;
        sleep(Duration::from_secs(5)).await;
        #[expect(clippy::disallowed_methods, reason = "the audit log has wall-clock times")]
        let since = Timestamp::now();
        // Who only writes data changes nothing either.
        let writer = Writer::start(&cluster, 1);
        writer.goes_on().await?;
        sleep(Duration::from_secs(30)).await;
        writer.finish().await?;
        sleep(Duration::from_secs(30)).await;
        let user = format!("system:serviceaccount:{SYSTEM}:");
        let own = |uri: &str| uri.contains(&format!("/namespaces/{namespace}/"));
        let writes = lab.writes_since(since).await?;
        let writes: Vec<_> = writes.iter().filter(|write| write.user.username.starts_with(&user) && own(&write.uri)).collect();
        ensure!(writes.is_empty(), "{} writes in an idle minute: {writes:?}", writes.len());

        lab.kubectl(&["delete", "service", "cache-read", "cache-sentinel", "-n", &namespace]).await?;
        let patch = r#"{"spec":{"ports":[{"name":"redis","port":6379,"targetPort":1}]}}"#;
        lab.kubectl(&["patch", "service", "cache-primary", "-n", &namespace, "--type=merge", "-p", patch]).await?;
        eventually("the Services to be repaired", || async {
            cluster.service("read").await?;
            cluster.service("sentinel").await?;
            cluster.through("primary").await.map(drop)
        })
        .await
    })
    .await
}

#[tokio::test]
async fn a_cluster_that_slept_wakes_with_all_its_data() -> Result<()> {
    on_light_stage("sleep", |lab, namespace| async move {
        let cluster = Cluster::create(&lab, &namespace, 3).await?;
        let writer = Writer::start(&cluster, 1);
        writer.goes_on().await?;
        let acknowledged = writer.finish().await?;
        cluster.merge(json!({"hibernate": true})).await?;
        eventually("no pods", || async {
            let pods = cluster.pods().list(&ListParams::default()).await?.items.len();
            ensure!(pods == 0, "{pods} pods");
            ensure!(cluster.status().await?.state == "Hibernated", "the state must say so");
            Ok(())
        })
        .await?;
        cluster.merge(json!({"hibernate": false})).await?;
        cluster.whole(3).await?;
        cluster.holds(&acknowledged).await?;

        // Suspended: even drift is left alone.
        cluster.merge(json!({"suspend": true})).await?;
        eventually("the condition", || async {
            ensure!(cluster.status().await?.conditions.iter().any(|condition| condition.reason == "Suspended"), "not yet");
            Ok(())
        })
        .await?;
        lab.kubectl(&["delete", "service", "cache-read", "-n", &namespace]).await?;
        sleep(Duration::from_secs(5)).await;
        ensure!(cluster.service("read").await.is_err(), "a suspended cluster was repaired");
        cluster.merge(json!({"suspend": false})).await?;
        eventually("the repair", || async { cluster.service("read").await.map(drop) }).await?;
        cluster.whole(3).await
    })
    .await
}
