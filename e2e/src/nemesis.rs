//! The faults that a test can cause. All of them are real: signals, dropped packets, killed nodes, deleted claims.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::{Node as KubeNode, PersistentVolumeClaim, Pod};
use kube::api::{DeleteParams, ListParams};
use kube::{Api, ResourceExt};
use rustix::process::Signal;

use crate::lab::Lab;
use crate::network::{ANY_BRIDGE, CUTS, HOST, LOST, iptables};
use crate::pki::Pki;
use crate::process::{Process, kill_all};
use crate::run;

/// A pod takes this long at most to be replaced by its controller, with its volume.
const REPLACE_DEADLINE: Duration = Duration::from_secs(120);
/// A node that comes back is Ready within this time.
const RETURN_DEADLINE: Duration = Duration::from_secs(90);
/// Rounds in which a freeze must find nothing new that still runs: a process may fork while its siblings stop.
const FREEZE_ROUNDS: usize = 5;

impl Lab {
    /// Kills process 1 of a container with SIGKILL.
    pub async fn kill_container(&self, namespace: &str, pod: &str, container: &str) -> Result<()> {
        let found = self.pod(namespace, pod).await?;
        let id = container_ids(&found).into_iter().find(|(name, _)| name == container).map(|(_, id)| id);
        let id = id.with_context(|| format!("pod {pod} has no running container {container}"))?;
        let init = Process::in_cgroup(&id).into_iter().find(Process::is_container_init);
        init.with_context(|| format!("container {container} of pod {pod} has no process"))?.signal(Signal::KILL)
    }

    /// Stops every process of a pod where it stands: it answers nobody, and its connections stay open.
    pub async fn freeze(&self, namespace: &str, pod: &str) -> Result<()> {
        let mut stopped = BTreeSet::new();
        for _ in 0..FREEZE_ROUNDS {
            let new: Vec<_> = self.processes(namespace, pod).await?.into_iter().filter(|process| stopped.insert(*process)).collect();
            if new.is_empty() {
                break;
            }
            new.iter().try_for_each(|process| process.signal(Signal::STOP))?;
        }
        ensure!(!stopped.is_empty(), "pod {pod} has no process to freeze");
        Ok(())
    }

    /// Lets a frozen pod go on.
    pub async fn thaw(&self, namespace: &str, pod: &str) -> Result<()> {
        self.processes(namespace, pod).await?.iter().try_for_each(|process| process.signal(Signal::CONT))
    }

    /// Drops every packet between the pods of `left` and those of `right`, in both directions and on open connections too. Addresses
    /// count as they are now: a pod that is replaced is not cut off any more.
    pub async fn cut(&self, namespace: &str, left: &[&str], right: &[&str]) -> Result<()> {
        self.cut_between((namespace, left), (namespace, right)).await
    }

    /// The same between pods of two namespaces; the cut belongs to the first.
    pub async fn cut_between(&self, (namespace, left): (&str, &[&str]), (other, right): (&str, &[&str])) -> Result<()> {
        for a in left {
            for b in right {
                let (a, b) = (self.pod_ip(namespace, a).await?, self.pod_ip(other, b).await?);
                self.drop_packets(namespace, &["-s", &a, "-d", &b]).await?;
                self.drop_packets(namespace, &["-s", &b, "-d", &a]).await?;
            }
        }
        Ok(())
    }

    /// Cuts a pod off from every other pod, and from what serves on the host (DNS, the API server). Its kubelet still reaches it, as on a
    /// real node, and so do clients on this host: they are on the cut-off side with it.
    pub async fn isolate(&self, namespace: &str, pod: &str) -> Result<()> {
        let ip = self.pod_ip(namespace, pod).await?;
        // Both interfaces are given only for packets from pod to pod.
        for direction in ["-s", "-d"] {
            self.drop_packets(namespace, &["-i", ANY_BRIDGE, "-o", ANY_BRIDGE, direction, &ip]).await?;
        }
        self.drop_packets(namespace, &["-s", &ip, "-m", "conntrack", "--ctstate", "NEW"]).await?;
        self.cut_from_api(namespace, pod).await
    }

    /// Drops every packet from and to a pod: probes fail as well, and clients on the host see it vanish.
    pub async fn silence(&self, namespace: &str, pod: &str) -> Result<()> {
        let ip = self.pod_ip(namespace, pod).await?;
        self.drop_packets(namespace, &["-s", &ip]).await?;
        self.drop_packets(namespace, &["-d", &ip]).await
    }

    /// Cuts a pod off from the API server alone.
    pub async fn cut_from_api(&self, namespace: &str, pod: &str) -> Result<()> {
        let ip = self.pod_ip(namespace, pod).await?;
        self.drop_packets(namespace, &["-p", "tcp", "-s", &ip, "-d", HOST, "--dport", "6443"]).await
    }

    /// Ends every cut, isolation and silence, of every test. Lost nodes stay lost.
    pub async fn heal(&self) -> Result<()> {
        iptables("mangle", &["-F", CUTS]).await
    }

    /// Ends the cuts, isolations and silences that were asked for in this namespace; those of other tests stay.
    pub async fn heal_namespace(&self, namespace: &str) -> Result<()> {
        let rules = run::output(run::command("iptables").args(["-w", "10", "-t", "mangle", "-S", CUTS])).await?;
        for rule in rules.lines().filter(|rule| rule.split([' ', '"']).any(|word| word == namespace)) {
            let rule: Vec<_> = rule.split_whitespace().skip(1).map(|word| word.trim_matches('"')).collect();
            iptables("mangle", &[&["-D"], &rule[..]].concat()).await?;
        }
        Ok(())
    }

    /// Stops the API server where it stands: it answers nobody, and its connections stay open. Nothing of this library that asks it
    /// works until [`Lab::resume_api`].
    pub fn pause_api(&self) -> Result<()> {
        self.api_server()?.signal(Signal::STOP)
    }

    /// Lets a paused API server go on.
    pub fn resume_api(&self) -> Result<()> {
        self.api_server()?.signal(Signal::CONT)
    }

    /// Pulls a node's plug: kubelet, containerd and all containers end at once, and its pods' addresses fall silent.
    pub async fn lose_node(&self, name: &str) -> Result<()> {
        let node = self.node(name)?;
        let subnet = node.pod_subnet();
        self.forget_silence(&subnet).await?;
        // Silence first: a dying kernel sends no RST and no FIN either.
        iptables("mangle", &["-A", LOST, "-s", &subnet, "-j", "DROP"]).await?;
        iptables("mangle", &["-A", LOST, "-d", &subnet, "-j", "DROP"]).await?;
        let (dir, dirs) = (node.dir(), self.dirs());
        kill_all(&format!("everything on {name}"), || {
            let components = [node.kubelet_name(), node.containerd_name()];
            components.iter().filter_map(|component| Process::recorded(dirs, component)).chain(Process::below(&dir)).collect()
        })
        .await
    }

    /// Starts a lost node again, with the disks it had, and waits until it is Ready.
    pub async fn return_node(&self, name: &str) -> Result<()> {
        let node = self.node(name)?;
        let api = Api::<KubeNode>::all(self.client().clone());
        let heartbeat = |node: &KubeNode| {
            let conditions = node.status.as_ref()?.conditions.as_ref()?;
            let ready = conditions.iter().find(|condition| condition.type_ == "Ready")?;
            Some((ready.status.clone(), ready.last_heartbeat_time.clone()))
        };
        let before = heartbeat(&api.get(name).await?);
        self.forget_silence(&node.pod_subnet()).await?;
        node.start_containerd().await?;
        let pki = Pki::open(&self.dirs().lab.join("pki"))?;
        run::wait(&format!("{name} to be Ready"), RETURN_DEADLINE, async || {
            // It ends when containerd answers before all of its parts do.
            node.start_kubelet(&pki).await?;
            // The old heartbeat may still say Ready: the control plane is slow to notice.
            let now = heartbeat(&api.get(name).await?);
            Ok((now != before && now.is_some_and(|(status, _)| status == "True")).then_some(()))
        })
        .await
    }

    /// Deletes a claim with its data and the pod that uses it; returns when the StatefulSet has made a new, empty one.
    pub async fn lose_pvc(&self, namespace: &str, claim: &str) -> Result<()> {
        let claims = Api::<PersistentVolumeClaim>::namespaced(self.client().clone(), namespace);
        let pods = Api::<Pod>::namespaced(self.client().clone(), namespace);
        let old = claims.get(claim).await.with_context(|| format!("no claim {claim} to lose"))?;
        claims.delete(claim, &DeleteParams::default()).await?;
        run::wait(&format!("a new claim {claim}"), REPLACE_DEADLINE, async || {
            let now = claims.get_opt(claim).await?;
            if let Some(new) = now.as_ref().filter(|now| now.uid() != old.uid()) {
                return Ok(new.metadata.deletion_timestamp.is_none().then_some(()));
            }
            // A pod made between the two deletions would hold the old claim for ever.
            for pod in pods.list(&ListParams::default()).await?.iter().filter(|pod| uses(pod, claim)) {
                let at_once = DeleteParams { grace_period_seconds: Some(0), ..Default::default() }
                    .preconditions(kube::api::Preconditions { uid: pod.uid(), resource_version: None });
                match pods.delete(&pod.name_any(), &at_once).await {
                    Err(kube::Error::Api(status)) if !status.is_not_found() && !status.is_conflict() => {
                        return Err(kube::Error::Api(status).into());
                    }
                    _ => {}
                }
            }
            Ok(None)
        })
        .await
    }

    /// Command lines of all processes of a pod, to search for secrets.
    pub async fn process_cmdlines(&self, namespace: &str, pod: &str) -> Result<Vec<String>> {
        Ok(self.processes(namespace, pod).await?.iter().map(|process| process.argv().join(" ")).collect())
    }

    /// Environments of all processes of a pod, `NAME=value` each.
    pub async fn process_environ(&self, namespace: &str, pod: &str) -> Result<Vec<String>> {
        Ok(self.processes(namespace, pod).await?.iter().flat_map(Process::environ).collect())
    }

    /// All living processes of all containers of a pod.
    pub async fn processes(&self, namespace: &str, pod: &str) -> Result<Vec<Process>> {
        let ids = container_ids(&self.pod(namespace, pod).await?);
        Ok(ids.iter().flat_map(|(_, id)| Process::in_cgroup(id)).collect())
    }

    async fn pod(&self, namespace: &str, pod: &str) -> Result<Pod> {
        Api::<Pod>::namespaced(self.client().clone(), namespace).get(pod).await.with_context(|| format!("no pod {namespace}/{pod}"))
    }

    async fn pod_ip(&self, namespace: &str, pod: &str) -> Result<String> {
        let found = self.pod(namespace, pod).await?;
        found.status.and_then(|status| status.pod_ip).with_context(|| format!("pod {pod} has no address yet"))
    }

    fn api_server(&self) -> Result<Process> {
        Process::recorded(self.dirs(), "apiserver").context("the lab's API server does not run")
    }

    /// The comment says whose rule it is.
    async fn drop_packets(&self, namespace: &str, matching: &[&str]) -> Result<()> {
        iptables("mangle", &[&["-A", CUTS], matching, &["-m", "comment", "--comment", namespace, "-j", "DROP"]].concat()).await
    }

    async fn forget_silence(&self, subnet: &str) -> Result<()> {
        for direction in ["-s", "-d"] {
            let rule = [LOST, direction, subnet, "-j", "DROP"];
            while iptables("mangle", &[&["-C"], &rule[..]].concat()).await.is_ok() {
                iptables("mangle", &[&["-D"], &rule[..]].concat()).await?;
            }
        }
        Ok(())
    }
}

/// Name and id of each running container of a pod, native sidecars included.
fn container_ids(pod: &Pod) -> Vec<(String, String)> {
    let Some(status) = &pod.status else { return vec![] };
    let all = status.init_container_statuses.iter().flatten().chain(status.container_statuses.iter().flatten());
    let running = all.filter(|container| container.state.as_ref().is_some_and(|state| state.running.is_some()));
    running
        .filter_map(|container| Some((container.name.clone(), container.container_id.as_ref()?.rsplit('/').next()?.to_owned())))
        .collect()
}

fn uses(pod: &Pod, claim: &str) -> bool {
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    volumes.into_iter().any(|volume| volume.persistent_volume_claim.as_ref().is_some_and(|source| source.claim_name == claim))
}
