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
use kube::{Client, Config};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use crate::cli::Run;
use crate::context::Context;
use crate::events::Events;
use crate::lease::{Candidate, Held, Lost};
use crate::members::Members;
use crate::metrics::Metrics;
use crate::pauses;
use crate::reconcile::reconcile;
use crate::server::{self, Health};
use crate::wake::Wake;
use crate::watches::{self, ClusterRef, Guarded, Scope};

/// Clusters looked at in the same moment; the rest wait their turn.
const CONCURRENCY: u16 = 32;
/// Reconciles under way may end; they can also be cut off anywhere.
const GRACE: Duration = Duration::from_secs(4);
/// The API server may still be out of reach when the first pod of a node starts.
const FIRST_ANSWER: Duration = Duration::from_secs(30);
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
    /// The definition is missing.
    #[error("MySQLCluster CRD not found; kubectl apply -f crds/yaml")]
    NoDefinition,
    /// Rights are missing.
    #[error("the operator may not list MySQLClusters ({0}); install its RBAC rules with the chart")]
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
    for scope in &scopes {
        probe(&client, scope).await?;
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
    let (contexts, mut controllers): (Vec<_>, Vec<_>) =
        scopes.iter().map(|scope| controller(&client, scope, &health.metrics, &events, &options.sidecar_image, stop.clone())).unzip();
    // Ends with this function: nothing of a server that was dropped goes on.
    let mut background = JoinSet::new();
    background.spawn(ready(contexts, health));
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

/// The controller of one scope; it runs when it is polled, until `stop`.
fn controller(
    client: &Client,
    scope: &Scope,
    metrics: &Arc<Metrics>,
    events: &Events,
    sidecar_image: &str,
    stop: watch::Receiver<bool>,
) -> (Arc<Context>, BoxFuture<'static, ()>) {
    let wake = Wake::default();
    let members = Arc::new(Members::new(wake.clone()));
    metrics.listen_to(Arc::clone(&members));
    let (controller, caches) = watches::start(client, scope);
    let context = Context::new(client.clone(), caches, members, Arc::clone(metrics), events.clone(), sidecar_image.to_owned());
    let context = Arc::new(context);
    let forgetful = Arc::clone(&context);
    let reconciles = controller
        .with_config(controller::Config::default().concurrency(CONCURRENCY))
        .reconcile_on(wake.stream())
        .graceful_shutdown_on(stopped(stop))
        .run(reconcile, |_: Arc<Guarded>, error, _| match *error {}, Arc::clone(&context));
    let run = reconciles.for_each(move |end| {
        match end {
            Ok(_) => {}
            // What belonged to it may outlive it for a moment.
            Err(controller::Error::ObjectNotFound(gone)) => {
                forgetful.forget(&ClusterRef::new(&gone.name).within(gone.namespace.as_deref().unwrap_or_default()));
            }
            Err(error) => tracing::warn!(%error, "controller"),
        }
        std::future::ready(())
    });
    (context, Box::pin(run))
}

/// Says so when every watch has shown what there is.
async fn ready(contexts: Vec<Arc<Context>>, health: Arc<Health>) {
    for context in contexts {
        while let Err(error) = context.caches.ready().await {
            tracing::warn!(%error, "not ready yet");
        }
    }
    health.ready.store(true, Ordering::Relaxed);
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

/// Whether custom resources can be listed at all.
async fn probe(client: &Client, scope: &Scope) -> Result<(), RunError> {
    let (begun, mut pause) = (Instant::now(), pauses::growing(Duration::from_millis(100), Duration::from_secs(2)));
    loop {
        let error = match scope.api::<Guarded>(client).list(&ListParams::default().limit(1)).await {
            Ok(_) => return Ok(()),
            // By its code: an unknown path has no reason that the client knows.
            Err(kube::Error::Api(status)) if status.code == 404 => return Err(RunError::NoDefinition),
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
