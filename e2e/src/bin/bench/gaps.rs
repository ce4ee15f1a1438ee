//! Time without an acknowledged write, by what happens to the primary, for a client that writes every 5 ms through the ClusterIP Service.
//!
//! The floor is what no operator can avoid: its claim is one write to the API server, its route another one, and kube-proxy and a login
//! take their time. It is measured on the same members, by a Service and an EndpointSlice of the bench's own.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use bson::doc;
use e2e::engine::{Cluster, Mongo, MySql};
use e2e::ui::Ui;
use e2e::{Engine, Lab};
use k8s_openapi::api::core::v1::{ConfigMap, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use serde_json::json;
use tokio::time::{Instant, sleep, timeout};

use crate::copies::rss;
use crate::stage::{on_stage, wait_for};
use crate::table::{figure, median, spread};
use crate::writer::{Beats, Writer};

/// Of each blow; `RUNS` in the environment goes before it, and `BLOW=frozen` strikes that one alone.
const RUNS: usize = 30;
pub const MEMBERS: usize = 3;
const GROWN: usize = 10;
/// A member that is well is found within this.
pub const FIRST: Duration = Duration::from_secs(10);
/// Writes go on again within this time, or the run is no measurement.
pub const SILENCE: Duration = Duration::from_secs(60);
/// Whole for so long with the same primary: nobody replaced it, and it was restarted where it was.
const IN_PLACE: Duration = Duration::from_secs(10);
/// A cluster that is whole is left alone this long: caches fill, kube-proxy's own pause ends.
pub const CALM: Duration = Duration::from_secs(2);
/// kube-proxy delays a second change within a second.
const APART: Duration = Duration::from_millis(1500);

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Blow {
    Crash,
    Delete,
    Freeze,
    SwitchOver,
}

/// What is done, what the line says, what is aimed at.
pub type Goal = (Blow, &'static str, &'static str);

const OF_MYSQL: [Goal; 4] = [
    (Blow::Crash, "gap: crash of mysqld", "p50 <= 300, p99 <= 1000"),
    (Blow::Delete, "gap: pod deleted without grace", "p50 <= 300, p99 <= 1000"),
    (Blow::Freeze, "gap: frozen pod", "p99 <= 5000"),
    (Blow::SwitchOver, "gap: planned switchover", "p50 <= 100, p99 <= 250"),
];
const OF_MONGO: [Goal; 2] =
    [(Blow::Crash, "gap: crash of mongod", "p50 <= 500, p99 <= 1500"), (Blow::SwitchOver, "gap: planned switchover", "p99 <= 500")];

/// Somebody who writes meanwhile.
pub struct Client {
    /// Before each of its lines.
    pub title: String,
    pub writer: Writer,
    /// What nobody can go below for it.
    pub floor: Duration,
}

pub async fn mysql(lab: &Lab, ui: &Ui) -> Result<()> {
    on_stage::<MySql, _>(lab, MEMBERS, |cluster| async move { measure(&cluster, ui, "", &OF_MYSQL).await }).await
}

/// And the memory of a sidecar that has been through it.
pub async fn mongo(lab: &Lab, ui: &Ui) -> Result<()> {
    on_stage::<Mongo, _>(lab, MEMBERS, |cluster| async move {
        let server = server(&cluster).await?;
        measure(&cluster, ui, &server, &OF_MONGO).await?;
        grow(&cluster, ui, &server).await?;
        for ordinal in 0..u32::try_from(MEMBERS)? {
            let member = cluster.member(ordinal);
            figure(&format!("{server}sidecar RSS, MiB"), rss(lab, &cluster.namespace, &member, "sidecar").await?, "<= 10");
        }
        Ok(())
    })
    .await
}

/// Ten members instead of three while a client writes.
async fn grow(cluster: &Cluster<Mongo>, ui: &Ui, server: &str) -> Result<()> {
    let application = Mongo::of(&cluster.lab, &cluster.namespace, &cluster.name).await?;
    let writer = Writer::start(application.clone()).await?;
    writer.goes_on(0, SILENCE).await?;
    let start = Instant::now();
    let patch = Patch::Merge(json!({"spec": {"replicas": GROWN}}));
    cluster.api().patch(&cluster.name, &PatchParams::default(), &patch).await?;
    ui.step("three to ten members", wait_for(cluster, GROWN)).await?;
    figure(&format!("{server}3 to 10 members under writes, s"), start.elapsed().as_secs_f64(), "");
    figure(&format!("{server}longest gap meanwhile, ms"), writer.gap(start)?.as_secs_f64() * 1e3, "");
    writer.finish(&application).await
}

/// What the figures are of, by its own word, for each line: the model of mongod is not mongod, which `MONGO_IMAGE_ROOTFS` brings.
async fn server(cluster: &Cluster<Mongo>) -> Result<String> {
    let application = Mongo::of(&cluster.lab, &cluster.namespace, &cluster.name).await?;
    let connection = application.connect(application.primary(), FIRST).await?;
    let info = connection.database(Mongo::DATABASE).run_command(doc! { "buildInfo": 1 }).await?;
    let what = if info.get_str("gitVersion").is_ok_and(|version| version == "mongod-model") { "model of mongod" } else { "mongod" };
    Ok(format!("{what} {}, ", info.get_str("version")?))
}

async fn measure<E: Engine + Beats>(cluster: &Cluster<E>, ui: &Ui, server: &str, blows: &[Goal]) -> Result<()> {
    let runs = runs(RUNS)?;
    let application = E::of(&cluster.lab, &cluster.namespace, &cluster.name).await?;
    // A first login may take its time: a driver keeps what it computes for the next ones.
    drop(application.connect(application.primary(), FIRST).await?);
    let (swap, write) = ui.step("re-routes of a Service, the floor", floor(cluster, &application, runs)).await?;
    let clients = [Client { title: server.into(), writer: Writer::start(application.clone()).await?, floor: swap + write }];
    for (blow, what, goal) in wanted(blows)? {
        series(ui, what, goal, runs, &clients, async || strike(cluster, blow, &clients).await).await?;
    }
    for client in clients {
        client.writer.finish(&application).await?;
    }
    Ok(())
}

/// How often each blow is struck.
pub fn runs(usual: usize) -> Result<usize> {
    std::env::var("RUNS").map_or(Ok(usual), |text| text.parse()).context("RUNS must be a number")
}

/// What `BLOW` leaves of them.
pub fn wanted(blows: &[Goal]) -> Result<Vec<Goal>> {
    let only = std::env::var("BLOW").unwrap_or_default();
    let left: Vec<_> = blows.iter().filter(|(_, what, _)| what.contains(&only)).copied().collect();
    ensure!(!left.is_empty(), "BLOW={only} is in none of {:?}", blows.iter().map(|(_, what, _)| *what).collect::<Vec<_>>());
    Ok(left)
}

/// Strikes so often, and prints for each client the longest gap from a strike until all was whole again.
pub async fn series(
    ui: &Ui,
    what: &str,
    goal: &str,
    runs: usize,
    clients: &[Client],
    strike: impl AsyncFn() -> Result<Instant>,
) -> Result<()> {
    let mut gaps = vec![Vec::new(); clients.len()];
    for run in 1..=runs {
        let since = ui.step(&format!("{what}, run {run} of {runs}"), strike()).await?;
        for (client, gaps) in clients.iter().zip(&mut gaps) {
            let gap = client.writer.gap(since)?;
            ui.say(&format!("  {}{:.1} ms", client.title, gap.as_secs_f64() * 1e3));
            gaps.push(gap);
        }
    }
    for (client, gaps) in clients.iter().zip(&mut gaps) {
        spread(&format!("{}{what}", client.title), gaps, client.floor, goal);
    }
    Ok(())
}

/// Every client's writes go on.
pub async fn all_go_on(clients: &[Client], within: Duration) -> Result<()> {
    let before: Vec<_> = clients.iter().map(|client| client.writer.count()).collect();
    for (client, before) in clients.iter().zip(before) {
        client.writer.goes_on(before, within).await.with_context(|| client.title.clone())?;
    }
    Ok(())
}

/// Strikes the primary of a whole cluster, and waits until it is whole again; says when it struck.
pub async fn strike<E: Engine>(cluster: &Cluster<E>, blow: Blow, clients: &[Client]) -> Result<Instant> {
    wait_for(cluster, MEMBERS).await?;
    sleep(CALM).await;
    let before = cluster.glance().await?;
    let primary = before.primary.context("no primary")?;
    let since = Instant::now();
    match blow {
        Blow::Crash => cluster.crash(&primary).await?,
        Blow::Delete => cluster.delete(&primary, Some(0)).await?,
        Blow::Freeze => cluster.lab.freeze(&cluster.namespace, &primary).await?,
        Blow::SwitchOver => drop(cluster.switch_over(before.term).await?),
    }
    // Another primary has acknowledged: by the status, since a restart in place would be one more gap. Where there was no other, it is the gap.
    let resumed = async {
        loop {
            let now = cluster.glance().await?;
            let replaced = now.term > before.term && now.transition.is_none() && now.primary.as_ref() != Some(&primary);
            if replaced || (blow != Blow::SwitchOver && now.settled && now.term == before.term && since.elapsed() > IN_PLACE) {
                return anyhow::Ok(());
            }
            sleep(Duration::from_millis(20)).await;
        }
    };
    let resumed = timeout(SILENCE, resumed).await;
    if blow == Blow::Freeze {
        // The kubelet may have ended the frozen processes meanwhile.
        let _ = cluster.lab.thaw(&cluster.namespace, &primary).await;
    }
    resumed.with_context(|| format!("no other primary than {primary} in {} s", SILENCE.as_secs()))??;
    all_go_on(clients, SILENCE).await?;
    wait_for(cluster, MEMBERS).await?;
    Ok(since)
}

/// Median of the time from the write that swaps the address to a client logged in at the other member, and that of one more write: the claim.
pub async fn floor<E: Engine>(cluster: &Cluster<E>, application: &E, runs: usize) -> Result<(Duration, Duration)> {
    let (client, namespace) = (cluster.lab.client(), cluster.namespace.as_str());
    let services = Api::<Service>::namespaced(client.clone(), namespace);
    let slices = Api::<EndpointSlice>::namespaced(client.clone(), namespace);
    let ports = json!([{"name": E::NAME, "port": E::PORT, "protocol": "TCP"}]);
    let service = json!({"metadata": {"name": "floor"}, "spec": {"ports": ports}});
    let service = services.create(&PostParams::default(), &serde_json::from_value(service)?).await?;
    let address = service.spec.and_then(|spec| spec.cluster_ip).context("no cluster IP")?;
    let mut members = Vec::new();
    for ordinal in [0, 1] {
        let name = cluster.member(ordinal);
        members.push((name.clone(), cluster.address(&name).await?));
    }
    let slice = |address: &str| {
        json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4", "ports": ports,
            "metadata": {"name": "floor", "labels": {"kubernetes.io/service-name": "floor"}},
            "endpoints": [{"addresses": [address], "conditions": {"ready": true}}]})
    };
    let apply = PatchParams::apply("bench").force();
    let (mut swaps, mut writes) = (Vec::new(), Vec::new());
    for run in 0..=runs {
        let (name, member) = &members[run % 2];
        let start = Instant::now();
        slices.patch("floor", &apply, &Patch::Apply(slice(member))).await?;
        let greeted = greeted(application, &address, name, start).await?;
        // The first one makes the slice.
        if run > 0 {
            swaps.push(greeted.as_secs_f64());
        }
        sleep(APART).await;
        let start = Instant::now();
        let beat = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "floor"}, "data": {"run": run.to_string()}});
        Api::<ConfigMap>::namespaced(client.clone(), namespace).patch("floor", &apply, &Patch::Apply(beat)).await?;
        writes.push(start.elapsed().as_secs_f64());
    }
    services.delete("floor", &DeleteParams::default()).await?;
    slices.delete("floor", &DeleteParams::default()).await?;
    let (swap, write) = (median(&mut swaps), median(&mut writes));
    println!("{:<52} {:>12.2}   and a write to the API server {:.2}", "re-route, write to login elsewhere, ms", swap * 1e3, write * 1e3);
    Ok((Duration::from_secs_f64(swap), Duration::from_secs_f64(write)))
}

/// Time since `start` until a login through the Service leads to `member`.
async fn greeted<E: Engine>(application: &E, service: &str, member: &str, start: Instant) -> Result<Duration> {
    while start.elapsed() < SILENCE {
        if let Ok(mut connection) = application.connect(service, Duration::from_millis(250)).await
            && E::member(&mut connection).await? == member
        {
            return Ok(start.elapsed());
        }
        sleep(Duration::from_millis(2)).await;
    }
    bail!("no re-route to {member} in {} s", SILENCE.as_secs())
}
