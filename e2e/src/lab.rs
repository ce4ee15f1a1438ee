//! A handle to the running lab, for tests and for the `lab` program.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use tokio::process::Command;

use crate::binaries::{helm_path, kube_path};
use crate::dirs::Dirs;
use crate::node::Node;
use crate::run;

/// The lab that `lab up` started.
#[derive(Clone)]
pub struct Lab {
    dirs: Dirs,
    client: Client,
}

impl Lab {
    /// Finds the running lab; the error says how to start one.
    pub async fn attach() -> Result<Self> {
        Self::attach_in(&Dirs::from_env()?).await
    }

    /// The lab with its state in `dirs`.
    pub async fn attach_in(dirs: &Dirs) -> Result<Self> {
        ensure!(dirs.kubeconfig().exists(), "no lab in {}: start it as root with `cargo run -p e2e --bin lab -- up`", dirs.lab.display());
        let client = client(&dirs.kubeconfig()).await?;
        client.apiserver_version().await.context("the lab's API server does not answer: `lab status` says more, `lab up` continues")?;
        Ok(Self { dirs: dirs.clone(), client })
    }

    /// A client with all rights.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// The administrator's kubeconfig.
    pub fn kubeconfig(&self) -> PathBuf {
        self.dirs.kubeconfig()
    }

    /// Where the lab lies.
    pub fn dirs(&self) -> &Dirs {
        &self.dirs
    }

    /// The node with this name.
    pub fn node(&self, name: &str) -> Result<Node> {
        Node::all(&self.dirs).into_iter().find(|node| node.name() == name).with_context(|| format!("the lab has no node {name}"))
    }

    /// Runs kubectl and returns what it wrote.
    pub async fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        run::output(kubectl_command(&self.dirs).args(arguments)).await
    }

    /// Applies manifests, JSON or YAML.
    pub async fn kubectl_apply(&self, manifests: &str) -> Result<String> {
        run::output_with_input(kubectl_command(&self.dirs).args(["apply", "-f", "-"]), manifests).await
    }

    /// Runs a command in a container and returns what it wrote.
    pub async fn exec(&self, namespace: &str, pod: &str, container: &str, command: &[&str]) -> Result<String> {
        self.kubectl(&[&["exec", "-n", namespace, pod, "-c", container, "--"], command].concat()).await
    }

    /// Runs SQL on a member as its local administrator, inside the pod; returns rows as tab-separated lines.
    pub async fn sql(&self, namespace: &str, pod: &str, statement: &str) -> Result<String> {
        let script = "MYSQL_PWD=$(cat /var/lib/mysql/.understudy/local-password) exec mysql -S /understudy/run/mysqld.sock -u understudy -NBe \"$0\"";
        let arguments = ["exec", "-n", namespace, pod, "-c", "mysql", "--", "sh", "-c", script, statement];
        Ok(self.kubectl(&arguments).await?.trim().to_owned())
    }

    /// Runs helm and returns what it wrote.
    pub async fn helm(&self, arguments: &[&str]) -> Result<String> {
        run::output(helm_command(&self.dirs).args(arguments)).await
    }
}

/// kubectl as the lab's administrator.
pub fn kubectl_command(dirs: &Dirs) -> Command {
    let mut command = run::command(kube_path(dirs));
    command.arg("kubectl").env("KUBECONFIG", dirs.kubeconfig());
    command
}

/// helm as the lab's administrator.
pub fn helm_command(dirs: &Dirs) -> Command {
    let mut command = run::command(helm_path(dirs));
    command.env("KUBECONFIG", dirs.kubeconfig());
    command
}

/// A client from a kubeconfig file, which must be the lab's own: no other cluster is touched by accident.
pub(crate) async fn client(kubeconfig: &Path) -> Result<Client> {
    let mut config = Config::from_custom_kubeconfig(Kubeconfig::read_from(kubeconfig)?, &KubeConfigOptions::default()).await?;
    // A test wants the first answer: an eviction that is refused is no reason to try it again.
    config.default_retry = false;
    Ok(Client::try_from(config)?)
}
