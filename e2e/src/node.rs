//! One node: its containerd, its pods' subnet, its kubelet.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::binaries::kube_path;
use crate::dirs::{Dirs, write_config};
use crate::network::{DNS, HOST, node_address, node_bridge};
use crate::pki::Pki;
use crate::process::Component;
use crate::run;

/// Of the CPU; a process of the host has 1024.
const POD_SHARES: &str = "4096";
const START_DEADLINE: Duration = Duration::from_secs(30);

/// A node of the lab; the first has index 1.
#[derive(Clone, Debug)]
pub struct Node {
    dirs: Dirs,
    /// Its number.
    pub index: usize,
}

impl Node {
    /// Node `index` of the lab in `dirs`.
    pub fn new(dirs: &Dirs, index: usize) -> Self {
        Self { dirs: dirs.clone(), index }
    }

    /// The nodes that the lab has now.
    pub fn all(dirs: &Dirs) -> Vec<Self> {
        (1..).map(|index| Self::new(dirs, index)).take_while(|node| node.dir().exists()).collect()
    }

    /// Its name in Kubernetes.
    pub fn name(&self) -> String {
        format!("node{}", self.index)
    }

    /// Addresses of its pods.
    pub fn pod_subnet(&self) -> String {
        format!("10.244.{}.0/24", self.index)
    }

    /// Its state on disk.
    pub fn dir(&self) -> PathBuf {
        self.dirs.lab.join(self.name())
    }

    /// Its kubelet, by component name.
    pub fn kubelet_name(&self) -> String {
        format!("kubelet{}", self.index)
    }

    /// Its containerd, by component name.
    pub fn containerd_name(&self) -> String {
        format!("containerd{}", self.index)
    }

    /// `ctr` against its containerd, in the namespace of the kubelet's containers.
    pub fn ctr(&self) -> tokio::process::Command {
        let mut command = run::command("ctr");
        command.arg("-a").arg(self.socket()).args(["-n", "k8s.io"]);
        command
    }

    /// Starts containerd, and waits until it answers: a kubelet that finds none ends.
    pub async fn start_containerd(&self) -> Result<()> {
        let dir = self.dir();
        fs::create_dir_all(dir.join("cni"))?;
        fs::write(dir.join("cni/10-lab.conflist"), self.cni())?;
        let config = write_config(&dir, "containerd", "toml", &self.containerd_config())?;
        let program = PathBuf::from("containerd");
        Component::new(self.containerd_name(), &program, ["--config".into(), config]).ensure(&self.dirs).await?;
        run::wait(&format!("containerd of {}", self.name()), START_DEADLINE, async || {
            run::output(self.ctr().arg("version")).await.map(|_| Some(()))
        })
        .await
    }

    /// Starts the kubelet.
    pub async fn start_kubelet(&self, pki: &Pki) -> Result<()> {
        let (dir, name, address) = (self.dir(), self.name(), node_address(self.index));
        pki.issue(&name, &format!("system:node:{name}"), Some("system:nodes"), &[&name, &address])?;
        let kubeconfig = dir.join("kubeconfig");
        pki.kubeconfig(&name, &format!("https://{HOST}:6443"), &kubeconfig)?;
        let config = write_config(&dir, "kubelet", "json", &self.kubelet_config(pki))?;
        // Not the host's: its search domains are no business of the lab.
        fs::write(dir.join("resolv.conf"), "")?;
        let arguments = [
            "kubelet".into(),
            format!("--config={config}"),
            format!("--kubeconfig={}", kubeconfig.display()),
            format!("--hostname-override={name}"),
            format!("--node-ip={address}"),
            format!("--node-labels=topology.kubernetes.io/zone=zone{}", self.index),
            format!("--root-dir={}", dir.join("kubelet").display()),
            format!("--cert-dir={}", dir.join("kubelet/pki").display()),
        ];
        Component::new(self.kubelet_name(), &kube_path(&self.dirs), arguments).ensure(&self.dirs).await
    }

    fn socket(&self) -> PathBuf {
        self.dir().join("containerd.sock")
    }

    /// ipMasq stays off: masquerading between the nodes' bridges would hide pods' addresses from each other.
    fn cni(&self) -> String {
        let (index, dir) = (self.index, self.dir());
        serde_json::json!({
            "cniVersion": "1.0.0",
            "name": format!("lab{index}"),
            "plugins": [
                {
                    "type": "bridge", "bridge": node_bridge(index), "isGateway": true, "hairpinMode": true,
                    "ipam": {
                        "type": "host-local",
                        "dataDir": dir.join("ipam"),
                        "ranges": [[{"subnet": self.pod_subnet()}]],
                        "routes": [{"dst": "0.0.0.0/0"}],
                    },
                },
                {"type": "portmap", "capabilities": {"portMappings": true}},
            ],
        })
        .to_string()
    }

    /// restrict_oom_score_adj: without CAP_SYS_RESOURCE nobody may lower oom_score_adj, and every sandbox would fail.
    fn containerd_config(&self) -> String {
        let dir = self.dir();
        let dir = dir.display();
        format!(
            r#"version = 2
root = "{dir}/containerd"
state = "{dir}/run"
[grpc]
address = "{dir}/containerd.sock"
[plugins."io.containerd.internal.v1.opt"]
path = "{dir}/opt"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "localhost/pause:1"
restrict_oom_score_adj = true
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "/usr/lib/cni"
conf_dir = "{dir}/cni"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
"#
        )
    }

    /// Several kubelets share one tree of control groups: no QoS hierarchy, no node allocatable; limits of containers do work.
    fn kubelet_config(&self, pki: &Pki) -> String {
        let (name, dir) = (self.name(), self.dir());
        serde_json::json!({
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "address": node_address(self.index),
            "healthzPort": 10350 + self.index,
            "readOnlyPort": 0,
            "authentication": {"anonymous": {"enabled": false}, "webhook": {"enabled": true}, "x509": {"clientCAFile": pki.cert("ca")}},
            "authorization": {"mode": "Webhook"},
            "tlsCertFile": pki.cert(&name),
            "tlsPrivateKeyFile": pki.key(&name),
            "containerRuntimeEndpoint": format!("unix://{}", self.socket().display()),
            "cgroupDriver": "cgroupfs",
            "cgroupsPerQOS": false,
            "enforceNodeAllocatable": [],
            "failCgroupV1": false,
            "failSwapOn": false,
            "oomScoreAdj": 0,
            "clusterDNS": [DNS],
            "clusterDomain": "cluster.local",
            "resolvConf": dir.join("resolv.conf"),
            "podLogsDir": dir.join("podlogs"),
            "imageGCHighThresholdPercent": 100,
            "evictionHard": {"memory.available": "100Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
            "serializeImagePulls": false,
            // A changed Secret reaches its volume with the next look at the pod: not after a minute, for which tests would wait.
            "syncFrequency": "10s",
            // Tests kill the same container again and again: a back-off of minutes would be all that they wait for.
            "crashLoopBackOff": {"maxContainerRestartPeriod": "2s"},
        })
        .to_string()
    }
}

/// Removes what containerd, the CNI plugins and kubelets of the lab leave outside its directory.
pub fn remove_traces(dirs: &Dirs) -> Result<()> {
    let entries = |dir: &str| fs::read_dir(dir).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path()));
    for result in entries("/var/lib/cni/results") {
        if result.file_name().is_some_and(|name| name.to_string_lossy().starts_with("lab")) {
            fs::remove_file(result)?;
        }
    }
    for link in entries("/var/log/containers") {
        if fs::read_link(&link).is_ok_and(|target| target.starts_with(&dirs.lab)) {
            fs::remove_file(link)?;
        }
    }
    // Sockets of killed shims: nobody answers on them.
    for socket in entries("/run/containerd/s") {
        if std::os::unix::net::UnixStream::connect(&socket).is_err() {
            fs::remove_file(socket)?;
        }
    }
    // A directory that no option moves.
    for file in ["kubelet.sock", "kubelet_internal_checkpoint", "DEPRECATION"] {
        let _ = fs::remove_file(std::path::Path::new("/var/lib/kubelet/device-plugins").join(file));
    }
    // containerd's namespace in every hierarchy of version 1, or in the one of version 2.
    for parent in entries("/sys/fs/cgroup").chain([PathBuf::from("/sys/fs/cgroup")]) {
        remove_empty(&parent.join("k8s.io"));
    }
    for dir in ["/run/containerd/runc", "/run/containerd", "/var/lib/cni", "/var/lib/kubelet", "/var/log/containers"] {
        remove_empty(std::path::Path::new(dir));
    }
    Ok(())
}

/// Gives all pods together the weight of many processes. In the first version of cgroups every process of the host weighs as much as the one
/// group that holds all pods, so that a single compiler beside it leaves them next to nothing.
pub fn weigh_pods() -> Result<()> {
    let group = PathBuf::from("/sys/fs/cgroup/cpu/k8s.io");
    if group.parent().is_some_and(|cpu| cpu.join("cpu.shares").exists()) {
        fs::create_dir_all(&group)?;
        fs::write(group.join("cpu.shares"), POD_SHARES).context("the weight of the pods")?;
    }
    Ok(())
}

/// Removes a tree of directories as far as they are empty: others may use the rest.
fn remove_empty(dir: &std::path::Path) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_empty(&entry.path());
        }
    }
    let _ = fs::remove_dir(dir);
}
