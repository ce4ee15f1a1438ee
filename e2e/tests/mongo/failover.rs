//! The primary is lost: another member leads, nothing that a majority acknowledged is gone, and the old one returns as a secondary.

use anyhow::{Context, Result, ensure};
use e2e::stage::{SYSTEM, alone_on_stage, eventually, on_light_stage, operator};
use k8s_openapi::api::core::v1::Pod;
use kube::Api;

use crate::rig::Set;
use crate::writer::Writer;

#[tokio::test]
async fn a_primary_whose_process_or_pod_is_lost_is_stood_for_and_returns_as_a_secondary() -> Result<()> {
    on_light_stage("lost", |lab, namespace| async move {
        let set = Set::create(&lab, &namespace, 3).await?;
        let writer = Writer::start(&set, 1).await?;
        writer.goes_on().await?;
        for pod_too in [false, true] {
            let old = set.primary().await?;
            if pod_too {
                set.delete(&old, Some(0)).await?
            } else {
                set.crash(&old).await?
            }
            let new = set.succeeded(&old).await?;
            writer.goes_on().await?;
            set.whole(3).await?;
            let status = set.status().await?;
            ensure!(status.primary.as_ref() == Some(&new), "who is back does not lead again: {status:?}");
            let row = status.members.iter().find(|member| member.name == old);
            ensure!(row.is_some_and(|row| row.role == "SECONDARY"), "{row:?}");
        }
        set.holds(&writer.finish().await?).await
    })
    .await
}

#[tokio::test]
async fn a_frozen_primary_is_stood_for_and_acknowledges_nothing_after_its_thaw() -> Result<()> {
    on_light_stage("frozen", |lab, namespace| async move {
        let set = Set::create(&lab, &namespace, 3).await?;
        let writer = Writer::start(&set, 1).await?;
        writer.goes_on().await?;
        let old = set.primary().await?;
        lab.freeze(&namespace, &old).await?;
        let new = set.succeeded(&old).await?;
        writer.goes_on().await?;
        lab.thaw(&namespace, &old).await?;
        set.whole(3).await?;
        ensure!(set.primary().await? == new, "who is back does not lead again");
        set.holds(&writer.finish().await?).await
    })
    .await
}

#[tokio::test]
async fn a_primary_whose_node_is_lost_is_stood_for_and_returns_with_it() -> Result<()> {
    alone_on_stage("node", |lab, namespace| async move {
        let set = Set::create(&lab, &namespace, 3).await?;
        let writer = Writer::start(&set, 1).await?;
        writer.goes_on().await?;
        let node = |pod: Pod| pod.spec.and_then(|spec| spec.node_name).context("no node yet");
        let operators = node(Api::<Pod>::namespaced(lab.client().clone(), SYSTEM).get(&operator(&lab).await?).await?)?;
        // The operator's own node is another test: who leads there yields first.
        let mut old = set.primary().await?;
        if node(set.pods().get(&old).await?)? == operators {
            set.annotate("understudy.dev/switchover", &format!("any@{}", set.status().await?.term)).await?;
            old = set.succeeded(&old).await?;
            set.whole(3).await?;
        }
        let lost = node(set.pods().get(&old).await?)?;
        lab.lose_node(&lost).await?;
        let survived = async {
            set.succeeded(&old).await?;
            writer.goes_on().await
        };
        let survived = survived.await;
        lab.return_node(&lost).await?;
        survived?;
        set.whole(3).await?;
        set.holds(&writer.finish().await?).await
    })
    .await
}

#[tokio::test]
async fn the_smaller_half_acknowledges_nothing_and_forces_nothing() -> Result<()> {
    on_light_stage("minority", |lab, namespace| async move {
        let set = Set::create(&lab, &namespace, 3).await?;
        let writer = Writer::start(&set, 1).await?;
        writer.goes_on().await?;
        let id = set.status().await?.replica_set_id;
        let old = set.primary().await?;
        let visitor = Writer::to(&set, 1_000_000, &old).await?;
        visitor.goes_on().await?;
        lab.isolate(&namespace, &old).await?;
        let new = set.succeeded(&old).await?;
        let before = visitor.count();
        writer.goes_on().await?;
        ensure!(visitor.count() == before, "the smaller half acknowledged {} writes", visitor.count() - before);
        lab.heal_namespace(&namespace).await?;
        set.whole(3).await?;
        ensure!(set.primary().await? == new && set.status().await?.replica_set_id == id, "{:?}", set.status().await?);
        let mut acknowledged = writer.finish().await?;
        acknowledged.append(&mut visitor.finish().await?);
        set.holds(&acknowledged).await
    })
    .await
}

#[tokio::test]
async fn lost_volumes_are_filled_again_and_no_second_set_is_ever_made() -> Result<()> {
    on_light_stage("volume", |lab, namespace| async move {
        let set = Set::create(&lab, &namespace, 3).await?;
        let writer = Writer::start(&set, 1).await?;
        writer.goes_on().await?;
        let id = set.status().await?.replica_set_id;
        for ordinal in [2, 0] {
            lab.lose_pvc(&namespace, &format!("data-{}", set.member(ordinal))).await?;
            set.whole(3).await?;
            writer.goes_on().await?;
        }
        // All pods at once, with other addresses.
        for ordinal in 0..3 {
            set.delete(&set.member(ordinal), Some(0)).await?;
        }
        eventually("writes to go on", || async {
            let before = writer.count();
            writer.goes_on().await?;
            ensure!(writer.count() > before, "no write");
            Ok(())
        })
        .await?;
        set.whole(3).await?;
        ensure!(set.status().await?.replica_set_id == id, "it is another set");
        set.holds(&writer.finish().await?).await
    })
    .await
}
