//! A client that writes one row after the other, remembers what was acknowledged, and one that counts.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use e2e::run;
use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Error, Opts};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

/// A statement that is not answered after this is given up, and its connection with it.
const PATIENCE: Duration = Duration::from_secs(5);
/// Between two rows, and after a failure.
const PAUSE: Duration = Duration::from_millis(20);
const DEADLINE: Duration = Duration::from_secs(5 * 60);
const DUPLICATE_KEY: u16 = 1062;

#[derive(Default)]
struct Progress {
    acknowledged: AtomicU64,
    longest_wait_millis: AtomicU64,
    stop: AtomicBool,
}

/// Writes rows 1, 2, 3 … until told to stop. A row is tried until MySQL acknowledges it.
pub struct Writer {
    progress: Arc<Progress>,
    task: JoinHandle<()>,
}

impl Writer {
    /// Starts to write.
    pub fn start(opts: Opts) -> Self {
        let progress = Arc::new(Progress::default());
        Self { progress: progress.clone(), task: tokio::spawn(write(opts, progress)) }
    }

    /// The last row acknowledged; all before it are too.
    pub fn acknowledged(&self) -> u64 {
        self.progress.acknowledged.load(Ordering::SeqCst)
    }

    /// The longest time between two acknowledgements.
    pub fn longest_wait(&self) -> Duration {
        Duration::from_millis(self.progress.longest_wait_millis.load(Ordering::SeqCst))
    }

    /// Waits until row `id` is acknowledged.
    pub async fn reach(&self, id: u64) -> Result<u64> {
        run::wait(&format!("row {id} to be acknowledged"), DEADLINE, async || {
            let acknowledged = self.acknowledged();
            Ok((acknowledged >= id).then_some(acknowledged))
        })
        .await
    }

    /// Stops after the row at hand and returns the last one acknowledged.
    pub async fn stop(self) -> Result<u64> {
        self.progress.stop.store(true, Ordering::SeqCst);
        let acknowledged = self.progress.clone();
        timeout(DEADLINE, self.task).await.context("the writer does not come to an end")??;
        Ok(acknowledged.acknowledged.load(Ordering::SeqCst))
    }
}

async fn write(opts: Opts, progress: Arc<Progress>) {
    let (mut connection, mut id, mut last) = (None, 1, Instant::now());
    while !progress.stop.load(Ordering::SeqCst) {
        match timeout(PATIENCE, insert(&opts, &mut connection, id)).await {
            Ok(Ok(())) => {
                progress.acknowledged.store(id, Ordering::SeqCst);
                progress.longest_wait_millis.fetch_max(last.elapsed().as_millis() as u64, Ordering::SeqCst);
                (id, last) = (id + 1, Instant::now());
            }
            // Whatever it was, a new connection may lead to a new primary.
            _ => connection = None,
        }
        sleep(PAUSE).await;
    }
}

async fn insert(opts: &Opts, connection: &mut Option<Conn>, id: u64) -> Result<(), Error> {
    if connection.is_none() {
        let mut new = Conn::new(opts.clone()).await?;
        new.query_drop("CREATE TABLE IF NOT EXISTS demo (id BIGINT UNSIGNED PRIMARY KEY, at TIMESTAMP(6) DEFAULT NOW(6))").await?;
        *connection = Some(new);
    }
    let open = connection.as_mut().expect("opened above");
    match open.exec_drop("INSERT INTO demo (id) VALUES (?)", (id,)).await {
        // An earlier try was acknowledged, and the answer got lost.
        Err(Error::Server(error)) if error.code == DUPLICATE_KEY => Ok(()),
        answer => answer,
    }
}

/// Which member answers there, and how many of the rows up to `id` it holds; waits for a replica to catch up.
pub async fn count(opts: Opts, id: u64) -> Result<(String, u64)> {
    let mut last = None;
    let complete = run::wait(&format!("{id} rows"), PATIENCE * 6, async || {
        let answer = timeout(PATIENCE, async {
            let mut connection = Conn::new(opts.clone()).await?;
            connection.exec_first::<(String, u64), _, _>("SELECT @@hostname, COUNT(*) FROM demo WHERE id <= ?", (id,)).await
        });
        let (member, found) = answer.await??.context("COUNT gives one row")?;
        last = Some((member.clone(), found));
        Ok((found >= id).then_some((member, found)))
    })
    .await;
    // Too few rows is an answer; none at all is an error.
    match (complete, last) {
        (Ok(answer), _) | (Err(_), Some(answer)) => Ok(answer),
        (Err(error), None) => Err(error),
    }
}
