//! Redis as it is run with Sentinel: three pods of `redis-server` and three of `redis-server --sentinel`, real ones of the same image, called by names.
//!
//! The best case for them: a process that was killed stays dead until it has been replaced, and comes back in the same pod, with its
//! address. (A kubelet would restart it at once: then no Sentinel at its defaults sees anything, and the gap is that of the restart.)

use std::collections::HashMap;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use e2e::{Lab, images};
use redis::cmd;
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, timeout};

use crate::gaps::{Blow, CALM, Client, SILENCE, all_go_on};
use crate::seeker::{SENTINEL_PORT, Seeker};
use crate::stage::PATIENCE;

const MASTER: &str = "mymaster";
const MEMBERS: usize = 3;
/// A question to a Sentinel that is well.
const ANSWER: Duration = Duration::from_secs(2);
/// It waits for another word before it starts again.
const SERVER: &str = "printf %s \"$CONF\" > /data/redis.conf
while :; do redis-server /data/redis.conf; until rm /data/again 2> /dev/null; do sleep 0.1; done; done";
/// It ends if it cannot find its master's name yet.
const SENTINEL: &str = "printf %s \"$CONF\" > /data/sentinel.conf; until redis-server /data/sentinel.conf --sentinel; do sleep 0.2; done";

/// What an administrator chooses, in milliseconds.
#[derive(Clone, Copy)]
pub struct Pace {
    pub down_after: u32,
    pub failover_timeout: u32,
}

pub struct Set {
    lab: Lab,
    namespace: String,
    seeker: Seeker,
}

// === impl Set ===

impl Set {
    /// Brings it up, and waits until every Sentinel knows all the others and both replicas.
    pub async fn up(lab: &Lab, namespace: &str, pace: Pace) -> Result<Self> {
        let hosts = (0..MEMBERS).map(|ordinal| host(namespace, "sentinel", ordinal)).collect();
        let set = Self { lab: lab.clone(), namespace: namespace.into(), seeker: Seeker::new(hosts, MASTER, None)? };
        set.apply("redis", 6379, SERVER, |ordinal| server(namespace, ordinal)).await?;
        set.lab.kubectl(&["wait", "--for=condition=Ready", "pod", "-l", "app=redis", "-n", namespace, "--timeout=120s"]).await?;
        set.apply("sentinel", SENTINEL_PORT, SENTINEL, |ordinal| sentinel(namespace, ordinal, pace)).await?;
        set.whole().await?;
        Ok(set)
    }

    pub fn seeker(&self) -> &Seeker {
        &self.seeker
    }

    /// Strikes the primary of a whole set, and waits until it is whole again; says when it struck.
    pub async fn strike(&self, blow: Blow, clients: &[Client]) -> Result<Instant> {
        self.whole().await?;
        sleep(CALM).await;
        let before = self.primary().await?;
        let all = self.lab.processes(&self.namespace, &before).await?;
        // It calls itself `redis-server *:6379`; the shell only has it in its script.
        let server = all.iter().find(|process| process.argv().first().is_some_and(|name| name.starts_with("redis-server")));
        let server = server.with_context(|| format!("no redis-server in {before}"))?;
        let mut asked = self.seeker.open(&self.seeker.sentinels()[0], SENTINEL_PORT).await?;
        let since = Instant::now();
        match blow {
            Blow::Crash => server.signal(Signal::KILL)?,
            Blow::Freeze => self.lab.freeze(&self.namespace, &before).await?,
            Blow::SwitchOver => cmd("SENTINEL").arg("FAILOVER").arg(MASTER).exec_async(&mut asked).await?,
            Blow::Delete => bail!("a pod of its own comes back by nobody"),
        }
        let replaced = async {
            while self.primary().await.ok().is_none_or(|primary| primary == before) {
                sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(SILENCE * 2, replaced).await.with_context(|| format!("no other primary than {before}"))?;
        all_go_on(clients, SILENCE).await?;
        match blow {
            Blow::Crash => drop(self.lab.exec(&self.namespace, &before, "redis", &["touch", "/data/again"]).await?),
            Blow::Freeze => self.lab.thaw(&self.namespace, &before).await?,
            _ => {}
        }
        self.whole().await?;
        Ok(since)
    }

    /// The primary's pod, by a Sentinel.
    async fn primary(&self) -> Result<String> {
        let (host, _) = timeout(ANSWER, self.seeker.told()).await??;
        Ok(host.split('.').next().unwrap_or(&host).to_owned())
    }

    async fn whole(&self) -> Result<()> {
        let end = Instant::now() + PATIENCE;
        loop {
            let Err(missing) = timeout(ANSWER * 3, self.agreed()).await.context("no answer").flatten() else { return Ok(()) };
            ensure!(Instant::now() < end, "the Sentinels do not agree: {missing:#}");
            sleep(Duration::from_millis(250)).await;
        }
    }

    /// Each Sentinel says the same, and that nothing is missing.
    async fn agreed(&self) -> Result<()> {
        let mut primaries = Vec::new();
        for host in self.seeker.sentinels() {
            let mut sentinel = self.seeker.open(host, SENTINEL_PORT).await?;
            let master: HashMap<String, String> = cmd("SENTINEL").arg("MASTER").arg(MASTER).query_async(&mut sentinel).await?;
            let field = |name: &str| master.get(name).map(String::as_str).unwrap_or_default();
            let state = (field("flags"), field("num-slaves"), field("num-other-sentinels"));
            ensure!(state == ("master", "2", "2"), "{host}: {state:?}");
            primaries.push(field("ip").to_owned());
            let replicas: Vec<HashMap<String, String>> = cmd("SENTINEL").arg("REPLICAS").arg(MASTER).query_async(&mut sentinel).await?;
            for replica in replicas {
                let field = |name: &str| replica.get(name).map(String::as_str).unwrap_or_default();
                let state = (field("flags"), field("master-link-status"));
                ensure!(state == ("slave", "ok"), "{host}: {} is {state:?}", field("name"));
            }
        }
        ensure!(primaries.windows(2).all(|pair| pair[0] == pair[1]), "{primaries:?}");
        Ok(())
    }

    /// Three pods with a name each, and a Service that makes the names.
    async fn apply(&self, app: &str, port: u16, script: &str, conf: impl Fn(usize) -> String) -> Result<()> {
        let mut items = vec![json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": app, "namespace": self.namespace},
            "spec": {"clusterIP": "None", "publishNotReadyAddresses": true, "selector": {"app": app}, "ports": [{"port": port}]}})];
        items.extend((0..MEMBERS).map(|ordinal| pod(&self.namespace, app, ordinal, script, &conf(ordinal))));
        self.lab.kubectl_apply(&json!({"apiVersion": "v1", "kind": "List", "items": items}).to_string()).await.map(drop)
    }
}

fn pod(namespace: &str, app: &str, ordinal: usize, script: &str, conf: &str) -> Value {
    let name = format!("{app}-{ordinal}");
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": namespace, "labels": {"app": app}}, "spec": {
        "hostname": name, "subdomain": app, "automountServiceAccountToken": false, "terminationGracePeriodSeconds": 1,
        "securityContext": {"runAsNonRoot": true, "runAsUser": 999, "runAsGroup": 999, "fsGroup": 999, "seccompProfile": {"type": "RuntimeDefault"}},
        "volumes": [{"name": "data", "emptyDir": {}}],
        "containers": [{"name": "redis", "image": images::REDIS, "imagePullPolicy": "Never", "command": ["sh", "-c", script],
            "env": [{"name": "CONF", "value": conf}], "volumeMounts": [{"name": "data", "mountPath": "/data"}],
            "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}, "readOnlyRootFilesystem": true}}]}})
}

fn host(namespace: &str, app: &str, ordinal: usize) -> String {
    format!("{app}-{ordinal}.{app}.{namespace}.svc.cluster.local")
}

/// An append-only file, as a RedisReplication has by default.
fn server(namespace: &str, ordinal: usize) -> String {
    let follow = if ordinal == 0 { String::new() } else { format!("replicaof {} 6379\n", host(namespace, "redis", 0)) };
    let own = host(namespace, "redis", ordinal);
    format!("protected-mode no\ndir /data\nappendonly yes\nrepl-diskless-sync-delay 0\nreplica-announce-ip {own}\n{follow}")
}

fn sentinel(namespace: &str, ordinal: usize, pace: Pace) -> String {
    let (own, first) = (host(namespace, "sentinel", ordinal), host(namespace, "redis", 0));
    let Pace { down_after, failover_timeout } = pace;
    format!(
        "protected-mode no\nport {SENTINEL_PORT}\ndir /data\nsentinel resolve-hostnames yes\nsentinel announce-hostnames yes\n\
         sentinel announce-ip {own}\nsentinel monitor {MASTER} {first} 6379 2\n\
         sentinel down-after-milliseconds {MASTER} {down_after}\nsentinel failover-timeout {MASTER} {failover_timeout}\n"
    )
}
