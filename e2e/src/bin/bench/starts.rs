//! The operator's cold start, beside the exec of the same program; the size of the image.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use e2e::dirs::Dirs;
use e2e::ui::Ui;
use e2e::{Lab, TestNamespace, images};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::time::{Instant, timeout};

use crate::stage::{apply, gone, spec, until_ready};
use crate::table::{figure, median, row};

const RUNS: usize = 3;

pub async fn measure(lab: &Lab, dirs: &Dirs, ui: &Ui) -> Result<()> {
    let (start, exec) = ui.step("cold starts of the operator", cold_start(lab, dirs)).await?;
    row("operator cold start to first decision, ms", start, exec, "<= 500");
    let image = images::ours(dirs, ui).await?.into_iter().find(|image| image.names[0] == images::UNDERSTUDY).context("no image of ours")?;
    figure("image of operator and sidecar, compressed, MB", compressed(&image.archive).await?, "<= 20");
    Ok(())
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
