//! Feeds the real self-fence of a sidecar: which operators' streams live, and what other members were heard to have seen.

use std::time::Duration;

use sidecar::fence::{Fence, Ordered, PING, Verdict};
use sidecar_protocol::mysql::Assignment;
use tokio::time::Instant;

use crate::network::Node;
use crate::sidecar::ordinals;
use crate::world::{OPERATORS, World};

/// Whom a sidecar hears.
#[derive(Debug)]
pub struct Contact {
    fence: Fence,
    /// When the stream of each operator was last alive; `None` without a stream.
    streams: [Option<u64>; OPERATORS],
    fenced: bool,
    /// Nobody is in reach since then, and when that was looked at last.
    alone: Option<u64>,
    looked: u64,
}

impl Contact {
    /// Of a sidecar that has just begun.
    #[must_use]
    pub fn new(now: Instant, member: u32) -> Self {
        Self { fence: Fence::new(now, member), streams: [None; OPERATORS], fenced: false, alone: None, looked: 0 }
    }

    /// An order was accepted.
    pub fn order(&mut self, now: Instant, term: u64, assignment: &Assignment) {
        let ordered = match assignment {
            Assignment::Primary { members, .. } => Some(Ordered { term, members: members.iter().copied().collect() }),
            _ => None,
        };
        self.fence.order(now, ordered);
    }

    /// None of the other members is there.
    #[must_use]
    pub fn deserted(&self, now: Instant) -> bool {
        self.fence.deserted(now)
    }

    /// It closes, to end.
    pub fn leave(&mut self, now: Instant) {
        self.fence.leave(now);
    }
}

impl World {
    /// Hears who can be heard now.
    pub fn listen(&mut self, member: u32) {
        let (now, instant) = (self.now, self.instant());
        let dead = u64::try_from((PING.0 + PING.1).as_millis()).unwrap_or(u64::MAX);
        let operators: Vec<(bool, bool)> = (0..OPERATORS)
            .map(|number| {
                let passes = self.network.passes(Node::Operator(number), Node::Member(member));
                let operator = &self.operators[number];
                (operator.running && !operator.frozen && passes, !operator.running && passes)
            })
            .collect();
        let heard: Vec<(u32, u64)> = ordinals()
            .filter(|other| *other != member && self.network.passes(Node::Member(member), Node::Member(*other)))
            .filter(|other| self.member(*other).sidecar.is_some() && !self.member(*other).sidecar_frozen)
            .map(|other| (other, self.member(other).volume.term))
            .collect();
        let missed = if self.faults.calm { 0 } else { self.dice.roll(8) };
        let Some(sidecar) = self.member_mut(member).sidecar.as_mut() else { return };
        let contact = &mut sidecar.contact;
        contact.fence.judge(instant);
        // A process that stood still could not close.
        let members = match sidecar.order.as_ref().or(sidecar.unconfirmed.as_ref()).map(|order| &order.assignment) {
            Some(Assignment::Primary { members, .. }) => members.as_slice(),
            _ => &[],
        };
        let peers = 1 + heard.iter().filter(|(other, _)| members.contains(other)).count();
        let reached = operators.iter().any(|(alive, _)| *alive) || members.len() < 2 || peers > members.len() / 2;
        let stood_still = now - contact.looked > 1500;
        contact.looked = now;
        contact.alone = (!reached).then(|| contact.alone.filter(|_| !stood_still).unwrap_or(now));
        let alone = contact.alone;
        for (stream, (alive, closed)) in contact.streams.iter_mut().zip(operators) {
            match stream {
                None if alive => {
                    *stream = Some(now);
                    contact.fence.operator(instant, true);
                }
                Some(_) if alive => *stream = Some(now),
                Some(last) if closed || now - *last >= dead => {
                    *stream = None;
                    contact.fence.operator(instant, false);
                }
                _ => {}
            }
        }
        let order = sidecar.order.as_ref().or(sidecar.unconfirmed.as_ref());
        if order.is_some_and(|order| matches!(order.assignment, Assignment::Primary { .. })) {
            let epoch = contact.fence.epoch();
            for (other, term) in heard.into_iter().filter(|(other, _)| u64::from(*other) + 1 != missed) {
                let _counts = contact.fence.heard(instant, epoch, other, term);
            }
            if contact.fence.confirmed(instant)
                && let Some(order) = sidecar.unconfirmed.take()
            {
                (sidecar.order, sidecar.orders) = (Some(order), sidecar.orders + 1);
            }
        }
        if let Some(since) = alone {
            self.alone(member, since);
        }
    }

    /// Whether this member may be open, by its fence.
    pub fn verdict(&mut self, member: u32) -> Verdict {
        let instant = self.instant() + Duration::ZERO;
        let Some(sidecar) = self.member_mut(member).sidecar.as_mut() else { return Verdict::FREE };
        let verdict = sidecar.contact.fence.judge(instant);
        if verdict.fenced && !std::mem::replace(&mut sidecar.contact.fenced, verdict.fenced) {
            self.laws.fenced += 1;
            self.tell(|| format!("{} fences itself", crate::world::name(member)));
        } else {
            sidecar.contact.fenced = verdict.fenced;
        }
        verdict
    }
}
