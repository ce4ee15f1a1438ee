//! The nemesis: random faults while clients append to lists, then the checker.
//!
//! Needs a running lab: `lab up`, then `cargo test -p e2e --features lab --test nemesis`, or `make nemesis ENGINE=mongo MINUTES=30 SEED=7
//! MEMBERS=5 FAULTS=KillPrimary,PauseApi`.
//! The seed is printed and repeats the plan of faults, though not the timing of what they meet. What holds afterwards: no acknowledged
//! append is lost (I4), none is there twice or although it was refused, and order is the same everywhere (I5); no term acknowledged what was sent
//! after a newer one had acknowledged (I1); every member is ready without help, with the same checksum (I12). Plan, faults, log and checker
//! are the same for each database; `workload` is what differs.

#![allow(clippy::unwrap_used, reason = "tests")]

mod chance;
mod clients;
mod deeds;
#[path = "../../../sidecar/tests/common/image.rs"]
mod image;
mod log;
#[path = "../mongo/rig.rs"]
#[allow(dead_code, reason = "the other suite uses the rest")]
mod mongo_rig;
#[path = "../mysql/rig.rs"]
#[allow(dead_code, reason = "the other suite uses the rest")]
mod mysql_rig;
mod plan;
mod terms;
mod workload;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use e2e::engine::{Cluster, Mongo, MySql, Redis};
use e2e::history::{self, Anomaly, History, Lists};
use e2e::stage::{eventually, on_stage};
use e2e::{Engine, Lab};
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep, timeout};

use clients::Clients;
use deeds::Nemesis;
use log::Log;
use plan::Step;
use terms::Terms;
use workload::Workload;

/// Connections that append.
const CLIENTS: usize = 6;
/// A cluster that says that it is ready takes so many statements more before the clients stop.
const AFTERWARDS: u64 = 100;
/// Whatever the last fault did is in the status after this time: only then can the status be believed.
const NOTICED: Duration = Duration::from_secs(6);
/// What a ready replica has received and acknowledged it may still have to apply, on two cores that six clients kept busy: nothing counts as
/// lost before this is over.
const CATCH_UP: Duration = Duration::from_secs(60);
/// A member that is well is found within this.
const FIRST: Duration = Duration::from_secs(10);
/// Anomalies that are printed; a lost list has hundreds.
const SHOWN: usize = 20;

/// Faults of the lab are faults for everybody.
static ALONE: Mutex<()> = Mutex::const_new(());

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_members_lose_nothing_whatever_happens() -> Result<()> {
    nemesis::<MySql>(3, Duration::from_secs(75)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_members_lose_nothing_whatever_happens() -> Result<()> {
    nemesis::<MySql>(5, Duration::from_secs(45)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_members_of_mongo_lose_nothing_whatever_happens() -> Result<()> {
    nemesis::<Mongo>(3, Duration::from_secs(45)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_members_of_mongo_lose_nothing_whatever_happens() -> Result<()> {
    // The test command has no time for it.
    if number("MEMBERS")?.is_none() {
        return Ok(());
    }
    nemesis::<Mongo>(5, Duration::from_secs(90)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_members_of_redis_lose_nothing_whatever_happens() -> Result<()> {
    nemesis::<Redis>(3, Duration::from_secs(45)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_members_of_redis_lose_nothing_whatever_happens() -> Result<()> {
    // The test command has no time for it.
    if number("MEMBERS")?.is_none() {
        return Ok(());
    }
    nemesis::<Redis>(5, Duration::from_secs(90)).await
}

/// `ENGINE`, `MINUTES`, `SEED`, `MEMBERS` and `FAULTS` of the environment go before what the test asks for.
async fn nemesis<E: Workload>(replicas: u32, long: Duration) -> Result<()> {
    let _alone = ALONE.lock().await;
    let engine = text("ENGINE");
    let engines = [MySql::NAME, Mongo::NAME, Redis::NAME];
    ensure!(engine.as_deref().is_none_or(|engine| engines.contains(&engine)), "ENGINE={engine:?} is none of {engines:?}");
    if engine.is_some_and(|engine| engine != E::NAME) || number("MEMBERS")?.is_some_and(|members| members != u64::from(replicas)) {
        return Ok(());
    }
    let long = number("MINUTES")?.map_or(long, |minutes| Duration::from_secs(minutes * 60));
    let faults = text("FAULTS").map_or_else(|| Ok(plan::ALL.to_vec()), |names| plan::named(&names))?;
    let seed = number("SEED")?.map_or_else(random_seed, Ok)?;
    say(&format!("nemesis: {replicas} members of {}, {} s of faults, SEED={seed}", E::NAME, long.as_secs()));
    on_stage("nemesis", |lab, namespace| async move { run::<E>(&lab, &namespace, replicas, long, plan::plan(seed, faults)).await })
        .await
        .with_context(|| {
            let minutes = long.as_secs().div_ceil(60);
            format!("repeat with: make nemesis ENGINE={} SEED={seed} MEMBERS={replicas} MINUTES={minutes}", E::NAME)
        })
}

async fn run<E: Workload>(lab: &Lab, namespace: &str, replicas: u32, long: Duration, plan: impl Iterator<Item = Step>) -> Result<()> {
    let cluster = E::create(lab, namespace, replicas).await?;
    let application = E::of(lab, namespace, &cluster.name).await?;
    // A first login may take its time: a driver keeps what it computes for the next ones.
    drop(application.connect(application.primary(), FIRST).await?);

    #[allow(clippy::disallowed_methods, reason = "a test's clock")]
    let begin = jiff::Timestamp::now();
    let start = Instant::now();
    let log = Log::new(start, text("MINUTES").is_some());
    let terms = Terms::watch(&cluster, log.clone());
    let clients = Clients::start(&application, CLIENTS, start);
    let mut nemesis = Nemesis { cluster, replicas, log: log.clone(), lost: None };
    let outcome = verdict(&mut nemesis, &application, clients, terms, long, plan).await;
    nemesis.heal().await?;
    if outcome.is_err() {
        say(&format!("what was done, in seconds since {begin}:\n{}", log.text()));
    }
    outcome
}

async fn verdict<E: Workload>(
    nemesis: &mut Nemesis<E>,
    application: &E,
    clients: Clients,
    terms: Terms,
    long: Duration,
    plan: impl Iterator<Item = Step>,
) -> Result<()> {
    let mut faults = 0;
    for step in plan {
        if nemesis.log.start.elapsed() >= long {
            break;
        }
        nemesis.step(&step).await?;
        faults += 1;
        match step.rest {
            Some(rest) => sleep(rest).await,
            // Long enough or not: the last wait decides.
            None => drop(nemesis.whole(Duration::from_secs(30)).await),
        }
    }
    nemesis.log.note("all faults are over");
    sleep(NOTICED).await;
    let over = Instant::now();
    nemesis.whole(e2e::stage::patience()).await.context("I12: faults are over")?;
    let recovery = over.elapsed();
    nemesis.log.note(&format!("whole again after {:.1} s", recovery.as_secs_f64()));
    let enough = clients.attempts() + AFTERWARDS;
    eventually("clients to write again", || async {
        ensure!(clients.attempts() >= enough, "{} of {enough} statements", clients.attempts());
        Ok(())
    })
    .await?;
    let mut history = clients.finish().await?;
    let status = nemesis.cluster.glance().await?;
    history.tenures = terms.until(&status).await?;
    let stopped = Instant::now();
    let members = same(&nemesis.cluster, application, &history).await?;
    let equal = stopped.elapsed();
    let (whole, equal) = (recovery.as_secs_f64(), equal.as_secs_f64());
    say(&format!(
        "nemesis: {faults} faults, terms up to {}, whole again after {whole:.1} s, equal {equal:.1} s later; {history}",
        status.term
    ));
    report(&history, &history::check(&history, &members))
}

/// Waits until every member holds the same lists and returns what they hold: equal or not, the checker says what is wrong.
async fn same<E: Workload>(cluster: &Cluster<E>, application: &E, history: &History) -> Result<BTreeMap<String, Lists>> {
    let end = Instant::now() + CATCH_UP;
    loop {
        let mut members = BTreeMap::new();
        let mut checksums = BTreeSet::new();
        for member in cluster.glance().await?.members {
            let mut connection = application.connect(&cluster.address(&member).await?, FIRST).await?;
            let asked = timeout(Duration::from_secs(20), E::contents(&mut connection)).await;
            let (lists, checksum) = asked.context("no answer in time")??;
            members.insert(member, lists);
            checksums.insert(checksum);
        }
        if checksums.len() == 1 {
            return Ok(members);
        }
        if Instant::now() > end {
            report(history, &history::check(history, &members))?;
            bail!("I12: lists are equal, checksums are not: {checksums:?}");
        }
        sleep(Duration::from_millis(200)).await;
    }
}

fn report(history: &History, anomalies: &[Anomaly]) -> Result<()> {
    if anomalies.is_empty() {
        return Ok(());
    }
    let shown: Vec<_> = anomalies.iter().take(SHOWN).map(ToString::to_string).collect();
    let tenures: Vec<_> = history
        .tenures
        .iter()
        .map(|tenure| format!("{:8.2} s  term {} {}", tenure.since.as_secs_f64(), tenure.term, tenure.member))
        .collect();
    bail!("{} anomalies, of which:\n{}\nterms:\n{}", anomalies.len(), shown.join("\n"), tenures.join("\n"))
}

fn number(name: &str) -> Result<Option<u64>> {
    text(name).map(|text| text.parse().with_context(|| format!("{name} must be a number, not {text:?}"))).transpose()
}

/// `make` hands on what was not given as nothing.
fn text(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|text| !text.is_empty())
}

#[allow(clippy::disallowed_methods, reason = "chance needs a source")]
fn random_seed() -> Result<u64> {
    Ok(std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_millis() as u64 % 1_000_000)
}

/// Past the test harness, which shows what a test prints only when it fails: a seed is worth nothing when it is lost.
fn say(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}
