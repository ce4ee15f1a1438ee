//! Members come back: contained histories follow; what only one member held is archived on its volume (I6); a stranger to the primary's past is
//! refused until a person consents.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use crds::annotations::{ACCEPT_LOSS, RECLONE};
use e2e::run;
use e2e::stage::{eventually, on_light_stage};
use e2e::volumes;
use kube::api::ListParams;
use redis::{cmd, pipe};
use serde_json::json;

use crate::rig::{Cluster, LEDGER, WRITER, answer};
use crate::way::Way;
use crate::writer::Writer;

/// A number that nobody may find in the ledger in the end.
const UNSEEN: u64 = 9 * WRITER;
/// Longer than a primary stays frozen here.
const LATE: Duration = Duration::from_secs(300);

impl Cluster {
    /// Waits until a condition of something wrong says `words`; returns the whole message.
    pub async fn complains(&self, words: &str) -> Result<String> {
        let complaints = async || {
            let conditions = self.status().await?.conditions;
            let wrong = conditions.iter().filter(|found| found.status == "True" && ["Stalled", "Degraded"].contains(&found.type_.as_str()));
            anyhow::Ok(wrong.map(|found| format!("{}: {}", found.reason, found.message)).collect::<Vec<_>>().join("\n"))
        };
        eventually(&format!("a complaint that says {words:?}"), || async {
            let said = complaints().await?;
            ensure!(said.contains(words), "{said:?}");
            Ok(())
        })
        .await?;
        complaints().await
    }

    /// How many members know `key`.
    async fn know(&self, key: &str) -> Result<u64> {
        let mut count = 0;
        for member in self.status().await?.members {
            count += self.asks::<u64>(&member.name, cmd("EXISTS").arg(key)).await?;
        }
        Ok(count)
    }

    /// Makes sure that the archive of a member, on its volume, holds `key`.
    async fn archived(&self, member: &str, key: &str) -> Result<()> {
        let file = self.row(member).await?.archive.with_context(|| format!("the status names no archive of {member}"))?;
        let found = self.lab.exec(&self.namespace, member, "redis", &["grep", "-c", key, &file]).await;
        ensure!(found.is_ok(), "{file} on {member} does not hold {key}: {found:?}");
        let told = self.told("ErrantArchived").await?;
        ensure!(told.contains(&file) && told.contains(member), "no Event names {file} of {member}: {told:?}");
        Ok(())
    }
}

#[tokio::test]
async fn a_frozen_primary_acknowledges_nothing_after_its_thaw_and_what_only_it_took_is_nowhere_else() -> Result<()> {
    on_light_stage("frozen", |lab, namespace| async move {
        let cluster = Cluster::create(&lab, &namespace, 3).await?;
        let writer = Writer::start(&cluster, 1);
        writer.goes_on().await?;
        let old = cluster.primary().await?;
        let patient = Way::of(&cluster).await?.patient(LATE);
        let mut open = patient.connect(&cluster.address(&old).await?).await?;
        let visitor = Writer::to_address(&cluster, WRITER, cluster.address(&old).await?);
        visitor.goes_on().await?;

        lab.freeze(&namespace, &old).await?;
        // It lies in the socket until the thaw: then it runs, before anybody tells the old primary that it is one no more.
        let mut late = pipe();
        late.rpush(LEDGER, UNSEEN).ignore().set("posthumous", 1).ignore().cmd("WAIT").arg(1).arg(2000);
        let pending = tokio::spawn(async move { late.query_async::<(u64,)>(&mut open).await });
        let new = cluster.succeeded(&old).await?;
        cluster.leads(&new).await?;
        writer.goes_on().await?;
        let before = visitor.count();
        lab.thaw(&namespace, &old).await?;
        // One of three: it ran and nobody had it, it was refused, or the connection was cut. Not that nobody answered.
        match pending.await? {
            Ok((acks,)) => ensure!(acks == 0, "the old primary acknowledged a write after another one had taken over"),
            Err(error) => ensure!(!error.is_timeout(), "what waited in the socket was never answered: {error}"),
        }
        cluster.whole(3).await?;
        ensure!(visitor.count() == before, "the old primary acknowledged {} writes after its thaw", visitor.count() - before);
        ensure!(cluster.primary().await? == new, "who is back does not lead again");
        // Its sidecar may have been thawed first, and have closed it before the commands were read.
        if cluster.row(&old).await?.archive.is_some() {
            cluster.archived(&old, "posthumous").await?;
        }
        ensure!(cluster.know("posthumous").await? == 0, "somebody holds what was acknowledged to nobody");
        for member in cluster.status().await?.members {
            ensure!(!cluster.ledger(&member.name).await?.contains(&UNSEEN), "{} holds it", member.name);
        }
        let mut acknowledged = writer.finish().await?;
        acknowledged.append(&mut visitor.finish().await?);
        cluster.holds(&acknowledged).await
    })
    .await
}

#[tokio::test]
async fn what_a_cut_off_primary_took_alone_is_archived_when_it_returns_and_the_same_after_its_crash() -> Result<()> {
    on_light_stage("errant", |lab, namespace| async move {
        let cluster = Cluster::create(&lab, &namespace, 3).await?;
        let writer = Writer::start(&cluster, 1);
        writer.goes_on().await?;
        for (key, crash) in [("unheard", false), ("unsung", true)] {
            let old = cluster.primary().await?;
            let claims = cluster.claims().get(&format!("data-{old}")).await?.metadata.uid;
            let mut inside = cluster.to(&old).await?;
            lab.isolate(&namespace, &old).await?;
            // Its replicas were there a moment ago: it takes the write.
            answer::<String>(&mut inside, cmd("SET").arg(key).arg(1)).await?;
            if crash {
                // An append-only file is written before the answer, and a process that loads it has forgotten its history.
                cluster.crash(&old).await?;
            }
            let new = cluster.succeeded(&old).await?;
            writer.goes_on().await?;
            lab.heal_namespace(&namespace).await?;
            cluster.whole(3).await?;
            ensure!(cluster.primary().await? == new, "who is back does not lead again");
            cluster.archived(&old, key).await?;
            ensure!(cluster.know(key).await? == 0, "somebody holds what was acknowledged by nobody");
            ensure!(cluster.claims().get(&format!("data-{old}")).await?.metadata.uid == claims, "the volume must stay");
        }
        cluster.holds(&writer.finish().await?).await
    })
    .await
}

/// Waits until writes go on, or a person is asked who shall lead; says whom the question names.
async fn goes_on_or_asks(cluster: &Cluster, writer: &Writer) -> Result<Option<String>> {
    let (enough, named) = (writer.count() + 20, Mutex::new(None));
    eventually("writes to go on, or a question", || async {
        if writer.count() >= enough {
            return Ok(());
        }
        let (asks, _, message) = cluster.condition("Stalled").await?;
        let (_, words) = message.split_once("accept-loss=").filter(|_| asks).context("nobody is asked")?;
        let (member, _) = words.split_once('@').context("in which term?")?;
        *named.lock().unwrap_or_else(PoisonError::into_inner) = Some(member.to_owned());
        Ok(())
    })
    .await?;
    Ok(named.into_inner().unwrap_or_else(PoisonError::into_inner))
}

#[tokio::test]
async fn a_replica_that_was_promoted_by_hand_is_never_promoted_and_what_it_took_is_archived() -> Result<()> {
    on_light_stage("stray", |lab, namespace| async move {
        let cluster = Cluster::create(&lab, &namespace, 3).await?;
        let writer = Writer::start(&cluster, 1);
        writer.goes_on().await?;
        // Once it is seen to, and once the primary dies in the same moment.
        for (key, crash) in [("stray", false), ("astray", true)] {
            let old = cluster.primary().await?;
            // The lower ordinal, which is preferred among equals.
            let stray = cluster.others(&old).await?.remove(0);
            let mut by_hand = pipe();
            by_hand.cmd("REPLICAOF").arg("NO").arg("ONE").ignore().set(key, 1).ignore();
            by_hand.query_async::<()>(&mut cluster.to(&stray).await?).await?;
            if crash {
                cluster.crash(&old).await?;
            }
            // Two histories are left, then: a person may be asked, for anybody but the stray.
            if let Some(named) = goes_on_or_asks(&cluster, &writer).await? {
                ensure!(named != stray, "a person is asked to promote the stray");
                cluster.annotate(ACCEPT_LOSS, &format!("{named}@{}", cluster.status().await?.term)).await?;
            }
            eventually("what it took alone to be archived", || cluster.archived(&stray, key)).await?;
            writer.goes_on().await?;
            cluster.whole(3).await?;
            ensure!(cluster.primary().await? != stray, "{stray} was promoted with a write of its own");
            ensure!(cluster.know(key).await? == 0, "somebody holds what was written by mistake");
        }
        cluster.holds(&writer.finish().await?).await
    })
    .await
}

#[tokio::test]
async fn a_volume_of_another_life_is_refused_with_a_condition_and_filled_anew_with_consent() -> Result<()> {
    on_light_stage("another-life", |lab, namespace| async move {
        let elsewhere = Cluster::named(&lab, &namespace, "elsewhere");
        elsewhere.apply(Cluster::spec(1)).await?;
        let cluster = Cluster::create(&lab, &namespace, 3).await?;
        elsewhere.whole(1).await?;
        answer::<String>(&mut elsewhere.through("primary").await?, cmd("SET").arg("elsewhere").arg(1)).await?;
        elsewhere.merge(json!({"hibernate": true})).await?;
        let writer = Writer::start(&cluster, 1);
        writer.goes_on().await?;
        if cluster.primary().await? == cluster.member(2) {
            cluster.switch_over(&cluster.member(0)).await?;
            cluster.succeeded(&cluster.member(2)).await?;
        }
        cluster.merge(json!({"replicas": 2})).await?;
        cluster.whole(2).await?;
        eventually("the other cluster to sleep", || async {
            let asleep = elsewhere.pods().list(&ListParams::default().labels("understudy.dev/cluster=elsewhere")).await?.items.is_empty();
            ensure!(asleep, "it has pods");
            Ok(())
        })
        .await?;

        // Somebody restores the wrong volume.
        let mut places = Vec::new();
        for claim in ["data-elsewhere-0", "data-cache-2"] {
            let volume = cluster.claims().get(claim).await?.spec.and_then(|spec| spec.volume_name).context("no volume")?;
            places.push(volumes::directory(&lab.dirs().lab, &volume));
        }
        let swap = "find \"$1\" -mindepth 1 -delete && cp -a \"$0/.\" \"$1/\"";
        run::output(run::command("sh").args(["-c", swap]).arg(&places[0]).arg(&places[1])).await?;
        cluster.merge(json!({"replicas": 3})).await?;
        let stranger = cluster.member(2);
        cluster.says("Stalled", "OtherHistory").await?;
        writer.goes_on().await?;
        let new = cluster.crashed(&cluster.primary().await?).await?;
        ensure!(new != stranger, "a volume of another life leads");
        writer.goes_on().await?;

        let identity = cluster.row(&stranger).await?.identity.context("its data have no name")?;
        cluster.complains(&format!("{stranger}@{identity}")).await?;
        cluster.annotate(RECLONE, &format!("{stranger}@{identity}")).await?;
        cluster.whole(3).await?;
        cluster.archived(&stranger, "elsewhere").await?;
        ensure!(cluster.know("elsewhere").await? == 0, "two lives were merged");
        cluster.holds(&writer.finish().await?).await
    })
    .await
}
