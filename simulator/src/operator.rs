//! A modelled operator: the pipeline of `operator::reconcile` in virtual time, one write at a time, so that it can die after each. What it
//! decides and what it writes into the status are the real functions.

use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::time::Duration;

use crds::mysql::MySQLClusterStatus;
use jiff::Timestamp;
use operator::mysql::decide::{Decision, Route, Step, decide};
use operator::mysql::observed::{Member, Observed, PodSeen, Seen, StatefulSetSeen};
use operator::mysql::status::status;
use operator::status::Pass;
use sidecar_protocol::mysql::{Assignment, State};
use sidecar_protocol::{Report, SILENCE_MILLIS};

use crate::event::Event;
use crate::kube::{Api, Read};
use crate::reports::Slot;
use crate::sidecar::{host, ordinals};
use crate::world::{MEMBERS, World, name, ordinal};

/// Claims and conflicts in one pass.
const ROUNDS: u32 = 8;
/// How often it is looked at although nothing happened.
const RESYNC: u64 = 30_000;
/// What failed is tried again after this long.
const RETRY: u64 = 1000;
/// Between two looks at who fell silent.
const TICK: u64 = 250;
/// The virtual clocks begin here, in seconds since 1970.
const EPOCH: i64 = 1_800_000_000;

/// A write, or what stands between two writes.
#[derive(Debug)]
enum Act {
    /// Look and decide (again).
    Round,
    /// Claim authority by a guarded status write.
    Claim(Box<MySQLClusterStatus>),
    /// Set the replicas of the StatefulSet.
    Replicas(u32),
    /// Give an order.
    Order(u32, Box<Assignment>),
    /// Write the routing slice.
    Route(Option<(u32, u64)>),
    /// Delete a pod that has this UID.
    Delete(u32, u64),
    /// Write the status.
    Status(Box<MySQLClusterStatus>),
}

/// One operator, running or not.
#[derive(Debug)]
pub struct Operator {
    /// Its process runs.
    pub running: bool,
    /// Its process is stopped, and goes on later with what it knew.
    pub frozen: bool,
    /// Tells one run from the next.
    pub run: u64,
    /// How far its clock is off, in milliseconds.
    pub clock: i64,
    /// It cannot reach the API server.
    pub cut_off: bool,
    /// It gets its answers late: it acts on what it read long ago.
    pub reads_late: bool,
    /// What the members said when its pass began.
    pub reports: BTreeMap<u32, Seen<Report<State>>>,
    /// Its watches are stuck until then.
    pub watches_stuck: u64,
    /// What it knows of each member.
    pub slots: Vec<Slot>,
    /// What waits for a frozen one.
    pub inbox: Vec<Event>,
    observed: Observed,
    read: Read,
    rounds: u32,
    todo: VecDeque<Act>,
    requeue: Option<Duration>,
    dirty: bool,
    syncing: bool,
    next_pass: u64,
    began: u64,
    listened: bool,
    said: String,
    /// State of the last decision.
    pub state: Option<operator::mysql::decide::State>,
}

impl Operator {
    /// One that does not run yet.
    #[must_use]
    pub fn new(api: &Api) -> Self {
        Self {
            running: false,
            frozen: false,
            run: 0,
            clock: 0,
            cut_off: false,
            reads_late: false,
            reports: BTreeMap::new(),
            watches_stuck: 0,
            slots: (0..MEMBERS).map(|_| Slot::default()).collect(),
            inbox: Vec::new(),
            observed: Observed::default(),
            read: api.read.clone(),
            rounds: 0,
            todo: VecDeque::new(),
            requeue: None,
            dirty: false,
            syncing: false,
            next_pass: u64::MAX,
            began: 0,
            listened: false,
            said: String::new(),
            state: None,
        }
    }
}

impl World {
    /// An operator begins, with nothing but what Kubernetes tells it.
    pub fn operator_start(&mut self, number: usize) {
        if self.operators[number].running {
            return;
        }
        let (run, now, api) = (self.id(), self.now, &self.api);
        let before = &self.operators[number];
        let (clock, cut_off) = (before.clock, before.cut_off);
        self.operators[number] = Operator { running: true, run, clock, cut_off, began: now, ..Operator::new(api) };
        self.tell(|| format!("operator {number} starts"));
        self.after(1, Event::Sync { operator: number, run });
        self.after(TICK, Event::Tick { operator: number, run });
        for member in ordinals() {
            self.poke(member);
        }
    }

    /// An operator's process ends.
    pub fn end_operator(&mut self, number: usize) {
        let operator = &mut self.operators[number];
        (operator.running, operator.frozen) = (false, false);
        operator.inbox.clear();
        operator.todo.clear();
        self.tell(|| format!("operator {number} is killed"));
    }

    /// It is this run of it, and it lives.
    pub fn alive(&mut self, number: usize, run: u64) -> Option<&mut Operator> {
        Some(&mut self.operators[number]).filter(|operator| operator.running && operator.run == run)
    }

    /// Pods, set or slice changed: caches hear of it.
    pub fn kubernetes_changed(&mut self) {
        for number in 0..self.operators.len() {
            let stuck = self.operators[number].watches_stuck.saturating_sub(self.now);
            let takes = self.takes(15).max(stuck);
            let operator = &mut self.operators[number];
            if operator.running && !operator.syncing {
                operator.syncing = true;
                let run = operator.run;
                self.after(takes, Event::Sync { operator: number, run });
            }
        }
    }

    /// Its caches catch up.
    pub fn sync(&mut self, number: usize, run: u64) {
        let revision = self.api.revision;
        let replicas = self.api.replicas;
        let route = self.api.route.map(|(ordinal, pod)| (name(ordinal), pod.to_string()));
        let pods: Vec<Option<(PodSeen, u64)>> = ordinals()
            .map(|member| {
                let pod = self.member(member).pod.as_ref()?;
                let seen = PodSeen {
                    uid: pod.uid.to_string(),
                    ip: Some(format!("10.0.0.{member}")),
                    ready: pod.ready && !pod.node_down,
                    deleting: pod.deleting.is_some(),
                    outdated: pod.revision != revision,
                    ..PodSeen::default()
                };
                Some((seen, pod.since))
            })
            .collect();
        let wall = |operator: &Operator, at: u64| wall(operator.clock, at);
        let Some(operator) = self.alive(number, run) else { return };
        operator.syncing = false;
        operator.observed.route = route;
        operator.observed.stateful_set = replicas.map(|replicas| StatefulSetSeen { replicas, current: true });
        for (member, pod) in ordinals().zip(pods) {
            let uid = pod.as_ref().and_then(|(pod, _)| pod.uid.parse().ok());
            let since = wall(operator, pod.as_ref().map_or(0, |(_, since)| *since));
            let slot = &mut operator.slots[member as usize];
            if slot.pod != uid {
                *slot = Slot::of(uid);
                operator.observed.members.remove(&member);
            }
            let listed = pod.is_some() || replicas.is_some_and(|replicas| member < replicas);
            if listed {
                let known = operator.observed.members.entry(member).or_insert_with(|| Member {
                    name: name(member),
                    pod: None,
                    report: Seen::Silent { since },
                    fresh_volume: false,
                });
                known.pod = pod.map(|(pod, _)| pod);
            } else {
                operator.observed.members.remove(&member);
            }
        }
        self.wake(number, 0);
    }

    /// Lets an operator look within `millis`.
    pub fn wake(&mut self, number: usize, millis: u64) {
        let at = self.now + millis;
        let operator = &mut self.operators[number];
        if operator.running && at < operator.next_pass {
            operator.next_pass = at;
            let run = operator.run;
            self.after(millis, Event::Pass { operator: number, run });
        }
    }

    /// Who said nothing for too long is silent.
    pub fn tick(&mut self, number: usize, run: u64) {
        let now = self.now;
        let Some(operator) = self.alive(number, run) else { return };
        let mut news = false;
        for member in ordinals() {
            let last = operator.slots[member as usize].heard;
            let Some(known) = operator.observed.members.get_mut(&member) else { continue };
            if known.report.answered().is_some() && now - last >= SILENCE_MILLIS {
                known.report = Seen::Silent { since: wall(operator.clock, last) };
                news = true;
            }
        }
        self.after(TICK, Event::Tick { operator: number, run });
        if news {
            self.wake(number, 0);
        }
    }

    /// The process of a member's sidecar is gone: its stream ends, and a new one cannot be made.
    pub fn sidecar_gone(&mut self, member: u32) {
        use crate::network::Node;
        for number in 0..self.operators.len() {
            let passes = self.network.passes(Node::Operator(number), Node::Member(member));
            let operator = &mut self.operators[number];
            let last = operator.slots[member as usize].heard;
            let since = wall(operator.clock, last);
            if let Some(known) = operator.observed.members.get_mut(&member).filter(|_| passes)
                && known.report.answered().is_some()
            {
                known.report = Seen::Silent { since };
                self.wake(number, 2);
            }
        }
    }

    /// What an operator knows of a member, to be told anew.
    pub fn known(&mut self, number: usize, member: u32) -> Option<&mut Member> {
        self.operators[number].observed.members.get_mut(&member)
    }

    /// A pass begins, unless one is under way.
    pub fn pass(&mut self, number: usize, run: u64) {
        let now = self.now;
        let Some(operator) = self.alive(number, run) else { return };
        if operator.next_pass > now {
            return;
        }
        operator.next_pass = u64::MAX;
        if !operator.todo.is_empty() {
            operator.dirty = true;
            return;
        }
        if operator.cut_off {
            return self.wake(number, RETRY);
        }
        (operator.rounds, operator.dirty) = (0, false);
        operator.todo.push_back(Act::Round);
        // Reports before the status, as `reconcile::read` does.
        operator.reports = operator.observed.members.iter().map(|(member, known)| (*member, known.report.clone())).collect();
        let late = operator.reads_late;
        let early = self.dice.chance(500);
        self.operators[number].read = self.api.read.clone();
        if late && early {
            let takes = self.dice.between(200, 4000);
            return self.after(takes, Event::Write { operator: number, run });
        }
        self.next_write(number);
    }

    fn next_write(&mut self, number: usize) {
        let operator = &self.operators[number];
        let (run, orders) = (operator.run, matches!(operator.todo.front(), Some(Act::Order(..) | Act::Round)));
        let takes = if orders { 1 } else { self.takes(8).min(8000) };
        self.after(takes, Event::Write { operator: number, run });
    }

    /// The next thing of a pass. The operator may die before it and after it.
    pub fn write(&mut self, number: usize, run: u64) {
        if self.alive(number, run).is_none() {
            return;
        }
        if self.dies(number) {
            return;
        }
        let Some(act) = self.operators[number].todo.pop_front() else { return };
        let (is_round, cut_off) = (matches!(act, Act::Round), self.operators[number].cut_off);
        let reaches_members = matches!(act, Act::Order(..) | Act::Round);
        if cut_off && !reaches_members {
            self.operators[number].todo.clear();
            return self.wake(number, RETRY);
        }
        match act {
            Act::Round => self.round(number),
            Act::Claim(status) | Act::Status(status) => self.write_status(number, *status),
            Act::Replicas(replicas) => {
                self.tell(|| format!("operator {number} sets replicas to {replicas}"));
                self.api.replicas = Some(replicas);
                self.kubernetes_changed();
            }
            Act::Order(member, assignment) => self.give(number, member, *assignment),
            Act::Route(to) => self.route(number, to),
            Act::Delete(member, uid) => {
                self.tell(|| format!("operator {number} replaces the pod of {}", name(member)));
                self.delete_pod(member, Some(uid));
            }
        }
        if !is_round && self.dies(number) {
            return;
        }
        let operator = &mut self.operators[number];
        if !operator.todo.is_empty() {
            return self.next_write(number);
        }
        let again = operator.requeue.take().map_or(RESYNC, |requeue| u64::try_from(requeue.as_millis()).unwrap_or(RESYNC));
        let again = if operator.dirty { 0 } else { again };
        self.wake(number, again);
    }

    /// Chance ends its process, between any two writes.
    fn dies(&mut self, number: usize) -> bool {
        let dies = self.faults.raging && self.dice.chance(4);
        if dies {
            self.end_operator(number);
            let rest = self.dice.between(200, 5000);
            self.after(rest, Event::OperatorStart { operator: number });
        }
        dies
    }

    fn round(&mut self, number: usize) {
        let now = self.now;
        let Operator { read, observed, reports, slots, listened, began, clock, rounds, .. } = &mut self.operators[number];
        *rounds += 1;
        let wall = wall(*clock, now);
        let heard = observed.members.iter().filter(|(_, member)| member.pod.is_some()).all(|(member, _)| slots[*member as usize].heard > 0);
        *listened |= heard || now - *began >= SILENCE_MILLIS;
        if !*listened || *rounds > ROUNDS {
            return self.wake(number, RETRY);
        }
        let asked = &read.annotations;
        observed.asked.consent = asked.consent.map(|(member, term)| (name(member), term));
        observed.asked.switchover = asked.switchover.map(|(member, term)| (member.map_or_else(|| "any".to_owned(), name), term));
        observed.asked.fenced = asked.fenced.iter().map(|member| name(*member)).collect();
        observed.asked.reclone = asked.reclone.map(|(member, uuid)| (name(member), crate::history::uuid_text(uuid)));
        let born = read.status.initialised;
        if !born {
            for member in 0..read.desired.replicas {
                observed.members.entry(member).or_insert_with(|| Member {
                    name: name(member),
                    pod: None,
                    report: Seen::Silent { since: wall },
                    fresh_volume: true,
                });
            }
        }
        for member in observed.members.values_mut() {
            member.fresh_volume = !born;
        }
        let mut observed = observed.clone();
        for (member, report) in reports {
            if let Some(known) = observed.members.get_mut(member) {
                known.report = report.clone();
            }
        }
        let decision = decide(&read.desired, &observed, &read.status, wall);
        self.operators[number].state = Some(decision.state);
        self.plan_writes(number, decision, wall);
    }

    fn plan_writes(&mut self, number: usize, decision: Decision, wall: Timestamp) {
        self.say(number, &decision);
        let Operator { read, observed, todo, requeue, .. } = &mut self.operators[number];
        if let Some(authority) = decision.intent {
            let mut status = MySQLClusterStatus::clone(&read.status);
            authority.write(&mut status);
            todo.push_back(Act::Claim(Box::new(status)));
            return;
        }
        if observed.stateful_set.as_ref().map(|set| set.replicas) != Some(decision.replicas) {
            todo.push_back(Act::Replicas(decision.replicas));
        }
        for (member, assignment) in &decision.orders {
            todo.push_back(Act::Order(*member, Box::new(assignment.clone())));
        }
        let routed = observed.route.clone();
        let wanted = match decision.route {
            Route::Keep => None,
            Route::Nobody => Some(None),
            Route::To(member) => observed.members.get(&member).and_then(|member| member.pod.as_ref()).map(|pod| Some((member, pod))),
        };
        if let Some(wanted) = wanted {
            let same = wanted.map(|(member, pod)| (name(member), pod.uid.clone())) == routed;
            if !same {
                todo.push_back(Act::Route(wanted.and_then(|(member, pod)| Some((member, pod.uid.parse().ok()?)))));
            }
        }
        if let Some(Step::ReplacePod { ordinal, uid, .. }) = &decision.step
            && let Ok(uid) = uid.parse()
        {
            todo.push_back(Act::Delete(*ordinal, uid));
        }
        let pass = Pass { desired: &read.desired, observed, decision: &decision, obstacles: &[], generation: Some(1), settled: true };
        let after = status(&pass, &read.status, wall);
        if after != *read.status {
            todo.push_back(Act::Status(Box::new(after)));
        }
        *requeue = decision.requeue;
    }

    fn say(&mut self, number: usize, decision: &Decision) {
        if self.story.is_some() && self.operators[number].said != decision.reason {
            self.operators[number].said.clone_from(&decision.reason);
            let claim = if decision.intent.is_some() { " claims" } else { "" };
            let term = self.operators[number].read.status.term;
            self.tell(|| format!("operator {number}{claim} in term {term}: {:?}: {}", decision.state, decision.reason));
        }
    }

    /// Guarded by resourceVersion.
    fn write_status(&mut self, number: usize, status: MySQLClusterStatus) {
        let before = Rc::clone(&self.api.read.status);
        let version = self.operators[number].read.version;
        let claim = operator::mysql::decide::Authority::of(&status) != operator::mysql::decide::Authority::of(&before);
        match self.api.replace_status(version, status) {
            Ok(read) => {
                if claim {
                    self.claimed(&before);
                }
                self.operators[number].read = read;
            }
            Err(crate::kube::Conflict) => {
                self.tell(|| format!("operator {number} meets a conflict"));
                self.operators[number].todo.clear();
                self.operators[number].read = self.api.read.clone();
            }
        }
        if self.operators[number].todo.is_empty() && claim {
            self.operators[number].todo.push_back(Act::Round);
        }
        for other in 0..self.operators.len() {
            if other != number {
                let takes = self.takes(15);
                self.wake(other, takes);
            }
        }
    }

    /// One write that swaps the address (I9).
    fn route(&mut self, number: usize, to: Option<(u32, u64)>) {
        self.tell(|| format!("operator {number} routes to {}", to.map_or_else(|| "nobody".to_owned(), |(member, _)| name(member))));
        self.api.route = to;
        self.kubernetes_changed();
    }

    /// Gives an order, unless the member is silent, holds it already, or has one on its way.
    fn give(&mut self, number: usize, member: u32, assignment: Assignment) {
        let Operator { read, reports, .. } = &self.operators[number];
        let Some(report) = reports.get(&member).and_then(|report| report.answered()) else { return };
        let order = sidecar_protocol::Order {
            cluster: crate::kube::UID.to_owned(),
            term: read.status.term,
            claim: read.status.claims,
            incarnation: report.incarnation.clone(),
            after: report.orders,
            assignment,
        };
        if !report.state.accepted.as_ref().is_some_and(|held| held.serves_as(&order)) {
            self.order(number, member, order);
        }
    }
}

/// What a clock that is off by `clock` shows.
#[must_use]
pub fn wall(clock: i64, at: u64) -> Timestamp {
    let millis = EPOCH * 1000 + i64::try_from(at).unwrap_or(0) + clock;
    Timestamp::from_millisecond(millis).unwrap_or(Timestamp::UNIX_EPOCH)
}

/// The member that a source's host name leads to.
#[must_use]
pub fn of_host(text: &str) -> Option<u32> {
    text.split('.').next().and_then(ordinal).filter(|member| host(*member) == text)
}
