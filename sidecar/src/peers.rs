//! What the other members' sidecars say of terms, for a member that is ordered to be primary. Nobody else listens to anybody.
//!
//! One report stream to each other member, as a reader with the member's certificate. All that counts of a report is that it came and
//! which term it shows; what follows is the [`fence`](crate::fence)'s business. This also keeps the fence's clock going, so that it
//! notices when the process stood still.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use hickory_resolver::config::{ResolverConfig, ResolverOpts};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::{TokioResolver, system_conf};
use serde::de::IgnoredAny;
use sidecar_protocol::client::{Client, ClientError};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};
use tracing::{debug, info};

use crate::engine::Engine;
use crate::hub::Hub;
use crate::tls::Set;

/// How often the fence's clock is looked at when nothing happens.
const TICK: Duration = Duration::from_secs(1);
/// A name server in the cluster answers in milliseconds.
const RESOLVE_DEADLINE: Duration = Duration::from_secs(2);
/// One question to a name server; a lost datagram is sent again after it.
const RESOLVE_ATTEMPT: Duration = Duration::from_millis(500);
/// First and longest rest between two connections to a member: one that comes back is to be heard within the silence bound.
const RESTS: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));

/// Where members are found. Asked anew for each connection: a member that moved has another address.
#[derive(Clone, Debug)]
pub struct Names {
    resolver: TokioResolver,
    port: u16,
}

// === impl Names ===

impl Names {
    /// By the pod's own `/etc/resolv.conf`; their API is on `port`.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn new(port: u16) -> Result<Self, NetError> {
        let (config, options) = system_conf::read_system_conf()?;
        Self::with_config(port, config, options)
    }

    /// As [`Names::new`], with name servers of one's own. Not with getaddrinfo: it blocks threads that the term's fsync needs.
    ///
    /// # Errors
    /// The configuration cannot be used.
    pub fn with_config(port: u16, config: ResolverConfig, mut options: ResolverOpts) -> Result<Self, NetError> {
        (options.cache_size, options.timeout, options.attempts) = (0, RESOLVE_ATTEMPT, 2);
        let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
        *builder.options_mut() = options;
        Ok(Self { resolver: builder.build()?, port })
    }

    async fn address(&self, host: &str) -> Result<SocketAddr, PeerError> {
        let unknown = |reason: String| PeerError::Unknown { host: host.into(), reason };
        let answer = timeout(RESOLVE_DEADLINE, self.resolver.lookup_ip(host)).await;
        let found = answer.map_err(|_| unknown(io::ErrorKind::TimedOut.to_string()))?.map_err(|error| unknown(error.to_string()))?;
        found.iter().next().map(|address| (address, self.port).into()).ok_or_else(|| unknown("no address".into()))
    }
}

/// Why a member is not heard, or no more.
#[derive(Debug, thiserror::Error)]
enum PeerError {
    #[error("{host}: {reason}")]
    Unknown { host: String, reason: String },
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error("it is {0}")]
    Stranger(String),
    #[error("it closed the stream")]
    Closed,
    #[error("this process stood still: what comes now is old")]
    Old,
}

/// Listens to whom the hub's fence wants to hear, for ever, and resumes the hub's last order when they confirm it.
pub async fn listen<E: Engine>(hub: Arc<Hub<E>>, names: Names, sets: watch::Receiver<Set>) {
    let mut changes = hub.guard().changes();
    let mut tick = interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut streams: BTreeMap<u32, Listening> = BTreeMap::new();
    loop {
        let wanted = hub.guard().peers();
        streams.retain(|ordinal, _| wanted.contains(ordinal));
        for ordinal in wanted {
            streams.entry(ordinal).or_insert_with(|| {
                let peer = Peer { hub: Arc::clone(&hub), ordinal, names: names.clone(), sets: sets.clone() };
                Listening(tokio::spawn(peer.follow()))
            });
        }
        if hub.guard().confirmed() {
            hub.resume().await;
        }
        tokio::select! {
            _ = tick.tick() => { let _ = hub.guard().verdict(); }
            Ok(()) = changes.changed() => {}
        }
    }
}

/// Ends the stream when dropped.
struct Listening(JoinHandle<()>);

impl Drop for Listening {
    fn drop(&mut self) {
        self.0.abort();
    }
}

struct Peer<E: Engine> {
    hub: Arc<Hub<E>>,
    ordinal: u32,
    names: Names,
    sets: watch::Receiver<Set>,
}

// === impl Peer ===

impl<E: Engine> Peer<E> {
    async fn follow(self) {
        let host = self.hub.engine().host(self.ordinal);
        let mut pauses = rests();
        loop {
            let began = Instant::now();
            let mut heard = false;
            if let Err(error) = self.stream(&host, &mut heard).await {
                debug!(peer = host, %error, "a member is not heard");
            }
            if heard {
                info!(peer = host, seconds = began.elapsed().as_secs(), "a member is heard no more");
                pauses = rests();
            }
            sleep(pauses.next().unwrap_or(RESTS.1)).await;
        }
    }

    async fn stream(&self, host: &str, heard: &mut bool) -> Result<(), PeerError> {
        let guard = self.hub.guard();
        // Before the first byte is sent: all that comes was said after it.
        let epoch = guard.epoch();
        let address = self.names.address(host).await?;
        let tls = Arc::clone(&self.sets.borrow().client);
        let mut reports = Client::connect(address, host, tls).await?.reports::<IgnoredAny>().await?;
        let member = host.split('.').next().unwrap_or_default();
        loop {
            let report = reports.next().await?.ok_or(PeerError::Closed)?;
            if (report.cluster.as_str(), report.member.as_str()) != (self.hub.identity().cluster.as_str(), member) {
                return Err(PeerError::Stranger(format!("{} of {}", report.member, report.cluster)));
            }
            if !guard.heard(epoch, self.ordinal, report.term) {
                return Err(PeerError::Old);
            }
            if !std::mem::replace(heard, true) {
                info!(peer = host, term = report.term, "a member is heard");
            }
        }
    }
}

fn rests() -> ExponentialBackoff {
    ExponentialBuilder::new().with_min_delay(RESTS.0).with_max_delay(RESTS.1).without_max_times().with_jitter().build()
}
