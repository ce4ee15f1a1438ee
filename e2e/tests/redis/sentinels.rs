//! Clients that ask a Sentinel: programs with other people's libraries through failovers and switchovers, and what the endpoint answers.

use anyhow::{Context, Result, ensure};
use e2e::clients::{Errand, Library, Running, program};
use e2e::stage::{eventually, on_light_stage};
use e2e::ui::Ui;
use futures::future::try_join_all;
use redis::cmd;
use serde_json::json;

use crate::rig::{Cluster, USER, answer, refused_with};
use crate::way::{SENTINEL_PORT, Way};

/// How long an application may be without its primary, in milliseconds: a failover and what its library makes of it.
const GAP: u64 = 15_000;

/// Each member's Sentinel by its name, or the Service of all.
async fn errand(cluster: &Cluster, key: &str, by_service: bool) -> Result<Errand> {
    let hosts = match by_service {
        true => vec![format!("{}-sentinel.{}.svc", cluster.name, cluster.namespace)],
        false => (0..3).map(|ordinal| format!("{}.{}.{}.svc", cluster.member(ordinal), cluster.name, cluster.namespace)).collect(),
    };
    Ok(Errand {
        sentinels: hosts.iter().map(|host| format!("{host}:{SENTINEL_PORT}")).collect(),
        master: cluster.secret_value("app", "masterName").await?,
        user: USER.into(),
        password: cluster.secret_value("app", USER).await?,
        ca: Some(cluster.secret_value("tls", "ca.crt").await?),
        key: key.into(),
        acks: 1,
        namespace: Some(cluster.namespace.clone()),
    })
}

async fn go_on(clients: &[(String, Running)]) -> Result<()> {
    for (key, client) in clients {
        let enough = client.acknowledged()?.len() + 20;
        eventually(&format!("the client of {key} to go on"), || async {
            let count = client.acknowledged()?.len();
            ensure!(count >= enough, "{count} of {enough}\n{}", client.log());
            Ok(())
        })
        .await?;
    }
    Ok(())
}

#[tokio::test]
async fn applications_with_go_redis_redis_py_and_ioredis_come_through_failovers_and_switchovers() -> Result<()> {
    on_light_stage("clients", |lab, namespace| async move {
        let mut spec = Cluster::spec(3);
        spec["sentinel"] = json!({"masterName": "mymaster"});
        // What an application may do by default is enough for them.
        spec["users"] = json!([{"name": USER}]);
        let cluster = Cluster::create_from(&lab, &namespace, spec).await?;
        let mut clients = Vec::new();
        for (key, library, by_service) in [
            ("go", Library::GoRedis, false),
            ("python", Library::RedisPy, false),
            ("node", Library::IoRedis, false),
            ("service", Library::GoRedis, true),
        ] {
            let program = program(lab.dirs(), &Ui::default(), library).await?;
            clients.push((key.to_owned(), program.start(&errand(&cluster, key, by_service).await?)?));
        }
        go_on(&clients).await?;
        let mut primaries = vec![cluster.primary().await?];
        let crashed = cluster.crashed(&primaries[0]).await?;
        primaries.push(crashed);
        go_on(&clients).await?;
        cluster.whole(3).await?;
        for _ in 0..2 {
            let old = cluster.primary().await?;
            cluster.switch_over("any").await?;
            primaries.push(cluster.succeeded(&old).await?);
            go_on(&clients).await?;
            cluster.whole(3).await?;
        }
        let lost = cluster.primary().await?;
        primaries.push(cluster.deleted(&lost).await?);
        go_on(&clients).await?;
        cluster.whole(3).await?;

        let (keys, running): (Vec<_>, Vec<_>) = clients.into_iter().unzip();
        let reports = try_join_all(running.into_iter().map(Running::finish)).await?;
        for (key, report) in keys.iter().zip(reports) {
            println!(
                "{key}: {}, {} values in {} attempts, longest gap {} ms, {} reconnects, errors {:?}",
                report.client,
                report.acknowledged.len(),
                report.attempts,
                report.longest_gap_ms,
                report.reconnects,
                report.errors
            );
            ensure!(report.longest_gap_ms < GAP, "{key} was shut out for {} ms", report.longest_gap_ms);
            // Who listens through the Service listens to one member, which may be the one whose pod was deleted in the end: who comes anew
            // hears of no switch of before.
            let heard = if key == "service" { primaries.len() - 1 } else { primaries.len() };
            for pair in primaries[..heard].windows(2) {
                let told = report.switches.iter().any(|payload| {
                    let words: Vec<&str> = payload.split(' ').collect();
                    words.first() == Some(&"mymaster")
                        && words.get(1).is_some_and(|old| old.starts_with(&format!("{}.", pair[0])))
                        && words.get(3).is_some_and(|new| new.starts_with(&format!("{}.", pair[1])))
                });
                ensure!(told, "{key} was not told of {pair:?}: {:?}", report.switches);
            }
            eventually("every member to hold what was acknowledged", || async {
                for member in cluster.status().await?.members {
                    let held: Vec<String> = cluster.asks(&member.name, cmd("LRANGE").arg(key).arg(0).arg(-1)).await?;
                    let missing = report.acknowledged.iter().filter(|value| !held.contains(value)).count();
                    ensure!(missing == 0, "{} misses {missing} values of {key}", member.name);
                }
                Ok(())
            })
            .await?;
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn each_sentinel_names_primary_and_replicas_to_whom_logs_in_and_to_nobody_else() -> Result<()> {
    on_light_stage("sentinel", |lab, namespace| async move {
        let cluster = Cluster::create(&lab, &namespace, 3).await?;
        let way = Way::of(&cluster).await?;
        let primary = cluster.primary().await?;
        let host = |member: &str| format!("{member}.cache.{namespace}.svc");
        let mut addresses = vec![cluster.service("sentinel").await?];
        for ordinal in 0..3 {
            addresses.push(cluster.address(&cluster.member(ordinal)).await?);
        }
        for address in &addresses {
            let mut sentinel = way.connect_to(address, SENTINEL_PORT).await?;
            let found: (String, String) = answer(&mut sentinel, cmd("SENTINEL").arg("get-master-addr-by-name").arg("cache")).await?;
            ensure!(found.0.starts_with(&host(&primary)) && found.1 == "6379", "{address}: {found:?}");
            let unknown: Option<(String, String)> =
                answer(&mut sentinel, cmd("SENTINEL").arg("get-master-addr-by-name").arg("another")).await?;
            ensure!(unknown.is_none(), "{address}: {unknown:?}");
            let rows: Vec<Vec<String>> = answer(&mut sentinel, cmd("SENTINEL").arg("replicas").arg("cache")).await?;
            ensure!(rows.len() == 2, "{address}: {rows:?}");
            for replica in cluster.others(&primary).await? {
                ensure!(
                    rows.iter().flatten().any(|field| field.starts_with(&host(&replica))),
                    "{address} does not name {replica}: {rows:?}"
                );
            }
            let sentinels: Vec<Vec<String>> = answer(&mut sentinel, cmd("SENTINEL").arg("sentinels").arg("cache")).await?;
            ensure!(sentinels.len() == 2, "{address}: {sentinels:?}");
            let quorum: String = answer(&mut sentinel, cmd("SENTINEL").arg("ckquorum").arg("cache")).await?;
            ensure!(quorum.starts_with("OK"), "{address}: {quorum}");

            let refused = way.with_login(USER, "wrong").connect_to(address, SENTINEL_PORT).await;
            refused_with(refused, "AUTHENTICATION FAILED").with_context(|| format!("{address} takes any password"))?;
            ensure!(way.without_tls().connect_to(address, SENTINEL_PORT).await.is_err(), "{address} speaks plain text");
        }
        // It follows at once, whoever is asked.
        cluster.switch_over("any").await?;
        let new = cluster.succeeded(&primary).await?;
        for address in &addresses {
            eventually("the new primary", || async {
                let mut sentinel = way.connect_to(address, SENTINEL_PORT).await?;
                let found: (String, String) = answer(&mut sentinel, cmd("SENTINEL").arg("get-master-addr-by-name").arg("cache")).await?;
                ensure!(found.0.starts_with(&host(&new)), "{address}: {found:?}");
                Ok(())
            })
            .await?;
        }
        cluster.api().get("cache").await?.status.context("no status")?;
        Ok(())
    })
    .await
}
