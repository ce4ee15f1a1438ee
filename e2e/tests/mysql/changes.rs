//! What tests of lost members and changed primaries ask of a cluster, and do to it.

use std::future::Future;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use e2e::Lab;
use e2e::process::Process;
use kube::api::{DeleteParams, Patch, PatchParams};
use mysql_async::prelude::Queryable;
use serde_json::json;
use tokio::time::{Instant, timeout};

use crate::rig::Cluster;
use e2e::stage::{eventually, patience};

/// A killed primary that nobody has succeeded by then leads again.
const BACK_BY: Duration = Duration::from_secs(30);

impl Cluster {
    /// Creates a cluster whose commits wait for acknowledgements, with a ledger.
    pub async fn perform(lab: &Lab, namespace: &str, replicas: u32) -> Result<Self> {
        let cluster = Self::create(lab, namespace, replicas).await?;
        cluster.whole(replicas).await?;
        cluster.ledger().await?;
        Ok(cluster)
    }

    /// Waits until every member serves and counts for acknowledgements, with the most of them that there can be.
    pub async fn whole(&self, replicas: u32) -> Result<()> {
        self.ready(replicas).await?;
        self.acks(replicas / 2).await
    }

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
            let found: Option<(String, u8)> = connection.query_first("SELECT @@hostname, @@super_read_only").await?;
            ensure!(found == Some((member.to_owned(), 0)), "it leads to {found:?}");
            Ok(())
        })
        .await
    }

    /// The members but `one`, by ordinal.
    pub async fn others(&self, one: &str) -> Result<Vec<String>> {
        Ok(self.status().await?.members.into_iter().map(|member| member.name).filter(|name| name != one).collect())
    }

    /// Kills process 1 of mysqld's container.
    pub async fn crash(&self, member: &str) -> Result<()> {
        self.lab.kill_container(&self.namespace, member, "mysql").await
    }

    /// Kills mysqld of the primary `old` until another member leads; says which one. A primary that is back before its replicas could be
    /// asked leads on, as it may: then it is killed again, and the kubelet does not restart it as soon as the first time.
    pub async fn crashed(&self, old: &str) -> Result<String> {
        self.lost(old, || self.crash(old)).await
    }

    /// The same with its pod, deleted without grace.
    pub async fn deleted(&self, old: &str) -> Result<String> {
        self.lost(old, || self.delete_at_once(old)).await
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

    /// Kills process 1 of a container, and returns when it runs again: whoever watches has noticed by then.
    pub async fn restarted(&self, member: &str, container: &str) -> Result<()> {
        let restarts = async || {
            let status = self.pods().get(member).await?.status.unwrap_or_default();
            let all = status.init_container_statuses.into_iter().flatten().chain(status.container_statuses.into_iter().flatten());
            let found = all.into_iter().find(|found| found.name == container).with_context(|| format!("{member} has no {container}"))?;
            anyhow::Ok((found.restart_count, found.state.is_some_and(|state| state.running.is_some())))
        };
        let (before, _) = restarts().await?;
        self.lab.kill_container(&self.namespace, member, container).await?;
        eventually(&format!("{container} of {member} to run again"), || async {
            let (now, runs) = restarts().await?;
            ensure!(now > before && runs, "{now} restarts, running: {runs}");
            Ok(())
        })
        .await
    }

    /// Deletes a pod without grace: its processes get SIGKILL, and its name is free at once.
    pub async fn delete_at_once(&self, member: &str) -> Result<()> {
        let at_once = DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() };
        self.pods().delete(member, &at_once).await?;
        Ok(())
    }

    /// Address of a member's pod.
    pub async fn address(&self, member: &str) -> Result<String> {
        self.pods().get(member).await?.status.and_then(|status| status.pod_ip).context("no address yet")
    }

    /// Waits until nobody but `members` counts for acknowledgements.
    pub async fn acknowledged_by(&self, members: &[&str]) -> Result<()> {
        eventually(&format!("{members:?} to acknowledge"), || async {
            let status = self.status().await?;
            let mut set: Vec<&str> = status.ack_set.iter().map(|member| member.name.as_str()).collect();
            set.sort_unstable();
            ensure!(set == members, "{set:?}; {}: {}", status.state, status.reason);
            Ok(())
        })
        .await
    }

    /// Which data directory a member has.
    pub async fn server_uuid(&self, member: &str) -> Result<String> {
        let row = self.status().await?.members.into_iter().find(|row| row.name == member);
        row.and_then(|row| row.server_uuid).with_context(|| format!("the status names no data directory of {member}"))
    }

    /// Waits until a member has another data directory than `old`, and serves with all the others.
    pub async fn cloned_anew(&self, member: &str, old: &str, replicas: u32) -> Result<()> {
        eventually(&format!("{member} to be cloned anew"), || async {
            let status = self.status().await?;
            let uuid = self.server_uuid(member).await?;
            ensure!(uuid != old, "{member} still has {old}; {}: {}; {:?}", status.state, status.reason, status.members);
            Ok(())
        })
        .await?;
        self.whole(replicas).await
    }

    /// What Events with this reason say.
    pub async fn told(&self, reason: &str) -> Result<String> {
        let selector = format!("reason={reason}");
        let path = r#"jsonpath={range .items[*]}{.message}{"\n"}{end}"#;
        self.lab.kubectl(&["get", "events", "-n", &self.namespace, "--field-selector", &selector, "-o", path]).await
    }

    /// Writes annotations of the MySQLCluster: requests of a person.
    pub async fn annotate(&self, annotation: &str, value: &str) -> Result<()> {
        let patch = json!({"metadata": {"annotations": {annotation: value}}});
        self.api().patch(&self.name, &PatchParams::default(), &Patch::Merge(patch)).await?;
        Ok(())
    }

    /// The mysqld of a member, to be killed when nobody can be asked for it.
    pub async fn mysqld(&self, member: &str) -> Result<Process> {
        let all = self.lab.processes(&self.namespace, member).await?;
        all.into_iter().find(|process| process.is("mysqld")).with_context(|| format!("no mysqld in {member}"))
    }
}
