//! What every measurement stands on: the installed operator, and a cluster in a namespace of its own.

use std::future::Future;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use e2e::dirs::Dirs;
use e2e::engine::{Cluster, Mongo, MySql, Redis};
use e2e::process::Process;
use e2e::{Engine, Lab, TestNamespace, images};
use k8s_openapi::api::apps::v1::StatefulSet;
use kube::Api;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

pub const PATIENCE: Duration = Duration::from_secs(300);
pub const SYSTEM: &str = "understudy-system";
/// The cluster of every measurement.
pub const NAME: &str = "bench";

pub async fn install(lab: &Lab, dirs: &Dirs) -> Result<()> {
    let chart = dirs.checkout.join("charts/understudy").display().to_string();
    let crds = dirs.checkout.join("crds/yaml").display().to_string();
    lab.kubectl(&["apply", "--server-side", "--force-conflicts", "-f", &crds]).await?;
    let values = "image.repository=localhost/understudy,image.tag=dev,image.pullPolicy=Never";
    lab.helm(&["upgrade", "--install", "understudy", &chart, "-n", SYSTEM, "--create-namespace", "--skip-crds", "--set", values, "--wait"])
        .await?;
    Ok(())
}

/// A database that can be measured.
pub trait Measured: Engine {
    /// A cluster of so many members, as a user writes it.
    fn manifest(replicas: u32) -> Value;
}

impl Measured for MySql {
    fn manifest(replicas: u32) -> Value {
        spec(replicas)
    }
}

impl Measured for Mongo {
    fn manifest(replicas: u32) -> Value {
        let clerk = json!({"name": Self::USER, "database": Self::DATABASE, "roles": [{"role": "readWrite", "db": Self::DATABASE}]});
        json!({"apiVersion": "understudy.dev/v1alpha1", "kind": "MongoReplicaSet", "metadata": {"name": NAME}, "spec": {
            "replicas": replicas, "image": images::MONGO, "imagePullPolicy": "Never", "storage": {"size": "8Gi"}, "users": [clerk]}})
    }
}

impl Measured for Redis {
    fn manifest(replicas: u32) -> Value {
        let app = json!({"name": Self::USER, "rules": Self::RULES});
        json!({"apiVersion": "understudy.dev/v1alpha1", "kind": "RedisReplication", "metadata": {"name": NAME}, "spec": {
            "replicas": replicas, "image": images::REDIS, "imagePullPolicy": "Never", "storage": {"size": "8Gi"}, "users": [app]}})
    }
}

pub fn spec(replicas: u32) -> Value {
    json!({"apiVersion": "understudy.dev/v1alpha1", "kind": "MySQLCluster", "metadata": {"name": "bench"}, "spec": {
        "replicas": replicas, "image": images::MYSQL, "imagePullPolicy": "Never", "storage": {"size": "8Gi"}, "database": {"name": "shop", "owner": "app"}}})
}

pub async fn apply(lab: &Lab, namespace: &str, manifest: Value) -> Result<()> {
    let mut manifest = manifest;
    manifest["metadata"]["namespace"] = json!(namespace);
    lab.kubectl_apply(&manifest.to_string()).await.map(drop)
}

/// Seconds from apply to `replicas` ready pods of the StatefulSet `name`.
pub async fn until_ready(lab: &Lab, namespace: &str, name: &str, replicas: i32, start: Instant) -> Result<f64> {
    let sets: Api<StatefulSet> = Api::namespaced(lab.client().clone(), namespace);
    while start.elapsed() < PATIENCE {
        let ready = sets.get_opt(name).await?.and_then(|set| set.status).and_then(|status| status.ready_replicas);
        if ready == Some(replicas) {
            return Ok(start.elapsed().as_secs_f64());
        }
        sleep(Duration::from_millis(50)).await;
    }
    bail!("{name} was not ready in {} s", PATIENCE.as_secs())
}

/// Runs `work` on a whole cluster of `replicas` in a namespace of its own.
pub async fn on_stage<E: Measured, F: Future<Output = Result<()>>>(
    lab: &Lab,
    replicas: usize,
    work: impl FnOnce(Cluster<E>) -> F,
) -> Result<()> {
    let size = u32::try_from(replicas)?;
    TestNamespace::run(lab, NAME, |lab, namespace| async move {
        apply(&lab, &namespace, E::manifest(size)).await?;
        let cluster = Cluster::new(&lab, &namespace, NAME);
        wait_for(&cluster, replicas).await?;
        work(cluster).await
    })
    .await
}

/// Deletes the namespace and waits, so that the next run is alone.
pub async fn gone(lab: &Lab, namespace: TestNamespace) -> Result<()> {
    let name = namespace.name().to_owned();
    namespace.finish().await?;
    lab.kubectl(&["wait", "--for=delete", &format!("namespace/{name}"), "--timeout=120s"]).await.map(drop)
}

/// Waits until the cluster is healthy with all members ready and counted on.
pub async fn wait_for<E: Engine>(cluster: &Cluster<E>, replicas: usize) -> Result<()> {
    let end = Instant::now() + PATIENCE;
    loop {
        let glance = cluster.api().get(&cluster.name).await.map(|object| E::glance(&object))?;
        if glance.as_ref().is_some_and(|glance| glance.settled && glance.ready.len() == replicas) {
            return Ok(());
        }
        ensure!(Instant::now() < end, "not healthy: {}", glance.map(|glance| glance.story).unwrap_or_default());
        sleep(Duration::from_millis(100)).await;
    }
}

/// The one process of a pod whose program is `name`.
pub async fn process(lab: &Lab, namespace: &str, pod: &str, name: &str) -> Result<Process> {
    let all = lab.processes(namespace, pod).await?;
    let found = all.into_iter().find(|process| process.is(name));
    found.with_context(|| format!("no process {name} in {pod}"))
}

/// The operator's pod.
pub async fn operator(lab: &Lab) -> Result<String> {
    let path = "jsonpath={.items[0].metadata.name}";
    let name = lab.kubectl(&["get", "pods", "-n", SYSTEM, "-l", "app.kubernetes.io/name=understudy", "-o", path]).await?;
    Ok(name.trim().to_owned())
}
