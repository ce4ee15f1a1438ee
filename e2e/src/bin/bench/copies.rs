//! A clone, beside `cp` of the same files; the memory of sidecar and operator after it.

use std::path::Path;

use anyhow::{Context, Result};
use e2e::dirs::Dirs;
use e2e::engine::{Cluster, MySql};
use e2e::ui::Ui;
use e2e::{Lab, TestNamespace};
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use kube::Api;
use tokio::time::Instant;

use crate::stage::{NAME, SYSTEM, apply, gone, operator, process, spec, until_ready, wait_for};
use crate::table::{figure, row};

/// Rows of 1 MiB in the data set to clone.
const MEBIBYTES: usize = 2048;

pub async fn measure(lab: &Lab, dirs: &Dirs, ui: &Ui) -> Result<()> {
    let (size, clone, cp, sidecar, operator) =
        ui.step(&format!("clone {MEBIBYTES} MiB, and cp of the same files"), copied(lab, dirs)).await?;
    println!("{:<52} {size:>12}", "data directory, MiB");
    row("clone of that, against cp, s", clone, cp, "ratio <= 1.25");
    figure("sidecar RSS, MiB", sidecar, "<= 10");
    figure("operator RSS with 1 cluster, MiB", operator, "<= 20");
    Ok(())
}

/// MiB copied, seconds of the clone by MySQL's own record, seconds of `cp` of the same files, RSS of sidecar and operator in MiB.
async fn copied(lab: &Lab, dirs: &Dirs) -> Result<(u64, f64, f64, f64, f64)> {
    let namespace = TestNamespace::new(lab, "bench").await?;
    let name = namespace.name().to_owned();
    let cluster = Cluster::<MySql>::new(lab, &name, NAME);
    apply(lab, &name, spec(1)).await?;
    until_ready(lab, &name, "bench", 1, Instant::now()).await?;
    wait_for(&cluster, 1).await?;
    lab.sql(&name, "bench-0", "CREATE TABLE shop.t (id INT PRIMARY KEY AUTO_INCREMENT, b LONGBLOB)").await?;
    for _ in 0..MEBIBYTES / 64 {
        let rows = vec!["(RANDOM_BYTES(1024))"; 64].join(", ").replace("RANDOM_BYTES(1024)", "REPEAT(RANDOM_BYTES(1024), 1024)");
        lab.sql(&name, "bench-0", &format!("INSERT INTO shop.t (b) VALUES {rows}")).await?;
    }
    apply(lab, &name, spec(2)).await?;
    until_ready(lab, &name, "bench", 2, Instant::now()).await?;
    wait_for(&cluster, 2).await?;
    let took = "SELECT TIMESTAMPDIFF(MICROSECOND, MIN(BEGIN_TIME), MAX(END_TIME)) FROM performance_schema.clone_progress";
    let micros: f64 = lab.sql(&name, "bench-1", took).await?.parse()?;

    let claims: Api<PersistentVolumeClaim> = Api::namespaced(lab.client().clone(), &name);
    let volume = claims.get("data-bench-1").await?.spec.and_then(|spec| spec.volume_name).context("a bound claim names its volume")?;
    let data = e2e::volumes::directory(&dirs.lab, &volume).join("data");
    let copy = dirs.lab.join("bench-copy");
    let (size, seconds) = cp(&data, &copy).await?;

    let sidecar = rss(lab, &name, "bench-0", "sidecar").await?;
    let operator = rss(lab, SYSTEM, &operator(lab).await?, "operator").await?;
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

/// Resident memory of the one process of a pod whose program is `name`, in MiB.
pub async fn rss(lab: &Lab, namespace: &str, pod: &str, name: &str) -> Result<f64> {
    let process = process(lab, namespace, pod, name).await?;
    let status = tokio::fs::read_to_string(format!("/proc/{}/status", process.pid)).await?;
    let kib = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.split_whitespace().next()?.parse::<f64>().ok());
    kib.map(|kib| kib / 1024.0).context("no VmRSS")
}
