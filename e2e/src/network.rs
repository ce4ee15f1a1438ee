//! The lab's network: one bridge with an address for each node, routes that keep every packet inside, and rules that tests add and remove.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::dirs::Dirs;
use crate::run;

/// Where the API server and DNS listen, and node 1 lives.
pub const HOST: &str = "10.200.0.1";
/// Addresses of the nodes.
pub const NODES: &str = "10.200.0.0/24";
/// Addresses of the pods; node N has 10.244.N.0/24.
pub const PODS: &str = "10.244.0.0/16";
/// Addresses of the Services.
pub const SERVICES: &str = "10.96.0.0/16";
/// DNS for pods.
pub const DNS: &str = "10.96.0.10";

const BRIDGE: &str = "lab0";
/// Pods reach the lab and nothing else.
const INSIDE: &str = "LAB-INSIDE";
/// Faults live in the mangle table: there kube-proxy accepts nothing, so that established connections are cut too, and Service
/// addresses are already pods' addresses.
pub const CUTS: &str = "LAB-CUT";
/// Lost nodes, apart from [`CUTS`] so that healing the one does not bring back the other.
pub const LOST: &str = "LAB-LOST";
/// Every node's bridge, in iptables' notation.
pub const ANY_BRIDGE: &str = "labcni+";
const FAULT_CHAINS: [&str; 2] = [CUTS, LOST];
/// Pods and Services (FORWARD), the host's own clients and probes (OUTPUT), the API server and DNS (INPUT).
const FAULT_HOOKS: [&str; 3] = ["FORWARD", "OUTPUT", "INPUT"];
const SYSCTLS: [&str; 2] = ["net/ipv4/ip_forward", "net/bridge/bridge-nf-call-iptables"];

/// The address of node `index`, which counts from 1.
pub fn node_address(index: usize) -> String {
    format!("10.200.0.{index}")
}

/// Makes the network; what is there already stays.
pub async fn up(dirs: &Dirs, nodes: usize) -> Result<()> {
    // Absent where these are built into the kernel; the sysctl below tells whether it worked.
    let _ = run::output(run::command("modprobe").args(["-a", "br_netfilter", "overlay"])).await;
    if !exists(BRIDGE) {
        ip(&["link", "add", BRIDGE, "type", "bridge"]).await?;
    }
    ip(&["link", "set", BRIDGE, "up"]).await?;
    for index in 1..=nodes {
        ip(&["addr", "replace", &format!("{}/32", node_address(index)), "dev", BRIDGE]).await?;
    }
    // An address that nothing serves yet would leave by the default route.
    for net in [SERVICES, PODS] {
        ip(&["route", "replace", net, "dev", BRIDGE, "src", HOST]).await?;
    }
    set_sysctls(&sysctl_file(dirs))?;

    chain("filter", INSIDE).await?;
    iptables("filter", &["-F", INSIDE]).await?;
    for net in [SERVICES, PODS, NODES] {
        iptables("filter", &["-A", INSIDE, "-d", net, "-j", "RETURN"]).await?;
    }
    iptables("filter", &["-A", INSIDE, "-j", "REJECT"]).await?;
    hook("filter", &["FORWARD", "-s", PODS, "-j", INSIDE]).await?;
    for name in FAULT_CHAINS {
        chain("mangle", name).await?;
        for from in FAULT_HOOKS {
            hook("mangle", &[from, "-j", name]).await?;
        }
    }
    Ok(())
}

/// Removes bridges, network namespaces, rules, and whatever Kubernetes' own components left in iptables; restores sysctls.
pub async fn down(dirs: &Dirs) -> Result<()> {
    let mut links: Vec<_> = names("/sys/class/net").into_iter().filter(|link| is_node_bridge(link)).collect();
    links.push(BRIDGE.into());
    for link in links.iter().filter(|link| exists(link)) {
        ip(&["link", "del", link]).await?;
    }
    for namespace in names("/run/netns").into_iter().filter(|name| name.starts_with("cni-")) {
        ip(&["netns", "del", &namespace]).await?;
    }
    for family in ["iptables", "ip6tables"] {
        remove_chains(family).await?;
    }
    if let Ok(text) = std::fs::read_to_string(sysctl_file(dirs)) {
        let before: BTreeMap<String, String> = serde_json::from_str(&text)?;
        for (name, value) in before {
            // The module that owned it may be gone.
            let _ = std::fs::write(Path::new("/proc/sys").join(name), value);
        }
    }
    Ok(())
}

/// Refuses a machine where Kubernetes runs already: its rules and the lab's would fight, and `down` removes both.
pub async fn require_no_other_kubernetes() -> Result<()> {
    let rules = run::output(&mut run::command("iptables-save")).await?;
    ensure!(
        !rules.contains(":KUBE-SERVICES"),
        "this machine has Kubernetes' iptables rules already: stop that cluster first, or run `lab down` if they are left over from a lab"
    );
    Ok(())
}

/// Runs one iptables command; waits for other writers of the table.
pub async fn iptables(table: &str, rule: &[&str]) -> Result<()> {
    run::output(run::command("iptables").args(["-w", "10", "-t", table]).args(rule)).await.map(drop)
}

/// The bridge that the CNI plugin makes for a node's pods.
pub fn node_bridge(index: usize) -> String {
    format!("labcni{index}")
}

fn is_node_bridge(link: &str) -> bool {
    link.strip_prefix("labcni").is_some_and(|index| index.parse::<usize>().is_ok())
}

async fn chain(table: &str, name: &str) -> Result<()> {
    match iptables(table, &["-L", name, "-n"]).await {
        Ok(()) => Ok(()),
        Err(_) => iptables(table, &["-N", name]).await,
    }
}

/// Puts the jump `[chain, match…]` first, where no earlier rule can accept what it refuses.
async fn hook(table: &str, jump: &[&str]) -> Result<()> {
    let with = |verb| [&[verb], jump].concat();
    match iptables(table, &with("-C")).await {
        Ok(()) => Ok(()),
        Err(_) => iptables(table, &with("-I")).await,
    }
}

/// Drops every rule and chain of kube-proxy, kubelet, the CNI plugins and the lab; other rules stay as they are.
async fn remove_chains(family: &str) -> Result<()> {
    // A kernel without IPv6 has no such tables.
    let Ok(saved) = run::output(&mut run::command(format!("{family}-save"))).await else { return Ok(()) };
    let ours = |line: &str| ["KUBE-", "CNI-", "LAB-"].iter().any(|prefix| line.split([' ', ':']).any(|word| word.starts_with(prefix)));
    if !saved.lines().any(ours) {
        return Ok(());
    }
    let kept: String = saved.lines().filter(|line| !ours(line)).flat_map(|line| [line, "\n"]).collect();
    run::output_with_input(&mut run::command(format!("{family}-restore")), &kept).await.map(drop)
}

fn sysctl_file(dirs: &Dirs) -> PathBuf {
    dirs.lab.join("sysctl-before.json")
}

fn set_sysctls(file: &Path) -> Result<()> {
    let path = |name: &str| Path::new("/proc/sys").join(name);
    if !file.exists() {
        let before: BTreeMap<_, _> = SYSCTLS.iter().filter_map(|name| Some((name, std::fs::read_to_string(path(name)).ok()?))).collect();
        std::fs::write(file, serde_json::to_string(&before)?)?;
    }
    for name in SYSCTLS {
        std::fs::write(path(name), "1").with_context(|| format!("cannot set {name}: is the kernel module br_netfilter there?"))?;
    }
    Ok(())
}

fn exists(link: &str) -> bool {
    Path::new("/sys/class/net").join(link).exists()
}

fn names(dir: &str) -> Vec<String> {
    let entries = std::fs::read_dir(dir).into_iter().flatten();
    entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect()
}

async fn ip(arguments: &[&str]) -> Result<()> {
    run::output(run::command("ip").args(arguments)).await.map(drop)
}
