//! One rule a test: growing, shrinking, names, arbiters.

use super::world::{World, arbiter, at, desired, set_id, silent, voter, wanted};
use crate::mongo::Answer;
use crate::mongo::config::{Member, SetId};
use crate::mongo::plan::{Desired, Next, plan};
use crate::mongo::rules::Server;
use crate::mongo::status::MemberState;

/// What each reconfiguration on the way says.
fn walk(members: Vec<Member>, desired: Desired) -> (World, Vec<String>) {
    let mut world = World::new(members, desired);
    let steps = world.walk().unwrap();
    (world, steps)
}

fn voters(count: u8) -> Vec<Member> {
    (0..count).map(voter).collect()
}

#[test]
fn one_grows_to_three_in_two_votes() {
    let (world, steps) = walk(vec![voter(0)], desired(3));
    assert_eq!(
        steps,
        [
            "added m-1:27017, m-2:27017, without a vote until it is a secondary",
            "m-1:27017 votes from now on",
            "m-2:27017 votes from now on"
        ]
    );
    assert_eq!(world.next(), Next::Settled);
}

#[test]
fn never_more_than_seven_vote() {
    let (mut world, _) = walk(vec![voter(0)], desired(10));
    assert_eq!((world.config.members.len(), world.voting().len()), (10, 7));
    world.desired = desired(3);
    world.walk().unwrap();
    assert_eq!((world.config.members.len(), world.voting().len()), (3, 3));
}

#[test]
fn an_eighth_and_ninth_voter_that_somebody_added_lose_their_votes() {
    let mut world = World::new(voters(9), desired(9));
    for expected in [8, 7] {
        let Next::Reconfig { config, .. } = world.next() else { panic!("{:?}", world.next()) };
        world.config = config;
        assert_eq!(world.voting().len(), expected);
    }
    assert_eq!(world.next(), Next::Settled);
}

#[test]
fn a_fourth_voter_loses_its_vote_and_stays() {
    let (world, steps) = walk(voters(4), desired(4));
    assert_eq!(steps, ["m-3:27017 does not vote any more"]);
    assert_eq!((world.config.members.len(), world.voting().len()), (4, 3));
}

#[test]
fn one_that_never_comes_costs_no_majority() {
    let mut world = World::new(vec![voter(0)], desired(3));
    world.broken.insert("m-2:27017".into());
    world.walk().unwrap();
    assert_eq!(world.voting(), ["m-0:27017"], "a second voter alone would have to be there always");
    assert_eq!(
        world.waits().unwrap(),
        "m-2:27017 has not said that it is in no set; m-1:27017 gets its vote with another one, so that an odd number votes"
    );
}

#[test]
fn one_that_still_copies_gets_no_vote() {
    let mut world = World::new(vec![voter(0), silent(1), silent(2)], desired(3));
    world.states.insert(2, MemberState::Startup2);
    assert!(world.waits().unwrap().contains("m-2:27017 gets its vote when it is a secondary; it is STARTUP2"));
}

#[test]
fn one_that_is_wanted_stays_however_long_it_is_gone() {
    let mut world = World::new(voters(3), desired(3));
    world.states.insert(2, MemberState::Down);
    assert_eq!(world.next(), Next::Settled);
}

#[test]
fn who_is_gone_leaves_before_who_is_well() {
    let mut world = World::new(voters(5), desired(3));
    world.broken.insert("m-3:27017".into());
    world.heal();
    assert_eq!(world.walk().unwrap(), ["removed m-3:27017", "removed m-4:27017"]);
}

#[test]
fn strangers_without_a_vote_leave_all_at_once() {
    let (_, steps) = walk(vec![voter(0), silent(7), silent(8)], desired(1));
    assert_eq!(steps, ["removed m-7:27017, m-8:27017"]);
}

#[test]
fn votes_move_to_other_zones() {
    let mut spread = desired(5);
    for (member, zone) in spread.members.iter_mut().zip(["a", "a", "a", "b", "c"]) {
        member.zone = Some(zone.into());
    }
    spread.members.push(wanted(5));
    spread.members[5].zone = Some("a".into());
    let (world, _) = walk([voters(3), vec![silent(3), silent(4), voter(5), voter(6)]].concat(), spread);
    assert_eq!(world.voting(), ["m-0:27017", "m-1:27017", "m-2:27017", "m-3:27017", "m-4:27017"]);
}

#[test]
fn a_full_set_makes_way_for_one_that_is_to_vote() {
    let stranger = Member { host: "stranger-0:27017".into(), ..voter(200) };
    let members = [vec![stranger], (0..6).map(voter).collect(), (6..49).map(silent).collect()].concat();
    let mut wanted = desired(50);
    wanted.members.rotate_right(1);
    let (world, steps) = walk(members, wanted);
    assert_eq!(world.next(), Next::Settled, "{steps:?}");
    assert!(world.voting().contains(&"m-49:27017"), "{steps:?}");
}

#[test]
fn addresses_become_names_one_at_a_time() {
    let members = (0..3).map(|id| Member { host: format!("10.0.0.{id}:27017"), ..voter(id) }).collect();
    let mut world = World::new(members, desired(3));
    for _ in 0..2 {
        let next = world.next();
        world.take(&next).unwrap();
    }
    world.states.insert(1, MemberState::Unknown);
    assert!(world.waits().unwrap().contains("10.0.0.2:27017 is called m-2:27017 when most voters are well without it"));
    world.heal();
    assert_eq!(world.walk().unwrap(), ["10.0.0.2:27017 is called m-2:27017"]);
    assert!(world.next() == Next::Settled && world.config.members.iter().map(|member| member.id).eq([0, 1, 2]));
}

#[test]
fn an_address_that_nobody_has_any_more_is_a_stranger() {
    let gone = Member { host: "10.9.9.9:27017".into(), ..voter(1) };
    let mut world = World::new(vec![voter(0), gone, voter(2)], desired(3));
    world.broken.insert("10.9.9.9:27017".into());
    world.heal();
    let steps = world.walk().unwrap();
    assert_eq!(steps[1..], ["m-1:27017 votes from now on", "removed 10.9.9.9:27017"]);
}

#[test]
fn an_address_beside_its_name_is_a_stranger() {
    let address = Member { host: "10.0.0.1:27017".into(), ..silent(5) };
    let (world, steps) = walk([voters(3), vec![address]].concat(), desired(3));
    assert_eq!(steps, ["removed 10.0.0.1:27017"]);
    assert_eq!(world.next(), Next::Settled);
}

#[test]
fn nobody_is_taken_in_by_its_address() {
    let mut world = World::new(vec![voter(0)], desired(2));
    for host in ["10.0.0.7:27017", "[fd00::7]:27017"] {
        world.desired.members[1].host = host.into();
        assert_eq!(world.waits().unwrap(), format!("{host} is an address, and members go by their names"));
    }
}

#[test]
fn a_member_of_another_set_is_never_taken_in() {
    let world = World::new(vec![voter(0)], desired(2));
    let with = |answer| {
        let mut seen = world.seen();
        seen.answers.insert("m-1:27017".into(), answer);
        plan(&world.config, &seen, &world.desired)
    };
    let other = SetId { hex: "0".repeat(24) };
    assert!(matches!(with(Answer::InSet(other)), Next::Wait { why } if why.starts_with("m-1:27017 is in another set")));
    assert!(matches!(with(Answer::Unknown), Next::Wait { why } if why.contains("has not said")));
    assert!(matches!(with(Answer::InSet(set_id())), Next::Reconfig { .. }), "one that was removed comes back");
}

#[test]
fn another_set_of_the_same_name_is_not_touched() {
    let mut world = World::new(vec![voter(0)], desired(2));
    world.desired.set_id = Some(SetId { hex: "0".repeat(24) });
    assert!(world.waits().unwrap().contains("not touched"));
}

#[test]
fn only_members_and_version_change() {
    let world = World::new(vec![Member { rest: [("tags".into(), "kept".into())].into(), ..voter(0) }], desired(2));
    let Next::Reconfig { config, .. } = world.next() else { panic!("{:?}", world.next()) };
    assert_eq!((config.version, config.members.len()), (world.config.version + 1, 2));
    assert_eq!(
        (&config.settings, &config.rest, &config.members[0]),
        (&world.config.settings, &world.config.rest, &world.config.members[0])
    );
    assert_eq!((config.members[1].votes, config.members[1].priority), (false, 0.0));
}

#[test]
fn a_step_that_mongod_overtook_is_refused() {
    let mut world = World::new(vec![voter(0)], desired(2));
    let next = world.next();
    world.config.version += 1;
    assert!(world.take(&next).unwrap_err().contains("version and term must be greater than old"));
}

#[test]
fn what_cannot_be_a_set_is_not_begun() {
    let mut world = World::new(vec![voter(0)], desired(51));
    assert!(world.waits().unwrap().contains("51 members are wanted"));
    world.desired = desired(0);
    assert!(world.waits().unwrap().contains("nobody of those who are wanted may lead"));
}

#[test]
fn a_hidden_member_may_vote_and_stays_hidden() {
    let hidden = Member { hidden: true, ..silent(1) };
    let (world, _) = walk(vec![voter(0), hidden, silent(2)], desired(3));
    assert_eq!(world.next(), Next::Settled);
    let Member { votes, priority, hidden, .. } = &world.config.members[1];
    assert_eq!((*votes, *priority, *hidden), (true, 0.0, true));
}

fn with_arbiter(count: usize, consent: bool) -> Desired {
    let mut desired = desired(count);
    desired.members[count - 1].arbiter = true;
    desired.consent.thin = consent;
    desired
}

#[test]
fn beside_an_arbiter_the_priority_comes_after_the_vote() {
    let (world, steps) = walk(vec![voter(0), arbiter(2)], with_arbiter(3, true));
    assert_eq!(steps[1..], ["m-1:27017 votes from now on; only the primary may lead for now", "priority of m-1:27017 to 1"]);
    assert_eq!(world.next(), Next::Settled);
}

#[test]
fn an_arbiter_comes_after_those_who_hold_data() {
    let (_, steps) = walk(vec![voter(0)], with_arbiter(3, true));
    assert_eq!(steps[1..], ["m-1:27017 votes from now on", "added m-2:27017, an arbiter"]);
}

#[test]
fn an_arbiter_beside_two_needs_a_consent_unless_it_is_there() {
    let (world, _) = walk(vec![voter(0)], with_arbiter(3, false));
    assert_eq!(world.voting(), ["m-0:27017"]);
    assert!(world.waits().unwrap().contains("m-2:27017 stays out without a consent"));
    assert_eq!(World::new(vec![voter(0), voter(1), arbiter(2)], with_arbiter(3, false)).next(), Next::Settled);
}

#[test]
fn an_arbiter_that_would_make_the_number_even_stays_out() {
    let (world, steps) = walk([voters(3), vec![arbiter(3)]].concat(), with_arbiter(4, false));
    assert_eq!(steps, ["removed m-3:27017"]);
    assert!(world.waits().unwrap().starts_with("m-3:27017 stays out: arbiters are there to make an even number of voters odd"));
}

#[test]
fn arbiters_wait_while_one_who_holds_data_is_gone() {
    let mut wanted = with_arbiter(5, true);
    wanted.members[3].arbiter = true;
    let mut world = World::new(voters(3), wanted);
    world.states.insert(2, MemberState::Down);
    assert!(world.waits().unwrap().contains("m-2:27017 is DOWN"), "three of five would vote, and only two of the three needed hold data");
    world.heal();
    assert_eq!(world.walk().unwrap(), ["added m-3:27017, an arbiter", "added m-4:27017, an arbiter"]);
}

#[test]
fn an_arbiter_waits_for_a_default_write_concern_from_5_0_on() {
    let mut world = World::new(vec![voter(0), voter(1)], with_arbiter(3, true));
    world.server = Server { version: (5, 0), has_default_write_concern: false };
    assert!(world.waits().unwrap().contains("setDefaultRWConcern"));
    world.server.version = (4, 4);
    assert!(matches!(world.next(), Next::Reconfig { .. }));
}

#[test]
fn an_arbiter_that_is_to_hold_data_is_taken_in_anew() {
    let (world, steps) = walk(vec![voter(0), voter(1), arbiter(2)], desired(3));
    assert_eq!(steps, ["removed m-2:27017", "added m-2:27017, without a vote until it is a secondary", "m-2:27017 votes from now on"]);
    assert_eq!(world.next(), Next::Settled);
}

#[test]
fn a_lagging_heir_does_not_take_over() {
    let mut world = World::new(vec![voter(1), voter(0)], desired(1));
    world.optimes.insert(0, at(3, 980));
    assert_eq!(world.waits().unwrap(), "m-1:27017 leads and is to go, and nobody can take over yet: m-0:27017 is 20 s behind");
}
