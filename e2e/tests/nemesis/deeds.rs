//! A step of the plan, done to the cluster as it is now, and undone.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::Lab;
use e2e::engine::Cluster;
use e2e::stage::{SYSTEM, operator};
use tokio::time::{Instant, sleep, timeout};

use crate::log::Log;
use crate::plan::{Fault, Step};
use crate::workload::Workload;

/// Beyond this a step is given up; the longest waits for a node that comes back.
const STEP: Duration = Duration::from_secs(150);
/// A lost node is noticed after 20 s: some come back before, some after.
const NODE_FACTOR: u32 = 3;
/// The new primary of a failover is looked for this long before it is killed too.
const SECOND_KILL: Duration = Duration::from_secs(10);
/// How long a volume waits for the cluster to be whole: two must never be lost at the same time.
const WHOLE: Duration = Duration::from_secs(60);

/// The nemesis of one cluster.
pub struct Nemesis<E> {
    pub cluster: Cluster<E>,
    pub replicas: u32,
    pub log: Log,
    /// The node that is lost now.
    pub lost: Option<String>,
}

impl<E: Workload> Nemesis<E> {
    /// Does a step, holds it, undoes it. What a fault could not do because an earlier one still lasts is noted and no failure.
    pub async fn step(&mut self, step: &Step) -> Result<()> {
        match timeout(STEP, self.act(step)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => self.log.note(&format!("  given up: {error:#}")),
            Err(_) => self.log.note("  given up: too slow"),
        }
        self.heal().await
    }

    /// Undoes whatever may last.
    pub async fn heal(&mut self) -> Result<()> {
        self.lab().resume_api()?;
        self.lab().heal_namespace(&self.cluster.namespace).await?;
        for member in self.members() {
            // A pod that is being replaced is not frozen.
            let _ = self.lab().thaw(&self.cluster.namespace, &member).await;
        }
        match self.lost.take() {
            Some(node) => self.lab().return_node(&node).await,
            None => Ok(()),
        }
    }

    fn lab(&self) -> &Lab {
        &self.cluster.lab
    }

    fn members(&self) -> Vec<String> {
        (0..self.replicas).map(|ordinal| self.cluster.member(ordinal)).collect()
    }

    async fn act(&mut self, step: &Step) -> Result<()> {
        let (lab, namespace) = (self.lab().clone(), self.cluster.namespace.clone());
        let primary = self.cluster.primary().await?;
        let members = self.members();
        let replicas: Vec<_> = members.iter().filter(|member| **member != primary).cloned().collect();
        let (member, replica) = (&members[step.pick % members.len()], &replicas[step.pick % replicas.len()]);
        let hold = step.hold.as_secs_f64();
        match step.fault {
            Fault::KillPrimary => self.kill(&primary, E::CONTAINER).await,
            Fault::KillPrimaryTwice => {
                self.kill(&primary, E::CONTAINER).await?;
                let end = Instant::now() + SECOND_KILL;
                while Instant::now() < end && self.cluster.primary().await? == primary {
                    sleep(Duration::from_millis(20)).await;
                }
                let second = self.cluster.primary().await?;
                self.kill(&second, E::CONTAINER).await
            }
            Fault::KillReplica => self.kill(replica, E::CONTAINER).await,
            Fault::KillEveryDatabase => {
                for member in &members {
                    self.kill(member, E::CONTAINER).await?;
                }
                Ok(())
            }
            Fault::KillSidecar => self.kill(member, "sidecar").await,
            Fault::KillOperator => {
                let operator = operator(&lab).await?;
                self.log.note(&format!("kill -9 of the operator, {operator}"));
                lab.kill_container(SYSTEM, &operator, "operator").await
            }
            Fault::DeletePrimary => self.delete(&primary, None).await,
            Fault::DeletePrimaryAtOnce => self.delete(&primary, Some(0)).await,
            Fault::DeleteReplicaAtOnce => self.delete(replica, Some(0)).await,
            Fault::FreezePrimary | Fault::FreezeReplica => {
                let whom = if step.fault == Fault::FreezePrimary { &primary } else { replica };
                self.log.note(&format!("freeze {whom} for {hold:.1} s"));
                lab.freeze(&namespace, whom).await?;
                sleep(step.hold).await;
                self.log.note(&format!("  thaw {whom}"));
                lab.thaw(&namespace, whom).await
            }
            Fault::IsolatePrimary | Fault::IsolateReplica => {
                let whom = if step.fault == Fault::IsolatePrimary { &primary } else { replica };
                self.log.note(&format!("cut {whom} off from every pod and the API server for {hold:.1} s"));
                lab.isolate(&namespace, whom).await?;
                sleep(step.hold).await;
                Ok(())
            }
            Fault::Halves => {
                // The operator is on either side by chance.
                let middle = members.len() / 2;
                let mut order = members.clone();
                order.rotate_left(step.pick % members.len());
                let (few, many) = order.split_at(middle);
                let operators_side = if step.pick.is_multiple_of(2) { few } else { many };
                self.log.note(&format!("cut {few:?} from {many:?} and the operator from {operators_side:?} for {hold:.1} s"));
                let [few, many, from] = [few, many, operators_side].map(|side| side.iter().map(String::as_str).collect::<Vec<_>>());
                lab.cut(&namespace, &few, &many).await?;
                self.cut_operator(&from).await?;
                sleep(step.hold).await;
                Ok(())
            }
            Fault::OperatorFromPrimary => {
                self.log.note(&format!("cut the operator from the primary {primary} for {hold:.1} s"));
                self.cut_operator(&[&primary]).await?;
                sleep(step.hold).await;
                Ok(())
            }
            Fault::OperatorFromAll => {
                self.log.note(&format!("cut the operator from every member for {hold:.1} s"));
                self.cut_operator(&members.iter().map(String::as_str).collect::<Vec<_>>()).await?;
                sleep(step.hold).await;
                Ok(())
            }
            Fault::LosePrimarysNode => self.lose_node(&primary, step.hold * NODE_FACTOR).await,
            Fault::LoseAnyNode => self.lose_node(member, step.hold * NODE_FACTOR).await,
            Fault::PauseApi => {
                self.log.note(&format!("pause the API server for {hold:.1} s"));
                lab.pause_api()?;
                sleep(step.hold).await;
                lab.resume_api()
            }
            Fault::LoseVolume => {
                self.whole(WHOLE).await.context("no volume is lost while another member is not whole")?;
                let replica = &replicas[step.pick % replicas.len()];
                ensure!(self.cluster.primary().await? != *replica, "{replica} leads by now");
                self.log.note(&format!("lose the volume of {replica}"));
                lab.lose_pvc(&namespace, &format!("data-{replica}")).await
            }
            Fault::SwitchOver => {
                let words = self.cluster.switch_over(self.cluster.glance().await?.term).await?;
                self.log.note(&format!("asked for a switchover from {primary}: {words}"));
                Ok(())
            }
        }
    }

    /// Waits until every member is ready and counts.
    pub async fn whole(&self, patience: Duration) -> Result<()> {
        timeout(patience, E::whole(&self.cluster, self.replicas)).await.context("not whole in time")?
    }

    async fn kill(&mut self, member: &str, container: &str) -> Result<()> {
        self.log.note(&format!("kill -9 of process 1 of {container} in {member}"));
        self.lab().kill_container(&self.cluster.namespace, member, container).await
    }

    async fn delete(&mut self, member: &str, grace: Option<u32>) -> Result<()> {
        self.log.note(&format!("delete pod {member}, {}", if grace.is_some() { "without grace" } else { "with its grace" }));
        self.cluster.delete(member, grace).await
    }

    async fn lose_node(&mut self, member: &str, hold: Duration) -> Result<()> {
        let pod = self.cluster.pods().get(member).await?;
        let node = pod.spec.and_then(|spec| spec.node_name).context("no node yet")?;
        self.log.note(&format!("lose {node} with {member} for {:.1} s", hold.as_secs_f64()));
        self.lost = Some(node.clone());
        self.lab().lose_node(&node).await?;
        sleep(hold).await;
        self.log.note(&format!("  {node} returns"));
        self.lab().return_node(&node).await?;
        self.lost = None;
        Ok(())
    }

    async fn cut_operator(&self, members: &[&str]) -> Result<()> {
        let operator = operator(self.lab()).await?;
        self.lab().cut_between((&self.cluster.namespace, members), (SYSTEM, &[&operator])).await
    }
}
