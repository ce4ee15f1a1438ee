//! A client that writes a row every 5 ms through `NAME-primary` and remembers when each was acknowledged.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::Application;
use mysql_async::Conn;
use mysql_async::prelude::Queryable;
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

const EVERY: Duration = Duration::from_millis(5);
/// A frozen server accepts connections and greets nobody; the next one may be led elsewhere.
const CONNECT: Duration = Duration::from_millis(250);
/// What a patient application would call slow; a commit takes some milliseconds.
const STATEMENT: Duration = Duration::from_millis(250);

pub struct Writer {
    acknowledged: Arc<Mutex<Vec<Instant>>>,
    task: JoinHandle<()>,
}

impl Writer {
    /// Makes the table and begins to write.
    pub async fn start(application: &Application) -> Result<Self> {
        let mut connection = application.connect(&application.primary, CONNECT * 10).await?;
        connection.query_drop("CREATE TABLE IF NOT EXISTS beats (number BIGINT UNSIGNED PRIMARY KEY)").await?;
        let acknowledged = Arc::<Mutex<Vec<Instant>>>::default();
        let (application, heard) = (application.clone(), acknowledged.clone());
        let task = tokio::spawn(async move {
            let mut ticks = interval(EVERY);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            let mut connection: Option<Conn> = None;
            for number in 0_u64.. {
                ticks.tick().await;
                if connection.is_none() {
                    connection = application.connect(&application.primary, CONNECT).await.ok();
                }
                let Some(writes) = &mut connection else { continue };
                // A number is tried once: what was not acknowledged may be there.
                let insert = writes.query_drop(format!("INSERT INTO beats VALUES ({number})"));
                match timeout(STATEMENT, insert).await {
                    Ok(Ok(())) => heard.lock().unwrap_or_else(PoisonError::into_inner).push(Instant::now()),
                    _ => connection = None,
                }
            }
        });
        Ok(Self { acknowledged, task })
    }

    /// Acknowledgements until now.
    pub fn count(&self) -> usize {
        self.beats().len()
    }

    /// The longest time between two acknowledgements, the last one before `since` counted.
    pub fn gap(&self, since: Instant) -> Result<Duration> {
        let beats = self.beats();
        let first = beats.partition_point(|beat| *beat < since).checked_sub(1).context("nothing was acknowledged before")?;
        beats[first..].windows(2).map(|pair| pair[1] - pair[0]).max().context("nothing was acknowledged afterwards")
    }

    /// Stops, and makes sure that what was acknowledged is there.
    pub async fn finish(self, application: &Application) -> Result<()> {
        self.task.abort();
        let mut connection = application.connect(&application.primary, CONNECT * 10).await?;
        let rows: Option<usize> = connection.query_first("SELECT COUNT(*) FROM beats").await?;
        ensure!(rows >= Some(self.count()), "{} writes were acknowledged, {rows:?} are there", self.count());
        Ok(())
    }

    fn beats(&self) -> std::sync::MutexGuard<'_, Vec<Instant>> {
        self.acknowledged.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
