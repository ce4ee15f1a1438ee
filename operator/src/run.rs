//! `operator run`: everything is started here, in order, and stopped here.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::StreamExt;
use futures::future::{BoxFuture, join_all, select_all};
use hyper::header::{HeaderValue, USER_AGENT};
use kube::api::ListParams;
use kube::runtime::controller;
use kube::{Client, Config, Resource};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use crate::cli::Run;
use crate::context::Context;
use crate::engine::Engine;
use crate::events::Events;
use crate::lease::{Candidate, Held, Lost};
use crate::members::Members;
use crate::metrics::Metrics;
use crate::mongo::Mongo;
use crate::mysql::MySql;
use crate::pauses;
use crate::reconcile::reconcile;
use crate::redis::Redis;
use crate::server::{self, Health};
use crate::wake::Wake;
use crate::watches::{self, ClusterRef, Guarded, Scope};

/// Clusters looked at in the same moment; the rest wait their turn.
const CONCURRENCY: u16 = 32;
/// Reconciles under way may end; they can also be cut off anywhere.
const GRACE: Duration = Duration::from_secs(4);
/// The API server may still be out of reach when the first pod of a node starts.
const FIRST_ANSWER: Duration = Duration::from_secs(30);
/// How often it is looked whether a kind that was not defined is, at least. Jitter adds up to as much again.
const UNDEFINED: Duration = Duration::from_secs(30);
/// Connecting to the API server.
const CONNECT: Duration = Duration::from_secs(5);

/// Why the operator ended.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// No address of an API server.
    #[error("no Kubernetes: {0}; set KUBECONFIG, or run in a pod with a ServiceAccount")]
    NoKubernetes(#[source] kube::config::InferConfigError),
    /// The client cannot be made.
    #[error("Kubernetes client: {0}")]
    Client(#[source] kube::Error),
    /// No kind is defined.
    #[error("no CRD of Understudy found; kubectl apply -f crds/yaml")]
    NoDefinition,
    /// Rights are missing.
    #[error("the operator may not list its custom resources ({0}); install its RBAC rules with the chart")]
    Forbidden(String),
    /// No answer.
    #[error("the API server does not answer: {0}")]
    Unreachable(#[source] kube::Error),
    /// The port cannot be used.
    #[error("listen on {0}: {1}")]
    Listen(SocketAddr, #[source] std::io::Error),
    /// No signals.
    #[error("signals: {0}")]
    Signals(#[source] std::io::Error),
    /// Another operator leads.
    #[error(transparent)]
    Lost(#[from] Lost),
}

/// Serves custom resources until a signal tells it to stop.
///
/// # Errors
/// When it cannot start, or lost its Lease.
pub async fn run(options: Run) -> Result<(), RunError> {
    // Somebody may have installed one already, in a test; every provider here is this one.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let stop = signals().map_err(RunError::Signals)?;
    let listener = TcpListener::bind(options.health_address).await.map_err(|error| RunError::Listen(options.health_address, error))?;
    let health = Arc::new(Health::default());
    tokio::spawn(server::serve(listener, Arc::clone(&health)));
    serve(client().await?, &options, health, stop).await
}

/// Serves custom resources until `stop` is true.
///
/// # Errors
/// When it cannot start, or lost its Lease.
pub async fn serve(client: Client, options: &Run, health: Arc<Health>, stop: watch::Receiver<bool>) -> Result<(), RunError> {
    let scopes = scopes(&options.namespaces);
    let mut found = false;
    for scope in &scopes {
        found |= probe::<MySql>(&client, scope).await? | probe::<Mongo>(&client, scope).await? | probe::<Redis>(&client, scope).await?;
    }
    if !found {
        return Err(RunError::NoDefinition);
    }
    let mut held = None;
    if options.leader_elect {
        // Standing by is what a second operator is for.
        health.ready.store(true, Ordering::Relaxed);
        let candidate = Candidate::new(&client, &options.pod_namespace, &options.lease, &options.pod_name);
        held = tokio::select! {
            held = candidate.acquire() => Some(held),
            () = stopped(stop.clone()) => return Ok(()),
        };
    }
    let events = Events::start(client.clone(), options.pod_name.clone());
    let start = Start { client: &client, metrics: &health.metrics, events: &events, sidecar_image: &options.sidecar_image, stop: &stop };
    let mut controllers = Vec::new();
    let mut ready = Vec::new();
    for scope in &scopes {
        // One line an engine.
        let engines = [start.engine::<MySql>(scope).await?, start.engine::<Mongo>(scope).await?, start.engine::<Redis>(scope).await?];
        for Served { ready: watches, controller } in engines {
            ready.extend(watches);
            controllers.push(controller);
        }
    }
    // Ends with this function: nothing of a server that was dropped goes on.
    let mut background = JoinSet::new();
    background.spawn(all_ready(ready, health));
    tracing::info!(version = env!("CARGO_PKG_VERSION"), namespaces = ?options.namespaces, "serving");
    let end = tokio::select! {
        _ = select_all(&mut controllers) => Ok(()),
        () = stopped(stop) => {
            if timeout(GRACE, join_all(controllers)).await.is_err() {
                tracing::warn!("a reconcile did not end in time; it resumes at the next start");
            }
            Ok(())
        }
        lost = keep(held.as_mut()) => Err(RunError::from(lost)),
    };
    match (&end, held) {
        (Ok(()), Some(held)) => held.release().await,
        (Err(error), _) => tracing::error!(%error, "ending"),
        _ => {}
    }
    end
}

/// What every controller shares.
struct Start<'a> {
    client: &'a Client,
    metrics: &'a Arc<Metrics>,
    events: &'a Events,
    sidecar_image: &'a str,
    stop: &'a watch::Receiver<bool>,
}

/// One engine in one scope.
struct Served {
    /// Ends when every watch has shown what there is; absent while the kind is not defined.
    ready: Option<BoxFuture<'static, ()>>,
    /// Runs when it is polled, until the operator stops.
    controller: BoxFuture<'static, ()>,
}

impl Start<'_> {
    async fn engine<E: Engine>(&self, scope: &Scope) -> Result<Served, RunError> {
        let defined = probe::<E>(self.client, scope).await?;
        let (context, controller) = self.controller::<E>(scope);
        if defined {
            return Ok(Served { ready: Some(Box::pin(watched(context))), controller });
        }
        // A chart's upgrade brings no new definitions: the clusters of the other engines must not wait for somebody to add it.
        let kind = E::Kind::kind(&());
        tracing::warn!(%kind, "CRD not found, so these clusters are not served until it is there; kubectl apply -f crds/yaml");
        let (client, scope, stop) = (self.client.clone(), scope.clone(), self.stop.clone());
        let controller = async move {
            tokio::select! {
                () = defined_at_last::<E>(&client, &scope) => controller.await,
                () = stopped(stop) => {}
            }
        };
        Ok(Served { ready: None, controller: Box::pin(controller) })
    }

    fn controller<E: Engine>(&self, scope: &Scope) -> (Arc<Context<E>>, BoxFuture<'static, ()>) {
        let wake = Wake::default();
        let members = Arc::new(Members::<E>::new(wake.clone()));
        self.metrics.listen_to(Arc::clone(&members));
        let (controller, caches) = watches::start::<E>(self.client, scope);
        let (metrics, image) = (Arc::clone(self.metrics), self.sidecar_image.to_owned());
        let context = Arc::new(Context::new(self.client.clone(), caches, members, metrics, self.events.clone(), image));
        let forgetful = Arc::clone(&context);
        let reconciles = controller
            .with_config(controller::Config::default().concurrency(CONCURRENCY))
            .reconcile_on(wake.stream().map(|cluster| cluster.object::<E>()))
            .graceful_shutdown_on(stopped(self.stop.clone()))
            .run(reconcile::<E>, |_: Arc<Guarded<E>>, error, _| match *error {}, Arc::clone(&context));
        let run = reconciles.for_each(move |end| {
            match end {
                Ok(_) => {}
                // What belonged to it may outlive it for a moment.
                Err(controller::Error::ObjectNotFound(gone)) => {
                    forgetful.forget(&ClusterRef { namespace: gone.namespace.unwrap_or_default(), name: gone.name });
                }
                Err(error) => tracing::warn!(%error, "controller"),
            }
            std::future::ready(())
        });
        (context, Box::pin(run))
    }
}

/// Ends when every watch of `context` has shown what there is.
async fn watched<E: Engine>(context: Arc<Context<E>>) {
    while let Err(error) = context.caches.ready().await {
        tracing::warn!(%error, "not ready yet");
    }
}

/// Says so when all of them are.
async fn all_ready(watches: Vec<BoxFuture<'static, ()>>, health: Arc<Health>) {
    join_all(watches).await;
    health.ready.store(true, Ordering::Relaxed);
}

/// Ends when the kind is defined.
async fn defined_at_last<E: Engine>(client: &Client, scope: &Scope) {
    loop {
        sleep(pauses::about(UNDEFINED)).await;
        match probe::<E>(client, scope).await {
            Ok(true) => return,
            Ok(false) => {}
            Err(error) => tracing::warn!(%error, "cannot look for the CRD"),
        }
    }
}

/// One controller a namespace, or one for all.
fn scopes(namespaces: &[String]) -> Vec<Scope> {
    let named: Vec<Scope> = namespaces.iter().filter(|name| !name.is_empty()).map(|name| Scope(Some(name.clone()))).collect();
    if named.is_empty() { vec![Scope(None)] } else { named }
}

async fn client() -> Result<Client, RunError> {
    let mut config = Config::infer().await.map_err(RunError::NoKubernetes)?;
    config.headers.push((USER_AGENT, HeaderValue::from_static(concat!("understudy/", env!("CARGO_PKG_VERSION")))));
    // kube would send any request up to 15 times again, also those that create; every pass here resumes by itself.
    config.default_retry = false;
    config.connect_timeout = Some(CONNECT);
    // No read timeout: watches are silent for long. Watches have their own, and every other call ends with its pass.
    config.read_timeout = None;
    Client::try_from(config).map_err(RunError::Client)
}

/// Whether the custom resources of an engine are defined; an error when they cannot be listed.
async fn probe<E: Engine>(client: &Client, scope: &Scope) -> Result<bool, RunError> {
    let (begun, mut pause) = (Instant::now(), pauses::growing(Duration::from_millis(100), Duration::from_secs(2)));
    loop {
        let error = match scope.api::<Guarded<E>>(client).list(&ListParams::default().limit(1)).await {
            Ok(_) => return Ok(true),
            // By its code: an unknown path has no reason that the client knows.
            Err(kube::Error::Api(status)) if status.code == 404 => return Ok(false),
            Err(kube::Error::Api(status)) if status.is_forbidden() => return Err(RunError::Forbidden(status.message.clone())),
            Err(error) => error,
        };
        if begun.elapsed() > FIRST_ANSWER {
            return Err(RunError::Unreachable(error));
        }
        tracing::warn!(%error, "the API server does not answer yet");
        sleep(pause.next().unwrap_or(CONNECT)).await;
    }
}

async fn keep(held: Option<&mut Held>) -> Lost {
    match held {
        Some(held) => held.keep().await,
        None => std::future::pending().await,
    }
}

/// Turns true at SIGTERM or SIGINT.
fn signals() -> std::io::Result<watch::Receiver<bool>> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let (sender, receiver) = watch::channel(false);
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("stopping");
        let _ = sender.send(true);
    });
    Ok(receiver)
}

async fn stopped(mut stop: watch::Receiver<bool>) {
    // An error is a sender that is gone: the task that waits for signals never is, before they came.
    let _ = stop.wait_for(|stop| *stop).await;
}
