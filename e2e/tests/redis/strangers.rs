//! Another cluster's address and another cluster's primary: whoever comes by them merges nothing.

use std::fs;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use e2e::Lab;
use e2e::stage::{eventually, on_light_stage};
use redis::cmd;
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::rig::{Cluster, WRITER, answer};
use crate::way::Way;
use crate::writer::Writer;

/// The node whose addresses are handed out here.
const NODE: &str = "node1";
/// Another pod of the node may get the address first.
const ATTEMPTS: usize = 8;

/// Both clusters on one node, the one only for as long as the node has its label, and without TLS: nothing but names and passwords keeps
/// them apart.
fn spec(selector: &Value) -> Value {
    let mut spec = Cluster::spec(3);
    spec["tls"] = json!("Disabled");
    spec["pod"]["nodeSelector"] = selector.clone();
    spec
}

/// Where the CNI plugin `host-local` keeps who has which address: one file an address.
fn addresses(lab: &Lab) -> Result<PathBuf> {
    let ipam = lab.node(NODE)?.dir().join("ipam");
    let network = fs::read_dir(&ipam)?.next().context("the node has no network")??;
    Ok(network.path())
}

/// Has the next pod of the node get `address`.
fn hand_out_next(lab: &Lab, address: &str) -> Result<()> {
    let before = Ipv4Addr::from(u32::from(address.parse::<Ipv4Addr>()?) - 1);
    Ok(fs::write(addresses(lab)?.join("last_reserved_ip.0"), before.to_string())?)
}

/// Each member follows whom its own cluster knows.
async fn is_among_itself(cluster: &Cluster) -> Result<()> {
    let primary = cluster.primary().await?;
    for member in cluster.others(&primary).await? {
        let info = cluster.replication(&member).await?;
        let (host, link) = (info.get("master_host").cloned().unwrap_or_default(), info.get("master_link_status").cloned());
        ensure!(host.starts_with(&format!("{primary}.")) && link.as_deref() == Some("up"), "{member} follows {host}: {link:?}");
    }
    Ok(())
}

#[tokio::test]
async fn an_address_that_another_cluster_gets_and_a_replica_that_is_sent_there_by_hand_merge_nothing() -> Result<()> {
    on_light_stage("address", |lab, namespace| async move {
        let label = format!("{namespace}/home");
        let tied = |value: &str| format!("{label}{value}");
        lab.kubectl(&["label", "node", NODE, &tied("=yes")]).await?;
        let (one, two) = (Cluster::named(&lab, &namespace, "one"), Cluster::named(&lab, &namespace, "two"));
        one.apply(spec(&json!({label.as_str(): "yes"}))).await?;
        two.apply(spec(&json!({"kubernetes.io/hostname": NODE}))).await?;
        one.whole(3).await?;
        two.whole(3).await?;
        let (first, second) = (Writer::start(&one, WRITER), Writer::start(&two, 2 * WRITER));
        first.goes_on().await?;
        second.goes_on().await?;

        // The primary of the one goes and cannot come back; the primary of the other one gets its address.
        let lost = one.primary().await?;
        let address = one.address(&lost).await?;
        lab.kubectl(&["label", "node", NODE, &tied("-")]).await?;
        let survived = async {
            one.delete(&lost, Some(0)).await?;
            let file = addresses(&lab)?.join(&address);
            eventually("the address to be free", || async {
                ensure!(!file.exists(), "{} is there", file.display());
                Ok(())
            })
            .await?;
            let inherits = inherit(&lab, &two, &address).await?;
            println!("{inherits} has {address}, which {lost} had");
            let new = one.succeeded(&lost).await?;
            ensure!(new != lost, "{lost} is gone");
            two.whole(3).await?;
            first.goes_on().await?;
            second.goes_on().await?;
            is_among_itself(&two).await
        };
        let survived = survived.await;
        lab.kubectl(&["label", "node", NODE, &tied("=yes")]).await?;
        survived?;
        one.whole(3).await?;
        is_among_itself(&one).await?;

        // As a Sentinel does that remembers addresses: follow whoever has it now.
        let replica = one.others(&one.primary().await?).await?.remove(0);
        let target = two.address(&two.primary().await?).await?;
        let way = Way::of(&one).await?;
        let mut connection = way.connect(&one.address(&replica).await?).await?;
        for _ in 0..20 {
            answer::<String>(&mut connection, cmd("REPLICAOF").arg(&target).arg(6379)).await?;
            sleep(Duration::from_millis(100)).await;
            let held: Vec<u64> = answer(&mut connection, cmd("LRANGE").arg("ledger").arg(0).arg(-1)).await?;
            ensure!(held.iter().all(|number| number / WRITER == 1), "{replica} took a copy of another cluster's data");
        }
        one.whole(3).await?;
        two.whole(3).await?;
        eventually("each cluster to be among itself", || async {
            is_among_itself(&one).await?;
            is_among_itself(&two).await
        })
        .await?;
        for (cluster, writer, own) in [(&one, first, 1), (&two, second, 2)] {
            let acknowledged = writer.finish().await?;
            cluster.holds(&acknowledged).await?;
            let ledger = cluster.ledger(&cluster.primary().await?).await?;
            ensure!(ledger.iter().all(|number| number / WRITER == own), "{} holds the other one's data", cluster.name);
        }
        Ok(())
    })
    .await
}

/// Replaces the primary of a cluster until its pod has `address`; says which one it is.
async fn inherit(lab: &Lab, cluster: &Cluster, address: &str) -> Result<String> {
    for _ in 0..ATTEMPTS {
        let primary = cluster.primary().await?;
        let before = cluster.pod_uid(&primary).await?;
        cluster.delete(&primary, Some(0)).await?;
        hand_out_next(lab, address)?;
        eventually("another pod with an address", || async {
            ensure!(cluster.pod_uid(&primary).await? != before, "it is the old one");
            cluster.address(&primary).await.map(drop)
        })
        .await?;
        if cluster.address(&primary).await? == address {
            return Ok(primary);
        }
        cluster.whole(3).await?;
    }
    bail!("{address} is not handed out")
}
