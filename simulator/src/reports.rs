//! What passes between an operator and a sidecar: reports, orders and their answers. The operator's side models `operator::members`, the
//! sidecar's side `sidecar::hub`: who obeys whom is decided there.

use std::rc::Rc;

use operator::mysql::material;
use operator::mysql::observed::Seen;
use sidecar::mysql::converge::refuse;
use sidecar::term::Promise;
use sidecar_protocol::mysql::{Assignment, State};
use sidecar_protocol::{Order, RefusalCode, Report};

use crate::event::{Answer, Event};
use crate::kube::UID;
use crate::network::Node;
use crate::world::{Kept, World, name};

/// An order without an answer is given up after this long; it may still arrive.
const ORDER_DEADLINE: u64 = 5000;
/// A refused or lost order is given again after this long.
const ORDER_AGAIN: u64 = 500;
/// An accepted order is not given again before the report that says so had time.
const TAKING_UP: u64 = 2000;

/// What an operator keeps of one member.
#[derive(Debug, Default)]
pub struct Slot {
    /// The pod that it listens to.
    pub pod: Option<u64>,
    /// When it was heard last; 0 for never.
    pub heard: u64,
    /// Reports of one stream stay in order.
    arrives: u64,
    /// The order on its way.
    ordering: Option<u64>,
    given: Option<(Rc<Order<Assignment>>, u64)>,
}

impl Slot {
    /// Of a pod that was not heard yet.
    #[must_use]
    pub fn of(pod: Option<u64>) -> Self {
        Self { pod, ..Self::default() }
    }
}

impl World {
    /// A sidecar speaks to every operator that listens.
    pub fn report_to_operators(&mut self, member: u32) {
        let Some(report) = self.report(member).map(Rc::new) else { return };
        let Some(pod) = self.member(member).pod.as_ref().map(|pod| pod.uid) else { return };
        for operator in 0..self.operators.len() {
            if !self.operators[operator].running || !self.network.passes(Node::Operator(operator), Node::Member(member)) {
                continue;
            }
            let takes = self.takes(3);
            let run = self.operators[operator].run;
            let slot = &mut self.operators[operator].slots[member as usize];
            slot.arrives = slot.arrives.max(self.now + takes);
            let takes = slot.arrives - self.now;
            let report = Rc::clone(&report);
            if !self.faults.calm && self.dice.chance(5) {
                // Said again later, by a stream that was thought dead.
                let late = takes + self.dice.between(10, 2500);
                self.after(late, Event::Report { operator, run, member, pod, report: Rc::clone(&report) });
            }
            self.after(takes, Event::Report { operator, run, member, pod, report });
        }
    }

    /// A report arrives.
    pub fn report_arrives(&mut self, number: usize, run: u64, member: u32, pod: u64, report: &Rc<Report<State>>) {
        let now = self.now;
        let Some(operator) = self.alive(number, run) else { return };
        let slot = &mut operator.slots[member as usize];
        if slot.pod != Some(pod) {
            return;
        }
        slot.heard = now;
        let Some(known) = self.known(number, member) else { return };
        let news = match known.report.answered() {
            // On its way for longer than the answer to an order, which said more.
            Some(old) if old.incarnation == report.incarnation && old.orders > report.orders => return,
            Some(old) => !material::same(old, report),
            None => true,
        };
        known.report = Seen::Answered(Report::clone(report));
        if news {
            self.wake(number, 1);
        }
    }

    /// Gives an order in the background, one at a time.
    pub fn order(&mut self, number: usize, member: u32, order: Order<Assignment>) {
        let (now, ticket) = (self.now, self.id());
        let run = self.operators[number].run;
        let slot = &mut self.operators[number].slots[member as usize];
        let just_given = slot.given.as_ref().is_some_and(|(given, at)| **given == order && now - at < TAKING_UP);
        let Some(pod) = slot.pod.filter(|_| slot.ordering.is_none() && !just_given) else { return };
        slot.ordering = Some(ticket);
        let order = Rc::new(order);
        slot.given = Some((Rc::clone(&order), 0));
        let event = Event::Order { operator: number, run, member, pod, ticket, order };
        if self.faults.raging && self.dice.chance(10) {
            let twice = self.dice.between(50, 6000);
            self.after(twice, event.clone());
        }
        self.send(Node::Operator(number), Node::Member(member), event);
        self.after(ORDER_DEADLINE, Event::Answer { operator: number, run, member, ticket, answer: Answer::Lost });
    }

    /// An order arrives.
    pub fn order_arrives(&mut self, operator: usize, run: u64, member: u32, pod: u64, ticket: u64, order: &Rc<Order<Assignment>>) {
        let now_pod = self.member(member).pod.as_ref().map(|pod| pod.uid);
        // An address may be another pod's by now.
        if now_pod.is_none() || (now_pod != Some(pod) && !self.dice.chance(300)) {
            return;
        }
        let answer = match self.admit(member, order, (operator, run, ticket)) {
            Ok(()) => match self.report(member) {
                Some(report) => Answer::Accepted(Rc::new(report)),
                None => return,
            },
            Err(code) => Answer::Refused(code),
        };
        self.send(Node::Member(member), Node::Operator(operator), Event::Answer { operator, run, member, ticket, answer });
    }

    /// Whether a sidecar obeys (I8).
    fn admit(&mut self, member: u32, order: &Rc<Order<Assignment>>, from: (usize, u64, u64)) -> Result<(), RefusalCode> {
        let instant = self.instant();
        let ours = self.member_mut(member);
        let Some(sidecar) = ours.sidecar.as_mut() else { return Err(RefusalCode::Unknown) };
        if order.cluster != UID {
            return Err(RefusalCode::OtherCluster);
        }
        if order.incarnation != sidecar.incarnation.to_string() {
            return Err(RefusalCode::OtherIncarnation);
        }
        if order.term < ours.volume.term {
            return Err(RefusalCode::StaleTerm);
        }
        let higher = ours.volume.term < order.term;
        ours.volume.term = order.term;
        let same = sidecar
            .order
            .as_ref()
            .is_some_and(|old| (old.term, old.claim, &old.assignment) == (order.term, order.claim, &order.assignment));
        let last = ours.volume.kept.as_ref().filter(|last| last.order.term == order.term).map(|last| last.promise);
        let promise = Promise::after(last, order.claim, order.assignment.acks()).map_err(|refusal| refusal.code);
        let refused = match refuse(&sidecar.state, &order.assignment) {
            Some(_) => Some(RefusalCode::Unsafe),
            None => (!same && order.after != sidecar.orders).then_some(RefusalCode::Overtaken),
        };
        if higher {
            ours.volume.kept = None;
        }
        let promise = promise?;
        if let Some(code) = refused {
            return Err(code);
        }
        if !same {
            let of = ours.volume.directory.as_ref().map(|directory| directory.uuid);
            ours.volume.kept = Some(Kept { order: Rc::clone(order), promise, of });
            sidecar.unconfirmed = None;
            sidecar.orders += 1;
            sidecar.contact.order(instant, order.term, &order.assignment);
            sidecar.order = Some(Rc::clone(order));
            sidecar.not_before = 0;
            self.tell(|| format!("  {} accepts {} in term {}", name(member), brief(&order.assignment), order.term));
            self.obeyed(member, order, from);
            self.poke_now(member);
        }
        Ok(())
    }

    /// A sidecar that has just begun takes up its last order, if the data directory is the same and no higher term was seen: at once
    /// where it lets nobody write, else when the other members confirm it.
    pub fn resume(&mut self, member: u32) {
        let instant = self.instant();
        let ours = self.member_mut(member);
        let uuid = ours.volume.directory.as_ref().map(|directory| directory.uuid);
        let Some(Kept { order: kept, of, .. }) = ours.volume.kept.clone() else { return };
        let Some(sidecar) = ours.sidecar.as_mut() else { return };
        if uuid.is_none() || of != uuid || kept.term != ours.volume.term || kept.assignment == Assignment::Initialise {
            return;
        }
        sidecar.contact.order(instant, kept.term, &kept.assignment);
        let alone = match &kept.assignment {
            Assignment::Primary { members, .. } => members.iter().all(|other| *other == member),
            _ => true,
        };
        if alone {
            (sidecar.order, sidecar.orders) = (Some(kept), 1);
        } else {
            sidecar.unconfirmed = Some(kept);
        }
    }

    /// The answer to an order arrives, or none in time.
    pub fn answer_arrives(&mut self, number: usize, run: u64, member: u32, ticket: u64, answer: Answer) {
        let now = self.now;
        let Some(operator) = self.alive(number, run) else { return };
        let slot = &mut operator.slots[member as usize];
        if slot.ordering != Some(ticket) {
            return;
        }
        slot.ordering = None;
        match answer {
            Answer::Accepted(report) => {
                if let Some((_, at)) = &mut slot.given {
                    *at = now;
                }
                if let Some(pod) = slot.pod {
                    self.report_arrives(number, run, member, pod, &report);
                }
                self.wake(number, 1);
            }
            Answer::Refused(RefusalCode::Overtaken) => {
                slot.given = None;
                self.wake(number, 20);
            }
            Answer::Refused(_) | Answer::Lost => {
                slot.given = None;
                self.wake(number, ORDER_AGAIN);
            }
        }
    }
}

/// An assignment in a few words.
#[must_use]
pub fn brief(assignment: &Assignment) -> String {
    match assignment {
        Assignment::Initialise => "Initialise".into(),
        Assignment::Isolated => "Isolated".into(),
        Assignment::Primary { acks, members, barred } => format!("Primary acks {acks} members {members:?} barred {barred:?}"),
        Assignment::Replica { source, donors, acknowledges, replace } => {
            let donors: Vec<&str> = donors.iter().map(|donor| donor.member.as_str()).collect();
            let replace = replace.as_ref().map_or(String::new(), |uuid| format!(" replace {uuid}"));
            format!("Replica of {} acknowledges {acknowledges} donors {donors:?}{replace}", source.member)
        }
    }
}
