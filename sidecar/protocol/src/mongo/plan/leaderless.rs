//! A set that nobody leads (pure): who should stand, or what is lost and what a user could consent to.

use std::cmp::Reverse;

use serde::{Deserialize, Serialize};

use super::Next;
use super::set::Set;
use crate::mongo::config::{Config, Member};
use crate::mongo::rules::{majority, voters};
use crate::mongo::status::{MemberState, OpTime};

/// Most voters are lost: the evidence, and the words that would let the most advanced member be forced to go on without them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Lost {
    /// Who can be talked to, the most advanced first.
    pub reachable: Vec<Survivor>,
    /// Hosts of those who cannot. What only they hold is lost by forcing.
    pub missing: Vec<String>,
    /// What [`super::Consent::force`] must say, word for word. Nothing may be forced while the most advanced of the reachable could not lead.
    pub consent: Option<String>,
    /// All of it in a sentence.
    pub why: String,
}

/// A member that can be talked to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Survivor {
    /// Its name and port.
    pub host: String,
    /// What it does.
    pub state: MemberState,
    /// What it has applied, unless it holds no complete data.
    pub optime: Option<OpTime>,
    /// Whether it votes.
    pub votes: bool,
}

impl<V: Clone> Set<'_, V> {
    /// What to do while it is not certain who leads.
    pub fn leaderless(&self, config: &Config<V>) -> Next<V> {
        let primaries = self.members.iter().filter(|member| self.state(member) == MemberState::Primary);
        let claims: Vec<_> = primaries.map(|member| member.host.as_str()).collect();
        if !claims.is_empty() {
            return Next::Wait { why: format!("{} claim to lead", claims.join(" and ")) };
        }
        let needed = majority(voters(&self.members).count());
        let there = voters(&self.members).filter(|member| self.state(member).is_reachable()).count();
        if there < needed { self.lost(config, there, needed) } else { self.stand() }
    }

    /// The most advanced of those who may lead is elected at once. Those who are ahead of it would not vote for it.
    fn stand(&self) -> Next<V> {
        let fit = |member: &&Member<V>| member.priority > 0.0 && self.state(member) == MemberState::Secondary;
        let rank = |member: &Member<V>| (self.seen.status.optime(member.id), member.priority.to_bits(), Reverse(member.id));
        match voters(&self.members).filter(fit).max_by_key(|member| rank(member)) {
            Some(Member { host, .. }) => {
                Next::Stand { who: host.clone(), why: format!("nobody leads; {host} is most advanced of who may") }
            }
            None => Next::Wait { why: format!("nobody leads, and nobody who may is a secondary: {}", self.in_words()) },
        }
    }

    fn lost(&self, config: &Config<V>, there: usize, needed: usize) -> Next<V> {
        let (mut reachable, missing): (Vec<_>, Vec<_>) = self.members.iter().partition(|member| self.state(member).is_reachable());
        let may_lead = |member: &Member<V>| self.state(member) == MemberState::Secondary && member.may_lead();
        reachable.sort_by_key(|member| (Reverse(self.holds(member)), !may_lead(member), member.id));
        let missing: Vec<_> = missing.into_iter().map(|member| member.host.clone()).collect();
        let best = reachable.first().copied().filter(|member| may_lead(member));
        let best = best.and_then(|member| Some((member, self.holds(member)?)));
        let consent = best.map(|(member, optime)| format!("force {} at {optime} without {}", member.host, missing.join(", ")));
        if let (Some((best, _)), Some(consent)) = (best, &consent)
            && self.desired.consent.force.as_ref() == Some(consent)
        {
            return Next::Force { on: best.host.clone(), config: self.forced(config, best), why: consent.clone() };
        }
        let why = format!("{there} of the {needed} voters that make a majority can be reached: {}", self.in_words());
        let survivor = |member: &Member<V>| Survivor {
            host: member.host.clone(),
            state: self.state(member),
            optime: self.holds(member),
            votes: member.votes,
        };
        Next::Lost(Lost { reachable: reachable.into_iter().map(survivor).collect(), missing, consent, why })
    }

    /// What a member holds, unless its copy is not complete.
    fn holds(&self, member: &Member<V>) -> Option<OpTime> {
        self.seen.status.optime(member.id).filter(|_| self.state(member) != MemberState::Startup2)
    }

    /// `best` and the voters that can be reached vote; the others stay, since they may come back, but for arbiters, who cannot without one.
    fn forced(&self, config: &Config<V>, best: &Member<V>) -> Config<V> {
        let mut members: Vec<_> = self.members.iter().filter(|m| !m.arbiter_only || self.state(m).is_reachable()).cloned().collect();
        for member in &mut members {
            if member.id == best.id {
                (member.votes, member.priority) = (true, if best.priority > 0.0 { best.priority } else { 1.0 });
            } else if !self.state(member).is_reachable() {
                (member.votes, member.priority) = (false, 0.0);
            }
        }
        Config { version: config.version.saturating_add(1), members, ..config.clone() }
    }

    fn in_words(&self) -> String {
        let word = |member: &Member<V>| match self.holds(member) {
            Some(optime) => format!("{} is {} at {optime}", member.host, self.state(member)),
            None => format!("{} is {}", member.host, self.state(member)),
        };
        self.members.iter().map(word).collect::<Vec<_>>().join(", ")
    }
}
