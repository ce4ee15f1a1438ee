//! Everything that talks to Kubernetes: the cluster, its pods, Events and record of decisions, and one guarded annotation.

use anyhow::{Context, Result, bail};
use crds::decisions::{self, Decided, KEY};
use k8s_openapi::api::core::v1::{ConfigMap, Event, Pod};
use kube::api::{DynamicObject, ListParams, Patch, PatchParams};
use kube::config::KubeConfigOptions;
use kube::{Api, Client, Config, ResourceExt};
use serde_json::json;

use crate::cli::Place;
use crate::cluster::Cluster;
use crate::engine::Engine;

/// Who writes.
const MANAGER: &str = "kubectl-understudy";
/// Others write the same object now and then; always is a fault.
const ATTEMPTS: usize = 10;

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
        let client = Client::try_from(config)?;
        let (kind, name) = Engine::parse(&name)?;
        let engine = match kind {
            Some(engine) => engine,
            None => only(&client, &namespace, &name).await?,
        };
        Ok(Self { client, engine, namespace, context: place.context, name })
    }

    /// The cluster as it is.
    pub async fn cluster(&self) -> Result<Cluster> {
        match self.api().get(&self.name).await {
            Ok(object) => self.read(object),
            Err(error) if is_absent(&error) => bail!(none(&self.client, &self.namespace, &self.called()).await),
            Err(error) => Err(error).with_context(|| format!("get {}", self.called())),
        }
    }

    fn api(&self) -> Api<DynamicObject> {
        api(&self.client, self.engine, &self.namespace)
    }

    fn read(&self, object: DynamicObject) -> Result<Cluster> {
        self.engine.read(object).with_context(|| format!("{} is of another version", self.called()))
    }

    /// Kind and name.
    fn called(&self) -> String {
        format!("{} {}", self.engine.kind(), self.name)
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

    /// Events about the cluster.
    pub async fn own_events(&self) -> Vec<Event> {
        self.events(self.engine.kind(), &self.name).await
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
    pub async fn annotate(&self, key: &str, wanted: impl Fn(&Cluster) -> Result<Option<String>>) -> Result<Cluster> {
        for _ in 0..ATTEMPTS {
            let cluster = self.cluster().await?;
            let value = wanted(&cluster)?;
            if cluster.annotations.get(key) == value.as_ref() {
                return Ok(cluster);
            }
            let patch = json!({"metadata": {"resourceVersion": cluster.resource_version, "annotations": {key: value}}});
            let params = PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() };
            match self.api().patch(&self.name, &params, &Patch::Merge(&patch)).await {
                Ok(object) => return self.read(object),
                Err(kube::Error::Api(status)) if status.is_conflict() => {}
                Err(error) => return Err(error).with_context(|| format!("annotate {} with {key}", self.called())),
            }
        }
        bail!("{} is written by somebody else all the time; try again", self.called())
    }

    /// Takes `value` of an annotation back, if it still is that.
    pub async fn withdraw(&self, key: &str, value: &str) -> Result<()> {
        let ours = |cluster: &Cluster| Ok(cluster.annotations.get(key).filter(|now| *now != value).cloned());
        self.annotate(key, ours).await.map(drop)
    }
}

// === Which kind ===

/// The kind of which there is one with this name, if that is only one. A kind that may not be read, or is not installed, is none.
async fn only(client: &Client, namespace: &str, name: &str) -> Result<Engine> {
    let (mut found, mut forbidden) = (Vec::new(), None);
    for engine in Engine::ALL {
        match api(client, engine, namespace).get_metadata(name).await {
            Ok(_) => found.push(engine),
            Err(error) if is_absent(&error) => {}
            Err(kube::Error::Api(status)) if status.is_forbidden() => forbidden = Some(kube::Error::Api(status)),
            Err(error) => return Err(error).with_context(|| format!("get {} {name}", engine.kind())),
        }
    }
    match (found.as_slice(), forbidden) {
        ([one], _) => Ok(*one),
        ([], Some(error)) => {
            Err(error).with_context(|| format!("no {} is found", listed(" or ", |engine| format!("{} {name}", engine.kind()))))
        }
        ([], None) => bail!(none(client, namespace, &format!("{} {name}", listed(" or ", |engine| engine.kind().to_owned()))).await),
        _ => bail!(
            "there is more than one {name} in namespace {namespace}: write {}",
            listed(" or ", |engine| format!("{}/{name}", engine.short()))
        ),
    }
}

/// That `what` is not there, and what is.
async fn none(client: &Client, namespace: &str, what: &str) -> String {
    let mut there = Vec::new();
    for engine in Engine::ALL {
        let list = api(client, engine, namespace).list_metadata(&ListParams::default()).await;
        there.extend(list.into_iter().flat_map(|list| list.items).map(|object| format!("{}/{}", engine.short(), object.name_any())));
    }
    let there = if there.is_empty() { "there is none".to_owned() } else { format!("there are: {}", there.join(", ")) };
    format!("no {what} in namespace {namespace}; {there}")
}

/// There is no such object, or no such kind: of that the API server says no more than the code.
fn is_absent(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 404)
}

fn listed(between: &str, said: impl Fn(Engine) -> String) -> String {
    Engine::ALL.map(said).join(between)
}

fn api(client: &Client, engine: Engine, namespace: &str) -> Api<DynamicObject> {
    Api::namespaced_with(client.clone(), namespace, &engine.resource())
}
