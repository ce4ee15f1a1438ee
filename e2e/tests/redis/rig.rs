//! What every test stands on: a cluster, and ways to look at it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use crds::redis::{MemberStatus, RedisReplication, RedisReplicationStatus};
use crds::shared::TransitionKind;
use e2e::Lab;
use e2e::engine::Redis;
use e2e::stage::eventually;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, Secret, Service};
use kube::api::{ListParams, Patch, PatchParams};
use kube::{Api, ResourceExt};
use redis::{Cmd, FromRedisValue, cmd};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, timeout};

use crate::way::{COMMAND, Connection, Way};

/// The image that is running from the start, the same server under another name, and the other engine.
pub const IMAGE: &str = e2e::images::REDIS;
pub const OTHER_IMAGE: &str = e2e::images::REDIS_B;
pub const VALKEY: &str = e2e::images::VALKEY;
/// The account of the application, with its password in `NAME-app`.
pub const USER: &str = Redis::USER;
/// The list that writers append to.
pub const LEDGER: &str = "ledger";
/// Each writer counts from a multiple of it.
pub const WRITER: u64 = 1_000_000;
/// A routing proxy learns of an endpoint.
const ROUTING: Duration = Duration::from_secs(5);

/// One cluster in one namespace.
#[derive(Clone)]
pub struct Cluster {
    pub lab: Lab,
    pub namespace: String,
    pub name: String,
}

impl Cluster {
    /// A handle; nothing is created.
    pub fn new(lab: &Lab, namespace: &str) -> Self {
        Self::named(lab, namespace, "cache")
    }

    /// The same with another name.
    pub fn named(lab: &Lab, namespace: &str, name: &str) -> Self {
        Self { lab: lab.clone(), namespace: namespace.into(), name: name.into() }
    }

    /// A small spec that most tests start from. The account may do everything: tests do by hand what people do by mistake.
    pub fn spec(replicas: u32) -> Value {
        json!({
            "replicas": replicas,
            "image": IMAGE,
            "imagePullPolicy": "Never",
            "storage": {"size": "1Gi"},
            "users": [{"name": USER, "rules": Redis::RULES}],
            "pod": {"terminationGracePeriodSeconds": 20},
        })
    }

    /// Applies `spec` as a user does, by server-side apply.
    pub async fn apply(&self, spec: Value) -> Result<RedisReplication> {
        let object =
            json!({"apiVersion": "understudy.dev/v1alpha1", "kind": "RedisReplication", "metadata": {"name": self.name}, "spec": spec});
        Ok(self.api().patch(&self.name, &PatchParams::apply("user").force(), &Patch::Apply(&object)).await?)
    }

    /// Applies a cluster of `replicas` and waits until it is whole.
    pub async fn create(lab: &Lab, namespace: &str, replicas: u32) -> Result<Self> {
        Self::create_from(lab, namespace, Self::spec(replicas)).await
    }

    /// The same with a spec of one's own.
    pub async fn create_from(lab: &Lab, namespace: &str, spec: Value) -> Result<Self> {
        let cluster = Self::new(lab, namespace);
        let replicas = spec["replicas"].as_u64().and_then(|replicas| u32::try_from(replicas).ok()).unwrap_or(3);
        cluster.apply(spec).await?;
        cluster.whole(replicas).await?;
        Ok(cluster)
    }

    /// Merges `patch` into the spec.
    pub async fn merge(&self, patch: Value) -> Result<()> {
        self.api().patch(&self.name, &PatchParams::default(), &Patch::Merge(json!({"spec": patch}))).await?;
        Ok(())
    }

    /// Writes an annotation of the object: a request of a person.
    pub async fn annotate(&self, annotation: &str, value: &str) -> Result<()> {
        let patch = json!({"metadata": {"annotations": {annotation: value}}});
        self.api().patch(&self.name, &PatchParams::default(), &Patch::Merge(patch)).await?;
        Ok(())
    }

    pub fn api(&self) -> Api<RedisReplication> {
        Api::namespaced(self.lab.client().clone(), &self.namespace)
    }

    pub fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.lab.client().clone(), &self.namespace)
    }

    pub fn claims(&self) -> Api<PersistentVolumeClaim> {
        Api::namespaced(self.lab.client().clone(), &self.namespace)
    }

    pub fn secrets(&self) -> Api<Secret> {
        Api::namespaced(self.lab.client().clone(), &self.namespace)
    }

    pub fn member(&self, ordinal: u32) -> String {
        format!("{}-{ordinal}", self.name)
    }

    /// UID of a member's claim.
    pub async fn claim_uid(&self, ordinal: u32) -> Result<String> {
        self.claims().get(&format!("data-{}", self.member(ordinal))).await?.uid().context("a claim has a uid")
    }

    /// UID of a pod.
    pub async fn pod_uid(&self, member: &str) -> Result<String> {
        self.pods().get(member).await?.uid().context("a pod has a uid")
    }

    pub async fn status(&self) -> Result<RedisReplicationStatus> {
        self.api().get(&self.name).await?.status.context("no status yet")
    }

    /// A member's row of the status.
    pub async fn row(&self, member: &str) -> Result<MemberStatus> {
        let rows = self.status().await?.members;
        rows.into_iter().find(|row| row.name == member).with_context(|| format!("the status has no row of {member}"))
    }

    /// Pod name of the primary.
    pub async fn primary(&self) -> Result<String> {
        self.status().await?.primary.context("no primary yet")
    }

    /// The members but `one`, by ordinal.
    pub async fn others(&self, one: &str) -> Result<Vec<String>> {
        Ok(self.status().await?.members.into_iter().map(|member| member.name).filter(|name| name != one).collect())
    }

    /// Whether the condition holds, with its reason and message.
    pub async fn condition(&self, type_: &str) -> Result<(bool, String, String)> {
        let status = self.status().await?;
        let condition =
            status.conditions.into_iter().find(|condition| condition.type_ == type_).with_context(|| format!("no condition {type_}"))?;
        Ok((condition.status == "True", condition.reason, condition.message))
    }

    /// Waits for a condition with a message that holds `words`.
    pub async fn says(&self, type_: &str, words: &str) -> Result<()> {
        eventually(&format!("condition {type_} to say {words:?}"), || async {
            let (holds, reason, message) = self.condition(type_).await?;
            ensure!(holds && format!("{reason} {message}").contains(words), "{type_}={holds} {reason}: {message}");
            Ok(())
        })
        .await
    }

    /// Waits until the status answers the newest spec, all `replicas` members are ready and counted on, and there are no others.
    pub async fn whole(&self, replicas: u32) -> Result<()> {
        self.whole_with(replicas, u32::from(replicas > 1)).await
    }

    /// The same where `acks` replicas must hold a write.
    pub async fn whole_with(&self, replicas: u32, acks: u32) -> Result<()> {
        eventually(&format!("{replicas} ready members"), || async {
            let object = self.api().get(&self.name).await?;
            let status = object.status.clone().context("no status yet")?;
            ensure!(status.observed_generation == object.metadata.generation, "the status is of an older generation");
            let all = status.members.len() == replicas as usize && status.members.iter().all(|member| member.ready);
            let counted = status.ack_set.len() + 1 == status.members.len() && status.acks == acks;
            let pods = self.pods().list(&ListParams::default().labels(&format!("understudy.dev/cluster={}", self.name))).await?;
            // What was taken back is remembered for a while.
            let changes = status.transition.as_ref().is_some_and(|change| change.kind != TransitionKind::TakenBack);
            let settled = status.state == "Healthy" && !changes && pods.items.len() == replicas as usize;
            ensure!(all && counted && settled, "{} {} {}; {:?}", status.state, status.ready, status.reason, status.ack_set);
            Ok(())
        })
        .await
    }

    /// A value of the cluster's Secret `NAME-SUFFIX`.
    pub async fn secret_value(&self, suffix: &str, key: &str) -> Result<String> {
        let name = format!("{}-{suffix}", self.name);
        let secret = self.secrets().get(&name).await?;
        let value = secret.data.as_ref().and_then(|data| data.get(key)).with_context(|| format!("{name} has no {key}"))?;
        Ok(String::from_utf8(value.0.clone())?)
    }

    /// Address of the Service `NAME-SUFFIX`.
    pub async fn service(&self, suffix: &str) -> Result<String> {
        let service: Service = Api::namespaced(self.lab.client().clone(), &self.namespace).get(&format!("{}-{suffix}", self.name)).await?;
        service.spec.and_then(|spec| spec.cluster_ip).context("no cluster IP")
    }

    /// Address of a member's pod.
    pub async fn address(&self, member: &str) -> Result<String> {
        self.pods().get(member).await?.status.and_then(|status| status.pod_ip).context("no address yet")
    }

    /// A connection through the Service `NAME-SUFFIX`, as the application.
    pub async fn through(&self, suffix: &str) -> Result<Connection> {
        let (way, address) = (Way::of(self).await?, self.service(suffix).await?);
        // A routing proxy takes up to a second to learn of an endpoint, and refuses until then.
        let end = Instant::now() + ROUTING;
        loop {
            match way.connect(&address).await {
                Err(_) if Instant::now() < end => sleep(Duration::from_millis(50)).await,
                outcome => return outcome,
            }
        }
    }

    /// A connection to one member.
    pub async fn to(&self, member: &str) -> Result<Connection> {
        Way::of(self).await?.connect(&self.address(member).await?).await
    }

    /// What one member answers to a command.
    pub async fn asks<T: FromRedisValue>(&self, member: &str, command: &Cmd) -> Result<T> {
        answer(&mut self.to(member).await?, command).await
    }

    /// `INFO replication` of a member, by name.
    pub async fn replication(&self, member: &str) -> Result<BTreeMap<String, String>> {
        let text: String = self.asks(member, cmd("INFO").arg("replication")).await?;
        Ok(text.lines().filter_map(|line| line.split_once(':')).map(|(name, value)| (name.into(), value.trim().into())).collect())
    }

    /// What is in the ledger of `member`, in its order.
    pub async fn ledger(&self, member: &str) -> Result<Vec<u64>> {
        self.asks(member, cmd("LRANGE").arg(LEDGER).arg(0).arg(-1)).await
    }

    /// Waits until each member holds every acknowledged number, each writer's in its order and none twice, and all hold the same.
    pub async fn holds(&self, acknowledged: &BTreeSet<u64>) -> Result<()> {
        eventually("every member to hold every acknowledged number", || async {
            let mut first: Option<Vec<u64>> = None;
            for member in self.status().await?.members {
                let ledger = self.ledger(&member.name).await?;
                is_kept(&ledger, acknowledged).with_context(|| member.name.clone())?;
                let first = first.get_or_insert_with(|| ledger.clone());
                ensure!(*first == ledger, "{} differs from the first member: {} numbers, not {}", member.name, ledger.len(), first.len());
            }
            Ok(())
        })
        .await
    }

    /// What Events with this reason say, or all of them.
    pub async fn told(&self, reason: &str) -> Result<String> {
        let selector = if reason.is_empty() { String::new() } else { format!("reason={reason}") };
        let path = r#"jsonpath={range .items[*]}{.message}{"\n"}{end}"#;
        self.lab.kubectl(&["get", "events", "-n", &self.namespace, "--field-selector", &selector, "-o", path]).await
    }
}

/// What a connection answers to a command.
pub async fn answer<T: FromRedisValue>(connection: &mut Connection, command: &Cmd) -> Result<T> {
    Ok(timeout(COMMAND, command.query_async(connection)).await.context("no answer in time")??)
}

/// Makes sure that it was refused, with this word; the client writes some of the server's words in its own way.
pub fn refused_with<T>(outcome: Result<T>, word: &str) -> Result<()> {
    let said = outcome.err().map(|error| format!("{error:#}")).context("it was not refused")?;
    ensure!(said.to_uppercase().contains(word), "it was refused with: {said}");
    Ok(())
}

/// Checks a ledger against what its writers know.
fn is_kept(ledger: &[u64], acknowledged: &BTreeSet<u64>) -> Result<()> {
    let held: BTreeSet<u64> = ledger.iter().copied().collect();
    ensure!(held.len() == ledger.len(), "{} numbers are there twice", ledger.len() - held.len());
    let missing: Vec<_> = acknowledged.difference(&held).collect();
    ensure!(missing.is_empty(), "{} of {} numbers are missing, the first is {:?}", missing.len(), acknowledged.len(), missing.first());
    let mut newest = BTreeMap::new();
    for number in ledger.iter().filter(|number| acknowledged.contains(number)) {
        let before = newest.insert(number / WRITER, number);
        ensure!(before < Some(number), "{number} is behind {before:?}, which was written after it");
    }
    Ok(())
}
