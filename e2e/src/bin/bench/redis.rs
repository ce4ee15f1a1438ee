//! What a lost primary of Redis costs those who go through the Service, and those who ask a Sentinel; and what it costs with real Sentinels.
//!
//! Two clients come each way: one that takes the answer to a write for an acknowledgement, and one that waits until a replica has it.

use std::time::Duration;

use anyhow::{Result, ensure};
use e2e::engine::Redis;
use e2e::ui::Ui;
use e2e::{Engine, Lab, TestNamespace};
use redis::aio::MultiplexedConnection;
use redis::{cmd, pipe};
use tokio::time::Instant;

use crate::copies::rss;
use crate::gaps::{Blow, Client, FIRST, Goal, MEMBERS, floor, runs, series, strike, wanted};
use crate::seeker::Seeker;
use crate::sentinels::{Pace, Set};
use crate::stage::{NAME, on_stage};
use crate::table::{figure, median};
use crate::writer::{Beats, STATEMENT, Writer};

const RUNS: usize = 30;
const OURS: [Goal; 4] = [
    (Blow::Crash, "gap: crash", "p50 <= 300, p99 <= 1000"),
    (Blow::Delete, "gap: pod deleted", ""),
    (Blow::Freeze, "gap: frozen pod", ""),
    (Blow::SwitchOver, "gap: switchover", "p99 <= 100"),
];
const THEIRS: [Goal; 3] =
    [(Blow::Crash, "gap: crash", ""), (Blow::SwitchOver, "gap: switchover", ""), (Blow::Freeze, "gap: frozen pod", "")];
/// Real Sentinels, how often they are struck at most, and by what.
const PEERS: [(&str, Pace, usize, &[Goal]); 2] = [
    // Its defaults: each takes half a minute, which a frozen pod takes too.
    ("real Sentinel, 30 s", Pace { down_after: 30_000, failover_timeout: 180_000 }, 2, &[THEIRS[0], THEIRS[1]]),
    // A Sentinel pings once a second: below that, one late answer is a death. Whoever was promoted has to say so, asked once a second,
    // within the second figure; an election that nobody won is held again after twice that.
    ("real Sentinel, 1 s", Pace { down_after: 1000, failover_timeout: 3000 }, usize::MAX, &THEIRS),
];
/// Of a frozen pod: it takes what the silence takes that is borne.
const FEW: usize = 4;

/// An application that keeps a list.
#[derive(Clone)]
struct Application {
    road: Road,
    list: &'static str,
    /// Replicas that have to have each write.
    acks: u64,
}

#[derive(Clone)]
enum Road {
    Service(Redis),
    Sentinel(Box<Seeker>),
}

pub async fn measure(lab: &Lab, ui: &Ui) -> Result<()> {
    let blows = wanted(&OURS)?;
    on_stage::<Redis, _>(lab, MEMBERS, |cluster| async move {
        let runs = runs(RUNS)?;
        let account = Redis::of(&cluster.lab, &cluster.namespace, &cluster.name).await?;
        let (swap, write) = ui.step("re-routes of a Service, the floor", floor(&cluster, &account, runs)).await?;
        let hosts = (0..MEMBERS).map(|ordinal| format!("{NAME}-{ordinal}.{NAME}.{}.svc", cluster.namespace)).collect();
        let seeker = Seeker::new(hosts, NAME, Some(account.clone()))?;
        let found = found(&seeker, runs).await?;
        println!("{:<52} {:>12.2}", "asking a Sentinel and logging in, ms", found.as_secs_f64() * 1e3);
        let mut crowd = Crowd::default();
        crowd.join("redis, Service", Road::Service(account), swap + write).await?;
        crowd.join("redis, Sentinel", Road::Sentinel(Box::new(seeker)), found + write).await?;
        for (blow, what, goal) in blows {
            series(ui, what, goal, often(blow, runs), &crowd.clients, async || strike(&cluster, blow, &crowd.clients).await).await?;
        }
        ensure!(crowd.leave().await? == 0, "a write that a replica had is lost");
        for ordinal in 0..u32::try_from(MEMBERS)? {
            figure("redis, sidecar RSS, MiB", rss(lab, &cluster.namespace, &cluster.member(ordinal), "sidecar").await?, "<= 8");
        }
        Ok(())
    })
    .await?;
    for (title, pace, most, blows) in PEERS {
        let runs = runs(RUNS)?.min(most);
        TestNamespace::run(lab, NAME, |lab, namespace| async move {
            let set = ui.step(title, Set::up(&lab, &namespace, pace)).await?;
            theirs(&set, ui, title, runs, blows).await
        })
        .await?;
    }
    Ok(())
}

async fn theirs(set: &Set, ui: &Ui, title: &str, runs: usize, blows: &[Goal]) -> Result<()> {
    let found = found(set.seeker(), runs).await?;
    let mut crowd = Crowd::default();
    crowd.join(title, Road::Sentinel(Box::new(set.seeker().clone())), found).await?;
    // What `BLOW` names may be none of theirs.
    for (blow, what, goal) in wanted(blows).unwrap_or_default() {
        series(ui, what, goal, often(blow, runs), &crowd.clients, async || set.strike(blow, &crowd.clients).await).await?;
    }
    crowd.leave().await.map(drop)
}

fn often(blow: Blow, runs: usize) -> usize {
    if blow == Blow::Freeze { runs.min(FEW) } else { runs }
}

/// Median of the time that it takes to ask a Sentinel and to log in where it points to.
async fn found(seeker: &Seeker, runs: usize) -> Result<Duration> {
    let mut found = Vec::new();
    // The first one opens the connection to a Sentinel.
    for _ in 0..=runs {
        let start = Instant::now();
        seeker.primary(FIRST).await?;
        found.push(start.elapsed().as_secs_f64());
    }
    Ok(Duration::from_secs_f64(median(&mut found[1..])))
}

/// Those who write meanwhile.
#[derive(Default)]
struct Crowd {
    clients: Vec<Client>,
    applications: Vec<Application>,
}

impl Crowd {
    /// Two clients that come this way, one of which waits for a replica.
    async fn join(&mut self, title: &str, road: Road, floor: Duration) -> Result<()> {
        let by_service = matches!(road, Road::Service(_));
        let lists = if by_service { ["service:0", "service:1"] } else { ["sentinel:0", "sentinel:1"] };
        for (list, acks, suffix) in [(lists[0], 0, ""), (lists[1], 1, ", WAIT 1")] {
            let road = match &road {
                Road::Service(account) => Road::Service(account.clone()),
                Road::Sentinel(seeker) => Road::Sentinel(Box::new(seeker.another())),
            };
            let application = Application { road, list, acks };
            let writer = Writer::start(application.clone()).await?;
            self.clients.push(Client { title: format!("{title}{suffix}, "), writer, floor });
            self.applications.push(application);
        }
        Ok(())
    }

    /// Stops all, and says what of their acknowledged writes is not there at least, and how much of it was on a replica.
    async fn leave(self) -> Result<usize> {
        let mut lost = 0;
        for (client, application) in self.clients.into_iter().zip(&self.applications) {
            let (acknowledged, there) = client.writer.stop(application).await?;
            let (title, missing) = (format!("{}acknowledged writes", client.title), acknowledged.saturating_sub(there));
            println!("{title:<52} {acknowledged:>12}   lost of them, at least: {missing}");
            lost += if application.acks > 0 { missing } else { 0 };
        }
        Ok(lost)
    }
}

impl Beats for Application {
    type Way = MultiplexedConnection;

    async fn reach(&self, within: Duration) -> Result<MultiplexedConnection> {
        match &self.road {
            Road::Service(account) => account.connect(account.primary(), within).await,
            Road::Sentinel(seeker) => seeker.primary(within).await,
        }
    }

    async fn beat(&self, way: &mut MultiplexedConnection, number: u64) -> Result<()> {
        if self.acks == 0 {
            return Ok(cmd("RPUSH").arg(self.list).arg(number).exec_async(way).await?);
        }
        let mut commands = pipe();
        commands.rpush(self.list, number).cmd("WAIT").arg(self.acks).arg(STATEMENT.as_millis() as u64);
        let (_, acks): (u64, u64) = commands.query_async(way).await?;
        ensure!(acks >= self.acks, "{acks} replicas have it");
        Ok(())
    }

    async fn count(&self, way: &mut MultiplexedConnection) -> Result<usize> {
        Ok(cmd("LLEN").arg(self.list).query_async(way).await?)
    }
}
