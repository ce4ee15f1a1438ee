//! From any set to any other, whatever happens to its members on the way.

use std::collections::BTreeSet;

use proptest::prelude::*;
use serde_json::Value;

use super::world::{World, identity, set_id, wanted};
use crate::mongo::config::Member;
use crate::mongo::plan::{Consent, Desired, Next, Wanted};
use crate::mongo::rules::{Server, check, voters};
use crate::mongo::status::MemberState;

/// Of what kind each of fifty is: mostly usual ones, or hardly any.
fn kinds() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![3 => 14..15u8, 1 => 6..8u8, 1 => 3..4u8].prop_flat_map(|most| prop::collection::vec(0..most, 50))
}

fn size() -> impl Strategy<Value = usize> {
    prop_oneof![24 => 1..10usize, 2 => 10..=50usize, 1 => 48..=50usize]
}

prop_compose! {
    /// Zones, arbiters, priorities, consents.
    fn any_desired()(count in size(), zones in 1..4usize, kinds in kinds(), thin in any::<bool>(), pinned in any::<bool>())
        -> Desired {
        let members = (0..count).map(|ordinal| {
            let zone = (zones > 1).then(|| format!("zone-{}", ordinal % zones));
            let (arbiter, priority) = match kinds[ordinal] {
                0 => (true, 0.0),
                1 => (false, 0.0),
                2 => (false, 2.0),
                _ => (false, 1.0),
            };
            Wanted { zone, arbiter, priority, ..wanted(ordinal) }
        });
        Desired { members: members.collect(), set_id: pinned.then(set_id), consent: Consent { thin, force: None } }
    }
}

prop_compose! {
    /// Any set that mongod would have taken: names, addresses and strangers; voters, arbiters, hidden and delayed ones, some never well.
    fn any_world()(desired in any_desired(), count in size(), votes in 1..8usize, kinds in kinds(),
            turn in 0..50usize, lead in 0..50usize, broken in prop::collection::btree_set(0..60usize, 0..4), version in 0..3usize, explicit in any::<bool>())
        -> World {
        let ring = count.max(desired.members.len());
        let mut members: Vec<Member> = (0..count).map(|place| {
            let ordinal = (place + turn) % ring;
            let host = match kinds[place] {
                0 | 1 => format!("10.0.0.{ordinal}:27017"),
                2 => format!("stranger-{ordinal}:27017"),
                _ => format!("m-{ordinal}:27017"),
            };
            let votes = place < votes;
            let mut member = Member { votes, priority: f64::from(u8::from(votes)), ..Member::newcomer(u8::try_from(place * 3).unwrap(), host) };
            member.rest.insert("tags".into(), Value::from(ordinal));
            match kinds[place] {
                3 if votes => (member.arbiter_only, member.priority) = (true, 0.0),
                4 => (member.hidden, member.priority) = (true, 0.0),
                5 => (member.secondary_delay_secs, member.priority) = (Some(60), 0.0),
                6 => member.priority = 0.0,
                7 if votes => member.priority = 3.0,
                _ => {}
            }
            member
        }).collect();
        let head = lead % votes.min(count);
        (members[head].arbiter_only, members[head].hidden, members[head].secondary_delay_secs, members[head].priority) = (false, false, None, 1.0);
        let mut broken: BTreeSet<_> = broken.into_iter().flat_map(|n| [format!("m-{n}:27017"), format!("stranger-{n}:27017")]).collect();
        broken.remove(&identity(&members[head].host));
        let server = Server { version: [(4, 4), (5, 0), (8, 0)][version], has_default_write_concern: explicit };
        let leader = members[head].id;
        let mut world = World { server, broken, ..World::new(members, desired) };
        world.heal();
        world.states.values_mut().filter(|state| **state == MemberState::Primary).for_each(|state| *state = MemberState::Secondary);
        world.states.insert(leader, MemberState::Primary);
        world.settle_down();
        world
    }
}

/// What must be true of a set that is said to be as desired.
fn is_as_desired(world: &World, left_out: &str) -> Result<(), TestCaseError> {
    let members = &world.config.members;
    let hosts: BTreeSet<_> = members.iter().map(|member| (member.host.as_str(), member.arbiter_only)).collect();
    let wanted = world.desired.members.iter().filter(|wanted| !left_out.contains(&format!("{} stays out", wanted.host)));
    prop_assert_eq!(hosts, wanted.map(|wanted| (wanted.host.as_str(), wanted.arbiter)).collect());
    let data = members.iter().filter(|member| !member.arbiter_only).count();
    let votes = voters(members).count();
    prop_assert!(
        votes % 2 == 1 && votes <= 7 && votes >= data.min(7) - usize::from(data < 7 && data.is_multiple_of(2)),
        "{:?}",
        world.voting()
    );
    for member in members {
        let wanted = world.desired.members.iter().find(|wanted| wanted.host == member.host);
        let priority = wanted.filter(|_| member.votes && member.may_lead()).map_or(0.0, |wanted| wanted.priority);
        prop_assert_eq!(member.priority, priority, "{}", member.host);
    }
    prop_assert!(world.leader().is_some_and(|leader| leader.votes && leader.priority > 0.0));
    Ok(())
}

/// Walks to where nothing moves any more and says what is waited for.
fn rest(world: &mut World) -> Result<Option<String>, TestCaseError> {
    if let Err(error) = world.walk() {
        return Err(TestCaseError::fail(format!("{error}\n{world:#?}")));
    }
    match world.next() {
        Next::Settled => is_as_desired(world, "").map(|()| None),
        Next::Wait { why } => Ok(Some(why)),
        Next::Lost(lost) => Ok(Some(lost.why)),
        next => Err(TestCaseError::fail(format!("{next:?}"))),
    }
}

/// Everybody is well: what is waited for is only what a user has to change, and all else is as desired.
fn rests_well(world: &mut World) -> Result<(), TestCaseError> {
    world.broken.clear();
    world.heal();
    let Some(why) = rest(world)? else { return Ok(()) };
    let able = |wanted: &Wanted| {
        let there = world.config.members.iter().find(|member| identity(&member.host) == wanted.host && !member.arbiter_only);
        !wanted.arbiter && wanted.priority > 0.0 && there.is_none_or(Member::may_lead)
    };
    if why.contains("may lead: each is") {
        prop_assert!(!world.desired.members.iter().any(able), "{}", why);
    } else if why.contains("setDefaultRWConcern") {
        prop_assert!(!world.server.has_default_write_concern && world.server.version >= (5, 0), "{}", why);
    } else {
        prop_assert!(why.split("; ").all(|part| part.contains("stays out")), "gave up: {}\n{:#?}", why, world);
        is_as_desired(world, &why)?;
    }
    Ok(())
}

/// Whether the sentence names somebody who ails, or what a user has to do.
fn says_for_what(why: &str, world: &World) -> bool {
    let user = ["stays out", "setDefaultRWConcern", "may lead: each is"].iter().any(|word| why.contains(word));
    user || world.ailing().iter().any(|host| why.contains(host.as_str()))
}

fn is_odd(world: &World) -> bool {
    voters(&world.config.members).count() % 2 == 1
}

/// Whether somebody has to go before somebody who is to vote can come: to be taken in as something else, or since the set is full.
fn has_to_make_way(world: &World) -> bool {
    let other = |member: &Member| {
        world.desired.members.iter().any(|wanted| identity(&member.host) == wanted.host && wanted.arbiter != member.arbiter_only)
    };
    world.desired.members.len().max(world.config.members.len()) == 50 || world.config.members.iter().any(other)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, ..ProptestConfig::default() })]

    /// Every step is one that mongod takes and leaves most voters well, there is an end, what is waited for has a name, and an odd number of
    /// voters comes to an odd one; and when everybody is well the end is the goal.
    #[test]
    fn every_way_is_legal_safe_and_ends(mut world in any_world()) {
        prop_assert_eq!(check(&world.config.members), Ok(()));
        let odd = is_odd(&world) && !has_to_make_way(&world);
        if let Some(why) = rest(&mut world)? {
            prop_assert!(says_for_what(&why, &world), "{}\n{:#?}", why, world);
        }
        prop_assert!(!odd || is_odd(&world), "{:?}\n{:#?}", world.next(), world);
        rests_well(&mut world)?;
    }

    /// The same while members fall ill, fall behind, get well and are elected between the steps.
    #[test]
    fn illness_on_the_way_only_delays_it(mut world in any_world(), events in prop::collection::vec((0..50usize, 0..10u8), 0..60)) {
        for (who, what) in events {
            world.shake(who, what);
            let next = world.next();
            if let Err(error) = world.take(&next) {
                return Err(TestCaseError::fail(format!("{error}\n{next:?}\n{world:#?}")));
            }
            match &next {
                Next::Settled => is_as_desired(&world, "")?,
                Next::Wait { why } => prop_assert!(says_for_what(why, &world), "{}\n{:#?}", why, world),
                _ => {}
            }
        }
        rests_well(&mut world)?;
    }
}
