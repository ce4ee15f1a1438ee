//! When nothing is wrong: what it costs to watch, and whether anybody is replaced although both cores are saturated.

use std::time::Duration;

use anyhow::{Context, Result};
use e2e::engine::{MySql, Redis};
use e2e::process::Process;
use e2e::ui::Ui;
use e2e::{Engine, Lab};
use tokio::time::{Instant, sleep};

use crate::stage::{Measured, SYSTEM, on_stage, operator, process};
use crate::table::figure;
use crate::writer::Writer;

const MEMBERS: usize = 3;
/// After the birth of a cluster, before it counts as idle.
const CALM: Duration = Duration::from_secs(20);
const WINDOW: Duration = Duration::from_secs(120);
/// Linux counts a process' time in hundredths of a second, whatever its own tick is.
const TICKS: f64 = 100.0;
/// Busy loops for each core: more than one, so that everything else has to wait.
const LOOPS: usize = 2;
/// Looks at the term this often.
const LOOK: Duration = Duration::from_millis(500);

/// Millicores of operator and sidecars of one cluster of each without a client.
pub async fn idle(lab: &Lab, ui: &Ui) -> Result<()> {
    still::<Redis>(lab, ui).await?;
    still::<MySql>(lab, ui).await
}

async fn still<E: Measured>(lab: &Lab, ui: &Ui) -> Result<()> {
    on_stage::<E, _>(lab, MEMBERS, |cluster| async move {
        sleep(CALM).await;
        let mut watched = vec![("operator", "<= 1", process(lab, SYSTEM, &operator(lab).await?, "operator").await?)];
        for ordinal in 0..u32::try_from(MEMBERS)? {
            let sidecar = process(lab, &cluster.namespace, &cluster.member(ordinal), "sidecar").await?;
            watched.push(("sidecar", "<= 2", sidecar));
        }
        let before: Vec<_> = watched.iter().map(|(_, _, process)| cpu(process)).collect::<Result<_>>()?;
        let start = Instant::now();
        let calm = async {
            sleep(WINDOW).await;
            Ok(())
        };
        ui.step(&format!("{} s without a client", WINDOW.as_secs()), calm).await?;
        for ((who, goal, process), before) in watched.iter().zip(before) {
            let what = format!("{}, {who} CPU at idle, millicores", E::NAME);
            figure(&what, (cpu(process)? - before) / start.elapsed().as_secs_f64() * 1e3, goal);
        }
        Ok(())
    })
    .await
}

/// Changes of the term while every core is busy, which must be none.
pub async fn busy(lab: &Lab, ui: &Ui) -> Result<()> {
    let minutes: u64 = std::env::var("BUSY_MINUTES").map_or(Ok(10), |text| text.parse()).context("BUSY_MINUTES must be a number")?;
    on_stage::<MySql, _>(lab, MEMBERS, |cluster| async move {
        let application = MySql::of(lab, &cluster.namespace, &cluster.name).await?;
        let writer = Writer::start(application.clone()).await?;
        sleep(CALM).await;
        let term = async || anyhow::Ok(cluster.glance().await?.term);
        let (before, start) = (term().await?, Instant::now());
        let loops = LOOPS * std::thread::available_parallelism()?.get();
        let burn = |_| e2e::run::command("sh").args(["-c", "while :; do :; done"]).spawn();
        let burning: Vec<_> = (0..loops).map(burn).collect::<std::io::Result<_>>()?;
        let busy = async {
            let mut last = before;
            while start.elapsed() < Duration::from_secs(minutes * 60) {
                // A slow answer is what this is about.
                last = term().await.unwrap_or(last);
                sleep(LOOK).await;
            }
            Ok(last)
        };
        let last = ui.step(&format!("{minutes} minutes with {loops} busy loops"), busy).await?;
        // They die with their handles.
        drop(burning);
        figure(&format!("false failovers, {minutes} min on saturated cores"), (last - before) as f64, "0");
        figure("  writes acknowledged meanwhile", writer.count() as f64, "");
        figure("  longest time without one, ms", writer.gap(start)?.as_secs_f64() * 1e3, "");
        writer.finish(&application).await
    })
    .await
}

/// Seconds of CPU that a process has used, all its threads counted, also those that have ended.
fn cpu(process: &Process) -> Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", process.pid)).context("the process has ended")?;
    // Behind the name in parentheses: user and system time are the 14th and 15th field of the line.
    let fields: Vec<_> = stat.rsplit_once(')').context("a name in parentheses")?.1.split_whitespace().collect();
    let ticks = |field: usize| fields.get(field - 3).and_then(|ticks| ticks.parse::<f64>().ok()).context("a number of ticks");
    Ok((ticks(14)? + ticks(15)?) / TICKS)
}
