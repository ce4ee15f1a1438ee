//! A client that writes every 5 ms to the primary and remembers when each write was acknowledged.

use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bson::{Document, doc};
use e2e::Engine;
use e2e::engine::{Mongo, MySql};
use mongodb::Client;
use mysql_async::Conn;
use mysql_async::prelude::Queryable;
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};

const EVERY: Duration = Duration::from_millis(5);
/// A frozen server accepts connections and greets nobody; the next one may be led elsewhere.
pub const CONNECT: Duration = Duration::from_millis(250);
/// What a patient application would call slow; a commit takes some milliseconds.
pub const STATEMENT: Duration = Duration::from_millis(250);
/// How often it is looked whether there is one more.
const LOOK: Duration = Duration::from_millis(20);

/// A way to a primary that takes beats.
pub trait Beats: Clone + Send + Sync + 'static {
    /// What they go through.
    type Way: Send;

    /// Finds the primary and logs in; gives up after `within`.
    fn reach(&self, within: Duration) -> impl Future<Output = Result<Self::Way>> + Send;
    /// Makes the place for them, where the first one does not.
    fn prepare(_: &mut Self::Way) -> impl Future<Output = Result<()>> + Send {
        async { Ok(()) }
    }
    /// Writes one, once.
    fn beat(&self, way: &mut Self::Way, number: u64) -> impl Future<Output = Result<()>> + Send;
    /// How many there are.
    fn count(&self, way: &mut Self::Way) -> impl Future<Output = Result<usize>> + Send;
}

pub struct Writer {
    acknowledged: Arc<Mutex<Vec<Instant>>>,
    task: JoinHandle<()>,
}

impl Writer {
    /// Makes the place and begins to write.
    pub async fn start<B: Beats>(application: B) -> Result<Self> {
        B::prepare(&mut application.reach(CONNECT * 10).await?).await?;
        let acknowledged = Arc::<Mutex<Vec<Instant>>>::default();
        let heard = acknowledged.clone();
        let task = tokio::spawn(async move {
            let mut ticks = interval(EVERY);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            let mut connection = None;
            for number in 0_u64.. {
                ticks.tick().await;
                if connection.is_none() {
                    connection = application.reach(CONNECT).await.ok();
                }
                let Some(way) = &mut connection else { continue };
                // A number is tried once: what was not acknowledged may be there.
                match timeout(STATEMENT, application.beat(way, number)).await {
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

    /// Waits for an acknowledgement after `before` of them.
    pub async fn goes_on(&self, before: usize, within: Duration) -> Result<()> {
        let more = async {
            while self.count() <= before {
                sleep(LOOK).await;
            }
        };
        timeout(within, more).await.context("writes do not go on")
    }

    /// The longest time between two acknowledgements, the last one before `since` counted.
    pub fn gap(&self, since: Instant) -> Result<Duration> {
        let beats = self.beats();
        let first = beats.partition_point(|beat| *beat < since).checked_sub(1).context("nothing was acknowledged before")?;
        beats[first..].windows(2).map(|pair| pair[1] - pair[0]).max().context("nothing was acknowledged afterwards")
    }

    /// Stops, and says how many were acknowledged and how many are there.
    pub async fn stop<B: Beats>(self, application: &B) -> Result<(usize, usize)> {
        self.task.abort();
        let mut way = application.reach(CONNECT * 10).await?;
        Ok((self.count(), application.count(&mut way).await?))
    }

    /// Stops, and makes sure that what was acknowledged is there.
    pub async fn finish<B: Beats>(self, application: &B) -> Result<()> {
        let (acknowledged, there) = self.stop(application).await?;
        ensure!(there >= acknowledged, "{acknowledged} writes were acknowledged, {there} are there");
        Ok(())
    }

    fn beats(&self) -> std::sync::MutexGuard<'_, Vec<Instant>> {
        self.acknowledged.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Beats for MySql {
    type Way = Conn;

    async fn reach(&self, within: Duration) -> Result<Conn> {
        self.connect(self.primary(), within).await
    }

    async fn prepare(way: &mut Conn) -> Result<()> {
        Ok(way.query_drop("CREATE TABLE IF NOT EXISTS beats (number BIGINT UNSIGNED PRIMARY KEY)").await?)
    }

    async fn beat(&self, way: &mut Conn, number: u64) -> Result<()> {
        Ok(way.query_drop(format!("INSERT INTO beats VALUES ({number})")).await?)
    }

    async fn count(&self, way: &mut Conn) -> Result<usize> {
        way.query_first("SELECT COUNT(*) FROM beats").await?.context("a count is a number")
    }
}

impl Beats for Mongo {
    type Way = Client;

    async fn reach(&self, within: Duration) -> Result<Client> {
        self.connect(self.primary(), within).await
    }

    async fn beat(&self, way: &mut Client, number: u64) -> Result<()> {
        let command = doc! { "insert": "beats", "documents": [{ "_id": i64::try_from(number)? }], "writeConcern": { "w": "majority" } };
        let answer: Document = way.database(Mongo::DATABASE).run_command(command).await?;
        for trouble in ["writeErrors", "writeConcernError"] {
            ensure!(!answer.contains_key(trouble), "{answer}");
        }
        Ok(())
    }

    async fn count(&self, way: &mut Client) -> Result<usize> {
        Ok(way.database(Mongo::DATABASE).collection::<Document>("beats").count_documents(doc! {}).await?.try_into()?)
    }
}
