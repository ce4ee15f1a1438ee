//! What tests of lost members and changed primaries ask of a cluster, and do to it.

use std::future::Future;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use e2e::stage::{eventually, patience};
use kube::ResourceExt;
use kube::api::{DeleteParams, ListParams};
use redis::cmd;
use tokio::time::{Instant, timeout};

use crate::rig::Cluster;

/// A killed primary that nobody has succeeded by then leads again.
const BACK_BY: Duration = Duration::from_secs(20);

impl Cluster {
    /// Waits until another member than `old` leads and the change is over; says which one.
    pub async fn succeeded(&self, old: &str) -> Result<String> {
        eventually(&format!("another primary than {old}"), || async {
            let status = self.status().await?;
            ensure!(status.transition.is_none() && status.primary.as_deref() != Some(old), "{}: {}", status.state, status.reason);
            Ok(())
        })
        .await?;
        self.primary().await
    }

    /// Makes sure that `NAME-primary` leads to `member`, which takes writes.
    pub async fn leads(&self, member: &str) -> Result<()> {
        eventually(&format!("the Service to lead to {member}"), || async {
            let mut connection = self.through("primary").await?;
            let info: String = cmd("INFO").arg("server").arg("replication").query_async(&mut connection).await?;
            ensure!(info.contains("role:master"), "it leads to a replica");
            let mine: String = self.asks(member, cmd("INFO").arg("server")).await?;
            let run = |info: &str| info.lines().find(|line| line.starts_with("run_id:")).map(str::to_owned);
            ensure!(run(&info).is_some() && run(&info) == run(&mine), "it leads to somebody else");
            Ok(())
        })
        .await
    }

    /// Kills process 1 of the server's container.
    pub async fn crash(&self, member: &str) -> Result<()> {
        self.lab.kill_container(&self.namespace, member, "redis").await
    }

    /// Deletes a pod; without grace its processes get SIGKILL, and its name is free at once.
    pub async fn delete(&self, member: &str, grace: Option<u32>) -> Result<()> {
        self.pods().delete(member, &DeleteParams { grace_period_seconds: grace, ..DeleteParams::default() }).await?;
        Ok(())
    }

    /// Deletes every pod in the same moment, without grace; returns when all are other ones.
    pub async fn delete_all(&self) -> Result<()> {
        let mine = ListParams::default().labels(&format!("understudy.dev/cluster={}", self.name));
        let before: Vec<_> = self.pods().list(&mine).await?.items.iter().filter_map(ResourceExt::uid).collect();
        let at_once = DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() };
        self.pods().delete_collection(&at_once, &mine).await?;
        eventually("every pod to be another one", || async {
            let now = self.pods().list(&mine).await?.items;
            let left = now.iter().filter(|pod| pod.uid().is_some_and(|uid| before.contains(&uid))).count();
            ensure!(left == 0 && now.len() == before.len(), "{left} of {} are left, {} are there", before.len(), now.len());
            Ok(())
        })
        .await
    }

    /// Kills the server of the primary `old` until another member leads; says which one. A primary that is back before its replicas could be
    /// asked may lead on: then it is killed again, and the kubelet does not restart it as soon as the first time.
    pub async fn crashed(&self, old: &str) -> Result<String> {
        self.lost(old, || self.crash(old)).await
    }

    /// The same with its pod, deleted without grace.
    pub async fn deleted(&self, old: &str) -> Result<String> {
        self.lost(old, || self.delete(old, Some(0))).await
    }

    async fn lost<F: Future<Output = Result<()>>>(&self, old: &str, fault: impl Fn() -> F) -> Result<String> {
        let end = Instant::now() + patience();
        fault().await?;
        loop {
            match timeout(BACK_BY, self.succeeded(old)).await {
                Ok(new) => return new,
                Err(_) if Instant::now() > end => bail!("{old} leads on, however often it is lost"),
                Err(_) => fault().await?,
            }
        }
    }

    /// Makes sure that `old` handed over, and that no primary was ever lost.
    pub async fn handed_over(&self, old: &str) -> Result<()> {
        let words = format!("{old} hands over to");
        eventually(&format!("the record to tell of a hand-over by {old}"), || async {
            let record = self.lab.decided(&self.namespace, &self.name).await?;
            ensure!(record.iter().any(|decided| decided.reason.contains(&words)), "no hand-over: {record:?}");
            let lost: Vec<_> = record.into_iter().filter(|decided| decided.state == "FailingOver").collect();
            ensure!(lost.is_empty(), "it was lost, not handed over: {lost:?}");
            Ok(())
        })
        .await
    }

    /// The node of a member's pod.
    pub async fn node(&self, member: &str) -> Result<String> {
        self.pods().get(member).await?.spec.and_then(|spec| spec.node_name).context("no node yet")
    }

    /// Image of a member's server.
    pub async fn image(&self, member: &str) -> Result<String> {
        let containers = self.pods().get(member).await?.spec.map(|spec| spec.containers).unwrap_or_default();
        containers.into_iter().find(|container| container.name == "redis").and_then(|container| container.image).context("no server")
    }

    /// Asks by the annotation for another primary, in the current term; says with which words.
    pub async fn switch_over(&self, to: &str) -> Result<String> {
        let request = format!("{to}@{}", self.status().await?.term);
        self.annotate(crds::annotations::SWITCHOVER, &request).await?;
        Ok(request)
    }
}
