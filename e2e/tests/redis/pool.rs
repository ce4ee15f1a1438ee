//! A client as connection pools make it: several connections, and what fails is tried again for as long as its caller has patience.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::stage::eventually;
use futures::future::try_join_all;
use redis::{cmd, pipe};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use crate::rig::Cluster;
use crate::way::{COMMAND, Connection, Way};
use crate::writer::WAIT;

/// A set, so that what is tried again is there once.
const SET: &str = "pool";
/// More than one, so that there is always one in the middle of something.
const CONNECTIONS: usize = 3;
/// A write that did not succeed in this time has failed: a planned pause that was taken back fits in.
const PATIENCE: Duration = Duration::from_secs(10);
/// Between two writes, and between two attempts.
const BREATH: Duration = Duration::from_millis(5);

/// Adds numbers through `NAME-primary` until it is told to stop.
pub struct Pool {
    shared: Arc<Shared>,
    tasks: Vec<JoinHandle<Written>>,
}

struct Shared {
    way: Way,
    stop: AtomicBool,
    next: AtomicU64,
    pause: Mutex<Pause>,
}

/// Time without a single acknowledged write.
struct Pause {
    last: Instant,
    longest: Duration,
}

#[derive(Default)]
struct Written {
    acknowledged: BTreeSet<u64>,
    failed: Vec<String>,
}

impl Pool {
    pub async fn start(cluster: &Cluster) -> Result<Self> {
        let shared = Arc::new(Shared {
            way: Way::of(cluster).await?,
            stop: AtomicBool::new(false),
            next: AtomicU64::new(0),
            pause: Mutex::new(Pause { last: Instant::now(), longest: Duration::ZERO }),
        });
        let tasks = (0..CONNECTIONS).map(|_| tokio::spawn(work(Arc::clone(&shared)))).collect();
        Ok(Self { shared, tasks })
    }

    /// The longest pause since this was asked last, told with what it came from.
    pub fn tell_pause(&self, what: &str) {
        let longest = std::mem::take(&mut self.shared.pause().longest);
        println!("longest pause: {:4} ms, {what}", longest.as_millis());
    }

    /// Stops; not one write may have failed, and each is on every member.
    pub async fn finish(self, cluster: &Cluster) -> Result<()> {
        self.shared.stop.store(true, Ordering::Relaxed);
        let mut acknowledged = BTreeSet::new();
        for written in timeout(PATIENCE * 2, try_join_all(self.tasks)).await.context("a client hangs")?? {
            ensure!(written.failed.is_empty(), "failed in spite of {} s of retries: {:?}", PATIENCE.as_secs(), written.failed);
            acknowledged.extend(written.acknowledged);
        }
        ensure!(!acknowledged.is_empty(), "not one write was acknowledged");
        eventually("every member to hold what the pool wrote", || async {
            for member in cluster.status().await?.members {
                let held: BTreeSet<u64> = cluster.asks(&member.name, cmd("SMEMBERS").arg(SET)).await?;
                let missing: Vec<_> = acknowledged.difference(&held).collect();
                ensure!(missing.is_empty(), "{} misses {} of {}: {:?}", member.name, missing.len(), acknowledged.len(), missing.first());
            }
            Ok(())
        })
        .await
    }
}

async fn work(shared: Arc<Shared>) -> Written {
    let mut written = Written::default();
    let mut connection = None;
    while !shared.stop.load(Ordering::Relaxed) {
        let number = shared.next.fetch_add(1, Ordering::Relaxed);
        let end = Instant::now() + PATIENCE;
        loop {
            let Err(error) = shared.attempt(&mut connection, number).await else {
                written.acknowledged.insert(number);
                shared.pause().acknowledged();
                break;
            };
            connection = None;
            if Instant::now() > end {
                written.failed.push(format!("{number}: {error:#}"));
                break;
            }
            sleep(BREATH).await;
        }
        sleep(BREATH).await;
    }
    written
}

impl Shared {
    async fn attempt(&self, connection: &mut Option<Connection>, number: u64) -> Result<()> {
        let writes = match connection {
            Some(open) => open,
            None => connection.insert(self.way.connect(&self.way.primary).await?),
        };
        let mut commands = pipe();
        commands.sadd(SET, number).cmd("WAIT").arg(1).arg(WAIT);
        let (_, acks): (u64, u64) = timeout(COMMAND, commands.query_async(writes)).await.context("no answer")??;
        ensure!(acks >= 1, "no replica acknowledged it");
        Ok(())
    }

    fn pause(&self) -> std::sync::MutexGuard<'_, Pause> {
        self.pause.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pause {
    fn acknowledged(&mut self) {
        let now = Instant::now();
        self.longest = self.longest.max(now - self.last);
        self.last = now;
    }
}
