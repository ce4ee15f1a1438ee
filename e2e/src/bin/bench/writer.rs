//! A client that writes every 5 ms through `NAME-primary` and remembers when each write was acknowledged.

use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bson::{Document, doc};
use e2e::Engine;
use e2e::engine::{Mongo, MySql, Redis};
use mongodb::Client;
use mysql_async::Conn;
use mysql_async::prelude::Queryable;
use redis::aio::MultiplexedConnection;
use redis::{cmd, pipe};
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

const EVERY: Duration = Duration::from_millis(5);
/// A frozen server accepts connections and greets nobody; the next one may be led elsewhere.
const CONNECT: Duration = Duration::from_millis(250);
/// What a patient application would call slow; a commit takes some milliseconds.
const STATEMENT: Duration = Duration::from_millis(250);

/// A database that takes beats.
pub trait Beats: Engine {
    /// Makes the place for them.
    fn prepare(connection: &mut Self::Connection) -> impl Future<Output = Result<()>> + Send;
    /// Writes one, once.
    fn beat(connection: &mut Self::Connection, number: u64) -> impl Future<Output = Result<()>> + Send;
    /// How many there are.
    fn count(connection: &mut Self::Connection) -> impl Future<Output = Result<usize>> + Send;
}

pub struct Writer<E> {
    application: E,
    acknowledged: Arc<Mutex<Vec<Instant>>>,
    task: JoinHandle<()>,
}

impl<E: Beats> Writer<E> {
    /// Makes the place and begins to write.
    pub async fn start(application: &E) -> Result<Self> {
        E::prepare(&mut application.connect(application.primary(), CONNECT * 10).await?).await?;
        let acknowledged = Arc::<Mutex<Vec<Instant>>>::default();
        let (application, heard, through) = (application.clone(), acknowledged.clone(), application.clone());
        let task = tokio::spawn(async move {
            let mut ticks = interval(EVERY);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            let mut connection: Option<E::Connection> = None;
            for number in 0_u64.. {
                ticks.tick().await;
                if connection.is_none() {
                    connection = through.connect(through.primary(), CONNECT).await.ok();
                }
                let Some(writes) = &mut connection else { continue };
                // A number is tried once: what was not acknowledged may be there.
                match timeout(STATEMENT, E::beat(writes, number)).await {
                    Ok(Ok(())) => heard.lock().unwrap_or_else(PoisonError::into_inner).push(Instant::now()),
                    _ => connection = None,
                }
            }
        });
        Ok(Self { application, acknowledged, task })
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
    pub async fn finish(self) -> Result<()> {
        self.task.abort();
        let mut connection = self.application.connect(self.application.primary(), CONNECT * 10).await?;
        let there = E::count(&mut connection).await?;
        ensure!(there >= self.count(), "{} writes were acknowledged, {there} are there", self.count());
        Ok(())
    }

    fn beats(&self) -> std::sync::MutexGuard<'_, Vec<Instant>> {
        self.acknowledged.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Beats for MySql {
    async fn prepare(connection: &mut Conn) -> Result<()> {
        Ok(connection.query_drop("CREATE TABLE IF NOT EXISTS beats (number BIGINT UNSIGNED PRIMARY KEY)").await?)
    }

    async fn beat(connection: &mut Conn, number: u64) -> Result<()> {
        Ok(connection.query_drop(format!("INSERT INTO beats VALUES ({number})")).await?)
    }

    async fn count(connection: &mut Conn) -> Result<usize> {
        connection.query_first("SELECT COUNT(*) FROM beats").await?.context("a count is a number")
    }
}

impl Beats for Mongo {
    /// The first document makes the collection.
    async fn prepare(_: &mut Client) -> Result<()> {
        Ok(())
    }

    async fn beat(connection: &mut Client, number: u64) -> Result<()> {
        let command = doc! { "insert": "beats", "documents": [{ "_id": i64::try_from(number)? }], "writeConcern": { "w": "majority" } };
        let answer: Document = connection.database(Mongo::DATABASE).run_command(command).await?;
        for trouble in ["writeErrors", "writeConcernError"] {
            ensure!(!answer.contains_key(trouble), "{answer}");
        }
        Ok(())
    }

    async fn count(connection: &mut Client) -> Result<usize> {
        Ok(connection.database(Mongo::DATABASE).collection::<Document>("beats").count_documents(doc! {}).await?.try_into()?)
    }
}

impl Beats for Redis {
    /// The first number makes the list.
    async fn prepare(_: &mut MultiplexedConnection) -> Result<()> {
        Ok(())
    }

    async fn beat(connection: &mut MultiplexedConnection, number: u64) -> Result<()> {
        let mut commands = pipe();
        commands.rpush("beats", number).cmd("WAIT").arg(1).arg(STATEMENT.as_millis() as u64);
        let (_, acks): (u64, u64) = commands.query_async(connection).await?;
        ensure!(acks > 0, "no replica has acknowledged it");
        Ok(())
    }

    async fn count(connection: &mut MultiplexedConnection) -> Result<usize> {
        Ok(cmd("LLEN").arg("beats").query_async(connection).await?)
    }
}
