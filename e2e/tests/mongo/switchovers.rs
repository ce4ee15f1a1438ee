//! Planned changes of primary: on request, before a pod goes, in the order of an update.

use anyhow::{Result, ensure};
use e2e::stage::{eventually, on_light_stage};
use serde_json::json;

use crate::rig::{OTHER_IMAGE, Set};
use crate::writer::Writer;

#[tokio::test]
async fn a_switchover_goes_to_whom_is_asked_for_and_an_evicted_primary_hands_over() -> Result<()> {
    on_light_stage("switch", |lab, namespace| async move {
        let set = Set::create(&lab, &namespace, 3).await?;
        let writer = Writer::start(&set, 1).await?;
        writer.goes_on().await?;
        let (old, term) = (set.primary().await?, set.status().await?.term);
        let wanted = set.others(&old).await?.remove(1);
        set.annotate("understudy.dev/switchover", &format!("{wanted}@{term}")).await?;
        ensure!(set.succeeded(&old).await? == wanted, "another one than {wanted} leads");
        writer.goes_on().await?;
        set.whole(3).await?;

        let old = set.primary().await?;
        set.delete(&old, None).await?;
        set.succeeded(&old).await?;
        writer.goes_on().await?;
        set.whole(3).await?;
        set.holds(&writer.finish().await?).await
    })
    .await
}

#[tokio::test]
async fn an_update_rolls_secondaries_first_and_loses_no_write() -> Result<()> {
    on_light_stage("update", |lab, namespace| async move {
        let set = Set::create(&lab, &namespace, 3).await?;
        let writer = Writer::start(&set, 1).await?;
        writer.goes_on().await?;
        let old = set.primary().await?;
        set.merge(json!({"image": OTHER_IMAGE})).await?;
        let pod = set.pods();
        eventually("every pod to run the other image", || async {
            for member in set.status().await?.members {
                let image = pod.get(&member.name).await?.spec.and_then(|spec| spec.containers.into_iter().next()?.image);
                ensure!(image.as_deref() == Some(OTHER_IMAGE), "{} runs {image:?}", member.name);
            }
            Ok(())
        })
        .await?;
        set.whole(3).await?;
        ensure!(set.primary().await? != old, "the primary was updated without a hand-over");
        set.holds(&writer.finish().await?).await
    })
    .await
}
