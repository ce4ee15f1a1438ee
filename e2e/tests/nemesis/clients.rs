//! The clients: appends and reads through `NAME-primary` until they are told to stop, all of it written down.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::Application;
use e2e::history::{self, Append, Element, History, Key, Outcome, Read};
use futures::future::try_join_all;
use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Error};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

/// A dead address answers nobody, and the next attempt may be led elsewhere.
const CONNECT: Duration = Duration::from_millis(500);
/// Beyond this a client gives up; its statement may still run.
const STATEMENT: Duration = Duration::from_secs(2);
/// Between two statements, and before the next connection: two cores have other things to do too.
const PAUSE: Duration = Duration::from_millis(15);
/// One read for so many statements.
const READS: u64 = 8;
/// Refusals that MySQL makes before anything is changed: read-only by option or mode, deadlock, lock wait.
const REFUSALS: [u16; 4] = [1290, 1836, 1213, 1205];

pub struct Clients {
    stop: Arc<AtomicBool>,
    attempts: Arc<AtomicU64>,
    tasks: Vec<JoinHandle<History>>,
}

impl Clients {
    /// Starts `count` clients; their times count from `start`.
    pub fn start(application: &Application, count: usize, start: Instant) -> Self {
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

struct Client {
    number: usize,
    application: Application,
    attempts: Arc<AtomicU64>,
    start: Instant,
    seen: History,
}

impl Client {
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

    /// A connection leads to one server for as long as it lives.
    async fn connect(&self) -> Result<(Conn, String)> {
        let mut connection = self.application.connect(&self.application.primary, CONNECT).await?;
        let member = timeout(CONNECT, connection.query_first("SELECT @@hostname")).await??.context("a server has a name")?;
        Ok((connection, member))
    }

    async fn append(&mut self, connection: &mut Conn, member: &str, key: Key, element: Element) -> bool {
        let statement = format!(
            "INSERT INTO lists (id, elements) VALUES ({key}, '{element}') ON DUPLICATE KEY UPDATE elements = CONCAT(elements, ',', VALUES(elements))"
        );
        let invoked = self.start.elapsed();
        let outcome = match timeout(STATEMENT, connection.query_drop(statement)).await {
            Ok(Ok(())) => Outcome::Ok,
            Ok(Err(Error::Server(error))) if REFUSALS.contains(&error.code) => Outcome::Fail(error.to_string()),
            Ok(Err(error)) => Outcome::Unknown(error.to_string()),
            Err(_) => Outcome::Unknown(format!("no answer in {} s", STATEMENT.as_secs())),
        };
        let usable = outcome == Outcome::Ok;
        let (client, member, ended) = (self.number, member.to_owned(), self.start.elapsed());
        self.seen.appends.push(Append { client, key, element, member, invoked, ended, outcome });
        usable
    }

    async fn read(&mut self, connection: &mut Conn, member: &str, key: Key) -> bool {
        let list = connection.query_first::<String, _>(format!("SELECT elements FROM lists WHERE id = {key}"));
        let Ok(Ok(list)) = timeout(STATEMENT, list).await else { return false };
        let elements = list.as_deref().map_or_else(Vec::new, elements);
        self.seen.reads.push(Read { client: self.number, key, elements, member: member.to_owned(), ended: self.start.elapsed() });
        true
    }
}

/// A list as it stands in the table. What is no number there was never appended either: it becomes one that no client used.
pub fn elements(list: &str) -> Vec<Element> {
    list.split(',').map(|element| element.parse().unwrap_or(Element::MAX)).collect()
}
