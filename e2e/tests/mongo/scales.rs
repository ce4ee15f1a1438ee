//! More members and fewer: never more than seven vote, and whoever leads stays in.

use anyhow::{Result, ensure};
use e2e::stage::on_light_stage;
use serde_json::json;

use crate::rig::Set;
use crate::writer::Writer;

#[tokio::test]
async fn three_to_five_to_ten_to_three_under_writes() -> Result<()> {
    on_light_stage("scale", |lab, namespace| async move {
        let set = Set::create(&lab, &namespace, 3).await?;
        let writer = Writer::start(&set, 1).await?;
        writer.goes_on().await?;
        for replicas in [5, 10, 3] {
            set.merge(json!({"replicas": replicas})).await?;
            set.whole(replicas).await?;
            let voters = set.status().await?.members.iter().filter(|member| member.votes == Some(true)).count();
            ensure!(voters == (replicas as usize).min(7), "{voters} of {replicas} vote");
            writer.goes_on().await?;
        }
        set.holds(&writer.finish().await?).await
    })
    .await
}
