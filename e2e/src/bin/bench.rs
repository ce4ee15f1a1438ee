//! `make bench`: speed and memory, each figure beside its floor from the same run, on the machine that it names.
//!
//! Nothing here passes or fails: machines are noisy, so figures are read, and compared within one run.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use crds::mysql::MySQLCluster;
use e2e::dirs::Dirs;
use e2e::ui::Ui;
use e2e::{Lab, TestNamespace, images};
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use kube::Api;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::time::{Instant, sleep, timeout};

/// Runs of what takes seconds; the median is shown.
const RUNS: usize = 3;
/// Rows of 1 MiB in the data set to clone.
const MEBIBYTES: usize = 2048;
const PATIENCE: Duration = Duration::from_secs(300);
const SYSTEM: &str = "understudy-system";

#[tokio::main]
async fn main() -> Result<()> {
    let dirs = Dirs::from_env()?;
    let ui = Ui::default();
    let lab = Lab::attach().await?;
    install(&lab, &dirs).await?;
    println!("machine: {}", machine()?);
    println!("{:<52} {:>12} {:>12} {:>8}   goal", "what", "figure", "floor", "ratio");

    let (mut ours, mut floor) = (Vec::new(), Vec::new());
    for run in 1..=RUNS {
        ui.step(&format!("three members and three bare mysqlds, run {run} of {RUNS}"), async {
            floor.push(bare(&lab).await?);
            ours.push(cluster(&lab).await?);
            Ok(())
        })
        .await?;
    }
    row("apply to 3 Ready, against 3 bare --initialize pods, s", median(&mut ours), median(&mut floor), "ratio <= 1.3");
    let (copied, clone, cp, sidecar, operator) =
        ui.step(&format!("clone {MEBIBYTES} MiB, and cp of the same files"), clone(&lab, &dirs)).await?;
    println!("{:<52} {copied:>12}", "data directory, MiB");
    row("clone of that, against cp, s", clone, cp, "ratio <= 1.25");
    println!("{:<52} {sidecar:>12.1} {:>12} {:>8}   <= 10", "sidecar RSS, MiB", "", "");
    println!("{:<52} {operator:>12.1} {:>12} {:>8}   <= 20", "operator RSS with 1 cluster, MiB", "", "");
    let (start, exec) = ui.step("cold starts of the operator", cold_start(&lab, &dirs)).await?;
    row("operator cold start to first decision, ms", start, exec, "<= 500");
    let image = images::understudy(&dirs, &ui).await?;
    let size = compressed(&image.archive).await?;
    println!("{:<52} {size:>12.1} {:>12} {:>8}   <= 20", "image of operator and sidecar, compressed, MB", "", "");
    Ok(())
}

fn row(what: &str, figure: f64, floor: f64, goal: &str) {
    println!("{what:<52} {figure:>12.2} {floor:>12.2} {:>8.2}   {goal}", figure / floor);
}

fn median(figures: &mut [f64]) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

fn machine() -> Result<String> {
    let cpu = std::fs::read_to_string("/proc/cpuinfo")?;
    let model =
        cpu.lines().find(|line| line.starts_with("model name")).and_then(|line| line.split(": ").nth(1)).unwrap_or("unknown").to_owned();
    let cores = cpu.lines().filter(|line| line.starts_with("processor")).count();
    let memory = std::fs::read_to_string("/proc/meminfo")?;
    let total: u64 = memory.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).unwrap_or(0);
    Ok(format!("{cores} x {model}, {} GiB", total / 1024 / 1024))
}

async fn install(lab: &Lab, dirs: &Dirs) -> Result<()> {
    let chart = dirs.checkout.join("charts/understudy").display().to_string();
    let crds = dirs.checkout.join("crds/yaml").display().to_string();
    lab.kubectl(&["apply", "--server-side", "--force-conflicts", "-f", &crds]).await?;
    let values = "image.repository=localhost/understudy,image.tag=dev,image.pullPolicy=Never";
    lab.helm(&["upgrade", "--install", "understudy", &chart, "-n", SYSTEM, "--create-namespace", "--skip-crds", "--set", values, "--wait"])
        .await?;
    Ok(())
}

fn spec(replicas: u32) -> Value {
    json!({"apiVersion": "understudy.dev/v1alpha1", "kind": "MySQLCluster", "metadata": {"name": "bench"}, "spec": {
        "replicas": replicas, "image": images::MYSQL, "imagePullPolicy": "Never", "storage": {"size": "8Gi"}, "database": {"name": "shop", "owner": "app"}}})
}

async fn apply(lab: &Lab, namespace: &str, manifest: Value) -> Result<()> {
    let mut manifest = manifest;
    manifest["metadata"]["namespace"] = json!(namespace);
    lab.kubectl_apply(&manifest.to_string()).await.map(drop)
}

/// Seconds from apply to `replicas` ready pods of the StatefulSet `name`.
async fn until_ready(lab: &Lab, namespace: &str, name: &str, replicas: i32, start: Instant) -> Result<f64> {
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

async fn cluster(lab: &Lab) -> Result<f64> {
    let namespace = TestNamespace::new(lab, "bench").await?;
    let start = Instant::now();
    apply(lab, namespace.name(), spec(3)).await?;
    let seconds = until_ready(lab, namespace.name(), "bench", 3, start).await?;
    gone(lab, namespace).await?;
    Ok(seconds)
}

/// The floor: three pods of the same image that initialise and start, and do nothing else.
async fn bare(lab: &Lab) -> Result<f64> {
    let namespace = TestNamespace::new(lab, "bench").await?;
    let script = "mysqld --initialize-insecure --datadir=/data/data && exec mysqld --datadir=/data/data --socket=/tmp/s --pid-file=/tmp/p --mysqlx=OFF";
    let restricted = json!({"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}, "readOnlyRootFilesystem": true});
    let set = json!({"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "bare"}, "spec": {
        "serviceName": "bare", "replicas": 3, "podManagementPolicy": "Parallel", "selector": {"matchLabels": {"app": "bare"}},
        "template": {"metadata": {"labels": {"app": "bare"}}, "spec": {
            "automountServiceAccountToken": false, "terminationGracePeriodSeconds": 1,
            "securityContext": {"runAsNonRoot": true, "runAsUser": 999, "runAsGroup": 999, "fsGroup": 999, "seccompProfile": {"type": "RuntimeDefault"}},
            "volumes": [{"name": "tmp", "emptyDir": {}}],
            "containers": [{"name": "mysql", "image": images::MYSQL, "imagePullPolicy": "Never", "command": ["sh", "-c", script], "securityContext": restricted,
                "volumeMounts": [{"name": "data", "mountPath": "/data"}, {"name": "tmp", "mountPath": "/tmp"}],
                "readinessProbe": {"tcpSocket": {"port": 3306}, "periodSeconds": 1}}]}},
        "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "8Gi"}}}}]}});
    let start = Instant::now();
    apply(lab, namespace.name(), set).await?;
    let seconds = until_ready(lab, namespace.name(), "bare", 3, start).await?;
    gone(lab, namespace).await?;
    Ok(seconds)
}

/// Deletes the namespace and waits, so that the next run is alone.
async fn gone(lab: &Lab, namespace: TestNamespace) -> Result<()> {
    let name = namespace.name().to_owned();
    namespace.finish().await?;
    lab.kubectl(&["wait", "--for=delete", &format!("namespace/{name}"), "--timeout=120s"]).await.map(drop)
}

/// MiB copied, seconds of the clone by MySQL's own record, seconds of `cp` of the same files, RSS of sidecar and operator in MiB.
async fn clone(lab: &Lab, dirs: &Dirs) -> Result<(u64, f64, f64, f64, f64)> {
    let namespace = TestNamespace::new(lab, "bench").await?;
    let name = namespace.name().to_owned();
    apply(lab, &name, spec(1)).await?;
    until_ready(lab, &name, "bench", 1, Instant::now()).await?;
    wait_for(lab, &name, 1).await?;
    lab.sql(&name, "bench-0", "CREATE TABLE shop.t (id INT PRIMARY KEY AUTO_INCREMENT, b LONGBLOB)").await?;
    for _ in 0..MEBIBYTES / 64 {
        let rows = vec!["(RANDOM_BYTES(1024))"; 64].join(", ").replace("RANDOM_BYTES(1024)", "REPEAT(RANDOM_BYTES(1024), 1024)");
        lab.sql(&name, "bench-0", &format!("INSERT INTO shop.t (b) VALUES {rows}")).await?;
    }
    apply(lab, &name, spec(2)).await?;
    until_ready(lab, &name, "bench", 2, Instant::now()).await?;
    wait_for(lab, &name, 2).await?;
    let took = "SELECT TIMESTAMPDIFF(MICROSECOND, MIN(BEGIN_TIME), MAX(END_TIME)) FROM performance_schema.clone_progress";
    let micros: f64 = lab.sql(&name, "bench-1", took).await?.parse()?;

    let claims: Api<PersistentVolumeClaim> = Api::namespaced(lab.client().clone(), &name);
    let volume = claims.get("data-bench-1").await?.spec.and_then(|spec| spec.volume_name).context("a bound claim names its volume")?;
    let data = e2e::volumes::directory(&dirs.lab, &volume).join("data");
    let copy = dirs.lab.join("bench-copy");
    let (size, seconds) = cp(&data, &copy).await?;

    let sidecar = rss(lab, &name, "bench-0", "sidecar").await?;
    let pods = lab
        .kubectl(&["get", "pods", "-n", SYSTEM, "-l", "app.kubernetes.io/name=understudy", "-o", "jsonpath={.items[0].metadata.name}"])
        .await?;
    let operator = rss(lab, SYSTEM, pods.trim(), "operator").await?;
    gone(lab, namespace).await?;
    Ok((size, micros / 1e6, seconds, sidecar, operator))
}

async fn cp(from: &Path, to: &Path) -> Result<(u64, f64)> {
    let du = e2e::run::output(e2e::run::command("du").arg("-sm").arg(from)).await?;
    let size = du.split_whitespace().next().and_then(|mib| mib.parse().ok()).context("du prints a size")?;
    let start = Instant::now();
    // Durable on both sides: a clone syncs what it wrote.
    e2e::run::output(e2e::run::command("cp").arg("-r").arg(from).arg(to)).await?;
    e2e::run::output(e2e::run::command("sync").arg("-f").arg(to)).await?;
    let seconds = start.elapsed().as_secs_f64();
    tokio::fs::remove_dir_all(to).await?;
    Ok((size, seconds))
}

async fn wait_for(lab: &Lab, namespace: &str, replicas: usize) -> Result<()> {
    let clusters: Api<MySQLCluster> = Api::namespaced(lab.client().clone(), namespace);
    let end = Instant::now() + PATIENCE;
    loop {
        let status = clusters.get("bench").await?.status.unwrap_or_default();
        if status.state == "Healthy" && status.members.iter().filter(|member| member.ready).count() == replicas {
            return Ok(());
        }
        ensure!(Instant::now() < end, "not healthy: {}", status.reason);
        sleep(Duration::from_millis(100)).await;
    }
}

/// Resident memory of the one process of a pod whose program is `name`, in MiB.
async fn rss(lab: &Lab, namespace: &str, pod: &str, name: &str) -> Result<f64> {
    for process in lab.processes(namespace, pod).await? {
        if process.argv().first().is_some_and(|program| program.ends_with(name)) {
            let status = tokio::fs::read_to_string(format!("/proc/{}/status", process.pid)).await?;
            let kib = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.split_whitespace().next()?.parse::<f64>().ok());
            return kib.map(|kib| kib / 1024.0).context("no VmRSS");
        }
    }
    bail!("no process {name} in {pod}")
}

/// Milliseconds from exec to the operator's first decision, beside the exec of the same program that prints its version.
async fn cold_start(lab: &Lab, dirs: &Dirs) -> Result<(f64, f64)> {
    let namespace = TestNamespace::new(lab, "bench").await?;
    apply(lab, namespace.name(), spec(1)).await?;
    until_ready(lab, namespace.name(), "bench", 1, Instant::now()).await?;
    let program: PathBuf = dirs.cache.join("target-static/x86_64-unknown-linux-gnu/release/operator");
    let (mut starts, mut execs) = (Vec::new(), Vec::new());
    for _ in 0..RUNS {
        let start = Instant::now();
        e2e::run::output(e2e::run::command(&program).arg("--version")).await?;
        execs.push(start.elapsed().as_secs_f64() * 1e3);
        let start = Instant::now();
        let mut command = tokio::process::Command::new(&program);
        let flags = [
            "run",
            "--sidecar-image",
            images::UNDERSTUDY,
            "--namespace",
            namespace.name(),
            "--health-address",
            "127.0.0.1:0",
            "--log",
            "operator=debug",
        ];
        command.args(flags).env("KUBECONFIG", dirs.kubeconfig()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut operator = command.spawn()?;
        let (out, error) = (operator.stdout.take().context("piped")?, operator.stderr.take().context("piped")?);
        let (mut out, mut error) = (BufReader::new(out).lines(), BufReader::new(error).lines());
        let decided = async {
            loop {
                let line = tokio::select! { line = out.next_line() => line?, line = error.next_line() => line? };
                match line {
                    Some(line) if line.contains("decided") => return Ok(()),
                    Some(_) => {}
                    None => bail!("the operator ended before it decided anything"),
                }
            }
        };
        timeout(Duration::from_secs(20), decided).await.context("no decision in 20 s")??;
        starts.push(start.elapsed().as_secs_f64() * 1e3);
        operator.kill().await?;
    }
    gone(lab, namespace).await?;
    Ok((median(&mut starts), median(&mut execs)))
}

/// Size of the layers as a registry would hold them, in MB.
async fn compressed(archive: &Path) -> Result<f64> {
    let path = archive.display().to_string();
    let bytes = e2e::run::output(e2e::run::command("sh").args(["-c", "gzip -6 -c \"$0\" | wc -c", &path])).await?;
    Ok(bytes.trim().parse::<f64>()? / 1e6)
}
