//! A set on its way: its members, what is known of them and what is to become of them (pure).

use super::electorate::seats;
use super::{Desired, Seen, Wanted};
use crate::mongo::config::{Config, Member, SetId};
use crate::mongo::rules::{majority, voters};
use crate::mongo::status::MemberState;
use crate::mongo::{Answer, MAX_MEMBERS};

/// Members, with what is known of them and what is to become of them.
pub(super) struct Set<'a, V> {
    pub members: Vec<Member<V>>,
    pub seen: &'a Seen,
    pub desired: &'a Desired,
    /// Whose place in `desired` each member has; one that is to be an arbiter, or none any more, has to be taken in anew and has none.
    pub who: Vec<Option<usize>>,
    /// Who of `desired` may lead.
    pub may_lead: Vec<bool>,
    /// Who of `desired` is to vote.
    pub seats: Vec<bool>,
    /// Which set this is.
    set_id: Option<&'a SetId>,
    /// `_id` of an arbiter that is taken in by the step that is being thought about: it answered.
    newcomer: Option<u8>,
}

/// Other members.
pub(super) struct Change<V> {
    pub members: Vec<Member<V>>,
    pub why: String,
    /// `_id` of an arbiter that it takes in.
    pub newcomer: Option<u8>,
}

// === impl Set ===

impl<'a, V: Clone> Set<'a, V> {
    pub fn new(config: &'a Config<V>, seen: &'a Seen, desired: &'a Desired) -> Self {
        let members = config.members.clone();
        let who = whose(&members, &desired.members);
        let (mut may_lead, mut there) = (Vec::new(), Vec::new());
        for (place, wanted) in desired.members.iter().enumerate() {
            let member = who.iter().position(|whose| *whose == Some(place)).map(|at| &members[at]);
            may_lead.push(!wanted.arbiter && wanted.priority > 0.0 && member.is_none_or(Member::may_lead));
            there.push(member.is_some());
        }
        let seats = seats(&desired.members, &may_lead, &there, desired.consent.thin);
        Self { members, seen, desired, who, may_lead, seats, set_id: config.set_id(), newcomer: None }
    }

    /// What it would be after `change`.
    pub fn after(&self, change: &Change<V>) -> Self {
        let (members, who) = (change.members.clone(), whose(&change.members, &self.desired.members));
        let (may_lead, seats) = (self.may_lead.clone(), self.seats.clone());
        Self { members, who, may_lead, seats, newcomer: change.newcomer, ..*self }
    }

    /// Why what is desired is no set.
    pub fn is_impossible(&self) -> Option<String> {
        let count = self.desired.members.len();
        if count > MAX_MEMBERS {
            return Some(format!("{count} members are wanted, and {MAX_MEMBERS} is most"));
        }
        if let Some(Wanted { host, .. }) = self.desired.members.iter().find(|wanted| wanted.is_address()) {
            return Some(format!("{host} is an address, and members go by their names"));
        }
        let led = self.may_lead.contains(&true);
        (!led).then(|| {
            "nobody of those who are wanted may lead: each is an arbiter, hidden, delayed, without indexes or of priority 0".into()
        })
    }

    /// Who of the desired has the place of the member at `at`.
    pub fn wanted(&self, at: usize) -> Option<&'a Wanted> {
        self.who[at].map(|place| &self.desired.members[place])
    }

    /// Whether the member at `at` is to vote.
    pub fn sits(&self, at: usize) -> bool {
        self.who[at].is_some_and(|place| self.seats[place])
    }

    /// The priority that the member at `at` is to have with its vote.
    pub fn priority(&self, at: usize) -> f64 {
        self.wanted(at).filter(|_| self.members[at].may_lead()).map_or(0.0, |wanted| wanted.priority)
    }

    /// Where the primary is, when it is certain who that is.
    pub fn leads_at(&self) -> Option<usize> {
        let leader = self.seen.status.primary()?;
        self.members.iter().position(|member| member.id == leader)
    }

    /// The primary, when it is certain who that is.
    pub fn leader(&self) -> Option<&Member<V>> {
        self.leads_at().map(|at| &self.members[at])
    }

    pub fn state(&self, member: &Member<V>) -> MemberState {
        if self.newcomer == Some(member.id) { MemberState::Arbiter } else { self.seen.status.state(member.id) }
    }

    /// Whether the configuration has somebody at the place of `wanted`, whatever it is there.
    pub fn has(&self, wanted: &Wanted) -> bool {
        self.members.iter().any(|member| wanted.is(&member.host))
    }

    /// Whether a mongod waits there to be taken in.
    pub fn joins(&self, wanted: &Wanted) -> bool {
        match self.seen.answers.get(&wanted.host) {
            Some(Answer::NotInSet) => true,
            Some(Answer::InSet(other)) => self.set_id == Some(other),
            Some(Answer::Unknown) | None => false,
        }
    }

    /// Whether with these most voters are well, and those who hold data no less able to confirm what is written than now.
    pub fn is_safe(&self, members: &[Member<V>], newcomer: Option<u8>) -> bool {
        let well = |member: &&Member<V>| self.state(member).is_well() || newcomer == Some(member.id);
        let most = |members: &[Member<V>]| majority(voters(members).count());
        let missing = |members: &[Member<V>]| {
            let writers: Vec<_> = voters(members).filter(|member| !member.arbiter_only).collect();
            // mongod's writeMajorityCount.
            most(members).min(writers.len()).saturating_sub(writers.into_iter().filter(well).count())
        };
        voters(members).filter(well).count() >= most(members) && missing(members) <= missing(&self.members)
    }

    /// Whether mongod takes `change`, and it is safe.
    pub fn allows(&self, change: &Change<V>) -> bool {
        self.is_safe(&change.members, change.newcomer) && !self.seen.server.guards_write_concern(&self.members, &change.members)
    }
}

/// Who of `wanted` each of `members` is: by its host, or by another name as long as nobody has that host.
fn whose<V>(members: &[Member<V>], wanted: &[Wanted]) -> Vec<Option<usize>> {
    let known = |member: &Member<V>, wanted: &Wanted| wanted.is(&member.host) && members.iter().all(|other| other.host != wanted.host);
    let place = |member: &Member<V>| {
        let named = wanted.iter().position(|wanted| wanted.host == member.host);
        named.or_else(|| wanted.iter().position(|wanted| known(member, wanted)))
    };
    members.iter().map(|member| place(member).filter(|place| wanted[*place].arbiter == member.arbiter_only)).collect()
}
