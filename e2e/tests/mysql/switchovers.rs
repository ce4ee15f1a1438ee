//! A person asks for another primary, by the plugin or by an annotation: it is done in a moment, waited for, refused, or taken back.
//! Whatever comes of it, no acknowledged write is lost and no client that tries again fails.

use std::time::Duration;

use anyhow::{Result, ensure};
use crds::annotations::SWITCHOVER;
use crds::shared::TransitionKind;
use e2e::{Lab, Plugin};
use mysql_async::prelude::Queryable;
use serde_json::json;
use tokio::time::sleep;

use crate::pool::Pool;
use crate::rig::Cluster;
use e2e::stage::{eventually, on_stage};

/// A statement of this age is seen by everybody.
const OLD: Duration = Duration::from_secs(3);

/// Of a statement that runs for this many seconds everybody hears, however busy the machine is.
const LONG: u64 = 15;

/// Asks by the annotation, in the current term.
pub async fn ask(cluster: &Cluster, member: &str) -> Result<String> {
    let request = format!("{member}@{}", cluster.status().await?.term);
    cluster.annotate(SWITCHOVER, &request).await?;
    Ok(request)
}

/// Waits until this very request is refused for a reason that holds `words`, in the status and in an Event.
pub async fn refused(cluster: &Cluster, request: &str, words: &str) -> Result<()> {
    eventually("a refusal in the status", || async {
        let known = cluster.status().await?.handover;
        let said = known.as_ref().filter(|known| known.request == request).and_then(|known| known.refused.as_ref());
        ensure!(said.is_some_and(|said| said.contains(words)), "{request}: {known:?}");
        Ok(())
    })
    .await?;
    told(cluster, words).await
}

/// Waits for the Event of a refusal.
async fn told(cluster: &Cluster, words: &str) -> Result<()> {
    eventually("a refusal in an Event", || async {
        let said = cluster.told("SwitchoverRefused").await?;
        ensure!(said.contains(words), "{words:?} is missing in: {said}");
        Ok(())
    })
    .await
}

/// Asks for `candidate` right after its `fault`, before anybody can know of it, and waits until the old primary leads again.
async fn taken_back(cluster: &Cluster, candidate: &str, fault: impl Future<Output = Result<()>>) -> Result<()> {
    let before = cluster.status().await?;
    fault.await?;
    cluster.annotate(SWITCHOVER, &format!("{candidate}@{}", before.term)).await?;
    eventually("the switchover to be taken back", || async {
        let status = cluster.status().await?;
        let back = status.transition.as_ref().is_some_and(|change| change.kind == TransitionKind::TakenBack);
        // Once claimed, once taken back.
        let as_before = status.primary == before.primary && status.term == before.term + 2;
        ensure!(back && as_before, "term {}: {}; {:?}", status.term, status.reason, status.handover);
        Ok(())
    })
    .await
}

/// Three members with a ledger, clients that write to it, and the plugin.
pub async fn stage(lab: &Lab, namespace: &str) -> Result<(Cluster, Pool, Plugin)> {
    let cluster = Cluster::new(lab, namespace);
    let mut spec = Cluster::spec(3);
    spec["maxReplicaLagSeconds"] = json!(5);
    cluster.apply(spec).await?;
    cluster.whole(3).await?;
    cluster.ledger().await?;
    let pool = Pool::start(&cluster, 1).await?;
    Ok((cluster, pool, Plugin::new(&lab.kubeconfig(), namespace).await?))
}

#[tokio::test]
async fn a_switchover_to_whom_is_asked_for_loses_nothing_and_to_nobody_who_is_unfit() -> Result<()> {
    on_stage("switch", |lab, namespace| async move {
        let (cluster, pool, plugin) = stage(&lab, &namespace).await?;
        let first = cluster.primary().await?;
        pool.tell_pause("nothing asked for");
        let said = plugin.says(&["switchover", "orders"]).await?;
        let second = cluster.primary().await?;
        ensure!(second != first && said.starts_with(&second), "{first} leads on: {said}");
        cluster.whole(3).await?;
        pool.tell_pause("switchover by the plugin");

        ask(&cluster, &first).await?;
        ensure!(cluster.succeeded(&second).await? == first, "{first} was asked for");
        cluster.whole(3).await?;
        pool.tell_pause("switchover by the annotation, to a named member");

        let term = cluster.status().await?.term;
        let request = ask(&cluster, "orders-9").await?;
        refused(&cluster, &request, "orders has no such member").await?;
        let request = ask(&cluster, &first).await?;
        refused(&cluster, &request, "is the primary already").await?;

        // A reader's lock keeps it from applying what it goes on to receive and to acknowledge.
        let lagging = cluster.others(&first).await?.remove(1);
        let mut reader = cluster.to(&lagging).await?;
        reader.query_drop("LOCK TABLES ledger READ").await?;
        sleep(Duration::from_secs(3)).await;
        let words = format!("{lagging} lags");
        let complaint = plugin.refuses(&["switchover", "orders", "--to", &lagging]).await?;
        ensure!(complaint.contains(&words), "{complaint}");
        told(&cluster, &words).await?;
        let status = cluster.status().await?;
        ensure!(status.primary.as_ref() == Some(&first) && status.term == term, "a refusal changes nothing: {status:?}");
        eventually("the record to tell of the refusal", || async {
            let explained = plugin.says(&["explain", "orders", "--last", "30"]).await?;
            ensure!(explained.contains(&format!("switchover to {lagging} is refused")), "{explained}");
            Ok(())
        })
        .await?;

        // Asked anew, when the reason is gone.
        drop(reader);
        cluster.whole(3).await?;
        pool.tell_pause("switchovers that were refused");
        plugin.says(&["switchover", "orders", "--to", &lagging]).await?;
        ensure!(cluster.primary().await? == lagging, "{lagging} was asked for");
        cluster.whole(3).await?;
        pool.tell_pause("switchover by the plugin, to a named member");
        let acknowledged = pool.finish().await?;
        cluster.holds(&acknowledged).await
    })
    .await
}

#[tokio::test]
async fn a_switchover_waits_for_long_statements_and_is_refused_for_one_that_never_ends() -> Result<()> {
    on_stage("busy", |lab, namespace| async move {
        let (cluster, pool, plugin) = stage(&lab, &namespace).await?;
        let mut client = cluster.writes().await?;
        // Before all others: when a page splits, InnoDB hands the lock of the first row behind to the gap, and who inserts there waits.
        client.query_drop("INSERT INTO ledger (number, note) VALUES (0, 'x')").await?;
        for seconds in [5, LONG] {
            let mut client = cluster.writes().await?;
            let old = cluster.primary().await?;
            let statement = format!("UPDATE ledger SET note = CONCAT({seconds}, SLEEP({seconds})) WHERE number = 0");
            let switchover = async {
                // Old enough to be seen.
                sleep(OLD).await;
                let asked = plugin.says(&["switchover", "orders"]);
                if seconds < LONG {
                    // It may be over before the request is there.
                    return asked.await;
                }
                let waits = cluster.says("Progressing", "a client's transaction has been running on");
                let (said, waits) = tokio::join!(asked, waits);
                waits.and(said)
            };
            let (updated, said) = tokio::join!(client.query_drop(statement), switchover);
            updated?;
            said?;
            let primary = cluster.primary().await?;
            ensure!(primary != old, "{old} leads on");
            let note = cluster.sql(&primary, "SELECT note FROM shop.ledger WHERE number = 0").await?;
            ensure!(note == format!("{seconds}0"), "the update was not waited for: {note}");
            cluster.whole(3).await?;
            pool.tell_pause(&format!("switchover during an update of {seconds} s"));
        }

        let primary = cluster.primary().await?;
        let mut client = cluster.writes().await?;
        client.query_drop("START TRANSACTION").await?;
        client.query_drop("INSERT INTO ledger (number, note) VALUES (1000000001, 'x')").await?;
        sleep(OLD).await;
        let complaint = plugin.refuses(&["switchover", "orders"]).await?;
        ensure!(complaint.contains("a client's transaction has been running on"), "{complaint}");
        told(&cluster, "a client's transaction has been running on").await?;
        ensure!(cluster.primary().await? == primary, "a refusal changes nothing");
        client.query_drop("COMMIT").await?;
        pool.tell_pause("switchover that was refused for a transaction that does not end");
        let mut acknowledged = pool.finish().await?;
        acknowledged.extend([0, 1_000_000_001]);
        cluster.holds(&acknowledged).await
    })
    .await
}

#[tokio::test]
async fn a_switchover_that_its_candidate_cannot_finish_is_taken_back() -> Result<()> {
    on_stage("back", |lab, namespace| async move {
        let (cluster, pool, _) = stage(&lab, &namespace).await?;
        let old = cluster.primary().await?;
        let others = cluster.others(&old).await?;
        let [frozen, cut_off] = [&others[0], &others[1]];

        let outcome = taken_back(&cluster, frozen, lab.freeze(&namespace, frozen)).await;
        lab.thaw(&namespace, frozen).await?;
        outcome?;
        cluster.whole(3).await?;
        pool.tell_pause("switchover taken back: its candidate was frozen");

        let outcome = taken_back(&cluster, cut_off, lab.cut(&namespace, &[&old], &[cut_off])).await;
        // The rules name addresses, which another test's pod may get.
        lab.heal_namespace(&namespace).await?;
        outcome?;
        cluster.whole(3).await?;
        pool.tell_pause("switchover taken back: its candidate could not reach the primary");
        let acknowledged = pool.finish().await?;
        cluster.holds(&acknowledged).await
    })
    .await
}
