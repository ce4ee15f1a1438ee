//! The operator or the API server is away, or dies in the middle of what it does: databases go on, and what was begun is ended.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use clap::Parser;
use e2e::stage::{alone_on_stage, eventually, scale_operator};
use operator::cli::{Cli, Command, Run};
use serde_json::json;
use tokio::time::{Instant, sleep};

use crate::mortal::{Operator, Writes};
use crate::rig::Cluster;
use crate::writer::Writer;

/// How long the API server is away.
const PAUSE: Duration = Duration::from_secs(20);
/// Writes never stop for this long while nothing is wrong with the members.
const PATIENCE: Duration = Duration::from_secs(5);
/// A failover, the return of the old primary and its place among those that count need fewer writes.
const MOST: usize = 40;

/// The operator of the chart, as far as its clusters can tell, for one namespace.
fn options(namespace: &str) -> Result<Run> {
    let arguments = ["operator", "run", "--sidecar-image", e2e::images::UNDERSTUDY, "--pod-name", "mortal", "--namespaces", namespace];
    match Cli::try_parse_from(arguments)?.command {
        Command::Run(options) => Ok(options),
        Command::Check { .. } => bail!("not run"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_that_dies_after_any_write_of_a_failover_is_followed_by_one_that_ends_it() -> Result<()> {
    alone_on_stage("mortal", |lab, namespace| async move {
        let cluster = Cluster::create(&lab, &namespace, 3).await?;
        let writer = Writer::start(&cluster, 1);
        writer.goes_on().await?;
        scale_operator(&lab, 0).await?;
        let played = async {
            let mut writes = Writes::new(usize::MAX);
            let mut operator = Operator::start(&lab.kubeconfig(), options(&namespace)?, &writes).await?;
            let mut life = 1;
            for round in 0..MOST {
                // One that has just begun has seen its members when it has answered something.
                cluster.merge(json!({"services": {"read": {"annotations": {"shop/round": round.to_string()}}}})).await?;
                cluster.whole(3).await?;
                let (old, before) = (cluster.primary().await?, cluster.status().await?);
                let (term, claims) = (before.term, before.claims);
                let pod = cluster.pod_uid(&old).await?;
                writes.allow(life);
                // With its pod: the kubelet starts a container that dies often later and later.
                cluster.delete(&old, Some(0)).await?;
                eventually("the operator to die, or to have done all", || async {
                    if writes.are_spent() {
                        return Ok(());
                    }
                    let status = cluster.status().await?;
                    // Not the words of before: something was claimed since, and is over.
                    let over = status.claims > claims && status.transition.is_none();
                    let settled = over && status.state == "Healthy" && status.ack_set.len() == 2 && cluster.pod_uid(&old).await? != pod;
                    ensure!(settled, "{}: {}", status.state, status.reason);
                    Ok(())
                })
                .await?;
                let died = writes.are_spent();
                drop(operator);
                writes = Writes::new(usize::MAX);
                operator = Operator::start(&lab.kubeconfig(), options(&namespace)?, &writes).await?;
                writer.goes_on().await.with_context(|| format!("died after write {life}"))?;
                cluster.whole(3).await.with_context(|| format!("died after write {life}"))?;
                let status = cluster.status().await?;
                let replaced = status.primary.as_ref() != Some(&old);
                ensure!(!replaced || status.term > term, "another primary in the same term");
                if died {
                    life += 1;
                } else if replaced {
                    println!("a failover and what follows it take {} writes", life - 1);
                    ensure!(life > 4, "that is fewer than a failover needs: two claims, a route and an end");
                    return operator.stop().await;
                }
            }
            bail!("a failover takes more than {MOST} writes")
        };
        let played = played.await;
        scale_operator(&lab, 1).await?;
        played?;
        cluster.whole(3).await?;
        cluster.holds(&writer.finish().await?).await
    })
    .await
}

#[tokio::test]
async fn without_api_server_and_operator_writes_go_on_and_what_died_meanwhile_is_made_good() -> Result<()> {
    alone_on_stage("outage", |lab, namespace| async move {
        let cluster = Cluster::create(&lab, &namespace, 3).await?;
        let writer = Writer::start(&cluster, 1);
        writer.goes_on().await?;
        let (primary, term) = (cluster.primary().await?, cluster.status().await?.term);
        lab.pause_api()?;
        let went_on = go_on(&writer).await;
        lab.resume_api()?;
        went_on?;
        cluster.whole(3).await?;
        let status = cluster.status().await?;
        ensure!(status.term == term && status.primary.as_ref() == Some(&primary), "a needless failover: {}", status.reason);

        // Without an operator, too; and it finds a dead primary when it comes back.
        scale_operator(&lab, 0).await?;
        let went_on = go_on(&writer).await;
        let lost = cluster.delete(&primary, Some(0)).await;
        scale_operator(&lab, 1).await?;
        went_on?;
        lost?;
        writer.goes_on().await?;
        cluster.whole(3).await?;
        cluster.holds(&writer.finish().await?).await
    })
    .await
}

/// Watches that writes go on, whoever is away.
async fn go_on(writer: &Writer) -> Result<()> {
    let end = Instant::now() + PAUSE;
    while Instant::now() < end {
        sleep(Duration::from_millis(250)).await;
        ensure!(writer.last().elapsed() < PATIENCE, "no write for {PATIENCE:?}");
    }
    Ok(())
}
