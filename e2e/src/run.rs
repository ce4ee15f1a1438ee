//! Commands and waits: errors carry what the command said, and every wait has a deadline.

use std::ffi::OsStr;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use tokio::time::{Instant, sleep};

/// How often a wait looks again.
const POLL: Duration = Duration::from_millis(100);

/// A command whose child dies with the future that waits for it.
pub fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    command.kill_on_drop(true).stdin(Stdio::null());
    command
}

/// Runs to the end and returns what was written to stdout; an unsuccessful end is an error that quotes stderr.
pub async fn output(command: &mut Command) -> Result<String> {
    let shown = format!("{:?}", command.as_std());
    let result = command.stdout(Stdio::piped()).stderr(Stdio::piped()).output().await.with_context(|| format!("cannot run {shown}"))?;
    if !result.status.success() {
        let tail = last_lines(&String::from_utf8_lossy(&result.stderr), 20);
        bail!("{shown}: {}\n{tail}", result.status);
    }
    Ok(String::from_utf8_lossy(&result.stdout).into_owned())
}

/// Like [`output`], with `input` on stdin.
pub async fn output_with_input(command: &mut Command, input: &str) -> Result<String> {
    let shown = format!("{:?}", command.as_std());
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run {shown}"))?;
    let mut stdin = child.stdin.take().context("stdin was piped")?;
    let write = async move {
        stdin.write_all(input.as_bytes()).await?;
        stdin.shutdown().await
    };
    let (_, result) = tokio::join!(write, child.wait_with_output());
    let result = result.with_context(|| format!("cannot run {shown}"))?;
    if !result.status.success() {
        bail!("{shown}: {}\n{}", result.status, last_lines(&String::from_utf8_lossy(&result.stderr), 20));
    }
    Ok(String::from_utf8_lossy(&result.stdout).into_owned())
}

/// Polls until `check` yields a value; at the deadline the error says what was waited for and why it was refused last.
pub async fn wait<T>(what: &str, deadline: Duration, mut check: impl AsyncFnMut() -> Result<Option<T>>) -> Result<T> {
    let end = Instant::now() + deadline;
    loop {
        let refused = match check().await {
            Ok(Some(value)) => return Ok(value),
            Ok(None) => None,
            Err(error) => Some(error),
        };
        if Instant::now() >= end {
            let waited = format!("waited {}s for {what}", deadline.as_secs());
            return Err(match refused {
                Some(error) => error.context(waited),
                None => anyhow::anyhow!(waited),
            });
        }
        sleep(POLL).await;
    }
}

/// The end of a text, for errors.
pub fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<_> = text.trim_end().lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}
