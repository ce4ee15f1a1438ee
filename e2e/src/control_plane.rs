//! A control plane for one test: etcd and kube-apiserver on free ports of this machine, ready in seconds, no root needed. Nothing runs
//! pods here; objects, admission, RBAC, CEL rules, conflicts and watches are the real ones.

use std::fs::{self, File};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use kube::api::PostParams;
use kube::{Api, Client};

use crate::binaries;
use crate::cluster::{AUDIT_POLICY, api_ready, api_server_flags};
use crate::dirs::Dirs;
use crate::pki::Pki;
use crate::run::last_lines;
use crate::ui::Ui;

const HOST: &str = "127.0.0.1";
/// Runs the command until standard input closes: the kernel closes it when the test process ends, however it ends. Ctrl-C reaches the
/// whole process group, so the leash ignores it and outlives the test.
const LEASH: &str = r#"trap '' INT TERM HUP; "$@" & read -r _; kill -9 $!"#;

/// A running control plane; dropping it kills it and removes its files.
pub struct ControlPlane {
    client: Client,
    dir: PathBuf,
    // Killed before `dir` is removed.
    processes: Vec<Child>,
}

impl ControlPlane {
    /// Starts one and waits until it is ready. The first ever builds Kubernetes, which takes minutes.
    pub async fn start() -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let kube = binaries::kube(&Dirs::from_env()?, &Ui::default()).await?;
        let dir =
            std::env::temp_dir().join(format!("understudy-control-plane-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed)));
        fs::create_dir_all(&dir)?;
        let [etcd_port, peer_port, api_port] = free_ports()?;
        let (etcd, peer) = (format!("http://{HOST}:{etcd_port}"), format!("http://{HOST}:{peer_port}"));
        let pki = Pki::open(&dir.join("pki"))?;
        pki.issue("apiserver", "kube-apiserver", None, &["localhost", HOST])?;
        pki.issue("admin", "lab-admin", Some("system:masters"), &[])?;
        let kubeconfig = dir.join("admin.kubeconfig");
        pki.kubeconfig("admin", &format!("https://{HOST}:{api_port}"), &kubeconfig)?;
        let policy = dir.join("audit-policy.json");
        fs::write(&policy, AUDIT_POLICY)?;

        let etcd_arguments = [
            "etcd".into(),
            format!("--data-dir={}", dir.join("etcd").display()),
            format!("--listen-client-urls={etcd}"),
            format!("--advertise-client-urls={etcd}"),
            format!("--listen-peer-urls={peer}"),
            format!("--initial-advertise-peer-urls={peer}"),
            format!("--initial-cluster=default={peer}"),
            "--unsafe-no-fsync".into(),
        ];
        let mut api_arguments = api_server_flags(&pki, &etcd, HOST, api_port);
        api_arguments.push(format!("--audit-policy-file={}", policy.display()));
        api_arguments.push(format!("--audit-log-path={}", dir.join("audit.log").display()));
        let processes =
            vec![spawn(&kube, &etcd_arguments, &dir.join("etcd.log"))?, spawn(&kube, &api_arguments, &dir.join("apiserver.log"))?];
        match api_ready(&kubeconfig).await {
            Ok(client) => Ok(Self { client, dir, processes }),
            Err(error) => {
                let log = fs::read_to_string(dir.join("apiserver.log")).unwrap_or_default();
                end(processes, &dir);
                Err(error.context(last_lines(&log, 10)))
            }
        }
    }

    /// A client with all rights.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// The administrator's kubeconfig, for kubectl or helm.
    pub fn kubeconfig(&self) -> PathBuf {
        self.dir.join("admin.kubeconfig")
    }

    /// Every write so far, one JSON object a line.
    pub fn audit_log(&self) -> PathBuf {
        self.dir.join("audit.log")
    }

    /// A new namespace with the ServiceAccount that admission asks of pods; no controller makes it here.
    pub async fn namespace(&self, name: &str) -> Result<()> {
        let namespace = serde_json::from_value::<Namespace>(serde_json::json!({"metadata": {"name": name}}))?;
        Api::all(self.client.clone()).create(&PostParams::default(), &namespace).await?;
        let account = serde_json::from_value::<ServiceAccount>(serde_json::json!({"metadata": {"name": "default"}}))?;
        Api::namespaced(self.client.clone(), name).create(&PostParams::default(), &account).await?;
        Ok(())
    }
}

impl Drop for ControlPlane {
    fn drop(&mut self) {
        end(std::mem::take(&mut self.processes), &self.dir);
    }
}

fn end(processes: Vec<Child>, dir: &Path) {
    for mut process in processes {
        // The leash kills its command and ends.
        drop(process.stdin.take());
        let _ = process.wait();
    }
    // In the temporary directory, where a leftover harms nobody.
    let _ = fs::remove_dir_all(dir);
}

fn spawn(program: &Path, arguments: &[String], log: &Path) -> Result<Child> {
    let log = File::create(log)?;
    Command::new("sh")
        .args(["-c", LEASH, "leash"])
        .arg(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .with_context(|| format!("cannot run {}", program.display()))
}

/// Ports that nobody listens on now. All are held until all are chosen, so that they differ.
fn free_ports() -> Result<[u16; 3]> {
    let held = [TcpListener::bind((HOST, 0))?, TcpListener::bind((HOST, 0))?, TcpListener::bind((HOST, 0))?];
    Ok([held[0].local_addr()?.port(), held[1].local_addr()?.port(), held[2].local_addr()?.port()])
}
