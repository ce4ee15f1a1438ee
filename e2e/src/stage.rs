//! What every test of a database stands on: the installed operator, a place for its cluster, patience.

use std::future::Future;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use kube::{Api, ResourceExt};
use tokio::sync::{OnceCell, RwLock, Semaphore};
use tokio::time::{Instant, sleep, timeout};

use crate::lab::Lab;
use crate::namespace::TestNamespace;

/// Where the chart is installed.
pub const SYSTEM: &str = "understudy-system";
/// Coming up, cloning and rolling three members takes well under this on two cores that other tests share.
const PATIENCE: Duration = Duration::from_secs(240);
/// A single question to the API server or a database.
const ANSWER: Duration = Duration::from_secs(30);
/// What two cores carry at a time: clusters of mysqlds for three tests, or, for eight, what mostly waits: redis-servers and models of mongod.
static STAGES: Semaphore = Semaphore::const_new(24);
const HEAVY: u32 = 8;
const LIGHT: u32 = 3;
static OPERATOR: OnceCell<()> = OnceCell::const_new();
/// Faults of the operator itself, or of the API server, are faults for every test: who does them is alone. Taken before a place on the
/// stage, so that who waits holds none.
static CONTROL_PLANE: RwLock<()> = RwLock::const_new(());

/// `LAB_SHARED=1`: others work in this lab and on this machine too. The operator that runs is theirs as well, and all takes longer.
fn is_shared() -> bool {
    std::env::var_os("LAB_SHARED").is_some()
}

/// How long a test waits for what must come.
pub fn patience() -> Duration {
    if is_shared() { PATIENCE * 5 / 4 } else { PATIENCE }
}

/// Runs `test` in a namespace of its own with the operator installed.
pub async fn on_stage<F: Future<Output = Result<()>>>(name: &str, test: impl FnOnce(Lab, String) -> F) -> Result<()> {
    let _with_others = CONTROL_PLANE.read().await;
    perform(name, HEAVY, test).await
}

/// The same for redis-servers, and for a replica set of the model; a real mongod weighs what a mysqld does.
pub async fn on_light_stage<F: Future<Output = Result<()>>>(name: &str, test: impl FnOnce(Lab, String) -> F) -> Result<()> {
    let _with_others = CONTROL_PLANE.read().await;
    let weight = if std::env::var_os("MONGO_IMAGE_ROOTFS").is_some() { HEAVY } else { LIGHT };
    perform(name, weight, test).await
}

/// The same while no other test runs, after those that may run together: for faults of the operator, of the API server and of nodes.
pub async fn alone_on_stage<F: Future<Output = Result<()>>>(name: &str, test: impl FnOnce(Lab, String) -> F) -> Result<()> {
    // Not in a queue, in which nobody who comes later begins until everybody before has ended.
    let _alone = loop {
        match CONTROL_PLANE.try_write() {
            Ok(alone) => break alone,
            Err(_) => sleep(Duration::from_secs(1)).await,
        }
    };
    perform(name, HEAVY, test).await
}

async fn perform<F: Future<Output = Result<()>>>(name: &str, weight: u32, test: impl FnOnce(Lab, String) -> F) -> Result<()> {
    let _place = STAGES.acquire_many(weight).await?;
    let lab = Lab::attach().await?;
    OPERATOR.get_or_try_init(|| install(&lab)).await?;
    TestNamespace::run(&lab, name, test).await
}

/// Installs the chart with the image that the lab built.
async fn install(lab: &Lab) -> Result<()> {
    let chart = concat!(env!("CARGO_MANIFEST_DIR"), "/../charts/understudy");
    let values = "image.repository=localhost/understudy,image.tag=dev,image.pullPolicy=Never";
    lab.kubectl(&["apply", "--server-side", "--force-conflicts", "-f", concat!(env!("CARGO_MANIFEST_DIR"), "/../crds/yaml")]).await?;
    let arguments = [
        "upgrade",
        "--install",
        "understudy",
        chart,
        "-n",
        SYSTEM,
        "--create-namespace",
        "--skip-crds",
        "--set",
        values,
        "--wait",
        "--timeout",
        "120s",
    ];
    lab.helm(&arguments).await.context("helm install; `lab images` builds the image")?;
    if is_shared() {
        return Ok(());
    }
    // A pod of an earlier run of the tests may hold an older image of the same tag.
    lab.kubectl(&["rollout", "restart", "deployment", "-n", SYSTEM]).await?;
    lab.kubectl(&["rollout", "status", "deployment", "-n", SYSTEM, "--timeout=120s"]).await?;
    Ok(())
}

/// Tries `check` until it holds, or fails with its last words.
pub async fn eventually<F: Future<Output = Result<()>>>(what: &str, mut check: impl FnMut() -> F) -> Result<()> {
    let end = Instant::now() + patience();
    loop {
        let last = match timeout(ANSWER, check()).await {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(error)) => error,
            Err(_) => anyhow::anyhow!("no answer"),
        };
        if Instant::now() > end {
            bail!("waited in vain for {what}: {last:#}");
        }
        sleep(Duration::from_millis(250)).await;
    }
}

/// Restarts the operator's pod.
pub async fn restart_operator(lab: &Lab) -> Result<()> {
    lab.kubectl(&["delete", "pod", "-n", SYSTEM, "-l", "app.kubernetes.io/name=understudy", "--wait=false"]).await?;
    Ok(())
}

/// The operator's pod that runs.
pub async fn operator(lab: &Lab) -> Result<String> {
    let pods = Api::<Pod>::namespaced(lab.client().clone(), SYSTEM);
    let found = pods.list(&ListParams::default().labels("app.kubernetes.io/name=understudy")).await?;
    let running = found.iter().find(|pod| {
        pod.metadata.deletion_timestamp.is_none() && pod.status.as_ref().is_some_and(|status| status.phase.as_deref() == Some("Running"))
    });
    running.map(ResourceExt::name_any).context("no operator runs")
}

/// Runs so many operators, and waits until it is so.
pub async fn scale_operator(lab: &Lab, replicas: u32) -> Result<()> {
    lab.kubectl(&["scale", "deployment", "-n", SYSTEM, "--all", &format!("--replicas={replicas}")]).await?;
    eventually(&format!("{replicas} operators"), || async {
        if replicas == 0 {
            // One that is being deleted may still act.
            let left = lab.kubectl(&["get", "pods", "-n", SYSTEM, "-o", "name"]).await?;
            ensure!(left.trim().is_empty(), "{left}");
            return Ok(());
        }
        operator(lab).await?;
        Ok(())
    })
    .await
}
