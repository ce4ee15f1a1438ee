//! The lab as a whole: `up` makes it or continues what was interrupted, `down` removes every trace.

use std::fs::{self, File};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use futures::future::try_join_all;
use k8s_openapi::api::core::v1::{Node as KubeNode, ServiceAccount};
use kube::{Api, Client};

use crate::binaries::{self, kube_path};
use crate::dirs::{Dirs, write_config};
use crate::lab::Lab;
use crate::network::{self, DNS, HOST, PODS, SERVICES};
use crate::node::Node;
use crate::pki::Pki;
use crate::process::{Component, Process, kill_all};
use crate::ui::Ui;
use crate::{host, images, node, run};

/// A control plane of which something is broken is seen within this time.
const START_DEADLINE: Duration = Duration::from_secs(90);
/// The API server's only etcd; unusual ports, so that another etcd may run.
const ETCD: [&str; 2] = ["http://127.0.0.1:12379", "http://127.0.0.1:12380"];
const LOCK: &str = "/run/lock/understudy-lab";
/// Reads are not recorded: tests count writes, and reads would fill the disk.
pub(crate) const AUDIT_POLICY: &str = r#"{"apiVersion":"audit.k8s.io/v1","kind":"Policy","omitStages":["RequestReceived"],"rules":[
{"level":"None","verbs":["get","list","watch"]},
{"level":"Metadata"}]}"#;

/// Starts the lab with `nodes` nodes and loads the images, or completes a start that was interrupted.
pub async fn up(dirs: &Dirs, nodes: usize, ui: &Ui) -> Result<()> {
    ensure!((1..=9).contains(&nodes), "the lab has 1 to 9 nodes, not {nodes}");
    host::require_root()?;
    let _lock = lock()?;
    host::install_packages(ui).await?;
    binaries::kube(dirs, ui).await?;
    binaries::helm(dirs, ui).await?;
    let base = images::base(dirs, ui).await?;

    if dirs.lab.exists() && boot_id()? != fs::read_to_string(dirs.lab.join("boot-id")).unwrap_or_default() {
        ui.say("the machine was restarted since the lab was up: starting afresh");
        remove(dirs, ui).await?;
    }
    let existing = Node::all(dirs).len();
    ensure!(existing <= nodes, "the lab has {existing} nodes already: `lab down` first to have fewer");
    if !dirs.lab.exists() {
        network::require_no_other_kubernetes().await?;
        fs::create_dir_all(&dirs.lab)?;
        fs::write(dirs.lab.join("boot-id"), boot_id()?)?;
    }
    ui.step("network", network::up(dirs, nodes)).await?;
    node::weigh_pods()?;
    let pki = Pki::open(&dirs.lab.join("pki"))?;
    // A component that ended at once explains more than the wait that it spoilt.
    ui.step("control plane", control_plane(dirs, &pki)).await.map_err(|error| stopped(dirs).err().unwrap_or(error))?;
    let lab = Lab::attach_in(dirs).await?;
    ui.step(&format!("{nodes} nodes"), async {
        try_join_all((1..=nodes).map(|index| Node::new(dirs, index)).map(|node| async move { node.start_containerd().await })).await?;
        let (pause, others) = base.split_at(1);
        // Without this one no pod starts at all.
        images::load(dirs, pause, ui).await?;
        for index in 1..=nodes {
            Node::new(dirs, index).start_kubelet(&pki).await?;
        }
        services(dirs, &lab).await?;
        tokio::try_join!(ready(lab.client(), nodes), images::load(dirs, others, ui)).map(drop)
    })
    .await?;
    stopped(dirs)?;
    ui.say(&format!("The lab is up: {nodes} nodes. Try `lab kubectl get nodes`, or export KUBECONFIG={}", dirs.kubeconfig().display()));
    // Last: a checkout that does not compile leaves a lab that runs.
    let ours = images::ours(dirs, ui).await?;
    images::load(dirs, &ours, ui).await
}

/// Stops and removes the lab, whatever state it is in; doing so twice is fine.
pub async fn down(dirs: &Dirs, ui: &Ui) -> Result<()> {
    host::require_root()?;
    let _lock = lock()?;
    remove(dirs, ui).await
}

/// One line for each component and node.
pub async fn status(dirs: &Dirs) -> Result<String> {
    if !dirs.lab.exists() {
        bail!("the lab is down; start it with `lab up`");
    }
    let mut lines: Vec<_> = components(dirs)
        .into_iter()
        .map(|(name, process)| match process {
            Some(process) => format!("{name:20} runs, process {}", process.pid),
            None => format!("{name:20} STOPPED, see `lab logs {name}`"),
        })
        .collect();
    match Lab::attach_in(dirs).await {
        Ok(lab) => lines.push(lab.kubectl(&["get", "nodes", "-o", "wide"]).await?),
        Err(error) => lines.push(format!("{error:#}")),
    }
    Ok(lines.join("\n"))
}

/// Every component and its process, if it runs.
fn components(dirs: &Dirs) -> Vec<(String, Option<Process>)> {
    let mut names: Vec<String> =
        ["etcd", "apiserver", "controller-manager", "scheduler", "proxy", "coredns", "provisioner"].map(Into::into).into();
    names.extend(Node::all(dirs).iter().flat_map(|node| [node.containerd_name(), node.kubelet_name()]));
    names.into_iter().map(|name| (name.clone(), Process::recorded(dirs, &name))).collect()
}

/// An error that quotes the log of the first component that was started and has ended.
fn stopped(dirs: &Dirs) -> Result<()> {
    for (name, process) in components(dirs) {
        if process.is_none()
            && let Ok(log) = fs::read_to_string(dirs.log(&name))
        {
            bail!("{name} has ended; the end of its log:\n{}", run::last_lines(&log, 10));
        }
    }
    Ok(())
}

async fn control_plane(dirs: &Dirs, pki: &Pki) -> Result<()> {
    let kube = kube_path(dirs);
    let server = format!("https://{HOST}:6443");
    pki.issue(
        "apiserver",
        "kube-apiserver",
        None,
        &["kubernetes", "kubernetes.default", "kubernetes.default.svc", "localhost", "10.96.0.1", "127.0.0.1", HOST],
    )?;
    for (name, common_name, group) in [
        ("admin", "lab-admin", Some("system:masters")),
        ("controller-manager", "system:kube-controller-manager", None),
        ("scheduler", "system:kube-scheduler", None),
    ] {
        pki.issue(name, common_name, group, &[])?;
        pki.kubeconfig(name, &server, &dirs.lab.join(format!("{name}.kubeconfig")))?;
    }
    let audit_policy = write_config(&dirs.lab, "audit-policy", "json", AUDIT_POLICY)?;

    let data = dirs.lab.join("etcd");
    // No fsync: the lab's history ends with the lab.
    let etcd = [
        "etcd".into(),
        "--name=lab".into(),
        format!("--data-dir={}", data.display()),
        format!("--listen-client-urls={}", ETCD[0]),
        format!("--advertise-client-urls={}", ETCD[0]),
        format!("--listen-peer-urls={}", ETCD[1]),
        format!("--initial-advertise-peer-urls={}", ETCD[1]),
        format!("--initial-cluster=lab={}", ETCD[1]),
        "--unsafe-no-fsync".into(),
    ];
    Component::new("etcd", &kube, etcd).ensure(dirs).await?;
    let mut apiserver = api_server_flags(pki, ETCD[0], HOST, 6443);
    apiserver.extend([
        "--allow-privileged=true".into(),
        format!("--audit-policy-file={audit_policy}"),
        format!("--audit-log-path={}", dirs.audit_log().display()),
        format!("--kubelet-client-certificate={}", pki.cert("admin").display()),
        format!("--kubelet-client-key={}", pki.key("admin").display()),
        "--kubelet-preferred-address-types=InternalIP".into(),
    ]);
    Component::new("apiserver", &kube, apiserver).ensure(dirs).await?;
    api_ready(&dirs.kubeconfig()).await?;

    let lab = |file: &str| dirs.lab.join(file).display().to_string();
    let controllers = [
        "kube-controller-manager".into(),
        format!("--kubeconfig={}", lab("controller-manager.kubeconfig")),
        "--use-service-account-credentials=true".into(),
        format!("--service-account-private-key-file={}", pki.key("accounts").display()),
        format!("--root-ca-file={}", pki.cert("ca").display()),
        "--leader-elect=false".into(),
        "--bind-address=127.0.0.1".into(),
        // A lost node is seen in 20 s instead of 50: tests wait for it.
        "--node-monitor-grace-period=20s".into(),
    ];
    Component::new("controller-manager", &kube, controllers).ensure(dirs).await?;
    let scheduler = [
        "kube-scheduler".into(),
        format!("--kubeconfig={}", lab("scheduler.kubeconfig")),
        "--leader-elect=false".into(),
        "--bind-address=127.0.0.1".into(),
    ];
    Component::new("scheduler", &kube, scheduler).ensure(dirs).await
}

/// The part of the API server's command line that the lab and a control plane alone share.
pub(crate) fn api_server_flags(pki: &Pki, etcd: &str, address: &str, port: u16) -> Vec<String> {
    vec![
        "kube-apiserver".into(),
        format!("--etcd-servers={etcd}"),
        format!("--bind-address={address}"),
        format!("--advertise-address={address}"),
        format!("--secure-port={port}"),
        format!("--service-cluster-ip-range={SERVICES}"),
        "--authorization-mode=Node,RBAC".into(),
        "--enable-admission-plugins=NodeRestriction".into(),
        format!("--tls-cert-file={}", pki.cert("apiserver").display()),
        format!("--tls-private-key-file={}", pki.key("apiserver").display()),
        format!("--client-ca-file={}", pki.cert("ca").display()),
        format!("--service-account-key-file={}", pki.accounts_public_key().display()),
        format!("--service-account-signing-key-file={}", pki.key("accounts").display()),
        "--service-account-issuer=https://kubernetes.default.svc".into(),
    ]
}

/// Waits until the API server says that all its start-up work is done; returns a client.
pub(crate) async fn api_ready(kubeconfig: &Path) -> Result<Client> {
    run::wait("the API server to be ready", START_DEADLINE, async || {
        let client = crate::lab::client(kubeconfig).await?;
        let request = kube::core::Request::new("/readyz").list(&kube::api::ListParams::default())?;
        client.request_text(request).await?;
        Ok(Some(client))
    })
    .await
}

/// What serves all nodes at once: kube-proxy (every pod bridge is in the host's network namespace), DNS, volumes.
/// `MIN_SYNC_PERIOD=1ms` shows what kube-proxy's own pause between two changes costs.
async fn services(dirs: &Dirs, lab: &Lab) -> Result<()> {
    let kube = kube_path(dirs);
    let kubeconfig = dirs.kubeconfig();
    let proxy = serde_json::json!({
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "iptables",
        "iptables": {"minSyncPeriod": std::env::var("MIN_SYNC_PERIOD").unwrap_or_else(|_| "1s".into())},
        "clusterCIDR": PODS,
        "clientConnection": {"kubeconfig": kubeconfig},
        "hostnameOverride": "node1",
        "conntrack": {"maxPerCore": 0, "min": 0},
        "healthzBindAddress": "127.0.0.1:10256",
        "metricsBindAddress": "127.0.0.1:10249",
    });
    let proxy = write_config(&dirs.lab, "proxy", "json", &proxy.to_string())?;
    Component::new("proxy", &kube, ["kube-proxy".into(), format!("--config={proxy}")]).ensure(dirs).await?;

    let corefile = write_config(
        &dirs.lab,
        "coredns",
        "conf",
        &format!(
            ".:53 {{\n  bind {HOST}\n  errors\n  ready {HOST}:8089\n  kubernetes cluster.local in-addr.arpa {{\n    kubeconfig {} lab\n    ttl 5\n  }}\n}}\n",
            kubeconfig.display()
        ),
    )?;
    Component::new("coredns", &kube, ["coredns".into(), "-conf".into(), corefile]).ensure(dirs).await?;
    lab.kubectl_apply(&objects()).await?;

    // Replaced on every `up`: this program may have been built anew.
    if let Some(old) = Process::recorded(dirs, "provisioner") {
        old.stop().await?;
    }
    let program = std::env::current_exe()?;
    Component::new("provisioner", &program, ["provisioner".into(), format!("--kubeconfig={}", kubeconfig.display())]).ensure(dirs).await
}

fn objects() -> String {
    serde_json::json!({"apiVersion": "v1", "kind": "List", "items": [
        {
            "apiVersion": "v1", "kind": "Service",
            "metadata": {"name": "kube-dns", "namespace": "kube-system"},
            "spec": {"clusterIP": DNS, "ports": [
                {"name": "dns", "port": 53, "protocol": "UDP"},
                {"name": "dns-tcp", "port": 53, "protocol": "TCP"},
            ]},
        },
        {
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {"name": "kube-dns-host", "namespace": "kube-system", "labels": {"kubernetes.io/service-name": "kube-dns"}},
            "addressType": "IPv4",
            "ports": [{"name": "dns", "port": 53, "protocol": "UDP"}, {"name": "dns-tcp", "port": 53, "protocol": "TCP"}],
            "endpoints": [{"addresses": [HOST], "conditions": {"ready": true}}],
        },
        crate::volumes::class(crate::volumes::DYNAMIC),
        crate::volumes::class(crate::volumes::SMALL),
        crate::volumes::class(crate::volumes::STATIC),
    ]})
    .to_string()
}

/// Waits for all nodes, and for the account without which a pod is refused.
async fn ready(client: &Client, nodes: usize) -> Result<()> {
    let api = Api::<KubeNode>::all(client.clone());
    let is_ready = |node: &KubeNode| {
        let conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
        conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
    };
    run::wait("all nodes to be Ready", START_DEADLINE, async || {
        let found = api.list(&Default::default()).await?.iter().filter(|node| is_ready(node)).count();
        Ok((found == nodes).then_some(()))
    })
    .await?;
    let accounts = Api::<ServiceAccount>::namespaced(client.clone(), "default");
    run::wait("the default ServiceAccount", START_DEADLINE, async || Ok(accounts.get_opt("default").await?.map(drop))).await
}

async fn remove(dirs: &Dirs, ui: &Ui) -> Result<()> {
    ui.step("stop every process of the lab", async {
        // Kubelets first, so that nothing is started again.
        for node in Node::all(dirs) {
            if let Some(kubelet) = Process::recorded(dirs, &node.kubelet_name()) {
                kubelet.signal(rustix::process::Signal::KILL)?;
            }
        }
        kill_all("the lab's processes", || Process::below(&dirs.lab)).await
    })
    .await?;
    ui.step("remove mounts, network and files", async {
        unmount(&dirs.lab).await?;
        network::down(dirs).await?;
        crate::node::remove_traces(dirs)?;
        if dirs.lab.exists() {
            fs::remove_dir_all(&dirs.lab).with_context(|| format!("cannot remove {}", dirs.lab.display()))?;
        }
        Ok(())
    })
    .await
}

/// Unmounts everything below `dir`, the innermost first.
async fn unmount(dir: &Path) -> Result<()> {
    let inside = format!("{}/", dir.display());
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    let points: Vec<_> = mounts.lines().filter_map(|line| line.split(' ').nth(1)).filter(|point| point.starts_with(&inside)).collect();
    for point in points.into_iter().rev() {
        run::output(run::command("umount").args(["-l", &point.replace("\\040", " ")])).await?;
    }
    Ok(())
}

fn boot_id() -> Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?)
}

/// One `up` or `down` at a time on this machine; the kernel releases it when the process ends, however it ends.
fn lock() -> Result<File> {
    let file = File::create(LOCK).with_context(|| format!("cannot create {LOCK}"))?;
    file.try_lock().context("another `lab up` or `lab down` is at work; wait for it")?;
    Ok(file)
}
