//! What another member on its own says of itself, in plain HTTP: there is no API port to ask.

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::header::HOST;
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use sidecar_protocol::{HEALTH_PORT, Report};
use tokio::net::TcpStream;

use crate::health::REPORT;

/// Longest report read.
const MAX_REPORT_BYTES: usize = 1024 * 1024;

/// The state of the member at `host`, in its engine's words. The caller gives the deadline.
///
/// # Errors
/// It does not answer, or not so.
pub async fn state<S: DeserializeOwned>(host: &str) -> anyhow::Result<S> {
    let tcp = TcpStream::connect((host, HEALTH_PORT)).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(tcp)).await?;
    let request = Request::get(REPORT).header(HOST, host).body(Empty::<Bytes>::new())?;
    // The exchange owns its side: when it is dropped, so is the connection. Neither ends the other early: an answer may be whole
    // although the connection that brought it is closed already.
    let exchange = async move {
        let response = sender.send_request(request).await?;
        anyhow::ensure!(response.status() == StatusCode::OK, "it answers {}", response.status());
        let body = Limited::new(response.into_body(), MAX_REPORT_BYTES).collect().await.map_err(|error| anyhow::anyhow!(error))?;
        let report: Report<S> = serde_json::from_slice(&body.to_bytes())?;
        anyhow::Ok(report.state)
    };
    futures::future::join(exchange, connection).await.0
}
