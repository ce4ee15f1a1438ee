//! A set with a mongod that refuses what a real one would, and members that fall ill and get well.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::mongo::Answer;
use crate::mongo::config::{Config, Member, SetId, Settings};
use crate::mongo::plan::{Desired, Next, Seen, Wanted, plan};
use crate::mongo::rules::{Server, check_step, majority, voters};
use crate::mongo::status::{MemberState, MemberStatus, OpTime, Status, Timestamp};

pub const SERVER: Server = Server { version: (5, 0), has_default_write_concern: true };

pub fn wanted(ordinal: usize) -> Wanted {
    let aliases = vec![format!("10.0.0.{ordinal}:27017")];
    Wanted { host: format!("m-{ordinal}:27017"), aliases, zone: None, arbiter: false, priority: 1.0 }
}

pub fn desired(count: usize) -> Desired {
    Desired { members: (0..count).map(wanted).collect(), ..Desired::default() }
}

pub fn voter(id: u8) -> Member {
    Member { votes: true, priority: 1.0, ..Member::newcomer(id, format!("m-{id}:27017")) }
}

pub fn arbiter(id: u8) -> Member {
    Member { priority: 0.0, arbiter_only: true, ..voter(id) }
}

pub fn silent(id: u8) -> Member {
    Member::newcomer(id, format!("m-{id}:27017"))
}

pub fn set_id() -> SetId {
    SetId { hex: "6b0182669e2f03cc7d5e798b".into() }
}

pub fn at(t: i64, seconds: u32) -> OpTime {
    OpTime { t, ts: Timestamp { t: seconds, i: 1 } }
}

#[derive(Clone, Debug)]
pub struct World {
    pub config: Config,
    pub desired: Desired,
    pub server: Server,
    pub states: BTreeMap<u8, MemberState>,
    pub optimes: BTreeMap<u8, OpTime>,
    /// Who is never well and never answers, by [`identity`].
    pub broken: BTreeSet<String>,
    /// Who does not answer just now.
    pub mute: BTreeSet<String>,
}

/// The host of whoever listens there: an address is that of a name.
pub fn identity(host: &str) -> String {
    host.strip_prefix("10.0.0.").map_or_else(|| host.to_owned(), |rest| format!("m-{rest}"))
}

impl World {
    /// Everybody is well, and the first who may leads.
    pub fn new(members: Vec<Member>, desired: Desired) -> Self {
        let settings =
            Some(Settings { replica_set_id: Some(set_id()), rest: BTreeMap::from([("chainingAllowed".into(), Value::Bool(true))]) });
        let rest = BTreeMap::from([("protocolVersion".into(), Value::from(1))]);
        let config = Config { name: "rs0".into(), version: 7, term: Some(3), members, settings, rest };
        let (states, optimes) = (BTreeMap::new(), BTreeMap::new());
        let mut world = Self { config, desired, server: SERVER, states, optimes, broken: [].into(), mute: [].into() };
        world.heal();
        let leader = world.config.members.iter().find(|member| member.votes && member.priority > 0.0).unwrap().id;
        world.states.insert(leader, MemberState::Primary);
        world
    }

    pub fn seen(&self) -> Seen {
        let state = |member: &Member| self.states.get(&member.id).copied().unwrap_or_default();
        let optime = |member: &Member| self.optimes.get(&member.id).copied().filter(|_| state(member) != MemberState::Startup2);
        let member =
            |member: &Member| MemberStatus { id: member.id, name: member.host.clone(), state: state(member), optime: optime(member) };
        let silent = |host: &String| self.broken.contains(host) || self.mute.contains(host);
        let answer = |wanted: &Wanted| (wanted.host.clone(), if silent(&wanted.host) { Answer::Unknown } else { Answer::NotInSet });
        Seen {
            status: Status { set: "rs0".into(), term: 3, members: self.config.members.iter().map(member).collect() },
            writable: true,
            server: self.server,
            answers: self.desired.members.iter().map(answer).collect(),
        }
    }

    pub fn next(&self) -> Next<Value> {
        plan(&self.config, &self.seen(), &self.desired)
    }

    pub fn leader(&self) -> Option<&Member> {
        self.config.members.iter().find(|member| self.states[&member.id] == MemberState::Primary)
    }

    /// Hosts of those who are not well, lag behind or do not answer.
    pub fn ailing(&self) -> Vec<&String> {
        let ails = |member: &&Member| !self.states[&member.id].is_well() || self.optimes.get(&member.id) != Some(&at(3, 1000));
        let members = self.config.members.iter().filter(ails).map(|member| &member.host);
        members.chain(&self.broken).chain(&self.mute).collect()
    }

    fn is_broken(&self, member: &Member) -> bool {
        self.broken.contains(&identity(&member.host))
    }

    fn count(&self, is: impl Fn(MemberState) -> bool) -> usize {
        voters(&self.config.members).filter(|member| is(self.states[&member.id])).count()
    }

    pub fn needed(&self) -> usize {
        majority(voters(&self.config.members).count())
    }

    /// Everybody who can be is well and has caught up; who led leads.
    pub fn heal(&mut self) {
        for member in &self.config.members {
            let state = self.states.entry(member.id).or_default();
            *state = match (*state, member.arbiter_only) {
                _ if self.broken.contains(&identity(&member.host)) => MemberState::Down,
                (MemberState::Primary, _) => MemberState::Primary,
                (_, true) => MemberState::Arbiter,
                _ => MemberState::Secondary,
            };
            if *state != MemberState::Down {
                self.optimes.insert(member.id, at(3, 1000));
            }
        }
        self.mute.clear();
    }

    /// One member changes: it falls ill, falls behind, gets well, or is elected.
    pub fn shake(&mut self, who: usize, what: u8) {
        let place = who % self.config.members.len();
        let (id, arbiter) = (self.config.members[place].id, self.config.members[place].arbiter_only);
        if self.is_broken(&self.config.members[place]) {
            return;
        }
        let state = match what {
            0 => MemberState::Down,
            1 => MemberState::Unknown,
            2 if !arbiter => MemberState::Recovering,
            3 if !arbiter => MemberState::Rollback,
            4 => {
                self.optimes.insert(id, at(3, 900));
                return;
            }
            5 => {
                let wanted = &self.desired.members[who % self.desired.members.len()];
                self.mute.insert(wanted.host.clone());
                return;
            }
            6 => return self.elect(id),
            _ if self.states[&id] == MemberState::Primary => return,
            _ if arbiter => MemberState::Arbiter,
            _ => MemberState::Secondary,
        };
        self.states.insert(id, state);
        self.settle_down();
    }

    fn elect(&mut self, id: u8) {
        let member = self.config.members.iter().find(|member| member.id == id).unwrap();
        let reachable = self.count(MemberState::is_reachable);
        if member.priority > 0.0 && self.states[&id] == MemberState::Secondary && reachable >= self.needed() {
            for state in self.states.values_mut().filter(|state| **state == MemberState::Primary) {
                *state = MemberState::Secondary;
            }
            self.states.insert(id, MemberState::Primary);
        }
    }

    /// A primary that does not hear most voters steps down.
    pub fn settle_down(&mut self) {
        if self.count(MemberState::is_reachable) < self.needed() {
            for state in self.states.values_mut().filter(|state| **state == MemberState::Primary) {
                *state = MemberState::Secondary;
            }
        }
    }

    /// Does what the planner says, as mongod would, or says why not.
    pub fn take(&mut self, next: &Next<Value>) -> Result<(), String> {
        match next {
            Next::Settled | Next::Wait { .. } | Next::Lost(_) => Ok(()),
            Next::Initiate { .. } | Next::Force { .. } => Err("never without being told to".into()),
            Next::Stand { who: host, .. } | Next::HandOver { to: host, .. } => {
                let member = self.config.members.iter().find(|member| member.host == *host).ok_or("nobody of that name")?;
                let id = member.id;
                if matches!(next, Next::HandOver { .. }) {
                    let leader = self.leader().ok_or("not primary so can't step down")?;
                    if self.optimes[&id].ts.t + 10 < self.optimes[&leader.id].ts.t {
                        return Err("No electable secondaries caught up".into());
                    }
                }
                self.elect(id);
                if self.states[&id] == MemberState::Primary { Ok(()) } else { Err("Election failed.".into()) }
            }
            Next::Reconfig { config, .. } => self.reconfigure(config),
        }
    }

    fn reconfigure(&mut self, new: &Config) -> Result<(), String> {
        check_step(&self.config, new, self.server)?;
        let leader = self.leader().ok_or("not primary")?.id;
        if !new.members.iter().any(|member| member.id == leader && member.votes && member.priority > 0.0) {
            return Err("the primary goes, or cannot lead any more".into());
        }
        self.keeps(new)?;
        let known: BTreeSet<u8> = self.config.members.iter().map(|member| member.id).collect();
        self.config = new.clone();
        for member in &self.config.members {
            if !known.contains(&member.id) {
                let state = match member.arbiter_only {
                    _ if self.broken.contains(&member.host) => MemberState::Down,
                    true => MemberState::Arbiter,
                    false => MemberState::Startup2,
                };
                self.states.insert(member.id, state);
            }
        }
        self.states.retain(|id, _| new.members.iter().any(|member| member.id == *id));
        self.optimes.retain(|id, _| new.members.iter().any(|member| member.id == *id));
        let well = self.count(MemberState::is_well);
        if well < self.needed() { Err(format!("only {well} voters are well after it, of {} needed", self.needed())) } else { Ok(()) }
    }

    /// What nobody asked to be changed stays: who is wanted as what it is, and all that is not ours.
    fn keeps(&self, new: &Config) -> Result<(), String> {
        let rest = |config: &Config| (config.name.clone(), config.term, config.settings.clone(), config.rest.clone());
        if rest(new) != rest(&self.config) || new.version != self.config.version + 1 {
            return Err("more than the members and the version changed".into());
        }
        for before in &self.config.members {
            let same = |wanted: &&Wanted| wanted.host == before.host && !wanted.arbiter && !before.arbiter_only;
            match new.members.iter().find(|member| member.id == before.id) {
                None if self.desired.members.iter().any(|wanted| same(&wanted)) => return Err(format!("{} is wanted", before.host)),
                None => {}
                Some(after) => {
                    let expected = Member { votes: after.votes, priority: after.priority, host: after.host.clone(), ..before.clone() };
                    let moved = after.host != before.host && identity(&before.host) != after.host;
                    if *after != expected || moved {
                        return Err(format!("{before:?} became {after:?}"));
                    }
                }
            }
        }
        Ok(())
    }

    /// All steps until nothing moves, in words.
    pub fn walk(&mut self) -> Result<Vec<String>, String> {
        let most = self.config.members.len() + self.desired.members.len() + 60;
        let (mut steps, mut idle) = (Vec::new(), 0);
        while idle < 2 {
            let next = self.next();
            self.take(&next).map_err(|error| format!("{error}\n{next:?}"))?;
            match next {
                Next::Reconfig { why, .. } | Next::HandOver { why, .. } | Next::Stand { why, .. } => {
                    steps.push(why);
                    idle = 0;
                }
                _ => {
                    self.heal();
                    idle += 1;
                }
            }
            if steps.len() > most {
                return Err(format!("no end: {:?}", &steps[most - 10..]));
            }
        }
        Ok(steps)
    }

    /// What keeps it from being settled, when something does.
    pub fn waits(&self) -> Option<String> {
        match self.next() {
            Next::Settled => None,
            Next::Wait { why } => Some(why),
            other => panic!("{other:?}"),
        }
    }

    pub fn voting(&self) -> Vec<&str> {
        voters(&self.config.members).map(|member| member.host.as_str()).collect()
    }
}
