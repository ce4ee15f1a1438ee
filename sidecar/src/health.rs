//! Probes and metrics in plain HTTP/1.1: for the kubelet and Prometheus. Nothing secret, nothing that changes anything.
//!
//! Metrics are read from the state when they are scraped; nothing is counted in between.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::CONTENT_TYPE;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge;
use prometheus_client::registry::Registry;
use sidecar_protocol::probe;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, timeout};
use tracing::{debug, warn};

use crate::engine::{Engine, Gauge, Missed, float};
use crate::hub::Hub;

/// This member's report, in standalone mode only: there is no API port to ask.
pub const REPORT: &str = "/v1/report";
/// A probe is one request; a connection is closed after it, and after this at the latest, but for one that waits to be released.
const DEADLINE: Duration = Duration::from_secs(10);
/// Connections at the same time; more wait in the kernel's backlog.
const MAX_CONNECTIONS: usize = 32;
/// Callers that wait to be released at the same time: one kubelet, and some in reserve.
const MAX_RELEASES: usize = 4;
/// How long a closed member stays for the others. They need a few tenths of a second; one that a person fenced is closed for ever.
const CLOSED: Duration = Duration::from_secs(5);
/// How often it is asked whether there is still somebody who could take over.
const RELEASE_PERIOD: Duration = Duration::from_millis(250);
/// Rest after `accept` failed: the process is out of descriptors.
const ACCEPT_REST: Duration = Duration::from_millis(200);
/// What Prometheus negotiates for this text.
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Serves `hub`'s probes on `listener` for ever. Who asks to be released waits for `patience` at most.
pub async fn serve<E: Engine>(listener: TcpListener, hub: Arc<Hub<E>>, patience: Duration, standalone: bool) {
    let releases = Arc::new(Semaphore::new(MAX_RELEASES));
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return };
        let tcp = match listener.accept().await {
            Ok((tcp, _)) => tcp,
            Err(error) => {
                warn!(%error, "cannot accept probes");
                sleep(ACCEPT_REST).await;
                continue;
            }
        };
        let (hub, releases) = (Arc::clone(&hub), Arc::clone(&releases));
        tokio::spawn(async move {
            let (hub, releases) = (&hub, &releases);
            let service = service_fn(|request: Request<Incoming>| async move {
                if request.method() == Method::GET && request.uri().path() == probe::RELEASE {
                    return Ok::<_, Infallible>(release(hub, releases, patience).await);
                }
                Ok(answer(&request, hub, standalone))
            });
            let mut builder = http1::Builder::new();
            builder.timer(TokioTimer::new()).header_read_timeout(DEADLINE).keep_alive(false);
            let connection = builder.serve_connection(TokioIo::new(tcp), service);
            if let Ok(Err(error)) = timeout(patience + DEADLINE, connection).await {
                debug!(%error, "probe ended");
            }
            drop(slot);
        });
    }
}

/// Answers when the database may end without anybody missing it, or when patience does.
async fn release<E: Engine>(hub: &Hub<E>, releases: &Semaphore, patience: Duration) -> Response<Full<Bytes>> {
    let Ok(_place) = releases.try_acquire() else {
        return text(StatusCode::SERVICE_UNAVAILABLE, "too many wait already");
    };
    hub.engine().leave();
    let released = async {
        let (mut changes, mut closed) = (hub.changes(), None);
        loop {
            let deserted = hub.guard().deserted();
            match E::missed(&hub.report().state) {
                Missed::ByClients => {
                    closed = None;
                    if deserted {
                        // Of a cluster that is deleted or hibernates all members go: nobody is left to take over, and it closes first.
                        hub.guard().leave();
                    }
                }
                Missed::ByMembers if !deserted && closed.get_or_insert_with(Instant::now).elapsed() < CLOSED => {}
                Missed::ByMembers | Missed::ByNobody => return,
            }
            let _ = timeout(RELEASE_PERIOD, changes.next()).await;
        }
    };
    match timeout(patience, released).await {
        Ok(()) => text(StatusCode::OK, probe::RELEASED),
        Err(_) => {
            warn!("nobody took over in time: the primary ends all the same");
            text(StatusCode::OK, "nobody took over in time")
        }
    }
}

fn answer<E: Engine>(request: &Request<Incoming>, hub: &Hub<E>, standalone: bool) -> Response<Full<Bytes>> {
    if request.method() != Method::GET {
        return text(StatusCode::METHOD_NOT_ALLOWED, "GET only");
    }
    let verdict = |refusal: Option<String>| match refusal {
        None => text(StatusCode::OK, "ok"),
        Some(reason) => text(StatusCode::SERVICE_UNAVAILABLE, reason),
    };
    match request.uri().path() {
        probe::STARTUP if hub.engine().curtain_is_open() => verdict(None),
        probe::STARTUP => verdict(Some(E::unready(&hub.report().state).unwrap_or_else(|| "not prepared yet".into()))),
        probe::READY => verdict(E::unready(&hub.report().state)),
        // Who reads this got an answer: the one thread that does everything is not stuck.
        probe::LIVE => verdict(None),
        probe::METRICS => typed(StatusCode::OK, OPENMETRICS, metrics(hub)),
        REPORT if standalone => match serde_json::to_string(&hub.report()) {
            Ok(report) => typed(StatusCode::OK, "application/json", report),
            Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
        },
        _ => text(StatusCode::NOT_FOUND, "no such route"),
    }
}

fn text(status: StatusCode, body: impl Into<String>) -> Response<Full<Bytes>> {
    typed(status, "text/plain; charset=utf-8", body.into() + "\n")
}

fn typed(status: StatusCode, content: &'static str, body: String) -> Response<Full<Bytes>> {
    Response::builder().status(status).header(CONTENT_TYPE, content).body(Full::from(body)).expect("a constant header is valid")
}

type Labels = Vec<(&'static str, &'static str)>;
type Metric = Family<Labels, gauge::Gauge<f64, AtomicU64>>;

fn metrics<E: Engine>(hub: &Hub<E>) -> String {
    let report = hub.report();
    let mut gauges = E::gauges(&report.state);
    let shell = |name, help, value| Gauge { name, help, label: None, value };
    gauges.push(shell("term", "Highest term seen.", float(report.term)));
    if let Some(expires) = hub.certificate_expires() {
        let seconds = float(u64::try_from(expires).unwrap_or_default());
        gauges.push(shell("certificate_expiry_timestamp_seconds", "When the member's certificate ends.", seconds));
    }
    gauges.push(Gauge {
        label: Some(("version", env!("CARGO_PKG_VERSION"))),
        ..shell("sidecar_info", "The sidecar that says all this.", 1.0)
    });
    let labels = [("engine".into(), E::NAME.into())].into_iter();
    let mut registry = Registry::with_prefix_and_labels("understudy", labels);
    // Values of one metric follow each other: they are one family.
    for values in gauges.chunk_by(|one, next| one.name == next.name) {
        let family = Metric::default();
        for value in values {
            family.get_or_create(&Labels::from_iter(value.label)).set(value.value);
        }
        registry.register(values[0].name, values[0].help.trim_end_matches('.'), family);
    }
    let mut text = String::new();
    encode(&mut text, &registry).expect("a String takes everything");
    text
}
