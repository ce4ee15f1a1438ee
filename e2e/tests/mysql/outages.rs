//! The operator or the API server is away: databases go on, nobody is replaced needlessly, and what happened meanwhile is made good.

use std::time::Duration;

use anyhow::{Result, ensure};
use rustix::process::Signal;
use serde_json::json;
use tokio::time::{Instant, sleep};

use crate::rig::Cluster;
use crate::writer::Writer;
use e2e::stage::scale_operator;
use e2e::stage::{alone_on_stage, eventually};

/// How long the API server is away.
const PAUSE: Duration = Duration::from_secs(60);
/// Writes never stop for this long while nothing is wrong with the members.
const PATIENCE: Duration = Duration::from_secs(15);

/// Watches for `long` that writes go on, whoever is away.
async fn writes_go_on(writer: &Writer, long: Duration) -> Result<()> {
    let end = Instant::now() + long;
    let (mut count, mut since) = (writer.count(), Instant::now());
    while Instant::now() < end {
        sleep(Duration::from_millis(250)).await;
        if writer.count() > count {
            (count, since) = (writer.count(), Instant::now());
        }
        ensure!(since.elapsed() < PATIENCE, "no write for {PATIENCE:?}");
    }
    Ok(())
}

#[tokio::test]
async fn without_api_server_and_operator_writes_go_on_and_a_restarted_primary_opens_by_itself() -> Result<()> {
    alone_on_stage("outage", |lab, namespace| async move {
        let cluster = Cluster::perform(&lab, &namespace, 3).await?;
        let writer = Writer::start(&cluster, 1);
        writer.goes_on().await?;
        let (primary, term) = (cluster.primary().await?, cluster.status().await?.term);

        lab.pause_api()?;
        let went_on = writes_go_on(&writer, PAUSE).await;
        lab.resume_api()?;
        went_on?;
        cluster.whole(3).await?;
        let status = cluster.status().await?;
        ensure!(status.term == term && status.primary.as_ref() == Some(&primary), "a needless failover: {}", status.reason);

        // Neither of the two, and mysqld dies: its sidecar asks the others whether its term still counts.
        scale_operator(&lab, 0).await?;
        let mysqld = cluster.mysqld(&primary).await?;
        lab.pause_api()?;
        let went_on = async {
            sleep(Duration::from_secs(8)).await;
            mysqld.signal(Signal::KILL)?;
            let before = writer.count();
            writes_go_on(&writer, PATIENCE).await?;
            ensure!(writer.count() > before, "it did not open");
            anyhow::Ok(())
        };
        let went_on = went_on.await;
        lab.resume_api()?;
        let back = scale_operator(&lab, 1).await;
        went_on?;
        back?;
        cluster.whole(3).await?;
        let status = cluster.status().await?;
        ensure!(status.term == term && status.primary.as_ref() == Some(&primary), "a needless failover: {}", status.reason);

        // The operator finds a dead primary when it comes back, and one whose pod is another one.
        for pod_too in [false, true] {
            let old = cluster.primary().await?;
            scale_operator(&lab, 0).await?;
            let lost = if pod_too { cluster.delete_at_once(&old).await } else { cluster.crash(&old).await };
            let back = scale_operator(&lab, 1).await;
            lost?;
            back?;
            writer.goes_on().await?;
            cluster.whole(3).await?;
        }
        let acknowledged = writer.finish().await?;
        cluster.holds(&acknowledged).await
    })
    .await
}

#[tokio::test]
async fn what_nobody_saw_happen_leaves_nothing_behind_and_takes_nothing_away() -> Result<()> {
    alone_on_stage("unseen", |lab, namespace| async move {
        let cluster = Cluster::perform(&lab, &namespace, 2).await?;
        let writer = Writer::start(&cluster, 1);
        writer.goes_on().await?;
        let claims = [cluster.claim_uid(0).await?, cluster.claim_uid(1).await?];
        let replica = cluster.others(&cluster.primary().await?).await?.remove(0);

        // Up and down, down and up, on and off and on: never seen. A pod goes and comes.
        scale_operator(&lab, 0).await?;
        let unseen = async {
            for replicas in [4, 1, 2] {
                cluster.merge(json!({"replicas": replicas})).await?;
            }
            for asleep in [true, false] {
                cluster.merge(json!({"hibernate": asleep})).await?;
            }
            cluster.replaced(&replica, cluster.delete_pod(&replica)).await
        };
        let unseen = unseen.await;
        scale_operator(&lab, 1).await?;
        unseen?;
        cluster.whole(2).await?;
        ensure!([cluster.claim_uid(0).await?, cluster.claim_uid(1).await?] == claims, "a volume was replaced");
        ensure!(cluster.claims().list(&Default::default()).await?.items.len() == 2, "a volume of a member that never was");
        writer.goes_on().await?;

        // The operator dies between what it deletes and what it writes: at any moment of a roll-out.
        cluster.merge(json!({"pod": {"annotations": {"shop/revision": "2"}}})).await?;
        for _ in 0..4 {
            sleep(Duration::from_secs(2)).await;
            e2e::stage::restart_operator(&lab).await?;
        }
        eventually("every pod to be of the new revision", || async {
            for member in cluster.status().await?.members {
                let pod = cluster.pods().get(&member.name).await?;
                let revision = pod.metadata.annotations.and_then(|all| all.get("shop/revision").cloned());
                ensure!(revision.as_deref() == Some("2"), "{} is of the old one", member.name);
            }
            Ok(())
        })
        .await?;
        cluster.whole(2).await?;
        let acknowledged = writer.finish().await?;
        cluster.holds(&acknowledged).await
    })
    .await
}
