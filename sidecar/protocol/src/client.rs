//! The caller's side of the API port: one mTLS HTTP/2 connection a member, for orders and the report stream alike.
//!
//! It holds no state about the member: what a report means is the reader's business.

use std::marker::PhantomData;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::{Order, Refusal, Report, SILENCE_MILLIS, route};

/// Connecting to a pod on the same network takes milliseconds; past this the member counts as silent.
const CONNECT_DEADLINE: Duration = Duration::from_secs(2);
/// An order is acknowledged when it is accepted, not when it has converged.
const ORDER_DEADLINE: Duration = Duration::from_secs(5);
/// Longest report accepted, in bytes: a GTID set may be long, a report may not be endless.
const MAX_REPORT_BYTES: usize = 1024 * 1024;

/// Why a call to a sidecar failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The certificates cannot be used.
    #[error("certificates: {0}")]
    Certificates(String),
    /// No connection within the deadline.
    #[error("no answer from {address} within {} s", deadline.as_secs())]
    Deadline {
        /// Whom we called.
        address: String,
        /// How long we waited.
        deadline: Duration,
    },
    /// TCP or TLS failed.
    #[error("connecting to {address}: {source}")]
    Connect {
        /// Whom we called.
        address: String,
        /// What failed.
        #[source]
        source: std::io::Error,
    },
    /// HTTP failed.
    #[error("HTTP: {0}")]
    Http(#[from] hyper::Error),
    /// The answer is not what this protocol says.
    #[error("unreadable answer: {0}")]
    Unreadable(String),
    /// The sidecar refused.
    #[error(transparent)]
    Refused(#[from] Refusal),
}

/// Client configuration from PEM: trust `ca`, present `certificate` with `key`; TLS 1.3 only.
///
/// # Errors
/// [`ClientError::Certificates`] when a PEM text holds no usable certificate or key.
pub fn tls_config(ca: &[u8], certificate: &[u8], key: &[u8]) -> Result<rustls::ClientConfig, ClientError> {
    let refuse = |error: &dyn std::fmt::Display| ClientError::Certificates(error.to_string());
    let mut roots = rustls::RootCertStore::empty();
    for root in CertificateDer::pem_slice_iter(ca) {
        roots.add(root.map_err(|error| refuse(&error))?).map_err(|error| refuse(&error))?;
    }
    let chain = CertificateDer::pem_slice_iter(certificate).collect::<Result<Vec<_>, _>>().map_err(|error| refuse(&error))?;
    let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| refuse(&error))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| refuse(&error))?
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)
        .map_err(|error| refuse(&error))?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}

/// A connection to one member's sidecar. Cloning shares the connection; it closes when the last clone is dropped.
#[derive(Clone, Debug)]
pub struct Client {
    address: String,
    requests: SendRequest<Full<Bytes>>,
}

impl Client {
    /// Connects to `address` and checks that the certificate names `server_name`.
    ///
    /// # Errors
    /// When TCP, TLS or the HTTP/2 preface fails or takes longer than two seconds.
    pub async fn connect(address: SocketAddr, server_name: &str, tls: Arc<rustls::ClientConfig>) -> Result<Self, ClientError> {
        let name = ServerName::try_from(server_name.to_owned()).map_err(|error| ClientError::Certificates(error.to_string()))?;
        let connect = |source| ClientError::Connect { address: address.to_string(), source };
        let attempt = async {
            let tcp = TcpStream::connect(address).await.map_err(connect)?;
            tcp.set_nodelay(true).map_err(connect)?;
            let tls = TlsConnector::from(tls).connect(name, tcp).await.map_err(connect)?;
            Ok::<_, ClientError>(handshake(TokioExecutor::new(), TokioIo::new(tls)).await?)
        };
        let (requests, connection) = timeout(CONNECT_DEADLINE, attempt)
            .await
            .map_err(|_| ClientError::Deadline { address: address.to_string(), deadline: CONNECT_DEADLINE })??;
        // The connection task ends by itself when the last handle is dropped or the peer goes away.
        tokio::spawn(connection);
        Ok(Self { address: address.to_string(), requests })
    }

    /// Gives an order; returns the report that follows its acceptance.
    ///
    /// # Errors
    /// [`ClientError::Refused`] with the sidecar's reason, or a transport error after five seconds at most.
    pub async fn order<A: Serialize, S: DeserializeOwned>(&self, order: &Order<A>) -> Result<Report<S>, ClientError> {
        let body = serde_json::to_vec(order).map_err(|error| ClientError::Unreadable(error.to_string()))?;
        let call = async {
            let answer = self.send(Method::PUT, route::ASSIGNMENT, body.into()).await?;
            parse(&whole(answer).await?)
        };
        timeout(ORDER_DEADLINE, call)
            .await
            .map_err(|_| ClientError::Deadline { address: self.address.clone(), deadline: ORDER_DEADLINE })?
    }

    /// Opens the report stream.
    ///
    /// # Errors
    /// As for [`Client::order`].
    pub async fn reports<S: DeserializeOwned>(&self) -> Result<Reports<S>, ClientError> {
        let answer = timeout(CONNECT_DEADLINE, self.send(Method::GET, route::REPORTS, Bytes::new()))
            .await
            .map_err(|_| ClientError::Deadline { address: self.address.clone(), deadline: CONNECT_DEADLINE })??;
        Ok(Reports { address: self.address.clone(), body: answer, buffer: BytesMut::new(), state: PhantomData })
    }

    async fn send(&self, method: Method, path: &str, body: Bytes) -> Result<Incoming, ClientError> {
        let request = Request::builder()
            .method(method)
            .uri(format!("https://{}{path}", self.address))
            .body(Full::new(body))
            .map_err(|error| ClientError::Unreadable(error.to_string()))?;
        let answer = self.requests.clone().send_request(request).await?;
        if answer.status() == StatusCode::OK {
            return Ok(answer.into_body());
        }
        let status = answer.status();
        let body = whole(answer.into_body()).await?;
        match serde_json::from_slice::<Refusal>(&body) {
            Ok(refusal) => Err(refusal.into()),
            Err(_) => Err(ClientError::Unreadable(format!("status {status}"))),
        }
    }
}

async fn whole(body: Incoming) -> Result<Bytes, ClientError> {
    let collected = Limited::new(body, MAX_REPORT_BYTES).collect().await;
    Ok(collected.map_err(|error| ClientError::Unreadable(error.to_string()))?.to_bytes())
}

fn parse<S: DeserializeOwned>(line: &[u8]) -> Result<Report<S>, ClientError> {
    serde_json::from_slice(line).map_err(|error| ClientError::Unreadable(error.to_string()))
}

/// The stream of one member's reports.
#[derive(Debug)]
pub struct Reports<S> {
    address: String,
    body: Incoming,
    buffer: BytesMut,
    state: PhantomData<fn() -> S>,
}

impl<S: DeserializeOwned> Reports<S> {
    /// The next report, or `None` when the sidecar closed the stream.
    ///
    /// # Errors
    /// [`ClientError::Deadline`] after three missed heartbeats; then the member is silent, and the connection is to be dropped.
    pub async fn next(&mut self) -> Result<Option<Report<S>>, ClientError> {
        let silence = Duration::from_millis(SILENCE_MILLIS);
        timeout(silence, self.line()).await.map_err(|_| ClientError::Deadline { address: self.address.clone(), deadline: silence })?
    }

    async fn line(&mut self) -> Result<Option<Report<S>>, ClientError> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line = self.buffer.split_to(end + 1);
                return parse(&line[..end]).map(Some);
            }
            if self.buffer.len() > MAX_REPORT_BYTES {
                return Err(ClientError::Unreadable("a report without end".into()));
            }
            match self.body.frame().await {
                Some(frame) => {
                    if let Ok(data) = frame?.into_data() {
                        self.buffer.extend_from_slice(&data);
                    }
                }
                None => return Ok(None),
            }
        }
    }
}
