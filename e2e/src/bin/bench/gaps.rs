//! Time without an acknowledged write, by what happens to the primary, for a client that writes every 5 ms through the ClusterIP Service.
//!
//! The floor is what no operator can avoid: its claim is one write to the API server, its route another one, and kube-proxy and a login
//! take their time. It is measured on the same members, by a Service and an EndpointSlice of the bench's own.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use crds::mysql::MySQLCluster;
use e2e::ui::Ui;
use e2e::{Application, Lab};
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use mysql_async::prelude::Queryable;
use serde_json::json;
use tokio::time::{Instant, sleep, timeout};

use crate::stage::{NAME, on_stage, wait_for};
use crate::table::{median, spread};
use crate::writer::Writer;

/// Of each blow; `RUNS` in the environment goes before it, and `BLOW=frozen` strikes that one alone.
const RUNS: usize = 30;
const MEMBERS: usize = 3;
/// Writes go on again within this time, or the run is no measurement.
const SILENCE: Duration = Duration::from_secs(60);
/// A cluster that is whole is left alone this long: caches fill, kube-proxy's own pause ends.
const CALM: Duration = Duration::from_secs(2);
/// kube-proxy delays a second change within a second.
const APART: Duration = Duration::from_millis(1500);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Blow {
    Crash,
    Delete,
    Freeze,
    SwitchOver,
}

pub async fn measure(lab: &Lab, ui: &Ui) -> Result<()> {
    let runs: usize = std::env::var("RUNS").map_or(Ok(RUNS), |text| text.parse()).context("RUNS must be a number")?;
    on_stage(lab, MEMBERS, |namespace| async move {
        let application = Application::of(lab, &namespace, NAME).await?;
        let floor = ui.step("re-routes of a Service, the floor", floor(lab, &namespace, &application, runs)).await?;
        let writer = Writer::start(&application).await?;
        let blows = [
            (Blow::Crash, "gap: crash of mysqld", "p50 <= 300, p99 <= 1000"),
            (Blow::Delete, "gap: pod deleted without grace", "p50 <= 300, p99 <= 1000"),
            (Blow::Freeze, "gap: frozen pod", "p99 <= 5000"),
            (Blow::SwitchOver, "gap: planned switchover", "p50 <= 100, p99 <= 250"),
        ];
        let only = std::env::var("BLOW").unwrap_or_default();
        ensure!(blows.iter().any(|(_, what, _)| what.contains(&only)), "BLOW={only} is none of crash, deleted, frozen, planned");
        for (blow, what, goal) in blows.into_iter().filter(|(_, what, _)| what.contains(&only)) {
            let mut gaps = Vec::new();
            for run in 1..=runs {
                let gap = ui.step(&format!("{what}, run {run} of {runs}"), strike(lab, &namespace, blow, &writer)).await?;
                ui.say(&format!("  {:.1} ms", gap.as_secs_f64() * 1e3));
                gaps.push(gap);
            }
            spread(what, &mut gaps, floor, goal);
        }
        writer.finish(&application).await
    })
    .await
}

/// Strikes the primary of a whole cluster; returns the longest gap until it is whole again.
async fn strike(lab: &Lab, namespace: &str, blow: Blow, writer: &Writer) -> Result<Duration> {
    wait_for(lab, namespace, MEMBERS).await?;
    sleep(CALM).await;
    let clusters = Api::<MySQLCluster>::namespaced(lab.client().clone(), namespace);
    let status = clusters.get(NAME).await?.status.context("no status")?;
    let primary = status.primary.clone().context("no primary")?;
    let since = Instant::now();
    match blow {
        Blow::Crash => lab.kill_container(namespace, &primary, "mysql").await?,
        Blow::Delete => {
            let at_once = DeleteParams { grace_period_seconds: Some(0), ..Default::default() };
            Api::<Pod>::namespaced(lab.client().clone(), namespace).delete(&primary, &at_once).await?;
        }
        Blow::Freeze => lab.freeze(namespace, &primary).await?,
        Blow::SwitchOver => {
            let request = json!({"metadata": {"annotations": {"understudy.dev/switchover": format!("any@{}", status.term)}}});
            clusters.patch(NAME, &PatchParams::default(), &Patch::Merge(request)).await?;
        }
    }
    // Another primary has acknowledged: by the status, since a restart in place would be one more gap.
    let resumed = async {
        loop {
            let now = clusters.get(NAME).await?.status.unwrap_or_default();
            if now.term > status.term && now.transition.is_none() && now.primary.as_ref() != Some(&primary) {
                return anyhow::Ok(writer.count());
            }
            sleep(Duration::from_millis(20)).await;
        }
    };
    let resumed = timeout(SILENCE, resumed).await;
    if blow == Blow::Freeze {
        thaw(lab, namespace, &primary).await;
    }
    let before = resumed.with_context(|| format!("no other primary than {primary} in {} s", SILENCE.as_secs()))??;
    timeout(SILENCE, async {
        while writer.count() <= before {
            sleep(Duration::from_millis(20)).await;
        }
    })
    .await
    .context("writes do not go on")?;
    wait_for(lab, namespace, MEMBERS).await?;
    writer.gap(since)
}

/// The kubelet may have ended the frozen processes meanwhile.
async fn thaw(lab: &Lab, namespace: &str, pod: &str) {
    let _ = lab.thaw(namespace, pod).await;
}

/// Median of the time from the write that swaps the address to a client logged in at the other member, and one more write: the claim.
async fn floor(lab: &Lab, namespace: &str, application: &Application, runs: usize) -> Result<Duration> {
    let client = lab.client();
    let pods = Api::<Pod>::namespaced(client.clone(), namespace);
    let services = Api::<Service>::namespaced(client.clone(), namespace);
    let slices = Api::<EndpointSlice>::namespaced(client.clone(), namespace);
    let ports = json!([{"name": "mysql", "port": 3306, "protocol": "TCP"}]);
    let service = json!({"metadata": {"name": "floor"}, "spec": {"ports": ports}});
    let service = services.create(&PostParams::default(), &serde_json::from_value(service)?).await?;
    let address = service.spec.and_then(|spec| spec.cluster_ip).context("no cluster IP")?;
    let mut members = Vec::new();
    for ordinal in [0, 1] {
        let name = format!("{NAME}-{ordinal}");
        let address = pods.get(&name).await?.status.and_then(|status| status.pod_ip).context("no address")?;
        members.push((name, address));
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
    Ok(Duration::from_secs_f64(swap + write))
}

/// Time since `start` until a login through the Service leads to `member`.
async fn greeted(application: &Application, service: &str, member: &str, start: Instant) -> Result<Duration> {
    while start.elapsed() < SILENCE {
        if let Ok(mut connection) = application.connect(service, Duration::from_millis(250)).await {
            let name: Option<String> = connection.query_first("SELECT @@hostname").await?;
            if name.as_deref() == Some(member) {
                return Ok(start.elapsed());
            }
        }
        sleep(Duration::from_millis(2)).await;
    }
    bail!("no re-route to {member} in {} s", SILENCE.as_secs())
}
