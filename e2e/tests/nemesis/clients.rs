//! The clients: appends and reads through `NAME-primary` until they are told to stop, all of it written down.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::history::{self, Append, Element, History, Key, Outcome, Read};
use futures::future::try_join_all;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use crate::workload::{Answer, Workload};

/// A dead address answers nobody, and the next attempt may be led elsewhere.
const CONNECT: Duration = Duration::from_millis(500);
/// Beyond this a client gives up; its statement may still run.
const STATEMENT: Duration = Duration::from_secs(2);
/// Between two statements, and before the next connection: two cores have other things to do too.
const PAUSE: Duration = Duration::from_millis(15);
/// One read for so many statements.
const READS: u64 = 8;

pub struct Clients {
    stop: Arc<AtomicBool>,
    attempts: Arc<AtomicU64>,
    tasks: Vec<JoinHandle<History>>,
}

impl Clients {
    /// Starts `count` clients; their times count from `start`.
    pub fn start<E: Workload>(application: &E, count: usize, start: Instant) -> Self {
        let (stop, attempts) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let client =
            |number| Client { number, application: application.clone(), attempts: attempts.clone(), start, seen: History::default() };
        let tasks = (0..count).map(|number| tokio::spawn(client(number).work(stop.clone()))).collect();
        Self { stop, attempts, tasks }
    }

    /// Statements until now.
    pub fn attempts(&self) -> u64 {
        self.attempts.load(Ordering::Relaxed)
    }

    /// Stops them and puts together what they saw.
    pub async fn finish(self) -> Result<History> {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = History::default();
        for seen in timeout(STATEMENT * 5, try_join_all(self.tasks)).await.context("a client hangs")?? {
            all.appends.extend(seen.appends);
            all.reads.extend(seen.reads);
        }
        ensure!(all.appends.iter().any(|append| append.outcome == Outcome::Ok), "not one append was acknowledged");
        Ok(all)
    }
}

struct Client<E> {
    number: usize,
    application: E,
    attempts: Arc<AtomicU64>,
    start: Instant,
    seen: History,
}

impl<E: Workload> Client<E> {
    async fn work(mut self, stop: Arc<AtomicBool>) -> History {
        let mut connection = None;
        while !stop.load(Ordering::Relaxed) {
            let Some((mut conn, member)) = connection.take() else {
                connection = self.connect().await.ok();
                sleep(PAUSE).await;
                continue;
            };
            let attempt = self.attempts.fetch_add(1, Ordering::Relaxed);
            let usable = match attempt % READS {
                0 => self.read(&mut conn, &member, history::key(attempt)).await,
                _ => self.append(&mut conn, &member, history::key(attempt), attempt).await,
            };
            connection = usable.then_some((conn, member));
            sleep(PAUSE).await;
        }
        self.seen
    }

    async fn connect(&self) -> Result<(E::Connection, String)> {
        let mut connection = self.application.connect(self.application.primary(), CONNECT).await?;
        let member = timeout(CONNECT, E::member(&mut connection)).await??;
        Ok((connection, member))
    }

    async fn append(&mut self, connection: &mut E::Connection, member: &str, key: Key, element: Element) -> bool {
        let invoked = self.start.elapsed();
        let Answer { outcome, term } = timeout(STATEMENT, E::append(connection, key, element))
            .await
            .unwrap_or_else(|_| Answer { outcome: Outcome::Unknown(format!("no answer in {} s", STATEMENT.as_secs())), term: None });
        let usable = outcome == Outcome::Ok;
        let (client, member, ended) = (self.number, member.to_owned(), self.start.elapsed());
        self.seen.appends.push(Append { client, key, element, member, term, invoked, ended, outcome });
        usable
    }

    async fn read(&mut self, connection: &mut E::Connection, member: &str, key: Key) -> bool {
        let Ok(Ok(elements)) = timeout(STATEMENT, E::read(connection, key)).await else { return false };
        self.seen.reads.push(Read { client: self.number, key, elements, member: member.to_owned(), ended: self.start.elapsed() });
        true
    }
}
