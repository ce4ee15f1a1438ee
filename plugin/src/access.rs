//! Everything that talks to Kubernetes: the cluster, its pods, Events and record of decisions, and one guarded annotation.

use anyhow::{Context, Result, bail, ensure};
use crds::decisions::{self, Decided, KEY};
use crds::mongo::MongoReplicaSet;
use crds::mysql::MySQLCluster;
use k8s_openapi::api::core::v1::{ConfigMap, Event, Pod};
use kube::api::{ListParams, Patch, PatchParams};
use kube::config::KubeConfigOptions;
use kube::{Api, Client, Config, ResourceExt};
use serde_json::json;

use crate::cli::Place;

/// Who writes.
const MANAGER: &str = "kubectl-understudy";
/// Others write the same object now and then; always is a fault.
const ATTEMPTS: usize = 10;

/// What kind of cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    /// A MySQLCluster: `NAME`, or `myc/NAME`.
    MySql,
    /// A MongoReplicaSet: `mrs/NAME`.
    Mongo,
}

impl Engine {
    /// What `text` names.
    fn parse(text: &str) -> Result<(Self, String)> {
        let Some((kind, name)) = text.split_once('/') else { return Ok((Self::MySql, text.to_owned())) };
        match kind.to_lowercase().as_str() {
            "myc" | "mysqlcluster" | "mysqlclusters" => Ok((Self::MySql, name.to_owned())),
            "mrs" | "mongoreplicaset" | "mongoreplicasets" => Ok((Self::Mongo, name.to_owned())),
            _ => bail!("{kind} is no kind of Understudy: write myc/{name} for a MySQLCluster, mrs/{name} for a MongoReplicaSet"),
        }
    }

    /// The database's container, and the label of its kind.
    pub fn label(self) -> &'static str {
        match self {
            Self::MySql => "mysql",
            Self::Mongo => "mongodb",
        }
    }
}

/// One cluster.
pub struct Access {
    client: Client,
    /// Its kind.
    pub engine: Engine,
    /// Namespace of the cluster.
    pub namespace: String,
    /// Context of the kubeconfig, if not the current one.
    pub context: Option<String>,
    /// Its name.
    pub name: String,
}

impl Access {
    /// Access by the kubeconfig.
    pub async fn new(place: Place, name: String) -> Result<Self> {
        let options = KubeConfigOptions { context: place.context.clone(), ..KubeConfigOptions::default() };
        let config = Config::from_kubeconfig(&options).await.context("no Kubernetes: check KUBECONFIG and --context")?;
        let namespace = place.namespace.unwrap_or_else(|| config.default_namespace.clone());
        let (engine, name) = Engine::parse(&name)?;
        Ok(Self { client: Client::try_from(config)?, engine, namespace, context: place.context, name })
    }

    fn clusters(&self) -> Api<MySQLCluster> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// Makes sure that there is one.
    pub async fn exists(&self) -> Result<()> {
        if self.engine == Engine::MySql {
            return self.cluster().await.map(drop);
        }
        let sets = Api::<MongoReplicaSet>::namespaced(self.client.clone(), &self.namespace);
        let found = sets.get_opt(&self.name).await.with_context(|| format!("get MongoReplicaSet {}", self.name))?;
        ensure!(found.is_some(), "no MongoReplicaSet {} in namespace {}", self.name, self.namespace);
        Ok(())
    }

    /// The custom resource.
    pub async fn cluster(&self) -> Result<MySQLCluster> {
        ensure!(
            self.engine == Engine::MySql,
            "this verb is for MySQL; `logs` and `explain` also take a MongoReplicaSet, mrs/{}",
            self.name
        );
        match self.clusters().get_opt(&self.name).await {
            Ok(Some(cluster)) => Ok(cluster),
            Ok(None) => {
                let others = self.clusters().list(&ListParams::default()).await.map(|list| list.items).unwrap_or_default();
                let others: Vec<String> = others.iter().map(ResourceExt::name_any).collect();
                let there = if others.is_empty() { "there is none".to_owned() } else { format!("there are: {}", others.join(", ")) };
                bail!("no MySQLCluster {} in namespace {}; {there}", self.name, self.namespace)
            }
            Err(error) => Err(error).with_context(|| format!("get MySQLCluster {}", self.name)),
        }
    }

    /// Its pods, by name.
    pub async fn pods(&self) -> Result<Vec<Pod>> {
        let ours = ListParams::default().labels(&self.selector());
        let mut pods = Api::<Pod>::namespaced(self.client.clone(), &self.namespace).list(&ours).await.context("list pods")?.items;
        pods.sort_by_key(ResourceExt::name_any);
        Ok(pods)
    }

    /// Finds its pods.
    pub fn selector(&self) -> String {
        format!(
            "understudy.dev/cluster={},app.kubernetes.io/name={},app.kubernetes.io/managed-by=understudy",
            self.name,
            self.engine.label()
        )
    }

    /// Events about an object, oldest first; none when they may not be read.
    pub async fn events(&self, kind: &str, name: &str) -> Vec<Event> {
        let about = ListParams::default().fields(&format!("involvedObject.kind={kind},involvedObject.name={name}"));
        let list = Api::<Event>::namespaced(self.client.clone(), &self.namespace).list(&about).await;
        let mut events = list.map(|list| list.items).unwrap_or_default();
        events.sort_by_key(crate::status::event_time);
        events
    }

    /// The record of decisions, oldest first.
    pub async fn decisions(&self) -> Result<Vec<Decided>> {
        let name = decisions::name(&self.name);
        let maps = Api::<ConfigMap>::namespaced(self.client.clone(), &self.namespace);
        let map = maps.get_opt(&name).await.with_context(|| format!("get ConfigMap {name}"))?;
        let Some(text) = map.and_then(|map| map.data?.remove(KEY)) else { return Ok(Vec::new()) };
        serde_json::from_str(&text).with_context(|| format!("ConfigMap {name} is of another version"))
    }

    /// The newest decision; none when there is none or it may not be read.
    pub async fn newest(&self) -> Option<Decided> {
        self.decisions().await.ok()?.pop()
    }

    /// Sets an annotation to what `wanted` says of the cluster as it is; `None` removes it. Whoever writes the cluster in between, such as
    /// the operator with a new term, makes `wanted` be asked again.
    pub async fn annotate(&self, key: &str, wanted: impl Fn(&MySQLCluster) -> Result<Option<String>>) -> Result<MySQLCluster> {
        for _ in 0..ATTEMPTS {
            let cluster = self.cluster().await?;
            let value = wanted(&cluster)?;
            if cluster.annotations().get(key) == value.as_ref() {
                return Ok(cluster);
            }
            let patch = json!({"metadata": {"resourceVersion": cluster.resource_version(), "annotations": {key: value}}});
            let params = PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() };
            match self.clusters().patch(&self.name, &params, &Patch::Merge(&patch)).await {
                Ok(cluster) => return Ok(cluster),
                Err(kube::Error::Api(status)) if status.is_conflict() => {}
                Err(error) => return Err(error).with_context(|| format!("annotate MySQLCluster {} with {key}", self.name)),
            }
        }
        bail!("MySQLCluster {} is written by somebody else all the time; try again", self.name)
    }

    /// Takes `value` of an annotation back, if it still is that.
    pub async fn withdraw(&self, key: &str, value: &str) -> Result<()> {
        let ours = |cluster: &MySQLCluster| Ok(cluster.annotations().get(key).filter(|now| *now != value).cloned());
        self.annotate(key, ours).await.map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_is_named_as_kubectl_names_it() {
        assert_eq!(Engine::parse("shop").unwrap(), (Engine::MySql, "shop".to_owned()));
        assert_eq!(Engine::parse("myc/shop").unwrap(), (Engine::MySql, "shop".to_owned()));
        assert_eq!(Engine::parse("mrs/stock").unwrap(), (Engine::Mongo, "stock".to_owned()));
        assert!(Engine::parse("pod/stock").unwrap_err().to_string().contains("mrs/stock"));
    }
}
