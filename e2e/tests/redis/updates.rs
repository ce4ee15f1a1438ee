//! Rolling changes: replicas first, the primary last; a mistake stops, is said, and heals.

use std::time::Duration;

use anyhow::{Result, ensure};
use e2e::stage::{eventually, on_light_stage};
use redis::cmd;
use serde_json::json;
use tokio::time::sleep;

use crate::pool::Pool;
use crate::rig::{Cluster, OTHER_IMAGE};
use crate::writer::Writer;

#[tokio::test]
async fn an_update_under_load_rolls_the_primary_last_and_loses_and_fails_nothing() -> Result<()> {
    on_light_stage("update", |lab, namespace| async move {
        let cluster = Cluster::create(&lab, &namespace, 3).await?;
        let (pool, writer) = (Pool::start(&cluster).await?, Writer::start(&cluster, 1));
        writer.goes_on().await?;
        let before = cluster.primary().await?;
        cluster.merge(json!({"image": OTHER_IMAGE, "config": {"maxclients": 777}})).await?;
        eventually("a hand-over", || async {
            ensure!(cluster.primary().await? != before, "{before} still leads");
            Ok(())
        })
        .await?;
        for member in cluster.others(&before).await? {
            ensure!(cluster.image(&member).await? == OTHER_IMAGE, "the primary yields before {member} has the new image");
        }
        cluster.whole(3).await?;
        cluster.handed_over(&before).await?;
        pool.tell_pause("rolling update");
        for member in cluster.status().await?.members {
            ensure!(cluster.image(&member.name).await? == OTHER_IMAGE, "{} has the old image", member.name);
            let option: Vec<String> = cluster.asks(&member.name, cmd("CONFIG").arg("GET").arg("maxclients")).await?;
            ensure!(option == ["maxclients", "777"], "{}: {option:?}", member.name);
        }
        writer.goes_on().await?;
        pool.finish(&cluster).await?;
        cluster.holds(&writer.finish().await?).await
    })
    .await
}

#[tokio::test]
async fn a_bad_image_option_or_engine_reaches_no_member_that_runs_says_so_and_heals_when_reverted() -> Result<()> {
    on_light_stage("mistake", |lab, namespace| async move {
        let cluster = Cluster::create(&lab, &namespace, 3).await?;
        let writer = Writer::start(&cluster, 1);
        writer.goes_on().await?;
        let image = Cluster::spec(3)["image"].clone();
        let ordinals = [0, 1].map(|ordinal| cluster.member(ordinal));
        let untouched = [cluster.pod_uid(&ordinals[0]).await?, cluster.pod_uid(&ordinals[1]).await?];
        let reverted = json!({"image": image, "engine": null, "config": {"maxmemmory": null, "maxmemory-policy": null}});
        for (mistake, words) in [
            (json!({"image": "localhost/redis:does-not-exist"}), "does-not-exist"),
            (json!({"config": {"maxmemmory": "1gb"}}), "maxmemmory"),
            (json!({"config": {"maxmemory-policy": "sometimes"}}), "maxmemory-policy"),
            (json!({"engine": "Valkey"}), "Valkey"),
        ] {
            cluster.merge(mistake.clone()).await?;
            cluster.says("Stalled", words).await?;
            sleep(Duration::from_secs(1)).await;
            let now = [cluster.pod_uid(&ordinals[0]).await?, cluster.pod_uid(&ordinals[1]).await?];
            ensure!(now == untouched, "{mistake} reached a member that ran");
            writer.goes_on().await?;
            cluster.merge(reverted.clone()).await?;
            cluster.whole(3).await?;
            ensure!(!cluster.condition("Stalled").await?.0, "still Stalled after {mistake} was taken back");
        }
        let now = [cluster.pod_uid(&ordinals[0]).await?, cluster.pod_uid(&ordinals[1]).await?];
        ensure!(now == untouched, "healing restarted a member that ran");
        cluster.holds(&writer.finish().await?).await
    })
    .await
}

#[tokio::test]
async fn a_bad_rule_of_an_account_is_said_and_harms_no_other_account() -> Result<()> {
    on_light_stage("rule", |lab, namespace| async move {
        let cluster = Cluster::create(&lab, &namespace, 3).await?;
        let writer = Writer::start(&cluster, 1);
        writer.goes_on().await?;
        let pods = [cluster.pod_uid("cache-0").await?, cluster.pod_uid("cache-1").await?, cluster.pod_uid("cache-2").await?];
        let app = json!({"name": "app", "rules": "~* &* +@all"});
        cluster.merge(json!({"users": [app, {"name": "clerk", "rules": "~* +@no-such-category"}]})).await?;
        let said = cluster.complains("clerk").await?;
        ensure!(said.contains("no-such-category") || said.to_lowercase().contains("rule"), "{said}");
        writer.goes_on().await?;
        cluster.merge(json!({"users": [app, {"name": "clerk", "rules": "~clerk:* +@read"}]})).await?;
        cluster.whole(3).await?;
        eventually("the account", || async {
            for member in cluster.status().await?.members {
                let rules: String = cluster.asks(&member.name, cmd("ACL").arg("LIST")).await.map(|lines: Vec<String>| lines.join("\n"))?;
                ensure!(rules.contains("user clerk on") && rules.contains("~clerk:*"), "{}: {rules}", member.name);
            }
            Ok(())
        })
        .await?;
        cluster.merge(json!({"users": [app]})).await?;
        eventually("the account to be gone", || async {
            for member in cluster.status().await?.members {
                let users: Vec<String> = cluster.asks(&member.name, cmd("ACL").arg("USERS")).await?;
                ensure!(!users.contains(&"clerk".to_owned()), "{}: {users:?}", member.name);
            }
            Ok(())
        })
        .await?;
        let now = [cluster.pod_uid("cache-0").await?, cluster.pod_uid("cache-1").await?, cluster.pod_uid("cache-2").await?];
        ensure!(now == pods, "an account cost a restart");
        cluster.holds(&writer.finish().await?).await
    })
    .await
}
