//! What the machine must bring: root, and a few Debian packages that are installed when they are missing.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use crate::run;
use crate::ui::Ui;

/// A file that proves a package, the package, and what the lab does with it.
const NEEDED: &[(&str, &str, &str)] = &[
    ("usr/bin/containerd", "containerd", "runs the containers of each node"),
    ("usr/sbin/runc", "runc", "starts one container"),
    ("usr/lib/cni/bridge", "containernetworking-plugins", "gives pods their addresses"),
    ("usr/sbin/iptables", "iptables", "Services, and network faults in tests"),
    ("usr/sbin/conntrack", "conntrack", "kube-proxy forgets dead endpoints"),
    ("usr/bin/ip", "iproute2", "bridges and routes"),
    ("usr/bin/mount", "mount", "volumes"),
    ("usr/bin/mmdebstrap", "mmdebstrap", "unpacks the databases' Debian packages into images"),
    ("usr/bin/buildah", "buildah", "builds images without a daemon"),
];

/// Debian's own: another one in the path may be anything.
pub const PYTHON: &str = "/usr/bin/python3";
/// Debian's own, or any other that is not older.
pub const NODE: &str = "node";
/// Ends well with the Node of Debian 12 and newer ones.
const NEW_ENOUGH: &str = "process.exit(parseInt(process.versions.node) < 18 ? 1 : 0)";

/// Is this process root?
pub fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|proc| proc.uid() == 0)
}

/// Refuses to go on without root, and says what root is for.
pub fn require_root() -> Result<()> {
    ensure!(
        is_root(),
        "the lab needs root: it makes network bridges, namespaces and iptables rules, mounts file systems and starts containers.\n\
         Run it with sudo, in a virtual machine if you prefer. `lab down` removes everything again."
    );
    Ok(())
}

/// Installs the packages that are missing.
pub async fn install_packages(ui: &Ui) -> Result<()> {
    let missing: Vec<_> = NEEDED.iter().filter(|(file, ..)| !present(file)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    install(ui, &missing.into_iter().map(|(_, package, purpose)| (*package, *purpose)).collect::<Vec<_>>()).await
}

/// Installs Debian's Python if it is missing, or without what makes environments.
pub async fn install_python(ui: &Ui) -> Result<()> {
    // Debian keeps `ensurepip` in a package of its own, named by the version.
    if run::output(run::command(PYTHON).args(["-c", "import ensurepip, venv"])).await.is_ok() {
        return Ok(());
    }
    install(ui, &[("python3-venv", "runs redis-py in tests")]).await
}

/// Installs Debian's Node and npm if there are none, or too old ones.
pub async fn install_node(ui: &Ui) -> Result<()> {
    let usable = async || {
        run::output(run::command(NODE).args(["-e", NEW_ENOUGH])).await?;
        run::output(run::command("npm").arg("--version")).await
    };
    if usable().await.is_ok() {
        return Ok(());
    }
    install(ui, &[("nodejs", "runs ioredis in tests"), ("npm", "installs ioredis")]).await?;
    usable().await.context("another `node` or `npm` comes first in the path").map(drop)
}

async fn install(ui: &Ui, packages: &[(&str, &str)]) -> Result<()> {
    ui.say("Installing Debian packages (as root, with apt-get):");
    for (package, purpose) in packages {
        ui.say(&format!("  {package}: {purpose}"));
    }
    let apt = || {
        let mut command = run::command("apt-get");
        command.env("DEBIAN_FRONTEND", "noninteractive");
        command
    };
    ui.step("apt-get install", async {
        // A third-party source that does not answer is not our concern: the install tells whether Debian's did.
        if let Err(error) = run::output(apt().arg("update")).await {
            ui.say(&format!("apt-get update: {error:#}"));
        }
        run::output(apt().args(["install", "-y", "--no-install-recommends"]).args(packages.iter().map(|(package, _)| package))).await
    })
    .await
    .context("the lab runs on Debian 12 or newer; on another system install these packages by hand")?;
    Ok(())
}

/// Debian may have merged /usr or not yet; both places count.
fn present(file: &str) -> bool {
    let (_, name) = file.rsplit_once('/').unwrap_or(("", file));
    ["/", "/usr/local/"].iter().any(|root| Path::new(root).join(file).exists())
        || ["/sbin", "/bin", "/usr/bin", "/usr/sbin", "/opt/cni/bin"].iter().any(|dir| Path::new(dir).join(name).exists())
}
