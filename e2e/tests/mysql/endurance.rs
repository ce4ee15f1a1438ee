//! Many failovers in a row: nothing is used up by them.
//!
//! `FAILOVERS=100` makes it a longer one.

use std::collections::BTreeMap;
use std::fs;

use anyhow::{Context, Result, ensure};
use e2e::process::Process;
use tokio::time::Instant;

use crate::rig::Cluster;
use crate::writer::Writer;
use e2e::stage::operator;
use e2e::stage::{SYSTEM, eventually, on_stage};

const FAILOVERS: u32 = 30;
/// By then every member has led and followed, and each cache holds what it ever will.
const WARM: u32 = 6;
/// A process may have so many more open files than after the first few failovers; the operator also serves other tests' clusters.
const FILES: usize = 25;
/// And so much more memory, in KiB: a leak of a connection or a history each time would be more.
const MEMORY: usize = 12 * 1024;
/// And so many more sessions at its mysqld, of which some come and go.
const SESSIONS: usize = 4;

/// What one process, or the mysqld beside it, holds.
#[derive(Clone, Copy, Debug)]
struct Holds {
    process: Process,
    files: usize,
    memory: usize,
    sessions: usize,
}

fn of(process: Process, sessions: usize) -> Result<Holds> {
    let files = fs::read_dir(format!("/proc/{}/fd", process.pid))?.count();
    let status = fs::read_to_string(format!("/proc/{}/status", process.pid))?;
    let memory = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.split_whitespace().next()?.parse().ok());
    Ok(Holds { process, files, memory: memory.context("no VmRSS")?, sessions })
}

/// The operator by name, and every sidecar by name and pod.
async fn measure(cluster: &Cluster) -> Result<BTreeMap<String, Holds>> {
    let lab = &cluster.lab;
    let named =
        |all: Vec<Process>, name: &str| all.into_iter().find(|process| process.is(name)).with_context(|| format!("no process {name}"));
    let mut all = BTreeMap::new();
    all.insert("operator".to_owned(), of(named(lab.processes(SYSTEM, &operator(lab).await?).await?, "operator")?, 0)?);
    for member in cluster.status().await?.members {
        let sidecar = named(lab.processes(&cluster.namespace, &member.name).await?, "sidecar")?;
        let sessions = "SELECT COUNT(*) FROM performance_schema.threads WHERE TYPE = 'FOREGROUND' AND PROCESSLIST_USER LIKE 'understudy%'";
        let sessions = cluster.sql(&member.name, sessions).await?.parse()?;
        let pod = cluster.pod_uid(&member.name).await?;
        all.insert(format!("{} in pod {pod}", member.name), of(sidecar, sessions)?);
    }
    Ok(all)
}

#[tokio::test]
async fn thirty_failovers_in_a_row_leave_no_connection_file_or_memory_behind() -> Result<()> {
    on_stage("endure", |lab, namespace| async move {
        let failovers = std::env::var("FAILOVERS").ok().map_or(Ok(FAILOVERS), |count| count.parse())?;
        ensure!(failovers > WARM, "FAILOVERS must be more than {WARM}");
        let cluster = Cluster::perform(&lab, &namespace, 3).await?;
        let writer = Writer::start(&cluster, 1);
        let begun = Instant::now();
        let mut before = BTreeMap::new();
        for failover in 1..=failovers {
            let old = cluster.primary().await?;
            let failed = || format!("failover {failover} of {failovers}, after {:?}", begun.elapsed());
            cluster.crashed(&old).await.with_context(failed)?;
            cluster.whole(3).await.with_context(failed)?;
            if failover >= WARM {
                // A primary that died with a commit which nobody else has is cloned anew, in a new pod: that one only begins to count.
                for (name, now) in measure(&cluster).await? {
                    before.entry(name).or_insert(now);
                }
            }
        }
        let acknowledged = writer.finish().await?;
        cluster.holds(&acknowledged).await?;
        // What is only just being closed is no leak.
        eventually("all that was opened to be closed", || async {
            for (name, now) in measure(&cluster).await? {
                let then = before.get(&name).with_context(|| format!("{name} is new"))?;
                ensure!(now.process == then.process, "{name} was restarted");
                let grown = now.files > then.files + FILES || now.memory > then.memory + MEMORY || now.sessions > then.sessions + SESSIONS;
                ensure!(!grown, "{name} held {then:?}, and {now:?} after {failovers} failovers");
            }
            Ok(())
        })
        .await
    })
    .await
}
