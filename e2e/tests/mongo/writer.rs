//! A client that writes with `w: majority` and remembers what was acknowledged: each of these must be on every member when all is over.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use bson::{Document, doc};
use e2e::Engine;
use e2e::stage::eventually;
use mongodb::Client;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use crate::rig::{CONNECT, Set};

/// Beyond this a write is given up; it may still be done.
const STATEMENT: Duration = Duration::from_secs(3);
/// Between two documents, and between two attempts to connect.
const PAUSE: Duration = Duration::from_millis(5);
const RETRY: Duration = Duration::from_millis(50);
/// A writer that is told to stop ends what it is at.
const STOP: Duration = Duration::from_secs(30);

/// Inserts until it is told to stop.
pub struct Writer {
    stop: Arc<AtomicBool>,
    count: Arc<AtomicU64>,
    task: JoinHandle<BTreeSet<i64>>,
}

impl Writer {
    /// Writes through `NAME-primary`; numbers count from `first`.
    pub async fn start(set: &Set, first: i64) -> Result<Self> {
        let application = set.application().await?;
        let address = application.primary().to_owned();
        Self::spawn(set, first, address).await
    }

    /// Writes to one member, whoever leads: a client on the wrong side of a cut.
    pub async fn to(set: &Set, first: i64, member: &str) -> Result<Self> {
        Self::spawn(set, first, set.address(member).await?).await
    }

    async fn spawn(set: &Set, first: i64, address: String) -> Result<Self> {
        let application = set.application().await?;
        let (stop, count) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopped, counted) = (stop.clone(), count.clone());
        let task = tokio::spawn(async move {
            let (mut acknowledged, mut client, mut number) = (BTreeSet::new(), None::<Client>, first);
            while !stopped.load(Ordering::Relaxed) {
                let Some(open) = client.as_ref() else {
                    client = application.client(&address, CONNECT).ok();
                    continue;
                };
                // A number is tried once: what was not acknowledged may or may not be there.
                match timeout(STATEMENT, insert(open, number)).await {
                    Ok(Ok(())) => {
                        acknowledged.insert(number);
                        counted.fetch_add(1, Ordering::Relaxed);
                    }
                    _ => {
                        client = None;
                        sleep(RETRY).await;
                    }
                }
                number += 1;
                sleep(PAUSE).await;
            }
            acknowledged
        });
        Ok(Self { stop, count, task })
    }

    /// Documents acknowledged until now.
    pub fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// Waits until some more documents are acknowledged than are now.
    pub async fn goes_on(&self) -> Result<()> {
        let enough = self.count() + 20;
        eventually("writes to go on", || async {
            ensure!(self.count() >= enough, "{} of {enough}", self.count());
            Ok(())
        })
        .await
    }

    /// Stops; returns all numbers that were acknowledged.
    pub async fn finish(self) -> Result<BTreeSet<i64>> {
        self.stop.store(true, Ordering::Relaxed);
        let acknowledged = timeout(STOP, self.task).await.context("the writer hangs")??;
        if acknowledged.is_empty() {
            bail!("not one write was acknowledged");
        }
        Ok(acknowledged)
    }
}

/// One document with `w: majority`; an error of the write concern is an error.
async fn insert(client: &Client, number: i64) -> Result<()> {
    let command = doc! {
        "insert": "ledger",
        "documents": [{ "_id": number }],
        "writeConcern": { "w": "majority", "wtimeout": 2000 },
    };
    let answer: Document = client.database("shop").run_command(command).await?;
    for trouble in ["writeErrors", "writeConcernError"] {
        ensure!(!answer.contains_key(trouble), "{answer}");
    }
    Ok(())
}
