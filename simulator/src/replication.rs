//! Receivers, dump threads and appliers of modelled mysqlds, and what semi-sync makes of them.

use sidecar::mysql::observe::Facts;

use crate::event::Event;
use crate::history::Txn;
use crate::mysqld::{Dump, Link, Waiting};
use crate::network::Node;
use crate::world::{LATENCY, World};

/// `replica_net_timeout`: a receiver that heard nothing for this long tries anew.
const NET_TIMEOUT: u64 = 2000;
/// `SOURCE_CONNECT_RETRY`.
const RETRY: u64 = 1000;
/// A packet over a cut wire is sent again after this long.
const RETRANSMIT: u64 = 300;
/// Commits that wait for this long, although enough replicas are connected, are helped.
const NUDGE: u64 = 1000;

impl World {
    /// Sets a receiver to work.
    pub fn connect(&mut self, member: u32) {
        let Some((mysqld, _)) = self.running(member) else { return };
        mysqld.link = Link::Connecting;
        mysqld.purged_at_source = false;
        let run = mysqld.run;
        let takes = self.takes(LATENCY);
        self.after(takes, Event::Receiver { member, run });
    }

    /// A receiver ends, and its dump thread with it if that can hear of it.
    pub fn hang_up(&mut self, member: u32) {
        let Some((mysqld, directory)) = self.running(member) else { return };
        let (link, source) = (std::mem::take(&mut mysqld.link), directory.source);
        if let (Link::On(id), Some(source)) = (link, source)
            && self.network.passes(Node::Member(member), Node::Member(source))
            && let Some(theirs) = self.member_mut(source).mysqld.as_mut()
        {
            theirs.dumps.retain(|_, dump| dump.id != id);
        }
    }

    /// A process is gone: whoever is connected to it, and can hear of it, notices at once.
    pub fn connections_end(&mut self, gone: u32) {
        for other in 0..u32::try_from(self.members.len()).unwrap_or(0) {
            if !self.network.passes(Node::Member(gone), Node::Member(other)) {
                continue;
            }
            let member = self.member_mut(other);
            let Some(mysqld) = &mut member.mysqld else { continue };
            mysqld.dumps.remove(&gone);
            let follows = member.volume.directory.as_ref().is_some_and(|directory| directory.source == Some(gone));
            if follows && matches!(mysqld.link, Link::On(_)) {
                mysqld.link = Link::Connecting;
                let run = mysqld.run;
                self.poke(other);
                self.after(RETRY, Event::Receiver { member: other, run });
            }
        }
    }

    /// A receiver connects, or goes on listening.
    pub fn receiver(&mut self, member: u32, run: u64) {
        let now = self.now;
        let Some((mysqld, directory)) = self.running(member).filter(|(mysqld, _)| mysqld.run == run) else { return };
        let Some(source) = directory.source else { return };
        let link = mysqld.link;
        match link {
            Link::Off => return,
            Link::On(id) => {
                let passes = self.network.passes(Node::Member(member), Node::Member(source));
                let theirs = self.member(source).mysqld.as_ref();
                let alive = theirs.is_some_and(|theirs| theirs.answers() && theirs.dumps.get(&member).is_some_and(|dump| dump.id == id));
                let told = passes && theirs.is_none_or(|theirs| !theirs.frozen) && !alive;
                let Some((mysqld, _)) = self.running(member) else { return };
                if passes && alive {
                    mysqld.heard = now;
                } else if told || now - mysqld.heard >= NET_TIMEOUT {
                    mysqld.link = Link::Connecting;
                    self.poke(member);
                }
            }
            Link::Connecting => self.try_to_connect(member, source),
        }
        self.after(RETRY, Event::Receiver { member, run });
    }

    fn try_to_connect(&mut self, member: u32, source: u32) {
        if !self.network.passes(Node::Member(member), Node::Member(source)) || member == source {
            return;
        }
        let (now, id) = (self.now, self.id());
        let Some((mysqld, ours)) = self.running(member) else { return };
        let (held, semi_sync) = (ours.executed.union(ours.received), mysqld.replica_enabled);
        let Some((theirs, directory)) = self.running(source) else { return };
        if directory.locked >> member & 1 == 1 || directory.accounts >> member & 1 == 0 {
            return;
        }
        let lacking = directory.purged.minus(held);
        if lacking.is_empty() {
            theirs.dumps.insert(member, Dump { id, semi_sync, next: 0, busy: true });
            let source_run = theirs.run;
            if let Some((mysqld, _)) = self.running(member) {
                (mysqld.link, mysqld.replica_active) = (Link::On(id), semi_sync);
                (mysqld.heard, mysqld.connected) = (now, now);
            }
            self.after(1, Event::Dump { source, run: source_run, member, dump: id });
            self.poke(source);
        } else if let Some((mysqld, _)) = self.running(member) {
            (mysqld.link, mysqld.purged_at_source) = (Link::Off, true);
        }
        self.poke(member);
    }

    /// Lets every dump thread of `source` go on: there is something new in its binary log.
    pub fn wake_dumps(&mut self, source: u32) {
        let Some(mysqld) = &mut self.member_mut(source).mysqld else { return };
        let run = mysqld.run;
        let idle: Vec<(u32, u64)> = mysqld.dumps.iter().filter(|(_, dump)| !dump.busy).map(|(member, dump)| (*member, dump.id)).collect();
        for (member, id) in idle {
            if let Some(dump) = self.mysqld(source, run).and_then(|mysqld| mysqld.dumps.get_mut(&member)) {
                dump.busy = true;
            }
            let takes = self.takes(1);
            self.after(takes, Event::Dump { source, run, member, dump: id });
        }
    }

    /// A dump thread sends the next transaction that its replica lacks.
    pub fn dump(&mut self, source: u32, run: u64, member: u32, id: u64) {
        let passes = self.network.passes(Node::Member(source), Node::Member(member));
        let held =
            self.member(member).volume.directory.as_ref().map(|directory| directory.executed.union(directory.received)).unwrap_or_default();
        let Some((mysqld, directory)) = self.running(source).filter(|(mysqld, _)| mysqld.run == run) else { return };
        let Some(dump) = mysqld.dumps.get_mut(&member).filter(|dump| dump.id == id) else { return };
        if !passes {
            return self.after(RETRANSMIT, Event::Dump { source, run, member, dump: id });
        }
        while directory.log.get(dump.next).is_some_and(|txn| held.has(*txn)) {
            dump.next += 1;
        }
        let Some(&txn) = directory.log.get(dump.next) else {
            dump.busy = false;
            return;
        };
        dump.next += 1;
        let takes = self.takes(LATENCY);
        if let Some(their_run) = self.member(member).mysqld.as_ref().map(|mysqld| mysqld.run) {
            self.after(takes, Event::Receive { source, member, run: their_run, dump: id, txn });
        }
        self.after(takes + 1, Event::Dump { source, run, member, dump: id });
    }

    /// A transaction reaches the relay log, and is acknowledged if that was offered.
    pub fn receive(&mut self, source: u32, member: u32, run: u64, id: u64, txn: Txn) {
        let now = self.now;
        let Some((mysqld, directory)) = self.running(member).filter(|(mysqld, _)| mysqld.run == run && mysqld.link == Link::On(id)) else {
            return;
        };
        mysqld.heard = now;
        if !directory.received.has(txn) && !directory.executed.has(txn) {
            directory.relay.push(txn);
            directory.received.insert(txn);
        }
        let active = mysqld.replica_active;
        self.wake_applier(member);
        if active && let Some(theirs) = self.member(source).mysqld.as_ref().map(|mysqld| mysqld.run) {
            self.send(Node::Member(member), Node::Member(source), Event::Ack { source, run: theirs, member, dump: id, txn });
        }
    }

    /// An acknowledgement counts for its transaction and for all before it.
    pub fn acked(&mut self, source: u32, run: u64, member: u32, id: u64, txn: Txn) {
        let Some((mysqld, _)) = self.running(source).filter(|(mysqld, _)| mysqld.run == run) else { return };
        if mysqld.dumps.get(&member).is_none_or(|dump| dump.id != id || !dump.semi_sync) {
            return;
        }
        if mysqld.waiting.iter().any(|waiting| waiting.txn == txn) {
            for waiting in &mut mysqld.waiting {
                waiting.acks |= 1 << member;
                if waiting.txn == txn {
                    break;
                }
            }
            self.release(source);
        }
    }

    /// Commits what has enough acknowledgements, and tells its clients.
    pub fn release(&mut self, member: u32) {
        let Some((mysqld, directory)) = self.running(member) else { return };
        let (done, term) = (mysqld.released(), mysqld.term);
        for Waiting { txn, .. } in &done {
            directory.executed.insert(*txn);
        }
        for Waiting { txn, client, .. } in done {
            if let Some(request) = client {
                self.acknowledge(member, term, txn, request);
            }
        }
        self.wake_applier(member);
    }

    /// A replica acknowledges nothing that it received before it counted. The primary's sidecar writes an event without content for that,
    /// whose acknowledgement counts for all before it.
    pub fn nudge(&mut self, member: u32, facts: &Facts) {
        let (now, semi) = (self.now, &facts.semi_sync);
        let stuck = !facts.read_only && semi.source_enabled && semi.waiting > 0 && semi.clients >= semi.source_acks;
        let Some(sidecar) = self.member_mut(member).sidecar.as_mut() else { return };
        let since = *sidecar.stuck.get_or_insert(now);
        if !stuck || now - since >= NUDGE {
            sidecar.stuck = None;
        }
        if !stuck || now - since < NUDGE {
            return;
        }
        let Some((mysqld, _)) = self.running(member) else { return };
        let Some(last) = mysqld.waiting.back().map(|waiting| waiting.txn) else { return };
        let (run, dumps) = (mysqld.run, mysqld.dumps.clone());
        for (replica, dump) in dumps {
            let passes = self.network.passes(Node::Member(member), Node::Member(replica));
            let there = self.running(replica).is_some_and(|(theirs, directory)| {
                theirs.link == Link::On(dump.id) && theirs.replica_active && directory.holds().has(last)
            });
            if passes && there {
                self.acked(member, run, replica, dump.id, last);
            }
        }
    }

    /// Lets the applier go on, if it runs and has something to do.
    pub fn wake_applier(&mut self, member: u32) {
        let slowness = self.member(member).slowness;
        let Some((mysqld, directory)) = self.running(member) else { return };
        let next = directory.next_to_apply().filter(|next| !directory.logged.has(*next));
        if !mysqld.applying || mysqld.applier_busy || next.is_none() {
            return;
        }
        mysqld.applier_busy = true;
        let run = mysqld.run;
        let takes = self.takes(slowness);
        self.after(takes, Event::Apply { member, run });
    }

    /// The applier commits the next transaction.
    pub fn apply(&mut self, member: u32, run: u64) {
        let Some((mysqld, directory)) = self.running(member).filter(|(mysqld, _)| mysqld.run == run) else { return };
        mysqld.applier_busy = false;
        if let Some(txn) = directory.next_to_apply().filter(|next| mysqld.applying && !directory.logged.has(*next)) {
            directory.write(txn);
            if mysqld.source_enabled {
                // With semi-sync on, an applier waits for acknowledgements like any client.
                mysqld.waiting.push_back(Waiting { txn, client: None, acks: 0 });
            } else {
                directory.executed.insert(txn);
            }
            let accounts = self.laws.accounts.get(&txn).copied().unwrap_or(0);
            if let Some((_, directory)) = self.running(member) {
                directory.accounts |= accounts;
            }
            self.wake_dumps(member);
            self.wake_applier(member);
        }
    }
}
