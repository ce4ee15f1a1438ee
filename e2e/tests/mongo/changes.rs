//! Changes of what a set is: its release, an arbiter, sleep.

use anyhow::{Result, ensure};
use crds::mongo::PSA_CONSENT;
use e2e::images::MONGO_NEXT;
use e2e::stage::{eventually, on_light_stage};
use kube::api::ListParams;
use serde_json::json;

use crate::rig::Set;
use crate::writer::Writer;

#[tokio::test]
async fn the_feature_version_is_raised_when_every_member_runs_the_new_release() -> Result<()> {
    on_light_stage("release", |lab, namespace| async move {
        let set = Set::create(&lab, &namespace, 3).await?;
        let writer = Writer::start(&set, 1).await?;
        writer.goes_on().await?;
        ensure!(set.status().await?.feature_compatibility_version.as_deref() != Some("6.0"), "{:?}", set.status().await?);
        set.merge(json!({"image": MONGO_NEXT})).await?;
        eventually("the new feature version", || async {
            let status = set.status().await?;
            let raised = status.feature_compatibility_version.as_deref() == Some("6.0");
            let new = |version: &String| version.starts_with("6.");
            let new = status.members.iter().filter(|member| member.version.as_ref().is_some_and(new)).count();
            ensure!(raised, "{:?}, {new} members run 6", status.feature_compatibility_version);
            ensure!(new == 3, "it was raised when {new} members ran 6");
            Ok(())
        })
        .await?;
        set.whole(3).await?;
        set.holds(&writer.finish().await?).await
    })
    .await
}

#[tokio::test]
async fn an_arbiter_needs_a_consent_beside_two_and_holds_no_data() -> Result<()> {
    on_light_stage("arbiter", |lab, namespace| async move {
        let set = Set::new(&lab, &namespace);
        let mut spec = Set::spec(2);
        spec["arbiters"] = json!(1);
        let refused = set.apply(spec.clone()).await.err().map(|error| format!("{error:#}")).unwrap_or_default();
        ensure!(refused.contains(PSA_CONSENT), "{refused:?}");
        spec["arbiterConsent"] = json!(PSA_CONSENT);
        set.apply(spec).await?;
        eventually("two members and an arbiter", || async {
            let status = set.status().await?;
            let mut roles: Vec<_> = status.members.iter().map(|member| (member.role.as_str(), member.votes == Some(true))).collect();
            roles.sort_unstable();
            ensure!(roles == [("ARBITER", true), ("PRIMARY", true), ("SECONDARY", true)], "{}: {roles:?}", status.reason);
            ensure!(status.state == "Healthy", "{}: {}", status.state, status.reason);
            Ok(())
        })
        .await?;
        let writer = Writer::start(&set, 1).await?;
        writer.goes_on().await?;
        let old = set.primary().await?;
        set.crash(&old).await?;
        ensure!(set.succeeded(&old).await? != set.member(2), "the arbiter leads");
        writer.goes_on().await?;
        let acknowledged = writer.finish().await?;
        eventually("both to hold every document", || async {
            for ordinal in 0..2 {
                let numbers = set.numbers(&set.member(ordinal)).await?;
                ensure!(acknowledged.is_subset(&numbers), "{} misses some", set.member(ordinal));
            }
            Ok(())
        })
        .await
    })
    .await
}

#[tokio::test]
async fn a_set_that_slept_wakes_as_the_same_set() -> Result<()> {
    on_light_stage("sleep", |lab, namespace| async move {
        let set = Set::create(&lab, &namespace, 3).await?;
        let writer = Writer::start(&set, 1).await?;
        writer.goes_on().await?;
        let acknowledged = writer.finish().await?;
        let id = set.status().await?.replica_set_id;
        set.merge(json!({"hibernate": true})).await?;
        eventually("no pods", || async {
            let pods = set.pods().list(&ListParams::default()).await?.items.len();
            ensure!(pods == 0, "{pods} pods");
            Ok(())
        })
        .await?;
        set.merge(json!({"hibernate": false})).await?;
        set.whole(3).await?;
        ensure!(set.status().await?.replica_set_id == id, "it is another set");
        set.holds(&acknowledged).await
    })
    .await
}
