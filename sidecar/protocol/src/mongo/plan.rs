//! The next safe configuration of a replica set, or why there is none (pure).
//!
//! Whoever talks to the primary asks, sends what it gets with the version that it read plus one, reads again and asks again. Each step is one
//! that mongod 4.4 takes ([`super::rules`]), with at most one change of who votes, after which most voters are well. The goal depends on
//! what is desired alone, so there is an end.
//!
//! A member begins without a vote and gets one when it is a secondary; so a member that never comes costs nobody a majority. Votes come and go
//! in pairs where they can: an even number of voters survives no more losses than one less.

use std::collections::{BTreeMap, BTreeSet};

use super::rules::{majority, voters};
use super::{MAX_VOTERS, Member, MemberState};

/// A member that there shall be.
#[derive(Clone, Debug, PartialEq)]
pub struct Wanted {
    /// Its name and port.
    pub host: String,
    /// By what else the configuration may know it: the address of its pod, with the port.
    pub aliases: Vec<String>,
    /// Where it runs. Voters are spread over zones.
    pub zone: Option<String>,
    /// Votes and holds no data.
    pub arbiter: bool,
    /// Of a voter; one without a vote has none.
    pub priority: f64,
    /// Whether its mongod waits to be taken in: it answers, and is in no other set.
    pub joins: bool,
}

/// What is true of the set, as its primary sees it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Seen {
    /// `_id` of the primary.
    pub primary: u8,
    /// The others and itself, by `_id`.
    pub states: BTreeMap<u8, MemberState>,
}

/// What to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Next {
    /// Nothing: the set is as desired.
    Settled,
    /// Make these the members.
    Reconfig {
        /// All of them.
        members: Vec<Member>,
        /// What it changes.
        why: String,
    },
    /// The primary is to lose its place. It hands over first.
    HandOver {
        /// `_id` of who should lead.
        to: u8,
        /// Why the primary cannot stay.
        why: String,
    },
    /// Nothing now: something has to happen first.
    Wait {
        /// What that is.
        why: String,
    },
}

/// The next step from `members`, in the order of the configuration, to `wanted`, in the order of the ordinals.
#[must_use]
pub fn plan(members: &[Member], seen: &Seen, wanted: &[Wanted]) -> Next {
    let set = Set::new(members, seen, wanted);
    let steps = [Set::renamed, Set::without_strangers, Set::joined, Set::voting, Set::prioritised];
    steps.into_iter().find_map(|step| step(&set)).unwrap_or_else(|| set.rest())
}

/// Who of `wanted` is to vote, by host: an odd number of at most seven, spread over the zones, arbiters first, then by ordinal.
#[must_use]
pub fn electorate(wanted: &[Wanted]) -> BTreeSet<&str> {
    let (arbiters, data): (Vec<_>, Vec<_>) = wanted.iter().partition(|member| member.arbiter);
    let most = (arbiters.len() + data.len()).min(MAX_VOTERS);
    let seats = if most.is_multiple_of(2) { most.saturating_sub(1) } else { most };
    // The n-th of each zone, before the n+1-th of any.
    let mut rounds: BTreeMap<Option<&str>, usize> = BTreeMap::new();
    let mut data: Vec<(usize, usize, &Wanted)> = data
        .into_iter()
        .enumerate()
        .map(|(order, member)| {
            let round = rounds.entry(member.zone.as_deref()).or_default();
            *round += 1;
            (*round, order, member)
        })
        .collect();
    data.sort_by_key(|(round, order, _)| (*round, *order));
    let data = data.into_iter().map(|(.., member)| member);
    arbiters.into_iter().chain(data).take(seats).map(|member| member.host.as_str()).collect()
}

struct Set<'a> {
    members: &'a [Member],
    seen: &'a Seen,
    wanted: &'a [Wanted],
    electorate: BTreeSet<&'a str>,
}

impl<'a> Set<'a> {
    fn new(members: &'a [Member], seen: &'a Seen, wanted: &'a [Wanted]) -> Self {
        Self { members, seen, wanted, electorate: electorate(wanted) }
    }

    /// Whom this is, unless it is nobody who is wanted. One that is to be an arbiter, or none any more, has to be taken in anew.
    fn wanted(&self, member: &Member) -> Option<&'a Wanted> {
        let named = |wanted: &&Wanted| wanted.host == member.host;
        let known = |wanted: &&Wanted| wanted.aliases.contains(&member.host) && !self.members.iter().any(|other| other.host == wanted.host);
        let found = self.wanted.iter().find(named).or_else(|| self.wanted.iter().find(known));
        found.filter(|wanted| wanted.arbiter == member.arbiter_only)
    }

    fn is_well(&self, member: &Member) -> bool {
        self.seen.states.get(&member.id).is_some_and(|state| state.is_well())
    }

    fn is_primary(&self, member: &Member) -> bool {
        member.id == self.seen.primary
    }

    fn elects(&self, member: &Member) -> bool {
        self.wanted(member).is_some_and(|wanted| self.electorate.contains(wanted.host.as_str()))
    }

    /// Whether after this most voters confirm what is written.
    fn is_safe(&self, members: &[Member], newcomer: Option<u8>) -> bool {
        let well = voters(members).filter(|member| self.is_well(member) || newcomer == Some(member.id)).count();
        well >= majority(voters(members).count())
    }

    /// One address becomes a name. Everybody is looked for anew at that name, so it is one at a time, and all are well.
    fn renamed(&self) -> Option<Next> {
        let (place, wanted) = self
            .members
            .iter()
            .enumerate()
            .find_map(|(place, member)| Some((place, self.wanted(member).filter(|w| w.host != member.host)?)))?;
        if let Some(unwell) = voters(self.members).find(|member| !self.is_well(member)) {
            return Some(Next::Wait { why: format!("{} gets its name when {} is well", wanted.host, unwell.host) });
        }
        let mut members = self.members.to_vec();
        let before = std::mem::replace(&mut members[place].host, wanted.host.clone());
        Some(Next::Reconfig { members, why: format!("{before} is called {}", wanted.host) })
    }

    /// Who has no vote and is not wanted goes, all of them at once.
    fn without_strangers(&self) -> Option<Next> {
        let (stay, go): (Vec<_>, Vec<_>) =
            self.members.iter().cloned().partition(|member| member.votes || self.is_primary(member) || self.wanted(member).is_some());
        let names: Vec<_> = go.into_iter().map(|member| member.host).collect();
        (!names.is_empty()).then(|| Next::Reconfig { members: stay, why: format!("removed {}", names.join(", ")) })
    }

    /// Who is wanted and not there comes in without a vote, all of them at once. An arbiter has a vote from the start.
    fn joined(&self) -> Option<Next> {
        let absent = |wanted: &&Wanted| !wanted.arbiter && wanted.joins && !self.members.iter().any(|member| member.host == wanted.host);
        let absent: Vec<_> = self.wanted.iter().filter(absent).collect();
        if absent.is_empty() {
            return None;
        }
        let mut members = self.members.to_vec();
        for wanted in &absent {
            let id = free_id(&members)?;
            members.push(Member { id, host: wanted.host.clone(), votes: false, priority: 0.0, arbiter_only: false, hidden: false });
        }
        let names: Vec<_> = absent.iter().map(|wanted| wanted.host.as_str()).collect();
        Some(Next::Reconfig { members, why: format!("added {}, without a vote until it is a secondary", names.join(", ")) })
    }

    /// One vote more or one less.
    fn voting(&self) -> Option<Next> {
        let count = voters(self.members).count();
        let more = if count < MAX_VOTERS { self.more() } else { Vec::new() };
        let less = self.less();
        let odd = !count.is_multiple_of(2);
        // From an odd number two changes have to follow each other at once, or it stays.
        let leads_and_goes = self.members.iter().any(|member| self.is_primary(member) && !self.elects(member));
        let pair = self.more().len() + less.len() + usize::from(leads_and_goes) >= 2;
        if odd && !pair {
            return None;
        }
        if let Some(next) = more.into_iter().find(|(members, newcomer, _)| self.is_safe(members, Some(*newcomer))) {
            return Some(Next::Reconfig { members: next.0, why: next.2 });
        }
        let next = less.into_iter().find(|(members, _)| self.is_safe(members, None));
        next.map(|(members, why)| Next::Reconfig { members, why }).or_else(|| self.hand_over())
    }

    /// Each configuration with one voter more, that voter and what it says.
    fn more(&self) -> Vec<(Vec<Member>, u8, String)> {
        let mut all = Vec::new();
        for wanted in self.wanted.iter().filter(|wanted| self.electorate.contains(wanted.host.as_str())) {
            let mut members = self.members.to_vec();
            let newcomer = match members.iter_mut().find(|member| member.host == wanted.host) {
                Some(member) if member.votes || member.arbiter_only != wanted.arbiter || !self.is_well(member) => continue,
                Some(member) => {
                    member.votes = true;
                    // Beside arbiters mongod wants the vote first and the priority after it.
                    member.priority = if self.has_arbiters() || member.hidden { 0.0 } else { wanted.priority };
                    member.id
                }
                None if wanted.arbiter && wanted.joins => {
                    let Some(id) = free_id(&members) else { continue };
                    members.push(Member { id, host: wanted.host.clone(), votes: true, priority: 0.0, arbiter_only: true, hidden: false });
                    id
                }
                None => continue,
            };
            all.push((members, newcomer, format!("{} votes from now on", wanted.host)));
        }
        all
    }

    /// Each configuration with one voter less, those who are not well first, and never without the primary.
    fn less(&self) -> Vec<(Vec<Member>, String)> {
        let mut going: Vec<_> = voters(self.members).filter(|member| !self.elects(member) && !self.is_primary(member)).collect();
        going.sort_by_key(|member| (self.is_well(member), std::cmp::Reverse(member.id)));
        let without = |gone: &Member| {
            if self.wanted(gone).is_some() {
                let mut members = self.members.to_vec();
                for member in members.iter_mut().filter(|member| member.id == gone.id) {
                    (member.votes, member.priority) = (false, 0.0);
                }
                (members, format!("{} does not vote any more", gone.host))
            } else {
                (self.members.iter().filter(|member| member.id != gone.id).cloned().collect(), format!("removed {}", gone.host))
            }
        };
        going.into_iter().map(without).collect()
    }

    /// When nothing is left to do but for the primary itself to go.
    fn hand_over(&self) -> Option<Next> {
        let primary = self.members.iter().find(|member| self.is_primary(member) && !self.elects(member))?;
        let fit = |member: &&Member| {
            self.elects(member)
                && member.votes
                && member.priority > 0.0
                && self.seen.states.get(&member.id) == Some(&MemberState::Secondary)
        };
        let heir = self.members.iter().find(fit);
        let why = format!("{} leads and is to go", primary.host);
        Some(match heir {
            Some(heir) => Next::HandOver { to: heir.id, why },
            None => Next::Wait { why: format!("{why}; nobody else can lead yet") },
        })
    }

    /// Priorities as they are wanted.
    fn prioritised(&self) -> Option<Next> {
        let mut members = self.members.to_vec();
        for member in members.iter_mut().filter(|member| member.votes && !member.arbiter_only && !member.hidden) {
            if let Some(wanted) = self.wanted(member) {
                member.priority = wanted.priority;
            }
        }
        (members != self.members).then(|| Next::Reconfig { members, why: "priorities as they are wanted".into() })
    }

    fn has_arbiters(&self) -> bool {
        self.wanted.iter().any(|wanted| wanted.arbiter) || self.members.iter().any(|member| member.arbiter_only)
    }

    /// Nothing can be done: because all is done, or because of whom.
    fn rest(&self) -> Next {
        if let Some(next) = self.hand_over() {
            return next;
        }
        let there = |wanted: &&Wanted| self.members.iter().any(|member| member.host == wanted.host);
        if let Some(absent) = self.wanted.iter().find(|wanted| !there(wanted)) {
            return Next::Wait { why: format!("{} does not wait to be taken in yet", absent.host) };
        }
        let silent = self.members.iter().find(|member| self.elects(member) && !member.votes);
        if let Some(silent) = silent {
            return Next::Wait { why: format!("{} gets its vote when it is a secondary", silent.host) };
        }
        match voters(self.members).find(|member| !self.elects(member)) {
            Some(going) => Next::Wait { why: format!("{} keeps its vote until most voters are well without it", going.host) },
            None => Next::Settled,
        }
    }
}

/// The lowest `_id` that nobody has.
fn free_id(members: &[Member]) -> Option<u8> {
    (0..=u8::MAX).find(|id| members.iter().all(|member| member.id != *id))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::rules::{check, check_step};
    use super::*;

    fn wanted(host: &str) -> Wanted {
        Wanted { host: host.into(), aliases: vec![], zone: None, arbiter: false, priority: 1.0, joins: true }
    }

    fn hosts(count: usize) -> Vec<Wanted> {
        (0..count).map(|ordinal| wanted(&format!("m-{ordinal}:27017"))).collect()
    }

    fn voter(id: u8, host: &str) -> Member {
        Member { id, host: host.into(), votes: true, priority: 1.0, arbiter_only: false, hidden: false }
    }

    /// A set in the making: what is not broken becomes what it is to be, one thing a turn.
    #[derive(Clone, Debug)]
    struct World {
        members: Vec<Member>,
        seen: Seen,
        /// Hosts that never get well.
        broken: BTreeSet<String>,
    }

    impl World {
        fn new(members: Vec<Member>) -> Self {
            let well = |member: &Member| match (member.id == members[0].id, member.arbiter_only) {
                (true, _) => MemberState::Primary,
                (_, true) => MemberState::Arbiter,
                _ => MemberState::Secondary,
            };
            let states = members.iter().map(|member| (member.id, well(member))).collect();
            Self { seen: Seen { primary: members[0].id, states }, members, broken: BTreeSet::new() }
        }

        /// Takes the step, as mongod 4.4 would or not.
        fn take(&mut self, next: &Next) -> Result<(), String> {
            match next {
                Next::Settled | Next::Wait { .. } => {}
                Next::HandOver { to, .. } => {
                    self.seen.states.insert(self.seen.primary, MemberState::Secondary);
                    self.seen.states.insert(*to, MemberState::Primary);
                    self.seen.primary = *to;
                }
                Next::Reconfig { members, .. } => {
                    check_step(&self.members, members)?;
                    let primary = members.iter().find(|member| member.id == self.seen.primary);
                    if primary.is_none_or(|primary| primary.priority == 0.0) {
                        return Err("the primary goes, or cannot lead any more".into());
                    }
                    for member in members {
                        let state = if member.arbiter_only { MemberState::Arbiter } else { MemberState::Startup2 };
                        self.seen.states.entry(member.id).or_insert(state);
                    }
                    self.seen.states.retain(|id, _| members.iter().any(|member| member.id == *id));
                    self.members.clone_from(members);
                    let well = voters(members).filter(|member| self.seen.states[&member.id].is_well()).count();
                    if well < majority(voters(members).count()) {
                        return Err("most voters are not well after it".into());
                    }
                }
            }
            Ok(())
        }

        /// Who copies has copied, unless it is broken.
        fn copy(&mut self) {
            for member in &self.members {
                if self.seen.states[&member.id] == MemberState::Startup2 && !self.broken.contains(&member.host) {
                    self.seen.states.insert(member.id, MemberState::Secondary);
                }
            }
        }

        /// All steps to `wanted`, in words.
        fn walk(&mut self, wanted: &[Wanted]) -> Result<Vec<String>, String> {
            let mut steps = Vec::new();
            let mut idle = 0;
            while idle < 2 {
                let next = plan(&self.members, &self.seen, wanted);
                self.take(&next).map_err(|error| format!("{next:?}: {error}"))?;
                match next {
                    Next::Reconfig { why, .. } | Next::HandOver { why, .. } => {
                        steps.push(why);
                        idle = 0;
                    }
                    Next::Settled | Next::Wait { .. } => {
                        self.copy();
                        idle += 1;
                    }
                }
                if steps.len() > 200 {
                    return Err(format!("no end: {:?}", &steps[190..]));
                }
            }
            Ok(steps)
        }

        fn is_settled(&self, wanted: &[Wanted]) -> bool {
            plan(&self.members, &self.seen, wanted) == Next::Settled
        }

        fn voting(&self) -> BTreeSet<&str> {
            voters(&self.members).map(|member| member.host.as_str()).collect()
        }
    }

    #[test]
    fn one_grows_to_three_in_two_votes() {
        let mut world = World::new(vec![voter(0, "m-0:27017")]);
        let steps = world.walk(&hosts(3)).unwrap();
        assert_eq!(
            steps,
            [
                "added m-1:27017, m-2:27017, without a vote until it is a secondary",
                "m-1:27017 votes from now on",
                "m-2:27017 votes from now on"
            ]
        );
        assert!(world.is_settled(&hosts(3)));
    }

    #[test]
    fn never_more_than_seven_vote() {
        let mut world = World::new(vec![voter(0, "m-0:27017")]);
        world.walk(&hosts(10)).unwrap();
        assert_eq!((world.members.len(), world.voting().len()), (10, 7));
        world.walk(&hosts(3)).unwrap();
        assert_eq!((world.members.len(), world.voting().len()), (3, 3));
    }

    #[test]
    fn an_even_number_keeps_one_without_a_vote() {
        let four = hosts(4);
        assert_eq!(electorate(&four).len(), 3);
        assert_eq!(electorate(&hosts(2)).len(), 1);
    }

    #[test]
    fn voters_are_spread_over_zones() {
        let mut nine = hosts(9);
        for (ordinal, member) in nine.iter_mut().enumerate() {
            member.zone = Some(
                if ordinal < 5 {
                    "a"
                } else if ordinal < 7 {
                    "b"
                } else {
                    "c"
                }
                .into(),
            );
        }
        let of = |zone: &str| {
            electorate(&nine).iter().filter(|host| nine.iter().any(|m| m.host == **host && m.zone.as_deref() == Some(zone))).count()
        };
        assert_eq!((of("a"), of("b"), of("c")), (3, 2, 2));
    }

    #[test]
    fn one_that_never_comes_costs_no_majority() {
        let mut world = World::new(vec![voter(0, "m-0:27017")]);
        world.broken.insert("m-2:27017".into());
        world.walk(&hosts(3)).unwrap();
        assert_eq!(world.voting().len(), 1, "a second voter alone would have to be there always");
        assert!(matches!(plan(&world.members, &world.seen, &hosts(3)), Next::Wait { why } if why.contains("m-2:27017")));
    }

    #[test]
    fn the_primary_hands_over_before_it_goes() {
        let mut world = World::new(vec![voter(2, "m-2:27017"), voter(0, "m-0:27017"), voter(1, "m-1:27017")]);
        let steps = world.walk(&hosts(1)).unwrap();
        assert!(steps.iter().any(|step| step == "m-2:27017 leads and is to go"), "{steps:?}");
        assert_eq!(world.voting().into_iter().collect::<Vec<_>>(), ["m-0:27017"]);
    }

    #[test]
    fn addresses_become_names_one_at_a_time() {
        let mut world = World::new(vec![voter(0, "10.0.0.1:27017"), voter(1, "10.0.0.2:27017"), voter(2, "10.0.0.3:27017")]);
        let mut three = hosts(3);
        for (ordinal, member) in three.iter_mut().enumerate() {
            member.aliases = vec![format!("10.0.0.{}:27017", ordinal + 1)];
        }
        let steps = world.walk(&three).unwrap();
        assert_eq!(steps.len(), 3, "{steps:?}");
        assert!(world.is_settled(&three) && world.members.iter().map(|member| member.id).eq([0, 1, 2]));
    }

    #[test]
    fn beside_an_arbiter_the_priority_comes_after_the_vote() {
        let mut world = World::new(vec![voter(0, "m-0:27017")]);
        let mut three = hosts(3);
        three[2].arbiter = true;
        let steps = world.walk(&three).unwrap();
        assert!(world.is_settled(&three), "{steps:?}");
        assert_eq!(steps.last().unwrap(), "priorities as they are wanted");
    }

    prop_compose! {
        fn any_wanted()(count in 1..12usize, zones in 1..4usize, arbiter in any::<bool>(), broken in prop::collection::btree_set(0..12usize, 0..3))
            -> (Vec<Wanted>, BTreeSet<String>) {
            let mut wanted = hosts(count);
            for (ordinal, member) in wanted.iter_mut().enumerate() {
                member.zone = (zones > 1).then(|| format!("zone-{}", ordinal % zones));
                member.aliases = vec![format!("10.0.0.{ordinal}:27017")];
            }
            if arbiter && count >= 3 {
                wanted[count - 1].arbiter = true;
            }
            let broken = broken.into_iter().map(|ordinal| format!("m-{ordinal}:27017")).collect();
            (wanted, broken)
        }
    }

    prop_compose! {
        /// Any set that mongod would take: names, addresses and strangers, voters and others, the first of them the primary.
        fn any_members()(count in 1..12usize, voters in 1..8usize, kinds in prop::collection::vec(0..4u8, 12), turn in 0..12usize, arbiter in any::<bool>())
            -> Vec<Member> {
            let mut members: Vec<Member> = (0..count).map(|place| {
                let ordinal = (place + turn) % 12;
                let host = match kinds[place] {
                    0 => format!("10.0.0.{ordinal}:27017"),
                    1 => format!("stranger-{ordinal}:27017"),
                    _ => format!("m-{ordinal}:27017"),
                };
                let votes = place < voters;
                Member { id: u8::try_from(place * 3).unwrap(), host, votes, priority: if votes { 1.0 } else { 0.0 }, arbiter_only: false, hidden: false }
            }).collect();
            if arbiter && count.min(voters) >= 3 {
                (members[2].arbiter_only, members[2].priority) = (true, 0.0);
            }
            members
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 4000, ..ProptestConfig::default() })]

        /// From any set to any other: every step is legal and safe, there is an end, and when everybody is well it is the goal.
        #[test]
        fn every_way_is_legal_safe_and_ends((wanted, broken) in any_wanted(), members in any_members()) {
            prop_assume!(check(&members).is_ok());
            let mut world = World::new(members);
            world.broken = broken.clone();
            if let Err(error) = world.walk(&wanted) {
                return Err(TestCaseError::fail(error));
            }
            let rests = !matches!(plan(&world.members, &world.seen, &wanted), Next::Reconfig { .. } | Next::HandOver { .. });
            prop_assert!(rests);
            world.broken.clear();
            if let Err(error) = world.walk(&wanted) {
                return Err(TestCaseError::fail(error));
            }
            prop_assert!(world.is_settled(&wanted), "{:?}\n{:#?}", plan(&world.members, &world.seen, &wanted), world);
            prop_assert_eq!(world.voting(), electorate(&wanted));
            prop_assert_eq!(world.members.len(), wanted.len());
        }
    }
}
