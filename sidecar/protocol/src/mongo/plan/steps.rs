//! What may change next in a set (pure). Each step says what it would make of the members, or nothing.

use std::cmp::Reverse;

use super::set::{Change, Set};
use crate::mongo::config::Member;
use crate::mongo::rules::{majority, offends_psa, voters};
use crate::mongo::status::MemberState;
use crate::mongo::{MAX_MEMBERS, MAX_VOTERS};

/// How far behind the primary may be who takes over, in seconds: mongod's own limit for a step-down (`secondaryCatchUpPeriodSecs`).
const CATCH_UP_SECONDS: u32 = 10;

impl<V: Clone> Set<'_, V> {
    /// One address becomes a name. Everybody looks for its member anew, so most voters are well without it, or all of them are.
    pub fn renamed(&self) -> Option<Change<V>> {
        let well = |member: &&Member<V>| self.state(member).is_well();
        let count = voters(&self.members).count();
        let spares =
            |member: &Member<V>| voters(&self.members).filter(|other| other.id != member.id).filter(well).count() >= majority(count);
        let all = voters(&self.members).filter(well).count() == count;
        self.members.iter().enumerate().find_map(|(at, member)| {
            let name = &self.wanted(at)?.host;
            (*name != member.host && (all || spares(member))).then(|| {
                let mut members = self.members.clone();
                members[at].host.clone_from(name);
                Change { members, why: format!("{} is called {name}", member.host), newcomer: None }
            })
        })
    }

    /// Who has no vote and is not wanted goes, all of them at once.
    pub fn without_strangers(&self) -> Option<Change<V>> {
        let (go, stay): (Vec<_>, Vec<_>) =
            self.members.iter().cloned().enumerate().partition(|(at, member)| self.who[*at].is_none() && !member.votes);
        let names: Vec<_> = go.into_iter().map(|(_, member)| member.host).collect();
        let members: Vec<_> = stay.into_iter().map(|(_, member)| member).collect();
        (!names.is_empty() && self.is_safe(&members, None)).then(|| Change {
            members,
            why: format!("removed {}", names.join(", ")),
            newcomer: None,
        })
    }

    /// Who is wanted, waits and holds data comes in without a vote, all of them at once.
    pub fn joined(&self) -> Option<Change<V>> {
        let mut members = self.members.clone();
        let mut names = Vec::new();
        for wanted in self.desired.members.iter().filter(|wanted| !wanted.arbiter && !self.has(wanted) && self.joins(wanted)) {
            if members.len() < MAX_MEMBERS {
                members.push(Member::newcomer(free_id(&members), wanted.host.clone()));
                names.push(wanted.host.as_str());
            }
        }
        (!names.is_empty() && self.is_safe(&members, None)).then(|| {
            let why = format!("added {}, without a vote until it is a secondary", names.join(", "));
            Change { members, why, newcomer: None }
        })
    }

    /// One vote more or one less. From an odd number only if the next one can follow at once, or somebody could not come otherwise.
    pub fn voting(&self) -> Option<Change<V>> {
        let even = voters(&self.members).count().is_multiple_of(2);
        let on = |change: &Change<V>| even || self.makes_way(&change.members) || self.after(change).goes_on();
        self.more().chain(self.less()).filter(|change| self.allows(change)).find(on)
    }

    /// Whether one more vote can change, that of a primary which is to go included.
    fn goes_on(&self) -> bool {
        let leader_goes = self.leads_at().is_some_and(|at| !self.sits(at));
        self.more().chain(self.less()).any(|change| self.allows(&change)) || (leader_goes && self.heirs().next().is_some())
    }

    /// Whether `members` lack one that keeps somebody who is to vote from coming: it is there as something else, or the set is full.
    fn makes_way(&self, members: &[Member<V>]) -> bool {
        let awaited: Vec<_> = self.desired.members.iter().zip(&self.seats).filter(|(_, seat)| **seat).map(|(wanted, _)| wanted).collect();
        let full = self.members.len() >= MAX_MEMBERS && awaited.iter().any(|wanted| !self.has(wanted));
        let stands_for = |member: &Member<V>| awaited.iter().any(|wanted| wanted.is(&member.host));
        let goes = |at: usize, member: &Member<V>| self.who[at].is_none() && members.iter().all(|other| other.id != member.id);
        self.members.iter().enumerate().any(|(at, member)| goes(at, member) && (full || stands_for(member)))
    }

    /// Each change by which one more votes: first those who may lead, then others who hold data, then arbiters.
    fn more(&self) -> impl Iterator<Item = Change<V>> {
        let room = voters(&self.members).count() < MAX_VOTERS;
        let mut ready: Vec<_> = (0..self.members.len()).filter(|at| room && self.is_ready(*at)).collect();
        ready.sort_by_key(|at| self.priority(*at) == 0.0);
        let data = ready.into_iter().map(|at| {
            let mut members = self.members.clone();
            (members[at].votes, members[at].priority) = (true, self.priority(at));
            self.change(members, format!("{} votes from now on", self.members[at].host), None)
        });
        let absent = (self.desired.members.iter().zip(&self.seats))
            .filter(move |(wanted, seat)| room && **seat && wanted.arbiter && !self.has(wanted) && self.joins(wanted));
        let arbiters = absent.filter(|_| self.members.len() < MAX_MEMBERS).map(|(wanted, _)| {
            let mut members = self.members.clone();
            let id = free_id(&members);
            members.push(Member { votes: true, arbiter_only: true, ..Member::newcomer(id, wanted.host.clone()) });
            self.change(members, format!("added {}, an arbiter", wanted.host), Some(id))
        });
        data.chain(arbiters)
    }

    /// Whether the member at `at` is to vote, does not, and could.
    fn is_ready(&self, at: usize) -> bool {
        self.sits(at) && !self.members[at].votes && self.state(&self.members[at]) == MemberState::Secondary
    }

    /// Each change by which one votes less: those who are not well first, the last ones before the first, and never the primary.
    fn less(&self) -> impl Iterator<Item = Change<V>> {
        let leader = self.leads_at();
        let votes: Vec<_> = (0..self.members.len()).filter(|at| self.members[*at].votes && leader != Some(*at)).collect();
        let mut going: Vec<_> = votes.iter().copied().filter(|at| !self.sits(*at)).collect();
        going.sort_by_key(|at| (self.state(&self.members[*at]).is_well(), Reverse(*at)));
        // Seven vote, all but the primary are to, and none of them may take over: one makes room for one who may, and gets its vote back.
        let may = |at: &usize| self.priority(*at) > 0.0;
        let stuck = going.is_empty() && votes.len() + 1 >= MAX_VOTERS && self.must_hand_over() && !votes.iter().any(may);
        if stuck && (0..self.members.len()).any(|at| self.is_ready(at) && may(&at)) {
            going.extend(votes.into_iter().rfind(|at| !self.members[*at].arbiter_only));
        }
        going.into_iter().map(|at| self.without(at))
    }

    /// The member at `at` votes no more; if it is not wanted, or an arbiter, which cannot be without a vote, it goes.
    fn without(&self, at: usize) -> Change<V> {
        let mut members = self.members.clone();
        let host = &self.members[at].host;
        let why = if self.who[at].is_some() && !members[at].arbiter_only {
            (members[at].votes, members[at].priority) = (false, 0.0);
            format!("{host} does not vote any more")
        } else {
            members.remove(at);
            format!("removed {host}")
        };
        self.change(members, why, None)
    }

    /// Where mongod would refuse it otherwise ([`offends_psa`]), only the primary keeps its priority for now.
    fn change(&self, mut members: Vec<Member<V>>, mut why: String, newcomer: Option<u8>) -> Change<V> {
        if offends_psa(&self.members, &members) {
            let leader = self.leader().map(|leader| leader.id);
            for member in members.iter_mut().filter(|member| leader != Some(member.id)) {
                member.priority = 0.0;
            }
            why.push_str("; only the primary may lead for now");
        }
        Change { members, why, newcomer }
    }

    /// Priorities as they are wanted; the primary keeps one until it has handed over.
    pub fn prioritised(&self) -> Option<Change<V>> {
        let leader = self.leads_at();
        let mut members = self.members.clone();
        for (at, member) in members.iter_mut().enumerate().filter(|(at, member)| member.votes && self.sits(*at)) {
            let priority = self.priority(at);
            if priority > 0.0 || leader != Some(at) {
                member.priority = priority;
            }
        }
        let changed: Vec<_> = (members.iter().zip(&self.members))
            .filter(|(after, before)| after.priority.to_bits() != before.priority.to_bits())
            .map(|(after, _)| format!("{} to {}", after.host, after.priority))
            .collect();
        (!changed.is_empty() && self.is_safe(&members, None)).then(|| Change {
            members,
            why: format!("priority of {}", changed.join(", ")),
            newcomer: None,
        })
    }

    /// Whether the primary is to lose its vote or to lead no more.
    pub fn must_hand_over(&self) -> bool {
        self.leads_at().is_some_and(|at| !self.sits(at) || self.priority(at) == 0.0)
    }

    /// To whom the primary hands over, and why. It does so when its own vote is the next to go.
    pub fn hand_over(&self) -> Option<(String, String)> {
        let at = self.leads_at().filter(|_| self.must_hand_over() && self.is_safe(&self.members, None))?;
        let heir = self.heirs().filter(|heir| heir.priority > 0.0).max_by_key(|heir| self.seen.status.optime(heir.id))?;
        let even = voters(&self.members).count().is_multiple_of(2);
        let host = &self.members[at].host;
        if self.sits(at) {
            return Some((heir.host.clone(), format!("{host} leads and is to have priority 0")));
        }
        let change = self.without(at);
        let next = self.allows(&change) && (even || self.makes_way(&change.members) || self.after(&change).goes_on());
        next.then(|| (heir.host.clone(), format!("{host} leads and is to go")))
    }

    /// Who could take over.
    pub fn heirs(&self) -> impl Iterator<Item = &Member<V>> {
        (0..self.members.len()).filter(|at| self.unable(*at).is_none()).map(|at| &self.members[at])
    }

    /// Why the member at `at` cannot take over: who does stays, votes, may lead, is a secondary and has caught up.
    pub fn unable(&self, at: usize) -> Option<String> {
        let member = &self.members[at];
        let optime = |member: &Member<V>| self.seen.status.optime(member.id);
        let behind = || Some(optime(self.leader()?)?.ts.t.saturating_sub(optime(member)?.ts.t));
        match self.state(member) {
            _ if !self.sits(at) || self.priority(at) == 0.0 => Some("is not to lead".into()),
            MemberState::Secondary if !member.votes => Some("has no vote".into()),
            MemberState::Secondary => match behind() {
                Some(seconds) if seconds <= CATCH_UP_SECONDS => None,
                Some(seconds) => Some(format!("is {seconds} s behind")),
                None => Some("has not said what it holds".into()),
            },
            state => Some(format!("is {state}")),
        }
    }
}

/// The lowest `_id` that nobody has: there are 256 and at most 50 members.
fn free_id<V>(members: &[Member<V>]) -> u8 {
    (0..u8::MAX).find(|id| members.iter().all(|member| member.id != *id)).unwrap_or(u8::MAX)
}
