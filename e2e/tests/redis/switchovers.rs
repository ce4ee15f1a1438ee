//! A person asks for another primary, by the plugin or by an annotation, or a pod has to go: it is done in a moment, refused, or taken back.
//! Whatever comes of it, no acknowledged write is lost and no client that tries again fails.

use anyhow::{Result, ensure};
use crds::annotations::SWITCHOVER;
use crds::shared::TransitionKind;
use e2e::Plugin;
use e2e::stage::{eventually, on_light_stage};
use kube::api::EvictParams;

use crate::pool::Pool;
use crate::rig::Cluster;
use crate::writer::Writer;

impl Cluster {
    /// Waits until this very request is refused for a reason that holds `words`, in the status and in an Event.
    pub async fn refused(&self, request: &str, words: &str) -> Result<()> {
        eventually("a refusal", || async {
            let known = self.status().await?.handover;
            let said = known.as_ref().filter(|known| known.request == request).and_then(|known| known.refused.as_ref());
            ensure!(said.is_some_and(|said| said.contains(words)), "{request}: {known:?}");
            let told = self.told("SwitchoverRefused").await?;
            ensure!(told.contains(words), "{words:?} is missing in: {told}");
            Ok(())
        })
        .await
    }

    /// Asks for `candidate` right after its `fault`, before anybody can know of it, and waits until the old primary leads again.
    async fn taken_back(&self, candidate: &str, fault: impl Future<Output = Result<()>>) -> Result<()> {
        let before = self.status().await?;
        fault.await?;
        self.annotate(SWITCHOVER, &format!("{candidate}@{}", before.term)).await?;
        eventually("the switchover to be taken back", || async {
            let status = self.status().await?;
            let back = status.transition.as_ref().is_some_and(|change| change.kind == TransitionKind::TakenBack);
            let as_before = status.primary == before.primary && status.term > before.term;
            ensure!(back && as_before, "term {}: {}; {:?}", status.term, status.reason, status.handover);
            Ok(())
        })
        .await
    }
}

#[tokio::test]
async fn a_switchover_under_load_loses_nothing_fails_nothing_and_goes_to_nobody_who_is_unfit() -> Result<()> {
    on_light_stage("switch", |lab, namespace| async move {
        let cluster = Cluster::create(&lab, &namespace, 3).await?;
        let (pool, writer) = (Pool::start(&cluster).await?, Writer::start(&cluster, 1));
        writer.goes_on().await?;
        let plugin = Plugin::new(&lab.kubeconfig(), &namespace).await?;
        let first = cluster.primary().await?;
        pool.tell_pause("nothing asked for");
        let said = plugin.says(&["switchover", "cache"]).await?;
        let second = cluster.primary().await?;
        ensure!(second != first && said.starts_with(&second), "{first} leads on: {said}");
        cluster.whole(3).await?;
        pool.tell_pause("switchover by the plugin");

        for _ in 0..3 {
            let old = cluster.primary().await?;
            let wanted = cluster.others(&old).await?.remove(1);
            cluster.switch_over(&wanted).await?;
            ensure!(cluster.succeeded(&old).await? == wanted, "{wanted} was asked for");
            cluster.whole(3).await?;
            pool.tell_pause("switchover by the annotation, to a named member");
            eventually("every replica to follow the new primary", || async {
                let rows = cluster.status().await?.members;
                let follow = rows.iter().filter(|row| row.role == "Replica" && row.source.as_ref() == Some(&wanted)).count();
                ensure!(follow == 2, "a replica follows the old primary still: {rows:?}");
                Ok(())
            })
            .await?;
        }

        let (primary, term) = (cluster.primary().await?, cluster.status().await?.term);
        let request = cluster.switch_over("cache-9").await?;
        cluster.refused(&request, "cache has no such member").await?;
        let request = cluster.switch_over(&primary).await?;
        cluster.refused(&request, "is the primary already").await?;
        let status = cluster.status().await?;
        ensure!(status.primary.as_ref() == Some(&primary) && status.term == term, "a refusal changes nothing: {status:?}");
        pool.tell_pause("switchovers that were refused");
        pool.finish(&cluster).await?;
        cluster.holds(&writer.finish().await?).await
    })
    .await
}

#[tokio::test]
async fn a_switchover_whose_heir_is_frozen_or_cut_off_is_taken_back() -> Result<()> {
    on_light_stage("back", |lab, namespace| async move {
        let cluster = Cluster::create(&lab, &namespace, 3).await?;
        let (pool, writer) = (Pool::start(&cluster).await?, Writer::start(&cluster, 1));
        writer.goes_on().await?;
        let old = cluster.primary().await?;
        let others = cluster.others(&old).await?;
        let [frozen, cut_off] = [&others[0], &others[1]];

        let outcome = cluster.taken_back(frozen, lab.freeze(&namespace, frozen)).await;
        lab.thaw(&namespace, frozen).await?;
        outcome?;
        writer.goes_on().await?;
        cluster.whole(3).await?;
        pool.tell_pause("switchover taken back: its heir was frozen");

        let outcome = cluster.taken_back(cut_off, lab.cut(&namespace, &[&old], &[cut_off])).await;
        // The rules name addresses, which another test's pod may get.
        lab.heal_namespace(&namespace).await?;
        outcome?;
        writer.goes_on().await?;
        cluster.whole(3).await?;
        pool.tell_pause("switchover taken back: its heir could not reach the primary");
        pool.finish(&cluster).await?;
        cluster.holds(&writer.finish().await?).await
    })
    .await
}

#[tokio::test]
async fn a_primary_that_is_deleted_or_evicted_hands_over_first() -> Result<()> {
    on_light_stage("evict", |lab, namespace| async move {
        let cluster = Cluster::create(&lab, &namespace, 3).await?;
        let (pool, writer) = (Pool::start(&cluster).await?, Writer::start(&cluster, 1));
        writer.goes_on().await?;
        let old = cluster.primary().await?;
        cluster.delete(&old, None).await?;
        cluster.succeeded(&old).await?;
        cluster.whole(3).await?;
        cluster.handed_over(&old).await?;
        pool.tell_pause("the primary's pod is deleted");

        let old = cluster.primary().await?;
        // The budget is counted anew after the members were.
        eventually("an eviction that the disruption budget allows", || async {
            Ok(cluster.pods().evict(&old, &EvictParams::default()).await.map(drop)?)
        })
        .await?;
        cluster.succeeded(&old).await?;
        cluster.whole(3).await?;
        cluster.handed_over(&old).await?;
        pool.tell_pause("the primary's pod is evicted");
        pool.finish(&cluster).await?;
        cluster.holds(&writer.finish().await?).await
    })
    .await
}
