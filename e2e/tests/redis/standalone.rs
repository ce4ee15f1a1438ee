//! The plain StatefulSets of the docs, no operator: with the sidecar, and with it in the place of peer-finder alone.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::Lab;
use e2e::stage::{eventually, on_light_stage};
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use tokio::time::timeout;

use crate::rig::IMAGE;

const SIDECAR: &str = include_str!("../../../docs/standalone/redis.yaml");
const PEERS: &str = include_str!("../../../docs/standalone/redis-peers.yaml");
/// A program that watches peers ends when it is cut off.
const WATCHED: Duration = Duration::from_secs(300);

/// The StatefulSet `redis` of a manifest.
struct Plain {
    lab: Lab,
    namespace: String,
    /// What `redis-cli` logs in with.
    login: Vec<&'static str>,
}

impl Plain {
    async fn apply(lab: &Lab, namespace: &str, manifest: &str, login: &[&'static str]) -> Result<Self> {
        let manifest = manifest
            .replace("ghcr.io/understudy-dev/understudy:0.1.0", e2e::images::UNDERSTUDY)
            .replace("image: redis:7.2", &format!("image: {IMAGE}"))
            .replace("storage: 10Gi", "storage: 1Gi");
        let file = std::env::temp_dir().join(format!("{namespace}.yaml"));
        std::fs::write(&file, manifest)?;
        let applied = lab.kubectl(&["apply", "-n", namespace, "-f", &file.display().to_string()]).await;
        std::fs::remove_file(&file)?;
        applied?;
        Ok(Self { lab: lab.clone(), namespace: namespace.into(), login: login.into() })
    }

    async fn scale(&self, replicas: u32) -> Result<()> {
        self.lab.kubectl(&["scale", "sts", "redis", &format!("--replicas={replicas}"), "-n", &self.namespace]).await.map(drop)
    }

    async fn ready(&self, replicas: u32) -> Result<()> {
        eventually(&format!("{replicas} ready members"), || async {
            let path = "jsonpath={.status.readyReplicas}/{.status.replicas}";
            let ready = self.lab.kubectl(&["get", "sts", "redis", "-n", &self.namespace, "-o", path]).await?;
            ensure!(ready == format!("{replicas}/{replicas}"), "{ready}");
            Ok(())
        })
        .await
    }

    async fn pod(&self, member: &str) -> Result<Pod> {
        Ok(Api::<Pod>::namespaced(self.lab.client().clone(), &self.namespace).get(member).await?)
    }

    /// What `redis-cli` in a member's pod answers.
    async fn cli(&self, member: &str, words: &[&str]) -> Result<String> {
        let said = self.lab.exec(&self.namespace, member, "redis", &[&["redis-cli"], &self.login[..], words].concat()).await?;
        Ok(said.trim().to_owned())
    }

    /// Writes to ordinal 0, as soon as it takes that.
    async fn writes(&self, key: &str, value: &str) -> Result<()> {
        eventually(&format!("{key} to be written"), || async {
            let said = self.cli("redis-0", &["SET", key, value]).await?;
            ensure!(said == "OK", "{said:?}");
            Ok(())
        })
        .await
    }

    async fn reads(&self, member: &str, key: &str, value: &str) -> Result<()> {
        eventually(&format!("{key} on {member}"), || async {
            let found = self.cli(member, &["GET", key]).await?;
            ensure!(found == value, "{found:?}");
            Ok(())
        })
        .await
    }
}

#[tokio::test]
async fn the_manifest_with_the_sidecar_comes_up_scales_and_heals_and_never_copies_emptiness() -> Result<()> {
    on_light_stage("sidecar", |lab, namespace| async move {
        let login = ["--no-auth-warning", "--user", "app", "--pass", "change-me-app"];
        let set = Plain::apply(&lab, &namespace, SIDECAR, &login).await?;
        set.ready(3).await?;
        ensure!(set.cli("redis-0", &["SET", "play", "hamlet"]).await? == "OK", "ordinal 0 takes no writes");
        set.reads("redis-2", "play", "hamlet").await?;
        ensure!(set.cli("redis-2", &["SET", "play", "macbeth"]).await?.contains("READONLY"), "a replica takes writes");
        ensure!(lab.exec(&namespace, "redis-0", "redis", &["redis-cli", "PING"]).await?.contains("NOAUTH"), "nobody has to log in");
        set.scale(5).await?;
        set.ready(5).await?;
        set.reads("redis-4", "play", "hamlet").await?;

        // A pod, a replica's volume, the primary's process, and the primary's volume: then it is empty, and the others must not copy that.
        lab.kubectl(&["delete", "pod", "redis-1", "-n", &namespace]).await?;
        lab.lose_pvc(&namespace, "data-redis-2").await?;
        set.ready(5).await?;
        set.reads("redis-2", "play", "hamlet").await?;
        lab.kill_container(&namespace, "redis-0", "redis").await?;
        set.writes("act", "one").await?;
        let before = set.pod("redis-0").await?.metadata.uid;
        lab.lose_pvc(&namespace, "data-redis-0").await?;
        set.writes("act", "two").await?;
        set.ready(5).await?;
        let after = set.pod("redis-0").await?;
        ensure!(after.metadata.uid != before, "the pod is the old one");
        set.reads("redis-0", "play", "hamlet").await?;
        set.reads("redis-4", "act", "two").await?;
        let spec = after.spec.context("a pod has a spec")?;
        ensure!(spec.automount_service_account_token == Some(false), "a pod has an API token");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn the_manifest_with_a_script_comes_up_scales_and_hears_of_changes_as_with_peer_finder() -> Result<()> {
    on_light_stage("peers", |lab, namespace| async move {
        let set = Plain::apply(&lab, &namespace, PEERS, &[]).await?;
        set.ready(3).await?;
        ensure!(set.cli("redis-0", &["SET", "play", "hamlet"]).await? == "OK", "ordinal 0 takes no writes");
        set.reads("redis-2", "play", "hamlet").await?;
        ensure!(set.cli("redis-2", &["SET", "play", "macbeth"]).await?.contains("READONLY"), "a replica takes writes");

        // Each change of the list, to a script of somebody's own.
        let watch = lab.clone();
        let (of, pod) = (namespace.clone(), "redis-0");
        let watching = tokio::spawn(async move {
            let flags = ["-on-change", "cat >/work/peers", "-service", "redis", "-ns", &of];
            let _ = timeout(WATCHED, watch.exec(&of, pod, "redis", &[&["/work/peer-finder", "peers"], &flags[..]].concat())).await;
        });
        let told = |replicas: u32| {
            let (lab, namespace) = (lab.clone(), namespace.clone());
            async move {
                let name = |ordinal| format!("redis-{ordinal}.redis.{namespace}.svc.cluster.local");
                let wanted = (0..replicas).map(name).collect::<Vec<_>>().join("\n");
                eventually(&format!("a list of {replicas} peers"), || async {
                    let list = lab.exec(&namespace, pod, "redis", &["cat", "/work/peers"]).await?;
                    ensure!(list == wanted, "{list:?}");
                    Ok(())
                })
                .await
            }
        };
        told(3).await?;
        set.scale(5).await?;
        set.ready(5).await?;
        set.reads("redis-4", "play", "hamlet").await?;
        told(5).await?;
        set.scale(4).await?;
        told(4).await?;
        watching.abort();

        let before = set.pod("redis-0").await?.metadata.uid;
        lab.kubectl(&["delete", "pod", "redis-0", "-n", &namespace]).await?;
        eventually("another pod", || async {
            ensure!(set.pod("redis-0").await?.metadata.uid != before, "the pod is the old one");
            Ok(())
        })
        .await?;
        set.ready(4).await?;
        set.reads("redis-0", "play", "hamlet").await?;
        eventually("replication to go on", || async {
            set.cli("redis-0", &["SET", "act", "two"]).await?;
            ensure!(set.cli("redis-3", &["GET", "act"]).await? == "two", "not yet");
            Ok(())
        })
        .await?;
        let spec = set.pod("redis-0").await?.spec.context("a pod has a spec")?;
        ensure!(spec.automount_service_account_token == Some(false), "a pod has an API token");
        Ok(())
    })
    .await
}
