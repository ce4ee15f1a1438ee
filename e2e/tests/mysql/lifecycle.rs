//! Growing storage, sleep, suspension, deletion: point 8.

use std::time::Duration;

use anyhow::{Result, ensure};
use k8s_openapi::api::apps::v1::StatefulSet;
use kube::api::{DeleteParams, ListParams};
use kube::{Api, ResourceExt};
use serde_json::json;
use tokio::time::sleep;

use crate::rig::Cluster;
use crate::writer::Writer;
use e2e::stage::{eventually, on_stage};

#[tokio::test]
async fn storage_that_cannot_grow_is_said_and_the_rest_goes_on_then_hibernate_wake_and_suspend() -> Result<()> {
    on_stage("sleep", |lab, namespace| async move {
        let cluster = Cluster::create(&lab, &namespace, 2).await?;
        cluster.acks(1).await?;
        cluster.ledger().await?;
        let writer = Writer::start(&cluster, 1);
        sleep(Duration::from_secs(1)).await;
        let acknowledged = writer.finish().await?;

        // The lab's class cannot grow; the other half of the same change is applied all the same.
        cluster.merge(json!({"storage": {"size": "2Gi"}, "services": {"read": {"annotations": {"shop/grown": "yes"}}}})).await?;
        eventually("a condition that names the refused growth", || async {
            let status = cluster.status().await?;
            let said = status.conditions.iter().any(|condition| condition.status == "True" && condition.reason == "VolumeExpansionRefused");
            ensure!(said, "{:?}", status.conditions);
            Ok(())
        })
        .await?;
        eventually("the rest of the change", || async {
            let service: k8s_openapi::api::core::v1::Service = Api::namespaced(lab.client().clone(), &namespace).get("orders-read").await?;
            ensure!(service.annotations().get("shop/grown").map(String::as_str) == Some("yes"), "not yet");
            Ok(())
        })
        .await?;

        cluster.merge(json!({"hibernate": true})).await?;
        eventually("no pods", || async {
            let pods = cluster.pods().list(&ListParams::default()).await?;
            ensure!(pods.items.is_empty(), "{} pods left", pods.items.len());
            ensure!(cluster.status().await?.state == "Hibernated", "the state must say so");
            Ok(())
        })
        .await?;
        cluster.merge(json!({"hibernate": false})).await?;
        cluster.ready(2).await?;
        cluster.holds(&acknowledged).await?;

        // Suspended: even drift is left alone.
        cluster.merge(json!({"suspend": true})).await?;
        eventually("the condition", || async {
            ensure!(cluster.status().await?.conditions.iter().any(|condition| condition.reason == "Suspended"), "not yet");
            Ok(())
        })
        .await?;
        lab.kubectl(&["delete", "service", "orders-read", "-n", &namespace]).await?;
        sleep(Duration::from_secs(5)).await;
        ensure!(lab.kubectl(&["get", "service", "orders-read", "-n", &namespace]).await.is_err(), "a suspended cluster was repaired");
        cluster.merge(json!({"suspend": false})).await?;
        eventually("the repair", || async { lab.kubectl(&["get", "service", "orders-read", "-n", &namespace]).await.map(drop) }).await?;
        cluster.ready(2).await
    })
    .await
}

#[tokio::test]
async fn a_full_volume_is_named_and_room_heals_it() -> Result<()> {
    on_stage("full", |lab, namespace| async move {
        let mut spec = Cluster::spec(1);
        spec["storage"] = json!({"size": "700Mi", "className": e2e::volumes::SMALL});
        let cluster = Cluster::new(&lab, &namespace);
        cluster.apply(spec).await?;
        cluster.ready(1).await?;
        cluster.ledger().await?;
        let fill = ["exec", "-n", &namespace, "orders-0", "-c", "mysql", "--", "sh", "-c"];
        lab.kubectl(&[&fill[..], &["dd if=/dev/zero of=/var/lib/mysql/fill bs=1M || true"]].concat()).await?;
        cluster.says("Stalled", "is full").await?;
        lab.kubectl(&[&fill[..], &["rm /var/lib/mysql/fill"]].concat()).await?;
        cluster.ready(1).await?;
        let writer = Writer::start(&cluster, 1);
        sleep(Duration::from_secs(1)).await;
        let acknowledged = writer.finish().await?;
        cluster.holds(&acknowledged).await
    })
    .await
}

#[tokio::test]
async fn deleting_keeps_or_deletes_volumes_and_a_namesake_is_not_mistaken_for_the_old_one() -> Result<()> {
    on_stage("delete", |lab, namespace| async move {
        let cluster = Cluster::create(&lab, &namespace, 2).await?;
        cluster.ledger().await?;
        let writer = Writer::start(&cluster, 1);
        sleep(Duration::from_secs(1)).await;
        let acknowledged = writer.finish().await?;
        cluster.holds(&acknowledged).await?;
        let kept = [cluster.claim_uid(0).await?, cluster.claim_uid(1).await?];

        // Retain, and a new object of the same name while the old one's children are still being deleted.
        cluster.api().delete("orders", &DeleteParams::background()).await?;
        cluster.apply(Cluster::spec(2)).await?;
        cluster.ready(2).await?;
        ensure!([cluster.claim_uid(0).await?, cluster.claim_uid(1).await?] == kept, "the volumes are not the retained ones");
        cluster.holds(&acknowledged).await?;
        let sets: Api<StatefulSet> = Api::namespaced(lab.client().clone(), &namespace);
        let owner = sets.get("orders").await?.owner_references()[0].uid.clone();
        ensure!(Some(owner) == cluster.api().get("orders").await?.uid(), "the StatefulSet belongs to the old object");

        // Delete.
        cluster.merge(json!({"storage": {"retention": {"whenDeleted": "Delete"}}})).await?;
        cluster.ready(2).await?;
        eventually("the claims to follow the StatefulSet", || async {
            ensure!(!cluster.claims().get("data-orders-0").await?.owner_references().is_empty(), "not yet");
            Ok(())
        })
        .await?;
        cluster.api().delete("orders", &DeleteParams::background()).await?;
        eventually("no volume left", || async {
            let claims = cluster.claims().list(&ListParams::default()).await?;
            ensure!(claims.items.is_empty(), "{} claims left", claims.items.len());
            Ok(())
        })
        .await
    })
    .await
}
