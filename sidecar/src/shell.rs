//! How the parts of a running sidecar start, and how they end: all on one thread, together.
//!
//! Kubernetes stops a native sidecar after the database container, so the end needs no ceremony: whoever reads reports sees the
//! connection close, and what the engine has begun it finds again at its next start.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use ring::rand::{SecureRandom, SystemRandom};
use tokio::net::TcpListener;
use tokio::runtime::Builder;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::time::sleep;
use tracing::{error, info};

use crate::engine::{Engine, Posts};
use crate::fence::Guard;
use crate::hub::{Hub, Identity, Sources};
use crate::peers::{self, Names};
use crate::term::Term;
use crate::tls::{self, hex};
use crate::{health, server};

/// Between two looks for usable certificates at the start. The pod cannot do anything without, and a restart would look no sooner.
const CERTIFICATES_REST: Duration = Duration::from_secs(5);
/// Threads for what blocks: the term's fsync, files of the engine.
const BLOCKING_THREADS: usize = 4;

/// Who decides.
#[derive(Clone, Debug)]
pub enum Mode {
    /// An operator, through the API port.
    Operated {
        /// UID of the custom resource.
        cluster_uid: String,
        /// Port of the API.
        api_port: u16,
    },
    /// This member, by who else is there.
    Standalone {
        /// What the members have in common: the headless Service.
        name: String,
    },
}

/// Runs a member, whose pod gets `grace` to end, until SIGTERM or SIGINT, or until something fails that no retry mends.
///
/// # Errors
/// What failed.
pub fn run<E: Engine>(engine: E, mode: Mode, health_port: u16, grace: Duration) -> anyhow::Result<()> {
    let runtime = Builder::new_current_thread().enable_all().max_blocking_threads(BLOCKING_THREADS).build()?;
    let ended = runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        tokio::select! {
            ended = member(engine, mode, health_port, grace) => ended,
            _ = terminate.recv() => Ok(()),
            _ = interrupt.recv() => Ok(()),
        }
    });
    info!("the sidecar ends");
    // Not waiting for a blocked fsync: the kubelet would wait with us.
    runtime.shutdown_background();
    ended
}

async fn member<E: Engine>(engine: E, mode: Mode, health_port: u16, grace: Duration) -> anyhow::Result<()> {
    info!(member = engine.member(), engine = E::NAME, ?mode, version = env!("CARGO_PKG_VERSION"), "the sidecar starts");
    let health = listen(health_port).await?;
    let (state_in, state) = watch::channel(engine.first_state());
    let (trouble_in, trouble) = watch::channel(None);
    let (orders_in, orders) = watch::channel(None);
    let incarnation = incarnation()?;
    let identity = |cluster| Identity { cluster, member: engine.member().to_owned(), incarnation };
    let guard = Guard::new(engine.ordinal());
    let half = grace / 2;
    match mode {
        Mode::Standalone { name } => {
            let hub = Hub::new(engine.clone(), identity(name), Sources { state, certificates: None, trouble }, None, orders_in, guard);
            tokio::select! {
                ended = engine.stand_alone(state_in) => ended,
                () = health::serve(health, hub, half, true) => ended("the health port"),
            }
        }
        Mode::Operated { cluster_uid, api_port } => {
            let term = Term::open(&engine.volume().join(".understudy"), &cluster_uid)?;
            let directory = engine.certificates().context("an operated member needs certificates")?.to_owned();
            let api = listen(api_port).await?;
            let (sets_in, sets) = watch::channel(certificates(&directory).await);
            let (changes_in, tls_changed) = watch::channel(0);
            let sources = Sources { state, certificates: Some(sets.clone()), trouble };
            let hub = Hub::new(engine.clone(), identity(cluster_uid), sources, Some(term), orders_in, guard.clone());
            let names = Names::new(api_port).context("/etc/resolv.conf")?;
            tokio::select! {
                ended = engine.obey(Posts { orders, state: state_in, tls_changed, guard }) => ended,
                () = health::serve(health, hub.clone(), half, false) => ended("the health port"),
                () = peers::listen(hub.clone(), names, sets.clone()) => ended("listening to the other members"),
                () = server::serve(api, sets, hub) => ended("the API port"),
                () = tls::follow(directory, sets_in, changes_in, trouble_in) => ended("following certificates"),
            }
        }
    }
}

fn ended<T>(what: &str) -> anyhow::Result<T> {
    Err(anyhow::anyhow!("{what} ended"))
}

/// The first usable set, however long it takes.
async fn certificates(directory: &Path) -> tls::Set {
    loop {
        match tls::load(directory) {
            Ok(set) => return set,
            Err(error) => error!(%error, "no usable certificates yet"),
        }
        sleep(CERTIFICATES_REST).await;
    }
}

/// On every address, of both families where the node has both.
pub(crate) async fn listen(port: u16) -> anyhow::Result<TcpListener> {
    let bind = async |address: SocketAddr| TcpListener::bind(address).await;
    match bind((Ipv6Addr::UNSPECIFIED, port).into()).await {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => Err(error),
        Err(_) => bind((Ipv4Addr::UNSPECIFIED, port).into()).await,
        bound => bound,
    }
    .with_context(|| format!("listening on port {port}"))
}

fn incarnation() -> anyhow::Result<String> {
    let mut random = [0; 8];
    SystemRandom::new().fill(&mut random).map_err(|_| anyhow::anyhow!("the kernel gives no random numbers"))?;
    Ok(hex(&random))
}
