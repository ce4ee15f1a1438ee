//! Probes and metrics in plain HTTP/1.1: for the kubelet and Prometheus. Nothing secret, nothing that changes anything.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::CONTENT_TYPE;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

use crate::metrics::Metrics;

/// A probe is one request; a connection is closed after it, and after this at the latest.
const DEADLINE: Duration = Duration::from_secs(10);
/// Connections at the same time; more wait in the kernel's backlog.
const MAX_CONNECTIONS: usize = 32;
/// Rest after `accept` failed: the process is out of descriptors.
const ACCEPT_REST: Duration = Duration::from_millis(200);
/// What Prometheus negotiates for this text.
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What is served.
#[derive(Debug, Default)]
pub struct Health {
    /// Whether the operator does its work, or stands by for another one that does.
    pub ready: AtomicBool,
    /// The metrics.
    pub metrics: Arc<Metrics>,
}

/// Serves on `listener` for ever.
pub async fn serve(listener: TcpListener, health: Arc<Health>) {
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return };
        let tcp = match listener.accept().await {
            Ok((tcp, _)) => tcp,
            Err(error) => {
                tracing::warn!(%error, "cannot accept probes");
                sleep(ACCEPT_REST).await;
                continue;
            }
        };
        let health = Arc::clone(&health);
        tokio::spawn(async move {
            let service = service_fn(|request| {
                let response = answer(&request, &health);
                async move { Ok::<_, Infallible>(response) }
            });
            let connection = http1::Builder::new().timer(TokioTimer::new()).keep_alive(false).serve_connection(TokioIo::new(tcp), service);
            if let Ok(Err(error)) = timeout(DEADLINE, connection).await {
                tracing::debug!(%error, "probe ended");
            }
            drop(slot);
        });
    }
}

fn answer<B>(request: &Request<B>, health: &Health) -> Response<Full<Bytes>> {
    let text = |status, body: &str| respond(status, "text/plain; charset=utf-8", format!("{body}\n"));
    if request.method() != Method::GET {
        return text(StatusCode::METHOD_NOT_ALLOWED, "GET only");
    }
    match request.uri().path() {
        // Who reads this got an answer: the one thread that does everything is not stuck.
        "/livez" => text(StatusCode::OK, "ok"),
        "/readyz" if health.ready.load(Ordering::Relaxed) => text(StatusCode::OK, "ok"),
        "/readyz" => text(StatusCode::SERVICE_UNAVAILABLE, "the watches have not begun"),
        "/metrics" => respond(StatusCode::OK, OPENMETRICS, health.metrics.text()),
        _ => text(StatusCode::NOT_FOUND, "no such route"),
    }
}

fn respond(status: StatusCode, content: &'static str, body: String) -> Response<Full<Bytes>> {
    Response::builder().status(status).header(CONTENT_TYPE, content).body(Full::from(body)).expect("a constant header is valid")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_lives_before_it_is_ready() {
        let health = Health::default();
        let status = |path: &str| answer(&Request::get(path).body(()).unwrap(), &health).status();
        assert_eq!((status("/livez"), status("/readyz")), (StatusCode::OK, StatusCode::SERVICE_UNAVAILABLE));
        health.ready.store(true, Ordering::Relaxed);
        assert_eq!((status("/readyz"), status("/metrics")), (StatusCode::OK, StatusCode::OK));
        assert_eq!(answer(&Request::post("/metrics").body(()).unwrap(), &health).status(), StatusCode::METHOD_NOT_ALLOWED);
    }
}
