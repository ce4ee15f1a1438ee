//! Pods are restricted, have no API token, and leak no password; lost Secrets and rotated passwords hurt nobody: point 10.

use std::time::Duration;

use anyhow::{Result, ensure};
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use kube::api::ListParams;
use serde_json::json;
use tokio::time::sleep;

use crate::rig::Cluster;
use crate::writer::Writer;
use e2e::stage::{SYSTEM, eventually, on_stage};

#[tokio::test]
async fn no_password_is_found_where_it_does_not_belong() -> Result<()> {
    on_stage("leaks", |lab, namespace| async move {
        let cluster = Cluster::create(&lab, &namespace, 2).await?;
        cluster.acks(1).await?;
        let mut canaries = Vec::new();
        for secret in Api::<Secret>::namespaced(lab.client().clone(), &namespace).list(&ListParams::default()).await?.items {
            for (key, value) in secret.data.unwrap_or_default() {
                let text = String::from_utf8_lossy(&value.0).trim().to_owned();
                let secret_key = matches!(key.as_str(), "replication" | "clone" | "password") || key.ends_with(".key");
                if secret_key {
                    canaries.push(text);
                }
            }
        }
        ensure!(canaries.len() >= 4, "only {} secrets found", canaries.len());
        let local = lab
            .kubectl(&["exec", "-n", &namespace, "orders-0", "-c", "mysql", "--", "cat", "/var/lib/mysql/.understudy/local-password"])
            .await?;
        canaries.push(local.trim().to_owned());

        let mut places = vec![
            (
                "objects",
                lab.kubectl(&[
                    "get",
                    "mysqlclusters,statefulsets,pods,configmaps,events,services,endpointslices",
                    "-n",
                    &namespace,
                    "-o",
                    "yaml",
                ])
                .await?,
            ),
            ("the operator's log", lab.kubectl(&["logs", "-n", SYSTEM, "-l", "app.kubernetes.io/name=understudy", "--tail=-1"]).await?),
        ];
        for member in ["orders-0", "orders-1"] {
            places.push(("logs", lab.kubectl(&["logs", "-n", &namespace, member, "--all-containers"]).await?));
            places.push(("argv", lab.process_cmdlines(&namespace, member).await?.join("\n")));
            places.push(("environment", lab.process_environ(&namespace, member).await?.join("\n")));
        }
        for (place, text) in &places {
            ensure!(!text.is_empty(), "{place} is empty");
            // A PEM key is looked for by a line of its body.
            let found = canaries.iter().filter_map(|canary| canary.lines().max_by_key(|line| line.len())).any(|line| text.contains(line));
            ensure!(!found, "a secret is in {place}");
        }

        for pod in cluster.pods().list(&ListParams::default()).await?.items {
            let spec = pod.spec.unwrap_or_default();
            ensure!(spec.automount_service_account_token == Some(false), "a pod has an API token");
            let tokens = spec.volumes.unwrap_or_default().into_iter().any(|volume| volume.projected.is_some());
            ensure!(!tokens, "a pod has a projected volume");
        }
        let enforced = lab
            .kubectl(&["get", "namespace", &namespace, "-o", "jsonpath={.metadata.labels.pod-security\\.kubernetes\\.io/enforce}"])
            .await?;
        ensure!(enforced == "restricted", "Pod Security is {enforced:?}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn deleted_secrets_come_back_and_certificates_rotate_without_a_restart() -> Result<()> {
    on_stage("rotate", |lab, namespace| async move {
        let cluster = Cluster::create(&lab, &namespace, 2).await?;
        cluster.acks(1).await?;
        cluster.ledger().await?;
        let pods = [cluster.pod_uid("orders-0").await?, cluster.pod_uid("orders-1").await?];
        let old = cluster.secret_value("orders-tls", "tls.crt").await?;
        let bundle = cluster.secret_value("orders-tls", "ca.crt").await?;
        let writer = Writer::start(&cluster, 1);

        lab.kubectl(&["delete", "secret", "orders-system", "orders-tls", "-n", &namespace]).await?;
        lab.kubectl(&["annotate", "mysqlcluster", "orders", "-n", &namespace, "understudy.dev/rotate-certificates=now"]).await?;
        eventually("a new certificate by a new authority, trusted alone", || async {
            let (now, trusted) =
                (cluster.secret_value("orders-tls", "tls.crt").await?, cluster.secret_value("orders-tls", "ca.crt").await?);
            ensure!(now != old, "the certificate is the old one");
            ensure!(trusted != bundle && trusted.matches("BEGIN CERTIFICATE").count() == 1, "the bundle is still in change");
            Ok(())
        })
        .await?;
        eventually("the members to serve the new certificate", || async {
            cluster.through("primary").await?;
            cluster.to("orders-1").await?;
            Ok(())
        })
        .await?;
        sleep(Duration::from_secs(2)).await;
        cluster.ready(2).await?;
        cluster.acks(1).await?;
        ensure!([cluster.pod_uid("orders-0").await?, cluster.pod_uid("orders-1").await?] == pods, "a rotation restarted a pod");
        // A member that joins with the new passwords and certificates.
        cluster.merge(json!({"replicas": 3})).await?;
        cluster.ready(3).await?;
        let acknowledged = writer.finish().await?;
        cluster.holds(&acknowledged).await
    })
    .await
}
