//! Most voters are lost: nothing is forced without the words of consent; the operator may die at any moment of a change.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::stage::{alone_on_stage, eventually, on_light_stage, restart_operator};
use serde_json::json;
use tokio::time::sleep;

use crate::rig::Set;
use crate::writer::Writer;

#[tokio::test]
async fn a_lost_majority_is_told_with_the_words_of_consent_and_forced_by_nothing_else() -> Result<()> {
    on_light_stage("majority", |lab, namespace| async move {
        let set = Set::create(&lab, &namespace, 3).await?;
        let writer = Writer::start(&set, 1).await?;
        writer.goes_on().await?;
        let primary = set.primary().await?;
        let gone = set.others(&primary).await?;
        for member in &gone {
            lab.isolate(&namespace, member).await?;
        }
        set.says("Stalled", "understudy.dev/force").await?;
        let before = writer.count();
        sleep(Duration::from_secs(10)).await;
        ensure!(writer.count() == before, "{} writes without a majority", writer.count() - before);
        let (_, _, message) = set.condition("Stalled").await?;
        for member in &gone {
            ensure!(message.contains(member.as_str()), "{member} is not named: {message}");
        }
        let words = message.split('\'').nth(1).context("no words of consent")?.to_owned();
        set.annotate("understudy.dev/force", "yes, please").await?;
        sleep(Duration::from_secs(5)).await;
        ensure!(writer.count() == before, "other words were taken for consent");
        set.annotate("understudy.dev/force", &words).await?;
        writer.goes_on().await?;
        lab.heal_namespace(&namespace).await?;
        set.whole(3).await?;
        set.holds(&writer.finish().await?).await
    })
    .await
}

#[tokio::test]
async fn an_operator_that_dies_while_a_set_grows_and_shrinks_goes_on_with_it() -> Result<()> {
    alone_on_stage("grow", |lab, namespace| async move {
        let set = Set::create(&lab, &namespace, 3).await?;
        let writer = Writer::start(&set, 1).await?;
        writer.goes_on().await?;
        for replicas in [7, 3] {
            set.merge(json!({"replicas": replicas})).await?;
            for _ in 0..4 {
                sleep(Duration::from_secs(2)).await;
                restart_operator(&lab).await?;
            }
            set.whole(replicas).await?;
        }
        eventually("the only set", || async {
            let status = set.status().await?;
            ensure!(
                status.replica_set_id.is_some() && status.members.iter().filter(|row| row.role == "PRIMARY").count() == 1,
                "{status:?}"
            );
            Ok(())
        })
        .await?;
        set.holds(&writer.finish().await?).await
    })
    .await
}
