//! What differs between the databases, for tests and figures that are the same for each: how a status reads, and an application's way in.

use std::fmt::Debug;
use std::future::Future;
use std::marker::PhantomData;
use std::time::Duration;

use anyhow::{Context, Result};
use crds::shared::Transition;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{Pod, Secret, Service};
use kube::api::{DeleteParams, Patch, PatchParams};
use kube::{Api, Resource};
use serde::de::DeserializeOwned;
use serde_json::json;

use crate::lab::Lab;

mod mongo;
mod mysql;
mod redis;

pub use mongo::Mongo;
pub use mysql::MySql;
pub use redis::Redis;

/// An application of one cluster: what the Secrets and Services tell it, fetched once, so that a connection needs no API server.
pub trait Engine: Clone + Send + Sync + 'static {
    /// Its kind.
    type Object: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned + Send + Sync + 'static;
    /// What statements go through.
    type Connection: Send;
    /// What it is called here.
    const NAME: &'static str;
    /// Name of the server's container.
    const CONTAINER: &'static str;
    /// Where the server listens.
    const PORT: u16;

    /// What the object's status says.
    fn glance(object: &Self::Object) -> Option<Glance>;

    /// The application of one cluster.
    fn of(lab: &Lab, namespace: &str, cluster: &str) -> impl Future<Output = Result<Self>> + Send;

    /// Address of the Service `NAME-primary`.
    fn primary(&self) -> &str;

    /// Logs in at an address, over TLS; gives up after `within`.
    fn connect(&self, address: &str, within: Duration) -> impl Future<Output = Result<Self::Connection>> + Send;

    /// The member that a connection leads to, by its own word.
    fn member(connection: &mut Self::Connection) -> impl Future<Output = Result<String>> + Send;
}

/// A status, as far as every kind has one.
#[derive(Clone, Debug)]
pub struct Glance {
    /// Term of the last claimed authority.
    pub term: u64,
    /// Pod name of the primary.
    pub primary: Option<String>,
    /// A change of primary that is under way.
    pub transition: Option<Transition>,
    /// Pod names of the members that are ready.
    pub ready: Vec<String>,
    /// Pod names of all members.
    pub members: Vec<String>,
    /// Healthy, no change under way, and each member counted on.
    pub settled: bool,
    /// All of it in one line.
    pub story: String,
}

/// One cluster in one namespace.
#[derive(Clone)]
pub struct Cluster<E> {
    /// In which lab.
    pub lab: Lab,
    /// In which namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    engine: PhantomData<E>,
}

// === impl Cluster ===

impl<E: Engine> Cluster<E> {
    /// A handle; nothing is created.
    pub fn new(lab: &Lab, namespace: &str, name: &str) -> Self {
        Self { lab: lab.clone(), namespace: namespace.into(), name: name.into(), engine: PhantomData }
    }

    /// Objects of its kind.
    pub fn api(&self) -> Api<E::Object> {
        Api::namespaced(self.lab.client().clone(), &self.namespace)
    }

    /// Pods of its namespace.
    pub fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.lab.client().clone(), &self.namespace)
    }

    /// Pod name of a member.
    pub fn member(&self, ordinal: u32) -> String {
        format!("{}-{ordinal}", self.name)
    }

    /// What the status says now.
    pub async fn glance(&self) -> Result<Glance> {
        E::glance(&self.api().get(&self.name).await?).context("no status yet")
    }

    /// Pod name of the primary.
    pub async fn primary(&self) -> Result<String> {
        self.glance().await?.primary.context("no primary yet")
    }

    /// Address of a member's pod.
    pub async fn address(&self, member: &str) -> Result<String> {
        self.pods().get(member).await?.status.and_then(|status| status.pod_ip).context("no address yet")
    }

    /// Kills process 1 of a member's server.
    pub async fn crash(&self, member: &str) -> Result<()> {
        self.lab.kill_container(&self.namespace, member, E::CONTAINER).await
    }

    /// Deletes a pod; without grace its processes get SIGKILL, and its name is free at once.
    pub async fn delete(&self, member: &str, grace: Option<u32>) -> Result<()> {
        self.pods().delete(member, &DeleteParams { grace_period_seconds: grace, ..DeleteParams::default() }).await?;
        Ok(())
    }

    /// Asks for another primary than that of `term`; says with which words.
    pub async fn switch_over(&self, term: u64) -> Result<String> {
        let request = format!("any@{term}");
        let patch = json!({"metadata": {"annotations": {"understudy.dev/switchover": request}}});
        self.api().patch(&self.name, &PatchParams::default(), &Patch::Merge(patch)).await?;
        Ok(request)
    }
}

async fn secret(lab: &Lab, namespace: &str, name: &str) -> Result<Secret> {
    Ok(Api::<Secret>::namespaced(lab.client().clone(), namespace).get(name).await?)
}

fn value(secret: &Secret, key: &str) -> Result<String> {
    let name = secret.metadata.name.as_deref().unwrap_or_default();
    let value = secret.data.as_ref().and_then(|data| data.get(key)).with_context(|| format!("Secret {name} has no {key}"))?;
    Ok(String::from_utf8(value.0.clone())?)
}

/// Address of the Service `NAME-primary`.
async fn service(lab: &Lab, namespace: &str, cluster: &str) -> Result<String> {
    let service = Api::<Service>::namespaced(lab.client().clone(), namespace).get(&format!("{cluster}-primary")).await?;
    service.spec.and_then(|spec| spec.cluster_ip).context("no cluster IP")
}
