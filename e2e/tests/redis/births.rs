//! From an empty namespace to a primary with replicas, of either engine, with TLS on every link.

use anyhow::{Context, Result, ensure};
use e2e::Lab;
use e2e::stage::{eventually, on_light_stage};
use redis::cmd;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::rig::{Cluster, IMAGE, VALKEY, answer, refused_with};
use crate::way::{COMMAND, PORT, SENTINEL_PORT, Way};
use crate::writer::Writer;

#[tokio::test]
async fn a_name_a_size_and_an_image_make_three_members_that_an_application_can_use() -> Result<()> {
    on_light_stage("smallest", |lab, namespace| async move {
        let spec = json!({"image": IMAGE, "imagePullPolicy": "Never", "storage": {"size": "1Gi"}});
        let cluster = Cluster::create_from(&lab, &namespace, spec).await?;
        let writer = Writer::start(&cluster, 1);
        writer.goes_on().await?;
        cluster.holds(&writer.finish().await?).await?;
        let mut connection = cluster.through("primary").await?;
        let denied = answer::<String>(&mut connection, cmd("CONFIG").arg("GET").arg("masterauth")).await;
        refused_with(denied, "NOPERM").context("an application may read passwords")?;
        Ok(())
    })
    .await
}

#[tokio::test]
async fn three_members_of_redis_replicate_encrypted_and_refuse_plain_text() -> Result<()> {
    on_light_stage("birth", |lab, namespace| async move { born(&lab, &namespace, IMAGE, "Redis", "7.").await }).await
}

#[tokio::test]
async fn three_members_of_valkey_replicate_encrypted_and_refuse_plain_text() -> Result<()> {
    on_light_stage("valkey", |lab, namespace| async move { born(&lab, &namespace, VALKEY, "Valkey", "9.").await }).await
}

async fn born(lab: &Lab, namespace: &str, image: &str, engine: &str, version: &str) -> Result<()> {
    let mut spec = Cluster::spec(3);
    spec["image"] = json!(image);
    let cluster = Cluster::create_from(lab, namespace, spec).await?;
    let status = cluster.status().await?;
    let primary = status.primary.clone().context("nobody leads")?;
    for row in &status.members {
        let role = if row.name == primary { "Primary" } else { "Replica" };
        ensure!(row.role == role && row.engine.as_deref() == Some(engine), "{row:?}");
        ensure!(row.version.as_ref().is_some_and(|found| found.starts_with(version)), "{row:?}");
    }
    let writer = Writer::start(&cluster, 1);
    writer.goes_on().await?;
    cluster.holds(&writer.finish().await?).await?;
    eventually("NAME-read to lead to a member with data", || async {
        let length: u64 = answer(&mut cluster.through("read").await?, cmd("LLEN").arg("ledger")).await?;
        ensure!(length > 0, "it is empty");
        Ok(())
    })
    .await?;

    for row in &status.members {
        let info = cluster.replication(&row.name).await?;
        let of = |name: &str| info.get(name).map(String::as_str);
        if row.name == primary {
            ensure!(of("connected_slaves") == Some("2"), "{info:?}");
            // By name: another cluster may get an address that is free again.
            let replica = of("slave0").context("no replica")?;
            ensure!(replica.contains(&format!("ip={}-", cluster.name)) && replica.contains(&format!("port={PORT}")), "{replica}");
        } else {
            ensure!(of("master_link_status") == Some("up"), "{info:?}");
            ensure!(of("master_host").is_some_and(|host| host.starts_with(&format!("{primary}."))), "{info:?}");
            let mut connection = cluster.to(&row.name).await?;
            let write = answer::<u64>(&mut connection, cmd("RPUSH").arg("ledger").arg(0)).await;
            refused_with(write, "READONLY").context("a replica takes writes")?;
        }
        for (option, value) in [("tls-replication", "yes"), ("port", "0"), ("tls-port", "6379")] {
            let found: Vec<String> = cluster.asks(&row.name, cmd("CONFIG").arg("GET").arg(option)).await?;
            ensure!(found == [option, value], "{}: {found:?}", row.name);
        }
        let address = cluster.address(&row.name).await?;
        for port in [PORT, SENTINEL_PORT] {
            ensure!(!speaks(&address, port).await?, "{} answers in plain text on {port}", row.name);
        }
    }
    for service in ["primary", "read", "sentinel"] {
        let port = if service == "sentinel" { SENTINEL_PORT } else { PORT };
        ensure!(!speaks(&cluster.service(service).await?, port).await?, "NAME-{service} answers in plain text");
    }
    let way = Way::of(&cluster).await?;
    let stranger = way.with_login(&way.user, "wrong").connect(&way.primary).await;
    refused_with(stranger, "AUTHENTICATION FAILED").context("any password is taken")?;
    Ok(())
}

/// Whether something that answers in plain text is there: to a PING, with a reply or an error.
async fn speaks(address: &str, port: u16) -> Result<bool> {
    let mut stream = TcpStream::connect((address, port)).await?;
    stream.write_all(b"PING\r\n").await?;
    let mut answer = Vec::new();
    // A TLS server says in an alert why it hangs up.
    let _ = timeout(COMMAND, stream.read_to_end(&mut answer)).await;
    Ok(answer.starts_with(b"+") || answer.starts_with(b"-"))
}

#[tokio::test]
async fn without_tls_both_ports_speak_plain_text_to_whom_logs_in() -> Result<()> {
    on_light_stage("plain-text", |lab, namespace| async move {
        let mut spec = Cluster::spec(2);
        (spec["tls"], spec["image"]) = (json!("Disabled"), json!(VALKEY));
        let cluster = Cluster::create_from(&lab, &namespace, spec).await?;
        let writer = Writer::start(&cluster, 1);
        writer.goes_on().await?;
        cluster.holds(&writer.finish().await?).await?;
        let address = cluster.address(&cluster.primary().await?).await?;
        ensure!(speaks(&address, PORT).await? && speaks(&address, SENTINEL_PORT).await?, "nobody answers in plain text");
        let found = cluster.api().get(&cluster.name).await?.spec.tls;
        let changed = cluster.merge(json!({"tls": "Required"})).await.err().map(|error| format!("{error:#}")).unwrap_or_default();
        ensure!(changed.contains("spec.tls cannot be changed"), "{found:?} was changed: {changed:?}");
        let spec = serde_json::to_value(cluster.api().get(&cluster.name).await?.spec)?;
        ensure!(spec.get("tls") == Some(&Value::from("Disabled")), "{spec}");
        Ok(())
    })
    .await
}
