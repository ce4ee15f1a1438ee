//! What is left to do and cannot be done now (pure): the sentence that a user reads.

use super::electorate::seats;
use super::set::Set;
use crate::mongo::Answer;
use crate::mongo::config::Member;
use crate::mongo::rules::voters;

impl<V: Clone> Set<'_, V> {
    /// All that differs from what is desired, each with what it waits for, and what stands in the way of everything. Nothing: it is as
    /// desired.
    pub fn pending(&self) -> Option<String> {
        let mut waits = Vec::new();
        waits.extend(self.desired.members.iter().enumerate().filter_map(|(place, _)| self.absent(place)));
        waits.extend(self.members.iter().enumerate().filter_map(|(at, member)| self.unfit(at, member)));
        if waits.is_empty() {
            return None;
        }
        let unwell: Vec<_> = voters(&self.members)
            .filter(|member| !self.state(member).is_well())
            .map(|member| format!("{} is {}", member.host, self.state(member)))
            .collect();
        if !unwell.is_empty() {
            waits.push(format!("of the voters {}", unwell.join(", ")));
        }
        Some(waits.join("; "))
    }

    fn absent(&self, place: usize) -> Option<String> {
        let wanted = &self.desired.members[place];
        let host = &wanted.host;
        if self.has(wanted) {
            return None;
        }
        if wanted.arbiter && !self.seats[place] {
            return Some(if seats(&self.desired.members, &self.may_lead, &[], true)[place] {
                format!("{host} stays out without a consent: with this arbiter one lost member could leave no majority that holds data")
            } else {
                format!("{host} stays out: arbiters are there to make an even number of voters odd, and fewer of them than hold data")
            });
        }
        Some(match self.seen.answers.get(host) {
            Some(Answer::InSet(other)) if !self.joins(wanted) => format!("{host} is in another set, {other}"),
            Some(Answer::NotInSet | Answer::InSet(_)) if wanted.arbiter && self.guarded() => format!(
                "{host} comes in once a default write concern is set (setDefaultRWConcern): mongod does not let the implicit one change"
            ),
            Some(Answer::NotInSet | Answer::InSet(_)) => format!("{host} comes in when most voters are well and there is room"),
            Some(Answer::Unknown) | None => format!("{host} has not said that it is in no set"),
        })
    }

    fn unfit(&self, at: usize, member: &Member<V>) -> Option<String> {
        let Member { host, votes, .. } = member;
        let state = self.state(member);
        let leads = self.leads_at() == Some(at);
        let guard = if self.guarded() { ", and a default write concern may have to be set first (setDefaultRWConcern)" } else { "" };
        match self.wanted(at) {
            Some(wanted) if wanted.host != *host => Some(format!("{host} is called {} when most voters are well without it", wanted.host)),
            _ if leads && self.must_hand_over() => Some(match self.heirs().next() {
                Some(heir) => format!(
                    "{host} leads and is to go: {} takes over when its vote can be replaced and most voters are well{guard}",
                    heir.host
                ),
                None => {
                    let unable = (0..self.members.len()).filter(|at| self.sits(*at) && self.priority(*at) > 0.0);
                    let unable = unable.filter_map(|at| Some(format!("{} {}", self.members[at].host, self.unable(at)?)));
                    format!("{host} leads and is to go, and nobody can take over yet: {}", unable.collect::<Vec<_>>().join(", "))
                }
            }),
            _ if *votes && !self.sits(at) => {
                Some(format!("{host} keeps its vote until another replaces it, or most voters are well without it{guard}"))
            }
            None => Some(format!("{host} is removed when most voters are well")),
            Some(_) if self.sits(at) && !votes && state.is_well() => {
                Some(format!("{host} gets its vote with another one, so that an odd number votes{guard}"))
            }
            Some(_) if self.sits(at) && !votes => Some(format!("{host} gets its vote when it is a secondary; it is {state}")),
            Some(_) if *votes && member.priority.to_bits() != self.priority(at).to_bits() => {
                Some(format!("{host} gets priority {} when most voters are well", self.priority(at)))
            }
            Some(_) => None,
        }
    }

    /// Whether mongod watches over the implicit default write concern here.
    fn guarded(&self) -> bool {
        let arbiters = self.members.iter().any(|member| member.arbiter_only) || self.desired.members.iter().any(|wanted| wanted.arbiter);
        arbiters && self.seen.server.version >= (5, 0) && !self.seen.server.has_default_write_concern
    }
}
