//! A client that writes and remembers what was acknowledged: each of these rows must be on every member when all is over.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::Engine;
use e2e::engine::MySql;
use mysql_async::Conn;
use mysql_async::prelude::Queryable;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use crate::rig::Cluster;
use e2e::stage::eventually;

/// A dead address answers nobody, and the next attempt may be led elsewhere.
const CONNECT: Duration = Duration::from_secs(2);
/// Beyond this a statement is given up; it may still be done.
const STATEMENT: Duration = Duration::from_secs(5);
/// Between two rows, and between two attempts to connect.
const PAUSE: Duration = Duration::from_millis(5);
const RETRY: Duration = Duration::from_millis(50);
/// A paused API server is not waited for: who knows the way in needs it no more.
const LOOK_UP: Duration = Duration::from_millis(500);
/// A writer that is told to stop ends what it is at.
const STOP: Duration = Duration::from_secs(30);

/// Writes single rows until it is told to stop.
pub struct Writer {
    stop: Arc<AtomicBool>,
    count: Arc<AtomicU64>,
    task: JoinHandle<BTreeSet<u64>>,
}

impl Writer {
    /// Writes through `NAME-primary`; numbers count from `first`.
    pub fn start(cluster: &Cluster, first: u64) -> Self {
        Self::spawn(cluster, first, None)
    }

    /// Writes to one address, whoever leads: a client on the wrong side of a cut.
    pub fn to_address(cluster: &Cluster, first: u64, address: String) -> Self {
        Self::spawn(cluster, first, Some(address))
    }

    fn spawn(cluster: &Cluster, first: u64, address: Option<String>) -> Self {
        let (stop, count) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (cluster, stopped, counted) = (cluster.clone(), stop.clone(), count.clone());
        let task = tokio::spawn(async move {
            let mut acknowledged = BTreeSet::new();
            let (mut application, mut connection) = (None::<MySql>, None::<Conn>);
            let mut number = first;
            while !stopped.load(Ordering::Relaxed) {
                let Some(writes) = connection.as_mut() else {
                    // Looked up each time: passwords change.
                    if let Ok(Ok(found)) = timeout(LOOK_UP, MySql::of(&cluster.lab, &cluster.namespace, &cluster.name)).await {
                        application = Some(found);
                    }
                    if let Some(application) = &application {
                        connection = application.connect(address.as_deref().unwrap_or(application.primary()), CONNECT).await.ok();
                    }
                    if connection.is_none() {
                        sleep(RETRY).await;
                    }
                    continue;
                };
                // A number is tried once: what was not acknowledged may or may not be there.
                let insert = writes.exec_drop("INSERT INTO ledger (number, note) VALUES (?, 'x')", (number,));
                match timeout(STATEMENT, insert).await {
                    Ok(Ok(())) => {
                        acknowledged.insert(number);
                        counted.fetch_add(1, Ordering::Relaxed);
                    }
                    _ => connection = None,
                }
                number += 1;
                sleep(PAUSE).await;
            }
            acknowledged
        });
        Self { stop, count, task }
    }

    /// Rows that were acknowledged until now.
    pub fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// Waits until a few more rows are acknowledged than now.
    pub async fn goes_on(&self) -> Result<()> {
        let enough = self.count() + 20;
        eventually("writes to go on", || async {
            ensure!(self.count() >= enough, "{} of {enough} rows", self.count());
            Ok(())
        })
        .await
    }

    /// Stops, and tells what was acknowledged; that something was is the test's own claim too.
    pub async fn finish(self) -> Result<BTreeSet<u64>> {
        self.stop.store(true, Ordering::Relaxed);
        let acknowledged = timeout(STOP, self.task).await.context("the writer hangs")??;
        ensure!(!acknowledged.is_empty(), "not one write was acknowledged");
        Ok(acknowledged)
    }
}
