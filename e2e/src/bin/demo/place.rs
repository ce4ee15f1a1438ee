//! Where the demo plays: the Kubernetes cluster, how to install into it, how to reach a database in it, and what can be done to one.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use crds::mysql::{MySQLCluster, MySQLClusterStatus};
use e2e::ui::Ui;
use e2e::{Lab, binaries, images, run};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{Namespace, PersistentVolumeClaim, Pod, Secret, Service};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, Preconditions};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config, ResourceExt};
use mysql_async::{Opts, OptsBuilder, SslOpts};
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;

const EXAMPLE: &str = include_str!("../../../../docs/examples/mysqlcluster.yaml");
/// The example's name.
pub const CLUSTER: &str = "shop";
const NAMESPACE: &str = "understudy-demo";
const OPERATOR_NAMESPACE: &str = "understudy-system";
/// Only a namespace with this label is the demo's to delete.
const MINE: &str = "understudy.dev/demo";
const MANAGER: &str = "understudy-demo";
const MYSQL_PORT: u16 = 3306;
/// Pulling two images over a slow line takes minutes.
const HEALTHY_DEADLINE: Duration = Duration::from_secs(15 * 60);
/// Longest line about a member, in characters; an error of MySQL can be a paragraph.
const LINE: usize = 110;
const GONE_DEADLINE: Duration = Duration::from_secs(5 * 60);

/// Whom a client wants to reach.
#[derive(Clone, Debug)]
pub enum Door {
    /// Through `shop-primary`.
    Primary,
    /// Through `shop-read`.
    Read,
    /// One member, by pod name.
    Member(String),
}

impl Door {
    /// The host name that the server's certificate must have.
    fn host(&self) -> String {
        match self {
            Self::Primary => format!("{CLUSTER}-primary.{NAMESPACE}.svc"),
            Self::Read => format!("{CLUSTER}-read.{NAMESPACE}.svc"),
            Self::Member(pod) => format!("{pod}.{CLUSTER}.{NAMESPACE}.svc"),
        }
    }
}

/// A Kubernetes cluster to play in.
pub struct Place {
    client: Client,
    helm: PathBuf,
    checkout: PathBuf,
    image: String,
    /// How a person says it; `None` is the lab.
    context: Option<String>,
    kubeconfig: Option<PathBuf>,
    mysql_image: Option<String>,
}

impl Place {
    /// The lab of this machine.
    pub async fn lab(image: Option<String>, mysql_image: Option<String>) -> Result<Self> {
        let lab = Lab::attach().await?;
        Ok(Self {
            client: lab.client().clone(),
            helm: binaries::helm_path(lab.dirs()),
            checkout: lab.dirs().checkout.clone(),
            image: image.unwrap_or_else(|| images::UNDERSTUDY.into()),
            context: None,
            kubeconfig: Some(lab.kubeconfig()),
            mysql_image: Some(mysql_image.unwrap_or_else(|| images::MYSQL.into())),
        })
    }

    /// Somebody's cluster. Nothing of the lab is needed.
    pub async fn context(context: &str, image: Option<String>, mysql_image: Option<String>) -> Result<Self> {
        let options = KubeConfigOptions { context: Some(context.into()), ..Default::default() };
        let config = Config::from_custom_kubeconfig(Kubeconfig::read()?, &options).await.context("see `kubectl config get-contexts`")?;
        let helm = PathBuf::from("helm");
        run::output(run::command(&helm).arg("version")).await.context("helm is needed to install the chart: https://helm.sh")?;
        Ok(Self {
            client: Client::try_from(config)?,
            helm,
            checkout: e2e::dirs::Dirs::from_env()?.checkout,
            image: image.unwrap_or_else(|| format!("ghcr.io/understudy-dev/understudy:{}", env!("CARGO_PKG_VERSION"))),
            context: Some(context.into()),
            kubeconfig: None,
            mysql_image,
        })
    }

    /// CRDs, because Helm never updates them, then the chart.
    pub async fn install(&self) -> Result<()> {
        for crd in crds::all() {
            let api = Api::<CustomResourceDefinition>::all(self.client.clone());
            api.patch(&crd.name_any(), &PatchParams::apply(MANAGER).force(), &Patch::Apply(&crd)).await?;
        }
        let (repository, version) = match self.image.split_once('@') {
            Some((repository, digest)) => (repository, format!("image.digest={digest}")),
            None => match self.image.rsplit_once(':').filter(|(_, tag)| !tag.contains('/')) {
                Some((repository, tag)) => (repository, format!("image.tag={tag}")),
                None => (self.image.as_str(), "image.tag=latest".into()),
            },
        };
        let mut helm = self.helm();
        helm.args(["upgrade", "--install", "understudy"])
            .arg(self.checkout.join("charts/understudy"))
            .args(["--namespace", OPERATOR_NAMESPACE, "--create-namespace", "--skip-crds", "--wait", "--timeout", "5m"])
            .args(["--set-string", &format!("image.repository={repository},{version}")])
            // The same tag may hold a newer build: let the pod start anew.
            .args(["--set-string", &format!("podAnnotations.understudy\\.dev/demo={}", std::process::id())]);
        run::output(&mut helm).await.map(drop)
    }

    /// A namespace of its own, with Pod Security *restricted* enforced, and the example in it.
    pub async fn begin(&self, ui: &Ui) -> Result<()> {
        let namespaces = Api::<Namespace>::all(self.client.clone());
        if let Some(old) = namespaces.get_opt(NAMESPACE).await? {
            ensure!(old.labels().contains_key(MINE), "namespace {NAMESPACE} exists and is not the demo's: delete or rename it");
            namespaces.delete(NAMESPACE, &DeleteParams::default()).await?;
            let gone = run::wait("the earlier demo to be gone", GONE_DEADLINE, async || {
                Ok(namespaces.get_opt(NAMESPACE).await?.is_none().then_some(()))
            });
            ui.step("remove what an earlier demo left", gone).await?;
        }
        let labels = BTreeMap::from([(MINE, "true"), ("pod-security.kubernetes.io/enforce", "restricted")]);
        let namespace = serde_json::from_value(json!({"metadata": {"name": NAMESPACE, "labels": labels}}))?;
        namespaces.create(&PostParams::default(), &namespace).await?;
        let mut cluster: MySQLCluster = serde_yaml::from_str(EXAMPLE)?;
        if let Some(image) = &self.mysql_image {
            cluster.spec.image.clone_from(image);
        }
        self.clusters().create(&PostParams::default(), &cluster).await?;
        Ok(())
    }

    /// Waits for `members` healthy members, showing each change on the way; the pod with the UID `lost` must have been replaced.
    pub async fn healthy(&self, members: u8, lost: Option<&str>, ui: &Ui) -> Result<MySQLCluster> {
        let mut shown = BTreeMap::new();
        let wanted = format!("{members}/{members}");
        let wait = run::wait("the cluster to be Healthy", HEALTHY_DEADLINE, async || {
            let cluster = self.clusters().get(CLUSTER).await?;
            let Some(status) = &cluster.status else { return Ok(None) };
            for (who, line) in lines(status) {
                if shown.insert(who, line.clone()).is_none_or(|old| old != line) {
                    ui.say(&format!("     {line}"));
                }
            }
            let pods = self.pods().list(&ListParams::default()).await?;
            let replaced = pods.iter().all(|pod| pod.metadata.uid.as_deref() != lost) && pods.iter().all(is_ready);
            let current = status.observed_generation == cluster.metadata.generation;
            if replaced && current && status.state == "Healthy" && status.ready == wanted {
                return Ok(Some(cluster));
            }
            bail!("it is {}, {} ready: {}", status.state, status.ready, status.reason)
        });
        ui.step(&format!("{members} members"), wait).await
    }

    /// Changes `spec.replicas`, as `kubectl scale` does.
    pub async fn scale(&self, members: u8) -> Result<()> {
        let patch = json!({"spec": {"replicas": members}});
        self.clusters().patch_scale(CLUSTER, &PatchParams::default(), &Patch::Merge(patch)).await?;
        Ok(())
    }

    /// Deletes a pod; returns its UID.
    pub async fn lose_pod(&self, pod: &str) -> Result<String> {
        let uid = self.pods().get(pod).await?.uid().context("a pod has a UID")?;
        self.pods().delete(pod, &DeleteParams::default()).await?;
        Ok(uid)
    }

    /// Deletes a member's claim with its data, and its pod; returns the pod's UID once the StatefulSet has made another claim.
    pub async fn lose_volume(&self, pod: &str) -> Result<String> {
        let claims = Api::<PersistentVolumeClaim>::namespaced(self.client.clone(), NAMESPACE);
        let claim = format!("data-{pod}");
        let old = claims.get(&claim).await?.uid();
        claims.delete(&claim, &DeleteParams::default()).await?;
        let mut last = self.lose_pod(pod).await?;
        run::wait(&format!("a new claim {claim}"), GONE_DEADLINE, async || {
            if claims.get_opt(&claim).await?.is_some_and(|new| new.uid() != old) {
                return Ok(Some(()));
            }
            // A pod that was made before the claim was gone holds on to it.
            if let Some(uid) = self.pods().get_opt(pod).await?.and_then(|pod| pod.uid()).filter(|uid| *uid != last) {
                let only_this = Preconditions { uid: Some(uid.clone()), resource_version: None };
                self.pods().delete(pod, &DeleteParams::default().preconditions(only_this)).await?;
                last = uid;
            }
            Ok(None)
        })
        .await?;
        Ok(last)
    }

    /// How to log in there as the application: TLS, checked against the cluster's own CA.
    pub async fn open(&self, door: Door) -> Result<Opts> {
        let host = door.host();
        let (address, port) = if self.context.is_some() { self.forward(door).await? } else { (self.address(&door).await?, MYSQL_PORT) };
        let app = self.secret(&format!("{CLUSTER}-app")).await?;
        let text = |key: &str| -> Result<String> {
            Ok(String::from_utf8(app.get(key).with_context(|| format!("the Secret has no {key}"))?.0.clone())?)
        };
        let authority = self.secret(&format!("{CLUSTER}-tls")).await?.remove("ca.crt").context("the Secret has no ca.crt")?.0;
        let tls = SslOpts::default()
            .with_disable_built_in_roots(true)
            .with_root_certs(vec![authority.into()])
            .with_danger_tls_hostname_override(Some(host));
        let opts = OptsBuilder::default().ip_or_hostname(address).tcp_port(port).prefer_socket(false).ssl_opts(tls);
        Ok(opts.user(Some(text("username")?)).pass(Some(text("password")?)).db_name(Some(text("database")?)).into())
    }

    /// Commands for the reader.
    pub fn look_around(&self) -> String {
        let kubectl = match &self.context {
            Some(context) => format!("kubectl --context {context}"),
            None => "cargo run -q --bin lab -- kubectl".into(),
        };
        ["get myc,pods,pvc,svc", "describe myc shop", "get events --sort-by=.lastTimestamp", "logs shop-1 -c sidecar"]
            .map(|command| format!("  {kubectl} -n {NAMESPACE} {command}\n"))
            .concat()
    }

    /// Commands that undo the demo.
    pub fn tear_down(&self) -> String {
        match &self.context {
            Some(context) => format!(
                "  kubectl --context {context} delete namespace {NAMESPACE}\n  helm --kube-context {context} -n {OPERATOR_NAMESPACE} uninstall understudy"
            ),
            None => "  make lab-down".into(),
        }
    }

    fn helm(&self) -> Command {
        let mut helm = run::command(&self.helm);
        if let Some(kubeconfig) = &self.kubeconfig {
            helm.env("KUBECONFIG", kubeconfig);
        }
        if let Some(context) = &self.context {
            helm.args(["--kube-context", context]);
        }
        helm
    }

    fn clusters(&self) -> Api<MySQLCluster> {
        Api::namespaced(self.client.clone(), NAMESPACE)
    }

    fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.client.clone(), NAMESPACE)
    }

    async fn secret(&self, name: &str) -> Result<BTreeMap<String, ByteString>> {
        Ok(Api::<Secret>::namespaced(self.client.clone(), NAMESPACE).get(name).await?.data.unwrap_or_default())
    }

    /// In the lab this machine reaches Services and pods itself.
    async fn address(&self, door: &Door) -> Result<String> {
        let service = |name: String| async move {
            let found = Api::<Service>::namespaced(self.client.clone(), NAMESPACE).get(&name).await?;
            found.spec.and_then(|spec| spec.cluster_ip).with_context(|| format!("Service {name} has no address"))
        };
        match door {
            Door::Primary => service(format!("{CLUSTER}-primary")).await,
            Door::Read => service(format!("{CLUSTER}-read")).await,
            Door::Member(pod) => {
                self.pods().get(pod).await?.status.and_then(|status| status.pod_ip).with_context(|| format!("{pod} has no address"))
            }
        }
    }

    /// Elsewhere a local port stands for the door; each connection asks anew which pod is behind it, as a Service would.
    async fn forward(&self, door: Door) -> Result<(String, u16)> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let local = listener.local_addr()?;
        let (pods, clusters) = (self.pods(), self.clusters());
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let (pods, clusters, door) = (pods.clone(), clusters.clone(), door.clone());
                // A connection that fails is closed, and its client tries again.
                tokio::spawn(async move { carry(socket, &pods, &clusters, door).await });
            }
        });
        Ok((local.ip().to_string(), local.port()))
    }
}

async fn carry(mut socket: TcpStream, pods: &Api<Pod>, clusters: &Api<MySQLCluster>, door: Door) -> Result<()> {
    let pod = match door {
        Door::Member(pod) => pod,
        Door::Primary => clusters.get(CLUSTER).await?.status.and_then(|status| status.primary).context("no primary")?,
        Door::Read => {
            let members = pods.list(&ListParams::default().labels(&format!("understudy.dev/cluster={CLUSTER}"))).await?;
            members.items.iter().rfind(|pod| is_ready(pod)).map(ResourceExt::name_any).context("no ready member")?
        }
    };
    let mut forwarder = pods.portforward(&pod, &[MYSQL_PORT]).await?;
    let mut stream = forwarder.take_stream(MYSQL_PORT).context("the stream was asked for")?;
    tokio::io::copy_bidirectional(&mut socket, &mut stream).await?;
    Ok(())
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    pod.metadata.deletion_timestamp.is_none()
        && conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// A status as a person wants it: a line for the state, and one a member, each with the name it is about.
fn lines(status: &MySQLClusterStatus) -> Vec<(String, String)> {
    let mut lines = vec![(String::new(), status.state.clone())];
    lines.extend(status.members.iter().map(|member| {
        let ready = if member.ready { ", ready" } else { "" };
        let donor = member.cloned_from.as_ref().map(|donor| format!(", cloned from {donor}")).unwrap_or_default();
        let message = member.message.as_ref().map(|message| format!(": {message}")).unwrap_or_default();
        let mut line = format!("{} {}{ready}{donor}{message}", member.name, member.role);
        if let Some((end, _)) = line.char_indices().nth(LINE) {
            line.replace_range(end.., "…");
        }
        (member.name.clone(), line)
    }));
    lines
}
