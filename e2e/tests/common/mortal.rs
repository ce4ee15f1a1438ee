//! An operator that dies: its client counts writes, and after the last one that it is allowed nothing is answered any more.

use std::future::{Future, pending};
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

use anyhow::{Context, Result};
use hyper::{Method, Request, Response};
use kube::Config;
use kube::client::{Body, ClientBuilder};
use kube::config::{KubeConfigOptions, Kubeconfig};
use operator::cli::Run;
use operator::run::serve;
use operator::server::Health;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tower::{Layer, Service as TowerService};

/// Whoever is told to stop ends what it is at.
const STOP: Duration = Duration::from_secs(60);

/// Counts writes, Events aside, and answers nothing any more from the last one that is allowed.
#[derive(Clone)]
pub struct Writes {
    done: Arc<AtomicUsize>,
    crash_after: Arc<AtomicUsize>,
}

impl Writes {
    pub fn new(crash_after: usize) -> Self {
        Self { done: Arc::default(), crash_after: Arc::new(crash_after.into()) }
    }

    /// How many were done until now.
    pub fn done(&self) -> usize {
        self.done.load(Ordering::SeqCst)
    }

    /// So many more than now, and none after them.
    #[allow(dead_code, reason = "one of those who share this file says it from the start")]
    pub fn allow(&self, more: usize) {
        self.crash_after.store(self.done() + more, Ordering::SeqCst);
    }

    /// Whether the last one was done.
    pub fn are_spent(&self) -> bool {
        self.done() >= self.crash_after.load(Ordering::SeqCst)
    }
}

#[derive(Clone)]
pub struct Wire<S> {
    inner: S,
    writes: Writes,
}

impl<S> Layer<S> for Writes {
    type Service = Wire<S>;

    fn layer(&self, inner: S) -> Wire<S> {
        Wire { inner, writes: self.clone() }
    }
}

impl<S, B> TowerService<Request<Body>> for Wire<S>
where
    S: TowerService<Request<Body>, Response = Response<B>>,
    S::Future: Send + 'static,
    B: Send + 'static,
    S::Error: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut TaskContext<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let is_write = request.method() != Method::GET && !request.uri().path().contains("/events");
        if self.writes.are_spent() {
            return Box::pin(pending());
        }
        let (writes, answer) = (self.writes.clone(), self.inner.call(request));
        Box::pin(async move {
            let answer = answer.await;
            if is_write {
                writes.done.fetch_add(1, Ordering::SeqCst);
                // The write is done and its answer is lost: the moment at which most is left behind.
                if writes.are_spent() {
                    return pending().await;
                }
            }
            answer
        })
    }
}

/// An operator of its own, which ends when this is dropped.
pub struct Operator {
    runtime: Option<Runtime>,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Operator {
    /// Starts it.
    pub async fn start(kubeconfig: &Path, options: Run, writes: &Writes) -> Result<Self> {
        let mut config = Config::from_custom_kubeconfig(Kubeconfig::read_from(kubeconfig)?, &KubeConfigOptions::default()).await?;
        config.default_retry = false;
        let client = ClientBuilder::try_from(config)?.with_layer(writes).build();
        let (stop, stopped) = watch::channel(false);
        // A runtime of its own dies whole, tasks and all, as a process does.
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let task = runtime.spawn(async move {
            if let Err(error) = serve(client, &options, Arc::new(Health::default()), stopped).await {
                eprintln!("operator: {error}");
            }
        });
        Ok(Self { runtime: Some(runtime), stop, task })
    }

    /// As SIGTERM does.
    pub async fn stop(mut self) -> Result<()> {
        self.stop.send(true)?;
        timeout(STOP, &mut self.task).await.context("it did not stop in time")??;
        Ok(())
    }
}

impl Drop for Operator {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
