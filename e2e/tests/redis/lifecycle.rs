//! Deletion, a namesake, and volumes that are kept or go.

use anyhow::{Context, Result, ensure};
use e2e::stage::{eventually, on_light_stage};
use k8s_openapi::api::apps::v1::StatefulSet;
use kube::api::{DeleteParams, ListParams};
use kube::{Api, ResourceExt};
use serde_json::json;

use crate::rig::{Cluster, VALKEY, WRITER};
use crate::writer::Writer;

#[tokio::test]
async fn deleting_keeps_or_deletes_volumes_and_a_namesake_goes_on_with_what_was_kept() -> Result<()> {
    on_light_stage("delete", |lab, namespace| async move {
        let mut spec = Cluster::spec(2);
        spec["image"] = json!(VALKEY);
        let cluster = Cluster::create_from(&lab, &namespace, spec.clone()).await?;
        let writer = Writer::start(&cluster, 1);
        writer.goes_on().await?;
        let mut acknowledged = writer.finish().await?;
        cluster.holds(&acknowledged).await?;
        let kept = [cluster.claim_uid(0).await?, cluster.claim_uid(1).await?];

        // Retain, and a new object of the same name while the old one's children are still being deleted. Its passwords and its CA are new.
        cluster.api().delete("cache", &DeleteParams::background()).await?;
        cluster.apply(spec).await?;
        cluster.whole(2).await?;
        ensure!([cluster.claim_uid(0).await?, cluster.claim_uid(1).await?] == kept, "the volumes are not the retained ones");
        cluster.holds(&acknowledged).await?;
        let sets: Api<StatefulSet> = Api::namespaced(lab.client().clone(), &namespace);
        let owner = sets.get("cache").await?.owner_references().first().context("nobody owns it")?.uid.clone();
        ensure!(Some(owner) == cluster.api().get("cache").await?.uid(), "the StatefulSet belongs to the old object");
        let writer = Writer::start(&cluster, WRITER);
        writer.goes_on().await?;
        acknowledged.append(&mut writer.finish().await?);

        // Who is scaled away leaves nothing, and who comes back copies everything.
        cluster.merge(json!({"storage": {"retention": {"whenScaled": "Delete", "whenDeleted": "Delete"}}})).await?;
        cluster.whole(2).await?;
        let primary = cluster.primary().await?;
        if primary == cluster.member(1) {
            cluster.switch_over(&cluster.member(0)).await?;
            cluster.succeeded(&primary).await?;
            cluster.whole(2).await?;
        }
        cluster.merge(json!({"replicas": 1})).await?;
        eventually("the claim of who left to be gone", || async {
            let left = cluster.claims().get_opt("data-cache-1").await?.map(|claim| claim.name_any());
            ensure!(left.is_none(), "{left:?} is there");
            Ok(())
        })
        .await?;
        cluster.merge(json!({"replicas": 2})).await?;
        cluster.whole(2).await?;
        cluster.holds(&acknowledged).await?;

        eventually("the claims to follow the StatefulSet", || async {
            ensure!(!cluster.claims().get("data-cache-0").await?.owner_references().is_empty(), "not yet");
            Ok(())
        })
        .await?;
        cluster.api().delete("cache", &DeleteParams::background()).await?;
        eventually("no volume left", || async {
            let claims = cluster.claims().list(&ListParams::default()).await?;
            ensure!(claims.items.is_empty(), "{} claims left", claims.items.len());
            Ok(())
        })
        .await
    })
    .await
}
