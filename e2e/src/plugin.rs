//! The kubectl plugin as a user runs it: a program of its own, with its exit code.

use std::path::{Path, PathBuf};
use std::process::Output;

use anyhow::{Context, Result, ensure};
use tokio::sync::OnceCell;

use crate::binaries::kube_path;
use crate::dirs::Dirs;
use crate::run;

/// Name of the program.
const NAME: &str = "kubectl-understudy";

/// The plugin at one Kubernetes.
pub struct Plugin {
    program: PathBuf,
    path: String,
    kubeconfig: PathBuf,
    namespace: String,
}

impl Plugin {
    /// Builds it if need be: a test of another package does not.
    pub async fn new(kubeconfig: &Path, namespace: &str) -> Result<Self> {
        static BUILT: OnceCell<(PathBuf, String)> = OnceCell::const_new();
        let (program, path) = BUILT.get_or_try_init(|| async { anyhow::Ok((build().await?, path_with_kubectl()?)) }).await?.clone();
        Ok(Self { program, path, kubeconfig: kubeconfig.to_owned(), namespace: namespace.to_owned() })
    }

    /// Runs it to its end, with nobody at a terminal.
    pub async fn run(&self, arguments: &[&str]) -> Result<Output> {
        let mut command = run::command(&self.program);
        command.args(["--namespace", &self.namespace]).args(arguments);
        command.env("KUBECONFIG", &self.kubeconfig).env("PATH", &self.path);
        command.output().await.with_context(|| format!("cannot run {}", self.program.display()))
    }

    /// What it prints when all goes well.
    pub async fn says(&self, arguments: &[&str]) -> Result<String> {
        let output = self.run(arguments).await?;
        let (said, complained) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        ensure!(output.status.success(), "{arguments:?}: {}\n{said}{complained}", output.status);
        Ok(said.into_owned())
    }

    /// What it complains about when it refuses.
    pub async fn refuses(&self, arguments: &[&str]) -> Result<String> {
        let output = self.run(arguments).await?;
        ensure!(!output.status.success(), "{arguments:?} did not fail: {}", String::from_utf8_lossy(&output.stdout));
        Ok(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

async fn build() -> Result<PathBuf> {
    let checkout = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("e2e is in the checkout")?;
    run::output(run::command(env!("CARGO")).current_dir(checkout).args(["build", "--locked", "--quiet", "--bin", NAME])).await?;
    // target/debug/deps/TEST → target/debug
    let test = std::env::current_exe()?;
    let program = test.parent().and_then(Path::parent).context("a test is in target/debug/deps")?.join(NAME);
    ensure!(program.exists(), "{} was not built", program.display());
    Ok(program)
}

/// The lab's kubectl is part of another program; the plugin runs it by its name.
fn path_with_kubectl() -> Result<String> {
    let dirs = Dirs::from_env()?;
    let dir = dirs.cache.join("kubectl");
    std::fs::create_dir_all(&dir)?;
    let script = dir.join("kubectl");
    let mine = dir.join(format!("kubectl.{}", std::process::id()));
    std::fs::write(&mine, format!("#!/bin/sh\nexec '{}' kubectl \"$@\"\n", kube_path(&dirs).display()))?;
    std::fs::set_permissions(&mine, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    // At once: another test may be running it.
    std::fs::rename(&mine, &script)?;
    Ok(format!("{}:{}", dir.display(), std::env::var("PATH").unwrap_or_default()))
}
