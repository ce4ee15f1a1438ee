//! The StatefulSet controller and the kubelets: pods come, start their containers again when they end, and go.

use sidecar::engine::{Engine, Missed};
use sidecar::mysql::Mysql;

use crate::event::Event;
use crate::mysqld::Mysqld;
use crate::sidecar::ordinals;
use crate::world::{Member, Pod, World, name};

/// How often they look.
const PERIOD: u64 = 400;

impl World {
    /// They look.
    pub fn kubelet(&mut self) {
        let replicas = self.api.replicas.unwrap_or(0);
        for member in ordinals() {
            match &self.member(member).pod {
                None if member < replicas => self.make_pod(member),
                Some(pod) if pod.deleting.is_none() && member >= replicas => self.delete_pod(member, None),
                Some(pod) => {
                    // The preStop hook waits to be released; the deadline ends its patience.
                    let released = pod.deleting.map(|at| (self.now >= at, self.released(member)));
                    if let Some((_, true) | (true, _)) = released {
                        self.remove_pod(member);
                    }
                }
                None => {}
            }
        }
        self.after(PERIOD, Event::Kubelet);
    }

    /// What the sidecar says of its mysqld's end, if it says anything.
    fn released(&mut self, member: u32) -> bool {
        let instant = self.instant();
        let Some(report) = self.report(member).filter(|_| !self.member(member).sidecar_frozen) else { return false };
        let missed = Mysql::missed(&report.state);
        let Some(sidecar) = self.member_mut(member).sidecar.as_mut() else { return false };
        let deserted = sidecar.contact.deserted(instant);
        if deserted && missed == Missed::ByClients {
            sidecar.contact.leave(instant);
            self.poke_now(member);
        }
        missed == Missed::ByNobody || deserted && missed == Missed::ByMembers
    }

    fn make_pod(&mut self, member: u32) {
        let (uid, now, revision) = (self.id(), self.now, self.api.revision);
        self.tell(|| format!("pod of {} is made", name(member)));
        let pod = Pod { uid, revision, ready: false, deleting: None, node_down: false, since: now, curtain: false };
        self.member_mut(member).pod = Some(pod);
        let takes = self.takes(300);
        self.after(takes, Event::SidecarStart { member, pod: uid });
        self.kubernetes_changed();
    }

    /// A pod is deleted, if it still is the one with this UID.
    pub fn delete_pod(&mut self, member: u32, uid: Option<u64>) {
        let deadline = self.now + self.dice.between(0, 10_000);
        let Some(pod) = self.member_mut(member).pod.as_mut() else { return };
        if pod.deleting.is_none() && uid.is_none_or(|uid| pod.uid == uid) {
            pod.deleting = Some(deadline);
            self.tell(|| format!("pod of {} is being deleted", name(member)));
            self.kubernetes_changed();
        }
    }

    fn remove_pod(&mut self, member: u32) {
        if self.released(member) {
            self.tell(|| format!("mysqld of {} shuts down", name(member)));
            self.shut_down(member);
        }
        self.tell(|| format!("pod of {} is gone", name(member)));
        self.end_processes(member);
        self.member_mut(member).pod = None;
        self.kubernetes_changed();
    }

    /// Everything that runs in a pod ends.
    pub fn end_processes(&mut self, member: u32) {
        self.end_sidecar(member);
        self.end_mysqld(member);
        self.member_mut(member).inbox.clear();
    }

    /// The sidecar's process ends. Its statement is at mysqld already, or not.
    pub fn end_sidecar(&mut self, member: u32) {
        let Some(mut sidecar) = self.member_mut(member).sidecar.take() else { return };
        self.member_mut(member).sidecar_frozen = false;
        let done = self.dice.chance(500);
        if let Some(running) = sidecar.running.take() {
            if done {
                let _lost = self.effect(member, &running);
            }
            if let Some((mysqld, _)) = self.running(member) {
                mysqld.sealing = false;
            }
        }
        self.sidecar_gone(member);
        self.kubelet_probe(member, false);
    }

    /// mysqld is told to end, and lets go of the commits that wait for acknowledgements: their clients are told that they are done.
    fn shut_down(&mut self, member: u32) {
        let Some((mysqld, _)) = self.running(member).filter(|(mysqld, _)| mysqld.answers()) else { return };
        mysqld.source_enabled = false;
        self.release(member);
        self.end_mysqld(member);
    }

    /// mysqld's process ends. What is in its binary log is committed when it comes back (crash recovery).
    pub fn end_mysqld(&mut self, member: u32) {
        let ours = self.member_mut(member);
        if ours.mysqld.take().is_none() {
            return;
        }
        if let Some(directory) = &mut ours.volume.directory {
            directory.executed = directory.executed.union(directory.logged);
        }
        self.connections_end(member);
        self.poke(member);
    }

    /// The container of mysqld starts, once the curtain is open.
    pub fn mysqld_start(&mut self, member: u32, pod: u64) {
        let run = self.id();
        let Member { pod: ours, mysqld, volume, sidecar, .. } = self.member_mut(member);
        let Some(ours) = ours.as_mut().filter(|ours| ours.uid == pod && !ours.node_down) else { return };
        if mysqld.is_some() || volume.directory.is_none() || (sidecar.is_none() && !ours.curtain) {
            return;
        }
        ours.curtain = true;
        *mysqld = Some(Mysqld::start(run));
        let takes = self.takes(700);
        self.after(takes.min(15_000), Event::MysqldUp { member, run });
    }

    /// mysqld answers from now on, read-only (I7).
    pub fn mysqld_up(&mut self, member: u32, run: u64) {
        let Some(mysqld) = self.mysqld(member, run) else { return };
        mysqld.up = true;
        let writable = !mysqld.read_only || !mysqld.super_read_only;
        if writable {
            self.broken("I7", || format!("{} starts writable", name(member)));
        }
        self.tell(|| format!("mysqld of {} is up", name(member)));
        self.poke_now(member);
    }

    /// A container of the pod ended; the kubelet starts it again.
    pub fn restart(&mut self, member: u32, sidecar: bool) {
        let Some(pod) = self.member(member).pod.as_ref().map(|pod| pod.uid) else { return };
        let takes = self.takes(400);
        self.after(takes, if sidecar { Event::SidecarStart { member, pod } } else { Event::MysqldStart { member, pod } });
    }

    /// The readiness probe's verdict.
    pub fn kubelet_probe(&mut self, member: u32, ready: bool) {
        if let Some(pod) = self.member_mut(member).pod.as_mut().filter(|pod| pod.ready != ready) {
            pod.ready = ready;
            self.kubernetes_changed();
        }
    }
}
