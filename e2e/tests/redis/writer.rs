//! A client that appends and remembers what was acknowledged: each of these numbers must be on every member when all is over.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::stage::eventually;
use redis::pipe;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use crate::rig::{Cluster, LEDGER};
use crate::way::{COMMAND, Connection, Way};

/// Where a client that waits for nobody appends: what it was answered is no promise.
const ASIDE: &str = "aside";
/// How long a replica may take to acknowledge, in milliseconds.
pub const WAIT: u64 = 500;
/// Between two numbers, and between two attempts to connect.
const PAUSE: Duration = Duration::from_millis(5);
const RETRY: Duration = Duration::from_millis(20);
/// A paused API server is not waited for: who knows the way in needs it no more.
const LOOK_UP: Duration = Duration::from_millis(500);
/// A writer that is told to stop ends what it is at.
const STOP: Duration = Duration::from_secs(30);

/// Appends numbers until it is told to stop.
pub struct Writer {
    shared: Arc<Shared>,
    task: JoinHandle<BTreeSet<u64>>,
}

struct Shared {
    stop: AtomicBool,
    count: AtomicU64,
    last: Mutex<Instant>,
}

#[derive(Clone, Copy, PartialEq)]
enum Promise {
    /// So many replicas have it, says WAIT.
    Kept(u64),
    /// Whoever took it has it, and nobody else may.
    None,
}

impl Writer {
    /// Writes through `NAME-primary`; numbers count from `first`.
    pub fn start(cluster: &Cluster, first: u64) -> Self {
        Self::waiting_for(cluster, first, 1)
    }

    /// The same, where so many replicas have to acknowledge.
    pub fn waiting_for(cluster: &Cluster, first: u64, acks: u64) -> Self {
        Self::spawn(cluster, first, None, Promise::Kept(acks))
    }

    /// Writes to one address, whoever leads: a client on the wrong side of a cut.
    pub fn to_address(cluster: &Cluster, first: u64, address: String) -> Self {
        Self::spawn(cluster, first, Some(address), Promise::Kept(1))
    }

    /// The same without a WAIT, to another list.
    pub fn careless(cluster: &Cluster, address: String) -> Self {
        Self::spawn(cluster, 0, Some(address), Promise::None)
    }

    fn spawn(cluster: &Cluster, first: u64, address: Option<String>, promise: Promise) -> Self {
        let shared = Arc::new(Shared { stop: false.into(), count: 0.into(), last: Mutex::new(Instant::now()) });
        let task = tokio::spawn(write(cluster.clone(), Arc::clone(&shared), first, address, promise));
        Self { shared, task }
    }

    /// Numbers that were acknowledged until now.
    pub fn count(&self) -> u64 {
        self.shared.count.load(Ordering::Relaxed)
    }

    /// When the last one was acknowledged.
    pub fn last(&self) -> Instant {
        *self.shared.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until a few more numbers are acknowledged than now.
    pub async fn goes_on(&self) -> Result<()> {
        let enough = self.count() + 20;
        eventually("writes to go on", || async {
            ensure!(self.count() >= enough, "{} of {enough} numbers", self.count());
            Ok(())
        })
        .await
    }

    /// Stops, and tells what was acknowledged; that something was is the test's own claim too.
    pub async fn finish(self) -> Result<BTreeSet<u64>> {
        self.shared.stop.store(true, Ordering::Relaxed);
        let acknowledged = timeout(STOP, self.task).await.context("the writer hangs")??;
        ensure!(!acknowledged.is_empty(), "not one write was acknowledged");
        Ok(acknowledged)
    }
}

async fn write(cluster: Cluster, shared: Arc<Shared>, first: u64, address: Option<String>, promise: Promise) -> BTreeSet<u64> {
    let mut acknowledged = BTreeSet::new();
    let (mut way, mut connection) = (None::<Way>, None::<Connection>);
    let mut number = first;
    while !shared.stop.load(Ordering::Relaxed) {
        let Some(writes) = connection.as_mut() else {
            // Looked up each time: passwords change.
            let patience = if way.is_some() { LOOK_UP } else { STOP };
            if let Ok(Ok(found)) = timeout(patience, Way::of(&cluster)).await {
                way = Some(found);
            }
            if let Some(way) = &way {
                connection = way.connect(address.as_deref().unwrap_or(&way.primary)).await.ok();
            }
            if connection.is_none() {
                sleep(RETRY).await;
            }
            continue;
        };
        // A number is tried once: what was not acknowledged may or may not be there.
        match timeout(COMMAND, append(writes, number, promise)).await {
            Ok(Ok(true)) => {
                acknowledged.insert(number);
                shared.count.fetch_add(1, Ordering::Relaxed);
                *shared.last.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
            }
            Ok(Ok(false)) => {}
            _ => connection = None,
        }
        number += 1;
        sleep(PAUSE).await;
    }
    acknowledged
}

/// Whether it is acknowledged. One connection carries both commands: WAIT speaks of the writes of its own.
async fn append(connection: &mut Connection, number: u64, promise: Promise) -> Result<bool> {
    let mut commands = pipe();
    let Promise::Kept(wanted) = promise else {
        let _: (u64,) = commands.rpush(ASIDE, number).query_async(connection).await?;
        return Ok(true);
    };
    let (_, acks): (u64, u64) = commands.rpush(LEDGER, number).cmd("WAIT").arg(wanted).arg(WAIT).query_async(connection).await?;
    Ok(acks >= wanted)
}
