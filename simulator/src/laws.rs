//! What must be true, checked when it could first become untrue. The first violation ends the run.

use std::collections::BTreeMap;

use crate::history::{Set, Txn, of_uuid_text};
use crate::mysqld::Request;
use crate::world::{MEMBERS, World, name};

/// A primary that reaches neither an operator nor a majority for this long is closed: five seconds, and what a slow seal takes.
const ALONE: u64 = 15_000;

/// A broken invariant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Number in DESIGN.md.
    pub invariant: &'static str,
    /// What happened.
    pub what: String,
}

/// What is remembered to judge by. Nobody in the world can see it.
#[derive(Debug, Default)]
pub struct Laws {
    /// The first one.
    pub violation: Option<Violation>,
    /// What clients were told is done, and no person agreed to lose.
    pub acknowledged: Set,
    /// The same, in the order of the telling.
    pub order: Vec<Txn>,
    /// When a term acknowledged first.
    pub first: BTreeMap<u64, u64>,
    /// Highest term that each data directory's member stood still in: its receiver off, its server sealed, under an order.
    pub stood_still: BTreeMap<u32, u64>,
    /// Accounts that a transaction makes, by its bits.
    pub accounts: BTreeMap<Txn, u32>,
    /// The term of the last order that each volume's member obeyed.
    pub obeyed: [u64; MEMBERS],
    /// The last order that each run of a sidecar obeyed, of each run of an operator, by its number there.
    pub tickets: BTreeMap<(u32, u64, usize, u64), u64>,
    /// What was committed on a replica, past its sidecar.
    pub strays: Set,
    /// What of it may not have been told yet: until when.
    pub untold: BTreeMap<Txn, u64>,
    /// What a new primary had committed as a replica and brought along.
    pub brought: Set,
    /// Fresh data directories made.
    pub initialised: u32,
    /// Volumes that were lost.
    pub volumes_lost: u32,
    /// A person agreed to lose something.
    pub consented: bool,
    /// Changes of primary that were recorded: by failure, planned, taken back.
    pub failovers: u32,
    /// Planned ones.
    pub switchovers: u32,
    /// Data directories that were discarded to be cloned anew.
    pub recloned: u32,
    /// Primaries that closed themselves.
    pub fenced: u32,
}

impl World {
    /// Notes a violation, unless there is one.
    pub fn broken(&mut self, invariant: &'static str, what: impl FnOnce() -> String) {
        if self.laws.violation.is_none() {
            let what = what();
            self.tell(|| format!("*** {invariant}: {what}"));
            self.laws.violation = Some(Violation { invariant, what });
        }
    }

    /// A server tells a client that its commit is done (I1, I4).
    pub fn acknowledge(&mut self, member: u32, term: u64, txn: Txn, request: Request) {
        let newer = self.laws.first.range(term + 1..).find(|(_, at)| **at < request.invoked).map(|(newer, _)| *newer);
        if let Some(newer) = newer {
            self.broken("I1", || format!("{} acknowledges in term {term} what was asked after term {newer} acknowledged", name(member)));
        }
        let (now, held) = (self.now, self.member(member).volume.directory.as_ref().map(|directory| directory.logged).unwrap_or_default());
        self.laws.first.entry(term).or_insert(now);
        // An acknowledgement that was late may reach a deposed primary: what it is for is on its successor, which the end shows.
        if self.laws.first.range(term + 1..).next().is_none() {
            self.nothing_missing(member, held, "acknowledges");
        }
        let status = std::rc::Rc::clone(&self.api.read.status);
        let mut told = Set::default();
        told.insert(txn);
        let holders = self.recorded_holders(told, None);
        if term == status.term && self.laws.volumes_lost == 0 && holders < status.acks {
            let (acks, gtids) = (status.acks, self.histories.gtids(told));
            self.broken("I4", || format!("{} tells that {gtids} is done, and {holders} of the ack set hold it, {acks} must", name(member)));
        }
        self.laws.acknowledged.insert(txn);
        self.laws.order.push(txn);
        self.answered(request);
    }

    /// A server lets everybody write (I4, I7).
    pub fn opened(&mut self, member: u32, term: u64) {
        let executed = self.member(member).volume.directory.as_ref().map(|directory| directory.executed).unwrap_or_default();
        self.tell(|| format!("{} opens in term {term}", name(member)));
        if term >= self.api.read.status.term {
            self.nothing_missing(member, executed, "opens");
        }
    }

    fn nothing_missing(&mut self, member: u32, held: Set, does: &str) {
        let missing = self.laws.acknowledged.minus(held);
        if !missing.is_empty() {
            let gtids = self.histories.gtids(missing);
            self.broken("I4", || format!("{} {does} without {gtids}, which clients were told is done", name(member)));
        }
    }

    /// A fresh data directory is made (I10).
    pub fn born(&mut self, member: u32) {
        self.laws.initialised += 1;
        if self.api.read.status.initialised || !self.laws.acknowledged.is_empty() {
            self.broken("I10", || format!("{} initialises although the cluster holds a history", name(member)));
        }
    }

    /// A data directory is given up, by our own hand (I10): the next pod discards it.
    pub fn given_up(&mut self, member: u32) {
        let acknowledged = self.laws.acknowledged;
        let elsewhere = (0..MEMBERS as u32)
            .filter(|other| *other != member)
            .any(|other| self.member(other).volume.directory.as_ref().is_some_and(|directory| directory.holds().contains(acknowledged)));
        if !elsewhere {
            self.broken("I10", || format!("{} gives up the last whole copy", name(member)));
        }
    }

    /// A data directory is discarded: nobody counts on it any more (I4).
    pub fn discarded(&mut self, member: u32) {
        let acknowledged = self.laws.acknowledged;
        let (status, holders) = (std::rc::Rc::clone(&self.api.read.status), self.recorded_holders(acknowledged, Some(member)));
        let recorded = status.ack_set.iter().any(|one| one.name == name(member));
        if recorded && self.laws.volumes_lost == 0 && holders < status.acks {
            let acks = status.acks;
            self.broken("I4", || format!("{} discards what the ack set counts on: {holders} others hold all, {acks} must", name(member)));
        }
    }

    /// How many of the recorded ack set, but for one, hold all of `history`, in truth.
    fn recorded_holders(&self, history: Set, but_for: Option<u32>) -> u32 {
        let holds = |member: &&crds::mysql::AckMember| {
            let ordinal = crate::world::ordinal(&member.name).filter(|ordinal| Some(*ordinal) != but_for);
            let directory = ordinal.and_then(|ordinal| self.member(ordinal).volume.directory.as_ref());
            directory.is_some_and(|directory| {
                of_uuid_text(&member.server_uuid) == Some(directory.uuid) && history.minus(directory.holds()).is_empty()
            })
        };
        u32::try_from(self.api.read.status.ack_set.iter().filter(holds).count()).unwrap_or(u32::MAX)
    }

    /// A status was written: what it claims must be so (I2, I3, I6, I8, I10).
    pub fn claimed(&mut self, before: &crds::mysql::MySQLClusterStatus) {
        use crds::shared::TransitionKind::Failover;
        let status = std::rc::Rc::clone(&self.api.read.status);
        if status.term < before.term || (before.initialised && !status.initialised) {
            self.broken("I8", || format!("the recorded term goes from {} to {}", before.term, status.term));
        }
        let promoting = |status: &crds::mysql::MySQLClusterStatus| {
            status.transition.as_ref().filter(|change| change.promoting).and_then(|change| crate::world::ordinal(change.to.as_deref()?))
        };
        if let Some(to) = promoting(&status).filter(|_| promoting(before).is_none() || before.term != status.term) {
            let held = self.member(to).volume.directory.as_ref().map(crate::mysqld::Directory::holds).unwrap_or_default();
            let change = status.transition.as_ref();
            let returned = change.is_some_and(|change| change.from == change.to);
            match change.map(|change| change.kind) {
                Some(Failover) if self.agreed(to, &status) => self.laws.acknowledged = self.laws.acknowledged.both(held),
                Some(Failover) => {
                    self.laws.failovers += 1;
                    if !returned {
                        self.quorum(before, &status);
                    }
                }
                _ => self.laws.switchovers += 1,
            }
            // A hand-over reads no position of its candidate on purpose.
            let told = |txn: Txn| self.laws.untold.get(&txn).is_none_or(|until| *until < self.now);
            let failover = change.is_some_and(|change| change.kind == Failover);
            let strays = self.laws.strays.both(held).only(|txn| failover || told(txn));
            if !strays.is_empty() && !returned && !self.laws.consented {
                let gtids = self.histories.gtids(strays);
                self.broken("I6", || format!("{} is promoted with {gtids}, which it committed as a replica", name(to)));
            }
            // From here on it is the cluster's history, and the others apply it later than their own.
            self.laws.brought = self.laws.brought.union(self.laws.strays.both(held));
            self.laws.strays = self.laws.strays.minus(held);
            // A volume may be lost while its member is being chosen; then it never opens.
            if self.member(to).volume.directory.is_some() {
                self.nothing_missing(to, held, "is promoted");
            }
        }
        let primary = status.primary.as_deref().and_then(crate::world::ordinal);
        for joined in status.ack_set.iter().filter(|member| !before.ack_set.contains(member)) {
            let (Some(ordinal), Some(primary)) = (crate::world::ordinal(&joined.name), primary) else { continue };
            let (ours, theirs) = (self.member(ordinal).volume.directory.as_ref(), self.member(primary).volume.directory.as_ref());
            let (Some(ours), Some(theirs)) = (ours, theirs) else { continue };
            // What somebody commits between its last report and this is known soon.
            let extra = ours.executed.minus(theirs.holds()).minus(self.laws.strays);
            if before.transition.is_none() && status.transition.is_none() && !extra.is_empty() {
                let gtids = self.histories.gtids(extra);
                self.broken("I6", || format!("{} joins the ack set with {gtids}, which the primary does not hold", joined.name));
            }
        }
    }

    /// A person agreed to lose what this member does not hold, in this term or in the one before, when the failover was claimed for it.
    fn agreed(&self, to: u32, status: &crds::mysql::MySQLClusterStatus) -> bool {
        self.api.read.annotations.consent.is_some_and(|(member, term)| member == to && (term == status.term || term + 1 == status.term))
    }

    /// A sidecar obeys (I8).
    pub fn obeyed(&mut self, member: u32, order: &sidecar_protocol::Order<sidecar_protocol::mysql::Assignment>, from: (usize, u64, u64)) {
        let before = std::mem::replace(&mut self.laws.obeyed[member as usize], order.term);
        if before > order.term {
            self.broken("I8", || format!("{} obeys term {} after term {before}", name(member), order.term));
        }
        let incarnation = self.member(member).sidecar.as_ref().map_or(0, |sidecar| sidecar.incarnation);
        if order.incarnation != incarnation.to_string() {
            self.broken("I8", || {
                format!("{} obeys an order for run {} of its sidecar in run {incarnation}", name(member), order.incarnation)
            });
        }
        let (operator, run, ticket) = from;
        let last = self.laws.tickets.insert((member, incarnation, operator, run), ticket);
        if last.is_some_and(|last| last > ticket) {
            self.broken("I8", || format!("{} obeys an order of operator {operator} that a later one had overtaken", name(member)));
        }
    }

    /// An open primary out of contact closes itself (I1): nobody reads old data there for long.
    pub fn alone(&mut self, member: u32, since: u64) {
        let open = self.member(member).mysqld.as_ref().is_some_and(|mysqld| mysqld.answers() && !mysqld.read_only && !mysqld.sealing);
        if open && self.now - since > ALONE {
            let millis = self.now - since;
            self.broken("I1", || format!("{} is open and reaches nobody for {millis} ms", name(member)));
        }
    }

    /// Enough of the recorded ack set stood still in this term (I2).
    fn quorum(&mut self, before: &crds::mysql::MySQLClusterStatus, status: &crds::mysql::MySQLClusterStatus) {
        let stood =
            |uuid: &str| of_uuid_text(uuid).and_then(|uuid| self.laws.stood_still.get(&uuid)).is_some_and(|term| *term >= status.term);
        let voters = before.ack_set.iter().filter(|member| stood(&member.server_uuid)).count();
        let quorum = (before.ack_set.len() + 1).saturating_sub(before.acks as usize).max(1);
        if voters < quorum && before.acks > 0 {
            self.broken("I2", || format!("{voters} members of the ack set stood still in term {}, {quorum} were needed", status.term));
        }
    }
}
