//! The API port: mutual TLS 1.3, HTTP/2, two routes. Any certificate of the cluster's CA may read reports; only the operator's orders.
//!
//! Nobody can hold it up: handshakes, bodies and slow readers have deadlines, connections and streams a bound. What an order means
//! is the hub's and the engine's business.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::stream::poll_fn;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, Limited, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::header::CONTENT_TYPE;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::pki_types::CertificateDer;
use serde::Serialize;
use sidecar_protocol::{HEARTBEAT_MILLIS, MAX_ORDER_BYTES, OPERATOR_COMMON_NAME, Refusal, RefusalCode, route};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tracing::{debug, info, warn};
use x509_parser::parse_x509_certificate;

use crate::engine::Engine;
use crate::fence::{self, OperatorStream};
use crate::hub::Hub;
use crate::tls::Set;

/// A handshake takes milliseconds; strangers get no more than this.
const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(3);
/// Strangers that shake hands at the same time; more wait in the kernel's backlog.
const MAX_HANDSHAKES: usize = 16;
/// Connections of the operator: the leader's, a former leader's that is not yet known dead, some in reserve.
const MAX_OPERATORS: usize = 8;
/// Connections of everybody else with a certificate. Counted apart, so that readers never keep the operator out.
const MAX_READERS: usize = 24;
/// Streams a connection: reports and a few orders.
const MAX_STREAMS: u32 = 8;
/// Time for the whole body of an order.
const BODY_DEADLINE: Duration = Duration::from_secs(5);
/// A reader that takes nothing for this long, with its window full, loses its connection.
const SLOW_READER: Duration = Duration::from_secs(5);
/// A reader that vanished without a word is known dead after this and as long again.
const READER_PING: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(5));
/// What hyper may hold back for one stream.
const SEND_BUFFER: usize = 64 * 1024;
/// Rest after `accept` failed: the process is out of descriptors.
const ACCEPT_REST: Duration = Duration::from_millis(200);

type Body = UnsyncBoxBody<Bytes, Infallible>;

/// Who calls, as its certificate says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Caller {
    Operator,
    Reader,
}

/// Serves `hub` on `listener` for ever, each new connection with the newest of `sets`.
pub async fn serve<E: Engine>(listener: TcpListener, sets: watch::Receiver<Set>, hub: Arc<Hub<E>>) {
    let handshakes = Arc::new(Semaphore::new(MAX_HANDSHAKES));
    let operators = Arc::new(Semaphore::new(MAX_OPERATORS));
    let readers = Arc::new(Semaphore::new(MAX_READERS));
    loop {
        let Ok(shaking) = Arc::clone(&handshakes).acquire_owned().await else { return };
        let (tcp, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                warn!(%error, "cannot accept connections");
                sleep(ACCEPT_REST).await;
                continue;
            }
        };
        let acceptor = TlsAcceptor::from(Arc::clone(&sets.borrow().server));
        let (operators, readers, hub) = (Arc::clone(&operators), Arc::clone(&readers), Arc::clone(&hub));
        tokio::spawn(async move {
            let (tls, caller) = match shake(acceptor, tcp).await {
                Ok(accepted) => accepted,
                Err(reason) => return debug!(%peer, reason, "refused at the door"),
            };
            drop(shaking);
            let slots = if caller == Caller::Operator { operators } else { readers };
            let Ok(_slot) = slots.try_acquire_owned() else {
                return warn!(%peer, ?caller, "too many connections");
            };
            info!(%peer, ?caller, "connected");
            converse(tls, caller, hub).await;
            info!(%peer, ?caller, "disconnected");
        });
    }
}

type Tls = tokio_rustls::server::TlsStream<TcpStream>;

async fn shake(acceptor: TlsAcceptor, tcp: TcpStream) -> Result<(Tls, Caller), String> {
    tcp.set_nodelay(true).map_err(|error| error.to_string())?;
    let tls = timeout(HANDSHAKE_DEADLINE, acceptor.accept(tcp))
        .await
        .map_err(|_| "the handshake takes too long".to_owned())?
        .map_err(|error| error.to_string())?;
    // The verifier has let nobody in without one.
    let leaf = tls.get_ref().1.peer_certificates().and_then(<[_]>::first).ok_or("no certificate")?;
    let caller = if is_operator(leaf) { Caller::Operator } else { Caller::Reader };
    Ok((tls, caller))
}

/// Whether the one common name of a verified certificate is the operator's.
fn is_operator(certificate: &CertificateDer<'_>) -> bool {
    parse_x509_certificate(certificate).is_ok_and(|(_, parsed)| {
        let mut names = parsed.subject().iter_common_name().map(|name| name.as_str().unwrap_or_default());
        names.next() == Some(OPERATOR_COMMON_NAME) && names.next().is_none()
    })
}

/// One connection, until it ends or one of its readers is too slow.
async fn converse<E: Engine>(tls: Tls, caller: Caller, hub: Arc<Hub<E>>) {
    let (slow, mut too_slow) = mpsc::channel(1);
    let service = service_fn(move |request| {
        let (hub, slow) = (Arc::clone(&hub), slow.clone());
        async move { Ok::<_, Infallible>(answer(request, caller, hub, slow).await) }
    });
    // Whether the operator is there matters to a primary.
    let (interval, deadline) = if caller == Caller::Operator { fence::PING } else { READER_PING };
    let connection = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .max_send_buf_size(SEND_BUFFER)
        .keep_alive_interval(interval)
        .keep_alive_timeout(deadline)
        .serve_connection(TokioIo::new(tls), service);
    tokio::select! {
        ended = connection => if let Err(error) = ended { debug!(%error, "connection ended") },
        Some(()) = too_slow.recv() => warn!(?caller, "a reader takes nothing: cut off"),
    }
}

async fn answer<E: Engine>(request: Request<Incoming>, caller: Caller, hub: Arc<Hub<E>>, slow: mpsc::Sender<()>) -> Response<Body> {
    match (request.method(), request.uri().path()) {
        (&Method::GET, route::REPORTS) => {
            let operator = (caller == Caller::Operator).then(|| hub.guard().operator());
            let body = reports(hub, slow, operator);
            Response::builder().header(CONTENT_TYPE, "application/x-ndjson").body(body).expect("a constant header is valid")
        }
        (&Method::PUT, route::ASSIGNMENT) => match order(request, caller, &hub).await {
            Ok(report) => json(StatusCode::OK, &report),
            Err(refusal) => json(status(refusal.code), &refusal),
        },
        _ => json(StatusCode::NOT_FOUND, &malformed(format!("no such route: {} {}", request.method(), request.uri().path()))),
    }
}

async fn order<E: Engine>(request: Request<Incoming>, caller: Caller, hub: &Arc<Hub<E>>) -> Result<impl Serialize + use<E>, Refusal> {
    // Read also what will be refused: a body cut short would reset the stream, and some clients then miss the reason.
    let body = timeout(BODY_DEADLINE, Limited::new(request.into_body(), MAX_ORDER_BYTES).collect())
        .await
        .map_err(|_| malformed(format!("no whole order within {} s", BODY_DEADLINE.as_secs())))?
        .map_err(|error| malformed(format!("no order of at most {MAX_ORDER_BYTES} bytes: {error}")))?;
    if caller != Caller::Operator {
        let message = format!("orders need the certificate of {OPERATOR_COMMON_NAME}");
        return Err(Refusal { code: RefusalCode::NotTheOperator, message, retry: false });
    }
    let order = serde_json::from_slice(&body.to_bytes()).map_err(|error| malformed(format!("not an order: {error}")))?;
    hub.accept(order).await
}

fn malformed(message: String) -> Refusal {
    Refusal { code: RefusalCode::Malformed, message, retry: false }
}

fn status(code: RefusalCode) -> StatusCode {
    match code {
        RefusalCode::StaleTerm
        | RefusalCode::OtherCluster
        | RefusalCode::OtherIncarnation
        | RefusalCode::Overtaken
        | RefusalCode::Unsafe => StatusCode::CONFLICT,
        RefusalCode::NotTheOperator => StatusCode::FORBIDDEN,
        RefusalCode::Malformed | RefusalCode::Unknown => StatusCode::BAD_REQUEST,
    }
}

fn json(status: StatusCode, value: &impl Serialize) -> Response<Body> {
    let body = Full::new(line(value)).boxed_unsync();
    Response::builder().status(status).header(CONTENT_TYPE, "application/json").body(body).expect("a constant header is valid")
}

fn line(value: &impl Serialize) -> Bytes {
    let mut text = serde_json::to_vec(value).expect("reports and refusals have string keys only");
    text.push(b'\n');
    text.into()
}

/// The report now, at each change, and each heartbeat. Nothing queues up: a report is made when the reader has room for it.
fn reports<E: Engine>(hub: Arc<Hub<E>>, slow: mpsc::Sender<()>, operator: Option<OperatorStream>) -> Body {
    let (sender, mut receiver) = mpsc::channel(1);
    tokio::spawn(async move {
        let _operator = operator;
        let mut changes = hub.changes();
        let mut heartbeat = interval(Duration::from_millis(HEARTBEAT_MILLIS));
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            // The first beat is at once, and a change puts the next one off.
            tokio::select! {
                _ = heartbeat.tick() => {}
                () = changes.next() => heartbeat.reset(),
                () = sender.closed() => return,
            }
            match timeout(SLOW_READER, sender.reserve()).await {
                Ok(Ok(room)) => room.send(line(&hub.report())),
                Ok(Err(_)) => return,
                Err(_) => {
                    // Full means that another stream of this connection was as slow.
                    let _ = slow.try_send(());
                    return;
                }
            }
        }
    });
    StreamBody::new(poll_fn(move |context| receiver.poll_recv(context).map(|line| line.map(|line| Ok(Frame::data(line)))))).boxed_unsync()
}
