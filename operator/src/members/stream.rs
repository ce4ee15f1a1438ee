//! Listening to one member: connect, read, reconnect, for as long as its pod is there.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use sidecar_protocol::API_PORT;
use sidecar_protocol::client::{Client, ClientError, Reports};
use tokio::sync::watch;
use tokio::time::sleep;

use super::{Slot, Target};
use crate::engine::Engine;
use crate::pauses;
use crate::wake::Wake;
use crate::watches::ClusterRef;

/// A sidecar that has just been started answers within milliseconds.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// A connection attempt costs little, and its success ends an outage. Jitter adds up to as much again.
const LAST_PAUSE: Duration = Duration::from_millis(500);

pub(super) struct Stream<E: Engine> {
    pub cluster: ClusterRef,
    pub uid: String,
    pub target: Target,
    pub slot: Arc<Slot<E>>,
    pub wake: Wake,
}

impl<E: Engine> Stream<E> {
    pub async fn run(self, mut tls: watch::Receiver<Arc<ClientConfig>>) {
        let mut pause = pauses::growing(FIRST_PAUSE, LAST_PAUSE);
        loop {
            let config = Arc::clone(&tls.borrow_and_update());
            match self.connect(config).await {
                Ok((client, mut reports)) => {
                    self.slot.known().client = Some(client);
                    let ended = self.listen(&mut reports, &mut tls).await;
                    if ended.heard {
                        pause = pauses::growing(FIRST_PAUSE, LAST_PAUSE);
                    }
                    // A closed stream may be a closed connection only; a member that cannot be reached at once is silent then.
                    self.slot.known().client = None;
                    match ended.why {
                        Why::Closed if ended.heard => continue,
                        Why::Closed => {}
                        Why::Failed(error) => tracing::info!(cluster = %self.cluster, member = self.target.member, %error, "stream ended"),
                    }
                }
                Err(error) => tracing::debug!(cluster = %self.cluster, member = self.target.member, %error, "cannot connect"),
            }
            if self.slot.silent() {
                tracing::info!(cluster = %self.cluster, member = self.target.member, "member is silent");
                self.wake.wake(&self.cluster);
            }
            sleep(pause.next().unwrap_or(LAST_PAUSE)).await;
        }
    }

    async fn connect(&self, tls: Arc<ClientConfig>) -> Result<(Client, Reports<E::State>), ClientError> {
        let address = SocketAddr::new(self.target.ip, API_PORT);
        let client = Client::connect(address, &self.target.host, tls).await?;
        let reports = client.reports().await?;
        Ok((client, reports))
    }

    async fn listen(&self, reports: &mut Reports<E::State>, tls: &mut watch::Receiver<Arc<ClientConfig>>) -> Ended {
        let mut heard = false;
        let why = loop {
            let next = tokio::select! {
                next = reports.next() => next,
                // A new certificate, or the connection failed under an order.
                _ = tls.changed() => break Why::Closed,
                () = self.slot.broken.notified() => break Why::Closed,
            };
            let report = match next {
                Ok(Some(report)) => report,
                Ok(None) => break Why::Closed,
                // Not a closed connection but one that says nothing, or nonsense.
                Err(error @ (ClientError::Deadline { .. } | ClientError::Unreadable(_))) => break Why::Failed(error.to_string()),
                Err(error) => {
                    tracing::debug!(cluster = %self.cluster, member = self.target.member, %error, "stream broke");
                    break Why::Closed;
                }
            };
            if report.cluster != self.uid || report.member != self.target.member {
                break Why::Failed(format!("{} of cluster {} answers at this address", report.member, report.cluster));
            }
            // The first words on a connection always count: an order may have been lost with the one before.
            if self.slot.record(report) || !heard {
                self.wake.wake(&self.cluster);
            }
            heard = true;
        };
        Ended { heard, why }
    }
}

struct Ended {
    heard: bool,
    why: Why,
}

enum Why {
    /// The stream is gone; the member may be well.
    Closed,
    /// The member is not to be believed any more.
    Failed(String),
}
