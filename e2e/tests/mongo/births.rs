//! From an empty namespace to one, three and five members.

use anyhow::{Context, Result, ensure};
use e2e::stage::on_light_stage;

use crate::rig::Set;
use crate::writer::Writer;

#[tokio::test]
async fn one_three_and_five_members_are_one_set_each_and_take_majority_writes() -> Result<()> {
    for replicas in [1, 3, 5] {
        on_light_stage("birth", |lab, namespace| async move {
            let set = Set::create(&lab, &namespace, replicas).await?;
            let writer = Writer::start(&set, 1).await?;
            writer.goes_on().await?;
            set.holds(&writer.finish().await?).await?;
            let status = set.status().await?;
            ensure!(status.replica_set_id.is_some() && status.primary.is_some(), "{status:?}");
            let voters = status.members.iter().filter(|member| member.votes == Some(true)).count();
            ensure!(voters == replicas as usize, "{voters} of {replicas} vote");
            let leads = status.members.iter().find(|member| member.role == "PRIMARY").context("nobody leads")?;
            ensure!(Some(&leads.name) == status.primary.as_ref(), "{} leads, {:?} is recorded", leads.name, status.primary);
            Ok(())
        })
        .await?;
    }
    Ok(())
}
