//! The plain StatefulSet of the docs with the sidecar in the place of two scripts, no operator: point 12.

use anyhow::{Context, Result, ensure};
use e2e::Lab;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;

use crate::rig::IMAGE;
use e2e::stage::{eventually, on_stage};

const MANIFEST: &str = include_str!("../../../docs/standalone/mysql.yaml");

async fn ready(lab: &Lab, namespace: &str, replicas: u32) -> Result<()> {
    eventually(&format!("{replicas} ready members"), || async {
        let ready =
            lab.kubectl(&["get", "sts", "mysql", "-n", namespace, "-o", "jsonpath={.status.readyReplicas}/{.status.replicas}"]).await?;
        ensure!(ready == format!("{replicas}/{replicas}"), "{ready}");
        Ok(())
    })
    .await
}

async fn reads(lab: &Lab, namespace: &str, member: &str, rows: &str) -> Result<()> {
    eventually(&format!("{rows} rows on {member}"), || async {
        let count = lab.sql(namespace, member, "SELECT COUNT(*) FROM shop.ledger").await?;
        ensure!(count == rows, "{count}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn the_manifest_of_the_docs_comes_up_scales_and_heals_without_an_operator() -> Result<()> {
    on_stage("standalone", |lab, namespace| async move {
        let manifest = MANIFEST
            .replace("ghcr.io/understudy-dev/understudy:0.1.0", "localhost/understudy:dev")
            .replace("image: mysql:9.7", &format!("image: {IMAGE}"))
            .replace("storage: 10Gi", "storage: 1Gi");
        let file = std::env::temp_dir().join(format!("{namespace}.yaml"));
        std::fs::write(&file, manifest)?;
        let applied = lab.kubectl(&["apply", "-n", &namespace, "-f", &file.display().to_string()]).await;
        std::fs::remove_file(&file)?;
        applied?;
        ready(&lab, &namespace, 3).await?;
        lab.sql(
            &namespace,
            "mysql-0",
            "CREATE DATABASE shop; CREATE TABLE shop.ledger (number BIGINT PRIMARY KEY); INSERT INTO shop.ledger VALUES (1), (2), (3)",
        )
        .await?;
        lab.kubectl(&["scale", "sts", "mysql", "--replicas=5", "-n", &namespace]).await?;
        ready(&lab, &namespace, 5).await?;
        reads(&lab, &namespace, "mysql-3", "3").await?;
        // From a replica: the one before it, or when that one is slow to answer, the one before that.
        let donor = lab.sql(&namespace, "mysql-3", "SELECT SOURCE FROM performance_schema.clone_status").await?;
        ensure!(donor.contains("mysql-2") || donor.contains("mysql-1"), "3 was cloned from {donor}");
        ensure!(
            lab.sql(&namespace, "mysql-3", "SELECT SSL_ALLOWED FROM performance_schema.replication_connection_configuration").await?
                == "YES"
        );
        ensure!(lab.sql(&namespace, "mysql-3", "SELECT @@super_read_only").await? == "1", "a replica is writable");

        // A pod, a replica's volume, the primary's volume.
        lab.kubectl(&["delete", "pod", "mysql-1", "-n", &namespace]).await?;
        lab.lose_pvc(&namespace, "data-mysql-2").await?;
        ready(&lab, &namespace, 5).await?;
        reads(&lab, &namespace, "mysql-2", "3").await?;
        let before = Api::<Pod>::namespaced(lab.client().clone(), &namespace).get("mysql-0").await?;
        lab.lose_pvc(&namespace, "data-mysql-0").await?;
        ready(&lab, &namespace, 5).await?;
        let after = Api::<Pod>::namespaced(lab.client().clone(), &namespace).get("mysql-0").await?;
        ensure!(after.metadata.uid != before.metadata.uid, "the pod is the old one");
        reads(&lab, &namespace, "mysql-0", "3").await?;
        eventually("writes", || async { lab.sql(&namespace, "mysql-0", "INSERT IGNORE INTO shop.ledger VALUES (4)").await.map(drop) })
            .await?;
        reads(&lab, &namespace, "mysql-4", "4").await?;
        let spec = after.spec.context("a pod has a spec")?;
        ensure!(spec.automount_service_account_token == Some(false), "a pod has an API token");
        Ok(())
    })
    .await
}
