//! What every test stands on: a set, and ways to look at it.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bson::{Document, doc};
use crds::mongo::{MongoReplicaSet, MongoReplicaSetStatus};
use e2e::engine::Mongo;
use e2e::stage::eventually;
use e2e::{Engine, Lab};
use futures::TryStreamExt;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use mongodb::Client;
use serde_json::{Value, json};
use tokio::time::timeout;

/// The image that is running from the start, the same under another name, and the release after it.
pub const IMAGE: &str = e2e::images::MONGO;
pub const OTHER_IMAGE: &str = e2e::images::MONGO_B;
/// A mongod on this machine is found within this, or it is not there.
pub const CONNECT: Duration = Duration::from_secs(2);
/// A single command.
const COMMAND: Duration = Duration::from_secs(10);

/// One set in one namespace.
#[derive(Clone)]
pub struct Set {
    pub lab: Lab,
    pub namespace: String,
    pub name: String,
}

impl Set {
    /// A handle; nothing is created.
    pub fn new(lab: &Lab, namespace: &str) -> Self {
        Self { lab: lab.clone(), namespace: namespace.into(), name: "stock".into() }
    }

    /// A small spec that every test starts from.
    pub fn spec(replicas: u32) -> Value {
        json!({
            "replicas": replicas,
            "image": IMAGE,
            "imagePullPolicy": "Never",
            "storage": {"size": "1Gi"},
            "users": [{"name": Mongo::USER, "database": Mongo::DATABASE, "roles": [{"role": "readWrite", "db": Mongo::DATABASE}]}],
            "pod": {"terminationGracePeriodSeconds": 20},
        })
    }

    /// Applies `spec` as a user does, by server-side apply.
    pub async fn apply(&self, spec: Value) -> Result<MongoReplicaSet> {
        let object =
            json!({"apiVersion": "understudy.dev/v1alpha1", "kind": "MongoReplicaSet", "metadata": {"name": self.name}, "spec": spec});
        Ok(self.api().patch(&self.name, &PatchParams::apply("user").force(), &Patch::Apply(&object)).await?)
    }

    /// Applies a set of `replicas` and waits until it is whole.
    pub async fn create(lab: &Lab, namespace: &str, replicas: u32) -> Result<Self> {
        let set = Self::new(lab, namespace);
        set.apply(Self::spec(replicas)).await?;
        set.whole(replicas).await?;
        Ok(set)
    }

    /// Merges `patch` into the spec.
    pub async fn merge(&self, patch: Value) -> Result<()> {
        self.api().patch(&self.name, &PatchParams::default(), &Patch::Merge(json!({"spec": patch}))).await?;
        Ok(())
    }

    /// Writes annotations of the MongoReplicaSet: requests of a person.
    pub async fn annotate(&self, annotation: &str, value: &str) -> Result<()> {
        let patch = json!({"metadata": {"annotations": {annotation: value}}});
        self.api().patch(&self.name, &PatchParams::default(), &Patch::Merge(patch)).await?;
        Ok(())
    }

    pub fn api(&self) -> Api<MongoReplicaSet> {
        Api::namespaced(self.lab.client().clone(), &self.namespace)
    }

    pub fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.lab.client().clone(), &self.namespace)
    }

    pub fn member(&self, ordinal: u32) -> String {
        format!("{}-{ordinal}", self.name)
    }

    pub async fn status(&self) -> Result<MongoReplicaSetStatus> {
        self.api().get(&self.name).await?.status.context("no status yet")
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

    /// Waits until the status answers the newest spec, all `replicas` members are ready, and there are no others.
    pub async fn whole(&self, replicas: u32) -> Result<()> {
        eventually(&format!("{replicas} ready members"), || async {
            let object = self.api().get(&self.name).await?;
            let status = object.status.clone().context("no status yet")?;
            ensure!(status.observed_generation == object.metadata.generation, "the status is of an older generation");
            let all = status.members.len() == replicas as usize && status.members.iter().all(|member| member.ready);
            // An odd number votes, seven at most: before, a lost member may be one too many.
            let voters = status.members.iter().filter(|member| member.votes == Some(true)).count();
            ensure!(voters == (replicas as usize - usize::from(replicas.is_multiple_of(2))).min(7), "{voters} of {replicas} vote");
            let pods = self.pods().list(&ListParams::default().labels(&format!("understudy.dev/cluster={}", self.name))).await?;
            ensure!(
                all && status.state == "Healthy" && pods.items.len() == replicas as usize,
                "{} {} {}",
                status.state,
                status.ready,
                status.reason
            );
            Ok(())
        })
        .await
    }

    /// Waits until another member than `old` leads and the change is over; says which one.
    pub async fn succeeded(&self, old: &str) -> Result<String> {
        eventually(&format!("another primary than {old}"), || async {
            let status = self.status().await?;
            ensure!(status.transition.is_none() && status.primary.as_deref() != Some(old), "{}: {}", status.state, status.reason);
            Ok(())
        })
        .await?;
        self.primary().await
    }

    /// Address of a member's pod.
    pub async fn address(&self, member: &str) -> Result<String> {
        self.pods().get(member).await?.status.and_then(|status| status.pod_ip).context("no address yet")
    }

    /// The way in for the application's account.
    pub async fn application(&self) -> Result<Mongo> {
        Mongo::of(&self.lab, &self.namespace, &self.name).await
    }

    /// A connection to one member, as the application.
    pub async fn to(&self, member: &str) -> Result<Client> {
        self.application().await?.client(&self.address(member).await?, CONNECT)
    }

    /// Numbers in the ledger of `member`.
    pub async fn numbers(&self, member: &str) -> Result<BTreeSet<i64>> {
        let client = self.to(member).await?;
        let asked = async {
            let found = client.database(Mongo::DATABASE).collection::<Document>("ledger").find(doc! {}).await?;
            let rows: Vec<Document> = found.try_collect().await?;
            anyhow::Ok(rows.iter().filter_map(|row| row.get_i64("_id").ok()).collect())
        };
        timeout(COMMAND, asked).await.context("no answer in time")?
    }

    /// Waits until each member holds every acknowledged number, and all hold the same.
    pub async fn holds(&self, acknowledged: &BTreeSet<i64>) -> Result<()> {
        eventually("every member to hold every acknowledged document", || async {
            let mut first: Option<BTreeSet<i64>> = None;
            for member in self.status().await?.members {
                let numbers = self.numbers(&member.name).await?;
                let missing: Vec<_> = acknowledged.difference(&numbers).collect();
                ensure!(missing.is_empty(), "{} misses {} documents, the first is {:?}", member.name, missing.len(), missing.first());
                let first = first.get_or_insert_with(|| numbers.clone());
                ensure!(*first == numbers, "{} differs from the first member", member.name);
            }
            Ok(())
        })
        .await
    }

    /// Kills process 1 of mongod's container.
    pub async fn crash(&self, member: &str) -> Result<()> {
        self.lab.kill_container(&self.namespace, member, "mongodb").await
    }

    /// Deletes a pod; without grace its processes get SIGKILL, and its name is free at once.
    pub async fn delete(&self, member: &str, grace: Option<u32>) -> Result<()> {
        self.pods().delete(member, &DeleteParams { grace_period_seconds: grace, ..DeleteParams::default() }).await?;
        Ok(())
    }
}
