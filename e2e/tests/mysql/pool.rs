//! A client as connection pools make it: several connections, and what fails is tried again for as long as its caller has patience.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::Engine;
use e2e::engine::MySql;
use futures::future::try_join_all;
use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Error};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use crate::rig::Cluster;

/// More than one, so that there is always one in the middle of something.
const CONNECTIONS: usize = 3;
/// A write that did not succeed in this time has failed: a planned pause that was taken back fits in.
const PATIENCE: Duration = Duration::from_secs(10);
/// An address that nobody serves any more may never answer.
const CONNECT: Duration = Duration::from_secs(1);
/// One attempt of a statement.
const STATEMENT: Duration = Duration::from_secs(3);
/// Between two statements, and between two attempts.
const BREATH: Duration = Duration::from_millis(5);
/// `ER_DUP_ENTRY`: an earlier attempt arrived, and only its answer was lost.
const DUPLICATE: u16 = 1062;

/// Writes single rows to the ledger through `NAME-primary` until it is told to stop.
pub struct Pool {
    shared: Arc<Shared>,
    tasks: Vec<JoinHandle<Written>>,
}

struct Shared {
    application: MySql,
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
    /// Starts at number `first`.
    pub async fn start(cluster: &Cluster, first: u64) -> Result<Self> {
        let shared = Arc::new(Shared {
            application: MySql::of(&cluster.lab, &cluster.namespace, &cluster.name).await?,
            stop: AtomicBool::new(false),
            next: AtomicU64::new(first),
            pause: Mutex::new(Pause { last: Instant::now(), longest: Duration::ZERO }),
        });
        let tasks = (0..CONNECTIONS).map(|_| tokio::spawn(work(shared.clone()))).collect();
        Ok(Self { shared, tasks })
    }

    /// The longest pause since this was asked last, told with what it came from.
    pub fn tell_pause(&self, what: &str) {
        let longest = std::mem::take(&mut self.shared.pause().longest);
        println!("longest pause: {:4} ms, {what}", longest.as_millis());
    }

    /// Stops, and tells what was acknowledged; not one write may have failed.
    pub async fn finish(self) -> Result<BTreeSet<u64>> {
        self.shared.stop.store(true, Ordering::Relaxed);
        let mut acknowledged = BTreeSet::new();
        for written in timeout(PATIENCE * 2, try_join_all(self.tasks)).await.context("a client hangs")?? {
            ensure!(written.failed.is_empty(), "failed in spite of {} s of retries: {:?}", PATIENCE.as_secs(), written.failed);
            acknowledged.extend(written.acknowledged);
        }
        ensure!(!acknowledged.is_empty(), "not one write was acknowledged");
        Ok(acknowledged)
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
    async fn attempt(&self, connection: &mut Option<Conn>, number: u64) -> Result<()> {
        let writes = match connection {
            Some(open) => open,
            None => connection.insert(self.application.connect(self.application.primary(), CONNECT).await?),
        };
        let insert = writes.query_drop(format!("INSERT INTO ledger (number, note) VALUES ({number}, 'x')"));
        match timeout(STATEMENT, insert).await.context("no answer")? {
            Err(Error::Server(error)) if error.code == DUPLICATE => Ok(()),
            outcome => Ok(outcome?),
        }
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
