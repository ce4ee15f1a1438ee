//! What every test stands on: a cluster, and ways to look at it.

use std::collections::BTreeSet;
use std::future::Future;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use crds::mysql::{MySQLCluster, MySQLClusterStatus};
use e2e::Lab;
use e2e::stage::eventually;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, Secret, Service};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use kube::{Api, ResourceExt};
use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Opts, OptsBuilder, SslOpts};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, timeout};

/// The image that is running from the start, and the same server under another name, to update to.
pub const IMAGE: &str = "localhost/mysql:9.7";
pub const OTHER_IMAGE: &str = "localhost/mysql:9.7-b";
/// A single statement on loopback.
const STATEMENT: Duration = Duration::from_secs(10);
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
        Self { lab: lab.clone(), namespace: namespace.into(), name: "orders".into() }
    }

    /// A small spec that every test starts from.
    pub fn spec(replicas: u32) -> Value {
        json!({
            "replicas": replicas,
            "image": IMAGE,
            "imagePullPolicy": "Never",
            "storage": {"size": "1Gi"},
            "config": {"innodb_buffer_pool_size": "64M", "performance_schema_max_table_instances": 500, "table_open_cache": 200},
            "database": {"name": "shop", "owner": "app"},
            "pod": {"terminationGracePeriodSeconds": 20},
        })
    }

    /// Applies `spec` as a user does, by server-side apply.
    pub async fn apply(&self, spec: Value) -> Result<MySQLCluster> {
        let object =
            json!({"apiVersion": "understudy.dev/v1alpha1", "kind": "MySQLCluster", "metadata": {"name": self.name}, "spec": spec});
        Ok(self.api().patch(&self.name, &PatchParams::apply("user").force(), &Patch::Apply(&object)).await?)
    }

    /// Applies a cluster of `replicas` and waits until all are ready.
    pub async fn create(lab: &Lab, namespace: &str, replicas: u32) -> Result<Self> {
        let cluster = Self::new(lab, namespace);
        cluster.apply(Self::spec(replicas)).await?;
        cluster.ready(replicas).await?;
        Ok(cluster)
    }

    /// Merges `patch` into the spec.
    pub async fn merge(&self, patch: Value) -> Result<()> {
        self.api().patch(&self.name, &PatchParams::default(), &Patch::Merge(json!({"spec": patch}))).await?;
        Ok(())
    }

    pub fn api(&self) -> Api<MySQLCluster> {
        Api::namespaced(self.lab.client().clone(), &self.namespace)
    }

    pub fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.lab.client().clone(), &self.namespace)
    }

    pub fn claims(&self) -> Api<PersistentVolumeClaim> {
        Api::namespaced(self.lab.client().clone(), &self.namespace)
    }

    pub fn member(&self, ordinal: u32) -> String {
        format!("{}-{ordinal}", self.name)
    }

    pub fn claim(&self, ordinal: u32) -> String {
        format!("data-{}-{ordinal}", self.name)
    }

    pub async fn status(&self) -> Result<MySQLClusterStatus> {
        self.api().get(&self.name).await?.status.context("no status yet")
    }

    /// Pod name of the primary.
    pub async fn primary(&self) -> Result<String> {
        self.status().await?.primary.context("no primary yet")
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

    /// Waits until the status answers the newest spec and all `replicas` members are ready.
    pub async fn ready(&self, replicas: u32) -> Result<()> {
        eventually(&format!("{replicas} ready members"), || async {
            let object = self.api().get(&self.name).await?;
            let status = object.status.clone().context("no status yet")?;
            ensure!(status.observed_generation == object.metadata.generation, "the status is of an older generation");
            let ready = status.conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True");
            let all = status.members.len() == replicas as usize && status.members.iter().all(|member| member.ready);
            let pods = self.pods().list(&ListParams::default().labels(&format!("understudy.dev/cluster={}", self.name))).await?;
            let updated = status.state == "Healthy" && pods.items.len() == replicas as usize;
            ensure!(ready && all && updated, "{} {} {}", status.state, status.ready, status.reason);
            Ok(())
        })
        .await
    }

    /// Waits until commits need `acks` acknowledgements.
    pub async fn acks(&self, acks: u32) -> Result<()> {
        eventually(&format!("{acks} acknowledgements"), || async {
            let status = self.status().await?;
            ensure!(
                status.acks == acks && status.ack_set.len() + 1 == status.members.len(),
                "acks {} of {:?}",
                status.acks,
                status.ack_set
            );
            Ok(())
        })
        .await
    }

    async fn secret(&self, name: &str) -> Result<Secret> {
        Ok(Api::<Secret>::namespaced(self.lab.client().clone(), &self.namespace).get(name).await?)
    }

    /// A value of one of the cluster's Secrets.
    pub async fn secret_value(&self, name: &str, key: &str) -> Result<String> {
        let secret = self.secret(name).await?;
        let value = secret.data.as_ref().and_then(|data| data.get(key)).with_context(|| format!("{name} has no {key}"))?;
        Ok(String::from_utf8(value.0.clone())?)
    }

    async fn connect(&self, address: String) -> Result<Conn> {
        let tls = SslOpts::default()
            .with_root_certs(vec![self.secret_value(&format!("{}-tls", self.name), "ca.crt").await?.into_bytes().into()])
            .with_disable_built_in_roots(true)
            .with_danger_tls_hostname_override(Some(format!("{}-primary.{}.svc", self.name, self.namespace)));
        let options = OptsBuilder::default()
            .ip_or_hostname(address)
            .user(Some(self.secret_value(&format!("{}-app", self.name), "username").await?))
            .pass(Some(self.secret_value(&format!("{}-app", self.name), "password").await?))
            .db_name(Some("shop"))
            .ssl_opts(Some(tls))
            .stmt_cache_size(0);
        timeout(STATEMENT, Conn::new(Opts::from(options))).await.context("no connection in time")?.map_err(Into::into)
    }

    /// A connection through the Service `NAME-SUFFIX`, as the application's owner, with TLS.
    pub async fn through(&self, suffix: &str) -> Result<Conn> {
        let service: Service = Api::namespaced(self.lab.client().clone(), &self.namespace).get(&format!("{}-{suffix}", self.name)).await?;
        let address = service.spec.and_then(|spec| spec.cluster_ip).context("no cluster IP")?;
        // A routing proxy takes up to a second to learn of an endpoint, and refuses until then.
        let end = Instant::now() + ROUTING;
        loop {
            match self.connect(address.clone()).await {
                Err(_) if Instant::now() < end => sleep(Duration::from_millis(50)).await,
                outcome => return outcome,
            }
        }
    }

    /// A connection through `NAME-primary` that takes writes. After a change of primary the Service leads to the old one for up to a second,
    /// until kube-proxy takes it up.
    pub async fn writes(&self) -> Result<Conn> {
        let end = Instant::now() + ROUTING;
        loop {
            let mut connection = self.through("primary").await?;
            let closed: Option<u8> = connection.query_first("SELECT @@super_read_only").await?;
            if closed == Some(0) {
                return Ok(connection);
            }
            ensure!(Instant::now() < end, "the Service leads to a member that is read-only");
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// A connection to one member.
    pub async fn to(&self, member: &str) -> Result<Conn> {
        let pod = self.pods().get(member).await?;
        self.connect(pod.status.and_then(|status| status.pod_ip).context("no address yet")?).await
    }

    /// Runs SQL on a member as the local administrator, inside the pod.
    pub async fn sql(&self, member: &str, statement: &str) -> Result<String> {
        self.lab.sql(&self.namespace, member, statement).await
    }

    /// Creates the ledger that [`Writer`] writes to.
    pub async fn ledger(&self) -> Result<()> {
        let mut writes = self.writes().await?;
        writes.query_drop("CREATE TABLE IF NOT EXISTS ledger (number BIGINT PRIMARY KEY, note VARCHAR(64))").await?;
        Ok(())
    }

    /// Numbers in the ledger of `member`.
    pub async fn numbers(&self, member: &str) -> Result<BTreeSet<u64>> {
        let rows: Vec<u64> = self.to(member).await?.query("SELECT number FROM ledger").await?;
        let numbers: BTreeSet<u64> = rows.iter().copied().collect();
        ensure!(numbers.len() == rows.len(), "{member} holds a row twice");
        Ok(numbers)
    }

    /// Waits until each member holds every acknowledged number, and all hold the same.
    pub async fn holds(&self, acknowledged: &BTreeSet<u64>) -> Result<()> {
        eventually("every member to hold every acknowledged row", || async {
            let mut first: Option<BTreeSet<u64>> = None;
            for member in self.status().await?.members {
                let numbers = self.numbers(&member.name).await?;
                let missing: Vec<_> = acknowledged.difference(&numbers).collect();
                ensure!(missing.is_empty(), "{} misses {} rows, the first is {:?}", member.name, missing.len(), missing.first());
                let first = first.get_or_insert_with(|| numbers.clone());
                let (more, less): (Vec<_>, Vec<_>) = (numbers.difference(first).collect(), first.difference(&numbers).collect());
                ensure!(more.is_empty() && less.is_empty(), "{} differs from the first member: +{more:?} -{less:?}", member.name);
            }
            Ok(())
        })
        .await
    }

    pub async fn delete_pod(&self, member: &str) -> Result<()> {
        self.pods().delete(member, &DeleteParams::default()).await?;
        Ok(())
    }

    /// UID of a pod.
    pub async fn pod_uid(&self, member: &str) -> Result<String> {
        self.pods().get(member).await?.uid().context("a pod has a uid")
    }

    /// UID of a member's claim.
    pub async fn claim_uid(&self, ordinal: u32) -> Result<String> {
        self.claims().get(&self.claim(ordinal)).await?.uid().context("a claim has a uid")
    }

    /// Runs `fault`, then waits until the pod is another one.
    pub async fn replaced(&self, member: &str, fault: impl Future<Output = Result<()>>) -> Result<()> {
        let before = self.pod_uid(member).await?;
        fault.await?;
        eventually("a new pod", || async {
            ensure!(self.pod_uid(member).await? != before, "still the old one");
            Ok(())
        })
        .await
    }
}
